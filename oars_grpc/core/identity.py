"""Who calls: the identity that TLS verified, as the trusted-identities file describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from oars_grpc.errors import PermissionDenied

ANY_TENANT = "*"
# What the subject of a person known by a bearer token begins with; no certificate's does.
PERSON_PREFIX = "oidc:"


class Role(StrEnum):
    """What a caller is for; `transport/access.py` says what each may call."""

    ADMIN = "admin"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    AGENT = "agent"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified identity.

    `subject` is the SPIFFE id, or the certificate's RFC 4514 subject where it has none. Sets that
    are None do not restrict; empty sets permit nothing. `carried_by` is the subject of the
    certificate over which a person's token came; empty where the certificate is the identity.
    Such a person is `oidc:<issuer>#<subject of the token>`; `aliases` are further names that a
    request may call the person by: they only ever forbid.
    """

    subject: str
    fingerprint_sha256: str
    role: Role
    tenant_ids: frozenset[str]
    service_account_id: str = ""
    agent_ids: frozenset[str] | None = None
    scopes: frozenset[str] | None = None
    may_act_for_users: frozenset[str] | None = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)
    carried_by: str = ""
    aliases: frozenset[str] = frozenset()

    def names(self) -> frozenset[str]:
        """What this identity is known by: its subject and its service account."""
        return frozenset({self.subject, self.service_account_id} - {""})

    def names_of_party(self) -> frozenset[str]:
        """Every name under which this identity, or who carries it, may stand on the asking side."""
        # An issuer has no "#"; what follows the first one is the subject, with all that it has.
        person = self.subject.startswith(PERSON_PREFIX) and self.subject.partition("#")[2]
        return self.names() | self.aliases | ({self.carried_by, person or ""} - {""})

    def check_tenant(self, tenant_id: str) -> None:
        """Raise PermissionDenied unless this identity belongs to the tenant."""
        if tenant_id not in self.tenant_ids and ANY_TENANT not in self.tenant_ids:
            raise PermissionDenied(
                f"identity {self.subject} does not belong to tenant {tenant_id}",
                reason="TENANT_FORBIDDEN",
            )

    def check_acts_as(self, agent_id: str, user_id: str) -> None:
        """Raise PermissionDenied unless this identity may speak for the agent and the user."""
        if self.agent_ids is not None and agent_id not in self.agent_ids:
            raise PermissionDenied(
                f"identity {self.subject} may not act as agent {agent_id}",
                reason="AGENT_FORBIDDEN",
            )
        if user_id and self.may_act_for_users is not None and user_id not in self.may_act_for_users:
            raise PermissionDenied(
                f"identity {self.subject} may not act for user {user_id}",
                reason="USER_FORBIDDEN",
            )
