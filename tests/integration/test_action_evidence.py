"""Actions that come with evidence, through the running stack: policy, receipts, people, replays."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest
import rfc8785
from click.testing import CliRunner
from google.protobuf import json_format

from oars_grpc.cli import commands
from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.generated.oars.v1 import action_pb2, policy_pb2, receipt_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.factories import new_id
from tests.support.identities import add_identity
from tests.support.rpcs import grpc_refusal, packed, rest_refusal

TENANT = "tenant_grounded"
RULES: list[dict[str, Any]] = [
    {
        "id": "unsupported",
        "effect": "EFFECT_DENY",
        "match": {"operations": ["create_ticket"]},
        "condition": "evidence.support < 0.5",
    },
    {"id": "tickets", "effect": "EFFECT_ALLOW", "match": {"operations": ["create_ticket"]}},
    {
        "id": "supported",
        "effect": "EFFECT_ALLOW",
        "match": {"operations": ["update_ticket"]},
        "condition": "evidence.support >= 0.5 && evidence.conflict < 0.3",
    },
    {
        "id": "bad-record",
        "effect": "EFFECT_QUARANTINE",
        "match": {"operations": ["update_ticket"]},
        "condition": "evidence.risk_high > 0.9",
    },
    {"id": "money", "effect": "EFFECT_APPROVE", "match": {"operations": ["transfer_funds"]}},
    {
        "id": "unfounded-money",
        "effect": "EFFECT_DENY",
        "match": {"operations": ["transfer_funds"]},
        "condition": "evidence.support < 0.2",
    },
]
SECRET_TEXT = "The customer has asked for a refund\nof order 17; \u00e9."


@dataclass(frozen=True)
class World:
    """A tenant of this module's own."""

    stack: LocalStack
    clients: Mapping[str, Client]

    @property
    def agent(self) -> Client:
        return self.clients["agent"]

    @property
    def approver(self) -> Client:
        return self.clients["approver"]

    def oars(self, tmp_path: Path, role: str, *arguments: str) -> Any:
        """A command on behalf of a role."""
        certificate = self.stack.certificates / f"grounded-{role}.pem"
        known = json.loads((self.stack.certificates.parent / "connection.json").read_text())
        named = {
            "certificate": str(certificate),
            "private_key": str(certificate.with_suffix(".key")),
        }
        file = tmp_path / "connection.json"
        file.write_text(json.dumps(known | {"tenant": TENANT, "identities": {role: named}}))
        line = [*arguments, "--connection", str(file)]
        found = CliRunner().invoke(commands, line, env={"COLUMNS": "200"})
        assert found.exception is None, (found.stdout, found.stderr)
        return found


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    with ExitStack() as opening:
        clients = {}
        for role in ("admin", "auditor", "agent", "approver"):
            add_identity(stack, f"grounded-{role}", role=role, tenants=[TENANT])
            clients[role] = opening.enter_context(client_for(stack, f"grounded-{role}"))
        admin = clients["admin"].rest
        done(admin.post("/v1/tenants", json={"tenantId": TENANT}))
        body = {"tenantId": TENANT, "document": {"name": "grounded", "rules": RULES}}
        policy_id = done(admin.post("/v1/policies", json=body))["policy"]["policyId"]
        done(admin.post(f"/v1/policies/{policy_id}/publish", json={}))
        yield World(stack, clients)


def done(answer: httpx.Response) -> Any:
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


def wire(*numbers: float) -> str:
    return base64.b64encode(packed(*numbers)).decode()


def item(name: str, *numbers: float, **changes: Any) -> dict[str, Any]:
    return {"id": name, "text": f"Item {name}", "embedding": wire(*numbers)} | changes


def evidence(*items: dict[str, Any], action: tuple[float, ...] = (1, 0, 0, 0)) -> dict[str, Any]:
    return {"items": items, "actionEmbedding": wire(*action)}


