from dataclasses import replace
from time import thread_time
from typing import Any

import pytest

from oars_grpc.core import policy_document
from oars_grpc.core.canonical import canonical_json, sha256_hex, statement_json
from oars_grpc.core.condition import MAX_LENGTH, CheckedCondition, check_condition
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_document import (
    MAX_CONDITIONS_TEXT,
    MAX_DOCUMENT_BYTES,
    validate_document,
)
from oars_grpc.core.risk import RiskTier
from oars_grpc.errors import InvalidArgument

FULL = PolicyDocument(
    name="payments",
    description="Guards the payment tools.",
    combining=CombiningAlgorithm.FIRST_MATCH,
    rules=(
        Rule(
            id="R-1",
            effect=Effect.APPROVE,
            description="Large transfers at night.",
            priority=-5,
            match=RuleMatch(
                tool_ids=("Stripe",),
                operations=("transfer_funds", "refund"),
                target_contains=("acct_",),
                risk_tiers=(RiskTier.HIGH,),
                environments=("production",),
                required_data_types=("pci",),
                time_window_utc=TimeWindowUtc(22, 6),
                agent_ids=("agent-1",),
                user_ids=("alice",),
            ),
            condition="input.amount > 100.0",
        ),
        Rule(id="R-2", effect=Effect.ALLOW),
    ),
)


def violations_of(*rules: Rule, **head: Any) -> dict[str, str]:
    document = replace(PolicyDocument("p", rules), **head)
    with pytest.raises(InvalidArgument) as refused:
        validate_document(document)
    return {violation.field: violation.description for violation in refused.value.violations}


def rule(**given: Any) -> Rule:
    return Rule(**{"id": "R", "effect": Effect.DENY, **given})


def test_a_document_survives_its_json_form() -> None:
    assert PolicyDocument.from_json(FULL.to_json()) == FULL


def test_the_json_form_keeps_the_restricted_profile_and_gives_the_digest() -> None:
    written = FULL.to_json()
    assert canonical_json(written) == statement_json(written)
    assert FULL.digest == sha256_hex(statement_json(written)) == validate_document(FULL).digest
    assert written["rules"][0]["decision"] == "approve"
    assert written["rules"][0]["match"]["timeWindowUtc"] == {"startHour": 22, "endHour": 6}


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"description": ""},
        {"combining": CombiningAlgorithm.STRICTEST_WINS},
        {"rules": FULL.rules[::-1]},
        {"rules": (replace(FULL.rules[0], condition=""), FULL.rules[1])},
        {"rules": (replace(FULL.rules[0], match=RuleMatch()), FULL.rules[1])},
    ],
)
def test_every_change_changes_the_digest(changed: dict[str, Any]) -> None:
    assert replace(FULL, **changed).digest != FULL.digest


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 3}, "document.name"),
        ({"extra": 1}, "document.extra"),
        ({"rules": {}}, "document.rules"),
        ({"rules": [3]}, "document.rules[0]"),
        ({"combining": "loosest_wins"}, "document.combining"),
        ({"rules": [{"id": "a"}]}, "document.rules[0].decision"),
        ({"rules": [{"id": "a", "decision": "DENY"}]}, "document.rules[0].decision"),
        (
            {"rules": [{"id": "a", "decision": "deny", "priority": True}]},
            "document.rules[0].priority",
        ),
        (
            {"rules": [{"id": "a", "decision": "deny", "match": {"operation": ["x"]}}]},
            "document.rules[0].match.operation",
        ),
        (
            {"rules": [{"id": "a", "decision": "deny", "match": {"toolIds": "x"}}]},
            "document.rules[0].match.tool_ids",
        ),
        (
            {"rules": [{"id": "a", "decision": "deny", "match": {"toolIds": ["x", 1]}}]},
            "document.rules[0].match.tool_ids[1]",
        ),
        (
            {"rules": [{"id": "a", "decision": "deny", "match": {"riskTiers": ["huge"]}}]},
            "document.rules[0].match.risk_tiers[0]",
        ),
        (
            {"rules": [{"id": "a", "decision": "deny", "match": {"timeWindowUtc": {}}}]},
            "document.rules[0].match.time_window_utc.startHour",
        ),
    ],
)
def test_json_that_is_not_a_document_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        PolicyDocument.from_json({"name": "p", "rules": [], **change})
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "a b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "a" * 65}, "id"),
        ({"effect": "permit"}, "decision"),
        ({"description": "x" * 1_025}, "description"),
        ({"priority": 2**31}, "priority"),
        ({"priority": -(2**31) - 1}, "priority"),
        ({"match": RuleMatch(tool_ids=("",))}, "match.tool_ids[0]"),
        ({"match": RuleMatch(operations=("a", "\u200b"))}, "match.operations[1]"),
        ({"match": RuleMatch(user_ids=("x" * 513,))}, "match.user_ids[0]"),
        ({"match": RuleMatch(agent_ids=("x",) * 201)}, "match.agent_ids"),
        ({"match": RuleMatch(risk_tiers=("huge",))}, "match.risk_tiers[0]"),  # type: ignore[arg-type]  # what a careless caller passes
        ({"match": RuleMatch(time_window_utc=TimeWindowUtc(3, 3))}, "match.time_window_utc"),
        (
            {"match": RuleMatch(time_window_utc=TimeWindowUtc(-1, 3))},
            "match.time_window_utc.start_hour",
        ),
        (
            {"match": RuleMatch(time_window_utc=TimeWindowUtc(0, 24))},
            "match.time_window_utc.end_hour",
        ),
    ],
)
def test_a_wrong_rule_names_its_field(given: dict[str, Any], field: str) -> None:
    fine = rule(id="fine")
    assert set(violations_of(fine, rule(**given))) == {f"document.rules[1].{field}"}


