"""Rows to core values and back: tenants, policies, keys, idempotency outcomes.

A row comes as a mapping of the column names in `tables`.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import orjson

from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.keys import KeyPurpose, KeyState, StoredKey, TrustedKey
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.stored import PolicyState, StoredPolicy
from oars_grpc.core.tenant import Tenant, TenantSettings
from oars_grpc.core.workflow import Workflow


class Row(Protocol):
    """Column names to values: a dictionary, or SQLAlchemy's RowMapping."""

    def __getitem__(self, name: str, /) -> Any:
        """The value of a column."""


def utc(moment: datetime) -> datetime:
    """A stored moment in the core's time zone.

    The session's own zone object would differ in its name only.
    """
    return moment.astimezone(UTC)


def utc_or_none(moment: datetime | None) -> datetime | None:
    """As `utc`, for columns that may be NULL."""
    return None if moment is None else utc(moment)


def tenant_row(tenant: Tenant) -> dict[str, Any]:
    """The columns of a tenant, but for its count of policies."""
    return {
        "tenant_id": tenant.tenant_id,
        "display_name": tenant.display_name,
        "settings": orjson.dumps(tenant.settings.to_json()),
        "created_at": tenant.created_at,
        "version": tenant.version,
    }


def tenant_of(row: Row) -> Tenant:
    """The tenant of a row."""
    return Tenant(
        tenant_id=row["tenant_id"],
        display_name=row["display_name"],
        settings=_settings(bytes(row["settings"])),
        created_at=utc(row["created_at"]),
        version=row["version"],
    )


@lru_cache(maxsize=256)
def _settings(raw: bytes) -> TenantSettings:
    value = orjson.loads(raw)
    return TenantSettings(
        value["permitSeconds"],
        value["approvalSeconds"],
        RiskConfig.from_json(value["risk"]),
        # Settings of before there were these lack them.
        value.get("retentionDays", 0),
        tuple(map(Workflow.from_json, value.get("workflows", ()))),
    )


def policy_row(policy: StoredPolicy) -> dict[str, Any]:
    """The columns of a policy.

    Raises:
        ValueError: the policy comes from a list, without its document.
    """
    if policy.document is None:
        raise ValueError(f"the document of policy {policy.policy_id} was not read")
    return {
        "tenant_id": policy.tenant_id,
        "policy_id": policy.policy_id,
        "version": policy.version,
        "digest": policy.digest,
        "document": canonical_json(policy.document.to_json()),
        "created_at": policy.created_at,
        "created_by": policy.created_by,
    }


def policy_of(row: Row) -> StoredPolicy:
    """The policy of a row of `registry_queries.select_policies`."""
    policy = listed_policy_of(row)
    stored = _StoredDocument(
        policy.tenant_id, policy.policy_id, policy.digest, bytes(row["document"])
    )
    return replace(policy, document=_document(stored))


def listed_policy_of(row: Row) -> StoredPolicy:
    """As `policy_of`, without the document, which the row need not have."""
    return StoredPolicy(
        policy_id=row["policy_id"],
        tenant_id=row["tenant_id"],
        version=row["version"],
        digest=row["digest"],
        document=None,
        created_at=utc(row["created_at"]),
        created_by=row["created_by"],
        state=PolicyState(row["policy_state"]),
        archived_at=utc_or_none(row["archived_at"]),
        archived_by=row["archived_by"] or "",
    )


@dataclass(frozen=True, slots=True)
class _StoredDocument:
    """A document as stored; what names it stands for it, for it never changes."""

    tenant_id: str
    policy_id: str
    digest: str
    raw: bytes = field(compare=False)


# Parsed, a document takes many times its size: the bound is on memory, not on tenants.
@lru_cache(maxsize=64)
def _document(stored: _StoredDocument) -> PolicyDocument:
    # Receipts name the digest: deciding by any other document would make them say what is not so.
    if sha256_hex(stored.raw) != stored.digest:
        raise RuntimeError("a stored policy document does not have its digest")
    return PolicyDocument.from_json(orjson.loads(stored.raw))


def key_row(key: StoredKey) -> dict[str, Any]:
    """The columns of a signing key."""
    trusted = key.trusted
    return {
        "tenant_id": trusted.tenant_id,
        "key_id": trusted.key_id,
        "public_key": trusted.public_key,
        "encrypted_seed": key.encrypted_seed,
        "state": trusted.state.value,
        "valid_from": trusted.valid_from,
        "valid_until": trusted.valid_until,
        "revoked_at": trusted.revoked_at,
        "revocation_reason": trusted.revocation_reason,
        "purpose": trusted.purpose.value,
        "trusted_log_size": trusted.trusted_log_size,
    }


def trusted_key_of(row: Row) -> TrustedKey:
    """The public half of a signing key."""
    return TrustedKey(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        public_key=bytes(row["public_key"]),
        state=KeyState(row["state"]),
        valid_from=utc(row["valid_from"]),
        valid_until=utc_or_none(row["valid_until"]),
        revoked_at=utc_or_none(row["revoked_at"]),
        revocation_reason=row["revocation_reason"],
        purpose=KeyPurpose(row["purpose"]),
        trusted_log_size=row["trusted_log_size"],
    )


def stored_key_of(row: Row) -> StoredKey:
    """A signing key with its encrypted seed."""
    return StoredKey(trusted_key_of(row), bytes(row["encrypted_seed"]))


def outcome_row(outcome: StoredOutcome) -> dict[str, Any]:
    """The columns of an idempotency outcome."""
    scope = outcome.scope
    return {
        "tenant_id": scope.tenant_id,
        "caller": scope.caller,
        "rpc": scope.rpc,
        "key": scope.key,
        "fingerprint": scope.fingerprint,
        "response": outcome.response,
        "created_at": outcome.created_at,
        "expires_at": outcome.expires_at,
    }


def outcome_of(row: Row) -> StoredOutcome:
    """The outcome of a row; the scope carries the fingerprint of the first request."""
    return StoredOutcome(
        scope=IdempotencyScope(
            row["tenant_id"], row["caller"], row["rpc"], row["key"], row["fingerprint"]
        ),
        response=bytes(row["response"]),
        created_at=utc(row["created_at"]),
        expires_at=utc(row["expires_at"]),
    )
