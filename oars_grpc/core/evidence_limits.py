"""How much evidence a caller may send along with an action, by role."""

from dataclasses import dataclass

from oars_grpc.core.identity import Role


@dataclass(frozen=True, slots=True)
class EvidenceLimits:
    """The most evidence that a caller may send along with an action."""

    items: int
    dimension: int
    bytes: int  # of all embeddings together
    outcomes: int  # of the anchors of a lattice


_SENT_BY_PROGRAMS = EvidenceLimits(128, 2_048, 512 * 1024, 1_024)
_SENT_BY_STAFF = EvidenceLimits(256, 4_096, 768 * 1024, 4_096)


def evidence_limits(role: Role) -> EvidenceLimits:
    """The limits of a role."""
    return _SENT_BY_STAFF if role in {Role.ADMIN, Role.OPERATOR} else _SENT_BY_PROGRAMS
