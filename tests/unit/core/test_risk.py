from collections.abc import Mapping
from typing import Any

import pytest

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.risk import RiskAssessment, RiskConfig, RiskTier, assess_risk, tier_of

CALLER = Principal("spiffe://acme/a", "f" * 64, Role.AGENT, frozenset({"acme"}))


def assess(
    operation: str,
    environment: str = "production",
    *,
    data_types: tuple[str, ...] | None = (),
    target: str = "T-1",
    input_value: Mapping[str, Any] | None = None,
    config: RiskConfig | None = None,
    evidence: Mapping[str, float] | None = None,
) -> RiskAssessment:
    request = ActionRequest(
        tenant_id="acme",
        agent_id="agent-1",
        caller=CALLER,
        resource=Resource("tool", operation, target),
        context=ActionContext(environment, data_types),
        input=input_value or {},
    )
    return assess_risk(request, config or RiskConfig(), evidence)


@pytest.mark.parametrize(
    ("score", "tier"),
    [
        (0, "low"),
        (39, "low"),
        (40, "medium"),
        (69, "medium"),
        (70, "high"),
        (89, "high"),
        (90, "critical"),
        (100, "critical"),
    ],
)
def test_tiers_begin_where_the_design_says(score: int, tier: str) -> None:
    assert tier_of(score) == RiskTier(tier)


@pytest.mark.parametrize("environment", ["production", "staging", "dev", ""])
def test_reading_is_low_and_ordinary_writing_below_high_everywhere(environment: str) -> None:
    assert assess("get_ticket", environment).tier is RiskTier.LOW
    assert assess("create_ticket", environment).tier in {RiskTier.LOW, RiskTier.MEDIUM}


def test_money_is_high_and_destruction_critical_in_production() -> None:
    assert assess("transfer_funds").tier is RiskTier.HIGH
    assert assess("delete_repository").tier is RiskTier.CRITICAL


def test_unknown_operations_are_never_low_whatever_the_weights() -> None:
    harmless = RiskConfig(unknown=0, production=0, unstated_data_types=0)
    assessment = assess("frobnicate", "dev", config=harmless)
    assert assessment.tier is RiskTier.MEDIUM
    assert sum(signal.weight for signal in assessment.signals) == assessment.score == 40


@pytest.mark.parametrize(
    "environment",
    ["", "\u200b", "production", "PROD", "prd-eu", "live", "preprod", "non-production", "d\u0435v"],
)
def test_an_environment_not_known_harmless_counts_as_production(environment: str) -> None:
    assert assess("get", environment).score == assess("get", "production").score


@pytest.mark.parametrize("environment", ["dev", "Staging", "qa-2", "eu-test", "CI", "\uff44ev"])
def test_harmless_environments_add_nothing(environment: str) -> None:
    assert assess("get", environment).score == RiskConfig().read


@pytest.mark.parametrize(
    "change",
    [
        {"data_types": ("pii",)},
        {"data_types": ("user-PHI",)},
        {"data_types": ("api-credentials",)},
        {"data_types": None},
        {"target": "*"},
        {"target": "users/%"},
        {"target": "../etc"},
        {"target": "/"},
        {"target": "\uff0a"},  # fullwidth asterisk
        {"target": "orders-PROD"},
        {"input_value": {"text": "x" * 70_000}},
        {"evidence": {"coherence": 0.4}},
    ],
)
def test_each_circumstance_raises_the_score(change: dict[str, Any]) -> None:
    plain, raised = assess("update", "dev"), assess("update", "dev", **change)
    assert raised.score > plain.score
    assert len(raised.signals) == len(plain.signals) + 1


def test_lower_coherence_raises_more_and_good_coherence_nothing() -> None:
    scores = [assess("get", evidence={"coherence": c}).score for c in (0.9, 0.5, 0.49, 0.25, 0.1)]
    assert scores[0] == scores[1] == assess("get").score
    assert scores[1] < scores[2] == scores[3] < scores[4]


@pytest.mark.parametrize(
    ("score", "signal", "values"),
    [
        ("support", "evidence.unsupported", (1.0, 0.5, 0.49, 0.25, 0.24)),
        ("coherence", "evidence.incoherent", (1.0, 0.5, 0.49, 0.25, 0.24)),
        ("conflict", "evidence.conflicting", (0.0, 0.5, 0.51, 0.75, 0.76)),
        ("novelty", "evidence.novel", (0.0, 0.5, 0.51, 0.75, 0.76)),
        ("risk", "evidence.bad_outcomes", (0.0, 0.5, 0.51, 0.75, 0.76)),
    ],
)
def test_evidence_adds_half_beyond_one_half_and_all_beyond_three_quarters(
    score: str, signal: str, values: tuple[float, ...]
) -> None:
    plain = assess("get")
    best, fair, poor, poorer, worst = (assess("get", evidence={score: v}) for v in values)
    assert best == fair == plain
    assert plain.score < poor.score == poorer.score < worst.score
    (added,) = set(worst.signals) - set(plain.signals)
    assert (added.name, added.weight) == (signal, worst.score - plain.score)


def test_good_evidence_makes_up_for_nothing() -> None:
    best = {"support": 1.0, "coherence": 1.0, "conflict": 0.0, "novelty": 0.0, "risk": 0.0}
    assert assess("delete", evidence=best) == assess("delete")


def test_the_score_is_the_sum_of_the_signals_up_to_one_hundred() -> None:
    assessment = assess("write_note", "dev", target="prod/*", data_types=None)
    assert assessment.score == sum(signal.weight for signal in assessment.signals) <= 100
    everything = assess("delete", target="prod/*", data_types=("pii", "secrets"))
    assert everything.score == 100


def test_weights_round_trip_and_partial_weights_keep_defaults() -> None:
    config = RiskConfig(production=33)
    assert RiskConfig.from_json(config.to_json()) == config
    assert RiskConfig.from_json({"production": 33}) == config
    assert assess("get", config=config).score == 10 + 33


@pytest.mark.parametrize(
    "value",
    [{"nope": 1}, {"read": -1}, {"read": 101}, {"read": 1.5}, {"read": True}, {"read": "1"}],
)
def test_wrong_weights_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(value))):
        RiskConfig.from_json(value)
