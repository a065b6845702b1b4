"""Controls: what a framework such as SOC 2 asks for, and which receipts are evidence of it.

A mapping ties a control to the receipts that its filter picks. Which receipt is evidence of what
follows from the receipt alone (`evidence_types`):

    POLICY_DECISION          it has `decision`: policy decided
    DENIAL                   action.denied, by policy or by people
    QUARANTINE               action.quarantined
    HUMAN_APPROVAL           action.approval_decided, verdict approve  } by an identity of the
    HUMAN_REJECTION          action.approval_decided, verdict reject   } role approver or admin
    EXECUTION_OUTCOME        action.executed, action.failed
    CANCELLATION_OR_EXPIRY   action.canceled, action.expired
    ADMINISTRATIVE_EVENT     an event in the tenant's own chain

An action that policy approved by itself is evidence of a policy decision, never of human oversight.
`action.requested` and `action.executing` are activity, and evidence of nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import orjson

from oars_grpc.core.approval import Verdict
from oars_grpc.core.identity import Role
from oars_grpc.core.receipt import APPROVAL_DECIDED, NO_ACTION
from oars_grpc.core.receipt_filter import ReceiptFilter

CONTROL_MAPPED = "control.mapped"
CONTROL_RETIRED = "control.retired"

FRAMEWORK = re.compile(r"[a-z0-9_]{1,32}")
# Printable ASCII; the colon separates it from the framework where both are named.
CONTROL_ID = re.compile(r"[!-9;-~]{1,64}")
MAXIMUM_DESCRIPTION = 1024
# So that one report, and one round of tagging, have a bound.
MAXIMUM_MAPPINGS = 200


class EvidenceType(StrEnum):
    """What a receipt can be evidence of."""

    POLICY_DECISION = "policy_decision"
    HUMAN_APPROVAL = "human_approval"
    HUMAN_REJECTION = "human_rejection"
    EXECUTION_OUTCOME = "execution_outcome"
    DENIAL = "denial"
    QUARANTINE = "quarantine"
    CANCELLATION_OR_EXPIRY = "cancellation_or_expiry"
    ADMINISTRATIVE_EVENT = "administrative_event"


_BY_TYPE = {
    "action.denied": EvidenceType.DENIAL,
    "action.quarantined": EvidenceType.QUARANTINE,
    "action.executed": EvidenceType.EXECUTION_OUTCOME,
    "action.failed": EvidenceType.EXECUTION_OUTCOME,
    "action.canceled": EvidenceType.CANCELLATION_OR_EXPIRY,
    "action.expired": EvidenceType.CANCELLATION_OR_EXPIRY,
}
_BY_VERDICT = {
    Verdict.APPROVE.value: EvidenceType.HUMAN_APPROVAL,
    Verdict.REJECT.value: EvidenceType.HUMAN_REJECTION,
}
_OVERSEERS = frozenset({Role.APPROVER.value, Role.ADMIN.value})


@dataclass(frozen=True, slots=True)
class ControlMapping:
    """A control of a framework, and the receipts that bear on it.

    Receipts below `tagged_size` in the log have been looked at. A retired mapping keeps what it
    has and gets no more.
    """

    mapping_id: str
    tenant_id: str
    framework: str
    control_id: str
    description: str
    filter: ReceiptFilter
    required_evidence: tuple[EvidenceType, ...]
    created_at: datetime
    created_by: str
    tagged_size: int = 0
    retired_at: datetime | None = None
    retired_by: str = ""

    def event(self) -> dict[str, object]:
        """What its events tell of it, in the restricted profile."""
        return {
            "mappingId": self.mapping_id,
            "framework": self.framework,
            "controlId": self.control_id,
            "description": self.description,
            "filter": self.filter.to_json(),
            "requiredEvidence": [kind.value for kind in self.required_evidence],
        }


@dataclass(frozen=True, slots=True)
class TaggedReceipt:
    """A receipt that a mapping's filter picks, and what it is evidence of."""

    leaf_index: int
    recorded_at: datetime
    evidence: frozenset[EvidenceType]


@dataclass(frozen=True, slots=True)
class Tagged:
    """How far the tags of a mapping reach, out of how many receipts."""

    tagged_size: int
    log_size: int

    @property
    def complete(self) -> bool:
        """Whether no receipt was left to look at."""
        return self.tagged_size >= self.log_size


def needs_payload(type_: str) -> bool:
    """Whether what a receipt of the type is evidence of stands in its payload alone."""
    return type_ == APPROVAL_DECIDED


def evidence_types(
    action_id: str, type_: str, decision: str, payload: bytes | None
) -> frozenset[EvidenceType]:
    """What a receipt is evidence of.

    `decision` is its term of that name. `payload` is read only where `needs_payload`; None is one
    that retention has erased: who decided is no longer known, so that it is evidence of nothing.
    """
    if action_id == NO_ACTION:
        return frozenset({EvidenceType.ADMINISTRATIVE_EVENT})
    if needs_payload(type_):
        return _human(payload) if payload else frozenset()
    found = {EvidenceType.POLICY_DECISION} if decision else set()
    if type_ in _BY_TYPE:
        found.add(_BY_TYPE[type_])
    return frozenset(found)


def _human(payload: bytes) -> frozenset[EvidenceType]:
    approval = orjson.loads(payload)["predicate"]["approval"]
    if approval["approver"]["role"] not in _OVERSEERS:
        return frozenset()
    return frozenset({_BY_VERDICT[approval["verdict"]]})


def parse_control(text: str) -> tuple[str, str] | None:
    """Framework and control's id of `framework:control_id`; None if it is not that."""
    framework, colon, control_id = text.partition(":")
    if colon and FRAMEWORK.fullmatch(framework) and CONTROL_ID.fullmatch(control_id):
        return framework, control_id
    return None


def in_order(kinds: Sequence[EvidenceType]) -> tuple[EvidenceType, ...]:
    """Evidence types without repetition, in the order of the enum."""
    wanted = set(kinds)
    return tuple(kind for kind in EvidenceType if kind in wanted)
