"""What an update of a tenant changes, as the event `tenant.updated` tells it."""

from typing import Any

from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.tenant import Tenant

TENANT_UPDATED = "tenant.updated"
# Longer values stand as their digests: an event has to fit the log, and workflows may be long.
_MAXIMUM_VALUE = 256


def updated_event(before: Tenant, after: Tenant) -> dict[str, Any]:
    """The tenant as it is now, and every setting that changed with its values before and after.

    Values are the text of their canonical JSON, or `sha256:<hex>` of it; null is for a setting
    that was not there.
    """
    old, new = _settings(before), _settings(after)
    return {
        "version": after.version,
        "settingsDigest": sha256_hex(canonical_json(after.settings.to_json())),
        "changes": [
            {"setting": name, "before": _shown(old, name), "after": _shown(new, name)}
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ],
    }


def _settings(tenant: Tenant) -> dict[str, Any]:
    """Every setting by a name of its own: each risk weight, and each workflow."""
    settings = tenant.settings.to_json()
    risk, workflows = settings.pop("risk"), settings.pop("workflows")
    return {
        "displayName": tenant.display_name,
        **settings,
        **{f"risk.{name}": weight for name, weight in risk.items()},
        **{f"workflows.{workflow['workflowId']}": workflow for workflow in workflows},
    }


def _shown(settings: dict[str, Any], name: str) -> str | None:
    if name not in settings:
        return None
    written = canonical_json(settings[name])
    return written.decode() if len(written) <= _MAXIMUM_VALUE else f"sha256:{sha256_hex(written)}"
