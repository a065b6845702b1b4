"""Asks a server for a replay over gRPC."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
from google.protobuf import json_format

from oars_grpc.cli.grpc_call import CallFailed, credentials_of, open_channel, opened_target
from oars_grpc.cli.key_files import trusted_keys
from oars_grpc.cli.log_progress import shown_progress
from oars_grpc.cli.replay_files import received_report
from oars_grpc.core.checkpoint import parse_checkpoint
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.note import Note
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.replay_report import ReplayReport
from oars_grpc.core.replay_verification import GivenReport
from oars_grpc.generated.oars.v1 import policy_pb2, receipt_pb2, replay_pb2
from oars_grpc.generated.oars.v1.policy_pb2_grpc import PolicyServiceStub
from oars_grpc.generated.oars.v1.receipt_pb2_grpc import ReceiptServiceStub
from oars_grpc.transport.policy_messages import write_document

_SECONDS = 30.0


class NoReport(click.ClickException):
    """There is no report that can be relied on: not the same as one that hits a gate."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, against which the report is held.

    An empty tenant, policy or digest, a size that is None and a note that is None ask nothing.
    """

    tenant_id: str
    policy_id: str
    digest: str
    from_size: int | None
    to_size: int | None
    first: Note | None
    last: Note | None

    def check(self, report: ReplayReport) -> None:
        """Refuse a report about something else.

        Raises:
            ValueError: saying about what.
        """
        draft, replayed = report.draft, report.range
        if self.tenant_id and report.tenant_id != self.tenant_id:
            raise ValueError(f"it is about the tenant {report.tenant_id}")
        if self.policy_id and draft.policy_id != self.policy_id:
            raise ValueError(f"it is about the policy {draft.policy_id or '(a document)'}")
        if self.digest and draft.digest != self.digest:
            raise ValueError(f"it is about a document of digest {draft.digest}")
        for size, note, end in (
            (self.from_size, self.first, replayed.first),
            (self.to_size, self.last, replayed.last),
        ):
            if note is not None and parse_checkpoint(note) != end:
                raise ValueError(f"its range has an end at another checkpoint, of {end.size}")
            if size is not None and size != end.size:
                raise ValueError(f"its range has an end at {end.size}, not at {size}")


@contextmanager
def replay_client(connection_file: Path, role: str, tenant_id: str) -> Iterator["ReplayClient"]:
    """A client by a connection.json; an empty tenant is that of the connection.

    Raises:
        UsageError: it is none, or has no usable certificate of the role.
        NoReport: the server refused, or did not answer.
    """
    connection = opened_target(connection_file)
    try:
        credentials = credentials_of(connection, role)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        with open_channel(connection, credentials) as channel:
            yield ReplayClient(channel, tenant_id or str(connection["tenant"]))
    except CallFailed as error:
        raise NoReport(str(error)) from error


@dataclass(frozen=True, slots=True)
class ReplayClient:
    """One tenant's policies and keys, as an identity sees them."""

    channel: grpc.Channel
    tenant_id: str

    def replay(self, asked: Asked, document: PolicyDocument | None, examples: int) -> GivenReport:
        """Have the server replay; the report as it came, not yet judged."""
        request = policy_pb2.ReplayPolicyRequest(
            tenant_id=self.tenant_id,
            from_size=asked.from_size or 0,
            to_size=asked.to_size or 0,
            from_checkpoint=asked.first.format() if asked.first else "",
            to_checkpoint=asked.last.format() if asked.last else "",
            examples=examples,
        )
        if document is None:
            request.policy_id = asked.policy_id
        else:
            request.document.CopyFrom(write_document(document))
        end = _received(PolicyServiceStub(self.channel).ReplayPolicy(request))
        try:
            return received_report(end)
        except ValueError as error:
            raise NoReport(f"the report does not verify: {error}") from error

    def keys(self) -> tuple[TrustedKey, ...]:
        """The keys that the server names for the tenant."""
        request = receipt_pb2.ListTrustedKeysRequest(tenant_id=self.tenant_id)
        answer = ReceiptServiceStub(self.channel).ListTrustedKeys(request, timeout=_SECONDS)
        return trusted_keys(json_format.MessageToDict(answer))


def _received(
    responses: Iterable[replay_pb2.ReplayPolicyResponse],
) -> replay_pb2.ReplayPolicyEnd:
    """Show how far it has come; the last message."""
    end: replay_pb2.ReplayPolicyEnd | None = None
    with shown_progress() as progress:
        task = progress.add_task("receipts", total=None)
        for response in responses:
            if response.HasField("progress"):
                told = response.progress
                shown = f"{told.decisions:,} decisions, {told.changed:,} changed; receipts"
                progress.update(
                    task, description=shown, total=told.total_receipts, completed=told.receipts
                )
            elif response.HasField("end"):
                end = response.end
    if end is None:
        raise NoReport("the replay ended before there was a report")
    return end
