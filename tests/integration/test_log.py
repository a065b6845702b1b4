"""The log of a tenant over both ways in: whatever is answered is verified here as a stranger would.

Nothing of what the server says is believed but the verifier keys of ListTrustedKeys.
"""

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
import pytest

from oars_grpc.core.checkpoint import Checkpoint, parse_checkpoint, parse_proof
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.merkle import EMPTY, EMPTY_ROOT, Frontier, append, verify_consistency
from oars_grpc.core.note import Verifier, parse_note, parse_vkey, verified_by
from oars_grpc.generated.oars.v1 import receipt_pb2, tenant_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.rpcs import RPCS, call_rest, refused_by_grpc, rest_refusal, submission

TENANT = "tenant_log"
R: Any = receipt_pb2
CHECKPOINT = receipt_pb2.KEY_PURPOSE_CHECKPOINT


@dataclass(frozen=True)
class World:
    """A tenant with a log of more than one tile."""

    admin: Client
    auditor: Client
    agent: Client
    other_agent: Client
    early: Any

    def receipts(self) -> list[Any]:
        """All receipts in log order."""
        found: list[Any] = []
        token = ""
        while True:
            request = R.ListReceiptsRequest(tenant_id=TENANT, page_size=200, page_token=token)
            page = self.admin.receipts.ListReceipts(request, timeout=20)
            found += page.receipts
            token = page.next_page_token
            if not token:
                return found

    def checkpoint(self, client: Client | None = None) -> Any:
        request = R.GetCheckpointRequest(tenant_id=TENANT)
        return (client or self.auditor).receipts.GetCheckpoint(request, timeout=20).checkpoint

    def verifiers(self) -> list[Verifier]:
        keys = self.auditor.receipts.ListTrustedKeys(
            R.ListTrustedKeysRequest(tenant_id=TENANT), timeout=20
        ).keys
        return [parse_vkey(key.vkey) for key in keys if key.purpose == CHECKPOINT]


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    roles = {"admin": "admin", "auditor": "auditor", "agent": "agent", "other-agent": "agent"}
    with ExitStack() as opened:
        clients = {}
        for name, role in roles.items():
            add_identity(stack, f"log-{name}", role=role, tenants=[TENANT])
            clients[name] = opened.enter_context(client_for(stack, f"log-{name}"))
        admin, agent = clients["admin"], clients["agent"]
        created = tenant_pb2.CreateTenantRequest(tenant_id=TENANT)
        admin.tenants.CreateTenant(created, timeout=20)
        request = R.GetCheckpointRequest(tenant_id=TENANT)
        early = [admin.receipts.GetCheckpoint(request, timeout=20).checkpoint]
        for number in range(135):
            agent.actions.SubmitAction(submission("create_ticket", TENANT), timeout=20)
            if number in (0, 60, 126, 127, 128):
                early.append(admin.receipts.GetCheckpoint(request, timeout=20).checkpoint)
        yield World(admin, clients["auditor"], agent, clients["other-agent"], early)


def verified(world: World, checkpoint: Any) -> Checkpoint:
    """What a checkpoint says, once its note verifies with a published verifier key."""
    note = parse_note(checkpoint.note)
    assert verified_by(note, world.verifiers())
    found = parse_checkpoint(note)
    assert (found.origin, found.size, found.root) == (
        checkpoint.origin,
        checkpoint.size,
        checkpoint.root_hash,
    )
    assert found.origin == f"oars/{TENANT}"
    return found


def leaf_of(receipt: Any) -> bytes:
    return Envelope(PAYLOAD_TYPE, receipt.envelope.payload, ()).leaf_hash()


def test_checkpoints_verify_with_the_published_key(world: World) -> None:
    signed = (*world.early, world.checkpoint())
    sizes = [verified(world, checkpoint).size for checkpoint in signed]
    assert sizes[0] == 0
    assert world.early[0].root_hash == EMPTY_ROOT
    assert sizes[:7] == [0, 2, 122, 254, 256, 258, 270]
    # Any identity of the tenant is told the same.
    for client in (world.admin, world.agent, world.other_agent):
        assert world.checkpoint(client) == world.checkpoint()


