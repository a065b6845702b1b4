"""The evidence of actions: messages ↔ core values."""

import re
from collections.abc import Sequence

from oars_grpc.core import ids
from oars_grpc.core.action_evidence import (
    MAXIMUM_ITEM_ID,
    MAXIMUM_ITEM_TEXT,
    SCORES_PER_UNIT,
    ActionEvidence,
    AnchorOutcome,
    EvidenceAssessment,
    EvidenceItem,
)
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.evidence_limits import EvidenceLimits
from oars_grpc.core.evidence_scoring import embedding_fault
from oars_grpc.generated.oars.v1 import action_evidence_pb2
from oars_grpc.transport.reading import NAME, Reader

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER_BYTES = 4


def read_evidence(
    reader: Reader, message: action_evidence_pb2.ActionEvidence, limits: EvidenceLimits
) -> ActionEvidence:
    """The evidence of a submission; what is over a limit is not looked at any further."""
    field = "evidence"
    if not message.lattice_id:
        if not message.items:
            reader.wrong(field, "must have either items or a lattice_id")
    elif ids.is_id(ids.LATTICE, message.lattice_id):
        if message.items:
            reader.wrong(field, "must have either items or a lattice_id, not both")
    else:
        reader.wrong(f"{field}.lattice_id", f"must be {ids.LATTICE}_ and 26 characters of a UUIDv7")
    own = message.action_embedding
    _check_embedding(reader, own, f"{field}.action_embedding", limits)
    if len(message.items) > limits.items:
        reader.wrong(
            f"{field}.items",
            f"has {len(message.items)} entries; at most {limits.items} are accepted",
        )
        return ActionEvidence(own)
    size = len(own) + sum(len(item.embedding) for item in message.items)
    if size > limits.bytes:
        reader.wrong(field, f"has {size} bytes of embeddings; at most {limits.bytes} are accepted")
        return ActionEvidence(own)
    items = tuple(
        _read_item(reader, item, f"{field}.items[{position}]", len(own), limits)
        for position, item in enumerate(message.items)
    )
    _check_unique(reader, items, field)
    outcomes = _read_outcomes(reader, message, f"{field}.outcomes", limits)
    return ActionEvidence(own, items, message.lattice_id, outcomes)


def _read_outcomes(
    reader: Reader, message: action_evidence_pb2.ActionEvidence, field: str, limits: EvidenceLimits
) -> tuple[AnchorOutcome, ...]:
    given = message.outcomes
    if len(given) > limits.outcomes:
        reader.wrong(field, f"has {len(given)} entries; at most {limits.outcomes} are accepted")
        return ()
    outcomes: dict[int, AnchorOutcome] = {}
    for position, each in enumerate(given):
        place = f"{field}[{position}]"
        if each.index < 0:
            reader.wrong(f"{place}.index", "must not be negative")
        elif each.index in outcomes:
            reader.wrong(f"{place}.index", "is that of another outcome, too")
        if not _DIGEST.fullmatch(each.digest):
            reader.wrong(f"{place}.digest", "must be 64 lower-case hexadecimal digits")
        elif not each.HasField("adverse"):
            reader.wrong(f"{place}.adverse", "is required")
        adverse = _share(reader, each.adverse, f"{place}.adverse")
        outcomes[each.index] = AnchorOutcome(each.index, each.digest, adverse)
    if given and not message.lattice_id and reader.sound:
        reader.wrong(field, "may only come with a lattice_id; items have their own `adverse`")
    return tuple(outcomes.values())


def _read_item(
    reader: Reader,
    message: action_evidence_pb2.EvidenceItem,
    field: str,
    length: int,
    limits: EvidenceLimits,
) -> EvidenceItem:
    item_id = reader.text(message.id, f"{field}.id", MAXIMUM_ITEM_ID, required=True, pattern=NAME)
    text, digest = "", message.digest
    match message.WhichOneof("content"):
        case "text":
            text = reader.text(
                message.text, f"{field}.text", MAXIMUM_ITEM_TEXT, required=True, lines=True
            )
            digest = sha256_hex(text.encode())
        case "digest":
            if not _DIGEST.fullmatch(digest):
                reader.wrong(f"{field}.digest", "must be 64 lower-case hexadecimal digits")
        case _:
            reader.wrong(field, "must have either a text or a digest")
    if message.embedding and length and len(message.embedding) != length:
        reader.wrong(
            f"{field}.embedding",
            f"is {len(message.embedding)} bytes long; the action's is {length}",
        )
    else:
        _check_embedding(reader, message.embedding, f"{field}.embedding", limits)
    trust = _share(reader, message.trust, f"{field}.trust") if message.HasField("trust") else None
    adverse = (
        _share(reader, message.adverse, f"{field}.adverse") if message.HasField("adverse") else None
    )
    return EvidenceItem(
        item_id=item_id,
        text=text,
        content_digest=digest,
        embedding=message.embedding,
        trust=SCORES_PER_UNIT if trust is None else trust,
        adverse=adverse,
    )


def _check_embedding(reader: Reader, raw: bytes, field: str, limits: EvidenceLimits) -> None:
    longest = limits.dimension * _NUMBER_BYTES
    if not raw:
        reader.wrong(field, "is required")
    elif len(raw) % _NUMBER_BYTES:
        reader.wrong(field, f"is {len(raw)} bytes long; float32 numbers take four each")
    elif len(raw) > longest:
        reader.wrong(field, f"is {len(raw)} bytes long; at most {longest} are accepted")
    elif fault := embedding_fault(raw):
        reader.wrong(field, fault)


def _share(reader: Reader, value: float, field: str) -> int:
    """A share of one in millionths."""
    if not 0.0 <= value <= 1.0:  # also refuses NaN
        reader.wrong(field, "must be from 0 to 1")
        return 0
    return round(value * SCORES_PER_UNIT)


def _check_unique(reader: Reader, items: Sequence[EvidenceItem], field: str) -> None:
    seen: set[str] = set()
    for position, item in enumerate(items):
        if item.item_id in seen:
            reader.wrong(f"{field}.items[{position}].id", "is that of another item, too")
        seen.add(item.item_id)


def fill_assessment(
    message: action_evidence_pb2.EvidenceAssessment, assessment: EvidenceAssessment
) -> None:
    """Write how evidence was scored."""
    message.digest = assessment.digest
    message.statement_digest = assessment.to_json()["statementDigest"]
    message.source = assessment.source
    message.items = assessment.items
    message.used = assessment.used
    message.support = assessment.support / SCORES_PER_UNIT
    message.coherence = assessment.coherence / SCORES_PER_UNIT
    message.conflict = assessment.conflict / SCORES_PER_UNIT
    message.novelty = assessment.novelty / SCORES_PER_UNIT
    message.p_value = assessment.p_value / SCORES_PER_UNIT
    if assessment.risk is not None:
        risk = assessment.risk
        message.risk.estimate = risk.estimate / SCORES_PER_UNIT
        message.risk.low = risk.low / SCORES_PER_UNIT
        message.risk.high = risk.high / SCORES_PER_UNIT
        message.risk.disagreement = risk.disagreement / SCORES_PER_UNIT
        message.risk.observations = risk.observations / SCORES_PER_UNIT
        message.risk.outcomes = risk.outcomes
        message.risk.calibrated_by = risk.calibrated_by or 0
    for each in assessment.against:
        message.against.add(
            id=each.item_id,
            digest=each.content_digest,
            reason=each.reason,
            weight=each.weight / SCORES_PER_UNIT,
        )
