"""The tenant that a transaction of the registry is about, locked against all others."""

from oars_grpc.core.ports import Registry
from oars_grpc.core.tenant import Tenant
from oars_grpc.errors import NotFound


def lock_tenant(registry: Registry, tenant_id: str) -> Tenant:
    """The tenant, locked until the end of the transaction.

    Raises:
        NotFound: there is no such tenant.
    """
    tenant = registry.lock_tenant(tenant_id)
    if tenant is None:
        raise tenant_not_found(tenant_id)
    return tenant


def tenant_not_found(tenant_id: str) -> NotFound:
    """The answer where there is no such tenant."""
    return NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")
