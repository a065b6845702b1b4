"""Pages: how long one is, and the token that leads to the next.

Tokens are opaque, tamper-evident, and good only for the listing that issued them:
base64url( HMAC-SHA-256(secret, listing || 0x00 || cursor)[:16] || cursor )
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import TypeVar

from oars_grpc.errors import InvalidArgument

_TAG_BYTES = 16
DEFAULT_PAGE_SIZE = 50
MAXIMUM_PAGE_SIZE = 200
# A page is held whole on its way: by the server, by Envoy, which writes it as JSON within a buffer
# of 4 MiB (up to six times the bytes, where every character needs an escape), by the client.
MAXIMUM_PAGE_BYTES = 384 * 1024
Item = TypeVar("Item")


def page_limit(page_size: int) -> int:
    """The number of items to read for a requested page size.

    Raises:
        InvalidArgument: negative or over the maximum.
    """
    if not 0 <= page_size <= MAXIMUM_PAGE_SIZE:
        raise InvalidArgument.of("page_size", f"must be from 0 to {MAXIMUM_PAGE_SIZE}")
    return page_size or DEFAULT_PAGE_SIZE


def take_page(
    found: Sequence[Item], limit: int, weigh: Callable[[Item], int]
) -> tuple[tuple[Item, ...], bool]:
    """The items of `found` that make one page, and whether any are left for the next.

    A page has at most `limit` items and ends before the one that would take it over
    `MAXIMUM_PAGE_BYTES`; the first item is always on it, or a listing would never get past it.
    `weigh` tells the bytes that an item takes.
    """
    page: list[Item] = []
    weight = 0
    for item in found[:limit]:
        weight += weigh(item)
        if page and weight > MAXIMUM_PAGE_BYTES:
            break
        page.append(item)
    return tuple(page), len(page) < len(found)


class PageTokens:
    """Issues and reads tokens under a secret that all replicas share."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, listing: str, cursor: str) -> str:
        """The token that continues `listing` (rpc, tenant and filter) after `cursor`."""
        body = cursor.encode()
        return base64.urlsafe_b64encode(self._tag(listing, body) + body).decode().rstrip("=")

    def read(self, listing: str, token: str, *, field: str = "page_token") -> str:
        """The cursor of a token, which came in `field`; the empty one starts at the beginning.

        Raises:
            InvalidArgument: not a token of this listing.
        """
        if not token:
            return ""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._refused(field) from error
        # b64decode overlooks unused bits and a second alphabet: only one spelling is ours.
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != token:
            raise self._refused(field)
        tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(listing, body)):
            raise self._refused(field)
        return body.decode()

    def _tag(self, listing: str, body: bytes) -> bytes:
        message = listing.encode() + b"\x00" + body
        return hmac.new(self._secret, message, hashlib.sha256).digest()[:_TAG_BYTES]

    @staticmethod
    def _refused(field: str) -> InvalidArgument:
        return InvalidArgument.of(field, "is not a token of this list and filter")
