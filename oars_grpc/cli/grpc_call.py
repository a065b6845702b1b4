"""Calls over gRPC, for commands that receive a stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import grpc

from oars_grpc.cli.connection import Connection, certificate_of, read_connection

_TARGET = "grpc_target"


class CallFailed(Exception):
    """The server refused, or did not answer; the text says where and why."""


def opened_target(path: Path) -> Connection:
    """The connection of a file that says where gRPC is.

    Raises:
        UsageError: it is none.
    """
    try:
        return read_connection(path, _TARGET)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def credentials_of(connection: Connection, role: str) -> grpc.ChannelCredentials:
    """What presents the certificate of a role, and believes the connection's authority.

    Raises:
        ValueError: the connection has no usable certificate of the role.
    """
    certificate, private_key = certificate_of(connection, role)
    try:
        return grpc.ssl_channel_credentials(
            Path(connection["ca_certificate"]).read_bytes(),
            private_key.read_bytes(),
            certificate.read_bytes(),
        )
    except (TypeError, OSError) as error:
        raise ValueError(str(error)) from error


@contextmanager
def open_channel(
    connection: Connection, credentials: grpc.ChannelCredentials
) -> Iterator[grpc.Channel]:
    """A channel to the server of a connection.

    Raises:
        CallFailed: a call within failed.
    """
    target = connection[_TARGET]
    try:
        with grpc.secure_channel(target, credentials) as channel:
            yield channel
    except grpc.RpcError as error:
        code, details = getattr(error, "code", None), getattr(error, "details", None)
        told = f"{code().name}: {details()}" if code and details else str(error)
        raise CallFailed(f"{target}: {told}") from error
