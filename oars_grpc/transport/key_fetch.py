"""Asks a URL for a JSON Web Key Set, within bounds of time and size, and follows it nowhere."""

import ssl
import threading
import time
from pathlib import Path

import httpx

from oars_grpc.errors import ConfigurationError

MAXIMUM_BYTES = 256 * 1024
_STEP_SECONDS = 2.0  # to connect, and from one piece of the answer to the next
_WHOLE_SECONDS = 5.0
# Compressed, a small answer could become a large one.
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


def fetch_text(url: str, authorities: Path | None, *, through_proxies: bool) -> str:
    """The text at a URL. Redirects are refused, since whoever sends them would name the keys.

    Raises:
        ConfigurationError: another status than 200, too large, too slow, or not UTF-8.
        httpx.HTTPError: the server cannot be reached or trusted.
        OSError: the file of `authorities` cannot be read.
    """
    ends = time.monotonic() + _WHOLE_SECONDS
    # One for each question: changed authorities count, and no connection is kept for so long.
    trusted = ssl.create_default_context(cafile=str(authorities)) if authorities else True
    client = httpx.Client(verify=trusted, timeout=_STEP_SECONDS, trust_env=through_proxies)
    # Timeouts are of single reads: a server that sends its headers byte by byte meets none.
    watchdog = threading.Timer(_WHOLE_SECONDS, client.close)
    watchdog.daemon = True
    with client:
        watchdog.start()
        try:
            with client.stream("GET", url, headers=_HEADERS, follow_redirects=False) as answer:
                return _body(answer, ends)
        finally:
            watchdog.cancel()


def _body(answer: httpx.Response, ends: float) -> str:
    if answer.status_code != httpx.codes.OK:
        raise ConfigurationError(f"the URL answered with status {answer.status_code}")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise ConfigurationError("the URL answered in an encoding that was not asked for")
    body = bytearray()
    for piece in answer.iter_raw():
        body += piece
        if len(body) > MAXIMUM_BYTES:
            raise ConfigurationError(f"the answer is larger than {MAXIMUM_BYTES} bytes")
        if time.monotonic() > ends:
            raise ConfigurationError(f"the answer took longer than {_WHOLE_SECONDS:g} seconds")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError("the answer is not UTF-8") from error
