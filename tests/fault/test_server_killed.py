"""`kill -9` of the server at any moment: what was acknowledged is there, and nothing is half."""

import random
import time
from pathlib import Path

import pytest

from oars_grpc.local.stack import LocalStack
from tests.support.load import Load


def kill_under_load(state: Path, rounds: int, replicas: int) -> None:
    moments = random.Random(rounds)
    with LocalStack(state, replicas=replicas) as stack:  # as in production: with fsync
        load = Load(stack)
        with load.running():
            for number in range(rounds):
                load.wait_for_more()
                time.sleep(moments.random() * 0.1)
                replica = number % replicas
                stack.servers[replica].kill()
                stack.servers[replica].wait()
                stack.start_server(replica)
                stack.wait_until_healthy()
            load.wait_for_more()
        load.check()


def test_a_killed_server_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    kill_under_load(tmp_path / "state", rounds=4, replicas=1)


@pytest.mark.slow
def test_servers_killed_many_times_lose_nothing(tmp_path: Path) -> None:
    kill_under_load(tmp_path / "state", rounds=40, replicas=2)
