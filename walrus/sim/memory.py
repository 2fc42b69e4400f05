"""A storage engine of lists, for the simulator and for every test that needs no disk.

It keeps the promises of `Storage` as the real engine (`walrus.wal`) does, without its cost: batches are
written whole or not at all, indexes are never reused, a trim or a deletion is noted. Durability is up to its
owner: a test or the simulator says which prefix of the writes has reached the disk, and a power loss takes
the rest.

    write a, write b, write c      three pending writes
    sync(all_but=1)                a and b are durable: a disk finishes writes in their order
    lose_power()                   c is gone; its topic ends where b left it

The unit of loss is the batch, and a sync covers a prefix of the writes, across topics. Of the writes that no
sync covers, a power loss leaves a separate prefix for each topic, since the kernel writes files back in any
order; the caller of `lose_power` chooses.

Faults are attributes: `full` (nothing can be written, or one kind of write cannot be done: "write", "trim"
or "delete"), `failing` (the next sync fails, and the engine with it), `damaged` (entries whose checksum is
wrong), `dead` (the engine's process is gone, and writes no more).

Invariant: the durable length of a topic is never above its length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from walrus.storage.batch import Batch, Stamp
from walrus.storage.errors import CorruptionError, DiskFull, EngineFailed


class MemoryEngine:
    """A `Storage` of lists.

    >>> engine = MemoryEngine()
    >>> [engine.write("t", Batch.of([entry])) for entry in (b"a", b"b", b"c")]
    [0, 1, 2]
    >>> engine.sync(all_but=1); engine.lose_power(); engine.entries["t"]
    [b'a', b'b']
    """

    def __init__(self) -> None:
        self.full: bool | str = False
        self.failing = self.failed = self.dead = False
        self.entries: dict[str, list[bytes]] = {}
        """Topic -> entries from index 0 on; trimmed entries stay in the list but cannot be read."""
        self.stamps: dict[str, dict[int, Stamp]] = {}
        """Topic -> index -> stamp, for the entries that have one."""
        self.damaged: set[tuple[str, int]] = set()
        """(topic, index) of entries that cannot be read any more."""
        self._first: dict[str, int] = {}
        self._durable: dict[str, int] = {}
        self._pending: deque[tuple[str, int]] = deque()
        """(topic, its length after the write) of each write that is not durable, oldest first."""
        self._covered = 0
        """How many pending writes the sync under way covers."""

    def successor(self) -> MemoryEngine:
        """Return an engine with the same bytes for the next process, which syncs them before it answers."""
        other = MemoryEngine()
        other.entries, other.damaged, other._first = self.entries, self.damaged, self._first
        other.stamps = self.stamps
        other._durable = {topic: len(entries) for topic, entries in self.entries.items()}
        self.dead = True
        return other

    def copied(self) -> MemoryEngine:
        """Return a copy of all bytes, for another machine."""
        other = MemoryEngine()
        other.entries = {topic: list(entries) for topic, entries in self.entries.items()}
        other.stamps = {topic: dict(stamps) for topic, stamps in self.stamps.items()}
        other.damaged, other._first = set(self.damaged), dict(self._first)
        other._durable = {topic: len(entries) for topic, entries in self.entries.items()}
        return other

    def surviving(self) -> MemoryEngine:
        """Return a copy with what a power loss at this moment is certain to leave."""
        other = MemoryEngine()
        other.entries = {topic: self.entries[topic][: self.durable(topic)] for topic in self.entries}
        other.stamps = {topic: dict(stamps) for topic, stamps in self.stamps.items()}
        other._forget_lost_stamps()
        other.damaged, other._first = set(self.damaged), dict(self._first)
        other._durable = dict(self._durable)
        return other

    # --- the port ---

    def write(self, topic: str, batch: Batch) -> int:
        """See `Storage.write`."""
        batch.check()
        if self.failed or self.dead:
            raise EngineFailed("a write or a sync failed")
        if self.full in (True, "write"):
            raise DiskFull("no room")
        entries = self.entries.setdefault(topic, [])
        start = len(entries)
        entries += batch.payloads()
        self._stamp(topic, start, batch)
        self._pending.append((topic, len(entries)))
        return start

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        """See `Storage.read_batch`."""
        if start < self._first.get(topic, 0):
            raise IndexError(f"{topic}: {start} is below {self._first[topic]}")
        end = start + max_entries
        if self.damaged:
            end = min([end, *(index for name, index in self.damaged if name == topic and index >= start)])
            if end == start < len(self.entries.get(topic, ())):
                raise CorruptionError("memory", 0, topic, start)
        size = 0
        read: list[bytes] = []
        for payload in self.entries.get(topic, [])[start:end]:
            size += len(payload)
            if read and size > max_bytes:
                break
            read.append(payload)
        batch, stamps = Batch.of(read), self.stamps.get(topic)
        if not stamps:
            return batch
        runs = [stamps.get(start + at, Stamp(1, "", 0, 0)) for at in range(batch.count)]
        return Batch(
            batch.lengths, batch.blob, tuple(runs) if any(run.producer or run.at for run in runs) else ()
        )

    def _stamp(self, topic: str, start: int, batch: Batch) -> None:
        """Keep the stamp of each entry separately."""
        stamps = self.stamps.setdefault(topic, {})
        at = start
        for stamp in batch.stamps:
            one = stamp.cut(0, 1)
            for k in range(stamp.entries):
                stamps[at + k] = stamp.cut(k, k + 1) if stamp.producer else one
            at += stamp.entries

    def _forget_lost_stamps(self) -> None:
        for topic, stamps in self.stamps.items():
            end = len(self.entries.get(topic, ()))
            self.stamps[topic] = {index: stamp for index, stamp in stamps.items() if index < end}

    def bounds(self, topic: str) -> tuple[int, int]:
        """See `Storage.bounds`."""
        return self._first.get(topic, 0), len(self.entries.get(topic, ()))

    def topics(self) -> list[str]:
        """See `Storage.topics`."""
        return sorted(topic for topic, entries in self.entries.items() if entries)

    def trim(self, topic: str, before: int) -> None:
        """See `Storage.trim`."""
        if self.full in (True, "trim"):
            raise DiskFull("no room to note it")
        self._first[topic] = max(before, self._first.get(topic, 0))

    def delete_topic(self, topic: str) -> None:
        """See `Storage.delete_topic`."""
        if self.full in (True, "delete") and self.entries.get(topic):
            raise DiskFull("no room to note it")
        self.entries.pop(topic, None)
        self.stamps.pop(topic, None)
        self._first.pop(topic, None)
        self._durable.pop(topic, None)
        self.damaged -= {(name, index) for name, index in self.damaged if name == topic}
        kept = [(name, end) for name, end in self._pending if name != topic]
        covered = [name for name, _ in list(self._pending)[: self._covered] if name != topic]
        self._covered, self._pending = len(covered), deque(kept)

    # --- what reaches the disk ---

    @property
    def pending(self) -> int:
        """Return how many writes are not durable."""
        return len(self._pending)

    def durable(self, topic: str) -> int:
        """Return the length of the topic that no power loss can take."""
        return self._durable.get(topic, 0)

    def start_sync(self) -> None:
        """Begin a sync of everything written so far."""
        self._covered = len(self._pending)

    def finish_sync(self) -> None:
        """Make durable what was written when the sync began. Raises EngineFailed if it fails."""
        if self.failing or self.failed:
            self.failing, self.failed = False, True
            raise EngineFailed("the sync failed")
        for _ in range(self._covered):
            topic, end = self._pending.popleft()
            self._durable[topic] = end
        self._covered = 0

    def sync(self, all_but: int = 0) -> None:
        """Make all writes durable but the newest `all_but`."""
        self._covered = max(0, len(self._pending) - all_but)
        self.finish_sync()

    def lose_power(self, survive: Callable[[Sequence[int]], int] = min) -> None:
        """Keep what is durable, and of each topic as much of the rest as `survive` chooses.

        `survive` takes the possible lengths of a topic, the durable one and the one after each later write,
        and returns one of them. By default only durable entries survive.
        """
        ends: dict[str, list[int]] = {}
        for topic, end in self._pending:
            ends.setdefault(topic, [self.durable(topic)]).append(end)
        for topic in sorted(ends):
            del self.entries[topic][survive(ends[topic]) :]
        self._forget_lost_stamps()
        self._durable = {topic: len(entries) for topic, entries in self.entries.items()}
        self._pending.clear()
        self._covered = 0

    def rot(self, topic: str, index: int) -> bool:
        """Make a durable entry unreadable from now on, as a flipped bit would."""
        there = self._first.get(topic, 0) <= index < self.durable(topic)
        if there:
            self.damaged.add((topic, index))
        return there

    def lengths(self) -> dict[str, int]:
        """Return the number of entries per topic."""
        return {topic: len(entries) for topic, entries in self.entries.items()}
