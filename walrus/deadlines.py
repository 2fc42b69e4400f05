"""Deadlines: what is due, in the order of time, in memory bounded by the number of valid deadlines.

A heap finds the first deadline cheaply, but cannot remove one from its middle. A request that ends early
would leave its deadline in the heap until it is due. A client could send a thousand requests per second,
each of which may wait for a day and is answered at once, and so fill the memory of a node. Therefore the
owner says whether a deadline is still valid, and invalid ones are swept out once they may be more than half.

Invariant: the heap has at most twice as many deadlines as were valid at the last sweep, or `SWEEP_AT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K")

SWEEP_AT = 64
"""A shorter heap is never swept."""


class Deadlines(Generic[K]):
    """Deadlines by key. Keys must be comparable: at equal times, the smaller key comes first.

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
        """`stands(key, at)`: whether that deadline is still valid; one that is not is never due."""
        self._stands = stands
        self._heap: list[tuple[float, K]] = []
        self._limit = SWEEP_AT

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, key: K) -> None:
        """Add a deadline of `key` at the time `at`."""
        if len(self._heap) >= self._limit:
            self._heap = [(time, other) for time, other in self._heap if self._stands(other, time)]
            heapify(self._heap)
            self._limit = max(SWEEP_AT, 2 * len(self._heap))
        heappush(self._heap, (at, key))

    def bounded(self) -> bool:
        """Whether the invariant holds."""
        return len(self._heap) <= self._limit

    def first(self) -> float:
        """Return the time of the first valid deadline; infinity if there is none."""
        while self._heap and not self._stands(self._heap[0][1], self._heap[0][0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[K]:
        """Yield the keys that are due, in the order of time, including any that are added meanwhile."""
        while self.first() <= now:
            yield heappop(self._heap)[1]
