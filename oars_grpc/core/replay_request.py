"""What a replay is asked for, and the events that it answers with."""

from dataclasses import dataclass

from oars_grpc.core.envelope import Envelope
from oars_grpc.core.log import SignedCheckpoint
from oars_grpc.core.policy import PolicyDocument


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Which draft, a stored one or a document, over which range of which tenant's log.

    The range lies between sizes or between signed notes; a size of 0 and an empty note are the
    beginning, or the present.
    """

    tenant_id: str
    policy_id: str
    document: PolicyDocument | None
    from_size: int
    to_size: int
    from_note: str
    to_note: str
    examples: int


@dataclass(frozen=True, slots=True)
class ReplayBegun:
    """The first event: which document is replayed over which range."""

    tenant_id: str
    policy_digest: str
    earlier: SignedCheckpoint
    later: SignedCheckpoint


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far it has come."""

    leaves: int
    total_leaves: int
    decisions: int
    changed: int


@dataclass(frozen=True, slots=True)
class ReplayEnded:
    """The last event: the signed report, and the signed checkpoints of its range."""

    report: Envelope
    earlier: SignedCheckpoint
    later: SignedCheckpoint


ReplayEvent = ReplayBegun | ReplayProgress | ReplayEnded
