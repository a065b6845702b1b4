"""Keeps and publishes policies; every change is an event. `Simulation` tries them out."""

from collections.abc import Callable
from dataclasses import dataclass

from oars_grpc.core import ids
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_event import (
    POLICY_ARCHIVED,
    POLICY_CREATED,
    POLICY_PUBLISHED,
    POLICY_ROLLED_BACK,
    archived_event,
    created_event,
    published_event,
)
from oars_grpc.core.policy_workflows import check_workflows_exist
from oars_grpc.core.ports import Chance, Clock, Ledger, Registry, RegistryStore
from oars_grpc.core.publication_history import rollback_target
from oars_grpc.core.stored import PolicyState, StoredPolicy
from oars_grpc.core.tenant import Tenant
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import PolicyShelf
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent
from oars_grpc.use_cases.simulation import Simulation


@dataclass(frozen=True, slots=True)
class PolicyPage:
    """One page of a listing."""

    policies: tuple[StoredPolicy, ...]
    next_page_token: str


class Policies:
    """The policy service."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        ledger: Ledger,
        policies: PolicyShelf,
        events: EventWriter,
        tokens: PageTokens,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._registry = registry
        self._policies = policies
        self._events = events
        self._tokens = tokens
        self._clock = clock
        self._chance = chance
        self.simulation = Simulation(
            registry=registry,
            ledger=ledger,
            policies=policies,
            events=events,
            clock=clock,
        )

    def create(
        self, call: Call, tenant_id: str, document: PolicyDocument, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Validate a document and keep it as a draft."""
        tenant = call.tenant(tenant_id)
        digest = self._policies.tried(document).digest

        def work(registry: Registry) -> StoredPolicy:
            lock_tenant(registry, tenant)
            draft = StoredPolicy(
                policy_id=self._chance.new_id(ids.POLICY),
                tenant_id=tenant,
                version=0,  # the registry gives out the number
                digest=digest,
                document=document,
                created_at=self._clock.now(),
                created_by=call.principal.subject,
            )
            policy = registry.insert_policy(draft)
            event = created_event(policy, document.name, len(document.rules))
            self._events.record(registry, call, tenant, POLICY_CREATED, event, policy.created_at)
            return policy

        return run_idempotent(self._registry, self._clock, call, tenant, work, encode)

    def get(self, call: Call, tenant_id: str, policy_id: str) -> StoredPolicy:
        """One policy of the caller's tenants."""
        policy = self._registry.find_policy(call.tenants(tenant_id), policy_id)
        if policy is None:
            raise self._not_found(policy_id)
        return policy

    def list(
        self,
        call: Call,
        tenant_id: str,
        page_size: int,
        page_token: str,
        weigh: Callable[[StoredPolicy], int],
        *,
        archived: bool,
    ) -> PolicyPage:
        """A page of the tenant's policies, newest version first; archived ones where asked for."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"policies {tenant} {archived}"
        before = int(self._tokens.read(listing, page_token) or 0)
        found = self._registry.list_policies(tenant, before, limit + 1, archived=archived)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, str(page[-1].version)) if more else ""
        return PolicyPage(page, token)

    def publish(
        self, call: Call, tenant_id: str, policy_id: str, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Make a policy the one that decides; publishing the published one changes nothing."""
        found = self.get(call, tenant_id, policy_id).tenant_id

        def work(registry: Registry) -> StoredPolicy:
            tenant = lock_tenant(registry, found)
            policy = self._present(registry, found, policy_id)
            if policy.state is PolicyState.ARCHIVED:
                raise FailedPrecondition(
                    f"policy {policy_id} is archived and cannot be published",
                    reason="POLICY_ARCHIVED",
                )
            if policy.state is PolicyState.PUBLISHED:
                return policy
            published = registry.publications(found, 1)
            replaced = self._present(registry, found, published[0]) if published else None
            return self._replace(registry, call, tenant, policy, replaced, POLICY_PUBLISHED)

        return run_idempotent(self._registry, self._clock, call, found, work, encode)

    def rollback(
        self, call: Call, tenant_id: str, policy_id: str, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Publish again what was published before the named, published policy was.

        What that is, `core/publication_history.py` says.
        """
        found = self.get(call, tenant_id, policy_id).tenant_id

        def work(registry: Registry) -> StoredPolicy:
            tenant = lock_tenant(registry, found)
            withdrawn = self._present(registry, found, policy_id)
            if withdrawn.state is not PolicyState.PUBLISHED:
                raise FailedPrecondition(
                    f"policy {policy_id} is not the published one", reason="POLICY_NOT_PUBLISHED"
                )
            before = rollback_target(registry.publication_history(found))
            if before is None:
                raise FailedPrecondition(
                    "no policy was published before this one, but for archived ones",
                    reason="NOTHING_TO_ROLL_BACK_TO",
                )
            policy = self._present(registry, found, before)
            return self._replace(registry, call, tenant, policy, withdrawn, POLICY_ROLLED_BACK)

        return run_idempotent(self._registry, self._clock, call, found, work, encode)

    def archive(
        self, call: Call, tenant_id: str, policy_id: str, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Put a policy away; archiving an archived one changes nothing."""
        found = self.get(call, tenant_id, policy_id).tenant_id

        def work(registry: Registry) -> StoredPolicy:
            lock_tenant(registry, found)
            policy = self._present(registry, found, policy_id)
            if policy.state is PolicyState.PUBLISHED:
                raise FailedPrecondition(
                    f"policy {policy_id} is the published one and cannot be archived",
                    reason="POLICY_PUBLISHED",
                )
            if policy.state is PolicyState.ARCHIVED:
                return policy
            now = self._clock.now()
            registry.archive(found, policy_id, call.principal.subject, now)
            self._events.record(registry, call, found, POLICY_ARCHIVED, archived_event(policy), now)
            return self._present(registry, found, policy_id)

        return run_idempotent(self._registry, self._clock, call, found, work, encode)

    def _replace(
        self,
        registry: Registry,
        call: Call,
        tenant: Tenant,
        policy: StoredPolicy,
        replaced: StoredPolicy | None,
        type_: str,
    ) -> StoredPolicy:
        """Publish a policy of a locked tenant instead of another."""
        if policy.document is not None:
            check_workflows_exist(policy.document, tenant.settings.workflows)
        now = self._clock.now()
        registry.publish(tenant.tenant_id, policy.policy_id, call.principal.subject, now)
        event = published_event(policy, replaced)
        self._events.record(registry, call, tenant.tenant_id, type_, event, now)
        return self._present(registry, tenant.tenant_id, policy.policy_id)

    def _present(self, registry: Registry, tenant_id: str, policy_id: str) -> StoredPolicy:
        policy = registry.policy(tenant_id, policy_id)
        if policy is None:
            raise self._not_found(policy_id)
        return policy

    @staticmethod
    def _not_found(policy_id: str) -> NotFound:
        return NotFound(f"policy {policy_id} is not found", reason="POLICY_NOT_FOUND")
