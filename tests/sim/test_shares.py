"""What may happen between two turns of a look that takes several: with shares of one or two, it does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from walrus.broker.imaging import Image
from walrus.sim.options import Options, varied
from walrus.sim.run import FailedRun, simulate
from walrus.sim.shares import SMALL, small_shares

STEPS = 4_000
CLIENTS = Options(small_shares=True, workers=2, keepers=1)
ASKED = ("workers",)


def run(seed: int) -> object:
    return simulate(seed, varied(seed, CLIENTS, asked=ASKED), STEPS)


@pytest.mark.parametrize("seed", [903, 904, 905])
def test_runs_with_the_smallest_shares_hold(seed: int) -> None:
    outcome = run(seed)
    assert not isinstance(outcome, FailedRun), outcome


def test_a_snapshot_takes_several_turns_only_with_small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, go_on = Counter[bool](), Image.go_on

    def counted(image: Image) -> bool:
        whole = go_on(image)
        turns[whole] += 1
        return whole

    monkeypatch.setattr(Image, "go_on", counted)
    often = varied(905, CLIENTS, asked=ASKED)
    often = replace(often, settings={**often.settings, "compact_entries": 20})
    simulate(905, often, STEPS)
    assert turns[False] > turns[True] > 0, "an image was made in one turn"
    turns.clear()
    simulate(905, replace(often, small_shares=False), STEPS)
    assert turns[True] > 0 == turns[False], "shares of 500 have become small: are these runs needed still?"


def test_the_bounds_are_those_of_a_node_again_when_the_run_is_over() -> None:
    before = {(module, name): getattr(module, name) for module, name in SMALL}
    with small_shares():
        for (module, name), value in SMALL.items():
            assert getattr(module, name) == value < before[module, name]
    with small_shares(False):
        assert {(module, name): getattr(module, name) for module, name in SMALL} == before
    assert {(module, name): getattr(module, name) for module, name in SMALL} == before
