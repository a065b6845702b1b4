"""Replay reports: what they count, their one form, and every way in which one can be wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.checkpoint import sign_checkpoint
from oars_grpc.core.envelope import Envelope, Signature, sign_payload
from oars_grpc.core.keys import KeyState, TrustedKey
from oars_grpc.core.note import Note
from oars_grpc.core.policy import Effect, Rule, RuleMatch
from oars_grpc.core.replay import ReplayLeaf, Unreplayable
from oars_grpc.core.replay_report import EXAMPLE_RULES, ReplayedRange, ReplayReport
from oars_grpc.core.replay_tally import ReplayTally
from oars_grpc.core.replay_verification import GivenReport, parse_report, verify_report
from tests.support.factories import make_request, make_signing_key, make_stored_key
from tests.support.logs import MemoryLog, checkpoint_key
from tests.support.replays import chain, erased, leaf_of, policy_of, replayed

DRAFT = policy_of(
    Rule("ALL", Effect.ALLOW),
    Rule("ODD", Effect.DENY, condition="input.issue % 2 == 1"),
    Rule("NEVER", Effect.QUARANTINE, RuleMatch(tool_ids=("none",))),
)
RECORDING = policy_of(
    Rule("EVEN", Effect.APPROVE, condition="input.issue > 3"), DRAFT.document.rules[0]
)
KEYS = (make_stored_key().trusted, checkpoint_key())
FIRST = 3


def leaves(count: int) -> list[ReplayLeaf]:
    """Two leaves for each of so many actions."""
    found: list[ReplayLeaf] = []
    for number in range(count):
        request = make_request(input={"issue": number})
        _, receipts = chain(RECORDING, request)
        found.append(leaf_of(receipts[0], len(found)))
        found.append(leaf_of(receipts[1], len(found), request.input_bytes()))
    return found


LEAVES = leaves(8)
LOG = MemoryLog([stored.leaf.hash for stored in LEAVES])


def report(stored: Sequence[ReplayLeaf] = LEAVES, *, examples: int = 2) -> ReplayReport:
    """What a replay of the leaves from the fourth on comes to."""
    tally = ReplayTally(DRAFT, examples)
    for found in replayed(DRAFT, stored[FIRST:]):
        tally.add(found)
    size = len(LEAVES)
    range_ = ReplayedRange(
        LOG.checkpoint(FIRST),
        LOG.checkpoint(),
        LOG.frontier(FIRST),
        tuple(LOG.consistency(FIRST, size)),
    )
    lost = sum(leaf.leaf.payload is None for leaf in stored[FIRST:])
    return tally.report("acme", "", range_, lost)


def given(envelope: Envelope | None = None, **notes: Note) -> GivenReport:
    signed = envelope or report().sign(make_signing_key())
    return GivenReport(signed, notes.get("first", LOG.note(FIRST)), notes.get("last", LOG.note()))


def test_counts_follow_from_what_was_replayed() -> None:
    made = report([*LEAVES[:-1], erased(LEAVES[-1])])
    # Of the issues 1 to 7 the last is erased; 4 and up once asked for approval.
    assert made.counts() == {
        "decisions": 7,
        "unchanged": 1,
        "changed": 5,
        "newlyAllowed": 2,
        "newlyDenied": 3,
        "newlyApprovalRequired": 0,
        "newlyQuarantined": 0,
        "stricter": 3,
        "lessStrict": 2,
        "notReplayable": 1,
    }
    assert made.transitions == {
        (Effect.ALLOW, Effect.DENY): 2,
        (Effect.ALLOW, Effect.ALLOW): 1,
        (Effect.APPROVE, Effect.ALLOW): 2,
        (Effect.APPROVE, Effect.DENY): 1,
    }
    assert made.unreplayable == {Unreplayable.PAYLOAD_ERASED: 1}
    assert [(rule.rule_id, rule.counted, rule.deciding) for rule in made.rules] == [
        ("ALL", 6, 3),
        ("ODD", 3, 3),
        ("NEVER", 0, 0),
    ]


def test_indeterminate_rules_are_told_apart() -> None:
    tally = ReplayTally(policy_of(Rule("R", Effect.DENY, condition="input.nope == 1")), 0)
    for found in replayed(tally._draft, LEAVES):
        tally.add(found)
    made = replace(report(), rules=tally.report("acme", "", report().range, 0).rules)
    assert [(rule.counted, rule.indeterminate) for rule in made.rules] == [(8, 8)]


def test_examples_are_the_first_of_their_kind() -> None:
    made = report(examples=2)
    assert [example.leaf_index for example in made.examples["newlyDenied"]] == [3, 7]
    assert [example.leaf_index for example in made.examples["newlyAllowed"]] == [9, 13]
    assert made.examples["newlyAllowed"][0].recorded is Effect.APPROVE
    assert report(examples=0).examples == {"newlyDenied": (), "newlyAllowed": ()}


def test_an_example_names_a_bounded_number_of_rules() -> None:
    many = policy_of(*(Rule(f"R{number:03}", Effect.DENY) for number in range(EXAMPLE_RULES + 5)))
    tally = ReplayTally(many, 1)
    for found in replayed(many, LEAVES):
        tally.add(found)
    (example,) = tally.report("acme", "", report().range, 0).examples["newlyDenied"]
    assert (len(example.rules), example.more_rules) == (EXAMPLE_RULES, 5)


def test_the_form_is_the_one_that_the_specification_shows() -> None:
    made = report()
    statement = orjson.loads(made.payload())
    assert statement["predicateType"] == "urn:oars:replay:v1"
    assert statement["subject"] == [{"digest": {"sha256": DRAFT.digest}, "name": "policy"}]
    predicate = statement["predicate"]
    assert set(predicate) == {
        "tenantId",
        "range",
        "draft",
        "counts",
        "notReplayable",
        "transitions",
        "rules",
        "exampleLimit",
        "examples",
    }
    assert predicate["range"]["leaves"] == len(LEAVES) - FIRST
    assert set(predicate["transitions"]) == set(predicate["transitions"]["deny"]) == set(Effect)
    assert set(predicate["notReplayable"]) == set(Unreplayable)
    assert predicate["draft"] == {
        "policyId": "",
        "digest": DRAFT.digest,
        "facts": ["input", "resource.tool_id"],
    }
    assert predicate["examples"]["newlyDenied"][0] == {
        "leafIndex": 3,
        "receiptId": LEAVES[3].receipt_id,
        "actionId": LEAVES[3].action_id,
        "recorded": "allow",
        "draft": "deny",
        "decidingRules": ["ODD"],
        "moreDecidingRules": 0,
    }


def test_a_report_verifies_and_reads_back_as_it_was_made() -> None:
    made = report([*LEAVES[:-1], erased(LEAVES[-1])])
    found = verify_report(given(made.sign(make_signing_key())), KEYS)
    assert found.payload() == made.payload()
    assert found.counts() == made.counts()
    assert found.examples["notReplayable"][0].reason is Unreplayable.PAYLOAD_ERASED


def test_a_report_of_the_whole_log_verifies() -> None:
    range_ = ReplayedRange(LOG.checkpoint(0), LOG.checkpoint(), (), ())
    made = replace(report(), range=range_)
    signed = made.sign(make_signing_key())
    found = verify_report(given(signed, first=LOG.note(0)), KEYS)
    assert found.range == range_


Predicate = dict[str, Any]


def _set(*path: str | int, to: Any) -> Callable[[Predicate], None]:
    def change(predicate: Predicate) -> None:
        at: Any = predicate
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to

    return change


HASH = "A" * 43 + "="
FORGERIES: dict[str, Callable[[Predicate], None]] = {
    "a count": _set("counts", "newlyAllowed", to=0),
    "a transition": _set("transitions", "approve", "allow", to=0),
    "a transition below zero": _set("transitions", "deny", "deny", to=-1),
    "a transition that is no number": _set("transitions", "deny", "deny", to=True),
    "a reason": _set("notReplayable", "payload_erased", to=1),
    "an unknown member": _set("note", to="x"),
    "an unknown reason": _set("notReplayable", "dog_ate_it", to=1),
    "a missing member": lambda predicate: predicate.pop("rules"),
    "the number of leaves": _set("range", "leaves", to=1),
    "more erased leaves than leaves": _set("range", "erasedLeaves", to=14),
    "a rule that counted too often": _set("rules", 0, "counted", to=8),
    "a rule that decided more than it counted": _set("rules", 1, "deciding", to=5),
    "a rule that was indeterminate more than it counted": _set("rules", 1, "indeterminate", to=5),
    "no examples": _set("examples", "newlyAllowed", to=[]),
    "an example of another kind": _set("examples", "newlyAllowed", 0, "draft", to="deny"),
    "an example that changed nothing": _set("examples", "newlyAllowed", 0, "recorded", to="allow"),
    "an example before the range": _set("examples", "newlyDenied", 0, "leafIndex", to=2),
    "an example after the range": _set("examples", "newlyDenied", 1, "leafIndex", to=16),
    "examples out of order": _set("examples", "newlyDenied", 0, "leafIndex", to=8),
    "rules that are no texts": _set("examples", "newlyDenied", 0, "decidingRules", to=[1]),
    "facts that are no texts": _set("draft", "facts", to=[1]),
    "a policy id that is none": _set("draft", "policyId", to="mine"),
    "a digest that is not the subject": _set("draft", "digest", to="0" * 64),
    "a range that is none": _set("range", to=[]),
    "a root that is no hash": _set("range", "to", "rootHash", to="AA=="),
    "an example limit": _set("exampleLimit", to=1),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_report_whose_numbers_do_not_agree_is_refused_whoever_signed_it(name: str) -> None:
    statement = orjson.loads(report().payload())
    FORGERIES[name](statement["predicate"])
    signed = sign_payload(statement_json(statement), make_signing_key())
    with pytest.raises(ValueError):
        verify_report(given(signed), KEYS)


@pytest.mark.parametrize(
    "change",
    [
        _set("range", "from", "rootHash", to=HASH),
        _set("range", "to", "rootHash", to=HASH),
        _set("range", "frontier", 0, to=HASH),
        _set("range", "frontier", to=[]),
        _set("range", "consistency", 0, to=HASH),
        _set("range", "consistency", to=[]),
        _set("range", "origin", to="log.example/other"),
        _set("tenantId", to="other"),
    ],
)
def test_a_report_about_another_range_is_refused(change: Callable[[Predicate], None]) -> None:
    statement = orjson.loads(report().payload())
    change(statement["predicate"])
    signed = sign_payload(statement_json(statement), make_signing_key())
    with pytest.raises(ValueError):
        verify_report(given(signed), KEYS)


def test_checkpoints_of_other_sizes_or_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="is not that of the report"):
        verify_report(given(last=LOG.note(len(LEAVES) - 1)), KEYS)
    with pytest.raises(ValueError, match="is not that of the report"):
        verify_report(given(first=LOG.note(FIRST + 1)), KEYS)
    stranger = make_signing_key(bytes(range(200, 232)))
    with pytest.raises(ValueError, match="no trusted key signed the checkpoint"):
        verify_report(given(last=sign_checkpoint(LOG.checkpoint(), stranger)), KEYS)


def revoked(key: TrustedKey) -> TrustedKey:
    return replace(key, state=KeyState.REVOKED)


def test_only_the_word_of_a_trusted_key_of_the_tenant_counts() -> None:
    signed = report().sign(make_signing_key())
    key, checkpoints = KEYS
    for keys, why in (
        ((checkpoints,), "no trusted key signs for tenant acme"),
        ((replace(key, tenant_id="other"), checkpoints), "no trusted key signs for tenant acme"),
        ((replace(key, public_key=checkpoints.public_key), checkpoints), "no trusted key signed"),
        ((revoked(key), checkpoints), "was revoked"),
        ((key, revoked(key), checkpoints), "was revoked"),
        ((key, revoked(checkpoints)), "was revoked"),
    ):
        with pytest.raises(ValueError, match=why):
            verify_report(given(signed), keys)
    twice = replace(signed, signatures=signed.signatures * 2)
    with pytest.raises(ValueError, match="has one signature"):
        verify_report(given(twice), KEYS)
    misnamed = replace(signed, signatures=(Signature("0" * 16, signed.signatures[0].sig),))
    with pytest.raises(ValueError, match="names another key"):
        verify_report(given(misnamed), KEYS)


def test_a_flipped_byte_anywhere_is_noticed() -> None:
    signed = report().sign(make_signing_key())
    for place in range(0, len(signed.payload), 37):
        payload = bytearray(signed.payload)
        payload[place] ^= 1
        with pytest.raises(ValueError):
            verify_report(given(replace(signed, payload=bytes(payload))), KEYS)


def test_what_is_no_report_is_refused() -> None:
    for payload in (b"", b"[]", b"{}", b'{"predicate":3}', b'{"predicate": {}}'):
        with pytest.raises(ValueError):
            parse_report(sign_payload(payload, make_signing_key()))
    with pytest.raises(ValueError, match="payloadType"):
        parse_report(replace(report().sign(make_signing_key()), payload_type="text/plain"))


def test_the_same_replay_has_the_same_digest() -> None:
    assert len({sha256_hex(report().payload()) for _ in range(2)}) == 1
