"""What a leader knows about one follower, and how much it may send it (paper §5.3, Figure 2).

A follower is in one of three states:

    PROBE       the leader does not know where the logs agree: one request at a time, at next_index
    REPLICATE   they agree up to next_index - 1: requests go out ahead of the answers (dissertation
                §10.2.2, pipelining), as long as fewer than max_inflight_bytes wait for an answer
    SNAPSHOT    what it needs next is compacted away: chunks of a snapshot, one at a time (paper §7)

           1 ... match_index | match_index+1 ... next_index-1 | next_index ... last_index
           durable there     | sent, not acknowledged yet     | not sent yet

How it moves between them:

    from         event                                        to          because
    PROBE        an answer agrees at next_index - 1           REPLICATE   the logs agree there
    PROBE        a rejection                                  PROBE       further back (conflicts.py)
    REPLICATE    a rejection, or the process has ended        PROBE       something in between was lost
    any          next_index is covered by our snapshot        SNAPSHOT    the leader dropped those entries
    SNAPSHOT     the follower installed it                    REPLICATE   they agree up to its last index
    SNAPSHOT     the process has ended                        PROBE       it may have lost what it received

A lost message reveals itself: every request names its predecessor, so the follower rejects the next
heartbeat, and the leader puts it back to PROBE. There is no timer per request.

Invariants: match_index < next_index; inflight_bytes is the sum over `inflight`; `inflight` is empty
outside REPLICATE; a transfer exists exactly in SNAPSHOT.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from walrus.consensus.log import entry_bytes
from walrus.consensus.messages import Entry, Snapshot


class ProgressState(enum.Enum):
    """How a leader sends to a follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True, kw_only=True)
