"""`oars log check` on a real database: a whole log passes, and nothing that is done to it hides."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from oars_grpc.cli import commands
from oars_grpc.core.checkpoint import Checkpoint, log_origin, sign_checkpoint
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, Signature
from oars_grpc.core.event import KEY_ROTATED, write_event
from oars_grpc.core.keys import KeyPurpose
from oars_grpc.core.log_check import Tally, check_log
from oars_grpc.core.ports import Registry
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.retention import RETENTION_ERASED, Erasable, erasure_event
from oars_grpc.core.stored_log import Problem
from oars_grpc.core.verification import Surroundings, verify_receipt
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_scan import scan_log
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.database import new_database, opened
from tests.support.factories import (
    NOW,
    as_read,
    make_approval,
    make_change,
    make_next_change,
    make_signing_key,
    make_stored_key,
    new_id,
)
from tests.support.tampering import rebuild_tree, tamper, truncate

SIZE = 600  # two full tiles and a part of a third
CHECKPOINT_SEED = bytes(range(64, 96))


@pytest.fixture(scope="module")
def filled(cluster_url: str, template: str) -> Iterator[str]:
    """A database whose tenant acme has a log of `SIZE` receipts; to be copied."""
    with new_database(cluster_url, template) as url:
        with opened(url) as engine:
            fill(engine)
        yield url


@pytest.fixture
def url(cluster_url: str, filled: str) -> Iterator[str]:
    """A copy of it for the test to spoil."""
    with new_database(cluster_url, filled.rpartition("/")[2].partition("?")[0]) as url:
        yield url


def fill(engine: Engine) -> None:
    ledger = PostgresLedger(engine)
    stored_key = make_stored_key(seed=CHECKPOINT_SEED, purpose=KeyPurpose.CHECKPOINT)

    rotated = partial(make_event, KEY_ROTATED, {"keyId": "0" * 16})

    def prepare(registry: Registry) -> None:
        registry.insert_key(stored_key)
        for _ in range(2):
            registry.append_event("acme", rotated)

    PostgresRegistryStore(engine).run("acme", prepare)
    changes = [make_change() for _ in range(199)]
    ledger.commit(changes[:198])  # of two receipts each
    ledger.commit([make_next_change(as_read(change.stored)) for change in changes[:198]])
    pending = make_change(receipts=4)
    ledger.commit([pending])
    ledger.commit([make_change("globex")])


def make_event(type_: str, event: Mapping[str, Any], sequence: int, digest: str) -> Receipt:
    return write_event(
        receipt_id=new_id("rcpt"),
        tenant_id="acme",
        type_=type_,
        caller=None,
        event=event,
        sequence=sequence,
        previous_receipt_digest=digest,
        now=NOW,
        key=make_signing_key(),
    )


def problems_of(url: str, *checkpoints: Checkpoint) -> list[Problem]:
    with opened(url) as engine:
        return scan_log(
            engine,
            "acme",
            lambda snapshot: list(check_log(snapshot.log(), checkpoints=checkpoints)),
        )


def checkpoint_of(url: str) -> Checkpoint:
    tally = Tally()
    with opened(url) as engine:
        scan_log(engine, "acme", lambda snapshot: list(check_log(snapshot.log(), tally=tally)))
    assert tally.tree is not None
    return Checkpoint(log_origin("oars", "acme"), tally.tree.size, tally.tree.root())


def kinds(problems: Sequence[Problem]) -> set[str]:
    return {problem.kind.value for problem in problems}


def test_a_whole_log_has_no_problems(url: str) -> None:
    assert problems_of(url) == []
    assert checkpoint_of(url).size == SIZE


ACME = "tenant_id = 'acme'"
LEAF = f"{ACME} AND leaf_index = 300"
# What is done to the log, and what is said of it first: kind, leaf.
CORRUPTIONS = {
    "a byte of a payload": (
        f"UPDATE receipt_body SET payload = set_byte(payload, 100, 33) WHERE {LEAF}",
        ("receipt_digest", 300),
    ),
    "a payload that is there no more": (
        f"DELETE FROM receipt_body WHERE {LEAF}",
        ("payload", 300),
    ),
    "a bit of a signature": (
        (
            f"UPDATE receipt SET signature = set_bit(signature, 7, 1 - get_bit(signature, 7))"
            f" WHERE {LEAF}"
        ),
        ("signature", 300),
    ),
    "a leaf hash": (
        (
            f"UPDATE receipt SET leaf_hash = set_byte(leaf_hash, 0, 255 - get_byte(leaf_hash, 0))"
            f" WHERE {LEAF}"
        ),
        ("leaf_hash", 300),
    ),
    "a digest": (
        f"UPDATE receipt SET receipt_digest = repeat('0', 64) WHERE {LEAF}",
        ("receipt_digest", 300),
    ),
    "a key id": (f"UPDATE receipt SET key_id = repeat('0', 16) WHERE {LEAF}", ("key", 300)),
    "a receipt from the middle": (f"DELETE FROM receipt WHERE {LEAF}", ("leaf_index", 300)),
    "the last receipt": (
        f"DELETE FROM receipt WHERE {ACME} AND leaf_index = {SIZE - 1}",
        ("leaf_index", SIZE - 1),
    ),
    "the first receipt": (
        f"DELETE FROM receipt WHERE {ACME} AND leaf_index = 0",
        ("leaf_index", 0),
    ),
    "a search column": (f"UPDATE receipt SET agent_id = 'other' WHERE {LEAF}", ("column", 300)),
    "a time": (
        f"UPDATE receipt SET recorded_at = recorded_at + interval '1 us' WHERE {LEAF}",
        ("column", 300),
    ),
    "a type": (f"UPDATE receipt SET type = 'action.denied' WHERE {LEAF}", ("column", 300)),
    "the action of a receipt": (
        f"UPDATE receipt SET action_id = 'act_other' WHERE {LEAF}",
        ("column", 300),
    ),
    "a rule of no receipt": (
        f"INSERT INTO receipt_rule SELECT tenant_id, 'R-0', 300 FROM log_head WHERE {ACME}",
        ("rules", 300),
    ),
    "a rule beyond the end": (
        f"INSERT INTO receipt_rule SELECT tenant_id, 'R-0', 9999 FROM log_head WHERE {ACME}",
        ("leaf_index", SIZE),
    ),
    "the rules of all receipts": (f"DELETE FROM receipt_rule WHERE {ACME}", ("rules", None)),
    "a node": (
        (
            f"UPDATE log_node SET hash = set_byte(hash, 0, 255 - get_byte(hash, 0))"
            f" WHERE {ACME} AND position = 1"
        ),
        ("node", None),
    ),
    "a missing node": (f"DELETE FROM log_node WHERE {ACME} AND position = 0", ("node", None)),
    "a node too many": (
        (
            f"INSERT INTO log_node SELECT tenant_id, 1, 2, hash FROM log_node WHERE {ACME}"
            " AND position = 0"
        ),
        ("node", None),
    ),
    "a node of a level that is none": (
        (
            f"INSERT INTO log_node SELECT tenant_id, -3, 0, hash FROM log_node WHERE {ACME}"
            " AND position = 0"
        ),
        ("node", None),
    ),
    "the frontier": (
        (
            f"UPDATE log_head SET frontier = set_byte(frontier, 0, 255 - get_byte(frontier, 0))"
            f" WHERE {ACME}"
        ),
        ("frontier", None),
    ),
    "a smaller size": (
        f"UPDATE log_head SET size = size - 1 WHERE {ACME}",
        ("leaf_index", SIZE - 1),
    ),
    "a larger size": (f"UPDATE log_head SET size = size + 1 WHERE {ACME}", ("leaf_index", SIZE)),
    "the head": (f"DELETE FROM log_head WHERE {ACME}", ("head", None)),
    "the end of an action": (
        (
            f"UPDATE action SET last_sequence = last_sequence + 1 WHERE {ACME} AND action_id ="
            f" (SELECT action_id FROM receipt WHERE {LEAF})"
        ),
        ("action", None),
    ),
    "an action whose receipts stay": (
        (
            f"DELETE FROM action WHERE {ACME} AND action_id ="
            f" (SELECT action_id FROM receipt WHERE {LEAF})"
        ),
        ("action", 300),
    ),
    "a public key": (
        (
            f"UPDATE signing_key SET public_key = (SELECT public_key FROM signing_key"
            f" WHERE {ACME} AND purpose = 'checkpoint') WHERE {ACME} AND purpose = 'receipt'"
        ),
        ("key", None),
    ),
    "the purpose of a key": (
        f"UPDATE signing_key SET purpose = 'checkpoint' WHERE {ACME}",
        ("key", 0),
    ),
    "the window of a key": (
        f"UPDATE signing_key SET valid_until = valid_from WHERE {ACME} AND purpose = 'receipt'",
        ("key", 0),
    ),
    "a recorded erasure whose payload is there": (
        (
            "INSERT INTO erasure SELECT tenant_id, leaf_index, recorded_at, receipt_id"
            f" FROM receipt WHERE {LEAF}"
        ),
        ("erasure", 300),
    ),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_each_corruption_is_found_and_named_first(url: str, what: str) -> None:
    statement, (kind, leaf_index) = CORRUPTIONS[what]
    tamper(url, statement)
    first = problems_of(url)[0]
    assert (first.kind, first.leaf_index) == (kind, leaf_index) or leaf_index is None
    assert first.kind == kind, str(first)
    assert first.tenant_id == "acme"


def test_two_receipts_that_changed_places_are_found(url: str) -> None:
    tamper(
        url,
        *(
            f"UPDATE {table} SET leaf_index = {new} WHERE {ACME} AND leaf_index = {old}"
            for table in ("receipt", "receipt_body")
            for old, new in ((300, -1), (301, 300), (-1, 301))
        ),
        f"DELETE FROM receipt_rule WHERE {ACME} AND leaf_index IN (300, 301)",
    )
    assert {"frontier", "node"} <= kinds(problems_of(url))
    # Also where the tree is made to fit: the two are of one action, and its chain tells.
    rebuild_tree(url, "acme")
    assert "chain" in kinds(problems_of(url))


def test_a_receipt_cut_out_of_the_middle_with_everything_moved_up_breaks_its_chain(
    url: str,
) -> None:
    tamper(
        url,
        *(f"DELETE FROM {table} WHERE {LEAF}" for table in ("receipt", "receipt_body")),
        *(
            f"UPDATE {table} SET leaf_index = -leaf_index WHERE {ACME} AND leaf_index > 300"
            for table in ("receipt", "receipt_body")
        ),
        *(
            f"UPDATE {table} SET leaf_index = -leaf_index - 1 WHERE {ACME} AND leaf_index < 0"
            for table in ("receipt", "receipt_body")
        ),
        f"DELETE FROM receipt_rule WHERE {ACME} AND leaf_index >= 300",
    )
    rebuild_tree(url, "acme")
    assert "chain" in kinds(problems_of(url))


def test_a_chain_without_its_tail_still_verifies_as_a_chain_and_the_check_finds_it(
    url: str,
) -> None:
    """What a chain of hashes alone cannot show: that it does not end too early."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            f"SELECT leaf_index, action_id, payload, signature, key_id FROM receipt"
            f" JOIN receipt_body USING (tenant_id, leaf_index) WHERE {ACME} AND action_id ="
            f" (SELECT action_id FROM receipt WHERE {ACME} AND leaf_index = {SIZE - 1})"
            f" ORDER BY sequence".encode()
        ).fetchall()
    chain = [
        Envelope(PAYLOAD_TYPE, payload, (Signature(key_id, signature),))
        for _, _, payload, signature, key_id in rows
    ]
    assert len(chain) == 4
    trusted = [make_stored_key().trusted]
    cut = chain[:-1]
    assert all(
        verify_receipt(envelope, trusted, Surroundings(previous=before, has_chain=True)).valid
        for before, envelope in zip([None, *cut], cut, strict=False)
    ), "the chain without its last receipt is a chain like any other"

    truncate(url, "acme", SIZE - 1)
    (found,) = problems_of(url)
    assert (found.kind, found.leaf_index) == ("action", SIZE - 2)
    assert rows[0][1] in found.detail


