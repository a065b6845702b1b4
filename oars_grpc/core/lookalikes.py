"""What a name looks like to a person: letters of other alphabets that are drawn as Latin ones.

Compatibility forms are resolved by folding already (`folding.py`). `drop` in Cyrillic letters is
another name all the same, and tools, models and people may take it for `drop`. So a name that
reads like one that a policy asks about is taken neither for it nor for a stranger: the rule is in
doubt, and indeterminate (`disguise.py`). Separators and case do not tell names apart here:
`dropDatabase`, `drop-database` and `drop_database` read alike.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

from oars_grpc.core.folding import fold

# For a letter what is drawn like it in lower case, Cyrillic, Greek, Armenian, Cherokee and Lisu (a
# selection of the Unicode confusables of UTS 39), after case folding, which takes Cherokee up.
# Letters that resemble two, such as eta, are left out: `skeleton` lets them stand for any.
_ALIKE = {
    "a": "\u0430\u03b1\u0251\u13aa\ua4ee",
    "b": "\u0432\u03b2\u044c\u13cf\ua4d0",
    "c": "\u0441\u0188\u13df\ua4da",
    "d": "\u0501\u13a0\ua4d3",
    "e": "\u0435\u0451\u03b5\u04bd\u13ac\ua4f0",
    "f": "\u0192\u0584\ua4dd",
    "g": "\u050d\u0581\u13c0\ua4d6",
    "h": "\u04bb\u043d\u0570\u13bb\ua4e7",
    "i": "\u0456\u0457\u03b9\u0131\u04cf\ua4f2",
    "j": "\u0458\u03f3\u0575\u13ab\ua4d9",
    "k": "\u043a\u03ba\u13e6\ua4d7",
    "l": "\u217c\u01c0\u13de\ua4e1",
    "m": "\u043c\u13b7\ua4df",
    "n": "\u043f\u0578\u057c\ua4e0",
    "o": "\u043e\u03bf\u0585\u13a4\ua4f3",
    "p": "\u0440\u03c1\u0580\u13e2\ua4d1",
    "q": "\u051b\u0566",
    "r": "\u0433\u0155\u13a1\u13d2\ua4e3",
    "s": "\u0455\u13da\ua4e2",
    "t": "\u0442\u03c4\u13a2\ua4d4",
    "u": "\u057d\u03c5\ua4f4",
    "v": "\u0475\u13d9\ua4e6",
    "w": "\u051d\u03c9\u0461\u13b3\u13d4\ua4ea",
    "x": "\u0445\u03c7\ua4eb",
    "y": "\u0443\u03b3\u04af\u13a9\ua4ec",
    "z": "\u0290\u13c3\ua4dc",
    "/": "\u2044\u2215",
    "*": "\u2217\u204e\u066d",
}
_LATIN: Final = {alike: letter for letter, alikes in _ALIKE.items() for alike in alikes}
_LATIN_NAME = re.compile(r"LATIN .*?\b([A-Z])\b(?: WITH .*)?")
_SEPARATORS = re.compile(r"[\W_]+")
_WORD = re.compile(r"[^\W\d_]+")
_BESIDE_LATIN = ("CJK ", "HIRAGANA ", "KATAKANA", "HANGUL ", "BOPOMOFO ")
ANY = "?"


@lru_cache(maxsize=4096)
def reading(folded: str) -> str:
    """A folded text as a person may read it; it is itself if it is ASCII."""
    if folded.isascii():
        return folded
    return "".join(map(_read, unicodedata.normalize("NFKD", folded)))


def _read(character: str) -> str:
    if character.isascii():
        return character
    if character in _LATIN:
        return _LATIN[character]
    category = unicodedata.category(character)
    if category[0] == "M":  # accents, strokes laid over letters
        return ""
    if category in {"Pd", "Pc"}:
        return "-" if category == "Pd" else "_"
    found = _LATIN_NAME.fullmatch(unicodedata.name(character, ""))
    return found[1].lower() if found else character


@lru_cache(maxsize=4096)
def skeleton(folded: str) -> str:
    """What names that read alike have in common: their letters and digits, read as Latin ones.

    In a name that has Latin letters a foreign one that resembles none, or several, may stand for
    any (`?`). A name wholly in another alphabet keeps its letters.
    """
    letters = _SEPARATORS.sub("", reading(folded))
    if letters.isascii() or not any("a" <= letter <= "z" for letter in letters):
        return letters
    return "".join(letter if letter.isascii() else ANY for letter in letters)


def could_be(shape: str, other: str) -> bool:
    """Whether a skeleton with letters that may stand for any could be another one."""
    return len(shape) == len(other) and all(
        mine in {ANY, theirs} for mine, theirs in zip(shape, other, strict=True)
    )


def unreadable(text: str) -> bool:
    """Whether a word mixes Latin letters with ones of another alphabet that resemble none of them.

    Chinese, Japanese and Korean letters do stand beside Latin ones in honest names, and are unlike.
    """
    for word in _WORD.findall(read_words(text)):
        foreign = [letter for letter in word if not letter.isascii()]
        if len(foreign) < len(word) and not all(map(_may_stand_beside, foreign)):
            return True
    return False


def _may_stand_beside(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(_BESIDE_LATIN)


def read_words(text: str) -> str:
    """A text of any spelling as a person may read it."""
    return reading(fold(text))
