"""JSON Web Key Sets (RFC 7517): the public keys of an issuer, and what each may verify.

A key verifies what its own type, `use`, `key_ops` and `alg` permit, whatever a token's header says
(RFC 8725 section 3.1): an RSA key is never an HMAC secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from oars_grpc.errors import ConfigurationError
from oars_grpc.transport.strict_json import strict_json

# Type and curve of a key: the algorithms that it can verify (RFC 7518 section 3.1, RFC 8037).
_ALGORITHMS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS = tuple(name for names in _ALGORITHMS.values() for name in names)
# RFC 7518 section 3.3 asks for 2048 bits; far larger keys only take time.
_RSA_BITS = range(2048, 8193)
_MAXIMUM_EXPONENT = 2**32
_SECRET = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MAXIMUM_KEYS = 100
MAXIMUM_KEY_ID = 256


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, bound to each algorithm that it may verify."""

    key_id: str | None
    bound: Mapping[str, PyJWK]


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of an issuer."""

    keys: tuple[VerificationKey, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key_id: str | None) -> VerificationKey | None:
        """The key of an id; a token without one means the only key that there is."""
        if key_id is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.key_id == key_id), None)


def parse_key_set(text: str) -> KeySet:
    """The keys of a set that can verify signatures; those for other uses are passed over.

    Raises:
        ConfigurationError: malformed, a key is weak or not public, an id stands for two keys, or
            no key is left.
    """
    try:
        document = strict_json(text)
    except ValueError as error:
        raise ConfigurationError(f"not JSON: {error}") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAXIMUM_KEYS:
        raise ConfigurationError(f"must be a JSON Web Key Set of at most {_MAXIMUM_KEYS} keys")
    found: list[VerificationKey] = []
    for position, entry in enumerate(entries):
        try:
            key = _key(entry)
        except (ValueError, PyJWTError) as error:
            raise ConfigurationError(f"key {position}: {error}") from error
        if key is None:
            continue
        if any(key.key_id == other.key_id for other in found):
            raise ConfigurationError(f"key {position}: another key has the same kid")
        found.append(key)
    if not found:
        raise ConfigurationError("has no key that verifies signatures")
    return KeySet(tuple(found))


def _key(entry: Any) -> VerificationKey | None:
    """The key of an entry; None if it is not for verifying signatures by what is known here."""
    if not isinstance(entry, dict):
        raise ValueError("must be an object")
    if _SECRET & set(entry):
        raise ValueError("is a private or secret key, which must never be in a key set")
    key_id = entry.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and 0 < len(key_id) <= MAXIMUM_KEY_ID):
        raise ValueError(f"kid must be text of at most {MAXIMUM_KEY_ID} characters")
    kind, curve = entry.get("kty"), entry.get("crv", "")
    if not isinstance(kind, str) or not isinstance(curve, str):
        raise ValueError("kty and crv must be text")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list):
        raise ValueError("key_ops must be a list")
    if entry.get("use", "sig") != "sig" or "verify" not in operations:
        return None
    algorithms = _ALGORITHMS.get((kind, curve), ())
    if "alg" in entry:
        algorithms = tuple(name for name in algorithms if name == entry["alg"])
    if not algorithms:
        return None
    bound = {name: PyJWK(entry, name) for name in algorithms}
    for key in bound.values():
        _check_strength(key.key)
    return VerificationKey(key_id, bound)


def _check_strength(key: object) -> None:
    if not isinstance(key, RSAPublicKey):
        return
    if key.key_size not in _RSA_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits; {_RSA_BITS.start} are the least")
    if key.public_numbers().e > _MAXIMUM_EXPONENT:
        raise ValueError("an RSA key with an exponent that only takes time")
