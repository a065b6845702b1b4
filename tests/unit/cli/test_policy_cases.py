"""`oars policy test` and `diff`: cases decided, compared and counted."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from click.testing import CliRunner, Result

from oars_grpc.cli import commands

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "policies" / "payments.yaml"
POLICY: dict[str, Any] = {
    "name": "p",
    "rules": [
        {"id": "R-1", "decision": "DENY", "match": {"operations": ["wipe"]}},
        {"id": "R-2", "decision": "APPROVE", "match": {"environments": ["production"]}},
        {"id": "R-3", "decision": "ALLOW", "condition": "user.id == 'alice'"},
    ],
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["policy", *map(str, arguments)])


def written(folder: Path, *cases: dict[str, Any], name: str = "p.yaml", **changes: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(POLICY | {"cases": list(cases)} | changes))
    return path


def case(expect: str, operation: str = "list", **more: Any) -> dict[str, Any]:
    action = {"resource": {"tool_id": "t", "operation": operation}} | more.pop("action", {})
    return {"name": f"{expect} {operation}", "expect": expect, "action": action} | more


ALICE = {"user_id": "alice", "context": {"environment": "staging", "data_types": ["none"]}}


def test_the_cases_of_the_example_pass_and_cover_it() -> None:
    result = run("test", EXAMPLE, "--require-coverage")
    assert result.exit_code == 0, result.output
    assert "12 of 12 cases passed" in result.stdout
    assert "pass  deleting is refused: Forbidden by deny-destructive." in result.stdout
    assert "no case covers" not in result.stdout


@pytest.mark.parametrize(
    "expected",
    [
        case("DENY", "Wipe", rules=["R-1"]),
        case("deny", "wipe", rules=["R-1"], risk_tier="HIGH", action=ALICE),
        case("EFFECT_APPROVE", action={"context": {"environment": "Production"}}),
        case("APPROVE", rules=["R-2"], indeterminate=["R-2", "R-3"]),
        case("APPROVE", missing_facts=["context.environment", "user.id"]),
        case("ALLOW", rules=["R-3"], indeterminate=[], missing_facts=[], action=ALICE),
        case("DENY", rules=[], action={**ALICE, "user_id": "bob"}),
    ],
)
def test_a_case_that_is_as_expected_passes(tmp_path: Path, expected: dict[str, Any]) -> None:
    result = run("test", written(tmp_path, expected))
    assert result.exit_code == 0, result.output
    assert "1 of 1 cases passed" in result.stdout


@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        (case("ALLOW", "wipe"), "expected ALLOW, is DENY"),
        (case("DENY", "wipe", rules=[]), "expected rules [], are [R-1]"),
        (case("DENY", "wipe", rules=["R-1", "R-2"]), "expected rules [R-1, R-2], are [R-1]"),
        (case("DENY", "wipe", risk_tier="low"), "expected risk tier low, is critical"),
        (case("APPROVE", indeterminate=[]), "expected indeterminate [], are [R-2, R-3]"),
        (
            case("APPROVE", missing_facts=["user.id"]),
            "expected missing_facts [user.id], are [context.environment, user.id]",
        ),
    ],
)
def test_a_case_that_is_otherwise_fails_and_says_how(
    tmp_path: Path, expected: dict[str, Any], difference: str
) -> None:
    result = run("test", written(tmp_path, expected))
    assert result.exit_code == 1
    assert f"      {difference}" in result.stdout
    assert "0 of 1 cases passed" in result.stdout


def test_an_action_may_say_all_that_a_policy_asks(tmp_path: Path) -> None:
    condition = (
        "agent.id == 'a' && caller.role == 'gateway' && caller.subject == 's'"
        " && caller.attributes.team == 'x' && caller.service_account_id == 'sa'"
        " && delegation.chain == ['b', 'c'] && folded.target == 'prod'"
        " && context.data_types == ['pii'] && context.attributes.k == 'v'"
        " && input.list[1].n == 2.5 && input.none == null && evidence.support == 0.25"
        " && time.hour_utc == 22 && time.weekday == 2 && user.id == 'u'"
    )
    action = {
        "agent_id": "a",
        "userId": "u",
        "caller": {
            "role": "GATEWAY",
            "subject": "s",
            "service_account_id": "sa",
            "attributes": {"team": "x"},
        },
        "delegation_chain": ["b", "c"],
        "resource": {"toolId": "t", "operation": "o", "target": "PROD"},
        "context": {"environment": "e", "data_types": ["pii"], "attributes": {"k": "v"}},
        "input": {"list": [1, {"n": 2.5}], "none": None},
        "evidence": {"support": 0.25},
        "time": "2026-01-06T23:30:00+01:00",
    }
    rules = [{"id": "R", "decision": "QUARANTINE", "condition": condition}]
    path = written(tmp_path, {"name": "all", "action": action, "expect": "QUARANTINE"}, rules=rules)
    result = run("test", path)
    assert result.exit_code == 0, result.output


def test_risk_weights_of_the_file_count(tmp_path: Path) -> None:
    expected = case("DENY", "wipe", risk_tier="low", action=ALICE)
    assert run("test", written(tmp_path, expected)).exit_code == 1
    weights = {"destructive": 5}
    assert run("test", written(tmp_path, expected, risk_weights=weights)).exit_code == 0


def test_rules_that_no_case_covers_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, case("DENY", "wipe", action=ALICE))
    result = run("test", path)
    assert result.exit_code == 0
    assert "no case covers: R-2\n" in result.stdout
    assert run("test", path, "--require-coverage").exit_code == 1


def test_a_policy_without_cases_was_not_tested(tmp_path: Path) -> None:
    result = run("test", written(tmp_path))
    assert result.exit_code == 1
    assert "has no cases" in result.stderr


def test_a_policy_that_is_not_valid_is_not_tested(tmp_path: Path) -> None:
    result = run("test", written(tmp_path, case("DENY"), name="p.json", combining="both"))
    assert result.exit_code == 1
    path = tmp_path / "q.yaml"
    path.write_text(yaml.safe_dump(POLICY | {"combining": "both", "cases": [case("DENY")]}))
    result = run("test", path)
    assert result.exit_code == 1
    assert "combining must be one of" in result.stderr
    assert "passed" not in result.output


def test_results_are_written_for_machines(tmp_path: Path) -> None:
    path = written(tmp_path, case("DENY", "wipe"), case("ALLOW", "list"))
    junit = tmp_path / "junit.xml"
    result = run("test", path, "--format", "json", "--junit", junit)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["passed"], found["failed"]) == (1, 1)
    assert found["cases"][1]["differences"] == ["expected ALLOW, is APPROVE"]
    assert found["cases"][0]["rules"] == ["R-1"]
    suite = ET.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "expected ALLOW, is APPROVE"


def test_equal_documents_do_not_differ(tmp_path: Path) -> None:
    one, other = written(tmp_path), written(tmp_path, name="q.yaml")
    result = run("diff", one, other, "--exit-code")
    assert result.exit_code == 0, result.output
    assert "say the same" in result.stdout


def test_what_changes_is_told_field_by_field_with_the_cases(tmp_path: Path) -> None:
    one = written(tmp_path)
    rules = [
        {
            "id": "R-1",
            "decision": "QUARANTINE",
            "match": {"operations": ["erase"], "time_window_utc": {"start_hour": 1, "end_hour": 2}},
        },
        {"id": "R-3", "decision": "ALLOW", "condition": "user.id == 'alice'"},
        {"id": "R-4", "decision": "DENY", "match": {"operations": ["drop"]}},
    ]
    changed = written(
        tmp_path,
        case("DENY", "wipe"),
        case("DENY", "list"),
        name="q.yaml",
        rules=rules,
        combining="first_match",
    )
    result = run("diff", one, changed)
    assert result.exit_code == 0
    unsure = "R-2 counts although context.environment is missing"
    lacking = "R-3 would allow but its condition has no value: a fact is missing"
    assert result.stdout.splitlines() == [
        f"--- {one}",
        f"+++ {changed}",
        "~ combining: 'strictest_wins' -> 'first_match'",
        "- rule R-2 (APPROVE)",
        "+ rule R-4 (DENY)",
        "~ rule R-1",
        "    decision: 'deny' -> 'quarantine'",
        "    match.operations: -wipe +erase",
        "    match.time_window_utc: +1-2",
        "! case DENY list: APPROVE -> DENY",
        f"    before: Approval required by R-2 ({unsure}).",
        f"    after: Nothing permits this ({lacking}).",
    ]
    assert run("diff", one, changed, "--exit-code").exit_code == 1
    found = json.loads(run("diff", one, changed, "--format", "json").stdout)
    assert found["addedRules"] == ["R-4"]
    assert found["cases"] == [{"name": "DENY list", "before": "approve", "after": "deny"}]


def test_another_order_is_a_change_where_it_counts(tmp_path: Path) -> None:
    one = written(tmp_path, combining="first_match")
    turned = [*POLICY["rules"][1:], POLICY["rules"][0]]
    other = written(tmp_path, name="q.yaml", rules=turned, combining="first_match")
    assert "asked in another order" in run("diff", one, other).stdout
    same = written(tmp_path, name="r.yaml", rules=turned)
    assert run("diff", written(tmp_path), same, "--exit-code").exit_code == 0


@pytest.mark.parametrize("files", [1, 3])
def test_two_documents_are_compared(tmp_path: Path, files: int) -> None:
    result = run("diff", *[written(tmp_path)] * files)
    assert result.exit_code == 2
    assert "give OLD and NEW" in result.stderr


def test_without_a_connection_nothing_is_published_or_compared(tmp_path: Path) -> None:
    path = written(tmp_path)
    missing = tmp_path / "missing.json"
    assert run("diff", path, "--published", "--connection", missing).exit_code == 2
    assert run("publish", path, "--connection", missing).exit_code == 2
