"""Files that are there wholly or not at all, and stay there when the power fails."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put a file in place, over another one if need be; on the disk when this returns."""
    make_directories(path.parent)
    # In the same directory, for a rename is atomic within a file system only.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_once(path: Path, data: bytes) -> None:
    """Put a file in place that never changes.

    Raises:
        ValueError: it is there, and is another one.
    """
    try:
        if path.read_bytes() != data:
            raise ValueError(f"{path} exists and differs: what is published does not change")
    except FileNotFoundError:
        write_atomically(path, data)


def make_directories(path: Path) -> None:
    """Make a directory and those above it, all of them on the disk."""
    if path.is_dir():
        return
    make_directories(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Write the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
