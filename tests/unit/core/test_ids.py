from uuid import UUID

import pytest
from uuid6 import uuid7

from oars_grpc.core import ids
from oars_grpc.core.ids import format_id, parse_id
from oars_grpc.errors import InvalidArgument

# RFC 9562 appendix A.6: the example of a UUIDv7.
EXAMPLE = UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
EXAMPLE_ID = "act_01fwhe4ydgfk1shh6w1g60eecf"


def test_the_example_of_rfc_9562_has_its_crockford_form() -> None:
    assert format_id("act", EXAMPLE) == EXAMPLE_ID
    assert parse_id("act", EXAMPLE_ID, "action_id") == EXAMPLE_ID


@pytest.mark.parametrize("prefix", [ids.ACTION, ids.APPROVAL, ids.POLICY, ids.RECEIPT])
def test_ids_of_every_kind_are_read_back(prefix: str) -> None:
    for _ in range(200):
        text = format_id(prefix, uuid7())
        assert len(text) == len(prefix) + 1 + 26
        assert parse_id(prefix, text, "id") == text


def test_later_ids_sort_later() -> None:
    made = [format_id("act", uuid7()) for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE_ID.upper(),
        EXAMPLE_ID.replace("act", "apr"),
        EXAMPLE_ID.replace("act_", ""),
        EXAMPLE_ID.replace("act_", "act-"),
        EXAMPLE_ID.replace("act_", "act__"),
        EXAMPLE_ID[:-1],
        EXAMPLE_ID + "0",
        EXAMPLE_ID + "\n",
        " " + EXAMPLE_ID,
        "act_8" + EXAMPLE_ID[5:],  # a 129th bit
        "act_" + "o" + EXAMPLE_ID[5:],  # Crockford reads o as 0; here there is one spelling
        "act_" + "\u0660" + EXAMPLE_ID[5:],  # a digit to Unicode
        str(EXAMPLE),
        format_id("act", UUID(int=0)),
        format_id("act", UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")),  # version 4
        format_id("act", UUID(int=EXAMPLE.int & ~(3 << 62))),  # version 7 of another variant
        "act_",
        "_",
    ],
)
def test_every_other_spelling_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_id("act", text, "action_id")
    (violation,) = refused.value.violations
    assert violation.field == "action_id"
    assert violation.description == "must be act_ and 26 characters of a UUIDv7"


def test_a_missing_id_is_told_from_a_wrong_one() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_id("act", "", "action_id")
    assert refused.value.violations[0].description == "is required"
