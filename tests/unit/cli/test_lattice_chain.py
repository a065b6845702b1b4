"""`oars lattice chain` and `plot`."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oars_grpc.cli.lattice_course import energy_course
from oars_grpc.cli.lattice_layout import Plane, drawn_nodes
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.parameters import LatticeParameters
from tests.support.lattice_files import (
    along_an_arc,
    refused,
    run_lattice,
    sample_arrays,
    sample_npz,
    torn_arrays,
    write_npz,
)
from tests.support.settled_lattices import sample

PNG = b"\x89PNG\r\n\x1a\n"


def verdict(file: Path, *options: object) -> Any:
    result = run_lattice("chain", file, *options, "--format", "json")
    told = json.loads(result.stdout)["verdict"]
    assert result.exit_code == (0 if told["coherent"] else 1)
    return told


def test_a_chain_along_neighbours_holds_and_one_across_does_not(tmp_path: Path) -> None:
    anchors = np.concatenate([along_an_arc(40, 16), -along_an_arc(40, 16)])
    file = write_npz(tmp_path / "in.npz", anchors=anchors, query=anchors[0])
    within = verdict(file, "--chain", "1,2,3,4")
    assert within["coherent"]
    assert within["gain"] >= 0
    across = verdict(file, "--chain", "1,2,60,61")
    assert not across["coherent"]
    assert across["weakestLink"] == 1
    assert max(across["scores"]) == across["scores"][1] > across["threshold"]
    assert verdict(file, "--chain", "1,2,60,61", "--threshold", 900)["coherent"]


def test_the_chain_of_the_file_is_judged_with_its_weights(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    told = json.loads(run_lattice("chain", file, "--format", "json").stdout)
    arrays = sample_arrays()
    assert told["chain"]["nodes"] == arrays["chain"].tolist()
    assert told["chain"]["weights"] == arrays["chain_weights"].tolist()
    shown = run_lattice("chain", file).stdout
    assert "weakest" in shown
    assert "note-9" in shown
    assert "gain" in shown


def test_only_the_weakest_of_many_links_are_printed(tmp_path: Path) -> None:
    anchors = along_an_arc(200, 8)
    file = write_npz(tmp_path / "in.npz", anchors=anchors, query=anchors[0], chain=np.arange(200))
    shown = run_lattice("chain", file).stdout
    assert "the 100 weakest of 199 links" in shown
    assert "weakest link" in shown


@pytest.mark.parametrize("chain", ["", "a", "1", "1,1", "1,99", "-1,2", "1,,2", "9" * 30 + ",1"])
def test_a_chain_that_is_none_is_refused(chain: str, tmp_path: Path) -> None:
    assert "--chain" in refused("chain", sample_npz(tmp_path / "in.npz"), "--chain", chain)


def test_without_a_chain_there_is_nothing_to_judge(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz", chain=None, chain_weights=None)
    assert "chain: is missing" in refused("chain", file)
    for threshold in ("0", "nan"):
        assert "--threshold" in refused("chain", file, "--threshold", threshold)


def test_a_picture_is_drawn_with_its_conflicts(tmp_path: Path) -> None:
    file, out = write_npz(tmp_path / "in.npz", **torn_arrays()), tmp_path / "out.png"
    result = run_lattice("plot", file, "--out", out)
    assert result.exit_code == 0, result.output
    count = int(result.stdout.split(": ")[1].split()[0])
    assert count > 0
    assert out.read_bytes().startswith(PNG)
    vector = tmp_path / "out.svg"
    assert run_lattice("plot", file, "--out", vector).exit_code == 0
    text = vector.read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert f"{count} in conflict" in text
    assert "in conflict, and the two it joins" in text
    assert "settle steps" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_lattice_gives_the_same_picture(suffix: str, tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    pictures = [tmp_path / f"{place}.{suffix}" for place in range(2)]
    for picture in pictures:
        assert run_lattice("plot", file, "--out", picture).exit_code == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (5, 1)])
def test_small_lattices_are_drawn(shape: tuple[int, int], tmp_path: Path) -> None:
    anchors = np.random.default_rng(0).standard_normal(shape)
    file = write_npz(tmp_path / "in.npz", anchors=anchors, query=anchors[0])
    result = run_lattice("plot", file, "--out", tmp_path / "out.png")
    assert result.exit_code == 0, result.output


def test_names_are_drawn_as_they_stand(tmp_path: Path) -> None:
    ids = np.array(["$\\frac{$", "\u6f22\u5b57", "<&>", *("n" for _ in range(57))])
    file = sample_npz(tmp_path / "in.npz", ids=ids)
    out = tmp_path / "out.svg"
    result = run_lattice("plot", file, "--out", out, "--top", 50)
    assert result.exit_code == 0, result.output
    ET.fromstring(out.read_text())


def test_of_a_large_lattice_what_is_near_the_query_is_drawn(tmp_path: Path) -> None:
    file, out = sample_npz(tmp_path / "in.npz"), tmp_path / "out.svg"
    assert run_lattice("plot", file, "--out", out, "--most", 20).exit_code == 0
    assert "less like the query not drawn" in out.read_text()


def test_a_picture_is_a_png_or_an_svg(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    assert ".png or .svg" in refused("plot", file, "--out", tmp_path / "out.exe")
    assert "--out" in refused("plot", file)


def test_the_plane_is_that_of_the_largest_spread() -> None:
    chance = np.random.default_rng(2)
    spread = np.array([0.1, 5.0, 0.2, 2.0])
    rows = (chance.standard_normal((500, 4)) * spread + 7).astype(np.float32)
    places = Plane.of(rows).places(rows)
    assert abs(np.corrcoef(places[:, 0], rows[:, 1])[0, 1]) > 0.999
    assert abs(np.corrcoef(places[:, 1], rows[:, 3])[0, 1]) > 0.99
    assert np.abs(places.mean(axis=0)).max() < 1e-3


def test_drawn_are_all_or_the_nearest_and_what_must_be() -> None:
    cosines = np.array([0.1, 0.9, 0.5, -0.2, 0.8])
    assert drawn_nodes(cosines, 5, np.array([0])).tolist() == [0, 1, 2, 3, 4]
    assert drawn_nodes(cosines, 2, np.array([3, 1])).tolist() == [1, 3, 4]


@pytest.mark.parametrize("tolerance", [1e-6, 1e-2])
def test_the_course_ends_at_the_settled_energy(tolerance: float) -> None:
    own = sample(parameters=LatticeParameters(tolerance=tolerance))
    query = Query.of(own.query)
    course = energy_course(own.lattice, query, lambda _share: None)
    energies = own.lattice.energies(query)
    assert course.iterations == tuple(range(own.lattice.state.outcome.iterations + 1))
    assert course.energies[0] == course.by_steps[0] == energies.before.total
    assert course.energies[-1] == course.settled == energies.after.total
    for count in (1, 2):
        parameters = LatticeParameters(tolerance=tolerance, max_iterations=count)
        stopped = sample(parameters=parameters).lattice.energies(query)
        assert course.energies[count] == stopped.after.total
    slack = 1e-9 * course.energies[0]
    assert all(energy >= course.settled - slack for energy in course.energies)
    steps = zip(course.by_steps, course.by_steps[1:], strict=False)
    assert all(after <= before + slack for before, after in steps)
    assert course.by_steps[-1] == pytest.approx(course.settled, rel=1e-4)
