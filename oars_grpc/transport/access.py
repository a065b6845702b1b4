"""Who may call what: the one table. An rpc that is not in it is refused to everybody."""

from collections.abc import Mapping
from dataclasses import dataclass

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import PermissionDenied

_ADMIN = frozenset({Role.ADMIN})
_OPERATORS = frozenset({Role.ADMIN, Role.OPERATOR})
_SUBMITTERS = frozenset({Role.AGENT, Role.GATEWAY, Role.OPERATOR, Role.ADMIN})
_APPROVERS = frozenset({Role.APPROVER, Role.ADMIN})
_READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.APPROVER, Role.AUDITOR})
_HOLD_READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.AUDITOR})
_EVERYONE = frozenset(Role)
_AUDITORS = frozenset({Role.ADMIN, Role.AUDITOR})


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call one rpc.

    `roles` None opens it to callers without identity. `scope` is what an identity that has scopes
    needs. An rpc that is `mutating` takes an idempotency key. One that is for `people` may be
    called with a person's bearer token: to read, and to decide what waits for a person.
    """

    roles: frozenset[Role] | None
    scope: str
    mutating: bool = False
    people: bool = False


def _reads(scope: str, roles: frozenset[Role], *, people: bool = False) -> Access:
    return Access(roles, scope, people=people)


def _writes(scope: str, roles: frozenset[Role], *, people: bool = False) -> Access:
    return Access(roles, scope, mutating=True, people=people)


# Roles with an agent's view (agent, gateway) see only the actions that they submitted: the use
# cases see to that.
ACCESS: Mapping[str, Access] = {
    "/oars.v1.ActionService/SubmitAction": _writes("actions:submit", _SUBMITTERS),
    "/oars.v1.ActionService/GetAction": _reads("actions:read", _EVERYONE, people=True),
    "/oars.v1.ActionService/ListActions": _reads("actions:read", _EVERYONE, people=True),
    "/oars.v1.ActionService/WatchAction": _reads("actions:read", _EVERYONE, people=True),
    "/oars.v1.ActionService/StartAction": _writes("actions:submit", _SUBMITTERS),
    "/oars.v1.ActionService/CompleteAction": _writes("actions:submit", _SUBMITTERS),
    "/oars.v1.ActionService/CancelAction": _writes("actions:cancel", _SUBMITTERS),
    "/oars.v1.ActionService/ReleaseAction": _writes("actions:release", _OPERATORS),
    "/oars.v1.ApprovalService/DecideApproval": _writes("approvals:decide", _APPROVERS, people=True),
    "/oars.v1.ApprovalService/GetApproval": _reads("approvals:read", _READERS, people=True),
    "/oars.v1.ApprovalService/ListApprovals": _reads("approvals:read", _READERS, people=True),
    "/oars.v1.ApprovalService/WatchApprovals": _reads("approvals:read", _READERS, people=True),
    # What makes an approver, and what one proves himself by.
    "/oars.v1.ApproverService/EnrollSecondFactor": _writes("approvers:write", _ADMIN),
    "/oars.v1.ApproverService/RemoveSecondFactor": _writes("approvers:write", _ADMIN),
    "/oars.v1.ApproverService/GetSecondFactor": _reads("approvers:read", _READERS),
    "/oars.v1.ApproverService/RegisterApproverKey": _writes("approvers:write", _ADMIN),
    "/oars.v1.ApproverService/RevokeApproverKey": _writes("approvers:write", _ADMIN),
    "/oars.v1.ApproverService/ListApproverKeys": _reads("approvers:read", _READERS),
    "/oars.v1.PolicyService/CreatePolicy": _writes("policies:write", _ADMIN),
    "/oars.v1.PolicyService/GetPolicy": _reads("policies:read", _READERS, people=True),
    "/oars.v1.PolicyService/ListPolicies": _reads("policies:read", _READERS, people=True),
    "/oars.v1.PolicyService/PublishPolicy": _writes("policies:publish", _ADMIN),
    "/oars.v1.PolicyService/RollbackPolicy": _writes("policies:publish", _ADMIN),
    "/oars.v1.PolicyService/ArchivePolicy": _writes("policies:publish", _ADMIN),
    # Leaves an event, so that it shows who has looked for what a policy lets pass.
    "/oars.v1.PolicyService/SimulatePolicy": _writes("policies:read", _READERS),
    # Reads every decision of a range, whoever asked for it.
    "/oars.v1.PolicyService/ReplayPolicy": _reads("policies:replay", _AUDITORS, people=True),
    "/oars.v1.ReceiptService/GetReceipt": _reads("receipts:read", _EVERYONE, people=True),
    "/oars.v1.ReceiptService/ListReceipts": _reads("receipts:read", _EVERYONE, people=True),
    "/oars.v1.ReceiptService/VerifyReceipt": _reads("receipts:read", _EVERYONE, people=True),
    "/oars.v1.ReceiptService/ListTrustedKeys": _reads("keys:read", _EVERYONE, people=True),
    "/oars.v1.ReceiptService/GetReceiptProof": _reads("receipts:read", _EVERYONE, people=True),
    # Any identity of the tenant may hold its log to what it signed, and be a witness.
    "/oars.v1.ReceiptService/GetCheckpoint": _reads("log:read", _EVERYONE, people=True),
    "/oars.v1.ReceiptService/GetConsistencyProof": _reads("log:read", _EVERYONE, people=True),
    # Reads the payloads of a whole range: dear, and an auditor's business.
    "/oars.v1.ReceiptService/ProveCompleteness": _reads("log:read", _AUDITORS, people=True),
    "/oars.v1.ControlService/CreateControlMapping": _writes("controls:write", _ADMIN),
    "/oars.v1.ControlService/GetControlMapping": _reads("controls:read", _READERS),
    "/oars.v1.ControlService/ListControlMappings": _reads("controls:read", _READERS),
    "/oars.v1.ControlService/RetireControlMapping": _writes("controls:write", _ADMIN),
    "/oars.v1.ControlService/GetCoverageReport": _reads("controls:read", _READERS),
    "/oars.v1.RetentionService/PlaceLegalHold": _writes("holds:place", _ADMIN),
    "/oars.v1.RetentionService/GetLegalHold": _reads("holds:read", _HOLD_READERS),
    "/oars.v1.RetentionService/ListLegalHolds": _reads("holds:read", _HOLD_READERS),
    "/oars.v1.RetentionService/ReleaseLegalHold": _writes("holds:release", _ADMIN),
    # A whole range of the log with its payloads.
    "/oars.v1.EvidenceService/ExportEvidence": _reads("evidence:read", _AUDITORS),
    # What leaves a receipt is a change. Agents change what they created; the use cases see to that.
    "/oars.v1.LatticeService/SettleOnce": _writes("lattices:query", _SUBMITTERS),
    "/oars.v1.LatticeService/CreateLattice": _writes("lattices:write", _SUBMITTERS),
    "/oars.v1.LatticeService/CreateSmallLattice": _writes("lattices:write", _SUBMITTERS),
    "/oars.v1.LatticeService/GetLattice": _reads("lattices:read", _EVERYONE),
    "/oars.v1.LatticeService/ListLattices": _reads("lattices:read", _EVERYONE),
    "/oars.v1.LatticeService/DeleteLattice": _writes("lattices:write", _SUBMITTERS),
    "/oars.v1.LatticeService/UpsertAnchors": _writes("lattices:write", _SUBMITTERS),
    "/oars.v1.LatticeService/RemoveAnchors": _writes("lattices:write", _SUBMITTERS),
    "/oars.v1.LatticeService/QueryLattice": _writes("lattices:query", _SUBMITTERS),
    "/oars.v1.LatticeService/ScoreChain": _writes("lattices:query", _SUBMITTERS),
    "/oars.v1.LatticeService/ComputeGates": _writes("lattices:query", _SUBMITTERS),
    "/oars.v1.LatticeService/CompareLattices": _reads("lattices:read", _EVERYONE),
    "/oars.v1.LatticeService/VerifyLatticeReceipt": _reads("lattices:read", _EVERYONE),
    # The operations that build lattices. To ask twice for an end is to ask once.
    "/google.longrunning.Operations/ListOperations": _reads("lattices:read", _EVERYONE),
    "/google.longrunning.Operations/GetOperation": _reads("lattices:read", _EVERYONE),
    "/google.longrunning.Operations/WaitOperation": _reads("lattices:read", _EVERYONE),
    "/google.longrunning.Operations/CancelOperation": _reads("lattices:write", _SUBMITTERS),
    "/google.longrunning.Operations/DeleteOperation": _reads("lattices:write", _SUBMITTERS),
    "/oars.v1.TenantService/CreateTenant": _writes("tenants:write", _ADMIN),
    "/oars.v1.TenantService/GetTenant": _reads("tenants:read", _READERS),
    "/oars.v1.TenantService/ListTenants": _reads("tenants:read", _READERS),
    "/oars.v1.TenantService/UpdateTenant": _writes("tenants:write", _ADMIN),
    "/oars.v1.TenantService/RotateSigningKey": _writes("keys:rotate", _ADMIN),
    "/oars.v1.TenantService/RevokeSigningKey": _writes("keys:revoke", _ADMIN),
    # The sidecar and the orchestrator ask without an identity; the answer is one enum. A watch
    # keeps a thread, so it is for those who can be held to their share.
    "/grpc.health.v1.Health/Check": Access(None, ""),
    "/grpc.health.v1.Health/List": Access(None, ""),
    "/grpc.health.v1.Health/Watch": _reads("", _EVERYONE),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _reads("", _EVERYONE),
}


def check_access(principal: Principal, method: str) -> None:
    """Refuse a caller whose role or scopes do not cover the rpc.

    Raises:
        PermissionDenied: saying which role or scope would.
    """
    access = ACCESS.get(method)
    if access is None or access.roles is None or principal.role not in access.roles:
        allowed = sorted(access.roles) if access is not None and access.roles else []
        raise PermissionDenied(
            f"role {principal.role.value} may not call {method.rpartition('/')[2]}; "
            f"it takes one of: {', '.join(allowed) or 'none'}",
            reason="ROLE_FORBIDDEN",
        )
    if principal.scopes is not None and access.scope and access.scope not in principal.scopes:
        raise PermissionDenied(
            f"identity {principal.subject} lacks scope {access.scope}", reason="SCOPE_FORBIDDEN"
        )
