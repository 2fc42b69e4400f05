"""Deadlines: what is due, in the order of time, in memory that is bounded by what still waits.

A heap gives the first deadline cheaply, but cannot give up one in its middle: what ended early would stay in
it until its time. A client that asks a thousand times a second, is answered at once, and would have waited
for a day each time, would fill the memory of a node with that. So whether a deadline still stands is asked of
its owner, and those that do not are swept out as soon as they may be more than half.

Invariant: at most twice as many deadlines are kept as stood at the last sweep, and `SWEEP_AT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K")

SWEEP_AT = 64
"""A heap that is shorter is not worth a sweep."""


class Deadlines(Generic[K]):
    """When something is due for each key. Keys are compared with each other at equal times.

    >>> waiting = {"a", "b"}
    >>> deadlines = Deadlines(lambda key, at: key in waiting)
    >>> deadlines.add(2.0, "b")
    >>> deadlines.add(1.0, "a")
    >>> waiting.remove("a")
    >>> deadlines.first(), list(deadlines.due(2.0)), deadlines.first()
    (2.0, ['b'], inf)
    """

    __slots__ = ("_heap", "_limit", "_stands")

    def __init__(self, stands: Callable[[K, float], bool]) -> None:
        """`stands(key, at)`: whether something still waits for that; what does not is never due."""
        self._stands = stands
        self._heap: list[tuple[float, K]] = []
        self._limit = SWEEP_AT

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, key: K) -> None:
        """Something is due for `key` then."""
        if len(self._heap) >= self._limit:
            self._heap = [(time, other) for time, other in self._heap if self._stands(other, time)]
            heapify(self._heap)
            self._limit = max(SWEEP_AT, 2 * len(self._heap))
        heappush(self._heap, (at, key))

    def bounded(self) -> bool:
        """Whether the deadlines that are kept are no more than the invariant says."""
        return len(self._heap) <= self._limit

    def first(self) -> float:
        """When something is due first; infinity for never."""
        while self._heap and not self._stands(self._heap[0][1], self._heap[0][0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[K]:
        """What is due, each once, in the order of time; what is added meanwhile for no later counts, too."""
        while self.first() <= now:
            yield heappop(self._heap)[1]
