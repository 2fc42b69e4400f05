"""Walrus, the embedded engine: topics of numbered entries in one directory.

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> with Walrus(directory) as wal:
    ...     wal.append("greetings", b"Hello, Walrus!")
    ...     wal.append_batch("greetings", [b"again", b"and again"])
    ...     wal.read("greetings")
    0
    1
    Entry(index=0, data=b'Hello, Walrus!')
    >>> with Walrus(directory) as wal:
    ...     wal.read("greetings"), wal.count("greetings")
    (Entry(index=1, data=b'again'), 1)

This module is the front door. It checks all arguments before it writes anything, and provides the durability
of the schedule by waiting for syncs where it must. `walrus/storage/engine.py` is behind it;
docs/wal-format.md describes the bytes on disk.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import update_wrapper
from itertools import chain, count
from math import inf
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import Concatenate, ParamSpec, TypeVar, overload

from walrus.storage.backend import Buffer, Disk
from walrus.storage.batch import MAX_BATCH_BYTES, MAX_BATCH_ENTRIES, Batch
from walrus.storage.bell import Bell
from walrus.storage.block import Block
from walrus.storage.cursors import Cursor, Entry
from walrus.storage.engine import Engine
from walrus.storage.errors import BatchTooLarge, EngineReentered, StorageError, TokenLost
from walrus.storage.forking import forget, remember
from walrus.storage.handout import HandoutCursor, HeldEntry, Received
from walrus.storage.interrupts import reentered
from walrus.storage.log import Log, TopicGone
from walrus.storage.mapped import MappedDisk
from walrus.storage.posix import PosixDisk
from walrus.storage.reading import Reader
from walrus.storage.recovery import Damage, Recovery
from walrus.storage.scan import SPAN, damage_in
from walrus.storage.schedule import FsyncSchedule, ReadConsistency
from walrus.storage.space import file_name
from walrus.storage.syncing import Flusher, GroupCommit, Syncer

MAX_TOPIC_BYTES = 1024
_DEFAULT_READ = 1 << 20
_UNJOINED = 16 << 10  # entries of this average size are not joined, since copying them costs more ...
_MOST_PARTS = 500  # ... unless there are more than one system call takes

_logger = logging.getLogger("walrus")

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _door(method: Callable[Concatenate[Walrus, _P], _T]) -> Callable[Concatenate[Walrus, _P], _T]:
    """Decorate a public method: an exception that interrupts it leaves no lock held (see interrupts.py)."""

    def call(self: Walrus, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except StorageError:
            raise
        except BaseException as error:
            self._interrupted(error)
            raise

    update_wrapper(call, method)
    return call


class Walrus:
    """An append-only log of many topics, in a directory of its own.

    Args:
        path: the directory; default: the environment's `WALRUS_DATA_DIR`, else `./wal_files`.
        key: a name for one of several logs below `path`, any text; default: `WALRUS_INSTANCE_KEY`, else
        none. consistency: how often cursors are persisted; default: `ReadConsistency.strictly_at_once()`.
        fsync: when appends are durable; default: `FsyncSchedule.sync_each()`.
        backend: "pwritev", "mmap", "io_uring", or "auto" for the best one: on Linux "mmap" if appends do not
            wait for a sync, "io_uring" for `FsyncSchedule.group_commit()`, else "pwritev".
        retain: "all" keeps entries until `trim`; "unread" releases entries that the cursor has passed.
        disk: an open `Disk` instead of a path, for simulated disks.

    Raises `DirectoryInUse`, `FormatError`, `StorageError` (the backend is not available), `OSError`,
    ValueError. Threads may share one instance. In a forked child each call raises `EngineForked`, after
    `close` it raises `EngineClosed`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        key: str | None = None,
        consistency: ReadConsistency | None = None,
        fsync: FsyncSchedule | None = None,
        backend: str = "auto",
        retain: str = "all",
        disk: Disk | None = None,
    ) -> None:
        if retain not in ("all", "unread"):
            raise ValueError(f'retain={retain!r}: "all" keeps everything, "unread" gives read entries back')
        self._consistency = consistency or ReadConsistency.strictly_at_once()
        self._schedule = fsync or FsyncSchedule.sync_each()
        self._retain = retain
        if disk is None:
            disk = _open_disk(_directory(path, key), backend, self._schedule)
        self._engine = Engine(disk, syncing=self._schedule.syncing, keep_spare=retain == "unread")
        self._append: dict[str, Callable[[bytes], int]] = {}
        self._cursors: dict[str, Cursor] = {}
        self._handouts: dict[str, HandoutCursor] = {}
        self._bell = Bell()
        self._clock = monotonic
        self._cursors_lock = RLock()
        self._group = GroupCommit(self._engine.sync)
        self._commit = self._group.commit if self._schedule.each else None
        self._syncers: list[Syncer] = []
        self._flusher: Flusher | None = None
        remember(self)
        if self._schedule.interval:
            self._flusher = Flusher(self._engine.sync, self._schedule.interval, self._flusher_died)

    # -- appending ---------------------------------------------------------------------------------------

    def append(self, topic: str, data: Buffer) -> int:
        """Append one entry of up to 1 GiB; return its index, once it is durable as `fsync` says.

        Raises TypeError (for `str`, too), ValueError for an invalid topic, `BatchTooLarge`, `DiskFull`
        (nothing was written), `EngineFailed`.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        try:
            append = self._append.get(topic)
            index = self._first_append(topic, data) if append is None else append(data)
            if self._commit is not None:
                self._commit()
            if self._bell.waiting:
                self._bell.ring()
            return index
        except TopicGone:
            self._append.pop(topic, None)
            return self.append(topic, data)
        except StorageError:
            raise
        except BaseException as error:
            self._interrupted(error)
            raise

    @_door
    def append_batch(self, topic: str, entries: Sequence[Buffer]) -> int:
        """Append up to 2,000 entries of up to 1 GiB together, all or nothing, even across a crash.

        Returns the index of the first entry. If `entries` is empty, nothing is written, and the index of the
        next entry is returned. Raises what `append` does.
        """
        lengths, parts, size = _as_parts(entries)
        index = self._write(topic, bool(lengths), lambda log: log.append_parts(lengths, parts, size))
        if self._commit is not None and lengths:
            self._commit()
        if self._bell.waiting:
            self._bell.ring()
        return index

    @_door
    def write(self, topic: str, batch: Batch) -> int:
        """Append a batch of any number of entries without waiting for a sync; return the first one's index.

        `syncer` or `sync` makes it durable. Raises what `append` does.
        """
        index = self._write(topic, bool(batch.lengths), lambda log: log.append_batch(batch))
        if self._bell.waiting:
            self._bell.ring()
        return index

    def _write(self, topic: str, anything: bool, append: Callable[[Log], int]) -> int:
        while True:
            self._check_open()
            log = self._engine.logs.get(topic)
            if not anything:
                return 0 if log is None else log.next_index
            if log is None:
                log = self._engine.topic(_checked(topic))
            try:
                return append(log)
            except TopicGone:
                continue

    def _first_append(self, topic: str, data: bytes) -> int:
        """Append to a topic that is found or created first; remember the log's method for later appends."""
        while True:
            self._check_open()
            log = self._engine.topic(_checked(topic))
            self._append[topic] = log.append_one
            try:
                return log.append_one(data)
            except TopicGone:
                self._append.pop(topic, None)

    # -- reading with the cursor -------------------------------------------------------------------------

    @_door
    def read(self, topic: str, checkpoint: bool = True) -> Entry | None:
        """Return the entry at the topic's cursor and move the cursor past it; None if there is none.

        With `checkpoint=False` the cursor does not move. Raises `CorruptionError` for a damaged entry; the
        cursor then stays before it, and `seek` to the error's `resume` skips the damage. Raises ValueError
        if the topic is read with `receive`.
        """
        cursor = self._cursors.get(topic) or self._cursor(topic)
        if cursor is None:
            return None
        begin = cursor.index
        try:
            return cursor.next(move=checkpoint)
        except BaseException:
            cursor.rewind(begin)
            raise

    @_door
    def read_many(self, topic: str, max_bytes: int = _DEFAULT_READ, checkpoint: bool = True) -> list[Entry]:
        """Like `read`, but return up to 2,000 entries of up to `max_bytes` of payload, and at least one if
        there is any."""
        cursor = self._cursors.get(topic) or self._cursor(topic)
        if cursor is None:
            return []
        begin = cursor.index
        try:
            return cursor.batch(max_bytes, MAX_BATCH_ENTRIES, move=checkpoint)
        except BaseException:
            cursor.rewind(begin)
            raise

    @_door
    def seek(self, topic: str, index: int) -> None:
        """Move the topic's cursor to entry `index`, forwards or back, and persist it.

        Outstanding deliveries of `receive` are forgotten. Raises IndexError for an index outside `bounds`,
        KeyError for an unknown topic.
        """
        cursor = self._handouts.get(topic) or self._cursor(topic)
        if cursor is None:
            raise KeyError(f"no topic {topic!r}")
        first, following = self.bounds(topic)
        if not first <= index <= following:
            raise IndexError(f"entry {index} of {topic!r}: it has {first} to {following}")
        cursor.seek(index)
        if self._commit is not None:
            self._commit()

    def _cursor(self, topic: str) -> Cursor | None:
        self._check_open()
        with self._cursors_lock:
            if topic in self._handouts:
                raise ValueError(f"topic {topic!r} is read with receive(): it cannot be read with read() too")
            cursor, log = self._cursors.get(topic), self._engine.logs.get(topic)
            if cursor is None and log is not None:
                every, give_back = self._consistency.persist_every, self._retain == "unread"
                commit = self._commit or _no_wait
                cursor = self._cursors[topic] = Cursor(self._engine, log, every, commit, give_back=give_back)
            return cursor

    # -- receiving and acknowledging ---------------------------------------------------------------------

    @overload
    def receive(self, /, topic: str, *, visibility: float = 30.0, timeout: None) -> HeldEntry: ...
    @overload
    def receive(
        self, /, topic: str, *, visibility: float = 30.0, timeout: float | None = 0.0
    ) -> HeldEntry | None: ...
    @_door
    def receive(
        self, topic: str, *, visibility: float = 30.0, timeout: float | None = 0.0
    ) -> HeldEntry | None:
        """Hand out the first entry that is neither acknowledged nor out; None if there is none in `timeout`
        seconds.

        The entry stays out until `ack` or `nack`, or for `visibility` seconds; then, and after a crash, it
        is handed out again. Entries are out only within 1,000 of the first that is not acknowledged.
        `timeout=None` waits for ever. A topic is read with `read` or with `receive`, not with both:
        otherwise raises ValueError. Raises `CorruptionError` for a damaged entry.

        `with wal.receive("jobs", timeout=None) as received:` acknowledges the entry at the end of the block,
        and gives it back if the block raises.
        """
        with self._bell:
            deadline = inf if timeout is None else self._clock() + timeout
            while True:
                rung, now = self._bell.rung, self._clock()
                handout = self._handouts.get(topic) or self._handout(topic)
                received = None if handout is None else handout.take(now, now + visibility)
                if received is not None:
                    index, data, deliveries = received.index, received.data, received.deliveries
                    return HeldEntry(index, data, deliveries, wal=self, topic=topic)
                if now >= deadline:
                    return None
                ends = deadline if handout is None else min(deadline, handout.next_deadline())
                self._bell.wait(rung, None if ends == inf else ends - now)

    @_door
    def ack(self, topic: str, received: Received) -> bool:
        """Acknowledge an entry, even if it is out with another consumer by now: it is not handed out again.

        The cursor moves over entries that are acknowledged without a gap, and is persisted as `consistency`
        says. A crash loses acknowledgements after a gap, and these entries are handed out again. Returns
        False for an entry that does not exist, or is 1,000 or more after the first that is not acknowledged.
        Raises KeyError for an unknown topic.
        """
        done = self._in_hand(topic).acknowledge(received.index)
        if self._bell.waiting:
            self._bell.ring()
        return done

    @_door
    def nack(self, topic: str, received: Received, delay: float = 0.0) -> bool:
        """Give the entry back, to be handed out again after `delay` seconds; return False if this delivery
        is over. Raises KeyError for an unknown topic."""
        if isinstance(received, HeldEntry):
            received.leave_alone()
        out = self._in_hand(topic).give_back(received, self._clock() + delay)
        if self._bell.waiting:
            self._bell.ring()
        return out

    def _in_hand(self, topic: str) -> HandoutCursor:
        handout = self._handouts.get(topic) or self._handout(topic)
        if handout is None:
            raise KeyError(f"no topic {topic!r}")
        return handout

    def _handout(self, topic: str) -> HandoutCursor | None:
        self._check_open()
        with self._cursors_lock:
            handout, log = self._handouts.get(topic), self._engine.logs.get(topic)
            if handout is None and log is not None:
                cursor = self._cursors.get(topic)
                if cursor is not None and cursor.index != cursor.persisted:
                    raise ValueError(
                        f"topic {topic!r} is read with read(): it cannot be read with receive() too"
                    )
                self._cursors.pop(topic, None)
                every, give_back = self._consistency.persist_every, self._retain == "unread"
                commit = self._commit or _no_wait
                handout = HandoutCursor(self._engine, log, every, commit, give_back=give_back)
                self._handouts[topic] = handout
            return handout

    # -- reading without it ------------------------------------------------------------------------------

    @_door
    def read_at(
        self, topic: str, index: int, *, max_bytes: int = _DEFAULT_READ, max_entries: int = MAX_BATCH_ENTRIES
    ) -> list[Entry]:
        """Return entries from `index` on, at least one if there is any; no cursor moves.

        Raises IndexError if the entry at `index` was trimmed, `CorruptionError` if it is damaged. The list
        ends before damage further on.
        """
        batch = self.read_batch(topic, index, max_entries, max_bytes)
        return list(map(Entry, count(index), batch.payloads()))

    @_door
    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        """Like `read_at`, but return a `Batch`, which is empty at the end of the topic."""
        return Reader(self._known(topic), start).batch(max_entries, max_bytes)

    def entries(self, topic: str, start: int = 0) -> Iterator[Entry]:
        """Yield every entry from `start`, or the first that is left, to the current end of the topic.

        No cursor moves. Raises `CorruptionError` at a damaged entry, IndexError if a `trim` overtakes it.
        """
        reader = self._reader(topic, start)
        return map(Entry, count(reader.index), chain.from_iterable(self._spans(reader)))

    def follow(self, topic: str, start: int = 0, *, timeout: float | None = None) -> Iterator[Entry]:
        """Like `entries`, but wait for more at the end, until none comes for `timeout` seconds (None: for
        ever). The topic need not exist yet.
        """
        while True:
            for entry in self.entries(topic, start):
                yield entry
                start = entry.index + 1
            if not self._wait_for(topic, start, timeout):
                return

    @_door
    def _wait_for(self, topic: str, index: int, timeout: float | None) -> bool:
        """Wait until the topic has an entry `index` or a later one; return whether it has."""
        with self._bell:
            deadline = inf if timeout is None else self._clock() + timeout
            while True:
                rung, now = self._bell.rung, self._clock()
                if self._known(topic).next_index > index:
                    return True
                if now >= deadline:
                    return False
                self._bell.wait(rung, None if deadline == inf else deadline - now)

    def payloads(self, topic: str, start: int = 0) -> Iterator[bytes]:
        """Like `entries`, but yield only the payloads, as fast as possible."""
        return chain.from_iterable(self._spans(self._reader(topic, start)))

    def _reader(self, topic: str, start: int) -> Reader:
        log = self._known(topic)
        return Reader(log, max(start, log.first))

    def _spans(self, reader: Reader) -> Iterator[list[bytes]]:
        while taken := self._span(reader):
            yield taken

    @_door
    def _span(self, reader: Reader) -> list[bytes]:
        self._check_open()
        return reader.payloads(SPAN)

    def _known(self, topic: str) -> Log:
        """Return the topic's log, or an empty one if the topic does not exist."""
        self._check_open()
        return self._engine.logs.get(topic) or Log(self._engine, topic)

    # -- about topics ------------------------------------------------------------------------------------

    @_door
    def topics(self) -> list[str]:
        """Return the names of all topics, sorted."""
        self._check_open()
        return sorted(name for name, log in list(self._engine.logs.items()) if log.next_index)

    @_door
    def bounds(self, topic: str) -> tuple[int, int]:
        """Return `(first, next)`: the index of the oldest entry, and of the next one to be appended."""
        log = self._known(topic)
        return log.first, log.next_index

    @_door
    def count(self, topic: str) -> int:
        """Return how many entries the cursor has not passed, or, with `receive`, are not acknowledged."""
        self._check_open()
        if (handout := self._handouts.get(topic)) is not None:
            return handout.count()
        cursor, log = self._cursors.get(topic), self._known(topic)
        return log.next_index - max(log.first, log.cursor if cursor is None else cursor.index)

    @_door
    def counts(self) -> dict[str, int]:
        """Return `count` for every topic."""
        return {topic: self.count(topic) for topic in self.topics()}

    @_door
    def size(self, topic: str) -> int:
        """Return how many bytes the topic's records take on disk; space is released in whole blocks."""
        log = self._known(topic)
        with log.lock:
            log.settle_tail()
            return sum(block.end - block.head.start for block in log.blocks)

    @_door
    def sizes(self) -> dict[str, int]:
        """Return `size` for every topic."""
        return {topic: self.size(topic) for topic in self.topics()}

    @_door
    def trim(self, topic: str, before: int) -> None:
        """Delete the entries below `before`; a cursor below moves there. Space is freed in whole blocks."""
        log = self._known(topic)
        if log.topic_id >= 0:
            self._engine.trim(log, before)
            self._give_back()

    @_door
    def delete_topic(self, topic: str) -> None:
        """Delete the topic and its cursor; its indexes start at 0 again. An unknown topic is ignored."""
        log = self._known(topic)
        if log.topic_id >= 0:
            with self._cursors_lock:
                cursor, handout = self._cursors.pop(topic, None), self._handouts.pop(topic, None)
            self._append.pop(topic, None)
            try:
                self._engine.delete(log)
            except StorageError:
                self._keep(topic, cursor, handout)
                raise
            self._give_back()

    def _keep(self, topic: str, cursor: Cursor | None, handout: HandoutCursor | None) -> None:
        """The topic stays, and so does what its readers have delivered since it was last noted."""
        with self._cursors_lock:
            if cursor is not None:
                self._cursors.setdefault(topic, cursor)
            if handout is not None:
                self._handouts.setdefault(topic, handout)

    def _give_back(self) -> None:
        if self._commit is not None:
            self._engine.reclaim()

    @_door
    def verify(self, topic: str | None = None) -> list[Damage]:
        """Check every record (of one topic) against its checksum; return the damage, sorted by topic."""
        found: list[Damage] = []
        for name in self.topics() if topic is None else [topic]:
            log = self._known(name)
            with log.lock:
                log.settle_tail()
                blocks, bases = list(log.blocks), [*log.bases[1:], log.base + log.position]
            for block, following in zip(blocks, bases, strict=True):
                found += self._damage_in(log, block, following - block.head.base)
        return found

    def _damage_in(self, log: Log, block: Block, entries: int) -> list[Damage]:
        """Return the damage in one block; none if the block was released meanwhile."""
        base, file = block.head.base, file_name(block.extent.file)
        try:
            view = log.view(block, base)
        except IndexError:
            return []
        gaps = damage_in(view, block.life, block.head.start, block.end, entries)
        if gaps and block not in log.blocks:
            return []
        offset = block.extent.offset
        return [
            Damage(log.name, file, offset + gap.offset, base + gap.position, base + gap.resume)
            for gap in gaps
        ]

    # -- the names of the original, for programs written for it ------------------------------------------

    append_for_topic = append
    batch_append_for_topic = append_batch
    read_next = read
    batch_read_for_topic = read_many
    get_topic_entry_count = count
    get_topic_entry_counts = counts
    get_topic_size = size
    get_topic_sizes = sizes

    # -- durability and the end --------------------------------------------------------------------------

    @property
    def recovery(self) -> Recovery:
        """What recovery found when the log was opened: topics, torn writes that were cut off, damage."""
        return self._engine.recovery

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._engine.disk.backend

    @_door
    def sync(self) -> None:
        """Make all writes before this call durable. Raises `EngineFailed`."""
        self._check_open()
        self._engine.sync()

    @_door
    def syncer(self) -> Syncer:
        """Return a `Syncer`, with which an event loop syncs without blocking."""
        self._check_open()
        engine = self._engine
        doors = self._check_open, self._interrupted
        syncer = Syncer(engine.begin_sync, engine.finish_sync, engine.disk.async_sync(), *doors)
        self._syncers.append(syncer)
        return syncer

    @_door
    def close(self) -> None:
        """Persist cursors, sync, and release the directory. A second call does nothing.

        Raises `EngineFailed` if the sync fails; the directory is released in any case.
        """
        if self._engine.released:
            return
        if self._flusher is not None:
            self._flusher.stop()
        while self._syncers:
            self._syncers[-1].close()
            self._syncers.pop()
        try:
            if not self._engine.stopped:
                for _, each in sorted((self._cursors | self._handouts).items()):
                    each.persist()
        except BaseException as error:
            if not isinstance(error, StorageError):
                self._interrupted(error)  # `Engine.close`, below, takes the same locks
            raise
        finally:
            self._engine.close()
            forget(self)
            self._bell.ring()

    def __enter__(self) -> Walrus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _interrupted(self, error: BaseException) -> None:
        """An exception that the engine did not raise has interrupted a call: see storage/interrupts.py."""
        if isinstance(error, EngineReentered) and reentered():
            return  # the locks that this thread holds are those of the outer call
        cursors = [*(self._cursors | self._handouts).values()]
        locks = [self._cursors_lock, self._bell.lock, *(each.lock for each in cursors)]
        self._engine.interrupted(error, locks)
        self._group.release()
        if isinstance(error, TokenLost):  # the engine has failed, and says so
            self._engine.check_open(writing=True)

    def _check_open(self) -> None:
        if self._engine.closed:
            self._engine.check_open(writing=False)

    def forked(self) -> None:
        """In a forked child (storage/forking.py): refuse every call from now on."""
        self._append, self._cursors, self._handouts = {}, {}, {}
        self._engine.forked()
        for syncer in self._syncers:
            syncer.abandon()

    def _flusher_died(self, error: BaseException) -> None:
        """The thread of background syncs failed: all later writes raise its error."""
        # Log the text only: a handler that keeps records would keep the exception, its frames, and a file.
        _logger.error("the background sync failed: %s", str(error) or repr(error))
        cause = error.__cause__ if isinstance(error, StorageError) else error
        self._engine.fail(cause if isinstance(cause, OSError) else OSError(f"it died: {error!r}"))


