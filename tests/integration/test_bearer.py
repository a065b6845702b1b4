"""People with bearer tokens on the real stack: through Envoy, over REST and gRPC."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.generated.oars.v1 import action_pb2, approval_pb2
from oars_grpc.local.stack import LocalStack
from oars_grpc.transport.access import ACCESS
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import RELOADED_SECONDS, add_identity
from tests.support.rpcs import RPCS, Rpc, grpc_refusal, rest_refusal
from tests.support.server import environment, failed_start, log_lines
from tests.support.tokens import ISSUER, OidcFiles, SigningKey, default_claims, issuer_entry

ALPHA, BETA = "tenant_alpha", "tenant_beta"
KEY = SigningKey.new("ES256")
PERSON = f"oidc:{ISSUER}#alice"
PORTAL = "spiffe://oars.dev/portal"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> OidcFiles:
    found = OidcFiles(tmp_path_factory.mktemp("oidc"), KEY)
    found.write(entry())
    return found


def entry(**changes: Any) -> dict[str, Any]:
    return issuer_entry(
        **{
            "tenantIds": [ALPHA, BETA],
            "tenantClaim": "tenants",
            "roles": ["approver", "auditor", "admin"],
            "roleMapping": {
                "oars-approvers": "approver",
                "oars-auditors": "auditor",
                "oars-admins": "admin",
            },
            "clockSkewSeconds": 0,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, files: OidcFiles) -> Iterator[LocalStack]:
    """A stack of its own, whose server knows an issuer, and the portal that carries tokens."""
    with LocalStack(
        tmp_path_factory.mktemp("stack"),
        tenants=(ALPHA, BETA),
        postgres_settings={"fsync": "off"},
        server_settings={"OARS_OIDC_FILE": str(files.path)},
    ) as started:
        # By itself it may do nothing: no scope.
        add_identity(started, "portal", role="auditor", tenants=[ALPHA, BETA], scopes=[])
        yield started


@pytest.fixture(scope="module")
def agent(stack: LocalStack) -> Iterator[Client]:
    with client_for(stack, "agent") as client:
        yield client


@pytest.fixture(scope="module")
def portal(stack: LocalStack) -> Iterator[Client]:
    with client_for(stack, "portal") as client:
        yield client


def bearer(**claims: Any) -> dict[str, str]:
    """The header of a person of tenant_alpha."""
    return {
        "authorization": f"Bearer {KEY.token(default_claims(**{'tenants': [ALPHA], **claims}))}"
    }


def pending(agent: Client, **changes: Any) -> dict[str, Any]:
    """A submission that waits for a person."""
    context = {"environment": "production", "dataTypes": ["none"]}
    body = action_body("transfer_funds", context=context, tenantId=ALPHA, **changes)
    answer = submit(agent, body)
    assert answer["action"]["state"] == "ACTION_STATE_APPROVAL_REQUIRED"
    return answer


def decide(
    client: Client, approval: Mapping[str, Any], headers: Mapping[str, str]
) -> httpx.Response:
    return client.rest.post(
        f"/v1/approvals/{approval['approvalId']}/decision",
        json={
            "verdict": "VERDICT_APPROVE",
            "actionDigest": approval["actionDigest"],
            "displayDigest": approval["displayDigest"],
        },
        headers=headers,
    )


def reason(answer: httpx.Response) -> str:
    return rest_refusal(answer).reason


def test_a_person_decides_through_rest_and_the_receipt_names_the_person(
    agent: Client, portal: Client
) -> None:
    approval = pending(agent)["approval"]
    seen = portal.rest.get(f"/v1/approvals/{approval['approvalId']}", headers=bearer())
    assert seen.status_code == httpx.codes.OK, seen.text
    decided = decide(portal, approval, bearer())
    assert decided.status_code == httpx.codes.OK, decided.text
    answer = decided.json()
    assert answer["approval"]["state"] == "APPROVAL_STATE_APPROVED"
    payload = envelope_from_json(answer["receipts"][0]["envelope"]).payload
    statement = json.dumps(parse_statement(payload))
    assert PERSON in statement
    assert "oars-approvers" not in statement


def test_a_person_decides_over_grpc(agent: Client, portal: Client) -> None:
    approval = pending(agent, input={"over": "grpc"})["approval"]
    decided = portal.approvals.DecideApproval(
        approval_pb2.DecideApprovalRequest(
            approval_id=approval["approvalId"],
            verdict=approval_pb2.VERDICT_REJECT,
            action_digest=approval["actionDigest"],
            display_digest=approval["displayDigest"],
        ),
        metadata=tuple(bearer().items()),
        timeout=10,
    )
    assert decided.approval.state == approval_pb2.APPROVAL_STATE_REJECTED


def test_the_portal_by_itself_decides_nothing_and_a_person_only_once(
    agent: Client, portal: Client
) -> None:
    approval = pending(agent, input={"by": "itself"})["approval"]
    assert reason(decide(portal, approval, {})) == "ROLE_FORBIDDEN"
    assert reason(portal.rest.get("/v1/actions")) == "SCOPE_FORBIDDEN"
    assert decide(portal, approval, bearer()).status_code == httpx.codes.OK
    assert reason(decide(portal, approval, bearer())) == "APPROVAL_NOT_PENDING"


def test_a_persons_idempotency_keys_are_the_persons_own(agent: Client, portal: Client) -> None:
    approval = pending(agent, input={"key": "own"})["approval"]
    key = {"idempotency-key": "decide-once"}
    first = decide(portal, approval, bearer() | key)
    assert first.status_code == httpx.codes.OK, first.text
    again = decide(portal, approval, bearer() | key)
    assert again.content == first.content
    assert again.headers["x-idempotent-replay"] == "true"
    # Another person under the same key and portal is not given the first one's answer.
    assert reason(decide(portal, approval, bearer(sub="bob") | key)) == "APPROVAL_NOT_PENDING"


@pytest.mark.parametrize("user_id", ["alice", "user:alice", "USER:Alice", "alice@example.com"])
def test_a_person_does_not_approve_what_was_asked_in_the_persons_name(
    stack: LocalStack, portal: Client, user_id: str
) -> None:
    name = f"for-users-{abs(hash(user_id)) % 1000}"
    add_identity(stack, name, role="agent", tenants=[ALPHA], mayActForUsers=True)
    with client_for(stack, name) as acting:
        approval = pending(acting, userId=user_id)["approval"]
    person = bearer(email="alice@example.com")
    assert reason(decide(portal, approval, person)) == "SELF_APPROVAL"
    assert decide(portal, approval, bearer(sub="bob")).status_code == httpx.codes.OK


@pytest.mark.parametrize("name", sorted(RPCS))
def test_a_token_is_taken_where_the_table_says_so_and_refused_everywhere_else(
    portal: Client, name: str
) -> None:
    """An honest token of an administrator: only the table stands between it and the rpc."""
    found = outcome(portal, RPCS[name], bearer(roles=["oars-admins"]))
    if ACCESS[RPCS[name].path].people:
        assert found in ("", "INVALID_ARGUMENT", "NOT_FOUND", "ROLE_FORBIDDEN"), found
    else:
        assert found == "BEARER_NOT_ACCEPTED"


def outcome(client: Client, rpc: Rpc, headers: Mapping[str, str]) -> str:
    """The reason why an empty request is refused."""
    metadata = tuple(headers.items())
    try:
        if rpc.descriptor.server_streaming:
            # A watch of approvals would go on; its first event says enough.
            stream: Any = client.channel.unary_stream(rpc.path, bytes, bytes)(b"", 3, metadata)
            next(iter(stream), None)
            stream.cancel()
        else:
            client.channel.unary_unary(rpc.path, bytes, bytes)(b"", 20, metadata)
    except grpc.RpcError as error:
        return grpc_refusal(error).reason
    return ""


def test_a_token_submits_nothing_whoever_carries_it(agent: Client, portal: Client) -> None:
    body = action_body(tenantId=ALPHA)
    for client in (agent, portal):
        for token in (bearer(), bearer(roles=["oars-admins"]), {"authorization": "Basic YTpi"}):
            answer = client.rest.post("/v1/actions", json=body, headers=token)
            assert answer.status_code == httpx.codes.UNAUTHORIZED
            assert reason(answer) == "BEARER_NOT_ACCEPTED"


def test_an_agent_does_not_carry_a_persons_token(agent: Client) -> None:
    approval = pending(agent, input={"stolen": "token"})["approval"]
    assert reason(decide(agent, approval, bearer())) == "CARRIER_NOT_TRUSTED"


def test_tokens_that_are_not_good_are_refused_through_the_sidecar(portal: Client) -> None:
    now = int(time.time())
    stranger = SigningKey.new("ES256")
    good = bearer()["authorization"]
    wrong = {
        "TOKEN_EXPIRED": bearer(exp=now - 1),
        "ISSUER_NOT_TRUSTED": bearer(iss=ISSUER + "/"),
        "TOKEN_REFUSED": {"authorization": f"Bearer {stranger.token(default_claims())}"},
        "ROLE_FORBIDDEN": bearer(roles=["others"]),
        "TENANT_FORBIDDEN": bearer(tenants=["tenant_gamma"]),
    }
    for expected, headers in wrong.items():
        assert reason(portal.rest.get("/v1/approvals", headers=headers)) == expected
    for malformed in (
        good.replace("Bearer ", "Bearer"),
        good.replace("Bearer ", "Bearer  "),
        good.replace("Bearer ", "Token "),
        good + ", " + good,
        "Bearer",
        good + "." + "A" * 9000,
    ):
        answer = portal.rest.get("/v1/approvals", headers={"authorization": malformed})
        assert reason(answer) == "TOKEN_MALFORMED", malformed
    twice = [("authorization", good), ("authorization", good)]
    assert reason(portal.rest.get("/v1/approvals", headers=twice)) == "TOKEN_MALFORMED"
    lower = {"authorization": good.replace("Bearer", "bEARER")}
    assert portal.rest.get("/v1/approvals", headers=lower).status_code == httpx.codes.OK


def test_a_token_of_one_tenant_does_not_see_another(
    stack: LocalStack, agent: Client, portal: Client
) -> None:
    approval = pending(agent, input={"of": "alpha"})["approval"]
    path = f"/v1/approvals/{approval['approvalId']}"
    alpha, beta, both = bearer(), bearer(tenants=[BETA]), bearer(tenants=[ALPHA, BETA])
    assert portal.rest.get(path, headers=alpha).status_code == httpx.codes.OK
    assert portal.rest.get(path, headers=both).status_code == httpx.codes.OK
    assert portal.rest.get(path, headers=beta).status_code == httpx.codes.NOT_FOUND
    assert decide(portal, approval, beta).status_code == httpx.codes.NOT_FOUND
    for parameters in ({"tenantId": BETA}, {"tenant_id": BETA}):
        refused = portal.rest.get("/v1/approvals", params=parameters, headers=alpha)
        assert reason(refused) == "TENANT_FORBIDDEN"
    # Nor does a carrier of one tenant lend its door to the people of another.
    add_identity(stack, "alpha-portal", role="auditor", tenants=[ALPHA], scopes=[])
    with client_for(stack, "alpha-portal") as narrow:
        assert reason(narrow.rest.get("/v1/actions", headers=beta)) == "TENANT_FORBIDDEN"
        listed = narrow.rest.get("/v1/actions", params={"tenantId": BETA}, headers=both)
        assert reason(listed) == "TENANT_FORBIDDEN"


def test_a_watch_ends_by_its_final_event_before_the_token_does(
    agent: Client, portal: Client
) -> None:
    action = pending(agent, input={"watched": True})["action"]
    ends = int(time.time()) + 4
    events = list(
        portal.actions.WatchAction(
            action_pb2.WatchActionRequest(action_id=action["actionId"]),
            metadata=tuple(bearer(exp=ends).items()),
            timeout=60,
        )
    )
    assert time.time() < ends + 2
    assert events[-1].final
    assert events[-1].action.state == action_pb2.ACTION_STATE_APPROVAL_REQUIRED


def test_a_watch_ends_when_the_issuer_is_taken_out_of_the_file(
    agent: Client, portal: Client, files: OidcFiles
) -> None:
    action = pending(agent, input={"watched": "again"})["action"]
    stream = portal.actions.WatchAction(
        action_pb2.WatchActionRequest(action_id=action["actionId"]),
        metadata=tuple(bearer().items()),
        timeout=60,
    )
    next(iter(stream))
    files.path.write_text("[]")
    try:
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert grpc_refusal(ended.value).reason == "ISSUER_NOT_TRUSTED"
    finally:
        files.write(entry())
        time.sleep(RELOADED_SECONDS)
    assert portal.rest.get("/v1/approvals", headers=bearer()).status_code == httpx.codes.OK


def test_keys_that_are_rotated_count_at_once_and_a_broken_file_keeps_the_old(
    portal: Client, files: OidcFiles
) -> None:
    fresh = SigningKey.new("ES256", "k2")
    token = fresh.token(default_claims(tenants=[ALPHA]))
    headers = {"authorization": f"Bearer {token}"}
    assert reason(portal.rest.get("/v1/approvals", headers=headers)) == "TOKEN_REFUSED"
    try:
        files.write_keys(fresh)
        time.sleep(RELOADED_SECONDS)
        assert portal.rest.get("/v1/approvals", headers=headers).status_code == httpx.codes.OK
        assert reason(portal.rest.get("/v1/approvals", headers=bearer())) == "TOKEN_REFUSED"
        (files.directory / "jwks.json").write_text('{"keys": [')
        time.sleep(RELOADED_SECONDS)
        assert portal.rest.get("/v1/approvals", headers=headers).status_code == httpx.codes.OK
    finally:
        files.write_keys(KEY)
        time.sleep(RELOADED_SECONDS)
    assert portal.rest.get("/v1/approvals", headers=bearer()).status_code == httpx.codes.OK


def test_the_logs_name_the_person_and_the_carrier_and_no_token(
    stack: LocalStack, portal: Client
) -> None:
    headers = bearer() | {"x-request-id": "bearer-log-1"}
    assert portal.rest.get("/v1/approvals", headers=headers).status_code == httpx.codes.OK
    bad = bearer(aud="other")
    assert reason(portal.rest.get("/v1/approvals", headers=bad)) == "TOKEN_REFUSED"
    state = stack.certificates.parent
    (line,) = (
        line for line in log_lines(state / "server.log") if line.get("request_id") == "bearer-log-1"
    )
    assert (line["caller"], line["carried_by"]) == (PERSON, PORTAL)
    refused = [
        line for line in log_lines(state / "server.log") if line["event"] == "bearer refused"
    ]
    assert (refused[-1]["carrier"], refused[-1]["reason"]) == (PORTAL, "TOKEN_REFUSED")
    access_log = state / "envoy" / "access.log"
    ends = time.monotonic() + 15  # Envoy writes in batches
    while "bearer-log-1" not in access_log.read_text():
        assert time.monotonic() < ends
        time.sleep(0.1)
    for sent in (headers, bad):
        for part in sent["authorization"].removeprefix("Bearer ").split("."):
            for path in (state / "server.log", access_log):
                assert part not in path.read_text(errors="replace")


def test_without_an_oidc_file_every_token_is_refused(stack: LocalStack, tmp_path: Path) -> None:
    from tests.support.server import forwarded, read_refusal, running_server

    assert forwarded(stack.certificates, "portal")
    with running_server(
        tmp_path,
        stack.certificates,
        stack.postgres.url,
        key_encryption_key_file=str(stack._key_file()),
    ) as server:
        with server.channel(stack.certificates, "portal") as channel:
            list_approvals = channel.unary_unary(RPCS["ListApprovals"].path, bytes, bytes)
            with pytest.raises(grpc.RpcError) as refused:
                list_approvals(b"", timeout=20, metadata=tuple(bearer().items()))
        assert read_refusal(refused.value).reason == "BEARER_NOT_ACCEPTED"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "must be a JSON list"),
        (json.dumps([entry(roles=["agent"])]), "issuer 0: roles takes admin, "),
        (json.dumps([entry(jwksFile="missing.json")]), "issuer 0: "),
        (json.dumps([entry(jwksFile=None, jwksUrl="http://localhost/x")]), "issuer 0: jwksUrl"),
    ],
)
def test_a_server_does_not_start_on_a_broken_file(
    stack: LocalStack, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "oidc.json"
    path.write_text(text)
    settings = environment(
        tmp_path,
        stack.certificates,
        database_url=stack.postgres.url,
        metrics_listen="off",
        oidc_file=str(path),
        key_encryption_key_file=str(stack._key_file()),
    )
    code, output = failed_start(settings)
    assert code == 2
    assert output.startswith(f"oars: {path}: {said}"), output
