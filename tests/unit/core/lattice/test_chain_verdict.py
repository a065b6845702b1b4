import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import Float32Array, checked_chain
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.settled import read
from oars_grpc.errors import InvalidArgument
from tests.support.settled_lattices import built


def line_of_thought(count: int, seed: int) -> tuple[Float32Array, list[int]]:
    """A corpus in which some items lead from one to the next, and their places in order."""
    chance = np.random.default_rng(seed)
    rows = chance.standard_normal((8, 32))[chance.integers(0, 8, count)]
    rows = rows + 0.4 * chance.standard_normal((count, 32))
    places = chance.choice(count, 6, replace=False)
    step = rows[places[0]].copy()
    for place in places:
        rows[place] = step
        step = step + 0.35 * chance.standard_normal(32)
    return rows.astype(np.float32), places.tolist()


@pytest.mark.parametrize("kind", list(LaplacianKind))
@pytest.mark.parametrize("count", [50, 100, 400, 1200])
def test_an_open_coherent_chain_passes_and_an_incoherent_one_fails_at_any_size(
    count: int, kind: LaplacianKind
) -> None:
    parameters = LatticeParameters(laplacian=kind)
    for seed in range(5):
        rows, places = line_of_thought(count, seed)
        plain = built(rows, parameters=parameters)
        reading = read(plain.lattice, plain.query)
        assert chain_verdict(reading, checked_chain(places, count)).coherent
        chance = np.random.default_rng(seed)
        jumps = chance.choice(count, 8, replace=False)
        verdict = chain_verdict(reading, checked_chain(jumps, count))
        assert not verdict.coherent
        assert verdict.scores[verdict.weakest_link] == verdict.scores.max() > verdict.threshold


def test_the_weakest_link_is_the_one_that_jumps() -> None:
    rows, places = line_of_thought(100, 3)
    far = next(p for p in range(100) if p not in places and rows[p] @ rows[places[2]] < 0)
    broken = [*places[:3], far, *places[3:]]
    plain = built(rows)
    verdict = chain_verdict(read(plain.lattice, plain.query), checked_chain(broken, 100))
    assert verdict.weakest_link in {2, 3}
    assert not verdict.coherent


def test_a_lattice_judges_its_own_chain_as_it_would_another() -> None:
    rows, places = line_of_thought(100, 1)
    chain = checked_chain(places, 100, [1.0, 2.0, 1.0, 0.5, 1.0])
    chained = built(rows, chain=chain)
    reading = read(chained.lattice, chained.query)
    own, given = chain_verdict(reading), chain_verdict(reading, chain)
    assert np.allclose(own.scores, given.scores, atol=1e-9)
    assert own.gain == pytest.approx(given.gain)
    assert own.gain > 0


def test_copies_are_coherent_and_anything_else_among_copies_is_not() -> None:
    rows = np.ones((5, 3))
    rows[4] = [1.0, -1.0, 0.0]
    example = built(rows)
    reading = read(example.lattice, example.query)
    assert chain_verdict(reading, checked_chain([0, 1, 2], 5)).coherent
    assert not chain_verdict(reading, checked_chain([0, 1, 4], 5)).coherent


def test_without_a_chain_there_is_nothing_to_judge() -> None:
    example = built(np.eye(3))
    with pytest.raises(InvalidArgument, match="chain"):
        chain_verdict(read(example.lattice, example.query))
    with pytest.raises(InvalidArgument, match="threshold"):
        chain_verdict(read(example.lattice, example.query), checked_chain([0, 1], 3), 0.0)
