"""Logs read back from Postgres, and what is refused when their rows contradict each other."""

import hashlib
import threading
from collections.abc import Callable, Sequence

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.core.call import Call
from oars_grpc.core.checkpoint import Checkpoint, sign_checkpoint
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import KeyPurpose, KeyState
from oars_grpc.core.log import (
    CompletenessBegin,
    CompletenessEnd,
    CompletenessLeaves,
    HashRange,
    LogFault,
)
from oars_grpc.core.merkle import EMPTY, TILE_HEIGHT, append, verify_consistency, verify_inclusion
from oars_grpc.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.signed_logs import SignedLogs
from tests.support.factories import (
    KEY_ENCRYPTION_KEY,
    make_change,
    make_principal,
    make_signing_key,
)

AUDITOR = Call(make_principal("spiffe://example/auditor", role=Role.AUDITOR), "rpc", "req")


def make_log(engine: Engine) -> Log:
    """A log service as one more replica would have it: with nothing in its memory."""
    store = PostgresLogStore(engine)
    logs = SignedLogs(
        store=store,
        registry=PostgresRegistryStore(engine),
        keyring=Keyring(KEY_ENCRYPTION_KEY, SystemChance(), SystemClock()),
        prefix="oars",
    )
    return Log(store=store, receipts=PostgresReceiptStore(engine), logs=logs)


@pytest.fixture
def log(engine: Engine) -> Log:
    return make_log(engine)


@pytest.fixture
def store(engine: Engine) -> PostgresLogStore:
    return PostgresLogStore(engine)


