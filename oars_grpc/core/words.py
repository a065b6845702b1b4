"""The words of a name, whatever its case, separators and Unicode dress."""

import re
import unicodedata

from oars_grpc.core.lookalikes import read_words

# A word is a run of letters; aBc and ABCd start words of their own.
_RUN = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words(text: str) -> frozenset[str]:
    """The whole words of a name, in lower case.

    Runs of letters count both whole and split at camelCase: `dropTable` says drop, and `dElEtE`
    says delete. An invisible character counts both as nothing and as a space.
    """
    found: set[str] = set()
    for run in _runs(text):
        found.add(run.casefold())
        found.update(part.casefold() for part in _CAMEL.findall(run))
    return frozenset(found)


def whole_runs(text: str) -> frozenset[str]:
    """The runs of letters alone, in lower case, not split at camelCase."""
    return frozenset(run.casefold() for run in _runs(text))


def plain(text: str, instead: str = "") -> str:
    """Compatibility forms resolved; accents, control and invisible characters replaced."""
    if text.isascii() and text.isprintable():
        return text
    # Marks (M*) include the accents and variation selectors, C* the format characters.
    return "".join(
        instead if unicodedata.category(character)[0] in {"C", "M"} else character
        for character in unicodedata.normalize("NFKD", text)
    )


def _runs(text: str) -> list[str]:
    if text.isascii() and text.isprintable():
        return _RUN.findall(text)
    # Letters of other alphabets count both as they are and as the Latin ones that they look like.
    # White space may be a control character, too, between words that have invisible ones inside.
    forms = plain(text), plain(text, instead=" "), plain(" ".join(text.split())), read_words(text)
    return _RUN.findall(" ".join(dict.fromkeys(forms)))
