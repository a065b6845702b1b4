"""Idempotency of what administrators change: the outcome commits with the change."""

from collections.abc import Callable
from typing import TypeVar

from oars_grpc.core.call import Answer, Call, Encode, StoredOutcome, replay
from oars_grpc.core.ports import Clock, Registry, RegistryStore
from oars_grpc.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from oars_grpc.use_cases.recorder import IDEMPOTENCY_LIFETIME

Result = TypeVar("Result")
# What the call that this one repeats may have caused by making its change: the thing is gone, has
# another version or another length. Whoever meets one of these looks for that call's outcome.
REFUSED_BY_STATE = (AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound)


def run_idempotent(
    store: RegistryStore,
    clock: Clock,
    call: Call,
    tenant_id: str,
    work: Callable[[Registry], Result],
    encode: Encode[Result],
) -> Answer:
    """Do the work once for each idempotency key; repeat its first answer afterwards."""
    scope = call.scope(tenant_id)

    def transaction(registry: Registry) -> Answer:
        if scope is not None:
            stored = registry.outcome(scope)
            if stored is not None:
                return replay(stored, scope)
        response = encode(work(registry))
        if scope is not None:
            now = clock.now()
            outcome = StoredOutcome(scope, response, now, now + IDEMPOTENCY_LIFETIME)
            registry.record_outcome(outcome)
        return Answer(response)

    try:
        return store.run(tenant_id, transaction)
    except REFUSED_BY_STATE:
        # The call that this one repeats may have committed while this one waited for its lock,
        # and made the state what the work objects to.
        if scope is None:
            raise
        stored = store.run(tenant_id, lambda registry: registry.outcome(scope))
        if stored is None:
            raise
        return replay(stored, scope)


def first_answer(store: RegistryStore, call: Call, tenant_id: str) -> Answer | None:
    """The answer to a call that this one repeats, before dear work is done again; None if first."""
    scope = call.scope(tenant_id)
    if scope is None:
        return None
    stored = store.run(tenant_id, lambda registry: registry.outcome(scope))
    return None if stored is None else replay(stored, scope)
