"""An approval in words: all that is asked, where it stands, and what an answer takes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oars_grpc.cli.approval_check import ShownAction
from oars_grpc.cli.evidence_text import evidence_text
from oars_grpc.cli.visible_text import visible, visible_json, with_reading

_WIDTH = 26
_RENDERED = frozenset(
    {
        *("version", "tenantId", "actionId", "actionDigest", "requestedAt", "agentId", "userId"),
        *("caller", "delegationChain", "resource", "context", "execution", "inputDigest", "input"),
        *("policy", "decidingRules", "explanation", "missingFacts", "risk", "evidence"),
    }
)


def full_text(approval: Mapping[str, Any], shown: ShownAction) -> str:
    """Everything about an approval, for whoever is to decide.

    Raises:
        ValueError: something is missing that should be shown.
    """
    try:
        return "\n".join([*_standing(approval), *_asked(shown.display), *_digests(shown)])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the server shows no whole approval: {error!r}") from error


def state_of(approval: Mapping[str, Any]) -> str:
    """The state in lower case."""
    return str(approval["state"]).removeprefix("APPROVAL_STATE_").lower()


def stage_of(approval: Mapping[str, Any]) -> str:
    """The stage under way, as `1/2 legal 0/1`: stage, name, approvals so far."""
    stages, at = approval["stages"], approval["currentStage"]
    if at >= len(stages):
        return f"{len(stages)}/{len(stages)}"
    stage = stages[at]["stage"]
    approved = sum(
        decision["stage"] == at and decision["verdict"] == "VERDICT_APPROVE"
        for decision in approval["decisions"]
    )
    done = f"{at + 1}/{len(stages)} {visible(stage['name'])}"
    overdue = " escalated" if stages[at].get("escalatedAt") else ""
    return f"{done} {approved}/{int(stage['requiredApprovals'])}{overdue}"


def what_of(shown: ShownAction) -> str:
    """What is asked, in one line."""
    resource = shown.display["resource"]
    tool, target = visible(resource["toolId"]), visible(resource["target"])
    return f"{with_reading(resource['operation'])} {tool} {target}".rstrip()


def who_of(shown: ShownAction) -> str:
    """Who asks, in one line."""
    agent, user = visible(shown.display["agentId"]), visible(shown.display["userId"])
    return f"{agent} for {user}" if user else agent


def risk_of(shown: ShownAction) -> str:
    """The risk, in one line."""
    risk = shown.display["risk"]
    return visible(f"{risk['tier']} {risk['score']}")


def _row(name: str, value: str) -> str:
    return f"  {name:<{_WIDTH - 1}} {value}".rstrip()


def _standing(approval: Mapping[str, Any]) -> Iterator[str]:
    yield f"Approval {visible(approval['approvalId'])}: {state_of(approval)}"
    yield _row("waits until", visible(approval["expiresAt"]))
    if approval.get("escalatesAt"):
        yield _row("escalates at", visible(approval["escalatesAt"]))
    for number, entry in enumerate(approval["stages"]):
        yield _row(f"stage {number + 1}", _stage_text(entry))
    takes = []
    if approval["stepUpRequired"]:
        takes.append("a one-time code")
    if approval["signatureRequired"]:
        takes.append("a signature by a registered key (--key)")
    yield _row("to approve takes", " and ".join(takes) or "your certificate or token, no more")
    for decision in approval["decisions"]:
        yield _row(f"stage {decision['stage'] + 1} decision", _decision_text(decision))


def _stage_text(entry: Mapping[str, Any]) -> str:
    stage = entry["stage"]
    approvers = _approvers_text(stage["approvers"]) or "anybody of role approver or admin"
    order = ", in this order" if stage["mode"] == "STAGE_MODE_SERIAL" else ""
    state = "complete" if entry.get("completedAt") else "under way"
    text = (
        f"{visible(stage['name'])} (workflow {visible(entry['workflowId'])}): "
        f"{int(stage['requiredApprovals'])} of {approvers}{order}; "
        f"{state if entry.get('startedAt') else 'not begun'}"
    )
    if entry.get("escalatedAt"):
        text += f"; escalated to {_approvers_text(stage['escalateTo']) or 'nobody'}"
    return text


def _approvers_text(approvers: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"role {visible(each['role'])}" if each["role"] else visible(each["principal"])
        for each in approvers
    )


def _decision_text(decision: Mapping[str, Any]) -> str:
    verdict = str(decision["verdict"]).removeprefix("VERDICT_").lower()
    proofs = ["with code"] if decision["steppedUp"] else []
    if decision["keyId"]:
        proofs.append(f"signed by key {visible(decision['keyId'])}")
    if decision["carriedBy"]:
        proofs.append(f"over {visible(decision['carriedBy'])}")
    told = f"{verdict} by {visible(decision['approver'])} at {visible(decision['decidedAt'])}"
    reason = f": {visible(decision['reason'])}" if decision["reason"] else ""
    return "; ".join([told, *proofs]) + reason


def _asked(display: Mapping[str, Any]) -> Iterator[str]:
    resource, context, caller = display["resource"], display["context"], display["caller"]
    yield "What is asked"
    yield _row("operation", with_reading(resource["operation"]))
    yield _row("tool", with_reading(resource["toolId"]))
    yield _row("target", with_reading(resource["target"]))
    yield _row("carried out by", visible(display["execution"]))
    yield _row("input", "")
    yield from (f"    {line}" for line in visible_json(display["input"]).split("\n"))
    yield "Who asks"
    yield _row("agent", with_reading(display["agentId"]))
    yield _row("for user", with_reading(display["userId"]) or "nobody")
    chain = " > ".join(map(with_reading, display["delegationChain"]))
    yield _row("delegated by", chain or "nobody")
    account = caller.get("serviceAccountId")
    known = f", service account {visible(account)}" if account else ""
    yield _row("caller", f"{visible(caller['subject'])} (role {visible(caller['role'])}{known})")
    yield _row("certificate", visible(caller["fingerprintSha256"]) or "none")
    yield _row("asked at", visible(display["requestedAt"]))
    yield "It says of itself"
    yield _row("environment", with_reading(context["environment"]) or "not stated")
    types = context["dataTypes"]
    stated = "not stated" if types is None else ", ".join(map(with_reading, types)) or "none"
    yield _row("data types", stated)
    for name, value in sorted(context["attributes"].items()):
        yield _row(visible(name), visible(value))
    if "evidence" in display:
        yield from evidence_text(display["evidence"])
    yield from _why(display)
    further = {name: value for name, value in display.items() if name not in _RENDERED}
    if further:
        yield "Further"
        yield from (f"    {line}" for line in visible_json(further).split("\n"))


def _why(display: Mapping[str, Any]) -> Iterator[str]:
    risk, policy = display["risk"], display["policy"]
    yield "Why people are asked"
    yield _row("risk", visible(f"{risk['tier']}, {risk['score']} of 100"))
    for signal in risk["signals"]:
        told = f"{signal['weight']} {signal['detail']}".rstrip()
        yield _row(f"  {visible(signal['name'])}", visible(told))
    yield _row("explanation", visible(display["explanation"]))
    yield _row("deciding rules", ", ".join(map(visible, display["decidingRules"])) or "none")
    if display["missingFacts"]:
        yield _row("missing facts", ", ".join(map(visible, display["missingFacts"])))
    yield _row("policy", visible(f"{policy['policyId']}, version {policy['version']}"))
    yield _row("policy digest", visible(policy["digest"]))


def _digests(shown: ShownAction) -> Iterator[str]:
    yield "Digests, computed from the above"
    yield _row("action", shown.action_digest)
    yield _row("display", shown.display_digest)
