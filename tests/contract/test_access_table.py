"""Who may call what: the table is complete, and the live server keeps to it."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import grpc
import pytest

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import PermissionDenied
from oars_grpc.local.stack import LocalStack
from oars_grpc.transport.access import ACCESS, check_access
from oars_grpc.transport.server import OarsServer, ServerLimits, UseCases
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.rpcs import RPCS, Rpc, grpc_refusal, rest_refusal, seconds_for

ROLES = tuple(role.value for role in Role)

# Written here a second time, on purpose: what the product must not give away by a slip.
SECURITY_RELEVANT: Mapping[str, str] = {
    "SubmitAction": "agent gateway operator admin",
    "StartAction": "agent gateway operator admin",
    "CompleteAction": "agent gateway operator admin",
    "CancelAction": "agent gateway operator admin",
    "ReleaseAction": "operator admin",
    "DecideApproval": "approver admin",
    "EnrollSecondFactor": "admin",
    "RemoveSecondFactor": "admin",
    "RegisterApproverKey": "admin",
    "RevokeApproverKey": "admin",
    "GetSecondFactor": "admin operator approver auditor",
    "ListApproverKeys": "admin operator approver auditor",
    "CreatePolicy": "admin",
    "PublishPolicy": "admin",
    "RollbackPolicy": "admin",
    "ArchivePolicy": "admin",
    "PlaceLegalHold": "admin",
    "ReleaseLegalHold": "admin",
    "CreateControlMapping": "admin",
    "RetireControlMapping": "admin",
    "GetControlMapping": "admin operator approver auditor",
    "ListControlMappings": "admin operator approver auditor",
    "GetCoverageReport": "admin operator approver auditor",
    "CreateTenant": "admin",
    "UpdateTenant": "admin",
    "RotateSigningKey": "admin",
    "RevokeSigningKey": "admin",
    # Reads whole ranges of the log.
    "ExportEvidence": "admin auditor",
    "ProveCompleteness": "admin auditor",
    "ReplayPolicy": "admin auditor",
    # Policies, approvals and tenants are not an agent's business: it could learn how to pass.
    "GetApproval": "admin operator approver auditor",
    "ListApprovals": "admin operator approver auditor",
    "WatchApprovals": "admin operator approver auditor",
    "GetPolicy": "admin operator approver auditor",
    "ListPolicies": "admin operator approver auditor",
    "SimulatePolicy": "admin operator approver auditor",
    "GetLegalHold": "admin operator auditor",
    "ListLegalHolds": "admin operator auditor",
    "GetTenant": "admin operator approver auditor",
    # Leave receipts, and take a core each.
    "SettleOnce": "agent gateway operator admin",
    "CreateSmallLattice": "agent gateway operator admin",
    "DeleteLattice": "agent gateway operator admin",
    "UpsertAnchors": "agent gateway operator admin",
    "RemoveAnchors": "agent gateway operator admin",
    "QueryLattice": "agent gateway operator admin",
    "ScoreChain": "agent gateway operator admin",
    "ComputeGates": "agent gateway operator admin",
    "ListTenants": "admin operator approver auditor",
}
# Everything else is to read one's own, or public.
EVERYONE = (
    "GetAction",
    "ListActions",
    "WatchAction",
    "GetReceipt",
    "ListReceipts",
    "VerifyReceipt",
    "ListTrustedKeys",
    "GetReceiptProof",
    "GetCheckpoint",
    "GetConsistencyProof",
    "GetLattice",
    "ListLattices",
    "CompareLattices",
    "VerifyLatticeReceipt",
)
WITHOUT_IDENTITY = {f"/grpc.health.v1.Health/{name}" for name in ("Check", "List")}
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class _Registered(grpc.ServerInterceptor):  # type: ignore[type-arg]  # not generic at runtime
    """Stands where the pipeline stands."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return continuation(handler_call_details)


@pytest.fixture(scope="module")
def registered() -> frozenset[str]:
    """The rpcs of a server as the product assembles it, from grpcio's own table."""
    handlers: list[Any] = []
    unused: Any = None
    original = grpc.server

    def recording(*arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        handlers.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpc, "server", recording)
        assembled = OarsServer(
            use_cases=UseCases(*[unused] * len(fields(UseCases))),
            make_pipeline=lambda _pool: _Registered(),  # type: ignore[arg-type,return-value]  # stands in
            limits=ServerLimits(worker_threads=1, queued_rpcs=1, streams=1, watch_seconds=1),
            metrics=unused,
            probe=lambda: None,
        )
    (server,) = handlers
    methods: set[str] = set(server._state.registered_method_handlers)
    for generic in server._state.generic_handlers:
        methods |= set(getattr(generic, "_method_handlers", {}))
    assert assembled is not None
    return frozenset(methods)


def difference(registered: frozenset[str], table: Mapping[str, object]) -> set[str]:
    return set(registered) ^ set(table)


def test_the_table_and_the_server_have_the_same_rpcs(registered: frozenset[str]) -> None:
    assert {rpc.path for rpc in RPCS.values()} <= registered
    assert difference(registered, ACCESS) == set()


