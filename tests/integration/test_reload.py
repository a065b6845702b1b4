"""Files that change under a running server: trusted identities, certificates, authorities."""

import json
import shutil
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from oars_grpc.generated.oars.v1 import action_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.local.bundle import load_script
from oars_grpc.local.stack import LocalStack
from tests.support.server import (
    Server,
    environment,
    failed_start,
    read_refusal,
    running_server,
    wait_for,
)

generator = load_script("certs-dev/generate.py")
# The file is looked at once a second; the rest is a busy machine.
RELOADED_IN_SECONDS = 10.0


@dataclass(frozen=True)
class Reloading:
    """A server with files of its own."""

    server: Server
    files: Path
    clients: Path  # what clients use; stays while the server's files change

    def list_actions(self, name: str) -> str:
        """The reason why a listing is refused; empty if it is not."""
        with self.server.channel(self.clients, name) as channel:
            try:
                ActionServiceStub(channel).ListActions(action_pb2.ListActionsRequest(), timeout=10)
            except grpc.RpcError as error:
                refusal = read_refusal(error)
                return refusal.reason or refusal.code.name
        return ""

    def write_identities(self, text: str) -> None:
        replace(self.files / "trusted-identities.json", text.encode())

    def identities(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            (self.files / "trusted-identities.json").read_text()
        )
        return found

    def reloads(self, outcome: str) -> float:
        """How often the server says that it reloaded the identities."""
        start = f'oars_identity_reloads_total{{outcome="{outcome}"}} '
        lines = [line for line in self.server.metrics().splitlines() if line.startswith(start)]
        return float(lines[0].removeprefix(start)) if lines else 0.0

    def errors(self, event: str) -> list[dict[str, Any]]:
        return [
            line
            for line in self.server.log()
            if line["level"] == "error" and line["event"].startswith(event)
        ]

    def served_certificate(self, ca: Path) -> bytes:
        """The certificate, DER, that a new connection gets; raises where `ca` is not its CA."""
        context = ssl.create_default_context(cafile=str(ca))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(self.clients / "agent.pem", self.clients / "agent.key")
        port = int(self.server.address.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.getpeercert(binary_form=True) or b""


def replace(path: Path, content: bytes) -> None:
    """As an operator does: whole, by a rename."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


@pytest.fixture
def reloading(stack: LocalStack, tmp_path: Path) -> Iterator[Reloading]:
    files = generator.generate(tmp_path / "files")
    clients = Path(shutil.copytree(files, tmp_path / "clients"))
    key_file = str(stack._key_file())
    with running_server(
        tmp_path / "server", files, stack.postgres.url, key_encryption_key_file=key_file
    ) as server:
        yield Reloading(server, files, clients)


def issue_server(authority: Any) -> Any:
    return authority.issue("server", dns=["localhost"], ips=["127.0.0.1"], server=True)


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_identities_come_and_go_without_a_restart(reloading: Reloading) -> None:
    authority = generator.CertificateAuthority.load(reloading.files)
    newcomer = authority.issue("newcomer", uri="spiffe://oars.dev/newcomer", client=True)
    (reloading.clients / "newcomer.pem").write_bytes(newcomer.pem)
    (reloading.clients / "newcomer.key").write_bytes(newcomer.key_pem)
    assert reloading.list_actions("newcomer") == "IDENTITY_NOT_TRUSTED"
    assert reloading.list_actions("agent") == ""
    entries = [e for e in reloading.identities() if e["spiffeId"] != "spiffe://oars.dev/agent"]
    entries.append(
        {"spiffeId": "spiffe://oars.dev/newcomer", "role": "agent", "tenantIds": ["tenant_alpha"]}
    )
    reloading.write_identities(json.dumps(entries))
    wait_for(
        lambda: reloading.list_actions("newcomer") == "",
        "the new identity is accepted",
        RELOADED_IN_SECONDS,
    )
    assert reloading.list_actions("agent") == "IDENTITY_NOT_TRUSTED"
    assert reloading.reloads("ok") == 1
    assert reloading.reloads("refused") == 0


def test_a_change_of_role_counts_on_connections_that_are_open(reloading: Reloading) -> None:
    with reloading.server.channel(reloading.clients, "agent") as channel:
        stub = ActionServiceStub(channel)
        stub.ListActions(action_pb2.ListActionsRequest(), timeout=10)
        entries = reloading.identities()
        for entry in entries:
            if entry["spiffeId"] == "spiffe://oars.dev/agent":
                entry["scopes"] = []
        reloading.write_identities(json.dumps(entries))

        def forbidden() -> bool:
            try:
                stub.ListActions(action_pb2.ListActionsRequest(), timeout=10)
            except grpc.RpcError as error:
                return read_refusal(error).reason == "SCOPE_FORBIDDEN"
            return False

        wait_for(forbidden, "the open connection loses its scopes", RELOADED_IN_SECONDS)


def test_a_broken_change_keeps_the_old_identities_and_says_so(reloading: Reloading) -> None:
    entries = reloading.identities()
    broken = [*entries[:-1], entries[-1] | {"rolle": "agent"}]
    refused = 0
    for text in (json.dumps(broken), json.dumps(entries)[:-1], "[]]", "\x00"):
        reloading.write_identities(text)
        refused += 1

        def noticed(expected: int = refused) -> bool:
            assert reloading.list_actions("agent") == ""
            return reloading.reloads("refused") == expected

        wait_for(noticed, "the broken file is refused", RELOADED_IN_SECONDS)
    errors = reloading.errors("trusted identities not reloaded")
    assert len(errors) == refused
    assert "entry 5: unknown field rolle" in errors[0]["error"]
    (reloading.files / "trusted-identities.json").unlink()
    wait_for(
        lambda: reloading.list_actions("agent") == "" and reloading.reloads("refused") > refused,
        "the missing file is refused",
        RELOADED_IN_SECONDS,
    )
    reloading.write_identities(json.dumps(entries[:-1]))
    wait_for(
        lambda: reloading.list_actions("agent") == "" and reloading.reloads("ok") == 1,
        "the repaired file is read",
        RELOADED_IN_SECONDS,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"role": "root"}, "entry 2: role must be one of "),
        ({"tenantIds": ["*"]}, "entry 2: tenantIds: '*' is no tenant id"),
        ({"unknown": 1}, "entry 2: unknown field unknown"),
        ({"spiffeId": "spiffe://oars.dev/admin"}, "entry 2: spiffe://oars.dev/admin is listed"),
    ],
)
def test_a_server_does_not_start_on_a_broken_file_and_names_the_entry(
    stack: LocalStack, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    files = generator.generate(tmp_path / "files")
    path = files / "trusted-identities.json"
    entries = json.loads(path.read_text())
    entries[2] |= change
    path.write_text(json.dumps(entries))
    settings = environment(tmp_path, files, database_url=stack.postgres.url, metrics_listen="off")
    code, output = failed_start(settings)
    assert code == 2
    assert output.startswith(f"oars: {path}: {said}")
    assert len(output.splitlines()) == 1


def test_new_connections_get_the_new_certificate(reloading: Reloading) -> None:
    ca = reloading.clients / "ca.pem"
    authority = generator.CertificateAuthority.load(reloading.files)
    before = reloading.served_certificate(ca)
    with reloading.server.channel(reloading.clients, "agent") as channel:
        stub = ActionServiceStub(channel)
        stub.ListActions(action_pb2.ListActionsRequest(), timeout=10)
        renewed = issue_server(authority)
        replace(reloading.files / "server.key", renewed.key_pem)
        # Between the two renames key and certificate do not match: the old pair stays.
        assert reloading.served_certificate(ca) == before
        replace(reloading.files / "server.pem", renewed.pem)
        assert reloading.served_certificate(ca) == der(renewed.pem)
        stub.ListActions(action_pb2.ListActionsRequest(), timeout=10)
    assert reloading.list_actions("agent") == ""
    assert "is not the key of" in reloading.errors("certificates not reloaded")[0]["error"]
    assert [line["event"] for line in reloading.server.log()].count("certificates reloaded") == 1


@pytest.mark.parametrize("damage", [b"", b"not PEM", None])
def test_a_damaged_or_missing_certificate_keeps_the_old_one(
    reloading: Reloading, damage: bytes | None
) -> None:
    ca = reloading.clients / "ca.pem"
    before = reloading.served_certificate(ca)
    for name in ("server.pem", "server.key", "ca.pem"):
        good = (reloading.files / name).read_bytes()
        if damage is None:
            (reloading.files / name).unlink()
        else:
            replace(reloading.files / name, damage)
        assert reloading.served_certificate(ca) == before
        assert reloading.list_actions("agent") == ""
        replace(reloading.files / name, good)
    assert len(reloading.errors("certificates not reloaded")) >= 3


def test_a_new_authority_replaces_the_old_one(reloading: Reloading) -> None:
    """Clients of the old authority are refused from then on, those of the new one get in."""
    authority = generator.CertificateAuthority.create("The next CA")
    _issue_client(reloading, authority, "agent-of-next")
    _trust(reloading, ["agent-of-next"])
    assert reloading.list_actions("agent-of-next") == "UNAVAILABLE"  # the handshake
    renewed = issue_server(authority)
    # Both authorities while clients move over.
    old = (reloading.files / "ca.pem").read_bytes()
    replace(reloading.files / "ca.pem", old + authority.pem)
    wait_for(
        lambda: reloading.list_actions("agent-of-next") == "",
        "the new authority is trusted beside the old",
        RELOADED_IN_SECONDS,
    )
    assert reloading.list_actions("agent") == ""
    replace(reloading.files / "ca.pem", authority.pem)
    assert reloading.list_actions("agent") == "UNAVAILABLE"
    assert reloading.list_actions("agent-of-next") == ""
    replace(reloading.files / "server.key", renewed.key_pem)
    replace(reloading.files / "server.pem", renewed.pem)
    replace(reloading.clients / "ca.pem", authority.pem)
    assert reloading.list_actions("agent-of-next") == ""


def _issue_client(reloading: Reloading, authority: Any, name: str) -> None:
    issued = authority.issue(name, uri=f"spiffe://oars.dev/{name}", client=True)
    (reloading.clients / f"{name}.pem").write_bytes(issued.pem)
    (reloading.clients / f"{name}.key").write_bytes(issued.key_pem)


def _trust(reloading: Reloading, names: Sequence[str]) -> None:
    entries = reloading.identities()
    for name in names:
        entry = {"spiffeId": f"spiffe://oars.dev/{name}", "role": "agent"}
        entries.append(entry | {"tenantIds": ["tenant_alpha"]})
    reloading.write_identities(json.dumps(entries))
