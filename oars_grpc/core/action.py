"""An action that an agent asks to take, its states, and the transitions between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from oars_grpc.core.action_evidence import EvidenceAssessment
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.identity import Principal
from oars_grpc.errors import FailedPrecondition


class ActionState(StrEnum):
    """Where an action stands; the values name the receipts (`action.<state>`)."""

    REQUESTED = "requested"
    APPROVED = "approved"
    DENIED = "denied"
    APPROVAL_REQUIRED = "approval_required"
    QUARANTINED = "quarantined"
    EXECUTING = "executing"
    EXECUTED = "executed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELED = "canceled"


# `approved → executed | failed` is the caller's own report: it executed under the permit, and OARS
# learns only the outcome. What people approved passes through `executing`, which uses their grant,
# or to `denied` where policy has become stricter; `executing → approved` is a start that failed
# before any effect.
TRANSITIONS: Mapping[ActionState, frozenset[ActionState]] = {
    ActionState.REQUESTED: frozenset(
        {
            ActionState.DENIED,
            ActionState.QUARANTINED,
            ActionState.APPROVAL_REQUIRED,
            ActionState.APPROVED,
        }
    ),
    ActionState.APPROVAL_REQUIRED: frozenset(
        {ActionState.APPROVED, ActionState.DENIED, ActionState.EXPIRED, ActionState.CANCELED}
    ),
    ActionState.QUARANTINED: frozenset(
        {
            ActionState.APPROVAL_REQUIRED,
            ActionState.DENIED,
            ActionState.EXPIRED,
            ActionState.CANCELED,
        }
    ),
    ActionState.APPROVED: frozenset(
        {
            ActionState.EXECUTING,
            ActionState.EXECUTED,
            ActionState.FAILED,
            ActionState.DENIED,
            ActionState.EXPIRED,
            ActionState.CANCELED,
        }
    ),
    ActionState.EXECUTING: frozenset(
        {ActionState.EXECUTED, ActionState.FAILED, ActionState.APPROVED}
    ),
    ActionState.EXECUTED: frozenset(),
    ActionState.FAILED: frozenset(),
    ActionState.DENIED: frozenset(),
    ActionState.EXPIRED: frozenset(),
    ActionState.CANCELED: frozenset(),
}

TERMINAL_STATES = frozenset(state for state, following in TRANSITIONS.items() if not following)


class Execution(StrEnum):
    """Who carries an approved action out."""

    CALLER = "caller"
    CONNECTOR = "connector"


@dataclass(frozen=True, slots=True)
class Resource:
    """What the action touches."""

    tool_id: str
    operation: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class ActionContext:
    """The circumstances that the caller asserts; an empty environment means not stated."""

    environment: str = ""
    data_types: tuple[str, ...] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """What is asked, by whom and for whom: the immutable part of an action.

    `input` None means not read: stored actions come back without it. It is never an empty input.
    """

    tenant_id: str
    agent_id: str
    caller: Principal
    resource: Resource
    user_id: str = ""
    delegation_chain: tuple[str, ...] = ()
    context: ActionContext = field(default_factory=ActionContext)
    input: Mapping[str, Any] | None = field(default_factory=dict)
    execution: Execution = Execution.CALLER
    evidence: EvidenceAssessment | None = None

    def input_bytes(self) -> bytes:
        """The input as RFC 8785 canonical JSON.

        Raises:
            ValueError: the input was not read.
        """
        if self.input is None:
            raise ValueError("the input of this action was not read")
        return canonical_json(self.input)

    def digest(self, input_digest: str) -> str:
        """SHA-256 (hex) over everything that an approval binds to.

        The id and the time are left out, so that an identical request has the same digest.
        """
        # An action that came without evidence has the digest that it had before there was any.
        evidence = {} if self.evidence is None else {"evidenceDigest": self.evidence.digest}
        return sha256_hex(
            canonical_json(
                {
                    **evidence,
                    "tenantId": self.tenant_id,
                    "agentId": self.agent_id,
                    "userId": self.user_id,
                    "caller": self.caller.subject,
                    "delegationChain": list(self.delegation_chain),
                    "resource": {
                        "toolId": self.resource.tool_id,
                        "operation": self.resource.operation,
                        "target": self.resource.target,
                    },
                    "context": {
                        "environment": self.context.environment,
                        "dataTypes": None
                        if self.context.data_types is None
                        else sorted(set(self.context.data_types)),
                        "attributes": dict(self.context.attributes),
                    },
                    "execution": self.execution.value,
                    "inputDigest": input_digest,
                }
            )
        )


@dataclass(frozen=True, slots=True)
class Action:
    """An action as stored: the request, its digests, where it stands, its chain of receipts."""

    action_id: str
    request: ActionRequest
    state: ActionState
    input_digest: str
    action_digest: str
    created_at: datetime
    updated_at: datetime
    version: int
    last_sequence: int
    last_receipt_digest: str
    approval_id: str = ""
    expires_at: datetime | None = None
    output_digest: str = ""
    error: str = ""


def after_receipt(
    action: Action,
    *,
    version: int,
    at: datetime,
    sequence: int,
    receipt_digest: str,
    state: ActionState,
    expires_at: datetime | None,
    approval_id: str,
    output_digest: str,
    error: str,
) -> Action:
    """The action as a receipt leaves it.

    Written out, for every receipt makes one and `dataclasses.replace` takes four times as long.
    """
    return Action(
        action.action_id,
        action.request,
        state,
        action.input_digest,
        action.action_digest,
        action.created_at,
        at,
        version,
        sequence,
        receipt_digest,
        approval_id,
        expires_at,
        output_digest,
        error,
    )


def check_transition(current: ActionState, following: ActionState) -> None:
    """Refuse any transition that the table does not list.

    Raises:
        FailedPrecondition: the transition is not in `TRANSITIONS`.
    """
    if following not in TRANSITIONS[current]:
        raise FailedPrecondition(
            f"an action in state {current.value} cannot become {following.value}",
            reason="INVALID_STATE_TRANSITION",
        )
