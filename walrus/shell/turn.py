"""The turn: all events of one pass of the event loop take effect together.

    sockets, timers, syncs that ended ──► controller.on_...(..., now)      as they happen; each wakes the turn
                                             │
    end of the turn:  controller.flush(now)  │   one record, one message per replica, for all that arrived
                      carry out the effects ◄┘   messages and replies are queued on their connections
                      flush the connections      one write per connection
                      start the syncs            of each engine that was written to, unless one is under way
                      set the timer              for the controller's next deadline

A turn ends in the same pass in which its events arrived (`event_loop.py`), not after another `select`.

The turn is what makes group commit possible: a hundred PUTs that arrive in one pass become one record, one
write, one sync, one message per replica, and one write per connection on the way back. Messages leave before
the sync starts, so the replicas sync at the same time as this node.

With `--fsync each` an entry counts as durable once it is synced (`AsyncGroupCommit` reports that). With
every other schedule it counts once the kernel has it, since it then survives the death of the process. In
that case the turn itself reports its writes as durable, and flushes again until a flush writes nothing more.
Raft's engine is always synced before anything that depends on it is sent.

Invariants: effects are carried out in order, and none after `stop`; a reply leaves no earlier than the end of
the turn that produced it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from walrus.broker.controller import Controller
from walrus.shell.event_loop import BatchedEventLoop, EndingSelector
from walrus.shell.group_commit import AsyncGroupCommit
from walrus.wire.effects import Effect

SHORTEST_TICK = 0.005
"""Seconds. A timer is set no earlier than this, so that an idle node does not wake up for each of several
deadlines that are close together."""

monotonic = time.monotonic
"""The clock of the event loop, too."""


class Turn:
    """Ends each pass of the event loop in which something happened."""

    def __init__(
        self,
        controller: Controller,
        *,
        carry_out: Callable[[Effect], None],
        flush_connections: Callable[[], None],
        commits: Sequence[AsyncGroupCommit],
        synced_each: bool,
        grain: float,
    ) -> None:
        """`synced_each`: whether entries count only once they are synced. `grain`: by how many seconds a
        timer may be late, so that under load the next deadline need not be computed in every turn."""
        self._controller = controller
        self._carry_out = carry_out
        self._flush_connections = flush_connections
        self._commits = tuple(commits)
        self._synced_each = synced_each
        self._grain = grain
        self._loop = asyncio.get_running_loop()
        self._batches: EndingSelector | None = None
        if isinstance(self._loop, BatchedEventLoop):
            self._batches = self._loop.batches
            self._batches.end_batches_with(self._loop, self._end_if_due)
        self._due = self._stopped = self._carrying_out = False
        self._reported = 0  # the last data write that was reported as durable, without syncs
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Note an event: the turn ends once all events of this pass have been handed in."""
        if not self._due:
            self._due = True
            if self._batches is None or not self._batches.in_batch:
                self._loop.call_soon(self._end_if_due)

    def wake_to_send(self) -> None:
        """A connection has something to send: end this turn, unless its end is in progress already."""
        if not self._carrying_out:
            self.wake()

    def stop(self) -> None:
        """Flush nothing and carry out no effects from now on."""
        self._stopped = True

    def close(self) -> None:
        """Wait for the syncs in flight; start no more."""
        self.stop()
        for commit in self._commits:
            commit.close()

    def _end_if_due(self) -> None:
        if self._due:
            self.end()

    def end(self) -> None:
        """End the turn: flush, carry out effects, send, sync, set the timer."""
        self._due = False
        if self._stopped:
            return
        now, controller = monotonic(), self._controller
        if self._synced_each:
            controller.flush(now)
        else:
            self._flush_unsynced(now)
        self._carrying_out = True
        for effect in controller.take_effects():
            self._carry_out(effect)
        self._carrying_out = False
        self._flush_connections()
        for commit in self._commits:
            commit.start_if_due()
        if controller.behind:
            self.wake()
        if self._timer is None or self._timer.when() > now + self._grain:
            self._set_timer(controller.next_deadline(now), now)

    def _flush_unsynced(self, now: float) -> None:
        """Flush, where an entry counts once the kernel has it, until a flush writes nothing more."""
        controller = self._controller
        while True:
            if (written := controller.data.written) > self._reported:
                self._reported = written
                controller.on_data_durable(written, now)
            controller.flush(now)
            if controller.data.written == self._reported:
                return

    def _set_timer(self, deadline: float, now: float) -> None:
        """Tick at the controller's next deadline, unless a timer that is no later is set already."""
        when = max(deadline, now + SHORTEST_TICK)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._stopped:
            self._controller.on_tick(monotonic())
            self.wake()
