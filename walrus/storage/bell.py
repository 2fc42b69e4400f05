"""A bell that wakes threads which wait for an entry.

A thread that waits first reads how often the bell has rung, then looks for an entry, and then waits for the
next ring. An append after that look rings the bell after it, so no wake-up is missed. While no thread waits,
ringing costs an append only the read of `waiting`.

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
