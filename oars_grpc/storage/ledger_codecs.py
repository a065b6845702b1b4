"""Rows to core values and back: actions, approvals, receipts."""

from typing import Any

import orjson

from oars_grpc.core.action import (
    Action,
    ActionContext,
    ActionRequest,
    ActionState,
    Execution,
    Resource,
)
from oars_grpc.core.action_evidence import assessment_from_json
from oars_grpc.core.decision import decision_from_json, decision_to_json
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, Signature
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.receipt import Receipt, caller_json
from oars_grpc.core.stored import Erasure, StoredAction, StoredReceipt
from oars_grpc.storage.codecs import Row, utc, utc_or_none


def action_row(stored: StoredAction) -> dict[str, Any]:
    """The columns of an action, but for its input."""
    action, request, context = stored.action, stored.action.request, stored.action.request.context
    body = {
        "caller": {**caller_json(request.caller), "attributes": dict(request.caller.attributes)},
        "target": request.resource.target,
        "delegationChain": request.delegation_chain,
        "environment": context.environment,
        "dataTypes": context.data_types,
        "attributes": dict(context.attributes),
        "execution": request.execution.value,
        "decision": decision_to_json(stored.decision),
    }
    if request.evidence is not None:
        body["evidence"] = request.evidence.to_json()
    return {
        "tenant_id": request.tenant_id,
        "action_id": action.action_id,
        "state": action.state.value,
        "agent_id": request.agent_id,
        "user_id": request.user_id,
        "caller_subject": request.caller.subject,
        "tool_id": request.resource.tool_id,
        "operation": request.resource.operation,
        "created_at": action.created_at,
        "updated_at": action.updated_at,
        "expires_at": action.expires_at,
        "version": action.version,
        "last_sequence": action.last_sequence,
        "last_receipt_digest": action.last_receipt_digest,
        "approval_id": action.approval_id,
        "input_digest": action.input_digest,
        "action_digest": action.action_digest,
        "output_digest": action.output_digest,
        "error": action.error,
        "body": orjson.dumps(body),
    }


def evidence_detail(request: ActionRequest) -> bytes:
    """What is stored of a request's evidence beside the input; empty where it has none.

    Raises:
        ValueError: the detail was not read.
    """
    if request.evidence is None:
        return b""
    if request.evidence.detail is None:
        raise ValueError("the detail of the evidence of this action was not read")
    return request.evidence.detail.to_bytes()


def action_of(row: Row) -> StoredAction:
    """The action of a row, without its input and the detail of its evidence."""
    body = orjson.loads(row["body"])
    evidence = body.get("evidence")
    caller = body["caller"]
    data_types = body["dataTypes"]
    request = ActionRequest(
        tenant_id=row["tenant_id"],
        agent_id=row["agent_id"],
        caller=Principal(
            subject=caller["subject"],
            fingerprint_sha256=caller["fingerprintSha256"],
            role=Role(caller["role"]),
            # Of the caller's rights then, what remains is that it was let into this tenant.
            tenant_ids=frozenset({row["tenant_id"]}),
            service_account_id=caller["serviceAccountId"],
            attributes=caller["attributes"],
        ),
        resource=Resource(row["tool_id"], row["operation"], body["target"]),
        user_id=row["user_id"],
        delegation_chain=tuple(body["delegationChain"]),
        context=ActionContext(
            environment=body["environment"],
            data_types=None if data_types is None else tuple(data_types),
            attributes=body["attributes"],
        ),
        input=None,
        execution=Execution(body["execution"]),
        evidence=None if evidence is None else assessment_from_json(evidence),
    )
    action = Action(
        action_id=row["action_id"],
        request=request,
        state=ActionState(row["state"]),
        input_digest=row["input_digest"],
        action_digest=row["action_digest"],
        created_at=utc(row["created_at"]),
        updated_at=utc(row["updated_at"]),
        version=row["version"],
        last_sequence=row["last_sequence"],
        last_receipt_digest=row["last_receipt_digest"],
        approval_id=row["approval_id"],
        expires_at=utc_or_none(row["expires_at"]),
        output_digest=row["output_digest"],
        error=row["error"],
    )
    return StoredAction(action, decision_from_json(body["decision"]))


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """The columns of a receipt, but for its place in the log and its payload.

    Raises:
        ValueError: the envelope is not one that OARS signs.
    """
    envelope = receipt.envelope
    if envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1:
        raise ValueError("a receipt to store has one signature over an in-toto payload")
    return {
        "tenant_id": receipt.tenant_id,
        "receipt_id": receipt.receipt_id,
        "action_id": receipt.action_id,
        "sequence": receipt.sequence,
        "type": receipt.type,
        "key_id": envelope.signatures[0].keyid,
        "signature": envelope.signatures[0].sig,
        "receipt_digest": envelope.digest(),
        "previous_receipt_digest": receipt.previous_receipt_digest,
        "leaf_hash": envelope.leaf_hash(),
        "recorded_at": receipt.recorded_at,
    }


def receipt_of(row: Row) -> StoredReceipt:
    """The receipt of a row with its payload, or with the erasure of it."""
    signature = Signature(row["key_id"], bytes(row["signature"]))
    payload = row["payload"]
    return StoredReceipt(
        row["leaf_index"],
        Receipt(
            receipt_id=row["receipt_id"],
            tenant_id=row["tenant_id"],
            action_id=row["action_id"],
            type=row["type"],
            sequence=row["sequence"],
            previous_receipt_digest=row["previous_receipt_digest"],
            recorded_at=utc(row["recorded_at"]),
            envelope=Envelope(PAYLOAD_TYPE, bytes(payload or b""), (signature,)),
        ),
        _erasure_of(row) if payload is None else None,
    )


def _erasure_of(row: Row) -> Erasure:
    # Without a record of its erasure a payload is lost, and nothing must pass for the rule.
    if row["erased_at"] is None:
        raise RuntimeError(f"leaf {row['leaf_index']} of {row['tenant_id']} lost its payload")
    return Erasure(
        erased_at=utc(row["erased_at"]),
        receipt_id=row["event_receipt_id"],
        receipt_digest=row["receipt_digest"],
        leaf_hash=bytes(row["leaf_hash"]),
        caller_subject=row["caller_subject"],
    )
