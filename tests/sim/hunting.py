"""Runs with a planted bug, seed after seed, until one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from walrus.sim import run
from walrus.sim.mutants import Mutant, planted
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, Result, simulate

SHOWN_BY = {
    "cursor_committed_before_delivery": 2,
    "cursor_moves_back": 53,
    "delete_takes_the_next_topic": 16,
    "gap_taken": 4,
    "lets_go_of_one_too_many": 8,
    "marked_topic_goes_on": 4,
    "no_duplicate_check": 2,
    "receipt_of_before_the_seek": 2,
    "late_reports_count": 30,
    "recovery_with_producers_of_any_copy": 33,
    "recovery_without_producers": 14,
    "takes_a_forward_twice": 11,
    "timeout_acknowledges": 4,
}
"""Where it is not the first one: the seed that showed a bug when it was looked for last."""

HELD_UP = {
    *("acknowledged_and_never_proposed", "timeout_acknowledges", "marked_topic_goes_on"),
    *("damage_stays", "nobody_fails_over", "nobody_seals"),
}
"""Bugs with which a run does not come to rest: it is waited for in vain."""
PATIENCE = 12.0
"""Seconds of the world that such a run has to come to rest, a fifth of what others have."""


def hunted(name: str, seeds: Iterable[int]) -> list[int]:
    """These seeds, the one that showed this bug before the others: a run in which nothing fails is long."""
    return sorted(seeds, key=lambda seed: (seed != SHOWN_BY.get(name), seed))


def failing(
    mutant: Mutant, play: Callable[[int], Result | FailedRun], seeds: Iterable[int]
) -> FailedRun | None:
    """The first of these runs that fails with this bug. One that the bug holds up is at rest without it."""
    with _patience(mutant.name):
        with planted(mutant):
            outcomes = map(play, hunted(mutant.name, seeds))
            caught = next((outcome for outcome in outcomes if isinstance(outcome, FailedRun)), None)
        if caught is not None and mutant.name in HELD_UP:
            assert isinstance(play(caught.seed), Result), "this is not the bug's doing: the patience is short"
    return caught


@contextmanager
def _patience(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if name in HELD_UP:
            patch.setattr(run, "REST_OF_SEGMENT", run.REST_OF_SEGMENT * PATIENCE / run.REST)
            patch.setattr(run, "REST", PATIENCE)
        yield


def first_failure(mutant: Mutant, options: Options, steps: int, seeds: Iterable[int]) -> FailedRun:
    """The first of these runs that fails with this bug."""
    caught = failing(mutant, lambda seed: simulate(seed, options, steps), seeds)
    assert caught is not None, mutant.about
    return caught
