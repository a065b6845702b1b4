"""One-time codes of authenticator apps: RFC 6238, six digits, 30 seconds, HMAC-SHA-1.

A code counts once (RFC 6238 section 5.2): none of a time step at or before the last one used is
accepted again. Codes are short, so guessing is made slow: five wrong ones in a row lock the factor,
and as long as none is right every further wrong one locks it again.
"""

import base64
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pyotp import TOTP
from pyotp.utils import strings_equal

# RFC 4226 section 4: 160 bits are recommended.
SECRET_BYTES = 20
MAXIMUM_FAILURES = 5
LOCK_TIME = timedelta(minutes=15)
# RFC 6238 section 5.2: what clocks and typing may take, in time steps on either side.
_DRIFT_STEPS = 1
_CODE = re.compile(r"[0-9]{6}", re.ASCII)
_ISSUER = "OARS"


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """What is stored of a factor; `failures` counts the wrong codes since the last right one."""

    tenant_id: str
    subject: str
    encrypted_secret: bytes
    enrolled_at: datetime
    enrolled_by: str
    last_step: int = 0
    failures: int = 0
    locked_until: datetime | None = None

    def locked_for(self, now: datetime) -> timedelta | None:
        """How long it stays locked; None where it is not."""
        if self.locked_until is None or now >= self.locked_until:
            return None
        return self.locked_until - now


def associated_data(tenant_id: str, subject: str) -> str:
    """What the sealed secret of a factor is bound to."""
    return f"oars second factor {tenant_id} {subject}"


def is_code(text: str) -> bool:
    """Whether the text has the form of a code."""
    return _CODE.fullmatch(text) is not None


def try_code(
    factor: SecondFactor, secret: bytes, code: str, now: datetime
) -> tuple[SecondFactor, int | None]:
    """The factor after a code was tried, and the time step that it used up; None: refused.

    A factor that is locked stays as it is, whatever the code.
    """
    if factor.locked_for(now) is not None:
        return factor, None
    step = _step_of(secret, code, now, factor.last_step)
    if step is not None:
        return replace(factor, last_step=step, failures=0, locked_until=None), step
    failures = factor.failures + 1
    locked_until = now + LOCK_TIME if failures >= MAXIMUM_FAILURES else None
    return replace(factor, failures=failures, locked_until=locked_until), None


def secret_text(secret: bytes) -> str:
    """The secret as it is typed into an app: base 32 without padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def enrolment_uri(secret: bytes, tenant_id: str, subject: str) -> str:
    """The otpauth URI that apps read as a QR code."""
    issuer = f"{_ISSUER} {tenant_id}"
    return TOTP(secret_text(secret)).provisioning_uri(name=subject, issuer_name=issuer)


def _step_of(secret: bytes, code: str, now: datetime, after: int) -> int | None:
    """The last time step after `after` whose code this is.

    The last, should two have the same: the earlier one goes with it, and the code does not count
    again. All are computed and compared in full, whichever it is.
    """
    totp = TOTP(secret_text(secret))
    present = totp.timecode(now)
    found = None
    for step in range(max(0, present - _DRIFT_STEPS), present + _DRIFT_STEPS + 1):
        same = strings_equal(code, totp.generate_otp(step))
        if same and step > after:
            found = step
    return found
