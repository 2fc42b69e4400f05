"""A working copy: the repository without its history, in which a lab has made holes.

The copy is complete. Tests, simulator and TLC run from the copy, so a student can run every command that the
grader runs, and may read, change and break everything. `lab.json` records what was done to the copy;
`LAB.md` has the text of the lab.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from difflib import unified_diff
from pathlib import Path

import msgspec

import walrus
from walrus.lab.holes import Site, is_hole, put_back, taken_out, text_of
from walrus.lab.origin import RECORD
from walrus.lab.units import Swap, Unit

ROOT = Path(walrus.__file__).resolve().parent.parent
"""The repository that this package runs from: the reference."""

PARTS = ("walrus", "tests", "tools", "spec", "docs", "benchmarks", "setup.cfg", "pyproject.toml", "README.md")
"""The parts of the repository that a copy needs to run every tool."""


class NoWorkshop(Exception):
    """The directory is no working copy, or no copy can be made there."""


class Undertaken(msgspec.Struct, kw_only=True):
    """What was done to a copy."""

    unit: int = 0
    """The number of the lab; 0 for a hunt."""
    hunt: int = 0
    hints: int = 0
    """How many hints have been given."""
    repository: str = ""
    """The repository that the copy was made from, and where its commands run (`origin`)."""


def require_repository() -> None:
    """Raise NoWorkshop if there is no repository to copy, as in an installed package."""
    if lacking := [part for part in PARTS if not (ROOT / part).exists()]:
        raise NoWorkshop(f"labs need the whole repository, and {ROOT} has no {lacking[0]}: clone it first")


class Workshop:
    """One working copy."""

    def __init__(self, folder: Path) -> None:
        """Open an existing copy. Raises NoWorkshop if `folder` is none."""
        self.folder = folder
        try:
            self.record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Undertaken)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, msgspec.ValidationError):
            raise NoWorkshop(
                f"{folder} is no working copy; `python -m walrus.lab start N {folder}` makes one"
            ) from None

    @classmethod
    def new(cls, folder: Path, record: Undertaken) -> Workshop:
        """Make a copy without holes, in a directory that is empty or does not exist yet."""
        require_repository()
        if folder.exists() and any(folder.iterdir()):
            raise NoWorkshop(f"{folder} is not empty: name a new directory")
        folder.mkdir(parents=True, exist_ok=True)
        unwanted = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=unwanted)
            else:
                shutil.copy(ROOT / part, folder / part)
        record.repository = str(ROOT)
        (folder / RECORD).write_bytes(msgspec.json.encode(record))
        return cls(folder)

    def save(self) -> None:
        """Write the record to the copy."""
        (self.folder / RECORD).write_bytes(msgspec.json.encode(self.record))

    def empty(self, unit: Unit) -> None:
        """Take out what the unit names, and write its text to `LAB.md`."""
        for place in map(Site.of, unit.places):
            path = self.folder / place.file
            path.write_text(taken_out(path.read_text("utf-8"), place, unit.number), "utf-8")
        (self.folder / "LAB.md").write_text(page(unit), "utf-8")

    def fill(self, unit: Unit, swaps: Iterable[Swap] = ()) -> None:
        """Put the reference back, with the lines of `swaps` wrong."""
        left = list(swaps)
        for place in map(Site.of, unit.places):
            path, reference = self.folder / place.file, (ROOT / place.file).read_text("utf-8")
            text = text_of(reference, place)
            wrong = text
            for swap in [swap for swap in left if swap.line in text]:
                wrong = wrong.replace(swap.line, swap.wrong)
                left.remove(swap)
            path.write_text(put_back(path.read_text("utf-8"), place, reference).replace(text, wrong), "utf-8")
        if left:
            raise LookupError(f"no place of lab {unit.number} has the line {left[0].line!r}")

    def holes(self, unit: Unit) -> list[Site]:
        """Return the places that are still to be written."""
        places = map(Site.of, unit.places)
        return [
            place
            for place in places
            if is_hole((self.folder / place.file).read_text("utf-8"), place, unit.number)
        ]

    def differences(self, unit: Unit) -> list[str]:
        """Return a diff of the student's functions and those of the reference."""
        lines: list[str] = []
        for place in map(Site.of, unit.places):
            mine, reference = (
                text_of((root / place.file).read_text("utf-8"), place).splitlines()
                for root in (self.folder, ROOT)
            )
            lines += unified_diff(
                mine, reference, f"yours: {place}", f"reference: {place}", lineterm="", n=99
            )
        return lines


def page(unit: Unit) -> str:
    """Return the text of a lab as a page of Markdown."""
    reading = "\n".join(f"* {each}" for each in unit.reading)
    places = "\n".join(f"* `{each}`" for each in unit.places)
    checks = "\n".join(
        f"{n}. {check.name}: `python -m {check.run}`" for n, check in enumerate(unit.checks, 1)
    )
    return (
        f"# Lab {unit.number}: {unit.title}\n\nAbout {unit.hours} hour{'s' * (unit.hours > 1)}.\n\n"
        f"## Read first\n\n{reading}\n\n## What you build\n\n{unit.text.strip()}\n\n"
        f"## What is missing\n\n{places}\n\nDocstrings or comments, types and callers are there.\n\n"
        f"## How it is checked\n\n`python -m walrus.lab check .` asks, in this order:\n\n{checks}\n\n"
        "Each of these can be run by hand, in this directory. Stuck? `python -m walrus.lab hint .` gives\n"
        "one hint at a time, of three; `python -m walrus.lab diff .` shows the project's own code.\n"
    )
