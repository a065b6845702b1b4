"""What an export of evidence is asked for, reads and answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from oars_grpc.core.control import ControlMapping
from oars_grpc.core.evidence_lines import BundledLeaf
from oars_grpc.core.keys import StoredKey, TrustedKey
from oars_grpc.core.log import SignedCheckpoint


@dataclass(frozen=True, slots=True)
class ExportRange:
    """Which leaves: by sizes of the log, `to_size` 0 being the present one, or by time.

    `controls` are `framework:control_id`; none means all.
    """

    from_size: int = 0
    to_size: int = 0
    recorded_from: datetime | None = None
    recorded_until: datetime | None = None
    controls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidenceBasis:
    """What a bundle holds beside the log; read after its head, so that no key is missing."""

    keys: tuple[TrustedKey, ...]
    signing_key: StoredKey
    mappings: tuple[ControlMapping, ...]


class EvidenceStore(Protocol):
    """Reads what goes into a bundle."""

    def basis(self, tenant_id: str) -> EvidenceBasis | None:
        """Keys and the mappings in force; None if there is no tenant with a key that signs."""

    def leaves(self, tenant_id: str, first: int, end: int) -> Sequence[BundledLeaf]:
        """The leaves [first, end), or the first of them, in order: a page bounded in bytes.

        Raises:
            LogFault: a payload is gone, and no erasure tells of it.
        """

    def bounds(
        self, tenant_id: str, recorded_from: datetime | None, recorded_until: datetime | None
    ) -> tuple[int, int] | None:
        """The first index [first, end) that holds every receipt of the time; None: there is none.

        Receipts stand in the order of commit, which clocks of several servers need not share: some
        at the ends of the range may be of another time.
        """


@dataclass(frozen=True, slots=True)
class ExportBegun:
    """The first event: under which name to keep the bundle, and what it spans."""

    file_name: str
    tenant_id: str
    first: SignedCheckpoint
    last: SignedCheckpoint


@dataclass(frozen=True, slots=True)
class ExportChunk:
    """The next bytes of the bundle, and how many receipts are in it so far."""

    data: bytes
    receipts: int
    total: int


@dataclass(frozen=True, slots=True)
class ExportEnded:
    """The last event: the bundle is whole."""

    sha256: str
    size: int
    receipts: int
    erased: int


ExportEvent = ExportBegun | ExportChunk | ExportEnded
