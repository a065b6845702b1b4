import base64

import pytest

from oars_grpc.core.page_token import (
    DEFAULT_PAGE_SIZE,
    MAXIMUM_PAGE_BYTES,
    MAXIMUM_PAGE_SIZE,
    PageTokens,
    page_limit,
    take_page,
)
from oars_grpc.errors import InvalidArgument

TOKENS = PageTokens(b"secret of all replicas")
LISTING = "actions acme state=approved"
TOKEN = TOKENS.issue(LISTING, "act_01")


def refused(listing: str, token: str, tokens: PageTokens = TOKENS) -> bool:
    try:
        tokens.read(listing, token)
    except InvalidArgument as error:
        return [v.field for v in error.violations] == ["page_token"]
    return False


@pytest.mark.parametrize("cursor", ["", "0", "act_01fwhe4ydgfk1shh6w1g60eecf", "ö€😀", "x" * 300])
def test_a_token_continues_its_listing(cursor: str) -> None:
    token = TOKENS.issue(LISTING, cursor)
    assert TOKENS.read(LISTING, token) == cursor
    assert token.isascii()
    assert not set(token) & set("=+/ ")


def test_no_token_begins_at_the_beginning() -> None:
    assert TOKENS.read(LISTING, "") == ""


def test_replicas_with_the_same_secret_read_each_others_tokens() -> None:
    assert PageTokens(b"secret of all replicas").read(LISTING, TOKEN) == "act_01"


@pytest.mark.parametrize(
    "listing",
    [
        "",
        "actions globex state=approved",
        "actions acme state=denied",
        "receipts acme",
        LISTING + " ",
    ],
)
def test_a_token_of_another_listing_is_refused(listing: str) -> None:
    assert refused(listing, TOKEN)


def test_a_token_under_another_secret_is_refused() -> None:
    assert refused(LISTING, TOKEN, PageTokens(b"another secret"))
    assert refused(LISTING, TOKEN, PageTokens(b""))


def test_no_changed_character_of_a_token_goes_unnoticed() -> None:
    for position in range(len(TOKEN)):
        for other in "AZaz09-_+/=.é\n":
            changed = TOKEN[:position] + other + TOKEN[position + 1 :]
            assert changed == TOKEN or refused(LISTING, changed), changed


def test_no_token_cut_or_extended_goes_unnoticed() -> None:
    for length in range(1, len(TOKEN)):
        assert refused(LISTING, TOKEN[:length])
    for extra in ("A", "=", "==", "AA", "AAAA", "\n", " "):
        assert refused(LISTING, TOKEN + extra)


def test_there_is_one_spelling_of_a_token() -> None:
    """Base64 has unused bits and two alphabets; a second spelling is not one of ours."""
    for cursor in ("a", "ab", "abc", "\u07ff\u07ff"):
        token = TOKENS.issue(LISTING, cursor)
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            other = token[:-1] + last
            padded = other + "=" * (-len(other) % 4)
            if other != token and base64.urlsafe_b64decode(padded) == raw:
                assert refused(LISTING, other)
        standard = base64.b64encode(raw).decode().rstrip("=")
        assert standard == token or refused(LISTING, standard)


@pytest.mark.parametrize("token", ["x", "!!!!", "AAAA", "A" * 10_000, "\x00", "😀", "act_01"])
def test_garbage_is_refused(token: str) -> None:
    assert refused(LISTING, token)


@pytest.mark.parametrize(
    ("asked", "limit"),
    [(0, DEFAULT_PAGE_SIZE), (1, 1), (MAXIMUM_PAGE_SIZE, MAXIMUM_PAGE_SIZE)],
)
def test_a_page_has_the_size_asked_for_or_the_default(asked: int, limit: int) -> None:
    assert page_limit(asked) == limit


@pytest.mark.parametrize("asked", [-1, MAXIMUM_PAGE_SIZE + 1, 2**31 - 1, -(2**31)])
def test_any_other_page_size_is_refused_by_name(asked: int) -> None:
    with pytest.raises(InvalidArgument) as error:
        page_limit(asked)
    assert [v.field for v in error.value.violations] == ["page_size"]


@pytest.mark.parametrize(
    ("weights", "limit", "page", "more"),
    [
        ([], 3, 0, False),
        ([1, 1], 3, 2, False),
        ([1, 1, 1], 3, 3, False),
        ([1, 1, 1, 1], 3, 3, True),  # one more than asked for: there is a next page
        ([MAXIMUM_PAGE_BYTES - 1, 1, 0], 9, 3, False),
        ([MAXIMUM_PAGE_BYTES - 1, 2], 9, 1, True),
        ([MAXIMUM_PAGE_BYTES + 1], 9, 1, False),  # the first is always on the page
        ([MAXIMUM_PAGE_BYTES * 9, 1], 9, 1, True),
        ([1, MAXIMUM_PAGE_BYTES, 1], 9, 1, True),  # no item is left out for a smaller one
    ],
)
def test_a_page_ends_at_its_limit_or_before_it_grows_too_heavy(
    weights: list[int], limit: int, page: int, *, more: bool
) -> None:
    items = list(enumerate(weights))
    assert take_page(items, limit, lambda item: item[1]) == (tuple(items[:page]), more)
