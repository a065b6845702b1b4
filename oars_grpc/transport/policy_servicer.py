"""PolicyService: parse, call one method, format."""

import threading

import grpc

from oars_grpc.core import ids
from oars_grpc.core.decision import Decision
from oars_grpc.core.ids import parse_id
from oars_grpc.core.stored import StoredPolicy
from oars_grpc.errors import InvalidArgument
from oars_grpc.generated.oars.v1 import policy_pb2
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.policy_messages import read_document, write_decision, write_policy
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.replay_servicer import ReplayServicer
from oars_grpc.transport.simulation_messages import read_trial
from oars_grpc.use_cases.policies import Policies
from oars_grpc.use_cases.replay import Replays

Context = grpc.ServicerContext


class PolicyServicer(ReplayServicer):
    """Serves `oars.v1.PolicyService`."""

    def __init__(self, policies: Policies, replays: Replays, draining: threading.Event) -> None:
        super().__init__(replays, draining)
        self._policies = policies

    def CreatePolicy(
        self, request: policy_pb2.CreatePolicyRequest, context: Context
    ) -> policy_pb2.CreatePolicyResponse:
        """Keep a draft."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        if not request.HasField("document"):
            raise InvalidArgument.of("document", "is required")
        document = read_document(request.document)
        answer = self._policies.create(current_call(), tenant_id, document, encoded(_write_created))
        return sent(policy_pb2.CreatePolicyResponse, answer)

    def GetPolicy(
        self, request: policy_pb2.GetPolicyRequest, context: Context
    ) -> policy_pb2.GetPolicyResponse:
        """Read one."""
        tenant_id, policy_id = _named(request)
        policy = self._policies.get(current_call(), tenant_id, policy_id)
        return policy_pb2.GetPolicyResponse(policy=write_policy(policy))

    def ListPolicies(
        self, request: policy_pb2.ListPoliciesRequest, context: Context
    ) -> policy_pb2.ListPoliciesResponse:
        """Read a page."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        page = self._policies.list(
            current_call(),
            tenant_id,
            request.page_size,
            request.page_token,
            lambda policy: write_policy(policy).ByteSize(),
            archived=request.include_archived,
        )
        return policy_pb2.ListPoliciesResponse(
            policies=[write_policy(policy) for policy in page.policies],
            next_page_token=page.next_page_token,
        )

    def PublishPolicy(
        self, request: policy_pb2.PublishPolicyRequest, context: Context
    ) -> policy_pb2.PublishPolicyResponse:
        """Make a policy the one that decides."""
        tenant_id, policy_id = _named(request)
        answer = self._policies.publish(
            current_call(), tenant_id, policy_id, encoded(_write_published)
        )
        return sent(policy_pb2.PublishPolicyResponse, answer)

    def RollbackPolicy(
        self, request: policy_pb2.RollbackPolicyRequest, context: Context
    ) -> policy_pb2.RollbackPolicyResponse:
        """Publish what was published before."""
        tenant_id, policy_id = _named(request)
        answer = self._policies.rollback(
            current_call(), tenant_id, policy_id, encoded(_write_rolled_back)
        )
        return sent(policy_pb2.RollbackPolicyResponse, answer)

    def ArchivePolicy(
        self, request: policy_pb2.ArchivePolicyRequest, context: Context
    ) -> policy_pb2.ArchivePolicyResponse:
        """Put a policy away."""
        tenant_id, policy_id = _named(request)
        answer = self._policies.archive(
            current_call(), tenant_id, policy_id, encoded(_write_archived)
        )
        return sent(policy_pb2.ArchivePolicyResponse, answer)

    def SimulatePolicy(
        self, request: policy_pb2.SimulatePolicyRequest, context: Context
    ) -> policy_pb2.SimulatePolicyResponse:
        """Try a document on a hypothetical action."""
        call = current_call()
        tenant_id = call.tenant(Reader.checked_tenant_id(request.tenant_id))
        trial = read_trial(request, call.principal, tenant_id)
        answer = self._policies.simulation.simulate(call, trial, encoded(_write_simulated))
        return sent(policy_pb2.SimulatePolicyResponse, answer)


def _named(
    request: policy_pb2.GetPolicyRequest
    | policy_pb2.PublishPolicyRequest
    | policy_pb2.RollbackPolicyRequest
    | policy_pb2.ArchivePolicyRequest,
) -> tuple[str, str]:
    """Tenant (may be left out) and policy that a request names."""
    tenant_id = Reader.checked_tenant_id(request.tenant_id)
    return tenant_id, parse_id(ids.POLICY, request.policy_id, "policy_id")


def _write_created(policy: StoredPolicy) -> policy_pb2.CreatePolicyResponse:
    return policy_pb2.CreatePolicyResponse(policy=write_policy(policy))


def _write_published(policy: StoredPolicy) -> policy_pb2.PublishPolicyResponse:
    return policy_pb2.PublishPolicyResponse(policy=write_policy(policy))


def _write_rolled_back(policy: StoredPolicy) -> policy_pb2.RollbackPolicyResponse:
    return policy_pb2.RollbackPolicyResponse(policy=write_policy(policy))


def _write_archived(policy: StoredPolicy) -> policy_pb2.ArchivePolicyResponse:
    return policy_pb2.ArchivePolicyResponse(policy=write_policy(policy))


def _write_simulated(decision: Decision) -> policy_pb2.SimulatePolicyResponse:
    return policy_pb2.SimulatePolicyResponse(decision=write_decision(decision))
