"""Checks what one leaf of a log says of itself: payload, hashes, signature, columns.

A leaf needs no other one for it, so that pages of leaves can be inspected side by side. What leaves
have to do with each other is `core/log_check.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey, key_id_of
from oars_grpc.core.receipt import NO_ACTION, Receipt, parse_receipt
from oars_grpc.core.receipt_terms import ReceiptTerms, terms_of
from oars_grpc.core.retention import RETENTION_ERASED
from oars_grpc.core.stored_log import ActionEnd, LeafRow, Problem, ProblemKind, StoredLeaf

Found = tuple[ProblemKind, str]
_TERMS = [field.name for field in fields(ReceiptTerms) if field.name != "rule_ids"]


@dataclass(frozen=True, slots=True)
class Link:
    """The place of a receipt in its chain, by its payload; by its row where that is erased."""

    action_id: str
    sequence: int
    previous_digest: str
    digest: str
    action_end: ActionEnd | None


@dataclass(frozen=True, slots=True)
class InspectedLeaf:
    """What came of a leaf: its hash, derived anew where the payload is there, and its link.

    `leaf_hash` None: there is no receipt. `link` None: its chain cannot be followed. `erases` are
    the leaves, from and to, whose erasure it records.
    """

    leaf_index: int
    receipt_id: str
    leaf_hash: bytes | None
    link: Link | None
    problems: tuple[Problem, ...]
    erased: bool = False
    unvouched: bool = False
    erases: tuple[tuple[int, int], ...] = ()


class KeyBook:
    """A tenant's keys, ready to verify with. A key is found by the id that follows from it."""

    def __init__(self, tenant_id: str, keys: Iterable[TrustedKey]) -> None:
        self.tenant_id = tenant_id
        self._keys = {key_id_of(key.public_key): (key, _loaded(key)) for key in keys}

    def find(self, key_id: str) -> tuple[TrustedKey, Ed25519PublicKey | None] | None:
        """The key and what verifies with it, which only an Ed25519 key has."""
        return self._keys.get(key_id)


def _loaded(key: TrustedKey) -> Ed25519PublicKey | None:
    try:
        loaded = load_der_public_key(key.public_key)
    except ValueError:
        return None
    return loaded if isinstance(loaded, Ed25519PublicKey) else None


def inspect_page(
    leaves: Sequence[StoredLeaf], tenant_id: str, keys: Sequence[TrustedKey], *, signatures: bool
) -> list[InspectedLeaf]:
    """Inspect the leaves of a page, without their signatures if these are not asked for."""
    book = KeyBook(tenant_id, keys)
    return [inspect_leaf(leaf, book, signatures=signatures) for leaf in leaves]


def inspect_leaf(leaf: StoredLeaf, book: KeyBook, *, signatures: bool = True) -> InspectedLeaf:
    """Inspect one leaf."""
    row, tenant_id = leaf.row, book.tenant_id

    def problem(kind: ProblemKind, detail: str) -> Problem:
        receipt_id = row.receipt_id if row else ""
        return Problem(kind, tenant_id, detail, leaf.leaf_index, receipt_id)

    if row is None:
        alone = problem(
            ProblemKind.LEAF_INDEX, "what belongs to a receipt is there, but no receipt"
        )
        return InspectedLeaf(leaf.leaf_index, "", None, None, (alone,))
    if leaf.payload is not None:
        return _inspect_payload(leaf, leaf.payload, row, book, problem, signatures=signatures)
    gone = problem(ProblemKind.PAYLOAD, "the payload is gone and no erasure records it")
    return InspectedLeaf(
        leaf.leaf_index,
        row.receipt_id,
        row.leaf_hash,
        _link(row, row.receipt_digest, leaf.action_end),
        () if leaf.erased else (gone,),
        erased=leaf.erased,
    )


