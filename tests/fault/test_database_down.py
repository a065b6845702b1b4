"""Postgres killed under load and started again on the same directory."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from oars_grpc.local.stack import LocalStack
from tests.support.load import Load


def kill_postgres_under_load(state: Path, rounds: int) -> None:
    moments = random.Random(rounds)
    with LocalStack(state) as stack:
        server = stack.servers[0]
        load = Load(stack)
        with load.running():
            for _ in range(rounds):
                load.wait_for_more()
                time.sleep(moments.random() * 0.1)
                os.kill(stack.postgres.pid, signal.SIGKILL)
                time.sleep(moments.random())
                stack.postgres.start()
            load.wait_for_more()
        stack.wait_until_healthy()
        assert server.poll() is None  # it recovered by itself
        load.check()
        assert '"INTERNAL"' not in (state / "server.log").read_text()


def test_a_killed_postgres_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    kill_postgres_under_load(tmp_path / "state", rounds=2)


@pytest.mark.slow
def test_a_postgres_killed_many_times_loses_nothing(tmp_path: Path) -> None:
    kill_postgres_under_load(tmp_path / "state", rounds=20)
