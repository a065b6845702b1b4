"""What the use cases need of the world; `oars_grpc.storage` and `oars_grpc.system` provide it.

All methods of a store raise `Unavailable` when the database is out of reach, and retry what may be
retried themselves. Nothing that returned normally from a write is lost by a later crash.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from oars_grpc.core.approval import Approval
from oars_grpc.core.approver_ports import ApproverRows
from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.control_ports import ControlRows
from oars_grpc.core.keys import KeyPurpose, StoredKey, TrustedKey
from oars_grpc.core.lattice_ports import LatticeRows
from oars_grpc.core.log import LogHead, ReceiptLeaf
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.retention_ports import RetentionRows
from oars_grpc.core.stored import (
    ActionBody,
    ActionFilter,
    ApprovalFilter,
    Basis,
    Change,
    CommitResult,
    DueAction,
    DueEscalation,
    FoundReceipts,
    StoredAction,
    StoredPolicy,
    StoredReceipt,
)
from oars_grpc.core.tenant import Tenant

Result = TypeVar("Result")


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time in UTC."""


class Chance(Protocol):
    """Makes what nobody may guess or repeat."""

    def new_id(self, prefix: str) -> str:
        """A new id with the prefix; later ids of one process sort later."""

    def random_bytes(self, count: int) -> bytes:
        """Bytes from the operating system's generator."""


class Ledger(Protocol):
    """Actions, approvals and receipts: what is committed together."""

    def basis(self, tenant_id: str, scope: IdempotencyScope | None) -> Basis:
        """What a decision in the tenant rests on, with any outcome stored under the scope.

        Raises:
            NotFound: there is no such tenant.
        """

    def commit(self, changes: Sequence[Change]) -> Sequence[CommitResult]:
        """Commit changes, each wholly or not at all, in one transaction; one result for each.

        Leaf indices of a tenant are given out without gaps in the order of commit.
        """

    def find_action(self, tenant_ids: Sequence[str], action_id: str) -> StoredAction | None:
        """The action, if it belongs to one of the tenants."""

    def find_approval(self, tenant_ids: Sequence[str], approval_id: str) -> Approval | None:
        """The approval, if it belongs to one of the tenants."""

    def find_body(self, tenant_id: str, action_id: str) -> ActionBody | None:
        """What of an action retention may erase; None where it was."""

    def find_pending(
        self, tenant_id: str, action_digest: str, policy_digest: str, now: datetime
    ) -> Approval | None:
        """The approval for which the same action waits already, under the same policy."""

    def list_actions(
        self, tenant_id: str, which: ActionFilter, before: str, limit: int
    ) -> Sequence[StoredAction]:
        """Actions with ids below `before` (empty: from the newest), newest first."""

    def list_approvals(
        self, tenant_id: str, which: ApprovalFilter, before: str, limit: int
    ) -> Sequence[Approval]:
        """Approvals with ids below `before` (empty: from the newest), newest first."""


class ReceiptInLog(Protocol):
    """A receipt with all that it is verified against, of one snapshot.

    Whatever is asked for is read then: what is wrong with one part hides nothing of another.
    """

    @property
    def stored(self) -> StoredReceipt:
        """The receipt."""

    @property
    def leaf(self) -> ReceiptLeaf:
        """Its leaf."""

    def head(self) -> LogHead | None:
        """The tenant's log as it stood; None if there was no such tenant."""

    def keys(self) -> Sequence[TrustedKey] | None:
        """All keys that the tenant ever had, oldest first; None if there was no such tenant."""

    def before(self) -> Sequence[StoredReceipt]:
        """What comes before it in the chain, in order; of more than was asked for the last."""


class ReceiptStore(Protocol):
    """Reads receipts and the keys that signed them."""

    def find_receipt(self, tenant_ids: Sequence[str], receipt_id: str) -> StoredReceipt | None:
        """The receipt, if it belongs to one of the tenants."""

    def find_in_log(
        self, tenant_ids: Sequence[str], receipt_id: str, limit: int
    ) -> ReceiptInLog | None:
        """As `find_receipt`, with at most `limit` of the receipts before it in the chain."""

    def search_receipts(
        self, tenant_id: str, which: ReceiptFilter, mapping_id: str, after: int, limit: int
    ) -> FoundReceipts:
        """At most `limit` receipts with leaf indices above `after` (-1: from the first), in order.

        Those that match the filter and that a mapping picks, if `mapping_id` is not empty. Looks
        at a bounded piece of the log, and says where to go on.
        """

    def list_keys(self, tenant_id: str) -> Sequence[TrustedKey] | None:
        """All keys that the tenant ever had, oldest first; None if there is no such tenant."""


