"""What a lab takes out of a file: the body of a function, or the right side of a definition in TLA+.

A place is written as file and name, with the class before a method:

    walrus/raft.py:Raft._count_votes
    spec/Walrus.tla:AckedDurable

Of a function, everything that describes it stays: signature, decorators, docstring. The body becomes one
line that raises, with the number of the lab. A definition keeps its comment and becomes TRUE.

Places are found in the syntax tree of a file, never by line numbers, so a lab follows its sources.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import NamedTuple


class Site(NamedTuple):
    """A place where something is taken out."""

    file: str
    """Relative to the repository."""
    name: str

    @classmethod
    def of(cls, text: str) -> Site:
        """Parse the notation of a unit, `file:name`."""
        file, _, name = text.partition(":")
        return cls(file, name)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


class Missing(LookupError):
    """The file has no such function or definition (any more)."""


class _Span(NamedTuple):
    """Lines of a file, from 0: the whole place, and the part that a lab takes out."""

    first: int
    body: int
    end: int


def text_of(source: str, place: Site) -> str:
    """Return the whole function or definition as it is in this source. Raises Missing, SyntaxError."""
    span = _span(source, place)
    return "".join(source.splitlines(keepends=True)[span.first : span.end])


def taken_out(source: str, place: Site, lab: int) -> str:
    """Return the source without the body of this place."""
    lines, span = source.splitlines(keepends=True), _span(source, place)
    if place.file.endswith(".tla"):
        head = lines[span.first].partition("==")[0]
        hole = [f"{head}== TRUE  \\* lab {lab}: yours to write\n", "\n"]
        return "".join([*lines[: span.body], *hole, *lines[span.end :]])
    indent = re.match(r"\s*", lines[span.end - 1])
    assert indent is not None, "every line begins with some spaces or none"
    depth = len(re.match(r"\s*", lines[span.first])[0]) + 4  # type: ignore[index]
    hole = [f'{" " * depth}raise NotImplementedError("lab {lab}: {place.name}")\n']
    return "".join([*lines[: span.body], *hole, *lines[span.end :]])


def is_hole(source: str, place: Site, lab: int) -> bool:
    """Return whether this place is still as the lab left it."""
    mark = f"lab {lab}: yours" if place.file.endswith(".tla") else f'NotImplementedError("lab {lab}: '
    try:
        return mark in text_of(source, place)
    except SyntaxError:  # in the middle of an edit
        return False


def put_back(source: str, place: Site, reference: str) -> str:
    """Return the source with this place as it is in the reference."""
    lines, span = source.splitlines(keepends=True), _span(source, place)
    return "".join([*lines[: span.first], text_of(reference, place), *lines[span.end :]])


def _span(source: str, place: Site) -> _Span:
    return _definition(source, place) if place.file.endswith(".tla") else _function(source, place)


def _definition(source: str, place: Site) -> _Span:
    """Find a definition of TLA+, from its first line to the next line that is not indented."""
    found = re.search(
        rf"^{re.escape(place.name)}(?:\(.*\))? ==.*\n(?:(?:[ \t].*)?\n)*?(?=^\S)", source, re.MULTILINE
    )
    if found is None:
        raise Missing(f"{place.file} defines no {place.name}")
    first = source.count("\n", 0, found.start())
    return _Span(first, first, first + found[0].count("\n"))


@lru_cache(16)
def _statements(source: str) -> list[ast.stmt]:
    """Parse a file; cached, since a lab has several places in one file."""
    return ast.parse(source).body


def _function(source: str, place: Site) -> _Span:
    """Find a function or method, without its decorators."""
    body = _statements(source)
    *classes, name = place.name.split(".")
    for each in classes:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == each), [])
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            head = first.end_lineno if documented else _signature_end(source, node)
            assert head is not None and node.end_lineno is not None, "nodes of a parsed file have their lines"
            return _Span(node.lineno - 1, head, node.end_lineno)
    raise Missing(f"{place.file} has no function {place.name}")


def _signature_end(source: str, node: ast.FunctionDef) -> int:
    """Return the line on which the signature of a function without a docstring ends."""
    lines, at = source.splitlines(), node.body[0].lineno - 1
    while not lines[at - 1].rstrip().endswith(":"):
        at -= 1
    return at
