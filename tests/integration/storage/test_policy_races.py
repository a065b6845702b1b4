"""Publishing under concurrency: two replicas, one database, never two published policies."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from threading import Barrier
from typing import Any

import orjson
import psycopg
from sqlalchemy import Engine

from oars_grpc.core.call import Call
from oars_grpc.core.identity import Role
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.policy import Effect, PolicyDocument, Rule
from oars_grpc.core.publication_history import rollback_target
from oars_grpc.core.stored import PolicyState, StoredPolicy
from oars_grpc.errors import FailedPrecondition
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.policies import Policies
from tests.support.database import check_ledger, opened
from tests.support.factories import KEY_ENCRYPTION_KEY, TENANT, make_principal

THREADS, ROUNDS = 8, 12
ADMIN = make_principal("spiffe://example/admin", role=Role.ADMIN)
CALL = Call(ADMIN, "PublishPolicy", "race")


def replica(engine: Engine) -> Policies:
    """The policy service of one process."""
    clock, chance = SystemClock(), SystemChance()
    return Policies(
        registry=PostgresRegistryStore(engine),
        ledger=PostgresLedger(engine),
        policies=PolicyShelf(),
        events=EventWriter(Keyring(KEY_ENCRYPTION_KEY, chance, clock), chance),
        tokens=PageTokens(b"k" * 32),
        clock=clock,
        chance=chance,
    )


def policy_id(policy: StoredPolicy) -> bytes:
    return policy.policy_id.encode()


def refusal(change: Callable[..., object], policy: str) -> str:
    """The reason for which a change of a policy is refused; empty where it is not."""
    try:
        change(CALL, TENANT, policy, policy_id)
    except FailedPrecondition as refused:
        return refused.reason
    return ""


def draft(policies: Policies, name: str) -> str:
    document = PolicyDocument(name, (Rule("r", Effect.ALLOW),))
    return policies.create(CALL, TENANT, document, policy_id).response.decode()


def events(url: str) -> Sequence[tuple[str, dict[str, Any]]]:
    """Type and content of the tenant's publications, in the order of the log."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT type, payload FROM receipt JOIN receipt_body USING (tenant_id, leaf_index)"
            " WHERE tenant_id = %s AND type IN ('policy.published', 'policy.rolled_back')"
            " ORDER BY leaf_index",
            (TENANT,),
        ).fetchall()
    return [(type_, orjson.loads(payload)["predicate"]["event"]) for type_, payload in rows]


def published_ids(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT policy_id FROM policy_publication WHERE tenant_id = %s ORDER BY sequence",
            (TENANT,),
        ).fetchall()
    return [row[0] for row in rows]


def test_every_publication_has_its_event_and_one_policy_is_published(database_url: str) -> None:
    """Eight threads publish, roll back and archive the same few policies over two replicas."""
    (builtin,) = published_ids(database_url)
    barrier = Barrier(THREADS)
    with ExitStack() as stack:
        replicas = [replica(stack.enter_context(opened(database_url, 8))) for _ in range(2)]
        shared = [draft(replicas[0], f"shared {number}") for number in range(4)]

        def work(thread: int) -> int:
            """Publications that this thread was told have been made."""
            policies, made = replicas[thread % 2], 0
            barrier.wait()
            for turn in range(ROUNDS):
                mine = draft(policies, f"{thread} {turn}")
                policies.publish(CALL, TENANT, mine, policy_id)
                made += 1
                # Unless another came in between.
                rolled_back = refusal(policies.rollback, mine)
                assert rolled_back in ("", "POLICY_NOT_PUBLISHED")
                made += not rolled_back
                # The same draft as seven others: one of them publishes it, the log knows which.
                policies.publish(CALL, TENANT, shared[turn % 4], policy_id)
                assert refusal(policies.archive, mine) in ("", "POLICY_PUBLISHED")
            return made

        with ThreadPoolExecutor(THREADS) as pool:
            told = sum(pool.map(work, range(THREADS)))
        first = replicas[0].list(CALL, TENANT, 200, "", lambda _: 1, archived=True)
    history = published_ids(database_url)
    recorded = events(database_url)
    assert check_ledger(database_url) > len(recorded)
    assert len(recorded) == len(history) - 1 >= told
    assert [event["policyId"] for _, event in recorded] == history[1:]
    # Unbroken: each says which one it replaced, and that is the one before.
    replaced = [event["replaced"]["policyId"] for _, event in recorded]
    assert replaced == [builtin, *history[1:-1]]
    assert all(one != other for one, other in pairwise(history))
    published = [p.policy_id for p in first.policies if p.state is PolicyState.PUBLISHED]
    assert published == history[-1:]


def test_racing_rollbacks_of_one_policy_roll_back_once(database_url: str) -> None:
    barrier = Barrier(THREADS)
    with ExitStack() as stack:
        replicas = [replica(stack.enter_context(opened(database_url, 8))) for _ in range(2)]
        top = [draft(replicas[0], name) for name in "abc"]
        for one in top:
            replicas[0].publish(CALL, TENANT, one, policy_id)

        def work(thread: int) -> str:
            barrier.wait()
            try:
                answer = replicas[thread % 2].rollback(CALL, TENANT, top[2], policy_id)
            except FailedPrecondition as refused:
                return refused.reason
            return answer.response.decode()

        with ThreadPoolExecutor(THREADS) as pool:
            results = sorted(pool.map(work, range(THREADS)))
    assert results == sorted([top[1], *["POLICY_NOT_PUBLISHED"] * (THREADS - 1)])
    assert [type_ for type_, _ in events(database_url)].count("policy.rolled_back") == 1
    assert rollback_target(published_ids(database_url)) == top[0]
    check_ledger(database_url)
