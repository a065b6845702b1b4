"""Checks a policy file as the server would, and puts every fault at its place in the file."""

import re
from collections.abc import Iterator
from dataclasses import replace

from oars_grpc.cli.policy_fields import FileFault
from oars_grpc.cli.policy_file import PolicyFile
from oars_grpc.cli.policy_text import Place, place_within
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_analysis import Finding, analyse
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.policy_vocabulary import Vocabulary, check_vocabulary
from oars_grpc.errors import FieldViolation, InvalidArgument
from oars_grpc.transport.policy_messages import read_document, write_document

_RULE = re.compile(r"document\.rules\[(\d+)\]")
_IN_CONDITION = re.compile(r"line (\d+), column (\d+): (.*)", re.DOTALL)


def check_document(file: PolicyFile) -> tuple[CompiledPolicy | None, list[FileFault]]:
    """The compiled document of a readable file, or every fault in it."""
    try:
        _read_as_sent(file.document)
        return validate_document(file.document), []
    except InvalidArgument:
        found: dict[str, FieldViolation] = {}
    for violation in (*_violations(file.document), *_of_each_rule(file.document)):
        # The first that is said of a field; `request` tells how many more a caller is not sent.
        if violation.field != "request":
            found.setdefault(violation.field, violation)
    faults = [fault_of(file, violation) for violation in found.values()]
    return None, sorted(faults, key=lambda fault: (fault.place.line, fault.place.column))


def _of_each_rule(document: PolicyDocument) -> Iterator[FieldViolation]:
    """What a caller would be told if there was but one rule: of many not all is told."""
    for index, rule in enumerate(document.rules):
        for violation in _violations(PolicyDocument("alone", (rule,))):
            field = violation.field.replace("rules[0]", f"rules[{index}]", 1)
            yield replace(violation, field=field)


def _violations(document: PolicyDocument) -> Iterator[FieldViolation]:
    for check in (_read_as_sent, validate_document):
        try:
            check(document)
        except InvalidArgument as error:
            yield from error.violations


def _read_as_sent(document: PolicyDocument) -> None:
    read_document(write_document(document))


def warnings(file: PolicyFile, policy: CompiledPolicy, names: Vocabulary) -> list[FileFault]:
    """What is conspicuous about a valid document, given the names that there are."""
    findings = [*analyse(policy), *check_vocabulary(policy, names)]
    return [_conspicuous(file, finding) for finding in findings]


def _conspicuous(file: PolicyFile, finding: Finding) -> FileFault:
    level = "note" if finding.is_note else "warning"
    fault = fault_of(file, FieldViolation(finding.field, finding.message))
    return replace(fault, level=level, kind=finding.kind.value, message=finding.message)


def fault_of(file: PolicyFile, violation: FieldViolation) -> FileFault:
    """A violation, as the server names it, at its place in the file."""
    path = violation.field.replace(".effect", ".decision")
    path = path.replace("combining_algorithm", "combining")
    located = file.fields.located(path)
    place = Place() if located is None else located.place
    message = f"{path.rsplit('.', 1)[-1]} {violation.description}"
    in_condition = _IN_CONDITION.fullmatch(violation.description)
    if in_condition and path.endswith(".condition") and located is not None:
        place = place_within(located, int(in_condition[1]), int(in_condition[2]))
        message = f"condition: {in_condition[3]}"
    rule = _RULE.match(path)
    rule_id = ""
    if rule and int(rule[1]) < len(file.document.rules):
        rule_id = file.document.rules[int(rule[1])].id or f"rules[{rule[1]}]"
    return FileFault(file.path, place, message, rule_id, field=path)
