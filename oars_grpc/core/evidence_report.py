"""The report of an evidence bundle: one page for people, made of values that may be hostile."""

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, StrictUndefined, Template

from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.evidence import Manifest
from oars_grpc.core.evidence_tally import Covered, Tally
from oars_grpc.core.evidence_template import PAGE
from oars_grpc.core.receipt import format_time

_COUNTS = 50


def write_report(manifest: Manifest, tally: Tally, covered: Sequence[Covered]) -> bytes:
    """report.html. The manifest is that of the bundle, but for its files."""
    page = _template().render(
        manifest=manifest,
        created_at=format_time(manifest.created_at),
        first=manifest.first.size,
        last=manifest.last.size,
        from_root=encode_base64(manifest.first.root),
        to_root=encode_base64(manifest.last.root),
        tally=tally,
        covered=covered,
        sections=[
            ("Type", tally.types.most()),
            ("Decision", tally.decisions.most()),
            ("Tool", tally.tools.most()),
            ("Approver", tally.approvers.most()),
        ],
        max_counts=_COUNTS,
    )
    return page.encode()


@cache
def _template() -> Template:
    # S701: everything is escaped, whatever its name or origin.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = _shown
    return environment.from_string(PAGE)


def _shown(text: str) -> str:
    """Text with everything that cannot be printed spelt out; the escaping comes after it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
