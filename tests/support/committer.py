"""A process that forks one that commits batches when told to, until that is killed.

stdin   a line: fork; when `ready` has been read, a line for each batch
stdout  `ready` and the process to kill, then the ids of the actions of each batch that was
        acknowledged, and `ended` with the exit code of that process (-9 if it was killed)

Forking spares each round the seconds that it takes to import the program.
"""

import os
import sys

import click

from oars_grpc.core.stored import Change
from oars_grpc.storage.appender import CoalescingLedger
from tests.support.database import opened
from tests.support.decider import read_line
from tests.support.factories import (
    make_approval,
    make_change,
    make_outcome,
    make_request,
    new_id,
)


def make_batch(count: int) -> list[Change]:
    """Submissions with all that one can bring along: outcome, approval, rules, receipts."""
    batch = []
    for _ in range(count):
        # Each asks for something else: what asks the same would join the first.
        change = make_change(request=make_request(agent_id=new_id("act")))
        action = change.stored.action
        outcome = make_outcome(key=action.action_id)
        approval = make_approval(action)
        batch.append(Change(change.stored, 0, change.receipts, approval=approval, outcome=outcome))
    return batch


BATCH = 3


def commit(url: str) -> None:
    """Commit two batches, when told to."""
    with opened(url, pool_size=2) as engine:
        ledger = CoalescingLedger(engine)
        ledger.commit(make_batch(1))
        click.echo(f"ready {os.getpid()}")
        for _ in range(2):
            read_line()
            batch = make_batch(BATCH)
            ledger.commit(batch)
            click.echo(" ".join(change.stored.action.action_id for change in batch))


def main(url: str) -> None:
    """Serve the lines of standard input."""
    while read_line():
        child = os.fork()
        if not child:
            commit(url)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        click.echo(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(sys.argv[1])
