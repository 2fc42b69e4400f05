"""docs/glossary.md is held to the code: definitions exist, names are unique, retired words are gone."""

from __future__ import annotations

import ast
import importlib
import re
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
MODULES = sorted((ROOT / "walrus").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TERMS, _, RETIRED = PAGE.partition("\n## Retired\n")
REPEATED: dict[str, int] = {
    "Entry": 3,  # of Raft's log; and what the engine and the client hand to users, who import one of the two
    "Recover": 2,  # the request of an operator, and the message that passes it on to the Raft leader
}
"""Class names that are there more than once, how often, and why. It may only shrink."""


def _resolve(path: str) -> Any:
    """The module, class or member of this dotted name; raises if there is none."""
    names = path.split(".")
    for end in range(len(names), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(names[:end]))
        except ModuleNotFoundError:
            continue
        for name in names[end:]:
            found = getattr(found, name)
        return found
    raise LookupError(path)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(walrus\.[\w.]+)`", TERMS))))
def test_what_the_glossary_defines_exists(path: str) -> None:
    assert _resolve(path) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_in_the_package_exists(page: Path) -> None:
    for path in sorted(set(re.findall(r"`(walrus\.[\w.]+)`", page.read_text(encoding="utf-8")))):
        assert _resolve(path) is not None, path


def test_every_term_says_where_it_is_defined() -> None:
    rows = [row for row in TERMS.splitlines() if row.startswith("| ") and not row.startswith("| term")]
    assert len(rows) >= 30
    assert [row for row in rows if not re.search(r"\| `walrus\.[\w.]+` \|$", row)] == []


def test_class_names_are_unique() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in names.items() if count > 1} == REPEATED


def test_retired_words_are_in_no_docstring() -> None:
    found = []
    for path in [*MODULES, *TESTS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = _retired().findall(_prose(ast.get_docstring(node) or ""))
                found += [f"{path.relative_to(ROOT)}: {word}" for word in words]
    assert found == []


def test_retired_words_are_in_no_comment() -> None:
    found = []
    for path in [*MODULES, *TESTS]:
        with path.open(encoding="utf-8") as lines:
            for token in tokenize.generate_tokens(lines.readline):
                if token.type == tokenize.COMMENT and _retired().search(_prose(token.string)):
                    found.append(f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}")
    for path in sorted((ROOT / "spec").glob("*.tla")):
        found += [line for line in path.read_text(encoding="utf-8").splitlines() if _retired().search(line)]
    assert found == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_retired_words_are_on_no_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8").partition("\n## Retired\n")[0]
    assert [line for line in text.splitlines() if _retired().search(_prose(line))] == []


def _prose(text: str) -> str:
    """The text without what stands in backquotes: names in the code are another matter."""
    return re.sub(r"`[^`]*`", "", text)


@cache
def _retired() -> re.Pattern[str]:
    words = re.findall(r"^\| ([\w -]+) \| [\w ,-]+ \|$", RETIRED, re.MULTILINE)
    retired = [word for word in words if word != "do not write"]
    assert len(retired) >= 3
    return re.compile(rf"\b(?:{'|'.join(retired)})", re.IGNORECASE)
