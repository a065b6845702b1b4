import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pytest

from oars_grpc.core import condition as condition_module
from oars_grpc.core import condition_cost
from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.condition import (
    CONDITION_BUDGET,
    DATA_STEPS,
    MAX_LENGTH,
    ConditionError,
    affordable_units,
    bind,
    check_condition,
    compile_condition,
)
from oars_grpc.core.facts import FACT_TYPES, Facts, action_facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.risk import RiskConfig, assess_risk
from tests.support.factories import make_request

NOW = datetime(2026, 1, 1, 23, 30, tzinfo=UTC)  # a Thursday


def make_facts(
    input_value: Mapping[str, Any] | None = None,
    *,
    user_id: str = "",
    context: ActionContext | None = None,
    evidence: Mapping[str, float] | None = None,
) -> Facts:
    request = ActionRequest(
        tenant_id="acme",
        agent_id="agent-1",
        caller=Principal(
            "spiffe://acme/a", "f" * 64, Role.AGENT, frozenset({"acme"}), attributes={"team": "x"}
        ),
        resource=Resource("Jira", "Create_Ticket", "PROJ-1"),
        user_id=user_id,
        context=context or ActionContext("staging", ("pii",), {"region": "eu"}),
        input=input_value or {},
    )
    return action_facts(request, assess_risk(request, RiskConfig()), NOW, evidence)


def value_of(text: str, facts: Facts) -> bool | None:
    return compile_condition(text).evaluate(facts).value


@pytest.mark.parametrize(
    "text",
    [
        'resource.tool_id == "Jira" && folded.tool_id == "jira"',
        'folded.operation == "create_ticket" && resource.operation == "Create_Ticket"',
        'resource.target.startsWith("PROJ-") && folded.target == "proj-1"',
        'context.environment == "staging" && folded.environment == "staging"',
        '"pii" in context.data_types && context.data_types == folded.data_types',
        'context.attributes.region == "eu" && caller.attributes["team"] == "x"',
        'agent.id == "agent-1" && caller.subject == "spiffe://acme/a" && caller.role == "agent"',
        "delegation.chain == [] && delegation.depth == 0",
        "input.amount > 10 && input_size_bytes == 13",
        'risk.score == 40 && risk.tier == "medium" && risk.operation_class == "write"',
        "time.hour_utc == 23 && time.weekday == 4",
        'time.now == timestamp("2026-01-01T23:30:00Z")',
        "evidence.coherence == 0.25",
    ],
)
def test_every_fact_has_its_value(text: str) -> None:
    facts = make_facts({"amount": 20}, evidence={"coherence": 0.25})
    assert value_of(text, facts) is True


def test_every_declared_fact_compiles_and_is_missing_from_no_facts() -> None:
    for name in FACT_TYPES:
        result = compile_condition(f"{name} == {name}").evaluate(Facts({}))
        assert (result.value, result.missing, result.reads) == (None, (name,), (name,))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ('user.id == "alice"', ("user.id",)),
        ('context.environment == "dev"', ("context.environment",)),
        ('"pii" in context.data_types', ("context.data_types",)),
        ('context.attributes.region == "eu"', ("context.attributes.region",)),
        ('context.attributes["region"] == "eu"', ("context.attributes.region",)),
        ("evidence.novelty < 0.5", ("evidence.novelty",)),
        ("input.order.amount > 10", ("input.order.amount",)),
        ('has(input.order) || user.id == "alice"', ("user.id",)),
        ("has(input.order.amount)", ("input.order",)),
        ('user.id == "alice" && evidence.novelty < 0.5', ("evidence.novelty", "user.id")),
    ],
)
def test_a_missing_fact_makes_the_outcome_indeterminate(
    text: str, missing: tuple[str, ...]
) -> None:
    result = compile_condition(text).evaluate(make_facts(context=ActionContext()))
    assert result.value is None
    assert result.missing == missing
    assert result.reason


