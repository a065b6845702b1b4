"""Tenants: the walls between customers, and what each may set."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.workflow import Workflow

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
    workflows: tuple[Workflow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The stored form, and what `tenant.updated` digests."""
        return {
            "permitSeconds": self.permit_seconds,
            "approvalSeconds": self.approval_seconds,
            "risk": self.risk.to_json(),
            # The database reads this one, too: `oars_retention_cutoff`.
            "retentionDays": self.retention_days,
            "workflows": [workflow.to_json() for workflow in self.workflows],
        }


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as stored."""

    tenant_id: str
    display_name: str
    settings: TenantSettings
    created_at: datetime
    version: int
