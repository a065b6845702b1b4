"""Reads `x-forwarded-client-cert`, which the sidecar writes after it verified the certificate.

    Hash=<sha256 hex>;Subject="CN=agent,O=Example";URI=spiffe://oars.dev/agent;DNS=…

Elements of several proxies are separated by commas. The sidecar replaces whatever a client sent by
exactly one element, so more than one means that it did not.
"""

import re
from dataclasses import dataclass

from oars_grpc.errors import Unauthenticated

HEADER = "x-forwarded-client-cert"
MAXIMUM_BYTES = 8192

_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,"]*)')
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What OARS needs to know of a verified client certificate."""

    fingerprint_sha256: str
    subject: str
    spiffe_id: str


def parse_forwarded(values: list[str]) -> PeerCertificate:
    """The certificate that the sidecar vouches for.

    Raises:
        Unauthenticated: no element, more than one, or one that the sidecar would not write.
    """
    if not values:
        raise Unauthenticated(
            "the sidecar forwarded no client certificate", reason="NO_CLIENT_CERTIFICATE"
        )
    if len(values) != 1 or len(values[0]) > MAXIMUM_BYTES:
        raise _refused()
    fields: dict[str, list[str]] = {}
    text, position = values[0], 0
    while True:
        pair = _PAIR.match(text, position)
        if pair is None:
            raise _refused()
        name, value = pair.group(1).lower(), pair.group(2)
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        fields.setdefault(name, []).append(value)
        position = pair.end()
        if position == len(text):
            break
        if text[position] != ";":  # a comma would begin a second element
            raise _refused()
        position += 1
    fingerprint = _single(fields, "hash").lower()
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise _refused()
    uris = [uri for uri in fields.get("uri", []) if uri.startswith("spiffe://")]
    if len(uris) > 1:  # X.509-SVID section 2: exactly one URI names the workload
        raise _refused()
    subject = _single(fields, "subject") if "subject" in fields else ""
    return PeerCertificate(fingerprint, subject, uris[0] if uris else "")


def _single(fields: dict[str, list[str]], name: str) -> str:
    values = fields.get(name, [])
    if len(values) != 1:
        raise _refused()
    return values[0]


def _refused() -> Unauthenticated:
    return Unauthenticated(
        f"{HEADER} is not what the sidecar writes", reason="FORWARDED_IDENTITY_REFUSED"
    )
