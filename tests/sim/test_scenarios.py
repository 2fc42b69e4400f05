"""Every named schedule holds (with four seeds in `make deep`), and the catalogue of them is complete."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from walrus.sim import scenarios

ROOT = Path(__file__).parents[2]

SEEDS = range(1, 5) if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else (1,)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", scenarios.ALL)
def test_scenario(name: str, seed: int) -> None:
    assert scenarios.ALL[name].run(seed) > 100


def test_every_schedule_has_a_scenario() -> None:
    numbers = {number for known in scenarios.ALL.values() for number in known.numbers}
    assert numbers == set(range(1, 54))


def test_the_catalogue_names_every_scenario() -> None:
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| [\d, ]+ \| `(\w+)` \|", page, re.MULTILINE)) == set(scenarios.ALL)
