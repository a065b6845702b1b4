"""Who gets in and as whom: the server's own mutual TLS, and the same identities behind Envoy."""

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from oars_grpc.core.receipt import parse_statement
from oars_grpc.generated.oars.v1 import action_pb2, tenant_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.generated.oars.v1.tenant_pb2_grpc import TenantServiceStub
from oars_grpc.local.bundle import load_script
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for
from tests.support.identities import add_identity, issue
from tests.support.server import (
    Refusal,
    Server,
    environment,
    failed_start,
    read_refusal,
    running_server,
    wait_for,
)

HEADER = "x-forwarded-client-cert"
# RFC 9113 section 3.4: the fixed octets, then an empty SETTINGS frame.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
WAYS = ("direct", "envoy-grpc", "envoy-rest")
# What OARS says over gRPC and what the sidecar makes of it.
HTTP = {
    grpc.StatusCode.UNAUTHENTICATED: httpx.codes.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: httpx.codes.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: httpx.codes.NOT_FOUND,
}


@dataclass(frozen=True)
class Edge:
    """The same identities at both doors: the server's own TLS, and Envoy before another server."""

    direct: Server
    stack: LocalStack

    def submit(self, way: str, name: str, **changes: str) -> tuple[grpc.StatusCode, str]:
        """Code and reason of a submission with a certificate."""
        if way == "envoy-rest":
            body = action_body(agentId=changes.get("agent_id", "agent-1"))
            body |= {"userId": changes["user_id"]} if "user_id" in changes else {}
            body |= {"tenantId": changes["tenant_id"]} if "tenant_id" in changes else {}
            with self.stack.client(name) as rest:
                answer = rest.post("/v1/actions", json=body)
            if answer.is_success:
                return grpc.StatusCode.OK, ""
            refusal: dict[str, Any] = answer.json()
            code = next(code for code in grpc.StatusCode if code.value[0] == refusal["code"])
            assert answer.status_code == HTTP[code]
            return code, refusal["details"][0]["reason"]
        with self.channel(way, name) as channel:
            try:
                ActionServiceStub(channel).SubmitAction(submission(**changes), timeout=10)
            except grpc.RpcError as error:
                refused = read_refusal(error)
                return refused.code, refused.reason
        return grpc.StatusCode.OK, ""

    def channel(self, way: str, name: str) -> grpc.Channel:
        """A gRPC channel with a certificate."""
        if way == "direct":
            return self.direct.channel(self.stack.certificates, name)
        envoy = Server(self.direct.process, Path(), self.stack.grpc_target, "")
        return envoy.channel(self.stack.certificates, name)

    def port(self, way: str) -> int:
        """The port of a door."""
        address = self.direct.address if way == "direct" else self.stack.grpc_target
        return int(address.rpartition(":")[2])


def submission(
    agent_id: str = "agent-1", user_id: str = "", tenant_id: str = ""
) -> action_pb2.SubmitActionRequest:
    request = action_pb2.SubmitActionRequest(
        agent_id=agent_id, user_id=user_id, tenant_id=tenant_id
    )
    request.resource.tool_id, request.resource.operation = "desk", "create_ticket"
    request.context.environment = "staging"
    return request


