"""Workflows: who answers for an action that waits for people, in which order, and by when.

These are a tenant's settings. `approval.py` carries an approval through them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import FailedPrecondition, FieldViolation

WORKFLOW_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
DEFAULT_WORKFLOW = "default"
MAXIMUM_WORKFLOWS = 32
MAXIMUM_STAGES = 8
# Of all workflows that one decision asks for: its receipt names them all.
MAXIMUM_PLANNED_STAGES = 16
MAXIMUM_APPROVERS = 32
MAXIMUM_REQUIRED = 16
MAXIMUM_NAME = 64
MAXIMUM_DESCRIPTION = 256
MAXIMUM_PRINCIPAL = 512
MAXIMUM_SECONDS = 30 * 24 * 60 * 60
# Roles that may decide approvals at all (`transport/access.py`).
APPROVING_ROLES = frozenset({Role.APPROVER, Role.ADMIN})


class StageMode(StrEnum):
    """How the approvers of a stage take part: in any order, or one after the other."""

    PARALLEL = "parallel"
    SERIAL = "serial"


@dataclass(frozen=True, slots=True)
class Approver:
    """One principal, by subject or service account, or everybody of a role; one of the two."""

    principal: str = ""
    role: Role | None = None

    def covers(self, principal: Principal) -> bool:
        """Whether the principal is meant."""
        if self.role is not None:
            return principal.role is self.role
        return self.principal in principal.names()

    def to_json(self) -> dict[str, str]:
        """The stored form."""
        if self.role is not None:
            return {"role": self.role.value}
        return {"principal": self.principal}

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> "Approver":
        """The inverse of `to_json`."""
        return cls(value.get("principal", ""), Role(value["role"]) if "role" in value else None)


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage asks: so many distinct principals of these, within seconds (0: no matter)."""

    name: str
    mode: StageMode = StageMode.PARALLEL
    required_approvals: int = 1
    approvers: tuple[Approver, ...] = ()
    sla_seconds: int = 0
    escalate_to: tuple[Approver, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The stored form, and that of receipts."""
        return {
            "name": self.name,
            "mode": self.mode.value,
            "requiredApprovals": self.required_approvals,
            "approvers": [approver.to_json() for approver in self.approvers],
            "slaSeconds": self.sla_seconds,
            "escalateTo": [approver.to_json() for approver in self.escalate_to],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Stage":
        """The inverse of `to_json`."""
        return cls(
            name=value["name"],
            mode=StageMode(value["mode"]),
            required_approvals=value["requiredApprovals"],
            approvers=tuple(map(Approver.from_json, value["approvers"])),
            sla_seconds=value["slaSeconds"],
            escalate_to=tuple(map(Approver.from_json, value["escalateTo"])),
        )


@dataclass(frozen=True, slots=True)
class Workflow:
    """Stages, one after the other; `expires_seconds` 0 leaves it to the tenant.

    `step_up` asks every approval for a second factor, `signed_grants` for a signature by a key
    that only the approver holds.
    """

    workflow_id: str
    stages: tuple[Stage, ...]
    description: str = ""
    expires_seconds: int = 0
    step_up: bool = False
    signed_grants: bool = False

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return {
            "workflowId": self.workflow_id,
            "description": self.description,
            "stages": [stage.to_json() for stage in self.stages],
            "expiresSeconds": self.expires_seconds,
            "stepUp": self.step_up,
            "signedGrants": self.signed_grants,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Workflow":
        """The inverse of `to_json`."""
        return cls(
            workflow_id=value["workflowId"],
            stages=tuple(map(Stage.from_json, value["stages"])),
            description=value["description"],
            expires_seconds=value["expiresSeconds"],
            step_up=value["stepUp"],
            signed_grants=value["signedGrants"],
        )


BUILTIN_WORKFLOW = Workflow(DEFAULT_WORKFLOW, (Stage("approval"),))


@dataclass(frozen=True, slots=True)
class WorkflowPlan:
    """What the workflows of one decision ask together: all of their stages, the least time."""

    stages: tuple[tuple[str, Stage], ...]
    expires_seconds: int
    step_up: bool
    signed_grants: bool


def plan_workflows(names: Iterable[str], workflows: Sequence[Workflow]) -> WorkflowPlan:
    """Put together what the named workflows ask; an empty name is the default workflow.

    No rule can weaken what another asks for: the stages of all count, those of the default first.

    Raises:
        FailedPrecondition: a rule names a workflow that the tenant does not have.
    """
    by_id = {DEFAULT_WORKFLOW: BUILTIN_WORKFLOW, **{w.workflow_id: w for w in workflows}}
    chosen = sorted({name or DEFAULT_WORKFLOW for name in names})
    chosen.sort(key=lambda name: name != DEFAULT_WORKFLOW)
    unknown = [name for name in chosen if name not in by_id]
    if unknown:
        raise FailedPrecondition(
            f"the policy names workflow {unknown[0]}, which the tenant's settings do not have",
            reason="WORKFLOW_NOT_FOUND",
        )
    found = [by_id[name] for name in chosen]
    stages = tuple((w.workflow_id, stage) for w in found for stage in w.stages)
    if len(stages) > MAXIMUM_PLANNED_STAGES:
        raise FailedPrecondition(
            f"the workflows of this decision have {len(stages)} stages together; at most"
            f" {MAXIMUM_PLANNED_STAGES} are carried through",
            reason="TOO_MANY_STAGES",
        )
    return WorkflowPlan(
        stages=stages,
        expires_seconds=min((w.expires_seconds for w in found if w.expires_seconds), default=0),
        step_up=any(w.step_up for w in found),
        signed_grants=any(w.signed_grants for w in found),
    )


def workflow_violations(
    workflows: Sequence[Workflow], path: str = "settings.workflows"
) -> Iterator[FieldViolation]:
    """What is wrong with a tenant's workflows."""
    if len(workflows) > MAXIMUM_WORKFLOWS:
        yield FieldViolation(path, f"has {len(workflows)}; at most {MAXIMUM_WORKFLOWS} are kept")
    seen: set[str] = set()
    for index, workflow in enumerate(workflows[:MAXIMUM_WORKFLOWS]):
        at = f"{path}[{index}]"
        if not WORKFLOW_ID.fullmatch(workflow.workflow_id):
            yield FieldViolation(
                f"{at}.workflow_id",
                "must be 1 to 64 characters of [a-z0-9_-], beginning with a letter",
            )
        elif workflow.workflow_id in seen:
            yield FieldViolation(f"{at}.workflow_id", "is given twice")
        seen.add(workflow.workflow_id)
        if not 1 <= len(workflow.stages) <= MAXIMUM_STAGES:
            yield FieldViolation(f"{at}.stages", f"must be 1 to {MAXIMUM_STAGES}")
        if not 0 <= workflow.expires_seconds <= MAXIMUM_SECONDS:
            yield FieldViolation(
                f"{at}.expires_seconds",
                f"must be from 1 to {MAXIMUM_SECONDS}, or 0 for the tenant's approval_seconds",
            )
        for number, stage in enumerate(workflow.stages[:MAXIMUM_STAGES]):
            yield from _stage_violations(stage, f"{at}.stages[{number}]")


def _stage_violations(stage: Stage, path: str) -> Iterator[FieldViolation]:
    if not 1 <= stage.required_approvals <= MAXIMUM_REQUIRED:
        yield FieldViolation(f"{path}.required_approvals", f"must be from 1 to {MAXIMUM_REQUIRED}")
    if not 0 <= stage.sla_seconds <= MAXIMUM_SECONDS:
        yield FieldViolation(f"{path}.sla_seconds", f"must be from 0 to {MAXIMUM_SECONDS}")
    if stage.escalate_to and not stage.sla_seconds:
        yield FieldViolation(f"{path}.escalate_to", "is only for a stage with sla_seconds")
    for name, approvers in (("approvers", stage.approvers), ("escalate_to", stage.escalate_to)):
        if len(approvers) > MAXIMUM_APPROVERS:
            yield FieldViolation(f"{path}.{name}", f"has more than {MAXIMUM_APPROVERS} entries")
        if stage.mode is StageMode.PARALLEL and len(set(approvers)) < len(approvers):
            yield FieldViolation(f"{path}.{name}", "names an approver twice")
        for index, approver in enumerate(approvers[:MAXIMUM_APPROVERS]):
            if approver.role is not None and approver.role not in APPROVING_ROLES:
                yield FieldViolation(
                    f"{path}.{name}[{index}].role",
                    "must be approver or admin: others do not decide",
                )
    # Else nobody could ever complete it.
    named = stage.approvers and all(approver.principal for approver in stage.approvers)
    few = len(stage.approvers) < stage.required_approvals
    if few and (named or stage.mode is StageMode.SERIAL):
        yield FieldViolation(
            f"{path}.required_approvals", f"is more than the {len(stage.approvers)} approvers named"
        )