def fill(ledger: PostgresLedger, leaves: int, tenant_id: str = "acme") -> list[Envelope]:
    """Commit receipts through the ledger, so many of them."""
    changes = [make_change(tenant_id) for _ in range(leaves // 2)]
    for start in range(0, len(changes), 100):
        ledger.commit(changes[start : start + 100])
    return [receipt.envelope for change in changes for receipt in change.receipts]


def tamper(url: str, *statements: str) -> None:
    """What the owner of the database can do and nobody else: change rows past the triggers."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("receipt", "receipt_body", "log_node"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        for statement in statements:
            changed = connection.execute(statement.encode())
            assert changed.rowcount > 0, statement


def flipped(column: str) -> str:
    return f"{column} = set_byte({column}, 0, get_byte({column}, 0) # 1)"


def test_the_rows_hold_the_hashes_of_the_tree(
    ledger: PostgresLedger, store: PostgresLogStore
) -> None:
    leaves = [envelope.leaf_hash() for envelope in fill(ledger, 600)]
    tree, nodes = append(EMPTY, leaves)
    head = store.head("acme")
    assert head is not None
    assert head.frontier == tree
    tiles = [root for subtree, root in nodes if subtree.height == TILE_HEIGHT]
    wanted = [
        HashRange(0, 0, 1),
        HashRange(1, 0, 2),
        HashRange(0, 250, 20),
        HashRange(0, 599, 5),
        HashRange(1, 2, 1),
        HashRange(2, 0, 1),
    ]
    expected = [leaves[0], *tiles[:1], *leaves[250:270], leaves[599]]
    found = store.hashes("acme", wanted)
    assert found == [
        expected[0],
        b"".join(tiles),
        b"".join(leaves[250:270]),
        leaves[599],
        b"",
        b"",
    ]
    assert store.hashes("acme", []) == []


def test_leaves_come_in_order_with_their_payloads(
    ledger: PostgresLedger, store: PostgresLogStore
) -> None:
    envelopes = fill(ledger, 20)
    found = store.leaves("acme", 5, 10)
    assert [leaf.index for leaf in found] == list(range(5, 15))
    assert [leaf.payload for leaf in found] == [envelope.payload for envelope in envelopes[5:15]]
    assert [leaf.hash for leaf in found] == [envelope.leaf_hash() for envelope in envelopes[5:15]]
    assert store.leaves("acme", 18, 10) == store.leaves("acme", 18, 2)
    assert store.leaves("acme", 20, 10) == []


def test_a_store_shows_nothing_of_another_tenant(
    ledger: PostgresLedger, store: PostgresLogStore
) -> None:
    change = make_change()
    ledger.commit([change])
    receipt_id = change.receipts[0].receipt_id
    found = store.leaf_of(["globex", "acme"], receipt_id)
    assert found is not None
    assert (found.tenant_id, found.leaf.index) == ("acme", 0)
    assert found.caller_subject == change.stored.action.request.caller.subject
    assert store.leaf_of(["globex"], receipt_id) is None
    assert store.leaf_of([], receipt_id) is None
    assert store.leaf_of(["*"], receipt_id) is None
    assert store.hashes("globex", [HashRange(0, 0, 2)]) == [b""]
    assert store.leaves("globex", 0, 10) == []
    assert store.head("nobody") is None
    assert store.head("*") is None


@pytest.fixture
def keyless(engine: Engine) -> Engine:
    """The tenant without a checkpoint key, as tenants of earlier versions are."""
    head = PostgresLogStore(engine).head("acme")
    assert head is not None
    assert head.checkpoint_key is None
    return engine


def test_of_many_calls_at_once_one_makes_the_checkpoint_key(keyless: Engine) -> None:
    barrier, notes = threading.Barrier(6), []

    def ask() -> None:
        log = make_log(keyless)
        barrier.wait(timeout=30)
        notes.append(log.checkpoint(AUDITOR, "acme").note)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(notes) == 6
    assert len(set(notes)) == 1
    keys = PostgresReceiptStore(keyless).list_keys("acme") or ()
    purposes = [key.purpose for key in keys if key.state is KeyState.ACTIVE]
    assert sorted(purposes) == [KeyPurpose.CHECKPOINT, KeyPurpose.RECEIPT]


def test_proofs_at_all_sizes_around_a_tile_verify(
    ledger: PostgresLedger, engine: Engine, log: Log
) -> None:
    """The reference here is the tree in memory; nobody asked the log when it was smaller."""
    changes = [make_change() for _ in range(260)]
    ledger.commit(changes)
    receipts = [receipt for change in changes for receipt in change.receipts]
    leaves = [receipt.envelope.leaf_hash() for receipt in receipts]
    sizes = [1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 520]
    roots = {size: append(EMPTY, leaves[:size])[0].root() for size in sizes}
    for size in sizes:
        for index in {0, size // 2, size - 1}:
            proof = log.receipt_proof(AUDITOR, "acme", receipts[index].receipt_id, size)
            assert proof.inclusion.leaf_index == index
            assert proof.signed.checkpoint.root == roots[size]
            hashes = proof.inclusion.hashes
            assert verify_inclusion(leaves[index], index, size, hashes, roots[size])
        for old in sizes:
            if old <= size:
                between = log.consistency(AUDITOR, "acme", old, size)
                assert verify_consistency(old, size, roots[old], roots[size], between.hashes)
                assert between.earlier.checkpoint.root == roots[old]
    assert log.checkpoint(AUDITOR, "acme") == make_log(engine).checkpoint(AUDITOR, "acme")


def completeness(log: Log, start: str = "", end: str = "") -> tuple[CompletenessBegin, ...]:
    """Run a proof to its end and check all of it as a verifier would."""
    begin, *pages, last = log.completeness(lambda: AUDITOR, "acme", start, end)
    assert isinstance(begin, CompletenessBegin)
    assert isinstance(last, CompletenessEnd)
    running, at = begin.frontier, begin.earlier.checkpoint.size
    assert running.root() == begin.earlier.checkpoint.root
    for page in pages:
        assert isinstance(page, CompletenessLeaves)
        assert page.first == at
        running, _ = append(running, page.hashes)
        at += len(page.hashes)
    assert at == begin.later.checkpoint.size
    assert running.root() == begin.later.checkpoint.root
    assert last.receipts == at - begin.earlier.checkpoint.size
    return (begin,)


def test_completeness_leads_from_any_checkpoint_to_any_later_one(
    ledger: PostgresLedger, log: Log
) -> None:
    notes = [log.checkpoint(AUDITOR, "acme").note]
    for leaves in (2, 100, 160, 260, 2):
        fill(ledger, leaves)
        notes.append(log.checkpoint(AUDITOR, "acme").note)
    for start in range(len(notes)):
        for end in range(start, len(notes)):
            (begin,) = completeness(log, notes[start], notes[end])
            assert (begin.earlier.note, begin.later.note) == (notes[start], notes[end])
    assert completeness(log)[0].later.note == notes[-1]


def forged(engine: Engine, size: int, root: bytes, origin: str = "oars/acme") -> str:
    """A note by the log's own key, as only a log that forks would sign it."""
    make_log(engine).checkpoint(AUDITOR, "acme")
    head = PostgresLogStore(engine).head("acme")
    assert head is not None
    assert head.checkpoint_key is not None
    key = Keyring(KEY_ENCRYPTION_KEY, SystemChance(), SystemClock()).open(head.checkpoint_key)
    return sign_checkpoint(Checkpoint(origin, size, root), key).format()


def test_a_signed_checkpoint_that_the_log_does_not_continue_says_so(
    ledger: PostgresLedger, engine: Engine, log: Log
) -> None:
    fill(ledger, 10)
    root = log.checkpoint(AUDITOR, "acme").checkpoint.root
    for note in (forged(engine, 9, root), forged(engine, 10, bytes(32)), forged(engine, 11, root)):
        for notes in ((note, ""), ("", note)):
            with pytest.raises(FailedPrecondition, match="does not continue") as refused:
                next(log.completeness(lambda: AUDITOR, "acme", *notes))
            assert refused.value.reason == "LOG_DIVERGED"
    completeness(log, forged(engine, 10, root))


def test_what_is_no_checkpoint_of_the_log_is_refused_by_field(
    ledger: PostgresLedger, engine: Engine, log: Log
) -> None:
    fill(ledger, 4)
    earlier = log.checkpoint(AUDITOR, "acme").note
    fill(ledger, 2)
    signed = log.checkpoint(AUDITOR, "acme")
    note, root = signed.note, signed.checkpoint.root
    stranger = sign_checkpoint(signed.checkpoint, make_signing_key(bytes(32))).format()
    wrong = {
        "rubbish": "does not end in an empty line",
        note.replace("oars/acme", "oars/globex"): "is not of the log oars/acme",
        forged(engine, 6, root, "elsewhere/acme"): "is not of the log oars/acme",
        stranger: "is not signed by a checkpoint key",
        note.replace("\n6\n", "\n5\n"): "is not that key's",
        note.replace("\n6\n", "\n06\n"): "not the size of a log",
    }
    for text, complaint in wrong.items():
        for field, notes in (("from_checkpoint", (text, "")), ("to_checkpoint", ("", text))):
            with pytest.raises(InvalidArgument, match=complaint) as refused:
                next(log.completeness(lambda: AUDITOR, "acme", *notes))
            assert [violation.field for violation in refused.value.violations] == [field]
    with pytest.raises(InvalidArgument, match="to_checkpoint: is of an earlier log"):
        next(log.completeness(lambda: AUDITOR, "acme", note, earlier))


def test_a_proof_ends_with_the_right_to_it(ledger: PostgresLedger, log: Log) -> None:
    fill(ledger, 600)
    asked = []

    def authorised() -> Call:
        asked.append(1)
        if len(asked) > 2:
            raise PermissionDenied("no longer")
        return AUDITOR

    events = log.completeness(authorised, "acme", "", "")
    assert isinstance(next(events), CompletenessBegin)
    assert isinstance(next(events), CompletenessLeaves)
    with pytest.raises(PermissionDenied):
        next(events)


def test_erased_payloads_are_counted_and_break_nothing(
    ledger: PostgresLedger, log: Log, database_url: str
) -> None:
    fill(ledger, 20)
    tamper(database_url, "DELETE FROM receipt_body WHERE leaf_index IN (3, 4, 19)")
    completeness(log)
    *_, end = log.completeness(lambda: AUDITOR, "acme", "", "")
    assert end == CompletenessEnd(receipts=20, erased=3)


def test_a_proof_of_a_receipt_whose_payload_is_erased_verifies(
    ledger: PostgresLedger, log: Log, database_url: str
) -> None:
    change = make_change()
    ledger.commit([change])
    tamper(database_url, "DELETE FROM receipt_body")
    leaf = change.receipts[1].envelope.leaf_hash()
    proof = log.receipt_proof(AUDITOR, "acme", change.receipts[1].receipt_id)
    assert proof.leaf_hash == leaf
    assert proof.inclusion.shows(leaf, proof.signed.checkpoint)


@pytest.fixture
def filled(ledger: PostgresLedger) -> Sequence[str]:
    """Ids of 600 receipts: two whole tiles and a part of one."""
    changes = [make_change() for _ in range(300)]
    for start in (0, 100, 200):
        ledger.commit(changes[start : start + 100])
    return [receipt.receipt_id for change in changes for receipt in change.receipts]


Ask = Callable[[Log, Sequence[str]], object]
ASKING: dict[str, Ask] = {
    "checkpoint": lambda log, _: log.checkpoint(AUDITOR, "acme"),
    "proof_there": lambda log, ids: log.receipt_proof(AUDITOR, "acme", ids[3]),
    "proof_beside": lambda log, ids: log.receipt_proof(AUDITOR, "acme", ids[2]),
    "proof_afar": lambda log, ids: log.receipt_proof(AUDITOR, "acme", ids[590]),
    "proof_then": lambda log, ids: log.receipt_proof(AUDITOR, "acme", ids[3], 5),
    "consistency": lambda log, _: log.consistency(AUDITOR, "acme", 5, 7),
    "completeness": lambda log, _: list(log.completeness(lambda: AUDITOR, "acme", "", "")),
}
LEAF = f"UPDATE receipt SET {flipped('leaf_hash')} WHERE tenant_id = 'acme' AND leaf_index = 3"
EDGE = f"UPDATE receipt SET {flipped('leaf_hash')} WHERE tenant_id = 'acme' AND leaf_index = 599"
PAYLOAD = (
    f"UPDATE receipt_body SET {flipped('payload')} WHERE tenant_id = 'acme' AND leaf_index = 3"
)
ERASED = "DELETE FROM receipt_body WHERE tenant_id = 'acme' AND leaf_index = 3"
NODE = f"UPDATE log_node SET {flipped('hash')} WHERE tenant_id = 'acme' AND position = 0"
HEAD = f"UPDATE log_head SET {flipped('frontier')} WHERE tenant_id = 'acme'"
CUT = "DELETE FROM receipt WHERE tenant_id = 'acme' AND leaf_index = 599"


@pytest.mark.parametrize(
    ("statements", "refused"),
    [
        # Nothing that a changed row goes into comes out; a leaf within a whole tile does not go
        # into what is made of the tile's root.
        ((LEAF,), {"proof_there", "proof_beside", "proof_then", "consistency", "completeness"}),
        # A hash alone tells, where the payload is erased.
        (
            (LEAF, ERASED),
            {"proof_there", "proof_beside", "proof_then", "consistency", "completeness"},
        ),
        ((PAYLOAD,), {"proof_there", "proof_then", "completeness"}),
        # What is made of the leaves of the tile themselves still leads to the head.
        ((NODE,), {*ASKING} - {"proof_then", "consistency"}),
        ((EDGE,), {*ASKING}),
        ((HEAD,), {*ASKING}),
        ((CUT,), {*ASKING}),
    ],
    ids=["leaf", "leaf-erased", "payload", "node", "edge", "head", "cut"],
)
def test_what_contradicts_itself_is_proven_to_nobody(
    engine: Engine,
    filled: Sequence[str],
    database_url: str,
    statements: Sequence[str],
    refused: set[str],
) -> None:
    for ask in ASKING.values():
        ask(make_log(engine), filled)
    tamper(database_url, *statements)
    for name, ask in ASKING.items():
        if name not in refused:
            ask(make_log(engine), filled)
            continue
        with pytest.raises(LogFault, match="log of tenant acme: "):
            ask(make_log(engine), filled)


def test_a_replica_that_remembers_a_root_signs_no_other_one(
    ledger: PostgresLedger, log: Log, database_url: str
) -> None:
    """Head and rows changed alike fool one that starts afresh: for that there are witnesses."""
    fill(ledger, 2)
    log.checkpoint(AUDITOR, "acme")
    other = [hashlib.sha256(b"\0%d" % number).digest() for number in range(2)]
    frontier = append(EMPTY, other)[0].to_bytes().hex()
    tamper(
        database_url,
        *(
            f"UPDATE receipt SET leaf_hash = '\\x{leaf.hex()}' WHERE leaf_index = {index}"
            for index, leaf in enumerate(other)
        ),
        f"UPDATE log_head SET frontier = '\\x{frontier}' WHERE tenant_id = 'acme'",
    )
    with pytest.raises(LogFault, match="another root"):
        log.checkpoint(AUDITOR, "acme")
    fill(ledger, 2)
    with pytest.raises(LogFault):
        log.consistency(AUDITOR, "acme", 2, 4)


def test_proofs_reach_over_tiles_of_tiles(engine: Engine, log: Log, database_url: str) -> None:
    """66,000 leaves, as a migration of old receipts would leave them: hashes, no payloads."""
    size = 66_000
    leaves = [hashlib.sha256(b"\0%d" % number).digest() for number in range(size)]
    fill_synthetic(database_url, leaves)
    root = append(EMPTY, leaves)[0].root()
    assert log.checkpoint(AUDITOR, "acme").checkpoint.root == root
    for index in (0, 255, 65_535, 65_536, 65_999):
        proof = log.receipt_proof(AUDITOR, "acme", f"rcpt_{index}")
        assert verify_inclusion(leaves[index], index, size, proof.inclusion.hashes, root)
    for old in (1, 256, 65_535, 65_536, 65_537):
        between = log.consistency(AUDITOR, "acme", old)
        old_root = append(EMPTY, leaves[:old])[0].root()
        assert verify_consistency(old, size, old_root, root, between.hashes)
    assert list(log.completeness(lambda: AUDITOR, "acme", "", ""))[-1] == CompletenessEnd(
        receipts=size, erased=size
    )


def fill_synthetic(url: str, leaves: Sequence[bytes]) -> None:
    """The rows of a log of these leaf hashes, as the owner writes them."""
    columns = (
        "tenant_id, leaf_index, receipt_id, action_id, sequence, type, key_id, signature,"
        " receipt_digest, previous_receipt_digest, leaf_hash, recorded_at, agent_id, user_id,"
        " caller_subject, tool_id, operation, decision, policy_id, policy_version, risk_tier"
    )
    tree, nodes = append(EMPTY, leaves)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY receipt ({columns}) FROM STDIN".encode()) as copy:
            for index, leaf in enumerate(leaves):
                named = ("acme", index, f"rcpt_{index}", f"act_{index}", 1, "t", "k", b"", "", "")
                found = (leaf, "2026-01-01T00:00:00Z", "a", "", "c", "t", "o", "", "", 0, "")
                copy.write_row((*named, *found))
        cursor.executemany(
            "INSERT INTO log_node VALUES ('acme', %s, %s, %s)",
            [(tile.height // TILE_HEIGHT, tile.index, root) for tile, root in nodes],
        )
        cursor.execute(
            "UPDATE log_head SET size = %s, frontier = %s WHERE tenant_id = 'acme'",
            (len(leaves), tree.to_bytes()),
        )
