import json

import pytest

from oars_grpc.transport.log_line import json_line


@pytest.mark.parametrize(
    "text", ["plain", "zwölf", "a\u2028b", "a\u202eb", "line\nbreak", "\ud800", "\x85"]
)
def test_a_line_is_one_line_of_ascii_that_reads_back(text: str) -> None:
    line = json_line({"event": text}, str)
    assert line.isascii()
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"event": text}


def test_what_json_has_no_form_for_is_written_by_the_default() -> None:
    assert json.loads(json_line({"event": {1}}, repr)) == {"event": "{1}"}
