"""What a witness of a log decides (C2SP tlog-witness): to cosign a checkpoint, or to refuse.

A witness remembers the largest checkpoint that it has cosigned. It cosigns another one only if that
one is shown to continue it, so that no two of its cosignatures are ever over two histories.
"""

from collections.abc import Sequence

from oars_grpc.core.checkpoint import Checkpoint, parse_checkpoint
from oars_grpc.core.merkle import EMPTY_ROOT, verify_consistency
from oars_grpc.core.note import Note, Verifier, verified_by


class Refusal(Exception):
    """A checkpoint that must not be cosigned, and why. `is_fork`: the log has shown two histories.

    A fork is proven by two notes that the log itself has signed; whoever has both can show them.
    """

    def __init__(self, reason: str, *, is_fork: bool = False) -> None:
        super().__init__(reason)
        self.is_fork = is_fork


def verified_checkpoint(note: Note, keys: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint of a note that the log signed, by one of its keys, which are of one name.

    Raises:
        Refusal: it is not one.
    """
    try:
        signed = verified_by(note, keys)
        checkpoint = parse_checkpoint(note)
    except ValueError as error:
        raise Refusal(str(error)) from error
    if not signed:
        names = ", ".join(sorted({key.name for key in keys}))
        raise Refusal(f"the checkpoint is not signed by a known key of {names}")
    if any(key.name != checkpoint.origin for key in signed):
        raise Refusal(f"the checkpoint is of {checkpoint.origin}, and signed by {signed[0].name}")
    return checkpoint


def check_offer(last: Checkpoint | None, offered: Checkpoint, proof: Sequence[bytes]) -> None:
    """Return if the offered checkpoint may be cosigned after the last one.

    Args:
        last: the last one that was cosigned; None before the first.
        offered: one that the log signed.
        proof: the consistency proof from the last to the offered one.

    Raises:
        Refusal: it may not.
    """
    if last is None:
        if offered.size == 0 and offered.root != EMPTY_ROOT:
            raise Refusal("the log is empty and has the root of another", is_fork=True)
        return
    if offered.origin != last.origin:
        raise Refusal(f"the checkpoint is of {offered.origin}, and not of {last.origin}")
    if offered.size < last.size:
        raise Refusal(
            f"the log has {offered.size} leaves, and it had {last.size}: it was cut off",
            is_fork=True,
        )
    if offered.size == last.size and offered.root != last.root:
        raise Refusal(f"the log has two roots at size {last.size}", is_fork=True)
    if not verify_consistency(last.size, offered.size, last.root, offered.root, proof):
        raise Refusal(
            f"the log of {offered.size} leaves is not shown to continue that of {last.size}",
            is_fork=True,
        )
