"""Submissions from many threads while something is killed, and what must hold afterwards."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from oars_grpc.cli.key_files import trusted_keys
from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.verification import Surroundings, verify_receipt
from oars_grpc.generated.oars.v1 import action_pb2
from oars_grpc.local.stack import TENANT, LocalStack
from tests.support.client import action_body
from tests.support.database import check_ledger

UNAVAILABLE = {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT}


@dataclass
class Load:
    """What was submitted, by idempotency key."""

    stack: LocalStack
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, threads: int = 4) -> Iterator[None]:
        """Submit until the context ends."""
        workers = [threading.Thread(target=self._submit, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self._stopping.set()
            for worker in workers:
                worker.join()

    def wait_for_more(self, answers: int = 20) -> None:
        """Wait until so many further submissions were acknowledged."""
        wanted, ends = len(self.acknowledged) + answers, time.monotonic() + 60
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < ends, f"no answers any more; {self.unexpected}"
            time.sleep(0.01)

    def check(self) -> None:
        """Everything that was acknowledged is there, and everything that is there is whole."""
        assert self.unexpected == []
        assert self.acknowledged
        assert self.unknown  # else nothing was interrupted
        with self.stack.client("agent") as rest:
            self._retry_unknown(rest)
            for key, first in self.acknowledged.items():
                again = _post(rest, key)
                assert again.content == first
                assert again.headers["x-idempotent-replay"] == "true"
        self._check_receipts()
        url = self.stack.postgres.url
        check_ledger(url)
        outcomes = _outcomes(url)
        # A key, an action: neither lost nor done twice.
        assert set(outcomes) == set(self.acknowledged)
        assert len(set(outcomes.values())) == len(outcomes)
        with psycopg.connect(url) as connection:
            stored = {row[0] for row in connection.execute("SELECT action_id FROM action")}
        assert stored == set(outcomes.values())

    def _submit(self, thread: int) -> None:
        number = 0
        with self.stack.client("agent") as rest:
            while not self._stopping.is_set():
                number += 1
                key = f"load-{thread}-{number}"
                try:
                    answer = _post(rest, key)
                except httpx.TransportError:
                    self.unknown.append(key)
                    continue
                if answer.is_success:
                    self.acknowledged[key] = answer.content
                    continue
                self.unknown.append(key)
                if answer.status_code not in UNAVAILABLE:
                    self.unexpected.append(f"{answer.status_code} {answer.text}")
                time.sleep(0.02)

    def _retry_unknown(self, rest: httpx.Client) -> None:
        for key in self.unknown:
            answer = _post_patiently(rest, key)
            assert answer.is_success, answer.text
            self.acknowledged[key] = answer.content
        self.unknown.clear()

    def _check_receipts(self) -> None:
        """Offline, with the keys that OARS lists."""
        with self.stack.client("auditor") as rest:
            keys = trusted_keys(rest.get(f"/v1/trust/tenants/{TENANT}/keys").json())
        for content in self.acknowledged.values():
            answer: dict[str, Any] = httpx.Response(200, content=content).json()
            receipts = [envelope_from_json(each["envelope"]) for each in answer["receipts"]]
            assert len(receipts) == 2
            previous = None
            for envelope in receipts:
                verified = verify_receipt(envelope, keys, Surroundings(previous=previous))
                assert verified.valid, verified.errors
                previous = envelope


def _post(rest: httpx.Client, key: str) -> httpx.Response:
    resource = {"toolId": "desk", "operation": "create_ticket", "target": f"support/{key}"}
    return rest.post(
        "/v1/actions", json=action_body(resource=resource), headers={"idempotency-key": key}
    )


def _post_patiently(rest: httpx.Client, key: str, seconds: float = 30) -> httpx.Response:
    """As a client would: the sidecar may take a moment to believe in the server again."""
    ends = time.monotonic() + seconds
    while True:
        answer = _post(rest, key)
        if answer.status_code not in UNAVAILABLE or time.monotonic() > ends:
            return answer
        time.sleep(0.1)


def _outcomes(url: str) -> dict[str, str]:
    """The action that each stored idempotency key answered with."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT key, response FROM idempotency_outcome WHERE rpc = 'SubmitAction'"
        ).fetchall()
    return {
        key: action_pb2.SubmitActionResponse.FromString(response).action.action_id
        for key, response in rows
    }
