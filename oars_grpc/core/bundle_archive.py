"""Writes a ZIP as a stream: what is read of it is all that is held.

`zipfile` writes to streams that cannot seek: sizes and CRC of a file follow its data. Here the
stream is a list that the caller empties, so that a generator can be drawn from.
"""

import hashlib
from collections.abc import Iterable, Iterator
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from oars_grpc.core.evidence import BundleFile

# Payloads are base64 of JSON and hashes do not shrink: more effort than this gains little.
_LEVEL = 4
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest of the format; the manifest tells the time
_MODE = 0o600 << 16


class _Outgoing:
    """A stream for `zipfile` that cannot seek; what was written waits to be taken."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keep the bytes until they are taken."""
        self._waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is kept elsewhere."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._waiting)
        self._waiting.clear()
        return taken


class BundleArchive:
    """A ZIP under way. `files` tells of those that are finished."""

    def __init__(self) -> None:
        self._outgoing = _Outgoing()
        self._zip = ZipFile(self._outgoing, "w", ZIP_DEFLATED, compresslevel=_LEVEL)
        self.files: list[BundleFile] = []

    def add(self, name: str, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Add a file of these parts; yields the bytes of the ZIP that are ready, none twice."""
        digest, size = hashlib.sha256(), 0
        info = ZipInfo(name, _EPOCH)
        info.compress_type = ZIP_DEFLATED
        info.external_attr = _MODE
        with self._zip.open(info, "w") as file:
            for part in parts:
                digest.update(part)
                size += len(part)
                file.write(part)
                ready = self._outgoing.take()
                if ready:
                    yield ready
        self.files.append(BundleFile(name, digest.hexdigest(), size))
        yield self._outgoing.take()

    def finish(self) -> bytes:
        """The rest of the ZIP: its directory."""
        self._zip.close()
        return self._outgoing.take()
