"""Simulations: messages to what the use case tries."""

from collections.abc import Mapping

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import PermissionDenied
from oars_grpc.generated.oars.v1 import policy_pb2
from oars_grpc.transport.action_messages import read_asked
from oars_grpc.transport.policy_messages import read_document
from oars_grpc.transport.reading import NAME, Reader
from oars_grpc.use_cases.simulation import Trial


def read_trial(
    request: policy_pb2.SimulatePolicyRequest, caller: Principal, tenant_id: str
) -> Trial:
    """What a request asks to be tried, on behalf of a caller of the tenant.

    Raises:
        InvalidArgument: naming every field at fault.
        PermissionDenied: a caller that is no admin supposes another one.
    """
    reader = Reader()
    asked = read_asked(
        reader,
        _supposed(reader, request, caller, tenant_id),
        tenant_id,
        agent_id=request.agent_id,
        user_id=request.user_id,
        resource=request.resource,
        context=request.context,
        input_=request.input,
        delegation_chain=reader.texts(
            request.delegation_chain, "delegation_chain", 16, 256, pattern=NAME
        ),
    )
    evidence = _evidence(reader, request)
    at = reader.moment(request.time, "time") if request.HasField("time") else None
    reader.done()
    document = read_document(request.document) if request.HasField("document") else None
    return Trial(asked, document, at, evidence)


def _supposed(
    reader: Reader, request: policy_pb2.SimulatePolicyRequest, caller: Principal, tenant_id: str
) -> Principal:
    """Who would submit the action: the caller itself, or whom an admin supposes."""
    if not request.HasField("caller"):
        return caller
    if caller.role is not Role.ADMIN:
        # Which attributes let an action pass is not for everybody to find out.
        raise PermissionDenied(
            "only an admin may simulate the action of another caller", reason="ROLE_FORBIDDEN"
        )
    message = request.caller
    role = reader.text(message.role, "caller.role", 16, required=True)
    if role and role not in set(Role):
        reader.wrong("caller.role", f"must be one of {', '.join(Role)}")
    return Principal(
        subject=reader.text(message.subject, "caller.subject", 512, required=True),
        fingerprint_sha256="",
        role=Role(role) if role in set(Role) else Role.AGENT,
        tenant_ids=frozenset({tenant_id}),
        service_account_id=reader.text(
            message.service_account_id, "caller.service_account_id", 128
        ),
        attributes=reader.text_map(message.attributes, "caller.attributes", 32, 256),
    )


def _evidence(reader: Reader, request: policy_pb2.SimulatePolicyRequest) -> Mapping[str, float]:
    found: dict[str, float] = {field.name: value for field, value in request.evidence.ListFields()}
    for name, value in found.items():
        if not 0.0 <= value <= 1.0:  # also refuses NaN
            reader.wrong(f"evidence.{name}", "must be from 0 to 1")
    return found
