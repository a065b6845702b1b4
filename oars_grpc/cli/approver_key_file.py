"""Files of approvers' keys: the private one that its holder signs with, and public ones to pin."""

import os
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from oars_grpc.cli.private_file import read_private, write_private
from oars_grpc.core.approver_key import parse_public_key
from oars_grpc.core.keys import SEED_BYTES, SigningKey, signing_key

_MAXIMUM_PUBLIC_BYTES = 4096

approver_key_option = click.option(
    "--approver-key",
    "approver_key_files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Accept grants signed by this public key only (PEM or DER). Repeatable.",
)


def make_approver_key(path: Path) -> bytes:
    """A new key in a file that only its owner reads (PEM, PKCS #8); its public half in DER.

    Raises:
        OSError: the file is there already, or cannot be written.
    """
    private_key = Ed25519PrivateKey.from_private_bytes(os.urandom(SEED_BYTES))
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(path, pem)
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_approver_key(path: Path) -> tuple[SigningKey, bytes]:
    """The private key in a file, and its public half in DER.

    Raises:
        ValueError: there is none, or others can read it.
    """
    try:
        private_key = load_pem_private_key(read_private(path), password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("is not an Ed25519 key in PEM without a password") from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise ValueError("is not an Ed25519 key")
    return signing_key(private_key.private_bytes_raw())


def read_approver_keys(paths: Sequence[Path]) -> frozenset[bytes] | None:
    """The public keys to pin, in DER; None where no file is given.

    Raises:
        UsageError: naming the file that holds none.
    """
    keys = set()
    for path in paths:
        try:
            if path.stat().st_size > _MAXIMUM_PUBLIC_BYTES:
                raise click.UsageError(f"{path}: is no public key")
            keys.add(parse_public_key(path.read_bytes()))
        except OSError as error:
            raise click.UsageError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise click.UsageError(f"{path}: {error}") from error
    return frozenset(keys) if paths else None
