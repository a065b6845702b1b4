"""One appender for each process: what arrives while a commit is under way shares the next one.

Nothing waits for a batch to fill: with one caller each change commits by itself, with many a commit
carries as many as came meanwhile. That makes throughput nearly independent of how long a commit
takes, and of how many statements it is made of.

    callers   ──▶ queue ──▶ appender: take all that wait ──▶ one transaction ──▶ answer each caller

A caller is answered after the commit that carried its changes has returned, never before.

A batch may carry changes of several tenants, so a lock that one tenant's log is held under for long
keeps the others waiting too, until the lock timeout ends the batch; only this program takes it, and
for the length of one transaction.
"""

import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Lock

from sqlalchemy import Engine

from oars_grpc.core.stored import Change, CommitResult
from oars_grpc.errors import OarsError
from oars_grpc.storage.commit_rows import PreparedChange
from oars_grpc.storage.ledger import PostgresLedger, prepared_changes

MAXIMUM_CHANGES = 64


class _Group:
    """The changes of one call of `commit`, and what became of them."""

    __slots__ = ("_done", "_error", "_results", "changes")

    def __init__(self, changes: Sequence[PreparedChange]) -> None:
        self.changes = changes
        self._results: Sequence[CommitResult] = ()
        self._error: Exception | None = None
        self._done = Lock()  # held until they are done: a future would cost several times as much
        self._done.acquire()

    def wait(self) -> Sequence[CommitResult]:
        """The results, when there are any.

        Raises:
            Exception: what kept the changes from being committed.
        """
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._results

    def succeed(self, results: Sequence[CommitResult]) -> None:
        """Let the caller go on."""
        self._results = results
        self._done.release()

    def fail(self, error: Exception) -> None:
        """Let the caller go on with an error."""
        self._error = error
        self._done.release()


class CoalescingLedger(PostgresLedger):
    """The ledger whose commits go through one appender thread; everything else is the ledger's."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._queue: SimpleQueue[_Group | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="appender", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Calls that wait for the commit under way, about."""
        return self._queue.qsize()

    def close(self) -> None:
        """Commit what waits, then end; no call of `commit` may follow."""
        self._queue.put(None)
        self._thread.join()

    def commit(self, changes: Sequence[Change]) -> Sequence[CommitResult]:
        """Commit along with whatever else waits; returns after that commit.

        Raises:
            Unavailable: nobody may know whether the changes were committed; idempotency keys tell.
        """
        group = _Group(prepared_changes(changes))
        self._queue.put(group)
        return group.wait()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            groups = [first]
            count = len(first.changes)
            ended = False
            while count < MAXIMUM_CHANGES and not ended:
                try:
                    group = self._queue.get_nowait()
                except Empty:
                    break
                if group is None:
                    ended = True
                else:
                    groups.append(group)
                    count += len(group.changes)
            self._commit(groups)
            if ended:
                return

    def _commit(self, groups: Sequence[_Group]) -> None:
        try:
            results = self.commit_prepared([entry for group in groups for entry in group.changes])
        except Exception as error:  # noqa: BLE001 - belongs to the callers, not to this thread
            self._fail(groups, error)
            return
        start = 0
        for group in groups:
            end = start + len(group.changes)
            group.succeed(results[start:end])
            start = end

    def _fail(self, groups: Sequence[_Group], error: Exception) -> None:
        """Answer with the error, or find out whose it is.

        An error of ours is about the database, whose commit may have come to pass: it is never
        tried again. Any other is a fault of one of the changes, after which all were rolled back:
        each group is then committed by itself, and only the faulty one fails.
        """
        if isinstance(error, OarsError) or len(groups) == 1:
            for group in groups:
                group.fail(error)
            return
        for group in groups:
            self._commit([group])
