"""A process that forks one that decides an approval and starts its action, until that is killed.

stdin   the id of an approval, on a line; when `ready` has been read, another line to go on
stdout  `ready` and the process to kill, `decided` and `started` as these are acknowledged, and
        `ended` with the exit code of that process (-9 if it was killed)

Forking spares each round the seconds that it takes to import the program.
"""

import os
import sys

import click

from tests.support.replicas import approver, replica


def decide(url: str, approval_id: str) -> None:
    """Decide and start, when told to."""
    with replica(url) as server:
        # Every connection and cache is warm, so that a failure meets the same messages each time.
        warm = server.submit(f"warm-{os.getpid()}")
        server.decide(warm, approver("bob"))
        server.start(warm.action_id)
        approval = server.approval(approval_id)
        click.echo(f"ready {os.getpid()}")
        read_line()
        server.decide(approval, approver("bob"), key=f"decide {approval_id}")
        click.echo("decided")
        server.start(approval.action_id, key=f"start {approval_id}")
        click.echo("started")


def read_line() -> str:
    """A line of standard input, and no byte more: parent and child read in turns."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def main(url: str) -> None:
    """Serve the lines of standard input."""
    while approval_id := read_line():
        child = os.fork()
        if not child:
            decide(url, approval_id)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        click.echo(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(sys.argv[1])
