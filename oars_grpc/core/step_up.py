"""Step-up: what an approver proved beside the identity of the call."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oars_grpc.core.receipt import format_time

TOTP_METHOD = "totp"


@dataclass(frozen=True, slots=True)
class StepUp:
    """A second factor that was verified for one decision, and counts for no other.

    `time_step` is the RFC 6238 time step whose code was used up.
    """

    method: str
    time_step: int
    verified_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As receipts say it, in the restricted profile."""
        return {
            "method": self.method,
            "timeStep": self.time_step,
            "verifiedAt": format_time(self.verified_at),
        }
