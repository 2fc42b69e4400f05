"""Measures the shape of the sources on their syntax trees, for the house rules."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "walrus"
MODULES = sorted(PACKAGE.rglob("*.py"))

LOGIC = (
    "raft",
    "consensus",
    "segments",
    "leases",
    "wire",
    "replicas",
    "broker",
    "config",
    "protocol",
    "quorum",
)
"""The packages, and modules at the top, that decide and do no I/O."""

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a source."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name(path: Path) -> str:
    """Return the path from the root of the project."""
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    """Return the package, or the module at the top, that a source of `walrus/` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of body lines of each function, without its docstring."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            last = node.end_lineno or node.lineno
            yield f"{name(path)}:{node.name}", last - body[0].lineno + 1 if body else 0


@cache
def code_lines(path: Path) -> int:
    """Return the number of lines with code: not blank, not comments, not docstrings."""
    source = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree(path)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(_span(node))
    return len(lines)


@cache
def prose_lines(path: Path) -> tuple[int, int]:
    """Return the number of lines with a comment or in a docstring, and of all lines that are not blank."""
    source = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            prose.add(token.start[0])
    for node in ast.walk(tree(path)):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node):
            prose.update(_span(node.body[0]))
    full = {number for number, line in enumerate(source.splitlines(), 1) if line.strip()}
    return len(prose & full), len(full)


def assertions(path: Path) -> int:
    """Return the number of `assert` and `assert_never`."""
    return sum(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "assert_never")
        for node in ast.walk(tree(path))
    )


def named_assertions(path: Path) -> set[str]:
    """Return the invariants that assertions name, such as `SeqOrder` in `assert ..., "SeqOrder: a gap"`."""
    messages = [node.msg for node in ast.walk(tree(path)) if isinstance(node, ast.Assert) and node.msg]
    texts = [message.values[0] if isinstance(message, ast.JoinedStr) else message for message in messages]
    found = [
        re.match(r"([A-Z][a-z]+[A-Z]\w+):", text.value)
        for text in texts
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    ]
    return {match[1] for match in found if match}


def attributes(cls: ast.ClassDef) -> set[str]:
    """Return the fields that a class declares, and the attributes that its methods set on `self`."""
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


def classes(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of attributes of each class."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            yield f"{name(path)}:{node.name}", len(attributes(node))


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
