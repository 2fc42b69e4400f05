"""A histogram of durations: how often something took how long, in a dozen numbers.

A mean hides what hurts, and keeping every duration costs memory that grows. So a duration is counted in one
of a few buckets whose bounds never change: histograms of several nodes, or of one node at two moments, can be
added and subtracted bucket by bucket, which is what a monitoring system does to get a percentile of the last
five minutes.

Invariant: `counts` has one bucket more than `BOUNDS`, for what took longer than all of them.

Left out: percentiles. They cannot be added, so they are computed where the figures are looked at.
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
        """Seconds, of all observations together."""

    def observe(self, seconds: float, count: int = 1) -> None:
        """Note that something took so long, `count` times."""
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count

    def view(self) -> dict[str, Any]:
        """Return the figures as METRICS has them: `counts` are of each bucket alone, not cumulated."""
        return {"bounds": BOUNDS, "counts": self.counts, "sum": self.total}
