from dataclasses import replace

from oars_grpc.core.canonical import MAXIMUM_INTEGER, canonical_json, is_restricted, sha256_hex
from oars_grpc.core.identity import Role
from oars_grpc.core.receipt import MAXIMUM_PAYLOAD_BYTES
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.settings_change import updated_event
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.core.workflow import (
    MAXIMUM_APPROVERS,
    MAXIMUM_WORKFLOWS,
    Approver,
    Stage,
    Workflow,
)
from tests.support.factories import make_tenant

BEFORE = make_tenant()


def test_an_update_tells_every_setting_that_changed_and_no_other() -> None:
    settings = TenantSettings(permit_seconds=60, risk=RiskConfig(contradiction=40))
    after = replace(BEFORE, display_name="Größe", settings=settings, version=2)
    event = updated_event(BEFORE, after)
    assert event == {
        "version": 2,
        "settingsDigest": sha256_hex(canonical_json(settings.to_json())),
        "changes": [
            {"setting": "displayName", "before": '"Tenant acme"', "after": '"Größe"'},
            {"setting": "permitSeconds", "before": "900", "after": "60"},
            {"setting": "risk.contradiction", "before": "25", "after": "40"},
        ],
    }


def test_an_update_that_changes_nothing_says_so() -> None:
    assert updated_event(BEFORE, replace(BEFORE, version=2))["changes"] == []


def test_workflows_are_told_apart_by_name_and_long_ones_stand_as_digests() -> None:
    first, second = Workflow("first", (Stage("one"),)), Workflow("second", (Stage("one"),))
    long = replace(first, description="x" * 256)
    old = replace(BEFORE, settings=TenantSettings(workflows=(first, second)))
    new = replace(BEFORE, settings=TenantSettings(workflows=(long,)))
    changes = {change["setting"]: change for change in updated_event(old, new)["changes"]}
    assert set(changes) == {"workflows.first", "workflows.second"}
    digest = sha256_hex(canonical_json(long.to_json()))
    assert changes["workflows.first"]["after"] == f"sha256:{digest}"
    assert changes["workflows.second"]["after"] is None
    assert changes["workflows.second"]["before"] is not None


def test_the_largest_change_fits_the_log_and_keeps_to_the_profile_of_statements() -> None:
    approvers = tuple(Approver(role=Role.ADMIN) for _ in range(MAXIMUM_APPROVERS))
    old, new = (
        tuple(
            Workflow(f"{kind}{'x' * 60}{number:02}", (Stage("s", approvers=approvers),))
            for number in range(MAXIMUM_WORKFLOWS)
        )
        for kind in "ab"
    )
    before = replace(
        BEFORE, display_name="\U0001f600" * 128, settings=TenantSettings(workflows=old)
    )
    settings = TenantSettings(1, 2, RiskConfig(read=0, write=100), MAXIMUM_INTEGER, new)
    event = updated_event(before, replace(BEFORE, settings=settings, version=2))
    assert is_restricted(event)
    assert len(canonical_json(event)) < MAXIMUM_PAYLOAD_BYTES // 2
    assert len(event["changes"]) == 2 * MAXIMUM_WORKFLOWS + 6
