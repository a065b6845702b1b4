"""Replay reports in files: what the last message of ReplayPolicy is as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oars_grpc.cli.durable_files import write_atomically
from oars_grpc.cli.key_files import read_json
from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.envelope import Envelope, Signature, envelope_from_json
from oars_grpc.core.note import parse_note
from oars_grpc.core.replay_verification import GivenReport
from oars_grpc.generated.oars.v1 import replay_pb2


def received_report(end: replay_pb2.ReplayPolicyEnd) -> GivenReport:
    """The report of a message.

    Raises:
        ValueError: a checkpoint is none.
    """
    report = end.report
    signatures = tuple(Signature(each.keyid, each.sig) for each in report.signatures)
    return GivenReport(
        Envelope(report.payload_type, report.payload, signatures),
        parse_note(end.from_checkpoint),
        parse_note(end.to_checkpoint),
    )


def write_report(path: Path, given: GivenReport) -> None:
    """Keep a report; the same report gives the same bytes."""
    value = {
        "report": given.envelope.to_json(),
        "fromCheckpoint": given.first.format(),
        "toCheckpoint": given.last.format(),
    }
    write_atomically(path, canonical_json(value) + b"\n")


def read_report(path: Path) -> GivenReport:
    """The report in a file: one that was kept, or the answer of the REST API.

    Raises:
        ValueError: there is none.
    """
    value = read_json(path)
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("end", value)
    if not isinstance(value, Mapping) or not isinstance(value.get("report"), Mapping):
        raise ValueError("holds no replay report")
    return GivenReport(
        envelope_from_json(value["report"]),
        parse_note(_text(value, "fromCheckpoint")),
        parse_note(_text(value, "toCheckpoint")),
    )


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise ValueError(f"holds no {name}")
    return found