@pytest.fixture(scope="module")
def edge(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    authority = load_script("certs-dev/generate.py").CertificateAuthority
    ours, now = authority.load(stack.certificates), datetime.now(UTC)
    agent = {"uri": "spiffe://oars.dev/agent"}
    odd = {
        "foreign": authority.create("Another CA").issue("agent", client=True, **agent),
        "expired": ours.issue(
            "agent",
            client=True,
            not_before=now - timedelta(days=2),
            not_after=now - timedelta(minutes=1),
            **agent,
        ),
        "early": ours.issue("agent", client=True, not_before=now + timedelta(hours=1), **agent),
        "server-only": ours.issue("agent", server=True, **agent),
        "another-agent": ours.issue("agent", client=True, **agent),
    }
    for name, issued in odd.items():
        (stack.certificates / f"{name}.pem").write_bytes(issued.pem)
        (stack.certificates / f"{name}.key").write_bytes(issued.key_pem)
    issue(stack, "stranger")
    add_identity(stack, "reader", role="agent", tenants=["tenant_alpha"], scopes=["actions:read"])
    add_identity(stack, "bound", role="agent", tenants=["tenant_alpha"], agentIds=["agent-9"])
    with running_server(
        tmp_path_factory.mktemp("tls"),
        stack.certificates,
        stack.postgres.url,
        key_encryption_key_file=str(stack._key_file()),
    ) as server:
        yield Edge(server, stack)


def alert(edge: Edge, way: str, name: str, *, verified: bool = True) -> str | None:
    """How the server refused a handshake; None if it answered HTTP/2, empty if it just closed."""
    certificates = edge.stack.certificates
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    if not verified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", edge.port(way)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            # In TLS 1.3 the client is done before the server has looked at its certificate.
            connection.settimeout(0.5)
            try:
                return None if connection.recv(64) else ""
            except TimeoutError:
                connection.settimeout(20)
            connection.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
            )
            return None if connection.recv(64) else ""
    except ssl.SSLError as error:
        return error.reason or ""
    except ConnectionError:
        return ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        ("foreign", "TLSV1_ALERT_UNKNOWN_CA"),
        ("expired", "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        ("early", "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        ("server-only", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"),
    ],
)
def test_the_handshake_refuses_what_is_not_a_valid_client_certificate(
    edge: Edge, name: str, expected: str
) -> None:
    assert alert(edge, "envoy", name) == expected
    assert alert(edge, "direct", name) in ("", expected)  # grpcio closes without an alert
    if name:
        for way in ("direct", "envoy-grpc"):
            assert edge.submit(way, name) == (grpc.StatusCode.UNAVAILABLE, "")
        with edge.stack.client(name) as rest, pytest.raises(httpx.TransportError):
            rest.get("/v1/actions")


