"""The write path: many changes, each wholly or not at all, in one transaction.

    1  lock actions and approvals, in order  a crash here or anywhere before COMMIT leaves nothing:
    2  lock the heads of the logs, in order  the server rolls the open transaction back, its locks
    3  claim the idempotency keys, in order  and claims end with it, and whoever waits for one of
    4  write actions, approvals, receipts    them goes on as if this transaction had never been
    5  COMMIT                                a crash after it leaves everything, perhaps without an
                                             answer to the caller; the idempotency key repeats it

All transactions take their locks in this order, and within a step in the order of their keys, so
that two of them do not wait for each other in a circle. An administrator's transaction locks its
tenant before the head, and no commit locks a tenant; the purge of outcomes waits for nobody.

The head has the revision of what decisions rest on (the tenant's settings, its published policy,
its keys), and whoever changes any of these raises it: a decision commits under a head of the
revision that it rests on, or not at all. That is known before step 3, so that a change that is
refused leaves its key to whoever tries again. All of a tenant's keys are claimed under its head: of
two calls under one key the second waits there, and finds the outcome of the first.

Signatures, digests and rows are made before; nothing is computed while the heads are locked. There
is no NOTIFY: it would take a lock over the commits of the whole server (workers are woken after
COMMIT, and poll besides).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from oars_grpc.core.approval import Approval
from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.stored import Change, CommitResult, Committed, Replayed, Superseded
from oars_grpc.core.tenant import TENANT_ID
from oars_grpc.storage import tables
from oars_grpc.storage.batch import insert_into
from oars_grpc.storage.binary import texts
from oars_grpc.storage.codecs import outcome_of, outcome_row
from oars_grpc.storage.commit_rows import PreparedChange, write_rows
from oars_grpc.storage.log_append import Head, queue_lock
from oars_grpc.storage.pending_approvals import find_pending, pending_key
from oars_grpc.storage.prepared import Session, Statement, statement
from oars_grpc.storage.transaction import Collision

# (tenant, id) of an action or approval; (tenant, caller, rpc, key) of an idempotency key.
Key = tuple[str, ...]

# A lateral subquery with a lock is executed for one key after the other, in the order given, by
# the primary key: neither the order of the locks nor the cost hangs on what the planner guesses.
_LOCK_ACTIONS = statement(
    "lock actions",
    "SELECT wanted.tenant_id, wanted.action_id, found.version"
    " FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, action_id), LATERAL ("
    "SELECT version FROM action WHERE tenant_id = wanted.tenant_id"
    " AND action_id = wanted.action_id FOR UPDATE) AS found",
)
_LOCK_APPROVALS = statement(
    "lock approvals",
    "SELECT wanted.tenant_id, wanted.approval_id, found.version"
    " FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, approval_id), LATERAL ("
    "SELECT version FROM approval WHERE tenant_id = wanted.tenant_id"
    " AND approval_id = wanted.approval_id FOR UPDATE) AS found",
)
_CLAIM_KEYS = insert_into(
    tables.idempotency_outcome,
    " ON CONFLICT DO NOTHING RETURNING tenant_id, caller, rpc, key",
)
_OUTCOME_COLUMNS = (
    "tenant_id",
    "caller",
    "rpc",
    "key",
    "fingerprint",
    "response",
    "created_at",
    "expires_at",
)
_FIND_OUTCOMES = statement(
    "find outcomes",
    f"SELECT {', '.join(f'found.{name}' for name in _OUTCOME_COLUMNS)}"  # noqa: S608 - names of our own
    " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])"
    " AS wanted (tenant_id, caller, rpc, key), LATERAL ("
    "SELECT * FROM idempotency_outcome AS o"
    " WHERE o.tenant_id = wanted.tenant_id AND o.caller = wanted.caller"
    " AND o.rpc = wanted.rpc AND o.key = wanted.key LIMIT 1) AS found",
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A change and its place among the results."""

    position: int
    prepared: PreparedChange

    @property
    def change(self) -> Change:
        return self.prepared.change


