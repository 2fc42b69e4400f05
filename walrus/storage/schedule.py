"""The two promises a user of the engine chooses: how durable an append is, how exact a cursor."""

from __future__ import annotations

from typing import ClassVar

import msgspec


class FsyncSchedule(msgspec.Struct, frozen=True):
    """When appended entries are made durable against a power loss. A process crash loses nothing either way.

    >>> FsyncSchedule.milliseconds(200)
    FsyncSchedule(interval=0.2, loop=False)
    """

    interval: float | None = 0.0
    """Seconds between syncs; 0: before every append returns; None: never by itself."""

    loop: bool = False
    """Whether an event loop syncs, and waits for that before it answers: see `group_commit`."""

    @classmethod
    def sync_each(cls) -> FsyncSchedule:
        """An append that has returned survives a power loss. Threads that append together share syncs."""
        return cls(0.0)

    @classmethod
    def milliseconds(cls, interval: int) -> FsyncSchedule:
        """A power loss costs at most the last `interval` milliseconds (at least 1; else ValueError)."""
        if interval < 1:
            raise ValueError(f"every {interval} ms: give at least 1, or use sync_each()")
        return cls(interval / 1000)

    @classmethod
    def no_fsync(cls) -> FsyncSchedule:
        """The kernel writes back when it likes; `sync()` and `close()` still sync."""
        return cls(None)

    @classmethod
    def group_commit(cls) -> FsyncSchedule:
        """For event loops that use `Walrus.syncer()` and hold back acknowledgements until a sync is done.

        No append waits, and none is durable before such a sync; like `sync_each` in everything else.
        """
        return cls(None, loop=True)

    @property
    def syncing(self) -> bool:
        """Whether any caller relies on what was synced."""
        return self.loop or self.interval is not None

    @property
    def each(self) -> bool:
        """Whether every append waits for the disk."""
        return self.interval == 0.0


class ReadConsistency(msgspec.Struct, frozen=True):
    """How often the position of a topic's cursor is persisted: how much a crash delivers again.

    No entry is ever skipped, in either mode, wherever a crash or an exception falls: a position is persisted
    only after the reads up to it have returned. So what was handed out last may be handed out again.

    | after a crash of the process or, under `sync_each`, of the machine | delivered again at most |
    |---|---|
    | `strictly_at_once()` | the last read: one entry, or the entries of one batch |
    | `at_least_once(n)` | the last `n` entries, or the last read if that was a larger batch |
    | either, with several threads reading one topic | in addition the last read of each other thread |
    | either, after `close()` | nothing |

    Under a schedule that does not sync each append, a power loss also takes the positions that were not
    synced: as many entries come again as were read since the last sync.

    >>> ReadConsistency.at_least_once(persist_every=1000)
    ReadConsistency(persist_every=1000)
    """

    persist_every: int = 1
    """Entries that may have been delivered and not noted."""

    MOST: ClassVar[int] = 1 << 32

    @classmethod
    def strictly_at_once(cls) -> ReadConsistency:
        """Each read that moves the cursor first persists what the reads before it delivered."""
        return cls(1)

    @classmethod
    def at_least_once(cls, persist_every: int = 1000) -> ReadConsistency:
        """A crash delivers at most `persist_every` entries again (or the last batch, if that was larger)."""
        if not 1 <= persist_every <= cls.MOST:
            raise ValueError(f"persist_every={persist_every}: give a number of entries, at least 1")
        return cls(persist_every)
