import pytest

from oars_grpc.core.call import Call, IdempotencyKey, IdempotencyScope, replay
from oars_grpc.core.identity import Role
from oars_grpc.errors import AlreadyExists, InvalidArgument, OarsError, PermissionDenied
from tests.support.factories import make_outcome, make_principal


def call_of(*tenant_ids: str, key: IdempotencyKey | None = None) -> Call:
    principal = make_principal(tenant_ids=frozenset(tenant_ids), role=Role.ADMIN)
    return Call(principal, "SubmitAction", "req-1", key)


@pytest.mark.parametrize(
    ("own", "requested", "found"),
    [
        (("acme",), "", "acme"),
        (("acme",), "acme", "acme"),
        (("acme", "globex"), "globex", "globex"),
        (("*",), "globex", "globex"),
    ],
)
def test_the_tenant_is_the_one_named_or_the_callers_only_one(
    own: tuple[str, ...], requested: str, found: str
) -> None:
    assert call_of(*own).tenant(requested) == found


@pytest.mark.parametrize(
    ("own", "requested", "error"),
    [
        (("acme",), "globex", PermissionDenied),
        ((), "acme", PermissionDenied),
        (("acme", "globex"), "", InvalidArgument),
        (("*",), "", InvalidArgument),
        (("*", "acme"), "", InvalidArgument),
        ((), "", InvalidArgument),
    ],
)
def test_no_other_tenant_is_ever_chosen(
    own: tuple[str, ...], requested: str, error: type[OarsError]
) -> None:
    with pytest.raises(error):
        call_of(*own).tenant(requested)


def test_a_thing_named_by_id_is_searched_in_the_callers_tenants_only() -> None:
    assert call_of("globex", "acme").tenants("") == ("acme", "globex")
    assert call_of("globex", "acme").tenants("acme") == ("acme",)
    assert call_of("*").tenants("acme") == ("acme",)


@pytest.mark.parametrize(
    ("own", "requested", "error"),
    [
        (("acme",), "globex", PermissionDenied),
        ((), "", PermissionDenied),
        (("*",), "", InvalidArgument),
    ],
)
def test_no_search_leaves_the_callers_tenants(
    own: tuple[str, ...], requested: str, error: type[OarsError]
) -> None:
    with pytest.raises(error):
        call_of(*own).tenants(requested)


def test_an_idempotency_key_is_unique_to_tenant_caller_and_rpc() -> None:
    call = call_of("acme", key=IdempotencyKey("k", "f" * 64))
    assert call.scope("acme") == IdempotencyScope(
        "acme", "spiffe://example/agent", "SubmitAction", "k", "f" * 64
    )
    assert call_of("acme").scope("acme") is None


def test_a_replay_repeats_the_first_answer_byte_for_byte() -> None:
    stored = make_outcome(response=b"first")
    answer = replay(stored, stored.scope)
    assert (answer.response, answer.replayed) == (b"first", True)


def test_a_key_used_for_another_request_is_refused() -> None:
    stored = make_outcome()
    other = call_of("acme", key=IdempotencyKey("key-1", "0" * 64)).scope("acme")
    assert other is not None
    with pytest.raises(AlreadyExists) as refused:
        replay(stored, other)
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