def _no_wait() -> None:
    """The commit function of schedules in which nothing waits for a sync."""


# -- arguments ---------------------------------------------------------------------------------------------


def _as_bytes(data: object) -> bytes:
    """Return the bytes of a bytes-like object. Raises TypeError."""
    if isinstance(data, str):
        raise TypeError('an entry is bytes, not str: encode it, for example with text.encode("utf-8")')
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    try:
        return bytes(memoryview(data))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"an entry is bytes-like, not {type(data).__name__}") from None


def _as_parts(entries: Iterable[Buffer]) -> tuple[bytes, Sequence[bytes], int]:
    """Return the packed lengths, the payload in parts, and the size of a batch.

    Raises TypeError, `BatchTooLarge`.
    """
    if isinstance(entries, (str, bytes, bytearray, memoryview)):
        raise TypeError("a batch is a list of entries, not one entry: use append")
    entries = entries if isinstance(entries, (list, tuple)) else list(entries)
    if len(entries) > MAX_BATCH_ENTRIES:
        raise BatchTooLarge(f"{len(entries)} entries in one batch: at most {MAX_BATCH_ENTRIES}, split it")
    try:
        sizes = list(map(len, entries))
    except TypeError:
        sizes = [-1]
    total = sum(sizes)
    if total > MAX_BATCH_BYTES:
        raise BatchTooLarge(f"{total} bytes in one batch: the limit is {MAX_BATCH_BYTES}, split it")
    if total >= _UNJOINED * len(sizes) and 0 < len(sizes) <= _MOST_PARTS:
        if set(map(type, entries)) == {bytes}:
            return struct.pack(f"<{len(sizes)}I", *sizes), entries, total  # type: ignore[return-value]
        return _as_parts([_as_bytes(entry) for entry in entries])
    try:
        blob = b"".join(entries)
    except TypeError:
        return _as_parts([_as_bytes(entry) for entry in entries])
    if len(blob) != total:  # the length of some entry counts items of several bytes
        return _as_parts([_as_bytes(entry) for entry in entries])
    if sizes and sizes.count(sizes[0]) == len(sizes):  # much faster than packing each
        return sizes[0].to_bytes(4, "little") * len(sizes), [blob], total
    return struct.pack(f"<{len(sizes)}I", *sizes), [blob], total


