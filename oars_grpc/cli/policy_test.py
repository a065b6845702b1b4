"""`oars policy test`: runs the cases of a policy file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click

from oars_grpc.cli.policy_checks import (
    CheckedFile,
    checked_file,
    file_argument,
    format_option,
    print_faults,
    print_json,
)
from oars_grpc.core.policy_case import CaseResult, run_case, uncovered_rules
from oars_grpc.core.policy_document import CompiledPolicy


@dataclass(frozen=True, slots=True)
class CaseRun:
    """The results of all cases of a file, and the rules that counted in none."""

    results: tuple[CaseResult, ...]
    uncovered: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many cases are not as expected."""
        return sum(not result.passed for result in self.results)


def run_cases(checked: CheckedFile, policy: CompiledPolicy) -> CaseRun:
    """Run the cases of a valid file."""
    file = checked.file
    results = tuple(run_case(located.case, policy, file.risk) for located in file.cases)
    return CaseRun(results, tuple(uncovered_rules(policy, results)))


@click.command()
@file_argument
@click.option(
    "--require-coverage", is_flag=True, help="Every rule must count in at least one case."
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the results to this file, too, in JUnit's XML.",
)
@format_option
def test(file: Path, junit: Path | None, output: str, *, require_coverage: bool) -> None:
    """Run the cases of FILE, those in it and those in the `.cases.yaml` beside it.

    Decides as the server does, with the risk weights of FILE, or the defaults.

    Leaves with 0 if all are as expected, 1 if not, or if FILE is not valid, 2 if it could not be
    read.
    """
    checked = checked_file(file)
    if checked.policy is None:
        print_faults(checked.faults)
        click.echo(checked.summary(), err=True)
        sys.exit(1)
    run = run_cases(checked, checked.policy)
    if junit is not None:
        _write_junit(junit, file, run.results)
    if output == "json":
        print_json(_to_json(file, checked.policy, run))
    else:
        print_run(run)
    if not run.results:
        click.echo(f"{file}: has no cases", err=True)
        sys.exit(1)
    if run.failed or (require_coverage and run.uncovered):
        sys.exit(1)


def print_run(run: CaseRun) -> None:
    """Each case with its explanation, and a summary."""
    for result in run.results:
        evaluation = result.decision.evaluation
        verdict = "pass" if result.passed else "FAIL"
        click.echo(f"{verdict}  {result.case.name}: {evaluation.explanation}")
        for difference in result.differences:
            click.echo(f"      {difference}")
    passed = len(run.results) - run.failed
    click.echo(f"{passed} of {len(run.results)} cases passed")
    if run.uncovered:
        click.echo(f"no case covers: {', '.join(run.uncovered)}")


def _to_json(file: Path, policy: CompiledPolicy, run: CaseRun) -> dict[str, Any]:
    return {
        "file": str(file),
        "digest": policy.digest,
        "passed": len(run.results) - run.failed,
        "failed": run.failed,
        "uncoveredRules": list(run.uncovered),
        "cases": [
            {
                "name": result.case.name,
                "passed": result.passed,
                "differences": list(result.differences),
                "decision": result.decision.effect.value,
                "rules": list(result.decision.evaluation.deciding),
                "missingFacts": list(result.decision.evaluation.missing_facts),
                "explanation": result.decision.evaluation.explanation,
                "risk": {
                    "score": result.decision.risk.score,
                    "tier": result.decision.risk.tier.value,
                },
            }
            for result in run.results
        ],
    }


def _write_junit(path: Path, file: Path, results: Sequence[CaseResult]) -> None:
    failed = sum(not result.passed for result in results)
    counts = {"tests": str(len(results)), "failures": str(failed)}
    suite = ET.Element("testsuite", {"name": str(file), **counts})
    for result in results:
        case = ET.SubElement(
            suite, "testcase", {"classname": str(file), "name": result.case.name, "time": "0"}
        )
        if not result.passed:
            message = "; ".join(result.differences)
            failure = ET.SubElement(case, "failure", {"message": message})
            failure.text = result.decision.evaluation.explanation
    try:
        ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
