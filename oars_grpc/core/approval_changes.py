"""What a watch of approvals reads: the receipts after a place in the log name what has changed.

Every change of an approval commits together with a receipt of its action, and a tenant's receipts
have gap-free places in the order of commit. So whoever has looked at all receipts up to a place has
missed no change before it, whichever replica made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oars_grpc.core.approval import Approval
from oars_grpc.core.receipt import APPROVAL_DECIDED, APPROVAL_ESCALATED, APPROVAL_JOINED

# The types of receipt that come with a change of an approval; others need not be looked at.
CHANGING_RECEIPTS = frozenset(
    {
        "action.approval_required",
        APPROVAL_JOINED,
        APPROVAL_DECIDED,
        APPROVAL_ESCALATED,
        "action.approved",
        "action.denied",
        "action.expired",
        "action.canceled",
        "action.executing",
    }
)


@dataclass(frozen=True, slots=True)
class ApprovalChange:
    """An approval as it stands now, and the last place that names it of those looked at."""

    leaf_index: int
    approval: Approval


@dataclass(frozen=True, slots=True)
class FoundChanges:
    """What a bounded look through the log found, in the order of the log.

    All leaves up to `reached` were looked at; `more` where others may follow.
    """

    changes: Sequence[ApprovalChange]
    reached: int
    more: bool


class ApprovalLog(Protocol):
    """Reads which approvals have changed."""

    def log_size(self, tenant_id: str) -> int | None:
        """How many receipts the tenant's log has; None if there is no such tenant."""

    def changes_after(self, tenant_id: str, leaf_index: int) -> FoundChanges:
        """The approvals that receipts above a place in the log name; a bounded look."""
