import json
import math
import struct
from contextlib import suppress
from typing import Any

import orjson
import pytest

from oars_grpc.core.canonical import canonical_json, sha256_hex, statement_json


@pytest.mark.parametrize(
    ("bits", "written"),
    [
        # RFC 8785 appendix B: IEEE 754 samples and their ECMAScript form.
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_rfc_8785_appendix_b_says(bits: str, written: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number).decode() == written


def test_members_are_sorted_by_utf_16_as_in_rfc_8785_section_3_2_3() -> None:
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical_json(value)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",  # by code point it would come last
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_the_sample_of_rfc_8785_section_3_2_2_has_the_published_bytes() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    assert canonical_json(value) == (
        b'{"literals":[null,true,false],'
        b'"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_control_characters_are_escaped_the_short_way_where_there_is_one() -> None:
    text = "".join(map(chr, range(0x20))) + "\x7f\u2028"
    expected = (
        '"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r'
        "\\u000e\\u000f\\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019"
        '\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f\x7f\u2028"'
    ).encode()
    assert canonical_json(text) == expected
    assert statement_json(text) == expected


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**53, -(2**53), 2**200, "\ud800", {"\udfff": 1}, {1: 2}],
    ids=repr,
)
def test_a_value_without_a_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1])
def test_the_largest_exact_integers_are_accepted_by_both_writers(value: int) -> None:
    assert canonical_json(value) == statement_json(value) == str(value).encode()


@pytest.mark.parametrize("value", [2**53, -(2**53), 2**64, "\ud800", {1: 2}], ids=repr)
def test_a_statement_cannot_carry_what_rfc_8785_cannot(value: Any) -> None:
    with pytest.raises(orjson.JSONEncodeError):
        statement_json(value)


@pytest.mark.parametrize("depth", [250, 260, 400, 900])
def test_nesting_is_written_or_refused_and_nothing_else(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    with suppress(ValueError):
        assert canonical_json(value) == b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_deep_nesting_is_refused_and_does_not_crash(depth: int) -> None:
    value: Any = None
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    with pytest.raises(ValueError, match="deep"):
        canonical_json(value)
    while value:  # taken apart here, or its own deletion would be the deep recursion
        value = value[0] if isinstance(value, list) else value["a"]


def test_digests_are_lower_case_hex_of_sha_256() -> None:
    # FIPS 180-4 example "abc"
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
