"""ActionService: parse, call one method, format."""

import threading
from collections.abc import Iterator

import grpc

from oars_grpc.core import ids
from oars_grpc.core.action import TERMINAL_STATES
from oars_grpc.core.ids import parse_id
from oars_grpc.core.stored import ActionFilter
from oars_grpc.generated.oars.v1 import action_pb2, action_pb2_grpc
from oars_grpc.transport.action_messages import (
    ACTION_STATES,
    read_request,
    write_action,
    write_submitted,
)
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.approval_messages import write_approval
from oars_grpc.transport.current_call import current_call, reauthorised_call
from oars_grpc.transport.lattice_progress import proceeding
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.policy_messages import write_decision
from oars_grpc.transport.reading import NAME, Reader
from oars_grpc.transport.receipt_messages import write_receipt
from oars_grpc.transport.watching import WatchTime
from oars_grpc.use_cases.action_change import ActionOutcome
from oars_grpc.use_cases.actions import Actions
from oars_grpc.use_cases.executions import Executions

Context = grpc.ServicerContext
MAXIMUM_REASON = 1024
MAXIMUM_ERROR = 2048
_OUTCOMES = (
    action_pb2.OUTCOME_SUCCEEDED,
    action_pb2.OUTCOME_FAILED,
    action_pb2.OUTCOME_NOT_STARTED,
)


class ActionServicer(action_pb2_grpc.ActionServiceServicer):
    """Serves `oars.v1.ActionService`."""

    def __init__(
        self,
        actions: Actions,
        executions: Executions,
        metrics: Metrics,
        watch_seconds: float,
        draining: threading.Event,
    ) -> None:
        self._actions = actions
        self._executions = executions
        self._metrics = metrics
        self._watch_seconds = watch_seconds
        self._draining = draining

    def SubmitAction(
        self, request: action_pb2.SubmitActionRequest, context: Context
    ) -> action_pb2.SubmitActionResponse:
        """Decide and record."""
        call = current_call()
        tenant_id = call.tenant(Reader.checked_tenant_id(request.tenant_id))
        asked, evidence = read_request(request, call.principal, tenant_id)
        answer = self._actions.submit(
            call, asked, encoded(write_submitted), evidence, proceeding(context)
        )
        response = sent(action_pb2.SubmitActionResponse, answer)
        if not answer.replayed:
            self._metrics.decisions.labels(_effect_name(response)).inc()
        return response

    def GetAction(
        self, request: action_pb2.GetActionRequest, context: Context
    ) -> action_pb2.GetActionResponse:
        """Read one."""
        tenant_id, action_id = _named(request)
        stored = self._actions.get(current_call(), tenant_id, action_id)
        return action_pb2.GetActionResponse(
            action=write_action(stored.action), decision=write_decision(stored.decision)
        )

    def ListActions(
        self, request: action_pb2.ListActionsRequest, context: Context
    ) -> action_pb2.ListActionsResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        state = reader.one_of(request.state, "state", ACTION_STATES) if request.state else None
        agent_id = reader.text(request.agent_id, "agent_id", 128, pattern=NAME)
        reader.done()
        page = self._actions.list(
            current_call(),
            tenant_id,
            ActionFilter(state, agent_id),
            request.page_size,
            request.page_token,
            lambda stored: write_action(stored.action).ByteSize(),
        )
        return action_pb2.ListActionsResponse(
            actions=[write_action(stored.action) for stored in page.actions],
            next_page_token=page.next_page_token,
        )

    def StartAction(
        self, request: action_pb2.StartActionRequest, context: Context
    ) -> action_pb2.StartActionResponse:
        """Begin the execution."""
        tenant_id, action_id = _named(request)
        answer = self._executions.start(
            current_call(), tenant_id, action_id, encoded(_write_started)
        )
        return sent(action_pb2.StartActionResponse, answer)

    def CompleteAction(
        self, request: action_pb2.CompleteActionRequest, context: Context
    ) -> action_pb2.CompleteActionResponse:
        """Record an outcome."""
        tenant_id, action_id = _named(request)
        reader = Reader()
        outcome = request.outcome
        if outcome not in _OUTCOMES:
            names = ", ".join(map(action_pb2.Outcome.Name, _OUTCOMES))
            reader.wrong("outcome", f"must be one of {names}")
        succeeded = outcome == action_pb2.OUTCOME_SUCCEEDED
        failed = outcome in {action_pb2.OUTCOME_FAILED, action_pb2.OUTCOME_NOT_STARTED}
        error = reader.text(request.error, "error", MAXIMUM_ERROR, required=failed, lines=True)
        if error and succeeded:
            reader.wrong("error", "is not for OUTCOME_SUCCEEDED")
        given = request.HasField("output")
        if given and outcome == action_pb2.OUTCOME_NOT_STARTED:
            reader.wrong("output", "is not for OUTCOME_NOT_STARTED")
        output = reader.json_object(request.output, "output") if given else None
        reader.done()
        call, answers = current_call(), encoded(_write_completed)
        if outcome == action_pb2.OUTCOME_NOT_STARTED:
            answer = self._executions.withdraw_start(call, tenant_id, action_id, error, answers)
        else:
            reported = None if succeeded else error
            answer = self._executions.complete(
                call, tenant_id, action_id, output, reported, answers
            )
        return sent(action_pb2.CompleteActionResponse, answer)

    def CancelAction(
        self, request: action_pb2.CancelActionRequest, context: Context
    ) -> action_pb2.CancelActionResponse:
        """Withdraw."""
        tenant_id, action_id = _named(request)
        answer = self._actions.cancel(
            current_call(), tenant_id, action_id, _reason(request), encoded(_write_canceled)
        )
        return sent(action_pb2.CancelActionResponse, answer)

    def ReleaseAction(
        self, request: action_pb2.ReleaseActionRequest, context: Context
    ) -> action_pb2.ReleaseActionResponse:
        """Take out of quarantine."""
        tenant_id, action_id = _named(request)
        answer = self._actions.release(
            current_call(), tenant_id, action_id, _reason(request), encoded(_write_released)
        )
        return sent(action_pb2.ReleaseActionResponse, answer)

    def WatchAction(
        self, request: action_pb2.WatchActionRequest, context: Context
    ) -> Iterator[action_pb2.WatchActionResponse]:
        """Send the action now and at every change, and always an explicit last event."""
        tenant_id, action_id = _named(request)
        watch = WatchTime(context, self._watch_seconds, self._draining)
        sent_version = 0
        while context.is_active():
            # A watch lasts; what the caller may see can have changed since the last look.
            action = self._actions.get(reauthorised_call(), tenant_id, action_id).action
            final = action.state in TERMINAL_STATES or watch.is_over()
            if final or action.version != sent_version:
                sent_version = action.version
                yield action_pb2.WatchActionResponse(action=write_action(action), final=final)
            if final:
                return
            watch.wait()


