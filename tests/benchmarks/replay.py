"""Shows how long a replay of 100,000 recorded decisions takes, and what memory.

    python -m tests.benchmarks.replay --json replay.json

A server on a Postgres of its own, whose log holds that many submissions of different callers,
tools, operations and inputs, each decided by the built-in policy and committed with its two
receipts. Two drafts of 20 rules are replayed over gRPC, one that reads inputs and one that does
not, each several times; every run of a draft must give the same bytes. Resident memory is sampled
while they run.
"""

import hashlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Self

import click
import grpc
from rich.console import Console
from rich.table import Table

from oars_grpc.core.action import ActionContext, ActionRequest, ActionState, Resource
from oars_grpc.core.decision import decide, decision_for_receipt
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.stored import Basis, Change, StoredAction
from oars_grpc.generated.oars.v1 import policy_pb2, replay_pb2
from oars_grpc.generated.oars.v1.policy_pb2_grpc import PolicyServiceStub
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.transport.policy_messages import write_document
from oars_grpc.use_cases.keyring import Keyring
from tests.benchmarks.contestants import TENANT, Oars, bench, end_in_order
from tests.benchmarks.figures import machine
from tests.benchmarks.processes import ProcessorTimes, resident_bytes
from tests.support.database import opened
from tests.support.factories import append_receipt, make_action, make_principal

BATCH = 500
# That of `tests/support/server.py`.
_KEY_ENCRYPTION_KEY = bytes(range(32))
_SECONDS = 3_600.0
_MIB = 2**20
_OPERATIONS = ("create_ticket", "get_issue", "delete_repository", "transfer_funds", "update_user")
_ENVIRONMENTS = ("staging", "production", "dev", "")
_STATES = {
    Effect.ALLOW: ActionState.APPROVED,
    Effect.DENY: ActionState.DENIED,
    Effect.APPROVE: ActionState.APPROVAL_REQUIRED,
    Effect.QUARANTINE: ActionState.QUARANTINED,
}


def draft(*, reads_input: bool) -> PolicyDocument:
    """Twenty rules: by tool and operation, by tier, and by conditions."""
    fact = "input.amount" if reads_input else "risk.score"
    tools = [
        Rule(f"TOOL-{n}", Effect.ALLOW, RuleMatch((f"tool-{n}",), _OPERATIONS[:2]))
        for n in range(10)
    ]
    tiers = [
        Rule(f"TIER-{n}", Effect.QUARANTINE, RuleMatch((f"tool-{n}",), risk_tiers=(RiskTier.HIGH,)))
        for n in range(5)
    ]
    conditions = [
        Rule(
            f"OVER-{n}",
            Effect.APPROVE,
            condition=f"{fact} > {90 + n} && context.environment == 'production'",
        )
        for n in range(5)
    ]
    return PolicyDocument("benchmark", (*tools, *tiers, *conditions))


def submissions(basis: Basis, key: SigningKey, count: int) -> Iterator[Change]:
    """Submissions that the tenant's policy has decided, no two of them alike."""
    document = basis.policy.document
    if document is None:
        raise RuntimeError("the policy came without its document")
    policy: CompiledPolicy = validate_document(document)
    caller = make_principal("spiffe://example/agent", tenant_ids=frozenset({TENANT}))
    began = datetime.now(UTC) - timedelta(days=7)
    for number in range(count):
        request = ActionRequest(
            tenant_id=TENANT,
            agent_id=f"agent-{number % 50}",
            caller=replace(caller, subject=f"spiffe://example/agent-{number % 50}"),
            resource=Resource(f"tool-{number % 11}", _OPERATIONS[number % 5], f"records/{number}"),
            user_id=f"user-{number % 1_000}",
            context=ActionContext(_ENVIRONMENTS[number % 4], ("none",), {"ticket": f"T-{number}"}),
            input={
                "amount": number % 100,
                "title": f"Request {number}",
                "body": "Since this morning nobody of the second site can log in.",
                "labels": ["login", "customer"],
            },
        )
        yield _submission(request, policy, basis, key, began + timedelta(seconds=number))


def _submission(
    request: ActionRequest, policy: CompiledPolicy, basis: Basis, key: SigningKey, now: datetime
) -> Change:
    reference = basis.policy.reference()
    decision = decide(request, reference, policy, basis.tenant.settings.risk, now)
    action = make_action(
        request, state=_STATES[decision.effect], created_at=now, updated_at=now, expires_at=None
    )
    action, first = append_receipt(action, "action.requested", {"requestId": "filled"}, key)
    detail = {"policy": reference.to_json(), "decision": decision_for_receipt(decision)}
    action, second = append_receipt(action, "", detail, key)
    return Change(StoredAction(action, decision), 0, (first, second))


def fill(server: Oars, decisions: int) -> None:
    """Commit so many submissions to the server's database."""
    keyring = Keyring(_KEY_ENCRYPTION_KEY, SystemChance(), SystemClock())
    with opened(server.database_url, pool_size=1) as engine:
        ledger = PostgresLedger(engine)
        basis = ledger.basis(TENANT, None)
        made = submissions(basis, keyring.open(basis.signing_key), decisions)
        while batch := list(itertools.islice(made, BATCH)):
            ledger.commit(batch)


