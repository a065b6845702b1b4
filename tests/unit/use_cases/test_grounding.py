"""Evidence is scored in places of its own, so that it takes neither all cores nor all threads."""

import threading
from typing import Any

import numpy as np
import pytest

from oars_grpc.core.action_evidence import ActionEvidence, EvidenceItem
from oars_grpc.core.evidence_scoring import LatticeEvidence
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.errors import DeadlineExceeded, ResourceExhausted
from oars_grpc.use_cases.grounding import SCORING_RETRY_MS, Grounding
from oars_grpc.use_cases.lattice_work import HeavyWork

TENANT = "tenant_x"
OWN = np.array([1, 0, 0], "<f4").tobytes()
INLINE = ActionEvidence(
    OWN,
    tuple(
        EvidenceItem(name, name, name * 64, np.array(numbers, "<f4").tobytes())
        for name, numbers in (("a", [1, 0.1, 0]), ("b", [1, 0, 0.2]))
    ),
)
STORED = ActionEvidence(OWN, (), "lat_x")


def going_on(_share: float, /) -> None:
    return


class Lattices:
    """One lattice; looking it up may take a place of its own, never one for scoring."""

    def __init__(self) -> None:
        self.found = threading.Event()

    def find(self, tenant_id: str, lattice_id: str, proceed: Proceed) -> LatticeEvidence:
        self.found.set()
        return LatticeEvidence("d" * 64, np.eye(3, dtype="<f4"), np.ones(3, "<f4"))


def grounding(scoring: HeavyWork) -> Grounding:
    return Grounding(Lattices(), scoring)


@pytest.mark.parametrize("evidence", [INLINE, STORED])
def test_scoring_waits_for_a_place_and_ends_with_its_call(evidence: ActionEvidence) -> None:
    scoring, ended = HeavyWork(1, 4), threading.Event()
    failed = threading.Event()

    def proceed(_share: float, /) -> None:
        if ended.is_set():
            raise DeadlineExceeded("the call ended")

    def submit() -> None:
        with pytest.raises(DeadlineExceeded):
            grounding(scoring).assess(TENANT, evidence, proceed)
        failed.set()

    with scoring.place(going_on):
        waiting = threading.Thread(target=submit)
        waiting.start()
        assert not failed.wait(0.2)  # nothing was scored: it would have failed here
        ended.set()
        waiting.join(10)
    assert failed.is_set()
    assert grounding(scoring).assess(TENANT, evidence, going_on).support > 0


@pytest.mark.parametrize("evidence", [INLINE, STORED])
def test_beyond_the_room_it_is_refused_with_a_time_to_come_back(evidence: ActionEvidence) -> None:
    scoring = HeavyWork(1, 1, SCORING_RETRY_MS)
    scoring._waiting.acquire()
    with scoring.place(going_on), pytest.raises(ResourceExhausted) as caught:
        grounding(scoring).assess(TENANT, evidence, going_on)
    assert caught.value.retry_after_ms == SCORING_RETRY_MS


def test_an_action_without_evidence_takes_no_place() -> None:
    scoring = HeavyWork(1, 1)
    scoring._waiting.acquire()
    # Any: nothing is asked of a request but to come back as it is.
    request: Any = object()
    with scoring.place(going_on):
        assert grounding(scoring).lazily(request, None, going_on)() is request