@dataclass(slots=True)
class _Locked:
    """The rows that the transaction has locked, as its rounds leave them: nobody else can."""

    actions: dict[Key, int]
    approvals: dict[Key, int]
    heads: dict[str, Head]

    def is_as_expected(self, change: Change) -> bool:
        """Whether what the change rests on is still so."""
        revision = change.expected_revision
        if revision not in (None, self.heads[_tenant_of(change)].revision):
            return False
        if self.actions.get(_action_key(change), 0) != change.expected_action_version:
            return False
        if change.approval is None:
            return True
        stored = self.approvals.get(_approval_key(change.approval), 0)
        return stored == change.expected_approval_version

    def advance(self, change: Change) -> None:
        """The change is written: the next round rests on what it left."""
        self.actions[_action_key(change)] = change.stored.action.version
        if change.approval is not None:
            self.approvals[_approval_key(change.approval)] = change.approval.version


def check_change(change: Change) -> None:
    """Refuse a change that is not of one piece: a fault of the program, never of a caller.

    Raises:
        ValueError: it mixes tenants or actions, does not raise a version, leaves no receipt, or
            its tenant's id is none.
    """
    action, tenant_id = change.stored.action, change.stored.action.request.tenant_id
    if not TENANT_ID.fullmatch(tenant_id):
        raise ValueError(f"{tenant_id!r} is not the id of a tenant")
    if action.version <= change.expected_action_version:
        raise ValueError(f"the change does not raise the version of {action.action_id}")
    if not change.receipts:
        raise ValueError(f"the change of {action.action_id} leaves no receipt")
    for receipt in change.receipts:
        if (receipt.tenant_id, receipt.action_id) != (tenant_id, action.action_id):
            raise ValueError(f"receipt {receipt.receipt_id} is not of action {action.action_id}")
    approval = change.approval
    if approval is not None:
        if (approval.tenant_id, approval.action_id) != (tenant_id, action.action_id):
            raise ValueError(f"approval {approval.approval_id} is not of {action.action_id}")
        if approval.version <= change.expected_approval_version:
            raise ValueError(f"the change does not raise the version of {approval.approval_id}")
    if change.outcome is not None and change.outcome.scope.tenant_id != tenant_id:
        raise ValueError(f"the outcome is not of the tenant of {action.action_id}")


def apply_changes(session: Session, changes: Sequence[PreparedChange]) -> list[CommitResult]:
    """Steps 1 to 4; the caller commits. One result for each change, in their order."""
    locked = _lock(session, [prepared.change for prepared in changes])
    results: dict[int, CommitResult] = {}
    for entries in _rounds(changes):
        results.update(_apply_round(session, locked, entries))
    return [results[position] for position in range(len(changes))]


def _lock(session: Session, changes: Sequence[Change]) -> _Locked:
    """Steps 1 and 2, for all rounds at once."""
    approvals = [change.approval for change in changes if change.approval is not None]
    # In this order, and in one round trip.
    actions = _queue_versions(session, _LOCK_ACTIONS, map(_action_key, changes))
    opened = _queue_versions(session, _LOCK_APPROVALS, map(_approval_key, approvals))
    heads = queue_lock(session, map(_tenant_of, changes))
    session.flush()
    return _Locked(actions=_versions(actions), approvals=_versions(opened), heads=heads())


def _queue_versions(
    session: Session, statement: Statement, keys: Iterable[Key]
) -> Sequence[tuple[Any, ...]]:
    wanted = sorted(set(keys))
    return session.queue_rows(statement, _key_arrays(wanted)) if wanted else ()


def _versions(rows: Sequence[tuple[Any, ...]]) -> dict[Key, int]:
    return {(tenant_id, thing_id): version for tenant_id, thing_id, version in rows}


def _rounds(changes: Sequence[PreparedChange]) -> Iterator[list[_Entry]]:
    """Split off what touches the same key, action or approval as a change before it.

    Such changes follow one another in rounds of the same transaction, and each meets the outcome
    of the one before as if that were committed: the first wins. Hardly ever is there a second.
    """
    rounds: list[list[_Entry]] = []
    last_round: dict[tuple[str, Key], int] = {}
    for position, prepared in enumerate(changes):
        change = prepared.change
        touched = [("action", _action_key(change))]
        if change.approval is not None:
            touched.append(("approval", _approval_key(change.approval)))
            if not change.expected_action_version:
                touched.append(("pending", pending_key(change.approval)))
        if change.outcome is not None:
            touched.append(("key", _scope_key(change.outcome.scope)))
        number = max(last_round.get(thing, -1) for thing in touched) + 1
        last_round.update(dict.fromkeys(touched, number))
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(_Entry(position, prepared))
    yield from rounds


