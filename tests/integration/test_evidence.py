"""Evidence bundles of the live stack, over gRPC and REST, verify offline."""

import base64
import hashlib
import json
import random
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner
from google.protobuf.timestamp_pb2 import Timestamp

from oars_grpc.cli import commands
from oars_grpc.cli.bundle_zip import ZipBundle
from oars_grpc.cli.key_files import trusted_keys
from oars_grpc.core.action import ActionContext
from oars_grpc.core.bundle_findings import BundleVerdict
from oars_grpc.core.bundle_verification import BundleTrust, verify_bundle
from oars_grpc.core.note import parse_note
from oars_grpc.core.stored import Change
from oars_grpc.generated.oars.v1 import evidence_pb2, receipt_pb2
from oars_grpc.local.stack import LocalStack
from oars_grpc.storage.ledger import PostgresLedger
from tests.support.client import Client, action_body, client_for, submit
from tests.support.database import opened
from tests.support.factories import make_change, make_request, new_id
from tests.support.identities import add_identity

# Of this module's own: what other tests do to keys would change the verdicts.
TENANT = "tenant_evidence"
ROLES = ("admin", "auditor", "agent", "operator", "approver")
Request = evidence_pb2.ExportEvidenceRequest
Response = evidence_pb2.ExportEvidenceResponse


@pytest.fixture(scope="module")
def clients(stack: LocalStack) -> Iterator[Mapping[str, Client]]:
    with ExitStack() as opening:
        found = {}
        for role in ROLES:
            add_identity(stack, f"evidence-{role}", role=role, tenants=[TENANT])
            found[role] = opening.enter_context(client_for(stack, f"evidence-{role}"))
        made = found["admin"].rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert made.status_code == httpx.codes.OK, made.text
        yield found


@pytest.fixture
def admin(clients: Mapping[str, Client]) -> Client:
    return clients["admin"]


@pytest.fixture
def auditor(clients: Mapping[str, Client]) -> Client:
    return clients["auditor"]


@pytest.fixture
def agent(clients: Mapping[str, Client]) -> Client:
    return clients["agent"]


def exported(client: Client, request: Request) -> list[Response]:
    return list(client.evidence.ExportEvidence(request, timeout=60))


def whole(responses: Iterable[Response], path: Path) -> evidence_pb2.ExportEvidenceEnd:
    """Write a bundle out of its messages, which must be in order; its end."""
    begin, *chunks, last = responses
    assert begin.WhichOneof("event") == "begin"
    assert last.WhichOneof("event") == "end"
    assert {chunk.WhichOneof("event") for chunk in chunks} == {"chunk"}
    assert all(0 < len(chunk.chunk.data) <= 64 * 1024 for chunk in chunks)
    progress = [chunk.chunk.receipts for chunk in chunks]
    assert progress == sorted(progress)
    assert progress[-1] == chunks[-1].chunk.total_receipts == last.end.receipts
    data = b"".join(chunk.chunk.data for chunk in chunks)
    assert hashlib.sha256(data).hexdigest() == last.end.sha256
    assert len(data) == last.end.size_bytes
    path.write_bytes(data)
    return last.end


def verdict_of(client: Client, path: Path, first: str = "") -> BundleVerdict:
    """The verdict on a bundle, with the keys that the tenant lists."""
    keys = trusted_keys(client.rest.get(f"/v1/trust/tenants/{TENANT}/keys").json())
    with ZipBundle(path) as bundle:
        return verify_bundle(bundle, BundleTrust(keys, parse_note(first) if first else None))


def problems(verdict: BundleVerdict) -> list[str]:
    return [f"{check.name}: {each}" for check in verdict.checks for each in check.problems]


def log_size(client: Client) -> int:
    request = receipt_pb2.GetCheckpointRequest(tenant_id=TENANT)
    found: int = client.receipts.GetCheckpoint(request, timeout=20).checkpoint.size
    return found


