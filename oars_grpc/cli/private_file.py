"""Files that only their owner reads: private keys."""

import os
from pathlib import Path

from oars_grpc.cli.durable_files import sync_directory

_MAXIMUM_BYTES = 64 * 1024


def write_private(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; on the disk when this returns.

    Raises:
        OSError: the file is there already, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ValueError: it cannot be read, or others can read it, too.
    """
    try:
        status = path.stat()
        if status.st_mode & 0o077:
            raise ValueError("others may read the key: chmod 600")
        if status.st_size > _MAXIMUM_BYTES:
            raise ValueError("is too large for a key")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
