"""Tenants, keys, policies and their publication."""

from dataclasses import replace
from datetime import timedelta
from threading import Barrier, Thread

import pytest
from sqlalchemy import Engine, event

from oars_grpc.core.call import StoredOutcome
from oars_grpc.core.keys import KeyState
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.ports import ReceiptStore, Registry, RegistryStore
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.stored import PolicyState, StoredPolicy
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.errors import NotFound
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistry, PostgresRegistryStore
from tests.support.database import check_ledger, execute
from tests.support.factories import (
    NOW,
    make_outcome,
    make_policy,
    make_stored_key,
    make_tenant,
)

# The classes satisfy the ports; mypy checks it.
_: tuple[type[RegistryStore], type[Registry], type[ReceiptStore]] = (
    PostgresRegistryStore,
    PostgresRegistry,
    PostgresReceiptStore,
)


@pytest.fixture
def store(engine: Engine) -> PostgresRegistryStore:
    return PostgresRegistryStore(engine)


def test_a_tenant_is_created_once_and_reads_back(store: PostgresRegistryStore) -> None:
    tenant = make_tenant("initech", settings=TenantSettings(60, 120, RiskConfig(money=99)))
    assert store.run("initech", lambda registry: registry.insert_tenant(tenant))
    assert not store.run("initech", lambda registry: registry.insert_tenant(tenant))
    assert store.find_tenant("initech") == tenant
    assert store.find_tenant("nobody") is None
    assert store.find_tenant("*") is None


def test_a_tenant_is_changed_under_its_lock(store: PostgresRegistryStore) -> None:
    def work(registry: Registry) -> None:
        tenant = registry.lock_tenant("acme")
        assert tenant is not None
        registry.update_tenant(replace(tenant, display_name="Acme 2", version=tenant.version + 1))

    store.run("acme", work)
    assert store.find_tenant("acme") == make_tenant("acme", display_name="Acme 2", version=2)


def test_a_registry_transaction_reaches_its_own_tenant_only(store: PostgresRegistryStore) -> None:
    assert store.run("acme", lambda registry: registry.lock_tenant("globex")) is None
    assert store.run("a,b", lambda registry: registry.lock_tenant("acme")) is None
    with pytest.raises(NotFound):
        store.run("acme", lambda registry: registry.update_tenant(make_tenant("globex")))
    with pytest.raises(NotFound):
        store.run("acme", lambda registry: registry.insert_policy(make_policy("globex")))
    with pytest.raises(NotFound):
        store.run("acme", lambda registry: registry.update_key(make_stored_key("globex").trusted))
    with pytest.raises(NotFound):
        store.run("acme", lambda registry: registry.publish("globex", "pol_x", "bob", NOW))


def test_tenants_are_listed_by_id(store: PostgresRegistryStore) -> None:
    for tenant_id in ("zeta", "beta"):
        store.run(tenant_id, lambda r, t=tenant_id: r.insert_tenant(make_tenant(t)))  # type: ignore[misc] # mypy cannot infer a lambda with a default

    def ids(tenant_ids: list[str] | None, after: str = "", limit: int = 10) -> list[str]:
        return [tenant.tenant_id for tenant in store.list_tenants(tenant_ids, after, limit)]

    assert ids(None) == ["acme", "beta", "globex", "zeta"]
    assert ids(None, "acme", 2) == ["beta", "globex"]
    assert ids(["zeta", "acme", "nobody"]) == ["acme", "zeta"]
    assert ids([]) == []
    assert ids(["*"]) == []


def test_keys_rotate(store: PostgresRegistryStore, engine: Engine) -> None:
    second = make_stored_key(seed=b"2" * 32, valid_from=NOW)

    def work(registry: Registry) -> None:
        (first,) = registry.keys("acme")
        registry.update_key(replace(first, state=KeyState.RETIRED, valid_until=NOW))
        registry.insert_key(second)

    store.run("acme", work)
    receipts = PostgresReceiptStore(engine)
    first = make_stored_key().trusted
    keys = receipts.list_keys("acme")
    assert keys == [replace(first, state=KeyState.RETIRED, valid_until=NOW), second.trusted]
    assert PostgresLedger(engine).basis("acme", None).signing_key == second
    assert receipts.list_keys("nobody") is None
    assert receipts.list_keys("*") is None


def test_a_key_is_revoked_with_its_reason(store: PostgresRegistryStore, engine: Engine) -> None:
    revoked = replace(
        make_stored_key().trusted,
        state=KeyState.REVOKED,
        revoked_at=NOW,
        revocation_reason="leaked",
    )
    store.run("acme", lambda registry: registry.update_key(revoked))
    assert PostgresReceiptStore(engine).list_keys("acme") == [revoked]


