"""A run in which an invariant breaks, as a picture: for the invariant's page of the site.

A bug of the registry that breaks it is planted, seeds are run until one shows it by name, the schedule of
faults is made shorter, and what led to the end is drawn by the renderer of all figures (`walrus/view/svg.py`).
So a picture is never older than the code: it is drawn when the site is built.

Left out: invariants that no bug breaks within the budget; their pages say how to look for a run oneself.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from walrus.sim import faults, filming, mutants
from walrus.sim.mutants.plant import Mutant
from walrus.sim.options import Options, varied
from walrus.sim.run import FailedRun, shrink, simulate
from walrus.view import lanes, svg

SEEDS, STEPS, BUGS, SHRINKS = range(1, 3), 2_000, 2, 15
"""How long one is looked for: seeds of so many steps, for so many bugs; and runs to make it shorter."""
EVENTS = 16
"""Events on a picture."""


class BrokenRun(NamedTuple):
    """The picture, and the command that makes a page of the same run."""

    svg: str
    bug: str
    command: str


@cache
def run_of(invariant: str) -> BrokenRun | None:
    """A run in which this invariant breaks, if one is found soon."""
    known = [mutant for mutant in mutants.ALL.values() if mutant.expected[0] == invariant]
    for mutant in known[:BUGS]:
        for seed in SEEDS:
            if (found := _drawn(invariant, mutant, seed)) is not None:
                return found
    return None


def _drawn(invariant: str, mutant: Mutant, seed: int) -> BrokenRun | None:
    options = varied(seed, Options())
    with mutants.planted(mutant):
        outcome = simulate(seed, options, STEPS, faults.DEFAULT)
        if not isinstance(outcome, FailedRun) or outcome.name != invariant:
            return None
        outcome, _ = shrink(outcome, options, SHRINKS)
        film = filming.play(outcome, options, f"{mutant.about}: {invariant} breaks", "")
    broken = film.header.broken
    assert broken is not None, "the film of a failing run says what broke"
    shown = lanes.story(film, broken.event, EVENTS)
    command = f"python -m walrus.sim --seed {seed} --steps {STEPS} --mutant {mutant.name} --html run.html"
    return BrokenRun(svg.picture(film, shown), mutant.name, command)
