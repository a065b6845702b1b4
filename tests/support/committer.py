"""Children of a process that commit two batches, each when told to, until they are killed.

For a line, and another for each batch, a child says the ids of the actions of each batch that was
acknowledged.
"""

import sys
from functools import partial

import click

from oars_grpc.core.stored import Change
from oars_grpc.storage.appender import CoalescingLedger
from tests.support.database import opened
from tests.support.factories import (
    make_approval,
    make_change,
    make_outcome,
    make_request,
    new_id,
)
from tests.support.forks import read_line, say_ready, serve_forks


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


def commit(url: str, _line: str) -> None:
    """Commit two batches, when told to."""
    with opened(url, pool_size=2) as engine:
        ledger = CoalescingLedger(engine)
        ledger.commit(make_batch(1))
        say_ready()
        for _ in range(2):
            read_line()
            batch = make_batch(BATCH)
            ledger.commit(batch)
            click.echo(" ".join(change.stored.action.action_id for change in batch))


if __name__ == "__main__":
    serve_forks(partial(commit, sys.argv[1]))
