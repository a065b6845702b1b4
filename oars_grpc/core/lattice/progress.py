"""How long work tells its share done, and how it is stopped."""

from collections.abc import Callable

# Called between blocks of work with the share done, 0 to 1; raising from it stops the work.
Proceed = Callable[[float], None]


def keep_going(share: float, /) -> None:
    """Let the work run to its end."""


def between(proceed: Proceed, start: float, end: float) -> Proceed:
    """A part's `Proceed`: its own 0 to 1 is `start` to `end` of the whole."""

    def proceed_within(share: float, /) -> None:
        proceed(start + (end - start) * share)

    return proceed_within
