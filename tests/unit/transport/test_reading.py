import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import struct_pb2, timestamp_pb2

from oars_grpc.core.identity import Role
from oars_grpc.errors import MAXIMUM_VIOLATION_BYTES, InvalidArgument
from oars_grpc.transport.reading import (
    KEY,
    MAXIMUM_DEPTH,
    MAXIMUM_JSON_BYTES,
    NAME,
    Reader,
    inverse,
)

LARGEST = 2**53 - 1


def violations(read: Callable[[Reader], object]) -> list[tuple[str, str]]:
    reader = Reader()
    read(reader)
    try:
        reader.done()
    except InvalidArgument as refused:
        return [(v.field, v.description) for v in refused.violations]
    return []


def value_of(value: Any) -> struct_pb2.Value:
    found = struct_pb2.Value()
    match value:
        case None:
            found.null_value = struct_pb2.NULL_VALUE
        case bool():
            found.bool_value = value
        case int() | float():
            found.number_value = value
        case str():
            found.string_value = value
        case list():
            found.list_value.values.extend(value_of(item) for item in value)
            found.list_value.SetInParent()
        case dict():
            found.struct_value.CopyFrom(struct_of(value))
    return found


def struct_of(value: dict[str, Any]) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={name: value_of(item) for name, item in value.items()})


def refused_json(value: dict[str, Any] | struct_pb2.Struct) -> list[tuple[str, str]]:
    message = struct_of(value) if isinstance(value, dict) else value
    return violations(lambda reader: reader.json_object(message, "input"))


@pytest.mark.parametrize("text", ["", "x", "é" * 10, "a b\u00a0c", "😀" * 10])
def test_text_within_its_limits_is_read_as_it_came(text: str) -> None:
    reader = Reader()
    assert reader.text(text, "reason", 10) == text
    reader.done()


def test_the_limit_counts_characters_and_names_both_numbers() -> None:
    assert violations(lambda r: r.text("😀" * 11, "reason", 10)) == [
        ("reason", "is 11 characters long; at most 10 are accepted")
    ]


def test_required_text_must_be_there() -> None:
    assert violations(lambda r: r.text("", "agent_id", 10, required=True)) == [
        ("agent_id", "is required")
    ]


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)], ids=hex)
def test_control_characters_are_refused_but_line_breaks_where_lines_are_wanted(code: int) -> None:
    found = [("reason", "contains a control character")]
    text = f"a{chr(code)}b"
    assert violations(lambda r: r.text(text, "reason", 10)) == found
    expected = [] if chr(code) in "\n\r\t" else found
    assert violations(lambda r: r.text(text, "reason", 10, lines=True)) == expected


@pytest.mark.parametrize("text", ["a b", "a\u00e9", "a;b", "a'b", "\u0661", "a\\b"])
def test_a_pattern_holds_for_the_whole_text(text: str) -> None:
    assert violations(lambda r: r.text(text, "tool_id", 10, pattern=NAME)) == [
        ("tool_id", "must consist of [A-Za-z0-9._:/@-]")
    ]
    assert violations(lambda r: r.text("a/b:c@d.e_f-1", "tool_id", 20, pattern=NAME)) == []


@pytest.mark.parametrize("text", ["a", "acme", "a-1_b", "a" * 64])
def test_tenant_ids(text: str) -> None:
    assert Reader.checked_tenant_id(text) == text


@pytest.mark.parametrize("text", ["A", "1a", "-a", "a b", "a\n", "é", "a" * 65, "*"])
def test_what_is_no_tenant_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Reader.checked_tenant_id(text)
    assert refused.value.violations[0].field == "tenant_id"


def test_a_tenant_id_may_be_left_out_unless_required() -> None:
    assert Reader.checked_tenant_id("") == ""
    assert violations(lambda r: r.tenant_id("", required=True)) == [("tenant_id", "is required")]


def test_entries_of_a_list_are_checked_each_by_its_place() -> None:
    reader = Reader()
    assert reader.texts(["a", "b"], "chain", 2, 5) == ("a", "b")
    reader.done()
    assert violations(lambda r: r.texts(["a", "", "b\n", "toolong"], "chain", 4, 5)) == [
        ("chain[1]", "is required"),
        ("chain[2]", "contains a control character"),
        ("chain[3]", "is 7 characters long; at most 5 are accepted"),
    ]
    assert violations(lambda r: r.texts(["a"] * 3, "chain", 2, 5)) == [
        ("chain", "has 3 entries; at most 2 are accepted")
    ]


def test_entries_of_a_map_are_checked_each_by_its_key() -> None:
    reader = Reader()
    assert reader.text_map({"b": "2", "a": ""}, "attributes", 2, 5) == {"a": "", "b": "2"}
    reader.done()
    given = {"a b": "x", "": "x", "k" * 65: "x", "ok": "\x00", "é": "x"}
    found = violations(lambda r: r.text_map(given, "attributes", 5, 5))
    assert [field for field, _ in found] == ["attributes"] * 3 + ["attributes[ok]", "attributes"]
    assert ("attributes[ok]", "contains a control character") in found
    assert f"key '' must be 1 to 64 characters of {KEY.pattern}" in [text for _, text in found]
    assert violations(lambda r: r.text_map({"a": "", "b": ""}, "attributes", 1, 5)) == [
        ("attributes", "has 2 entries; at most 1 are accepted")
    ]


def test_enum_numbers_are_values_that_the_server_knows() -> None:
    values = {1: Role.ADMIN, 2: Role.AGENT}
    reader = Reader()
    assert reader.one_of(2, "role", values) is Role.AGENT
    assert reader.one_of(0, "role", values, Role.ADMIN) is Role.ADMIN
    reader.done()
    assert violations(lambda r: r.one_of(0, "role", values)) == [("role", "is required")]
    assert inverse(values) == {Role.ADMIN: 1, Role.AGENT: 2}


