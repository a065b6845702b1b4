"""What every rpc brings along: who calls, and under which idempotency key."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from oars_grpc.core.identity import ANY_TENANT, Principal
from oars_grpc.errors import AlreadyExists, InvalidArgument, PermissionDenied

Outcome = TypeVar("Outcome")
# Turns a use case's outcome into the bytes that go out, and that a replay repeats.
Encode = Callable[[Outcome], bytes]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key that a caller chose and the SHA-256 (hex) of the request it stands for."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class IdempotencyScope:
    """Where a key is unique: tenant, caller and rpc."""

    tenant_id: str
    caller: str
    rpc: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """The first answer given under an idempotency key."""

    scope: IdempotencyScope
    response: bytes
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of a response, and whether they are a repetition."""

    response: bytes
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """The circumstances of one rpc."""

    principal: Principal
    rpc: str
    request_id: str
    idempotency: IdempotencyKey | None = None

    def scope(self, tenant_id: str) -> IdempotencyScope | None:
        """Where this call's idempotency key is unique; None without a key."""
        if self.idempotency is None:
            return None
        return IdempotencyScope(
            tenant_id,
            self.principal.subject,
            self.rpc,
            self.idempotency.key,
            self.idempotency.fingerprint,
        )

    def tenant(self, requested: str) -> str:
        """The one tenant that the call is about.

        Raises:
            PermissionDenied: the caller does not belong to the tenant.
            InvalidArgument: none is named and the caller does not belong to exactly one.
        """
        if requested:
            self.principal.check_tenant(requested)
            return requested
        own = self.principal.tenant_ids
        if len(own) != 1 or ANY_TENANT in own:
            raise InvalidArgument.of(
                "tenant_id", "is required of a caller that does not belong to exactly one tenant"
            )
        return next(iter(own))

    def tenants(self, requested: str) -> tuple[str, ...]:
        """The tenants in which a thing named by id is searched; as `tenant` otherwise."""
        own = self.principal.tenant_ids
        if requested or ANY_TENANT in own:
            return (self.tenant(requested),)
        if not own:
            raise PermissionDenied(
                f"identity {self.principal.subject} belongs to no tenant", reason="TENANT_FORBIDDEN"
            )
        return tuple(sorted(own))


def replay(stored: StoredOutcome, scope: IdempotencyScope) -> Answer:
    """The first answer again.

    Raises:
        AlreadyExists: the key was used for another request.
    """
    if stored.scope.fingerprint != scope.fingerprint:
        raise AlreadyExists(
            "this idempotency key was used for another request", reason="IDEMPOTENCY_KEY_REUSED"
        )
    return Answer(stored.response, replayed=True)
