"""Checks the names in a document against those that there are: tools, operations, workflows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oars_grpc.core.condition_parts import Variable
from oars_grpc.core.folding import fold
from oars_grpc.core.policy import Rule
from oars_grpc.core.policy_analysis import Finding, FindingKind, rule_terms
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.policy_terms import CONDITION, Term
from oars_grpc.core.workflow import DEFAULT_WORKFLOW

_TOOLS: frozenset[Variable] = frozenset({("resource.tool_id",), ("folded.tool_id",)})
_OPERATIONS: frozenset[Variable] = frozenset({("resource.operation",), ("folded.operation",)})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that there are; None where that is not known.

    `tools` have their operations, or None where those are not known. Names compare folded.
    """

    tools: Mapping[str, frozenset[str] | None] | None = None
    workflows: frozenset[str] | None = None


def check_vocabulary(policy: CompiledPolicy, vocabulary: Vocabulary) -> list[Finding]:
    """The names of a valid document that are unknown, in document order."""
    tools = None
    if vocabulary.tools is not None:
        tools = {fold(tool): operations for tool, operations in vocabulary.tools.items()}
    findings: list[Finding] = []
    asked = zip(policy.document.rules, rule_terms(policy), strict=True)
    for index, (rule, terms) in enumerate(asked):
        path = f"document.rules[{index}]"
        findings += _unknown_workflow(rule, path, vocabulary.workflows)
        if tools is not None:
            findings += _unknown_names(rule, terms, path, tools)
    return findings


def _unknown_workflow(rule: Rule, path: str, workflows: frozenset[str] | None) -> Iterator[Finding]:
    # The default one need not be set: a built-in one stands in for it.
    if workflows is not None and rule.workflow_id not in {"", DEFAULT_WORKFLOW, *workflows}:
        message = f"there is no workflow {rule.workflow_id!r}"
        yield Finding(FindingKind.UNKNOWN_WORKFLOW, rule.id, f"{path}.workflow_id", message)


def _unknown_names(
    rule: Rule, terms: list[Term], path: str, tools: Mapping[str, frozenset[str] | None]
) -> Iterator[Finding]:
    for field, tool in _named(f"{path}.match.tool_ids", rule.match.tool_ids, terms, _TOOLS):
        if fold(tool) not in tools:
            message = f"there is no tool {tool!r}"
            yield Finding(FindingKind.UNKNOWN_TOOL, rule.id, field or f"{path}.condition", message)
    named = {fold(tool) for tool in rule.match.tool_ids}
    operations = _operations(tools, named)
    if operations is None:
        return
    of = "the tools of this rule have" if named else "the tools have"
    given = f"{path}.match.operations", rule.match.operations
    for field, name in _named(*given, terms, _OPERATIONS):
        if fold(name) not in operations:
            kind, message = FindingKind.UNKNOWN_OPERATION, f"{of} no operation {name!r}"
            yield Finding(kind, rule.id, field or f"{path}.condition", message)


def _named(
    field: str, values: tuple[str, ...], terms: list[Term], variables: frozenset[Variable]
) -> Iterator[tuple[str, str]]:
    """Names that a rule matches, each with its field, and those in its condition, without."""
    for position, value in enumerate(values):
        yield f"{field}[{position}]", value
    for value in _compared(terms, variables):
        yield "", value


def _operations(
    tools: Mapping[str, frozenset[str] | None], named: set[str]
) -> frozenset[str] | None:
    """The operations that a rule may speak of; None where they are not all known."""
    found = [tools.get(tool) for tool in named or tools]
    known = [{fold(name) for name in names} for names in found if names is not None]
    return frozenset().union(*known) if known and len(known) == len(found) else None


def _compared(terms: list[Term], variables: frozenset[Variable]) -> Iterator[str]:
    """The texts that a condition compares one of these facts with."""
    constants = {
        value
        for term in terms
        if term.source == CONDITION
        for variable, value in term.question.constants()
        if variable in variables and isinstance(value, str)
    }
    yield from sorted(constants)
