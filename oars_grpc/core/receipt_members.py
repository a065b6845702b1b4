"""The members that every receipt's predicate has, checked one by one."""

from collections.abc import Iterable, Mapping
from typing import Any

# The members of every predicate: text, a list of texts, or an object of texts.
_TEXTS = (
    "receiptId",
    "tenantId",
    "actionId",
    "type",
    "previousReceiptDigest",
    "recordedAt",
    "agentId",
    "userId",
    "execution",
    "inputDigest",
)
_OBJECTS = {
    "caller": {"subject", "fingerprintSha256", "role", "serviceAccountId"},
    "resource": {"toolId", "operation", "target"},
}


def check_members(predicate: Mapping[str, Any]) -> None:
    """Refuse the predicate of an action's receipt that lacks a member or has one of another type.

    Raises:
        ValueError: naming the member.
    """
    for name in _TEXTS:
        if not isinstance(predicate.get(name), str):
            raise ValueError(f"predicate.{name} is not text")
    for name, members in _OBJECTS.items():
        value = predicate.get(name)
        if not isinstance(value, dict) or set(value) != members or not _are_texts(value.values()):
            raise ValueError(f"predicate.{name} is not an object of {', '.join(sorted(members))}")
    if not _is_list_of_texts(predicate.get("delegationChain")):
        raise ValueError("predicate.delegationChain is not a list of texts")
    context = predicate.get("context")
    if not isinstance(context, dict) or set(context) != {"environment", "dataTypes", "attributes"}:
        raise ValueError("predicate.context is not an object of environment, dataTypes, attributes")
    types, attributes = context["dataTypes"], context["attributes"]
    if not isinstance(context["environment"], str) or not (
        types is None or _is_list_of_texts(types)
    ):
        raise ValueError("predicate.context has members of other types")
    if not isinstance(attributes, list) or not all(
        isinstance(item, dict) and set(item) == {"name", "value"} and _are_texts(item.values())
        for item in attributes
    ):
        raise ValueError("predicate.context.attributes is not a list of names and values")


_EVENT_TEXTS = ("receiptId", "tenantId", "type", "previousReceiptDigest", "recordedAt")
_ACTOR = {"subject", "fingerprintSha256", "role", "serviceAccountId"}


def check_event_members(predicate: Mapping[str, Any], member: str = "event") -> None:
    """The same for the predicate of a receipt in a tenant's chain, which tells of its `member`."""
    for name in _EVENT_TEXTS:
        if not isinstance(predicate.get(name), str):
            raise ValueError(f"predicate.{name} is not text")
    actor = predicate.get("caller")
    if not isinstance(actor, dict) or set(actor) != _ACTOR or not _are_texts(actor.values()):
        raise ValueError(f"predicate.caller is not an object of {', '.join(sorted(_ACTOR))}")
    if not isinstance(predicate.get(member), dict):
        raise ValueError(f"predicate.{member} is not an object")


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and _are_texts(value)