def _named(
    request: action_pb2.GetActionRequest
    | action_pb2.StartActionRequest
    | action_pb2.CompleteActionRequest
    | action_pb2.CancelActionRequest
    | action_pb2.ReleaseActionRequest
    | action_pb2.WatchActionRequest,
) -> tuple[str, str]:
    """Tenant (may be left out) and action that a request names."""
    tenant_id = Reader.checked_tenant_id(request.tenant_id)
    return tenant_id, parse_id(ids.ACTION, request.action_id, "action_id")


def _reason(request: action_pb2.CancelActionRequest | action_pb2.ReleaseActionRequest) -> str:
    reader = Reader()
    reason = reader.text(request.reason, "reason", MAXIMUM_REASON, lines=True)
    reader.done()
    return reason


def _effect_name(response: action_pb2.SubmitActionResponse) -> str:
    name: str = action_pb2.ActionState.Name(response.action.state)
    return name.removeprefix("ACTION_STATE_").lower()


def _write_started(outcome: ActionOutcome) -> action_pb2.StartActionResponse:
    return action_pb2.StartActionResponse(
        action=write_action(outcome.action),
        decision=write_decision(outcome.decision),
        receipts=[write_receipt(receipt) for receipt in outcome.receipts],
        approval=write_approval(outcome.approval) if outcome.approval else None,
    )


def _write_completed(outcome: ActionOutcome) -> action_pb2.CompleteActionResponse:
    return action_pb2.CompleteActionResponse(
        action=write_action(outcome.action),
        receipts=[write_receipt(receipt) for receipt in outcome.receipts],
    )


def _write_canceled(outcome: ActionOutcome) -> action_pb2.CancelActionResponse:
    return action_pb2.CancelActionResponse(
        action=write_action(outcome.action),
        receipts=[write_receipt(receipt) for receipt in outcome.receipts],
    )


def _write_released(outcome: ActionOutcome) -> action_pb2.ReleaseActionResponse:
    return action_pb2.ReleaseActionResponse(
        action=write_action(outcome.action),
        receipts=[write_receipt(receipt) for receipt in outcome.receipts],
        approval=write_approval(outcome.approval) if outcome.approval else None,
    )
