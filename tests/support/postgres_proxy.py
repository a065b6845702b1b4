"""A Postgres that can fail at any message: a proxy on a socket of its own, armed by a test.

    client ──▶ proxy ──▶ server        what the client sends is counted in bursts, as it comes off
           ◀──       ◀──               the socket: every round trip of a transaction is one

It knows nothing of the protocol, so that it stays true whatever the client learns to do.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sqlalchemy import make_url

_BURST = 1 << 20


class Failure(StrEnum):
    """What becomes of the burst at which the proxy fails."""

    NOT_PERSISTED = "lost on its way"
    PERSISTED = "carried out, but the answer is lost"


@dataclass
class PostgresProxy:
    """Stands before the server of a URL; `url` leads through it."""

    server_url: str
    directory: Path
    seen: int = 0
    _fail_at: int = 0
    _failure: Failure = Failure.NOT_PERSISTED
    _on_failure: Callable[[], None] = field(default=lambda: None)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _heard: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        url = make_url(self.server_url)
        folder, port = str(url.query["host"]), url.query.get("port", "5432")
        self._target = f"{folder}/.s.PGSQL.{port}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.url = url.update_query_dict(
            {"host": str(self.directory), "port": "5432"}
        ).render_as_string(hide_password=False)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.directory / ".s.PGSQL.5432"))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        # Without this, the thread in accept would keep the socket.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def arm(
        self, burst: int, failure: Failure, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """Fail once, at the burst of this number from now on."""
        with self._lock:
            self.seen, self._fail_at = 0, burst
            self._failure, self._on_failure = failure, on_failure
            self._heard.clear()

    def count(self) -> None:
        """Count from now on, and fail never."""
        self.arm(0, Failure.NOT_PERSISTED)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                continue
            mute = threading.Event()
            for work in (self._requests, self._answers):
                threading.Thread(target=work, args=(client, server, mute), daemon=True).start()

    def _requests(
        self, client: socket.socket, server: socket.socket, mute: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_BURST):
                with self._lock:
                    self.seen += 1
                    fails = self.seen == self._fail_at
                if not fails:
                    server.sendall(data)
                    continue
                if self._failure is Failure.PERSISTED:
                    mute.set()
                    server.sendall(data)
                    # The server answers when it has done what it was told; `_answers` hears it.
                    self._heard.wait(10)
                self._on_failure()
                break
        _end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket, mute: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_BURST):
                if mute.is_set():
                    self._heard.set()
                    return
                client.sendall(data)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
