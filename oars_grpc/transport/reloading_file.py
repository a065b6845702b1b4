"""A file of the operator's that is read again when it changes, under a running server.

The server does not start on a broken file; a broken change keeps what was there and says so loudly.
"""

import threading
import time
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from oars_grpc.errors import ConfigurationError

RECHECK_SECONDS = 1.0

Content = TypeVar("Content", bound=Sized)

_log = structlog.get_logger("oars.files")


class ReloadingFile(Generic[Content]):
    """What a file of text says; looked at no more than once a second.

    `parse` raises ConfigurationError on a text that is wrong. `what` names the content in the log.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[str], Content],
        *,
        what: str,
        monotonic: Callable[[], float] = time.monotonic,
        on_reload: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._path = path
        self._parse = parse
        self._what = what
        self._monotonic = monotonic
        self._on_reload = on_reload
        self._lock = threading.Lock()
        self._signature = self._stat()
        self._content = self._read()
        self._next_check = monotonic() + RECHECK_SECONDS

    def content(self) -> Content:
        """What the file said when it was last looked at and right."""
        self._refresh()
        return self._content

    def _refresh(self) -> None:
        # Whoever comes while another looks goes on with what there is.
        if self._monotonic() < self._next_check or not self._lock.acquire(blocking=False):
            return
        try:
            self._next_check = self._monotonic() + RECHECK_SECONDS
            signature = self._stat()
            if signature == self._signature:
                return
            self._signature = signature  # a broken file is reported once, not every second
            self._content = self._read()
        except ConfigurationError as error:
            _log.error(f"{self._what} not reloaded, the old ones stay", error=error.message)
            self._on_reload(False)
        else:
            _log.info(f"{self._what} reloaded", count=len(self._content))
            self._on_reload(True)
        finally:
            self._lock.release()

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> Content:
        try:
            return self._parse(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path}: {error}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path}: {error.message}") from error