def test_a_stated_empty_list_of_data_types_is_present() -> None:
    facts = make_facts(context=ActionContext(data_types=()))
    assert value_of('"pii" in context.data_types', facts) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('user.id == "a" || true', True),
        ('true || user.id == "a"', True),
        ('user.id == "a" && false', False),
        ('false && user.id == "a"', False),
        ('user.id == "a" || false', None),
        ('user.id == "a" && true', None),
        ('true ? true : user.id == "a"', True),
        ('user.id == "a" ? true : true', None),
        ('[1, 2].exists(x, x == 2 || user.id == "a")', True),
        ("has(input.absent)", False),
        ("has(input.absent) && input.absent > 1", False),
        ("has(input.absent.deeper)", None),
        ('input.text > 3 || input.text == "x"', True),
    ],
)
def test_a_missing_fact_counts_only_where_the_outcome_depends_on_it(
    text: str, *, value: bool | None
) -> None:
    assert value_of(text, make_facts({"text": "x"})) is value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("input.secret > 3", "a value has an unexpected type"),
        ("input.secret.deeper == 3", "a value has an unexpected type"),
        ("{'a': 1}[input.secret] == 3", "a key is missing"),
        ("1 / input.zero == 3", "division by zero"),
        ("timestamp(input.secret) < time.now", "evaluation error"),
    ],
)
def test_a_runtime_error_is_indeterminate_and_never_quotes_the_input(
    text: str, reason: str
) -> None:
    result = compile_condition(text).evaluate(make_facts({"secret": "hunter2", "zero": 0}))
    assert (result.value, result.reason) == (None, reason)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('resource.tool == "a"', 1, 9, "undeclared reference"),
        ("true &&\n  risk.score > 'a'", 2, 14, "no matching overload"),
        ("risk.score >", 1, 13, "Syntax error"),
        ("", 1, 1, "Syntax error"),
        ("risk.score", 1, 1, "must be of type bool"),
        ("input", 1, 1, "must be of type bool"),
        ("a" * (MAX_LENGTH + 1), 1, 1, "at most"),
        ("true ||\n  '\ud800' == ''", 2, 4, "valid Unicode"),
        ("(" * 500 + "true" + ")" * 500, 1, 1, "nested too deeply"),
        ("input" + ".a" * 500 + " == 1", 1, 1, "nested too deeply"),
        ("true ||\n  input.t.matches('(')", 2, 19, "missing )"),
        ("input.t.matches(input.pattern)", 1, 16, "must be a literal"),
        ("input.t.matches('((a{30}){30}){30}')", 1, 17, "too large"),
        ("google.protobuf.Struct{} == {}", 1, 1, "not supported"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_place(
    text: str, line: int, column: int, message: str
) -> None:
    with pytest.raises(ConditionError) as refused:
        compile_condition(text)
    assert message in refused.value.message
    assert (refused.value.line, refused.value.column) == (line, column)


@pytest.mark.parametrize(
    "text",
    [
        "input.l.all(x, input.l.all(y, y in input.l))",
        "input.l.all(x, input.l.map(y, input.l).size() > input.l.map(y, input.l + [x]).size())",
        "input.l.all(x, x.matches('(a{9}){9}'))",
    ],
)
def test_a_condition_whose_work_multiplies_is_refused(text: str) -> None:
    with pytest.raises(ConditionError, match="may take too long"):
        compile_condition(text)


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("input.l.all(x, x in input.l)", 1),
        ("input.l.all(x, input.l.all(y, x != y))", 1),
        ("input.l.map(x, input.l + input.l).size() >= 0", 1),
        ("!input.l.exists(x, x.matches('^(a|b)+c'))", "ab" * 8),
        ("input.l.exists(x, x.contains(input.l[0]))", "ab" * 2_000),
    ],
)
def test_no_amount_of_data_makes_an_accepted_condition_slow(text: str, member: object) -> None:
    """Run unbounded, the first of these takes a second and more at 9,000 elements."""
    condition = compile_condition(text)
    for count in (50, 200, 1_000, 5_000, 9_000):
        facts = make_facts({"l": [member] * count})
        bound = bind(facts, condition.reads)
        started = perf_counter()
        result = condition.evaluate(bound)
        assert perf_counter() - started < 0.2  # ten times the budget, for a busy machine
    assert result.value is None


