"""Times in the simulator: they are told as they were written, and found again."""

from __future__ import annotations

import pytest

from tests.sim.hunting import first_failure
from walrus.sim import faults
from walrus.sim.mutants import Mutant, Slip
from walrus.sim.options import Options
from walrus.sim.run import Simulation

TIMED = Options(finders=2, workers=1, topics=1, producers=1, consumers=0, newcomers=0, think=0.02)
STEPS = 1_000

PASSES_ITS_OWN = Mutant.of(
    "a_time_passes_its_own_entries",
    "TimeIsFound",
    "what was appended at the very time counts as earlier",
    Slip("if not times or times[0] >= self.ms:", "if not times or times[0] > self.ms:"),
)
TELLS_NO_TIME = Mutant.of(
    "readers_are_told_no_time",
    "TimesAgree",
    "a reader is told 0, whenever the entry was appended",
    Slip("zip(batch.times(), batch.payloads(), strict=True)", "((0, one) for one in batch.payloads())"),
)


@pytest.mark.parametrize("names", ["none", "crash,network,clock"])
def test_times_are_found_whatever_befalls_the_nodes(names: str) -> None:
    schedule = faults.draw(1, faults.classes(names), TIMED.nodes, 0.5, STEPS / 300)
    simulation = Simulation(1, TIMED, schedule)
    simulation.run(STEPS)
    assert sum(finder.found for finder in simulation.finders) > 5, "there were answers to judge"


@pytest.mark.parametrize("mutant", [PASSES_ITS_OWN, TELLS_NO_TIME], ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found_by_the_name_of_what_it_breaks(mutant: Mutant) -> None:
    assert first_failure(mutant, TIMED, STEPS, (1, 2)).name in mutant.expected