@pytest.mark.parametrize("number", [3, -1, 2**31 - 1])
def test_any_other_enum_number_is_refused(number: int) -> None:
    values = {1: Role.ADMIN, 2: Role.AGENT}
    assert violations(lambda r: r.one_of(number, "role", values, Role.ADMIN)) == [
        ("role", f"{number} is not a value that this server knows")
    ]


def test_a_json_object_is_read_with_whole_numbers_as_integers() -> None:
    given = {
        "text": "é😀\n\u0001",
        "list": [1, 2.5, -0.0, [], {}],
        "object": {"": None, "yes": True},
        "large": [LARGEST, -LARGEST],
    }
    reader = Reader()
    found = reader.json_object(struct_of(given), "input")
    reader.done()
    assert found == given
    assert [type(item) for item in found["list"][:3]] == [int, float, int]


NUMBER = "is beyond 2^53 - 1 or no number; send exact large numbers as text"


@pytest.mark.parametrize(
    "number", [math.nan, math.inf, -math.inf, 2.0**53, -(2.0**53), 1e300], ids=repr
)
def test_numbers_that_a_double_cannot_hold_exactly_are_refused(number: float) -> None:
    assert refused_json({"a": {"b": [1, number]}}) == [("input.a.b[1]", NUMBER)]


def test_a_value_of_no_kind_is_refused() -> None:
    message = struct_of({"a": [1]})
    message.fields["a"].list_value.values.add()
    message.fields["b"].SetInParent()
    assert sorted(refused_json(message)) == [
        ("input.a[1]", "has no value"),
        ("input.b", "has no value"),
    ]


def test_nul_is_refused_in_texts_and_in_names() -> None:
    assert refused_json({"a": ["x\x00"]}) == [("input.a[0]", "contains a NUL character")]
    assert refused_json({"a": {"b\x00": 1}}) == [
        ("input.a", "has a member name with a NUL character")
    ]


def nested(levels: int, *, lists: bool) -> dict[str, Any]:
    """An object of so many levels, itself the first."""
    value: Any = [] if lists else {}
    for _ in range(levels - 2):
        value = [value] if lists else {"a": value}
    return {"a": value}


@pytest.mark.parametrize("lists", [False, True])
def test_an_object_may_be_nested_so_deep_and_no_deeper(*, lists: bool) -> None:
    assert refused_json(nested(MAXIMUM_DEPTH, lists=lists)) == []
    ((field, description),) = refused_json(nested(MAXIMUM_DEPTH + 1, lists=lists))
    assert field == "input.a" + ("[0]" if lists else ".a") * (MAXIMUM_DEPTH - 1)
    assert description == "is nested more than 32 levels deep"


def test_the_size_limit_is_of_the_canonical_form() -> None:
    frame = len('{"a":""}')
    assert refused_json({"a": "x" * (MAXIMUM_JSON_BYTES - frame)}) == []
    assert refused_json({"a": "x" * (MAXIMUM_JSON_BYTES - frame + 1)}) == [
        (
            "input",
            f"is {MAXIMUM_JSON_BYTES + 1} bytes long; at most {MAXIMUM_JSON_BYTES} are accepted",
        )
    ]
    assert refused_json({"a": "\x01" * (MAXIMUM_JSON_BYTES // 6)})[0][0] == "input"


def test_every_violation_is_named_at_once() -> None:
    reader = Reader()
    reader.text("", "agent_id", 10, required=True)
    reader.text("\x00", "user_id", 10)
    reader.json_object(struct_of({"n": math.nan, "t": "\x00"}), "input")
    with pytest.raises(InvalidArgument) as refused:
        reader.done()
    assert {v.field for v in refused.value.violations} == {
        "agent_id",
        "user_id",
        "input.n",
        "input.t",
    }


def test_long_and_odd_names_are_clipped_and_escaped_in_field_paths() -> None:
    ((field, _),) = refused_json({"é\n" + "k" * 100: {"m" * 1000: math.nan}})
    assert field.startswith("input.\\xe9\\nkkk")
    assert field.isascii()
    assert len(field) <= 200


def test_a_field_path_does_not_grow_with_the_names_that_the_caller_chose() -> None:
    """Or each of a million values below would copy a name of half a megabyte."""
    fields: list[str] = []

    class Watched(Reader):
        def _value(self, value: struct_pb2.Value, field: str, depth: int) -> Any:
            fields.append(field)
            return super()._value(value, field, depth)

    Watched().json_object(struct_of({"k" * 100_000: {"l" * 100_000: [1, 2]}}), "input")
    assert len(fields) == 4
    assert max(map(len, fields)) < 250


def test_more_violations_than_a_status_can_carry_are_counted() -> None:
    found = refused_json({"list": [math.nan] * 5000})
    assert found[0] == ("input.list[0]", NUMBER)
    assert found[-1] == ("request", f"there are {5000 - len(found) + 1} more violations")
    assert sum(len(f) + len(d) for f, d in found[:-1]) <= MAXIMUM_VIOLATION_BYTES


def test_times_are_read_to_the_microsecond() -> None:
    found = Reader().moment(timestamp_pb2.Timestamp(seconds=1, nanos=2_999), "at")
    assert found == datetime(1970, 1, 1, 0, 0, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (253402300800, 0), (0, 10**9), (0, -1)]
)
def test_what_is_no_time_is_refused(seconds: int, nanos: int) -> None:
    message = timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)
    assert violations(lambda r: r.moment(message, "at")) == [
        ("at", "is not a time between the years 1 and 9999")
    ]
