"""Children of a process that decide an approval and start its action, until they are killed.

For the id of an approval, and another line to go on, a child says `decided` and `started` as these
are acknowledged.
"""

import os
import sys
from functools import partial

import click

from tests.support.forks import read_line, say_ready, serve_forks
from tests.support.replicas import approver, replica


def decide(url: str, approval_id: str) -> None:
    """Decide and start, when told to."""
    with replica(url) as server:
        # Every connection and cache is warm, so that a failure meets the same messages each time.
        warm = server.submit(f"warm-{os.getpid()}")
        server.decide(warm, approver("bob"))
        server.start(warm.action_id)
        approval = server.approval(approval_id)
        say_ready()
        read_line()
        server.decide(approval, approver("bob"), key=f"decide {approval_id}")
        click.echo("decided")
        server.start(approval.action_id, key=f"start {approval_id}")
        click.echo("started")


if __name__ == "__main__":
    serve_forks(partial(decide, sys.argv[1]))
