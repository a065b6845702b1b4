"""ApproverService: parse, call one method, format."""

import grpc

from oars_grpc.generated.oars.v1 import approver_pb2, approver_pb2_grpc
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.approver_messages import (
    PROOF_BYTES,
    read_key_id,
    read_public_key,
    read_reason,
    read_subject,
    read_tenant_and_subject,
    send_enrolment,
    write_enrolled,
    write_factor,
    write_key,
    write_registered,
    write_removed,
    write_revoked,
)
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.reading import Reader
from oars_grpc.use_cases.approver_keys import ApproverKeys
from oars_grpc.use_cases.second_factors import SecondFactors

Context = grpc.ServicerContext


class ApproverServicer(approver_pb2_grpc.ApproverServiceServicer):
    """Serves `oars.v1.ApproverService`."""

    def __init__(self, factors: SecondFactors, keys: ApproverKeys) -> None:
        self._factors = factors
        self._keys = keys

    def EnrollSecondFactor(
        self, request: approver_pb2.EnrollSecondFactorRequest, context: Context
    ) -> approver_pb2.EnrollSecondFactorResponse:
        """Make a secret and tell it once."""
        tenant_id, subject = read_tenant_and_subject(request.tenant_id, request.subject)
        return send_enrolment(
            self._factors.enrol(current_call(), tenant_id, subject, encoded(write_enrolled))
        )

    def RemoveSecondFactor(
        self, request: approver_pb2.RemoveSecondFactorRequest, context: Context
    ) -> approver_pb2.RemoveSecondFactorResponse:
        """Remove a factor."""
        tenant_id, subject = read_tenant_and_subject(request.tenant_id, request.subject)
        answer = self._factors.remove(current_call(), tenant_id, subject, encoded(write_removed))
        return sent(approver_pb2.RemoveSecondFactorResponse, answer)

    def GetSecondFactor(
        self, request: approver_pb2.GetSecondFactorRequest, context: Context
    ) -> approver_pb2.GetSecondFactorResponse:
        """Read where a factor stands."""
        tenant_id, subject = read_tenant_and_subject(request.tenant_id, request.subject)
        factor = self._factors.get(current_call(), tenant_id, subject)
        return approver_pb2.GetSecondFactorResponse(second_factor=write_factor(factor))

    def RegisterApproverKey(
        self, request: approver_pb2.RegisterApproverKeyRequest, context: Context
    ) -> approver_pb2.RegisterApproverKeyResponse:
        """Register a key."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id, required=True)
        subject = read_subject(reader, request.subject)
        public_key = read_public_key(reader, request.public_key)
        if len(request.proof) != PROOF_BYTES:
            reader.wrong("proof", f"must be a signature of {PROOF_BYTES} bytes")
        reader.done()
        answer = self._keys.register(
            current_call(), tenant_id, subject, public_key, request.proof, encoded(write_registered)
        )
        return sent(approver_pb2.RegisterApproverKeyResponse, answer)

    def RevokeApproverKey(
        self, request: approver_pb2.RevokeApproverKeyRequest, context: Context
    ) -> approver_pb2.RevokeApproverKeyResponse:
        """Revoke a key."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id, required=True)
        key_id = read_key_id(reader, request.key_id)
        reason = read_reason(reader, request.reason)
        reader.done()
        answer = self._keys.revoke(
            current_call(), tenant_id, key_id, reason, encoded(write_revoked)
        )
        return sent(approver_pb2.RevokeApproverKeyResponse, answer)

    def ListApproverKeys(
        self, request: approver_pb2.ListApproverKeysRequest, context: Context
    ) -> approver_pb2.ListApproverKeysResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id, required=True)
        subject = read_subject(reader, request.subject, required=False)
        reader.done()
        page = self._keys.list(
            current_call(),
            tenant_id,
            subject,
            request.page_size,
            request.page_token,
            lambda key: write_key(key).ByteSize(),
        )
        return approver_pb2.ListApproverKeysResponse(
            keys=[write_key(key) for key in page.keys], next_page_token=page.next_page_token
        )
