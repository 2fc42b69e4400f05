"""What may happen between two turns of a look that takes several: with shares of one or two, it does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from walrus.broker.imaging import Image
from walrus.broker.takeover import Takeover
from walrus.sim.mutants import find, planted
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


def test_snapshots_take_several_turns_only_with_small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, go_on = Counter[bool](), Image.go_on
    taken, take = Counter[bool](), Takeover.go_on

    def counted(image: Image) -> bool:
        whole = go_on(image)
        turns[whole] += 1
        return whole

    def counted_too(takeover: Takeover) -> list[str]:
        changed = take(takeover)
        taken[takeover.whole] += 1
        return changed

    monkeypatch.setattr(Image, "go_on", counted)
    monkeypatch.setattr(Takeover, "go_on", counted_too)
    often = varied(905, CLIENTS, asked=ASKED)
    often = replace(often, settings={**often.settings, "compact_entries": 20})
    simulate(905, often, STEPS)
    assert turns[False] > turns[True] > 0, "an image was made in one turn"
    assert taken[False] > taken[True] > 0, "a snapshot was taken over in one turn"
    turns.clear()
    taken.clear()
    simulate(905, replace(often, small_shares=False), STEPS)
    assert turns[True] > 0 == turns[False], "shares of 500 have become small: are these runs needed still?"
    assert taken[True] > 0 == taken[False], "the same"


def test_a_command_that_is_applied_between_two_turns_is_noticed() -> None:
    often = varied(4, CLIENTS, asked=ASKED)
    often = replace(often, settings={**often.settings, "compact_entries": 20})
    with planted(find("commands_applied_to_half_a_snapshot")):
        outcome = simulate(4, often, STEPS)
    assert isinstance(outcome, FailedRun) and outcome.name == "StateMachineSafety", outcome


def test_the_bounds_are_those_of_a_node_again_when_the_run_is_over() -> None:
    before = {(module, name): getattr(module, name) for module, name in SMALL}
    with small_shares():
        for (module, name), value in SMALL.items():
            assert getattr(module, name) == value < before[module, name]
    with small_shares(False):
        assert {(module, name): getattr(module, name) for module, name in SMALL} == before
    assert {(module, name): getattr(module, name) for module, name in SMALL} == before
