import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from oars_grpc.core.canonical import canonical_json, is_restricted, statement_json
from oars_grpc.core.lattice.arrays import checked_anchors, checked_chain, checked_gates, frozen
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.ranking import RankingParameters, rank
from oars_grpc.core.lattice.settled import SettledState, lattice_of, read
from oars_grpc.core.lattice.statement import light_statement, statement_head
from oars_grpc.core.lattice.statement_check import check_statement
from tests.support.lattice import gaussian
from tests.support.settled_lattices import SOFTWARE, Built, built, sample, stated

# By so many of its quanta a score may differ between two machines.
ROUNDING = 40


def with_conflicts() -> Built:
    """A small lattice with a chain, gates and items in conflict."""
    chance = np.random.default_rng(3)
    centres = chance.standard_normal((8, 40))
    rows = centres[np.arange(90) % 8] + 0.5 * chance.standard_normal((90, 40))
    for place in range(5):
        rows[place] = (centres[place] + centres[place + 1]) / np.sqrt(2)
        rows[place] += 0.2 * chance.standard_normal(40)
    return built(
        rows,
        rows[8] + 0.2 * chance.standard_normal(40),
        LatticeParameters(neighbors=12),
        chance.random(90),
        checked_chain([8, 16, 24, 50], 90, [1.0, 2.0, 0.5]),
    )


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every number and text of a statement, with where it stands."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    else:
        yield path, value


