"""Where a piece of a log begins and ends: by sizes, or by checkpoints that a caller has kept."""

from collections.abc import Sequence

from oars_grpc.core.checkpoint import (
    Checkpoint,
    checkpoint_verifier,
    log_origin,
    parse_checkpoint,
)
from oars_grpc.core.keys import KeyPurpose
from oars_grpc.core.log_tree import LogTree
from oars_grpc.core.note import Verifier, parse_note, verified_by
from oars_grpc.core.ports import ReceiptStore
from oars_grpc.errors import FailedPrecondition, InvalidArgument


class KeptCheckpoints:
    """Reads the checkpoints that callers bring back."""

    def __init__(self, receipts: ReceiptStore, prefix: str) -> None:
        self._receipts = receipts
        self._prefix = prefix

    def read(self, tenant_id: str, notes: Sequence[tuple[str, str]]) -> list[Checkpoint | None]:
        """The checkpoints of notes, each with its field; None where a note is empty.

        Raises:
            InvalidArgument: one is none that the tenant's log signed.
        """
        verifiers = self._verifiers(tenant_id) if any(text for text, _ in notes) else ()
        return [self._given(text, field, tenant_id, verifiers) for text, field in notes]

    def _verifiers(self, tenant_id: str) -> Sequence[Verifier]:
        """What verifies the tenant's checkpoints.

        Revoked keys too: their word alone counts for nothing, but a checkpoint is only what a
        caller asks about, and its root must be the log's own.
        """
        origin = log_origin(self._prefix, tenant_id)
        return [
            checkpoint_verifier(origin, key.public_key)
            for key in self._receipts.list_keys(tenant_id) or ()
            if key.purpose is KeyPurpose.CHECKPOINT
        ]

    def _given(
        self, text: str, field: str, tenant_id: str, verifiers: Sequence[Verifier]
    ) -> Checkpoint | None:
        """The checkpoint of a note that this log signed; None where there is no note."""
        if not text:
            return None
        try:
            note = parse_note(text)
            checkpoint = parse_checkpoint(note)
            signed = verified_by(note, verifiers)
        except ValueError as error:
            raise InvalidArgument.of(field, str(error)) from error
        origin = log_origin(self._prefix, tenant_id)
        if checkpoint.origin != origin:
            raise InvalidArgument.of(field, f"is not of the log {origin}")
        if not signed:
            raise InvalidArgument.of(field, f"is not signed by a checkpoint key of {tenant_id}")
        return checkpoint


def check_reached(size: int, wanted: int) -> None:
    """Refuse a checkpoint beyond the present log.

    Raises:
        FailedPrecondition: the log was cut, or its checkpoint is of another one.
    """
    if wanted > size:
        raise _diverged(f"it has {size} leaves, the checkpoint {wanted}")


def check_continued(tree: LogTree, given: Sequence[Checkpoint | None]) -> None:
    """Refuse checkpoints whose roots the log never had.

    Raises:
        FailedPrecondition: it is not the log that signed them.
    """
    for checkpoint in given:
        if checkpoint and tree.root(checkpoint.size) != checkpoint.root:
            raise _diverged(f"it had another root at size {checkpoint.size}")


def _diverged(how: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the log does not continue a checkpoint that it signed: {how}", reason="LOG_DIVERGED"
    )
