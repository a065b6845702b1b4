from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.stored import Basis
from oars_grpc.errors import Unavailable
from oars_grpc.use_cases.bases import KEPT_FOR, Bases
from tests.support.factories import NOW, make_outcome, make_policy, make_stored_key, make_tenant

TENANT = "acme"


class Store:
    """Counts what is read of it, and can fail."""

    def __init__(self) -> None:
        self.basis_now = Basis(make_tenant(TENANT), make_policy(TENANT), 1, make_stored_key(TENANT))
        self.outcome: StoredOutcome | None = None
        self.reads = 0
        self.down = False

    def basis(self, tenant_id: str, scope: IdempotencyScope | None) -> Basis:
        assert tenant_id == TENANT
        self.reads += 1
        if self.down:
            raise Unavailable("the database is out of reach")
        return replace(self.basis_now, outcome=self.outcome if scope else None)


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def bases(store: Store, watch: Watch) -> Bases:
    return Bases(store, watch)  # type: ignore[arg-type] # of a ledger it asks for the basis only


def test_nothing_is_kept_before_it_was_read(bases: Bases) -> None:
    assert bases.kept(TENANT) is None


def test_what_was_read_is_kept_without_its_outcome_and_document(bases: Bases, store: Store) -> None:
    store.outcome = make_outcome()
    read = bases.read(TENANT, store.outcome.scope)
    assert read.outcome == store.outcome
    assert read.policy.document is not None
    kept = bases.kept(TENANT)
    assert kept is not None
    assert (kept.outcome, kept.policy.document) == (None, None)
    assert (kept.revision, kept.signing_key) == (read.revision, read.signing_key)
    assert store.reads == 1


def test_an_old_one_is_read_again_by_one_call_while_the_others_go_on(
    bases: Bases, watch: Watch
) -> None:
    bases.read(TENANT, None)
    watch.at += KEPT_FOR - timedelta(microseconds=1)
    assert bases.kept(TENANT) is not None
    watch.at += timedelta(microseconds=1)
    assert bases.kept(TENANT) is None
    assert bases.kept(TENANT) is not None


def test_what_is_read_replaces_what_was_kept_even_by_a_lower_revision(
    bases: Bases, store: Store
) -> None:
    store.basis_now = replace(store.basis_now, revision=7)
    bases.read(TENANT, None)
    store.basis_now = replace(store.basis_now, revision=3)  # a database that was set back
    bases.read(TENANT, None)
    kept = bases.kept(TENANT)
    assert kept is not None
    assert kept.revision == 3


def test_a_read_that_fails_keeps_what_there_was(bases: Bases, store: Store, watch: Watch) -> None:
    bases.read(TENANT, None)
    store.down = True
    watch.at += KEPT_FOR
    assert bases.kept(TENANT) is None
    with pytest.raises(Unavailable):
        bases.read(TENANT, None)
    assert bases.kept(TENANT) is not None
