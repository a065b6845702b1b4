"""What is erased together, and how the event of an erasure tells of it."""

import pytest

from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.event import write_event
from oars_grpc.core.receipt import parse_receipt
from oars_grpc.core.retention import (
    ERASURE_BATCH,
    RETENTION_ERASED,
    Erasable,
    erasure_event,
    leaf_ranges,
    take_batch,
)
from tests.support.factories import NOW, make_signing_key, new_id


@pytest.mark.parametrize(
    ("indices", "ranges"),
    [
        ([], []),
        ([7], [[7, 7]]),
        ([3, 1, 2], [[1, 3]]),
        ([1, 2, 4, 6, 5, 9], [[1, 2], [4, 6], [9, 9]]),
        ([5, 5, 6], [[5, 6]]),
    ],
)
def test_ranges_hold_exactly_the_indices(indices: list[int], ranges: list[list[int]]) -> None:
    assert leaf_ranges(indices) == ranges


def actions(*sizes: int) -> list[Erasable]:
    return [Erasable(f"act_{place}", tuple(range(size))) for place, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "taken"), [((), 0), ((3, 3, 3), 2), ((6,), 1), ((7, 1), 1), ((1, 7), 1), ((6, 1), 1)]
)
def test_a_batch_is_of_whole_actions_and_never_empty_where_there_is_one(
    sizes: tuple[int, ...], taken: int
) -> None:
    assert len(take_batch(actions(*sizes), 6)) == taken


@pytest.mark.parametrize(
    "batch",
    [
        # Scattered as widely as may be: no two leaves of the batch are neighbours.
        [Erasable(new_id("act"), (2**52 + 4 * n, 2**52 + 4 * n + 2)) for n in range(250)],
        [Erasable(new_id("act"), (2**52 + 2 * n,)) for n in range(ERASURE_BATCH)],
        [Erasable(new_id("act"), tuple(range(2**52, 2**52 + 2000, 2)))],
    ],
)
def test_the_event_of_the_largest_batch_fits_into_the_log(batch: list[Erasable]) -> None:
    event = erasure_event(batch, 36_500, NOW)
    receipt = write_event(
        receipt_id=new_id("rcpt"),
        tenant_id="a" * 64,
        type_=RETENTION_ERASED,
        caller=None,
        event=event,
        sequence=2**40,
        previous_receipt_digest="f" * 64,
        now=NOW,
        key=make_signing_key(),
    )
    assert parse_receipt(receipt.envelope) == receipt
    assert canonical_json(event)  # within the restricted profile
    assert event["receipts"] == sum(last - first + 1 for first, last in event["leaves"])
