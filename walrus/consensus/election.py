"""Elections: the timer, the ballots, and the rule that leaves a live leader alone.

A follower that hears nothing for a randomly drawn time stands for election (paper §5.2). Here it first
canvasses (PreVote, dissertation §9.6): it asks whether it *would* be elected, without touching anybody's
term, so that a server that was cut off, or removed, comes back without deposing a leader.

Ballots are collected in sets, so a duplicated answer counts once. A candidate's own vote is a ballot like
any other, and is cast when it is durable.

When the leader's process dies, everybody notices at the same moment and would stand at the same moment.
Two measures keep such an election from splitting: a small random delay, and a tie-break between two that
canvass at the same time (`yields_to`). The tie-break is a refinement of PreVote only; PreVote never carries
safety, so it may refuse whom it likes.

Invariants: nobody is both in `granted` and in `refused`.
"""

from __future__ import annotations

import math

from walrus.consensus.log import LogPosition
from walrus.consensus.messages import Membership, RaftConfig, Rng


class Election:
    """The election timer and the ballots of one canvass or one election.

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

    def hasten(self, now: float) -> None:
        """The leader is known to be gone: stand soon, but not all at the same instant."""
        self.deadline = min(self.deadline, now + self._rng.uniform(0.0, self._config.heartbeat_interval))

    def disable(self) -> None:
        """Who does not vote does not stand either; nor does who leads."""
        self.deadline = math.inf

    def begin(self, now: float) -> None:
        """A new canvass or election: no ballots yet, and a deadline for it."""
        self.granted.clear()
        self.refused.clear()
        self.started_at = now
        self.reset(now)

    def collect(self, voter: int, granted: bool) -> None:
        """One ballot; the first answer of a voter stands."""
        if voter not in self.granted and voter not in self.refused:
            (self.granted if granted else self.refused).add(voter)

    def won(self, membership: Membership) -> bool:
        """Did a majority of the voters grant it?"""
        return len(self.granted.intersection(membership.voters)) >= membership.quorum

    def lost(self, membership: Membership) -> bool:
        """Can it no longer be won?"""
        refused = len(self.refused.intersection(membership.voters))
        return len(membership.voters) - refused < membership.quorum

    def yields_to(self, mine: tuple[LogPosition, int], theirs: tuple[LogPosition, int], now: float) -> bool:
        """Of two that canvass at the same time the one with the better log, then the higher id, goes on.

        Only while our own canvass is fresh and the other has not refused us: it may have done so because
        it had not noticed yet that the leader is gone, and holding that against it would leave both
        waiting for another timeout. (Ids are the second components.)
        """
        fresh = now - self.started_at < self._config.heartbeat_interval
        return theirs > mine or not fresh or theirs[1] in self.refused

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert not self.granted & self.refused
