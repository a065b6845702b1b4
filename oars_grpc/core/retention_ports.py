"""What retention and legal holds need of the world; part of `core/ports.py`, which says more."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from oars_grpc.core.legal_hold import HoldStep, LegalHold
from oars_grpc.core.retention import ErasablePage


class RetentionRows(Protocol):
    """What a transaction of the registry does about holds and erasure.

    The tenant is locked first (`Registry.lock_tenant`): of an erasure and a hold, one comes after
    the other.
    """

    def insert_hold(self, hold: LegalHold) -> None:
        """Add a hold with its first step."""

    def hold(self, tenant_id: str, hold_id: str) -> LegalHold | None:
        """The hold."""

    def insert_hold_step(self, tenant_id: str, hold_id: str, sequence: int, step: HoldStep) -> None:
        """Add a step; storage refuses a release that is not by a second admin."""

    def erasable(self, tenant_id: str, cutoff: datetime, after: str, limit: int) -> ErasablePage:
        """Finished actions under no hold with all receipts before `cutoff`, oldest ids first.

        At most `limit` actions with ids above `after` are looked at. The database's own clock and
        the stored settings must agree that their time is over.
        """

    def erase(
        self, tenant_id: str, action_ids: Sequence[str], erased_at: datetime, receipt_id: str
    ) -> int:
        """Erase the payloads and inputs of actions; how many receipts.

        The event `receipt_id` must be appended in the same transaction.
        """


class HoldStore(Protocol):
    """Reads holds."""

    def find_hold(self, tenant_id: str, hold_id: str) -> LegalHold | None:
        """The hold."""

    def list_holds(self, tenant_id: str, before: str, limit: int) -> Sequence[LegalHold]:
        """Holds with ids below `before` (empty: from the newest), newest first."""
