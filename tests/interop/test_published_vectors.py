"""What the standards' own communities publish to test implementations with."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.merkle import verify_consistency, verify_inclusion
from tests.interop import standalone_verifier

VECTORS = Path(__file__).parents[1] / "vectors"
PROOFS: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "rfc6962.json").read_text())


def _named(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in PROOFS[kind]]


def _bytes(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def _all(texts: list[str] | None) -> list[bytes]:
    return [_bytes(text) for text in texts or ()]


@pytest.mark.parametrize("name", ["arrays", "french", "structures", "unicode", "values", "weird"])
def test_canonical_json_is_that_of_rfc_8785(name: str) -> None:
    value = json.loads((VECTORS / "rfc8785" / f"{name}.input.json").read_text())
    expected = bytes.fromhex((VECTORS / "rfc8785" / f"{name}.output.hex").read_text())
    assert canonical_json(value) == expected


@pytest.mark.parametrize("vector", _named("inclusion"))
def test_inclusion_proofs_of_rfc_6962(vector: dict[str, Any]) -> None:
    """The right ones verify; the empty, swapped, cut, lengthened and misplaced ones do not."""
    leaf, root, proof = _bytes(vector["leafHash"]), _bytes(vector["root"]), _all(vector["proof"])
    index, size = vector["leafIdx"], vector["treeSize"]
    assert verify_inclusion(leaf, index, size, proof, root) is not vector["wantErr"]
    # An independent reading of the standard agrees.
    try:
        found = standalone_verifier.root_from_inclusion(leaf, index, size, proof) == root
    except standalone_verifier.Invalid:
        found = False
    assert found is not vector["wantErr"]


@pytest.mark.parametrize("vector", _named("consistency"))
def test_consistency_proofs_of_rfc_6962(vector: dict[str, Any]) -> None:
    old, new = vector["size1"], vector["size2"]
    roots, proof = (_bytes(vector["root1"]), _bytes(vector["root2"])), _all(vector["proof"])
    # Some vectors do not care what the roots are; here, what is no hash is no root.
    holds = not vector["wantErr"] and {len(root) for root in roots} == {32}
    assert verify_consistency(old, new, *roots, proof) is holds
    if old == 0:
        return  # the other one has no consistency with nothing
    try:
        found = standalone_verifier.roots_from_consistency(old, new, proof, roots[0]) == roots
    except standalone_verifier.Invalid:
        found = False
    assert found is not vector["wantErr"]
