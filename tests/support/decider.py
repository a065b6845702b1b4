"""A process that decides an approval and starts its action when told to, until it is killed.

stdin   one line: the approval to decide, whose action to start then
stdout  `ready`, then `decided` and `started` as these are acknowledged
"""

import sys

import click

from tests.support.replicas import approver, replica


def main(url: str) -> None:
    """Serve the lines of standard input."""
    with replica(url) as server:
        # Every connection and cache is warm, so that a failure meets the same bursts each time.
        warm = server.submit("warm")
        server.decide(warm, approver("bob"))
        server.start(warm.action_id)
        click.echo("ready")
        for line in sys.stdin:
            approval = server.approval(line.strip())
            server.decide(approval, approver("bob"), key=f"decide {approval.approval_id}")
            click.echo("decided")
            server.start(approval.action_id, key=f"start {approval.approval_id}")
            click.echo("started")


if __name__ == "__main__":
    main(sys.argv[1])
