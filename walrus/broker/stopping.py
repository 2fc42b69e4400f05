"""An orderly stop: the duties that a node settles before its process ends.

There are three, in this order, all of them within `PATIENCE`:

    cursors     the positions of groups that this node serves are committed at once, not at the next
                interval; otherwise everything delivered since the last commit would be delivered again
    the others  the node stays until Raft's log has been quiet for a moment. If all nodes are stopped
                together, the last cursors of one need the others for a majority, and cannot tell that
                these stop
    leadership  a Raft leader hands it over, so that the cluster does not wait for an election timeout

Nothing here is needed for safety: a stop that is cut short is a crash, after which entries may be
redelivered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from walrus.broker.cursors import Cursors
from walrus.consensus.messages import Role
from walrus.raft import Raft

PATIENCE = 1.5
"""The most seconds that these duties may take."""

QUIET = 0.25
"""Seconds without a new or newly committed Raft entry after which no other node seems to need this one."""


class OrderlyStop:
    """The state of this node's orderly stop; nothing happens before `begin`."""

    def __init__(
        self,
        *,
        raft: Raft,
        cursors: Cursors,
        connected: Collection[int],
        voters: Callable[[], list[int]],
    ) -> None:
        self._raft, self._cursors, self._connected, self._voters = raft, cursors, connected, voters
        self._began_at: float | None = None
        self._log = (0, 0)
        self._moved_at = 0.0
        self._settled_at: float | None = None
        self._hands_over = False  # whether it has begun to transfer its leadership

    @property
    def begun(self) -> bool:
        """Whether the node has been told to stop."""
        return self._began_at is not None

    def begin(self, now: float) -> None:
        """Begin the stop; a second call changes nothing."""
        if self._began_at is None:
            self._began_at = self._moved_at = now
            self._cursors.commit_at_once()

    def on_tick(self, now: float) -> None:
        """Take the next step, if it is due."""
        if self._began_at is None:
            return
        log = self._raft.log.last_index, self._raft.commit_index
        if log != self._log:
            self._log, self._moved_at = log, now
        if self._settled_at is None and self._settled(now):
            self._settled_at = now
            heirs = [node for node in self._voters() if node in self._connected]
            if self._raft.role is Role.LEADER and heirs:
                self._hands_over = True
                self._raft.transfer_leadership(heirs[0], now)

    def _settled(self, now: float) -> bool:
        """Whether the cursors are committed, and no other node seems to need this one."""
        alone = len(self._raft.membership.voters) <= 1
        return not self._cursors.uncommitted and (alone or now - self._moved_at >= QUIET)

    def done(self, now: float) -> bool:
        """Whether the node may end: all duties are done, or `PATIENCE` is over."""
        assert self._began_at is not None, "a stop that has not begun"
        if now - self._began_at >= PATIENCE:
            return True
        leads = self._hands_over and self._raft.role is Role.LEADER
        return self._settled_at is not None and not leads
