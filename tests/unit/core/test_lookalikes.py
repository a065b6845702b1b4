import pytest

from oars_grpc.core.folding import fold
from oars_grpc.core.lookalikes import _ALIKE, could_be, reading, skeleton


@pytest.mark.parametrize("letter", _ALIKE)
def test_every_lookalike_reads_as_its_letter_after_folding(letter: str) -> None:
    for alike in _ALIKE[letter]:
        assert reading(fold(f"x{alike}y")) == f"x{letter}y", hex(ord(alike))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Drop_Database", "drop_database"),
        ("d\u0433\u043e\u0440", "drop"),
        ("dro\u0301p", "drop"),
        ("d\u0336r\u0336o\u0336p\u0336", "drop"),  # struck through
        ("l\u00f8schen", "loschen"),
        ("drop\u2010table", "drop-table"),
        ("\u4f5c\u6210", "\u4f5c\u6210"),
    ],
)
def test_texts_read_as_latin_ones(text: str, read: str) -> None:
    assert reading(fold(text)) == read


def test_names_that_read_alike_share_their_skeleton() -> None:
    spellings = ["drop_database", "Drop-Database", "dropDatabase", "drop.database", "DROP DATABASE"]
    assert {skeleton(fold(name)) for name in spellings} == {"dropdatabase"}
    assert skeleton(fold("d\u05e1op_database")) == "d?opdatabase"
    assert skeleton("\u4f5c\u6210") == "\u4f5c\u6210"


def test_an_unreadable_letter_may_stand_for_any_one() -> None:
    assert could_be("d?op", "drop")
    assert not could_be("d?op", "drops")
    assert not could_be("d?op", "crop")
