"""What a policy decision takes, beside cedarpy with an equivalent policy in the same run.

`python -m tests.benchmarks.policy [--quick] [--json FILE]`; see README.md.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import cedarpy

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.decision import PolicyReference, decide
from oars_grpc.core.effective_context import effective_context
from oars_grpc.core.evaluation import evaluate
from oars_grpc.core.facts import Facts, action_facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskConfig, assess_risk

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
RULES = (20, 1_000)
TARGETS_US = {20: 100.0, 1_000: 1_000.0}
REFERENCE = PolicyReference("pol_01jqzxk8c4e9v8x2m3n4p5q6r7", 1, "0" * 64)
CONFIG = RiskConfig()

# Each condition in CEL and in Cedar; none holds for the request that is timed.
CONDITIONS = (
    (
        'risk.score > {high} && user.id == "u{i}"',
        'context.risk_score > {high} && context.user_id == "u{i}"',
    ),
    ("input.amount > 1000{i}", "context.input.amount > 1000{i}"),
    ('"k{i}" in context.data_types', 'context.data_types.contains("k{i}")'),
    ('resource.target.startsWith("o{i}/")', 'context.target like "o{i}/*"'),
    (
        'agent.id == "a{i}" || user.id == "v{i}"',
        'context.agent_id == "a{i}" || context.user_id == "v{i}"',
    ),
)
# The last rule: it alone permits the request.
PERMITTING = ("risk.score < 90", "context.risk_score < 90")


@dataclass(frozen=True)
class Kind:
    """What the rules of a policy are made of; `negated` makes every condition hold."""

    name: str
    match: bool
    negated: bool = False


KINDS = (
    Kind("match fields and conditions", match=True),
    Kind("conditions only", match=False),
    Kind("conditions only, every one true", match=False, negated=True),
)


def make_request(**changes: Any) -> ActionRequest:
    """The action that is decided: a message of ordinary size."""
    given: dict[str, Any] = {
        "agent_id": "agent-of-support",
        "user_id": "alice",
        "target": "acme/website/issues/17",
        "environment": "dev",
        "data_types": ("public", "internal"),
        "amount": 250,
        **changes,
    }
    return ActionRequest(
        tenant_id="acme",
        agent_id=given["agent_id"],
        caller=Principal("spiffe://acme/support", "ab" * 32, Role.AGENT, frozenset({"acme"})),
        resource=Resource("github", "create_comment", given["target"]),
        user_id=given["user_id"],
        context=ActionContext(given["environment"], given["data_types"], {"ticket": "T-17"}),
        input={"amount": given["amount"], "title": "Re: login", "labels": ["bug", "web"]},
    )


def condition_of(kind: Kind, position: int) -> tuple[str, str]:
    """The condition of a rule in CEL and in Cedar."""
    texts = [
        text.replace("{i}", str(position)).replace("{high}", str(70 + position % 30))
        for text in CONDITIONS[position % len(CONDITIONS)]
    ]
    cel, cedar = (f"!({text})" if kind.negated else text for text in texts)
    return cel, cedar


def make_document(kind: Kind, rules: int) -> PolicyDocument:
    """A policy all of whose rules must be asked to the end."""
    match = RuleMatch(environments=("dev",)) if kind.match else RuleMatch()
    forbidding = (
        Rule(f"R{n}", Effect.DENY, match, condition_of(kind, n)[0]) for n in range(rules - 1)
    )
    permitting = Rule("permit", Effect.ALLOW, match, PERMITTING[0])
    return PolicyDocument("benchmark", (*forbidding, permitting))


def cedar_text(kind: Kind, rules: int) -> str:
    """The same policy for Cedar."""
    scope = "principal, action, resource"
    match = 'context.environment == "dev" && ' if kind.match else ""
    written = [
        f'@id("R{n}") forbid({scope}) when {{ {match}({condition_of(kind, n)[1]}) }};'
        for n in range(rules - 1)
    ]
    written.append(f'@id("permit") permit({scope}) when {{ {match}{PERMITTING[1]} }};')
    return "\n".join(written)


def cedar_request(facts: Facts) -> dict[str, Any]:
    """The request for Cedar, with the facts that its conditions ask about already found."""
    values = facts.values
    return {
        "principal": {"type": "Agent", "id": values["agent.id"]},
        "action": {"type": "Action", "id": values["resource.operation"]},
        "resource": {"type": "Tool", "id": values["resource.tool_id"]},
        "context": {
            "risk_score": values["risk.score"],
            "environment": values["folded.environment"],
            "data_types": values["context.data_types"],
            "target": values["resource.target"],
            "agent_id": values["agent.id"],
            "user_id": values["user.id"],
            "input": values["input"],
        },
    }


def facts_of(request: ActionRequest) -> Facts:
    """What `decide` finds out about a request before it asks the rules."""
    context = effective_context(request)
    risk = assess_risk(request, CONFIG, context=context)
    return action_facts(request, risk, NOW, context=context)


class Contest:
    """One policy, ready to decide in both engines."""

    def __init__(self, kind: Kind, rules: int) -> None:
        started = process_time()
        self.policy = validate_document(make_document(kind, rules))
        self.compile_ms = (process_time() - started) * 1e3
        self._cedar = cedarpy.PolicySet.from_str(cedar_text(kind, rules))
        self._nobody = cedarpy.Entities.from_json_str("[]")
        self._check_agreement()
        self._request = make_request()
        self._input = self._request.input_bytes()
        self._facts = facts_of(self._request)
        self._cedar_request = cedar_request(self._facts)

    def _check_agreement(self) -> None:
        """Both engines name the same rules, whichever facts make some of them hold."""
        for changes in (
            {},
            {"environment": "test"},
            {"environment": "production", "user_id": "u5"},
            {"data_types": ("k2", "public")},
            {"amount": 10_006},
            {"target": "o3/x", "agent_id": "a4"},
            {"user_id": "v9"},
        ):
            facts = facts_of(make_request(**changes))
            ours = evaluate(self.policy, facts)
            theirs = cedarpy.is_authorized(cedar_request(facts), self._cedar, self._nobody)
            if theirs.diagnostics.errors:
                raise AssertionError(theirs.diagnostics.errors)
            named = theirs.diagnostics.id_annotations_by_reason.values()
            if (ours.effect is Effect.ALLOW) != theirs.allowed or set(ours.deciding) != set(named):
                raise AssertionError(f"{ours.explanation} Cedar: {theirs.decision} {named}")

    def decide(self) -> None:
        """The whole decision: risk, facts, rules, explanation."""
        decide(self._request, REFERENCE, self.policy, CONFIG, NOW, input_bytes=self._input)

    def evaluate(self) -> None:
        """The rules alone."""
        evaluate(self.policy, self._facts)

    def cedar(self) -> None:
        """Cedar's decision, with policies and entities parsed beforehand."""
        cedarpy.is_authorized(self._cedar_request, self._cedar, self._nobody)


def measure(contest: Contest, rounds: int, seconds: float) -> dict[str, float]:
    """Microseconds of processor time of each, the median of rounds in which all take turns."""
    contestants: dict[str, Callable[[], None]] = {
        "decide_us": contest.decide,
        "evaluate_us": contest.evaluate,
        "cedarpy_us": contest.cedar,
    }
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            taken[name].append(_once(work, seconds))
    return {name: round(median(times), 1) for name, times in taken.items()}


def _once(work: Callable[[], None], seconds: float) -> float:
    """Microseconds for one call, over at least so many seconds of calls."""
    work()
    calls, started = 0, process_time()
    while (elapsed := process_time() - started) < seconds or not calls:
        for _ in range(10):
            work()
        calls += 10
    return elapsed / calls * 1e6


def run(rounds: int, seconds: float) -> dict[str, Any]:
    """All figures."""
    figures = []
    for kind in KINDS:
        for rules in RULES:
            contest = Contest(kind, rules)
            measured = measure(contest, rounds, seconds)
            figures.append(
                {
                    "policy": kind.name,
                    "rules": rules,
                    **measured,
                    "ratio_to_cedarpy": round(measured["decide_us"] / measured["cedarpy_us"], 2),
                    "target_us": TARGETS_US[rules],
                    "compile_ms": round(contest.compile_ms, 1),
                }
            )
    return {
        "machine": {
            "python": platform.python_version(),
            "processors_used": len(os.sched_getaffinity(0)),
            "cedarpy": version("cedarpy"),
            "cel": version("cel-expr-python"),
        },
        "rounds": rounds,
        "figures": figures,
    }


COLUMNS = {
    "policy": "policy",
    "rules": "rules",
    "decide_us": "decide µs",
    "evaluate_us": "rules only",
    "cedarpy_us": "cedarpy",
    "ratio_to_cedarpy": "ratio",
    "target_us": "target",
    "compile_ms": "compile ms",
}


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """The figures as a table of Markdown."""
    lines = [list(COLUMNS.values()), ["---", *["--:"] * (len(COLUMNS) - 1)]]
    lines += [[str(figure[name]) for name in COLUMNS] for figure in figures]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report = run(*((3, 0.05) if options.quick else (9, 0.5)))
    sys.stdout.write(table(report["figures"]))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
