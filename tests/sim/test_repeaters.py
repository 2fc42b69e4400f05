"""Producers that repeat, in the simulator: Publish.tla's invariants hold, and planted bugs break them."""

from __future__ import annotations

import pytest

from tests.sim.hunting import first_failure
from walrus.sim import faults, mutants
from walrus.sim.mutants import Mutant, producers
from walrus.sim.options import Options
from walrus.sim.run import Simulation

REPEAT = Options(repeaters=3, producers=1, consumers=1, fetchers=0, newcomers=0, think=0.02)
SEEDS = 33
STEPS = 4_000


@pytest.mark.parametrize("names", ["none", "crash,network", "pause,network,clock"])
def test_what_producers_repeat_is_appended_once(names: str) -> None:
    schedule = faults.draw(1, faults.classes(names), REPEAT.nodes, 1.0, 60.0)
    simulation = Simulation(1, REPEAT, schedule)
    simulation.run(STEPS)
    assert sum(repeater.first for repeater in simulation.repeaters) > 100, "there was work"
    assert sum(repeater.again for repeater in simulation.repeaters) > 50, "and repetitions"
    assert max(topic.current for topic in simulation.world.judge.metadata.topics.values()) > 2, "and Seals"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", producers.ALL, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found_by_the_name_of_what_it_breaks(mutant: Mutant) -> None:
    assert mutants.find(mutant.name) is mutant
    assert first_failure(mutant, REPEAT, STEPS, range(2, SEEDS + 2)).name in mutant.expected
