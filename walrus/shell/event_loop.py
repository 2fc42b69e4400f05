"""asyncio's event loop with one thing more: an end to each batch of events.

asyncio runs what is scheduled with `call_soon` in the *next* iteration, behind another look for events. A
turn that ended there would cost one more system call and one more round of the loop, three times for a PUT:
on the leader when the client's request arrives, on the follower, and on the leader when the answer arrives.

    asyncio's own:   select ─► handlers of the events ─► select(0) ─► end of the turn ─► select
    here:            select ─► handlers of the events ─► end of the turn ─► select

`EndingSelector` does it with what asyncio documents: a loop may be given a selector, and runs the handlers
of a batch in the order in which the selector reported them. The selector adds one event to each batch, of a
pipe that is never written to, and the handler of that event ends the turn. A batch without any event has no
end, and what happens outside of a batch (a timer) still uses `call_soon`.

Invariant: `in_batch` is true from the return of `select` with events to the run of the last handler.
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
        """Wait for events; a batch that has any ends with one more."""
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
    """An event loop whose batches of events have an end."""

    def __init__(self) -> None:
        self.batches = EndingSelector()
        super().__init__(self.batches)
