"""Tenants: the walls between customers, and what each may set."""

import re
from dataclasses import dataclass, field
from datetime import datetime

from oars_grpc.core.risk import RiskConfig

TENANT_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")

DEFAULT_PERMIT_SECONDS = 15 * 60
DEFAULT_APPROVAL_SECONDS = 24 * 60 * 60
MAXIMUM_PERMIT_SECONDS = 24 * 60 * 60
MAXIMUM_APPROVAL_SECONDS = 30 * 24 * 60 * 60
MAXIMUM_RETENTION_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """What a tenant may set; lengths in seconds.

    `retention_days` is how long payloads are kept; 0 keeps them for good.
    """

    permit_seconds: int = DEFAULT_PERMIT_SECONDS
    approval_seconds: int = DEFAULT_APPROVAL_SECONDS
    risk: RiskConfig = field(default_factory=RiskConfig)
    retention_days: int = 0


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as stored."""

    tenant_id: str
    display_name: str
    settings: TenantSettings
    created_at: datetime
    version: int
