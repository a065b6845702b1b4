"""Keys behind a URL, asked of real servers on this machine."""

import gzip
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from oars_grpc.errors import OarsError, Unauthenticated, Unavailable
from oars_grpc.local.bundle import load_script
from oars_grpc.transport import key_fetch
from oars_grpc.transport.key_fetch import MAXIMUM_BYTES, fetch_text
from oars_grpc.transport.key_sources import (
    FRESH_SECONDS,
    MINIMUM_INTERVAL_SECONDS,
    OUTAGE_SECONDS,
    UrlKeys,
)
from oars_grpc.transport.oidc_issuers import OidcIssuers
from tests.support.tokens import ISSUER, OidcFiles, SigningKey, issuer_entry, key_set

ONE, TWO = SigningKey.new("ES256", "k1"), SigningKey.new("ES256", "k2")
Answer = Callable[[BaseHTTPRequestHandler], None]


def text(content: str | bytes, status: int = 200, **headers: str) -> Answer:
    """An answer of this text."""
    body = content.encode() if isinstance(content, str) else content

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass
class Provider:
    """A server of keys that answers as it is told, and counts."""

    answer: Answer
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider(text(key_set(ONE)))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            with suppress(OSError):  # the client has gone, as some tests want
                found.answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is named there
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


class Source:
    """Keys of the provider, with a clock that stands still."""

    def __init__(self, provider: Provider) -> None:
        self.seconds = 1000.0
        self.fetched: list[bool] = []
        self.keys = UrlKeys(
            lambda: fetch_text(provider.url, None, through_proxies=False),
            what="keys of the provider",
            monotonic=lambda: self.seconds,
            on_fetch=self.fetched.append,
        )

    def found(self, key_id: str | None = "k1") -> str:
        try:
            key = self.keys.key(key_id)
        except OarsError as refused:
            return refused.reason
        return key.key_id or "without id"

    def settled(self, fetches: int) -> None:
        """Wait until so many questions have been answered."""
        ends = time.monotonic() + 20
        while len(self.fetched) < fetches:
            assert time.monotonic() < ends
            time.sleep(0.01)


@pytest.fixture
def source(provider: Provider) -> Source:
    return Source(provider)


def test_the_first_token_waits_for_the_keys(provider: Provider, source: Source) -> None:
    assert source.found() == "k1"
    assert source.found(None) == "k1"
    assert provider.asked == ["/jwks"]


def test_a_new_key_is_found_when_a_token_names_it(provider: Provider, source: Source) -> None:
    assert source.found() == "k1"
    provider.answer = text(key_set(TWO))
    source.seconds += MINIMUM_INTERVAL_SECONDS
    assert source.found("k2") == "k2"
    # One that was taken away is gone.
    assert source.found("k1") == "TOKEN_REFUSED"


def test_tokens_with_unknown_keys_do_not_hammer_the_url(provider: Provider, source: Source) -> None:
    assert source.found() == "k1"
    for round_ in range(1, 4):
        source.seconds += MINIMUM_INTERVAL_SECONDS
        found = {source.found(f"unknown-{number}") for number in range(200)}
        assert found == {"TOKEN_REFUSED"}
        assert len(provider.asked) == 1 + round_
    assert source.found() == "k1"


