"""`oars lattice` as a user runs it: a process of its own, real files, a terminal, Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.lattice import ReferenceCase, clustered, reference_cases
from tests.support.lattice_files import sample_npz, write_npz

OARS = (sys.executable, "-m", "oars_grpc.cli", "lattice")


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OARS, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("case", reference_cases()[:2], ids=lambda case: case.name)
@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_reference_case_settles_as_published(
    case: ReferenceCase, kind: str, tmp_path: Path
) -> None:
    if kind == "npz":
        gates = {} if case.gates is None else {"gates": np.array(case.gates)}
        write_npz(tmp_path / "in.npz", anchors=case.anchors, query=case.query, **gates)
    else:
        columns = {"embedding": case.anchors.tolist()}
        table = pa.table(columns if case.gates is None else {**columns, "gate": case.gates})
        query = {"query": json.dumps(case.query.astype(float).tolist())}
        pq.write_table(table.replace_schema_metadata(query), tmp_path / "in.parquet")
    finished = run(
        *("settle", f"in.{kind}", "--neighbors", case.neighbors, "--row-cap", "none"),
        *("--laplacian", "normalized", "--anchor-weight", case.anchor_weight),
        *("--graph-weight", case.graph_weight, "--query-weight", case.query_weight),
        *("--top", 8, "--out", "out.npz"),
        cwd=tmp_path,
    )
    assert (finished.returncode, finished.stderr) == (0, ""), "no progress but on a terminal"
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert np.abs(found["state"] - case.stationary_state).max() < 1e-5
        assert found["edges"].tolist() == [list(edge[:2]) for edge in case.edges]


def test_a_receipt_is_the_same_with_one_thread_and_with_two(tmp_path: Path) -> None:
    anchors = clustered(3000, 96, 20, 4)
    write_npz(tmp_path / "in.npz", anchors=anchors, query=anchors[5], chain=np.arange(30, 40))
    for threads in ("1", "2"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        receipt = f"{threads}.json"
        environment = dict.fromkeys(names, threads)
        finished = run("receipt", "in.npz", "--out", receipt, cwd=tmp_path, **environment)
        assert finished.returncode == 0, finished.stderr
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "12")
    assert one["predicate"]["lattice"] == two["predicate"]["lattice"]
    assert one["subject"] == two["subject"]
    checked = run("receipt", "in.npz", "--check", "1.json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("command", ["settle", "query", "receipt", "chain", "plot"])
def test_a_fault_is_one_line_and_no_traceback(command: str, tmp_path: Path) -> None:
    anchors = clustered(20, 8, 2, 1)
    anchors[3, 7] = np.nan
    write_npz(tmp_path / "in.npz", anchors=anchors, query=anchors[0], chain=np.array([1, 2]))
    out = () if command == "chain" else ("--out", "out.png")
    finished = run(command, "in.npz", *out, cwd=tmp_path)
    assert finished.returncode == 2
    assert "in.npz: anchors[3][7]: must be finite, not nan" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def test_a_missing_library_is_named_by_its_extra(tmp_path: Path) -> None:
    """As in an environment that has neither pyarrow nor matplotlib: importing them fails."""
    pq.write_table(pa.table({"embedding": [[1.0, 2.0]]}), tmp_path / "in.parquet")
    sample_npz(tmp_path / "in.npz")
    for library in ("pyarrow", "matplotlib"):
        shadow = tmp_path / "shadow" / library
        shadow.mkdir(parents=True)
        (shadow / "__init__.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(tmp_path / "shadow"), os.environ.get("PYTHONPATH", "")])
    plotted = run("plot", "in.npz", "--out", "out.png", cwd=tmp_path, PYTHONPATH=path)
    settled = run("settle", "in.parquet", cwd=tmp_path, PYTHONPATH=path)
    for finished, extra in ((plotted, "plots"), (settled, "parquet")):
        assert finished.returncode == 2
        assert f"install oars-grpc[{extra}]" in finished.stderr
        assert "Traceback" not in finished.stderr


def test_progress_is_shown_on_a_terminal_and_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    # Half a minute of work, were it not for the interrupt.
    anchors = np.random.default_rng(0).standard_normal((40_000, 256)).astype(np.float32)
    write_npz(tmp_path / "in.npz", anchors=anchors, query=anchors[0])
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [*OARS, "settle", "in.npz", "--out", "out.npz"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=side,
    )
    os.close(side)
    shown, deadline = b"", time.monotonic() + 100
    try:
        while b"neighbours" not in shown and time.monotonic() < deadline:
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        while piece := read_to_end(terminal):
            shown += piece
        output = process.communicate(timeout=100)[0]
    finally:
        process.kill()
        os.close(terminal)
    assert b"neighbours" in shown
    assert b"%" in shown
    assert b"Aborted!" in shown
    assert b"Traceback" not in shown
    assert process.returncode == 1
    assert output == b""
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def read_to_end(terminal: int) -> bytes:
    """The next bytes; none once the process is gone, which a terminal tells by an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
