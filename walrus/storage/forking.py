"""A forked copy of an engine: it refuses every call and holds nothing.

`fork` copies a process with one of its threads. The copy of an engine has the same descriptors, the same
mappings and the same idea of where the log ends as the one in the parent, and from then on neither learns
what the other writes: two writers, each of which overwrites entries that the other has acknowledged. Locks
that another thread held at that instant are held for ever in the copy, and its sync thread does not exist.

So the copy is closed at once, in the child, before `fork` returns there. It takes no lock for that, closes
the descriptors (`flock` belongs to the open file description, which parent and child share, so a child that
kept it open would keep the directory locked after its parent has died), and passes no queued write to the
kernel. From then on each call raises `EngineForked`, which says what to do. The parent notices nothing.

`subprocess` is not affected: it executes another program, and every descriptor is closed on the way.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What has to hear of it."""

    def forked(self) -> None:
        """This is the copy in the child; there is no other thread."""


_alive: WeakSet[Forkable] = WeakSet()


def remember(one: Forkable) -> None:
    """Call its `forked` in each child of this process, for as long as it lives."""
    _alive.add(one)


def forget(one: Forkable) -> None:
    """It is closed: it holds nothing that a child could get."""
    _alive.discard(one)


def _in_child() -> None:
    for one in list(_alive):
        one.forked()
    _alive.clear()


os.register_at_fork(after_in_child=_in_child)
