"""Actions, approvals and receipts on Postgres: the port `Ledger`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Select, select

from oars_grpc.core.approval import Approval
from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.stored import (
    ActionBody,
    ActionFilter,
    ApprovalFilter,
    Basis,
    Change,
    CommitResult,
    StoredAction,
)
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.storage import approval_tables, tables
from oars_grpc.storage.approval_codecs import approval_of
from oars_grpc.storage.binary import texts
from oars_grpc.storage.codecs import outcome_of, policy_of, stored_key_of, tenant_of
from oars_grpc.storage.commit import apply_changes, check_change
from oars_grpc.storage.commit_rows import PreparedChange, prepare
from oars_grpc.storage.ledger_codecs import action_of
from oars_grpc.storage.prepared import statement
from oars_grpc.storage.transaction import read, read_page, valid_tenants, write_prepared

# One statement is one snapshot: tenant, policy, revision, key and outcome belong together. Every
# tenant has one row, with NULLs for what it lacks.
_BASIS = """
SELECT
    t.tenant_id, t.display_name, t.settings, t.created_at, t.version,
    p.policy_id, p.version, p.digest, p.document, p.created_at, p.created_by, h.revision,
    k.key_id, k.public_key, k.encrypted_seed, k.state, k.valid_from, k.valid_until,
    k.revoked_at, k.revocation_reason, k.purpose, k.trusted_log_size,
    o.fingerprint, o.response, o.created_at, o.expires_at
FROM tenant AS t
JOIN log_head AS h ON h.tenant_id = t.tenant_id
LEFT JOIN LATERAL (
    SELECT policy_id FROM policy_publication
    WHERE tenant_id = t.tenant_id ORDER BY sequence DESC LIMIT 1
) AS published ON true
LEFT JOIN policy AS p ON p.tenant_id = t.tenant_id AND p.policy_id = published.policy_id
LEFT JOIN LATERAL (
    SELECT key_id, public_key, encrypted_seed, state, valid_from, valid_until, revoked_at,
        revocation_reason, purpose, trusted_log_size
    FROM signing_key
    WHERE tenant_id = t.tenant_id AND purpose = 'receipt' AND state = 'active'
    ORDER BY valid_from DESC, key_id LIMIT 1
) AS k ON true
LEFT JOIN idempotency_outcome AS o ON o.tenant_id = t.tenant_id
    AND o.caller = %s AND o.rpc = %s AND o.key = %s
