"""How a line of the log is written."""

import json
from collections.abc import Callable
from typing import Any

import orjson


def json_line(event: object, default: Callable[[Any], Any]) -> bytes:
    """JSON in ASCII: no other separator of lines and no invisible character gets into the log.

    Every rpc leaves a line, and nearly every line is ASCII anyway: those are written ten times as
    fast as the standard library would.
    """
    try:
        line = orjson.dumps(event, default=default)
    except orjson.JSONEncodeError:  # such as text that is not Unicode
        pass
    else:
        if line.isascii():
            return line
    return json.dumps(event, default=default).encode()
