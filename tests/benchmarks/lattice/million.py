"""A lattice of a million anchors in a process of its own, so that its peak memory can be told.

`python -m tests.benchmarks.lattice.million ROWS` prints one JSON object.
"""

import json
import resource
import subprocess
import sys
from time import perf_counter
from typing import Any

from tests.benchmarks.lattice.index import index_search
from tests.benchmarks.lattice.ours import StoredLattice
from tests.benchmarks.lattice.scale import DIMENSION, after_search, timed_search
from tests.benchmarks.lattice.synthetic import clustered

ROWS = 1_000_000
_TIMEOUT = 3 * 3600


def measured_in_a_process(rows: int) -> dict[str, Any]:
    """What a process of its own prints."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.lattice.million", str(rows)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def measure(rows: int) -> dict[str, Any]:
    """Build, settle and ask one lattice; the peak of memory after each step."""
    search = index_search()
    if search is None:
        return {"left_out": "no index library: pip install -e '.[index]'"}
    before = _peak_bytes()
    anchors = clustered(rows, DIMENSION)
    started = perf_counter()
    lists, taken = timed_search(search, anchors)
    after_the_search = _peak_bytes()
    stored, figures = after_search(anchors, lists)
    peak = _peak_bytes()
    return {
        "anchors": rows,
        "dimension": DIMENSION,
        **taken,
        **figures,
        "all_s": round(perf_counter() - started, 1),
        "peak_rss_mib": round(peak / 2**20),
        "peak_rss_after_search_mib": round(after_the_search / 2**20),
        # Of the whole peak, the interpreter and its libraries left out.
        "peak_bytes_for_each_anchor": round((peak - before) / rows),
        "kept_bytes_for_each_anchor": round(kept_bytes(stored) / rows),
    }


def kept_bytes(stored: StoredLattice) -> int:
    """What a stored lattice holds in arrays: anchors, state, graph and what readings need."""
    from oars_grpc.use_cases.lattice_work import bytes_of

    return bytes_of(stored)


def _peak_bytes() -> int:
    # Linux counts kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    json.dump(measure(int(sys.argv[1])), sys.stdout)
