"""Witness policies: whose cosignatures a checkpoint must carry before it is believed.

A log that shows different people different histories is caught only by somebody who sees what all
of them see. A witness cosigns a checkpoint after it has checked that it continues the last one that
it cosigned (C2SP tlog-witness). The policy is a file of the verifier's:

    {"threshold": 2, "witnesses": ["<vkey>", "<vkey>", "<vkey>"]}        k of n, type 0x04 keys
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oars_grpc.core.note import COSIGNATURE, Note, Verifier, parse_vkey, verified_by

MAXIMUM_WITNESSES = 64
_MEMBERS = {"threshold", "witnesses"}


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """So many of these witnesses, each of them a key of its own."""

    threshold: int
    witnesses: tuple[Verifier, ...]

    def refusal(self, note: Note) -> str | None:
        """Why the note does not meet the policy; None if it does.

        A key counts once, whatever names it signs under (`verified_by`).
        """
        try:
            count = len(verified_by(note, self.witnesses))
        except ValueError as error:
            return str(error)
        if count < self.threshold:
            return (
                f"{count} of the {len(self.witnesses)} trusted witnesses cosigned the checkpoint,"
                f" {self.threshold} must"
            )
        return None


def parse_witness_policy(value: Any) -> WitnessPolicy:
    """The policy of its JSON, strictly: a slip in it would be trust that nobody meant to give.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(value, Mapping) or set(value) != _MEMBERS:
        raise ValueError("is not an object of threshold and witnesses")
    listed, threshold = value["witnesses"], value["threshold"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAXIMUM_WITNESSES:
        raise ValueError(f"witnesses is not a list of 1 to {MAXIMUM_WITNESSES} vkeys")
    if type(threshold) is not int or not 1 <= threshold <= len(listed):
        raise ValueError(f"threshold is not a number from 1 to {len(listed)}")
    witnesses: list[Verifier] = []
    for position, entry in enumerate(listed):
        try:
            witnesses.append(_another(entry, witnesses))
        except ValueError as error:
            raise ValueError(f"witnesses[{position}]: {error}") from error
    return WitnessPolicy(threshold, tuple(witnesses))


def _another(entry: Any, witnesses: Sequence[Verifier]) -> Verifier:
    """The witness of an entry, which must be none of those before it."""
    if not isinstance(entry, str):
        raise ValueError("is not a vkey")
    witness = parse_vkey(entry)
    if witness.kind != COSIGNATURE:
        raise ValueError(f"{witness.name} is not a cosignature key")
    for other in witnesses:
        if other.name == witness.name:
            raise ValueError(f"{witness.name} is named twice")
        if other.public_key == witness.public_key:
            raise ValueError(f"{witness.name} has the key of {other.name}")
    return witness
