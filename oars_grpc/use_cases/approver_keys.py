"""Registers and revokes the keys that approvers hold, and judges what they sign."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from oars_grpc.core.approver_key import ApproverKey, is_possession_proven
from oars_grpc.core.approver_ports import ApproverStore
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.event import APPROVER_KEY_REGISTERED, APPROVER_KEY_REVOKED
from oars_grpc.core.grant import (
    GrantMismatch,
    GrantSignatureInvalid,
    SignedGrant,
    check_signed_grant,
    parse_grant_envelope,
)
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import key_id_of
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Clock, Registry, RegistryStore
from oars_grpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent

GRANT_FIELD = "signed_grant"


@dataclass(frozen=True, slots=True)
class ApproverKeyPage:
    """One page of a listing."""

    keys: tuple[ApproverKey, ...]
    next_page_token: str


def check_not_self(admin: Principal, subject: str) -> None:
    """An admin gives nobody the means to approve who is himself: it takes two people.

    Raises:
        PermissionDenied: the subject is the admin's own.
    """
    if subject.casefold() in {name.casefold() for name in admin.names_of_party()}:
        raise PermissionDenied(
            "an admin enrols for others, not for himself: ask another admin",
            reason="SELF_ENROLMENT",
        )


class ApproverKeys:
    """The keys of approvers: admins register them, decisions are judged by them."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        store: ApproverStore,
        events: EventWriter,
        tokens: PageTokens,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._store = store
        self._events = events
        self._tokens = tokens
        self._clock = clock

    def register(
        self,
        call: Call,
        tenant_id: str,
        subject: str,
        public_key: bytes,
        proof: bytes,
        encode: Encode[ApproverKey],
    ) -> Answer:
        """Register a key (DER SubjectPublicKeyInfo) for a subject.

        Raises:
            PermissionDenied: SELF_ENROLMENT, or the proof is not the key's signature over the
                registration (PROOF_OF_POSSESSION_INVALID).
            AlreadyExists: the key is registered, or was once.
        """
        call.principal.check_tenant(tenant_id)
        check_not_self(call.principal, subject)
        if not is_possession_proven(tenant_id, subject, public_key, proof):
            raise PermissionDenied(
                "the proof is not the key's signature over this registration",
                reason="PROOF_OF_POSSESSION_INVALID",
            )

        def work(registry: Registry) -> ApproverKey:
            lock_tenant(registry, tenant_id)
            key = ApproverKey(
                tenant_id=tenant_id,
                key_id=key_id_of(public_key),
                subject=subject,
                public_key=public_key,
                registered_at=self._clock.now(),
                registered_by=call.principal.subject,
            )
            if not registry.insert_approver_key(key):
                raise AlreadyExists(
                    f"key {key.key_id} is registered, or was once", reason="APPROVER_KEY_EXISTS"
                )
            self._events.record(
                registry, call, tenant_id, APPROVER_KEY_REGISTERED, _told(key), key.registered_at
            )
            return key

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def revoke(
        self, call: Call, tenant_id: str, key_id: str, reason: str, encode: Encode[ApproverKey]
    ) -> Answer:
        """Revoke a key: once this has answered, no decision signed by it commits any more."""
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> ApproverKey:
            lock_tenant(registry, tenant_id)
            key = registry.approver_key(tenant_id, key_id)
            if key is None:
                raise NotFound(
                    f"approver key {key_id} is not found", reason="APPROVER_KEY_NOT_FOUND"
                )
            if key.revoked_at is not None:
                raise FailedPrecondition(
                    f"approver key {key_id} was revoked already",
                    reason="APPROVER_KEY_ALREADY_REVOKED",
                )
            now = self._clock.now()
            revoked = replace(key, revoked_at=now, revocation_reason=reason)
            registry.revoke_approver_key(tenant_id, key_id, now, reason)
            told = {"reason": reason}
            event = _told(revoked) | told
            self._events.record(registry, call, tenant_id, APPROVER_KEY_REVOKED, event, now)
            return revoked

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def list(
        self,
        call: Call,
        tenant_id: str,
        subject: str,
        page_size: int,
        page_token: str,
        weigh: Callable[[ApproverKey], int],
    ) -> ApproverKeyPage:
        """A page of the tenant's keys by id, revoked ones among them."""
        call.principal.check_tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"approver keys {tenant_id} {subject}"
        after = self._tokens.read(listing, page_token)
        found = self._store.list_approver_keys(tenant_id, subject, after, limit + 1)
        page, more = take_page(found, limit, weigh)
        return ApproverKeyPage(page, self._tokens.issue(listing, page[-1].key_id) if more else "")

    def check(
        self, tenant_id: str, subject: str, envelope: bytes, expected_payload: bytes
    ) -> SignedGrant:
        """The grant that an approver signed, if it is what is expected of this approver.

        Called where a decision is composed, after the tenant's basis was read: a revocation in
        between changes the basis, and the decision does not commit.

        Raises:
            InvalidArgument: no envelope of a grant.
            PermissionDenied: APPROVER_KEY_NOT_REGISTERED for this subject, APPROVER_KEY_REVOKED,
                GRANT_MISMATCH, GRANT_SIGNATURE_INVALID.
        """
        try:
            parsed = parse_grant_envelope(envelope)
        except ValueError as error:
            raise InvalidArgument.of(GRANT_FIELD, str(error)) from error
        key_id = parsed.signatures[0].keyid
        key = self._store.find_approver_key(tenant_id, key_id)
        if key is None or key.subject != subject:
            raise PermissionDenied(
                f"key {key_id} is not registered for {subject}",
                reason="APPROVER_KEY_NOT_REGISTERED",
            )
        if key.revoked_at is not None:
            raise PermissionDenied(f"key {key_id} was revoked", reason="APPROVER_KEY_REVOKED")
        try:
            return check_signed_grant(parsed, expected_payload, key.public_key)
        except GrantMismatch as error:
            raise PermissionDenied(str(error), reason="GRANT_MISMATCH") from error
        except GrantSignatureInvalid as error:
            raise PermissionDenied(str(error), reason="GRANT_SIGNATURE_INVALID") from error


def _told(key: ApproverKey) -> dict[str, Any]:
    """What events say of a key."""
    return {
        "subject": key.subject,
        "keyId": key.key_id,
        "publicKey": encode_base64(key.public_key),
    }