def _apply_round(
    session: Session, locked: _Locked, entries: Sequence[_Entry]
) -> dict[int, CommitResult]:
    current = [entry for entry in entries if locked.is_as_expected(entry.change)]
    current = _without_second_approvals(session, current)
    positions = {entry.position for entry in current}
    claimed = _claim_keys(session, current)
    won = [entry for entry in current if _wins(entry.change, claimed)]
    results: dict[int, CommitResult] = {entry.position: Committed() for entry in won}
    lost = [entry for entry in entries if entry.position not in results]
    outcomes = _find_outcomes(session, lost)
    for entry in lost:
        scope = None if entry.change.outcome is None else entry.change.outcome.scope
        stored = None if scope is None else outcomes.get(_scope_key(scope))
        if stored is not None:
            # Also where a version has moved: it was moved by the call that this one repeats.
            results[entry.position] = Replayed(stored)
        elif entry.position in positions:
            # The key was taken, and now it is free: its outcome was purged between two statements.
            raise Collision("an idempotency key expired under the transaction")
        else:
            results[entry.position] = Superseded()
    if won:
        write_rows(session, [entry.prepared for entry in won], locked.heads)
        for entry in won:
            locked.advance(entry.change)
    return results


def _without_second_approvals(session: Session, entries: list[_Entry]) -> list[_Entry]:
    """Leave out new actions that would open a second approval for the same: they join the first.

    The heads are locked, so that nobody opens one between this look and the writing.
    """

    def opened(entry: _Entry) -> Approval | None:
        return None if entry.change.expected_action_version else entry.change.approval

    approvals = [approval for entry in entries if (approval := opened(entry)) is not None]
    if not approvals:
        return entries
    taken = find_pending(session, approvals)
    return [
        entry
        for entry in entries
        if (approval := opened(entry)) is None or pending_key(approval) not in taken
    ]


def _claim_keys(session: Session, entries: Sequence[_Entry]) -> set[Key]:
    """Step 3: those of the keys that were free and now are taken."""
    outcomes = [entry.change.outcome for entry in entries if entry.change.outcome is not None]
    if not outcomes:
        return set()
    outcomes.sort(key=lambda outcome: _scope_key(outcome.scope))
    parameters = _CLAIM_KEYS.parameters([outcome_row(outcome) for outcome in outcomes])
    return set(session.rows(_CLAIM_KEYS.statement, parameters))


def _wins(change: Change, claimed: set[Key]) -> bool:
    return change.outcome is None or _scope_key(change.outcome.scope) in claimed


def _find_outcomes(session: Session, lost: Sequence[_Entry]) -> dict[Key, StoredOutcome]:
    wanted = [
        _scope_key(entry.change.outcome.scope) for entry in lost if entry.change.outcome is not None
    ]
    if not wanted:
        return {}
    rows = session.rows(_FIND_OUTCOMES, _key_arrays(wanted))
    outcomes = [outcome_of(dict(zip(_OUTCOME_COLUMNS, row, strict=True))) for row in rows]
    return {_scope_key(outcome.scope): outcome for outcome in outcomes}


def _key_arrays(keys: Sequence[Key]) -> list[bytes]:
    return [texts(column) for column in zip(*keys, strict=True)]


def _tenant_of(change: Change) -> str:
    return change.stored.action.request.tenant_id


def _action_key(change: Change) -> Key:
    return (_tenant_of(change), change.stored.action.action_id)


def _approval_key(approval: Approval) -> Key:
    return (approval.tenant_id, approval.approval_id)


def _scope_key(scope: IdempotencyScope) -> Key:
    return (scope.tenant_id, scope.caller, scope.rpc, scope.key)