def test_the_key_of_checkpoints_says_what_it_is_for(world: World) -> None:
    (verifier,) = world.verifiers()
    assert verifier.name == f"oars/{TENANT}"
    answer = world.agent.rest.get(f"/v1/trust/tenants/{TENANT}/keys").json()
    purposes = {key["purpose"]: key["vkey"] for key in answer["keys"]}
    assert purposes == {
        "KEY_PURPOSE_RECEIPT": "",
        "KEY_PURPOSE_CHECKPOINT": verifier.vkey(),
    }


def test_every_receipt_has_a_proof_that_verifies(world: World) -> None:
    receipts = world.receipts()
    root = append(EMPTY, map(leaf_of, receipts))[0].root()
    for place in (0, 1, 100, 253, 255, 256, 257, len(receipts) - 1):
        receipt = receipts[place]
        request = R.GetReceiptProofRequest(receipt_id=receipt.receipt_id)
        proof = world.auditor.receipts.GetReceiptProof(request, timeout=20)
        assert proof.leaf_index == place
        assert proof.leaf_hash == leaf_of(receipt)
        assert verified(world, proof.checkpoint).root == root
        inclusion, note = parse_proof(proof.proof)
        assert inclusion.shows(leaf_of(receipt), parse_checkpoint(note))
        assert note.format() == proof.checkpoint.note
        assert inclusion.hashes == tuple(proof.hashes)


def test_the_view_of_a_receipt_has_its_place(world: World) -> None:
    receipts = world.receipts()
    assert [receipt.leaf_index for receipt in receipts] == list(range(len(receipts)))
    request = R.GetReceiptRequest(receipt_id=receipts[7].receipt_id)
    assert world.agent.receipts.GetReceipt(request, timeout=20).receipt.leaf_index == 7


def test_a_proof_can_be_had_for_any_size_that_the_log_had(world: World) -> None:
    receipt = world.receipts()[100]
    for size in (101, 128, 255, 256, 257):
        request = R.GetReceiptProofRequest(receipt_id=receipt.receipt_id, size=size)
        proof = world.auditor.receipts.GetReceiptProof(request, timeout=20)
        inclusion, _ = parse_proof(proof.proof)
        checkpoint = verified(world, proof.checkpoint)
        assert checkpoint.size == size
        assert inclusion.shows(leaf_of(receipt), checkpoint)
    for size in (-1, 1, 100, 10**6, 2**63 - 1):
        request = R.GetReceiptProofRequest(receipt_id=receipt.receipt_id, size=size)
        refusal = refused_by_grpc(world.auditor, RPCS["GetReceiptProof"], request)
        assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("size",))
        assert rest_refusal(call_rest(world.auditor, RPCS["GetReceiptProof"], request)) == refusal


def test_what_was_signed_earlier_is_continued_by_what_is_signed_later(world: World) -> None:
    """From checkpoints that were asked for while the log grew, over the border of a tile."""
    signed = [verified(world, checkpoint) for checkpoint in (*world.early, world.checkpoint())]
    for old in signed[1:]:
        for new in signed[1:]:
            if old.size > new.size:
                continue
            request = R.GetConsistencyProofRequest(
                tenant_id=TENANT, from_size=old.size, to_size=new.size
            )
            proof = world.agent.receipts.GetConsistencyProof(request, timeout=20)
            assert verified(world, getattr(proof, "from")) == old
            assert verified(world, proof.to) == new
            assert verify_consistency(old.size, new.size, old.root, new.root, proof.hashes)


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ((0, 5), "from_size"),
        ((-1, 5), "from_size"),
        ((6, 5), "from_size"),
        ((10**6, 0), "from_size"),
        ((1, 10**6), "to_size"),
        ((1, -1), "to_size"),
    ],
)
def test_sizes_that_the_log_never_had_are_refused(
    world: World, sizes: tuple[int, int], field: str
) -> None:
    request = R.GetConsistencyProofRequest(tenant_id=TENANT, from_size=sizes[0], to_size=sizes[1])
    refusal = refused_by_grpc(world.agent, RPCS["GetConsistencyProof"], request)
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert rest_refusal(call_rest(world.agent, RPCS["GetConsistencyProof"], request)) == refusal