@pytest.fixture
def receipts(agent: Client) -> None:
    """Some more receipts: allowed and completed, denied, waiting for a person."""
    for operation in ("create_ticket", "delete_repository", "transfer_funds"):
        # Each asks for something else: what asks the same joins what waits already.
        answer = submit(agent, action_body(operation, input={"title": new_id("act")}))
        if operation == "create_ticket":
            path = f"/v1/actions/{answer['action']['actionId']}:complete"
            agent.rest.post(path, json={"outcome": "OUTCOME_SUCCEEDED"}).raise_for_status()


@pytest.mark.usefixtures("receipts")
def test_a_bundle_of_the_whole_log_verifies(auditor: Client, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    size = log_size(auditor)
    end = whole(exported(auditor, Request(tenant_id=TENANT)), path)
    assert end.receipts >= size
    verdict = verdict_of(auditor, path)
    assert verdict.valid, problems(verdict)
    assert verdict.receipts == end.receipts
    assert verdict.manifest is not None
    assert verdict.manifest.tenant_id == TENANT
    listed = auditor.rest.get(f"/v1/trust/tenants/{TENANT}/keys").json()
    with zipfile.ZipFile(path) as archive:
        assert trusted_keys(json.loads(archive.read("keys.json"))) == trusted_keys(listed)


def test_control_mappings_are_in_the_bundle_with_their_coverage(
    admin: Client, agent: Client, tmp_path: Path
) -> None:
    mapping = {
        "tenantId": TENANT,
        "framework": "evidence",
        "controlId": "E1",
        "description": "deletions are denied",
        "filter": {"operation": "delete_repository"},
        "requiredEvidence": ["EVIDENCE_TYPE_DENIAL", "EVIDENCE_TYPE_HUMAN_APPROVAL"],
    }
    made = admin.rest.post("/v1/controls", json=mapping)
    assert made.status_code == httpx.codes.OK, made.text
    submit(agent, action_body("delete_repository"))
    path = tmp_path / "bundle.zip"
    whole(exported(admin, Request(tenant_id=TENANT, controls=["evidence:E1"])), path)
    verdict = verdict_of(admin, path)
    assert verdict.valid, problems(verdict)
    with zipfile.ZipFile(path) as archive:
        (found,) = json.loads(archive.read("mappings.json"))["mappings"]
    assert found["controlId"] == "E1"
    assert found["coverage"]["evidence"]["denial"] >= 1
    assert found["coverage"]["gaps"] == ["human_approval"]


@pytest.mark.usefixtures("receipts")
def test_bundles_that_follow_each_other_share_a_checkpoint(
    auditor: Client, agent: Client, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    responses = exported(auditor, Request(tenant_id=TENANT))
    whole(responses, first)
    ended = responses[0].begin.to
    submit(agent, action_body())
    whole(exported(auditor, Request(tenant_id=TENANT, from_size=ended.size)), second)
    verdict = verdict_of(auditor, second, first=ended.note)
    assert verdict.valid, problems(verdict)
    assert verdict.manifest is not None
    assert verdict.manifest.first.size == ended.size


@pytest.mark.usefixtures("receipts")
def test_rest_sends_the_same_messages(auditor: Client, tmp_path: Path) -> None:
    answer = auditor.rest.post("/v1/evidence/export", json={"tenantId": TENANT, "fromSize": "2"})
    assert answer.status_code == httpx.codes.OK, answer.text
    begin, *chunks, end = answer.json()
    assert begin["begin"]["from"]["size"] == "2"
    data = b"".join(base64.b64decode(chunk["chunk"]["data"]) for chunk in chunks)
    assert hashlib.sha256(data).hexdigest() == end["end"]["sha256"]
    path = tmp_path / begin["begin"]["fileName"]
    path.write_bytes(data)
    verdict = verdict_of(auditor, path)
    assert verdict.valid, problems(verdict)


def test_a_bundle_verifies_while_submissions_go_on(
    auditor: Client, agent: Client, tmp_path: Path
) -> None:
    stop = threading.Event()

    def submit_on() -> int:
        count = 0
        while not stop.is_set():
            submit(agent, action_body())
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        submitting = [pool.submit(submit_on) for _ in range(2)]
        try:
            for number in range(4):
                path = tmp_path / f"{number}.zip"
                end = whole(exported(auditor, Request(tenant_id=TENANT)), path)
                verdict = verdict_of(auditor, path)
                assert verdict.valid, problems(verdict)
                assert verdict.receipts == end.receipts
        finally:
            stop.set()
        assert sum(future.result() for future in submitting) > 0


def stamp(moment: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(moment)
    return written


def test_a_range_by_time_holds_what_was_recorded_in_it(
    auditor: Client, agent: Client, tmp_path: Path
) -> None:
    submit(agent, action_body())
    since = datetime.now(UTC)
    answer = submit(agent, action_body())
    until = datetime.now(UTC)
    submit(agent, action_body())
    request = Request(tenant_id=TENANT, recorded_from=stamp(since), recorded_until=stamp(until))
    path = tmp_path / "bundle.zip"
    end = whole(exported(auditor, request), path)
    verdict = verdict_of(auditor, path)
    assert verdict.valid, problems(verdict)
    assert end.receipts == len(answer["receipts"]) == 2
    before = Request(tenant_id=TENANT, recorded_until=stamp(since - timedelta(days=1)))
    with pytest.raises(grpc.RpcError) as refused:
        exported(auditor, before)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.usefixtures("receipts")
@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"from_size": -1}, "INVALID_ARGUMENT", "from_size"),
        ({"to_size": 10**12}, "INVALID_ARGUMENT", "to_size"),
        ({"from_size": 3, "to_size": 2}, "INVALID_ARGUMENT", "from_size"),
        ({"from_size": 1, "recorded_from": stamp(datetime.now(UTC))}, "INVALID_ARGUMENT", "sizes"),
        (
            {
                "recorded_from": stamp(datetime(2026, 1, 2, tzinfo=UTC)),
                "recorded_until": stamp(datetime(2026, 1, 1, tzinfo=UTC)),
            },
            "INVALID_ARGUMENT",
            "recorded_until",
        ),
        ({"controls": ["nonsense"]}, "INVALID_ARGUMENT", "controls[0]"),
        ({"controls": ["soc2:CC9.9"]}, "NOT_FOUND", "soc2:CC9.9"),
        ({"tenant_id": "tenant_beta"}, "PERMISSION_DENIED", "tenant_beta"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    auditor: Client, fields: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        exported(auditor, Request(**{"tenant_id": TENANT} | fields))
    assert refused.value.code().name == code
    assert said in str(refused.value.details())


def test_only_auditors_and_admins_export(clients: Mapping[str, Client], agent: Client) -> None:
    submit(agent, action_body())
    for role in ("agent", "operator", "approver"):
        client = clients[role]
        with pytest.raises(grpc.RpcError) as refused:
            exported(client, Request(tenant_id=TENANT))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    request = Request(tenant_id=TENANT, to_size=1)
    assert exported(clients["admin"], request)[-1].end.receipts == 1


LARGE = "tenant_large"
# More than all buffers between server and client hold: an export that nobody reads stays under way.
LARGE_BYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def large(stack: LocalStack) -> Iterator[Client]:
    """An admin of a tenant whose bundle is large; the receipts are signed by nobody's key."""
    add_identity(stack, "large", role="admin", tenants=[LARGE])
    random.seed(1)
    with client_for(stack, "large") as client, opened(stack.postgres.url) as engine:
        made = client.rest.post("/v1/tenants", json={"tenantId": LARGE})
        assert made.status_code == httpx.codes.OK, made.text
        for _ in range(15):
            PostgresLedger(engine).commit([incompressible() for _ in range(100)])
        yield client


def incompressible() -> Change:
    """An action whose receipt does not shrink."""
    blobs = {f"b{n}": base64.b64encode(random.randbytes(384)).decode() for n in range(16)}
    context = ActionContext("staging", ("none",), blobs)
    return make_change(request=make_request(LARGE, context=context), receipts=1)


def began(client: Client, timeout: float) -> Any:
    """An export of which only the beginning is read."""
    call = client.evidence.ExportEvidence(Request(tenant_id=LARGE), timeout=timeout)
    assert next(iter(call)).WhichOneof("event") == "begin"
    return call


def outcome(client: Client) -> grpc.StatusCode:
    """How a small export ends."""
    try:
        exported(client, Request(tenant_id=LARGE, to_size=1))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def outcome_when_free(client: Client) -> grpc.StatusCode:
    """How it ends once there is a place for it."""
    waiting, ended = threading.Event(), outcome(client)
    for _ in range(150):
        if ended is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            break
        waiting.wait(0.1)
        ended = outcome(client)
    return ended


def test_a_large_bundle_comes_whole_over_both_ways(large: Client) -> None:
    responses = exported(large, Request(tenant_id=LARGE))
    assert responses[-1].end.size_bytes > LARGE_BYTES
    answer = large.rest.post("/v1/evidence/export", json={"tenantId": LARGE}, timeout=120)
    assert answer.status_code == httpx.codes.OK, answer.text[:1000]
    _, *chunks, end = answer.json()
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(base64.b64decode(chunk["chunk"]["data"]))
    assert digest.hexdigest() == end["end"]["sha256"]
    assert int(end["end"]["sizeBytes"]) > LARGE_BYTES


def test_two_exports_run_at_a_time_and_canceled_ones_give_their_places_back(large: Client) -> None:
    calls = [began(large, timeout=120) for _ in range(2)]
    assert outcome(large) is grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
    assert outcome_when_free(large) is grpc.StatusCode.OK


def test_exports_past_their_deadline_give_their_places_back(large: Client) -> None:
    calls = [began(large, timeout=2) for _ in range(2)]
    assert outcome_when_free(large) is grpc.StatusCode.OK
    for call in calls:
        # The sidecar resets the stream, the client gives up: whichever comes first.
        with pytest.raises(grpc.RpcError):
            list(call)


@pytest.fixture
def connection(
    stack: LocalStack, auditor: Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A connection.json of the tenant's auditor."""
    found = json.loads((stack.certificates.parent / "connection.json").read_text())
    certificate = stack.certificates / "evidence-auditor.pem"
    identity = {
        "certificate": str(certificate),
        "private_key": str(certificate.with_suffix(".key")),
    }
    path = tmp_path_factory.mktemp("connection") / "connection.json"
    path.write_text(json.dumps(found | {"tenant": TENANT, "identities": {"auditor": identity}}))
    return path


@pytest.mark.usefixtures("receipts")
def test_the_command_exports_and_verifies(
    connection: Path, auditor: Client, tmp_path: Path
) -> None:
    run, target = CliRunner(), tmp_path / "evidence.zip"
    made = run.invoke(
        commands,
        ["evidence", "export", "--connection", str(connection), "--out", str(target)],
    )
    assert made.exit_code == 0, made.output
    assert hashlib.sha256(target.read_bytes()).hexdigest() in made.output
    assert list(tmp_path.iterdir()) == [target]  # nothing unfinished is left
    keys = tmp_path / "keys.json"
    keys.write_text(auditor.rest.get(f"/v1/trust/tenants/{TENANT}/keys").text)
    verified = run.invoke(commands, ["verify", str(target), "--keys", str(keys), "--json"])
    assert verified.exit_code == 0, verified.output
    told = json.loads(verified.stdout)
    assert told["valid"] is True
    assert told["trustSource"] == "supplied"
    refused = run.invoke(
        commands,
        [
            *("evidence", "export", "--connection", str(connection)),
            *("--out", str(tmp_path / "none.zip"), "--from-size", "999999999"),
        ],
    )
    assert refused.exit_code == 1
    assert "INVALID_ARGUMENT" in refused.output
    assert not (tmp_path / "none.zip").exists()
