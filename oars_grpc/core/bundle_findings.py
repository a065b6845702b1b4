"""What the verification of an evidence bundle reads, and what it finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from oars_grpc.core.evidence import LEAVES_A_FILE, MAXIMUM_RECEIPTS, Manifest
from oars_grpc.core.verification import CheckResult

ARCHIVE = "archive"
MANIFEST_SIGNATURE = "manifest"
FILES = "files"
CHECKPOINTS = "checkpoints"
FRONTIER_ROOT = "frontier"
LEAVES = "leaves"
RECEIPTS = "receipts"
CHAINS = "chains"
COMPLETENESS = "completeness"
CONSISTENT = "consistency"
INCLUDED = "inclusion"
ERASURES = "erasures"
CONTROLS = "controls"
GRANTS = "grants"
CHECKS = (
    ARCHIVE,
    MANIFEST_SIGNATURE,
    FILES,
    CHECKPOINTS,
    FRONTIER_ROOT,
    LEAVES,
    RECEIPTS,
    CHAINS,
    COMPLETENESS,
    CONSISTENT,
    INCLUDED,
    ERASURES,
    CONTROLS,
    GRANTS,
)

MAXIMUM_FILES = 2 * (MAXIMUM_RECEIPTS // LEAVES_A_FILE + 2) + 16
# Receipts shrink to a third; one that shrinks to a hundredth was made to fill a disk.
MAXIMUM_RATIO = 200
_RATIO_FROM = 1024 * 1024
# Every error is counted; so many of a check are told one by one.
KEPT_ERRORS = 1_000


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """A file of an archive as its directory has it."""

    name: str
    size: int
    compressed: int


class BundleReader(Protocol):
    """Reads a bundle: named streams of bytes."""

    def entries(self) -> Sequence[BundleEntry]:
        """All files, each as often as it is there."""

    def stream(self, name: str) -> Iterator[bytes]:
        """The content of a file in pieces of a bounded size.

        Raises:
            ValueError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class BundleProblem:
    """Something wrong; `leaf_index` None: not at one leaf."""

    detail: str
    leaf_index: int | None = None

    def __str__(self) -> str:
        return self.detail if self.leaf_index is None else f"leaf {self.leaf_index}: {self.detail}"


@dataclass(frozen=True, slots=True)
class BundleCheck:
    """How one check ended; `count` is of all problems, of which the first are told."""

    name: str
    result: CheckResult
    detail: str
    problems: tuple[BundleProblem, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class BundleVerdict:
    """What the verification of a bundle found.

    `trust_source`: where the keys came from, `supplied` or the `bundle` itself.
    """

    checks: tuple[BundleCheck, ...]
    trust_source: str
    manifest: Manifest | None
    receipts: int
    erased: tuple[tuple[int, int], ...]

    @property
    def valid(self) -> bool:
        """Whether the bundle can be relied on: every check was made and passed."""
        return all(check.result is CheckResult.PASSED for check in self.checks)

    @property
    def first_bad_leaf(self) -> int | None:
        """The lowest index of a leaf that anything is wrong with."""
        found = [
            problem.leaf_index
            for check in self.checks
            for problem in check.problems
            if problem.leaf_index is not None
        ]
        return min(found, default=None)


class Findings:
    """Collects what is wrong, by check."""

    def __init__(self) -> None:
        self._problems: dict[str, list[BundleProblem]] = {name: [] for name in CHECKS}
        self._counts = dict.fromkeys(CHECKS, 0)
        self._details: dict[str, str] = {}
        self._made: set[str] = set()

    def made(self, *checks: str) -> None:
        """These checks were made; without a problem they passed."""
        self._made.update(checks)

    def note(self, check: str, detail: str) -> None:
        """Say something about a check, however it ends."""
        self._details[check] = detail

    def wrong(self, check: str, detail: str, leaf_index: int | None = None) -> None:
        """Note a problem."""
        self._made.add(check)
        self._counts[check] += 1
        if len(self._problems[check]) < KEPT_ERRORS:
            self._problems[check].append(BundleProblem(detail, leaf_index))

    def telling(self, check: str, name: str) -> "_Telling":
        """Make a check of a file: a ValueError is a problem with it, and goes no further."""
        self._made.add(check)
        return _Telling(self, check, name)

    def any(self, check: str) -> bool:
        """Whether anything is wrong with the check so far."""
        return self._counts[check] > 0

    def checks(self) -> tuple[BundleCheck, ...]:
        """All checks in their order."""
        return tuple(map(self._check, CHECKS))

    def _check(self, name: str) -> BundleCheck:
        detail = self._details.get(name, "")
        if self._counts[name]:
            problems = tuple(self._problems[name])
            return BundleCheck(name, CheckResult.FAILED, detail, problems, self._counts[name])
        if name in self._made:
            return BundleCheck(name, CheckResult.PASSED, detail)
        return BundleCheck(name, CheckResult.NOT_CHECKED, detail or "an earlier check failed")


@dataclass(frozen=True, slots=True)
class _Telling:
    findings: Findings
    check: str
    name: str

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, ValueError):
            return False
        self.findings.wrong(self.check, f"{self.name}: {error}")
        return True


def check_entries(entries: Sequence[BundleEntry], findings: Findings) -> None:
    """Refuse what an archive can trick a reader with: names twice, foreign paths, bombs."""
    findings.made(ARCHIVE)
    if len(entries) > MAXIMUM_FILES:
        findings.wrong(ARCHIVE, f"has {len(entries)} files, more than a bundle can have")
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            findings.wrong(ARCHIVE, f"{entry.name!r} is there twice")
        seen.add(entry.name)
        if entry.size > max(_RATIO_FROM, entry.compressed * MAXIMUM_RATIO):
            findings.wrong(
                ARCHIVE, f"{entry.name!r} grows from {entry.compressed} bytes to {entry.size}"
            )
