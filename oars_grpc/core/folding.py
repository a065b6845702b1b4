"""The form in which names compare, whatever their case, width and Unicode dress."""

import unicodedata
from itertools import chain

# Characters that show nothing and are not of category Cf (Unicode DerivedCoreProperties,
# Default_Ignorable_Code_Point): fillers, joiners and variation selectors.
_INVISIBLE = frozenset(
    map(chr, chain([0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0], range(0x180B, 0x1810)))
) | frozenset(map(chr, chain(range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))))


def visible(text: str) -> str:
    """The text in NFKC without control, format and other invisible characters."""
    return "".join(
        character
        for character in unicodedata.normalize("NFKC", text)
        if unicodedata.category(character) not in {"Cc", "Cf"} and character not in _INVISIBLE
    )


def fold(text: str) -> str:
    """The form in which names compare: NFKC, caseless, without invisible characters."""
    if text.isascii() and text.isprintable():
        return text.lower()
    return visible(visible(text).casefold())