def _inspect_payload(
    leaf: StoredLeaf,
    payload: bytes,
    row: LeafRow,
    book: KeyBook,
    problem: Callable[[ProblemKind, str], Problem],
    *,
    signatures: bool,
) -> InspectedLeaf:
    found: list[Found] = []
    if leaf.erased:
        found.append((ProblemKind.ERASURE, "the payload is there, though recorded as erased"))
    envelope = Envelope(PAYLOAD_TYPE, payload, ())
    digest, leaf_hash = envelope.digest(), envelope.leaf_hash()
    if digest != row.receipt_digest:
        found.append((ProblemKind.RECEIPT_DIGEST, "is not that of the payload"))
    if leaf_hash != row.leaf_hash:
        found.append((ProblemKind.LEAF_HASH, "is not that of the payload"))
    if signatures:
        found.extend(_signature_problems(row, envelope, book))
    key_problems, unvouched = _key_problems(row, leaf.leaf_index, book)
    found.extend(key_problems)
    link = None
    erases: tuple[tuple[int, int], ...] = ()
    try:
        receipt = parse_receipt(envelope)
    except ValueError as error:
        found.append((ProblemKind.SCHEMA, str(error)))
    else:
        found.extend(_column_problems(row, receipt, book.tenant_id))
        if (receipt.action_id, receipt.type) == (NO_ACTION, RETENTION_ERASED):
            erases = _erased_leaves(payload)
        # The action's end was looked up by the row: of another action it tells nothing.
        if receipt.action_id == row.action_id:
            link = _link(receipt, digest, leaf.action_end)
    return InspectedLeaf(
        leaf.leaf_index,
        row.receipt_id,
        leaf_hash,
        link,
        tuple(problem(kind, detail) for kind, detail in found),
        unvouched=unvouched,
        erases=erases,
    )


def _erased_leaves(payload: bytes) -> tuple[tuple[int, int], ...]:
    """The leaves of `core/retention.erasure_event`; none where it is something else."""
    ranges = orjson.loads(payload)["predicate"]["event"].get("leaves")
    return tuple(
        (each[0], each[1])
        for each in (ranges if isinstance(ranges, list) else ())
        if isinstance(each, list) and len(each) == 2 and all(type(end) is int for end in each)
    )


def _link(said: Receipt | LeafRow, digest: str, end: ActionEnd | None) -> Link:
    return Link(said.action_id, said.sequence, said.previous_receipt_digest, digest, end)


def _signature_problems(row: LeafRow, envelope: Envelope, book: KeyBook) -> Iterator[Found]:
    key = book.find(row.key_id)
    if key is None:  # told by `_key_problems`
        return
    trusted, loaded = key
    if loaded is not None:
        try:
            loaded.verify(row.signature, envelope.signed_bytes())
        except InvalidSignature:
            pass
        else:
            return
    detail = f"is not one of key {key_id_of(trusted.public_key)} over the payload"
    yield ProblemKind.SIGNATURE, detail


def _key_problems(row: LeafRow, leaf_index: int, book: KeyBook) -> tuple[list[Found], bool]:
    """What is wrong with the key for this receipt, and whether nothing vouches for it any more.

    A revoked key is no fault of storage: its receipts stay where they are. Those of them that were
    not in the log up to the size that is still trusted are counted.
    """
    key = book.find(row.key_id)
    if key is None:
        return [(ProblemKind.KEY, f"the tenant has no key {row.key_id!r}")], False
    trusted = key[0]
    if trusted.purpose is not KeyPurpose.RECEIPT:
        return [(ProblemKind.KEY, f"key {row.key_id} signs no receipts")], False
    revoked = trusted.state is KeyState.REVOKED
    refusal = replace(trusted, state=KeyState.RETIRED).refusal_at(row.recorded_at)
    if refusal is None and trusted.revoked_at and row.recorded_at >= trusted.revoked_at:
        refusal = f"key {row.key_id} was revoked before"
    if refusal is not None:
        return [(ProblemKind.KEY, refusal)], False
    return [], revoked and leaf_index >= (trusted.trusted_log_size or 0)


def _column_problems(row: LeafRow, receipt: Receipt, tenant_id: str) -> Iterator[Found]:
    if receipt.tenant_id != tenant_id:
        yield ProblemKind.COLUMN, f"the payload is of tenant {receipt.tenant_id}"
    try:
        terms = terms_of(receipt.envelope.payload)
    except (AttributeError, KeyError, TypeError) as error:
        yield ProblemKind.SCHEMA, f"the payload cannot be searched by: {error!r}"
        terms = row.terms
    differing = [
        name
        for name, of_row, of_payload in (
            ("receipt_id", row.receipt_id, receipt.receipt_id),
            ("action_id", row.action_id, receipt.action_id),
            ("sequence", row.sequence, receipt.sequence),
            ("type", row.type, receipt.type),
            (
                "previous_receipt_digest",
                row.previous_receipt_digest,
                receipt.previous_receipt_digest,
            ),
            ("recorded_at", row.recorded_at, receipt.recorded_at),
        )
        if of_row != of_payload
    ]
    if terms != row.terms:
        differing += [name for name in _TERMS if getattr(terms, name) != getattr(row.terms, name)]
        if terms.rule_ids != row.terms.rule_ids:
            said, stored = list(terms.rule_ids), list(row.terms.rule_ids)
            yield ProblemKind.RULES, f"the payload names the rules {said}, the rows {stored}"
    for name in differing:
        yield ProblemKind.COLUMN, f"{name} is not what the payload says"
