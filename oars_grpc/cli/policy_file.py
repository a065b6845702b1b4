"""A policy file: a document, and beside it cases, the names of tools and workflows, risk weights.

```yaml
name: payments
combining: strictest_wins
rules:
  - id: R-1
    decision: DENY
    match: {operations: [delete_account]}
    condition: risk.score > 20
tools: [stripe, {id: ledger, operations: [post_entry]}]
workflows: [finance]
risk_weights: {money: 70}
cases:
  - name: nobody deletes accounts
    action: {resource: {tool_id: stripe, operation: delete_account}}
    expect: DENY
    rules: [R-1]
```
"""

from dataclasses import dataclass
from pathlib import Path

from oars_grpc.cli.policy_case_file import LocatedCase, read_cases
from oars_grpc.cli.policy_fields import Faults, FileFault, Members
from oars_grpc.cli.policy_names_file import read_root, read_tools, read_workflows
from oars_grpc.cli.policy_text import Located
from oars_grpc.core.policy import (
    MATCH_LISTS,
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_vocabulary import Vocabulary
from oars_grpc.core.risk import RiskConfig, RiskTier

_HEAD = {
    "name": "name",
    "description": "description",
    "combining": "combining",
    "combining_algorithm": "combining",
    "rules": "rules",
}
_BESIDE = {name: name for name in ("tools", "workflows", "risk_weights", "cases")}
_RULE = {
    "id": "id",
    "description": "description",
    "priority": "priority",
    "decision": "decision",
    "effect": "decision",
    "match": "match",
    "condition": "condition",
    "workflow_id": "workflow_id",
}
_MATCH = {*MATCH_LISTS.values(), "risk_tiers", "time_window_utc"}
_WINDOW = {"start_hour", "end_hour"}


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a file says, as far as it could be read.

    `faults` are why it could not be read, and warnings; `fields` find the place of a proto path.
    """

    path: Path
    document: PolicyDocument
    vocabulary: Vocabulary
    risk: RiskConfig
    cases: tuple[LocatedCase, ...]
    fields: Faults
    faults: tuple[FileFault, ...]

    @property
    def is_readable(self) -> bool:
        """Whether the document is the one that was meant."""
        return not any(fault.level == "error" for fault in self.faults)


def read_policy_file(path: Path) -> PolicyFile:
    """The policy of a file, with the cases in it and in the file beside it.

    Raises:
        OSError: the file cannot be read.
    """
    faults = Faults(path)
    root = read_root(faults)
    head = Members(faults, root, "document", _HEAD | _BESIDE)
    document = PolicyDocument(
        name=head.text("name"),
        description=head.text("description"),
        combining=head.one_of(
            "combining",
            CombiningAlgorithm,
            "combining_algorithm_",
            CombiningAlgorithm.STRICTEST_WINS,
        ),
        rules=tuple(
            _rule(faults, item, f"document.rules[{index}]")
            for index, item in enumerate(head.items("rules"))
        ),
    )
    risk = _risk(head)
    vocabulary = Vocabulary(read_tools(faults, head), read_workflows(faults, head))
    cases = read_cases(faults, head)
    beside = path.with_name(f"{path.stem}.cases.yaml")
    others = Faults(beside)
    if beside.is_file():
        members = Members(others, read_root(others), "", {"cases"})
        members.require("cases")
        cases += read_cases(others, members)
    found = (*faults.found, *others.found)
    return PolicyFile(path, document, vocabulary, risk, tuple(cases), faults, found)


def _rule(faults: Faults, located: Located, path: str) -> Rule:
    given = located.content.get("id") if isinstance(located.content, dict) else None
    faults.rule_id = given.value.content if given and isinstance(given.value.content, str) else ""
    members = Members(faults, located, path, _RULE)
    members.require("id", "decision")
    rule = Rule(
        id=members.text("id"),
        description=members.text("description"),
        priority=members.integer("priority"),
        effect=members.one_of("decision", Effect, "effect_", Effect.DENY),
        match=_match(faults, members.get("match"), f"{path}.match"),
        condition=members.text("condition"),
        workflow_id=members.text("workflow_id"),
    )
    faults.rule_id = ""
    return rule


def _match(faults: Faults, located: Located | None, path: str) -> RuleMatch:
    if located is None:
        return RuleMatch()
    members = Members(faults, located, path, _MATCH)
    for name in (*MATCH_LISTS.values(), "risk_tiers"):
        if name in members and not members.items(name):
            place = faults.fields[f"{path}.{name}"].place
            message = f"{name} is empty and asks nothing; leave it out"
            faults.add(place, message, field=f"{path}.{name}", level="warning", kind="empty_list")
    lists = {name: members.texts(name) for name in MATCH_LISTS.values()}
    window = members.get("time_window_utc")
    hours = None
    if window is not None:
        ends = Members(faults, window, f"{path}.time_window_utc", _WINDOW)
        ends.require("start_hour", "end_hour")
        hours = TimeWindowUtc(ends.integer("start_hour"), ends.integer("end_hour"))
    tiers = members.all_of("risk_tiers", RiskTier, "risk_tier_")
    return RuleMatch(time_window_utc=hours, risk_tiers=tiers, **lists)


def _risk(head: Members) -> RiskConfig:
    located = head.get("risk_weights")
    if located is None:
        return RiskConfig()
    weights = located.plain()
    if not isinstance(weights, dict):
        head.wrong("risk_weights", "must be a mapping")
        return RiskConfig()
    try:
        return RiskConfig.from_json({_camel(name): weight for name, weight in weights.items()})
    except ValueError as error:
        head.wrong("risk_weights", str(error))
        return RiskConfig()


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
