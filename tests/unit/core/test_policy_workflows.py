import pytest

from oars_grpc.core.policy import Effect, PolicyDocument, Rule
from oars_grpc.core.policy_workflows import check_workflows_exist, check_workflows_stay
from oars_grpc.core.workflow import Stage, Workflow
from oars_grpc.errors import FailedPrecondition

FINANCE, LEGAL = (Workflow(name, (Stage("one"),)) for name in ("finance", "legal"))
DOCUMENT = PolicyDocument(
    "asks",
    (
        Rule("a", Effect.ALLOW),
        Rule("R-1", Effect.APPROVE),
        Rule("R-2", Effect.APPROVE, workflow_id="default"),
        Rule("R-7", Effect.APPROVE, workflow_id="finance"),
    ),
)


def test_a_policy_may_name_the_default_workflow_and_those_that_there_are() -> None:
    check_workflows_exist(DOCUMENT, (LEGAL, FINANCE))


def test_a_workflow_that_is_not_there_is_refused_by_rule_and_name() -> None:
    with pytest.raises(FailedPrecondition, match=r"rule R-7 names workflow finance") as refused:
        check_workflows_exist(DOCUMENT, (LEGAL,))
    assert refused.value.reason == "WORKFLOW_NOT_FOUND"


def test_a_workflow_that_the_published_policy_names_stays() -> None:
    check_workflows_stay(DOCUMENT, (LEGAL, FINANCE), (FINANCE,))
    with pytest.raises(FailedPrecondition, match=r"finance cannot .* rule R-7") as refused:
        check_workflows_stay(DOCUMENT, (LEGAL, FINANCE), (LEGAL,))
    assert refused.value.reason == "WORKFLOW_IN_USE"