WHERE t.tenant_id = %s
"""
_ACTION_COLUMNS = tuple(tables.action.columns.keys())
_FIND_ACTION = statement(
    "find action",
    f"SELECT {', '.join(_ACTION_COLUMNS)} FROM action"  # noqa: S608 - names from our own metadata
    " WHERE tenant_id = ANY ($1::text[]) AND action_id = $2::text",
)
_TENANT_COLUMNS = ("tenant_id", "display_name", "settings", "created_at", "version")
# The policy of a basis is the published one, and that is never archived.
_PUBLISHED = {"policy_state": "published", "archived_at": None, "archived_by": None}
_POLICY_COLUMNS = (
    "policy_id",
    "version",
    "digest",
    "document",
    "created_at",
    "created_by",
    "revision",
)
_KEY_COLUMNS = (
    "key_id",
    "public_key",
    "encrypted_seed",
    "state",
    "valid_from",
    "valid_until",
    "revoked_at",
    "revocation_reason",
    "purpose",
    "trusted_log_size",
)
_OUTCOME_COLUMNS = ("fingerprint", "response", "created_at", "expires_at")


def prepared_changes(changes: Sequence[Change]) -> list[PreparedChange]:
    """Check the changes and make their rows; the transaction then only sends them."""
    for change in changes:
        check_change(change)
    return [prepare(change) for change in changes]


class PostgresLedger:
    """The ledger in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def basis(self, tenant_id: str, scope: IdempotencyScope | None) -> Basis:
        """What a decision in the tenant rests on, with any outcome stored under the scope.

        An expired outcome counts until it is purged, as it does for `commit`, whose claim on the
        key it would stop: outcomes are kept at least until they expire (design §5), not exactly.

        Raises:
            NotFound: there is no such tenant.
            FailedPrecondition: the tenant has no published policy or no active signing key.
        """
        if not valid_tenants([tenant_id]):
            raise NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")
        key = (scope.caller, scope.rpc, scope.key) if scope is not None else (None, None, None)

        def work(connection: Connection) -> Sequence[object] | None:
            return connection.exec_driver_sql(_BASIS, (*key, tenant_id)).one_or_none()

        row = read(self._engine, [tenant_id], work)
        if row is None:
            raise NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")
        return _basis_of(tenant_id, scope, list(row))

    def commit(self, changes: Sequence[Change]) -> Sequence[CommitResult]:
        """Commit changes, each wholly or not at all, in one transaction; one result for each.

        See `commit` for the steps and what a crash after each of them leaves.
        """
        return self.commit_prepared(prepared_changes(changes))

    def commit_prepared(self, changes: Sequence[PreparedChange]) -> Sequence[CommitResult]:
        """As `commit`, of changes whose rows are made."""
        if not changes:
            return []
        tenant_ids = sorted({entry.change.stored.action.request.tenant_id for entry in changes})
        return write_prepared(
            self._engine, tenant_ids, lambda session: apply_changes(session, changes)
        )

    def find_action(self, tenant_ids: Sequence[str], action_id: str) -> StoredAction | None:
        """The action without its input, if it belongs to one of the tenants."""
        valid = valid_tenants(tenant_ids)
        if not valid:
            return None
        parameters = [texts(valid), action_id.encode()]
        rows = write_prepared(
            self._engine, valid, lambda session: session.rows(_FIND_ACTION, parameters)
        )
        return action_of(dict(zip(_ACTION_COLUMNS, rows[0], strict=True))) if rows else None

    def find_approval(self, tenant_ids: Sequence[str], approval_id: str) -> Approval | None:
        """The approval, if it belongs to one of the tenants."""
        query = select(approval_tables.approval).where(
            approval_tables.approval.c.tenant_id.in_(valid_tenants(tenant_ids)),
            approval_tables.approval.c.approval_id == approval_id,
        )
        row = self._first(tenant_ids, query)
        return None if row is None else approval_of(row)

    def find_body(self, tenant_id: str, action_id: str) -> ActionBody | None:
        """What of an action retention may erase; None where it was."""
        body = tables.action_body
        query = select(body.c.input, body.c.evidence).where(
            body.c.tenant_id == tenant_id, body.c.action_id == action_id
        )
        row = self._first([tenant_id], query)
        return None if row is None else ActionBody(bytes(row["input"]), bytes(row["evidence"]))

    def find_pending(
        self, tenant_id: str, action_digest: str, policy_digest: str, now: datetime
    ) -> Approval | None:
        """The approval for which the same action waits already, under the same policy."""
        columns = approval_tables.approval.c
        query = select(approval_tables.approval).where(
            columns.tenant_id == tenant_id,
            columns.action_digest == action_digest,
            columns.policy_digest == policy_digest,
            columns.state == "pending",
            columns.expires_at > now,
        )
        row = self._first([tenant_id], query.order_by(columns.approval_id).limit(1))
        return None if row is None else approval_of(row)

    def list_actions(
        self, tenant_id: str, which: ActionFilter, before: str, limit: int
    ) -> Sequence[StoredAction]:
        """Actions with ids below `before` (empty: from the newest), newest first.

        They come without inputs.
        """
        columns = tables.action.c
        query = select(tables.action).where(columns.tenant_id == tenant_id)
        if which.state is not None:
            query = query.where(columns.state == which.state.value)
        if which.agent_id:
            query = query.where(columns.agent_id == which.agent_id)
        if which.caller_subject:
            query = query.where(columns.caller_subject == which.caller_subject)
        if before:
            query = query.where(columns.action_id < before)
        query = query.order_by(columns.action_id.desc())
        return [action_of(row) for row in self._page(tenant_id, query, limit)]

    def list_approvals(
        self, tenant_id: str, which: ApprovalFilter, before: str, limit: int
    ) -> Sequence[Approval]:
        """Approvals with ids below `before` (empty: from the newest), newest first."""
        columns = approval_tables.approval.c
        query = select(approval_tables.approval).where(columns.tenant_id == tenant_id)
        if which.state is not None:
            query = query.where(columns.state == which.state.value)
        if before:
            query = query.where(columns.approval_id < before)
        query = query.order_by(columns.approval_id.desc())
        return [approval_of(row) for row in self._page(tenant_id, query, limit)]

    def _first(
        self, tenant_ids: Sequence[str], query: Select[*tuple[object, ...]]
    ) -> RowMapping | None:
        if not valid_tenants(tenant_ids):
            return None
        return read(
            self._engine,
            tenant_ids,
            lambda connection: connection.execute(query).mappings().first(),
        )

    def _page(
        self, tenant_id: str, query: Select[*tuple[object, ...]], limit: int
    ) -> Sequence[RowMapping]:
        if not valid_tenants([tenant_id]):
            return []
        page = query.limit(limit)
        return read_page(
            self._engine,
            [tenant_id],
            lambda connection: connection.execute(page).mappings().all(),
        )


def _basis_of(tenant_id: str, scope: IdempotencyScope | None, values: list[Any]) -> Basis:
    # Several of the columns have the same name: they are taken apart by their order.
    def take(names: Sequence[str]) -> dict[str, Any]:
        taken, values[:] = values[: len(names)], values[len(names) :]
        return {"tenant_id": tenant_id, **dict(zip(names, taken, strict=True))}

    tenant, policy = take(_TENANT_COLUMNS), take(_POLICY_COLUMNS)
    key, outcome = take(_KEY_COLUMNS), take(_OUTCOME_COLUMNS)
    for row, column, lack in (
        (policy, "policy_id", "published policy"),
        (key, "key_id", "active signing key"),
    ):
        if row[column] is None:
            raise FailedPrecondition(f"tenant {tenant_id} has no {lack}", reason="TENANT_NOT_READY")
    stored: StoredOutcome | None = None
    if scope is not None and outcome["fingerprint"] is not None:
        names = {"caller": scope.caller, "rpc": scope.rpc, "key": scope.key}
        stored = outcome_of({**outcome, **names})
    return Basis(
        tenant=tenant_of(tenant),
        policy=policy_of({**policy, **_PUBLISHED}),
        revision=policy["revision"],
        signing_key=stored_key_of(key),
        outcome=stored,
    )
