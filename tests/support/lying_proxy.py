"""A server between a command and the real one that tells lies, and loses what it should bring."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

Lie = Callable[[dict[str, Any]], object]


@dataclass
class LyingProxy:
    """Passes requests on; `lie` changes the answers to reads of one thing.

    Of `lost_answers` to changes the client never hears, and of `cut_streams` it sees one event.
    """

    real: httpx.Client
    url: str = ""
    lie: Lie | None = None
    lost_answers: int = 0
    cut_streams: int = 0
    changes: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: LyingProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        proxy = self.server.proxy
        if ":watch" in self.path:
            self._stream(proxy)
            return
        answer = proxy.real.get(self.path)
        body = answer.json()
        if proxy.lie is not None:
            proxy.lie(body)
        self._reply(answer.status_code, json.dumps(body).encode())

    def do_POST(self) -> None:
        proxy = self.server.proxy
        content = self.rfile.read(int(self.headers["content-length"]))
        key = self.headers["idempotency-key"]
        proxy.changes.append((self.path, json.loads(content), key))
        headers = {"content-type": "application/json", "idempotency-key": key}
        answer = proxy.real.post(self.path, content=content, headers=headers)
        if proxy.lost_answers:
            proxy.lost_answers -= 1
            return  # without a word
        self._reply(answer.status_code, answer.content)

    def _stream(self, proxy: LyingProxy) -> None:
        proxy.streams.append(self.path)
        deadline = self.headers.get("grpc-timeout")
        headers = {"grpc-timeout": deadline} if deadline else {}
        with proxy.real.stream("GET", self.path, headers=headers) as answer:
            self.send_response(answer.status_code)
            self.send_header("content-type", "application/json")
            self.end_headers()
            for chunk in answer.iter_raw():
                self.wfile.write(chunk)
                self.wfile.flush()
                if proxy.cut_streams:
                    proxy.cut_streams -= 1
                    return

    def _reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def lying_proxy(real: httpx.Client) -> Iterator[LyingProxy]:
    """A proxy on loopback, without TLS, to what a client is connected to."""
    proxy = LyingProxy(real)
    server = _Server(proxy)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
