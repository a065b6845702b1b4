"""One canonical form: both writers agree, and what was written reads back to the same bytes."""

import json
from typing import Any

import orjson
import rfc8785
from hypothesis import given, settings

from oars_grpc.core.canonical import canonical_json, statement_json
from tests.support.strategies import any_json_values, restricted_values


@settings(max_examples=500, deadline=None)
@given(restricted_values)
def test_statements_are_written_as_rfc_8785_writes_them(value: Any) -> None:
    assert statement_json(value) == rfc8785.dumps(value)


@settings(max_examples=300, deadline=None)
@given(any_json_values)
def test_writing_what_was_read_gives_the_same_bytes(value: Any) -> None:
    written = canonical_json(value)
    assert canonical_json(json.loads(written, parse_int=_as_double)) == written


@settings(max_examples=300, deadline=None)
@given(restricted_values)
def test_a_statement_survives_reading(value: Any) -> None:
    written = statement_json(value)
    read = orjson.loads(written)
    assert read == value
    assert canonical_json(read) == statement_json(read) == written


@settings(max_examples=300, deadline=None)
@given(any_json_values)
def test_the_order_of_members_does_not_matter(value: Any) -> None:
    assert canonical_json(_reversed(value)) == canonical_json(value)


def _as_double(digits: str) -> float:
    """How ECMAScript reads a number; `json` alone would make exact integers of large doubles."""
    return float(digits)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return [_reversed(item) for item in value]
    return value
