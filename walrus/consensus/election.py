"""Elections: the timer, the votes, and the rules that keep elections rare and short.

A follower that hears nothing for a random time starts an election (paper §5.2). Here it first asks for
*pre-votes* (dissertation §9.6): would the others vote for it? A pre-vote changes no term, so a server that
was cut off, or removed, comes back without deposing a leader. With a majority of pre-votes it *campaigns*:
it enters a new term, votes for itself, and asks for votes.

Votes are collected in sets, so a duplicated answer counts once. A candidate's own vote is counted like any
other, once it is durable.

When the leader's process dies, all followers notice at once and would campaign at once, each with its own
vote and none with a majority. Two measures avoid such a split vote: a small random delay, and a tie-break
between two servers that ask for pre-votes at the same time (`yields_to`). The tie-break applies to
pre-votes only, and safety never rests on those: a pre-vote may be withheld for any reason.

    FOLLOWER --timeout--> PRE_CANDIDATE --a majority of pre-votes--> CANDIDATE --a majority of votes--> LEADER
       ^                    |   ^ timeout                               |  timeout: back to PRE_CANDIDATE
       +--------------------+---+---------------------------------------+
         a majority refuses, or a leader of this term or a message of a newer term appears

Invariants: no server is both in `granted` and in `refused`.
"""

from __future__ import annotations

import math

from walrus.consensus.log import LogPosition
from walrus.consensus.messages import Membership, RaftConfig, Rng


class Election:
    """The election timer, and the answers to one round of pre-votes or votes.

    >>> import random
    >>> election = Election(RaftConfig(election_timeout=0.3), random.Random(1))
    >>> election.begin(now=10.0)
    >>> 10.3 <= election.deadline < 10.6
    True
    >>> election.collect(1, True); election.collect(2, True); election.collect(2, True)
    >>> election.won(Membership((1, 2, 3))), election.won(Membership((1, 2, 3, 4)))
    (True, False)
    """

    __slots__ = ("_config", "_rng", "deadline", "granted", "refused", "started_at")

    def __init__(self, config: RaftConfig, rng: Rng) -> None:
        self._config, self._rng = config, rng
        self.deadline = math.inf
        self.started_at = -math.inf
        self.granted: set[int] = set()
        self.refused: set[int] = set()

    def reset(self, now: float) -> None:
        """Wait a freshly drawn time from now on (paper §5.2: randomised, so that votes rarely split)."""
        timeout = self._config.election_timeout
        self.deadline = now + self._rng.uniform(timeout, 2 * timeout)
        assert now < self.deadline < math.inf

    def expire_soon(self, now: float) -> None:
        """There certainly is no leader at `now`: time out within a heartbeat of it, at a random instant."""
        soon = now + self._rng.uniform(0.0, self._config.heartbeat_interval)
        self.deadline = min(self.deadline, soon)
        assert self.deadline <= soon, "the timer is shortened, never prolonged"

    def disable(self) -> None:
        """Stop the timer: non-voters and the leader have none."""
        self.deadline = math.inf

    def begin(self, now: float) -> None:
        """Start a round of pre-votes or votes: no answers yet, and a deadline for it."""
        self.granted.clear()
        self.refused.clear()
        self.started_at = now
        self.reset(now)
        assert not self.granted and not self.refused, (
            "ElectionSafety: answers of the round before count for nothing"
        )

    def collect(self, voter: int, granted: bool) -> None:
        """Note one answer; the first one of each voter counts.

        A network that duplicates or reorders can show a voter's answers in any order and number. Within
        one term they cannot differ, but those to two rounds of pre-votes in one term can.
        """
        assert self.started_at > -math.inf, "an answer to a question that was never asked"
        if voter not in self.granted and voter not in self.refused:
            (self.granted if granted else self.refused).add(voter)
        assert not self.granted & self.refused, "ElectionSafety: one voter says both"

    def won(self, membership: Membership) -> bool:
        """Return whether a majority of the voters granted it. Answers of other servers do not count."""
        return len(self.granted.intersection(membership.voters)) >= membership.quorum

    def lost(self, membership: Membership) -> bool:
        """Return whether it can no longer be won."""
        refused = len(self.refused.intersection(membership.voters))
        lost = len(membership.voters) - refused < membership.quorum
        assert not (lost and self.won(membership)), "ElectionSafety: two majorities share a voter"
        return lost

    def yields_to(self, mine: tuple[LogPosition, int], theirs: tuple[LogPosition, int], now: float) -> bool:
        """Return whether to grant the pre-vote of `theirs` while this server asks for pre-votes itself.

        Of two that ask at the same time the one with the better log goes on, then the one with the higher
        id (the second component). Only while this server's own round is fresh and the other has not refused
        it: it may have refused because it had not noticed yet that the leader is gone, and holding that
        against it would leave both waiting for another timeout.
        """
        assert mine[1] != theirs[1], "a server does not compete with itself"
        assert self.started_at > -math.inf, "only a server that asks has something to yield"
        fresh = now - self.started_at < self._config.heartbeat_interval
        return theirs > mine or not fresh or theirs[1] in self.refused

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert not self.granted & self.refused, "ElectionSafety: one voter says both"
        assert self.deadline > -math.inf