CLOSE = evidence(item("a", 1, 0.1, 0, 0), item("b", 1, -0.1, 0.1, 0))
FAR = evidence(item("a", 0, 1, 0, 0), item("b", 0, 1, 0.1, 0))
# One close item went badly, and the approver is to see what it says.
DOUBTED = evidence(
    item("good", 1, 0.1, 0, 0, adverse=0),
    item("bad", 1, 0, 0.1, 0, adverse=1, trust=0.8, text=SECRET_TEXT),
)


def predicate(receipt: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parse_statement(envelope_from_json(receipt["envelope"]).payload)
    value: dict[str, Any] = found["predicate"]
    return value


def test_a_rule_that_denies_what_is_not_supported(world: World) -> None:
    allowed = submit(world.agent, action_body(evidence=CLOSE))
    assert allowed["action"]["state"] == "ACTION_STATE_APPROVED"
    scores = allowed["action"]["evidence"]
    assert scores["support"] > 0.9
    assert scores["coherence"] > 0.9
    assert scores["conflict"] == 0
    denied = submit(world.agent, action_body(evidence=FAR))
    assert denied["action"]["state"] == "ACTION_STATE_DENIED"
    assert denied["decision"]["denial"]["ruleIds"] == ["unsupported"]
    facts = {fact["name"]: fact["value"] for fact in denied["decision"]["facts"]}
    assert float(facts["evidence.support"]) == denied["action"]["evidence"]["support"] < 0.5


def test_without_evidence_a_rule_that_asks_for_it_is_in_doubt(world: World) -> None:
    answer = submit(world.agent, action_body())
    assert "evidence" not in answer["action"] or answer["action"]["evidence"] is None
    assert answer["action"]["state"] == "ACTION_STATE_DENIED"
    (denying,) = [r for r in answer["decision"]["rules"] if r["ruleId"] == "unsupported"]
    assert denying["indeterminate"]
    assert answer["decision"]["missingFacts"] == ["evidence.support"]
    # What would allow it does not count.
    answer = submit(world.agent, action_body("update_ticket"))
    assert answer["action"]["state"] == "ACTION_STATE_QUARANTINED"
    deciding = {rule["ruleId"] for rule in answer["decision"]["rules"] if rule["deciding"]}
    assert deciding == {"bad-record"}
    assert "evidence.support" in answer["decision"]["missingFacts"]


def test_the_risk_has_an_interval_only_where_outcomes_are_known(world: World) -> None:
    unknown = submit(world.agent, action_body("update_ticket", evidence=CLOSE))
    assert not unknown["action"]["evidence"].get("risk")
    assert unknown["decision"]["missingFacts"] == ["evidence.risk_high"]
    assert unknown["action"]["state"] == "ACTION_STATE_QUARANTINED"
    # Each differs from the action in its own way, and went well.
    good = [item(f"g{n}", 1, *(0.5 * (n == k) for k in range(12)), adverse=0) for n in range(12)]
    given = evidence(*good, action=(1, *[0] * 12))
    known = submit(world.agent, action_body("update_ticket", evidence=given))
    risk = known["action"]["evidence"]["risk"]
    assert risk["outcomes"] == 12
    assert risk["low"] < risk["estimate"] < risk["high"] < 0.9
    assert known["action"]["state"] == "ACTION_STATE_APPROVED"


def test_doubtful_evidence_adds_to_the_risk_and_good_takes_nothing_away(world: World) -> None:
    def risk(**changes: Any) -> Any:
        body = action_body("close_ticket", **changes)
        return submit(world.agent, body)["decision"]["risk"]

    plain, close, far = risk(), risk(evidence=CLOSE), risk(evidence=FAR)
    assert close == plain
    assert far["score"] > plain["score"]
    names = {signal["name"] for signal in far["signals"]}
    assert {"evidence.unsupported", "evidence.novel"} <= names


def test_the_receipts_carry_digests_and_scores_and_no_text(world: World) -> None:
    body = action_body("transfer_funds", evidence=DOUBTED)
    answer = submit(world.agent, body)
    requested, decided = map(predicate, answer["receipts"])
    # Anyone who has the evidence can derive the digest.
    listed = [
        {
            "id": each["id"],
            "digest": hashlib.sha256(each["text"].encode()).hexdigest(),
            "embeddingDigest": hashlib.sha256(base64.b64decode(each["embedding"])).hexdigest(),
            "trust": round(each.get("trust", 1) * 1_000_000),
            "adverse": round(each["adverse"] * 1_000_000),
        }
        for each in sorted(DOUBTED["items"], key=lambda each: str(each["id"]))
    ]
    own = hashlib.sha256(base64.b64decode(DOUBTED["actionEmbedding"])).hexdigest()
    scored = rfc8785.dumps({"items": listed, "actionEmbeddingDigest": own})
    assert requested["evidenceItems"] == listed
    assert requested["omittedEvidenceItems"] == 0
    told = decided["evidence"]
    assert told["digest"] == hashlib.sha256(scored).hexdigest()
    assert told["digest"] == answer["action"]["evidence"]["digest"]
    statement = {name: value for name, value in told.items() if name != "statementDigest"}
    digest = hashlib.sha256(rfc8785.dumps(statement)).hexdigest()
    assert digest == told["statementDigest"] == answer["action"]["evidence"]["statementDigest"]
    assert told["scores"]["support"] == round(answer["action"]["evidence"]["support"] * 1_000_000)
    (against,) = told["against"]
    assert (against["id"], against["reason"]) == ("bad", "adverse")
    for receipt in answer["receipts"]:
        payload = envelope_from_json(receipt["envelope"]).payload.decode()
        assert "refund" not in payload
    # As it is read later, scores and all.
    stored = done(world.agent.rest.get(f"/v1/actions/{answer['action']['actionId']}"))
    assert stored["action"]["evidence"] == answer["action"]["evidence"]


def test_receipts_with_evidence_verify_offline(world: World, tmp_path: Path) -> None:
    answer = submit(world.agent, action_body(evidence=CLOSE))
    files = []
    for receipt in answer["receipts"]:
        files.append(tmp_path / f"{receipt['receiptId']}.json")
        files[-1].write_text(json.dumps(receipt))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(done(world.agent.rest.get(f"/v1/trust/tenants/{TENANT}/keys"))))
    verified = CliRunner().invoke(
        commands, ["verify", "--keys", str(keys), "--json", *map(str, files)]
    )
    assert verified.exit_code == 0, verified.output


