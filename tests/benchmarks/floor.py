"""The floor: what any durable, signed answer over gRPC in Python costs at the least.

A bare grpcio server with the same mutual TLS. Its one handler takes the request as bytes, signs
once, inserts the rows that one allowed submit of OARS leaves, in one transaction, and answers with
the bytes of a recorded answer. It decides nothing, reads nothing, checks no key and keeps no log.
"""

import itertools
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.benchmarks.recorded_rows import PlannedInsert, in_one_statement

LISTENS_WITHIN_SECONDS = 60.0

if TYPE_CHECKING:  # generic in the stubs only
    _GenericRpcHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _GenericRpcHandler = grpc.GenericRpcHandler


@dataclass(frozen=True, slots=True)
class FloorPlan:
    """Everything that the floor's process is told."""

    database_url: str
    certificates: Path
    threads: int
    inserts: Sequence[PlannedInsert]
    one_statement: bool
    processor: int | None
    signed: bytes
    response: bytes


class _Handler(_GenericRpcHandler):
    """One method for every name: sign, insert, answer."""

    def __init__(self, plan: FloorPlan) -> None:
        self._plan = plan
        self._inserts = [in_one_statement(plan.inserts)] if plan.one_statement else plan.inserts
        self._key = Ed25519PrivateKey.generate()
        self._numbers = itertools.count()
        self._threads = threading.local()
        self._method = grpc.unary_unary_rpc_method_handler(self._answer)

    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return self._method

    def _answer(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        self._key.sign(self._plan.signed)
        number = next(self._numbers)
        cursor = self._cursor()
        for insert in self._inserts:
            cursor.execute(insert.statement, insert.values(number))
        cursor.connection.commit()
        return self._plan.response

    def _cursor(self) -> psycopg.Cursor[Any]:
        """This thread's own: a connection for each thread costs less than a pool."""
        cursor: psycopg.Cursor[Any] | None = getattr(self._threads, "cursor", None)
        if cursor is None:
            # From the first execution on the statements are prepared.
            cursor = psycopg.connect(self._plan.database_url, prepare_threshold=0).cursor()
            self._threads.cursor = cursor
        return cursor


def serve(plan: FloorPlan, parent: Connection) -> None:
    """The floor's process: say the port to the parent, serve until it lets go of the pipe."""
    signal.signal(signal.SIGINT, _ignore)  # Ctrl-C is for the parent, which ends this one
    if plan.processor is not None:
        os.sched_setaffinity(0, {plan.processor})
    server = grpc.server(
        ThreadPoolExecutor(plan.threads),
        handlers=[_Handler(plan)],
        options=(("grpc.so_reuseport", 0),),
    )
    credentials = grpc.ssl_server_credentials(
        [
            (
                (plan.certificates / "server.key").read_bytes(),
                (plan.certificates / "server.pem").read_bytes(),
            )
        ],
        root_certificates=(plan.certificates / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    parent.send(server.add_secure_port("127.0.0.1:0", credentials))
    server.start()
    wait_until_closed(parent)
    server.stop(1).wait()


def wait_until_closed(parent: Connection) -> None:
    """Return when the other end is closed, or its process has died."""
    try:
        while True:
            parent.recv()
    except EOFError:
        return


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler rather than SIG_IGN, which children would inherit."""
