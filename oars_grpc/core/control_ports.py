"""What controls need of the world; part of `core/ports.py`, which says more."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from oars_grpc.core.control import ControlMapping, Tagged
from oars_grpc.core.coverage import Period, PeriodCounts


class ControlRows(Protocol):
    """What a transaction of the registry does about mappings.

    The tenant is locked first (`Registry.lock_tenant`), so that a control has one mapping at a
    time.
    """

    def insert_mapping(self, mapping: ControlMapping) -> None:
        """Add a mapping."""

    def mapping(self, tenant_id: str, mapping_id: str) -> ControlMapping | None:
        """The mapping, locked until the end."""

    def active_mappings(self, tenant_id: str) -> Sequence[ControlMapping]:
        """All mappings that are not retired; they are few."""

    def retire_mapping(self, tenant_id: str, mapping_id: str, by: str, at: datetime) -> None:
        """End an active mapping."""


class ControlStore(Protocol):
    """Reads mappings, keeps their tags up, counts them."""

    def find_mapping(self, tenant_ids: Sequence[str], mapping_id: str) -> ControlMapping | None:
        """The mapping, if it belongs to one of the tenants."""

    def list_active(
        self, tenant_id: str, framework: str, control_id: str
    ) -> Sequence[ControlMapping]:
        """Mappings that are not retired, by framework and control; empty does not restrict."""

    def list_mappings(
        self, tenant_id: str, framework: str, after: str, limit: int, *, retired: bool
    ) -> Sequence[ControlMapping]:
        """Mappings with ids above `after`, oldest first; those retired where `retired` says so."""

    def tag(self, tenant_id: str, mapping_id: str, leaves: int, *, wait: bool) -> Tagged | None:
        """Look at the next `leaves` receipts of the log, and tag those that the mapping picks.

        None where the mapping is retired or, unless `wait`, another replica is at it.
        """

    def lagging(self, limit: int) -> Sequence[tuple[str, str]]:
        """Tenant and id of active mappings that have not seen all of their log; worst first."""

    def count(
        self,
        tenant_id: str,
        mapping_ids: Sequence[str],
        from_: datetime,
        until: datetime,
        period: Period,
    ) -> Mapping[str, Mapping[datetime, PeriodCounts]]:
        """Counts by mapping and beginning of period, where there is anything to count."""
