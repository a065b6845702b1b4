"""`oars lattice settle` and `query`: what they compute, write and print."""

import json
from pathlib import Path

import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_chain
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.ranking import rank
from oars_grpc.core.lattice.settled import read
from tests.support.lattice import ReferenceCase, reference_cases
from tests.support.lattice_files import (
    refused,
    run_lattice,
    sample_arrays,
    sample_npz,
    write_npz,
)
from tests.support.settled_lattices import built, dense_system, dense_terms


@pytest.mark.parametrize("case", reference_cases(), ids=lambda case: case.name)
def test_the_reference_cases_settle_as_published(case: ReferenceCase, tmp_path: Path) -> None:
    gates = {} if case.gates is None else {"gates": np.array(case.gates)}
    file = write_npz(tmp_path / "case.npz", anchors=case.anchors, query=case.query, **gates)
    out = tmp_path / "out.npz"
    result = run_lattice(
        *("settle", file, "--laplacian", "normalized", "--neighbors", case.neighbors),
        *("--row-cap", "none", "--anchor-weight", case.anchor_weight),
        *("--graph-weight", case.graph_weight, "--query-weight", case.query_weight),
        *("--top", 8, "--out", out),
    )
    assert result.exit_code == 0, result.output
    with np.load(out) as found:
        assert sorted(found.files) == ["edges", "energy_drop", "ranking", "state", "weights"]
        assert found["state"].shape == case.anchors.shape
        assert np.abs(found["state"] - case.stationary_state).max() < 1e-5
        edges = [tuple(edge) for edge in found["edges"].tolist()]
        assert edges == [edge[:2] for edge in case.edges]
        assert np.allclose(found["weights"], [edge[2] for edge in case.edges], atol=1e-5)


@pytest.mark.parametrize("laplacian", list(LaplacianKind))
def test_the_state_is_that_of_a_dense_solve(laplacian: LaplacianKind, tmp_path: Path) -> None:
    arrays = sample_arrays()
    file, out = sample_npz(tmp_path / "in.npz"), tmp_path / "out.npz"
    options = ("--laplacian", laplacian.value, "--neighbors", 5, "--row-cap", 1.5)
    weights = ("--anchor-weight", 2, "--graph-weight", 0.7, "--query-weight", 3)
    more = ("--chain-weight", 0.4, "--tolerance", 1e-7)
    result = run_lattice("settle", file, *options, *weights, *more, "--top", 7, "--out", out)
    assert result.exit_code == 0, result.output

    parameters = LatticeParameters(5, 1.5, laplacian, 2.0, 0.7, 3.0, 0.4, 1e-7)
    chain = checked_chain(arrays["chain"], 60, arrays["chain_weights"])
    own = built(arrays["anchors"], arrays["query"], parameters, arrays["gates"], chain)
    matrix, side = dense_system(own.inputs, own.query)
    state = np.linalg.solve(matrix, side)
    before = dense_terms(own.inputs, own.query, own.inputs.anchors.astype(np.float64))
    after = dense_terms(own.inputs, own.query, state.astype(np.float64))
    with np.load(out) as found:
        assert np.abs(found["state"] - state).max() < 1e-5
        assert (found["edges"][:, 0] < found["edges"][:, 1]).all()
        assert np.array_equal(found["edges"], own.inputs.graph.edges)
        assert np.array_equal(found["weights"], own.inputs.graph.edge_weights)
        assert found["energy_drop"].shape == ()
        assert float(found["energy_drop"]) == pytest.approx(sum(before) - sum(after), rel=1e-6)
        assert found["ranking"].tolist() == rank(read(own.lattice, own.query)).nodes[:7].tolist()


def test_the_defaults_are_those_documented(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    written = []
    for options in (
        (),
        (
            *("--neighbors", 6, "--row-cap", "none", "--laplacian", "combinatorial"),
            *("--anchor-weight", 1, "--graph-weight", 0.5, "--query-weight", 4, "--top", 8),
            *("--chain-weight", 0.2),
        ),
    ):
        out = tmp_path / f"{len(options)}.npz"
        assert run_lattice("settle", file, *options, "--out", out).exit_code == 0
        written.append(out.read_bytes())
    assert written[0] == written[1], "the same arrays give the same bytes"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--neighbors", 3), ("--row-cap", 0.5), ("--laplacian", "normalized")),
        *(("--anchor-weight", 2), ("--graph-weight", 2), ("--query-weight", 1)),
        ("--chain-weight", 3),
    ],
)
def test_every_option_changes_the_state(option: str, value: object, tmp_path: Path) -> None:
    file, plain, other = sample_npz(tmp_path / "in.npz"), tmp_path / "1.npz", tmp_path / "2.npz"
    assert run_lattice("settle", file, "--out", plain).exit_code == 0
    assert run_lattice("settle", file, option, value, "--out", other).exit_code == 0
    assert np.abs(np.load(plain)["state"] - np.load(other)["state"]).max() > 1e-3


