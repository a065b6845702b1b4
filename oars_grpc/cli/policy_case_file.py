"""Reads the cases of a policy: an action of the form of a submission, and what is expected.

What a case leaves out is the same in every run: agent `agent-1`, called by an agent's certificate
without attributes, on Monday 2026-01-05 at 12:00 UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from oars_grpc.cli.policy_fields import Faults, Members
from oars_grpc.cli.policy_text import Located, Place
from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.facts import FACT_TYPES
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_case import PolicyCase
from oars_grpc.core.risk import RiskTier

_TENANT = "cases"
_NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
_CASE = {
    "name",
    "action",
    "expect",
    "rules",
    "indeterminate",
    "risk_tier",
    "missing_facts",
}
_ACTION = {
    "agent_id",
    "user_id",
    "caller",
    "delegation_chain",
    "resource",
    "context",
    "input",
    "time",
    "evidence",
}
_CALLER = {"role", "subject", "service_account_id", "attributes"}
_CONTEXT = {"environment", "data_types", "attributes"}
_EVIDENCE = "evidence."


@dataclass(frozen=True, slots=True)
class LocatedCase:
    """A case and where it stands."""

    case: PolicyCase
    file: Path
    place: Place


def read_cases(faults: Faults, head: Members) -> list[LocatedCase]:
    """The cases of a file, as far as they can be read."""
    cases: list[LocatedCase] = []
    names: dict[str, int] = {}
    for index, item in enumerate(head.items("cases")):
        case = _case(faults, item, f"cases[{index}]")
        if case.name in names:
            faults.add(item.place, f"repeats the name {case.name!r} of cases[{names[case.name]}]")
        names.setdefault(case.name, index)
        cases.append(LocatedCase(case, faults.file, item.place))
    return cases


def _case(faults: Faults, located: Located, path: str) -> PolicyCase:
    members = Members(faults, located, path, _CASE)
    members.require("name", "action", "expect")
    action = members.get("action") or Located({}, located.place)
    given = Members(faults, action, f"{path}.action", _ACTION)
    tier = None
    if "risk_tier" in members:
        tier = members.one_of("risk_tier", RiskTier, "risk_tier_", RiskTier.LOW)
    return PolicyCase(
        name=members.text("name"),
        request=_request(faults, given),
        at=_time(given),
        expect=members.one_of("expect", Effect, "effect_", Effect.DENY),
        rules=_names(members, "rules"),
        indeterminate=_names(members, "indeterminate"),
        risk_tier=tier,
        missing_facts=_names(members, "missing_facts"),
        evidence=_evidence(given),
    )


def _names(members: Members, name: str) -> tuple[str, ...] | None:
    return members.texts(name) if name in members else None


def _request(faults: Faults, given: Members) -> ActionRequest:
    given.require("resource")
    path, nothing = given.path, Located({}, given.place)
    resource = Members(
        faults,
        given.get("resource") or nothing,
        f"{path}.resource",
        {"tool_id", "operation", "target"},
    )
    if "resource" in given:
        resource.require("tool_id", "operation")
    caller = Members(faults, given.get("caller") or nothing, f"{path}.caller", _CALLER)
    context = Members(faults, given.get("context") or nothing, f"{path}.context", _CONTEXT)
    return ActionRequest(
        tenant_id=_TENANT,
        agent_id=given.text("agent_id", "agent-1"),
        caller=Principal(
            subject=caller.text("subject", "spiffe://example.org/agent"),
            fingerprint_sha256="0" * 64,
            role=caller.one_of("role", Role, "role_", Role.AGENT),
            tenant_ids=frozenset({_TENANT}),
            service_account_id=caller.text("service_account_id"),
            attributes=caller.text_map("attributes"),
        ),
        resource=Resource(
            resource.text("tool_id"), resource.text("operation"), resource.text("target")
        ),
        user_id=given.text("user_id"),
        delegation_chain=given.texts("delegation_chain"),
        context=ActionContext(
            environment=context.text("environment"),
            data_types=_data_types(context),
            attributes=context.text_map("attributes"),
        ),
        input=_input(given),
    )


def _data_types(context: Members) -> tuple[str, ...] | None:
    """As in a request: none is not stated, the single value `none` states that there are none."""
    found = context.texts("data_types")
    if found == ("none",):
        return ()
    if "none" in found:
        context.wrong("data_types", "'none' stands alone")
    return found or None


def _input(given: Members) -> Mapping[str, object]:
    located = given.get("input")
    if located is None:
        return {}
    value = located.plain()
    if not isinstance(value, dict):
        given.wrong("input", "must be a mapping")
        return {}
    try:
        canonical_json(value)
    except ValueError as error:
        given.wrong("input", f"is not JSON: {error}")
        return {}
    return value


def _time(given: Members) -> datetime:
    text = given.text("time")
    if not text:
        return _NOON
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        given.wrong("time", "must be a time in RFC 3339, such as 2026-01-05T12:00:00Z")
        return _NOON
    return moment


def _evidence(given: Members) -> dict[str, float]:
    located = given.get("evidence")
    if located is None:
        return {}
    value = located.plain()
    known = sorted(name.removeprefix(_EVIDENCE) for name in FACT_TYPES if _EVIDENCE in name)
    fits = isinstance(value, dict) and all(
        name in known and type(number) in {int, float} and 0 <= number <= 1
        for name, number in value.items()
    )
    if not fits:
        given.wrong("evidence", f"must map {', '.join(known)} to numbers from 0 to 1")
        return {}
    return {name: float(number) for name, number in value.items()}
