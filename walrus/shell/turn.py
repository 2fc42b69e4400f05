"""The turn: whatever one pass of the event loop brought takes effect together.

    sockets, timers, syncs that ended ──► controller.on_...(..., now)      as they happen; each wakes the turn
                                             │
    end of the turn:  controller.flush(now)  │   one record, one message per replica, for all that arrived
                      carry out the effects ◄┘   messages and replies are queued on their connections
                      flush the connections      one write per connection
                      start the syncs            of each engine that was written to, unless one is under way
                      set the timer              for the controller's next deadline

The end comes in the very pass in which the events arrived (`event_loop.py`), not one `select` later.

That is group commit: a hundred PUTs that arrive in one pass become one record, one write, one sync, one
message per replica, and one write per connection on the way back. Messages leave before the sync starts, so
the replicas sync while this node does.

With `--fsync each` an entry counts once it is synced (`AsyncGroupCommit` reports that). With every other
schedule it counts once the kernel has it, which survives the death of the process: the turn itself reports
what it wrote as durable, and goes on until nothing new is written or said. Raft's engine is always synced
before anything that depends on it is sent.

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
"""Timers are this coarse: an idle node must not wake up for every deadline on its own."""

monotonic = time.monotonic
"""The event loop's clock too."""


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
        """`synced_each`: whether entries count only once synced. `grain` (seconds): how far off a timer may
        be; under load the next deadline is then not computed in every turn."""
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
        """Something happened: end this turn once everything that arrived with it has been handed in."""
        if not self._due:
            self._due = True
            if self._batches is None or not self._batches.in_batch:
                self._loop.call_soon(self._end_if_due)

    def wake_to_send(self) -> None:
        """A connection has something to send: an end of this turn, unless it has come that far anyway."""
        if not self._carrying_out:
            self.wake()

    def stop(self) -> None:
        """Flush nothing and carry out nothing from now on."""
        self._stopped = True

    def close(self) -> None:
        """Wait for the syncs under way; start no others."""
        self.stop()
        for commit in self._commits:
            commit.close()

    def _end_if_due(self) -> None:
        if self._due:
            self.end()

    def end(self) -> None:
        """Everything that arrived has been handed in: flush, carry out, send, sync, set the timer."""
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
        """Flush where an entry counts once the kernel has it: until nothing more is written or said."""
        controller = self._controller
        while True:
            if (written := controller.data.written) > self._reported:
                self._reported = written
                controller.on_data_durable(written, now)
            controller.flush(now)
            if controller.data.written == self._reported:
                return

    def _set_timer(self, deadline: float, now: float) -> None:
        """Tick at the controller's next deadline, unless a timer that is no later is running."""
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
