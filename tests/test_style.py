"""House rules that a machine can check: short functions, files of one sitting, no sleeping tests.

Which package may import which, and what logic never imports, is checked by `lint-imports` (setup.cfg).

The lists of exceptions may only shrink: an entry that is no longer needed fails the test too.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "walrus"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_FUNCTION_LINES = 60
LONG_FUNCTIONS: dict[str, str] = {}
MAX_FILE_CODE_LINES = 600
LONG_FILES: dict[str, str] = {}
LOGIC = ["raft", "consensus", "segments", "leases", "wire", "replicas", "broker", "config", "protocol"]
MAX_ATTRIBUTES = 20
MANY_ATTRIBUTES = {"walrus/config.py:NodeConfig": "settings are values that no code changes"}
UNDOCUMENTED: set[str] = set()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and body lines (the docstring not counted) of each function."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            last = node.end_lineno or node.lineno
            yield f"{_name(path)}:{node.name}", last - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_a_screen() -> None:
    long = {name for path in MODULES for name, lines in _functions(path) if lines > MAX_FUNCTION_LINES}
    assert long == set(LONG_FUNCTIONS), (
        "split it, or take a name off the list that no longer needs to be there"
    )


def _code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    source = path.read_text(encoding="utf-8")
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(_tree(path)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_a_file_is_one_sitting() -> None:
    long = {_name(path) for path in MODULES if _code_lines(path) > MAX_FILE_CODE_LINES}
    assert long == set(LONG_FILES), "split it, or take a name off the list that no longer needs to be there"


def _attributes(cls: ast.ClassDef) -> set[str]:
    """The fields that the class declares, and what its methods set on `self`."""
    declared = {
        n.target.id for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    return declared | {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_a_class_of_the_logic_is_one_idea() -> None:
    many = {
        f"{_name(path)}:{node.name}": len(_attributes(node))
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in LOGIC
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef) and len(_attributes(node)) > MAX_ATTRIBUTES
    }
    assert many.keys() == MANY_ATTRIBUTES.keys(), (
        f"split it, or take a name off the list that no longer needs to be there: {many}"
    )


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), "a module opens with its chapter"


def _sleeps(tree: ast.AST) -> Iterator[int]:
    """Lines that call `sleep` with anything but a literal 0."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            zero = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if name == "sleep" and not zero:
                yield node.lineno


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_no_test_sleeps(path: Path) -> None:
    assert list(_sleeps(_tree(path))) == []


def test_the_words_of_unfinished_work_are_nowhere() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" * 3, "for" + " now", "place" + "holder"]
    found = [
        f"{_name(path)}: {word}"
        for path in MODULES + TESTS
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []
