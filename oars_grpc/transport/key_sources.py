"""Where the keys of an issuer come from: a file, or a URL that is asked now and then.

Whoever can send tokens could make the server ask the URL for keys that do not exist. So it is asked
in a thread of its own, one question at a time and none within ten seconds of the last, and only a
few calls wait for the answer. No lock is held while it is under way: other issuers, and keys that
are known, are not kept waiting.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import structlog

from oars_grpc.errors import ConfigurationError, Unauthenticated, Unavailable
from oars_grpc.transport.json_keys import KeySet, VerificationKey, parse_key_set
from oars_grpc.transport.reloading_file import ReloadingFile

FRESH_SECONDS = 300.0  # after which the URL is asked again
OUTAGE_SECONDS = 3600.0  # for which keys are used beyond that while the URL does not answer
MINIMUM_INTERVAL_SECONDS = 10.0
WAIT_SECONDS = 3.0
_MAXIMUM_WAITING = 2

_log = structlog.get_logger("oars.keys")


class KeySource(Protocol):
    """Finds the keys of one issuer."""

    def key(self, key_id: str | None) -> VerificationKey:
        """The key that a token names.

        Raises:
            Unauthenticated: the issuer has no such key.
            Unavailable: its keys are out of reach.
        """


class FileKeys:
    """Keys in a file, read again when it changes."""

    def __init__(
        self,
        path: Path,
        *,
        what: str,
        monotonic: Callable[[], float] = time.monotonic,
        on_reload: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._file = ReloadingFile(
            path, parse_key_set, what=what, monotonic=monotonic, on_reload=on_reload
        )

    def key(self, key_id: str | None) -> VerificationKey:
        """The key of an id."""
        found = self._file.content().find(key_id)
        if found is None:
            raise _unknown_key()
        return found


@dataclass(frozen=True, slots=True)
class _Held:
    keys: KeySet
    asked_at: float


class UrlKeys:
    """Keys behind a URL. `fetch` asks it, and raises ConfigurationError or an error of httpx."""

    def __init__(
        self,
        fetch: Callable[[], str],
        *,
        what: str,
        monotonic: Callable[[], float] = time.monotonic,
        on_fetch: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._fetch = fetch
        self._what = what
        self._monotonic = monotonic
        self._on_fetch = on_fetch
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MAXIMUM_WAITING)
        self._held: _Held | None = None
        self._under_way: threading.Event | None = None
        self._next_fetch = float("-inf")

    def begin(self) -> None:
        """Ask the URL unless that was done lately, and do not wait for the answer."""
        self._begin_fetch()

    def key(self, key_id: str | None) -> VerificationKey:
        """The key of an id; asks the URL for one that is not known."""
        found, age = self._find(key_id)
        if found is not None and age < FRESH_SECONDS:
            return found
        # An old key is looked for anew, too: one that was taken out must not count once more.
        under_way = self._begin_fetch()
        answered = under_way is None or self._answered(under_way)
        found, _ = self._find(key_id)
        if found is not None:
            return found
        if not answered:
            raise Unavailable(f"the {self._what} are being fetched")
        if self._usable() is None:
            raise Unavailable(f"the {self._what} are out of reach")
        raise _unknown_key()

    def _usable(self) -> _Held | None:
        held = self._held
        if held is None or self._age(held) >= FRESH_SECONDS + OUTAGE_SECONDS:
            return None
        return held

    def _age(self, held: _Held) -> float:
        return self._monotonic() - held.asked_at

    def _find(self, key_id: str | None) -> tuple[VerificationKey | None, float]:
        held = self._usable()
        return (None, 0.0) if held is None else (held.keys.find(key_id), self._age(held))

    def _answered(self, under_way: threading.Event) -> bool:
        """Whether the question was answered in the time that a call waits, if it may."""
        if not self._waiting.acquire(blocking=False):
            return under_way.is_set()
        try:
            return under_way.wait(WAIT_SECONDS)
        finally:
            self._waiting.release()

    def _begin_fetch(self) -> threading.Event | None:
        """What tells the end of the question under way; None if it is too early for another."""
        with self._lock:
            if self._under_way is not None:
                return self._under_way
            now = self._monotonic()
            if now < self._next_fetch:
                return None
            ended = threading.Event()
            threading.Thread(
                target=self._renew, args=(now, ended), name="keys", daemon=True
            ).start()
            self._next_fetch = now + MINIMUM_INTERVAL_SECONDS
            self._under_way = ended
            return ended

    def _renew(self, asked_at: float, ended: threading.Event) -> None:
        ok = False
        try:
            self._held = _Held(parse_key_set(self._fetch()), asked_at)
            ok = True
        except ConfigurationError as error:
            _log.error(f"{self._what} not fetched, the old ones stay", error=error.message)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            _log.error(f"{self._what} not fetched, the old ones stay", error=repr(error))
        except Exception:  # noqa: BLE001 - nobody else would hear of it in this thread
            _log.exception(f"{self._what} not fetched, the old ones stay")
        finally:
            self._on_fetch(ok)
            with self._lock:
                self._under_way = None
            ended.set()


def _unknown_key() -> Unauthenticated:
    return Unauthenticated(
        "the token is not signed by a key that its issuer has; several keys need a kid",
        reason="TOKEN_REFUSED",
    )
