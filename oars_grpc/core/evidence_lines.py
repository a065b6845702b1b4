"""The files of an evidence bundle that are about its log: lines of leaves and of proofs, ends.

    {"envelope":{…},"leafHash":"…","leafIndex":7}                              a receipt
    {"erasure":{"erasedAt":"…","receiptId":"…"},"leafHash":"…","leafIndex":8}  one that was erased
    {"hashes":["…",…],"leafIndex":7}                                           a proof

Each line is canonical JSON and ends in a newline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.canonical import encode_base64, statement_json
from oars_grpc.core.checkpoint import InclusionProof
from oars_grpc.core.envelope import Envelope, envelope_from_json
from oars_grpc.core.evidence import (
    hashes_json,
    is_count,
    parse_canonical,
    parse_hash,
    parse_hashes,
)
from oars_grpc.core.merkle import Frontier
from oars_grpc.core.receipt import MAXIMUM_PAYLOAD_BYTES, format_time, parse_time

# What bounds a reader: base64 takes 4/3, the rest of a line far less than the margin.
MAXIMUM_LINE_BYTES = MAXIMUM_PAYLOAD_BYTES * 2


@dataclass(frozen=True, slots=True)
class ErasedPayload:
    """When retention erased a payload, and the receipt that records it."""

    erased_at: datetime
    receipt_id: str


@dataclass(frozen=True, slots=True)
class BundledLeaf:
    """A leaf of the log: with its receipt, or with what erased it."""

    leaf_index: int
    leaf_hash: bytes
    envelope: Envelope | None
    erasure: ErasedPayload | None = None

    def line(self) -> bytes:
        """The line of a file of receipts."""
        value: dict[str, Any] = {
            "leafIndex": self.leaf_index,
            "leafHash": encode_base64(self.leaf_hash),
        }
        if self.envelope is not None:
            value["envelope"] = self.envelope.to_json()
        elif self.erasure is not None:
            value["erasure"] = {
                "erasedAt": format_time(self.erasure.erased_at),
                "receiptId": self.erasure.receipt_id,
            }
        else:
            raise ValueError(f"leaf {self.leaf_index} has neither a receipt nor an erasure")
        return statement_json(value) + b"\n"


def parse_leaf(line: bytes) -> BundledLeaf:
    """The inverse of `BundledLeaf.line`, strictly; the leaf hash is not judged.

    Raises:
        ValueError: naming what is wrong.
    """
    value = _parse_line(line)
    if not is_count(value.get("leafIndex")):
        raise ValueError("leafIndex is not an index")
    content = value.keys() - {"leafIndex", "leafHash"}
    if content == {"envelope"} and isinstance(value["envelope"], dict):
        envelope, erasure = envelope_from_json(value["envelope"]), None
    elif content == {"erasure"} and isinstance(value["erasure"], dict):
        envelope, erasure = None, _parse_erasure(value["erasure"])
    else:
        raise ValueError("a leaf has leafIndex, leafHash and one of envelope and erasure")
    leaf = BundledLeaf(value["leafIndex"], parse_hash(value.get("leafHash")), envelope, erasure)
    if leaf.line() != line:  # a member of the envelope more, or one left out
        raise ValueError("the line has other members than those of its format")
    return leaf


def _parse_erasure(value: dict[str, Any]) -> ErasedPayload:
    erased_at, receipt_id = value.get("erasedAt"), value.get("receiptId")
    if not isinstance(erased_at, str) or not isinstance(receipt_id, str):
        raise ValueError("an erasure has erasedAt and receiptId")
    if not ids.is_id(ids.RECEIPT, receipt_id):
        raise ValueError("the receiptId of an erasure is not an id")
    return ErasedPayload(parse_time(erased_at), receipt_id)


def proof_line(proof: InclusionProof) -> bytes:
    """The line of a file of proofs."""
    value = {"leafIndex": proof.leaf_index, "hashes": hashes_json(proof.hashes)}
    return statement_json(value) + b"\n"


def parse_proof_line(line: bytes) -> InclusionProof:
    """The inverse of `proof_line`, strictly.

    Raises:
        ValueError: naming what is wrong.
    """
    value = _parse_line(line)
    if value.keys() != {"leafIndex", "hashes"} or not is_count(value["leafIndex"]):
        raise ValueError("a proof has leafIndex and hashes")
    return InclusionProof(value["leafIndex"], parse_hashes(value["hashes"]))


def _parse_line(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise ValueError("the line does not end in a newline")
    value = parse_canonical(line[:-1])
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def frontier_json(frontier: Frontier) -> bytes:
    """log/frontier.json: the full subtrees that the first tree is made of, largest first."""
    return statement_json({"size": frontier.size, "hashes": hashes_json(frontier.hashes)})


def parse_frontier(content: bytes) -> Frontier:
    """The inverse of `frontier_json`.

    Raises:
        ValueError: naming what is wrong.
    """
    value = parse_canonical(content)
    if not isinstance(value, dict) or value.keys() != {"size", "hashes"}:
        raise ValueError("a frontier has size and hashes")
    if not is_count(value["size"]):
        raise ValueError("the size of a frontier is a count")
    return Frontier(value["size"], parse_hashes(value["hashes"]))


def consistency_json(first: int, last: int, hashes: Sequence[bytes]) -> bytes:
    """log/consistency.json: the proof that the last tree continues the first."""
    return statement_json({"fromSize": first, "toSize": last, "hashes": hashes_json(hashes)})


def parse_consistency(content: bytes) -> tuple[int, int, tuple[bytes, ...]]:
    """The inverse of `consistency_json`.

    Raises:
        ValueError: naming what is wrong.
    """
    value = parse_canonical(content)
    if not isinstance(value, dict) or value.keys() != {"fromSize", "toSize", "hashes"}:
        raise ValueError("a consistency proof has fromSize, toSize and hashes")
    first, last = value["fromSize"], value["toSize"]
    if not is_count(first) or not is_count(last):
        raise ValueError("the sizes of a consistency proof are counts")
    return first, last, parse_hashes(value["hashes"])
