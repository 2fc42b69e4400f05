"""The pages quote what the sources are: the picture of the packages, and the traits in figures."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools import house, shape


def test_the_picture_is_drawn_from_the_imports_of_today() -> None:
    assert house.quoted("picture") == house.printed("picture"), "run python -m tools.house picture --write"


def test_every_module_of_the_package_is_in_a_room_of_the_picture() -> None:
    rooms = {room for floor in house.floors() for room in floor}
    assert {shape.room(path) for path in shape.MODULES} - rooms == {"__init__"}


@pytest.mark.parametrize(
    "row", ["comments and docstrings", "longest function, median", "assertions a function"]
)
def test_the_trait_table_is_not_older_than_the_code_by_much(row: str) -> None:
    """Exact figures change with each commit; a quote that is off by more than a tenth misleads."""
    quoted, printed = (_figures(text, row) for text in (house.quoted("traits"), house.printed("traits")))
    assert quoted == pytest.approx(printed, rel=0.1, abs=1), "run python -m tools.house traits --write"


def _figures(text: str, row: str) -> list[float]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [float(figure) for figure in re.findall(r"\d+(?:\.\d+)?", line)]


def _packages() -> list[Path]:
    return [path for path in shape.MODULES if path.name == "__init__.py" and path.parent != shape.PACKAGE]


@pytest.mark.parametrize("path", _packages(), ids=shape.name)
def test_the_front_door_of_a_package_says_what_is_in_its_rooms(path: Path) -> None:
    """By a list in its own chapter, or in that of the module whose chapter it refers to."""
    chapter = ast.get_docstring(shape.tree(path)) or ""
    for door in re.findall(r"`(walrus/\w+\.py)` is the front door", chapter):
        chapter += ast.get_docstring(shape.tree(shape.ROOT / door)) or ""
    rooms = [room.stem for room in path.parent.glob("*.py") if not room.stem.startswith("__")]
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", chapter)] == []


CORE = ("raft.py", "consensus", "segments.py", "leases.py", "replicas")
DISK = ("record.py", "log.py", "recovery.py")


@pytest.mark.parametrize("part", [*CORE, *(f"storage/{name}" for name in DISK)])
def test_the_core_has_an_assertion_a_function_on_average(part: str) -> None:
    place = shape.ROOT / "walrus" / part
    paths = sorted(place.glob("*.py")) if place.is_dir() else [place]
    functions = sum(len(list(shape.functions(path))) for path in paths)
    assert sum(map(shape.assertions, paths)) >= functions, f"{part} has {functions} functions"
