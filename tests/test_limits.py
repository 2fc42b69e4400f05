"""docs/limits.md names every limit, with its value and with a test that reaches it."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w.]+)` \| ([\d,]+) \| .+ \| .+ \| `(\w+)` \|$", PAGE, re.MULTILINE)
PACKAGES = (
    *("wire", "broker", "replicas", "shell", "consensus", "storage", "client", "console"),
    *("segments.py", "raft.py", "leases.py", "settings.py", "config.py", "wal.py"),
)


def value_of(name: str) -> Any:
    """The value of a module's constant, or the default of a field of one of its classes."""
    module, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"walrus.{module}"), last)
    except ModuleNotFoundError:
        kind = value_of(module)
        if issubclass(kind, msgspec.Struct):
            return next(field.default for field in msgspec.structs.fields(kind) if field.name == last)
        return kind.__dataclass_fields__[last].default


@cache
def names_of_tests() -> frozenset[str]:
    """The names of all tests."""
    return frozenset(
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def limits_in_the_code() -> set[str]:
    """Every constant of what runs in a node, a client or the console that is named MAX_... or MOST_..."""
    found = set()
    for package in PACKAGES:
        path = ROOT / "walrus" / package
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.parse(module.read_text(encoding="utf-8")).body:
                target = (
                    node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
                )
                if isinstance(target, ast.Name) and target.id.startswith(("MAX_", "MOST_")):
                    name = ".".join(module.relative_to(ROOT / "walrus").with_suffix("").parts)
                    found.add(f"{name}.{target.id}")
    return found


def test_every_row_is_read() -> None:
    assert len(ROWS) == PAGE.count("\n| `") > 40


@pytest.mark.parametrize(("name", "value", "test"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_limit_has_the_value_and_the_test_that_the_page_says(name: str, value: str, test: str) -> None:
    assert value_of(name) == int(value.replace(",", ""))
    assert test in names_of_tests(), f"no test is called {test}"


def test_the_page_has_all_limits() -> None:
    assert limits_in_the_code() - {name for name, _, _ in ROWS} == set()
