"""What a server does beside serving: rounds of upkeep, one job after the other."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import structlog

from oars_grpc.errors import OarsError
from oars_grpc.transport.metrics import Metrics
from oars_grpc.use_cases.control_tags import ControlTags
from oars_grpc.use_cases.escalations import Escalations
from oars_grpc.use_cases.lattice_building import LatticeBuilder
from oars_grpc.use_cases.retention import Retention
from oars_grpc.use_cases.upkeep import Upkeep

Job = Callable[[], None]

_log = structlog.get_logger("oars")


def upkeep_jobs(
    *,
    upkeep: Upkeep,
    escalations: Escalations,
    tags: ControlTags,
    retention: Retention,
    metrics: Metrics,
) -> Sequence[Job]:
    """The jobs of one round, in their order."""

    def tag() -> None:
        for failure in tags.follow():
            _log.error(
                "a control mapping could not go on",
                tenant_id=failure.tenant_id,
                mapping_id=failure.mapping_id,
                error=repr(failure.error),
            )

    def erase() -> None:
        report = retention.erase_due()
        metrics.erased_receipts.inc(report.erased)
        metrics.erasure_failures.inc(len(report.failures))
        for failure in report.failures:
            _log.error(
                "payloads of a tenant could not be erased",
                tenant_id=failure.tenant_id,
                error=repr(failure.error),
            )

    def purge() -> None:
        metrics.purged_outcomes.inc(upkeep.purge_outcomes())

    def analyze() -> None:
        analyzed = upkeep.analyze_new_tables()
        if analyzed:
            _log.info("new tables analysed", tables=analyzed)

    # Tags before erasure: what some controls pick is told by the payload alone.
    return (*_timers(upkeep, escalations, metrics), tag, erase, purge, analyze)


def _timers(upkeep: Upkeep, escalations: Escalations, metrics: Metrics) -> Sequence[Job]:
    """What time alone does to actions and approvals."""

    def expire() -> None:
        report = upkeep.expire_due()
        metrics.expired_actions.inc(report.done)
        metrics.expiry_failures.inc(len(report.failures))
        for failure in report.failures:
            _log.error(
                "an action could not be expired",
                tenant_id=failure.due.tenant_id,
                action_id=failure.due.action_id,
                error=repr(failure.error),
            )

    def escalate() -> None:
        report = escalations.escalate_due()
        metrics.escalated_approvals.inc(report.done)
        metrics.escalation_failures.inc(len(report.failures))
        for failure in report.failures:
            _log.error(
                "an approval could not be escalated",
                tenant_id=failure.due.tenant_id,
                approval_id=failure.due.approval_id,
                error=repr(failure.error),
            )

    # Expiry first: what is over need not be escalated any more.
    return (expire, escalate)


def run_in_background(jobs: Sequence[Job], pause: float, stack: ExitStack) -> None:
    """Run rounds of the jobs until the stack unwinds."""
    stopping = threading.Event()

    def rounds() -> None:
        while not stopping.wait(pause):
            for job in jobs:
                try:
                    job()
                except OarsError as error:
                    _log.warning("upkeep failed, next round follows", error=error.message)
                except Exception:  # noqa: BLE001 - a fault of one round must not end all rounds
                    _log.exception("upkeep failed, next round follows")

    thread = threading.Thread(target=rounds, name="upkeep", daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stopping.set)


# Between two looks for an operation; a pause so short finds an upload's soon after it ended.
_BUILD_SECONDS = 0.5
_SWEEP_EVERY = 600


def build_in_background(builder: LatticeBuilder, stack: ExitStack) -> None:
    """Build lattices until the stack unwinds; what is unfinished then is given back."""
    stopping = threading.Event()

    def build() -> None:
        looks = 0
        while not stopping.wait(_BUILD_SECONDS):
            try:
                _build_all(builder, stopping)
                if looks % _SWEEP_EVERY == 0:
                    builder.sweep()
            except OarsError as error:
                _log.warning("building lattices failed, the next look follows", error=error.message)
            except Exception:  # noqa: BLE001 - a fault of one look must not end all
                _log.exception("building lattices failed, the next look follows")
            looks += 1

    thread = threading.Thread(target=build, name="lattices", daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stopping.set)


def _build_all(builder: LatticeBuilder, stopping: threading.Event) -> None:
    """Build what is due, one after the other."""
    found = True
    while found and not stopping.is_set():
        found, failure = builder.build_next(stopping)
        if failure is not None:
            _log.error(
                "a lattice could not be built",
                tenant_id=failure.operation.tenant_id,
                lattice_id=failure.operation.lattice_id,
                error=repr(failure.error),
            )
