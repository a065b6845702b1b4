"""How a name is dressed up never lowers its class: case, Unicode forms, separators, company."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oars_grpc.core.operation_class import OperationClass, classify_operation

SEVERITY = {kind: rank for rank, kind in enumerate(OperationClass)}
SEVERE_WORDS = """delete deletes deletion remove removal drop dropped purge truncate wipe rm kill
    transfer refund pay payment charge grant revoke admin superuser token key role execute exec run
    deploy shell invoke restart"""
SEVERE = SEVERE_WORDS.split()
# Words that mean something else than the severe one that they hold.
ORDINARY = {"skill", "skills", "preset", "presets", "swipe", "swipes", "backdrop"}
MILD = ["get", "list", "read", "update", "create", "set", "send", "add", "search", "load", "post"]
NEUTRAL = ["frobnicate", "ticket", "item"]
LONG = [word for word in SEVERE if len(word) >= 4]
SEPARATORS = ["_", "-", ".", "/", ":", " ", "__", "\t", "2", "\u2010", "\u3000"]
INVISIBLE = ["\u200b", "\u00ad", "\ufe0f", "\u0301", "\u2060"]

names = st.lists(st.sampled_from(MILD + NEUTRAL + SEVERE), min_size=1, max_size=4)


def severity(operation: str) -> int:
    return SEVERITY[classify_operation(operation)[0]]


@st.composite
def dressed(draw: st.DrawFn, word: str) -> str:
    """The same word in another case, in wide letters, with invisible characters strewn in."""
    letters = []
    for letter in word:
        shown = letter.upper() if draw(st.booleans()) else letter
        if draw(st.integers(0, 4)) == 0:
            shown = chr(ord(shown) + 0xFEE0)  # fullwidth
        if draw(st.integers(0, 6)) == 0:
            shown += draw(st.sampled_from(INVISIBLE))
        letters.append(shown)
    return "".join(letters)


@settings(max_examples=500, deadline=None)
@given(names, st.data())
def test_case_unicode_and_separators_never_lower_the_class(
    name: list[str], data: st.DataObject
) -> None:
    parts = [data.draw(dressed(word)) for word in name]
    gaps = [data.draw(st.sampled_from(SEPARATORS)) for _ in parts]
    other = "".join(part + gap for part, gap in zip(parts, gaps, strict=True))
    assert severity(other) >= severity("_".join(name))


@settings(max_examples=300, deadline=None)
@given(names, names)
def test_words_beside_a_name_never_lower_its_severe_class(name: list[str], more: list[str]) -> None:
    alone, together = severity("_".join(name)), severity("_".join([*more, *name]))
    if alone > SEVERITY[OperationClass.UNKNOWN]:
        assert together >= alone


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(LONG),
    st.text("abcdefghijklmnopqrstuvwxyz", max_size=12),
    st.text("abcdefghijklmnopqrstuvwxyz", max_size=12),
)
def test_letters_around_a_severe_word_do_not_hide_it(word: str, before: str, after: str) -> None:
    """But for ordinary words, such as those with `script` inside; none of these words has one."""
    assume(before + word + after not in ORDINARY)
    assert severity(f"update_{before}{word}{after}") >= severity(word)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MILD), max_size=2), st.sampled_from(SEVERE))
def test_known_words_run_together_with_a_severe_one_do_not_hide_it(
    mild: list[str], word: str
) -> None:
    joined = "".join([*mild, word])
    assert severity(f"update_{joined}") >= severity(word)
    assert severity(joined) >= severity(word)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=128))
def test_any_name_has_a_class(operation: str) -> None:
    assert classify_operation(operation)[0] in OperationClass
