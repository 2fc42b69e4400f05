"""One table of errors: clients, simulator and docs agree with it, and no module writes reasons of its own."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.shape import tree
from walrus.client import errors as client
from walrus.client.errors import OutcomeUnknown, Refused, Unavailable, error_for
from walrus.sim.calls import Outcome, outcome_of
from walrus.sim.violation import Violation
from walrus.wire import errors
from walrus.wire.errors import KINDS, Kind, kind_of
from walrus.wire.requests import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([^`]+)` \| `(\w+)` \| (no|maybe) \| (no|yes) \| (.*) \|$", re.MULTILINE)
SOURCES = [path for path in (ROOT / "walrus").rglob("*.py") if path != ROOT / "walrus/wire/errors.py"]


def reasons() -> list[str]:
    """Every reason that a node can give: constants, and functions with arguments made up."""
    made = [value for name, value in vars(errors).items() if name.isupper() and type(value) is str and value]
    for _, function in inspect.getmembers(errors, inspect.isfunction):
        signature = inspect.signature(function)
        if function.__module__ == errors.__name__ and signature.return_annotation == "Reason":
            arguments = [7 if one.annotation == "int" else "x" for one in signature.parameters.values()]
            made.append(function(*arguments))
    return [*made, errors.invalid_frame_length(0, 100), errors.invalid_frame_length(1 << 30, 100)]


def test_there_are_reasons_and_kinds() -> None:
    assert len(KINDS) > 25 and len(reasons()) >= len(KINDS)


@pytest.mark.parametrize("reason", reasons())
def test_a_reason_is_one_line_of_exactly_one_kind(reason: str) -> None:
    assert [kind for kind in KINDS if reason.startswith(kind.begins)] == [kind_of(reason)]
    assert "\n" not in reason and ": " in reason, "what is wrong, and what to do about it"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.begins)
def test_a_kind_has_a_reason_that_nodes_give(kind: Kind) -> None:
    assert any(reason.startswith(kind.begins) for reason in reasons())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.begins)
def test_the_classes_of_the_client_say_what_the_table_says(kind: Kind) -> None:
    error = error_for(kind.begins)
    assert type(error) is getattr(client, kind.exception)
    assert (kind.done == "maybe") == isinstance(error, OutcomeUnknown) == (not isinstance(error, Refused))
    assert kind.again == isinstance(error, Unavailable)
    assert not (kind.again and kind.done == "maybe"), "what may have been done is not sent again"


def test_an_unknown_reason_says_nothing_about_what_was_done() -> None:
    assert type(error_for("something new")) is OutcomeUnknown


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.begins)
def test_the_simulator_judges_by_the_table(kind: Kind) -> None:
    assert outcome_of(kind.begins) is (Outcome.UNKNOWN if kind.done == "maybe" else Outcome.FAILED)


def test_the_simulator_takes_no_error_of_no_kind() -> None:
    with pytest.raises(Violation, match="of no kind"):
        outcome_of("something new")


def test_the_page_has_the_table() -> None:
    rows = [(k.begins, k.exception, k.done, "yes" if k.again else "no", k.when) for k in KINDS]
    assert ROW.findall(PAGE) == rows


def test_the_commands_that_a_client_is_told_of_are_those_there_are() -> None:
    assert re.findall(r"\b[A-Z]{3,}\b", errors.UNKNOWN_COMMAND) == list(COMMANDS)


def _written(path: Path) -> Iterator[str]:
    """Strings of a module that begin like a reason, and the places where it makes a `Reason`."""
    begins, name = tuple(kind.begins for kind in KINDS), path.relative_to(ROOT)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(begins):
            yield f"{name}:{node.lineno}: {node.value}"
        if isinstance(node, ast.Call):
            called = node.func
            if getattr(called, "id", getattr(called, "attr", None)) == "Reason":
                yield f"{name}:{node.lineno}: makes a Reason"


def test_no_reason_is_written_elsewhere() -> None:
    assert len(SOURCES) > 100
    assert [found for path in SOURCES for found in _written(path)] == []
