"""Real texts with labels that people gave them for another purpose.

* Debian packages: the one-line description of a program and its topical debtags, as the machine's
  apt lists have them (`apt-get update` fetches the lists; bookworm's carry the tags).
* Documentation: the first paragraph of what SciPy and scikit-learn document, and the
  subpackage in which each library's authors put it.
"""

import importlib
import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Facets that say what a package is about, not how it is built or run.
TOPICAL_FACETS = frozenset(
    {
        *("admin", "biology", "field", "game", "hardware", "mail", "network", "office"),
        *("protocol", "science", "security", "sound", "use", "web"),
        *("works-with", "works-with-format"),
    }
)
MINIMUM_TAGS = 2
LIBRARIES = ("scipy", "sklearn")
SHORTEST_TEXT = 20


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, what its authors say it is about, and whose it is."""

    name: str
    text: str
    labels: frozenset[str]


def debian_packages() -> list[LabelledText]:
    """One described program of each source package with topical tags; empty without apt lists."""
    if not shutil.which("apt-cache"):
        return []
    lists = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True)
    found: dict[str, LabelledText] = {}
    seen: set[str] = set()
    for stanza in lists.stdout.split("\n\n"):
        fields = _fields(stanza)
        tags = frozenset(re.findall(r"[\w:+.-]+", fields.get("Tag", "").replace(",", " ")))
        topical = frozenset(
            tag
            for tag in tags
            if tag.partition("::")[0] in TOPICAL_FACETS and not tag.endswith("::TODO")
        )
        text = fields.get("Description", "").strip()
        source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        # Packages of one source describe themselves alike: one of each, or near-copies would
        # find each other. Programs only: libraries and data repeat their program's description.
        usable = "role::program" in tags and len(topical) >= MINIMUM_TAGS and text
        if usable and source not in found and text not in seen:
            seen.add(text)
            name = fields["Package"]
            found[source] = LabelledText(name, f"{name}: {text}", topical)
    return sorted(found.values(), key=lambda item: item.name)


def _fields(stanza: str) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in stanza.splitlines():
        if line[:1] in {" ", "\t"}:
            fields[last] = f"{fields.get(last, '')} {line.strip()}"
        else:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    return fields


def documentation() -> list[LabelledText]:
    """What the installed numeric libraries document, labelled by library and subpackage."""
    found: dict[str, LabelledText] = {}
    for library in LIBRARIES:
        for module_name, name, text in _documented(library):
            found.setdefault(text, LabelledText(name, text, frozenset({module_name})))
    return sorted(found.values(), key=lambda item: item.name)


def _documented(library: str) -> Iterator[tuple[str, str, str]]:
    package = importlib.import_module(library)
    for short in sorted(getattr(package, "__all__", dir(package))):
        name = f"{library}.{short}"
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for member in sorted(getattr(module, "__all__", ())):
            try:
                thing = getattr(module, member)
            except (AttributeError, ImportError):  # experimental, or named without being there
                continue
            text = _first_paragraph(thing) if callable(thing) else ""
            if len(text) >= SHORTEST_TEXT:
                yield name, f"{name}.{member}", text


def _first_paragraph(thing: object) -> str:
    document = inspect.getdoc(thing) or ""
    paragraphs = [" ".join(part.split()) for part in document.split("\n\n")]
    # Many begin with their own signature.
    for paragraph in paragraphs:
        if paragraph and not re.match(r"^[\w.]+\(.*\)", paragraph):
            return paragraph
    return ""
