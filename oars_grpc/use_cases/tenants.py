"""Creates tenants and changes their settings; `TenantKeys` sees to their keys."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from oars_grpc.core import ids
from oars_grpc.core.builtin_policy import BUILTIN_POLICY
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.identity import ANY_TENANT
from oars_grpc.core.keys import KeyPurpose
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.policy_workflows import check_workflows_stay
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.receipt import SYSTEM
from oars_grpc.core.settings_change import TENANT_UPDATED, updated_event
from oars_grpc.core.stored import StoredPolicy
from oars_grpc.core.tenant import Tenant, TenantSettings
from oars_grpc.errors import AlreadyExists, FailedPrecondition
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.keys import TenantKeys
from oars_grpc.use_cases.locked_tenant import lock_tenant, tenant_not_found
from oars_grpc.use_cases.outcomes import run_idempotent


@dataclass(frozen=True, slots=True)
class TenantPage:
    """One page of a listing."""

    tenants: tuple[Tenant, ...]
    next_page_token: str


class Tenants:
    """The tenant service."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        keyring: Keyring,
        tokens: PageTokens,
        clock: Clock,
        chance: Chance,
        log_prefix: str,
    ) -> None:
        self._registry = registry
        self._keyring = keyring
        self._events = EventWriter(keyring, chance)
        self._tokens = tokens
        self._clock = clock
        self._chance = chance
        self.keys = TenantKeys(
            registry=registry, keyring=keyring, clock=clock, chance=chance, log_prefix=log_prefix
        )

    def create(
        self,
        call: Call,
        tenant_id: str,
        display_name: str,
        settings: TenantSettings,
        encode: Encode[Tenant],
    ) -> Answer:
        """A tenant with a key for each purpose and the built-in policy, published."""
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> Tenant:
            now = self._clock.now()
            tenant = Tenant(tenant_id, display_name, settings, now, version=1)
            if not registry.insert_tenant(tenant):
                raise AlreadyExists(f"tenant {tenant_id} exists", reason="TENANT_EXISTS")
            for purpose in KeyPurpose:
                registry.insert_key(self._keyring.create(tenant_id, purpose))
            policy = registry.insert_policy(
                StoredPolicy(
                    policy_id=self._chance.new_id(ids.POLICY),
                    tenant_id=tenant_id,
                    version=0,  # the registry gives out the number
                    digest=BUILTIN_POLICY.digest,
                    document=BUILTIN_POLICY,
                    created_at=now,
                    created_by=SYSTEM,
                )
            )
            registry.publish(tenant_id, policy.policy_id, SYSTEM, now)
            return tenant

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def get(self, call: Call, tenant_id: str) -> Tenant:
        """One of the caller's tenants."""
        call.principal.check_tenant(tenant_id)
        tenant = self._registry.find_tenant(tenant_id)
        if tenant is None:
            raise tenant_not_found(tenant_id)
        return tenant

    def list(
        self, call: Call, page_size: int, page_token: str, weigh: Callable[[Tenant], int]
    ) -> TenantPage:
        """A page of the tenants that the caller belongs to, by id."""
        limit = page_limit(page_size)
        own = call.principal.tenant_ids
        listing = f"tenants {call.principal.subject}"
        after = self._tokens.read(listing, page_token)
        tenant_ids = None if ANY_TENANT in own else sorted(own)
        found = self._registry.list_tenants(tenant_ids, after, limit + 1)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, page[-1].tenant_id) if more else ""
        return TenantPage(page, token)

    def update(
        self,
        call: Call,
        tenant_id: str,
        display_name: str,
        settings: TenantSettings,
        expected_version: int,
        encode: Encode[Tenant],
    ) -> Answer:
        """Replace name and settings; workflows that the published policy names stay."""
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> Tenant:
            tenant = lock_tenant(registry, tenant_id)
            if expected_version not in (0, tenant.version):
                raise FailedPrecondition(
                    f"tenant {tenant_id} is at version {tenant.version}, not {expected_version}",
                    reason="VERSION_MISMATCH",
                )
            changed = replace(
                tenant,
                display_name=display_name,
                settings=settings,
                version=tenant.version + 1,
            )
            _check_workflows(registry, tenant, changed)
            registry.update_tenant(changed)
            event = updated_event(tenant, changed)
            self._events.record(registry, call, tenant_id, TENANT_UPDATED, event, self._clock.now())
            return changed

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)


def _check_workflows(registry: Registry, before: Tenant, after: Tenant) -> None:
    if before.settings.workflows == after.settings.workflows:
        return
    for policy_id in registry.publications(before.tenant_id, 1):
        policy = registry.policy(before.tenant_id, policy_id)
        if policy is not None and policy.document is not None:
            check_workflows_stay(
                policy.document, before.settings.workflows, after.settings.workflows
            )
