"""Decisions as a log records them, in memory: leaves to replay."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.canonical import statement_json
from oars_grpc.core.decision import Decision, PolicyReference, decide, decision_for_receipt
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.log import Leaf
from oars_grpc.core.policy import PolicyDocument, Rule
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.replay import Replayed, Replayer, ReplayLeaf
from oars_grpc.core.risk import RiskConfig
from tests.support.factories import NOW, append_receipt, make_action, make_request, new_id


def policy_of(*rules: Rule, **changes: Any) -> CompiledPolicy:
    """A document of these rules, compiled."""
    return validate_document(replace(PolicyDocument("draft", rules), **changes))


def chain(
    policy: CompiledPolicy, request: ActionRequest | None = None, now: datetime = NOW
) -> tuple[Decision, list[Receipt]]:
    """What a submission leaves: `action.requested`, and the receipt of the decision."""
    asked = request or make_request()
    reference = PolicyReference(new_id("pol"), 1, policy.digest)
    decision = decide(asked, reference, policy, RiskConfig(), now)
    action, first = append_receipt(make_action(asked, updated_at=now), "action.requested")
    detail = {"policy": reference.to_json(), "decision": decision_for_receipt(decision)}
    return decision, [first, append_receipt(action, "action.approved", detail)[1]]


def leaf_of(receipt: Receipt, index: int = 0, input_: bytes | None = None) -> ReplayLeaf:
    """The stored leaf of a receipt."""
    return ReplayLeaf(
        Leaf(index, receipt.envelope.leaf_hash(), receipt.envelope.payload),
        receipt.receipt_id,
        receipt.action_id,
        receipt.sequence,
        input_,
    )


def recorded(
    policy: CompiledPolicy,
    request: ActionRequest | None = None,
    index: int = 0,
    now: datetime = NOW,
) -> ReplayLeaf:
    """The leaf of a decision, with the input."""
    asked = request or make_request()
    receipt = chain(policy, asked, now)[1][1]
    return leaf_of(receipt, index, asked.input_bytes())


def changed(leaf: ReplayLeaf, **members: Any) -> ReplayLeaf:
    """The leaf with other members of the predicate; those that are None are taken out."""
    assert leaf.leaf.payload is not None
    statement = orjson.loads(leaf.leaf.payload)
    predicate = {**statement["predicate"], **members}
    statement["predicate"] = {name: value for name, value in predicate.items() if value is not None}
    payload = statement_json(statement)
    hash_ = Envelope(PAYLOAD_TYPE, payload, ()).leaf_hash()
    return replace(leaf, leaf=Leaf(leaf.leaf.index, hash_, payload))


def erased(leaf: ReplayLeaf) -> ReplayLeaf:
    """The leaf after retention has erased its payload and the input."""
    return replace(leaf, leaf=replace(leaf.leaf, payload=None), input=None)


def replayed(draft: CompiledPolicy, leaves: Sequence[ReplayLeaf]) -> list[Replayed]:
    """What a draft says of the decisions among the leaves."""
    replayer = Replayer(draft)
    found = map(replayer.replay, leaves)
    return [each for each in found if each is not None]