def test_a_completeness_proof_ends_and_adds_up(world: World) -> None:
    receipts = world.receipts()
    for start in world.early:
        request = R.ProveCompletenessRequest(
            tenant_id=TENANT, from_checkpoint=start.note, to_checkpoint=world.checkpoint().note
        )
        first, *pages, last = world.auditor.receipts.ProveCompleteness(request, timeout=60)
        begin = getattr(first.begin, "from")
        assert verified(world, begin) == verified(world, start)
        later = verified(world, first.begin.to)
        running = Frontier(begin.size, tuple(first.begin.frontier))
        assert running.root() == start.root_hash
        at = begin.size
        for page in pages:
            assert page.leaves.first_index == at
            hashes = list(page.leaves.leaf_hashes)
            assert hashes == [leaf_of(receipt) for receipt in receipts[at : at + len(hashes)]]
            running, _ = append(running, hashes)
            at += len(hashes)
        assert (at, running.root()) == (later.size, later.root)
        assert last.WhichOneof("event") == "end"
        assert (last.end.receipts, last.end.erased) == (at - begin.size, 0)


def test_a_completeness_proof_comes_over_rest_as_it_comes_over_grpc(world: World) -> None:
    answer = world.auditor.rest.post(
        f"/v1/log/{TENANT}/completeness", json={"fromCheckpoint": world.early[2].note}
    )
    assert answer.status_code == 200, answer.text
    first, *pages, last = answer.json()
    running = Frontier(
        int(first["begin"]["from"]["size"]),
        tuple(map(base64.b64decode, first["begin"]["frontier"])),
    )
    for page in pages:
        hashes = map(base64.b64decode, page["leaves"]["leafHashes"])
        running, _ = append(running, hashes)
    assert running.root() == base64.b64decode(first["begin"]["to"]["rootHash"])
    assert last == {"end": {"receipts": str(running.size - 122), "erased": "0"}}


def test_a_checkpoint_of_another_log_is_refused(world: World, admin: Client) -> None:
    request = R.GetCheckpointRequest(tenant_id="tenant_alpha")
    foreign = admin.receipts.GetCheckpoint(request, timeout=20).checkpoint.note
    for field in ("from_checkpoint", "to_checkpoint"):
        for text in (foreign, "rubbish", world.early[1].note.replace("oars", "mars")):
            proving = R.ProveCompletenessRequest(tenant_id=TENANT, **{field: text})
            refusal = refused_by_grpc(world.auditor, RPCS["ProveCompleteness"], proving)
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.fields == (field,)


def test_agents_have_proofs_of_their_own_receipts_only(world: World) -> None:
    receipt = world.receipts()[0]
    request = R.GetReceiptProofRequest(receipt_id=receipt.receipt_id)
    own = world.agent.receipts.GetReceiptProof(request, timeout=20)
    assert own == world.auditor.receipts.GetReceiptProof(request, timeout=20)
    refusal = refused_by_grpc(world.other_agent, RPCS["GetReceiptProof"], request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RECEIPT_NOT_FOUND")
    unknown = R.GetReceiptProofRequest(receipt_id="rcpt_01j0000000e008000000000000")
    missing = refused_by_grpc(world.other_agent, RPCS["GetReceiptProof"], unknown)
    assert missing.message.replace(unknown.receipt_id, "ID") == refusal.message.replace(
        receipt.receipt_id, "ID"
    )


def test_the_log_is_its_tenants_own(world: World, admin: Client, beta_admin: Client) -> None:
    receipt_id = world.receipts()[0].receipt_id
    for client in (admin, beta_admin):
        unseen = R.GetReceiptProofRequest(receipt_id=receipt_id)
        refusal = refused_by_grpc(client, RPCS["GetReceiptProof"], unseen)
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        for name in ("GetCheckpoint", "GetConsistencyProof", "ProveCompleteness"):
            request = RPCS[name].request_class(tenant_id=TENANT)
            refusal = refused_by_grpc(client, RPCS[name], request)
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "TENANT_FORBIDDEN",
            )


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/v1/receipts/{id}/proof?size=200", True),
        ("/v1/receipts/{id}/proof?tenantId=tenant_log&size=200", True),
        ("/v1/receipts/{id}/proof?size=200&tenant_id=tenant_log", True),
        ("/v1/receipts/{id}/proof?receipt_id=x", False),
        ("/v1/receipts/{id}/proof?size=200&receipt%5Fid=x", False),
        ("/v1/log/tenant_log/consistency?fromSize=1&toSize=2", True),
        ("/v1/log/tenant_log/consistency?from_size=1", True),
        ("/v1/log/tenant_log/consistency?from_size=1&tenant_id=tenant_alpha", False),
        ("/v1/log/tenant_log/consistency?tenantId=tenant_alpha&from_size=1", False),
        ("/v1/log/tenant_log/consistency?%74enant_id=tenant_alpha&from_size=1", False),
        ("/v1/log/tenant_log/checkpoint?tenant_id=tenant_alpha", False),
    ],
)
def test_a_query_never_overrides_what_the_path_names(world: World, path: str, served: bool) -> None:  # noqa: FBT001 - a case of the table
    url = path.format(id=world.receipts()[0].receipt_id)
    answer = world.auditor.rest.get(url)
    assert (answer.status_code == 200) is served, answer.text
    if not served:
        assert rest_refusal(answer).reason == "UNEXPECTED_QUERY"


