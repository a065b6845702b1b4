"""Whether receipts form a chain: each names the one before by digest, in one unbroken sequence."""

from collections.abc import Sequence

from oars_grpc.core.envelope import Envelope, signature_verifies
from oars_grpc.core.keys import KeyPurpose, TrustedKey, key_id_of
from oars_grpc.core.receipt import Receipt, parse_receipt


def link_problems(receipt: Receipt, previous: Envelope) -> list[str]:
    """Why `previous` is not what the receipt was chained to; its own signature is not judged."""
    try:
        before = parse_receipt(previous)
    except ValueError as error:
        return [_unreadable(error)]
    return _link_problems(receipt, before)


def _unreadable(error: ValueError) -> str:
    return f"the receipt before: {error}"


def _link_problems(receipt: Receipt, before: Receipt) -> list[str]:
    problems = []
    if (before.tenant_id, before.action_id) != (receipt.tenant_id, receipt.action_id):
        problems.append("the receipt before is of another action")
    if before.sequence != receipt.sequence - 1:
        problems.append(f"receipt {before.sequence} does not precede {receipt.sequence}")
    if before.envelope.digest() != receipt.previous_receipt_digest:
        problems.append("previousReceiptDigest is not that of the receipt before")
    return problems


def chain_problems(
    receipt: Receipt, chain: Sequence[Envelope], keys: Sequence[TrustedKey], *, whole: bool = True
) -> list[str]:
    """Why `chain` is not what led to the receipt: all that came before, the first one first.

    Args:
        receipt: the one at its end, which is judged elsewhere.
        chain: what came before.
        keys: the keys that the verifier trusts.
        whole: it must begin with the first receipt, and not merely end with the one before.
    """
    problems: list[str] = []
    following = receipt
    for envelope in reversed(chain):
        place = following.sequence - 1
        if place < 1:
            problems.append(f"receipt {place}: nothing precedes receipt {following.sequence}")
            break
        try:
            before = parse_receipt(envelope)
        except ValueError as error:
            problems.append(f"receipt {place}: {_unreadable(error)}")
            break
        links = _link_problems(following, before)
        if links:
            problems.append(f"receipt {place}: {'; '.join(links)}")
            break  # what stands before it leads nowhere
        following = before
        refusal = _signature_refusal(envelope, following, keys)
        if refusal:
            problems.append(f"receipt {place}: {refusal}")
    else:
        if whole and following.sequence > 1:
            problems.append(f"receipt {following.sequence - 1} of the chain is missing")
    problems.reverse()
    return problems


def _signature_refusal(
    envelope: Envelope, receipt: Receipt, keys: Sequence[TrustedKey]
) -> str | None:
    """Why a receipt within the chain is not one that the tenant signed.

    Of a key that was revoked since, the signature is enough here: it is not the key's word that is
    taken for the payload but that of the receipt after it, which names it by its digest.
    """
    if len(envelope.signatures) != 1:
        return f"expected one signature, found {len(envelope.signatures)}"
    (signature,) = envelope.signatures
    refusal: str | None = None
    for key in keys:
        if (key.tenant_id, key.purpose) != (receipt.tenant_id, KeyPurpose.RECEIPT):
            continue
        if key_id_of(key.public_key) != signature.keyid:
            continue
        if not signature_verifies(envelope, signature, key.public_key):
            return f"the signature is not one of key {signature.keyid} over this payload"
        refusal = key.window_refusal_at(receipt.recorded_at)
        if refusal is None:
            return None
    return refusal or f"no trusted key of the tenant has the id {signature.keyid!r}"
