"""The ledger's commits and reads."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import ApprovalDecision, ApprovalState, Verdict
from oars_grpc.core.call import StoredOutcome
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.ports import Ledger
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.stored import (
    ActionFilter,
    ApprovalFilter,
    Change,
    Committed,
    Replayed,
    StoredAction,
    Superseded,
)
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.database import check_ledger, publish_policy
from tests.support.factories import (
    NOW,
    as_read,
    make_approval,
    make_change,
    make_next_change,
    make_outcome,
    make_request,
    make_stored_key,
    make_tenant,
)

# The class satisfies the port; mypy checks it.
_: type[Ledger] = PostgresLedger


def _with_approval(change: Change) -> Change:
    approval = make_approval(change.stored.action)
    action = replace(change.stored.action, approval_id=approval.approval_id)
    return replace(change, stored=replace(change.stored, action=action), approval=approval)


def test_a_created_action_reads_back_as_it_was(ledger: PostgresLedger) -> None:
    change = make_change()
    assert ledger.commit([change]) == [Committed()]
    assert ledger.find_action(["acme"], change.stored.action.action_id) == as_read(change.stored)


def test_an_input_is_kept_in_its_canonical_bytes_and_not_read_with_the_action(
    ledger: PostgresLedger, database_url: str
) -> None:
    value = {"b": 1e20, "a": "Größe", "deep": [{"x": None}, 0.1]}
    change = make_change(request=make_request(input=value))
    ledger.commit([change])
    ledger.commit([make_next_change(as_read(change.stored))])
    found = ledger.find_action(["acme"], change.stored.action.action_id)
    assert found is not None
    assert found.action.request.input is None
    assert [one.action.request.input for one in _list(ledger)] == [None]
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT action_id, input FROM action_body").fetchall()
    assert rows == [(found.action.action_id, canonical_json(value))]
    assert found.action.input_digest == sha256_hex(rows[0][1])


def test_an_action_is_not_created_without_its_input(ledger: PostgresLedger) -> None:
    change = make_change()
    unread = replace(change, stored=as_read(change.stored))
    with pytest.raises(ValueError, match="not read"):
        ledger.commit([unread])
    assert _list(ledger) == []


def test_a_decision_commits_only_under_the_revision_it_rests_on(
    ledger: PostgresLedger, engine: Engine, database_url: str
) -> None:
    before = ledger.basis("acme", None)
    assert before.revision == 2
    decided = make_change(outcome=make_outcome(), expected_revision=2)
    assert ledger.commit([decided]) == [Committed()]
    publish_policy(engine, "acme")
    now = ledger.basis("acme", None)
    assert (now.revision, now.policy.version) == (3, 2)
    late = make_change(outcome=make_outcome(key="late"), expected_revision=2)
    results = ledger.commit(
        [
            late,
            make_change("globex", expected_revision=2),
            make_change(),
            make_change(outcome=decided.outcome, expected_revision=2),
        ]
    )
    assert results == [Superseded(), Committed(), Committed(), Replayed(_outcome(decided))]
    # The refused change has not claimed its key: decided again, it commits under it.
    assert ledger.basis("acme", _outcome(late).scope).outcome is None
    assert ledger.find_action(["acme"], late.stored.action.action_id) is None
    assert ledger.commit([replace(late, expected_revision=3)]) == [Committed()]
    assert ledger.commit([make_change(expected_revision=4)]) == [Superseded()]
    assert check_ledger(database_url) == 8


def test_a_transition_changes_the_action_and_adds_its_receipt(
    ledger: PostgresLedger, engine: Engine
) -> None:
    created = make_change()
    ledger.commit([created])
    change = make_next_change(created.stored, output_digest="d" * 64, expires_at=None)
    assert ledger.commit([change]) == [Committed()]
    action_id = created.stored.action.action_id
    assert ledger.find_action(["acme"], action_id) == as_read(change.stored)
    store = PostgresReceiptStore(engine)
    chain = [
        found.receipt.sequence
        for found in store.search_receipts(
            "acme", ReceiptFilter(action_id=action_id), "", -1, 5
        ).receipts
    ]
    assert chain == [1, 2, 3]
    last = store.find_receipt(["acme"], change.receipts[0].receipt_id)
    assert last is not None
    assert last.receipt == change.receipts[0]


def test_a_stale_version_writes_nothing(ledger: PostgresLedger, engine: Engine) -> None:
    created = make_change()
    ledger.commit([created])
    first = make_next_change(created.stored)
    second = make_next_change(created.stored, ActionState.FAILED, outcome=make_outcome())
    assert ledger.commit([first]) == [Committed()]
    assert ledger.commit([second]) == [Superseded()]
    assert ledger.find_action(["acme"], created.stored.action.action_id) == as_read(first.stored)
    assert second.outcome is not None
    assert ledger.basis("acme", second.outcome.scope).outcome is None
    assert (
        len(
            PostgresReceiptStore(engine)
            .search_receipts("acme", ReceiptFilter(), "", -1, 10)
            .receipts
        )
        == 3
    )


def test_a_repeated_key_gets_the_first_outcome_and_writes_nothing(ledger: PostgresLedger) -> None:
    first = make_change(outcome=make_outcome(response=b"\x00first\xff"))
    repeated = make_change(outcome=make_outcome(response=b"second"))
    assert ledger.commit([first]) == [Committed()]
    assert ledger.commit([repeated]) == [Replayed(_outcome(first))]
    assert ledger.find_action(["acme"], repeated.stored.action.action_id) is None


def test_a_repeated_transition_is_a_replay_although_its_version_has_moved(
    ledger: PostgresLedger,
) -> None:
    created = make_change()
    ledger.commit([created])
    change = make_next_change(created.stored, outcome=make_outcome())
    assert ledger.commit([change]) == [Committed()]
    repeated = make_next_change(created.stored, outcome=make_outcome(response=b"again"))
    assert ledger.commit([repeated]) == [Replayed(_outcome(change))]


def test_one_batch_settles_each_change_by_itself(ledger: PostgresLedger, engine: Engine) -> None:
    known = make_change(outcome=make_outcome(key="known"))
    moved = make_change()
    ledger.commit([known, moved, make_change("globex")])
    ledger.commit([make_next_change(moved.stored)])
    fresh = make_change(outcome=make_outcome(key="fresh"))
    results = ledger.commit(
        [
            make_change(outcome=make_outcome(key="known")),
            make_next_change(moved.stored, ActionState.FAILED),
            fresh,
            make_change("globex", outcome=make_outcome("globex", key="known")),
            make_change(outcome=make_outcome(key="fresh", response=b"late")),
            make_next_change(known.stored),
            make_next_change(known.stored, ActionState.FAILED),
        ]
    )
    assert results == [
        Replayed(_outcome(known)),
        Superseded(),
        Committed(),
        Committed(),
        Replayed(_outcome(fresh)),
        Committed(),
        Superseded(),
    ]
    receipts = PostgresReceiptStore(engine)
    for tenant_id, count in (("acme", 8), ("globex", 4)):
        stored = receipts.search_receipts(tenant_id, ReceiptFilter(), "", -1, 100).receipts
        assert [entry.leaf_index for entry in stored] == list(range(count))


def test_within_a_batch_a_key_is_free_again_if_its_first_holder_was_superseded(
    ledger: PostgresLedger,
) -> None:
    created = make_change()
    ledger.commit([created])
    ledger.commit([make_next_change(created.stored)])
    outcome = make_outcome()
    stale = make_next_change(created.stored, ActionState.FAILED, outcome=outcome)
    assert ledger.commit([stale, make_change(outcome=outcome)]) == [Superseded(), Committed()]


def test_within_a_batch_an_action_is_created_once(ledger: PostgresLedger) -> None:
    change = make_change()
    assert ledger.commit([change, change]) == [Committed(), Superseded()]
    assert ledger.commit([change]) == [Superseded()]


def test_within_a_batch_an_action_may_be_created_and_then_changed(ledger: PostgresLedger) -> None:
    created = make_change()
    following = make_next_change(created.stored)
    assert ledger.commit([created, following]) == [Committed(), Committed()]
    assert ledger.find_action(["acme"], created.stored.action.action_id) == as_read(
        following.stored
    )


def test_an_approval_is_opened_decided_and_kept_from_a_second_decision(
    ledger: PostgresLedger,
) -> None:
    created = _with_approval(make_change(state=ActionState.APPROVAL_REQUIRED))
    approval = created.approval
    assert approval is not None
    assert ledger.commit([created]) == [Committed()]
    assert ledger.find_approval(["globex", "acme"], approval.approval_id) == approval
    decided = replace(
        approval,
        state=ApprovalState.APPROVED,
        decisions=(ApprovalDecision("spiffe://example/bob", Verdict.APPROVE, "ok ✓", NOW),),
        version=2,
    )
    change = replace(
        make_next_change(created.stored, ActionState.APPROVED),
        approval=decided,
        expected_approval_version=1,
    )
    assert ledger.commit([change]) == [Committed()]
    assert ledger.find_approval(["acme"], approval.approval_id) == decided
    stale = replace(make_next_change(change.stored), approval=decided, expected_approval_version=1)
    assert ledger.commit([stale]) == [Superseded()]
    assert ledger.find_action(["acme"], created.stored.action.action_id) == as_read(change.stored)


def test_what_belongs_to_another_tenant_is_not_found(
    ledger: PostgresLedger, engine: Engine
) -> None:
    change = _with_approval(make_change())
    approval, action_id = change.approval, change.stored.action.action_id
    assert approval is not None
    ledger.commit([change])
    receipts = PostgresReceiptStore(engine)
    for tenant_ids in (["globex"], [], ["*"], ["acme,globex"], ["Acme"]):
        assert ledger.find_action(tenant_ids, action_id) is None
        assert ledger.find_approval(tenant_ids, approval.approval_id) is None
        assert receipts.find_receipt(tenant_ids, change.receipts[0].receipt_id) is None
        assert receipts.find_in_log(tenant_ids, change.receipts[1].receipt_id, 5) is None
    assert receipts.find_receipt(["acme"], change.receipts[0].receipt_id) is not None
    for tenant_id in ("globex", "*", "nobody"):
        assert ledger.list_actions(tenant_id, ActionFilter(), "", 10) == []
        assert ledger.list_approvals(tenant_id, ApprovalFilter(), "", 10) == []
        assert receipts.search_receipts(tenant_id, ReceiptFilter(), "", -1, 10).receipts == ()


def test_lists_filter_and_page_from_the_newest(ledger: PostgresLedger) -> None:
    changes = [
        _with_approval(make_change(state=state, request=make_request(input={"issue": number})))
        for number, state in enumerate(
            (ActionState.APPROVAL_REQUIRED, ActionState.DENIED, ActionState.DENIED)
        )
    ]
    ledger.commit(changes)
    stored = [as_read(change.stored) for change in reversed(changes)]
    assert ledger.list_actions("acme", ActionFilter(), "", 10) == stored
    assert ledger.list_actions("acme", ActionFilter(), stored[0].action.action_id, 1) == [stored[1]]
    assert ledger.list_actions("acme", ActionFilter(ActionState.DENIED), "", 10) == stored[:2]
    assert ledger.list_actions("acme", ActionFilter(agent_id="agent-1"), "", 10) == stored
    assert ledger.list_actions("acme", ActionFilter(agent_id="agent-2"), "", 10) == []
    approvals = [change.approval for change in reversed(changes)]
    assert approvals[0] is not None
    assert ledger.list_approvals("acme", ApprovalFilter(), "", 10) == approvals
    before = approvals[0].approval_id
    pending = ApprovalFilter(ApprovalState.PENDING)
    assert ledger.list_approvals("acme", pending, before, 10) == approvals[1:]
    assert ledger.list_approvals("acme", ApprovalFilter(ApprovalState.EXPIRED), "", 10) == []


def test_a_basis_holds_tenant_policy_key_and_stored_outcome(ledger: PostgresLedger) -> None:
    change = make_change(outcome=make_outcome())
    scope = _outcome(change).scope
    basis = ledger.basis("acme", scope)
    assert basis.tenant == make_tenant("acme")
    assert (basis.policy.version, basis.policy.state.value) == (1, "published")
    assert basis.signing_key == make_stored_key("acme")
    assert basis.outcome is None
    ledger.commit([change])
    again = replace(scope, fingerprint="0" * 64)
    assert ledger.basis("acme", again).outcome == change.outcome
    assert ledger.basis("acme", None).outcome is None


def test_a_basis_needs_a_tenant_that_is_ready(ledger: PostgresLedger, engine: Engine) -> None:
    for tenant_id in ("nobody", "*", "acme,globex", ""):
        with pytest.raises(NotFound):
            ledger.basis(tenant_id, None)
    bare = make_tenant("bare")
    assert PostgresRegistryStore(engine).run("bare", lambda r: r.insert_tenant(bare))
    with pytest.raises(FailedPrecondition):
        ledger.basis("bare", None)


def test_a_change_that_is_not_of_one_piece_is_refused(ledger: PostgresLedger) -> None:
    change, other = make_change(), make_change("globex")
    wrong = [
        replace(change, receipts=other.receipts),
        replace(change, receipts=()),
        replace(change, outcome=make_outcome("globex")),
        replace(change, approval=make_approval(other.stored.action)),
        replace(change, expected_action_version=1),
        make_change("*"),
    ]
    for entry in wrong:
        with pytest.raises(ValueError):
            ledger.commit([entry])
    assert ledger.commit([]) == []


def test_an_action_of_an_unknown_tenant_is_not_written(ledger: PostgresLedger) -> None:
    change = make_change("nobody", outcome=make_outcome("nobody"))
    with pytest.raises(RuntimeError):
        ledger.commit([change])
    assert ledger.find_action(["nobody"], change.stored.action.action_id) is None


def test_times_keep_their_microseconds_and_utc(ledger: PostgresLedger) -> None:
    moment = NOW + timedelta(microseconds=1)
    change = make_change(expires_at=moment)
    ledger.commit([change])
    found = ledger.find_action(["acme"], change.stored.action.action_id)
    assert found is not None
    assert found.action.expires_at == moment
    assert str(found.action.created_at) == "2026-03-01 12:00:00.123456+00:00"


def _list(ledger: PostgresLedger) -> Sequence[StoredAction]:
    return ledger.list_actions("acme", ActionFilter(), "", 100)


def _outcome(change: Change) -> StoredOutcome:
    assert change.outcome is not None
    return change.outcome
