from typing import Any

import pytest

from oars_grpc.core.identity import Role
from oars_grpc.errors import PermissionDenied
from tests.support.factories import make_principal


def _reason(check: Any, *arguments: str) -> str:
    try:
        check(*arguments)
    except PermissionDenied as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize(
    ("own", "asked", "reason"),
    [
        ({"acme"}, "acme", ""),
        ({"acme", "globex"}, "globex", ""),
        ({"*"}, "anything", ""),
        ({"acme"}, "globex", "TENANT_FORBIDDEN"),
        ({"acme"}, "ACME", "TENANT_FORBIDDEN"),
        ({"acme"}, "acm", "TENANT_FORBIDDEN"),
        ({"acme"}, "", "TENANT_FORBIDDEN"),
        ({"acme"}, "*", "TENANT_FORBIDDEN"),
        (set(), "acme", "TENANT_FORBIDDEN"),
    ],
)
def test_an_identity_enters_its_own_tenants_only(own: set[str], asked: str, reason: str) -> None:
    principal = make_principal(tenant_ids=frozenset(own), role=Role.ADMIN)
    assert _reason(principal.check_tenant, asked) == reason


@pytest.mark.parametrize(
    ("agents", "asked", "reason"),
    [
        (None, "any", ""),
        ({"a-1", "a-2"}, "a-2", ""),
        ({"a-1"}, "a-2", "AGENT_FORBIDDEN"),
        ({"a-1"}, "A-1", "AGENT_FORBIDDEN"),
        ({"a-1"}, "", "AGENT_FORBIDDEN"),
        (set(), "a-1", "AGENT_FORBIDDEN"),
    ],
)
def test_an_identity_speaks_for_its_own_agents_only(
    agents: set[str] | None, asked: str, reason: str
) -> None:
    principal = make_principal(agent_ids=None if agents is None else frozenset(agents))
    assert _reason(principal.check_acts_as, asked, "") == reason


@pytest.mark.parametrize(
    ("users", "asked", "reason"),
    [
        (None, "alice", ""),
        ({"alice"}, "alice", ""),
        (set(), "", ""),
        (set(), "alice", "USER_FORBIDDEN"),
        ({"alice"}, "bob", "USER_FORBIDDEN"),
        ({"alice"}, "Alice", "USER_FORBIDDEN"),
    ],
)
def test_an_identity_acts_for_the_users_that_it_may_act_for(
    users: set[str] | None, asked: str, reason: str
) -> None:
    principal = make_principal(may_act_for_users=None if users is None else frozenset(users))
    assert _reason(principal.check_acts_as, "agent", asked) == reason


def test_nobody_acts_for_users_unless_told_so() -> None:
    assert _reason(make_principal().check_acts_as, "agent", "alice") == "USER_FORBIDDEN"


def test_a_person_is_on_the_asking_side_by_every_name_and_so_is_who_carries_the_token() -> None:
    person = make_principal(
        "oidc:https://idp.example.com#auth0#7",
        carried_by="spiffe://acme/portal",
        aliases=frozenset({"alice@example.com"}),
    )
    assert person.names() == {person.subject, person.service_account_id} - {""}
    assert person.names_of_party() >= {
        "oidc:https://idp.example.com#auth0#7",
        "auth0#7",
        "alice@example.com",
        "spiffe://acme/portal",
    }
    plain = make_principal("spiffe://acme/a#b")
    assert plain.names_of_party() == plain.names()
