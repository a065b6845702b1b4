"""Core values with everything defaulted; a test overrides what it is about."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from uuid6 import uuid7

from oars_grpc.core.action import Action, ActionContext, ActionRequest, ActionState, Resource
from oars_grpc.core.approval import Approval, ApprovalStage, ApprovalState, asking_side
from oars_grpc.core.builtin_policy import BUILTIN_POLICY
from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.decision import Decision, PolicyReference, decide, decision_to_json
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.ids import format_id
from oars_grpc.core.keys import (
    KeyState,
    SigningKey,
    StoredKey,
    TrustedKey,
    encrypt_seed,
    signing_key,
)
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.receipt import Receipt, write_receipt
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.stored import Change, StoredAction, StoredPolicy
from oars_grpc.core.tenant import Tenant, TenantSettings
from oars_grpc.core.workflow import DEFAULT_WORKFLOW, Stage

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SEED = bytes(range(32))
KEY_ENCRYPTION_KEY = bytes(range(32, 64))
TENANT = "acme"


def new_id(prefix: str) -> str:
    """A new id of the time being; later ones sort later."""
    return format_id(prefix, uuid7())


def make_principal(subject: str = "spiffe://example/agent", **changes: Any) -> Principal:
    """An agent's identity in the default tenant."""
    defaults: dict[str, Any] = {
        "fingerprint_sha256": "ab" * 32,
        "role": Role.AGENT,
        "tenant_ids": frozenset({TENANT}),
        "service_account_id": "sa-1",
    }
    return Principal(subject=subject, **{**defaults, **changes})


def make_request(tenant_id: str = TENANT, **changes: Any) -> ActionRequest:
    """A request to read an issue."""
    request = ActionRequest(
        tenant_id=tenant_id,
        agent_id="agent-1",
        caller=make_principal(tenant_ids=frozenset({tenant_id})),
        resource=Resource("github", "get_issue", "repo/1"),
        user_id="user-1",
        context=ActionContext("staging", ("public",), {"ticket": "T-1"}),
        input={"issue": 1, "title": "Größe"},
    )
    return replace(request, **changes)


@lru_cache(maxsize=8)
def compiled(document: PolicyDocument = BUILTIN_POLICY) -> CompiledPolicy:
    """A document ready to decide."""
    return validate_document(document)


def make_decision(request: ActionRequest | None = None) -> Decision:
    """What the built-in policy says."""
    reference = PolicyReference(new_id("pol"), 1, BUILTIN_POLICY.digest)
    return decide(request or make_request(), reference, compiled(), RiskConfig(), NOW)


def make_action(request: ActionRequest | None = None, **changes: Any) -> Action:
    """An action just submitted, before its first receipt."""
    request = request or make_request()
    input_digest = sha256_hex(request.input_bytes())
    action = Action(
        action_id=new_id("act"),
        request=request,
        state=ActionState.APPROVED,
        input_digest=input_digest,
        action_digest=request.digest(input_digest),
        created_at=NOW,
        updated_at=NOW,
        version=1,
        last_sequence=0,
        last_receipt_digest="",
        expires_at=NOW + timedelta(minutes=15),
    )
    return replace(action, **changes)


def make_signing_key(seed: bytes = SEED) -> SigningKey:
    """The key of a fixed seed."""
    return signing_key(seed)[0]


def make_stored_key(tenant_id: str = TENANT, seed: bytes = SEED, **changes: Any) -> StoredKey:
    """The active key of a tenant as stored."""
    key, public = signing_key(seed)
    trusted = TrustedKey(
        key.key_id, tenant_id, public, KeyState.ACTIVE, datetime(2026, 1, 1, tzinfo=UTC)
    )
    sealed = encrypt_seed(KEY_ENCRYPTION_KEY, trusted, seed, bytes(12))
    return StoredKey(replace(trusted, **changes), sealed)