def test_policies_are_numbered_published_and_superseded(store: PostgresRegistryStore) -> None:
    document = PolicyDocument(name="strict", rules=())

    def draft(registry: Registry) -> StoredPolicy:
        return registry.insert_policy(make_policy(document=document))

    first, second = store.run("acme", draft), store.run("acme", draft)
    assert (first.version, second.version) == (2, 3)
    assert store.find_policy(["globex", "acme"], first.policy_id) == first
    assert store.find_policy(["globex"], first.policy_id) is None
    assert store.find_policy(["*"], first.policy_id) is None

    def publish(registry: Registry) -> StoredPolicy | None:
        registry.lock_tenant("acme")
        registry.publish("acme", first.policy_id, "bob", NOW)
        assert registry.publications("acme", 1) == [first.policy_id]
        return registry.policy("acme", first.policy_id)

    assert store.run("acme", publish) == replace(first, state=PolicyState.PUBLISHED)
    listed = store.list_policies("acme", 0, 10, archived=False)
    assert [(policy.version, policy.state.value) for policy in listed] == [
        (3, "draft"),
        (2, "published"),
        (1, "superseded"),
    ]
    published = replace(first, state=PolicyState.PUBLISHED, document=None)
    assert store.list_policies("acme", 3, 1, archived=False) == [published]
    assert [p.version for p in store.list_policies("globex", 0, 10, archived=False)] == [1]
    assert store.list_policies("*", 0, 10, archived=False) == []


def test_a_document_that_does_not_have_its_digest_is_not_used(
    store: PostgresRegistryStore, database_url: str, engine: Engine
) -> None:
    execute(
        database_url,
        "ALTER TABLE policy DISABLE TRIGGER no_update",
        "UPDATE policy SET digest = repeat('0', 64) WHERE tenant_id = 'acme'",
    )
    with pytest.raises(RuntimeError, match="digest"):
        PostgresLedger(engine).basis("acme", None)


def test_versions_given_out_at_once_have_no_gaps(
    store: PostgresRegistryStore, engine: Engine, database_url: str
) -> None:
    barrier = Barrier(6)

    def publish(policy_id: str) -> None:
        store.run("acme", lambda registry: registry.publish("acme", policy_id, "bob", NOW))

    def work() -> None:
        barrier.wait(10)
        for _ in range(3):
            policy = store.run("acme", lambda registry: registry.insert_policy(make_policy()))
            # Without the tenant's lock: the head of its log gives the sequences out.
            publish(policy.policy_id)

    threads = [Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    versions = [policy.version for policy in store.list_policies("acme", 0, 100, archived=False)]
    assert versions == list(range(19, 0, -1))
    published = store.run("acme", lambda registry: registry.publications("acme", 100))
    assert len(published) == len(set(published)) == 19
    assert PostgresLedger(engine).basis("acme", None).revision == 20
    check_ledger(database_url)


def test_lists_of_policies_read_no_documents(store: PostgresRegistryStore, engine: Engine) -> None:
    statements: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    assert [policy.document for policy in store.list_policies("acme", 0, 10, archived=False)] == [
        None
    ]
    assert [statement for statement in statements if "document" in statement] == []


def test_an_error_of_the_work_rolls_everything_back(store: PostgresRegistryStore) -> None:
    def work(registry: Registry) -> None:
        registry.update_tenant(make_tenant(display_name="never"))
        raise NotFound("something else")

    with pytest.raises(NotFound):
        store.run("acme", work)
    assert store.find_tenant("acme") == make_tenant()


def test_of_two_calls_under_one_key_the_second_runs_again_and_sees_the_outcome(
    store: PostgresRegistryStore,
) -> None:
    barrier = Barrier(2)
    runs = []

    def work(number: int) -> None:
        outcome = make_outcome(response=b"%d" % number)

        def transaction(registry: Registry) -> StoredOutcome:
            runs.append(number)
            found = registry.outcome(outcome.scope)
            if found is not None:
                return found
            if len(runs) <= 2:
                barrier.wait(10)
            registry.record_outcome(outcome)
            return outcome

        results.append(store.run("acme", transaction))

    results: list[StoredOutcome] = []
    threads = [Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(runs) == 3
    assert len(results) == 2
    assert results[0] == results[1]
    assert results[0].expires_at - results[0].created_at > timedelta(days=1)