@pytest.mark.parametrize("way", ["direct", "envoy"])
def test_the_handshake_lets_a_valid_certificate_pass_even_of_a_stranger(
    edge: Edge, way: str
) -> None:
    assert alert(edge, way, "agent") is None
    assert alert(edge, way, "stranger") is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "changes", "code", "reason"),
    [
        ("agent", {}, grpc.StatusCode.OK, ""),
        ("stranger", {}, grpc.StatusCode.UNAUTHENTICATED, "IDENTITY_NOT_TRUSTED"),
        ("sidecar", {}, grpc.StatusCode.UNAUTHENTICATED, "IDENTITY_NOT_TRUSTED"),
        ("another-agent", {}, grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_NOT_PINNED"),
        ("auditor", {}, grpc.StatusCode.PERMISSION_DENIED, "ROLE_FORBIDDEN"),
        (
            "agent",
            {"tenant_id": "tenant_beta"},
            grpc.StatusCode.PERMISSION_DENIED,
            "TENANT_FORBIDDEN",
        ),
        ("reader", {}, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_FORBIDDEN"),
        ("bound", {}, grpc.StatusCode.PERMISSION_DENIED, "AGENT_FORBIDDEN"),
        ("bound", {"agent_id": "agent-9"}, grpc.StatusCode.OK, ""),
        (
            "bound",
            {"agent_id": "agent-9", "user_id": "alice"},
            grpc.StatusCode.PERMISSION_DENIED,
            "USER_FORBIDDEN",
        ),
        ("agent", {"user_id": "alice"}, grpc.StatusCode.OK, ""),
    ],
)
def test_each_refusal_of_an_identity_says_which_one_it_is(
    edge: Edge, way: str, name: str, changes: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    assert edge.submit(way, name, **changes) == (code, reason)


def receipt_caller(response: action_pb2.SubmitActionResponse) -> dict[str, str]:
    predicate = parse_statement(response.receipts[0].envelope.payload)["predicate"]
    caller: dict[str, str] = predicate["caller"]
    return caller


def fingerprint_of(edge: Edge, name: str) -> str:
    pem = (edge.stack.certificates / f"{name}.pem").read_bytes()
    return load_pem_x509_certificate(pem).fingerprint(SHA256()).hex()


def forged(edge: Edge) -> str:
    """The header that would make its sender the administrator."""
    fingerprint = fingerprint_of(edge, "admin")
    return f'Hash={fingerprint};Subject="CN=admin";URI=spiffe://oars.dev/admin'


def test_envoy_discards_a_forged_header_and_the_receipt_shows_the_real_identity(
    edge: Edge,
) -> None:
    with edge.channel("envoy-grpc", "agent") as channel:
        response = ActionServiceStub(channel).SubmitAction(
            submission(), metadata=((HEADER, forged(edge)),), timeout=10
        )
        assert receipt_caller(response)["subject"] == "spiffe://oars.dev/agent"
        with pytest.raises(grpc.RpcError) as refused:
            TenantServiceStub(channel).RotateSigningKey(
                tenant_pb2.RotateSigningKeyRequest(tenant_id="tenant_alpha"),
                metadata=((HEADER, forged(edge)),),
                timeout=10,
            )
    assert read_refusal(refused.value).reason == "ROLE_FORBIDDEN"
    for value in (forged(edge), f"By=spiffe://oars.dev/x;{forged(edge)},{forged(edge)}", ""):
        with edge.stack.client("agent") as rest:
            answer = rest.post("/v1/actions", json=action_body(), headers={HEADER: value})
        assert answer.is_success, answer.text
        assert answer.json()["action"]["caller"]["subject"] == "spiffe://oars.dev/agent"


def test_a_server_with_its_own_tls_refuses_the_header_from_anybody(edge: Edge) -> None:
    for name in ("agent", "admin", "sidecar"):
        with edge.channel("direct", name) as channel, pytest.raises(grpc.RpcError) as refused:
            ActionServiceStub(channel).SubmitAction(
                submission(), metadata=((HEADER, forged(edge)),), timeout=10
            )
        refusal = read_refusal(refused.value)
        assert refusal.code == grpc.StatusCode.UNAUTHENTICATED
        assert refusal.reason == "FORWARDED_IDENTITY_REFUSED"


def test_over_tcp_only_the_certificate_of_the_sidecar_is_believed(
    edge: Edge, tmp_path: Path
) -> None:
    stack = edge.stack
    with running_server(
        tmp_path,
        stack.certificates,
        stack.postgres.url,
        mtls_mode="sidecar",
        sidecar_spiffe_id="spiffe://oars.dev/sidecar",
        key_encryption_key_file=str(stack._key_file()),
    ) as server:

        def call(name: str, *values: str) -> action_pb2.SubmitActionResponse | Refusal:
            with server.channel(stack.certificates, name) as channel:
                try:
                    return ActionServiceStub(channel).SubmitAction(
                        submission(),
                        metadata=tuple((HEADER, value) for value in values),
                        timeout=10,
                    )
                except grpc.RpcError as error:
                    return read_refusal(error)

        for name in ("agent", "admin", "stranger"):
            for headers in ((forged(edge),), ()):
                refused = call(name, *headers)
                assert isinstance(refused, Refusal)
                assert refused.code == grpc.StatusCode.UNAUTHENTICATED
                assert refused.reason == "FORWARDED_IDENTITY_REFUSED"
        believed = call("sidecar", forged(edge))
        assert isinstance(believed, action_pb2.SubmitActionResponse)
        assert receipt_caller(believed)["subject"] == "spiffe://oars.dev/admin"
        without = call("sidecar")
        assert isinstance(without, Refusal)
        assert without.reason == "NO_CLIENT_CERTIFICATE"
        for values in ((forged(edge), forged(edge)), (f"{forged(edge)},{forged(edge)}",)):
            twice = call("sidecar", *values)
            assert isinstance(twice, Refusal)
            assert twice.reason == "FORWARDED_IDENTITY_REFUSED"


def test_a_connection_does_not_outlive_its_certificate(edge: Edge) -> None:
    certificates = edge.stack.certificates
    authority = load_script("certs-dev/generate.py").CertificateAuthority.load(certificates)
    add_identity(edge.stack, "brief", role="agent", tenants=["tenant_alpha"])
    ends = datetime.now(UTC) + timedelta(seconds=3)
    issued = authority.issue("brief", uri="spiffe://oars.dev/brief", client=True, not_after=ends)
    (certificates / "brief.pem").write_bytes(issued.pem)
    (certificates / "brief.key").write_bytes(issued.key_pem)
    with edge.channel("direct", "brief") as channel:
        stub = ActionServiceStub(channel)
        stub.SubmitAction(submission(), timeout=10)
        time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 1)
        with pytest.raises(grpc.RpcError) as refused:
            stub.SubmitAction(submission(), timeout=10)
    assert read_refusal(refused.value).reason == "CERTIFICATE_EXPIRED"


def test_a_fingerprint_in_the_receipt_is_that_of_the_certificate(edge: Edge, agent: Client) -> None:
    expected = fingerprint_of(edge, "agent")
    with edge.channel("direct", "agent") as channel:
        direct = ActionServiceStub(channel).SubmitAction(submission(), timeout=10)
    behind = agent.actions.SubmitAction(submission(), timeout=10)
    for response in (direct, behind):
        assert receipt_caller(response)["fingerprintSha256"] == expected


def test_reflection_needs_an_identity_and_health_does_not(edge: Edge) -> None:
    def services(name: str) -> set[str]:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with edge.channel("direct", name) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=10)))
        return {service.name for service in answer.list_services_response.service}

    assert "oars.v1.ActionService" in services("auditor")
    with pytest.raises(grpc.RpcError) as refused:
        services("stranger")
    assert read_refusal(refused.value).reason == "IDENTITY_NOT_TRUSTED"
    with edge.channel("direct", "stranger") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("file", ["server.pem", "ca.pem"])
