"""Reading YAML and JSON with places: what is taken, what is refused, and where it stands."""

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oars_grpc.cli import policy_text
from oars_grpc.cli.policy_json_text import read_json_text
from oars_grpc.cli.policy_text import (
    MAX_BYTES,
    Located,
    Place,
    TextFault,
    place_within,
    read_yaml,
)
from tests.support.strategies import any_json_values


def refusal(read: Any, text: str) -> tuple[str, int, int]:
    with pytest.raises(TextFault) as refused:
        read(text)
    return refused.value.message, refused.value.place.line, refused.value.place.column


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3\n", "repeats 'a' of line 1", 3, 1),
        ("a: &x 1\n", "anchors and aliases", 1, 4),
        ("a: *x\n", "anchors and aliases", 1, 4),
        ("a: &a [x]\nb: &b [*a, *a]\n", "anchors and aliases", 1, 4),
        ("a: !!python/object/apply:os.system [true]\n", "tags", 1, 4),
        ("a: !!str 1\n", "tags", 1, 4),
        ("a: ! 1\n", "tags", 1, 4),
        ("!!map {}\n", "tags", 1, 1),
        ("1: a\n", "a name must be text", 1, 1),
        ("x:\n  true: a\n", "a name must be text", 2, 3),
        ("? [a]\n: b\n", "a name must be text", 1, 3),
        ("<<: {a: 1}\n", "merge keys", 1, 1),
        ("a: 1\n---\nb: 2\n", "more than one document", 2, 1),
        ("a: [1\n", "expected", 2, 1),
        ("a: 'x\n", "end of stream", 2, 1),
        ("a: b\n\tc: 1", "cannot start any token", 2, 1),
        ("a: \x00\n", "does not permit", 1, 4),
        ("a: " + "[" * 100, "nested more than", 1, 43),
        ("{a: " * 100, "nested more than", 1, 158),
    ],
)
def test_yaml_that_could_mean_something_else_is_refused(
    text: str, message: str, line: int, column: int
) -> None:
    found, *place = refusal(read_yaml, text)
    assert message in found
    assert place == [line, column]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "[no, on, off, yes, y, ~, null, true, False]",
            ["no", "on", "off", "yes", "y", None, None],
        ),
        ("[1:30, 2026-01-05, 0x1F, 1_000, .inf, 0o7]", None),
        ("[1, -2, 010, 1.5, 1e3, .5]", [1, -2, 10, 1.5, 1000.0, 0.5]),
        ("['1', \"true\", 'a: b', \"\\u00e9\"]", ["1", "true", "a: b", "\u00e9"]),
        ("a:\n", {"a": None}),
        ("", None),
    ],
)
def test_scalars_mean_what_json_means_by_them(text: str, value: Any) -> None:
    found = read_yaml(text).plain()
    if isinstance(value, list) and None in value:
        value = [*value, True, False]
    if value is None and text:
        assert found == text.strip("[]").split(", ")
    else:
        assert found == value


@pytest.mark.parametrize("read", [read_yaml, read_json_text])
def test_size_is_bounded_before_anything_is_read(read: Any) -> None:
    assert "at most" in refusal(read, '"' + "x" * MAX_BYTES + '"')[0]


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ('{"a": 1,\n "a": 2}', "repeats 'a' of line 1", 2, 2),
        ('{"a": 1} x', "more after the end", 1, 10),
        ("{a: 1}", "a name in quotes", 1, 2),
        ('{"a" 1}', "':' is expected", 1, 6),
        ("[1 2]", "',' is expected", 1, 4),
        ("[1,]", "a value is expected", 1, 4),
        ('{"a": 1,}', "a name in quotes", 1, 9),
        ("[NaN]", "a value is expected", 1, 2),
        ("[01]", "',' is expected", 1, 3),
        ('["\n"]', "Invalid control character", 1, 3),
        ('["x', "Unterminated string", 1, 2),
        ("", "a value is expected", 1, 1),
        ("[" * 100, "nested more than", 1, 41),
        ("[" + "9" * 50 + "]", "too long", 1, 2),
    ],
)
def test_json_is_read_strictly(text: str, message: str, line: int, column: int) -> None:
    found, *place = refusal(read_json_text, text)
    assert message in found
    assert place == [line, column]


@settings(max_examples=200, deadline=None)
@given(any_json_values, st.sampled_from([None, 1, "\t"]))
def test_json_reads_what_python_reads(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent)
    assert read_json_text(text).plain() == json.loads(text)


class _CoreSchemaDumper(yaml.SafeDumper):
    """Quotes texts that are numbers in YAML 1.2's core schema too, and not in 1.1 only."""


for tag, written in (("float", policy_text._NUMBER), ("int", policy_text._INTEGER)):
    _CoreSchemaDumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{written.pattern})\Z"), list("-+.0123456789")
    )


@settings(max_examples=100, deadline=None)
@given(any_json_values, st.booleans())
@example(value={"0E0": None}, flow=False)
@example(value=["08"], flow=True)
def test_yaml_reads_what_was_written(value: Any, flow: bool) -> None:  # noqa: FBT001 - drawn
    text = yaml.dump(value, Dumper=_CoreSchemaDumper, default_flow_style=flow, allow_unicode=False)
    if "!!" in text or "&id" in text:
        return  # such as binary text and shared values: refused
    loaded = yaml.safe_load(text)
    found = read_yaml(text).plain()
    assert found == loaded or found != found  # noqa: PLR0124 - no number equals itself if it is NaN


CONDITION = "risk.score > 1 &&\n  risk.scor > 2"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("c: |\n  risk.score > 1 &&\n    risk.scor > 2\n", 3, 9),
        ("c: |-  # why\n\n    risk.score > 1 &&\n      risk.scor > 2\n", 4, 11),
        ("c: >\n  risk.score > 1\n  && risk.scor > 2\n", 3, 10),
        ("c: risk.score > 1 && risk.scor > 2\n", 1, 26),
        ("c: risk.score > 1\n   && risk.scor > 2\n", 2, 11),
        ('c: "risk.score > 1 &&\\n  risk.scor > 2"\n', 1, 30),
        ("c: 'risk.score > 1 && risk.scor > 2'\n", 1, 27),
        ("c: 'user.id == ''a'' && risk.scor > 2'\n", 1, 29),
        ('c: "user.id == \\"a\\" && risk.scor > 2"\n', 1, 29),
        ("{c: 'risk.score > 1 && risk.scor > 2'}\n", 1, 28),
    ],
)
def test_a_place_in_a_text_is_found_in_the_file(text: str, line: int, column: int) -> None:
    root = read_yaml(text)
    assert isinstance(root.content, dict)
    located = root.content["c"].value
    assert isinstance(located.content, str)
    offset = located.content.index(".scor ")
    before = located.content[:offset]
    within = before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
    assert place_within(located, *within) == Place(line, column)


def test_a_place_in_a_json_text_is_found() -> None:
    located = read_json_text('\n ["risk.score\\t> 1 && \\u0041.b"]').content
    assert isinstance(located, list)
    assert place_within(located[0], 1, 20) == Place(2, 29)
    assert place_within(Located("x", Place(3, 4)), 1, 1) == Place(3, 4)
