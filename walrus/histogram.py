"""A histogram of durations, in a dozen numbers.

A mean hides slow requests, and storing every duration needs unbounded memory. So a duration is counted in
one of a few buckets whose bounds never change. Histograms of several nodes, or of one node at two times, can
be added and subtracted bucket by bucket; a monitoring system does this to compute a percentile of the last
five minutes.

Invariant: `counts` has one bucket more than `BOUNDS`, for durations above all bounds.

Left out: percentiles. They cannot be added, so the reader of the figures computes them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the buckets, in seconds, each bound included."""


class Histogram:
    """Durations since the start of the process.

    >>> took = Histogram()
    >>> took.observe(0.002, 3)
    >>> took.observe(7.0)
    >>> took.counts
    [0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    >>> round(took.total, 3)
    7.006
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        """The sum of all durations, in seconds."""

    def observe(self, seconds: float, count: int = 1) -> None:
        """Count a duration, in seconds, `count` times."""
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count

    def view(self) -> dict[str, Any]:
        """Return the figures as in METRICS; `counts` are those of the buckets, not cumulative."""
        return {"bounds": BOUNDS, "counts": self.counts, "sum": self.total}
