"""How commands find a server: connection.json of `oars dev`, or one of the same form."""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from oars_grpc.cli.key_files import read_json

Connection = Mapping[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)


def _connection_option(*, exists: bool) -> Callable[[Command], Command]:
    return click.option(
        "--connection",
        "connection_file",
        type=click.Path(path_type=Path, exists=exists, dir_okay=False),
        default=Path(".oars/connection.json"),
        show_default=True,
        help="connection.json of `oars dev`, or one of the same form.",
    )


connection_option = _connection_option(exists=True)
# Of commands that need it only for some of what they do.
optional_connection_option = _connection_option(exists=False)
# For what a whole range of the log is read for.
auditor_option = click.option(
    "--role",
    type=click.Choice(["auditor", "admin"]),
    default="auditor",
    show_default=True,
    help="Whose certificate of the connection to use.",
)
tenant_option = click.option(
    "--tenant", "tenant_id", default="", help="Tenant; default: that of the connection."
)


def read_connection(path: Path, address: str = "rest_url") -> Connection:
    """The connection of a file, which has the address of that name.

    Raises:
        ValueError: it is none.
    """
    try:
        connection: Connection = read_json(path)
        for name in (address, "ca_certificate", "tenant", "identities"):
            connection[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is no connection.json: {error!r}") from error
    return connection


def certificate_of(connection: Connection, role: str) -> tuple[Path, Path]:
    """Certificate and private key of a role.

    Raises:
        ValueError: the connection has none.
    """
    try:
        identity = connection["identities"][role]
        return Path(identity["certificate"]), Path(identity["private_key"])
    except (KeyError, TypeError) as error:
        raise _unusable(role, error) from error


def tls_context(connection: Connection, role: str) -> ssl.SSLContext:
    """What presents the certificate of a role, and believes the connection's authority.

    Raises:
        ValueError: the connection has no usable certificate of the role.
    """
    certificate, private_key = certificate_of(connection, role)
    try:
        context = ssl.create_default_context(cafile=connection["ca_certificate"])
        context.load_cert_chain(certificate, private_key)
    except (TypeError, OSError) as error:
        raise _unusable(role, error) from error
    return context


def _unusable(role: str, error: Exception) -> ValueError:
    return ValueError(f"no usable certificate of the {role}: {error!r}")