def test_many_at_once_make_one_question_and_few_wait_for_it(
    provider: Provider, source: Source
) -> None:
    assert source.found() == "k1"
    slow = threading.Event()
    quick = text(key_set(ONE))

    def waiting(handler: BaseHTTPRequestHandler) -> None:
        slow.wait(20)
        quick(handler)

    provider.answer = waiting
    source.seconds += MINIMUM_INTERVAL_SECONDS
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(source.found("unknown"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 20
    while len(found) < 18:  # all but the two that may wait are sent away at once
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert set(found) == {"UNAVAILABLE"}
    # Known keys are not kept waiting meanwhile.
    assert source.found() == "k1"
    slow.set()
    for thread in threads:
        thread.join()
    assert found[18:] == ["TOKEN_REFUSED"] * 2
    assert len(provider.asked) == 2


def test_a_key_that_was_taken_out_does_not_count_once_more_however_quiet_it_was(
    provider: Provider, source: Source
) -> None:
    assert source.found() == "k1"
    provider.answer = text(key_set(TWO))
    source.seconds += FRESH_SECONDS - 1
    assert source.found() == "k1"
    source.seconds += 3000
    assert source.found() == "TOKEN_REFUSED"


def test_keys_are_asked_for_again_while_the_old_ones_serve(
    provider: Provider, source: Source
) -> None:
    assert source.found() == "k1"
    source.seconds += FRESH_SECONDS - 1
    assert source.found() == "k1"
    assert len(provider.asked) == 1
    provider.answer = text(key_set(ONE, TWO))
    source.seconds += 1
    assert source.found() == "k1"
    source.settled(2)
    assert source.found("k2") == "k2"
    assert len(provider.asked) == 2


def test_an_outage_is_outlived_for_an_hour_and_no_longer(
    provider: Provider, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    assert source.found() == "k1"
    provider.answer = text("out of order", status=503)
    source.seconds += FRESH_SECONDS + OUTAGE_SECONDS - 1
    assert source.found() == "k1"
    source.settled(2)
    assert "not fetched, the old ones stay" in capsys.readouterr().out
    source.seconds += 1
    with pytest.raises(Unavailable, match="out of reach"):
        source.keys.key("k1")
    # It is over when it is over.
    provider.answer = text(key_set(ONE))
    source.seconds += MINIMUM_INTERVAL_SECONDS
    assert source.found() == "k1"


def test_without_any_answer_tokens_can_be_tried_again_later(
    provider: Provider, source: Source
) -> None:
    provider.answer = text("", status=500)
    assert source.found() == "UNAVAILABLE"
    provider.answer = text(key_set(ONE))
    assert source.found() == "UNAVAILABLE"  # too early to ask again
    assert len(provider.asked) == 1
    source.seconds += MINIMUM_INTERVAL_SECONDS
    assert source.found() == "k1"


def elsewhere(handler: BaseHTTPRequestHandler) -> None:
    """A redirect to where other keys would be."""
    if handler.path == "/evil":
        text(key_set(TWO))(handler)
    else:
        text("", status=302, location="/evil")(handler)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65536)


def compressed() -> Answer:
    return text(gzip.compress(b" " * (MAXIMUM_BYTES * 100)), content_encoding="gzip")


@pytest.mark.parametrize(
    "answer",
    [
        elsewhere,
        endless,
        compressed(),
        text(key_set(ONE) + " " * MAXIMUM_BYTES),
        text("{}"),
        text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k2"}]})),
        text(b"\xff"),
        text("", status=204),
        text(key_set(TWO), status=404),
        lambda handler: handler.wfile.write(b"not HTTP\r\n\r\n"),
        lambda handler: handler.connection.close(),
    ],
    ids=[
        *("redirect", "endless", "compressed", "large", "other", "secret"),
        *("bytes", "empty", "missing", "noise", "cut"),
    ],
)
def test_a_bad_answer_keeps_the_keys_that_there_are(
    provider: Provider, source: Source, answer: Answer
) -> None:
    assert source.found() == "k1"
    provider.answer = answer
    source.seconds += MINIMUM_INTERVAL_SECONDS
    assert source.found("k2") == "TOKEN_REFUSED"
    assert source.fetched == [True, False]
    assert source.found() == "k1"
    assert "/evil" not in provider.asked


def test_the_largest_answer_is_read(provider: Provider, source: Source) -> None:
    provider.answer = text(key_set(ONE).ljust(MAXIMUM_BYTES))
    assert source.found() == "k1"


def trickling(in_headers: bool) -> Answer:  # noqa: FBT001 - one of two
    def answer(handler: BaseHTTPRequestHandler) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n"
        handler.wfile.write(head if in_headers else head + b"\r\n")
        for _ in range(600):
            handler.wfile.write(b"x: y\r\n" if in_headers else b" ")
            time.sleep(0.1)

    return answer


@pytest.mark.parametrize("in_headers", [True, False], ids=["headers", "body"])
def test_an_answer_that_never_ends_is_given_up_and_asked_for_again(
    provider: Provider,
    source: Source,
    in_headers: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_fetch, "_WHOLE_SECONDS", 1.0)
    provider.answer = trickling(in_headers)
    assert source.found() == "UNAVAILABLE"
    source.settled(1)
    assert source.fetched == [False]
    provider.answer = text(key_set(ONE))
    source.seconds += MINIMUM_INTERVAL_SECONDS
    assert source.found() == "k1"


def test_an_issuer_out_of_reach_does_not_hold_up_another(
    provider: Provider, tmp_path: Path
) -> None:
    held = threading.Event()
    provider.answer = lambda handler: (held.wait(20), text(key_set(ONE))(handler))[1]
    files = OidcFiles(tmp_path, TWO)
    slow = issuer_entry(issuer="https://slow.example.com", jwksFile=None, jwksUrl=provider.url)
    files.write(slow, issuer_entry())
    issuers = OidcIssuers(files.path, development=True)
    slow_keys, quick_keys = (
        issuer.keys
        for issuer in (issuers.get("https://slow.example.com"), issuers.get(ISSUER))
        if issuer is not None
    )
    refused: list[Exception] = []

    def ask() -> None:
        try:
            slow_keys.key("k9")
        except OarsError as error:
            refused.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert quick_keys.key("k2").key_id == "k2"
    assert not refused  # the slow one is waiting still
    held.set()
    thread.join()
    assert isinstance(refused[0], Unauthenticated)


def test_a_change_elsewhere_in_the_file_does_not_forget_fetched_keys(
    provider: Provider, tmp_path: Path
) -> None:
    files, seconds = OidcFiles(tmp_path), [100.0]
    entry = issuer_entry(jwksFile=None, jwksUrl=provider.url)
    files.write(entry)
    issuers = OidcIssuers(files.path, development=True, monotonic=lambda: seconds[0])
    found = issuers.get(ISSUER)
    assert found is not None
    assert found.keys.key("k1").key_id == "k1"
    provider.answer = text("", status=500)
    files.write({**entry, "audiences": ["changed"]})
    seconds[0] += 2
    changed = issuers.get(ISSUER)
    assert changed is not None
    assert changed.audiences == {"changed"}
    assert changed.keys.key("k1").key_id == "k1"
    assert len(provider.asked) == 1


def test_over_https_the_server_must_be_trusted(tmp_path: Path) -> None:
    files = load_script("certs-dev/generate.py").generate(tmp_path / "certificates")
    other = load_script("certs-dev/generate.py").generate(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "server.pem", files / "server.key")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text(key_set(ONE))(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is named there
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that do not trust it break off."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        url = f"https://localhost:{server.server_port}/jwks"
        assert fetch_text(url, files / "ca.pem", through_proxies=False) == key_set(ONE)
        for authorities in (None, other / "ca.pem"):
            with pytest.raises(httpx.ConnectError):
                fetch_text(url, authorities, through_proxies=False)
        with pytest.raises(OSError):
            fetch_text(url, tmp_path / "missing.pem", through_proxies=False)
        server.shutdown()
        thread.join()
