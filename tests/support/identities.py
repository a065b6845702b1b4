"""Gives the running stack further identities: certificates of its CA, entries in its file."""

import json
import time
from collections.abc import Sequence
from typing import Any

from oars_grpc.local.bundle import load_script
from oars_grpc.local.stack import LocalStack

# The server looks at the file at most once a second.
RELOADED_SECONDS = 1.2


def issue(stack: LocalStack, name: str, **options: Any) -> Any:
    """A client certificate of the stack's CA, written beside the others; not yet trusted."""
    authority = load_script("certs-dev/generate.py").CertificateAuthority.load(stack.certificates)
    issued = authority.issue(name, uri=f"spiffe://oars.dev/{name}", client=True, **options)
    (stack.certificates / f"{name}.pem").write_bytes(issued.pem)
    (stack.certificates / f"{name}.key").write_bytes(issued.key_pem)
    return issued


def add_identity(
    stack: LocalStack, name: str, *, role: str, tenants: Sequence[str], **entry: Any
) -> None:
    """Issue a certificate and trust it; returns when the server has read the file again."""
    issue(stack, name)
    path = stack.certificates / "trusted-identities.json"
    entries = json.loads(path.read_text())
    entries.append(
        {"spiffeId": f"spiffe://oars.dev/{name}", "role": role, "tenantIds": list(tenants)} | entry
    )
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(entries))
    unfinished.replace(path)
    time.sleep(RELOADED_SECONDS)
