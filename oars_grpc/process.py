"""What belongs to the process and not to the service: its log and its signals."""

import atexit
import gc
import logging
import os
import signal
import sys
from queue import Empty, SimpleQueue
from typing import BinaryIO, cast

import structlog

from oars_grpc.errors import ConfigurationError
from oars_grpc.line_writer import LineWriter
from oars_grpc.transport.log_line import json_line

Signals = SimpleQueue[int]
_SIGNAL_SECONDS = 0.5
# New objects between two looks for cycles: about those of twenty submissions, not of one.
_YOUNG_OBJECTS = 10_000


def configure_logging(level: str) -> None:
    """JSON lines on standard error; bodies, headers and keys are never logged."""
    writer = LineWriter(sys.stderr.buffer)
    atexit.register(writer.close)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=json_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", writer)),
        cache_logger_on_first_use=True,
    )


def stay_on(processor: int) -> None:
    """Let this thread, and all that it starts, run on one processor.

    Python runs one thread at a time: on a second processor the others find nothing to do but to
    hand the interpreter over, which costs a quarter of a busy server's time.

    Raises:
        ConfigurationError: this process may not run there, or the system cannot say so.
    """
    try:
        os.sched_setaffinity(0, {processor})
    except (OSError, AttributeError) as error:
        raise ConfigurationError(f"OARS_PROCESSOR: cannot stay on processor {processor}") from error


def spare_collector() -> None:
    """Leave what the start has made out of garbage collections, and collect less often.

    None of it ever becomes garbage, and nearly nothing that a call makes waits for the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def catch_signals() -> Signals:
    """A queue that SIGTERM and SIGINT are put into from now on."""
    # A handler may interrupt the very wait for it; of all queues and events only this one's put may
    # be called there.
    signals: Signals = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: signals.put(received))
    return signals


def wait_for_signal(signals: Signals) -> None:
    """Wait until a handler has put a signal.

    A signal that reaches another thread, or just before the wait begins, does not end the wait, and
    handlers run in this thread alone: it wakes now and then to let them.
    """
    while True:
        try:
            signals.get(timeout=_SIGNAL_SECONDS)
        except Empty:
            continue
        return
