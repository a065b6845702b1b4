"""What a replay came to: the report, its one form in bytes, and the strict reading of it.

Canonical JSON in the restricted profile, in the envelope that receipts have. It holds no time and
nothing of chance: the same range, draft and number of examples give the same bytes, whoever asks,
whenever and wherever. `proto/README.md` specifies every member.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oars_grpc.core.canonical import encode_base64, statement_json
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.envelope import Envelope, sign_payload
from oars_grpc.core.evidence import hashes_json
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.policy import Effect
from oars_grpc.core.receipt import STATEMENT_TYPE
from oars_grpc.core.replay import Unreplayable

REPLAY_PREDICATE = "urn:oars:replay:v1"
SUBJECT = "policy"
DEFAULT_EXAMPLES, MAXIMUM_EXAMPLES = 10, 100
# Of an example; the rest of them is counted.
EXAMPLE_RULES = 20

# What the draft says of a decision that policy once answered otherwise.
NEWLY: Mapping[Effect, str] = {
    Effect.ALLOW: "newlyAllowed",
    Effect.DENY: "newlyDenied",
    Effect.APPROVE: "newlyApprovalRequired",
    Effect.QUARANTINE: "newlyQuarantined",
}
NOT_REPLAYABLE = "notReplayable"

Transitions = Mapping[tuple[Effect, Effect], int]


@dataclass(frozen=True, slots=True)
class ReplayedRange:
    """Which leaves were replayed: all between two checkpoints, and what shows that it was all.

    `frontier` are the roots of the full subtrees of the tree at the first, largest first.
    """

    first: Checkpoint
    last: Checkpoint
    frontier: tuple[bytes, ...]
    consistency: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        """The member `range`, but for what was counted."""
        return {
            "origin": self.last.origin,
            "from": _end_json(self.first),
            "to": _end_json(self.last),
            "leaves": self.last.size - self.first.size,
            "frontier": hashes_json(self.frontier),
            "consistency": hashes_json(self.consistency),
        }


def _end_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"size": checkpoint.size, "rootHash": encode_base64(checkpoint.root)}


@dataclass(frozen=True, slots=True)
class ReplayedDraft:
    """Which document was tried, and the facts that its rules ask about.

    `policy_id` is empty where the document came with the request.
    """

    policy_id: str
    digest: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleTally:
    """How often one rule of the draft counted, was indeterminate as it did, and decided."""

    rule_id: str
    effect: Effect
    counted: int
    indeterminate: int
    deciding: int


@dataclass(frozen=True, slots=True)
class Example:
    """One decision of a kind.

    `draft` and `rules`, the first of those that decide, are there where it was replayed, `reason`
    where it was not; `more_rules` counts the rest of them. `recorded` None: it is not known.
    """

    leaf_index: int
    receipt_id: str
    action_id: str
    recorded: Effect | None
    draft: Effect | None = None
    rules: tuple[str, ...] = ()
    more_rules: int = 0
    reason: Unreplayable | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of its list."""
        outcome: dict[str, Any] = (
            {
                "draft": self.draft.value,
                "decidingRules": list(self.rules),
                "moreDecidingRules": self.more_rules,
            }
            if self.draft is not None
            else {"reason": "" if self.reason is None else self.reason.value}
        )
        return {
            "leafIndex": self.leaf_index,
            "receiptId": self.receipt_id,
            "actionId": self.action_id,
            "recorded": "" if self.recorded is None else self.recorded.value,
            **outcome,
        }


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """All that a replay says.

    `transitions` counts from recorded to draft effect, `unreplayable` by reason; what is zero may
    be left out of both.
    """

    tenant_id: str
    range: ReplayedRange
    erased_leaves: int
    draft: ReplayedDraft
    transitions: Transitions
    unreplayable: Mapping[Unreplayable, int]
    rules: tuple[RuleTally, ...]
    example_limit: int
    examples: Mapping[str, tuple[Example, ...]]

    def counts(self) -> dict[str, int]:
        """The member `counts`: all of it follows from the transitions and the reasons."""
        pairs = self.transitions.items()
        unchanged = sum(n for (recorded, draft), n in pairs if recorded is draft)
        newly = {
            name: sum(n for (recorded, draft), n in pairs if draft is effect is not recorded)
            for effect, name in NEWLY.items()
        }
        stricter = sum(n for (old, new), n in pairs if new.strictness > old.strictness)
        less = sum(n for (old, new), n in pairs if new.strictness < old.strictness)
        lost = sum(self.unreplayable.values())
        return {
            "decisions": unchanged + stricter + less + lost,
            "unchanged": unchanged,
            "changed": stricter + less,
            **newly,
            "stricter": stricter,
            "lessStrict": less,
            NOT_REPLAYABLE: lost,
        }

    def predicate(self) -> dict[str, Any]:
        """The statement's predicate."""
        return {
            "tenantId": self.tenant_id,
            "range": {**self.range.to_json(), "erasedLeaves": self.erased_leaves},
            "draft": {
                "policyId": self.draft.policy_id,
                "digest": self.draft.digest,
                "facts": list(self.draft.facts),
            },
            "counts": self.counts(),
            "notReplayable": {
                reason.value: self.unreplayable.get(reason, 0) for reason in Unreplayable
            },
            "transitions": {
                recorded.value: {
                    draft.value: self.transitions.get((recorded, draft), 0) for draft in Effect
                }
                for recorded in Effect
            },
            "rules": [
                {
                    "ruleId": rule.rule_id,
                    "effect": rule.effect.value,
                    "counted": rule.counted,
                    "indeterminate": rule.indeterminate,
                    "deciding": rule.deciding,
                }
                for rule in self.rules
            ],
            "exampleLimit": self.example_limit,
            "examples": {
                kind: [example.to_json() for example in self.examples.get(kind, ())]
                for kind in (*NEWLY.values(), NOT_REPLAYABLE)
            },
        }

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return statement_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": SUBJECT, "digest": {"sha256": self.draft.digest}}],
                "predicateType": REPLAY_PREDICATE,
                "predicate": self.predicate(),
            }
        )

    def sign(self, key: SigningKey) -> Envelope:
        """The report under the tenant's word."""
        return sign_payload(self.payload(), key)
