"""Keeps the tags of controls up with the log, off the path of submissions.

A mapping goes through the log in batches: the receipts from before it was made, then those that
come. The follower does so in the background, and whoever asks about a control goes on with it for
a bounded piece first, so that answers reach the present unless a backlog is left, and say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from oars_grpc.core.control import ControlMapping, Tagged
from oars_grpc.core.control_ports import ControlStore
from oars_grpc.errors import NotFound, ResourceExhausted, Unavailable

# Receipts of one transaction, and of one call at most.
BATCH_LEAVES = 5_000
CALL_LEAVES = 20_000
# A bound on one round, so that shutdown does not wait for a backlog.
ROUND_BATCHES = 50


@dataclass(frozen=True, slots=True)
class TaggingFailure:
    """A mapping that could not go on; the next round tries it again."""

    tenant_id: str
    mapping_id: str
    error: Exception


def unknown_control(framework: str, control_id: str) -> NotFound:
    """A control without an active mapping."""
    return NotFound(f"control {framework}:{control_id} is not mapped", reason="CONTROL_NOT_FOUND")


class ControlTags:
    """Tags receipts by the active mappings."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store

    def catch_up(self, mappings: Sequence[ControlMapping]) -> dict[str, Tagged]:
        """Go on with mappings, for `CALL_LEAVES` receipts in all; how far each is then.

        Those that have been retired meanwhile are left out.
        """
        left = CALL_LEAVES
        reached: dict[str, Tagged] = {}
        for mapping in mappings:
            size = mapping.tagged_size
            while True:
                tagged = self._store.tag(
                    mapping.tenant_id, mapping.mapping_id, min(BATCH_LEAVES, left), wait=True
                )
                if tagged is None:
                    reached.pop(mapping.mapping_id, None)
                    break
                reached[mapping.mapping_id] = tagged
                left = max(0, left - max(0, tagged.tagged_size - size))
                size = tagged.tagged_size
                if tagged.complete or not left:
                    break
        return reached

    def of_control(
        self, tenant_id: str, framework: str, control_id: str
    ) -> tuple[ControlMapping, Tagged]:
        """The active mapping of a control, after it has gone on, and how far it is.

        Raises:
            NotFound: the control has none.
        """
        for mapping in self._store.list_active(tenant_id, framework, control_id):
            tagged = self.catch_up([mapping]).get(mapping.mapping_id)
            if tagged is not None:
                return mapping, tagged
        raise unknown_control(framework, control_id)

    def follow(self) -> tuple[TaggingFailure, ...]:
        """One round: go on with the mappings that are furthest behind, in all tenants.

        Raises:
            Unavailable, ResourceExhausted: the database; nothing else would succeed now either.
        """
        failures: dict[tuple[str, str], TaggingFailure] = {}
        left = ROUND_BATCHES
        while left:
            lagging = [found for found in self._store.lagging(left) if found not in failures]
            moved = False
            for tenant_id, mapping_id in lagging:
                left -= 1
                try:
                    tagged = self._store.tag(tenant_id, mapping_id, BATCH_LEAVES, wait=False)
                except (Unavailable, ResourceExhausted):
                    raise
                except Exception as error:  # noqa: BLE001 - reported, the others go on
                    failure = TaggingFailure(tenant_id, mapping_id, error)
                    failures[tenant_id, mapping_id] = failure
                else:
                    moved = moved or tagged is not None
            if not moved:
                break  # nothing to do, or other replicas are at it
        return tuple(failures.values())
