"""What second factors and approvers' keys need of the world; part of `core/ports.py`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from oars_grpc.core.approver_key import ApproverKey
from oars_grpc.core.second_factor import SecondFactor


class ApproverRows(Protocol):
    """What a transaction of the registry does about what approvers hold."""

    def second_factor(self, tenant_id: str, subject: str) -> SecondFactor | None:
        """The factor, locked until the end: of codes tried at once, one comes after the other."""

    def put_second_factor(self, factor: SecondFactor) -> None:
        """Enrol a factor, in place of the one before."""

    def record_attempt(self, factor: SecondFactor) -> None:
        """Replace the last step, the failures and the lock of the factor that was read."""

    def delete_second_factor(self, tenant_id: str, subject: str) -> None:
        """Remove a factor."""

    def insert_approver_key(self, key: ApproverKey) -> bool:
        """Register a key; False if one of its id ever was."""

    def approver_key(self, tenant_id: str, key_id: str) -> ApproverKey | None:
        """The key, locked until the end."""

    def revoke_approver_key(self, tenant_id: str, key_id: str, at: datetime, reason: str) -> None:
        """Revoke a key that is not revoked.

        Once this has committed, no decision commits any more that rests on what was before.
        """


class ApproverStore(Protocol):
    """Reads what approvers hold."""

    def find_second_factor(self, tenant_id: str, subject: str) -> SecondFactor | None:
        """The factor."""

    def find_approver_key(self, tenant_id: str, key_id: str) -> ApproverKey | None:
        """The key."""

    def list_approver_keys(
        self, tenant_id: str, subject: str, after: str, limit: int
    ) -> Sequence[ApproverKey]:
        """Keys with ids above `after`, by id; of one subject, unless it is empty."""
