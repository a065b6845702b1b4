"""Whatever a log offers, and whenever the witness dies, it never cosigns two histories."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.cli.log_client import LogClient
from oars_grpc.cli.log_witness import Witness
from oars_grpc.cli.witness_key import make_key
from oars_grpc.cli.witness_state import WitnessState
from oars_grpc.core.checkpoint import parse_checkpoint
from oars_grpc.core.note import Note, parse_note, verified_by
from oars_grpc.core.witness import Refusal
from tests.support.forked_log import History, history, log_key

HISTORIES = [history(common, name) for common, name in ((64, ""), (0, "a"), (3, "b"), (8, "c"))]


class Died(BaseException):
    """The process was killed."""


@dataclass(frozen=True)
class Offer:
    """What the log answers: a size of a history, and a proof of perhaps another one."""

    history: int
    size: int
    proof_of: int
    # Before which write to the disk the witness dies; 0 for none.
    dies: int = 0


OFFERS = st.builds(
    Offer,
    history=st.integers(0, 3),
    size=st.integers(0, 20),
    proof_of=st.integers(0, 3),
    dies=st.sampled_from([0, 0, 1, 2, 3]),
)


@dataclass
class LyingLog:
    """A log that answers as the offer says; stands in for the server at the end of the wire."""

    offer: Offer
    asked: list[tuple[int, int]] = field(default_factory=list)

    def checkpoint(self) -> str:
        return HISTORIES[self.offer.history].note(self.offer.size).format()

    def consistency(self, from_size: int, to_size: int) -> list[bytes]:
        self.asked.append((from_size, to_size))
        return HISTORIES[self.offer.proof_of].proof(from_size, to_size)


def is_prefix(size: int, root: bytes, of: History) -> bool:
    return of.checkpoint(size).root == root


@settings(max_examples=60, deadline=None)
@given(offers=st.lists(OFFERS, min_size=1, max_size=8))
def test_no_two_cosignatures_are_ever_over_two_histories(offers: Sequence[Offer]) -> None:
    with TemporaryDirectory() as directory:
        state = WitnessState(Path(directory) / "state", [log_key()])
        key = make_key("example.com/w1", Path(directory) / "key")
        seen: list[Note] = []  # every cosignature that the world may have seen
        for offer in offers:
            client: LogClient = LyingLog(offer)  # type: ignore[assignment] # answers as one does
            witness = Witness(key, [log_key()], state, client, SimpleQueue())
            try:
                with patch("oars_grpc.cli.witness_state.write_atomically", dying(offer.dies)):
                    witness.finish()
                    witness.round()
            except (Refusal, Died):
                pass
            files = [*state.directory.glob("by-size/*"), state.published]
            seen += [parse_note(path.read_text()) for path in files if path.exists()]
        checkpoints = [parse_checkpoint(note) for note in seen]
        assert all(verified_by(note, [key.verifier]) for note in seen)
        assert any(
            all(is_prefix(each.size, each.root, of) for each in checkpoints) for of in HISTORIES
        ), "one history explains everything that was cosigned"


def dying(before: int) -> object:
    """The real writer, that dies before one of its calls."""
    from oars_grpc.cli.durable_files import write_atomically

    calls = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == before:
            raise Died
        write_atomically(path, data)

    return write
