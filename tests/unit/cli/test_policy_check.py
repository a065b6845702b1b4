"""`oars policy check`: faults at their places, what is warned of, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from oars_grpc.cli import commands
from oars_grpc.cli.policy_checks import checked_file
from oars_grpc.cli.policy_file import read_policy_file
from oars_grpc.core.builtin_policy import BUILTIN_POLICY
from oars_grpc.core.policy import Effect, RuleMatch, TimeWindowUtc
from oars_grpc.core.risk import RiskTier

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "policies" / "payments.yaml"
VALID = """\
name: p
rules:
  - id: R-1
    decision: DENY
    match: {operations: [wipe]}
"""


def check(path: Path, *options: str) -> Result:
    return CliRunner().invoke(commands, ["policy", "check", str(path), *options])


def written(folder: Path, text: str, name: str = "p.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def lines(result: Result, path: Path) -> list[str]:
    return [line.removeprefix(f"{path}:") for line in result.stdout.splitlines()[:-1]]


def test_the_example_is_valid_and_nothing_about_it_is_conspicuous() -> None:
    result = check(EXAMPLE, "--strict")
    assert result.exit_code == 0, result.output
    assert "valid: rules 9, digest " in result.stdout
    assert "warning" not in result.stdout


def test_every_fault_is_named_with_its_place(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """\
name: p
rules:
  - id: R-1
    decision: DENY
    match:
      operations: [wipe, ""]
      time_window_utc: {start_hour: 3, end_hour: 3}
  - id: R-2
    effect: EFFECT_ALLOW
    condition: |
      risk.score > 3 &&
        risk.scor > 4
  - id: R-2
    decision: allow
    workflow_id: board
  - id: bad id
    decision: quarantine
    condition: risk.score
