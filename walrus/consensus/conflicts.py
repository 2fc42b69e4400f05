"""Conflict hints: how a leader finds the last entry that its log and a follower's have in common.

A newly elected leader knows nothing of its followers' logs. It sends each one a request whose predecessor
is the last entry of its own log, and a follower that lacks that predecessor rejects it. Stepping back one
entry per rejection is correct, but takes time proportional to the length of the logs. So the rejection
carries a hint (paper §5.3, last paragraphs): the term of the follower's entry at that index, and the first
index of that term in its log. The leader then skips a whole term per round trip, whichever of the two logs
it is in:

    the leader has entries of the conflicting term    try after the last of them: up to there the logs may
                                                      agree, beyond it they cannot
    it has none                                       try where the follower's term begins: none of the
                                                      follower's entries of that term can stay
    the follower's log is too short                   try after its end

An example. The leader of term 7 has the first log; four followers come back with other logs:

    index         1  2  3  4  5  6  7  8  9
    leader        1  1  3  3  3  6  6  6  7
    follower A    1  1  3  3  3                         too short
    follower B    1  1  3  3  5  5  5  5  5  5          an uncommitted term that the leader never saw
    follower C    1  1  3  3  3  3  3  3                more of term 3 than the leader has
    follower D    1  1  2  2  2  4  4  4  5             three terms that the leader never saw

Each line below is one round trip: the predecessor that the leader tried, the hint that came back, and the
index that it tries next.

>>> leader = (1, 1, 3, 3, 3, 6, 6, 6, 7)
>>> def search(*terms):
...     mine, theirs = _log(leader), _log(terms)
...     prev = mine.last_index
...     while not theirs.matches(prev, mine.term_at(prev)):
...         hint = conflict_hint(theirs, prev)
...         next_index = next_after_conflict(mine, prev, hint)
...         print(f"prev {prev} term {mine.term_at(prev)}: rejected, {hint}; try {next_index}")
...         prev = next_index - 1
...     print(f"prev {prev} term {mine.term_at(prev)}: agreed")
>>> search(1, 1, 3, 3, 3)
prev 9 term 7: rejected, Conflict(term=0, index=6); try 6
prev 5 term 3: agreed
>>> search(1, 1, 3, 3, 5, 5, 5, 5, 5, 5)
prev 9 term 7: rejected, Conflict(term=5, index=5); try 5
prev 4 term 3: agreed
>>> search(1, 1, 3, 3, 3, 3, 3, 3)
prev 9 term 7: rejected, Conflict(term=0, index=9); try 9
prev 8 term 6: rejected, Conflict(term=3, index=3); try 6
prev 5 term 3: agreed
>>> search(1, 1, 2, 2, 2, 4, 4, 4, 5)
prev 9 term 7: rejected, Conflict(term=5, index=9); try 9
prev 8 term 6: rejected, Conflict(term=4, index=6); try 6
prev 5 term 3: rejected, Conflict(term=2, index=3); try 3
prev 2 term 1: agreed

The search terminates: each rejection moves the leader to a lower index, and at index 0 any two logs agree.
It never goes below the highest index up to which they agree, so no matching entry is sent again. A wrong
hint from a broken follower costs round trips but never safety: entries are accepted only after a
predecessor that matches.

Deliberately left out: what to do with a rejection that is out of date (`Progress.is_stale_rejection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walrus.consensus.log import RaftLog
from walrus.consensus.messages import Entry, Restored


@dataclass(frozen=True, slots=True)
class Conflict:
    """What a follower tells about the place that did not match; `term` is 0 when its log is too short."""

    term: int
    index: int


def conflict_hint(log: RaftLog, prev_log_index: int) -> Conflict:
    """The follower's half, about a predecessor that its `log` does not match."""
    if prev_log_index > log.last_index:
        return Conflict(0, log.last_index + 1)
    hint = Conflict(log.term_at(prev_log_index), log.first_index_of_term(prev_log_index))
    assert hint.index <= prev_log_index, "a term does not begin behind one of its entries"
    return hint


def next_after_conflict(log: RaftLog, prev_log_index: int, hint: Conflict) -> int:
    """The leader's half: the index of the first entry to try next, at most `prev_log_index`.

    The hint comes from outside, so it is clipped rather than trusted.
    """
    assert 0 <= prev_log_index <= log.last_index, "a leader asks about its own log"
    next_index = hint.index
    if hint.term:
        shared = log.last_index_of_term(hint.term, prev_log_index)
        next_index = hint.index if shared is None else shared + 1
    next_index = max(1, min(next_index, prev_log_index))
    assert 1 <= next_index <= max(1, prev_log_index), "the search must go down, or it would not end"
    return next_index


def _log(terms: Sequence[int]) -> RaftLog:
    """A log with entries of these terms, for the example above."""
    return RaftLog(Restored(entries=tuple(Entry(term, index) for index, term in enumerate(terms, start=1))))
