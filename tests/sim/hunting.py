"""Runs with a planted bug, seed after seed, until one fails."""

from __future__ import annotations

from collections.abc import Iterable

from walrus.sim.mutants import Mutant, planted
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, simulate


def first_failure(mutant: Mutant, options: Options, steps: int, seeds: Iterable[int]) -> FailedRun:
    """The first of these runs that fails with this bug."""
    with planted(mutant):
        outcomes = (simulate(seed, options, steps) for seed in seeds)
        caught = next((outcome for outcome in outcomes if isinstance(outcome, FailedRun)), None)
    assert caught is not None, mutant.about
    return caught
