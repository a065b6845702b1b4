"""What a range of receipts amounts to: counts for the report, and coverage of controls.

Both are made of the payloads of the bundle alone, one receipt after the other, so that whoever
verifies a bundle can count again. An erased payload counts as erased, and as nothing else.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.control import ControlMapping, EvidenceType, evidence_types
from oars_grpc.core.evidence import is_texts, parse_canonical
from oars_grpc.core.evidence_lines import BundledLeaf
from oars_grpc.core.receipt import APPROVAL_DECIDED, Receipt, format_time, parse_time
from oars_grpc.core.receipt_filter import ReceiptFilter, matches
from oars_grpc.core.receipt_terms import ReceiptTerms, terms_of

# So that the memory for a report has a bound whatever agents and tools there are.
MAXIMUM_COUNTED = 1_000
MAXIMUM_ROWS = 1_000
OTHERS = "(others)"
OTHER_MEMBERS = "the predicate has other members than a receipt of its type"


@dataclass(frozen=True, slots=True)
class Row:
    """A receipt in the table of the report."""

    leaf_index: int
    recorded_at: str
    type: str
    receipt_id: str
    agent_id: str
    caller: str
    tool: str
    operation: str
    decision: str


class Counts:
    """How often each of a bounded number of texts came; further ones count together."""

    def __init__(self) -> None:
        self._counter: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count one."""
        known = text in self._counter or len(self._counter) < MAXIMUM_COUNTED
        self._counter[text if known else OTHERS] += 1

    def most(self) -> list[tuple[str, int]]:
        """Texts and counts, the most frequent first."""
        return sorted(self._counter.items(), key=lambda item: (-item[1], item[0]))


class Tally:
    """Counts receipts for the report."""

    def __init__(self) -> None:
        self.receipts = 0
        self.erased = 0
        self.types = Counts()
        self.decisions = Counts()
        self.tools = Counts()
        self.approvers = Counts()
        self.rows: list[Row] = []
        self.erased_leaves: list[BundledLeaf] = []

    def add_erased(self, leaf: BundledLeaf) -> None:
        """Count a leaf whose payload was erased."""
        self.erased += 1
        if len(self.erased_leaves) < MAXIMUM_ROWS:
            self.erased_leaves.append(leaf)

    def add(self, leaf_index: int, receipt: Receipt, terms: ReceiptTerms) -> None:
        """Count a receipt."""
        self.receipts += 1
        self.types.add(receipt.type)
        if terms.decision:
            self.decisions.add(terms.decision)
        if terms.tool_id:
            self.tools.add(terms.tool_id)
        if receipt.type == APPROVAL_DECIDED:
            self.approvers.add(_approver(receipt.envelope.payload))
        if len(self.rows) < MAXIMUM_ROWS:
            self.rows.append(
                Row(
                    leaf_index=leaf_index,
                    recorded_at=format_time(receipt.recorded_at),
                    type=receipt.type,
                    receipt_id=receipt.receipt_id,
                    agent_id=terms.agent_id,
                    caller=terms.caller_subject,
                    tool=terms.tool_id,
                    operation=terms.operation,
                    decision=terms.decision,
                )
            )


def _approver(payload: bytes) -> str:
    approval: Any = orjson.loads(payload)["predicate"].get("approval")
    approver = approval.get("approver") if isinstance(approval, Mapping) else None
    subject = approver.get("subject") if isinstance(approver, Mapping) else None
    return subject if isinstance(subject, str) else "(unknown)"


@dataclass(frozen=True, slots=True)
class Covered:
    """A control in the range of a bundle.

    `gaps` are required types of evidence that no receipt is, where there was activity at all.
    """

    mapping: ControlMapping
    receipts: int
    evidence: Mapping[EvidenceType, int]

    @property
    def name(self) -> str:
        """Framework and control."""
        return control_name(self.mapping)

    @property
    def gaps(self) -> tuple[EvidenceType, ...]:
        """What is required and missing."""
        if not self.receipts:
            return ()
        required = self.mapping.required_evidence
        return tuple(kind for kind in required if not self.evidence.get(kind))


