"""Text of others is shown so that nothing in it acts on the terminal or on the reader."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.cli.visible_text import visible, visible_json, with_reading


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Größe 金額", "Größe 金額"),
        ("a\nb\tc\x7f", r"a\u{000a}b\u{0009}c\u{007f}"),
        ("\x1b[2J\x9b", r"\u{001b}[2J\u{009b}"),
        ("a\u202eb\u2066c\u200fd", r"a\u{202e}b\u{2066}c\u{200f}d"),
        ("a\u00a0b\u2003c\u2028d\u2800", r"a\u{00a0}b\u{2003}c\u{2028}d\u{2800}"),
        ("a\u3164\u115f\ufe0f\U000e0041", r"a\u{3164}\u{115f}\u{fe0f}\u{e0041}"),
        ("\ue000\u0378", r"\u{e000}\u{0378}"),
        (r"\u{202e} C:\x", r"\\u{202e} C:\\x"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
@settings(deadline=None)
def test_two_texts_are_never_shown_alike_and_all_of_it_prints(text: str) -> None:
    shown = visible(text)
    assert all(
        character == " " or unicodedata.category(character)[0] not in "CZ" for character in shown
    )
    units = shown.replace("\\\\", "\\u{5c}").split("\\u{")
    read = units[0] + "".join(
        chr(int(code, 16)) + rest for code, _, rest in (unit.partition("}") for unit in units[1:])
    )
    assert read == text


def test_json_is_shown_whole_over_lines_of_its_own_only() -> None:
    value = {"a\u202e": ["x\ny", {"\x1b": 1.5}], "b": "\\u{202e}"}
    shown = visible_json(value)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert '"a\\u{202e}": [' in shown
    assert '"x\\ny"' in shown
    assert '"\\u001b": 1.5' in shown
    assert '"b": "\\\\u{202e}"' in shown
    assert json.loads(visible_json({"a": [1, 2.5, None, True, "ü"]})) == {
        "a": [1, 2.5, None, True, "ü"]
    }


def test_letters_that_are_drawn_like_others_are_pointed_out() -> None:
    assert with_reading("drop_table") == "drop_table"
    assert with_reading("Drop Table") == "Drop Table"
    assert with_reading("dr\u043ep") == "dr\u043ep  (!) other letters, drawn like drop"