def tampered(statement: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(statement)
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return changed


def others(value: Any) -> list[Any]:
    """Other values than the one stated, and values that are none."""
    match value:
        case bool():
            return [not value, None, 1 - int(value)]
        case int():
            return [value + ROUNDING, value - ROUNDING, None, str(value), 2**60]
        case None:
            return ["1.0", 0]
        case str():
            return [value + "0", value[:-1], None, 7]
    raise AssertionError(value)


@pytest.mark.parametrize("kind", list(LaplacianKind))
@pytest.mark.parametrize("chained", [True, False])
def test_a_true_statement_is_confirmed_with_the_state_and_without(
    kind: LaplacianKind, *, chained: bool
) -> None:
    example = sample(parameters=LatticeParameters(laplacian=kind), chained=chained)
    full = stated(example)
    for state in (example.lattice.state, None):
        found = check_statement(
            full.statement, example.inputs, example.query, state, full.nodes, example.lists
        )
        assert found == ()


def test_conflicts_and_a_verdict_are_confirmed_too() -> None:
    example = with_conflicts()
    full = stated(example)
    assert full.statement["conflicts"]["total"] == len(full.statement["conflicts"]["items"]) > 1
    for state in (example.lattice.state, None):
        found = check_statement(
            full.statement, example.inputs, example.query, state, full.nodes, example.lists
        )
        assert found == ()


def test_energy_moved_from_one_term_of_the_drop_to_another_is_noticed() -> None:
    example = sample()
    statement = copy.deepcopy(stated(example).statement)
    statement["energy"]["drop"]["graph"] += 1000
    statement["energy"]["drop"]["query"] -= 1000
    found = check_statement(statement, example.inputs, example.query, example.lattice.state)
    assert [f.check for f in found] == ["energy.drop.graph", "energy.drop.query"]


@pytest.mark.parametrize("seed", range(8))
def test_the_certificates_numbers_are_rounded_so_that_they_bound(seed: int) -> None:
    example = sample(seed=seed)
    query = Query.of(example.query)
    head = statement_head(example.lattice, SOFTWARE)
    energies = example.lattice.energies(query)
    stated_ = light_statement(head, example.lattice, query)["certificate"]
    value = {name: item["number"] * 2.0 ** item["exponent"] for name, item in stated_.items()}
    assert value["residual"] >= energies.residual + energies.residual_rounding
    assert value["minimumEigenvalue"] <= example.lattice.system.minimum_eigenvalue
    assert value["bound"] >= value["residual"] / value["minimumEigenvalue"]


def test_statements_are_canonical_json_without_floats() -> None:
    full = stated(with_conflicts())
    assert full.statement["conflicts"]["total"] > 0
    assert is_restricted(full.statement)
    assert statement_json(full.statement) == canonical_json(full.statement)


def test_terms_add_up_as_whole_numbers() -> None:
    energy = stated(sample()).statement["energy"]
    terms = ("anchor", "graph", "query", "chain")
    for moment in ("before", "after", "drop"):
        assert energy[moment]["total"] == sum(energy[moment][name] for name in terms)
    for name in (*terms, "total"):
        assert energy["drop"][name] == energy["before"][name] - energy["after"][name]
    assert energy["before"]["anchor"] == 0
    assert energy["drop"]["total"] > 0


def test_every_member_that_is_tampered_with_is_noticed() -> None:
    example = with_conflicts()
    full = stated(example)
    tried = 0
    for path, value in leaves(full.statement):
        for other in others(value):
            if path == ("software",) and isinstance(other, str):
                # Another name is another lattice digest.
                assert other != value
            found = check_statement(
                tampered(full.statement, path, other),
                example.inputs,
                example.query,
                example.lattice.state,
                full.nodes,
                example.lists,
            )
            assert found, (path, value, other)
            tried += 1
    assert tried > 300


def test_members_that_are_missing_or_unknown_are_noticed() -> None:
    example = with_conflicts()
    full = stated(example)

    def check(statement: dict[str, Any]) -> tuple[object, ...]:
        state = example.lattice.state
        return check_statement(statement, example.inputs, example.query, state, full.nodes)

    optional = {"ranking", "verdict"}
    for name in full.statement.keys() - optional:
        assert check({k: v for k, v in full.statement.items() if k != name}), name
    for name, value in full.statement.items():
        if isinstance(value, dict):
            for inner in value:
                rest = {k: v for k, v in value.items() if k != inner}
                assert check({**full.statement, name: rest}), (name, inner)
            assert check({**full.statement, name: None}), name
    assert check({**full.statement, "more": 1})
    assert check({**full.statement, "detail": "light"})


def test_every_input_that_is_tampered_with_is_noticed() -> None:
    example = sample()
    full, inputs, state = stated(example), example.inputs, example.lattice.state
    rows = inputs.anchors.copy()
    rows[4, 2] += np.float32(1e-6)
    gates = inputs.gates.copy()
    gates[3] += np.float32(1e-6)
    wrong = {
        "anchors": replace(inputs, anchors=checked_anchors(rows)),
        "gates": replace(inputs, gates=checked_gates(gates, len(inputs))),
        "chain": replace(inputs, chain=checked_chain([2, 4, 9, 4, 1], len(inputs))),
        "parameters": replace(inputs, parameters=LatticeParameters(tolerance=2e-6)),
        "edges": replace(inputs, graph=sample(seed=6).inputs.graph),
    }
    for name, other in wrong.items():
        checks = [f.check for f in check_statement(full.statement, other, example.query, state)]
        assert f"inputs.{name}" in checks
        assert "inputs.lattice" in checks
    query = example.query.copy()
    query[0] = np.nextafter(query[0], np.float32(9))
    checks = [f.check for f in check_statement(full.statement, inputs, query, state)]
    assert "inputs.query" in checks


def test_a_state_that_is_not_the_one_stated_is_noticed() -> None:
    example = sample()
    full, state = stated(example), example.lattice.state
    field = state.field.copy()
    field[7, 3] += np.float32(1e-3)
    swapped = state.field.copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    for other in (
        replace(state, field=frozen(field)),
        replace(state, field=frozen(swapped)),
        replace(state, response=frozen(state.response * 1.001)),
    ):
        checks = {
            f.check for f in check_statement(full.statement, example.inputs, example.query, other)
        }
        assert {"state", "certificate.residual"} <= checks
    broken = replace(state, field=frozen(np.full_like(state.field, np.nan)))
    assert check_statement(full.statement, example.inputs, example.query, broken)
    short = replace(state, response=frozen(state.response[:-1].copy()))
    assert check_statement(full.statement, example.inputs, example.query, short)


def test_a_liar_who_digests_his_own_state_is_noticed_by_the_residual() -> None:
    example = sample()
    good = example.lattice
    field = good.state.field.copy()
    field[7] *= np.float32(1.01)
    lying = replace(
        good, state=SettledState(frozen(field), good.state.response, good.state.outcome)
    )
    statement = stated(replace(example, lattice=lying)).statement
    checks = {
        f.check for f in check_statement(statement, example.inputs, example.query, lying.state)
    }
    assert {"certificate.residual", "solver.stop", "energy.after.anchor"} <= checks
    # And one who tells all of it truly, but that it had converged.
    honest = lattice_of(example.inputs, good.system, lying.state)
    statement = stated(replace(example, lattice=honest)).statement
    checks = {
        f.check for f in check_statement(statement, example.inputs, example.query, lying.state)
    }
    assert checks == {"solver.stop"}
    checks = {f.check for f in check_statement(statement, example.inputs, example.query)}
    assert "energy.after.anchor" in checks


def test_a_state_that_did_not_converge_is_stated_so_and_confirmed() -> None:
    few = LatticeParameters(tolerance=1e-7, max_iterations=2, graph_weight=5.0)
    example = sample(parameters=few)
    full = stated(example)
    assert full.statement["solver"] == {
        "method": "chebyshev_jacobi",
        "stop": "iteration_limit",
        "converged": False,
        "iterations": 2,
    }
    state = example.lattice.state
    assert not check_statement(full.statement, example.inputs, example.query, state, full.nodes)
    assert not check_statement(full.statement, example.inputs, example.query, None, full.nodes)


def test_components_of_nodes_that_are_tampered_with_are_noticed() -> None:
    example = sample()
    full = stated(example)
    for row in range(4):
        numbers = full.nodes.copy()
        numbers[row, 5] += 1
        found = check_statement(
            full.statement, example.inputs, example.query, example.lattice.state, numbers
        )
        assert [f.check for f in found] == ["nodes.digest"]


def test_the_residual_falls_as_the_tolerance_does() -> None:
    bounds = []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        example = sample(parameters=LatticeParameters(tolerance=tolerance))
        query = Query.of(example.query)
        statement = light_statement(
            statement_head(example.lattice, SOFTWARE), example.lattice, query
        )
        bound = statement["certificate"]["bound"]
        bounds.append(bound["number"] * 2.0 ** bound["exponent"])
    assert all(after < before for before, after in pairwise(bounds))


def test_a_light_statement_may_carry_a_ranking_and_is_confirmed() -> None:
    example = sample()
    reading = read(example.lattice, example.query)
    head = statement_head(example.lattice, SOFTWARE)
    statement = light_statement(
        head, example.lattice, reading.query, rank(reading, RankingParameters(top=5))
    )
    assert len(statement["ranking"]["items"]) == 5
    state = example.lattice.state
    assert check_statement(statement, example.inputs, example.query, state) == ()
    swapped = copy.deepcopy(statement)
    items = swapped["ranking"]["items"]
    items[0], items[3] = items[3], items[0]
    checks = [f.check for f in check_statement(swapped, example.inputs, example.query, state)]
    assert any(check.endswith(".node") for check in checks)


@pytest.mark.parametrize(
    "anchors",
    [np.ones((1, 1)), np.zeros((3, 2)), np.ones((5, 3)), np.eye(4), -np.eye(2)],
    ids=["one", "zeros", "copies", "orthogonal", "opposite"],
)
@pytest.mark.parametrize("query", ["own", "zero"])
def test_degenerate_lattices_make_statements_that_are_confirmed(
    anchors: np.ndarray, query: str
) -> None:
    example = built(anchors, anchors[0] if query == "own" else np.zeros(anchors.shape[1]))
    full = stated(example)
    assert is_restricted(full.statement)
    for state in (example.lattice.state, None):
        assert (
            check_statement(
                full.statement, example.inputs, example.query, state, full.nodes, example.lists
            )
            == ()
        )


def test_statements_at_other_scales_are_confirmed() -> None:
    for factor in (1e-6, 1e6):
        anchors = gaussian(50, 8, 2) * np.float32(factor)
        example = built(anchors, anchors[3])
        full = stated(example)
        state = example.lattice.state
        assert not check_statement(
            full.statement, example.inputs, example.query, state, full.nodes, example.lists
        )
