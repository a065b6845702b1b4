"""TenantService: parse, call one method, format."""

from collections.abc import Mapping

import grpc

from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.tenant import (
    DEFAULT_APPROVAL_SECONDS,
    DEFAULT_PERMIT_SECONDS,
    MAXIMUM_APPROVAL_SECONDS,
    MAXIMUM_PERMIT_SECONDS,
    MAXIMUM_RETENTION_DAYS,
    Tenant,
    TenantSettings,
)
from oars_grpc.generated.oars.v1 import tenant_pb2, tenant_pb2_grpc
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.key_messages import (
    read_revocation,
    read_rotation,
    write_revocation,
    write_rotation,
)
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.workflow_messages import read_workflows, write_workflow
from oars_grpc.transport.writing import timestamp
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.tenants import Tenants

Context = grpc.ServicerContext
MAXIMUM_NAME = 128


class TenantServicer(tenant_pb2_grpc.TenantServiceServicer):
    """Serves `oars.v1.TenantService`."""

    def __init__(self, tenants: Tenants, log: Log) -> None:
        self._tenants = tenants
        self._log = log

    def CreateTenant(
        self, request: tenant_pb2.CreateTenantRequest, context: Context
    ) -> tenant_pb2.CreateTenantResponse:
        """Create with key and built-in policy."""
        tenant_id, name, settings = _read(request)
        answer = self._tenants.create(
            current_call(), tenant_id, name, settings, encoded(_write_created)
        )
        return sent(tenant_pb2.CreateTenantResponse, answer)

    def GetTenant(
        self, request: tenant_pb2.GetTenantRequest, context: Context
    ) -> tenant_pb2.GetTenantResponse:
        """Read one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        tenant = self._tenants.get(current_call(), tenant_id)
        return tenant_pb2.GetTenantResponse(tenant=write_tenant(tenant))

    def ListTenants(
        self, request: tenant_pb2.ListTenantsRequest, context: Context
    ) -> tenant_pb2.ListTenantsResponse:
        """Read a page."""
        page = self._tenants.list(
            current_call(),
            request.page_size,
            request.page_token,
            lambda tenant: write_tenant(tenant).ByteSize(),
        )
        return tenant_pb2.ListTenantsResponse(
            tenants=[write_tenant(tenant) for tenant in page.tenants],
            next_page_token=page.next_page_token,
        )

    def UpdateTenant(
        self, request: tenant_pb2.UpdateTenantRequest, context: Context
    ) -> tenant_pb2.UpdateTenantResponse:
        """Replace name and settings."""
        tenant_id, name, settings = _read(request)
        answer = self._tenants.update(
            current_call(),
            tenant_id,
            name,
            settings,
            request.expected_version,
            encoded(_write_updated),
        )
        return sent(tenant_pb2.UpdateTenantResponse, answer)

    def RotateSigningKey(
        self, request: tenant_pb2.RotateSigningKeyRequest, context: Context
    ) -> tenant_pb2.RotateSigningKeyResponse:
        """Retire the active key, make a new one."""
        tenant_id, purpose = read_rotation(request)
        answer = self._tenants.keys.rotate(
            current_call(),
            tenant_id,
            purpose,
            encoded(lambda key: write_rotation(key, self._log.vkey)),
        )
        return sent(tenant_pb2.RotateSigningKeyResponse, answer)

    def RevokeSigningKey(
        self, request: tenant_pb2.RevokeSigningKeyRequest, context: Context
    ) -> tenant_pb2.RevokeSigningKeyResponse:
        """Believe a key no longer, replace it if it is active."""
        revoked = read_revocation(request)
        answer = self._tenants.keys.revoke(
            current_call(),
            revoked.tenant_id,
            revoked.key_id,
            revoked.reason,
            revoked.compromised_at,
            encoded(lambda revocation: write_revocation(revocation, self._log.vkey)),
        )
        return sent(tenant_pb2.RevokeSigningKeyResponse, answer)


def _read(
    request: tenant_pb2.CreateTenantRequest | tenant_pb2.UpdateTenantRequest,
) -> tuple[str, str, TenantSettings]:
    reader = Reader()
    tenant_id = reader.tenant_id(request.tenant_id, required=True)
    name = reader.text(request.display_name, "display_name", MAXIMUM_NAME)
    message = request.settings
    settings = TenantSettings(
        permit_seconds=_seconds(
            reader,
            message.permit_seconds,
            "settings.permit_seconds",
            DEFAULT_PERMIT_SECONDS,
            MAXIMUM_PERMIT_SECONDS,
        ),
        approval_seconds=_seconds(
            reader,
            message.approval_seconds,
            "settings.approval_seconds",
            DEFAULT_APPROVAL_SECONDS,
            MAXIMUM_APPROVAL_SECONDS,
        ),
        risk=_risk(reader, message.risk_weights),
        retention_days=message.retention_days,
        workflows=read_workflows(reader, message.workflows),
    )
    if not 0 <= settings.retention_days <= MAXIMUM_RETENTION_DAYS:
        problem = f"must be from 1 to {MAXIMUM_RETENTION_DAYS}, or 0 to keep payloads for good"
        reader.wrong("settings.retention_days", problem)
    reader.done()
    return tenant_id, name, settings


def _seconds(reader: Reader, value: int, field: str, default: int, maximum: int) -> int:
    if not 0 <= value <= maximum:
        reader.wrong(field, f"must be from 1 to {maximum}, or 0 for the default")
    return value or default


def _risk(reader: Reader, weights: Mapping[str, int]) -> RiskConfig:
    try:
        return RiskConfig.from_json(dict(weights))
    except ValueError as error:
        reader.wrong("settings.risk_weights", str(error))
        return RiskConfig()


def write_tenant(tenant: Tenant) -> tenant_pb2.Tenant:
    """The message of a tenant, defaults filled in."""
    return tenant_pb2.Tenant(
        tenant_id=tenant.tenant_id,
        display_name=tenant.display_name,
        settings=tenant_pb2.TenantSettings(
            permit_seconds=tenant.settings.permit_seconds,
            approval_seconds=tenant.settings.approval_seconds,
            risk_weights=tenant.settings.risk.to_json(),
            retention_days=tenant.settings.retention_days,
            workflows=[write_workflow(workflow) for workflow in tenant.settings.workflows],
        ),
        created_at=timestamp(tenant.created_at),
        version=tenant.version,
    )


def _write_created(tenant: Tenant) -> tenant_pb2.CreateTenantResponse:
    return tenant_pb2.CreateTenantResponse(tenant=write_tenant(tenant))


def _write_updated(tenant: Tenant) -> tenant_pb2.UpdateTenantResponse:
    return tenant_pb2.UpdateTenantResponse(tenant=write_tenant(tenant))