def test_after_a_rotation_the_new_key_signs_and_the_old_notes_still_count(world: World) -> None:
    before = world.checkpoint()
    world.admin.tenants.RotateSigningKey(
        tenant_pb2.RotateSigningKeyRequest(tenant_id=TENANT, purpose=CHECKPOINT), timeout=20
    )
    old, new = world.verifiers()
    after = world.checkpoint()
    assert verified_by(parse_note(before.note), [old, new]) == [old]
    assert verified_by(parse_note(after.note), [old, new]) == [new]
    # The rotation itself is in the log.
    assert after.size == before.size + 1
    assert world.receipts()[-1].type == "key.rotated"
    request = R.ProveCompletenessRequest(tenant_id=TENANT, from_checkpoint=before.note)
    *_, last = world.auditor.receipts.ProveCompleteness(request, timeout=60)
    assert last.end.receipts == 1


FLIP = "set_byte({0}, 0, get_byte({0}, 0) # 1)"
# What is damaged, and a receipt whose proof is made of it.
DAMAGE = {
    "leaf": (("receipt", "leaf_hash", "leaf_index = 3"), 3),
    "sibling": (("receipt", "leaf_hash", "leaf_index = 3"), 2),
    "edge": (("receipt", "leaf_hash", "leaf_index = 268"), 3),
    "payload": (("receipt_body", "payload", "leaf_index = 3"), 3),
    "node": (("log_node", "hash", "position = 0"), 260),
    "head": (("log_head", "frontier", "true"), 3),
}


def damage(stack: LocalStack, table: str, column: str, where: str) -> None:
    """Flip a bit as the owner of the database; a second time, flip it back."""
    with psycopg.connect(stack.postgres.url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        try:
            changed = connection.execute(
                f"UPDATE {table} SET {column} = {FLIP.format(column)}"
                f" WHERE tenant_id = '{TENANT}' AND {where}".encode()
            )
            assert changed.rowcount == 1
        finally:
            # As the migrations leave them: always, even for replication.
            for (name,) in connection.execute(
                "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = %s::regclass",
                (table,),
            ).fetchall():
                connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}".encode())


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_log_is_proven_to_nobody_and_tells_nothing(
    world: World, stack: LocalStack, name: str
) -> None:
    row, place = DAMAGE[name]
    receipt_id = world.receipts()[place].receipt_id
    damage(stack, *row)
    try:
        asked = [
            ("GetReceiptProof", R.GetReceiptProofRequest(receipt_id=receipt_id)),
            ("ProveCompleteness", R.ProveCompletenessRequest(tenant_id=TENANT)),
        ]
        for rpc, request in asked:
            refusal = refused_by_grpc(world.auditor, RPCS[rpc], request)
            assert refusal.code is grpc.StatusCode.INTERNAL
            assert refusal.message == "internal error; quote the request id to the operator"
        answer = world.auditor.rest.get(f"/v1/receipts/{receipt_id}/proof")
        assert answer.status_code == 500
        assert "log of tenant" not in answer.text
        log = (stack.certificates.parent / "server.log").read_text()
        assert f"log of tenant {TENANT}: " in log
    finally:
        damage(stack, *row)
    request = R.GetReceiptProofRequest(receipt_id=receipt_id)
    proof = world.auditor.receipts.GetReceiptProof(request, timeout=20)
    inclusion, note = parse_proof(proof.proof)
    assert inclusion.shows(proof.leaf_hash, parse_checkpoint(note))
