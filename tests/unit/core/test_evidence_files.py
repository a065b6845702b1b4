"""The files of a bundle are read strictly: what was written, and no other spelling of it."""

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.canonical import statement_json
from oars_grpc.core.checkpoint import Checkpoint, InclusionProof
from oars_grpc.core.evidence import (
    LEAVES_A_FILE,
    BundleFile,
    Manifest,
    expected_names,
    file_ranges,
    parse_manifest,
)
from oars_grpc.core.evidence_lines import (
    BundledLeaf,
    ErasedPayload,
    consistency_json,
    frontier_json,
    parse_consistency,
    parse_frontier,
    parse_leaf,
    parse_proof_line,
    proof_line,
)
from oars_grpc.core.key_json import keys_json, parse_keys
from oars_grpc.core.merkle import EMPTY, append
from tests.support.bundles import make_log
from tests.support.factories import NOW, new_id

ROOT = bytes(range(32))
MANIFEST = Manifest(
    tenant_id="acme",
    created_at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    first=Checkpoint("log.example/acme", 3, ROOT),
    last=Checkpoint("log.example/acme", 9, ROOT),
    erased=1,
    controls=("soc2:CC6.1",),
    files=(BundleFile("report.html", "a" * 64, 7),),
)


def test_a_manifest_reads_back() -> None:
    assert parse_manifest(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize(
    "change",
    [
        {"formatVersion": 2},
        {"formatVersion": True},
        {"tenantId": "Not An Id"},
        {"tenantId": 7},
        {"origin": None},
        {"createdAt": "2026-01-02"},
        {"from": {"size": -1, "rootHash": "A" * 43 + "="}},
        {"from": {"size": 10, "rootHash": "A" * 43 + "="}},
        {"to": {"size": 9, "rootHash": "short"}},
        {"to": {"size": 5_000_000, "rootHash": "A" * 43 + "="}},
        {"receipts": 5},
        {"erased": 1.5},
        {"controls": "soc2"},
        {"files": [{"name": "a", "sha256": "A" * 64, "bytes": 1}]},
        {"files": [{"name": "a", "sha256": "a" * 64, "bytes": -1}]},
        {"files": [{"name": "a", "sha256": "a" * 64, "bytes": 1, "more": 1}]},
        {"more": 1},
    ],
)
def test_other_manifests_are_refused(change: dict[str, object]) -> None:
    value = orjson.loads(MANIFEST.to_json()) | change
    with pytest.raises(ValueError):
        parse_manifest(statement_json(value))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a":1, "b":2}', b'{"b":1,"a":2}'])
def test_what_is_not_canonical_is_no_manifest(content: bytes) -> None:
    with pytest.raises(ValueError):
        parse_manifest(content)


@given(first=st.integers(0, 20_000), length=st.integers(0, 20_000))
def test_files_cover_their_range_and_end_where_tiles_do(first: int, length: int) -> None:
    ranges = list(file_ranges(first, first + length))
    assert sum(end - start for start, end in ranges) == length
    assert [start for start, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    assert all(end % LEAVES_A_FILE == 0 for _, end in ranges[:-1])
    assert len(expected_names(first, first + length)) == 7 + 2 * len(ranges)


def test_leaves_and_proofs_read_back() -> None:
    receipt = make_log(1).receipts[0]
    hash_ = receipt.envelope.leaf_hash()
    leaf = BundledLeaf(7, hash_, receipt.envelope)
    assert parse_leaf(leaf.line()) == leaf
    gone = BundledLeaf(8, hash_, None, ErasedPayload(NOW, new_id("rcpt")))
    assert parse_leaf(gone.line()) == gone
    proof = InclusionProof(7, (ROOT, hash_))
    assert parse_proof_line(proof_line(proof)) == proof
    with pytest.raises(ValueError):
        BundledLeaf(8, hash_, None).line()


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_line_with_another_byte_is_another_leaf_or_none(data: st.DataObject) -> None:
    receipt = make_log(0).receipts[0]
    leaf = BundledLeaf(7, receipt.envelope.leaf_hash(), receipt.envelope)
    line = bytearray(leaf.line())
    line[data.draw(st.integers(0, len(line) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = parse_leaf(bytes(line))
    except ValueError:
        return
    assert found != leaf


@pytest.mark.parametrize(
    "line",
    [
        b'{"hashes":[],"leafIndex":1}',
        b'{"hashes":[],"leafIndex":-1}\n',
        b'{"hashes":[],"leafIndex":true}\n',
        b'{"hashes":["AA=="],"leafIndex":1}\n',
        b'{"hashes":[],"leafIndex":1,"leafIndex":2}\n',
        b'{"hashes":[],"leafIndex":1,"more":1}\n',
        b"[]\n",
        b"\n",
    ],
)
def test_other_lines_are_no_proofs(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_proof_line(line)


def test_ends_read_back_and_only_so() -> None:
    frontier = append(EMPTY, [ROOT, ROOT, ROOT])[0]
    assert parse_frontier(frontier_json(frontier)) == frontier
    assert parse_consistency(consistency_json(3, 9, [ROOT])) == (3, 9, (ROOT,))
    for content in (b'{"hashes":[],"size":3}', b'{"hashes":[],"size":0,"x":1}', b"[]"):
        with pytest.raises(ValueError):
            parse_frontier(content)
    for content in (b'{"fromSize":1,"hashes":[]}', b'{"fromSize":-1,"hashes":[],"toSize":2}'):
        with pytest.raises(ValueError):
            parse_consistency(content)


def test_keys_read_back_and_only_so() -> None:
    keys = make_log(0).keys()
    content = keys_json(keys)
    assert parse_keys(content) == keys
    value = orjson.loads(content)
    for change in (
        {"keyId": "0" * 16},
        {"state": "KEY_STATE_UNSPECIFIED"},
        {"algorithm": "rsa"},
        {"validFrom": "yesterday"},
        {"more": 1},
        {"vkey": "x"},
    ):
        changed = {"keys": [value["keys"][0] | change]}
        with pytest.raises(ValueError, match=r"keys\[0\]"):
            parse_keys(statement_json(changed))