def _checked(topic: str) -> str:
    if not isinstance(topic, str):
        raise TypeError(f"a topic's name is text, not {type(topic).__name__}")
    if (size := len(topic.encode())) > MAX_TOPIC_BYTES:
        raise ValueError(f"a topic's name has at most {MAX_TOPIC_BYTES} bytes, this one has {size}")
    return topic


def _directory(path: str | os.PathLike[str] | None, key: str | None) -> Path:
    root = Path(path or os.environ.get("WALRUS_DATA_DIR") or "wal_files")
    key = os.environ.get("WALRUS_INSTANCE_KEY") or None if key is None else key
    return root if key is None else root / key_directory(key)


def key_directory(key: str) -> str:
    """Return a directory name for a key: safe on every file system, different for different keys.

    >>> key_directory("tenant-123"), key_directory("../etc"), key_directory("A")
    ('tenant-123', '%2e%2e%2fetc', '%41')
    """
    plain = set(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
    name = "".join(chr(byte) if byte in plain else f"%{byte:02x}" for byte in key.encode())
    if len(name) > 150:
        from hashlib import sha256

        return f"{name[:80]}%%{sha256(key.encode()).hexdigest()}"
    return name or "%"


def _open_disk(directory: Path, backend: str, schedule: FsyncSchedule) -> Disk:
    if backend == "auto":
        return _best_disk(directory, schedule)
    if backend == "pwritev":
        return PosixDisk(directory)
    if backend == "mmap":
        return MappedDisk(directory)
    if backend == "io_uring":
        try:
            return _uring_disk(directory, schedule)
        except OSError as error:
            raise StorageError(f"backend io_uring is not available here: {error}") from error
    raise ValueError(f"backend={backend!r}: there are auto, pwritev, mmap and io_uring")


def _best_disk(directory: Path, schedule: FsyncSchedule) -> Disk:
    """Return the fastest disk by `benchmarks/engine.py`; on systems other than Linux, always `PosixDisk`."""
    if sys.platform != "linux" or schedule.each:
        return PosixDisk(directory)  # each append waits for its sync, which takes most of the time
    if not schedule.loop:
        return MappedDisk(directory)  # no append waits for a sync, so it costs no more than a copy in memory
    try:
        return _uring_disk(directory, schedule)  # an event loop waits for syncs, without a thread
    except OSError as error:
        _logger.info("io_uring is not available (%s): writing with pwritev", error)
        return PosixDisk(directory)


def _uring_disk(directory: Path, schedule: FsyncSchedule) -> Disk:
    from walrus.storage.uring import UringDisk

    return UringDisk(directory, queueing=schedule.each or schedule.loop)


if __name__ == "__main__":
    import runpy

    runpy.run_module("walrus.cli.wal", run_name="__main__")  # run by name: the engine must not import cli
