"""asyncio's event loop, extended by a callback at the end of each batch of events.

asyncio runs a callback of `call_soon` in the *next* iteration, after another `select`. A turn that ended
there would cost one more system call and one more iteration, three times for each PUT: on the leader when
the client's request arrives, on the replica, and on the leader when the replica's answer arrives.

    asyncio's own:   select ─► handlers of the events ─► select(0) ─► end of the turn ─► select
    here:            select ─► handlers of the events ─► end of the turn ─► select

`EndingSelector` needs no private part of asyncio: a loop may be given a selector, and it runs the handlers
of a batch in the order in which the selector reported the events. The selector appends one event to each
batch, that of a pipe to which nothing is ever written, and the handler of this event ends the turn. An empty
batch gets no such event; a callback outside a batch (a timer) still uses `call_soon`.

Invariant: `in_batch` is true from the moment `select` returns events until the last handler of that batch
runs.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable


class EndingSelector(selectors.DefaultSelector):
    """A selector that adds one event to the end of each batch, once `end_batches_with` was called."""

    def __init__(self) -> None:
        super().__init__()
        self._end: list[tuple[selectors.SelectorKey, int]] = []
        self._pipe: tuple[int, int] | None = None
        self.in_batch = False

    def end_batches_with(self, loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> None:
        """Let `loop`, whose selector this is, call `handler` after the handlers of each batch."""
        assert self._pipe is None, "a batch has one end"
        self._pipe = os.pipe()

        def last() -> None:
            self.in_batch = False
            handler()

        loop.add_reader(self._pipe[0], last)
        self._end = [(self.get_key(self._pipe[0]), selectors.EVENT_READ)]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events; append the event that marks the end, unless there are none."""
        events = super().select(timeout)
        if events and self._end:
            self.in_batch = True
            events += self._end
        return events

    def close(self) -> None:
        """Release the descriptors."""
        super().close()
        if self._pipe is not None:
            for descriptor in self._pipe:
                os.close(descriptor)
            self._pipe = None


class BatchedEventLoop(asyncio.SelectorEventLoop):
    """An event loop that calls back at the end of each batch of events (`EndingSelector`)."""

    def __init__(self) -> None:
        self.batches = EndingSelector()
        super().__init__(self.batches)
