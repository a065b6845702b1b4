"""Workflows: messages ↔ core values."""

from collections.abc import Iterable, Mapping, Sequence

from oars_grpc.core.canonical import statement_json
from oars_grpc.core.identity import Role
from oars_grpc.core.workflow import (
    MAXIMUM_DESCRIPTION,
    MAXIMUM_NAME,
    MAXIMUM_PRINCIPAL,
    MAXIMUM_WORKFLOWS,
    Approver,
    Stage,
    StageMode,
    Workflow,
    workflow_violations,
)
from oars_grpc.generated.oars.v1 import approval_pb2
from oars_grpc.transport.reading import Reader, inverse

STAGE_MODES: Mapping[int, StageMode] = {
    approval_pb2.STAGE_MODE_PARALLEL: StageMode.PARALLEL,
    approval_pb2.STAGE_MODE_SERIAL: StageMode.SERIAL,
}
_STAGE_MODE_NUMBERS = inverse(STAGE_MODES)
# Read with every decision, kept for every tenant.
MAXIMUM_BYTES = 64 * 1024
_FIELD = "settings.workflows"


def read_workflows(
    reader: Reader, messages: Sequence[approval_pb2.Workflow]
) -> tuple[Workflow, ...]:
    """The workflows of a tenant's settings; `reader` collects what is wrong with them."""
    if sum(message.ByteSize() for message in messages) > MAXIMUM_BYTES:
        reader.wrong(_FIELD, f"are more than {MAXIMUM_BYTES} bytes together")
        return ()
    workflows = tuple(
        Workflow(
            workflow_id=message.workflow_id,
            description=reader.text(
                message.description, f"{_FIELD}[{index}].description", MAXIMUM_DESCRIPTION
            ),
            stages=tuple(
                _read_stage(reader, stage, f"{_FIELD}[{index}].stages[{number}]")
                for number, stage in enumerate(message.stages)
            ),
            expires_seconds=message.expires_seconds,
            step_up=message.step_up,
            signed_grants=message.signed_grants,
        )
        for index, message in enumerate(messages[: MAXIMUM_WORKFLOWS + 1])
    )
    for violation in workflow_violations(workflows, _FIELD):
        reader.wrong(violation.field, violation.description)
    if len(statement_json([workflow.to_json() for workflow in workflows])) > MAXIMUM_BYTES:
        reader.wrong(_FIELD, f"are more than {MAXIMUM_BYTES} bytes together")
    return workflows


def _read_stage(reader: Reader, message: approval_pb2.Stage, path: str) -> Stage:
    mode = reader.one_of(message.mode, f"{path}.mode", STAGE_MODES, StageMode.PARALLEL)
    return Stage(
        name=reader.text(message.name, f"{path}.name", MAXIMUM_NAME, required=True),
        mode=mode or StageMode.PARALLEL,
        required_approvals=message.required_approvals or 1,
        approvers=_read_approvers(reader, message.approvers, f"{path}.approvers"),
        sla_seconds=message.sla_seconds,
        escalate_to=_read_approvers(reader, message.escalate_to, f"{path}.escalate_to"),
    )


def _read_approvers(
    reader: Reader, messages: Iterable[approval_pb2.Approver], path: str
) -> tuple[Approver, ...]:
    approvers = []
    for index, message in enumerate(messages):
        at = f"{path}[{index}]"
        reader.text(message.principal, f"{at}.principal", MAXIMUM_PRINCIPAL)
        role = None
        if bool(message.principal) == bool(message.role):
            reader.wrong(at, "must name either a principal or a role")
        elif message.role:
            try:
                role = Role(message.role)
            except ValueError:
                reader.wrong(f"{at}.role", "must be approver or admin")
                continue
        approvers.append(Approver(message.principal, role))
    return tuple(approvers)


def write_workflow(workflow: Workflow) -> approval_pb2.Workflow:
    """The message of a workflow."""
    return approval_pb2.Workflow(
        workflow_id=workflow.workflow_id,
        description=workflow.description,
        stages=[write_stage(stage) for stage in workflow.stages],
        expires_seconds=workflow.expires_seconds,
        step_up=workflow.step_up,
        signed_grants=workflow.signed_grants,
    )


def write_stage(stage: Stage) -> approval_pb2.Stage:
    """The message of a stage."""
    return approval_pb2.Stage(
        name=stage.name,
        mode=_STAGE_MODE_NUMBERS[stage.mode],
        required_approvals=stage.required_approvals,
        approvers=[_write_approver(approver) for approver in stage.approvers],
        sla_seconds=stage.sla_seconds,
        escalate_to=[_write_approver(approver) for approver in stage.escalate_to],
    )


def _write_approver(approver: Approver) -> approval_pb2.Approver:
    role = "" if approver.role is None else approver.role.value
    return approval_pb2.Approver(principal=approver.principal, role=role)
