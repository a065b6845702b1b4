"""`oars log export`: a log as static files, C2SP tlog-tiles, that any web server can publish."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from rich.progress import Progress
from sqlalchemy import Engine

from oars_grpc.cli.database import opened_database
from oars_grpc.cli.log_progress import shown_progress
from oars_grpc.cli.tile_export import Exported, TileExport
from oars_grpc.core.log import LogFault
from oars_grpc.core.note import Note, parse_note
from oars_grpc.settings import Settings, read_settings
from oars_grpc.storage.log_scan import LoggedEntry, LogSnapshot, scan_log
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.signed_logs import SignedLogs


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--tenant", "tenant_id", required=True, help="Whose log.")
def export(directory: Path, tenant_id: str) -> None:
    """Write a tenant's log to DIRECTORY as C2SP tlog-tiles, or add what is new since the last run.

    Takes the settings of the server, its key-encryption key among them, to sign the checkpoint.
    Tiles and entries that are there are never changed; the checkpoint is replaced last, once the
    files lead to it and continue the one before. An entry whose payload retention has erased is
    empty; one that was exported before its erasure stays.

    Leaves with 1 when the log contradicts itself or what was exported before.
    """
    settings = read_settings(os.environ)
    try:
        with (
            opened_database(settings.database_url, settings.data_directory) as engine,
            shown_progress() as progress,
        ):
            done = _export(engine, settings, directory, tenant_id, progress)
    except (LogFault, ValueError) as error:
        click.echo(f"oars: {tenant_id}: {error}", err=True)
        sys.exit(1)
    erased = f", {done.erased} of the entries read are erased" if done.erased else ""
    click.echo(
        f"{tenant_id}: {done.size} entries, {done.size - done.old_size} of them new,"
        f" {done.tiles} tiles written{erased}"
    )


def _export(
    engine: Engine, settings: Settings, directory: Path, tenant_id: str, progress: Progress
) -> Exported:
    task = TileExport(directory, _signed_checkpoint(engine, settings, tenant_id))

    def write(snapshot: LogSnapshot) -> Exported:
        start, end = task.first_entry, task.size
        return task.run(_shown(snapshot.entries(start, end), progress, tenant_id, end - start))

    # The snapshot is younger than the checkpoint, so that it has all of its leaves.
    return scan_log(engine, tenant_id, write)


def _signed_checkpoint(engine: Engine, settings: Settings, tenant_id: str) -> Note:
    logs = SignedLogs(
        store=PostgresLogStore(engine),
        registry=PostgresRegistryStore(engine),
        keyring=Keyring(settings.key_encryption_key, SystemChance(), SystemClock()),
        prefix=settings.log_origin,
    )
    head = logs.head(tenant_id)
    size = head.frontier.size
    signed, _ = logs.checkpoint(logs.tree(tenant_id, head, [size]), head, size)
    return parse_note(signed.note)


def _shown(
    entries: Iterable[LoggedEntry], progress: Progress, description: str, total: int
) -> Iterator[LoggedEntry]:
    task = progress.add_task(description, total=total)
    for entry in entries:
        yield entry
        progress.advance(task)
