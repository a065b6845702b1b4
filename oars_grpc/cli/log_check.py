"""`oars log check`: the logs in the database, derived anew, as a file system is checked."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import click
from rich.console import Console
from rich.progress import Progress, TaskID
from sqlalchemy import Engine

from oars_grpc.cli.database import opened_database
from oars_grpc.cli.log_progress import shown_progress
from oars_grpc.cli.log_report import Report, print_reports, to_json
from oars_grpc.cli.saved_checkpoint import SavedCheckpoint, read_checkpoint
from oars_grpc.core.leaf_check import InspectedLeaf, inspect_page
from oars_grpc.core.log_check import Inspect, check_log
from oars_grpc.core.stored_log import Problem, ProblemKind, StoredLeaf, StoredLog
from oars_grpc.settings import read_database_settings
from oars_grpc.storage.log_scan import LogSnapshot, list_tenants, scan_log

# Below this many leaves, starting processes takes longer than verifying their signatures.
_WORTH_PROCESSES = 5_000


@click.command()
@click.option("--tenant", "tenant_id", default="", help="Only this tenant; default: all.")
@click.option(
    "--checkpoint",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint saved earlier: the log must still have its root. May be repeated.",
)
@click.option("--skip-signatures", is_flag=True, help="Faster, and says less.")
@click.option("--processes", type=click.IntRange(1, 64), default=os.cpu_count() or 1)
@click.option("--limit", type=click.IntRange(1), default=1000, help="Problems to stop after.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    tenant_id: str,
    files: tuple[Path, ...],
    processes: int,
    limit: int,
    *,
    skip_signatures: bool,
    as_json: bool,
) -> None:
    """Check the logs in the database: every leaf, chain, node and root is derived anew.

    Reads the database of OARS_DATABASE_URL, or the embedded one in OARS_DATA_DIRECTORY, while
    servers may be running. A log that was cut off or written anew together with everything that
    refers to it is found only with --checkpoint.

    Leaves with 0 when all is well, 1 when anything is wrong, 2 when it could not be checked.
    """
    saved = [read_checkpoint(path) for path in files]
    settings = read_database_settings(os.environ)
    reports: list[Report] = []
    with (
        opened_database(settings.url, settings.data_directory) as engine,
        shown_progress() as progress,
        _Processes(processes) as pool,
    ):
        tenants = [tenant_id] if tenant_id else list_tenants(engine)
        _refuse_other_logs(saved, tenants)
        for each in tenants:
            of_tenant = [one for one in saved if one.tenant_id == each]
            run = _Run(engine, progress, pool, limit, signatures=not skip_signatures)
            reports.append(run.check(each, of_tenant))
            limit -= len(reports[-1].problems)
            if limit <= 0:
                break
    if as_json:
        complete = len(reports) == len(tenants) and all(report.complete for report in reports)
        click.echo(json.dumps(to_json(reports, complete=complete)))
    else:
        print_reports(Console(), reports)
    sys.exit(1 if any(report.problems for report in reports) else 0)


class _Processes:
    """Worker processes, started when there is something worth it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def inspector(self, log: StoredLog, *, signatures: bool) -> Inspect | None:
        """What inspects the pages of a log in the processes; None where one process will do."""
        if self._count == 1 or log.head is None or log.head.size < _WORTH_PROCESSES:
            return None
        if self._executor is None:
            # Not forked: this process has a connection and threads.
            self._executor = ProcessPoolExecutor(self._count, mp_context=get_context("spawn"))
        work = partial(inspect_page, tenant_id=log.tenant_id, keys=log.keys, signatures=signatures)
        return partial(_in_order, self._executor, work, 2 * self._count)


def _in_order(
    executor: ProcessPoolExecutor,
    work: "partial[list[InspectedLeaf]]",
    ahead: int,
    pages: Iterable[Sequence[StoredLeaf]],
) -> Iterator[Sequence[InspectedLeaf]]:
    """Map pages over the processes, no more than `ahead` of them at a time."""
    waiting: deque[Future[list[InspectedLeaf]]] = deque()
    for page in pages:
        waiting.append(executor.submit(work, page))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class _Run:
    engine: Engine
    progress: Progress
    pool: _Processes
    limit: int
    signatures: bool

    def check(self, tenant_id: str, saved: Sequence[SavedCheckpoint]) -> Report:
        """Check one tenant's log."""
        return scan_log(
            self.engine, tenant_id, lambda snapshot: self._check(snapshot, tenant_id, saved)
        )

    def _check(
        self, snapshot: LogSnapshot, tenant_id: str, saved: Sequence[SavedCheckpoint]
    ) -> Report:
        report, started = Report(tenant_id), time.monotonic()
        log = snapshot.log()
        trusted = []
        for one in saved:
            if refusal := one.refusal(log.keys):
                detail = f"{one.path}: {refusal}"
                report.problems.append(Problem(ProblemKind.CHECKPOINT, tenant_id, detail))
            else:
                trusted.append(one.checkpoint)
        task = self.progress.add_task(tenant_id, total=log.head.size if log.head else 0)
        inspect = self.pool.inspector(log, signatures=self.signatures)
        problems = check_log(
            replace(log, pages=self._shown(log.pages, task)),
            checkpoints=trusted,
            signatures=self.signatures,
            inspect=inspect,
            tally=report.tally,
        )
        for problem in problems:
            report.problems.append(problem)
            if len(report.problems) >= self.limit:
                report.complete = False
                break
        report.seconds = time.monotonic() - started
        return report

    def _shown(
        self, pages: Iterable[Sequence[StoredLeaf]], task: TaskID
    ) -> Iterator[Sequence[StoredLeaf]]:
        for page in pages:
            yield page
            self.progress.advance(task, len(page))


def _refuse_other_logs(saved: Sequence[SavedCheckpoint], tenants: Sequence[str]) -> None:
    for one in saved:
        if one.tenant_id not in tenants:
            raise click.UsageError(f"{one.path}: is of the log {one.checkpoint.origin}")
