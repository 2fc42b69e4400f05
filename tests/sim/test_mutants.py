"""Bugs of the registry, planted one at a time, each of which a scenario or some seeds must catch, by name.

The whole registry is asked by `python -m tools.planted` (docs/planted-bugs.md); these are the ones that the
simulator is for. A bug that survives is a blind spot of the simulator: one that is not there was found to be
equivalent, or is in `docs/model-checking.md` under what is left out.
"""

from __future__ import annotations

import pytest

from tests.sim.hunting import failing
from walrus.sim import faults, mutants, scenarios
from walrus.sim.options import Options, varied
from walrus.sim.run import FailedRun, said_next, simulate
from walrus.sim.violation import UNNAMED, Violation

SEEDS = 60
STEPS = 6_000
STORM = Options(ordered=False, shared_turns=0.4, think=0.03)
PLAIN = Options(think=0.03)
SYNCED_LATE = Options(fsync=0.2, think=0.03)

CAUGHT: dict[str, tuple[str, Options]] = {
    "no_fence_check": ("needless_recovery_of_a_live_leader", PLAIN),
    "fence_not_noted": ("needless_recovery_of_a_live_leader", PLAIN),
    "fence_forgotten_at_restart": ("needless_recovery_of_a_live_leader", PLAIN),
    "sealed_without_compare": ("needless_recovery_of_a_live_leader", PLAIN),
    "sealed_before_acknowledged": ("frames_held_back_at_the_threshold", PLAIN),
    "acks_before_fsync": ("blackout_with_slow_disks", PLAIN),
    "raft_goes_on_before_durable": ("blackout_with_slow_disks", PLAIN),
    "reads_past_the_seal": ("leader_reaches_clients_but_no_replica", PLAIN),
    "unsure_counts_as_sure": ("short_copy_and_lagging_copy", SYNCED_LATE),
    "damaged_counts_as_sure": ("bit_flips_while_the_third_copy_lags", PLAIN),
    "repeated_forward_is_handed_back": ("forwards_repeated_after_the_seal", PLAIN),
    "sealed_after_one_fence": ("network,crash,pause", PLAIN),
    "shortest_copy_wins": ("network,crash", PLAIN),
    "acks_at_one_copy": ("none", PLAIN),
    "leader_resumes_after_restart": ("crash", PLAIN),
    "sealed_before_copied": ("crash,network", PLAIN),
    "no_gap_check": ("network", STORM),
    "no_duplicate_check": ("network", STORM),
    "reads_what_is_not_acknowledged": ("none", PLAIN),
    "cursor_committed_before_delivery": ("crash,network", STORM),
    "cursor_moves_back": ("network,crash", STORM),
    "damage_stays": ("rot", PLAIN),
    "damage_is_skipped": ("rot", PLAIN),
    "vote_not_persisted": ("crash,network", PLAIN),
    "sent_again_behind_the_clients_back": ("crash,network,pause", PLAIN),
    "nobody_fails_over": ("crash,pause", PLAIN),
    "nobody_seals": ("none", PLAIN),
}
"""What shows each: a scenario, or classes of faults and options for seeds."""
BESIDE = {"damaged_counts_as_sure": {"Scenario"}, "sent_again_behind_the_clients_back": {"DeliveredIsPrefix"}}
"""Names under which one may be caught that no tool should report first."""


@pytest.mark.parametrize("name", CAUGHT)
def test_the_planted_bug_is_caught_by_name(name: str) -> None:
    where, options = CAUGHT[name]
    caught = _in_scenario(name, where) if where in scenarios.ALL else _in_seeds(name, where, options)
    assert caught is not None, f"{name} survives"
    assert caught[0] in {*mutants.find(name).expected, *BESIDE.get(name, ())}, caught


def _in_scenario(name: str, where: str) -> tuple[str, str] | None:
    with mutants.planted(mutants.find(name)):
        for seed in range(1, 7):
            try:
                scenarios.ALL[where].run(seed)
            except Violation as violation:
                return violation.name, violation.what
    return None


def _in_seeds(name: str, kinds: str, options: Options) -> tuple[str, str] | None:
    chosen = faults.classes(kinds if kinds == "none" else f"{kinds},ambush")
    mutant = mutants.find(name)
    caught = failing(mutant, lambda seed: simulate(seed, options, STEPS, chosen), range(1, SEEDS + 1))
    if caught is None:
        return None
    with mutants.planted(mutant):
        said = said_next(caught, options) if caught.name == UNNAMED else None
    return (said or caught).name, caught.what


@pytest.mark.parametrize(("name", "seed"), [("any_frame_makes_sure", 6), ("unsure_counts_as_sure", 4)])
def test_a_copy_that_is_called_sure_too_early_is_found_by_the_seeds_of_a_hunt(name: str, seed: int) -> None:
    """One of the seeds: make hunt plays 1 to 20, with these options and steps."""
    with mutants.planted(mutants.find(name)):
        outcome = simulate(seed, varied(seed, Options()), 6_000)
    assert isinstance(outcome, FailedRun) and outcome.name == "AckedDurable"


def test_without_a_planted_bug_nothing_is_caught() -> None:
    outcome = simulate(1, STORM, STEPS, faults.classes("network,crash,pause"))
    assert not isinstance(outcome, FailedRun)
