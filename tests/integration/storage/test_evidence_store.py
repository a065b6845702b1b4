"""Evidence out of the real database: pages, erasures, ranges by time, and a bounded memory."""

import zipfile
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from oars_grpc.cli.bundle_zip import ZipBundle
from oars_grpc.core.bundle_findings import BundleVerdict
from oars_grpc.core.bundle_verification import BundleTrust, verify_bundle
from oars_grpc.core.call import Call
from oars_grpc.core.evidence_export import ExportChunk, ExportEnded, ExportRange
from oars_grpc.core.identity import Role
from oars_grpc.core.log import LogFault
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.stored import Change
from oars_grpc.errors import InvalidArgument
from oars_grpc.storage.evidence_store import PostgresEvidenceStore
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.evidence import Evidence
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.signed_logs import SignedLogs
from tests.support.database import execute
from tests.support.factories import (
    KEY_ENCRYPTION_KEY,
    NOW,
    append_receipt,
    make_change,
    make_principal,
)
from tests.support.retention import RETENTION_DAYS, finished, make_retention, set_retention

AUDITOR = make_principal("spiffe://example/auditor", role=Role.AUDITOR)
CALL = Call(AUDITOR, "ExportEvidence", "req_1")


def make_evidence(engine: Engine, maximum_receipts: int = 1_000_000) -> Evidence:
    clock = SystemClock()
    keyring = Keyring(KEY_ENCRYPTION_KEY, SystemChance(), clock)
    log_store = PostgresLogStore(engine)
    registry = PostgresRegistryStore(engine)
    return Evidence(
        store=PostgresEvidenceStore(engine),
        log_store=log_store,
        logs=SignedLogs(store=log_store, registry=registry, keyring=keyring, prefix="log.example"),
        keyring=keyring,
        clock=clock,
        maximum_receipts=maximum_receipts,
    )


def export(evidence: Evidence, path: Path, wanted: ExportRange | None = None) -> ExportEnded:
    """Write a bundle to a file; what it came to."""
    ended: ExportEnded | None = None
    with path.open("wb") as file:
        for event in evidence.export(CALL, "acme", wanted or ExportRange()):
            if isinstance(event, ExportChunk):
                file.write(event.data)
            elif isinstance(event, ExportEnded):
                ended = event
    assert ended is not None
    return ended


def verdict_of(engine: Engine, path: Path) -> BundleVerdict:
    keys = PostgresReceiptStore(engine).list_keys("acme")
    assert keys is not None
    with ZipBundle(path) as bundle:
        return verify_bundle(bundle, BundleTrust(keys))


def test_a_bundle_out_of_the_database_verifies(
    engine: Engine, ledger: PostgresLedger, tmp_path: Path
) -> None:
    ledger.commit([make_change() for _ in range(150)])
    path = tmp_path / "bundle.zip"
    for first, last in ((0, 0), (0, 300), (1, 299), (256, 300), (300, 300)):
        ended = export(make_evidence(engine), path, ExportRange(first, last))
        assert verdict_of(engine, path).valid
        assert ended.receipts == (last or 300) - first
        assert ended.size == path.stat().st_size


def test_erased_payloads_are_told_as_erased(
    engine: Engine, ledger: PostgresLedger, database_url: str, tmp_path: Path
) -> None:
    set_retention(engine, "acme", RETENTION_DAYS)
    ledger.commit([make_change()])
    ledger.commit([finished()])
    make_retention(engine).erase_due()
    path = tmp_path / "bundle.zip"
    ended = export(make_evidence(engine), path)
    verdict = verdict_of(engine, path)
    assert verdict.valid
    assert verdict.erased == ((2, 4),)
    assert (ended.receipts, ended.erased) == (6, 3)


def tamper(url: str, table: str, change: str) -> None:
    """What only who owns the database can do: the triggers refuse it to everybody."""
    execute(url, f"ALTER TABLE {table} DISABLE TRIGGER ALL", change)


