"""Keeps, publishes and tries out policies."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from oars_grpc.core import ids
from oars_grpc.core.action import ActionRequest
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.decision import Decision, PolicyReference, decide
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.ports import Chance, Clock, Ledger, Registry, RegistryStore
from oars_grpc.core.stored import StoredPolicy
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.use_cases.keyring import PolicyShelf
from oars_grpc.use_cases.outcomes import run_idempotent


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
        tokens: PageTokens,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._policies = policies
        self._tokens = tokens
        self._clock = clock
        self._chance = chance

    def create(
        self, call: Call, tenant_id: str, document: PolicyDocument, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Validate a document and keep it as a draft."""
        tenant = call.tenant(tenant_id)
        self._policies.tried(document)

        def work(registry: Registry) -> StoredPolicy:
            self._lock(registry, tenant)
            draft = StoredPolicy(
                policy_id=self._chance.new_id(ids.POLICY),
                tenant_id=tenant,
                version=0,  # the registry gives out the number
                digest=document.digest,
                document=document,
                created_at=self._clock.now(),
                created_by=call.principal.subject,
            )
            return registry.insert_policy(draft)

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
    ) -> PolicyPage:
        """A page of the tenant's policies, newest version first."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"policies {tenant}"
        before = int(self._tokens.read(listing, page_token) or 0)
        found = self._registry.list_policies(tenant, before, limit + 1)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, str(page[-1].version)) if more else ""
        return PolicyPage(page, token)

    def publish(
        self, call: Call, tenant_id: str, policy_id: str, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Make a policy the one that decides; publishing the published one changes nothing."""
        tenant = self.get(call, tenant_id, policy_id).tenant_id

        def work(registry: Registry) -> StoredPolicy:
            self._lock(registry, tenant)
            if registry.publications(tenant, 1)[:1] != [policy_id]:
                registry.publish(tenant, policy_id, call.principal.subject, self._clock.now())
            return self._present(registry, tenant, policy_id)

        return run_idempotent(self._registry, self._clock, call, tenant, work, encode)

    def rollback(
        self, call: Call, tenant_id: str, policy_id: str, encode: Encode[StoredPolicy]
    ) -> Answer:
        """Publish again what the named, published policy superseded."""
        tenant = self.get(call, tenant_id, policy_id).tenant_id

        def work(registry: Registry) -> StoredPolicy:
            self._lock(registry, tenant)
            published = registry.publications(tenant, 2)
            if published[:1] != [policy_id]:
                raise FailedPrecondition(
                    f"policy {policy_id} is not the published one", reason="POLICY_NOT_PUBLISHED"
                )
            if len(published) < 2:
                raise FailedPrecondition(
                    "no policy was published before this one", reason="NOTHING_TO_ROLL_BACK_TO"
                )
            before = published[1]
            registry.publish(tenant, before, call.principal.subject, self._clock.now())
            return self._present(registry, tenant, before)

        return run_idempotent(self._registry, self._clock, call, tenant, work, encode)

    def simulate(
        self,
        call: Call,
        request: ActionRequest,
        document: PolicyDocument | None,
        at: datetime | None,
    ) -> Decision:
        """What a document (None: the published one) would say; nothing is stored."""
        basis = self._ledger.basis(call.tenant(request.tenant_id), None)
        if document is None:
            compiled, reference = self._policies.compiled(basis.policy), basis.policy.reference()
        else:
            compiled = self._policies.tried(document)
            reference = PolicyReference("", 0, document.digest)
        moment = at or self._clock.now()
        return decide(request, reference, compiled, basis.tenant.settings.risk, moment)

    @staticmethod
    def _lock(registry: Registry, tenant_id: str) -> None:
        if registry.lock_tenant(tenant_id) is None:
            raise NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")

    def _present(self, registry: Registry, tenant_id: str, policy_id: str) -> StoredPolicy:
        policy = registry.policy(tenant_id, policy_id)
        if policy is None:
            raise self._not_found(policy_id)
        return policy

    @staticmethod
    def _not_found(policy_id: str) -> NotFound:
        return NotFound(f"policy {policy_id} is not found", reason="POLICY_NOT_FOUND")
