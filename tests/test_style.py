"""House rules that a machine can check: short functions, files of one sitting, no sleeping tests.

Which package may import which, and what logic never imports, is checked by `lint-imports` (setup.cfg).

The lists of exceptions may only shrink: an entry that is no longer needed fails the test too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import shape
from walrus.sim.invariants import NAMES

TESTS = sorted((shape.ROOT / "tests").rglob("*.py"))

MAX_FUNCTION_LINES = 60
LONG_FUNCTIONS: dict[str, str] = {}
MAX_FILE_CODE_LINES = 600
LONG_FILES: dict[str, str] = {}
MAX_ATTRIBUTES = 20
MANY_ATTRIBUTES = {"walrus/config.py:NodeConfig": "settings are values that no code changes"}
UNDOCUMENTED: set[str] = set()
INVARIANTS = {
    name
    for spec in sorted((shape.ROOT / "spec").glob("*.tla"))
    for name in re.findall(r"^(\w+) ==", spec.read_text(encoding="utf-8"), re.MULTILINE)
} | NAMES


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        name for path in shape.MODULES for name, lines in shape.functions(path) if lines > MAX_FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS), (
        "split it, or take a name off the list that no longer needs to be there"
    )


def test_a_file_is_one_sitting() -> None:
    long = {shape.name(path) for path in shape.MODULES if shape.code_lines(path) > MAX_FILE_CODE_LINES}
    assert long == set(LONG_FILES), "split it, or take a name off the list that no longer needs to be there"


def test_a_class_of_the_logic_is_one_idea() -> None:
    many = {
        cls: count
        for path in shape.MODULES
        if shape.room(path) in shape.LOGIC
        for cls, count in shape.classes(path)
        if count > MAX_ATTRIBUTES
    }
    assert many.keys() == MANY_ATTRIBUTES.keys(), (
        f"split it, or take a name off the list that no longer needs to be there: {many}"
    )


@pytest.mark.parametrize("path", shape.MODULES, ids=shape.name)
def test_an_assertion_for_an_invariant_names_one_of_the_specs(path: Path) -> None:
    """A planted bug is noticed under that name, whether an assertion notices it, the simulator or TLC."""
    named = {name for name in shape.named_assertions(path) if name not in INVARIANTS}
    assert not named, f"in no spec, and in no promise of the simulator: {named}"


@pytest.mark.parametrize("path", shape.MODULES, ids=shape.name)
def test_a_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(shape.tree(path)), "a module opens with its chapter"


def _sleeps(tree: ast.AST) -> Iterator[int]:
    """Lines that call `sleep` with anything but a literal 0."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            zero = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if name == "sleep" and not zero:
                yield node.lineno


@pytest.mark.parametrize("path", TESTS, ids=shape.name)
def test_no_test_sleeps(path: Path) -> None:
    assert list(_sleeps(shape.tree(path))) == []


def test_the_words_of_unfinished_work_are_nowhere() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" * 3, "for" + " now", "place" + "holder"]
    found = [
        f"{shape.name(path)}: {word}"
        for path in shape.MODULES + TESTS
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []


MAX_COLUMNS = 109
PROSE = sorted([*shape.ROOT.glob("*.md"), *shape.ROOT.glob("docs/*.md")])
SPECS = sorted((shape.ROOT / "spec").glob("*.tla"))


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page that are prose: not a table, and not code, fenced or indented."""
    fenced = False
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        code = line.startswith("    ") and (not before.strip() or before.startswith("    "))
        if not (fenced or code or line.startswith("|")):
            yield number, line
        before = line


@pytest.mark.parametrize("path", PROSE, ids=shape.name)
def test_prose_is_below_110_columns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [f"{number}: {line}" for number, line in _prose(text) if len(line) > MAX_COLUMNS] == []


def test_what_counts_as_prose() -> None:
    page = "a\n\n    code\n    code\n\n| table |\n\n```\nfenced\n```\n* item\n    goes on\n"
    assert [line for _, line in _prose(page) if line.strip("`")] == ["a", "* item", "    goes on"]


_SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)")


def _cut_spans(text: str) -> list[str]:
    """The lines on which a code span begins that does not end there, or ends that did not begin there."""
    lines = [(number, line) for number, line in _prose(text) if not line.startswith("```")]
    return [f"{number}: {line}" for number, line in lines if "`" in _SPAN.sub("", line)]


@pytest.mark.parametrize("path", PROSE, ids=shape.name)
def test_a_code_span_closes_on_its_line(path: Path) -> None:
    # A command that is cut in two cannot be searched for, nor copied as it stands.
    assert _cut_spans(path.read_text(encoding="utf-8")) == []


def test_what_counts_as_a_span_that_is_cut() -> None:
    page = "`whole` and ``a ` in it``\n`begins\nends` here\n\n    code `\n"
    assert _cut_spans(page) == ["2: `begins", "3: ends` here"]


@pytest.mark.parametrize("path", SPECS, ids=shape.name)
def test_a_specification_is_below_110_columns(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS] == []
