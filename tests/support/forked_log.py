"""A log that signs whatever it likes: several histories under one key."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from oars_grpc.core.checkpoint import Checkpoint, checkpoint_verifier, sign_checkpoint
from oars_grpc.core.keys import signing_key
from oars_grpc.core.merkle import (
    EMPTY,
    Subtree,
    append,
    fold,
    leaf_hash,
    parts,
    plan_consistency,
)
from oars_grpc.core.note import Note, Verifier

LOG_SEED = bytes(range(100, 132))


@dataclass
class History:
    """The leaves of one history; two of them may begin alike."""

    leaves: Sequence[bytes]
    origin: str = "example.com/acme"
    seed: bytes = field(default=LOG_SEED, repr=False)

    def checkpoint(self, size: int) -> Checkpoint:
        """What this history commits to at a size."""
        return Checkpoint(self.origin, size, append(EMPTY, self.leaves[:size])[0].root())

    def note(self, size: int) -> Note:
        """The same, signed."""
        return sign_checkpoint(self.checkpoint(size), signing_key(self.seed)[0])

    def proof(self, old: int, new: int) -> list[bytes]:
        """The consistency proof between two sizes of this history."""
        plan = plan_consistency(old, new)
        wanted = {subtree for group in plan for subtree in group}
        return fold(plan, {subtree: self._root(subtree) for subtree in wanted})

    def _root(self, subtree: Subtree) -> bytes:
        start = subtree.index << subtree.height
        run = self.leaves[start : start + (1 << subtree.height)]
        assert parts(0, len(run)) == [Subtree(subtree.height, 0)]
        return append(EMPTY, run)[0].root()


def log_key(origin: str = "example.com/acme", seed: bytes = LOG_SEED) -> Verifier:
    """What verifies the checkpoints of the log."""
    return checkpoint_verifier(origin, signing_key(seed)[1])


def history(common: int, other: str, length: int = 64) -> History:
    """A history that leaves the common one after so many leaves."""
    names = [f"common {number}" for number in range(common)]
    names += [f"{other} {number}" for number in range(common, length)]
    return History([leaf_hash(name.encode()) for name in names])
