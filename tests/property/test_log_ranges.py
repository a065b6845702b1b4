"""Pieces of a log: whatever is left out, added or changed, the roots tell."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.checkpoint import log_origin
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.log_range import LogRange, verify_range
from tests.support.factories import TENANT
from tests.support.logs import PREFIX, MemoryLog, checkpoint_key

KEYS = [checkpoint_key()]
LEAVES = [hashlib.sha256(b"%d" % number).digest() for number in range(40)]
LOG = MemoryLog(LEAVES)
bounds = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted)


def claimed(start: int, end: int) -> LogRange:
    begin = LOG.note(start) if start else None
    return LogRange(TENANT, begin, LOG.frontier(start), LOG.note(end))


@settings(max_examples=300, deadline=None)
@given(bounds)
def test_every_piece_is_all_there(piece: list[int]) -> None:
    start, end = piece
    found = verify_range(claimed(start, end), LEAVES[start:end], KEYS, LogTrust(PREFIX))
    assert (found.first_index, found.end.checkpoint) == (start, LOG.checkpoint(end))


@settings(max_examples=500, deadline=None)
@given(bounds, st.data())
def test_no_other_leaves_are(piece: list[int], data: st.DataObject) -> None:
    start, end = piece
    good = LEAVES[start:end]
    at = data.draw(st.integers(0, len(good)))
    until = data.draw(st.integers(at, len(good)))
    put = data.draw(st.lists(st.sampled_from([*LEAVES, bytes(32), b""]), max_size=3))
    bad = [*good[:at], *put, *good[until:]]
    if bad == good:
        return
    with pytest.raises(ValueError, match=r"leaves|leaf"):
        verify_range(claimed(start, end), bad, KEYS)


@settings(max_examples=200, deadline=None)
@given(bounds, st.integers(0, 40))
def test_a_frontier_of_another_size_is_refused(piece: list[int], other: int) -> None:
    start, end = piece
    if LOG.frontier(other) == LOG.frontier(start):
        return
    wrong = LogRange(TENANT, LOG.note(start), LOG.frontier(other), LOG.note(end))
    with pytest.raises(ValueError, match=r"frontier|full parts"):
        verify_range(wrong, LEAVES[start:end], KEYS)


def test_both_checkpoints_must_be_believed_and_of_one_log() -> None:
    good = claimed(5, 9)
    forged = MemoryLog(LEAVES, seed=bytes(32))
    other = MemoryLog(LEAVES, log_origin("other.example", TENANT))
    for begin, end, error in (
        (forged.note(5), good.end, "no trusted key signed"),
        (good.begin, forged.note(9), "no trusted key signed"),
        (other.note(5), good.end, "of two logs"),
        (LOG.note(7), good.end, "full parts"),
    ):
        wrong = LogRange(TENANT, begin, good.frontier, end)
        with pytest.raises(ValueError, match=error):
            verify_range(wrong, LEAVES[5:9], KEYS)
    backwards = LogRange(TENANT, LOG.note(9), LOG.frontier(9), LOG.note(5))
    with pytest.raises(ValueError, match="before the range begins"):
        verify_range(backwards, [], KEYS)
    with pytest.raises(ValueError, match="beginning of a log has no frontier"):
        verify_range(LogRange(TENANT, None, good.frontier, good.end), LEAVES[5:9], KEYS)
    with pytest.raises(ValueError, match=r"not 'log\.else/acme'"):
        verify_range(good, LEAVES[5:9], KEYS, LogTrust("log.else"))
