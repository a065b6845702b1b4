"""How commands find a server: connection.json of `oars dev`, or one of the same form."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from oars_grpc.cli.key_files import read_json

Connection = Mapping[str, Any]

connection_option = click.option(
    "--connection",
    "connection_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path(".oars/connection.json"),
    show_default=True,
    help="connection.json of `oars dev`, or one of the same form.",
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
