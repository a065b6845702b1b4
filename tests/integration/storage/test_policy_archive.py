"""Archived policies as they are stored."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from oars_grpc.core.ports import Registry
from oars_grpc.core.stored import PolicyState, StoredPolicy
from oars_grpc.storage import tables
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.factories import NOW, TENANT, make_policy

ADMIN = "spiffe://example/admin"


@pytest.fixture
def store(engine: Engine) -> PostgresRegistryStore:
    return PostgresRegistryStore(engine)


def stored(store: PostgresRegistryStore, *, published: bool) -> StoredPolicy:
    def work(registry: Registry) -> StoredPolicy:
        policy = registry.insert_policy(make_policy())
        if published:
            registry.publish(TENANT, policy.policy_id, ADMIN, NOW)
        return policy

    return store.run(TENANT, work)


def archived(store: PostgresRegistryStore, policy: StoredPolicy) -> StoredPolicy:
    store.run(TENANT, lambda registry: registry.archive(TENANT, policy.policy_id, ADMIN, NOW))
    return replace(policy, state=PolicyState.ARCHIVED, archived_at=NOW, archived_by=ADMIN)


def test_an_archived_policy_is_read_as_such_and_listed_only_where_asked_for(
    store: PostgresRegistryStore,
) -> None:
    kept, away = stored(store, published=False), stored(store, published=False)
    expected = archived(store, away)
    assert store.find_policy([TENANT], away.policy_id) == expected
    assert store.run(TENANT, lambda registry: registry.policy(TENANT, away.policy_id)) == expected
    assert store.find_policy([TENANT], kept.policy_id) == kept
    everything = store.list_policies(TENANT, 0, 10, archived=True)
    assert [policy.version for policy in everything] == [3, 2, 1]
    assert everything[0] == replace(expected, document=None)
    listed = store.list_policies(TENANT, 0, 10, archived=False)
    assert [policy.version for policy in listed] == [2, 1]


def test_a_page_is_as_long_as_asked_whatever_is_archived(store: PostgresRegistryStore) -> None:
    for number in range(6):
        policy = stored(store, published=False)
        if number % 2:
            archived(store, policy)
    page = store.list_policies(TENANT, 0, 3, archived=False)
    assert [policy.version for policy in page] == [6, 4, 2]


def test_the_history_of_publications_leaves_archived_policies_out(
    store: PostgresRegistryStore,
) -> None:
    first, second, third = (stored(store, published=True).policy_id for _ in range(3))

    def history() -> list[str]:
        return list(store.run(TENANT, lambda registry: registry.publication_history(TENANT)))

    builtin = history()[0]
    assert history() == [builtin, first, second, third]
    store.run(TENANT, lambda registry: registry.archive(TENANT, second, ADMIN, NOW))
    assert history() == [builtin, first, third]


def test_there_is_no_way_back_from_the_archive(
    engine: Engine, store: PostgresRegistryStore
) -> None:
    archived(store, stored(store, published=False))
    table = tables.policy_archive
    for statement in (delete(table), update(table).values(archived_by="nobody")):
        with engine.begin() as connection:
            connection.execute(text("SELECT set_config('oars.tenants', :t, true)"), {"t": TENANT})
            with pytest.raises(DBAPIError, match="permission denied"):
                connection.execute(statement)


def test_a_policy_is_archived_once_and_only_in_its_tenant(store: PostgresRegistryStore) -> None:
    policy = stored(store, published=False)
    archived(store, policy)
    with pytest.raises(IntegrityError):
        archived(store, policy)
    with pytest.raises(IntegrityError):
        store.run(
            "globex", lambda registry: registry.archive("globex", policy.policy_id, ADMIN, NOW)
        )
