"""The golden decision matrix, read from its file: policies, cases and what each must come to."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.action_evidence import ActionEvidence, EvidenceItem
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.evidence_scoring import assess_inline
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.policy import PolicyDocument

PATH = Path(__file__).parents[1] / "golden" / "policy_matrix.yaml"
# The caller of every case: the live one is given the same attributes.
ATTRIBUTES = {"team": "red"}
CALLER = Principal(
    "spiffe://oars.dev/matrix", "f" * 64, Role.AGENT, frozenset({"t"}), attributes=ATTRIBUTES
)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
_ACTION = {"agent_id", "user_id", "resource", "context", "input", "time", "delegation_chain"}
_ACTION |= {"evidence"}
_CASE = {"name", "policy", "action", "expect", "engine_only", "without"}


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a decision must say; every list is sorted."""

    effect: str
    deciding: tuple[str, ...]
    counted: tuple[str, ...]
    skipped: tuple[str, ...]
    indeterminate: tuple[str, ...]
    missing: tuple[str, ...]
    default_deny: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One case; `without` names facts that only the engine can lack."""

    name: str
    policy: str
    action: Mapping[str, Any]
    expect: Expectation
    without: tuple[str, ...]
    engine_only: bool

    @property
    def time(self) -> datetime | None:
        """The time at which to decide, where the case states one."""
        text = self.action.get("time")
        return None if text is None else datetime.fromisoformat(text)

    def request(self) -> ActionRequest:
        """The action as the core takes it."""
        action = self.action
        resource, context = action["resource"], action["context"]
        data_types = context.get("data_types")
        return ActionRequest(
            tenant_id="t",
            agent_id=action.get("agent_id", ""),
            caller=CALLER,
            resource=Resource(
                resource.get("tool_id", ""),
                resource.get("operation", ""),
                resource.get("target", ""),
            ),
            user_id=action.get("user_id", ""),
            delegation_chain=tuple(action.get("delegation_chain", ())),
            context=ActionContext(
                context.get("environment", ""),
                None if data_types is None else tuple(data_types),
                context.get("attributes", {}),
            ),
            input=action["input"],
            evidence=None if self.evidence is None else assess_inline(self.evidence),
        )

    @property
    def evidence(self) -> ActionEvidence | None:
        """The evidence that the action comes with: embeddings by the items' ids."""
        given = self.action.get("evidence")
        if given is None:
            return None
        items = tuple(
            EvidenceItem(name, name, sha256_hex(name.encode()), _packed(numbers))
            for name, numbers in given["items"].items()
        )
        return ActionEvidence(_packed(given["action"]), items)


def _packed(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@lru_cache(maxsize=1)
def matrix() -> tuple[Mapping[str, PolicyDocument], tuple[Case, ...]]:
    """The policies by name, and the cases."""
    written = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    policies = {
        name: PolicyDocument.from_json({"name": name, **document})
        for name, document in written["policies"].items()
    }
    cases = tuple(_case(case, written["base"]) for case in written["cases"])
    return policies, cases


def _case(case: Mapping[str, Any], base: Mapping[str, Any]) -> Case:
    _no_more_than(_CASE, case)
    _no_more_than(_ACTION, case["action"])
    action = {name: value for name, value in (base | case["action"]).items() if value is not None}
    for part in ("resource", "context"):
        merged = base[part] | case["action"].get(part, {})
        action[part] = {name: value for name, value in merged.items() if value is not None}
    return Case(
        name=case["name"],
        policy=case["policy"],
        action=action,
        expect=_expectation(case["expect"]),
        without=tuple(case.get("without", ())),
        engine_only="without" in case or "engine_only" in case,
    )


def _expectation(expect: Mapping[str, Any]) -> Expectation:
    lists = {"deciding", "counted", "skipped", "indeterminate", "missing"}
    _no_more_than(lists | {"effect", "default_deny"}, expect)
    given = {"counted": expect.get("deciding", ())} | {
        name: value for name, value in expect.items() if name in lists
    }
    return Expectation(
        effect=expect["effect"],
        default_deny=expect.get("default_deny", False),
        **{name: tuple(sorted(given.get(name, ()))) for name in lists},
    )


def _no_more_than(names: set[str], value: Mapping[str, Any]) -> None:
    """A misspelt name must not make a case that asks nothing."""
    assert not set(value) - names, f"unknown in the matrix: {sorted(set(value) - names)}"