def test_an_approver_is_shown_the_scores_and_what_speaks_against(
    world: World, tmp_path: Path
) -> None:
    body = action_body("transfer_funds", evidence=DOUBTED)
    answer = submit(world.agent, body)
    approval_id = answer["approval"]["approvalId"]
    shown = done(world.approver.rest.get(f"/v1/approvals/{approval_id}"))
    assert (
        hashlib.sha256(shown["display"].encode()).hexdigest()
        == (answer["approval"]["displayDigest"])
    )
    told = json.loads(shown["display"])["evidence"]
    assert told["scores"] == predicate(answer["receipts"][1])["evidence"]["scores"]
    assert [(each["id"], each["text"]) for each in told["against"]] == [("bad", SECRET_TEXT)]
    screen = world.oars(tmp_path, "approver", "approvals", "show", approval_id).stdout
    assert "What it stands on" in screen
    assert "known to have gone badly" in screen
    assert "refund" in screen
    assert "support" in screen
    decided = world.oars(
        tmp_path, "approver", "approvals", "approve", approval_id, "--yes", "--reason", "seen"
    )
    assert decided.exit_code == 0
    # The start asks policy again, which still sees the evidence of the submission.
    action_id = answer["action"]["actionId"]
    started = done(world.agent.rest.post(f"/v1/actions/{action_id}:start", json={}))
    assert started["action"]["state"] == "ACTION_STATE_EXECUTING"
    assert "unfounded-money" not in {r["ruleId"] for r in started["decision"]["rules"]}


def test_other_evidence_is_another_action_and_its_order_is_none(world: World) -> None:
    case = {"case": new_id("act")}
    asked = action_body("transfer_funds", input=case, evidence=DOUBTED)
    first = submit(world.agent, asked)
    swapped = {**DOUBTED, "items": list(reversed(DOUBTED["items"]))}
    again = submit(world.agent, asked | {"evidence": swapped})
    assert again["joined"]
    assert again["action"]["actionId"] == first["action"]["actionId"]
    other = submit(world.agent, asked | {"evidence": CLOSE})
    assert not other["joined"]
    assert other["action"]["actionDigest"] != first["action"]["actionDigest"]


