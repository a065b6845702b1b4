"""`oars evidence`: fetch an evidence bundle."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from oars_grpc.cli.connection import (
    auditor_option,
    connection_option,
    tenant_option,
)
from oars_grpc.cli.grpc_call import CallFailed, credentials_of, open_channel, opened_target
from oars_grpc.generated.oars.v1 import evidence_pb2, evidence_pb2_grpc

_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"])
Response = evidence_pb2.ExportEvidenceResponse


@click.group()
def evidence() -> None:
    """Evidence bundles: a range of the log in one file that proves itself."""


@evidence.command()
@connection_option
@auditor_option
@tenant_option
@click.option("--from-size", type=click.IntRange(0), default=0, help="Begin at this size.")
@click.option("--to-size", type=click.IntRange(0), default=0, help="End at this size; 0: now.")
@click.option("--since", type=_TIME, help="Begin with what was recorded from then on (UTC).")
@click.option("--until", type=_TIME, help="End with what was recorded before then (UTC).")
@click.option("--control", "controls", multiple=True, help="framework:control_id. Repeatable.")
@click.option(
    "--out", "target", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File."
)
def export(
    connection_file: Path,
    role: str,
    tenant_id: str,
    from_size: int,
    to_size: int,
    since: datetime | None,
    until: datetime | None,
    controls: tuple[str, ...],
    target: Path,
) -> None:
    """Fetch an evidence bundle and check that it arrived whole; then `oars verify` it.

    The file appears under its name only when all of it has come.
    """
    connection = opened_target(connection_file)
    request = evidence_pb2.ExportEvidenceRequest(
        tenant_id=tenant_id or connection["tenant"],
        from_size=from_size,
        to_size=to_size,
        recorded_from=_timestamp(since),
        recorded_until=_timestamp(until),
        controls=controls,
    )
    try:
        credentials = credentials_of(connection, role)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    try:
        with open_channel(connection, credentials) as channel, _appearing(target) as file:
            stub = evidence_pb2_grpc.EvidenceServiceStub(channel)
            end = _receive(stub.ExportEvidence(request), file)
    except CallFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"wrote {target}: {end.receipts} receipts, {end.erased} erased, {end.size_bytes} bytes"
    )
    click.echo(f"sha256 {end.sha256}")
    click.echo(f"next: oars verify {target} --keys KEYS.json")


def _receive(responses: Iterable[Response], file: BinaryIO) -> evidence_pb2.ExportEvidenceEnd:
    """Write what comes; the last message, which what came was held against."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    digest, size = hashlib.sha256(), 0
    end: evidence_pb2.ExportEvidenceEnd | None = None
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task("receipts", total=None)
        for response in responses:
            kind = response.WhichOneof("event")
            if end is not None or kind is None:
                raise click.ClickException("the server sent something after the end")
            if kind == "chunk":
                data = response.chunk.data
                file.write(data)
                digest.update(data)
                size += len(data)
                progress.update(
                    task,
                    total=response.chunk.total_receipts,
                    completed=response.chunk.receipts,
                )
            elif kind == "end":
                end = response.end
    if end is None:
        raise click.ClickException("the bundle ended before it was whole; fetch it again")
    if (end.sha256, end.size_bytes) != (digest.hexdigest(), size):
        raise click.ClickException("what came is not what the server sent; fetch it again")
    return end


@contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """A file that stands under its name only once it is whole and on disk."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise click.UsageError(f"{target}: {error.strerror}") from error
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    written = Timestamp()
    written.FromDatetime(aware.astimezone(UTC))
    return written