@pytest.mark.parametrize("damage", ["cut off", "not base64", "not DER"])
def test_every_certificate_of_a_file_is_checked_before_it_is_used(
    edge: Edge, tmp_path: Path, file: str, damage: str
) -> None:
    files = Path(shutil.copytree(edge.stack.certificates, tmp_path / "files"))
    good = (files / "ca.pem").read_bytes()
    bad = {
        "cut off": good[:200],
        "not base64": good.replace(b"MII", b"!!!", 1),
        "not DER": good.replace(b"MII", b"AAA", 1),
    }[damage]
    (files / file).write_bytes((files / file).read_bytes() + bad)
    settings = environment(
        tmp_path, files, database_url=edge.stack.postgres.url, metrics_listen="off"
    )
    code, output = failed_start(settings)
    assert code == 2
    assert output.startswith(f"oars: TLS files: {files / file}: ")
    assert len(output.splitlines()) == 1


def test_a_damaged_second_authority_keeps_the_old_file_and_an_expired_certificate_is_told(
    edge: Edge, tmp_path: Path
) -> None:
    files = Path(shutil.copytree(edge.stack.certificates, tmp_path / "files"))
    generator = load_script("certs-dev/generate.py")
    now = datetime.now(UTC)
    expired = generator.CertificateAuthority.load(files).issue(
        "server",
        dns=["localhost"],
        server=True,
        not_before=now - timedelta(days=2),
        not_after=now - timedelta(minutes=1),
    )
    (files / "server.pem").write_bytes(expired.pem)
    (files / "server.key").write_bytes(expired.key_pem)
    authorities = (files / "ca.pem").read_bytes()
    next_authority = generator.CertificateAuthority.create("The next CA").pem
    with running_server(
        tmp_path,
        files,
        edge.stack.postgres.url,
        key_encryption_key_file=str(edge.stack._key_file()),
    ) as server:

        def told(event: str) -> list[dict[str, Any]]:
            alert(Edge(server, edge.stack), "direct", "agent", verified=False)
            return [line for line in server.log() if line["event"].startswith(event)]

        (warning,) = told("a certificate has expired")
        assert (warning["level"], warning["file"]) == ("warning", str(files / "server.pem"))
        (files / "ca.pem").write_bytes(authorities + next_authority[:-40])
        wait_for(lambda: bool(told("certificates not reloaded")), "the damaged file is refused")
        assert told("certificates reloaded") == []
        (files / "ca.pem").write_bytes(authorities + next_authority)
        wait_for(lambda: len(told("certificates reloaded")) == 1, "the whole file is taken")


def test_agents_do_not_find_actions_of_another_tenant(
    edge: Edge, agent: Client, beta_admin: Client
) -> None:
    action_id = agent.actions.SubmitAction(submission(), timeout=10).action.action_id
    with pytest.raises(grpc.RpcError) as refused:
        beta_admin.actions.GetAction(action_pb2.GetActionRequest(action_id=action_id), timeout=10)
    assert read_refusal(refused.value).code == grpc.StatusCode.NOT_FOUND
    with client_for(edge.stack, "agent") as again:
        assert again.rest.get(f"/v1/actions/{action_id}").is_success