class Registry(RetentionRows, ControlRows, ApproverRows, LatticeRows, Protocol):
    """One transaction on what administrators keep. Reads see what it has written."""

    def outcome(self, scope: IdempotencyScope) -> StoredOutcome | None:
        """The outcome stored under an idempotency key."""

    def record_outcome(self, outcome: StoredOutcome) -> None:
        """Store the outcome; a concurrent one makes the whole transaction run again."""

    def lock_tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant, locked against other registry transactions until the end."""

    def insert_tenant(self, tenant: Tenant) -> bool:
        """Create the tenant and its empty log; False if the id is taken."""

    def update_tenant(self, tenant: Tenant) -> None:
        """Replace name, settings and version."""

    def insert_key(self, key: StoredKey) -> None:
        """Add a signing key."""

    def update_key(self, key: TrustedKey) -> None:
        """Replace state, end of window and revocation."""

    def keys(self, tenant_id: str) -> Sequence[TrustedKey]:
        """All keys, oldest first."""

    def active_key(self, tenant_id: str, purpose: KeyPurpose) -> StoredKey | None:
        """The key that signs for the purpose."""

    def lock_log(self, tenant_id: str) -> int:
        """The size of the tenant's log, whose head stays locked until the end.

        What has committed stands below it, what commits later at or above it.
        """

    def first_leaf_since(self, tenant_id: str, moment: datetime) -> int | None:
        """The lowest index of a receipt that was recorded at the moment or later."""

    def insert_policy(self, policy: StoredPolicy) -> StoredPolicy:
        """Add a policy; the tenant's next version number is filled in."""

    def policy(self, tenant_id: str, policy_id: str) -> StoredPolicy | None:
        """The policy with its state."""

    def publications(self, tenant_id: str, limit: int) -> Sequence[str]:
        """Ids of the policies published last, the current one first."""

    def publication_history(self, tenant_id: str) -> Sequence[str]:
        """Ids of the policies published, oldest first, without those that are archived."""

    def archive(self, tenant_id: str, policy_id: str, by: str, at: datetime) -> None:
        """Put the policy away; one that is archived must not be archived again."""

    def publish(self, tenant_id: str, policy_id: str, by: str, at: datetime) -> None:
        """Make the policy the tenant's published one."""

    def append_event(self, tenant_id: str, compose: Callable[[int, str], Receipt]) -> StoredReceipt:
        """Append the receipt that follows the tenant's last event to its log.

        `compose` is given the event's sequence and the digest of the one before.
        """

    def append_events(
        self, tenant_id: str, composers: Sequence[Callable[[int, str], Receipt]]
    ) -> Sequence[StoredReceipt]:
        """The same of several, one after the other, at once."""


class RegistryStore(Protocol):
    """Opens registry transactions, and reads without one."""

    def run(self, tenant_id: str, work: Callable[[Registry], Result]) -> Result:
        """Run `work` in a transaction and commit; again from the start where it collided."""

    def find_tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant."""

    def list_tenants(
        self, tenant_ids: Sequence[str] | None, after: str, limit: int
    ) -> Sequence[Tenant]:
        """Tenants (None: all) with ids above `after`, by id."""

    def find_policy(self, tenant_ids: Sequence[str], policy_id: str) -> StoredPolicy | None:
        """The policy, if it belongs to one of the tenants."""

    def list_policies(
        self, tenant_id: str, before_version: int, limit: int, *, archived: bool
    ) -> Sequence[StoredPolicy]:
        """Policies with versions below `before_version` (0: from the newest), newest first.

        Archived ones are among them only where they are asked for.
        """


class UpkeepStore(Protocol):
    """Finds what is due in all tenants; several replicas may ask at once."""

    def due_escalations(
        self, now: datetime, after: DueEscalation | None, limit: int
    ) -> Sequence[DueEscalation]:
        """Approvals whose stage was over its time by `now`, as `due_actions`."""

    def due_actions(
        self, now: datetime, after: DueAction | None, limit: int
    ) -> Sequence[DueAction]:
        """Actions whose permit or wait ended by `now`, the longest ago first.

        With `after` those that follow it in the order of expiry, tenant and action, so that one
        that cannot be dealt with does not keep the others from being found.
        """

    def analyze_new_tables(self) -> int:
        """Let the store learn what its young tables hold; how many there were."""

    def purge_outcomes(self, now: datetime, limit: int) -> int:
        """Forget idempotency outcomes that expired before `now`; how many were removed."""
