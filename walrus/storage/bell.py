"""A bell that wakes threads which wait for an entry.

A thread that waits first reads how often the bell has rung, then looks for an entry, and then waits for the
next ring. An append after that look also rings after it, so no wake-up is lost. While no thread waits, an
append only reads `waiting`.

One bell serves all topics of an engine. A thread that finds no entry when it is woken waits again.
"""

from __future__ import annotations

from threading import Condition, RLock


class Bell:
    """Rung after an append, and at any other event that may end a wait."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.waiting = 0
        """How many threads wait, or are about to. An exception may leave it too high; appends then ring."""
        self.rung = 0
        """How often the bell has rung."""
        self._condition = Condition(self.lock)

    def __enter__(self) -> None:
        """This thread may wait from now on, so appends must ring."""
        with self.lock:
            self.waiting += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.waiting -= 1

    def ring(self) -> None:
        """Wake all waiting threads."""
        with self.lock:
            self.rung += 1
            self._condition.notify_all()

    def wait(self, rung: int, seconds: float | None) -> None:
        """Wait until the bell has rung more than `rung` times, for at most `seconds` (None: for ever)."""
        with self.lock:
            if self.rung == rung:
                self._condition.wait(seconds)