def test_a_wrong_condition_names_its_line_and_column() -> None:
    found = violations_of(rule(id="a"), rule(condition="true &&\n  risk.scor > 1"))
    assert list(found) == ["document.rules[1].condition"]
    assert found["document.rules[1].condition"].startswith("line 2, column 7: undeclared")


def test_every_fault_is_named_at_once() -> None:
    found = violations_of(
        rule(id="a"), rule(id="a"), rule(id="!", condition="1"), name="", description="x" * 1_025
    )
    assert set(found) == {
        "document.name",
        "document.description",
        "document.rules[1].id",
        "document.rules[2].id",
        "document.rules[2].condition",
    }


def test_one_to_a_thousand_rules() -> None:
    rules = tuple(rule(id=f"r{number}") for number in range(1_001))
    assert list(violations_of()) == ["document.rules"]
    assert list(violations_of(*rules)) == ["document.rules"]
    assert len(validate_document(PolicyDocument("p", rules[:1_000])).rules) == 1_000


def test_conditions_that_together_take_too_long_are_refused() -> None:
    costly = "input.l.all(x, input.l.all(y, x != y))"  # fine alone
    rules = [rule(id=f"r{number}", condition=costly) for number in range(20)]
    assert validate_document(PolicyDocument("p", (rules[0],))).max_units >= 4_096
    assert "together" in violations_of(*rules)["document.rules"]


def test_the_compiled_policy_keeps_conditions_compiled() -> None:
    compiled = validate_document(FULL).rules[0]
    assert compiled.condition is not None
    assert compiled.condition.text == FULL.rules[0].condition


def test_first_match_orders_by_priority_then_document() -> None:
    rules = (
        rule(id="late", priority=9),
        rule(id="b", priority=1),
        rule(id="a", priority=1),
        rule(id="first", priority=-1),
    )
    document = PolicyDocument("p", rules, CombiningAlgorithm.FIRST_MATCH)
    assert [r.id for r in validate_document(document).rules] == ["first", "b", "a", "late"]


@pytest.mark.parametrize(
    ("window", "hours"),
    [
        (TimeWindowUtc(9, 17), set(range(9, 17))),
        (TimeWindowUtc(22, 2), {22, 23, 0, 1}),
        (TimeWindowUtc(23, 0), {23}),
        (TimeWindowUtc(0, 23), set(range(23))),
    ],
)
def test_windows_start_inclusive_end_exclusive_and_wrap(
    window: TimeWindowUtc, hours: set[int]
) -> None:
    assert window.hours() == hours


