"""Maps controls to receipts and reports which evidence there is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice

from oars_grpc.core import ids
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.control import (
    CONTROL_MAPPED,
    CONTROL_RETIRED,
    MAXIMUM_MAPPINGS,
    ControlMapping,
    EvidenceType,
)
from oars_grpc.core.control_ports import ControlStore
from oars_grpc.core.coverage import (
    MAXIMUM_CELLS,
    MAXIMUM_PERIODS,
    CoverageReport,
    Period,
    cover,
    period_starts,
)
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from oars_grpc.use_cases.control_tags import ControlTags, unknown_control
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent

DEFAULT_RANGE = timedelta(days=30)
_LAST_YEAR = 9998  # what a calendar period may end in


@dataclass(frozen=True, slots=True)
class ControlPage:
    """One page of a listing."""

    mappings: tuple[ControlMapping, ...]
    next_page_token: str


class Controls:
    """The control service."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        store: ControlStore,
        tags: ControlTags,
        events: EventWriter,
        tokens: PageTokens,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._registry = registry
        self._store = store
        self._tags = tags
        self._events = events
        self._tokens = tokens
        self._clock = clock
        self._chance = chance

    def create(
        self,
        call: Call,
        tenant_id: str,
        framework: str,
        control_id: str,
        description: str,
        which: ReceiptFilter,
        required: tuple[EvidenceType, ...],
        encode: Encode[ControlMapping],
    ) -> Answer:
        """Map a control that has no active mapping."""
        tenant = call.tenant(tenant_id)

        def work(registry: Registry) -> ControlMapping:
            lock_tenant(registry, tenant)
            active = registry.active_mappings(tenant)
            if any(
                (other.framework, other.control_id) == (framework, control_id) for other in active
            ):
                raise AlreadyExists(
                    f"control {framework}:{control_id} is mapped; retire its mapping first",
                    reason="CONTROL_MAPPED",
                )
            if len(active) >= MAXIMUM_MAPPINGS:
                raise FailedPrecondition(
                    f"tenant {tenant} has {MAXIMUM_MAPPINGS} mapped controls, which is the most",
                    reason="TOO_MANY_CONTROLS",
                )
            mapping = ControlMapping(
                mapping_id=self._chance.new_id(ids.CONTROL_MAPPING),
                tenant_id=tenant,
                framework=framework,
                control_id=control_id,
                description=description,
                filter=which,
                required_evidence=required,
                created_at=self._clock.now(),
                created_by=call.principal.subject,
            )
            registry.insert_mapping(mapping)
            self._events.record(
                registry, call, tenant, CONTROL_MAPPED, mapping.event(), mapping.created_at
            )
            return mapping

        return run_idempotent(self._registry, self._clock, call, tenant, work, encode)

    def get(self, call: Call, tenant_id: str, mapping_id: str) -> ControlMapping:
        """One mapping of the caller's tenants."""
        mapping = self._store.find_mapping(call.tenants(tenant_id), mapping_id)
        if mapping is None:
            raise self._not_found(mapping_id)
        return mapping

    def list(
        self,
        call: Call,
        tenant_id: str,
        framework: str,
        page_size: int,
        page_token: str,
        weigh: Callable[[ControlMapping], int],
        *,
        retired: bool,
    ) -> ControlPage:
        """A page of the tenant's mappings, oldest first; those retired where `retired` says so."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"controls {tenant} {framework} {retired}"
        after = self._tokens.read(listing, page_token)
        found = self._store.list_mappings(tenant, framework, after, limit + 1, retired=retired)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, page[-1].mapping_id) if more else ""
        return ControlPage(page, token)

    def retire(
        self, call: Call, tenant_id: str, mapping_id: str, encode: Encode[ControlMapping]
    ) -> Answer:
        """End a mapping; what it has tagged stays."""
        tenant = self.get(call, tenant_id, mapping_id).tenant_id

        def work(registry: Registry) -> ControlMapping:
            lock_tenant(registry, tenant)
            mapping = registry.mapping(tenant, mapping_id)
            if mapping is None:
                raise self._not_found(mapping_id)
            if mapping.retired_at is not None:
                raise FailedPrecondition(
                    f"control mapping {mapping_id} is retired", reason="CONTROL_RETIRED"
                )
            now = self._clock.now()
            registry.retire_mapping(tenant, mapping_id, call.principal.subject, now)
            self._events.record(
                registry, call, mapping.tenant_id, CONTROL_RETIRED, mapping.event(), now
            )
            return replace(mapping, retired_at=now, retired_by=call.principal.subject)

        return run_idempotent(self._registry, self._clock, call, tenant, work, encode)

    def coverage(
        self,
        call: Call,
        tenant_id: str,
        framework: str,
        control_id: str,
        from_: datetime | None,
        until: datetime | None,
        period: Period,
    ) -> CoverageReport:
        """Which evidence the active mappings have, period by period."""
        tenant = call.tenant(tenant_id)
        ends = until or self._clock.now()
        begins = from_ or ends - DEFAULT_RANGE
        periods = _count_periods(begins, ends, period)
        mappings = self._store.list_active(tenant, framework, control_id)
        if control_id and not mappings:
            raise unknown_control(framework, control_id)
        if len(mappings) * periods > MAXIMUM_CELLS:
            raise InvalidArgument.of(
                "framework",
                f"{len(mappings)} controls in {periods} periods are more than {MAXIMUM_CELLS}"
                " figures; ask for fewer",
            )
        reached = self._tags.catch_up(mappings)
        counts = self._store.count(tenant, sorted(reached), begins, ends, period)
        controls = tuple(
            cover(
                replace(mapping, tagged_size=reached[mapping.mapping_id].tagged_size),
                begins,
                ends,
                period,
                counts.get(mapping.mapping_id, {}),
            )
            for mapping in mappings
            if mapping.mapping_id in reached
        )
        size = max((tagged.log_size for tagged in reached.values()), default=0)
        return CoverageReport(controls, size)

    @staticmethod
    def _not_found(mapping_id: str) -> NotFound:
        return NotFound(
            f"control mapping {mapping_id} is not found", reason="CONTROL_MAPPING_NOT_FOUND"
        )


def _count_periods(begins: datetime, ends: datetime, period: Period) -> int:
    """How many periods the range touches.

    Raises:
        InvalidArgument: the range is empty, or they are too many.
    """
    if ends.year > _LAST_YEAR:
        raise InvalidArgument.of("until", f"lies beyond the year {_LAST_YEAR}")
    if begins >= ends:
        raise InvalidArgument.of("from", "must be before until")
    count = sum(1 for _ in islice(period_starts(begins, ends, period), MAXIMUM_PERIODS + 1))
    if count > MAXIMUM_PERIODS:
        raise InvalidArgument.of(
            "period",
            f"makes more than {MAXIMUM_PERIODS} periods of the range; take longer ones or a shorter"
            " range",
        )
    return count