def test_the_estimate_never_falls_as_data_grows() -> None:
    checked = check_condition("input.l.exists(x, x.t.exists(y, y in input.l))")
    work = [checked.work(data) for data in DATA_STEPS]
    assert work == sorted(work)
    assert work[0] <= CONDITION_BUDGET < work[-1]
    # The bisection finds what a scan would.
    affordable = [d for d, units in zip(DATA_STEPS, work, strict=True) if units <= CONDITION_BUDGET]
    assert checked.condition.max_units == affordable[-1]


@pytest.mark.parametrize(
    ("budget", "units"),
    [(0, None), (127, None), (128, 128), (1_000, 512), (65_535, 32_768), (65_536, 65_536)],
)
def test_what_a_budget_affords_is_the_largest_step_within_it(
    budget: int, units: int | None
) -> None:
    assert affordable_units(lambda data: data, budget) == units


def test_a_condition_that_affords_any_data_is_estimated_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The estimate is a good part of what compiling takes; ten for each condition were too many."""
    estimated: list[int] = []
    made = condition_cost.Estimate

    def counted(positions: Mapping[int, int], data: int) -> condition_cost.Estimate:
        estimated.append(data)
        return made(positions, data)

    monkeypatch.setattr(condition_module, "Estimate", counted)
    compile_condition("risk.score > 70")
    assert estimated == [DATA_STEPS[-1]]


def test_deep_and_large_inputs_are_withheld_from_the_evaluator() -> None:
    """100,000 levels would overflow the evaluator's native stack and kill the process."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    request_facts = make_facts()
    for value, why in ((deep, "nested too deeply"), ([0] * 70_000, "too large")):
        request = ActionRequest(
            "acme",
            "agent-1",
            Principal("spiffe://acme/a", "f" * 64, Role.AGENT, frozenset({"acme"})),
            Resource("jira", "get"),
            input={"x": value},
        )
        facts = action_facts(request, None, NOW, input_bytes=b"{}")
        assert why in facts.withheld
        assert value_of("input == input", facts) is None
    assert value_of("input == input", request_facts) is True


def test_an_input_that_was_not_read_is_missing_and_never_empty() -> None:
    request = make_request(input=None)
    facts = action_facts(request, None, NOW)
    assert facts.withheld == "the input was not read"
    assert not facts.has("input")
    assert not facts.has("input_size_bytes")
    assert facts.has("resource.operation")
    assert value_of("input == input", facts) is None
    assert value_of("input_size_bytes == 0", facts) is None
    # The bytes, where a caller has them, tell the size.
    sized = action_facts(request, None, NOW, input_bytes=b'{"a":1}')
    assert value_of("input_size_bytes == 7", sized) is True
    assert value_of("input == input", sized) is None


@pytest.mark.parametrize("value", ["\ud800", (1,), 2**70, object()])
def test_an_input_that_is_not_json_is_indeterminate(value: object) -> None:
    facts = Facts({"input": {"t": value}})
    assert value_of("input.t != null", facts) is None


def test_a_local_name_hides_the_fact_of_the_same_name() -> None:
    condition = compile_condition('[{"tool_id": "z"}].all(input, input.tool_id == "z")')
    assert condition.reads == ()
    assert condition.evaluate(Facts({})).value is True


def test_sixteen_threads_evaluate_one_condition_at_once() -> None:
    condition = compile_condition('input.n % 2 == 0 && input.l.all(x, x >= input.n) || "q" == ""')
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(300):
            n = seed + turn
            facts = Facts({"input": {"n": n, "l": [n, n + 1]}})
            if condition.evaluate(facts).value is not (n % 2 == 0):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_sixteen_threads_compile_at_once() -> None:
    results: list[bool | None] = []

    def work(seed: int) -> None:
        for turn in range(20):
            condition = compile_condition(f"risk.score == {seed * 100 + turn}")
            results.append(condition.evaluate(Facts({"risk.score": seed * 100 + turn})).value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 320
