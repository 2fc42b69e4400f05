"""docs/tour.md is true: every module is on it, and nothing is used before it was met."""

from __future__ import annotations

import re

import grimp
import pytest

from tools import shape

PAGE = (shape.ROOT / "docs/tour.md").read_text(encoding="utf-8")
STOPS = re.split(r"^\d+\. ", PAGE.partition("\n## 1. ")[2], flags=re.MULTILINE)[1:]


def _modules(text: str) -> list[str]:
    return [path.replace("/", ".") for path in re.findall(r"\]\(\.\./(walrus/[\w/]+)\.py\)", text)]


def test_every_module_is_on_the_tour_once() -> None:
    met = [module for stop in STOPS for module in _modules(stop)]
    known = {
        ".".join(path.relative_to(shape.ROOT).with_suffix("").parts)
        for path in shape.MODULES
        if not path.stem.startswith("__")
    }
    assert sorted(met) == sorted(known)


def test_nothing_is_used_before_it_was_met() -> None:
    graph = grimp.build_graph("walrus", exclude_type_checking_imports=True, cache_dir=None)
    met: set[str] = set()
    early: list[str] = []
    for stop in STOPS:
        met.update(_modules(stop))
        for module in _modules(stop):
            used = graph.find_modules_directly_imported_by(module)
            early += [f"{module} uses {other}" for other in sorted(used - met) if not _is_package(other)]
    assert early == []


@pytest.mark.parametrize("subject", ["Raft", "The write-ahead log", "TLA+, and what holds the code to it"])
def test_a_shorter_way_takes_the_minutes_that_it_says(subject: str) -> None:
    section = PAGE.partition(f"\n### {subject}\n")[2].partition("\n#")[0]
    short, _, long = section.partition("\nIn two hours, ")
    assert short.strip().startswith("In 15 minutes, ")
    minutes = [sum(map(int, re.findall(r"^\* (\d+) min: ", way, re.MULTILINE))) for way in (short, long)]
    assert minutes == [15, 120]


def _is_package(module: str) -> bool:
    """Whether this is a package: what stands in its `__init__` only hands on what its modules have."""
    return (shape.ROOT.joinpath(*module.split(".")) / "__init__.py").exists()
