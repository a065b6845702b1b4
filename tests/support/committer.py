"""A process that commits batches when told to, and says what was acknowledged, until it is killed.

stdin   one line: commit one batch of that many changes
stdout  `ready`, then the ids of the actions of each batch that was acknowledged
"""

import sys

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


def main(url: str) -> None:
    """Serve the lines of standard input."""
    with opened(url, pool_size=2) as engine:
        ledger = CoalescingLedger(engine)
        ledger.commit(make_batch(1))
        click.echo("ready")
        for line in sys.stdin:
            batch = make_batch(int(line))
            ledger.commit(batch)
            click.echo(" ".join(change.stored.action.action_id for change in batch))


if __name__ == "__main__":
    main(sys.argv[1])
