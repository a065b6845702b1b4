"""Evidence bundles: a range of a tenant's log in one file, and what vouches for the file.

    receipts/00000000.jsonl   every leaf of the range in order, `LEAVES_A_FILE` to a file
    proofs/00000000.jsonl     the inclusion proofs of the same leaves
    log/…                     checkpoints at both ends, frontier of the first, consistency proof
    keys.json                 the tenant's public keys at the time
    mappings.json             its control mappings, and what of the range is evidence for each
    report.html               for people
    manifest.json             length and SHA-256 of every file above
    manifest.dsse.json        an in-toto statement about the manifest, signed by the tenant

All JSON is canonical (RFC 8785), so that no two readers understand it differently. The manifest
comes last because the file is written as a stream. `proto/README.md` specifies the format.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeGuard

import orjson

from oars_grpc.core.canonical import (
    canonical_json,
    decode_base64,
    encode_base64,
    sha256_hex,
    statement_json,
)
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, sign_payload
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.merkle import HASH_BYTES
from oars_grpc.core.receipt import STATEMENT_TYPE, format_time, parse_time
from oars_grpc.core.tenant import TENANT_ID

FORMAT_VERSION = 1
MANIFEST_PREDICATE = "urn:oars:evidence:manifest:v1"
# A multiple of a tile's width: a file of proofs rests on whole tiles.
LEAVES_A_FILE = 4096
MAXIMUM_RECEIPTS = 1_000_000

FROM_CHECKPOINT = "log/from.checkpoint"
TO_CHECKPOINT = "log/to.checkpoint"
FRONTIER = "log/frontier.json"
CONSISTENCY = "log/consistency.json"
KEYS = "keys.json"
MAPPINGS = "mappings.json"
REPORT = "report.html"
MANIFEST = "manifest.json"
SIGNED_MANIFEST = "manifest.dsse.json"

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of a bundle as the manifest has it."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds. `controls` are those asked for; none means all."""

    tenant_id: str
    created_at: datetime
    first: Checkpoint
    last: Checkpoint
    erased: int
    controls: tuple[str, ...]
    files: tuple[BundleFile, ...]

    @property
    def receipts(self) -> int:
        """How many leaves lie in the range."""
        return self.last.size - self.first.size

    def to_json(self) -> bytes:
        """The canonical JSON of manifest.json."""
        return canonical_json(
            {
                "formatVersion": FORMAT_VERSION,
                "tenantId": self.tenant_id,
                "origin": self.last.origin,
                "createdAt": format_time(self.created_at),
                "from": _end_json(self.first),
                "to": _end_json(self.last),
                "receipts": self.receipts,
                "erased": self.erased,
                "controls": list(self.controls),
                "files": [
                    {"name": file.name, "sha256": file.sha256, "bytes": file.size}
                    for file in self.files
                ],
            }
        )


def _end_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"size": checkpoint.size, "rootHash": encode_base64(checkpoint.root)}


def receipts_file(number: int) -> str:
    """The name of a file of receipts, counted from 0."""
    return f"receipts/{number:08d}.jsonl"


def proofs_file(number: int) -> str:
    """The name of the file with the proofs of the same leaves."""
    return f"proofs/{number:08d}.jsonl"


def file_ranges(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The leaves [start, end) of each file of a range: files end where tiles of tiles do."""
    while first < last:
        end = min(last, (first // LEAVES_A_FILE + 1) * LEAVES_A_FILE)
        yield first, end
        first = end


def expected_names(first: int, last: int) -> list[str]:
    """The names of all files that the manifest of a range lists, in the order of writing."""
    names = [FROM_CHECKPOINT, TO_CHECKPOINT, FRONTIER, CONSISTENCY, KEYS]
    for number, _ in enumerate(file_ranges(first, last)):
        names += [receipts_file(number), proofs_file(number)]
    return [*names, MAPPINGS, REPORT]


def sign_manifest(manifest: Manifest, key: SigningKey) -> Envelope:
    """The statement of manifest.dsse.json: which manifest the tenant stands by."""
    statement = _statement(manifest.to_json(), manifest)
    return sign_payload(statement_json(statement), key)


def _statement(content: bytes, manifest: Manifest) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST, "digest": {"sha256": sha256_hex(content)}}],
        "predicateType": MANIFEST_PREDICATE,
        "predicate": {
            "tenantId": manifest.tenant_id,
            "origin": manifest.last.origin,
            "createdAt": format_time(manifest.created_at),
            "fromSize": manifest.first.size,
            "toSize": manifest.last.size,
        },
    }


def check_statement(envelope: Envelope, content: bytes, manifest: Manifest) -> None:
    """Check that the signed statement is about this manifest; its signature is not judged.

    Raises:
        ValueError: it is about another one, or is no such statement.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"payloadType is not {PAYLOAD_TYPE}")
    statement = parse_canonical(envelope.payload)
    if statement != _statement(content, manifest):
        raise ValueError("the signed statement is not about this manifest")


