"""How an action stands on its evidence, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from oars_grpc.cli.visible_text import visible

_WIDTH = 26
_SCORES = {
    "support": "how much of the action the items explain",
    "coherence": "how alike the items that matter are",
    "conflict": "how much speaks against the action",
    "novelty": "how unlike the items the action is",
}
_REASONS = {
    "adverse": "known to have gone badly, or to state the opposite",
    "tension": "joins what does not belong together",
}


def evidence_text(evidence: Mapping[str, Any]) -> Iterator[str]:
    """The scores, and each item that speaks against the action, with its text where there is one.

    Raises:
        KeyError: something is missing that should be shown.
    """
    unit = evidence["scoresPerUnit"]
    yield "What it stands on, as the caller sent it"
    yield _row("items", f"{int(evidence['items'])}, of which {int(evidence['used'])} were scored")
    yield _row("source", visible(evidence["source"]))
    for name, meaning in _SCORES.items():
        yield _row(name, f"{evidence['scores'][name] / unit:.3f}  {meaning}")
    risk = evidence["risk"]
    if risk is not None:
        span = f"{risk['low'] / unit:.3f} to {risk['high'] / unit:.3f}"
        known = f"of {int(risk['outcomes'])} outcomes known"
        if not risk.get("calibratedBy"):
            known += ", not calibrated"
        yield _row("bad outcomes to expect", f"{risk['estimate'] / unit:.3f}  ({span}, {known})")
    for item in evidence["against"]:
        reason = _REASONS.get(item["reason"], visible(item["reason"]))
        yield _row(
            "speaks against", f"{visible(item['id'])}, {item['weight'] / unit:.3f}: {reason}"
        )
        told = visible(item["text"]) or f"sha256 {visible(item['digest'])}"
        yield f"    {told}"
    if not evidence["against"]:
        yield _row("speaks against", "nothing that was sent")
    yield _row("evidence digest", visible(evidence["digest"]))


def _row(name: str, value: str) -> str:
    return f"  {name:<{_WIDTH - 1}} {value}".rstrip()
