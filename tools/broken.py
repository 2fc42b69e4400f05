"""A picture of a run in which an invariant breaks, for the invariant's page of the site.

docs/planted-bugs.jsonl says which planted bug a random run shows soonest, and with which seed. That run is
played, and the renderer of all figures (`walrus/view/svg.py`) draws the events at its end. The picture is
drawn when the site is built, so it always matches the code.

Left out: invariants that no random run is known to break; their pages say how to look for one.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tools import planted
from walrus.sim import faults, filming, mutants
from walrus.sim.mutants.plant import Mutant
from walrus.sim.options import Options, varied
from walrus.sim.run import FailedRun, simulate
from walrus.view import html, lanes, svg

MOST = 2.0
"""The most processor seconds that a run may take."""
EVENTS = 16
"""Events on a picture."""
WIDEST = 1200
"""The greatest width in pixels; a wider picture continues below."""


class BrokenRun(NamedTuple):
    """The picture, the page of the whole run, and the command that makes that page."""

    svg: str
    page: str
    bug: str
    command: str


@cache
def run_of(invariant: str) -> BrokenRun | None:
    """Return a run in which this invariant breaks, if one is known to be quick."""
    shown = [
        (one.seconds, one.bug, int(one.found.by.removeprefix("seed ")))
        for (_, tool), one in planted.known().items()
        if tool == "random" and one.found is not None and one.found.name == invariant and one.seconds < MOST
    ]
    runs = (_drawn(invariant, mutants.find(bug), seed) for _, bug, seed in sorted(shown)[:2])
    return next((run for run in runs if run is not None), None)


def _drawn(invariant: str, mutant: Mutant, seed: int) -> BrokenRun | None:
    options = varied(seed, Options())
    with mutants.planted(mutant):
        outcome = simulate(seed, options, planted.STEPS, faults.DEFAULT)
        if not isinstance(outcome, FailedRun) or outcome.name != invariant:
            return None
        film = filming.play(outcome, options, f"{mutant.about}: {invariant} breaks", "")
    broken = film.header.broken
    assert broken is not None, "the film of a failing run says what broke"
    shown = lanes.story(film, broken.event, EVENTS)
    command = (
        f"python -m walrus.sim --seed {seed} --steps {planted.STEPS} --mutant {mutant.name} --html run.html"
    )
    film.header.again = command
    return BrokenRun(svg.picture(film, shown, widest=WIDEST), html.page(film), mutant.name, command)
