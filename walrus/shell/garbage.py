"""When the interpreter looks for garbage: often among what is young, hardly ever among the rest.

A node with 100,000 topics has millions of objects that stay. A collection of all of them takes 6 ms for each
1,000 topics, in which it answers nothing. So what there is when it begins to serve is left out of collections
for good (`gc.freeze`), and a full one comes only when thousands of smaller ones are over.

**What is young is collected by the clock as well.** The interpreter counts the objects made less those that
go, and collects at 10,000. While as many go as are made, it never does:

    old = [[n] for n in range(1_000_000)]
    for n in range(1_000_000):
        new.append([n]); old[n] = None          no collection; a million young objects
    for n in range(10_000): new.append([n])     one of 84 ms (CPython 3.11)

So it is when a state takes the place of another: leaders after a failover, a snapshot, copies that are
repaired. With 100,000 topics such a collection took half a second. A look each quarter of a second finds what
was made since, and is still there.
"""

from __future__ import annotations

import gc

EVERY = 0.25
"""Seconds between two collections of what is young."""

YOUNG, MIDDLE, FULL = 10_000, 3, 10_000
"""The middle generation has at most 40,000 objects (four young ones) by count, which takes 15 ms to collect;
400,000 took 120 ms. At four collections a second a full one comes after 40 minutes at the earliest, and then
only if a quarter of all objects is new."""


def begin() -> None:
    """Exclude the objects of now from collections, since they live as long as the process; set how often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, FULL)


def collect_young() -> None:
    """Collect the young and the middle generation: what was made since the last time, and is still there."""
    gc.collect(1)
