"""Replicas of the service without its wire: the use cases over one database, each with its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Engine

from oars_grpc.core.action import ActionContext, ActionState, Resource
from oars_grpc.core.approval import Approval, ApprovalState, Verdict
from oars_grpc.core.call import Answer, Call, IdempotencyKey
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored import StoredAction
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.storage.appender import CoalescingLedger
from oars_grpc.storage.approvers import PostgresApproverStore
from oars_grpc.storage.lattice_store import PostgresLatticeStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from oars_grpc.system import SystemChance
from oars_grpc.use_cases.action_change import ActionOutcome
from oars_grpc.use_cases.actions import Actions
from oars_grpc.use_cases.approval_lists import ApprovalLists
from oars_grpc.use_cases.approvals import Answered, Approvals
from oars_grpc.use_cases.approver_keys import ApproverKeys
from oars_grpc.use_cases.escalations import Escalations
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.executions import Executions
from oars_grpc.use_cases.grounding import Grounding
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.lattice_evidence import StoredEvidence
from oars_grpc.use_cases.lattice_work import HeavyWork
from oars_grpc.use_cases.ready_lattice import ReadyLattices
from oars_grpc.use_cases.sealer import Sealer
from oars_grpc.use_cases.second_factors import SecondFactors
from oars_grpc.use_cases.upkeep import Upkeep
from tests.support.database import opened
from tests.support.factories import (
    KEY_ENCRYPTION_KEY,
    TENANT,
    make_principal,
    make_request,
    make_tenant,
)
from tests.support.retention import ShiftedClock

AGENT = make_principal(may_act_for_users=None)


def approver(name: str) -> Principal:
    """An identity that may decide."""
    return make_principal(f"spiffe://example/{name}", role=Role.APPROVER, service_account_id="")


def call(principal: Principal, rpc: str, key: str = "", fingerprint: str = "f" * 64) -> Call:
    """A call, under an idempotency key if one is given."""
    return Call(principal, rpc, "r-1", IdempotencyKey(key, fingerprint) if key else None)


def named(outcome: ActionOutcome) -> bytes:
    """What a test needs of an answer: the action and the approval, and where they stand."""
    approval = outcome.approval
    return "|".join(
        (
            outcome.action.action_id,
            outcome.action.state.value,
            approval.approval_id if approval else "",
            approval.state.value if approval else "",
            "joined" if outcome.joined else "",
        )
    ).encode()


def _stored_evidence(engine: Engine) -> StoredEvidence:
    store = PostgresLatticeStore(engine)
    ready = ReadyLattices(
        store=store,
        heavy=HeavyWork(1, 8),
        asking=HeavyWork(1, 8),
        cache_bytes=1 << 20,
        software="tests",
    )
    return StoredEvidence(store, ready)


class Replica:
    """The use cases that approvals pass through, as one server has them."""

    def __init__(self, engine: Engine, ledger: CoalescingLedger, clock: ShiftedClock) -> None:
        self.clock, self.ledger, self.engine = clock, ledger, engine
        registry, chance = PostgresRegistryStore(engine), SystemChance()
        keyring, shelf = Keyring(KEY_ENCRYPTION_KEY, chance, clock), PolicyShelf()
        store, events = PostgresApproverStore(engine), EventWriter(keyring, chance)
        self.tokens = PageTokens(bytes(32))
        self.second_factors = SecondFactors(
            registry=registry,
            store=store,
            sealer=Sealer(KEY_ENCRYPTION_KEY, chance),
            events=events,
            clock=clock,
            chance=chance,
        )
        self.approver_keys = ApproverKeys(
            registry=registry,
            store=store,
            events=events,
            tokens=self.tokens,
            clock=clock,
        )
        self.actions = Actions(
            ledger=ledger,
            keyring=keyring,
            policies=shelf,
            tokens=self.tokens,
            grounding=Grounding(_stored_evidence(engine), HeavyWork(2, 8)),
            clock=clock,
            chance=chance,
        )
        self.executions = Executions(
            ledger=ledger, keyring=keyring, policies=shelf, clock=clock, chance=chance
        )
        self.approvals = Approvals(
            ledger=ledger,
            keyring=keyring,
            second_factors=self.second_factors,
            approver_keys=self.approver_keys,
            clock=clock,
            chance=chance,
        )
        self.lists = ApprovalLists(ledger=ledger, tokens=self.tokens, clock=clock)
        due = PostgresUpkeepStore(engine)
        self.upkeep = Upkeep(ledger=ledger, store=due, keyring=keyring, clock=clock, chance=chance)
        self.escalations = Escalations(
            ledger=ledger, store=due, keyring=keyring, clock=clock, chance=chance
        )
        self.registry = registry

    def submit(self, agent_id: str, key: str = "", operation: str = "transfer_funds") -> Approval:
        """An action that waits for people; the approval that it waits for."""
        answer = self.ask(agent_id, key, operation)
        approval_id = answer.response.decode().split("|")[2]
        return self.approval(approval_id)

    def ask(self, agent_id: str, key: str = "", operation: str = "transfer_funds") -> Answer:
        """Submit an action that the built-in policy leaves to people."""
        request = make_request(
            agent_id=agent_id,
            caller=AGENT,
            resource=Resource("bank", operation, "account/77"),
            context=ActionContext("production", ("personal",)),
            input={"amount": "12.50"},
        )
        return self.actions.submit(call(AGENT, "SubmitAction", key), request, named)

    def decide(
        self,
        approval: Approval,
        principal: Principal,
        verdict: Verdict = Verdict.APPROVE,
        key: str = "",
        **proofs: object,
    ) -> Answer:
        """Answer for an approval as it was shown."""
        answered = Answered(
            verdict,
            "looked at it",
            approval.action_digest,
            approval.display_digest,
            **proofs,  # type: ignore[arg-type]  # by name, as the tests give them
        )
        return self.approvals.decide(
            call(principal, "DecideApproval", key), TENANT, approval.approval_id, answered, named
        )

    def start(self, action_id: str, key: str = "") -> Answer:
        """Start an action."""
        return self.executions.start(call(AGENT, "StartAction", key), TENANT, action_id, named)

    def withdraw_start(self, action_id: str) -> Answer:
        """Report that a start had no effect."""
        made = call(AGENT, "CompleteAction")
        return self.executions.withdraw_start(made, TENANT, action_id, "unreachable", named)

    def complete(self, action_id: str) -> Answer:
        """Report success."""
        made = call(AGENT, "CompleteAction")
        return self.executions.complete(made, TENANT, action_id, None, None, named)

    def approval(self, approval_id: str) -> Approval:
        """The approval as stored."""
        found = self.ledger.find_approval([TENANT], approval_id)
        assert found is not None
        return found

    def action(self, action_id: str) -> StoredAction:
        """The action as stored."""
        found = self.ledger.find_action([TENANT], action_id)
        assert found is not None
        return found

    def states(self, approval: Approval) -> tuple[ActionState, ApprovalState]:
        """Where an approval and its action stand."""
        action = self.action(approval.action_id).action
        return action.state, self.approval(approval.approval_id).state

    def set_settings(self, settings: TenantSettings) -> None:
        """Replace the tenant's settings."""

        def work(registry: Registry) -> None:
            locked = registry.lock_tenant(TENANT)
            assert locked is not None
            registry.update_tenant(
                make_tenant(TENANT, settings=settings, version=locked.version + 1)
            )

        self.registry.run(TENANT, work)


@contextmanager
def replica(url: str, shift: timedelta = timedelta(0)) -> Iterator[Replica]:
    """A replica over the database, with a clock that is wrong by `shift`."""
    with opened(url, pool_size=4) as engine:
        ledger = CoalescingLedger(engine)
        try:
            yield Replica(engine, ledger, ShiftedClock(shift))
        finally:
            ledger.close()
