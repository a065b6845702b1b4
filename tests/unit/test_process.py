"""What the process asks of the system; in processes of their own, for there is no way back."""

import os
import subprocess
import sys

import pytest

_SHOW = """
import os, sys, threading
from oars_grpc.process import stay_on
stay_on(int(sys.argv[1]))
thread = threading.Thread(target=lambda: print(os.sched_getaffinity(0)))
thread.start()
"""


def _stay_on(processor: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _SHOW, str(processor)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("processor", sorted(os.sched_getaffinity(0))[:1])
def test_all_threads_stay_on_the_processor(processor: int) -> None:
    assert _stay_on(processor).stdout == f"{{{processor}}}\n"


def test_a_processor_that_is_not_there_is_refused_by_name() -> None:
    refused = _stay_on(4095)
    assert refused.returncode != 0
    assert "OARS_PROCESSOR: cannot stay on processor 4095" in refused.stderr
