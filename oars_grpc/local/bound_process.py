"""Child processes that do not outlive this one."""

import os
import sys
from collections.abc import Sequence

# PR_SET_PDEATHSIG (1) of prctl(2) survives exec. The parent may have died before it was set.
_BIND = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def bound_to_this_process(command: Sequence[str]) -> list[str]:
    """The command, ending by SIGTERM when this process dies, even by SIGKILL.

    Linux counts from the *thread* that spawns: it must live as long as the command should.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), *command]
