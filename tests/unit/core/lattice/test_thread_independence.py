"""The bytes of a statement must not depend on how many threads a BLAS has.

257 x 2048 is a shape at which OpenBLAS adds up even a matrix times a vector in another order with
two threads than with one.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]

SCRIPT = """
import hashlib
import numpy as np
from oars_grpc.core.canonical import statement_json
from oars_grpc.core.lattice.arrays import checked_chain
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from tests.support.lattice import clustered, gaussian
from tests.support.settled_lattices import built, stated
for kind in LaplacianKind:
    for rows in (clustered(700, 96, 12, 4), gaussian(257, 2048, 9)):
        count = len(rows)
        gates = np.random.default_rng(1).random(count)
        chain = checked_chain([3, 9, 27, 81], count)
        query = rows[5] * 0.9 + rows[6] * 0.1
        example = built(rows, query, LatticeParameters(laplacian=kind), gates, chain)
        full = stated(example)
        digest = hashlib.sha256(statement_json(full.statement) + full.nodes.tobytes())
        print(digest.hexdigest(), full.statement["state"])
"""


def digests(threads: int) -> str:
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return run.stdout


def test_statements_have_the_same_bytes_with_one_and_two_threads_and_again() -> None:
    one, two, again = digests(1), digests(2), digests(2)
    assert len(set(one.split("\n"))) == 5  # four of them, and the end
    assert one == two == again
