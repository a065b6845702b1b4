"""Hypothesis strategies of JSON values, shared by property tests."""

from typing import Any

from hypothesis import strategies as st

MAXIMUM_INTEGER = 2**53 - 1

# What UTF-8 can carry: everything but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ascii_names = st.text(st.characters(max_codepoint=127), max_size=12)
safe_integers = st.integers(-MAXIMUM_INTEGER, MAXIMUM_INTEGER)
plain_scalars = st.none() | st.booleans() | safe_integers | texts


def json_values(names: st.SearchStrategy[str], scalars: st.SearchStrategy[Any]) -> Any:
    """Nested JSON values with the given member names and scalars."""
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5),
        max_leaves=20,
    )


# The profile of statements: ASCII member names, no floats, |integer| < 2^53.
restricted_values = json_values(ascii_names, plain_scalars)
finite_numbers = st.floats(allow_nan=False, allow_infinity=False)
any_json_values = json_values(texts, plain_scalars | finite_numbers)
