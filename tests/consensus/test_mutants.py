"""Bugs planted one at a time, each of which must be noticed.

Most are found by the chaos of `test_simulation` within a stated number of seeds. Those that need one
particular schedule (a crash between two votes of one term) are held against the test that plays that
schedule. A mutant that survives means that the tests are blind on that side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.consensus import test_known_mistakes as known
from tests.consensus.test_simulation import Chaos
from walrus.consensus.election import Election
from walrus.consensus.follower import Following
from walrus.consensus.journal import JournalError, RaftJournal
from walrus.consensus.leader import Leadership
from walrus.consensus.log import LogPosition, RaftLog
from walrus.consensus.messages import HardState, RequestVoteResponse
from walrus.consensus.outbox import RaftOutbox
from walrus.raft import Raft

Patch = Callable[[pytest.MonkeyPatch], None]
BUDGET = 40
NOTICED = (AssertionError, LookupError, ValueError, JournalError)
"""A broken invariant, or an assertion of our own on the way there."""
STEPS = 120


def vote_not_persisted(patch: pytest.MonkeyPatch) -> None:
    """The term is written, the vote is not."""
    note = RaftOutbox.note_hard_state
    patch.setattr(RaftOutbox, "note_hard_state", lambda self, state: note(self, HardState(state.term)))


def vote_sent_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """Whatever reveals a term or a vote leaves at once."""
    patch.setattr(RaftOutbox, "hard_state_pending", property(lambda self: False))


def votes_twice_a_term(patch: pytest.MonkeyPatch) -> None:
    """Every request is granted."""

    def grant(self: Raft, sender: int, message: Any, now: float) -> None:
        theirs = LogPosition(message.last_log_term, message.last_log_index)
        granted = theirs >= self.log.last and not self.is_passive
        self._outbox.send(sender, RequestVoteResponse(term=self.current_term, granted=granted))

    patch.setattr(Raft, "_handle_request_vote_request", grant)


def votes_for_any_log(patch: pytest.MonkeyPatch) -> None:
    """The election restriction (paper §5.4.1) is left out."""
    step = Raft.step

    def flatter(self: Raft, sender: int, message: Any, now: float) -> None:
        if hasattr(message, "last_log_term") and hasattr(message, "last_log_index"):
            message = replace(message, last_log_term=1 << 30)
        step(self, sender, message, now)

    patch.setattr(Raft, "step", flatter)


def ack_before_durable(patch: pytest.MonkeyPatch) -> None:
    """Entries are acknowledged when they are received."""
    patch.setattr(RaftOutbox, "send_after", RaftOutbox.send)


def leader_counts_itself_at_once(patch: pytest.MonkeyPatch) -> None:
    """The leader counts its own copy before it is durable."""

    def quorum_match(self: Leadership) -> int:
        matches = {peer: progress.match_index for peer, progress in self.progress.items()}
        return self._quorum_value(self._log.last_index, matches)

    patch.setattr(Leadership, "quorum_match", quorum_match)


def commits_with_a_minority(patch: pytest.MonkeyPatch) -> None:
    """One copy too few is enough."""

    def quorum_match(self: Leadership) -> int:
        matches = [progress.match_index for progress in self.progress.values()]
        values = sorted([self._log.persisted_index, *matches], reverse=True)
        return values[max(0, self._log.membership.quorum - 2)]

    patch.setattr(Leadership, "quorum_match", quorum_match)


def truncates_without_comparing(patch: pytest.MonkeyPatch) -> None:
    """A repeated request cuts off what came after it."""
    merge = RaftLog.merge

    def cut(self: RaftLog, entries: Any) -> int:
        if entries and self.commit_index < entries[0].index <= self.last_index:
            self._truncate(entries[0].index)
        return merge(self, entries)

    patch.setattr(RaftLog, "merge", cut)


def accepts_without_a_predecessor(patch: pytest.MonkeyPatch) -> None:
    """The consistency check compares indexes but not terms."""
    patch.setattr(RaftLog, "matches", lambda self, index, term: index <= self.last_index)


def counts_votes_instead_of_voters(patch: pytest.MonkeyPatch) -> None:
    """A duplicated answer counts twice."""

    def won(self: Election, membership: Any) -> bool:
        return _count(self) >= membership.quorum

    votes: dict[int, int] = {}

    def _count(self: Election) -> int:
        return votes.get(id(self), 0)

    def begin(self: Election, now: float) -> None:
        votes[id(self)] = 0
        original_begin(self, now)

    def collect(self: Election, voter: int, granted: bool) -> None:
        votes[id(self)] = votes.get(id(self), 0) + granted
        original_collect(self, voter, granted)

    original_begin, original_collect = Election.begin, Election.collect
    patch.setattr(Election, "won", won)
    patch.setattr(Election, "begin", begin)
    patch.setattr(Election, "collect", collect)


def believes_any_commit_index(patch: pytest.MonkeyPatch) -> None:
    """A follower commits what it has, not what the request showed to agree."""
    accept = Following._acknowledge

    def acknowledge(self: Following, sender: int, message: Any, upto: int, added: int) -> None:
        self._learn_commit(min(message.leader_commit, self._log.last_index))
        accept(self, sender, message, upto, added)

    patch.setattr(Following, "_acknowledge", acknowledge)


def trims_before_durable(patch: pytest.MonkeyPatch) -> None:
    """The journal gives up what a checkpoint replaces while the checkpoint may still be lost."""
    save = RaftJournal.save

    def eager(self: RaftJournal, ready: Any) -> None:
        save(self, ready)
        self.durable(ready)

    patch.setattr(RaftJournal, "save", eager)


FOUND_BY_CHAOS: list[Patch] = [
    votes_for_any_log,
    ack_before_durable,
    leader_counts_itself_at_once,
    commits_with_a_minority,
    accepts_without_a_predecessor,
    believes_any_commit_index,
    trims_before_durable,
]
FOUND_BY_A_SCHEDULE: list[tuple[Patch, Callable[[], None]]] = [
    (
        vote_not_persisted,
        known.test_a_vote_is_not_sent_before_it_is_durable_and_not_given_twice_after_a_crash,
    ),
    (
        vote_sent_before_it_is_durable,
        known.test_a_vote_is_not_sent_before_it_is_durable_and_not_given_twice_after_a_crash,
    ),
    (votes_twice_a_term, known.test_a_vote_is_kept_when_becoming_a_follower_in_the_same_term),
    (
        truncates_without_comparing,
        known.test_a_repeated_old_request_does_not_cut_off_what_was_acknowledged_since,
    ),
    (counts_votes_instead_of_voters, known.test_votes_are_collected_not_counted),
]


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


@pytest.mark.parametrize("mutant", FOUND_BY_CHAOS, ids=lambda mutant: mutant.__name__)
def test_chaos_finds_the_planted_bug(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert found_within(range(BUDGET)) is not None, f"{mutant.__name__} survives {BUDGET} seeds"


@pytest.mark.parametrize(("mutant", "schedule"), FOUND_BY_A_SCHEDULE, ids=lambda part: part.__name__)
def test_a_schedule_finds_the_planted_bug(
    mutant: Patch, schedule: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        schedule()