def test_a_removed_action_is_found_even_where_the_log_was_rebuilt_around_it(url: str) -> None:
    saved = checkpoint_of(url)
    truncate(url, "acme", SIZE - 4)
    first, *_ = problems_of(url)
    assert first.kind == "action"
    assert "has no receipt in the log" in first.detail
    assert "checkpoint" in kinds(problems_of(url, saved))


def test_a_tail_removed_with_its_actions_and_head_is_found_by_a_saved_checkpoint_alone(
    url: str,
) -> None:
    saved = checkpoint_of(url)
    truncate(url, "acme", SIZE - 4, actions=True)
    assert problems_of(url) == [], "nothing in the database says that there was more"
    (found,) = problems_of(url, saved)
    assert found.kind == "checkpoint"
    assert f"the log has {SIZE - 4} leaves" in found.detail


def test_a_log_written_anew_under_its_own_keys_is_found_by_a_saved_checkpoint_alone(
    url: str,
) -> None:
    saved = checkpoint_of(url)
    truncate(url, "acme", SIZE - 4, actions=True)
    with opened(url) as engine:
        PostgresLedger(engine).commit([make_change(receipts=4)])
    assert problems_of(url) == [], "it is a log like any other"
    assert checkpoint_of(url).size == saved.size
    (found,) = problems_of(url, saved)
    assert f"at size {SIZE}" in found.detail


