"""Text of others for a terminal: nothing in it moves, hides, turns round or colours what is read.

Whoever asks for an action chooses names, targets and inputs. Sent to a terminal as they are, they
could paint over what an approver reads, or show it in another order than it has (Trojan Source,
CVE-2021-42574).
"""

import json
import unicodedata
from typing import Any

from oars_grpc.core import folding
from oars_grpc.core.lookalikes import read_words

_BLANK_SYMBOL = "\u2800"  # a Braille pattern without dots
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    r"""The text on one line, each character that is no visible one written as \u{…}.

    A backslash is doubled, so that nobody can write an escape that is none.
    """
    return _escaped(text.replace("\\", "\\\\"))


def visible_json(value: Any) -> str:
    """Indented JSON of everything that is in the value, visible alike; JSON escapes backslashes."""
    written = json.dumps(value, ensure_ascii=False, indent=2)
    return "\n".join(map(_escaped, written.split("\n")))


def with_reading(text: str) -> str:
    """The visible text and, where its letters are not what they look like, what it reads like."""
    read, plain = read_words(text), folding.fold(text)
    shown = visible(text)
    return shown if read == plain else f"{shown}  (!) other letters, drawn like {visible(read)}"


def _escaped(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    category = unicodedata.category(character)
    blank = character == _BLANK_SYMBOL or (category == "Zs" and character != " ")
    if category in _UNSEEN or blank or not folding.visible(character):
        return f"\\u{{{ord(character):04x}}}"
    return character
