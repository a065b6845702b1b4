"""Enrols second factors, and uses up their codes."""

from dataclasses import dataclass, replace
from datetime import datetime

from oars_grpc.core.approver_ports import ApproverStore
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.event import SECOND_FACTOR_ENROLLED, SECOND_FACTOR_REMOVED
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.second_factor import (
    SECRET_BYTES,
    SecondFactor,
    associated_data,
    is_code,
    try_code,
)
from oars_grpc.core.step_up import TOTP_METHOD, StepUp
from oars_grpc.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from oars_grpc.use_cases.approver_keys import check_not_self
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent
from oars_grpc.use_cases.sealer import Sealer


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The answer of an enrolment, and its secret: None where the answer is a repetition.

    The secret is in no stored answer, so that it is told once and can be read nowhere.
    """

    answer: Answer
    secret: bytes | None


class SecondFactors:
    """The second factors of approvers: admins enrol them, decisions use their codes up."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        store: ApproverStore,
        sealer: Sealer,
        events: EventWriter,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._registry = registry
        self._store = store
        self._sealer = sealer
        self._events = events
        self._clock = clock
        self._chance = chance

    def enrol(
        self, call: Call, tenant_id: str, subject: str, encode: Encode[SecondFactor]
    ) -> Enrolment:
        """Make a new secret for a subject; the one before counts no more.

        Raises:
            PermissionDenied: the subject is the caller's own. Whoever enrols learns the secret for
                a moment: with an identity of his own it would be a second factor of nobody.
        """
        call.principal.check_tenant(tenant_id)
        check_not_self(call.principal, subject)
        made: list[bytes] = []

        def work(registry: Registry) -> SecondFactor:
            lock_tenant(registry, tenant_id)
            replaced = registry.second_factor(tenant_id, subject) is not None
            secret = self._chance.random_bytes(SECRET_BYTES)
            factor = SecondFactor(
                tenant_id=tenant_id,
                subject=subject,
                encrypted_secret=self._sealer.seal(secret, associated_data(tenant_id, subject)),
                enrolled_at=self._clock.now(),
                enrolled_by=call.principal.subject,
            )
            registry.put_second_factor(factor)
            event = {"subject": subject, "replaced": replaced}
            self._events.record(
                registry, call, tenant_id, SECOND_FACTOR_ENROLLED, event, factor.enrolled_at
            )
            made[:] = [secret]  # of the attempt that commits
            return factor

        answer = run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)
        return Enrolment(answer, None if answer.replayed else made[0])

    def remove(
        self, call: Call, tenant_id: str, subject: str, encode: Encode[SecondFactor]
    ) -> Answer:
        """Remove a subject's factor."""
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> SecondFactor:
            lock_tenant(registry, tenant_id)
            factor = registry.second_factor(tenant_id, subject)
            if factor is None:
                raise FailedPrecondition(
                    f"{subject} has no second factor", reason="SECOND_FACTOR_NOT_ENROLLED"
                )
            registry.delete_second_factor(tenant_id, subject)
            event = {"subject": subject}
            now = self._clock.now()
            self._events.record(registry, call, tenant_id, SECOND_FACTOR_REMOVED, event, now)
            return factor

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def get(self, call: Call, tenant_id: str, subject: str) -> SecondFactor:
        """A subject's factor."""
        call.principal.check_tenant(tenant_id)
        factor = self._store.find_second_factor(tenant_id, subject)
        if factor is None:
            raise NotFound(
                f"second factor of {subject} is not found", reason="SECOND_FACTOR_NOT_FOUND"
            )
        if factor.locked_for(self._clock.now()) is None:
            return replace(factor, locked_until=None)  # a lock of the past is none
        return factor

    def burn(self, tenant_id: str, subject: str, code: str) -> StepUp:
        """Use up a code of the subject; it never counts again, whatever becomes of the decision.

        Its own transaction: a decision that fails afterwards needs the next code.

        Raises:
            InvalidArgument: six digits are asked for.
            FailedPrecondition: SECOND_FACTOR_NOT_ENROLLED.
            PermissionDenied: SECOND_FACTOR_WRONG, for a wrong code and for one that was used.
            ResourceExhausted: SECOND_FACTOR_LOCKED, for as long as the answer says.
        """
        if not is_code(code):
            raise InvalidArgument.of("one_time_code", "must be six digits")

        def work(registry: Registry) -> tuple[SecondFactor, int | None, datetime]:
            factor = registry.second_factor(tenant_id, subject)
            if factor is None:
                raise FailedPrecondition(
                    f"{subject} has no second factor: an admin enrols one",
                    reason="SECOND_FACTOR_NOT_ENROLLED",
                )
            # Read under the lock of the factor: whoever waited for it comes later.
            now = self._clock.now()
            if factor.locked_for(now) is not None:
                return factor, None, now
            secret = self._sealer.open(factor.encrypted_secret, associated_data(tenant_id, subject))
            tried, step = try_code(factor, secret, code, now)
            registry.record_attempt(tried)
            return tried, step, now

        # A wrong code is counted, so it must commit before it is refused.
        factor, step, now = self._registry.run(tenant_id, work)
        if step is not None:
            return StepUp(TOTP_METHOD, step, now)
        locked_for = factor.locked_for(now)
        if locked_for is not None:
            raise ResourceExhausted(
                "too many wrong codes: the second factor is locked for a while",
                retry_after_ms=int(locked_for.total_seconds() * 1000),
                reason="SECOND_FACTOR_LOCKED",
            )
        raise PermissionDenied(
            "the code is wrong, or was used before", reason="SECOND_FACTOR_WRONG"
        )
