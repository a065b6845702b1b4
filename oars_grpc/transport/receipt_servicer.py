"""ReceiptService: parse, call one method, format."""

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.core.stored import ReceiptFilter
from oars_grpc.generated.oars.v1 import receipt_pb2, receipt_pb2_grpc
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.reading import KEY, Reader
from oars_grpc.transport.receipt_messages import (
    MAXIMUM_KEYS,
    read_envelope,
    read_key,
    write_key,
    write_receipt,
    write_verification,
)
from oars_grpc.use_cases.receipts import Receipts

Context = grpc.ServicerContext


class ReceiptServicer(receipt_pb2_grpc.ReceiptServiceServicer):
    """Serves `oars.v1.ReceiptService`."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def GetReceipt(
        self, request: receipt_pb2.GetReceiptRequest, context: Context
    ) -> receipt_pb2.GetReceiptResponse:
        """Read one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        receipt_id = parse_id(ids.RECEIPT, request.receipt_id, "receipt_id")
        receipt = self._receipts.get(current_call(), tenant_id, receipt_id)
        return receipt_pb2.GetReceiptResponse(receipt=write_receipt(receipt))

    def ListReceipts(
        self, request: receipt_pb2.ListReceiptsRequest, context: Context
    ) -> receipt_pb2.ListReceiptsResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        type_ = reader.text(request.type, "type", 64, pattern=KEY)
        reader.done()
        action_id = request.action_id and parse_id(ids.ACTION, request.action_id, "action_id")
        page = self._receipts.list(
            current_call(),
            tenant_id,
            ReceiptFilter(action_id, type_),
            request.page_size,
            request.page_token,
            lambda receipt: write_receipt(receipt).ByteSize(),
        )
        return receipt_pb2.ListReceiptsResponse(
            receipts=[write_receipt(receipt) for receipt in page.receipts],
            next_page_token=page.next_page_token,
        )

    def VerifyReceipt(
        self, request: receipt_pb2.VerifyReceiptRequest, context: Context
    ) -> receipt_pb2.VerifyReceiptResponse:
        """Verify a stored or a supplied receipt."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        supplied = request.HasField("envelope")
        if supplied == bool(request.receipt_id):
            reader.wrong("receipt_id", "takes exactly one of receipt_id and envelope")
        if len(request.keys) > MAXIMUM_KEYS:
            reader.wrong("keys", f"has more than {MAXIMUM_KEYS} entries")
            reader.done()
        keys = [
            read_key(reader, key, f"keys[{position}]") for position, key in enumerate(request.keys)
        ]
        envelope = read_envelope(reader, request.envelope, "envelope")
        given = request.HasField("previous")
        previous = read_envelope(reader, request.previous, "previous") if given else None
        if given and not supplied:
            reader.wrong("previous", "is only for a supplied envelope")
        reader.done()
        call = current_call()
        if supplied:
            verified = self._receipts.verify_supplied(call, tenant_id, envelope, keys, previous)
        else:
            receipt_id = parse_id(ids.RECEIPT, request.receipt_id, "receipt_id")
            verified = self._receipts.verify_stored(call, tenant_id, receipt_id, keys)
        return write_verification(verified)

    def ListTrustedKeys(
        self, request: receipt_pb2.ListTrustedKeysRequest, context: Context
    ) -> receipt_pb2.ListTrustedKeysResponse:
        """List a tenant's public keys."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        keys = self._receipts.trusted_keys(tenant_id)
        return receipt_pb2.ListTrustedKeysResponse(keys=[write_key(key) for key in keys])
