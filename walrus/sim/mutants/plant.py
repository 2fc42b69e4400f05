"""How a bug is planted: a line of the running code is replaced by a plausible wrong one.

A `Slip` is a piece of a line and its replacement. The piece is its own address: it occurs in exactly one
function of the protocol's packages. Planting compiles that function anew from its source with the piece
replaced, and gives the function object the new code. So every reference to the function, old or new, runs
the wrong line, and a traceback still points into the real file. No file on disk changes, and the end of
`planted` restores the code of every function.

When a line changes, its slip has to change too; when it only moves, the slip still fits. A slip that no
longer fits raises `Misfit` with its text: a bug is never silently left out.

Left out: what is not inside a function (constants, defaults), and functions that close over variables.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import importlib
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

PACKAGES = (
    "consensus",
    "wire",
    "replicas",
    "broker",
    "raft",
    "segments",
    "acknowledged",
    "leases",
    "storage",
)
"""Where bugs are planted: the packages and modules of `walrus` that decide something."""


class Misfit(Exception):
    """A slip does not fit the code (any more)."""


@dataclass(frozen=True, slots=True)
class Slip:
    """One wrong line: the piece in the code, and its replacement."""

    line: str
    wrong: str
    within: str = ""
    """`Class.function`, where the piece alone is ambiguous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A planted bug: slips that belong together, and the names under which it must be noticed."""

    name: str
    about: str
    """What is wrong, in one sentence without its full stop."""
    expected: tuple[str, ...]
    """The names under which it may be reported; the first is the invariant that it breaks."""
    slips: tuple[Slip, ...]
    spec: str = ""
    """The same bug in the specs, as `walrus.tlc mutants` calls it."""

    @classmethod
    def of(cls, name: str, expected: str, about: str, *slips: Slip, spec: str = "") -> Mutant:
        """Create one in reading order; `expected` has the names, separated by spaces."""
        return cls(name=name, about=about, expected=tuple(expected.split()), slips=slips, spec=spec)


@dataclass(frozen=True, slots=True)
class Place:
    """A function that something can be planted in."""

    module: str
    name: str
    source: str
    """The source text, with its common indentation removed."""
    first_line: int


@cache
def _sources() -> tuple[tuple[Path, str], ...]:
    """Return every file of `PACKAGES` with its text."""
    home = Path(__file__).parents[2]
    paths = [
        path
        for package in PACKAGES
        for path in sorted([*(home / package).glob("*.py"), *home.glob(f"{package}.py")])
    ]
    return tuple((path, path.read_text(encoding="utf-8")) for path in paths)


@cache
def _places_in(path: Path, text: str) -> tuple[Place, ...]:
    """Return every function and method of a file, read from its source."""
    module = ".".join(path.relative_to(Path(__file__).parents[3]).with_suffix("").parts)
    return tuple(
        Place(module, name, textwrap.dedent(_text_of(text, node)), node.lineno)
        for name, node in _functions(ast.parse(text).body, "")
    )


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node


def _text_of(text: str, node: ast.FunctionDef) -> str:
    """Return the source of a function without its decorators."""
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]) + "\n"


def _clean(piece: str) -> str:
    return textwrap.dedent(piece).strip("\n")


def place_of(slip: Slip) -> Place:
    """Return the one function that the slip fits. Raises Misfit."""
    piece = _clean(slip.line)
    first = piece.partition("\n")[0]
    fitting = [
        place
        for path, text in _sources()
        if first in text  # parsing all files takes a node with a planted bug longer than its start
        for place in _places_in(path, text)
        if piece in place.source and (not slip.within or place.name == slip.within)
    ]
    if len(fitting) != 1 or fitting[0].source.count(piece) != 1:
        where = ", ".join(f"{place.module}.{place.name}" for place in fitting) or slip.within or "nowhere"
        raise Misfit(f"{piece!r} does not say one place: {where}")
    return fitting[0]


def function_at(place: Place) -> FunctionType:
    """Return the function object at this place; for a property its getter. Raises Misfit."""
    found: object = importlib.import_module(place.module)
    for part in place.name.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    if not isinstance(found, FunctionType) or found.__name__ != place.name.rpartition(".")[2]:
        raise Misfit(f"{place.module}.{place.name} is no plain function")
    return found


def code_with(place: Place, slips: list[Slip], *, assertions: bool = True) -> CodeType:
    """Compile the function with the slips in it. Raises Misfit."""
    source, original = place.source, function_at(place).__code__
    for slip in slips:
        source = source.replace(_clean(slip.line), _clean(slip.wrong))
    tree = ast.parse(source)
    ast.increment_lineno(tree, place.first_line - 1)
    flags = __future__.annotations.compiler_flag
    optimize = -1 if assertions else 1
    module = compile(tree, original.co_filename, "exec", flags, dont_inherit=True, optimize=optimize)
    # By its name: from Python 3.14 on, the code that makes a function's annotations comes before its own.
    code = next(
        constant
        for constant in module.co_consts
        if isinstance(constant, CodeType) and constant.co_name == original.co_name
    )
    if code.co_freevars != original.co_freevars:
        raise Misfit(f"{place.module}.{place.name} closes over {original.co_freevars}: no slip fits there")
    known = {*vars(importlib.import_module(place.module)), *vars(builtins)}
    if unknown := sorted(_globals(code) - known):
        raise Misfit(f"{place.module}.{place.name} would use {unknown[0]}, which its module does not have")
    return code


def _globals(code: CodeType) -> set[str]:
    """Return the global names that a function and its inner functions use."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname.startswith("LOAD_GLOBAL")}
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names.union(*map(_globals, inner))


_planted: ContextVar[Mutant | None] = ContextVar("planted", default=None)


@contextmanager
def planted(mutant: Mutant | None) -> Iterator[None]:
    """Plant the bug until the end of the `with`; None leaves the code as it is."""
    token = _planted.set(mutant)
    try:
        with _running({function_at(place): code_with(place, slips) for place, slips in _by_place(mutant)}):
            yield
    finally:
        _planted.reset(token)


@contextmanager
def unasserted() -> Iterator[None]:
    """Run the code without its assertions, with the bug that is planted, until the end of the `with`.

    A failed assertion stops a wrong step before it does harm. Without it the harm is done, and the judge
    names the invariant that it breaks.
    """
    slips = dict(_by_place(_planted.get()))
    without = {
        function: code_with(place, slips[place], assertions=False) if place in slips else code
        for place, function, code in _without_assertions()
    }
    with _running(without):
        yield


def _by_place(mutant: Mutant | None) -> Iterable[tuple[Place, list[Slip]]]:
    by_place: dict[Place, list[Slip]] = {}
    for slip in mutant.slips if mutant else ():
        by_place.setdefault(place_of(slip), []).append(slip)
    return by_place.items()


@cache
def _without_assertions() -> list[tuple[Place, FunctionType, CodeType]]:
    """Return the functions that assert something and can be given other code, and it without assertions."""
    found = []
    for path, text in _sources():
        for place in _places_in(path, text):
            if "assert " in place.source:
                with suppress(Misfit):
                    found.append((place, function_at(place), code_with(place, [], assertions=False)))
    return found


@contextmanager
def _running(codes: dict[FunctionType, CodeType]) -> Iterator[None]:
    """Give these functions this code until the end of the `with`."""
    before = {function: function.__code__ for function in codes}
    try:
        for function, code in codes.items():
            function.__code__ = code
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code
