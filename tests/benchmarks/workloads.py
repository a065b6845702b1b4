"""What one action of each workload is: the calls it makes, one after the other."""

import itertools
import secrets
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from oars_grpc.generated.oars.v1 import action_pb2, receipt_pb2

CALL_SECONDS = 30.0
ACTIONS = "/oars.v1.ActionService/"
RECEIPTS = "/oars.v1.ReceiptService/"
# By what `--json` calls them, what people read.
WORKLOADS = {
    "allow": "submit, allowed (2 receipts)",
    "allow_complete": "submit, allowed + complete (3 receipts)",
    "get_action": "GetAction",
    "verify_receipt": "VerifyReceipt",
}

# Bytes in, bytes out: the generator costs the same whoever answers.
RawCall: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Answer: TypeAlias = "grpc.Future[bytes]"
# An action yields each call that it has begun and is given its answer; the last ends it.
Calls = Generator[Answer, bytes, None]
Action = Callable[[], Calls]


@dataclass(frozen=True, slots=True)
class Samples:
    """What is stored already, for the workloads that read."""

    action_ids: Sequence[str] = ()
    receipt_ids: Sequence[str] = ()


def submit_request() -> bytes:
    """A request that the built-in policy allows, of an ordinary size."""
    request = action_pb2.SubmitActionRequest(agent_id="support-agent", user_id="user:alice")
    request.resource.tool_id = "desk"
    request.resource.operation = "create_ticket"
    request.resource.target = "support/login-fails"
    request.context.environment = "staging"
    request.context.data_types.append("none")
    request.input.update(
        {
            "title": "Login fails",
            "body": "Since this morning nobody of the customer's second site can log in.",
            "priority": "high",
            "labels": ["login", "customer"],
        }
    )
    return request.SerializeToString()


def raw_call(channel: grpc.Channel, path: str) -> RawCall:
    """A stub that leaves bytes as they are."""
    return channel.unary_unary(path, _same, _same)


def _same(message: bytes) -> bytes:
    return message


def action_of(workload: str, channel: grpc.Channel, samples: Samples) -> Action:
    """What a stream does again and again."""
    match workload:
        case "allow":
            return _allow(channel)
        case "allow_complete":
            return _allow_complete(channel)
        case "get_action":
            requests = [
                action_pb2.GetActionRequest(action_id=each).SerializeToString()
                for each in samples.action_ids
            ]
            return _read(raw_call(channel, f"{ACTIONS}GetAction"), requests)
        case "verify_receipt":
            requests = [
                receipt_pb2.VerifyReceiptRequest(receipt_id=each).SerializeToString()
                for each in samples.receipt_ids
            ]
            return _read(raw_call(channel, f"{RECEIPTS}VerifyReceipt"), requests)
    raise ValueError(f"{workload} is not a workload")


def answers_of(action: Action) -> list[bytes]:
    """Do an action once and wait for it; the answers to its calls."""
    calls = action()
    answers = [next(calls).result()]
    while True:
        try:
            answers.append(calls.send(answers[-1]).result())
        except StopIteration:
            return answers


def check(workload: str, response: bytes) -> None:
    """Make sure that the last answer of a stream is what the workload is meant to measure.

    Raises:
        RuntimeError: it is not.
    """
    holds = False
    match workload:
        case "allow":
            submitted = action_pb2.SubmitActionResponse.FromString(response)
            approved = submitted.action.state == action_pb2.ACTION_STATE_APPROVED
            holds = approved and len(submitted.receipts) == 2
        case "allow_complete":
            completed = action_pb2.CompleteActionResponse.FromString(response)
            executed = completed.action.state == action_pb2.ACTION_STATE_EXECUTED
            holds = executed and len(completed.receipts) == 1
        case "get_action":
            holds = bool(action_pb2.GetActionResponse.FromString(response).action.action_id)
        case "verify_receipt":
            holds = receipt_pb2.VerifyReceiptResponse.FromString(response).valid
    if not holds:
        raise RuntimeError(f"{workload} was answered with {response!r}")


def _keys() -> Callable[[], tuple[tuple[str, str], ...]]:
    """Metadata with a key that no other call has."""
    stream = secrets.token_hex(8)
    numbers = itertools.count()
    return lambda: (("idempotency-key", f"{stream}-{next(numbers)}"),)


def _allow(channel: grpc.Channel) -> Action:
    call, request, key = raw_call(channel, f"{ACTIONS}SubmitAction"), submit_request(), _keys()

    def action() -> Calls:
        yield call.future(request, timeout=CALL_SECONDS, metadata=key())

    return action


def _allow_complete(channel: grpc.Channel) -> Action:
    submit, key = _allow(channel), _keys()
    call = raw_call(channel, f"{ACTIONS}CompleteAction")
    completion = action_pb2.CompleteActionRequest(outcome=action_pb2.OUTCOME_SUCCEEDED)
    completion.output.update({"ticket": "T-1001"})
    output = completion.SerializeToString()

    def action() -> Calls:
        submitted = yield next(submit())
        action_id = action_pb2.SubmitActionResponse.FromString(submitted).action.action_id
        # Concatenated messages are merged: the output is serialized once.
        named = action_pb2.CompleteActionRequest(action_id=action_id).SerializeToString() + output
        yield call.future(named, timeout=CALL_SECONDS, metadata=key())

    return action


def _read(call: RawCall, requests: Sequence[bytes]) -> Action:
    turn = itertools.cycle(requests)

    def action() -> Calls:
        yield call.future(next(turn), timeout=CALL_SECONDS)

    return action
