"""Verification of replay reports: pure, offline.

Whoever trusts the tenant's keys learns that the tenant stands by the report, that it is about the
range between two checkpoints that the tenant signed, the second continuing the first, and that its
numbers agree with each other. A report carries no time: what a revoked key signed is not believed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, signature_verifies
from oars_grpc.core.evidence import is_count, is_texts, parse_canonical, parse_hash, parse_hashes
from oars_grpc.core.inclusion import ANY_LOG, LogTrust, verify_checkpoint
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.merkle import Frontier, verify_consistency
from oars_grpc.core.note import Note
from oars_grpc.core.policy import Effect
from oars_grpc.core.replay import Unreplayable
from oars_grpc.core.replay_report import (
    NEWLY,
    NOT_REPLAYABLE,
    Example,
    ReplayedDraft,
    ReplayedRange,
    ReplayReport,
    RuleTally,
)


@dataclass(frozen=True, slots=True)
class GivenReport:
    """A report as it was handed out, and the signed checkpoints of its range; nothing is judged."""

    envelope: Envelope
    first: Note
    last: Note


def verify_report(
    given: GivenReport, keys: Sequence[TrustedKey], log: LogTrust = ANY_LOG
) -> ReplayReport:
    """The report, once signature, range and numbers have been checked.

    Raises:
        ValueError: it is not to be relied on, and why.
    """
    report = parse_report(given.envelope)
    _check_signature(given.envelope, report.tenant_id, keys)
    replayed = report.range
    for note, end in ((given.first, replayed.first), (given.last, replayed.last)):
        verified = verify_checkpoint(note, report.tenant_id, keys, log).checkpoint
        if verified != end:
            raise ValueError(
                f"the checkpoint of {verified.size} leaves is not that of the report"
                f" ({end.size} leaves)"
            )
    if Frontier(replayed.first.size, replayed.frontier).root() != replayed.first.root:
        raise ValueError("the frontier does not have the root that the range begins with")
    if not verify_consistency(
        replayed.first.size,
        replayed.last.size,
        replayed.first.root,
        replayed.last.root,
        replayed.consistency,
    ):
        raise ValueError("the log at the end of the range does not continue that at its beginning")
    return report


def _check_signature(envelope: Envelope, tenant_id: str, keys: Sequence[TrustedKey]) -> None:
    if len(envelope.signatures) != 1:
        raise ValueError(f"a report has one signature, not {len(envelope.signatures)}")
    candidates = [
        key for key in keys if (key.purpose, key.tenant_id) == (KeyPurpose.RECEIPT, tenant_id)
    ]
    if not candidates:
        raise ValueError(f"no trusted key signs for tenant {tenant_id}")
    signature = envelope.signatures[0]
    makers = [key for key in candidates if signature_verifies(envelope, signature, key.public_key)]
    if not makers:
        raise ValueError("no trusted key signed the report")
    revoked = {key.public_key for key in keys if key.state is KeyState.REVOKED}
    if all(key.public_key in revoked for key in makers):
        raise ValueError(f"key {makers[0].key_id}, which signed the report, was revoked")
    if signature.keyid not in {key.key_id for key in makers}:
        raise ValueError("the report names another key than the one that signed it")


def parse_report(envelope: Envelope) -> ReplayReport:
    """The report of an envelope, strictly; its signature is not judged.

    Raises:
        ValueError: it is no report, or its numbers contradict each other.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"payloadType is not {PAYLOAD_TYPE}")
    value = parse_canonical(envelope.payload)
    try:
        report = _report(value["predicate"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no replay report: {error!r}") from error
    # What was read is all that there is: all that follows from it is written again and compared.
    if report.payload() != envelope.payload:
        raise ValueError("is no replay report, or its numbers contradict each other")
    _check_numbers(report)
    return report


def _report(predicate: Mapping[str, Any]) -> ReplayReport:
    range_, draft = predicate["range"], predicate["draft"]
    if not is_texts(draft["facts"]):
        raise ValueError("draft.facts is not a list of texts")
    if draft["policyId"] and not ids.is_id(ids.POLICY, draft["policyId"]):
        raise ValueError("draft.policyId is not an id")
    return ReplayReport(
        tenant_id=predicate["tenantId"],
        range=ReplayedRange(
            first=_end(range_["origin"], range_["from"]),
            last=_end(range_["origin"], range_["to"]),
            frontier=parse_hashes(range_["frontier"]),
            consistency=parse_hashes(range_["consistency"]),
        ),
        erased_leaves=_count(range_["erasedLeaves"]),
        draft=ReplayedDraft(draft["policyId"], draft["digest"], tuple(draft["facts"])),
        transitions={
            (recorded, effect): _count(predicate["transitions"][recorded.value][effect.value])
            for recorded in Effect
            for effect in Effect
        },
        unreplayable={
            reason: _count(predicate["notReplayable"][reason.value]) for reason in Unreplayable
        },
        rules=tuple(
            RuleTally(
                rule["ruleId"],
                Effect(rule["effect"]),
                _count(rule["counted"]),
                _count(rule["indeterminate"]),
                _count(rule["deciding"]),
            )
            for rule in predicate["rules"]
        ),
        example_limit=_count(predicate["exampleLimit"]),
        examples={
            kind: tuple(map(_example, predicate["examples"][kind]))
            for kind in (*NEWLY.values(), NOT_REPLAYABLE)
        },
    )


def _end(origin: str, end: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(origin, _count(end["size"]), parse_hash(end["rootHash"]))


def _example(entry: Mapping[str, Any]) -> Example:
    recorded = Effect(entry["recorded"]) if entry["recorded"] else None
    named = _count(entry["leafIndex"]), entry["receiptId"], entry["actionId"], recorded
    if "draft" not in entry:
        return Example(*named, reason=Unreplayable(entry["reason"]))
    rules = entry["decidingRules"]
    if not is_texts(rules):
        raise ValueError("decidingRules is not a list of texts")
    return Example(*named, Effect(entry["draft"]), tuple(rules), _count(entry["moreDecidingRules"]))


def _count(value: object) -> int:
    if not is_count(value):
        raise ValueError("a count is no whole number from 0")
    return value


def _check_numbers(report: ReplayReport) -> None:
    """Refuse what no replay can have counted."""
    counts, range_ = report.counts(), report.range
    leaves = range_.last.size - range_.first.size
    if not counts["decisions"] <= leaves or not report.erased_leaves <= leaves:
        raise ValueError("more was counted than there are leaves in the range")
    replayed = counts["decisions"] - counts[NOT_REPLAYABLE]
    for rule in report.rules:
        if not rule.deciding <= rule.counted <= replayed or rule.indeterminate > rule.counted:
            raise ValueError(f"rule {rule.rule_id!r} counted more often than it can have")
    for kind, examples in report.examples.items():
        if len(examples) != min(report.example_limit, counts[kind]):
            raise ValueError(f"of {counts[kind]} {kind} there are {len(examples)} examples")
        indices = [example.leaf_index for example in examples]
        if indices != sorted(set(indices)) or not all(
            range_.first.size <= index < range_.last.size for index in indices
        ):
            raise ValueError(f"the examples of {kind} are not leaves of the range in order")
        if any(_kind(example) != kind for example in examples):
            raise ValueError(f"an example of {kind} is none")


def _kind(example: Example) -> str:
    if example.draft is None:
        return NOT_REPLAYABLE
    return "" if example.draft is example.recorded else NEWLY[example.draft]
