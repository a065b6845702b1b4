"""An identity provider: keys, key sets, and tokens, honest ones and others."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

ISSUER = "https://idp.example.com"
AUDIENCE = "oars"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def segment(value: Any) -> str:
    """A part of a token: JSON of a value, or the bytes as they are."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64url(content)


def signed(header: Any, claims: Any, key: Any, algorithm: str) -> str:
    """A token with this header, whatever it says, signed by this algorithm."""
    signing_input = f"{segment(header)}.{segment(claims)}"
    signer = get_default_algorithms()[algorithm]
    signature = signer.sign(signing_input.encode(), signer.prepare_key(key))
    return f"{signing_input}.{base64url(signature)}"


@dataclass(frozen=True)
class SigningKey:
    """A private key of an identity provider."""

    kid: str
    algorithm: str
    private: PrivateKey

    @classmethod
    def new(cls, algorithm: str = "ES256", kid: str = "k1") -> "SigningKey":
        """A key of the kind that an algorithm takes."""
        match algorithm:
            case "EdDSA":
                return cls(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
            case "ES256":
                return cls(kid, algorithm, ec.generate_private_key(ec.SECP256R1()))
            case "ES384":
                return cls(kid, algorithm, ec.generate_private_key(ec.SECP384R1()))
            case _:
                return cls(kid, algorithm, rsa.generate_private_key(65537, 2048))

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key as an entry of a set; a change to None leaves a member out."""
        public = get_default_algorithms()[self.algorithm].to_jwk(
            self.private.public_key(), as_dict=True
        )
        public.pop("key_ops", None)
        entry = {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm, **changes}
        return {name: value for name, value in entry.items() if value is not None}

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def token(
        self,
        claims: Mapping[str, Any] | bytes | None = None,
        *,
        algorithm: str | None = None,
        **header: Any,
    ) -> str:
        """A token of this key; a header changed to None is left out."""
        used = algorithm or self.algorithm
        head = {"typ": "JWT", "alg": used, "kid": self.kid, **header}
        head = {name: value for name, value in head.items() if value is not None}
        return signed(head, default_claims() if claims is None else claims, self.private, used)


def default_claims(**changes: Any) -> dict[str, Any]:
    """The claims of an approver, from now for five minutes; None leaves one out."""
    now = int(datetime.now(UTC).timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now,
        "exp": now + 300,
        "roles": ["oars-approvers"],
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def key_set(*keys: SigningKey) -> str:
    """The public keys as a set."""
    return json.dumps({"keys": [key.jwk() for key in keys]})


@dataclass(frozen=True)
class OidcFiles:
    """An OIDC file and the key file of its issuer, in a directory."""

    directory: Path
    key: SigningKey = field(default_factory=SigningKey.new)

    @property
    def path(self) -> Path:
        return self.directory / "oidc.json"

    def write(self, *entries: Mapping[str, Any]) -> Path:
        """The file with these entries; with one of an honest provider where none is given."""
        self.write_keys(self.key)
        replace(self.path, json.dumps(list(entries) or [issuer_entry()]))
        return self.path

    def write_keys(self, *keys: SigningKey, name: str = "jwks.json") -> None:
        replace(self.directory / name, key_set(*keys))


def issuer_entry(**changes: Any) -> dict[str, Any]:
    """An entry of the OIDC file; a change to None leaves a member out."""
    entry = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "jwksFile": "jwks.json",
        "roleMapping": {"oars-approvers": "approver", "oars-auditors": "auditor"},
        "tenantIds": ["acme"],
        **changes,
    }
    return {name: value for name, value in entry.items() if value is not None}


def replace(path: Path, text: str) -> None:
    """As an operator does: whole, by a rename."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
