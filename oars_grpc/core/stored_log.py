"""A tenant's log as storage holds it: what the check of a log looks at, nothing of it believed.

Storage fills these in without judging; `core/leaf_check.py` and `core/log_check.py` judge.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.merkle import TILE_HEIGHT
from oars_grpc.core.receipt_terms import ReceiptTerms

# Of nodes that a log of 64-bit indices can have.
HIGHEST_LEVEL = 7


@dataclass(frozen=True, slots=True)
class LeafRow:
    """The row of a receipt. The rules of its terms are those of the rows beside it."""

    receipt_id: str
    action_id: str
    sequence: int
    type: str
    key_id: str
    signature: bytes
    receipt_digest: str
    previous_receipt_digest: str
    leaf_hash: bytes
    recorded_at: datetime
    terms: ReceiptTerms


@dataclass(frozen=True, slots=True)
class ActionEnd:
    """Where an action says that its chain ends."""

    sequence: int
    receipt_digest: str


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """Everything at one index of the log; without a row, something else lies there alone.

    `action_end` is that of the action that the row names; None where there is no such action.
    """

    leaf_index: int
    row: LeafRow | None
    payload: bytes | None
    erased: bool = False
    action_end: ActionEnd | None = None


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The head of a log: its size and the bytes of its frontier."""

    size: int
    frontier: bytes


@dataclass(frozen=True, slots=True)
class StoredNode:
    """The root of a full tile of `level` times 8 levels of the tree."""

    level: int
    position: int
    hash: bytes

    @property
    def completed_at(self) -> tuple[int, int]:
        """Where its place is among all nodes: at which size of the log it came to be."""
        level = min(max(self.level, 0), HIGHEST_LEVEL)
        return (self.position + 1) << (TILE_HEIGHT * level), self.level


@dataclass(frozen=True, slots=True)
class StoredLog:
    """One tenant's log at one moment; each of the iterables is read once, the leaves first.

    `pages` hold leaves by index. `nodes` come in the order of `completed_at`, and may be read while
    the leaves are. `lone_actions` have no receipt, `lone_approvals` no action.
    """

    tenant_id: str
    head: StoredHead | None
    keys: Sequence[TrustedKey]
    pages: Iterable[Sequence[StoredLeaf]]
    nodes: Iterable[StoredNode]
    lone_actions: Iterable[str]
    lone_approvals: Iterable[str]


class ProblemKind(StrEnum):
    """What is wrong with something stored."""

    HEAD = "head"
    KEY = "key"
    LEAF_INDEX = "leaf_index"
    PAYLOAD = "payload"
    ERASURE = "erasure"
    RECEIPT_DIGEST = "receipt_digest"
    LEAF_HASH = "leaf_hash"
    SIGNATURE = "signature"
    SCHEMA = "schema"
    COLUMN = "column"
    RULES = "rules"
    CHAIN = "chain"
    ACTION = "action"
    APPROVAL = "approval"
    NODE = "node"
    FRONTIER = "frontier"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it must be. `leaf_index` None: not at one leaf."""

    kind: ProblemKind
    tenant_id: str
    detail: str
    leaf_index: int | None = None
    receipt_id: str = ""

    def __str__(self) -> str:
        place = "" if self.leaf_index is None else f", leaf {self.leaf_index}"
        receipt = f", receipt {self.receipt_id}" if self.receipt_id else ""
        return f"{self.kind}: {self.tenant_id}{place}{receipt}: {self.detail}"
