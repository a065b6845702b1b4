"""What a server shows of an approval, held against the digests that a decision will name.

A decision names the digest of what its approver was shown. So that the approver need not believe
the server about that, both digests are computed here from what goes to the screen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.action import ActionContext, ActionRequest, Execution, Resource
from oars_grpc.core.action_evidence import assessment_from_json
from oars_grpc.core.canonical import canonical_json, decode_base64, sha256_hex
from oars_grpc.core.display import DISPLAY_VERSION, display_digest
from oars_grpc.core.grant import grant_payload
from oars_grpc.core.identity import Principal, Role


@dataclass(frozen=True, slots=True)
class ShownAction:
    """A display that is what its digest says, with the digests computed from it."""

    display: Mapping[str, Any]
    display_digest: str
    action_digest: str


def check_shown(approval: Mapping[str, Any], display: str) -> ShownAction:
    """The display, if it is of this approval, bound to this very action, and can be shown whole.

    `approval` is as REST writes it.

    Raises:
        ValueError: it is not, or was erased.
    """
    if not display:
        raise ValueError("nothing is shown: the input was erased, or this identity does not decide")
    raw = display.encode()
    digest = display_digest(raw)
    if digest != approval["displayDigest"]:
        raise ValueError("what the server shows does not have the digest that it names")
    try:
        shown = orjson.loads(raw)
        if not isinstance(shown, dict) or canonical_json(shown) != raw:
            raise ValueError("it is not canonical JSON")
        if shown["version"] != DISPLAY_VERSION:
            raise ValueError(f"it is of version {shown['version']}, later than this command")
        input_digest = sha256_hex(canonical_json(shown["input"]))
        _check_texts(shown)
        action_digest = _request_of(shown).digest(input_digest)
        facts = {
            "input": (input_digest, shown["inputDigest"]),
            "action": (action_digest, shown["actionDigest"]),
            "approved action": (action_digest, approval["actionDigest"]),
            "action id": (shown["actionId"], approval["actionId"]),
            "tenant": (shown["tenantId"], approval["tenantId"]),
            "policy": (shown["policy"]["digest"], approval["policyDigest"]),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what the server shows is no display of an action: {error!r}") from error
    wrong = [name for name, (found, named) in facts.items() if found != named]
    if wrong:
        raise ValueError(f"what the server shows contradicts itself: {', '.join(wrong)}")
    return ShownAction(shown, digest, action_digest)


def grant_to_sign(
    approval: Mapping[str, Any], shown: ShownAction, verdict: str, offered: str
) -> tuple[bytes, str]:
    """The payload to sign, made here, and the name under which the server knows the approver.

    `offered` is what the server would have signed to approve (base64): it must be the same.

    Raises:
        ValueError: it would have something else signed.
    """
    try:
        payload = decode_base64(offered)
        approver = orjson.loads(payload)["approver"]
        stated = {
            "tenant_id": approval["tenantId"],
            "approval_id": approval["approvalId"],
            "action_id": approval["actionId"],
            "action_digest": shown.action_digest,
            "policy_digest": shown.display["policy"]["digest"],
            "display_digest": shown.display_digest,
            "approver": approver,
            "stage": approval["currentStage"],
        }
        expected = grant_payload(**stated, verdict="approve")
        wanted = grant_payload(**stated, verdict=verdict)
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"the server offers no grant to sign: {error!r}") from error
    if payload != expected:
        raise ValueError("the server would have something else signed than what it shows")
    return wanted, str(approver)


def _check_texts(shown: Mapping[str, Any]) -> None:
    """Refuse the text of an item that is not what its digest stands for."""
    for item in shown.get("evidence", {}).get("against", ()):
        if item["text"] and sha256_hex(item["text"].encode()) != item["digest"]:
            raise ValueError(f"the text of evidence {item['id']!a} does not have its digest")


def _request_of(shown: Mapping[str, Any]) -> ActionRequest:
    caller, resource, context = shown["caller"], shown["resource"], shown["context"]
    data_types = context["dataTypes"]
    return ActionRequest(
        tenant_id=shown["tenantId"],
        agent_id=shown["agentId"],
        caller=Principal(
            subject=caller["subject"],
            fingerprint_sha256=caller["fingerprintSha256"],
            role=Role(caller["role"]),
            tenant_ids=frozenset({shown["tenantId"]}),
        ),
        resource=Resource(resource["toolId"], resource["operation"], resource["target"]),
        user_id=shown["userId"],
        delegation_chain=tuple(shown["delegationChain"]),
        context=ActionContext(
            environment=context["environment"],
            data_types=None if data_types is None else tuple(data_types),
            attributes=context["attributes"],
        ),
        execution=Execution(shown["execution"]),
        evidence=assessment_from_json(shown["evidence"]) if "evidence" in shown else None,
    )