def test_an_rpc_without_an_entry_and_an_entry_without_an_rpc_are_found(
    registered: frozenset[str],
) -> None:
    shorter = {path: access for path, access in ACCESS.items() if not path.endswith("GetPolicy")}
    assert difference(registered, shorter) == {"/oars.v1.PolicyService/GetPolicy"}
    longer = {**ACCESS, "/oars.v1.PolicyService/Nope": None}
    assert difference(registered, longer) == {"/oars.v1.PolicyService/Nope"}


def test_what_is_not_in_the_table_is_refused_to_everybody() -> None:
    for role in Role:
        principal = Principal("spiffe://x", "", role, frozenset({"*"}))
        for method in ("/oars.v1.PolicyService/Nope", "/grpc.health.v1.Health/Nope", ""):
            with pytest.raises(PermissionDenied):
                check_access(principal, method)


def test_only_the_answers_of_health_are_open_to_callers_without_identity() -> None:
    assert {path for path, access in ACCESS.items() if access.roles is None} == WITHOUT_IDENTITY


def test_the_table_gives_exactly_what_is_written_here() -> None:
    assert {*SECURITY_RELEVANT, *EVERYONE} == set(RPCS)
    found = {name: ACCESS[rpc.path].roles for name, rpc in RPCS.items()}
    expected = {name: frozenset(roles.split()) for name, roles in SECURITY_RELEVANT.items()}
    assert found == expected | dict.fromkeys(EVERYONE, frozenset(ROLES))
    # They keep a place of the server: for identities, who have a share.
    assert ACCESS[REFLECTION].roles == ACCESS[HEALTH_WATCH].roles == frozenset(ROLES)


def test_everything_that_changes_takes_an_idempotency_key_and_needs_a_scope() -> None:
    for name, rpc in RPCS.items():
        reads = name.startswith(
            ("Get", "List", "Watch", "Verify", "Prove", "Export", "Replay", "Compare")
        )
        assert ACCESS[rpc.path].mutating is not reads
        assert ACCESS[rpc.path].scope


@pytest.fixture(scope="module")
def clients(stack: LocalStack) -> Iterator[dict[str, Client]]:
    made = {role: client_for(stack, role) for role in ROLES}
    yield {role: made[role].__enter__() for role in ROLES}
    for context in made.values():
        context.__exit__(None, None, None)


def outcome(client: Client, rpc: Rpc) -> tuple[str, str]:
    """Code and reason of an empty request, which nothing behind access control would carry out."""
    call = (
        client.channel.unary_stream(rpc.path, bytes, bytes)
        if rpc.descriptor.server_streaming
        else client.channel.unary_unary(rpc.path, bytes, bytes)
    )
    try:
        found: Any = call(b"", timeout=seconds_for(rpc))
        if rpc.descriptor.server_streaming:
            list(found)
    except grpc.RpcError as error:
        refusal = grpc_refusal(error)
        return refusal.code.name, refusal.reason
    return "OK", ""


@pytest.mark.parametrize("name", sorted(RPCS))
def test_the_server_lets_exactly_these_roles_past(clients: dict[str, Client], name: str) -> None:
    let_past = set()
    for role, client in clients.items():
        code, reason = outcome(client, RPCS[name])
        if (code, reason) != ("PERMISSION_DENIED", "ROLE_FORBIDDEN"):
            # Past access control an empty request is either malformed or a list.
            assert code in ("OK", "INVALID_ARGUMENT"), (role, code, reason)
            let_past.add(role)
    assert let_past == set(SECURITY_RELEVANT.get(name, " ".join(ROLES)).split())


def test_a_forbidden_role_is_refused_before_its_request_is_looked_at(
    clients: dict[str, Client],
) -> None:
    """Nothing is computed for who may not call: malformed and well formed are refused alike."""
    agent = clients["agent"]
    create = agent.channel.unary_unary(RPCS["CreatePolicy"].path, bytes, bytes)
    refusals = set()
    for raw in (b"", b"\xff\xff", b"\x0a\x0ctenant_alpha"):
        with pytest.raises(grpc.RpcError) as caught:
            create(raw, timeout=20)
        refusals.add(grpc_refusal(caught.value))
    (refusal,) = refusals
    assert refusal.reason == "ROLE_FORBIDDEN"
    assert rest_refusal(agent.rest.post("/v1/policies", json={})) == refusal


def test_scopes_narrow_a_role_on_the_live_server(stack: LocalStack) -> None:
    add_identity(
        stack, "scoped-admin", role="admin", tenants=["tenant_alpha"], scopes=["policies:read"]
    )
    with client_for(stack, "scoped-admin") as scoped:
        passed = {
            name
            for name, rpc in RPCS.items()
            if outcome(scoped, rpc) != ("PERMISSION_DENIED", "SCOPE_FORBIDDEN")
        }
    assert passed == {"GetPolicy", "ListPolicies", "SimulatePolicy"}