def test_the_table_names_the_items_and_the_terms_add_up(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    shown = run_lattice("settle", file, "--top", 3)
    assert "60 anchors of 16 numbers" in shown.stdout
    assert "note-3" in shown.stdout
    told = json.loads(run_lattice("settle", file, "--top", 3, "--format", "json").stdout)
    assert told["ranking"][0]["id"] == f"note-{told['ranking'][0]['node']}"
    assert len(told["ranking"]) == 3
    for terms in told["energy"].values():
        parts = sum(value for name, value in terms.items() if name != "total")
        assert parts == pytest.approx(terms["total"])
    drop = told["energy"]["before"]["total"] - told["energy"]["after"]["total"]
    assert told["energy"]["drop"]["total"] == pytest.approx(drop)


def test_ids_cannot_paint_over_the_terminal(tmp_path: Path) -> None:
    ids = np.array(["\x1b[2Jgone", "[red]x[/]", *("n" for _ in range(58))])
    shown = run_lattice("settle", sample_npz(tmp_path / "in.npz", ids=ids), "--top", 60).stdout
    assert "\x1b" not in shown
    assert "u{001b}" in shown
    assert "[red]x[/]" in shown


def test_a_state_that_does_not_settle_is_told(tmp_path: Path) -> None:
    file, out = sample_npz(tmp_path / "in.npz"), tmp_path / "out.npz"
    result = run_lattice("settle", file, "--max-iterations", 1, "--out", out)
    assert result.exit_code == 1
    assert "iteration_limit after 1 iterations" in result.stderr
    assert out.exists(), "what there is, is written all the same"


@pytest.mark.parametrize(
    ("anchors", "query"),
    [
        ([[1.0, 2.0, 2.0]], [0.0, 1.0, 0.0]),
        ([[1.0, 2.0], [2.0, 1.0]], [1.0, 1.0]),
        ([[1.0], [-2.0], [0.0]], [1.0]),
        ([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 1.0]] * 9, [1.0, 1.0]),
    ],
    ids=["one anchor", "k over N", "one dimension", "zeros", "all the same"],
)
@pytest.mark.parametrize("command", ["settle", "query", "receipt"])
def test_small_and_degenerate_lattices_settle(
    anchors: object, query: object, command: str, tmp_path: Path
) -> None:
    file = write_npz(tmp_path / "in.npz", anchors=np.array(anchors), query=np.array(query))
    result = run_lattice(command, file, "--neighbors", 20)
    assert result.exit_code == 0, result.output


def test_many_queries_are_ranked_each_as_alone(tmp_path: Path) -> None:
    file, out = sample_npz(tmp_path / "in.npz"), tmp_path / "out.npz"
    queries = np.random.default_rng(1).standard_normal((3, 16))
    np.save(tmp_path / "many.npy", queries)
    many = ("query", file, "--query", tmp_path / "many.npy")
    result = run_lattice(*many, "--top", 5, "--out", out)
    assert result.exit_code == 0, result.output
    assert "query 2" in result.stdout
    told = json.loads(run_lattice(*many, "--top", 5, "--format", "json").stdout)["queries"]
    with np.load(out) as found:
        assert found["ranking"].shape == found["scores"].shape == (3, 5)
        assert found["components"].shape == (3, 5, 4)
        for place, query in enumerate(queries):
            np.save(tmp_path / "one.npy", query)
            one = ("settle", file, "--query", tmp_path / "one.npy", "--top", 5)
            alone = json.loads(run_lattice(*one, "--format", "json").stdout)
            nodes = [item["node"] for item in alone["ranking"]]
            assert found["ranking"][place].tolist() == nodes
            assert [item["node"] for item in told[place]["ranking"]] == nodes
            assert found["energy_drop"][place] == alone["energy"]["drop"]["total"]


def test_components_of_all_items_sum_to_the_energy(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    result = run_lattice("query", file, "--top", 60, "--format", "json")
    told = json.loads(result.stdout)["queries"][0]
    sums = {
        name: sum(item[name] for item in told["ranking"])
        for name in ("coherence_drop", "anchor", "query", "chain_drop")
    }
    energy = told["energy"]
    assert sums["coherence_drop"] == pytest.approx(energy["drop"]["graph"], rel=1e-4)
    assert sums["anchor"] == pytest.approx(energy["after"]["anchor"], rel=1e-4)
    assert sums["query"] == pytest.approx(energy["after"]["query"], rel=1e-4)
    assert sums["chain_drop"] == pytest.approx(energy["drop"]["chain"], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--neighbors", 0), "--neighbors"),
        (("--neighbors", 65), "--neighbors"),
        (("--row-cap", "much"), "--row-cap"),
        (("--row-cap", "nan"), "--row-cap"),
        (("--row-cap", -1), "--row-cap"),
        (("--laplacian", "random"), "--laplacian"),
        (("--anchor-weight", 0), "--anchor-weight"),
        (("--graph-weight", -1), "--graph-weight"),
        (("--query-weight", "inf"), "--query-weight"),
        (("--chain-weight", "nan"), "--chain-weight"),
        (("--tolerance", 0), "--tolerance"),
        (("--max-iterations", 0), "--max-iterations"),
        (("--max-iterations", 5000), "--max-iterations"),
        (("--top", 0), "--top"),
        (("--power", 0), "--power"),
        (("--diversity", 2), "--diversity"),
        (("--spread", "nan"), "--spread"),
    ],
)
def test_an_option_out_of_range_is_named(
    options: tuple[str, object], named: str, tmp_path: Path
) -> None:
    assert named in refused("settle", sample_npz(tmp_path / "in.npz"), *options)


def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    assert "there is no directory" in refused("settle", file, "--out", tmp_path / "no" / "o.npz")
    assert "there is no directory" in refused("settle", file, "--out", file / "o.npz")
    assert "directory" in refused("settle", file, "--out", tmp_path)
    assert "is what is read" in refused("settle", file, "--out", file)
    assert "too long" in refused("settle", file, "--out", tmp_path / ("o" * 300))
    # So short that there is room for its name, and none for that of the unfinished one.
    assert "too long" in refused("settle", file, "--out", tmp_path / ("o" * 250))
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_written_file_is_replaced_whole(tmp_path: Path) -> None:
    file, out = sample_npz(tmp_path / "in.npz"), tmp_path / "out.npz"
    out.write_text("older")
    assert run_lattice("settle", file, "--out", out).exit_code == 0
    assert np.load(out)["state"].shape == (60, 16)
    assert sorted(tmp_path.iterdir()) == [file, out]
