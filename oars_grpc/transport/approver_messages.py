"""Second factors and approvers' keys: messages ↔ core values."""

from oars_grpc.core.approver_key import ApproverKey, parse_public_key
from oars_grpc.core.grant import KEY_ID
from oars_grpc.core.second_factor import SecondFactor, enrolment_uri, secret_text
from oars_grpc.generated.oars.v1 import approver_pb2
from oars_grpc.transport.answers import sent
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.writing import timestamp
from oars_grpc.use_cases.second_factors import Enrolment

MAXIMUM_SUBJECT = 1024
MAXIMUM_REASON = 512
MAXIMUM_PUBLIC_KEY_BYTES = 1024
PROOF_BYTES = 64  # an Ed25519 signature


def read_subject(reader: Reader, text: str, *, required: bool = True) -> str:
    """The name of an identity."""
    return reader.text(text, "subject", MAXIMUM_SUBJECT, required=required)


def read_tenant_and_subject(tenant_id: str, subject: str) -> tuple[str, str]:
    """Whose factor or keys a request is about."""
    reader = Reader()
    reader.tenant_id(tenant_id, required=True)
    read_subject(reader, subject)
    reader.done()
    return tenant_id, subject


def read_public_key(reader: Reader, data: bytes) -> bytes:
    """A public key in DER; nothing where it is none."""
    if not data:
        reader.wrong("public_key", "is required")
    elif len(data) > MAXIMUM_PUBLIC_KEY_BYTES:
        reader.wrong("public_key", f"is longer than {MAXIMUM_PUBLIC_KEY_BYTES} bytes")
    else:
        try:
            return parse_public_key(data)
        except ValueError as error:
            reader.wrong("public_key", str(error))
    return b""


def read_key_id(reader: Reader, text: str) -> str:
    """The id of a key."""
    if not KEY_ID.fullmatch(text):
        reader.wrong("key_id", "must be 16 hexadecimal digits in lower case")
    return text


def read_reason(reader: Reader, text: str) -> str:
    """Why a key is revoked: not left out, and not blank."""
    reason = reader.text(text, "reason", MAXIMUM_REASON, required=True)
    if reason and not reason.strip():
        reader.wrong("reason", "is required")
    return reason


def write_factor(factor: SecondFactor) -> approver_pb2.SecondFactor:
    """The message of a factor."""
    return approver_pb2.SecondFactor(
        tenant_id=factor.tenant_id,
        subject=factor.subject,
        enrolled_at=timestamp(factor.enrolled_at),
        enrolled_by=factor.enrolled_by,
        locked_until=timestamp(factor.locked_until),
    )


def write_enrolled(factor: SecondFactor) -> approver_pb2.EnrollSecondFactorResponse:
    """What is stored of the answer to an enrolment: all but the secret."""
    return approver_pb2.EnrollSecondFactorResponse(second_factor=write_factor(factor))


def send_enrolment(enrolment: Enrolment) -> approver_pb2.EnrollSecondFactorResponse:
    """The answer to an enrolment, with the secret where it is the first."""
    response = sent(approver_pb2.EnrollSecondFactorResponse, enrolment.answer)
    if enrolment.secret is not None:
        factor = response.second_factor
        response.secret = secret_text(enrolment.secret)
        response.otpauth_uri = enrolment_uri(enrolment.secret, factor.tenant_id, factor.subject)
    return response


def write_removed(factor: SecondFactor) -> approver_pb2.RemoveSecondFactorResponse:
    """The answer of RemoveSecondFactor."""
    return approver_pb2.RemoveSecondFactorResponse(second_factor=write_factor(factor))


def write_key(key: ApproverKey) -> approver_pb2.ApproverKey:
    """The message of a key."""
    return approver_pb2.ApproverKey(
        key_id=key.key_id,
        tenant_id=key.tenant_id,
        subject=key.subject,
        public_key=key.public_key,
        registered_at=timestamp(key.registered_at),
        registered_by=key.registered_by,
        revoked_at=timestamp(key.revoked_at),
        revocation_reason=key.revocation_reason,
    )


def write_registered(key: ApproverKey) -> approver_pb2.RegisterApproverKeyResponse:
    """The answer of RegisterApproverKey."""
    return approver_pb2.RegisterApproverKeyResponse(key=write_key(key))


def write_revoked(key: ApproverKey) -> approver_pb2.RevokeApproverKeyResponse:
    """The answer of RevokeApproverKey."""
    return approver_pb2.RevokeApproverKeyResponse(key=write_key(key))
