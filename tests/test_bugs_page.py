"""Each bug that was found has a section with a line of one form, and the index is made of these lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from tools import bugs, marked, shape

BUGS = bugs.bugs()
INVARIANT = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]*)+\b")


def test_every_section_says_in_one_line_what_found_it_what_it_broke_and_where() -> None:
    assert len(BUGS) > 150
    assert [bug.title for bug in BUGS if not bug.tool] == []


def test_every_line_of_that_form_stands_under_the_heading_of_a_section() -> None:
    text = "".join((bugs.DOCS / page).read_text(encoding="utf-8") for page in bugs.PAGES)
    assert len(re.findall(r"^\*Found by ", text, re.MULTILINE)) == len(BUGS)


def test_every_tool_is_one_that_the_page_describes() -> None:
    assert {bug.tool for bug in BUGS} == bugs.TOOLS.keys()


def test_every_part_is_a_package_or_a_directory() -> None:
    parts = {part for bug in BUGS for part in bug.parts.split(", ")}
    known = {shape.room(path) for path in shape.MODULES} | {path.name for path in shape.ROOT.iterdir()}
    assert parts <= known


def test_an_invariant_that_was_broken_has_its_name_in_a_spec_or_in_the_code() -> None:
    sources = [*(shape.ROOT / "spec").glob("*.tla"), *shape.MODULES]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    known = set(re.findall(r"\w+", text))
    named = {name for bug in BUGS for name in INVARIANT.findall(bug.broke)}
    assert {"AckedDurable", "NoRest", "OnlyWhatWasMeant"} <= named <= known


def test_no_two_sections_have_one_anchor() -> None:
    anchors = Counter(marked.anchor(bug.title) for bug in BUGS)
    assert [anchor for anchor, count in anchors.items() if count > 1] == []


@pytest.mark.parametrize("what", bugs.WRITTEN)
def test_the_index_and_the_counts_are_those_of_the_sections(what: str) -> None:
    write: Callable[[], str] = bugs.WRITTEN[what]
    quoted = marked.quoted(bugs.DOCS / bugs.INDEX, what)
    assert quoted == write(), "run python -m tools.bugs --write"