@dataclass(frozen=True, slots=True)
class Run:
    """One replay."""

    seconds: float
    server_cpu_seconds: float
    postgres_cpu_seconds: float
    peak_bytes: int
    decisions: int
    receipts: int
    changed: int
    payload: bytes


def measure(server: Oars, document: PolicyDocument) -> Run:
    """Have the server replay a draft over its whole log."""
    request = policy_pb2.ReplayPolicyRequest(
        tenant_id=TENANT, document=write_document(document), examples=10
    )
    cpu = ProcessorTimes(server.pid, server.postgres_pid)
    with server.channel("auditor") as channel, _Peak(server.pid) as peak:
        before, began = cpu(), time.perf_counter()
        progress, end = _receive(channel, request)
        took, after = time.perf_counter() - began, cpu()
    return Run(
        seconds=took,
        server_cpu_seconds=after["server"] - before["server"],
        postgres_cpu_seconds=after["postgres"] - before["postgres"],
        peak_bytes=peak.bytes,
        decisions=progress.decisions,
        receipts=progress.receipts,
        changed=progress.changed,
        payload=end.report.payload,
    )


def _receive(
    channel: grpc.Channel, request: policy_pb2.ReplayPolicyRequest
) -> tuple[replay_pb2.ReplayPolicyProgress, replay_pb2.ReplayPolicyEnd]:
    progress, end = replay_pb2.ReplayPolicyProgress(), replay_pb2.ReplayPolicyEnd()
    for event in PolicyServiceStub(channel).ReplayPolicy(request, timeout=_SECONDS):
        if event.HasField("progress"):
            progress = event.progress
        elif event.HasField("end"):
            end = event.end
    return progress, end


class _Peak:
    """The most memory that a process had resident while this was open, sampled."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident_bytes(self._pid))
            if self._ended.wait(0.05):
                return


@click.command(context_settings={"show_default": True})
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
@click.option("--decisions", default=100_000, help="Recorded decisions.")
@click.option("--rounds", default=3, help="Replays of each draft, of which the median counts.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to put the database.",
)
def main(json_file: Path | None, decisions: int, rounds: int, directory: Path | None) -> None:
    """Replay two drafts over recorded decisions. Takes some minutes, most of them to record."""
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 120)
    report = run(console, decisions=decisions, rounds=rounds, directory=directory)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def run(console: Console, *, decisions: int, rounds: int, directory: Path | None) -> dict[str, Any]:
    """Fill, replay, print; what `--json` writes."""
    with ExitStack() as stack:
        running = stack.enter_context(bench(directory))
        server = stack.enter_context(running.oars({}))
        with console.status(f"recording {decisions:,} decisions …"):
            fill(server, decisions)
        idle = resident_bytes(server.pid)
        runs = {
            name: [measure(server, draft(reads_input=reads)) for _ in range(rounds)]
            for name, reads in (("without inputs", False), ("with inputs", True))
        }
        conditions = machine(running.directory) | {"postgres": running.postgres_version()}
    figures = {name: _figures(each, idle) for name, each in runs.items()}
    table = Table(title=f"replay of {decisions:,} decisions, draft of 20 rules")
    for heading in (
        "draft",
        "seconds",
        "decisions/s",
        "server CPU s",
        "Postgres CPU s",
        "memory MiB",
        "above idle",
    ):
        table.add_column(heading, justify="right")
    for name, found in figures.items():
        table.add_row(
            name,
            f"{found['seconds']:.1f}",
            f"{found['decisions_per_second']:,.0f}",
            f"{found['server_cpu_seconds']:.1f}",
            f"{found['postgres_cpu_seconds']:.1f}",
            f"{found['peak_mib']:.0f}",
            f"{found['above_idle_mib']:.0f}",
        )
    console.print(table)
    return {"machine": conditions, "decisions": decisions, "drafts": figures}


def _figures(runs: list[Run], idle: int) -> dict[str, Any]:
    """Medians of the runs of one draft.

    Raises:
        RuntimeError: they did not give the same report.
    """
    digests = {hashlib.sha256(each.payload).hexdigest() for each in runs}
    if len(digests) != 1 or not runs[0].payload:
        raise RuntimeError(f"{len(digests)} different reports of the same replay")
    took = median(each.seconds for each in runs)
    peak = max(each.peak_bytes for each in runs)
    return {
        "seconds": round(took, 3),
        "slowest_seconds": round(max(each.seconds for each in runs), 3),
        "decisions": runs[0].decisions,
        "receipts": runs[0].receipts,
        "changed": runs[0].changed,
        "decisions_per_second": round(runs[0].decisions / took, 1),
        "server_cpu_seconds": round(median(each.server_cpu_seconds for each in runs), 3),
        "postgres_cpu_seconds": round(median(each.postgres_cpu_seconds for each in runs), 3),
        "peak_mib": round(peak / _MIB, 1),
        "above_idle_mib": round((peak - idle) / _MIB, 1),
        "report_sha256": digests.pop(),
    }


if __name__ == "__main__":
    main()