""",
    )
    result = check(path)
    assert result.exit_code == 1
    assert lines(result, path) == [
        "6:26: rule R-1: operations[1] is required",
        "7:24: rule R-1: time_window_utc start_hour and end_hour must differ",
        "12:13: rule R-2: condition: undeclared reference to 'risk.scor'",
        "13:9: rule R-2: id repeats the id of document.rules[1]",
        "15:18: rule R-2: workflow_id is only for a rule that asks for approval",
        "16:9: rule bad id: id must be 1 to 64 of A-Z a-z 0-9 . _ -",
        "18:16: rule bad id: condition: must be of type bool, not int",
    ]
    assert result.stdout.endswith("not valid: 7 errors\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{id: R, decision: DENY}]", "1:1: name is required"),
        ("name: p\nrules: []", "2:8: rules must have 1 to 1000 rules"),
        ("name: p\nrulez: []", "2:1: unknown field 'rulez'"),
        ("name: 7\nrules: []", "1:7: name must be text, in quotes if"),
        ("name:\nrules: []", "1:6: name must be text"),
        ("- a", "1:1: document must be a mapping"),
        ("name: p\nrules: {a: b}", "2:8: rules must be a list"),
        ("name: p\nrules: [x]", "2:9: rules[0] must be a mapping"),
        ("name: p\nrules:\n- {id: R}", "3:3: rule R: decision is required"),
        ("name: p\nrules:\n- {decision: deny}", "3:3: id is required"),
        ("name: p\nrules:\n- {id: R, decision: no}", "3:21: rule R: decision must be one of"),
        (
            "name: p\nrules:\n- {id: R, decision: deny, effect: deny}",
            "3:27: rule R: says 'decision' twice",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, match: {toolIds: [a], tool_ids: [a]}}",
            "3:49: rule R: says 'tool_ids' twice",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, match: {tool_id: [a]}}",
            "3:35: rule R: unknown field 'tool_id'",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, match: {tool_ids: a}}",
            "3:45: rule R: tool_ids must be a list",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, match: {tool_ids: [a, 5]}}",
            "3:49: rule R: tool_ids must be text",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, match: {risk_tiers: [grave]}}",
            "3:48: rule R: risk_tiers[0] must be one of low, medium, high, critical",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, priority: 99999999999}",
            "3:37: rule R: priority must be a 32-bit integer",
        ),
        (
            "name: p\nrules:\n- {id: R, decision: deny, match: {time_window_utc: {start_hour: 1}}}",
            "rule R: end_hour is required",
        ),
        ('name: p\nrules:\n- {id: R, decision: deny, description: "a\\x07"}', "control character"),
        ("name: p\nrules: &r []", "2:8: anchors and aliases are not accepted"),
        ("name: p\nrules: !!python/name:os.system []", "2:8: tags are not accepted"),
        ("name: p\nname: q", "2:1: repeats 'name' of line 1"),
        (VALID + "risk_weights: {moneys: 1}", "6:15: risk_weights unknown risk weight 'moneys'"),
        (VALID + "tools: [{operations: [a]}]", "6:9: id is required"),
        (VALID + "workflows: [5]", "6:13: a workflow is its id"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, text: str, message: str) -> None:
    result = check(written(tmp_path, text))
    assert result.exit_code == 1
    assert message in result.stdout


def test_text_that_is_not_utf_8_or_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: p\nrules: \xff\n")
    assert f"{path}:2:1: is not UTF-8" in check(path).stdout
    path.write_bytes(b"#" * 2**20 + b"\n")
    assert "is longer than" in check(path).stdout


def test_more_faults_than_a_caller_is_sent_are_all_named(tmp_path: Path) -> None:
    rules = "".join(
        f"  - {{id: R-{n}, decision: DENY, condition: nonsense{n} > 1}}\n" for n in range(40)
    )
    result = check(written(tmp_path, f"name: p\nrules:\n{rules}"))
    assert result.stdout.count("undeclared reference") == 40


def spelled(style: str, combining: str, decision: str, tiers: list[str]) -> dict[str, Any]:
    """One document in the names of the protos, or in those of JSON."""
    snake = style == "snake"
    return {
        "name": "p",
        ("combining" if snake else "combiningAlgorithm"): combining,
        "rules": [
            {
                "id": "R-1",
                ("decision" if snake else "effect"): decision,
                "priority": 4,
                "condition": "risk.score > 1",
                ("workflow_id" if snake else "workflowId"): "board",
                "match": {
                    ("tool_ids" if snake else "toolIds"): ["a"],
                    ("target_contains" if snake else "targetContains"): ["b"],
                    ("required_data_types" if snake else "requiredDataTypes"): ["pii"],
                    ("risk_tiers" if snake else "riskTiers"): tiers,
                    ("time_window_utc" if snake else "timeWindowUtc"): {
                        ("start_hour" if snake else "startHour"): 22,
                        ("end_hour" if snake else "endHour"): 2,
                    },
                },
            }
        ],
    }


SNAKE = spelled("snake", "FIRST_MATCH", "Approve", ["LOW", "critical"])
CAMEL = spelled(
    "camel",
    "COMBINING_ALGORITHM_FIRST_MATCH",
    "EFFECT_APPROVE",
    ["RISK_TIER_LOW", "Risk_Tier_Critical"],
)


def test_all_spellings_are_the_same_document(tmp_path: Path) -> None:
    files = [
        written(tmp_path, yaml.safe_dump(SNAKE), "snake.yaml"),
        written(tmp_path, json.dumps(SNAKE, indent="\t"), "snake.json"),
        written(tmp_path, yaml.safe_dump(CAMEL), "camel.yml"),
        written(tmp_path, json.dumps(CAMEL), "camel.json"),
    ]
    read = [read_policy_file(path) for path in files]
    assert [file.faults for file in read] == [()] * 4
    (document,) = {file.document for file in read}
    (rule,) = document.rules
    assert rule.effect is Effect.APPROVE
    assert rule.workflow_id == "board"
    assert rule.match == RuleMatch(
        tool_ids=("a",),
        target_contains=("b",),
        required_data_types=("pii",),
        risk_tiers=(RiskTier.LOW, RiskTier.CRITICAL),
        time_window_utc=TimeWindowUtc(22, 2),
    )


def test_the_canonical_form_of_a_document_is_a_file_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(BUILTIN_POLICY.to_json()), "builtin.json")
    file = read_policy_file(path)
    assert file.document.digest == BUILTIN_POLICY.digest
    # Lists that the canonical form leaves empty ask nothing, which is said.
    assert {fault.kind for fault in file.faults} == {"empty_list"}


WARNED = """\
name: p
rules:
  - id: deny
    decision: DENY
    match: {operations: [Wipe]}
  - id: narrow
    decision: ALLOW
    match: {operations: [wipe], tool_ids: [disk]}
  - id: never
    decision: APPROVE
    condition: >-
      risk.score
      > 100
  - id: again
    decision: DENY
    match: {operations: [WIPE]}
  - id: open
    decision: ALLOW
    match: {tool_ids: []}
  - id: unknown
    decision: APPROVE
    match: {tool_ids: [DESK, tape], operations: [open, burn]}
    condition: resource.operation != "erase"
    workflow_id: board
