"""Grading: runs the checks of a lab in order until one fails, and explains that failure.

Every check is a command of the project, run in the working copy by a process of its own, and ends within
`PATIENCE`. The command's output is written for engineers. A student is told the name of the invariant that
broke, what it protects, at which step or in which test it broke, where to read on, and, if the failure looks
like a typical mistake, what that mistake is.

Left out: marks. A lab is done when everything holds.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec

from walrus.lab.holes import Missing, Site, text_of
from walrus.lab.units import Check, Mistake, Unit
from walrus.lab.workshop import NoWorkshop, Workshop
from walrus.sim import why
from walrus.tlc.run import ToolsMissing, find_jar, find_java
from walrus.tlc.variants import UNEVALUATED

PATIENCE = 240.0
"""Seconds after which a check is ended, as the code hangs. Normally each takes seconds."""

MAX_CROWD = 8.0
"""By what factor `PATIENCE` grows at most on a machine whose processors are busy."""

QUIET = "-x -q --no-header --tb=short -p no:cacheprovider -p no:xdist -o addopts=--import-mode=importlib"

UNWRITTEN, HANGS, SYNTAX, SLIP, SENSELESS = "NotWritten", "Hangs", "Syntax", "Slip", "Senseless"
MEANT = {
    UNWRITTEN: "A function of this lab was called, and is not written yet.",
    HANGS: "The code did not come to an end: look for a loop that waits for something it changes itself.",
    SYNTAX: "Python, or TLC, cannot read the file.",
    SLIP: "Python could not do what a line says: nothing was asked yet about what the code means.",
    SENSELESS: "TLC can read the spec, but an expression in it has no value, as 1 + {} has none.",
}
"""Names of failures that have nothing to do with an invariant."""

SLIPS = "TypeError|NameError|UnboundLocalError|AttributeError|ImportError|ModuleNotFoundError"
"""What Python raises for a line that makes no sense. In a line of a test it shows what the test misses."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a failing check found."""

    invariant: str
    what: str
    """The moment of the failure: a sentence of the tool that noticed it."""
    where: str
    """The test, the step or the schedule that shows it."""
    story: tuple[str, ...] = ()
    """The steps that led to the failure, if the tool reports them."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One check that was run, and its outcome."""

    check: Check
    seconds: float
    finding: Finding | None = None


def require(unit: Unit) -> None:
    """Raise NoWorkshop if a tool that the checks of this unit run is not installed.

    Otherwise its absence would be reported as a broken invariant, or, where tests skip themselves, as
    success.
    """
    if any(check.run.startswith("pytest ") for check in unit.checks):
        for tool in ("pytest", "pytest_timeout", "hypothesis"):
            if importlib.util.find_spec(tool) is None:
                raise NoWorkshop(f"the checks of this lab need {tool}: pip install -e '.[cli,test,tla]'")
    if any(map(needs_java, unit.checks)):
        try:
            find_jar()
            find_java()
        except ToolsMissing as missing:
            raise NoWorkshop(f"the checks of this lab run TLC: {missing}") from None


def needs_java(check: Check) -> bool:
    """Return whether this check runs TLC."""
    return "walrus.tlc" in check.run or "tests/tlc" in check.run


def grade(workshop: Workshop, unit: Unit) -> Iterator[Asked]:
    """Run the checks of a unit in order, and yield the outcome of each; stop after the first failure."""
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
    """Return typical mistakes that match this failure in check, invariant, and test if they name one."""
    found = outcome.finding
    return [
        mistake
        for mistake in unit.mistakes
        if found is not None
        and (mistake.check, mistake.invariant) == (outcome.check.name, found.invariant)
        and mistake.test in found.where
    ]


def _unreadable(workshop: Workshop, unit: Unit) -> Finding | None:
    """Return a finding if a file of the lab cannot be parsed, or lacks what the lab is about."""
    for place in map(Site.of, unit.places):
        path = workshop.folder / place.file
        try:
            text_of(path.read_text("utf-8"), place)
        except SyntaxError as error:
            return Finding(invariant=SYNTAX, what=error.msg, where=f"{place.file}, line {error.lineno}")
        except (Missing, OSError) as error:
            return Finding(invariant=SYNTAX, what=str(error), where=place.file)
    return None


def _crowd() -> float:
    """Return by what factor a command may take longer because the processors are busy."""
    return min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), MAX_CROWD)


def _run(folder: Path, command: str) -> tuple[int | None, str]:
    """Run `python -m command` in the copy; return its exit status (None: it hung) and its output."""
    module, *rest = shlex.split(command)
    patience = PATIENCE * _crowd()
    # A test that hangs is ended before the whole command is, so that its name is known.
    quiet = [*shlex.split(QUIET), f"--timeout={patience * 0.8:.0f}"] if module == "pytest" else []
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
            output, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output


