"""Reads receipts and keys from JSON files: bare envelopes, receipts, or whole API answers."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm

from oars_grpc.core.envelope import Envelope, envelope_from_json
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.note import ED25519, parse_vkey, raw_public_key

MAXIMUM_FILE_BYTES = 256 * 1024 * 1024
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def read_json(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        ValueError: unreadable, too large, not JSON, or JSON that readers understand differently.
    """
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise ValueError(f"is larger than {MAXIMUM_FILE_BYTES} bytes")
        return json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("gives a member twice")
    return value


def envelopes(value: Any) -> Iterator[Envelope]:
    """The envelopes in a value: an envelope, a receipt, a list of them, or an answer of the API.

    Raises:
        ValueError: there is something else where a receipt should be.
    """
    if isinstance(value, list):
        for item in value:
            yield from envelopes(item)
    elif not isinstance(value, Mapping):
        raise ValueError("is neither a receipt nor a list of receipts")
    elif "payload" in value:
        yield envelope_from_json(value)
    else:
        for name in ("envelope", "receipt", "receipts"):
            if name in value:
                yield from envelopes(value[name])
                return
        raise ValueError("holds no envelope, receipt or receipts")


def proof_texts(value: Any) -> Iterator[str]:
    """The inclusion proofs in an answer of GetReceiptProof, or in a list of such answers."""
    if isinstance(value, list):
        for item in value:
            yield from proof_texts(item)
    elif isinstance(value, Mapping) and isinstance(value.get("proof"), str):
        yield value["proof"]


def trusted_keys(value: Any) -> tuple[TrustedKey, ...]:
    """The keys of an answer of ListTrustedKeys, or of a bare list of its keys.

    Raises:
        ValueError: naming the key and member at fault.
    """
    listed = value.get("keys") if isinstance(value, Mapping) else value
    if not isinstance(listed, list):
        raise ValueError("holds no list of keys")
    keys = []
    for position, entry in enumerate(listed):
        try:
            keys.append(_key(entry))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"keys[{position}]: {error!r}") from error
    return tuple(keys)


def _key(entry: Mapping[str, Any]) -> TrustedKey:
    if entry.get("algorithm", "ed25519") != "ed25519":
        raise ValueError("algorithm is not ed25519")
    try:
        public_key = base64.b64decode(_member(entry, "publicKey"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"publicKey is not base64: {error}") from error
    state = _member(entry, "state").removeprefix("KEY_STATE_").lower()
    stated = _optional(entry, "purpose") or "KEY_PURPOSE_RECEIPT"
    purpose = KeyPurpose(stated.removeprefix("KEY_PURPOSE_").lower())
    valid_from = _moment(entry, "validFrom")
    if valid_from is None:
        raise ValueError("validFrom is missing")
    return TrustedKey(
        key_id=_member(entry, "keyId"),
        tenant_id=_member(entry, "tenantId"),
        public_key=public_key,
        state=KeyState(state),
        valid_from=valid_from,
        valid_until=_moment(entry, "validUntil"),
        revoked_at=_moment(entry, "revokedAt"),
        revocation_reason=_optional(entry, "revocationReason"),
        purpose=purpose,
        trusted_log_size=_size(entry, "trustedLogSize"),
        origin=_origin(_optional(entry, "vkey"), public_key, purpose),
    )


def _value(entry: Mapping[str, Any], name: str) -> Any:
    """A member in either spelling of the API."""
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    return entry.get(name, entry.get(snake))


def _member(entry: Mapping[str, Any], name: str) -> str:
    value = _value(entry, name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is missing")
    return value


def _optional(entry: Mapping[str, Any], name: str) -> str:
    value = _value(entry, name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is not text")
    return value or ""


def _size(entry: Mapping[str, Any], name: str) -> int | None:
    """A 64-bit integer, which proto JSON writes as text; None where it is not there."""
    value = _value(entry, name)
    if value is None:
        return None
    text = str(value) if type(value) in {int, str} else ""
    if not _SIZE.fullmatch(text):
        raise ValueError(f"{name} is not the size of a log")
    return int(text)


def _origin(vkey: str, public_key: bytes, purpose: KeyPurpose) -> str:
    """The log that a key says that it signs for, in its C2SP form."""
    if not vkey:
        return ""
    verifier = parse_vkey(vkey)
    try:
        raw = raw_public_key(public_key)
    except UnsupportedAlgorithm as error:
        raise ValueError("publicKey is not an Ed25519 key") from error
    if purpose is not KeyPurpose.CHECKPOINT or (verifier.kind, verifier.public_key) != (
        ED25519,
        raw,
    ):
        raise ValueError("vkey is not that of publicKey, or the key signs no checkpoints")
    return verifier.name


def _moment(entry: Mapping[str, Any], name: str) -> datetime | None:
    text = _value(entry, name)
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    return moment