def test_an_approval_of_no_action_is_found(url: str) -> None:
    change = make_change(receipts=1)
    with opened(url) as engine:
        approval = make_approval(change.stored.action)
        action = replace(change.stored.action, approval_id=approval.approval_id)
        stored = replace(change.stored, action=action)
        PostgresLedger(engine).commit([replace(change, stored=stored, approval=approval)])
    tamper(url, f"UPDATE approval SET action_id = 'act_none' WHERE {ACME}")
    (found,) = problems_of(url)
    assert found.kind == "approval"
    assert approval.approval_id in found.detail


def erase(url: str, *leaves: int) -> None:
    for leaf in leaves:
        tamper(
            url,
            "INSERT INTO erasure SELECT tenant_id, leaf_index, recorded_at, receipt_id"
            f" FROM receipt WHERE {ACME} AND leaf_index = {leaf}",
            f"DELETE FROM receipt_body WHERE {ACME} AND leaf_index = {leaf}",
        )


def record_erasure(url: str, *leaves: int) -> None:
    erased = erasure_event([Erasable("act_1", leaves)], 30, NOW)
    with opened(url) as engine:
        append = partial(make_event, RETENTION_ERASED, erased)
        PostgresRegistryStore(engine).run(
            "acme", lambda registry: registry.append_event("acme", append)
        )