def test_a_payload_that_is_gone_without_an_erasure_ends_the_export(
    engine: Engine, ledger: PostgresLedger, database_url: str, tmp_path: Path
) -> None:
    ledger.commit([make_change()])
    tamper(database_url, "receipt_body", "DELETE FROM receipt_body WHERE leaf_index = 1")
    with pytest.raises(LogFault, match="the payload of leaf 1 is gone"):
        export(make_evidence(engine), tmp_path / "bundle.zip")


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (
            "receipt_body",
            "UPDATE receipt_body SET payload = payload || ' '::bytea WHERE leaf_index = 1",
        ),
        ("receipt", "UPDATE receipt SET leaf_hash = sha256(leaf_hash) WHERE leaf_index = 1"),
        ("receipt", "DELETE FROM receipt WHERE leaf_index = 1"),
    ],
)
def test_rows_that_were_changed_end_the_export(
    engine: Engine,
    ledger: PostgresLedger,
    database_url: str,
    table: str,
    change: str,
    tmp_path: Path,
) -> None:
    ledger.commit([make_change() for _ in range(3)])
    tamper(database_url, table, change)
    with pytest.raises((LogFault, ValueError)):
        export(make_evidence(engine), tmp_path / "bundle.zip")


def test_a_range_that_is_too_large_is_refused_with_what_to_do(
    engine: Engine, ledger: PostgresLedger, tmp_path: Path
) -> None:
    ledger.commit([make_change() for _ in range(3)])
    small = make_evidence(engine, maximum_receipts=4)
    with pytest.raises(InvalidArgument, match=r"\[1, 6\) has 5 receipts; at most 4 go into one"):
        export(small, tmp_path / "bundle.zip", ExportRange(from_size=1))
    assert export(small, tmp_path / "bundle.zip", ExportRange(from_size=2)).receipts == 4


def recorded(moment: datetime) -> Change:
    """An action whose two receipts were recorded at a time."""
    made = make_change(receipts=0)
    action = replace(made.stored.action, created_at=moment, updated_at=moment)
    receipts: list[Receipt] = []
    for type_ in ("action.requested", "action.approved"):
        action, receipt = append_receipt(action, type_)
        receipts.append(receipt)
    stored = replace(made.stored, action=action)
    return replace(made, stored=stored, receipts=tuple(receipts))


def test_bounds_hold_every_receipt_of_the_time(engine: Engine, ledger: PostgresLedger) -> None:
    """Also where clocks of servers disagree, and the log is not in the order of time."""
    minutes = (0, 10, 5, 20, 15, 30, 6 * 60)
    for minute in minutes:
        ledger.commit([recorded(NOW + timedelta(minutes=minute))])
    store = PostgresEvidenceStore(engine)

    def bounds(since: int | None, until: int | None) -> tuple[int, int] | None:
        moments = (
            None if each is None else NOW + timedelta(minutes=each) for each in (since, until)
        )
        return store.bounds("acme", *moments)

    assert bounds(None, None) == (0, 14)
    assert bounds(10, None) == (2, 14)
    assert bounds(5, 11) == (2, 6)  # the action of 10 was committed before that of 5
    assert bounds(15, 21) == (6, 10)
    assert bounds(31, 60) is None
    assert bounds(31, 7 * 60) == (12, 14)
    assert store.bounds("globex", None, None) is None
    assert store.bounds("not a tenant", None, None) is None


def fill(ledger: PostgresLedger, thousands: int) -> None:
    """Append receipts to the log, thousands of them for each action."""
    for _ in range(thousands):
        ledger.commit([make_change(receipts=1_000)])


def growth_of_export(engine: Engine, path: Path) -> int:
    """By how much this process grew at most while it exported."""
    process = psutil.Process()
    before = peak = process.memory_info().rss
    with path.open("wb") as file:
        for event in make_evidence(engine).export(CALL, "acme", ExportRange()):
            if isinstance(event, ExportChunk):
                file.write(event.data)
            peak = max(peak, process.memory_info().rss)
    return peak - before


def test_the_memory_of_an_export_does_not_grow_with_its_range(
    engine: Engine, ledger: PostgresLedger, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.zip"
    fill(ledger, 5)
    growth_of_export(engine, path)  # what the first export takes is kept for the next one
    fill(ledger, 15)
    grown = growth_of_export(engine, path)
    with zipfile.ZipFile(path) as bundle:
        content = sum(info.file_size for info in bundle.infolist())
    assert content > 40_000_000
    assert grown < 20_000_000
