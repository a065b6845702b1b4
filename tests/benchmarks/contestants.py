"""Starts what is measured: a Postgres that means it, real servers, and the floor beside them."""

import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import grpc
import psycopg
from sqlalchemy import make_url

from oars_grpc.generated.oars.v1 import action_pb2, tenant_pb2
from oars_grpc.generated.oars.v1.tenant_pb2_grpc import TenantServiceStub
from oars_grpc.local.bundle import load_script
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.storage.schema import migrate
from tests.benchmarks import floor
from tests.benchmarks.load import LoadGenerator, open_channel
from tests.benchmarks.processes import ProcessorTimes
from tests.benchmarks.recorded_rows import Rows, new_rows, plan_inserts, stored_keys
from tests.benchmarks.workloads import (
    CALL_SECONDS,
    Samples,
    action_of,
    answers_of,
)
from tests.support.server import running_server

TENANT = "tenant_alpha"
SAMPLES = 256
# No checkpoint of Postgres falls into one measurement and not into its neighbour. What is durable
# when is not touched.
POSTGRES_SETTINGS = {
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "max_connections": "300",  # of the server and of every thread of the floors
}
# As many rpcs at a time as the benchmark has streams, and a connection for each.
SERVER_SETTINGS = {"worker_threads": "64", "database_pool_size": "64"}
DURABILITY = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "commit_delay")
# Limits and expiries are not what is measured.
_UNLIMITED = "100000000/second"
_PERMIT_SECONDS = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server under load: its generator, its process, and what it and Postgres use."""

    generator: LoadGenerator
    pid: int
    cpu: ProcessorTimes


@dataclass(frozen=True, slots=True)
class Oars:
    """A running server of OARS with a tenant, on a database of its own."""

    certificates: Path
    postgres_pid: int
    database_url: str
    address: str
    pid: int

    def channel(self, identity: str = "agent") -> grpc.Channel:
        """A connection to the server."""
        return open_channel(self.address, self.certificates, identity)

    @contextmanager
    def contestant(self) -> Iterator[Contestant]:
        """The server with a generator."""
        with LoadGenerator(self.address, self.certificates) as generator:
            yield Contestant(generator, self.pid, ProcessorTimes(self.pid, self.postgres_pid))

    def record(self, workload: str) -> tuple[Rows, bytes]:
        """Do one action of a workload: the rows that it left, and the first answer.

        For a server without load, for whatever else is written would be taken for the action's.
        """
        with psycopg.connect(self.database_url) as owner, self.channel() as channel:
            before = stored_keys(owner)
            owner.commit()
            first, *_ = answers_of(action_of(workload, channel, Samples()))
            return new_rows(owner, before), first

    def samples(self) -> Samples:
        """Actions with their receipts for the workloads that read."""
        with self.channel() as channel:
            submit = action_of("allow", channel, Samples())
            submitted = [
                action_pb2.SubmitActionResponse.FromString(answers_of(submit)[0])
                for _ in range(SAMPLES)
            ]
        return Samples(
            [each.action.action_id for each in submitted],
            [receipt.receipt_id for each in submitted for receipt in each.receipts],
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """A running Postgres, and certificates: what the contestants share."""

    directory: Path
    certificates: Path
    postgres: EmbeddedPostgres

    @contextmanager
    def oars(self, server_settings: Mapping[str, str], name: str = "oars") -> Iterator[Oars]:
        """A server with a tenant on the database of that name."""
        url = self._new_database(name)
        settings = {"rate_limit": _UNLIMITED, **SERVER_SETTINGS, **server_settings}
        directory = self.directory / name
        with running_server(directory, self.certificates, url, **settings) as server:
            address = server.address.replace("127.0.0.1", "localhost")  # the certificate's name
            pid = server.process.pid
            oars = Oars(self.certificates, self.postgres.pid, url, address, pid)
            with oars.channel("admin") as channel:
                request = tenant_pb2.CreateTenantRequest(tenant_id=TENANT)
                request.settings.permit_seconds = _PERMIT_SECONDS
                TenantServiceStub(channel).CreateTenant(request, timeout=CALL_SECONDS)
            yield oars

    @contextmanager
    def floor(
        self,
        oars: Oars,
        threads: int,
        *,
        one_statement: bool = False,
        processor: int | None = None,
    ) -> Iterator[Contestant]:
        """The floor, which does again and again what one submit to the server has just done."""
        recorded, response = oars.record("allow")
        url = self._new_database("floor")
        migrate(url)
        plan = floor.FloorPlan(
            database_url=url,
            certificates=self.certificates,
            threads=threads,
            inserts=plan_inserts(recorded),
            one_statement=one_statement,
            processor=processor,
            signed=max((bytes(row["payload"]) for row in recorded["receipt_body"]), key=len),
            response=response,
        )
        context = get_context("spawn")  # grpc does not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=floor.serve, args=(plan, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            if process.pid is None or not ours.poll(floor.LISTENS_WITHIN_SECONDS):
                raise RuntimeError("the floor does not listen")
            with LoadGenerator(f"localhost:{ours.recv()}", self.certificates) as generator:
                cpu = ProcessorTimes(process.pid, self.postgres.pid)
                yield Contestant(generator, process.pid, cpu)
        finally:
            ours.close()
            process.join(floor.LISTENS_WITHIN_SECONDS)

    def durability(self) -> Mapping[str, str]:
        """What Postgres says of itself.

        Raises:
            RuntimeError: commits would not be durable.
        """
        with psycopg.connect(self.postgres.url) as connection:
            found = {name: _show(connection, name) for name in (*DURABILITY, *POSTGRES_SETTINGS)}
        if found["fsync"] != "on" or found["synchronous_commit"] != "on":
            raise RuntimeError(f"commits are not durable here: {found}")
        return found

    def postgres_version(self) -> str:
        """Of the server."""
        with psycopg.connect(self.postgres.url) as connection:
            return _show(connection, "server_version")

    def _new_database(self, name: str) -> str:
        name = f"{name}_{secrets.token_hex(4)}"
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return make_url(self.postgres.url).set(database=name).render_as_string()


@contextmanager
def bench(directory: Path | None = None) -> Iterator[Bench]:
    """Postgres started in a directory that is thrown away at the end."""
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory("-bench", "oars-", directory)))
        certificates = load_script("certs-dev/generate.py").generate(
            state / "certificates", tenants=(TENANT,)
        )
        postgres = EmbeddedPostgres(state / "postgres", settings=POSTGRES_SETTINGS)
        yield Bench(state, certificates, stack.enter_context(postgres))


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does: it takes Postgres and the servers with it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def fdatasync_us(directory: Path, times: int = 200) -> float:
    """How long this disk takes for a durable write of one page, in microseconds."""
    descriptor, name = tempfile.mkstemp(dir=directory)
    try:
        os.write(descriptor, bytes(8192))
        begin = time.perf_counter()
        for _ in range(times):
            os.pwrite(descriptor, os.urandom(8192), 0)
            os.fdatasync(descriptor)
        return (time.perf_counter() - begin) / times * 1e6
    finally:
        os.close(descriptor)
        Path(name).unlink()


def read_settings(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` of the command line as settings of the server, named without OARS_.

    Raises:
        ValueError: one of them is no pair.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not NAME=VALUE")
        found[name.lower().removeprefix("oars_")] = value
    return found


def _show(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    if row is None:
        raise RuntimeError(f"Postgres does not tell {name}")
    return str(row[0])
