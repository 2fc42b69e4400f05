"""Bugs of the registry in Raft, planted one at a time, each of which must be noticed.

Most are found by the chaos of `test_simulation` within a stated number of seeds. Those that need one
particular schedule (a crash between two votes of one term) are held against the test that plays that
schedule. A bug that survives means that the tests are blind on that side. The whole registry is asked by
`python -m tools.planted`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.consensus import test_elections as elections
from tests.consensus import test_known_mistakes as known
from tests.consensus import test_replication as replication
from tests.consensus.test_simulation import Chaos
from walrus.consensus.journal import JournalError
from walrus.sim import mutants

BUDGET = 40
NOTICED = (AssertionError, LookupError, ValueError, JournalError)
"""A broken invariant, or an assertion of our own on the way there."""
STEPS = 120

FOUND_BY_CHAOS = (
    *("votes_without_log_check", "acks_before_durable", "leader_counts_unwritten", "commits_by_minority"),
    "trims_before_durable",
)
FOUND_BY_A_SCHEDULE: dict[str, Callable[[], None]] = {
    "vote_not_persisted": (
        known.test_a_vote_is_not_sent_before_it_is_durable_and_not_given_twice_after_a_crash
    ),
    "vote_sent_before_durable": (
        known.test_a_vote_is_not_sent_before_it_is_durable_and_not_given_twice_after_a_crash
    ),
    "own_vote_counts_before_durable": (
        known.test_a_lone_voter_does_not_lead_by_a_vote_that_a_crash_can_take_back
    ),
    "votes_twice": known.test_a_vote_is_kept_when_another_candidate_of_its_term_asks,
    "vote_forgotten_on_step_down": (elections.test_6_2_a_leader_that_steps_down_in_its_term_keeps_its_vote),
    "cuts_without_compare": (known.test_a_repeated_old_request_does_not_cut_off_what_was_acknowledged_since),
    "accepts_without_predecessor": (
        replication.test_5_3_a_refusal_names_the_first_entry_of_the_conflicting_term
    ),
    "believes_any_commit_index": (
        replication.test_5_3_a_commit_index_is_believed_only_as_far_as_the_request_shows_agreement
    ),
    "votes_are_counted": known.test_votes_are_collected_not_counted,
}


def found_within(seeds: range) -> int | None:
    """The first seed whose run breaks an invariant or an assertion."""
    for seed in seeds:
        try:
            chaos = Chaos(seed, *[(3, 4), (5, 6), (2, 4), (3, 5)][seed % 4])
            for _ in range(STEPS):
                chaos.step()
        except NOTICED:
            return seed
    return None


@pytest.mark.parametrize("name", FOUND_BY_CHAOS)
def test_chaos_finds_the_planted_bug(name: str) -> None:
    with mutants.planted(mutants.find(name)):
        assert found_within(range(BUDGET)) is not None, f"{name} survives {BUDGET} seeds"


@pytest.mark.parametrize("name", FOUND_BY_A_SCHEDULE)
def test_a_schedule_finds_the_planted_bug(name: str) -> None:
    with mutants.planted(mutants.find(name)), pytest.raises(AssertionError):
        FOUND_BY_A_SCHEDULE[name]()
