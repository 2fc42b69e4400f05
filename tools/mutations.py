"""Mutants of a Python source: one small slip each, of the kinds that reviewers overlook.

    comparison   `<` becomes `<=`, `==` becomes `!=`, `in` becomes `not in`, ...
    connective   `and` becomes `or`
    negation     `not x` becomes `x`; the test of an `if` or `while` that is no comparison is negated
    number       n becomes n + 1
    arithmetic   `+` becomes `-`
    extreme      `min` becomes `max`
    truth        `return True` becomes `return False`; so do keyword arguments
    statement    a call for its effect, an assignment to an attribute or item, a `del`, a `raise` is left out
    loop         `continue` becomes `break`

A mutant replaces a piece of the text and leaves all line numbers as they are. Not mutated: assertions and
`check_invariants` (they are checks themselves), annotations, docstrings, error texts, code that is never
reached (`assert_never`), and code that only records (`TRACES`), without which a run is the same.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
EXTREMES = {"min": "max", "max": "min"}
TRACES = re.compile(r"\b_?(trace|event|log|logger|record\w*|assert_never)\b")
SKIPPED_FUNCTIONS = frozenset({"check_invariants", "__repr__", "__str__"})


@dataclass(frozen=True, order=True)
class Mutant:
    """One slip: `text[start:stop]`, which is `before`, becomes `after`; `line` counts from 1."""

    file: str
    line: int
    kind: str
    function: str
    before: str
    after: str
    start: int
    stop: int
    context: str
    """The stripped line of the slip, which distinguishes equal slips in one function."""
    twin: int = 0
    """How many earlier slips in the function are the same, on an equal line."""

    @property
    def name(self) -> str:
        """A name that survives edits elsewhere in the file."""
        twin = f" ({self.twin + 1})" if self.twin else ""
        return f"{self.file}:{self.function}: {self.before!r} -> {self.after!r} in {self.context!r}{twin}"

    def apply(self, text: str) -> str:
        """Return the source with the slip in it."""
        assert text[self.start : self.stop] == self.before, "this mutant was made from another text"
        return text[: self.start] + self.after + text[self.stop :]


def mutants(file: str, text: str) -> list[Mutant]:
    """Return all mutants of a source, in the order of its text.

    >>> [f"{m.before!r} -> {m.after!r}" for m in mutants("x.py", "def f(a):\\n    return a < 1 and not a\\n")]
    ["'and' -> 'or'", "'<' -> '<='", "'1' -> '2'", "'not a' -> '(a)'"]
    """
    seen: Counter[str] = Counter()
    found = []
    for mutant in _Finder(file, text).find():
        found.append(replace(mutant, twin=seen[mutant.name]))
        seen[mutant.name] += 1
    return found


class _Finder:
    """Walks a tree once, and knows the function that it is in."""

    def __init__(self, file: str, text: str) -> None:
        self._file, self._text = file, text
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def find(self) -> Iterator[Mutant]:
        tree = ast.parse(self._text)
        yield from self._visit_all(tree.body, "")

    def _visit_all(self, nodes: list[ast.stmt], function: str) -> Iterator[Mutant]:
        for node in nodes:
            yield from self._visit(node, function)

    def _visit(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        match node:
            case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Global() | ast.Nonlocal():
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.name not in SKIPPED_FUNCTIONS:
                    yield from self._visit_all(node.body, f"{function}.{node.name}".lstrip("."))
                return
            case ast.ClassDef():
                yield from self._visit_all(node.body, f"{function}.{node.name}".lstrip("."))
                return
            case ast.AnnAssign():
                if node.value is not None:
                    yield from self._visit(node.value, function)
                return
            case ast.Expr(value=ast.Constant()) | ast.JoinedStr():
                return
            case ast.Expr(value=ast.Call()) | ast.Assign() if TRACES.search(self._head(node)):
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
        yield from self._slips(node, function)
        for child in ast.iter_child_nodes(node):
            yield from self._visit(child, function)

    def _head(self, node: ast.AST) -> str:
        """Return what is called or assigned to, as text."""
        target = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else node
        return ast.unparse(target.targets[0] if isinstance(target, ast.Assign) else target)

    def _slips(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        match node:
            case ast.Compare():
                yield from self._comparison(node, function)
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                yield from self._between("connective", function, node.values[0], node.values[1], old, new)
            case ast.UnaryOp(op=ast.Not()):
                yield self._replace("negation", function, node, f"({self._source(node.operand)})")
            case ast.If() | ast.While() | ast.IfExp() if _is_plain(node.test):
                yield self._replace("negation", function, node.test, f"not ({self._source(node.test)})")
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                yield self._replace("number", function, node, str(number + 1))
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                old, new = ("+", "-") if isinstance(node.op, ast.Add) else ("-", "+")
                yield from self._between("arithmetic", function, node.left, node.right, old, new)
            case ast.Call(func=ast.Name(id="min" | "max") as name):
                yield self._replace("extreme", function, name, EXTREMES[name.id])
            case ast.Return(value=ast.Constant(value=bool()) as constant):
                yield self._replace("truth", function, constant, str(not constant.value))
            case ast.keyword(value=ast.Constant(value=bool()) as constant) if function:
                yield self._replace("truth", function, constant, str(not constant.value))
            case ast.Continue():
                yield self._replace("loop", function, node, "break")
            case _ if function and _is_effect(node):
                yield self._replace("statement", function, node, "pass")

    def _comparison(self, node: ast.Compare, function: str) -> Iterator[Mutant]:
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            old, new = COMPARISONS[type(op)]
            yield from self._between("comparison", function, left, right, old, new)
            left = right

    def _between(
        self, kind: str, function: str, left: ast.expr, right: ast.expr, old: str, new: str
    ) -> Iterator[Mutant]:
        start, stop = self._end(left), self._start(right)
        words = r"\s+".join(re.escape(word) for word in old.split())
        edge = r"\b" if old[0].isalpha() else ""
        found = re.search(edge + words + edge, self._text[start:stop])
        if found is not None:
            yield self._mutant(kind, function, start + found.start(), start + found.end(), new)

    def _replace(self, kind: str, function: str, node: ast.AST, after: str) -> Mutant:
        assert isinstance(node, ast.expr | ast.stmt)
        start, stop = self._start(node), self._end(node)
        lines = self._text.count("\n", start, stop)
        if kind == "statement" and lines:
            after += "\n" * lines + " " * node.col_offset + "pass"
        return self._mutant(kind, function, start, stop, after)

    def _mutant(self, kind: str, function: str, start: int, stop: int, after: str) -> Mutant:
        line = self._text.count("\n", 0, start) + 1
        context = self._lines[line - 1].strip()
        before = self._text[start:stop]
        return Mutant(self._file, line, kind, function, before, after, start, stop, context)

    def _source(self, node: ast.expr) -> str:
        return self._text[self._start(node) : self._end(node)]

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._position(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._position(node.end_lineno, node.end_col_offset)

    def _position(self, line: int, column: int) -> int:
        """Convert a position of the tree (columns count UTF-8 bytes) into one of the text."""
        before = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(before)


def _is_plain(test: ast.expr) -> bool:
    """Return whether no other kind of slip inverts this condition."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant)


def _is_effect(node: ast.AST) -> bool:
    """Return whether a statement has only an effect, so that it may be left out without a NameError."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super"))))):
            return False  # without it the function has no closure, and cannot take the original's place
        case ast.Expr(value=ast.Call() | ast.Await()):
            return True
        case ast.Delete() | ast.Raise():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
        case ast.AugAssign():
            return True
    return False