def test_strictness_is_deny_quarantine_approve_allow() -> None:
    assert sorted(Effect, key=lambda effect: -effect.strictness) == [
        Effect.DENY,
        Effect.QUARANTINE,
        Effect.APPROVE,
        Effect.ALLOW,
    ]


def test_the_text_of_all_conditions_together_is_bounded_before_any_is_compiled() -> None:
    """Without the bound, a megabyte of conditions took ten seconds to compile."""
    assert MAX_CONDITIONS_TEXT == 50_000
    long = " || ".join(f"risk.score == {number}" for number in range(90))
    rules = tuple(Rule(f"r{number}", Effect.DENY, condition=long) for number in range(80))
    with pytest.raises(InvalidArgument) as refused:
        validate_document(PolicyDocument("long", rules))
    assert "at most 50000" in refused.value.violations[0].description


def test_a_document_is_bounded_as_a_whole() -> None:
    """A thousand rules of two hundred values would each be within their own limits."""
    empty = PolicyDocument("p", tuple(rule(id=f"r{n}", description="") for n in range(300)))
    missing = MAX_DOCUMENT_BYTES - len(canonical_json(empty.to_json()))
    each, rest = divmod(missing, 300)
    rules = tuple(
        replace(r, description="x" * (each + (n < rest))) for n, r in enumerate(empty.rules)
    )
    exact = replace(empty, rules=rules)
    assert len(canonical_json(exact.to_json())) == MAX_DOCUMENT_BYTES
    assert len(validate_document(exact).rules) == 300
    with pytest.raises(InvalidArgument) as refused:
        validate_document(replace(exact, name="pp"))
    assert [violation.field for violation in refused.value.violations] == ["document"]
    assert str(MAX_DOCUMENT_BYTES + 1) in refused.value.violations[0].description


@pytest.mark.parametrize("priority", [-(2**31), 2**31 - 1])
def test_any_32_bit_priority_is_accepted(priority: int) -> None:
    assert validate_document(PolicyDocument("p", (rule(priority=priority),))).rules


def test_a_document_without_a_canonical_form_is_refused() -> None:
    with pytest.raises(InvalidArgument) as refused:
        validate_document(replace(FULL, name="\ud800"))
    assert [violation.field for violation in refused.value.violations] == ["document"]


def test_compiling_ends_after_ten_faulty_conditions() -> None:
    rules = tuple(rule(id=f"r{number}", condition="1") for number in range(50))
    found = violations_of(*rules)
    assert 1 <= len([field for field in found if field.endswith(".condition")]) <= 10


def test_compiling_ends_when_the_conditions_cannot_fit_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of these patterns takes milliseconds to compile, and a thousand of them seconds."""
    compiled: list[str] = []

    def counted(text: str) -> CheckedCondition:
        compiled.append(text)
        return check_condition(text)

    monkeypatch.setattr(policy_document, "check_condition", counted)
    rules = (rule(id=f"r{n}", condition=f"input.t.matches('{n}[^\\\\pL]')") for n in range(500))
    assert "together" in violations_of(*rules)["document.rules"]
    assert len(compiled) < 50


@pytest.mark.parametrize(
    ("part", "joiner"),
    [("[1].all(x,x>0)", "||"), ("-1==-1", "||"), ("[].map(x,x)==[]", "||")],
)
def test_the_dearest_document_within_the_limits_compiles_in_bounded_time(
    part: str, joiner: str
) -> None:
    """It took 0.7 s of processor time when this was written; the rest is for a slower machine."""
    long = joiner.join([part] * ((MAX_LENGTH + len(joiner)) // (len(part) + len(joiner))))
    count = MAX_CONDITIONS_TEXT // len(long)
    rules = tuple(rule(id=f"r{number}", condition=long) for number in range(count))
    started = thread_time()
    assert validate_document(PolicyDocument("p", rules)).rules
    assert thread_time() - started < 5
