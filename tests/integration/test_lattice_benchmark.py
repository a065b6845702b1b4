"""The lattice's benchmark runs, and judges by figures that are what they are called."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, ndcg_score, roc_auc_score

from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import NeighborLists, nearest_neighbors
from tests.benchmarks.lattice.__main__ import main
from tests.benchmarks.lattice.cases import GROUNDED, KINDS, LOOK_ALIKE, CaseMaker
from tests.benchmarks.lattice.embedding import SentenceModel, missing_for_text
from tests.benchmarks.lattice.measures import (
    auroc,
    bootstrap_mean,
    brier,
    calibration_error,
    ndcg_at,
    recall_at,
    reliability,
    roc,
)
from tests.benchmarks.lattice.outcomes import Collection, _predicted, covered
from tests.benchmarks.lattice.peer import Peer
from tests.benchmarks.lattice.plots import plot
from tests.benchmarks.lattice.quality import scores_of
from tests.benchmarks.lattice.rankings import by_cosine, by_lattice
from tests.benchmarks.lattice.retrieval import PARTS, digits, in_folds
from tests.benchmarks.lattice.scale import made_up_lists, recall_of
from tests.benchmarks.lattice.synthetic import clustered
from tests.benchmarks.lattice.tables import tables
from tests.benchmarks.lattice.texts import LabelledText

ROOT = Path(__file__).resolve().parents[2]

# Stands where a checkout of Oscillink would: its interface, and the items in their own order.
PEER = """
import numpy as np
__version__ = "0.0.test"
class OscillinkLattice:
    def __init__(self, Y, kneighbors):
        self.Y, self.detail = Y, "full"
    def set_receipt_detail(self, detail): self.detail = detail
    def set_query(self, query): self.query = query
    def settle(self): pass
    def receipt(self): return {"deltaH_total": float(np.square(self.Y).sum())}
    def bundle(self, k): return [{"id": at} for at in range(k)]
