"""Receipts verified by id: what a warm server answers is what is stored at that moment."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from oars_grpc.core.call import Call
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import KeyPurpose, KeyState
from oars_grpc.core.log import LogFault
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.verification import CheckResult
from oars_grpc.errors import ConfigurationError, NotFound
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.control_tags import ControlTags
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.receipts import Receipts
from oars_grpc.use_cases.signed_logs import SignedLogs
from oars_grpc.use_cases.verification import MAXIMUM_CHAIN, ReceiptVerifier
from tests.support.factories import (
    KEY_ENCRYPTION_KEY,
    make_change,
    make_next_change,
    make_principal,
)
from tests.support.tampering import tamper

AUDITOR = Call(make_principal("spiffe://example/auditor", role=Role.AUDITOR), "rpc", "req")
AGENT = Call(make_principal(), "rpc", "req")
OTHER_AGENT = Call(make_principal("spiffe://example/other"), "rpc", "req")
LEAVES = 600
# The second receipt of its action, in the second of two whole tiles and a part of one.
TARGET = 301


@pytest.fixture
def verifier(engine: Engine, ledger: PostgresLedger) -> ReceiptVerifier:
    log_store, receipts = PostgresLogStore(engine), PostgresReceiptStore(engine)
    logs = SignedLogs(
        store=log_store,
        registry=PostgresRegistryStore(engine),
        keyring=Keyring(KEY_ENCRYPTION_KEY, SystemChance(), SystemClock()),
        prefix="oars",
    )
    return ReceiptVerifier(
        receipts=Receipts(
            store=receipts,
            tags=ControlTags(PostgresControlStore(engine)),
            ledger=ledger,
            tokens=PageTokens(bytes(32)),
        ),
        log=Log(store=log_store, receipts=receipts, logs=logs),
        log_prefix="oars",
    )


@pytest.fixture
def filled(ledger: PostgresLedger) -> Sequence[str]:
    """Ids of the receipts of a log."""
    changes = [make_change() for _ in range(LEAVES // 2)]
    for start in range(0, len(changes), 100):
        ledger.commit(changes[start : start + 100])
    return [receipt.receipt_id for change in changes for receipt in change.receipts]


def at(table: str, column: str, leaf: int, byte: int = 0) -> str:
    """Flip a bit of a column at a leaf; done twice, nothing has changed."""
    return (
        f"UPDATE {table} SET {column} = set_byte({column}, {byte}, get_byte({column}, {byte}) # 1)"
        f" WHERE tenant_id = 'acme' AND leaf_index = {leaf}"
    )


FRONTIER = (
    "UPDATE log_head SET frontier = set_byte(frontier, 0, get_byte(frontier, 0) # 1)"
    " WHERE tenant_id = 'acme'"
)
NODE = (
    "UPDATE log_node SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1)"
    " WHERE tenant_id = 'acme' AND level = 1 AND position = 0"
)


def of_key(purpose: KeyPurpose) -> str:
    """Flip a bit of a public key."""
    return (
        "UPDATE signing_key SET public_key = set_byte(public_key, 43, get_byte(public_key, 43) # 1)"
        f" WHERE tenant_id = 'acme' AND purpose = '{purpose.value}'"
    )


@pytest.mark.parametrize(
    "statement",
    [
        at("receipt", "leaf_hash", TARGET),
        at("receipt", "leaf_hash", TARGET - 1),
        at("receipt", "leaf_hash", 400),  # among 128 that the proof is folded from
        at("receipt", "leaf_hash", 530),  # among 64 at the end of the log
        at("receipt", "leaf_hash", LEAVES - 1),
        at("receipt_body", "payload", TARGET),
        NODE,
        FRONTIER,
    ],
)
def test_a_contradiction_in_the_log_is_found_after_any_number_of_verifications(
    verifier: ReceiptVerifier, filled: Sequence[str], database_url: str, statement: str
) -> None:
    def verify() -> bool:
        return verifier.stored(AUDITOR, "", filled[TARGET], ()).verification.valid

    assert all(verify() for _ in range(8))
    tamper(database_url, statement)
    for _ in range(2):
        with pytest.raises(LogFault, match="log of tenant acme: "):
            verify()
    tamper(database_url, statement)
    assert verify()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (at("receipt", "signature", TARGET), "signature: the signature is not one of key"),
        (at("receipt", "signature", TARGET - 1), "chain: receipt 1: the signature is not one of"),
        (at("receipt_body", "payload", TARGET - 1, 20), "chain: receipt 1: the receipt before"),
        (of_key(KeyPurpose.RECEIPT), "signature: no trusted key has the id"),
    ],
)
def test_what_was_good_once_is_judged_by_what_is_stored_now(
    verifier: ReceiptVerifier,
    filled: Sequence[str],
    database_url: str,
    statement: str,
    error: str,
) -> None:
    def errors() -> Sequence[str]:
        return verifier.stored(AUDITOR, "", filled[TARGET], ()).verification.errors

    assert [errors() for _ in range(8)] == [()] * 8
    tamper(database_url, statement)
    for _ in range(2):
        assert errors()[0].startswith(error)
    tamper(database_url, statement)
    assert errors() == ()


def test_a_changed_checkpoint_key_signs_nothing(
    verifier: ReceiptVerifier, filled: Sequence[str], database_url: str
) -> None:
    assert verifier.stored(AUDITOR, "", filled[TARGET], ()).verification.valid
    tamper(database_url, of_key(KeyPurpose.CHECKPOINT))
    with pytest.raises(ConfigurationError, match="is not its own"):
        verifier.stored(AUDITOR, "", filled[TARGET], ())


def test_a_revocation_counts_at_once(
    verifier: ReceiptVerifier, filled: Sequence[str], database_url: str
) -> None:
    assert verifier.stored(AUDITOR, "", filled[TARGET], ()).verification.valid
    tamper(
        database_url,
        "UPDATE signing_key SET state = 'revoked', revoked_at = now() WHERE purpose = 'receipt'",
    )
    verification = verifier.stored(AUDITOR, "", filled[TARGET], ()).verification
    assert not verification.valid
    assert any("was revoked" in error for error in verification.errors)


def test_a_snapshot_holds_what_separate_reads_find(
    ledger: PostgresLedger, engine: Engine, verifier: ReceiptVerifier
) -> None:
    created = make_change()
    following = make_next_change(created.stored, output_digest="d" * 64, expires_at=None)
    ledger.commit([created, make_change(), make_change("globex")])
    ledger.commit([following])
    store, log_store = PostgresReceiptStore(engine), PostgresLogStore(engine)
    last = following.receipts[0].receipt_id
    verifier.stored(AUDITOR, "", last, ())  # makes the key that signs checkpoints
    found = store.find_in_log(["acme", "globex"], last, MAXIMUM_CHAIN)
    assert found is not None
    assert found.stored == store.find_receipt(["acme"], last)
    assert found.leaf == log_store.leaf_of(["acme"], last)
    assert found.head() == log_store.head("acme")
    assert found.keys() == store.list_keys("acme")
    action = ReceiptFilter(action_id=created.stored.action.action_id)
    chain = store.search_receipts("acme", action, "", -1, 10).receipts
    assert found.before() == list(chain[:-1])
    shortened = store.find_in_log(["acme"], last, 1)
    assert shortened is not None
    assert shortened.before() == [chain[1]]
    first = store.find_in_log(["acme"], created.receipts[0].receipt_id, MAXIMUM_CHAIN)
    assert first is not None
    assert first.before() == []
    assert store.find_in_log(["acme"], "rcpt_unknown", MAXIMUM_CHAIN) is None


def test_one_of_two_receipts_with_the_same_id_is_all_that_is_read(
    ledger: PostgresLedger, engine: Engine
) -> None:
    """No two tenants share an id that the service made; whoever moves rows could see to it."""
    change = make_change()
    elsewhere = make_change("globex")
    same = replace(elsewhere.receipts[0], receipt_id=change.receipts[0].receipt_id)
    ledger.commit([change, replace(elsewhere, receipts=(same, *elsewhere.receipts[1:]))])
    store = PostgresReceiptStore(engine)
    for tenant_ids in (["acme", "globex"], ["globex", "acme"]):
        found = store.find_in_log(tenant_ids, same.receipt_id, MAXIMUM_CHAIN)
        assert found is not None
        assert found.leaf.tenant_id == found.stored.receipt.tenant_id == tenant_ids[0]
        assert {key.tenant_id for key in found.keys() or ()} == {tenant_ids[0]}


def test_verification_makes_the_key_that_a_log_lacks(
    ledger: PostgresLedger, engine: Engine, verifier: ReceiptVerifier
) -> None:
    change = make_change()
    ledger.commit([change])
    verified = verifier.stored(AUDITOR, "", change.receipts[1].receipt_id, ())
    assert {check.result for check in verified.verification.checks} == {CheckResult.PASSED}
    keys = PostgresReceiptStore(engine).list_keys("acme") or ()
    active = [key.purpose for key in keys if key.state is KeyState.ACTIVE]
    assert sorted(active) == [KeyPurpose.CHECKPOINT, KeyPurpose.RECEIPT]


def test_damage_beside_a_receipt_tells_nobody_that_it_is_there(
    verifier: ReceiptVerifier, filled: Sequence[str], database_url: str
) -> None:
    """What is wrong is found for those who may see the receipt, and not before."""
    assert verifier.stored(AGENT, "", filled[TARGET], ()).verification.valid
    tamper(
        database_url,
        "UPDATE log_head SET frontier = '' WHERE tenant_id = 'acme'",
        f"DELETE FROM receipt_body WHERE tenant_id = 'acme' AND leaf_index = {TARGET - 1}",
    )
    with pytest.raises(NotFound):
        verifier.stored(OTHER_AGENT, "", filled[TARGET], ())
    with pytest.raises(ValueError, match="full parts"):
        verifier.stored(AGENT, "", filled[TARGET], ())


def test_the_column_of_the_caller_hides_a_receipt_as_well(
    verifier: ReceiptVerifier, filled: Sequence[str], database_url: str
) -> None:
    assert verifier.stored(AGENT, "", filled[TARGET], ()).verification.valid
    tamper(
        database_url,
        f"UPDATE receipt SET caller_subject = 'spiffe://example/other' WHERE leaf_index = {TARGET}",
    )
    for call in (AGENT, OTHER_AGENT):
        with pytest.raises(NotFound):
            verifier.stored(call, "", filled[TARGET], ())
    assert verifier.stored(AUDITOR, "", filled[TARGET], ()).verification.valid