def parse_manifest(content: bytes) -> Manifest:
    """The inverse of `Manifest.to_json`, strictly.

    Raises:
        ValueError: naming what is wrong.
    """
    value = parse_canonical(content)
    if not isinstance(value, dict):
        raise ValueError("the manifest is not an object")
    if value.get("formatVersion") != FORMAT_VERSION:
        raise ValueError(f"formatVersion is not {FORMAT_VERSION}")
    origin, controls, files = value.get("origin"), value.get("controls"), value.get("files")
    if not isinstance(origin, str) or not is_texts(controls) or not isinstance(files, list):
        raise ValueError("the manifest lacks origin, controls or files")
    tenant_id, erased = value.get("tenantId"), value.get("erased")
    if not isinstance(tenant_id, str) or not TENANT_ID.fullmatch(tenant_id):
        raise ValueError("tenantId is not an id")
    if not is_count(erased):
        raise ValueError("erased is not a count")
    manifest = Manifest(
        tenant_id=tenant_id,
        created_at=parse_time(str(value.get("createdAt"))),
        first=_parse_end(value.get("from"), origin),
        last=_parse_end(value.get("to"), origin),
        erased=erased,
        controls=tuple(controls),
        files=tuple(map(_parse_file, files)),
    )
    if not 0 <= manifest.receipts <= MAXIMUM_RECEIPTS:
        raise ValueError(f"a range of {manifest.receipts} receipts is not one of a bundle")
    # What was read is all that there is, and nothing else: a member more would be in `content`.
    if manifest.to_json() != content:
        raise ValueError("the manifest has other members than those of its format")
    return manifest


def _parse_end(value: object, origin: str) -> Checkpoint:
    if not isinstance(value, Mapping) or not is_count(value.get("size")):
        raise ValueError("from and to have a size and a rootHash")
    return Checkpoint(origin, value["size"], parse_hash(value.get("rootHash")))


def _parse_file(value: object) -> BundleFile:
    if not isinstance(value, Mapping):
        raise ValueError("a file is an object of name, sha256 and bytes")
    name, digest, size = value.get("name"), value.get("sha256"), value.get("bytes")
    if not isinstance(name, str) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("a file has a name and a SHA-256 in lower-case hex")
    if not is_count(size):
        raise ValueError(f"{name}: bytes is not a count")
    return BundleFile(name, digest, size)


def parse_canonical(content: bytes) -> Any:
    """JSON that is spelt as RFC 8785 spells it.

    Raises:
        ValueError: it is not JSON, or spelt otherwise.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if canonical_json(value) != content:
        raise ValueError("is not canonical JSON (RFC 8785)")
    return value


def is_count(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_texts(value: object) -> TypeGuard[list[str]]:
    """Whether a JSON value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def parse_hash(value: object) -> bytes:
    """A SHA-256 hash in base64.

    Raises:
        ValueError: it is something else.
    """
    hash_ = decode_base64(value) if isinstance(value, str) else b""
    if len(hash_) != HASH_BYTES:
        raise ValueError("is not a SHA-256 hash in base64")
    return hash_


def parse_hashes(value: object) -> tuple[bytes, ...]:
    """A list of such hashes.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, list):
        raise ValueError("is not a list of hashes")
    return tuple(map(parse_hash, value))


def hashes_json(hashes: Sequence[bytes]) -> list[str]:
    """The inverse of `parse_hashes`."""
    return list(map(encode_base64, hashes))