"""


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(20260322)


def test_a_run_reports_times_recall_and_latencies(tmp_path: Path) -> None:
    file = tmp_path / "lattice.json"
    checkout = tmp_path / "peer"
    (checkout / "oscillink").mkdir(parents=True)
    (checkout / "oscillink" / "__init__.py").write_text(PEER)
    parts = [f"--only={part}" for part in ("speed", "scale", "ranking", "contention")]
    options = ["--smoke", "--peer", str(checkout), "--blas-threads", "1", "--json", str(file)]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.lattice", *parts, *options, "--no-texts"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(file.read_text())
    assert report["machine"]["oscillink"] == "0.0.test"
    (speed,) = report["speed"]
    assert (speed["anchors"], speed["peer_receipt"]) == (1_200, "full")
    for step in ("cold", "warm"):
        ours, theirs = speed[f"ours_{step}"], speed[f"peer_{step}"]
        assert 0 < ours["least_ms"] <= ours["median_ms"]
        ratio = theirs["median_ms"] / ours["median_ms"]
        assert speed[f"{step}_ratio"] == pytest.approx(ratio, abs=0.1)
    large = report["scale"]["large"]
    assert large["index"]["recall"] > 0.9
    assert large["exact"]["edges"] >= large["index"]["edges"] > 0
    rows = {row["ranking"]: row for row in report["ranking"]["rows"]}
    assert rows["cosine"]["recall_gain"] is None
    assert rows["Oscillink bundle"]["recall"] < rows["lattice (default)"]["recall"]
    (contention,) = report["contention"]
    for load in ("idle", "during_a_build"):
        assert 0 < contention[load]["p50_ms"] <= contention[load]["p99_ms"]
    assert "| digits | lattice (default) |" in finished.stdout
    for name in ("speed", "scale", "ranking"):
        plot = file.with_name(f"lattice-{name}.png")
        assert not plot.exists() or plot.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_peer_says_so_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lattice.json"
    main(["--smoke", "--only=speed", "--no-texts", "--blas-threads=1", f"--json={file}"])
    report = json.loads(file.read_text())
    assert report["left_out"] == ["Oscillink: no --peer", "texts: --no-texts"]
    assert "left out: Oscillink" in capsys.readouterr().out
    assert not any(name.startswith("peer") for name in report["speed"][0])


def test_a_peer_is_imported_from_the_checkout_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        Peer(tmp_path)
    assert str(tmp_path) not in sys.path


def test_the_default_ranking_is_above_cosine_on_held_out_digits() -> None:
    data = digits(900)
    ranked, plain = (scores_of(ranking, data.held_out) for ranking in (by_lattice(), by_cosine()))
    recall, ndcg = (ranked - plain).mean(axis=0)
    assert recall > 0
    assert ndcg > 0


def test_every_item_is_a_query_once_and_never_finds_itself(random: np.random.Generator) -> None:
    vectors = random.standard_normal((103, 4)).astype(np.float32)
    subject = np.arange(103) % 3
    data = in_folds("made up", "", vectors, subject[:, None] == subject[None, :])
    folds = (*data.development, *data.held_out)
    assert len(folds) == PARTS
    asked = np.concatenate([fold.queries for fold in folds])
    assert sorted(map(tuple, asked)) == sorted(map(tuple, vectors))
    for fold in folds:
        assert not {tuple(row) for row in fold.queries} & {tuple(row) for row in fold.corpus}
        assert fold.relevant.shape == (len(fold.queries), len(fold.corpus))


def test_ndcg_is_that_of_scikit_learn(random: np.random.Generator) -> None:
    relevant = random.random(50) < 0.3
    order = random.permutation(50)
    scores = np.zeros(50)
    scores[order] = np.arange(50, 0, -1)
    expected = ndcg_score(relevant[None, :].astype(int), scores[None, :], k=10)
    assert ndcg_at(order[:10], relevant) == pytest.approx(expected)


def test_recall_is_whole_when_as_many_are_found_as_could_be() -> None:
    relevant = np.array([True, True, False, True, False])
    assert recall_at(np.array([0, 1]), relevant) == 1.0
    assert recall_at(np.array([0, 2, 1, 4]), relevant) == pytest.approx(2 / 3)


def test_areas_and_errors_are_those_of_scikit_learn(random: np.random.Generator) -> None:
    scores = np.round(random.random(400), 2)  # with ties
    positive = random.random(400) < scores
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert brier(scores, positive) == pytest.approx(brier_score_loss(positive, scores))
    false, true = roc(scores, positive)
    assert np.trapezoid(true, false) == pytest.approx(auroc(scores, positive))


def test_calibration_errs_by_what_the_bins_are_off() -> None:
    predicted = np.array([0.05] * 10 + [0.95] * 30)
    positive = np.array([False] * 9 + [True] + [True] * 30)
    bins = reliability(predicted, positive)
    assert [each.cases for each in bins] == [10, 30]
    assert calibration_error(bins) == pytest.approx(0.25 * 0.05 + 0.75 * 0.05)


def test_the_interval_of_a_mean_holds_it_and_narrows_with_more(
    random: np.random.Generator,
) -> None:
    few, many = (bootstrap_mean(random.normal(1.0, 1.0, count), 1000) for count in (30, 3000))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 4
    assert many.low < 1.0 < many.high


def test_evidence_is_of_the_kind_that_it_is_called(random: np.random.Generator) -> None:
    subjects = [frozenset({f"s{at % 4}", f"s{at % 4}-too"}) for at in range(80)]
    texts = [LabelledText(str(at), str(at), labels) for at, labels in enumerate(subjects)]
    vectors = random.standard_normal((80, 6)).astype(np.float32)
    cases = CaseMaker(texts, vectors).cases(5)
    assert [case.kind for case in cases] == [GROUNDED, *KINDS] * 5
    for case in cases:
        assert case.action not in case.evidence
        own = [subjects[at] == subjects[case.action] for at in case.evidence]
        assert sum(own) == {GROUNDED: 8, "mixed": 2}.get(case.kind, 0)
        if case.kind == LOOK_ALIKE:
            others = [at for at in range(80) if subjects[at] != subjects[case.action]]
            likeness = vectors[others] @ vectors[case.action]
            assert case.evidence[0] == others[int(likeness.argmax())]


def test_risk_is_judged_by_outcomes_and_its_interval_by_what_they_were_drawn_by(
    random: np.random.Generator, tmp_path: Path
) -> None:
    vectors = clustered(240, 16)
    given = Collection("made up", vectors, vectors[:, 0] > 0, np.arange(30))
    predicted = _predicted(given, 1.0, 30)
    assert (predicted["actions"], predicted["calibrated"]) == (30, 1.0)
    assert predicted["auroc"]["value"] > 0.8
    truth = np.full(240, 0.3)
    row = {"set": "made up", "probability": "0.3", "evidence": 32, "outcomes_known": 1.0}
    found = covered(given, truth, 32, 1.0, 30)
    assert found["coverage"] > 0.8
    assert 0 < found["mean_interval_width"] < 1
    # An interval cannot hold what nothing was drawn by: outcomes by chance, told to be certain.
    certain = np.where(random.random(240) < 0.3, 1.0, 0.0)
    unpredictable = covered(given, certain, 32, 1.0, 30)
    assert unpredictable["coverage"] < 0.5
    assert unpredictable["above_the_interval"] > 0

    report = {"left_out": [], "outcomes": {"predicted": [predicted], "coverage": [row | found]}}
    assert "| made up, 100% | 100% |" in tables(report)
    assert "| made up, 32 items, 100% known | 0.3 |" in tables(report)
    (file,) = plot(report, tmp_path / "report.json")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert plot({"outcomes": {"predicted": [], "coverage": []}}, tmp_path / "none.json") == []


def test_a_made_up_graph_has_every_neighbour_on_both_sides() -> None:
    lists = made_up_lists(101, 6)
    assert mutual_graph(lists).degrees == pytest.approx(np.full(101, 6 * 0.7), abs=1e-6)


def test_recall_counts_the_neighbours_that_were_found() -> None:
    exact = nearest_neighbors(clustered(60, 8), 4)
    assert recall_of(exact, exact) == 1.0
    missed = exact.indices.copy()
    missed[:, 0] = -1
    assert recall_of(NeighborLists(missed, exact.cosines), exact) == pytest.approx(0.75)


def test_sentences_about_one_thing_are_near_each_other() -> None:
    missing = missing_for_text()
    if missing:
        # Without the model the benchmark leaves its texts out, and says what to install.
        assert "pip install" in missing
        return
    found = SentenceModel().embed(
        ["a program that plays music", "an audio player", "solves linear equations", "word " * 600]
    )
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    likeness = found @ found.T
    assert likeness[0, 1] > 0.5 > likeness[0, 2]
