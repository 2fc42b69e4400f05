"""The labs as data: one TOML file each, in the order of their numbers.

    number, name, title, hours     4, "votes", "Election and votes", 2
    reading                        what to read first, in order: sections of papers, files of the repository
    places                         what is taken out, as `holes` writes it: "walrus/raft.py:Raft._count_votes"
    text                           what is built and why, for a student who has only this and the reading
    hints                          three stages: where to look, what to think of, nearly the answer
    checks                         in the order in which they run; the first failure ends the grading
    mistakes                       typical wrong answers, which check notices each, what a student is told
    names                          explanations of names that are not invariants of the specs

Invariants (tests/lab): numbers are 1, 2, 3, ...; every mistake names a check of its unit.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

from walrus.sim import why


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check of the student's code, and what is at stake."""

    name: str
    run: str
    """The arguments of `python -m`; it exits with 0 if the code holds."""
    invariant: str
    """The name under which a failure is reported, unless the command's output names another."""
    read: str
    """Where to read on after a failure."""


class Swap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wrong line: what the reference has, and what a student wrote."""

    line: str
    wrong: str


class Mistake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A typical wrong answer."""

    name: str
    says: str
    """What a student who made the mistake needs to hear."""
    check: str
    invariant: str
    test: str = ""
    """Part of the name of the test that notices it, where otherwise several mistakes would match."""
    swaps: tuple[Swap, ...]


class Unit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One lab."""

    number: int
    name: str
    title: str
    hours: int
    reading: tuple[str, ...]
    places: tuple[str, ...]
    text: str
    hints: tuple[str, ...]
    checks: tuple[Check, ...]
    mistakes: tuple[Mistake, ...]
    names: dict[str, str] = {}


@cache
def units() -> dict[int, Unit]:
    """Return every lab by its number."""
    folder = files("walrus.lab") / "units"
    found = [
        msgspec.toml.decode(path.read_bytes(), type=Unit)
        for path in folder.iterdir()
        if path.name.endswith(".toml")
    ]
    found.sort(key=lambda unit: unit.number)
    return {unit.number: unit for unit in found}


def find(number: int) -> Unit:
    """Return the lab of this number. Raises LookupError with a sentence if there is none."""
    if number not in units():
        raise LookupError(f"there is no lab {number}; there are {', '.join(map(str, units()))}")
    return units()[number]


def meaning(unit: Unit, invariant: str) -> str:
    """Return what the name of an invariant stands for, in a sentence or two."""
    return unit.names.get(invariant) or why.why(invariant)
