"""The report of a bundle escapes whatever is in the receipts, and brings nothing along."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

from oars_grpc.core.evidence import REPORT
from oars_grpc.core.evidence_tally import MAXIMUM_ROWS, OTHERS, Counts
from tests.support.bundles import GeneratedLog, bundle_of, files_of, make_log, make_mapping

GOLDEN = Path(__file__).parents[2] / "golden" / "evidence_report.html"
HOSTILE = "<script>alert('1')</script>\"'&{{7*7}}\u202egnp.exe\x00\x1b[2J"
# Of which the page may show nothing as it stands.
FORBIDDEN = ("script", "img", "iframe", "object", "embed", "link", "form", "svg", "base", "a")


class _Tags(HTMLParser):
    """The elements of a page, their attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_report() -> str:
    log = GeneratedLog()
    log.add_action(HOSTILE, agent_id=HOSTILE, user_id=HOSTILE)
    log.add_approved(approver=HOSTILE, agent_id=HOSTILE)
    mapped = make_mapping(description=HOSTILE)
    return files_of(bundle_of(log, mappings=[mapped]))[REPORT].decode()


def test_hostile_text_is_shown_and_never_becomes_part_of_the_page() -> None:
    page = hostile_report()
    assert "<script>alert" not in page
    assert html.escape("<script>alert('1')</script>").replace("&#x27;", "&#39;") in page
    assert "{{7*7}}" in page  # not evaluated either
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page)
    assert "\\u202egnp.exe\\x00\\x1b[2J" in page
    parsed = _Tags()
    parsed.feed(page)
    assert not parsed.tags & set(FORBIDDEN)
    assert not {name for name in parsed.attributes if name.startswith("on")}
    assert not parsed.attributes & {"src", "href", "style", "action"}
    assert "default-src 'none'" in page


def test_the_page_is_the_golden_one() -> None:
    """Ids and hashes differ from run to run; everything else is compared."""
    page = re.sub(r"rcpt_[0-9a-z]{26}", "rcpt_ID", hostile_report())
    page = re.sub(r"<code>[A-Za-z0-9+/]{43}=</code>", "<code>ROOT</code>", page)
    assert page == GOLDEN.read_text(encoding="utf-8")


def test_the_page_tells_counts_gaps_and_erasures() -> None:
    log = make_log()
    log.erase([4, 5, 6])
    page = files_of(bundle_of(log, mappings=[make_mapping()]))[REPORT].decode()
    assert '<span class="gap">denial</span>' in page
    assert "<td>soc2:CC6.1</td>" not in page  # isolated from what stands around it
    assert "<bdi>soc2:CC6.1</bdi>" in page
    parsed = _Tags()
    parsed.feed(page)
    assert "Erased payloads" in parsed.text
    assert "spiffe://example/approver" in parsed.text


def test_the_table_is_bounded_and_says_so() -> None:
    log = GeneratedLog()
    for _ in range(MAXIMUM_ROWS // 3 + 1):
        log.add_action()
    page = files_of(bundle_of(log))[REPORT].decode()
    assert f"The first 1,000 of {len(log.receipts):,}" in page
    assert page.count("<code>rcpt_") == MAXIMUM_ROWS


def test_counts_are_bounded() -> None:
    counts = Counts()
    for number in range(2_000):
        counts.add(f"tool-{number}")
    counts.add("tool-0")
    most = counts.most()
    assert len(most) == 1_001
    assert most[0] == (OTHERS, 1_000)
    assert most[1] == ("tool-0", 2)
