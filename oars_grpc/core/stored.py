"""What storage keeps around the core values, and the unit in which it commits."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from oars_grpc.core.action import Action, ActionState
from oars_grpc.core.approval import Approval, ApprovalState
from oars_grpc.core.call import StoredOutcome
from oars_grpc.core.decision import Decision, PolicyReference
from oars_grpc.core.keys import StoredKey
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.tenant import Tenant


class PolicyState(StrEnum):
    """Where a policy stands; derived from publications and archive, never stored."""

    DRAFT = "draft"
    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy document with its place among the tenant's.

    `document` None means not read: lists come without documents.
    """

    policy_id: str
    tenant_id: str
    version: int
    digest: str
    document: PolicyDocument | None
    created_at: datetime
    created_by: str
    state: PolicyState = PolicyState.DRAFT
    archived_at: datetime | None = None
    archived_by: str = ""

    def reference(self) -> PolicyReference:
        """How decisions and receipts name it."""
        return PolicyReference(self.policy_id, self.version, self.digest)


@dataclass(frozen=True, slots=True)
class StoredAction:
    """An action with the decision made when it was submitted."""

    action: Action
    decision: Decision


@dataclass(frozen=True, slots=True)
class ActionBody:
    """What of an action retention may erase.

    The input as canonical JSON, and the detail of its evidence; that is empty where there is none.
    """

    input: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is left to say of a receipt whose payload retention has erased.

    `receipt_id` names the event that records the erasure; the digest, the leaf hash and the caller
    are those of the payload that was.
    """

    erased_at: datetime
    receipt_id: str
    receipt_digest: str
    leaf_hash: bytes
    caller_subject: str


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """A receipt at its place in the tenant's log.

    Where `erasure` is set the payload of its envelope is empty, and neither signature nor digest
    can be derived from it any more.
    """

    leaf_index: int
    receipt: Receipt
    erasure: Erasure | None = None

    @property
    def receipt_digest(self) -> str:
        """Lower-case hex SHA-256 over the payload, also of one that is erased."""
        if self.erasure is None:
            return self.receipt.envelope.digest()
        return self.erasure.receipt_digest

    @property
    def leaf_hash(self) -> bytes:
        """The hash at its place in the log, also where the payload is erased."""
        if self.erasure is None:
            return self.receipt.envelope.leaf_hash()
        return self.erasure.leaf_hash


@dataclass(frozen=True, slots=True)
class Basis:
    """What a decision about an action of a tenant rests on, read in one snapshot.

    `revision` rises with every change of any of it (but for the outcome).
    """

    tenant: Tenant
    policy: StoredPolicy
    revision: int
    signing_key: StoredKey
    outcome: StoredOutcome | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Everything that one call writes about one action: all of it commits, or nothing.

    `expected_action_version` 0 creates the action; otherwise the stored version must be that one.
    The same holds for the approval. `expected_revision` must be the present revision of the
    tenant's basis; None where the change does not rest on it.
    """

    stored: StoredAction
    expected_action_version: int
    receipts: tuple[Receipt, ...]
    approval: Approval | None = None
    expected_approval_version: int = 0
    outcome: StoredOutcome | None = None
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """The change is durable."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Another call under the same idempotency key committed first; nothing of this one did."""

    outcome: StoredOutcome


@dataclass(frozen=True, slots=True)
class Superseded:
    """The action, its approval or what it rests on has moved on; nothing was written."""


CommitResult = Committed | Replayed | Superseded


@dataclass(frozen=True, slots=True)
class ActionFilter:
    """Which actions to list; empty fields do not restrict."""

    state: ActionState | None = None
    agent_id: str = ""
    caller_subject: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalFilter:
    """Which approvals to list; `overdue` those whose stage is past its time at a moment."""

    state: ApprovalState | None = None
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class FoundReceipts:
    """What a bounded look through the log found.

    The search goes on after the leaf `resume_after`; None where nothing is left.
    """

    receipts: tuple[StoredReceipt, ...]
    resume_after: int | None


@dataclass(frozen=True, slots=True)
class DueAction:
    """An action whose permit or wait is over."""

    tenant_id: str
    action_id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class DueEscalation:
    """An approval whose stage is over its time."""

    tenant_id: str
    approval_id: str
    action_id: str
    escalates_at: datetime
