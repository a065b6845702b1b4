"""Listings of large items, page by page to the end: REST over HTTP/1.1 and HTTP/2, and gRPC."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from oars_grpc.core.page_token import DEFAULT_PAGE_SIZE, MAXIMUM_PAGE_BYTES, MAXIMUM_PAGE_SIZE
from oars_grpc.generated.oars.v1 import action_pb2, receipt_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity

TENANT = "tenant_pages"
MEBIBYTE = 2**20
SAFE = {"environment": "staging", "dataTypes": ["none"]}
# As wide as an action may be: 16 attributes and a target, of four bytes each character.
WIDE = action_body(
    resource={"toolId": "desk", "operation": "create_ticket", "target": "\U0001f512" * 1024},
    context={
        **SAFE,
        "attributes": {f"attribute-{number}": "\U0001f512" * 256 for number in range(16)},
    },
)
# Few bytes, but in JSON each character is an escape of six.
ESCAPED = action_body(
    context={**SAFE, "attributes": {f"attribute-{number}": "<" * 256 for number in range(16)}}
)
WIDE_ACTIONS, ESCAPED_ACTIONS = 60, 80
ACTIONS = WIDE_ACTIONS + ESCAPED_ACTIONS


@pytest.fixture(scope="module")
def pages_admin(stack: LocalStack) -> Iterator[Client]:
    """An administrator whose tenant has many large actions, and two receipts for each."""
    add_identity(stack, "pages-agent", role="agent", tenants=[TENANT])
    add_identity(stack, "pages-admin", role="admin", tenants=[TENANT])
    with client_for(stack, "pages-admin") as admin, client_for(stack, "pages-agent") as agent:
        created = admin.rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.status_code in (200, 409), created.text
        for _ in range(WIDE_ACTIONS):
            submit(agent, WIDE)
        for _ in range(ESCAPED_ACTIONS):
            submit(agent, ESCAPED)
        yield admin


def rest_pages(
    rest: httpx.Client, listing: str, id_field: str, page_size: int
) -> Iterator[tuple[list[str], int]]:
    """For each page the ids on it and the bytes of its JSON."""
    token = ""
    while True:
        answer = rest.get(f"/v1/{listing}", params={"pageSize": page_size, "pageToken": token})
        assert answer.status_code == 200, answer.text[:500]
        body = answer.json()
        yield [item[id_field] for item in body[listing]], len(answer.content)
        token = body["nextPageToken"]
        if not token:
            return


def all_ids(pages: Iterator[tuple[list[str], int]]) -> list[str]:
    found = list(pages)
    assert all(ids for ids, _ in found), "no page is empty"
    assert len(found) > 1, "the listing needs several pages"
    return [item for ids, _ in found for item in ids]


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("page_size", [0, MAXIMUM_PAGE_SIZE])
@pytest.mark.parametrize(
    ("listing", "id_field", "count"),
    [("actions", "actionId", ACTIONS), ("receipts", "receiptId", 2 * ACTIONS)],
)
def test_rest_pages_have_every_item_once(
    stack: LocalStack,
    pages_admin: Client,
    listing: str,
    id_field: str,
    count: int,
    page_size: int,
    *,
    http2: bool,
) -> None:
    with stack.client("pages-admin", http2=http2) as rest:
        pages = list(rest_pages(rest, listing, id_field, page_size))
    # Cut by count alone, a page would be more than a mebibyte.
    largest = max(size / len(ids) for ids, size in pages)
    assert largest * min(page_size or DEFAULT_PAGE_SIZE, count) > MEBIBYTE
    ids = all_ids(iter(pages))
    assert len(ids) == len(set(ids)) == count


@pytest.mark.parametrize("http2", [False, True])
def test_a_page_of_escapes_passes_although_its_json_is_many_times_its_bytes(
    stack: LocalStack, pages_admin: Client, *, http2: bool
) -> None:
    with stack.client("pages-admin", http2=http2) as rest:
        newest, size = next(rest_pages(rest, "actions", "actionId", MAXIMUM_PAGE_SIZE))
    assert len(newest) > DEFAULT_PAGE_SIZE
    assert size > 4 * MAXIMUM_PAGE_BYTES


def test_grpc_pages_have_every_item_once_and_stay_below_the_bound(pages_admin: Client) -> None:
    def walk(
        call: Callable[[str], Any], field: str, id_field: str
    ) -> Iterator[tuple[list[str], int]]:
        token = ""
        while True:
            page = call(token)
            items = getattr(page, field)
            assert sum(item.ByteSize() for item in items) <= MAXIMUM_PAGE_BYTES
            yield [getattr(item, id_field) for item in items], page.ByteSize()
            token = page.next_page_token
            if not token:
                return

    actions = all_ids(
        walk(
            lambda token: pages_admin.actions.ListActions(
                action_pb2.ListActionsRequest(page_token=token, page_size=MAXIMUM_PAGE_SIZE)
            ),
            "actions",
            "action_id",
        )
    )
    assert len(actions) == len(set(actions)) == ACTIONS
    assert actions == sorted(actions, reverse=True)
    receipts = all_ids(
        walk(
            lambda token: pages_admin.receipts.ListReceipts(
                receipt_pb2.ListReceiptsRequest(page_token=token, page_size=MAXIMUM_PAGE_SIZE)
            ),
            "receipts",
            "receipt_id",
        )
    )
    assert len(receipts) == len(set(receipts)) == 2 * ACTIONS
