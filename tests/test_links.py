"""Every relative link in the documentation leads to a file, and every anchor to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.marked import anchor

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("spec/**/*.md")])


def _anchors(path: Path) -> set[str]:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {anchor(match[1]) for match in re.finditer(r"^#{1,6} +(.+)$", text, re.MULTILINE)}


def _broken(document: Path) -> list[str]:
    """The links of one document that lead nowhere. Addresses on the web are not visited."""
    found = []
    for target in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists():
            found.append(f"{target}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in _anchors(path):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert _broken(document) == []


def test_no_document_names_a_file_of_the_package_that_is_not_there() -> None:
    """`walrus/x.py`, `tests/x.py` and the like in backquotes or tables are promises too."""
    named = re.compile(r"`((?:walrus|tests|docs|benchmarks|spec)/[\w/.-]+\.(?:py|md|tla|cfg))`")
    missing = [
        f"{document.relative_to(ROOT)}: {name}"
        for document in DOCUMENTS
        for name in named.findall(document.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_every_test_that_a_document_names_exists() -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {
        (str(document.relative_to(ROOT)), name)
        for document in DOCUMENTS
        for name in re.findall(r"`(?:[\w/]+\.py::)?(test_\w+)`", document.read_text(encoding="utf-8"))
    }
    assert {(document, name) for document, name in named if name not in defined} == set()


def test_every_test_that_a_document_places_in_a_file_is_defined_there() -> None:
    placed = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
    wrong = [
        f"{document.relative_to(ROOT)}: {name} in {path}"
        for document in DOCUMENTS
        for path, name in placed.findall(document.read_text(encoding="utf-8"))
        if f"def {name}(" not in (ROOT / "tests" / path).read_text(encoding="utf-8")
    ]
    assert wrong == []


def test_every_function_that_a_document_places_in_a_file_is_defined_there() -> None:
    """`name` in [file](path): what one reads there can be searched for."""
    placed = re.compile(r"`(\w+)` in\s+\[[^\]]*\]\(([\w./-]+\.py)\)")
    found = 0
    missing = []
    for document in DOCUMENTS:
        for name, path in placed.findall(document.read_text(encoding="utf-8")):
            found += 1
            source = (document.parent / path).read_text(encoding="utf-8")
            if not re.search(rf"^ *(?:async )?(?:def|class) {name}\b", source, re.MULTILINE):
                missing.append(f"{document.relative_to(ROOT)}: {name} in {path}")
    assert missing == []
    assert found >= 60, "four messages are followed room by room in docs/architecture.md"


@pytest.mark.parametrize("message", ["a PUT", "a GET", "an AppendEntries", "a fence"])
def test_the_way_of_each_message_is_written_down_in_steps(message: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    _, _, way = page.partition(f"\n### The way of {message}\n")
    steps = re.findall(r"^\d+\. \*[\w ]+\*: `\w+` in\s", re.split(r"\n##+ ", way)[0], re.MULTILINE)
    assert len(steps) >= 10
