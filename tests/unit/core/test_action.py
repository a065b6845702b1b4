from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from oars_grpc.core.action import (
    TERMINAL_STATES,
    ActionContext,
    ActionState,
    Execution,
    Resource,
    check_transition,
)
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.errors import FailedPrecondition
from tests.support.factories import make_principal, make_request
from tests.support.transitions import ALLOWED


@pytest.mark.parametrize(
    ("current", "following"), [pytest.param(*pair, id="-".join(pair)) for pair in sorted(ALLOWED)]
)
def test_a_listed_transition_is_allowed(current: str, following: str) -> None:
    check_transition(ActionState(current), ActionState(following))


@pytest.mark.parametrize(
    ("current", "following"),
    [
        pytest.param(*pair, id="-".join(pair))
        for pair in product(ActionState, ActionState)
        if pair not in ALLOWED
    ],
)
def test_every_other_transition_is_refused(current: ActionState, following: ActionState) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        check_transition(current, following)
    assert refused.value.reason == "INVALID_STATE_TRANSITION"
    assert f"state {current} cannot become {following}" in refused.value.message


def test_the_table_speaks_of_every_state() -> None:
    assert {state for pair in ALLOWED for state in pair} == set(ActionState)
    assert {"denied", "executed", "failed", "expired", "canceled"} == TERMINAL_STATES


INPUT = {"issue": 1, "title": "Größe"}
REQUEST = make_request(input=INPUT, delegation_chain=("alice", "planner"))
INPUT_DIGEST = sha256_hex(REQUEST.input_bytes())
DIGEST = REQUEST.digest(INPUT_DIGEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "globex"},
        {"agent_id": "agent-2"},
        {"user_id": "user-2"},
        {"user_id": ""},
        {"caller": make_principal("spiffe://example/other")},
        {"delegation_chain": ("planner", "alice")},
        {"delegation_chain": ("alice",)},
        {"delegation_chain": ("aliceplanner",)},
        {"resource": Resource("gitlab", "get_issue", "repo/1")},
        {"resource": Resource("github", "get_issues", "repo/1")},
        {"resource": Resource("github", "get_issue", "repo/2")},
        {"resource": Resource("github", "get_issue", "")},
        {"context": ActionContext("production", ("public",), {"ticket": "T-1"})},
        {"context": ActionContext("staging", ("pii",), {"ticket": "T-1"})},
        {"context": ActionContext("staging", (), {"ticket": "T-1"})},
        {"context": ActionContext("staging", None, {"ticket": "T-1"})},
        {"context": ActionContext("staging", ("public",), {"ticket": "T-2"})},
        {"context": ActionContext("staging", ("public",), {})},
        {"execution": Execution.CONNECTOR},
    ],
    ids=str,
)
def test_an_approval_is_bound_to_every_part_of_the_request(changes: dict[str, Any]) -> None:
    assert replace(REQUEST, **changes).digest(INPUT_DIGEST) != DIGEST


def test_an_approval_is_bound_to_the_input() -> None:
    other = replace(REQUEST, input={**INPUT, "issue": 2})
    assert other.digest(sha256_hex(other.input_bytes())) != DIGEST


def test_an_identical_request_has_the_same_digest() -> None:
    again = replace(
        REQUEST,
        input={name: INPUT[name] for name in reversed(INPUT)},
        context=replace(REQUEST.context, data_types=("public", "public")),
        caller=replace(REQUEST.caller, fingerprint_sha256="cd" * 32),  # a renewed certificate
    )
    assert again.digest(sha256_hex(again.input_bytes())) == DIGEST


def test_an_input_that_was_not_read_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(ValueError, match="not read"):
        replace(REQUEST, input=None).input_bytes()
    assert replace(REQUEST, input={}).input_bytes() == b"{}"


def test_the_order_of_data_types_does_not_matter() -> None:
    digests = {
        replace(REQUEST, context=ActionContext("staging", types)).digest(INPUT_DIGEST)
        for types in (("pii", "pci"), ("pci", "pii"), ("pci", "pii", "pci"))
    }
    assert len(digests) == 1
