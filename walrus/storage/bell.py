"""What threads that wait for an entry are woken by.

A thread that waits looks first how often the bell was rung, then whether there is an entry, and then waits
for the next ring. What is appended after its look rings after it, so no wake-up is missed. Ringing costs an
append nothing while no thread waits: `waiting` is read, and that is all.

One bell serves all topics of an engine: a thread that is woken in vain looks, and waits again.
"""

from __future__ import annotations

from threading import Condition, RLock


class Bell:
    """Rung after an append, and whenever else a wait may be over."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.waiting = 0
        """Threads that wait, or are about to. After an exception it may stay too high: then appends ring."""
        self.rung = 0
        self._condition = Condition(self.lock)

    def __enter__(self) -> None:
        """This thread may wait from now on: appends ring."""
        with self.lock:
            self.waiting += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.waiting -= 1

    def ring(self) -> None:
        """Wake all that wait."""
        with self.lock:
            self.rung += 1
            self._condition.notify_all()

    def wait(self, rung: int, seconds: float | None) -> None:
        """Wait until the bell was rung more often than `rung` times, for so long at most."""
        with self.lock:
            if self.rung == rung:
                self._condition.wait(seconds)
