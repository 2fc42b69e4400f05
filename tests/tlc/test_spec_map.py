"""docs/spec-map.md is complete in both directions: every action and every property, and every name exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.tlc.specs import actions_of
from walrus.tlc.configs import config_files, invariants, properties, spec_of

ROOT = Path(__file__).resolve().parent.parent.parent
MAP = (ROOT / "docs" / "spec-map.md").read_text()
MAPPED = ["Walrus", "Delivery", "Publish", "Retention", "Raft", "Order"]


def rows_of(heading: str) -> list[list[str]]:
    section = MAP.split(heading)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" |") for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("spec", MAPPED)
def test_every_action_is_mapped_and_every_mapped_action_exists(spec: str) -> None:
    mapped = {row[0] for row in rows_of(f"## Actions of `spec/{spec}.tla`")}
    assert mapped == actions_of(spec)


def test_every_checked_property_is_mapped_and_every_mapped_property_is_checked() -> None:
    mapped = {(row[0], row[1]) for row in rows_of("## Invariants and properties")}
    checked = set()
    for config in config_files():
        text = config.read_text()
        checked |= {(spec_of(config).stem, name) for name in invariants(text) + properties(text)}
    assert mapped == checked


def resolve(name: str) -> object:
    """The object of a dotted name."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise LookupError(name)


def test_every_python_name_exists() -> None:
    names = re.findall(r"`(walrus\.[\w.]+)`", MAP)
    assert len(names) > 60
    for name in names:
        assert resolve(name) is not None


def test_the_simulator_has_a_predicate_of_each_name() -> None:
    predicates = importlib.import_module("walrus.sim.invariants")
    for row in rows_of("## Invariants and properties"):
        # The simulator's clients set no retention: tests/broker/test_retention*.py hold those names.
        if row[0] not in ("Order", "Retention") and row[1] not in (
            "CommitProgress",
            "EveryPubAnswered",
            "ReplicasKept",
            "SealHandsOn",
        ):
            assert callable(getattr(predicates, row[1])), row[1]


def test_every_action_has_a_paragraph() -> None:
    for spec in MAPPED:
        text = (ROOT / "spec" / f"{spec}.tla").read_text()
        for action in sorted(actions_of(spec)):
            defined = re.search(rf"^{action}(?:\(.*\))? ==", text, re.MULTILINE)
            assert defined, action
            above = text[: defined.start()].rstrip().splitlines()[-1]
            assert above.startswith("\\*"), f"{spec}.{action} has no paragraph above it, but {above!r}"
