"""Public keys as JSON: what ListTrustedKeys answers over REST, in the spelling of proto JSON."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm

from oars_grpc.core.canonical import canonical_json, decode_base64, encode_base64
from oars_grpc.core.checkpoint import checkpoint_verifier
from oars_grpc.core.evidence import parse_canonical
from oars_grpc.core.keys import ALGORITHM, KeyPurpose, KeyState, TrustedKey, key_id_of
from oars_grpc.core.note import parse_vkey
from oars_grpc.core.receipt import format_time, parse_time

MAXIMUM_KEYS = 100_000
_STATE, _PURPOSE = "KEY_STATE_", "KEY_PURPOSE_"


def keys_json(keys: Iterable[TrustedKey]) -> bytes:
    """Canonical JSON of the keys; one that signs checkpoints has its log for its `origin`."""
    return canonical_json({"keys": [_key_json(key) for key in keys]})


def _key_json(key: TrustedKey) -> dict[str, Any]:
    value: dict[str, Any] = {
        "keyId": key.key_id,
        "tenantId": key.tenant_id,
        "algorithm": ALGORITHM,
        "publicKey": encode_base64(key.public_key),
        "state": _STATE + key.state.name,
        "validFrom": format_time(key.valid_from),
        "purpose": _PURPOSE + key.purpose.name,
    }
    if key.valid_until is not None:
        value["validUntil"] = format_time(key.valid_until)
    if key.revoked_at is not None:
        value["revokedAt"] = format_time(key.revoked_at)
    if key.revocation_reason:
        value["revocationReason"] = key.revocation_reason
    if key.trusted_log_size is not None:
        value["trustedLogSize"] = str(key.trusted_log_size)  # int64 is text in proto JSON
    if key.purpose is KeyPurpose.CHECKPOINT:
        value["vkey"] = checkpoint_verifier(key.origin, key.public_key).vkey()
    return value


def parse_keys(content: bytes) -> tuple[TrustedKey, ...]:
    """The inverse of `keys_json`, strictly.

    Raises:
        ValueError: naming the key at fault.
    """
    value = parse_canonical(content)
    listed = value.get("keys") if isinstance(value, Mapping) and len(value) == 1 else None
    if not isinstance(listed, list) or len(listed) > MAXIMUM_KEYS:
        raise ValueError("holds no list of keys")
    keys = []
    for position, entry in enumerate(listed):
        try:
            keys.append(_parse_key(entry))
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            UnsupportedAlgorithm,
        ) as error:
            raise ValueError(f"keys[{position}]: {error!r}") from error
    return tuple(keys)


def _parse_key(entry: Mapping[str, Any]) -> TrustedKey:
    if entry["algorithm"] != ALGORITHM:
        raise ValueError(f"algorithm is not {ALGORITHM}")
    size = entry.get("trustedLogSize")
    key = TrustedKey(
        key_id=entry["keyId"],
        tenant_id=entry["tenantId"],
        public_key=decode_base64(entry["publicKey"]),
        state=KeyState[entry["state"].removeprefix(_STATE)],
        valid_from=parse_time(entry["validFrom"]),
        valid_until=_moment(entry, "validUntil"),
        revoked_at=_moment(entry, "revokedAt"),
        revocation_reason=entry.get("revocationReason", ""),
        purpose=KeyPurpose[entry["purpose"].removeprefix(_PURPOSE)],
        trusted_log_size=None if size is None else int(size),
        origin=parse_vkey(entry["vkey"]).name if "vkey" in entry else "",
    )
    if key.key_id != key_id_of(key.public_key):
        raise ValueError(f"{key.key_id!r} is not the id of the key")
    # Whatever is not a member of a key, or is spelt otherwise, would be missing here.
    if _key_json(key) != entry:
        raise ValueError("has other members than those of a key")
    return key


def _moment(entry: Mapping[str, Any], name: str) -> datetime | None:
    return parse_time(entry[name]) if name in entry else None
