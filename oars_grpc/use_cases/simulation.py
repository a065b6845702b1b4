"""Tries policies out on hypothetical actions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.decision import Decision, PolicyReference, decide
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_event import POLICY_SIMULATED, simulated_event
from oars_grpc.core.ports import Clock, Ledger, Registry, RegistryStore
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import PolicyShelf
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent


@dataclass(frozen=True, slots=True)
class Trial:
    """What to try on what: the published policy where `document` is None, now where `at` is.

    The request's caller may be a hypothetical one.
    """

    request: ActionRequest
    document: PolicyDocument | None
    at: datetime | None
    evidence: Mapping[str, float]


class Simulation:
    """The part of the policy service that tries policies out."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        ledger: Ledger,
        policies: PolicyShelf,
        events: EventWriter,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._policies = policies
        self._events = events
        self._clock = clock

    def simulate(self, call: Call, trial: Trial, encode: Encode[Decision]) -> Answer:
        """What a policy would say; nothing is written but the event that it was asked."""
        request = trial.request
        tenant = call.tenant(request.tenant_id)
        basis = self._ledger.basis(tenant, None)
        if trial.document is None:
            compiled, reference = self._policies.compiled(basis.policy), basis.policy.reference()
        else:
            compiled = self._policies.tried(trial.document)
            reference = PolicyReference("", 0, compiled.digest)
        at = trial.at or self._clock.now()
        input_bytes = request.input_bytes()
        decision = decide(
            request,
            reference,
            compiled,
            basis.tenant.settings.risk,
            at,
            input_bytes=input_bytes,
            evidence=trial.evidence,
        )
        hypothetical = request.caller.subject if request.caller != call.principal else ""
        action_digest = request.digest(sha256_hex(input_bytes))

        def work(registry: Registry) -> Decision:
            lock_tenant(registry, tenant)
            event = simulated_event(decision, action_digest, at, hypothetical)
            self._events.record(registry, call, tenant, POLICY_SIMULATED, event, self._clock.now())
            return decision

        return run_idempotent(self._registry, self._clock, call, tenant, work, encode)
