"""Filters of receipts: messages ↔ core values."""

from oars_grpc.core import ids
from oars_grpc.core.policy_document import MAX_RULE_ID_LENGTH
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.generated.oars.v1 import policy_pb2, receipt_pb2
from oars_grpc.transport.policy_messages import EFFECTS, TIERS
from oars_grpc.transport.reading import KEY, Reader, inverse
from oars_grpc.transport.writing import timestamp

MAXIMUM_TYPE = 64
MAXIMUM_NAME = 128
MAXIMUM_SUBJECT = 1024
_EFFECT_NUMBERS = inverse(EFFECTS)
_TIER_NUMBERS = inverse(TIERS)


def read_filter(
    reader: Reader,
    message: receipt_pb2.ReceiptFilter | receipt_pb2.ListReceiptsRequest,
    prefix: str = "",
) -> ReceiptFilter:
    """The filter of a message, whose field in the request is `prefix` and a dot."""

    def text(value: str, name: str, maximum: int = MAXIMUM_NAME) -> str:
        return reader.text(value, f"{prefix}{name}", maximum)

    found = ReceiptFilter(
        action_id=_id(reader, ids.ACTION, message.action_id, f"{prefix}action_id"),
        type=reader.text(message.type, f"{prefix}type", MAXIMUM_TYPE, pattern=KEY),
        agent_id=text(message.agent_id, "agent_id"),
        user_id=text(message.user_id, "user_id"),
        caller_subject=text(message.caller_subject, "caller_subject", MAXIMUM_SUBJECT),
        tool_id=text(message.tool_id, "tool_id"),
        operation=text(message.operation, "operation"),
        decision=reader.one_of(message.decision, f"{prefix}decision", EFFECTS)
        if message.decision
        else None,
        policy_id=_id(reader, ids.POLICY, message.policy_id, f"{prefix}policy_id"),
        policy_version=message.policy_version,
        rule_id=text(message.rule_id, "rule_id", MAX_RULE_ID_LENGTH),
        risk_tier=reader.one_of(message.risk_tier, f"{prefix}risk_tier", TIERS)
        if message.risk_tier
        else None,
        recorded_from=reader.moment(message.recorded_from, f"{prefix}recorded_from")
        if message.HasField("recorded_from")
        else None,
        recorded_until=reader.moment(message.recorded_until, f"{prefix}recorded_until")
        if message.HasField("recorded_until")
        else None,
    )
    if found.policy_version < 0:
        reader.wrong(f"{prefix}policy_version", "must be 1 or more, or 0 for all versions")
    elif found.policy_version and not found.policy_id:
        reader.wrong(f"{prefix}policy_version", "is of a policy: it takes policy_id")
    begins, ends = found.recorded_from, found.recorded_until
    if begins is not None and ends is not None and begins >= ends:
        reader.wrong(f"{prefix}recorded_from", "must be before recorded_until")
    return found


def _id(reader: Reader, kind: str, text: str, field: str) -> str:
    if text and not ids.is_id(kind, text):
        reader.wrong(field, f"must be {kind}_ and 26 characters of a UUIDv7")
    return text


def write_filter(which: ReceiptFilter) -> receipt_pb2.ReceiptFilter:
    """The message of a filter."""
    return receipt_pb2.ReceiptFilter(
        action_id=which.action_id,
        type=which.type,
        agent_id=which.agent_id,
        user_id=which.user_id,
        caller_subject=which.caller_subject,
        tool_id=which.tool_id,
        operation=which.operation,
        decision=_EFFECT_NUMBERS[which.decision]
        if which.decision
        else policy_pb2.EFFECT_UNSPECIFIED,
        policy_id=which.policy_id,
        policy_version=which.policy_version,
        rule_id=which.rule_id,
        risk_tier=_TIER_NUMBERS[which.risk_tier]
        if which.risk_tier
        else policy_pb2.RISK_TIER_UNSPECIFIED,
        recorded_from=timestamp(which.recorded_from),
        recorded_until=timestamp(which.recorded_until),
    )