tools:
  - {id: disk, operations: [wipe]}
  - {id: desk, operations: [open]}
workflows: [default]
"""


def test_what_is_conspicuous_is_warned_of(tmp_path: Path) -> None:
    path = written(tmp_path, WARNED)
    result = check(path)
    assert result.exit_code == 0
    found = lines(result, path)
    shadowed = "never decides: rule deny is stricter (deny) and matches whatever it matches"
    assert found == [
        f"6:5: warning: rule narrow: {shadowed}",
        "11:16: warning: rule never: can never match: no action is what its condition asks of risk",
        "14:5: warning: rule again: says the same as rule deny",
        "17:5: warning: rule open: allows everything: whatever no stricter rule decides",
        "19:23: warning: rule open: tool_ids is empty and asks nothing; leave it out",
        "22:30: warning: rule unknown: there is no tool 'tape'",
        "24:18: warning: rule unknown: there is no workflow 'board'",
    ]
    assert check(path, "--strict").exit_code == 1
    as_json = json.loads(check(path, "--format", "json").stdout)
    assert as_json["valid"] is True
    assert [fault["kind"] for fault in as_json["faults"]] == [
        "shadowed",
        "never_matches",
        "duplicate",
        "allows_everything",
        "empty_list",
        "unknown_tool",
        "unknown_workflow",
    ]
    assert as_json["faults"][0]["line"] == 6


def test_names_may_stand_in_files_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path, WARNED)
    tools = written(tmp_path, "- disk\n- {tool_id: desk, operations: [open]}\n- tape", "tools.yaml")
    workflows = written(tmp_path, '{"workflows": [{"workflowId": "board"}]}', "workflows.json")
    shown = check(path, "--tools", str(tools), "--workflows", str(workflows)).stdout
    assert "there is no" not in shown
    tools.write_text("- {id: desk, operations: [open]}\n- {id: tape, operations: []}")
    shown = check(path, "--tools", str(tools)).stdout
    assert "22:56: warning: rule unknown: the tools of this rule have no operation 'burn'" in shown
    assert "23:16: warning: rule unknown: the tools of this rule have no operation 'erase'" in shown
    assert "there is no tool 'disk'" in shown
    tools.write_text("tools: [5]")
    result = check(path, "--tools", str(tools))
    assert result.exit_code == 2
    assert "must be a mapping" in result.stderr


def test_notes_are_no_warnings(tmp_path: Path) -> None:
    path = written(tmp_path, VALID + "  - {id: W, decision: DENY}\n")
    result = check(path, "--strict")
    assert result.exit_code == 0
    assert "3:5: note: rule R-1: changes nothing: rule W says deny there too" in result.stdout


def test_a_file_that_is_not_there_is_a_wrong_argument(tmp_path: Path) -> None:
    assert check(tmp_path / "missing.yaml").exit_code == 2
    assert check(tmp_path).exit_code == 2


def test_faults_of_cases_are_faults_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, VALID)
    written(
        tmp_path,
        """\
cases:
  - name: one
    action: {resource: {tool_id: a, operation: wipe}, evidence: {coherence: 2}, time: noon}
    expect: DENY
    rules: [R-9]
  - name: one
    action:
      resource: {tool_id: a}
      caller: {role: king}
      input: []
      context: {data_types: [none, a]}
    expects: DENY
""",
        "p.cases.yaml",
    )
    checked = checked_file(path)
    beside = tmp_path / "p.cases.yaml"
    scores = "coherence, conflict, novelty, risk, risk_high, risk_low, support"
    assert [str(fault).removeprefix(f"{beside}:") for fault in checked.faults] == [
        f"3:65: evidence must map {scores} to numbers from 0 to 1",
        "3:87: time must be a time in RFC 3339, such as 2026-01-05T12:00:00Z",
        "6:5: expect is required",
        "6:5: repeats the name 'one' of cases[0]",
        "8:17: operation is required",
        "9:22: role must be one of admin, operator, approver, auditor, agent, gateway",
        "10:14: input must be a mapping",
        "11:29: data_types 'none' stands alone",
        "12:5: unknown field 'expects'",
    ]
    (tmp_path / "p.cases.yaml").write_text(
        "cases:\n- {name: a, action: {resource: {tool_id: a, operation: wipe}},"
        " expect: DENY, rules: [R-9]}\n"
    )
    assert "2:3: case 'a': no rule 'R-9'" in check(path).stdout
    assert check(path).exit_code == 1
