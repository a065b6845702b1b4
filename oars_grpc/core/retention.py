"""Retention: payloads are erased after their time; hashes, signatures and proofs stay.

What belongs to one action goes together, once the last of its receipts is older than the tenant
keeps them. Events (`core/event.py`) are kept for good: they tell of erasures and holds themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oars_grpc.core.receipt import format_time

RETENTION_ERASED = "retention.erased"
# Receipts of one event: with their ranges and the ids of their actions it stays far below what an
# entry of the log can hold.
ERASURE_BATCH = 500


@dataclass(frozen=True, slots=True)
class Erasable:
    """A finished action whose time is over, with the places of its receipts in the log."""

    action_id: str
    leaf_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ErasablePage:
    """What one look at a tenant found; `after` is where the next one goes on, empty at the end."""

    actions: tuple[Erasable, ...]
    after: str


def take_batch(actions: Iterable[Erasable], limit: int = ERASURE_BATCH) -> tuple[Erasable, ...]:
    """As many whole actions as have at most `limit` receipts; the first one in any case."""
    taken: list[Erasable] = []
    receipts = 0
    for action in actions:
        receipts += len(action.leaf_indices)
        if taken and receipts > limit:
            break
        taken.append(action)
    return tuple(taken)


def erasure_event(
    batch: Sequence[Erasable], retention_days: int, cutoff: datetime
) -> dict[str, Any]:
    """What the event of an erasure tells: by which rule, of which actions, which leaves."""
    indices = [index for action in batch for index in action.leaf_indices]
    return {
        "retentionDays": retention_days,
        "cutoff": format_time(cutoff),
        "receipts": len(indices),
        "leaves": leaf_ranges(indices),
        "actionIds": [action.action_id for action in batch],
    }


def leaf_ranges(indices: Iterable[int]) -> list[list[int]]:
    """Indices as ranges `[first, last]`, both included, in their order."""
    ranges: list[list[int]] = []
    for index in sorted(set(indices)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges
