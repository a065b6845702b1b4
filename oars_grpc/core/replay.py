"""What a draft would have decided: recorded decisions read from the log and evaluated anew.

The signed payloads are the source of truth. A decision is the receipt with which policy answered a
submission: it has `decision` and is the second of its action's chain, after `action.requested`. All
facts are read from it, the risk as it was recorded and the time when it was; only the input, which
receipts do not repeat, lies beside the log and must have the digest that the receipt states. So the
outcome is a function of the log and the draft alone. What was not recorded is never guessed: such a
decision is not replayable, and the report says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import orjson

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.action_evidence import assessment_from_json
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import INPUT, MAX_UNITS, Facts, action_facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.log import Leaf, LogFault
from oars_grpc.core.operation_class import OperationClass
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.receipt import PREDICATE_TYPE
from oars_grpc.core.risk import RiskAssessment, RiskTier

# `action.requested` comes first; what follows in the same commit is policy's answer.
DECISION_SEQUENCE = 2
_MARK = b'"decision":{'  # canonical JSON: no spaces, and a quote within a text is escaped
_INPUT_SIZE = "input_size_bytes"
# Facts that the verified attributes of the caller are, or settle (`effective_context.py`).
_OF_ATTRIBUTES = ("caller.attributes", "context.", "folded.environment", "folded.data_types")
_EVIDENCE = "evidence."
_FOLDED_CONTEXT = ("folded.environment", "folded.data_types")


class Unreplayable(StrEnum):
    """Why a recorded decision cannot be replayed."""

    PAYLOAD_ERASED = "payload_erased"
    INPUT_ERASED = "input_erased"
    CALLER_ATTRIBUTES_NOT_RECORDED = "caller_attributes_not_recorded"
    EVIDENCE_NOT_RECORDED = "evidence_not_recorded"
    UNKNOWN_FORMAT = "unknown_format"


@dataclass(frozen=True, slots=True)
class ReplayLeaf:
    """A leaf, what its row says of its place in a chain, and the input of the action.

    The input is None where it was not asked for, was erased, or is no decision's.
    """

    leaf: Leaf
    receipt_id: str
    action_id: str
    sequence: int
    input: bytes | None = None


class ReplayStore(Protocol):
    """Reads what is replayed."""

    def leaves(
        self, tenant_id: str, first: int, end: int, *, with_inputs: bool
    ) -> Sequence[ReplayLeaf]:
        """The leaves [first, end), or the first of them, in order: a page bounded in bytes.

        Raises:
            LogFault: a payload is gone, and no erasure tells of it.
        """


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recorded decision beside the draft's; exactly one of `evaluation` and `reason` is there.

    `recorded` is None where the payload is erased, or of a format that is not known.
    """

    leaf_index: int
    receipt_id: str
    action_id: str
    recorded: Effect | None
    evaluation: Evaluation | None
    reason: Unreplayable | None = None


class Replayer:
    """Evaluates a draft over recorded decisions, one after the other."""

    def __init__(self, draft: CompiledPolicy) -> None:
        self._draft = draft
        asks = draft.asks
        self.with_inputs = INPUT in asks or _INPUT_SIZE in asks
        self._asks_evidence = any(name.startswith(_EVIDENCE) for name in asks)
        # What is not known to be there has no known size either, and a condition that is dear
        # goes unrun above an amount of data.
        dear = draft.max_units < MAX_UNITS or any(
            rule.condition is not None and rule.condition.max_units < MAX_UNITS
            for rule in draft.rules
        )
        # Verified attributes correct what the caller states of its context.
        self._asks_context = any(
            name.startswith("context.") or name in _FOLDED_CONTEXT for name in asks
        )
        self._asks_attributes = dear or any(name.startswith(_OF_ATTRIBUTES) for name in asks)

    def replay(self, stored: ReplayLeaf) -> Replayed | None:
        """What the draft says of the decision in a leaf; None where the leaf is none.

        The leaf's hash must have been derived from its payload.

        Raises:
            LogFault: what lies beside the payload contradicts it.
        """
        payload = stored.leaf.payload
        if payload is None:
            if not stored.action_id or stored.sequence != DECISION_SEQUENCE:
                return None
            return _unreplayable(stored, Unreplayable.PAYLOAD_ERASED)
        if _MARK not in payload:
            return None
        statement = orjson.loads(payload)
        if statement.get("predicateType") != PREDICATE_TYPE:
            return None
        predicate = statement["predicate"]
        if predicate.get("sequence") != DECISION_SEQUENCE or "decision" not in predicate:
            return None
        _check_row(stored, predicate)
        recorded: Effect | None = None
        found: Facts | Unreplayable
        try:
            recorded = Effect(predicate["decision"]["effect"])
            found = self._facts(stored, predicate)
        # Of a later version: this one does not pretend to understand it.
        except (KeyError, TypeError, ValueError):
            found = Unreplayable.UNKNOWN_FORMAT
        if isinstance(found, Unreplayable):
            return _unreplayable(stored, found, recorded)
        return Replayed(
            leaf_index=stored.leaf.index,
            receipt_id=stored.receipt_id,
            action_id=stored.action_id,
            recorded=recorded,
            evaluation=evaluate(self._draft, found),
        )

    def _facts(self, stored: ReplayLeaf, predicate: Mapping[str, Any]) -> Facts | Unreplayable:
        attributes = predicate.get("callerAttributes")
        too_long = attributes is None and "callerAttributes" in predicate
        if (attributes is None and self._asks_attributes) or (too_long and self._asks_context):
            return Unreplayable.CALLER_ATTRIBUTES_NOT_RECORDED
        evidence: Mapping[str, float] | None = None
        if self._asks_evidence and "evidence" in predicate:
            try:
                evidence = assessment_from_json(predicate["evidence"]).facts()
            # Of a later version, or by other definitions: what is not understood is not guessed.
            except (KeyError, TypeError, ValueError):
                return Unreplayable.EVIDENCE_NOT_RECORDED
        encoded = stored.input if self.with_inputs else None
        if self.with_inputs and encoded is None:
            return Unreplayable.INPUT_ERASED
        if encoded is not None and sha256_hex(encoded) != predicate["inputDigest"]:
            raise LogFault(
                f"leaf {stored.leaf.index} states another digest than that of the stored input"
            )
        return recorded_facts(predicate, encoded, attributes or (), evidence)


def recorded_facts(
    predicate: Mapping[str, Any],
    encoded_input: bytes | None,
    caller_attributes: Sequence[Mapping[str, str]],
    evidence: Mapping[str, float] | None = None,
) -> Facts:
    """The facts that policy was asked about, from the predicate of a decision's receipt.

    Raises:
        KeyError: a member is missing.
        ValueError: one has a value that this version does not know.
        TypeError: one is of another type.
    """
    caller, resource, context = predicate["caller"], predicate["resource"], predicate["context"]
    risk, data_types = predicate["decision"]["risk"], context["dataTypes"]
    request = ActionRequest(
        tenant_id=predicate["tenantId"],
        agent_id=predicate["agentId"],
        caller=Principal(
            subject=caller["subject"],
            fingerprint_sha256=caller["fingerprintSha256"],
            role=Role(caller["role"]),
            tenant_ids=frozenset(),
            service_account_id=caller["serviceAccountId"],
            attributes=_pairs(caller_attributes),
        ),
        resource=Resource(resource["toolId"], resource["operation"], resource["target"]),
        user_id=predicate["userId"],
        delegation_chain=tuple(predicate["delegationChain"]),
        context=ActionContext(
            environment=context["environment"],
            data_types=None if data_types is None else tuple(data_types),
            attributes=_pairs(context["attributes"]),
        ),
        input=None if encoded_input is None else orjson.loads(encoded_input),
    )
    assessed = RiskAssessment(
        score=risk["score"],
        tier=RiskTier(risk["tier"]),
        signals=(),  # no fact is made of them
        operation_class=OperationClass(risk["operationClass"]),
    )
    # Where no rule asks for the input its size is nobody's fact, but it counts as one.
    return action_facts(
        request,
        assessed,
        datetime.fromisoformat(predicate["recordedAt"]),
        evidence,
        input_bytes=b"" if encoded_input is None else encoded_input,
    )


def _pairs(listed: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in listed}


def _unreplayable(
    stored: ReplayLeaf, reason: Unreplayable, recorded: Effect | None = None
) -> Replayed:
    return Replayed(
        leaf_index=stored.leaf.index,
        receipt_id=stored.receipt_id,
        action_id=stored.action_id,
        recorded=recorded,
        evaluation=None,
        reason=reason,
    )


def _check_row(stored: ReplayLeaf, predicate: Mapping[str, Any]) -> None:
    """Refuse a row that leads to the input of another action.

    Raises:
        LogFault: it says something else than the payload.
    """
    told = (predicate.get("receiptId"), predicate.get("actionId"), predicate.get("sequence"))
    if told != (stored.receipt_id, stored.action_id, stored.sequence):
        raise LogFault(f"the row of leaf {stored.leaf.index} is not about its payload")