def test_the_idempotency_key_stands_for_the_evidence_too(world: World) -> None:
    key = new_id("key")
    first = submit(world.agent, action_body(evidence=CLOSE), idempotency_key=key)
    again = submit(world.agent, action_body(evidence=CLOSE), idempotency_key=key)
    assert again == first
    refused = world.agent.rest.post(
        "/v1/actions", json=action_body(evidence=FAR), headers={"idempotency-key": key}
    )
    assert rest_refusal(refused).reason == "IDEMPOTENCY_KEY_REUSED"


def test_a_replay_sees_the_evidence_that_policy_saw(world: World) -> None:
    auditor = world.clients["auditor"]

    def size() -> int:
        request = receipt_pb2.GetCheckpointRequest(tenant_id=TENANT)
        return int(auditor.receipts.GetCheckpoint(request, timeout=20).checkpoint.size)

    first = size()
    for given in (CLOSE, FAR, DOUBTED):
        submit(world.agent, action_body(evidence=given))
    submit(world.agent, action_body())
    last = size()

    def counts(rules: list[dict[str, Any]]) -> Any:
        request = policy_pb2.ReplayPolicyRequest(
            tenant_id=TENANT, from_size=first, to_size=last, examples=10
        )
        json_format.ParseDict({"name": "draft", "rules": rules}, request.document)
        *_, end = auditor.policies.ReplayPolicy(request, timeout=60)
        statement = json.loads(end.end.report.payload)
        return statement["predicate"]["counts"]

    same = counts(RULES)
    assert (same["decisions"], same["unchanged"], same["notReplayable"]) == (4, 4, 0)
    # Every number is what it was: a draft at the very score of the one decides as it does.
    stricter = [dict(rule) for rule in RULES]
    stricter[0]["condition"] = "evidence.conflict > 0.5"
    changed = counts(stricter)
    assert (changed["newlyAllowed"], changed["newlyDenied"]) == (1, 1)


def test_a_simulation_with_the_same_scores_decides_the_same(world: World) -> None:
    for given in (CLOSE, FAR):
        real = submit(world.agent, action_body(evidence=given))
        facts = {
            name: real["action"]["evidence"][name]
            for name in ("coherence", "support", "conflict", "novelty")
        }
        body = action_body(tenantId=TENANT, evidence=facts)
        tried = done(world.clients["auditor"].rest.post("/v1/policies/simulate", json=body))
        assert tried["decision"]["effect"] == real["decision"]["effect"]
        assert tried["decision"]["risk"] == real["decision"]["risk"]


def test_a_lattice_that_the_tenant_does_not_have_is_not_found(world: World) -> None:
    request = action_pb2.SubmitActionRequest(agent_id="agent-1")
    request.resource.tool_id, request.resource.operation = "desk", "create_ticket"
    request.evidence.lattice_id = new_id("lat")
    request.evidence.action_embedding = packed(1, 0)
    with pytest.raises(grpc.RpcError) as refused:
        world.agent.actions.SubmitAction(request, timeout=20)
    refusal = grpc_refusal(refused.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "LATTICE_NOT_FOUND")


def lattice_of(
    client: Client, *rows: tuple[float, ...], gates: tuple[float, ...]
) -> tuple[str, str]:
    """The id of a new lattice with these anchors, and its digest as evidence by its receipt."""
    numbers = [number for row in rows for number in row]
    body = {
        "tenantId": TENANT,
        "dimension": len(rows[0]),
        "anchors": wire(*numbers),
        "gates": wire(*gates),
    }
    made = done(client.rest.post("/v1/lattices", json=body))
    inputs = predicate(made["receipt"])["lattice"]["inputs"]
    scored = rfc8785.dumps({name: inputs[name] for name in ("anchors", "gates")})
    return made["lattice"]["latticeId"], hashlib.sha256(scored).hexdigest()


