"""Actions: messages ↔ core values."""

from collections.abc import Mapping

from google.protobuf import struct_pb2

from oars_grpc.core.action import (
    Action,
    ActionContext,
    ActionRequest,
    ActionState,
    Execution,
    Resource,
)
from oars_grpc.core.action_evidence import ActionEvidence
from oars_grpc.core.evidence_limits import evidence_limits
from oars_grpc.core.identity import Principal
from oars_grpc.generated.oars.v1 import action_pb2, context_pb2
from oars_grpc.transport.action_evidence_messages import fill_assessment, read_evidence
from oars_grpc.transport.approval_messages import write_approval
from oars_grpc.transport.policy_messages import fill_decision
from oars_grpc.transport.reading import NAME, Reader, inverse
from oars_grpc.transport.receipt_messages import fill_receipt
from oars_grpc.transport.writing import write_time
from oars_grpc.use_cases.action_change import ActionOutcome

ACTION_STATES: Mapping[int, ActionState] = {
    action_pb2.ActionState.Value(f"ACTION_STATE_{state.name}"): state for state in ActionState
}
EXECUTIONS: Mapping[int, Execution] = {
    action_pb2.EXECUTION_CALLER: Execution.CALLER,
    action_pb2.EXECUTION_CONNECTOR: Execution.CONNECTOR,
}
_ACTION_STATE_NUMBERS = inverse(ACTION_STATES)
_EXECUTION_NUMBERS = inverse(EXECUTIONS)
# States that there are none, where an empty list says nothing.
NO_DATA_TYPES = ("none",)


def read_request(
    message: action_pb2.SubmitActionRequest, caller: Principal, tenant_id: str
) -> tuple[ActionRequest, ActionEvidence | None]:
    """The request of a submission, and the evidence that it came with.

    Raises:
        InvalidArgument: naming every field at fault.
    """
    reader = Reader()
    request = read_asked(
        reader,
        caller,
        tenant_id,
        agent_id=message.agent_id,
        user_id=message.user_id,
        resource=message.resource,
        context=message.context,
        input_=message.input,
        delegation_chain=reader.texts(
            message.delegation_chain, "delegation_chain", 16, 256, pattern=NAME
        ),
        execution=reader.one_of(message.execution, "execution", EXECUTIONS, Execution.CALLER)
        or Execution.CALLER,
    )
    evidence = None
    if message.HasField("evidence"):
        evidence = read_evidence(reader, message.evidence, evidence_limits(caller.role))
    reader.done()
    return request, evidence


def read_asked(
    reader: Reader,
    caller: Principal,
    tenant_id: str,
    *,
    agent_id: str,
    user_id: str,
    resource: context_pb2.Resource,
    context: context_pb2.ActionContext,
    input_: struct_pb2.Struct,
    delegation_chain: tuple[str, ...] = (),
    execution: Execution = Execution.CALLER,
) -> ActionRequest:
    """What is asked, from the fields that submissions and simulations share."""
    return ActionRequest(
        tenant_id=tenant_id,
        agent_id=reader.text(agent_id, "agent_id", 128, required=True, pattern=NAME),
        caller=caller,
        resource=Resource(
            tool_id=reader.text(
                resource.tool_id, "resource.tool_id", 128, required=True, pattern=NAME
            ),
            operation=reader.text(resource.operation, "resource.operation", 128, required=True),
            target=reader.text(resource.target, "resource.target", 1024),
        ),
        user_id=reader.text(user_id, "user_id", 128, pattern=NAME),
        delegation_chain=delegation_chain,
        context=ActionContext(
            environment=reader.text(context.environment, "context.environment", 64),
            data_types=_read_data_types(reader, context),
            attributes=reader.text_map(context.attributes, "context.attributes", 16, 256),
        ),
        input=reader.json_object(input_, "input"),
        execution=execution,
    )


def _read_data_types(reader: Reader, context: context_pb2.ActionContext) -> tuple[str, ...] | None:
    values = reader.texts(context.data_types, "context.data_types", 32, 64)
    if values == NO_DATA_TYPES:
        return ()
    if NO_DATA_TYPES[0] in values:
        reader.wrong("context.data_types", "'none' stands alone")
    return values or None


def write_action(action: Action) -> action_pb2.Action:
    """The message of an action; its input stays behind, its digest goes out."""
    message = action_pb2.Action()
    _fill_action(message, action)
    return message


def _fill_action(message: action_pb2.Action, action: Action) -> None:
    """Field by field and in place: every submission is answered with one.

    Constructors that take parts would copy each part.
    """
    request = action.request
    message.action_id = action.action_id
    message.tenant_id = request.tenant_id
    message.agent_id = request.agent_id
    message.user_id = request.user_id
    caller = message.caller
    caller.subject = request.caller.subject
    caller.fingerprint_sha256 = request.caller.fingerprint_sha256
    caller.role = request.caller.role.value
    caller.service_account_id = request.caller.service_account_id
    message.delegation_chain.extend(request.delegation_chain)
    resource = message.resource
    resource.tool_id = request.resource.tool_id
    resource.operation = request.resource.operation
    resource.target = request.resource.target
    context, data_types = message.context, request.context.data_types
    context.environment = request.context.environment
    context.data_types.extend(NO_DATA_TYPES if data_types == () else data_types or ())
    context.attributes.update(request.context.attributes)
    message.execution = _EXECUTION_NUMBERS[request.execution]
    message.state = _ACTION_STATE_NUMBERS[action.state]
    message.input_digest = action.input_digest
    message.action_digest = action.action_digest
    write_time(message.created_at, action.created_at)
    write_time(message.updated_at, action.updated_at)
    if action.expires_at is not None:
        write_time(message.expires_at, action.expires_at)
    message.version = action.version
    message.approval_id = action.approval_id
    message.output_digest = action.output_digest
    message.error = action.error
    if request.evidence is not None:
        fill_assessment(message.evidence, request.evidence)


def write_submitted(outcome: ActionOutcome) -> action_pb2.SubmitActionResponse:
    """The answer to a submission."""
    message = action_pb2.SubmitActionResponse()
    _fill_action(message.action, outcome.action)
    fill_decision(message.decision, outcome.decision)
    for receipt in outcome.receipts:
        fill_receipt(message.receipts.add(), receipt)
    if outcome.approval is not None:
        message.approval.CopyFrom(write_approval(outcome.approval))
    message.joined = outcome.joined
    return message
