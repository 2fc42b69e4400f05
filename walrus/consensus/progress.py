"""What a leader knows about one follower, and how much it may send to it (paper §5.3, Figure 2).

A follower is in one of three states:

    PROBE       the leader does not know where the logs agree: one request at a time, at next_index
    REPLICATE   they agree up to next_index - 1: requests go out ahead of the answers (dissertation
                §10.2.2, pipelining), as long as fewer than max_inflight_bytes wait for an answer
    SNAPSHOT    what it needs next is compacted away: pieces of a snapshot, one at a time (paper §7)

           1 ... match_index | match_index+1 ... next_index-1 | next_index ... last_index
           durable there     | sent, not acknowledged yet     | not sent yet

A lost message shows by itself: every request names its predecessor, so the next heartbeat is refused and
the follower falls back to PROBE.

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
    """When the piece at `offset` was sent; None when it is to be sent now."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """One follower, as the leader sees it."""

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
        """It answered something sent in that round."""
        self.acked_round = max(self.acked_round, round_number)
        self.last_heard = now

    def may_send(self, max_inflight_bytes: int) -> bool:
        """May another request with entries go out now?"""
        if self.state is ProgressState.PROBE:
            return not self.probe_sent
        return self.state is ProgressState.REPLICATE and self.inflight_bytes < max_inflight_bytes

    def sent(self, entries: Sequence[Entry]) -> None:
        """A request with these entries, beginning at next_index, went out."""
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif entries:
            size = sum(map(entry_bytes, entries))
            self.next_index = entries[-1].index + 1
            self.inflight.append((entries[-1].index, size))
            self.inflight_bytes += size

    def accepted(self, prev_log_index: int, match_index: int) -> None:
        """It agreed at prev_log_index and holds match_index durably."""
        self.match_index = max(self.match_index, match_index)
        self.next_index = max(self.next_index, self.match_index + 1)
        while self.inflight and self.inflight[0][0] <= self.match_index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        if self.state is ProgressState.PROBE and prev_log_index >= self.next_index - 1:
            self.state = ProgressState.REPLICATE
            self.next_index = max(prev_log_index, self.match_index) + 1
        elif self.state is ProgressState.PROBE and self.match_index == self.next_index - 1:
            self.state = ProgressState.REPLICATE

    def is_stale_refusal(self, prev_log_index: int) -> bool:
        """Was this refusal overtaken by later news? Then acting on it would only send things twice."""
        if self.state is ProgressState.PROBE:
            return prev_log_index != self.next_index - 1
        return self.state is ProgressState.SNAPSHOT or prev_log_index <= self.match_index

    def refused(self, next_index: int) -> None:
        """Its log does not continue there: look further back, one request at a time."""
        self.probe_from(next_index)

    def probe_from(self, next_index: int) -> None:
        """Forget what is in flight and ask from next_index on (never below what it acknowledged)."""
        self.state = ProgressState.PROBE
        self.next_index = max(next_index, self.match_index + 1)
        self.probe_sent = False
        self.transfer = None
        self._forget_inflight()

    def start_snapshot(self, snapshot: Snapshot) -> None:
        """What it needs is compacted away: send it this instead."""
        self.state = ProgressState.SNAPSHOT
        self.transfer = SnapshotTransfer(snapshot=snapshot)
        self._forget_inflight()

    def finish_snapshot(self) -> None:
        """It has installed the snapshot; entries follow from there."""
        assert self.transfer is not None
        self.match_index = max(self.match_index, self.transfer.snapshot.index)
        self.next_index = self.match_index + 1
        self.state = ProgressState.REPLICATE
        self.transfer = None

    def _forget_inflight(self) -> None:
        self.inflight.clear()
        self.inflight_bytes = 0

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert 0 <= self.match_index < self.next_index
        assert self.inflight_bytes == sum(size for _, size in self.inflight)
        assert not self.inflight or self.state is ProgressState.REPLICATE
        assert (self.transfer is not None) == (self.state is ProgressState.SNAPSHOT)