class SnapshotTransfer:
    """One snapshot under way to one follower: it stays the same even if the leader compacts again."""

    snapshot: Snapshot
    offset: int = 0
    """The follower holds everything before it."""
    sent_at: float | None = None
    """When the chunk at `offset` was sent; None when it is to be sent now."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """One follower, as the leader sees it.

    >>> follower = Progress(next_index=8)
    >>> follower.may_send(1000), follower.sent(()), follower.may_send(1000)
    (True, None, False)
    >>> follower.rejected(next_index=5); follower.sent(()); follower.accepted(prev_log_index=4, match_index=4)
    >>> follower.state, follower.next_index
    (<ProgressState.REPLICATE: 'replicate'>, 5)
    """

    next_index: int
    match_index: int = 0
    state: ProgressState = ProgressState.PROBE
    probe_sent: bool = False
    inflight: deque[tuple[int, int]] = field(default_factory=deque)
    """(last index, bytes) of each request that carries entries and is not acknowledged yet."""
    inflight_bytes: int = 0
    sent_commit: int = 0
    """The highest commit index it was told."""
    acked_round: int = -1
    """The latest round of heartbeats it answered; -1 before the first."""
    last_heard: float = float("-inf")
    transfer: SnapshotTransfer | None = None

    def heard(self, round_number: int, now: float) -> None:
        """Note that it answered something sent in that round. Answers may arrive in any order."""
        assert round_number >= 0, "rounds are numbered from 0"
        self.acked_round = max(self.acked_round, round_number)
        self.last_heard = now

    def may_send(self, max_inflight_bytes: int) -> bool:
        """Return whether another request with entries may go out now."""
        assert max_inflight_bytes > 0, "a budget of nothing would send nothing for ever"
        if self.state is ProgressState.PROBE:
            return not self.probe_sent
        return self.state is ProgressState.REPLICATE and self.inflight_bytes < max_inflight_bytes

    def sent(self, entries: Sequence[Entry]) -> None:
        """Note that a request with these entries, beginning at next_index, went out.

        In PROBE next_index stays: whether the entries fit there is what the probe asks.
        """
        assert self.state is not ProgressState.SNAPSHOT, "LogMatching: entries overtake a snapshot"
        assert not entries or entries[0].index == self.next_index, "LogMatching: a gap, or a repetition"
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif entries:
            size = sum(map(entry_bytes, entries))
            self.next_index = entries[-1].index + 1
            self.inflight.append((entries[-1].index, size))
            self.inflight_bytes += size

    def accepted(self, prev_log_index: int, match_index: int) -> None:
        """Note that it agreed at prev_log_index and holds everything up to match_index durably."""
        assert self.transfer is None, "LogMatching: an answer moves what a snapshot will"
        self.match_index = max(self.match_index, match_index)
        self.next_index = max(self.next_index, self.match_index + 1)
        while self.inflight and self.inflight[0][0] <= self.match_index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        if self.state is ProgressState.PROBE and prev_log_index >= self.next_index - 1:
            # What the probe carried may not be durable there yet. It is sent once more, which costs one
            # request and saves a record of what a probe carried.
            self.state = ProgressState.REPLICATE
            self.next_index = max(prev_log_index, self.match_index) + 1
        elif self.state is ProgressState.PROBE and self.match_index == self.next_index - 1:
            self.state = ProgressState.REPLICATE
        assert self.match_index < self.next_index, "LogMatching: sent again what is acknowledged"
        assert self.inflight_bytes >= 0

    def is_stale_rejection(self, prev_log_index: int) -> bool:
        """Return whether later news has overtaken this rejection: acting on it would send things twice."""
        assert self.match_index < self.next_index, "LogMatching: sent again what is acknowledged"
        if self.state is ProgressState.PROBE:
            return prev_log_index != self.next_index - 1
        return self.state is ProgressState.SNAPSHOT or prev_log_index <= self.match_index

    def rejected(self, next_index: int) -> None:
        """Its log does not continue there: look further back, one request at a time."""
        assert self.state is not ProgressState.SNAPSHOT, "LogMatching: nothing to reject in a snapshot"
        self.probe_from(next_index)

    def probe_from(self, next_index: int) -> None:
        """Forget what is in flight and ask from next_index on (never below what it acknowledged).

        What it acknowledged is durable there and agrees with the leader's log, so going below could only
        repeat entries.
        """
        self.state = ProgressState.PROBE
        self.next_index = max(next_index, self.match_index + 1)
        self.probe_sent = False
        self.transfer = None
        self._forget_inflight()
        assert self.may_send(1), "CommitProgress: a probe is never postponed"

    def start_snapshot(self, snapshot: Snapshot) -> None:
        """Send this in place of the entries that are compacted away."""
        assert self.transfer is None, "one snapshot at a time"
        assert snapshot.index >= self.next_index, "entries would do"
        self.state = ProgressState.SNAPSHOT
        self.transfer = SnapshotTransfer(snapshot=snapshot)
        self._forget_inflight()

    def finish_snapshot(self) -> None:
        """It has installed the snapshot, durably; entries follow from there."""
        assert self.transfer is not None, "nothing to finish"
        self.match_index = max(self.match_index, self.transfer.snapshot.index)
        self.next_index = self.match_index + 1
        self.state = ProgressState.REPLICATE
        self.transfer = None
        assert not self.inflight, "no entries were sent beside the snapshot"

    def _forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert 0 <= self.match_index < self.next_index, "LogMatching: sent again what is acknowledged"
        assert self.inflight_bytes == sum(size for _, size in self.inflight), (
            "CommitProgress: a window that does not add up stays shut"
        )
        assert not self.inflight or self.state is ProgressState.REPLICATE, "LogMatching: two probes"
        assert (self.transfer is not None) == (self.state is ProgressState.SNAPSHOT)
        ends = [index for index, _ in self.inflight]
        assert ends == sorted(set(ends)) and all(self.match_index < end < self.next_index for end in ends), (
            "LogMatching: what is on its way is acknowledged, or was never sent"
        )
