"""What decisions rest on, kept for some seconds, so that most calls need not read it.

A kept basis may be out of date. Nothing is lost by that, for a change names the revision of the
basis that it rests on, and commits only under a head that still has it: a call that was too late
learns so, reads what is so now, and starts again. Outcomes are not kept. Whoever repeats a call
finds the first outcome when it tries to claim the key.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Lock

from oars_grpc.core.call import IdempotencyScope
from oars_grpc.core.ports import Clock, Ledger
from oars_grpc.core.stored import Basis

# A database that was set back to an earlier state gives out its revisions once more.
KEPT_FOR = timedelta(seconds=5)
_KEPT_TENANTS = 4096


@dataclass(slots=True)
class _Kept:
    basis: Basis
    until: datetime


class Bases:
    """The bases of the tenants that this process has served last."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = Lock()
        self._kept: dict[str, _Kept] = {}  # in the order in which they were read

    def kept(self, tenant_id: str) -> Basis | None:
        """The basis that was read last, without outcome and document; None if it is to be read."""
        found = self._kept.get(tenant_id)
        if found is None:
            return None
        now = self._clock.now()
        if now >= found.until:
            with self._lock:
                if now >= found.until:
                    # One call reads it again, and those that come meanwhile go on with this one.
                    found.until = now + KEPT_FOR
                    return None
        return found.basis

    def read(self, tenant_id: str, scope: IdempotencyScope | None) -> Basis:
        """The basis as it is now, with any outcome stored under the scope.

        Raises:
            NotFound: there is no such tenant.
            FailedPrecondition: it has no published policy or no key.
        """
        until = self._clock.now() + KEPT_FOR
        basis = self._ledger.basis(tenant_id, scope)
        # Without its document, which may be large and is compiled by now.
        kept = replace(basis, outcome=None, policy=replace(basis.policy, document=None))
        with self._lock:
            self._kept.pop(tenant_id, None)
            self._kept[tenant_id] = _Kept(kept, until)
            if len(self._kept) > _KEPT_TENANTS:
                del self._kept[next(iter(self._kept))]
        return basis
