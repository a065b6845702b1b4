"""A process that forks those that a test kills: each is spared the seconds of importing.

stdin   a line for every child, and then that child's own lines
stdout  `ready` and the child to kill, what the child says, and `ended` with its exit code (-9 if it
        was killed)
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Forks:
    """The test's side: one child at a time."""

    process: "subprocess.Popen[str]"

    def fork(self, line: str) -> int:
        """Have a child made for the line; its process, once it is ready."""
        self.tell(line)
        ready, pid = self.hear()
        assert ready == "ready"
        return int(pid)

    def tell(self, line: str = "") -> None:
        """Write a line to the child."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def hear(self) -> list[str]:
        """The words of the next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def hear_the_end(self) -> tuple[list[str], int]:
        """All words until the child ended, and its exit code."""
        words: list[str] = []
        while (line := self.hear())[0] != "ended":
            words += line
        return words, int(line[1])


@contextmanager
def forks_of(module: str, *arguments: str) -> Iterator[Forks]:
    """Run a module that serves forks."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Forks(process)
        process.kill()


def serve_forks(work: Callable[[str], None]) -> None:
    """The process's side: a child for every line, which works and ends."""
    while line := read_line():
        child = os.fork()
        if not child:
            work(line)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        click.echo(f"ended {os.waitstatus_to_exitcode(status)}")


def say_ready() -> None:
    """Tell the test which process to kill."""
    click.echo(f"ready {os.getpid()}")


def read_line() -> str:
    """A line of standard input, and no byte more: parent and child read in turns."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()
