"""The benchmarks run and report what they say; how fast anything is, is not tested here."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import policy
from tests.benchmarks.contestants import TENANT, bench
from tests.benchmarks.filling import fill, stored_actions
from tests.benchmarks.workloads import Samples, action_of, answers_of
from tests.support.database import check_ledger

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = {"allow", "allow_complete", "get_action", "verify_receipt"}
FIGURES = {
    "actions_per_second",
    "p50_ms",
    "p99_ms",
    "server_cpu_ms",
    "postgres_cpu_ms",
    "client_cpu_ms",
    "actions",
}
# Processor times come in ticks of the kernel: in a run this short they may be none.
TIMED = FIGURES - {"server_cpu_ms", "postgres_cpu_ms", "client_cpu_ms"}


def test_a_run_reports_every_workload_the_floor_and_the_ratio(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.submit", "--smoke", "--json", str(file)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "ratio to the floor" in finished.stdout
    report = json.loads(file.read_text())
    assert report["durability"]["fsync"] == "on"
    assert report["durability"]["synchronous_commit"] == "on"
    assert report["machine"]["postgres"]
    assert set(report["workloads"]) == WORKLOADS
    for streams, figures in _all_figures(report):
        assert streams in {"1", "4"}
        assert set(figures) == FIGURES
        assert all(figures[name] > 0 for name in TIMED), figures
        assert all(value >= 0 for value in figures.values()), figures
        assert figures["p50_ms"] <= figures["p99_ms"]
    for streams, ratio in report["ratio_to_floor"].items():
        ours, floor = report["workloads"]["allow"][streams], report["floor"][streams]
        expected = ours["actions_per_second"] / floor["actions_per_second"]
        assert abs(ratio - expected) < 0.001
    assert report["ratio_to_floor_on_one_processor"].keys() == {"1", "4"}
    if importlib.util.find_spec("matplotlib"):
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_policy_benchmark_reports_both_engines_side_by_side(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.policy", "--quick", "--json", str(file)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(file.read_text())
    assert report["machine"]["processors_used"] == 1
    found = {(figure["policy"], figure["rules"]) for figure in report["figures"]}
    assert found == {(kind.name, rules) for kind in policy.KINDS for rules in policy.RULES}
    for figure in report["figures"]:
        assert figure["policy"] in finished.stdout
        assert all(figure[name] > 0 for name in ("decide_us", "evaluate_us", "cedarpy_us"))
        ratio = figure["decide_us"] / figure["cedarpy_us"]
        assert abs(figure["ratio_to_cedarpy"] - ratio) < 0.01


def test_filled_actions_are_a_whole_ledger_that_the_server_continues(tmp_path: Path) -> None:
    with bench(tmp_path) as running, running.oars({}) as server:
        recorded, _ = server.record("allow_complete")
        fill(server.database_url, TENANT, recorded, 300)
        with server.channel() as channel:
            answers_of(action_of("allow_complete", channel, Samples()))
        assert stored_actions(server.database_url) == 302
        assert check_ledger(server.database_url) >= 3 * 302


def test_a_replay_reports_its_figures_and_the_same_report_every_time(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    size = ("--decisions", "600", "--rounds", "2")
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.replay", *size, "--json", str(file)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    drafts = json.loads(file.read_text())["drafts"]
    assert set(drafts) == {"without inputs", "with inputs"}
    for figures in drafts.values():
        assert (figures["decisions"], figures["receipts"]) == (600, 1200)
        assert 0 < figures["changed"] < 600
        assert figures["seconds"] <= figures["slowest_seconds"]
        assert figures["peak_mib"] > 0


def _all_figures(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    for by_streams in (*report["workloads"].values(), report["floor"]):
        yield from by_streams.items()
