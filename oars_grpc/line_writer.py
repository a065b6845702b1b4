"""Writes lines of the log in a thread of its own, as many at once as have come meanwhile.

A write lets other threads take the interpreter, and its caller then waits to have it back: for a
server that answers hundreds of calls a second, each with a line, that took longer than the line.

A process that is killed loses the lines of its last moment. What must not be lost is a receipt.
"""

import threading
import time
from queue import Empty, SimpleQueue
from typing import BinaryIO

# So many wait, and whoever has another line waits too: a reader that stands still is no reason
# to take memory without bound, nor to lose lines.
MAXIMUM_WAITING = 10_000
_PAUSE_SECONDS = 0.01


class LineWriter:
    """A file for loggers; what was written is in the file below once `close` has returned."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> int:
        """Hand a line over."""
        while self._lines.qsize() >= MAXIMUM_WAITING and self._thread.is_alive():
            time.sleep(_PAUSE_SECONDS)
        self._lines.put(line)
        return len(line)

    def flush(self) -> None:
        """Nothing: the thread flushes what it writes."""

    def close(self) -> None:
        """Write what waits, then end; no call of `write` may follow."""
        self._lines.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended and (line := self._lines.get()) is not None:
            lines = [line]
            while not ended:
                try:
                    following = self._lines.get_nowait()
                except Empty:
                    break
                if following is None:
                    ended = True
                else:
                    lines.append(following)
            try:
                self._file.write(b"".join(lines))
                self._file.flush()
            except OSError:
                # Such as a full disk: there is nowhere left to say so, and the service goes on.
                continue