def control_name(mapping: ControlMapping) -> str:
    """Framework and id of the control that a mapping is of."""
    return f"{mapping.framework}:{mapping.control_id}"


class CoverageTally:
    """Counts which receipts are evidence for which control."""

    def __init__(self, mappings: Sequence[ControlMapping]) -> None:
        self._mappings = mappings
        self._receipts: list[int] = [0] * len(mappings)
        self._evidence: list[Counter[EvidenceType]] = [Counter() for _ in mappings]

    def add(self, receipt: Receipt, terms: ReceiptTerms) -> None:
        """Count a receipt.

        Raises:
            ValueError: its payload has other members than those that OARS writes.
        """
        try:
            self._add(receipt, terms)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{OTHER_MEMBERS}: {error!r}") from error

    def _add(self, receipt: Receipt, terms: ReceiptTerms) -> None:
        kinds: frozenset[EvidenceType] | None = None
        for position, mapping in enumerate(self._mappings):
            if not matches(mapping.filter, receipt, terms):
                continue
            if kinds is None:
                kinds = evidence_types(
                    receipt.action_id, receipt.type, terms.decision, receipt.envelope.payload
                )
            self._receipts[position] += 1
            self._evidence[position].update(kinds)

    def covered(self) -> list[Covered]:
        """The controls in the order of their mappings."""
        return [
            Covered(mapping, self._receipts[position], dict(self._evidence[position]))
            for position, mapping in enumerate(self._mappings)
        ]


def read_terms(receipt: Receipt) -> ReceiptTerms:
    """The terms of a receipt that a stranger may have written.

    Raises:
        ValueError: its payload has other members than those that OARS writes.
    """
    try:
        return terms_of(receipt.envelope.payload)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{OTHER_MEMBERS}: {error!r}") from error


def mappings_json(covered: Sequence[Covered]) -> bytes:
    """mappings.json: each mapping with what the range has for it."""
    return canonical_json({"mappings": [_mapping_json(each) for each in covered]})


def _mapping_json(covered: Covered) -> dict[str, Any]:
    mapping = covered.mapping
    return {
        **mapping.event(),
        "createdAt": format_time(mapping.created_at),
        "createdBy": mapping.created_by,
        "coverage": {
            "receipts": covered.receipts,
            "evidence": {kind.value: count for kind, count in covered.evidence.items() if count},
            "gaps": [kind.value for kind in covered.gaps],
        },
    }


def parse_mappings(content: bytes, tenant_id: str) -> list[ControlMapping]:
    """The mappings of mappings.json; its coverage is for the reader to count again.

    Raises:
        ValueError: naming the mapping at fault.
    """
    value = parse_canonical(content)
    listed = value.get("mappings") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise ValueError("holds no list of mappings")
    found = []
    for position, entry in enumerate(listed):
        try:
            found.append(_parse_mapping(entry, tenant_id))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"mappings[{position}]: {error!r}") from error
    return found


def _parse_mapping(entry: Mapping[str, Any], tenant_id: str) -> ControlMapping:
    names = ("mappingId", "framework", "controlId", "description", "createdBy")
    if not is_texts([entry[name] for name in names]):
        raise ValueError(f"{', '.join(names)} are texts")
    return ControlMapping(
        mapping_id=entry["mappingId"],
        tenant_id=tenant_id,
        framework=entry["framework"],
        control_id=entry["controlId"],
        description=entry["description"],
        filter=ReceiptFilter.from_json(entry["filter"]),
        required_evidence=tuple(EvidenceType(kind) for kind in entry["requiredEvidence"]),
        created_at=parse_time(entry["createdAt"]),
        created_by=entry["createdBy"],
    )
