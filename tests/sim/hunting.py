"""Runs with a planted bug, seed after seed, until one fails."""

from __future__ import annotations

from collections.abc import Iterable

from walrus.sim.mutants import Mutant, planted
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, simulate

SHOWN_BY = {
    "cursor_committed_before_delivery": 4,
    "cursor_moves_back": 53,
    "delete_takes_the_next_topic": 4,
    "gap_taken": 4,
    "lets_go_of_one_too_many": 8,
    "receipt_of_before_the_seek": 2,
    "late_reports_count": 30,
    "recovery_with_producers_of_any_copy": 14,
    "recovery_without_producers": 3,
    "sent_again_behind_the_clients_back": 4,
    "takes_a_forward_twice": 4,
}
"""Where it is not the first one: the seed that showed a bug when it was looked for last."""


def hunted(name: str, seeds: Iterable[int]) -> list[int]:
    """These seeds, the one that showed this bug before the others: a run in which nothing fails is long."""
    return sorted(seeds, key=lambda seed: (seed != SHOWN_BY.get(name), seed))


def first_failure(mutant: Mutant, options: Options, steps: int, seeds: Iterable[int]) -> FailedRun:
    """The first of these runs that fails with this bug."""
    with planted(mutant):
        outcomes = (simulate(seed, options, steps) for seed in hunted(mutant.name, seeds))
        caught = next((outcome for outcome in outcomes if isinstance(outcome, FailedRun)), None)
    assert caught is not None, mutant.about
    return caught
