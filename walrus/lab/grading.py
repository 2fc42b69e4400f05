"""Grading: the checks of a lab, one after the other until one fails, and what that one says.

Every check is a command of the project, run in the working copy by a process of its own, and ends within
`PATIENCE`. What it prints is for engineers; a student is told the name of the invariant that broke, what it
is for, at which step or in which test it broke, where to read on, and, if the failure looks like one that
many have made before, what that one was.

Left out: marks. A lab is done when everything holds.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

from walrus.lab.holes import Missing, Site, text_of
from walrus.lab.units import Check, Mistake, Unit
from walrus.lab.workshop import Workshop
from walrus.sim import why

PATIENCE = 240.0
"""Seconds after which a check is ended: the code hangs. None needs half of it on a busy machine."""

QUIET = (
    "-x -q --no-header --tb=short -p no:cacheprovider -p no:xdist --timeout=200 "
    "-o addopts=--import-mode=importlib"
)

UNWRITTEN, HANGS, SYNTAX = "NotWritten", "Hangs", "Syntax"
MEANT = {
    UNWRITTEN: "A function of this lab was called, and is not written yet.",
    HANGS: "The code did not come to an end: look for a loop that waits for something it changes itself.",
    SYNTAX: "Python, or TLC, cannot read the file.",
}
"""Names of failures that have nothing to do with an invariant."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a failing check found."""

    invariant: str
    what: str
    """The moment: the sentence of the tool that noticed."""
    where: str
    """The test, the step or the schedule that shows it."""
    story: tuple[str, ...] = ()
    """The steps that led to it, if the tool tells them."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One check that was asked."""

    check: Check
    seconds: float
    finding: Finding | None = None


def grade(workshop: Workshop, unit: Unit) -> Iterator[Asked]:
    """Ask the checks of a unit in their order; the first that fails is the last."""
    if (unreadable := _unreadable(workshop, unit)) is not None:
        yield Asked(check=unit.checks[0], seconds=0.0, finding=unreadable)
        return
    for check in unit.checks:
        outcome = ask(workshop.folder, check)
        yield outcome
        if outcome.finding is not None:
            return


def ask(folder: Path, check: Check) -> Asked:
    """Run one check in a working copy."""
    started = time.monotonic()
    status, output = _run(folder, check.run)
    seconds = time.monotonic() - started
    found = None if status == 0 else _finding(check, status, output)
    return Asked(check=check, seconds=round(seconds, 1), finding=found)


def likely(unit: Unit, outcome: Asked) -> list[Mistake]:
    """Typical mistakes that show themselves in this way."""
    found = outcome.finding
    return [
        mistake
        for mistake in unit.mistakes
        if found is not None and (mistake.check, mistake.invariant) == (outcome.check.name, found.invariant)
    ]


def _unreadable(workshop: Workshop, unit: Unit) -> Finding | None:
    """A file that is no Python any more, or lacks what the lab is about."""
    for place in map(Site.of, unit.places):
        path = workshop.folder / place.file
        try:
            text_of(path.read_text("utf-8"), place)
        except SyntaxError as error:
            return Finding(invariant=SYNTAX, what=error.msg, where=f"{place.file}, line {error.lineno}")
        except (Missing, OSError) as error:
            return Finding(invariant=SYNTAX, what=str(error), where=place.file)
    return None


def _run(folder: Path, command: str) -> tuple[int | None, str]:
    """Exit status (None: it hung) and output of `python -m command` in the copy."""
    module, *rest = shlex.split(command)
    quiet = shlex.split(QUIET) if module == "pytest" else []
    environ = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "160"}
    environ.pop("HYPOTHESIS_PROFILE", None)
    with subprocess.Popen(
        [sys.executable, "-m", module, *rest, *quiet],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


@cache
def _named() -> re.Pattern[str]:
    """A line in which a tool names an invariant that broke."""
    names = "|".join({*dict(why.sentences()), *why.OTHERS} - {"AssertionError"})
    by_tlc = r"[A-Z]\w+(?= is violated$)"  # of a spec that the simulator has no predicates of, too
    return re.compile(rf"(?:^|: |Invariant )({names}|{by_tlc})(?:: (?P<what>.+)| is violated)")


def _finding(check: Check, status: int | None, output: str) -> Finding:
    """What a failing command's output says, in few words."""
    lines = output.splitlines()
    where = _where(check, lines)
    if unwritten := re.search(r"NotImplementedError: (lab \d+: \S+)", output):
        return Finding(invariant=UNWRITTEN, what=unwritten[1], where=where)
    if status is None or "Timeout (>" in output:
        return Finding(invariant=HANGS, what=f"`python -m {check.run}` did not end", where=where)
    said = _said(lines)
    named = next(filter(None, map(_named().search, said)), None)
    what = (named["what"] or named[0] if named else said[0] if said else "it ended without a word").strip()
    invariant = named[1] if named else check.invariant
    return Finding(invariant=invariant, what=what, where=where, story=tuple(_story(lines)))


def _said(lines: list[str]) -> list[str]:
    """What the tool itself says of the failure: of pytest's output not the source lines around it."""
    if errors := [line[1:].strip() for line in lines if line.startswith("E ")]:
        return errors
    if "Expected:" in lines and "Got:" in lines:  # an example in a docstring
        wanted, got = (lines[lines.index(word) + 1].strip() for word in ("Expected:", "Got:"))
        return [f"expected {wanted}, got {got}"]
    if silent := [line.strip() for line in lines if "should be violated" in line]:  # a mutant of a spec
        return silent
    return [line.strip() for line in reversed(lines) if line.strip()]


def _where(check: Check, lines: list[str]) -> str:
    """The test that fails, the scenario, or the command itself."""
    for line in lines:
        if failed := re.match(r"(?:FAILED|ERROR) (\S+)", line):
            return failed[1]
        if again := re.match(r"again: (.*)", line):
            return again[1]
    return f"python -m {check.run}"


def _story(lines: list[str]) -> list[str]:
    """The numbered steps of an exploration."""
    return [line for line in lines if re.match(r"\s{0,2}\d+  \S", line)]
