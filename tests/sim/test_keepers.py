"""Retention in the simulator: the invariants of Retention.tla hold, and planted bugs break them by name."""

from __future__ import annotations

import pytest

from tests.sim.hunting import first_failure
from walrus.sim import faults, mutants
from walrus.sim.mutants import Mutant, retention
from walrus.sim.options import Options
from walrus.sim.run import Simulation

KEPT = Options(keepers=2, topics=1, producers=1, consumers=1, fetchers=0, newcomers=0, think=0.02)
SEEDS = 20
STEPS = 4_000


@pytest.mark.parametrize("names", ["none", "crash,network", "pause,power,clock"])
def test_topics_that_are_trimmed_deleted_and_registered_again_break_no_promise(names: str) -> None:
    seen = 0
    for seed in (1, 3):
        schedule = faults.draw(seed, faults.classes(names), KEPT.nodes, 1.0, STEPS / 300)
        simulation = Simulation(seed, KEPT, schedule)
        result = simulation.run(STEPS)
        seen += result.seen.get("Trim", 0) * result.seen.get("DeleteTopic", 0)
        assert all(client.received for client in simulation.kept), "there was something to read"
    assert seen, "there were trims and deletions"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", retention.ALL, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found_by_the_name_of_what_it_breaks(mutant: Mutant) -> None:
    assert mutants.find(mutant.name) is mutant
    assert first_failure(mutant, KEPT, STEPS, range(1, SEEDS + 1)).name in mutant.expected
