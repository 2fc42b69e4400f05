"""docs/glossary.md is held to the code: definitions exist, names are unique, retired words are gone."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
MODULES = sorted((ROOT / "walrus").rglob("*.py"))
TERMS, _, RETIRED = PAGE.partition("\n## Retired\n")
REPEATED: dict[str, int] = {
    "Attempt": 2,
    "Call": 2,
    "Client": 2,
    "Durable": 2,
    "Entry": 3,
    "Failure": 2,
    "Gap": 2,
    "Group": 2,
    "Log": 2,
    "Message": 2,
    "Owner": 2,
    "Progress": 2,
    "Record": 3,
    "Recover": 2,
    "Rng": 2,
    "State": 2,
    "Trace": 2,
    "_Asked": 2,
    "_Link": 2,
    "_Reader": 2,
}
"""Class names that are there more than once, and how often. It may only shrink."""


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
    words = re.findall(r"^\| ([\w -]+) \| [\w-]+ \|$", RETIRED, re.MULTILINE)
    retired = [word for word in words if word != "do not write"]
    assert len(retired) >= 3
    pattern = re.compile(rf"\b({'|'.join(retired)})", re.IGNORECASE)
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found += [f"{path.name}: {word}" for word in pattern.findall(ast.get_docstring(node) or "")]
    assert found == []