def append_receipt(
    action: Action,
    type_: str = "",
    detail: Mapping[str, Any] | None = None,
    key: SigningKey | None = None,
) -> tuple[Action, Receipt]:
    """The next receipt of an action, and the action that has it."""
    receipt = write_receipt(
        receipt_id=new_id("rcpt"),
        action=action,
        type_=type_ or f"action.{action.state.value}",
        detail=detail or {},
        now=action.updated_at,
        key=key or make_signing_key(),
    )
    following = replace(
        action, last_sequence=receipt.sequence, last_receipt_digest=receipt.envelope.digest()
    )
    return following, receipt


def make_outcome(
    tenant_id: str = TENANT, key: str = "key-1", response: bytes = b"first", **changes: Any
) -> StoredOutcome:
    """An outcome under an idempotency key; it expires long after any test has ended."""
    outcome = StoredOutcome(
        scope=IdempotencyScope(tenant_id, "spiffe://example/agent", "SubmitAction", key, "f" * 64),
        response=response,
        created_at=NOW,
        expires_at=datetime(2999, 1, 1, tzinfo=UTC),
    )
    return replace(outcome, **changes)


def make_change(
    tenant_id: str = TENANT,
    *,
    request: ActionRequest | None = None,
    receipts: int = 2,
    outcome: StoredOutcome | None = None,
    expected_revision: int | None = None,
    **changes: Any,
) -> Change:
    """A submitted action with its chain of receipts: `action.requested`, then its state's."""
    action = make_action(request or make_request(tenant_id), **changes)
    written: list[Receipt] = []
    decision = make_decision(action.request)
    for number in range(receipts):
        type_ = "action.requested" if number == 0 else ""
        detail = {"decision": decision_to_json(decision)} if number == 1 else None
        action, receipt = append_receipt(action, type_, detail)
        written.append(receipt)
    return Change(
        StoredAction(action, decision),
        0,
        tuple(written),
        outcome=outcome,
        expected_revision=expected_revision,
    )


def as_read(stored: StoredAction) -> StoredAction:
    """A stored action as it is read back: without its input."""
    request = replace(stored.action.request, input=None)
    return replace(stored, action=replace(stored.action, request=request))


def make_next_change(
    stored: StoredAction,
    state: ActionState = ActionState.EXECUTED,
    *,
    outcome: StoredOutcome | None = None,
    **changes: Any,
) -> Change:
    """The change that takes a stored action to another state, with one receipt."""
    action = replace(
        stored.action,
        state=state,
        version=stored.action.version + 1,
        updated_at=stored.action.updated_at + timedelta(seconds=1),
        **changes,
    )
    action, receipt = append_receipt(action)
    return Change(
        StoredAction(action, stored.decision), stored.action.version, (receipt,), outcome=outcome
    )


def make_approval(action: Action, **changes: Any) -> Approval:
    """A pending approval of an action."""
    approval = Approval(
        approval_id=new_id("apr"),
        tenant_id=action.request.tenant_id,
        action_id=action.action_id,
        action_digest=action.action_digest,
        caller_subject=action.request.caller.subject,
        policy_digest=BUILTIN_POLICY.digest,
        display_digest="d" * 64,
        state=ApprovalState.PENDING,
        stages=(ApprovalStage(DEFAULT_WORKFLOW, Stage("approval"), started_at=NOW),),
        current_stage=0,
        decisions=(),
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
        version=1,
        asking=tuple(sorted(asking_side(action))),
    )
    return replace(approval, **changes)


def make_tenant(tenant_id: str = TENANT, **changes: Any) -> Tenant:
    """A tenant with default settings."""
    tenant = Tenant(tenant_id, f"Tenant {tenant_id}", TenantSettings(), NOW, 1)
    return replace(tenant, **changes)


def make_policy(tenant_id: str = TENANT, **changes: Any) -> StoredPolicy:
    """The built-in policy as a tenant's draft, yet without a version."""
    document: PolicyDocument = changes.get("document", BUILTIN_POLICY)
    policy = StoredPolicy(
        new_id("pol"), tenant_id, 0, document.digest, document, NOW, "spiffe://example/admin"
    )
    return replace(policy, **changes)
