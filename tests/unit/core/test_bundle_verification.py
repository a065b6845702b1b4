"""An evidence bundle verifies whole, and whatever is done to it is found by the right check."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core import evidence
from oars_grpc.core.bundle_findings import (
    ARCHIVE,
    CHAINS,
    CHECKPOINTS,
    CHECKS,
    COMPLETENESS,
    CONSISTENT,
    CONTROLS,
    ERASURES,
    FILES,
    FRONTIER_ROOT,
    INCLUDED,
    LEAVES,
    MANIFEST_SIGNATURE,
    RECEIPTS,
    BundleEntry,
)
from oars_grpc.core.bundle_verification import OF_THE_BUNDLE, BundleTrust, verify_bundle
from oars_grpc.core.canonical import statement_json
from oars_grpc.core.checkpoint import sign_checkpoint
from oars_grpc.core.envelope import sign_payload
from oars_grpc.core.evidence import (
    CONSISTENCY,
    FROM_CHECKPOINT,
    FRONTIER,
    KEYS,
    MANIFEST,
    MAPPINGS,
    REPORT,
    SIGNED_MANIFEST,
    TO_CHECKPOINT,
)
from oars_grpc.core.evidence_lines import parse_leaf
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.key_json import keys_json
from oars_grpc.core.keys import KeyState, signing_key
from oars_grpc.core.note import COSIGNATURE, Verifier, cosign_note, parse_note, raw_public_key
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.verification import CheckResult
from oars_grpc.core.witness_policy import WitnessPolicy
from tests.support.bundles import (
    OTHER_SEED,
    Files,
    GeneratedLog,
    MemoryBundle,
    bundle_of,
    check_named,
    edited,
    failed,
    files_of,
    judged,
    make_log,
    make_mapping,
    resealed,
)
from tests.support.factories import NOW, make_signing_key, make_stored_key

LINES = "receipts/00000000.jsonl"
PROOFS = "proofs/00000000.jsonl"


@cache
def log() -> GeneratedLog:
    return make_log()


@cache
def whole() -> tuple[tuple[str, bytes], ...]:
    """A bundle of leaves 2 to 11 of 13, so that there is something before and after it."""
    return tuple(files_of(bundle_of(log(), 2, 11)).items())


def files() -> Files:
    return dict(whole())


def lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


@pytest.mark.parametrize(("first", "last"), [(0, 13), (0, 0), (0, 1), (5, 13), (6, 9), (13, 13)])
def test_a_bundle_of_any_range_verifies(first: int, last: int) -> None:
    verdict = judged(files_of(bundle_of(log(), first, last)))
    assert verdict.valid
    assert [check.name for check in verdict.checks] == list(CHECKS)
    assert all(check.result is CheckResult.PASSED for check in verdict.checks)
    assert verdict.receipts == last - first
    assert verdict.first_bad_leaf is None


def test_a_bundle_of_many_files_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LEAVES_A_FILE", 4)
    found = files_of(bundle_of(log(), 2, 13))
    assert [name for name in found if name.startswith("receipts/")] == [
        f"receipts/{number:08d}.jsonl" for number in range(4)
    ]
    assert len(lines(found["receipts/00000000.jsonl"])) == 2  # up to the end of a tile of tiles
    assert judged(found).valid
    del found["receipts/00000001.jsonl"]
    verdict = judged(found)
    assert failed(verdict) >= {FILES, LEAVES, COMPLETENESS}
    assert verdict.first_bad_leaf == 4


def test_the_keys_of_the_bundle_do_and_the_verdict_says_so() -> None:
    verdict = judged(files(), BundleTrust())
    assert verdict.valid
    assert verdict.trust_source == OF_THE_BUNDLE


@pytest.mark.parametrize("name", [name for name, _ in whole()])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_changed_byte_of_any_file_is_found(name: str, data: st.DataObject) -> None:
    found = files()
    content = bytearray(found[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    found[name] = bytes(content)
    verdict = judged(found)
    assert not verdict.valid
    expected = MANIFEST_SIGNATURE if name in (MANIFEST, SIGNED_MANIFEST) else FILES
    assert expected in failed(verdict)


@pytest.mark.parametrize("name", [name for name, _ in whole()])
def test_any_missing_file_is_found(name: str) -> None:
    found = files()
    del found[name]
    verdict = judged(found)
    assert not verdict.valid
    expected = MANIFEST_SIGNATURE if name in (MANIFEST, SIGNED_MANIFEST) else FILES
    assert expected in failed(verdict)


@pytest.mark.parametrize("name", [name for name, _ in whole()])
def test_any_truncated_or_lengthened_file_is_found(name: str) -> None:
    content = files()[name]
    for changed in (content[:-1], content + b"\n"):
        assert not judged(files() | {name: changed}).valid


def test_a_file_that_the_manifest_does_not_list_is_found() -> None:
    assert failed(judged(files() | {"receipts/00000001.jsonl": b""})) == {FILES}


def test_a_file_that_no_bundle_has_is_found_even_where_the_manifest_lists_it() -> None:
    assert FILES in failed(judged(resealed(files() | {"extra.txt": b"x"})))


# What only whoever signs can do: the manifest fits, so that the log itself must tell.


@pytest.mark.parametrize("dropped", [0, 4, 8], ids=["first", "middle", "last"])
def test_a_dropped_leaf_is_found_whoever_signs_the_manifest(dropped: int) -> None:
    found = files()
    for name in (LINES, PROOFS):
        kept = lines(found[name])
        del kept[dropped]
        found[name] = b"".join(kept)
    verdict = judged(resealed(found))
    assert failed(verdict) >= {LEAVES, COMPLETENESS, INCLUDED}
    assert verdict.first_bad_leaf == 2 + dropped
    assert failed(judged(found)) >= {FILES, LEAVES, COMPLETENESS}


def test_two_swapped_leaves_are_found() -> None:
    found = files()
    swapped = lines(found[LINES])
    swapped[3], swapped[4] = swapped[4], swapped[3]
    found[LINES] = b"".join(swapped)
    verdict = judged(resealed(found))
    assert LEAVES in failed(verdict)
    assert verdict.first_bad_leaf == 5


def test_two_leaves_that_change_places_with_their_indices_are_found() -> None:
    """The lines are in order and each fits itself: the proofs and the root do not."""
    found = files()
    first, second = log().receipts[5].envelope, log().receipts[6].envelope
    found[LINES] = edited(edited(found[LINES], 3, second), 4, first)
    verdict = judged(resealed(found))
    assert failed(verdict) >= {COMPLETENESS, INCLUDED, CHAINS}
    assert LEAVES not in failed(verdict)
    assert verdict.first_bad_leaf == 5


def test_a_leaf_given_twice_is_found() -> None:
    found = files()
    twice = lines(found[LINES])
    twice.insert(4, twice[3])
    found[LINES] = b"".join(twice)
    assert LEAVES in failed(judged(resealed(found)))


def test_a_receipt_of_another_tenant_is_found() -> None:
    other = GeneratedLog("umbrella")
    other.add_action()
    found = files()
    found[LINES] = edited(found[LINES], 4, other.receipts[0].envelope)
    verdict = judged(resealed(found))
    assert failed(verdict) >= {RECEIPTS, COMPLETENESS, INCLUDED}
    assert check_named(verdict, RECEIPTS).problems[0].leaf_index == 6


def test_a_receipt_signed_by_an_unknown_key_is_found() -> None:
    forger = GeneratedLog(key=make_signing_key(OTHER_SEED))
    forger.receipts = list(log().receipts[:4])
    forger.add_action()
    forger.receipts += log().receipts[7:]
    verdict = judged(files_of(bundle_of(forger, key=make_signing_key())))
    assert failed(verdict) == {RECEIPTS}
    assert "no trusted key has the id" in check_named(verdict, RECEIPTS).problems[0].detail


def test_a_leaf_hash_that_is_not_that_of_its_receipt_is_found() -> None:
    found = files()
    content = lines(found[LINES])
    content[2] = replace(parse_leaf(content[2]), leaf_hash=bytes(32)).line()
    found[LINES] = b"".join(content)
    verdict = judged(resealed(found))
    assert failed(verdict) == {LEAVES}
    assert verdict.first_bad_leaf == 4


def test_a_line_that_is_not_canonical_is_found() -> None:
    found = files()
    content = lines(found[LINES])
    content[0] = b" " + content[0]
    found[LINES] = b"".join(content)
    verdict = judged(resealed(found))
    assert LEAVES in failed(verdict)
    assert "canonical" in check_named(verdict, LEAVES).problems[0].detail


def test_a_gap_in_a_chain_is_found_though_the_log_is_whole() -> None:
    broken = make_log()
    del broken.receipts[5]  # the server never logged it
    verdict = judged(files_of(bundle_of(broken)))
    assert failed(verdict) == {CHAINS}
    assert verdict.first_bad_leaf is not None


def test_a_receipt_logged_twice_is_found_as_a_fork_of_its_chain() -> None:
    forked = make_log()
    forked.receipts.insert(4, forked.receipts[3])
    assert CHAINS in failed(judged(files_of(bundle_of(forked))))


def test_a_chain_may_go_on_from_before_the_range_but_not_from_before_the_log() -> None:
    verdict = judged(files_of(bundle_of(log(), 2, 13)))
    assert verdict.valid
    assert "go on from before" in check_named(verdict, CHAINS).detail
    headless = make_log()
    del headless.receipts[0]
    verdict = judged(files_of(bundle_of(headless)))
    assert failed(verdict) == {CHAINS}
    assert verdict.first_bad_leaf == 0


@pytest.mark.parametrize("named", [False, True], ids=["by another", "under the tenant's key id"])
def test_a_manifest_signed_by_another_key_is_found(named: bool) -> None:  # noqa: FBT001 - a case
    other = make_signing_key(OTHER_SEED)
    if named:
        other = replace(other, key_id=make_signing_key().key_id)
    assert failed(judged(resealed(files(), other))) == {MANIFEST_SIGNATURE}


def test_a_manifest_signed_by_a_checkpoint_key_is_found() -> None:
    assert MANIFEST_SIGNATURE in failed(judged(resealed(files(), log().checkpoint_key)))


def test_a_manifest_of_another_bundle_is_found() -> None:
    found = files()
    found[SIGNED_MANIFEST] = files_of(bundle_of(log(), 2, 10))[SIGNED_MANIFEST]
    assert failed(judged(found)) == {MANIFEST_SIGNATURE}


def test_keys_that_somebody_added_to_the_bundle_are_not_trusted_beside_pinned_ones() -> None:
    """Whoever makes a bundle anew brings keys along: pinned keys are what catches that."""
    forger = make_log()
    forger.key = make_signing_key(OTHER_SEED)
    forger.receipts.clear()
    forger.add_action()
    public = signing_key(OTHER_SEED)[1]
    added = replace(make_stored_key().trusted, key_id=forger.key.key_id, public_key=public)
    found = files_of(bundle_of(forger, keys=[*forger.keys(), added]))
    assert judged(found, BundleTrust()).valid
    assert failed(judged(found)) == {MANIFEST_SIGNATURE, RECEIPTS}


def test_keys_of_another_tenant_in_the_bundle_are_found() -> None:
    found = files()
    foreign = replace(make_stored_key("umbrella", OTHER_SEED).trusted)
    found[KEYS] = keys_json([*log().keys(), foreign])
    assert failed(judged(resealed(found))) == {FILES}


@pytest.mark.parametrize("name", [FROM_CHECKPOINT, TO_CHECKPOINT])
def test_a_checkpoint_of_another_log_is_found(name: str) -> None:
    size = 2 if name == FROM_CHECKPOINT else 11
    other = GeneratedLog(receipts=log().receipts, tenant_id="umbrella")
    assert CHECKPOINTS in failed(judged(resealed(files() | {name: other.note(size).encode()})))
    unsigned = sign_checkpoint(log().checkpoint(size), make_signing_key(OTHER_SEED)).format()
    assert CHECKPOINTS in failed(judged(resealed(files() | {name: unsigned.encode()})))
    # Another history of the same log: a fork that its own key signed.
    fork = sign_checkpoint(replace(log().checkpoint(size), root=bytes(32)), log().checkpoint_key)
    verdict = judged(resealed(files() | {name: fork.format().encode()}))
    assert failed(verdict) >= {CHECKPOINTS, COMPLETENESS}


def test_a_fork_that_the_manifest_agrees_with_is_found_by_the_leaves() -> None:
    fork = replace(log().checkpoint(11), root=bytes(32))
    note = sign_checkpoint(fork, log().checkpoint_key).format().encode()
    verdict = judged(resealed(files() | {TO_CHECKPOINT: note}, last=fork))
    assert failed(verdict) == {COMPLETENESS, CONSISTENT, INCLUDED}


def test_a_wrong_frontier_is_found() -> None:
    other = files_of(bundle_of(log(), 3, 11))
    assert FRONTIER_ROOT in failed(judged(resealed(files() | {FRONTIER: other[FRONTIER]})))


def test_a_wrong_consistency_proof_is_found() -> None:
    other = files_of(bundle_of(log(), 2, 12))
    changed = files() | {CONSISTENCY: other[CONSISTENCY]}
    assert failed(judged(resealed(changed))) == {CONSISTENT}
    emptied = files() | {CONSISTENCY: b'{"fromSize":2,"hashes":[],"toSize":11}'}
    assert failed(judged(resealed(emptied))) == {CONSISTENT}


def test_wrong_missing_and_swapped_proofs_are_found() -> None:
    proofs = lines(files()[PROOFS])
    swapped = [proofs[1], proofs[0], *proofs[2:]]
    of_another = files_of(bundle_of(log(), 2, 12))[PROOFS]
    for content in (b"".join(swapped), b"".join(proofs[:-1]), b"".join(proofs) * 2, of_another):
        assert failed(judged(resealed(files() | {PROOFS: content}))) == {INCLUDED}


def test_pinned_checkpoints_must_be_those_of_the_bundle() -> None:
    keys = log().keys()
    first, last = parse_note(log().note(2)), parse_note(log().note(11))
    assert judged(files(), BundleTrust(keys, first, last)).valid
    for trust in (
        BundleTrust(keys, parse_note(log().note(3)), last),
        BundleTrust(keys, first, parse_note(log().note(12))),
        BundleTrust(keys, parse_note(GeneratedLog("umbrella").note(0))),
    ):
        assert CHECKPOINTS in failed(judged(files(), trust))


def test_witnesses_are_asked_of_the_checkpoints() -> None:
    seed = bytes(range(50, 82))
    witness, public = signing_key(seed)
    verifier = Verifier("witness.example", COSIGNATURE, raw_public_key(public))
    trust = LogTrust(witnesses=WitnessPolicy(1, (verifier,)))
    keys = log().keys()
    assert failed(judged(files(), BundleTrust(keys, log=trust))) == {CHECKPOINTS, COMPLETENESS}

    def witnessed(size: int) -> str:
        note = parse_note(log().note(size))
        signed = cosign_note(note.text, verifier.name, witness.private_key, 1_700_000_000)
        return replace(note, signatures=(*note.signatures, signed)).format()

    pinned = BundleTrust(keys, parse_note(witnessed(2)), parse_note(witnessed(11)), trust)
    assert judged(files(), pinned).valid
    carried = files() | {
        FROM_CHECKPOINT: witnessed(2).encode(),
        TO_CHECKPOINT: witnessed(11).encode(),
    }
    assert judged(resealed(carried), BundleTrust(keys, log=trust)).valid


def test_only_the_log_that_is_asked_for_is_believed() -> None:
    keys = log().keys()
    assert judged(files(), BundleTrust(keys, log=LogTrust("log.example"))).valid
    verdict = judged(files(), BundleTrust(keys, log=LogTrust("elsewhere.example")))
    assert CHECKPOINTS in failed(verdict)


def test_a_revoked_key_is_believed_below_its_trusted_size_only() -> None:
    receipt_key, checkpoint_key = log().keys()
    signer, public = signing_key(OTHER_SEED)
    new = replace(receipt_key, key_id=signer.key_id, public_key=public)
    revoked = replace(receipt_key, state=KeyState.REVOKED, revoked_at=NOW, trusted_log_size=11)
    found = resealed(files(), signer)
    assert judged(found, BundleTrust([revoked, new, checkpoint_key])).valid
    partly = replace(revoked, trusted_log_size=7)
    verdict = judged(found, BundleTrust([partly, new, checkpoint_key]))
    assert failed(verdict) == {RECEIPTS}
    assert verdict.first_bad_leaf == 7
    # The manifest is in no log: there nothing vouches for a revoked key.
    verdict = judged(files(), BundleTrust([revoked, checkpoint_key]))
    assert failed(verdict) == {MANIFEST_SIGNATURE}


def test_a_revoked_checkpoint_key_is_not_believed() -> None:
    receipt_key, checkpoint_key = log().keys()
    revoked = replace(checkpoint_key, state=KeyState.REVOKED)
    verdict = judged(files(), BundleTrust([receipt_key, revoked]))
    assert failed(verdict) == {CHECKPOINTS, COMPLETENESS}


@cache
def erased_log() -> GeneratedLog:
    found = make_log()
    found.erase([4, 5, 6, 10, 11, 12])
    return found


def test_erased_payloads_are_counted_and_listed_and_all_else_holds() -> None:
    verdict = judged(files_of(bundle_of(erased_log())))
    assert verdict.valid
    assert verdict.erased == ((4, 6), (10, 12))
    assert verdict.receipts == 8
    verdict = judged(files_of(bundle_of(erased_log(), 0, 13)))
    assert verdict.valid
    assert "6 were erased by events" in check_named(verdict, ERASURES).detail


def test_an_erasure_that_its_event_does_not_tell_of_is_found() -> None:
    hidden = make_log()
    hidden.erase([4, 5, 6])
    hidden.erased |= dict.fromkeys([7, 8, 9], hidden.erased[4])
    verdict = judged(files_of(bundle_of(hidden)))
    assert failed(verdict) == {ERASURES}
    assert verdict.first_bad_leaf == 7


def test_a_receipt_erased_out_of_the_middle_of_its_action_is_found() -> None:
    """Retention erases an action as a whole: a hole in one hides something."""
    holed = make_log()
    holed.erase([5])
    verdict = judged(files_of(bundle_of(holed)))
    assert failed(verdict) == {CHAINS}
    assert verdict.first_bad_leaf == 6


def test_a_count_of_erasures_that_is_wrong_is_found() -> None:
    found = files_of(bundle_of(erased_log()))
    assert failed(judged(resealed(found, erased=3))) == {ERASURES}


def test_coverage_of_controls_is_counted_again() -> None:
    found = files_of(bundle_of(log(), mappings=[make_mapping()]))
    assert judged(found).valid
    assert b'"gaps":["denial"]' in found[MAPPINGS]
    assert b'"receipts":12' in found[MAPPINGS]
    embellished = found[MAPPINGS].replace(b'"gaps":["denial"]', b'"gaps":[]')
    assert failed(judged(resealed(found | {MAPPINGS: embellished}))) == {CONTROLS}
    assert failed(judged(resealed(found | {MAPPINGS: b'{"mappings":7}'}))) == {CONTROLS}


def test_the_report_is_vouched_for_by_the_manifest() -> None:
    changed = files()[REPORT].replace(b"Evidence", b"evidence", 1)
    assert failed(judged(files() | {REPORT: changed})) == {FILES}


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update({MANIFEST: b"{}"}),
        lambda found: found.update({MANIFEST: b"not json"}),
        lambda found: found.update({MANIFEST: found[MANIFEST].replace(b":1,", b":2,", 1)}),
        lambda found: found.clear(),
    ],
)
def test_a_manifest_that_cannot_be_read_ends_it(change: Callable[[Files], None]) -> None:
    found = files()
    change(found)
    verdict = judged(found)
    assert not verdict.valid
    assert MANIFEST_SIGNATURE in failed(verdict)
    assert verdict.manifest is None
    assert check_named(verdict, RECEIPTS).result is CheckResult.NOT_CHECKED


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all members of a JSON value, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*path, key))


@pytest.mark.parametrize("leaf", [3, 5, 11], ids=["event", "decision", "approval"])
def test_payloads_of_any_shape_are_judged_and_never_end_the_verification(leaf: int) -> None:
    """What a stranger signed may have anything in any place."""
    found = files_of(bundle_of(log(), mappings=[make_mapping(filter=ReceiptFilter())]))
    payload = log().receipts[leaf].envelope.payload
    forger = make_signing_key(OTHER_SEED)
    hostile_values: list[Any] = [None, 7, "", [], [{}], {}, {"approver": []}, True, 10**15]
    for path in _places(orjson.loads(payload)):
        for hostile in hostile_values:
            value = parent = orjson.loads(payload)
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = hostile
            envelope = sign_payload(statement_json(value), forger)
            verdict = judged(resealed(found | {LINES: edited(found[LINES], leaf, envelope)}))
            assert RECEIPTS in failed(verdict)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_under_a_good_manifest_is_judged_by_what_it_changes(
    data: st.DataObject,
) -> None:
    found = files()
    name = data.draw(st.sampled_from([n for n in found if n not in (MANIFEST, SIGNED_MANIFEST)]))
    content = bytearray(found[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    verdict = judged(resealed(found | {name: bytes(content)}))
    # Nothing else vouches for the page, and pinned keys are taken in the place of the bundle's.
    assert not verdict.valid or name in (REPORT, KEYS, MAPPINGS)


class Tricky(MemoryBundle):
    """An archive whose directory tells other things."""

    def __init__(self, entries: list[BundleEntry]) -> None:
        super().__init__(files())
        self._told = entries

    def entries(self) -> list[BundleEntry]:
        return self._told


@pytest.mark.parametrize(
    "entries",
    [
        [BundleEntry("a", 1, 1), BundleEntry("a", 1, 1)],
        [BundleEntry("bomb", 10**10, 10**6)],
        [BundleEntry(f"file{number}", 1, 1) for number in range(10_000)],
    ],
    ids=["twice", "bomb", "many"],
)
def test_archives_that_trick_are_refused_before_anything_is_read(
    entries: list[BundleEntry],
) -> None:
    verdict = verify_bundle(Tricky(entries), BundleTrust(log().keys()))
    assert failed(verdict) == {ARCHIVE}
    assert verdict.manifest is None


@given(
    actions=st.integers(0, 6), first=st.integers(0, 22), length=st.integers(0, 22), data=st.data()
)
@settings(max_examples=25, deadline=None)
def test_every_range_verifies_and_no_leaf_of_it_can_go(
    actions: int, first: int, length: int, data: st.DataObject
) -> None:
    made = make_log(actions)
    size = len(made.receipts)
    first = min(first, size)
    last = min(first + length, size)
    found = files_of(bundle_of(made, first, last))
    assert judged(found).valid
    if last > first:
        kept = lines(found[LINES])
        del kept[data.draw(st.integers(0, last - first - 1))]
        found[LINES] = b"".join(kept)
        assert failed(judged(resealed(found))) >= {LEAVES, COMPLETENESS}