def test_an_erasure_that_an_event_records_is_counted_and_no_problem(url: str) -> None:
    erase(url, 300, 301, 307)
    record_erasure(url, 300, 301, 302)  # one of which is still to be erased
    record_erasure(url, 307)
    saved, tally = checkpoint_of(url), Tally()
    assert problems_of(url, saved) == []
    with opened(url) as engine:
        scan_log(engine, "acme", lambda snapshot: list(check_log(snapshot.log(), tally=tally)))
    assert tally.erased == 3


def test_an_erasure_that_only_the_database_knows_of_is_found(url: str) -> None:
    erase(url, 300, 301, 302, 310)
    record_erasure(url, 300, 302)
    found = problems_of(url)
    assert [(each.kind, each.leaf_index) for each in found] == [("erasure", 301), ("erasure", 310)]


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(
        commands, ["log", "check", *arguments], env={"OARS_DATABASE_URL": url}
    )


def test_the_command_says_what_is_wrong_and_leaves_with_1(url: str) -> None:
    assert run(url).exit_code == 0
    tamper(url, f"UPDATE receipt SET agent_id = 'other' WHERE {LEAF}")
    found = run(url)
    assert found.exit_code == 1
    assert "first: column: acme, leaf 300, receipt rcpt_" in found.stdout
    report = json.loads(run(url, "--json", "--tenant", "acme", "--skip-signatures").stdout)
    assert report["first"] == report["tenants"][0]["problems"][0]
    assert (report["first"]["kind"], report["first"]["leafIndex"]) == ("column", 300)
    assert run(url, "--tenant", "globex").exit_code == 0


def test_the_command_takes_signed_checkpoints_and_refuses_forged_ones(
    url: str, tmp_path: Path
) -> None:
    saved, path = checkpoint_of(url), tmp_path / "checkpoint"
    path.write_text(sign_checkpoint(saved, make_signing_key(CHECKPOINT_SEED)).format())
    assert run(url, "--checkpoint", str(path)).exit_code == 0
    assert run(url, "--checkpoint", str(path), "--tenant", "globex").exit_code == 2
    path.write_text(sign_checkpoint(saved, make_signing_key(bytes(32))).format())
    forged = run(url, "--checkpoint", str(path))
    assert forged.exit_code == 1
    assert "no checkpoint key that the tenant has now signed it" in forged.stdout


def test_the_command_stops_at_the_limit_and_says_so(url: str) -> None:
    tamper(url, f"DELETE FROM receipt_rule WHERE {ACME}")
    report = json.loads(run(url, "--json", "--limit", "3").stdout)
    assert report["problemCount"] == 3
    assert not report["complete"]


def test_the_processes_find_what_one_process_finds(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(url, CORRUPTIONS["a bit of a signature"][0], CORRUPTIONS["a node"][0])
    alone = json.loads(run(url, "--json", "--processes", "1").stdout)
    monkeypatch.setattr("oars_grpc.cli.log_check._WORTH_PROCESSES", 1)
    together = json.loads(run(url, "--json", "--processes", "2").stdout)
    assert [one["problems"] for one in together["tenants"]] == [
        one["problems"] for one in alone["tenants"]
    ]
    assert together["problemCount"] == 2
