"""A Postgres that can fail at any message: a proxy on a socket of its own, armed by a test.

    client ──▶ proxy ──▶ server        of what the client sends, every message that has the server
           ◀──       ◀──               do something is counted: many of them may travel at once

Of the protocol it knows how messages are framed and which these are:
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sqlalchemy import make_url

_READ = 1 << 20
# Query, Parse, Execute, Terminate. What else clients send (Bind, Sync …) goes along with these.
_REQUESTS = frozenset(b"QPEX")
_FLUSH = b"H\x00\x00\x00\x04"
# Codes of first messages that ask for encryption: another first message follows.
_ENCRYPTION = frozenset({80877103, 80877104})


class Failure(StrEnum):
    """What becomes of the message at which the proxy fails."""

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
        self, message: int, failure: Failure, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """Fail once, at the message of this number from now on."""
        with self._lock:
            self.seen, self._fail_at = 0, message
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
        messages = _Messages()
        with contextlib.suppress(OSError):
            while data := client.recv(_READ):
                through = bytearray()
                for message in messages.taken_from(data):
                    if not self._fails_at(message):
                        through += message
                        continue
                    if self._failure is Failure.PERSISTED:
                        mute.set()
                        server.sendall(through + message + _FLUSH)
                        # The server answers when it has done as it was told; `_answers` hears it.
                        self._heard.wait(10)
                    else:
                        server.sendall(through)
                    self._on_failure()
                    _end(client, server)
                    return
                server.sendall(through)
        _end(client, server)

    def _fails_at(self, message: bytes) -> bool:
        if message[0] not in _REQUESTS:
            return False
        with self._lock:
            self.seen += 1
            return self.seen == self._fail_at

    def _answers(self, client: socket.socket, server: socket.socket, mute: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_READ):
                if mute.is_set():
                    self._heard.set()
                    return
                client.sendall(data)
        if mute.is_set():
            self._heard.set()  # it has left, as it was told
            return
        _end(client, server)


class _Messages:
    """What a client sends, cut into its messages."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def taken_from(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now."""
        self._rest += data
        while True:
            # The first messages of a connection have a length and no type before it.
            head = 1 if self._begun else 0
            if len(self._rest) < head + 8 - 4 * head:
                return
            size = head + int.from_bytes(self._rest[head : head + 4], "big")
            if len(self._rest) < size:
                return
            message, self._rest = self._rest[:size], self._rest[size:]
            if not self._begun:
                self._begun = int.from_bytes(message[4:8], "big") not in _ENCRYPTION
            yield message


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
