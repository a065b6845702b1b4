"""Writes times into messages."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """The protobuf form of a time; None leaves the field unset."""
    if moment is None:
        return None
    written = Timestamp()
    write_time(written, moment)
    return written


def write_time(field: Timestamp, moment: datetime) -> None:
    """Set a field to a time, where it stands: copying it there would cost as much again."""
    since = moment - _EPOCH
    field.seconds = since.days * 86_400 + since.seconds
    field.nanos = since.microseconds * 1000
