"""`oars log witness`: follows a log and cosigns what continues it, for a second party to run."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

import click
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.stop import stop_never
from tenacity.wait import wait_random_exponential

from oars_grpc.cli.connection import connection_option, tenant_option
from oars_grpc.cli.log_client import LogClient, LogRefused, LogUnreachable, log_client
from oars_grpc.cli.witness_key import WitnessKey, make_key, read_key
from oars_grpc.cli.witness_state import WitnessState, locked
from oars_grpc.core.checkpoint import Checkpoint, add_signatures
from oars_grpc.core.note import ED25519, Note, Verifier, is_key_name, parse_note, parse_vkey
from oars_grpc.core.witness import Refusal, check_offer, verified_checkpoint
from oars_grpc.process import Signals, catch_signals

_ATTEMPTS_ONCE = 5
_LONGEST_BACKOFF_S = 60.0
_SIGNAL_SECONDS = 0.5


@click.group()
def witness() -> None:
    """A witness: somebody else's word that a log has only grown."""


@witness.command()
@click.argument("key_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="Name of the witness: a URL without its scheme.")
def init(key_file: Path, name: str) -> None:
    """Write a new key to KEY_FILE and print its vkey, for the policies of those who trust it."""
    if not is_key_name(name):
        raise click.UsageError("--name: must be printable, without spaces and plus signs")
    try:
        key = make_key(name, key_file)
    except OSError as error:
        raise click.UsageError(f"{key_file}: {error.strerror}") from error
    click.echo(key.verifier.vkey())


@witness.command()
@connection_option
@tenant_option
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `oars log witness init` wrote.",
)
@click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of what was cosigned; losing it loses the memory of it.",
)
@click.option(
    "--log-vkey",
    "vkeys",
    required=True,
    multiple=True,
    help="Key of the log, obtained otherwise than from its server. Repeated after a rotation.",
)
@click.option("--interval", type=click.FloatRange(0.1), default=10.0, show_default=True)
@click.option("--once", is_flag=True, help="One round, then leave.")
def run(
    connection_file: Path,
    tenant_id: str,
    key_file: Path,
    state: Path,
    vkeys: tuple[str, ...],
    interval: float,
    *,
    once: bool,
) -> None:
    """Fetch checkpoints and cosign each that continues the last one that was cosigned.

    The newest one with the cosignature is STATE/<origin>/checkpoint. A log that shrinks, that shows
    another root at a known size, or that cannot show that it continues itself is refused; both
    signed checkpoints are kept as evidence.

    Leaves with 0 after SIGTERM or --once, 1 when it refused the log, 2 when it could not ask it.
    """
    signals = catch_signals()
    try:
        keys, key = _log_keys(vkeys), read_key(key_file)
        with locked(state), log_client(connection_file, tenant_id) as client:
            Witness(key, keys, WitnessState(state, keys), client, signals).follow(
                interval, once=once
            )
    except _Stopped:
        click.echo("witness: stopped", err=True)
    except Refusal as refusal:
        click.echo(f"witness: REFUSED: {refusal}", err=True)
        sys.exit(1)
    except (LogUnreachable, LogRefused) as error:
        click.echo(f"witness: {error}", err=True)
        sys.exit(2)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


class _Stopped(Exception):
    """A signal asked to end."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness of one log."""

    key: WitnessKey
    log_keys: Sequence[Verifier]
    state: WitnessState
    client: LogClient
    signals: Signals

    def follow(self, interval: float, *, once: bool) -> None:
        """Go round until a signal, retrying what fails on the way to the log."""
        self.finish()
        retrying = Retrying(
            retry=retry_if_exception_type(LogUnreachable),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_BACKOFF_S),
            stop=stop_after_attempt(_ATTEMPTS_ONCE) if once else stop_never,
            sleep=self._pause,
            before_sleep=_report,
            reraise=True,
        )
        while True:
            retrying(self.round)
            if once:
                return
            self._pause(interval)

    def finish(self) -> None:
        """Publish what was decided before a crash and not published."""
        last = self.state.last()
        if last is not None and not self.state.is_published(last[1]):
            self._cosign(*last)

    def round(self) -> None:
        """Cosign the log's checkpoint, if it is a new one.

        Raises:
            Refusal: it must not be cosigned; the evidence is kept.
            LogUnreachable: the log did not answer.
        """
        try:
            note = parse_note(self.client.checkpoint())
        except ValueError as error:
            raise Refusal(f"the checkpoint: {error}") from error
        offered = verified_checkpoint(note, self.log_keys)
        last = self.state.last()
        known = last[1] if last else None
        if offered == known:
            return
        proof: list[bytes] = []
        if known is not None and 0 < known.size < offered.size:
            proof = self.client.consistency(known.size, offered.size)
        try:
            check_offer(known, offered, proof)
        except Refusal as refusal:
            if not refusal.is_fork:
                raise
            kept = self.state.keep_evidence(note, str(refusal))
            raise Refusal(f"{refusal}; evidence: {kept}", is_fork=True) from refusal
        # On the disk first: whatever happens from here on, nothing else is cosigned.
        self.state.remember(note)
        self._cosign(note, offered)

    def _cosign(self, note: Note, checkpoint: Checkpoint) -> None:
        signature = self.key.cosign(note, int(time.time()))
        self.state.publish(add_signatures(note, [signature]), checkpoint.size)
        click.echo(f"witness: cosigned {checkpoint.origin} at {checkpoint.size}", err=True)

    def _pause(self, seconds: float) -> None:
        """Wait, in short pieces: a signal may come in any thread, and handlers run in this one."""
        ends = time.monotonic() + seconds
        while (remaining := ends - time.monotonic()) > 0:
            try:
                self.signals.get(timeout=min(_SIGNAL_SECONDS, remaining))
            except Empty:
                continue
            raise _Stopped


def _report(state: RetryCallState) -> None:
    if state.outcome is not None:
        click.echo(f"witness: trying again: {state.outcome.exception()}", err=True)


def _log_keys(vkeys: Sequence[str]) -> list[Verifier]:
    keys = [parse_vkey(vkey) for vkey in vkeys]
    if any(key.kind != ED25519 for key in keys):
        raise ValueError("--log-vkey: is not the key of a log")
    if len({key.name for key in keys}) != 1:
        raise ValueError("--log-vkey: the keys are of different logs")
    return keys