def test_a_stored_lattice_is_evidence(world: World) -> None:
    admin = world.clients["admin"]
    rows, gates = ((1, 0.1, 0), (1, 0, 0.2), (0, 1, 0)), (1, 0.5, 1)
    lattice_id, digest = lattice_of(admin, *rows, gates=gates)
    given = {"latticeId": lattice_id, "actionEmbedding": wire(1, 0, 0)}
    key = new_id("key")
    answer = submit(world.agent, action_body(evidence=given), idempotency_key=key)
    items = [
        item(str(at), *row, trust=gate)
        for at, (row, gate) in enumerate(zip(rows, gates, strict=True))
    ]
    inline = submit(world.agent, action_body(evidence=evidence(*items, action=(1, 0, 0))))
    scores = ("support", "coherence", "conflict", "novelty", "pValue")
    assert {name: answer["action"]["evidence"][name] for name in scores} == {
        name: inline["action"]["evidence"][name] for name in scores
    }
    told = predicate(answer["receipts"][1])["evidence"]
    assert told["source"] == lattice_id
    assert told["latticeDigest"] == digest
    assert answer["action"]["state"] == "ACTION_STATE_APPROVED"

    # Another content is another digest, and another action.
    path = f"/v1/lattices/{lattice_id}/anchors:upsert"
    done(admin.rest.post(path, json={"indices": [0], "anchors": wire(0, 0, 1)}))
    changed = submit(world.agent, action_body(evidence=given))
    again = predicate(changed["receipts"][1])["evidence"]
    assert again["latticeDigest"] != told["latticeDigest"]
    assert changed["action"]["actionDigest"] != answer["action"]["actionDigest"]

    refused = world.agent.rest.post(
        "/v1/actions", json=action_body(evidence=given | {"actionEmbedding": wire(1, 0)})
    )
    assert rest_refusal(refused).reason == "EVIDENCE_DIMENSION"
    # Gone, it is no evidence any more; what was answered before is answered again.
    done(admin.rest.request("DELETE", f"/v1/lattices/{lattice_id}", json={}))
    refused = world.agent.rest.post("/v1/actions", json=action_body(evidence=given))
    assert rest_refusal(refused).reason == "LATTICE_NOT_FOUND"
    assert submit(world.agent, action_body(evidence=given), idempotency_key=key) == answer


