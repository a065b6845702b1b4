"""Lists of approvals by filters that no index answers: pages may be short and not the last."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from oars_grpc.core.approval import ApprovalState
from oars_grpc.core.call import Call
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.stored import ApprovalFilter
from oars_grpc.errors import InvalidArgument
from oars_grpc.local.stack import LocalStack
from oars_grpc.storage.engine import open_engine
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.use_cases import approval_lists
from oars_grpc.use_cases.approval_lists import ApprovalLists
from tests.support.client import RISKY, Client, action_body, client_for, submit
from tests.support.identities import add_identity

TENANT = "tenant_lists"
ADMIN = "spiffe://oars.dev/lists-admin"
SLA_SECONDS = 3_000


@dataclass(frozen=True)
class InAnHour:
    """A clock by which every stage with an SLA is past its time."""

    def now(self) -> datetime:
        """The time in an hour."""
        return datetime.now(UTC) + timedelta(hours=1)


@dataclass(frozen=True)
class Asked:
    """Ids of approvals, newest first: those that the admin asked for, and those with an SLA."""

    every: list[str]
    own: set[str]
    timed: set[str]


def ask(client: Client, number: int) -> str:
    body = action_body("transfer_funds", context=RISKY, input={"number": number})
    found: str = submit(client, body)["approval"]["approvalId"]
    return found


@pytest.fixture(scope="module")
def asked(stack: LocalStack) -> Iterator[Asked]:
    with ExitStack() as opened:
        clients = {}
        for role in ("agent", "admin"):
            add_identity(stack, f"lists-{role}", role=role, tenants=[TENANT])
            clients[role] = opened.enter_context(client_for(stack, f"lists-{role}"))
        created = clients["admin"].rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.is_success, created.text
        made, own, timed = [], set(), set()
        for number in range(14):
            has_sla = number in range(4, 9)
            stage = {"name": "approval", "slaSeconds": SLA_SECONDS if has_sla else 0}
            workflow = {"workflowId": "default", "stages": [stage]}
            changed = clients["admin"].rest.patch(
                f"/v1/tenants/{TENANT}", json={"settings": {"workflows": [workflow]}}
            )
            assert changed.is_success, changed.text
            role = "admin" if number in (3, 5, 6, 7, 8, 12) else "agent"
            made.append(ask(clients[role], number))
            if role == "admin":
                own.add(made[-1])
            if has_sla:
                timed.add(made[-1])
        yield Asked(sorted(made, reverse=True), own, timed)


@pytest.fixture
def lists(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApprovalLists]:
    """The use case on the database of the stack; a page looks at three approvals."""
    monkeypatch.setattr(approval_lists, "LOOKED_AT", 3)
    engine = open_engine(
        stack.postgres.url,
        pool_size=1,
        statement_timeout_ms=10_000,
        lock_timeout_ms=10_000,
        application_name="test",
    )
    yield ApprovalLists(ledger=PostgresLedger(engine), tokens=PageTokens(b"s"), clock=InAnHour())
    engine.dispose()


def call_of_admin() -> Call:
    principal = Principal(ADMIN, "ab" * 32, Role.ADMIN, frozenset({TENANT}))
    return Call(principal, "ListApprovals", "request-1")


def pages(lists: ApprovalLists, which: ApprovalFilter, *, mine: bool) -> list[list[str]]:
    found, token = [], ""
    while True:
        page = lists.list(call_of_admin(), "", which, 2, token, lambda _: 1, mine=mine)
        found.append([approval.approval_id for approval in page.approvals])
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize(("mine", "overdue"), [(True, False), (False, True), (True, True)])
def test_short_and_empty_pages_lead_on_until_all_is_told_once(
    asked: Asked, lists: ApprovalLists, *, mine: bool, overdue: bool
) -> None:
    found = pages(lists, ApprovalFilter(overdue=overdue), mine=mine)
    wanted = [
        approval_id
        for approval_id in asked.every
        if not (mine and approval_id in asked.own)
        and not (overdue and approval_id not in asked.timed)
    ]
    assert [approval_id for page in found for approval_id in page] == wanted
    assert any(len(page) < 2 for page in found[:-1]), "no page was short and not the last"
    assert max(map(len, found)) <= 2


def test_without_such_a_filter_only_the_last_page_is_short(
    asked: Asked, lists: ApprovalLists
) -> None:
    found = pages(lists, ApprovalFilter(ApprovalState.PENDING), mine=False)
    assert [approval_id for page in found for approval_id in page] == asked.every
    assert [len(page) for page in found] == [2] * 7


def test_a_token_is_for_its_own_filter_only(asked: Asked, lists: ApprovalLists) -> None:
    def page(token: str, **changes: Any) -> str:
        given = {"mine": True, "overdue": False, **changes}
        which = ApprovalFilter(overdue=given["overdue"])
        listed = lists.list(call_of_admin(), "", which, 2, token, lambda _: 1, mine=given["mine"])
        return listed.next_page_token

    token = page("")
    assert page(token) != token
    for changes in ({"mine": False}, {"overdue": True}):
        with pytest.raises(InvalidArgument):
            page(token, **changes)


@pytest.mark.parametrize(("mine", "overdue"), [(True, False), (False, True)])
def test_what_is_no_longer_pending_is_nobodys_and_never_overdue(
    lists: ApprovalLists, *, mine: bool, overdue: bool
) -> None:
    which = ApprovalFilter(ApprovalState.APPROVED, overdue=overdue)
    with pytest.raises(InvalidArgument):
        lists.list(call_of_admin(), TENANT, which, 2, "", lambda _: 1, mine=mine)