@cache
def _named() -> re.Pattern[str]:
    """Return a pattern for a line in which a tool names an invariant that broke."""
    names = "|".join({*dict(why.sentences()), *why.OTHERS} - {"AssertionError"})
    by_tlc = r"[A-Z]\w+(?= is violated$)"  # also of a spec without predicates in the simulator
    return re.compile(rf"(?:^|: |Invariant )({names}|{by_tlc})(?:: (?P<what>.+)| is violated)")


def _finding(check: Check, status: int | None, output: str) -> Finding:
    """Summarise a failing command's output."""
    lines = output.splitlines()
    where = _where(check, lines)
    if unwritten := re.search(r"NotImplementedError: (lab \d+: \S+)", output):
        return Finding(invariant=UNWRITTEN, what=unwritten[1], where=where)
    if status is None or "Timeout (>" in output:
        busy = ", and this machine has much else to do: ask again when it has not" if _crowd() > 1 else ""
        return Finding(invariant=HANGS, what=f"`python -m {check.run}` did not end{busy}", where=where)
    if of_spec := _unreadable_spec(output):
        return Finding(invariant=of_spec[0], what=of_spec[1], where=where)
    said = _said(lines)
    named = next(filter(None, map(_named().search, said)), None)
    what = (named["what"] or named[0] if named else said[0] if said else "it ended without a word").strip()
    code = _lines_of_code(lines)
    slip = re.match(rf"({SLIPS})\b", what) and code and not code[-1].startswith("tests/")
    invariant = named[1] if named else SLIP if slip else check.invariant
    return Finding(invariant=invariant, what=what, where=where, story=tuple(_story(lines) or code))


def _unreadable_spec(output: str) -> tuple[str, str] | None:
    """Return (name, text) if TLC cannot parse the student's spec, or cannot evaluate an expression of it."""
    if unread := re.search(r"\b\w+\.tla:\d+: .*", output):
        return SYNTAX, unread[0]
    if failed := re.search(r"\b\w+\.tla: (Evaluating .*)", output):
        return SENSELESS, failed[1].split(" The behavior up to this point")[0]
    if senseless := re.search(rf"(\S+): \S+: .*{UNEVALUATED}", output):
        return SENSELESS, f"`python -m walrus.tlc check {senseless[1]}`, in the copy, says which one, and why"
    return None


def _said(lines: list[str]) -> list[str]:
    """Return the tool's own lines about the failure: from pytest's output without the source lines."""
    if errors := [line[1:].strip() for line in lines if line.startswith("E ")]:
        if errors[0].endswith("Regex pattern did not match.") and len(errors) > 2:
            # A test expected an exception with another message: pytest shows both in two more lines.
            return [f"the exception has another message than is asked for. {'. '.join(errors[1:3])}"]
        return errors
    if (ended := [n for n, line in enumerate(lines) if line.endswith(": UnexpectedException")]) and ended[0]:
        return [lines[ended[0] - 1].strip()]  # an example in a docstring that raised
    if "Expected:" in lines and "Got:" in lines:  # an example in a docstring
        wanted, got = (lines[lines.index(word) + 1].strip() for word in ("Expected:", "Got:"))
        return [f"expected {wanted}, got {got}"]
    if silent := [line.strip() for line in lines if "should be violated" in line]:  # a mutant of a spec
        return silent
    return [line.strip() for line in reversed(lines) if line.strip()]


def _where(check: Check, lines: list[str]) -> str:
    """Return the test that fails, the scenario, or the command itself."""
    for line in lines:
        if failed := re.match(r"(?:FAILED|ERROR) (\S+)", line):
            return failed[1]
        if again := re.match(r"again: (.*)", line):
            return again[1]
    return f"python -m {check.run}"


def _story(lines: list[str]) -> list[str]:
    """Return the numbered steps of an exploration."""
    return [line for line in lines if re.match(r"\s{0,2}\d+  \S", line)]


def _lines_of_code(lines: list[str]) -> list[str]:
    """Return the line of the test that failed, and the line that raised below it, if that is another one.

    The failure of a test is often an IndexError or a KeyError, which says nothing without its line.
    """
    found = []
    for line, code in pairwise(lines):
        if line.startswith("E "):
            break
        if place := re.match(r"((?:walrus|tests)/\S+\.py:\d+): in (\w+)", line):
            found.append((place[2].startswith("test_"), f"{place[1]}: {code.strip()}"))
        elif place := re.match(r'\s+File ".*/(walrus/\S+\.py)", line (\d+), in \w', line):
            found.append((False, f"{place[1]}:{place[2]}: {code.strip()}"))
    asked = [text for of_test, text in found if of_test]
    return list(dict.fromkeys([*asked[-1:], *(text for _, text in found[-1:])]))