def anchor_outcome(index: int, row: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    return {"index": index, "digest": hashlib.sha256(packed(*row)).hexdigest()} | changes


def test_outcomes_come_with_a_stored_lattice_and_do_not_move_to_other_anchors(
    world: World, tmp_path: Path
) -> None:
    admin = world.clients["admin"]
    rows: list[tuple[float, ...]] = [
        (1, *(0.5 * (at == place) for place in range(8))) for at in range(8)
    ]
    lattice_id, _ = lattice_of(admin, *rows, gates=(1,) * 8)
    outcomes = [anchor_outcome(at, row, adverse=int(at == 3)) for at, row in enumerate(rows)]
    bare = {"latticeId": lattice_id, "actionEmbedding": wire(1, *[0] * 8)}
    given = bare | {"outcomes": outcomes}
    answer = submit(world.agent, action_body("update_ticket", evidence=given))
    scored = answer["action"]["evidence"]
    assert (scored["risk"]["outcomes"], scored["risk"]["calibratedBy"]) == (8, 8)
    assert 0 <= scored["risk"]["low"] < scored["risk"]["estimate"] < scored["risk"]["high"] < 1
    assert [(each["id"], each["reason"]) for each in scored["against"]] == [("3", "adverse")]
    items = [item(str(at), *row, adverse=int(at == 3)) for at, row in enumerate(rows)]
    inline = submit(
        world.agent,
        action_body("update_ticket", evidence=evidence(*items, action=(1, *[0] * 8))),
    )
    assert scored["risk"] == inline["action"]["evidence"]["risk"]
    unknown = submit(world.agent, action_body("update_ticket", evidence=bare))
    assert unknown["action"]["actionDigest"] != answer["action"]["actionDigest"]

    # The first receipt lists them, and the digest in the others is of that list.
    listed = predicate(answer["receipts"][0])["evidenceItems"]
    assert [(each["index"], each["adverse"]) for each in listed] == [
        (at, 1_000_000 * (at == 3)) for at in range(8)
    ]
    files = [tmp_path / f"{at}.json" for at in range(2)]
    for file, receipt in zip(files, answer["receipts"], strict=True):
        file.write_text(json.dumps(receipt))
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(done(world.agent.rest.get(f"/v1/trust/tenants/{TENANT}/keys"))))
    verified = CliRunner().invoke(
        commands, ["verify", "--keys", str(keys), "--json", *map(str, files)]
    )
    assert verified.exit_code == 0, verified.output
    checks = json.loads(verified.output.splitlines()[1])["checks"]
    assert checks["evidence"]["result"] == checks["evidence_items"]["result"] == "passed"
    # So says the server, too, with the whole chain at hand.
    body = {"tenantId": TENANT, "receiptId": answer["receipts"][1]["receiptId"]}
    told = done(world.agent.rest.post("/v1/receipts/verify", json=body))
    by_name = {check["name"]: check["result"] for check in told["checks"]}
    assert by_name["evidence"] == by_name["evidence_items"] == "CHECK_RESULT_PASSED"

    # Without the first anchor, each index stands for another one.
    done(admin.rest.post(f"/v1/lattices/{lattice_id}/anchors:remove", json={"indices": [0]}))
    refused = world.agent.rest.post("/v1/actions", json=action_body(evidence=given))
    assert rest_refusal(refused).reason == "EVIDENCE_ANCHOR"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"outcomes": [anchor_outcome(-1, (1, 0), adverse=1)]}, "outcomes[0].index"),
        ({"outcomes": [anchor_outcome(0, (1, 0), adverse=1)] * 2}, "outcomes[1].index"),
        ({"outcomes": [anchor_outcome(0, (1, 0))]}, "outcomes[0].adverse"),
        ({"outcomes": [anchor_outcome(0, (1, 0), adverse=1.5)]}, "outcomes[0].adverse"),
        ({"outcomes": [{"index": 0, "adverse": 1}]}, "outcomes[0].digest"),
        ({"outcomes": [{"index": 0, "digest": "X" * 64, "adverse": 1}]}, "outcomes[0].digest"),
        ({"outcomes": [anchor_outcome(0, (1, 0), adverse=1)] * 1025}, "outcomes"),
        ({"latticeId": "", "items": [item("a", 1, 0)]}, "outcomes"),
    ],
)
def test_outcomes_that_cannot_be_are_refused_with_the_field_named(
    world: World, changes: dict[str, Any], field: str
) -> None:
    given = {
        "latticeId": new_id("lat"),
        "actionEmbedding": wire(1, 0),
        "outcomes": [anchor_outcome(0, (1, 0), adverse=1)],
    }
    answer = world.agent.rest.post("/v1/actions", json=action_body(evidence=given | changes))
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert f"evidence.{field}" in answer.text


def test_a_lattice_of_another_tenant_is_not_found(world: World, admin: Client) -> None:
    theirs = done(admin.rest.post("/v1/lattices", json={"dimension": 2, "anchors": wire(1, 0)}))[
        "lattice"
    ]["latticeId"]
    given = {"latticeId": theirs, "actionEmbedding": wire(1, 0)}
    refused = world.agent.rest.post("/v1/actions", json=action_body(evidence=given))
    assert rest_refusal(refused).reason == "LATTICE_NOT_FOUND"


def test_texts_of_evidence_lie_where_retention_erases(world: World) -> None:
    body = action_body("transfer_funds", evidence=DOUBTED)
    action_id = submit(world.agent, body)["action"]["actionId"]
    with psycopg.connect(world.stack.postgres.url) as owner:
        (stored,) = owner.execute(
            "SELECT evidence FROM action_body WHERE action_id = %s", (action_id,)
        ).fetchone() or (b"",)
        (kept,) = owner.execute(
            "SELECT body FROM action WHERE action_id = %s", (action_id,)
        ).fetchone() or (b"",)
    assert b"refund" in bytes(stored)
    assert b"refund" not in bytes(kept)
