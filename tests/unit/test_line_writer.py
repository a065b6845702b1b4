"""The log's own thread: nothing of what was handed over is lost or mixed up."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from oars_grpc import line_writer
from oars_grpc.line_writer import LineWriter

LINES = 2_000


def test_all_lines_of_all_threads_arrive_whole_and_each_threads_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LineWriter(file)

        def log(name: int) -> None:
            for number in range(LINES):
                writer.write(b"%d %d\n" % (name, number))

        threads = [threading.Thread(target=log, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()
    found: dict[str, list[int]] = {}
    for line in path.read_text().splitlines():
        name, number = line.split()
        found.setdefault(name, []).append(int(number))
    assert found == {str(name): list(range(LINES)) for name in range(4)}


def test_whoever_writes_faster_than_the_reader_reads_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "MAXIMUM_WAITING", 10)
    reading, writing = os.pipe()
    line = b"x" * 999 + b"\n"
    with os.fdopen(writing, "wb") as file:
        writer = LineWriter(file)
        handed_over: list[int] = []

        def log() -> None:
            handed_over.extend(writer.write(line) for _ in range(LINES))

        thread = threading.Thread(target=log)
        thread.start()
        before = -1
        while before != len(handed_over):  # until nobody gets on any more
            before = len(handed_over)
            time.sleep(0.3)
        assert thread.is_alive()
        assert len(handed_over) < 200  # a pipe of 64 KiB, and what waits before it
        with os.fdopen(reading, "rb") as read:
            assert read.read(LINES * len(line)) == line * LINES
        thread.join()
        writer.close()


def test_a_full_disk_does_not_end_it() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = LineWriter(full)
        writer.write(b"lost\n")
        writer.write(b"lost\n")
        writer.close()  # returns


def test_a_process_ends_with_its_last_lines_written() -> None:
    program = """
import structlog
from oars_grpc.process import configure_logging
configure_logging("info")
for number in range(500):
    structlog.get_logger("test").info("line", number=number)
raise SystemExit(3)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.returncode == 3
    assert ended.stderr.count(b"\n") == 500
    assert b'"number":499' in ended.stderr.splitlines()[-1]
