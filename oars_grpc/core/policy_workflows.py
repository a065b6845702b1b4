"""Whether the workflows that a policy's rules name are there to answer."""

from collections.abc import Iterable, Sequence

from oars_grpc.core.policy import PolicyDocument, Rule
from oars_grpc.core.workflow import DEFAULT_WORKFLOW, Workflow
from oars_grpc.errors import FailedPrecondition


def check_workflows_exist(document: PolicyDocument, workflows: Sequence[Workflow]) -> None:
    """Refuse to publish a policy whose rules name workflows that the tenant does not have.

    Raises:
        FailedPrecondition: naming the rule and the workflow.
    """
    known = {DEFAULT_WORKFLOW, *(workflow.workflow_id for workflow in workflows)}
    rule = _first(document, (r.workflow_id for r in document.rules if r.workflow_id not in known))
    if rule is not None:
        raise FailedPrecondition(
            f"rule {rule.id} names workflow {rule.workflow_id}, which the tenant's settings do not"
            " have",
            reason="WORKFLOW_NOT_FOUND",
        )


def check_workflows_stay(
    published: PolicyDocument, before: Sequence[Workflow], after: Sequence[Workflow]
) -> None:
    """Refuse to remove a workflow that the published policy names.

    Raises:
        FailedPrecondition: naming the rule and the workflow.
    """
    kept = {DEFAULT_WORKFLOW, *(workflow.workflow_id for workflow in after)}
    rule = _first(published, (w.workflow_id for w in before if w.workflow_id not in kept))
    if rule is not None:
        raise FailedPrecondition(
            f"workflow {rule.workflow_id} cannot be removed: rule {rule.id} of the published"
            " policy names it",
            reason="WORKFLOW_IN_USE",
        )


def _first(document: PolicyDocument, workflow_ids: Iterable[str]) -> Rule | None:
    """The first rule that names one of the workflows."""
    wanted = set(workflow_ids) - {""}
    return next((rule for rule in document.rules if rule.workflow_id in wanted), None)
