"""Work queues in the simulator: the invariants of Delivery.tla hold, and planted bugs break them by name."""

from __future__ import annotations

import pytest

from tests.sim.hunting import first_failure
from walrus.sim import faults, mutants
from walrus.sim.mutants import Mutant, Slip, queues
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import Simulation

WORK = Options(
    workers=3,
    producers=2,
    consumers=1,
    fetchers=0,
    newcomers=0,
    think=0.02,
    settings={**SETTINGS, "visibility_timeout": 0.3},
)
SEEDS = 10
STEPS = 5_000


@pytest.mark.parametrize("names", ["none", "crash,network", "pause,network,clock"])
def test_workers_that_acknowledge_die_and_seek_break_no_promise(names: str) -> None:
    schedule = faults.draw(1, faults.classes(names), WORK.nodes, 1.0, 60.0)
    simulation = Simulation(1, WORK, schedule)
    simulation.run(STEPS)
    assert sum(worker.received for worker in simulation.workers) > 30, "there was work"
    groups = simulation.world.judge.metadata.topics["t0"].groups
    assert groups.keys() == {"work"}, "EveryEntryAcked was looked at"


DYING = Options(giving_up=2, topics=1, producers=0, consumers=0, fetchers=0, newcomers=0, think=0.02)
NOTED_FIRST = Mutant.of(
    "dead_letter_noted_first",
    "NothingSkipped",
    "an entry that was out too often is done before it is in the dead-letter topic",
    Slip("self._letters.setdefault(place, Letter(payload))", "self._on_appended(place, now); return"),
)


@pytest.mark.parametrize("names", ["none", "crash,network"])
def test_what_is_given_up_is_in_the_dead_letters_before_it_is_done(names: str) -> None:
    schedule = faults.draw(1, faults.classes(names), DYING.nodes, 1.0, 60.0)
    simulation = Simulation(1, DYING, schedule)
    simulation.run(1_500)
    assert simulation.world.judge.metadata.topics["hard"].dead.get("work"), "there were dead letters"


def test_a_dead_letter_that_is_noted_before_it_is_there_is_found() -> None:
    assert first_failure(NOTED_FIRST, DYING, 1_000, (2, 3)).name in NOTED_FIRST.expected


@pytest.mark.slow
@pytest.mark.parametrize("mutant", queues.ALL, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found_by_the_name_of_what_it_breaks(mutant: Mutant) -> None:
    assert mutants.find(mutant.name) is mutant
    assert first_failure(mutant, WORK, STEPS, range(1, SEEDS + 1)).name in mutant.expected
