"""Replays out of the real database: pages, erasures, damage, and the same bytes every time."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from oars_grpc.core.action import Resource
from oars_grpc.core.builtin_policy import BUILTIN_POLICY
from oars_grpc.core.call import Call
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import KeyPurpose, KeyState
from oars_grpc.core.log import LogFault
from oars_grpc.core.note import parse_note
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.ports import Registry
from oars_grpc.core.replay_report import ReplayReport
from oars_grpc.core.replay_request import ReplayBegun, ReplayEnded, ReplayProgress, ReplayRequest
from oars_grpc.core.replay_verification import GivenReport, verify_report
from oars_grpc.core.stored import Change
from oars_grpc.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from oars_grpc.storage import replay_store
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.replay_store import PostgresReplayStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.replay import Replays
from oars_grpc.use_cases.signed_logs import SignedLogs
from tests.support.factories import (
    KEY_ENCRYPTION_KEY,
    NOW,
    make_change,
    make_policy,
    make_principal,
    make_request,
)
from tests.support.retention import RETENTION_DAYS, finished, make_retention, set_retention
from tests.support.tampering import rebuild_tree, tamper

AUDITOR = make_principal("spiffe://example/auditor", role=Role.AUDITOR)
PREFIX = "log.example"
DENY_ALL = PolicyDocument("deny", (Rule("NONE", Effect.DENY),))
READS_INPUT = PolicyDocument(
    "reads",
    (
        Rule("ALL", Effect.ALLOW),
        Rule("ODD", Effect.APPROVE, condition="input.issue % 2 == 1"),
    ),
)


def make_replays(engine: Engine) -> Replays:
    """What one replica has."""
    keyring = Keyring(KEY_ENCRYPTION_KEY, SystemChance(), SystemClock())
    registry, log_store = PostgresRegistryStore(engine), PostgresLogStore(engine)
    return Replays(
        store=PostgresReplayStore(engine),
        registry=registry,
        ledger=PostgresLedger(engine),
        receipts=PostgresReceiptStore(engine),
        logs=SignedLogs(store=log_store, registry=registry, keyring=keyring, prefix=PREFIX),
        keyring=keyring,
        policies=PolicyShelf(),
    )


def call(principal: Any = AUDITOR) -> Callable[[], Call]:
    return lambda: Call(principal, "ReplayPolicy", "req_1")


def request(document: PolicyDocument | None = DENY_ALL, **changes: Any) -> ReplayRequest:
    asked = ReplayRequest("acme", "", document, 0, 0, "", "", 3)
    return replace(asked, **changes)


def ended(replays: Replays, wanted: ReplayRequest) -> ReplayEnded:
    begun, *progress, last = replays.replay(call(), wanted)
    assert isinstance(begun, ReplayBegun)
    assert isinstance(last, ReplayEnded)
    told = [each.leaves for each in progress if isinstance(each, ReplayProgress)]
    assert len(told) == len(progress)
    assert told == sorted(told)
    assert not told or told[-1] == last.later.checkpoint.size - last.earlier.checkpoint.size
    return last


def verified(engine: Engine, last: ReplayEnded) -> ReplayReport:
    keys = PostgresReceiptStore(engine).list_keys("acme") or ()
    notes = parse_note(last.earlier.note), parse_note(last.later.note)
    return verify_report(GivenReport(last.report, *notes), keys)


def report_of(engine: Engine, wanted: ReplayRequest) -> ReplayReport:
    return verified(engine, ended(make_replays(engine), wanted))


def read(number: int, operation: str = "get_issue") -> Change:
    """An action of the built-in policy."""
    resource = Resource("github", operation, f"repo/{number}")
    return make_change(request=make_request(resource=resource, input={"issue": number}))


def effects(changes: Sequence[Change]) -> dict[Effect, int]:
    found = [change.stored.decision.effect for change in changes]
    return {effect: found.count(effect) for effect in found}


def test_the_policy_that_decided_changes_nothing(engine: Engine, ledger: PostgresLedger) -> None:
    operations = ("get_issue", "delete_repository", "transfer_funds")
    changes = [read(n, operations[n % 3]) for n in range(90)]
    ledger.commit(changes)
    assert effects(changes) == {Effect.ALLOW: 30, Effect.DENY: 30, Effect.APPROVE: 30}
    report = report_of(engine, request(BUILTIN_POLICY))
    counts = report.counts()
    assert (counts["decisions"], counts["unchanged"]) == (90, 90)
    assert {old: n for (old, new), n in report.transitions.items() if n and old is new} == effects(
        changes
    )
    assert {rule.rule_id for rule in report.rules} == {rule.id for rule in BUILTIN_POLICY.rules}
    assert sum(rule.deciding for rule in report.rules) > 0


def test_what_changes_is_counted_and_shown_in_the_order_of_the_log(
    engine: Engine, ledger: PostgresLedger
) -> None:
    ledger.commit([read(n) for n in range(20)])
    report = report_of(engine, request(READS_INPUT))
    counts = report.counts()
    assert (counts["newlyApprovalRequired"], counts["unchanged"]) == (10, 10)
    assert (counts["stricter"], counts["lessStrict"], counts["notReplayable"]) == (10, 0, 0)
    shown = report.examples["newlyApprovalRequired"]
    assert [example.leaf_index for example in shown] == [3, 7, 11]
    assert {example.rules for example in shown} == {("ODD",)}
    assert [(r.rule_id, r.counted, r.deciding) for r in report.rules] == [
        ("ALL", 20, 10),
        ("ODD", 10, 10),
    ]
    assert report.draft.facts == ("input",)


def test_a_range_within_the_log_counts_what_lies_in_it(
    engine: Engine, ledger: PostgresLedger
) -> None:
    ledger.commit([read(n) for n in range(10)])
    for first, last, decisions in ((0, 20, 10), (1, 20, 10), (2, 20, 9), (3, 4, 1), (4, 5, 0)):
        report = report_of(engine, request(from_size=first, to_size=last))
        assert report.counts()["decisions"] == decisions
        assert (report.range.first.size, report.range.last.size) == (first, last)
    assert report_of(engine, request(from_size=20)).counts()["decisions"] == 0


def test_the_same_range_and_draft_give_the_same_bytes(
    engine: Engine, ledger: PostgresLedger
) -> None:
    ledger.commit([read(n) for n in range(30)])
    wanted = request(READS_INPUT, from_size=5, to_size=55)
    first = ended(make_replays(engine), wanted)
    ledger.commit([read(n) for n in range(300, 340)])
    again = ended(make_replays(engine), wanted)
    by_note = request(READS_INPUT, from_note=first.earlier.note, to_note=first.later.note)
    by_checkpoints = ended(make_replays(engine), by_note)
    assert first == again == by_checkpoints
    other = ended(make_replays(engine), replace(wanted, examples=4))
    assert other.report != first.report


def test_after_a_rotation_only_the_signature_is_another(
    engine: Engine, ledger: PostgresLedger
) -> None:
    ledger.commit([read(1)])
    before = ended(make_replays(engine), request(to_size=2))
    keyring = Keyring(KEY_ENCRYPTION_KEY, SystemChance(), SystemClock())

    def rotate(registry: Registry) -> None:
        registry.lock_tenant("acme")
        old = registry.active_key("acme", KeyPurpose.RECEIPT)
        assert old is not None
        registry.update_key(replace(old.trusted, state=KeyState.RETIRED, valid_until=NOW))
        registry.insert_key(keyring.create("acme"))

    PostgresRegistryStore(engine).run("acme", rotate)
    after = ended(make_replays(engine), request(to_size=2))
    assert after.report.payload == before.report.payload
    assert after.report.signatures != before.report.signatures
    assert verified(engine, after) == verified(engine, before)


def test_erased_payloads_are_counted_and_never_guessed(
    engine: Engine, ledger: PostgresLedger
) -> None:
    set_retention(engine, "acme", RETENTION_DAYS)
    ledger.commit([read(1)])
    ledger.commit([finished(), finished()])
    ledger.commit([read(2)])
    make_retention(engine).erase_due()
    report = report_of(engine, request())
    counts = report.counts()
    # The erasure itself is an event, and no decision.
    assert (counts["decisions"], counts["newlyDenied"], counts["notReplayable"]) == (4, 2, 2)
    assert report.erased_leaves == 6
    reasons = [example.reason for example in report.examples["notReplayable"]]
    assert [reason.value for reason in reasons if reason] == ["payload_erased"] * 2


def test_pages_are_bounded_in_bytes_and_every_one_gets_on(
    engine: Engine, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.commit([read(n) for n in range(6)])
    store = PostgresReplayStore(engine)
    whole = store.leaves("acme", 0, 12, with_inputs=True)
    assert [each.leaf.index for each in whole] == list(range(12))
    assert [each.input is not None for each in whole] == [False, True] * 6
    assert all(each.input is None for each in store.leaves("acme", 0, 12, with_inputs=False))
    expected = ended(make_replays(engine), request(READS_INPUT))
    monkeypatch.setattr(replay_store, "PAGE_BYTES", 1)
    assert len(store.leaves("acme", 4, 12, with_inputs=True)) == 1
    assert ended(make_replays(engine), request(READS_INPUT)) == expected
    monkeypatch.setattr(replay_store, "PAGE_BYTES", 10_000)
    assert 1 < len(store.leaves("acme", 0, 12, with_inputs=True)) < 12
    monkeypatch.setattr(replay_store, "PAGE", 5)
    assert ended(make_replays(engine), request(READS_INPUT)) == expected


FLIP = "overlay({0} placing '\\x7a'::bytea from 40)"
OF_LEAF_5 = "SELECT action_id FROM receipt WHERE leaf_index = 5"
DAMAGE = {
    "payload": (
        f"UPDATE receipt_body SET payload = {FLIP.format('payload')} WHERE leaf_index = 5",
        "leaf 5 is not the hash of its payload",
    ),
    "leaf hash": (
        f"UPDATE receipt SET leaf_hash = {FLIP.format('leaf_hash')[:-4]} 1) WHERE leaf_index = 4",
        "",
    ),
    "payload gone": (
        "DELETE FROM receipt_body WHERE leaf_index = 3",
        "the payload of leaf 3 is gone, and no erasure tells of it",
    ),
    "leaf gone": (
        "DELETE FROM receipt WHERE leaf_index = 2",
        "",
    ),
    "input": (
        f"UPDATE action_body SET input = 'null' WHERE action_id = ({OF_LEAF_5})",
        "leaf 5 states another digest than that of the stored input",
    ),
    "row": (
        "UPDATE receipt SET action_id = 'act_x' WHERE leaf_index = 5",
        "the row of leaf 5 is not about its payload",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_log_gives_no_report(
    engine: Engine, ledger: PostgresLedger, database_url: str, name: str
) -> None:
    ledger.commit([read(n) for n in range(5)])
    statement, message = DAMAGE[name]
    tamper(database_url, statement)
    with pytest.raises(LogFault, match=f"log of tenant acme: .*{message}"):
        ended(make_replays(engine), request(READS_INPUT))


def test_a_log_written_anew_does_not_continue_a_kept_checkpoint(
    engine: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    ledger.commit([read(n) for n in range(5)])
    kept = ended(make_replays(engine), request())
    tamper(
        database_url,
        "UPDATE receipt SET leaf_hash = sha256(leaf_hash) WHERE leaf_index = 1",
    )
    rebuild_tree(database_url, "acme")
    with pytest.raises(FailedPrecondition) as refused:
        ended(make_replays(engine), request(to_note=kept.later.note))
    assert refused.value.reason == "LOG_DIVERGED"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"from_size": 11}, "from_size"),
        ({"to_size": 11}, "to_size"),
        ({"from_size": 6, "to_size": 5}, "from_size"),
        ({"from_note": "no note"}, "from_checkpoint"),
        ({"document": PolicyDocument("x", ())}, "document.rules"),
        (
            {"document": PolicyDocument("x", (Rule("R", Effect.DENY, condition="1 +"),))},
            "document.rules[0].condition",
        ),
    ],
)
def test_a_wrong_request_is_refused_by_field(
    engine: Engine, ledger: PostgresLedger, changes: dict[str, Any], field: str
) -> None:
    ledger.commit([read(n) for n in range(5)])
    with pytest.raises(InvalidArgument) as refused:
        ended(make_replays(engine), request(**changes))
    assert [each.field for each in refused.value.violations] == [field]


def test_a_stored_policy_is_named_in_the_report(engine: Engine, ledger: PostgresLedger) -> None:
    ledger.commit([read(1)])
    draft = make_policy(document=DENY_ALL)
    PostgresRegistryStore(engine).run("acme", lambda registry: registry.insert_policy(draft))
    report = report_of(engine, request(None, policy_id=draft.policy_id))
    assert report.draft.policy_id == draft.policy_id
    assert report.draft.digest == DENY_ALL.digest
    with pytest.raises(NotFound):
        ended(make_replays(engine), request(None, policy_id="pol_" + "0" * 26))


def test_the_policy_of_another_tenant_is_not_found(engine: Engine) -> None:
    draft = make_policy("globex", document=DENY_ALL)
    PostgresRegistryStore(engine).run("globex", lambda registry: registry.insert_policy(draft))
    with pytest.raises(NotFound):
        ended(make_replays(engine), request(None, policy_id=draft.policy_id))


def test_an_identity_replays_one_at_a_time(engine: Engine, ledger: PostgresLedger) -> None:
    ledger.commit([read(1)])
    replays = make_replays(engine)
    with closing(replays.replay(call(), request())) as first:
        next(first)
        with pytest.raises(ResourceExhausted, match="has a replay under way"):
            ended(replays, request())
        others = [replace(AUDITOR, subject=f"spiffe://example/{n}") for n in range(2)]
        with closing(replays.replay(call(others[0]), request())) as second:
            next(second)
            with pytest.raises(ResourceExhausted, match="as many as may be"):
                next(iter(replays.replay(call(others[1]), request())))
    assert ended(replays, request()).report.payload


def test_who_loses_the_tenant_meanwhile_gets_no_further(
    engine: Engine, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.commit([read(n) for n in range(5)])
    monkeypatch.setattr(replay_store, "PAGE", 2)
    identities = iter([AUDITOR, AUDITOR, replace(AUDITOR, tenant_ids=frozenset({"globex"}))])
    events = make_replays(engine).replay(
        lambda: Call(next(identities), "ReplayPolicy", "req_1"), request()
    )
    assert isinstance(next(events), ReplayBegun)
    assert isinstance(next(events), ReplayProgress)
    with pytest.raises(Exception, match="does not belong to tenant acme"):
        next(events)


def test_policies_in_between_are_all_compared_with_the_draft(
    engine: Engine, ledger: PostgresLedger
) -> None:
    ledger.commit([read(n) for n in range(3)])
    later = [read(n, "delete_repository") for n in range(2)]
    ledger.commit(later)
    draft = PolicyDocument(
        "d",
        (
            Rule("ALLOW", Effect.ALLOW, RuleMatch(operations=("delete_repository",))),
            Rule("HOLD", Effect.QUARANTINE, RuleMatch(operations=("get_issue",))),
        ),
    )
    counts = report_of(engine, request(draft)).counts()
    assert (counts["newlyAllowed"], counts["newlyQuarantined"]) == (2, 3)
    assert (counts["lessStrict"], counts["stricter"]) == (2, 3)
