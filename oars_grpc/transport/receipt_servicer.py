"""ReceiptService: parse, call one method, format."""

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.transport.control_messages import read_control
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.filter_messages import read_filter
from oars_grpc.transport.key_messages import write_key
from oars_grpc.transport.log_servicer import LogServicer
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.receipt_messages import write_stored_receipt
from oars_grpc.transport.verification_messages import read_verification, write_verification
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.receipts import Receipts
from oars_grpc.use_cases.verification import ReceiptVerifier

Context = grpc.ServicerContext


class ReceiptServicer(LogServicer):
    """Serves `oars.v1.ReceiptService`."""

    def __init__(self, receipts: Receipts, log: Log, verifier: ReceiptVerifier) -> None:
        super().__init__(log)
        self._receipts = receipts
        self._verifier = verifier

    def GetReceipt(
        self, request: receipt_pb2.GetReceiptRequest, context: Context
    ) -> receipt_pb2.GetReceiptResponse:
        """Read one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        receipt_id = parse_id(ids.RECEIPT, request.receipt_id, "receipt_id")
        stored = self._receipts.find(current_call(), tenant_id, receipt_id)
        return receipt_pb2.GetReceiptResponse(receipt=write_stored_receipt(stored))

    def ListReceipts(
        self, request: receipt_pb2.ListReceiptsRequest, context: Context
    ) -> receipt_pb2.ListReceiptsResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        which = read_filter(reader, request)
        control = read_control(reader, request.control)
        reader.done()
        page = self._receipts.list(
            current_call(),
            tenant_id,
            which,
            control,
            request.page_size,
            request.page_token,
            lambda stored: write_stored_receipt(stored).ByteSize(),
        )
        return receipt_pb2.ListReceiptsResponse(
            receipts=[write_stored_receipt(stored) for stored in page.receipts],
            next_page_token=page.next_page_token,
        )

    def VerifyReceipt(
        self, request: receipt_pb2.VerifyReceiptRequest, context: Context
    ) -> receipt_pb2.VerifyReceiptResponse:
        """Verify a stored or a supplied receipt."""
        wanted = read_verification(request)
        call = current_call()
        if wanted.envelope is None:
            verified = self._verifier.stored(call, wanted.tenant_id, wanted.receipt_id, wanted.keys)
        else:
            verified = self._verifier.supplied(
                call, wanted.tenant_id, wanted.envelope, wanted.keys, wanted.beside
            )
        return write_verification(verified)

    def ListTrustedKeys(
        self, request: receipt_pb2.ListTrustedKeysRequest, context: Context
    ) -> receipt_pb2.ListTrustedKeysResponse:
        """List a tenant's public keys."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        keys = self._receipts.trusted_keys(tenant_id)
        return receipt_pb2.ListTrustedKeysResponse(
            keys=[write_key(key, self._log.vkey(key)) for key in keys]
        )
