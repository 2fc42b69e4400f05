"""One topic: a chain of blocks, appended to at its end and read anywhere.

    block 0            block 1                 block 2 (the tail)
    [head r r r r r ]  [head r r r r r r r r]  [head r r r ......]
     base 0             base 5, previous_end    base 13            ^ offset, position

Blocks grow fourfold from 16 KiB to 4 MiB (more when records are large), so a thousand small topics cost 16
MiB and a large topic has few blocks. The head of a block says where its predecessor ends and how many
entries came before. So a full block is described without being read, and only the last one has to be
scanned.

`append_one` is the engine's hot path and written accordingly: the parts of the tail that it needs are plain
attributes in slots, and the common part of the heads of neighbouring records is summed only once. Appends
of equal size differ in one byte of the head, the low byte of `position`, and a CRC is linear: the register
after two heads that differ in some bits differs in bits that depend on nothing but those. So with `state`,
the register after the head with that byte zero,

    crc32(head, seed) == state ^ LOW[position & 255]

and a record costs one CRC of the payload and one `pack`. `shape` is the size for which this holds, and
`until` the first position for which it does not: that byte is used up, or the block is full. The same two
comparisons catch every exceptional case. Another size changes two more bytes, so `head`, the register with
those zero as well, is good for records of any size up to `page`, the next multiple of 256. Any event that
changes the head in another way (a new block, a sync, a batch), that makes the next append notify the engine
(a sync), or that forbids appends (closed, failed), sets `shape` to -1.

Three appends of 5 bytes to a block at file offset 0, whose header takes 80 (a record is 5 + 20 bytes):

    offset  position  shape  until   what happens
        80         0     -1      0   no shape: `_take_shape(5)` sums the head once, promises 256 positions
       105         1      5    256   same size, position < until: one CRC, one pack, one write
       130         2      5    256   the same; a sync that begins now sets shape to -1 ...
       130         2     -1    256   ... and the next append takes shape 5 again, with another `durable`

The states of a log. `limit` alone keeps appends out; the fast path checks nothing else:

    state     limit             left by
    empty     0, no blocks      the first append: `_roll` begins a block
    asleep    0                 the next append: `wake`
    open      the tail's end    a record that does not fit: `_roll`, and open again; or `sleep`
    stopped   0, not asleep     never: the engine is closed or has failed
    gone      0, no blocks      never: an append that still holds the log raises `TopicGone`, and starts over

Invariants, under `lock`: `offset <= limit` or `limit == 0`; `bases` is sorted and parallel to `blocks`;
`shape` keeps its promise; no record is visible to readers (which look at `offset` and `position`) before it
is written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from struct import Struct
from threading import Thread
from typing import Any, NamedTuple, NoReturn, Protocol
from zlib import crc32

from walrus.storage.backend import Buffer, File, no_descriptor, translated, write_all
from walrus.storage.batch import MAX_BATCH_BYTES, Batch
from walrus.storage.block import Block
from walrus.storage.errors import BatchTooLarge, CorruptionError, DiskFull
from walrus.storage.interrupts import deserted
from walrus.storage.mutex import Mutex
from walrus.storage.record import (
    BLOCK_HEAD_SIZE,
    MAX_BODY,
    OVERHEAD,
    RECORD_HEAD,
    STAMPED_VERSION,
    U32,
    UNIT,
    VERSION,
    ZEROS_FOLLOW,
    BlockHead,
    Life,
    encode_check,
    encode_head,
    encode_stamps,
    record_size,
)
from walrus.storage.scan import DamagedRange
from walrus.storage.space import Extent, FileGone, Space, file_name

LARGEST_BLOCK = 4 << 20
_ROOMY = 16  # a block holds about this many records, so that little is lost at its end ...
_LARGEST_ROOMY = 64 << 20  # ... unless they are this large together
_SMALL = 64 << 10  # records below this are worth finding zeroed, already written space
_ZEROS = bytes(1 << 18)

_WORTH_A_THREAD = 1 << 20  # a record whose checksum takes several times as long as starting a thread
_LARGE = 32 << 10  # entries from here on are not copied into a record but handed over in parts


def _linear(behind: int) -> list[int]:
    """What a byte of the head with `behind` more bytes behind it does to the CRC register, by its value."""
    return [crc32(bytes([value, *bytes(behind)])) ^ crc32(bytes(1 + behind)) for value in range(256)]


_LOW = _linear(7)
"""The low byte of `position`."""

_SIZE_LOW, _SIZE_HIGH = _linear(11), _linear(10)
"""The two bytes of `size` that a record below `_LARGE` uses."""


@lru_cache(maxsize=2048)
def _record_of(size: int) -> Struct:
    """A whole record of one entry of `size` bytes: head, payload, check."""
    record = Struct(f"<IIII{size}sI")
    assert record.size == size + OVERHEAD, "padding would shift every record behind it"
    return record


class Owner(Protocol):
    """What a topic asks of the engine that it belongs to.

    Locks are taken in one order, a topic's before the engine's own. So what is called here with the lock of a
    topic held may take the engine's, and what takes the locks of other topics is called with none.
    """

    space: Space
    prewrite: bool
    """Whether to write a new block once before use, so that later syncs change no metadata."""

    def check_writable(self) -> None:
        """Raise if the engine is closed or has failed."""

    def new_life(self) -> int:
        """A number that no block had before."""

    def mark_dirty(self, log: Log) -> None:
        """Called under the log's lock when it is first written to after a sync."""

    def fail(self, error: OSError) -> None:
        """Take no more writes (sets `limit` of every topic to 0)."""

    def cut(self, error: BaseException) -> None:
        """The same, because an exception cut a change in two."""

    tails: dict[Log, None]
    """The topics that hold the file of their last block open."""

    def shared(self) -> bool:
        """Whether several threads append."""

    def make_way(self) -> None:
        """Before another data file is needed: close some if there are many. No lock is held."""

    def reclaim(self, error: OSError) -> bool:
        """Try to free what there was no room for: space that waits for a sync, or descriptors.

        Return whether anything became free. No lock is held.
        """


class TopicGone(Exception):
    """The topic was deleted while another thread was about to append to it."""


class Mark(NamedTuple):
    """How far a topic had come when a sync began.

    What the sync covers is decided when it begins, and counts when it has ended:

        appended    sync                    durable_index   dirty
        0 .. 99                             0               yes: the first append told the engine
        0 .. 99     begins: upto=100        0               no
        0 .. 149    runs                    0               yes: entry 100 told it again
        0 .. 149    ends                    100             yes
        0 .. 149    the next one ends       150             no

    Taking `base + position` at the end instead would call entries durable that were written behind the sync's
    back.
    """

    log: Log
    upto: int  # the index after the last entry covered
    place: int
    files: dict[int, File]


class Log:
    """The entries of one topic."""

    touch_first = False  # whether blocks are written with zeros before use, whatever the schedule

    __slots__ = (
        "asleep",
        "base",
        "bases",
        "blocks",
        "changed",
        "cursor",
        "dirty",
        "durable",
        "durable_index",
        "durable_place",
        "file",
        "first",
        "first_sequence",
        "give",
        "gone",
        "head",
        "limit",
        "line",
        "lock",
        "mask",
        "name",
        "offset",
        "owner",
        "pack",
        "page",
        "position",
        "pwrite",
        "seed",
        "shape",
        "state",
        "tag",
        "take",
        "topic_id",
        "unsynced",
        "until",
        "version",
        "window",
    )

    def __init__(self, owner: Owner, name: str, topic_id: int = -1) -> None:
        self.owner = owner
        self.name = name
        self.topic_id = topic_id
        self.lock = Mutex(deserted)
        self.take, self.give, self.line = self.lock.take, self.lock.give, self.lock.line
        self.first = 0  # entries below were trimmed away; their blocks may still be there
        self.first_sequence = 0  # more if the name belonged to a topic whose deletion is not durable yet
        self.blocks: list[Block] = []
        self.bases: list[int] = []
        self.durable_index = 0  # entries below are known to be on disk
        self.unsynced: dict[int, File] = {}  # files written to since the last sync
        self.dirty = False  # whether the engine knows that there is something to sync
        self.changed = False  # since the journal last noted where this log ends
        # The tail. `offset` and `limit` are file offsets, `position` and `durable` count from `base`. Methods
        # that the hot path calls (`pwrite`, `pack`, `take`) are attributes, too: binding one takes as long as
        # calling it.
        self.file: File | None = None
        self.pwrite: Callable[[Buffer, int], int] = _nowhere
        self.window: memoryview | None = None
        self.offset = self.limit = self.position = self.base = self.durable = 0
        self.tag = self.seed = self.mask = self.state = 0
        self.head = self.page = 0
        self.shape, self.until = -1, 0
        self.pack: Callable[..., Any] = _record_of(0).pack
        self.gone = False  # deleted; its name may belong to another topic by now
        self.asleep = False  # the tail's file is not held open: `limit` is 0 although there is room
        self.durable_place = 0  # offset in its block behind entry `durable_index - 1`; 0: not known
        self.cursor = 0  # the persisted one
        self.version = VERSION  # of the next block, unless the one before it has a later one already

    # -- appending ---------------------------------------------------------------------------------------

    def append_one(self, data: bytes) -> int:
        """Append one entry; its index.

        `with self.lock` in line, one comparison of sizes and one of positions, one CRC, one pack, one write.
        Nothing is asserted here: `_take_shape` does that, for the 256 records that its promise is good for.
        """
        size = len(data)
        while True:
            try:
                self.take()
            except IndexError:
                self.lock.wait()
            try:
                position = self.position
                if (size == self.shape and position < self.until) or self._take_shape(size):
                    offset = self.offset
                    check = crc32(data, self.state ^ _LOW[position & 255]) ^ self.mask
                    record = self.pack(self.tag, size, position, self.durable, data, check)
                    try:
                        taken = self.pwrite(record, offset)
                        if taken != size + OVERHEAD:
                            write_all(self.file, [record[taken:]], offset + taken)  # type: ignore[arg-type]
                        # Readers go by these two, so they move when the record is whole, and not before.
                        self.offset, self.position = offset + size + OVERHEAD, position + 1
                    except BaseException as error:  # noqa: BLE001 - raised again
                        self._write_failed(error, offset)
                    return self.base + position
            finally:
                self.give(None)
                if self.line:
                    self.lock.wake()
            if size >= _LARGE:
                return self._append_large(data)
            self.make_room(size + OVERHEAD)

    def _take_shape(self, size: int) -> bool:
        """Prepare for further records of `size` bytes; False if they do not fit, or are large."""
        room, position = self.limit - self.offset, self.position
        if size >= _LARGE or size + OVERHEAD > room:
            return False
        fresh = self.shape < 0 or position >= self.page
        self.shape = -1  # first, and last what it promises: an exception in between must not leave half of it
        if fresh:
            self._sum_head(position)
        assert self.dirty, "AckedDurable: no sync would cover what is appended"
        self.state = self.head ^ _SIZE_LOW[size & 255] ^ _SIZE_HIGH[size >> 8]
        self.pack = self._packing(size)
        self.until = min(self.page, position + room // (size + OVERHEAD))
        # `room` was read once: `limit` may become 0 at any time (`stop`), and then what was promised is void.
        assert position < self.until, "a shape that is used up before its first record"
        assert (self.until - position) * (size + OVERHEAD) <= room, (
            "PrefixAgree: a record beyond the block's end"
        )
        self.shape = size
        if self.limit == 0:  # closed or failed meanwhile; neither waits for the lock
            self.shape = -1
        return self.shape == size

    def _sum_head(self, position: int) -> None:
        """Sum what the heads up to the next multiple of 256 have in common; look at what else may change."""
        if not self.dirty:
            self.owner.mark_dirty(self)
        self.head = crc32(RECORD_HEAD.pack(self.tag, 0, position & ~255, self.durable), self.seed)
        self.page = (position | 255) + 1
        if self.window is None and self.owner.shared():
            self._store()

    def _store(self) -> None:
        """Write by assignment into a mapping from here on, if the file has one.

        A system call lets the interpreter go. Where several threads append, another one then runs, and to get
        the interpreter back from it takes ten times as long as the write (docs/performance-engine.md).
        """
        assert self.file is not None, "room in no file"
        try:
            self.window = window = self.file.window(0, self.file.size)
        except OSError:  # no descriptor, or no memory, for one more mapping: system calls go on working
            return
        if window is not None:
            self.pwrite = partial(_assign, window)

    def stop(self) -> None:
        """Take no more appends. Needs no lock; one that is under way may still succeed.

        `limit` goes first and `shape` last. The other way round, an append in between would find room, take
        a new shape, and go on appending to an engine that is closed until that shape is used up.
        """
        self.limit, self.asleep = 0, False
        self.shape = -1

    def leave(self) -> None:
        """In a forked copy: never write again, not even where the lock is held by a thread of the parent."""
        self.stop()
        self.file, self.pwrite, self.window = None, _nowhere, None

    def _packing(self, size: int) -> Callable[..., Any]:
        """What makes a record of its parts, or puts it where it belongs.

        Looked up once for a shape: with each append it would be one more call on the hot path.
        """
        return _record_of(size).pack

    def append_batch(self, batch: Batch) -> int:
        """Append all of the batch, which holds at least one entry, as one record; its first index."""
        assert batch.count, "a record of no entries"
        if not batch.stamps:
            return self.append_parts(batch.lengths, [batch.blob], batch.size)
        stamps = encode_stamps(batch)
        self.version = STAMPED_VERSION
        if self.blocks and self.blocks[-1].head.version < STAMPED_VERSION:
            self.make_room(record_size(batch.count, batch.size, len(stamps)), new_block=True)
        return self.append_parts(batch.lengths, [batch.blob, stamps], batch.size, len(stamps))

    def _append_large(self, data: bytes) -> int:
        """One entry whose bytes are not copied into a record."""
        assert len(data) >= _LARGE, "an entry that `append_one` should have found room for"
        if len(data) > MAX_BATCH_BYTES:
            raise BatchTooLarge(f"an entry of {len(data)} bytes: the limit is {MAX_BATCH_BYTES}")
        return self.append_parts(U32.pack(len(data)), [data], len(data))

    def append_parts(self, lengths: bytes, parts: Sequence[bytes], payload: int, stamps: int = 0) -> int:
        """The same for a batch whose `payload` bytes, and `stamps` bytes of stamps, have not been joined."""
        count = len(lengths) >> 2
        size = record_size(count, payload, stamps)
        if size - OVERHEAD > MAX_BODY:
            raise BatchTooLarge(f"a batch of {payload} bytes does not fit into one record: split it")
        while True:
            # Under the lock from the look at the room to the write. Another thread may take the room, or the
            # block, as soon as it is given back; then there is another look.
            with self.lock:
                offset, position = self.offset, self.position
                if offset + size <= self.limit:
                    assert self.file is not None
                    if not self.dirty:
                        self.owner.mark_dirty(self)
                    life = self.blocks[-1].life
                    head = encode_head(life, position, self.durable, lengths, payload, stamps)
                    # No shape survives this: it was summed for a `position` with the same upper bytes and for
                    # a room that is smaller now, and the next single append would trust it unseen.
                    try:
                        _write_record(self.file, life, [head, *parts], offset, size)
                        self.offset, self.position, self.shape = offset + size, position + count, -1
                    except BaseException as error:  # noqa: BLE001 - raised again
                        self._write_failed(error, offset)
                    return self.base + position
            self.make_room(size)

    def _write_failed(self, error: BaseException, offset: int) -> NoReturn:
        """Take back what may have been written in part, so that a failed append is never read; raise.

        The record may have reached the disk in full. If no other follows before the log is opened again, it
        would be read then, although its append raised. So its head is overwritten with zeros now; and if even
        that fails, nothing more is written at all.

        An exception that came from outside (a signal handler's) is treated like an error of the disk that
        wrote a part, or all, of the record: the append that it cuts short has not happened.
        """
        self.shape = -1
        try:
            assert self.file is not None
            write_all(self.file, [bytes(OVERHEAD)], offset)
        except OSError as worse:
            self.owner.fail(worse)
            raise translated(worse, "taking back a failed append") from error
        if not isinstance(error, OSError):
            raise error
        failure = translated(error, f"appending to topic {self.name!r}")
        # A full disk is not a broken one: nothing was written, and there may be room later. After any other
        # error it is not known what became of earlier writes, either, and the engine takes no more.
        if not isinstance(failure, DiskFull):
            self.owner.fail(error)
        raise failure from error

    def make_room(self, size: int, *, new_block: bool = False) -> None:
        """Make sure that a record of `size` bytes fits: get a new block, unless another thread just did."""
        spared = False
        while True:
            self.owner.check_writable()
            if self.gone:
                raise TopicGone
            self.owner.make_way()
            with self.lock:
                before = self.blocks
                try:
                    self.wake()
                    if self.offset + size > self.limit or new_block:
                        self._roll(size)
                    return
                except OSError as error:
                    failure = translated(error, f"finding room for topic {self.name!r}")
                    if not isinstance(failure, DiskFull):
                        self.owner.fail(error)
                        raise failure from error
                    cause = error
                except BaseException as error:
                    self.owner.cut(error)
                    if self.blocks is not before:  # what is written no more can still be read and verified
                        self.find_tail()
                    raise
            # Outside the lock: freeing anything syncs, which needs the locks of other topics.
            try:
                if spared or not self.owner.reclaim(cause):
                    raise failure from cause
                spared = no_descriptor(cause)  # trying again takes as many as it has freed: once is enough
            finally:
                # Their tracebacks refer to frames (this one among them) that hold the file of the failed
                # attempt: kept in a variable, it would be open until the collector finds the circle.
                del failure, cause

    def wake(self) -> None:
        """Let the tail be written to; the lock is held. OSError if there is no descriptor for its file."""
        # `asleep` is cleared last: if the file cannot be opened, the topic sleeps on, and the next append
        # tries again instead of taking it for one that was stopped.
        if self.asleep:
            assert self.file is None and self.limit == 0, "a topic that sleeps is written to"
            self.enter_tail(self.owner.space.file(self.blocks[-1].extent.file))
            self.asleep = False

    def sleep(self) -> None:
        """Let go of the tail's file until the next append; the lock is held.

        What was appended and not synced stays in `unsynced`, with its file: a descriptor that was closed
        before its fsync would leave the next sync nothing to call it on, and entries would count as durable
        that are in the page cache alone.
        """
        if self.blocks:
            covered = not self.dirty or self.blocks[-1].extent.file in self.unsynced
            assert self.limit == 0 or covered, "AckedDurable: a file is let go of that no sync would cover"
            self.settle_tail()
        self.shape = -1
        self.asleep = self.asleep or self.limit > 0  # a topic that takes no appends does not wake either
        self.limit, self.window = 0, None
        self.file, self.pwrite = None, _nowhere

    def _roll(self, record: int) -> None:
        """Leave the tail block as it is and begin the next."""
        # In this order because any step may fail, for want of space or descriptors, and an append that fails
        # has changed nothing: space is found, the file opened, the block written, and only then the log
        # changed (`_adopt`), by assignments that cannot fail.
        owner, chain = self.owner, self.blocks
        previous_end, base = self.settle_tail(), self.base + self.position
        assert bool(chain) == (previous_end > 0), "AckedDurable: recovery could not tell where a block ends"
        size, start = self._next_size(record)
        extent, zeros = self._allocate(size + start, record + start)
        assert extent.size >= start + record, "a new block without room for the record that needs it"
        try:
            file = owner.space.file(extent.file)
            if self.touch_first:
                file.window(0, file.size)  # mapped now: that may fail, too
        except OSError:  # nothing was written there
            owner.space.release(extent)
            raise
        try:
            # Zeros first make later syncs cheap, for space that was written once needs no metadata, and let
            # recovery stop where they begin. For large records they would double what is written.
            small = record <= _SMALL
            stores = self.touch_first or self.window is not None
            if small and (owner.prewrite or stores or not zeros):
                _write_zeros(file, extent)
            # The first block's life names the topic. No other topic ever has it, so the blocks of a deleted
            # one are told from those of its successor, whatever becomes of the name.
            life = owner.new_life()
            head = BlockHead(
                units=extent.units,
                life=life,
                topic_id=life if self.topic_id < 0 else self.topic_id,
                sequence=chain[-1].head.sequence + 1 if chain else self.first_sequence,
                base=base,
                durable=self.durable_index,
                previous_end=previous_end,
                flags=ZEROS_FOLLOW if small or zeros else 0,
                name=self.name.encode(),
                version=max(self.version, chain[-1].head.version if chain else VERSION),
            )
            # Not synced by itself. Header and records become durable together; a crash before that may lose
            # the header, and with it only what was not durable.
            write_all(file, [head.encode(extent.file, extent.offset)], extent.offset)
        except OSError as error:
            self._give_up(extent, error)
            raise
        self.topic_id = head.topic_id
        self._adopt(Block(extent, head), file)

    def _allocate(self, wanted: int, needed: int) -> tuple[Extent, bool]:
        """Space for a block as large as we would like, else one that just holds the record."""
        assert needed <= wanted, "a block that is asked for would not hold its record"
        try:
            return self.owner.space.allocate(wanted)
        except OSError as error:
            if not isinstance(translated(error, ""), DiskFull):
                raise
            return self.owner.space.allocate(needed)

    def _give_up(self, extent: Extent, error: OSError) -> None:
        """A new block could not be written: it must not look like one after a crash.

        Its header may have reached the disk. A later open would find a block of this topic with the sequence
        number that the next attempt uses again.
        """
        assert all(block.extent != extent for block in self.blocks), (
            "AckedDurable: a block that holds entries is erased"
        )
        try:
            self.owner.space.erase(extent)
            self.owner.space.release(extent)
        except OSError:
            self.owner.fail(error)

    def _adopt(self, block: Block, file: File) -> None:
        """Make a new block the tail. Lists are replaced, not changed: readers may hold the old ones."""
        if self.blocks:
            last = self.blocks[-1]
            assert block.head.sequence == last.head.sequence + 1, (
                "AckedDurable: recovery would find a block missing"
            )
            assert block.head.base == last.next_index, "SeqOrder: entries would be counted twice, or skipped"
            assert block.head.previous_end == last.end, "AckedDurable: recovery would end a block elsewhere"
        self.blocks, self.bases = [*self.blocks, block], [*self.bases, block.head.base]
        self.enter_tail(file)
        if self.dirty:
            self.unsynced[block.extent.file] = file

    def _next_size(self, record: int) -> tuple[int, int]:
        """Bytes to ask for, and those that the header takes of them.

        Fourfold growth bounds the waste in the last block by three quarters of what the topic holds, and a
        topic of a gigabyte still has few blocks. Large records get a block for `_ROOMY` of them, because
        half a record, on average, is lost at the end of each.

            records of   blocks, in KiB               because
            100 B        16  64  256  1024  4096 ...  fourfold, up to `LARGEST_BLOCK`
            300 KiB      about 4800 each              `_ROOMY` records
            8 MiB        about 65536 each             `_LARGEST_ROOMY`: 7 records, for 16 would take 128 MiB
        """
        start = BLOCK_HEAD_SIZE + len(self.name.encode())
        grown = min(4 * self.blocks[-1].extent.size, LARGEST_BLOCK) if self.blocks else UNIT
        roomy = min(_ROOMY * record, _LARGEST_ROOMY) if record > LARGEST_BLOCK // _ROOMY else 0
        size = max(grown - start, roomy, record)
        assert size >= record, "`make_room` would begin one block after another, and find room in none"
        return size, start

    def settle_tail(self) -> int:
        """Note in the tail block what it holds now; the bytes of it in use.

        While a block is the tail, the log's own `offset` and `position` are the truth: an append changes them
        alone, and `Block.end` and `Block.entries` would be two more stores for each entry.
        """
        if not self.blocks:
            return 0
        block = self.blocks[-1]
        block.end = self.offset - block.extent.offset
        block.entries = self.position
        assert block.head.start <= block.end <= block.extent.size, (
            "PrefixAgree: records outside of their block"
        )
        return block.end

    def enter_tail(self, file: File) -> None:
        """Set the tail's attributes from the last block, and hold its file open."""
        self.find_tail()
        block = self.blocks[-1]
        self.owner.tails[self] = None
        self.file, self.pwrite, self.window, self.shape = file, file.pwrite, None, -1
        assert block.extent.offset < self.offset <= block.extent.offset + block.extent.size, (
            "no tail of its block"
        )
        self.limit = block.extent.offset + block.extent.size  # last: from here on there is room

    def find_tail(self) -> None:
        """Set the attributes that say where the tail is."""
        assert self.blocks, "a topic that was never written to has no tail"
        block = self.blocks[-1]
        self.tag, self.mask, self.seed = block.life
        self.base, self.position = block.head.base, block.entries
        self.durable = max(0, self.durable_index - self.base)
        self.offset = block.extent.offset + block.end
        assert block.end <= block.extent.size, "PrefixAgree: the tail ends in its neighbour's block"
        assert self.durable <= self.position, "AckedDurable: durable before it was written"

    def begin_sync(self) -> Mark:
        """What a sync that starts now will make durable; later appends are for the next one."""
        with self.lock:
            # `dirty` first: an append that comes right behind must register for the next sync, since this one
            # does not cover it. With `shape` unset it comes by `_take_shape`, which looks.
            self.dirty, self.shape = False, -1
            assert self.gone or self.durable_index <= self.base + self.position, (
                "AckedDurable: durable before it was written"
            )
            files, self.unsynced = self.unsynced, {}
            place = self.offset - self.blocks[-1].extent.offset if self.blocks else 0
            return Mark(self, self.base + self.position, place, files)

    def synced(self, mark: Mark) -> None:
        """The sync that began with `mark` has succeeded."""
        assert mark.log is self, "AckedDurable: the mark of another topic"
        with self.lock:
            # Syncs may end in another order than they began: one that covers less must not take back what a
            # later one has made durable. And the topic may be gone: then it is at 0.
            assert self.gone or mark.upto <= self.base + self.position, (
                "AckedDurable: durable before it was written"
            )
            if mark.upto >= self.durable_index:
                self.durable_index, self.durable_place = mark.upto, mark.place
                self.durable, self.shape = max(0, mark.upto - self.base), -1

    # -- reading -----------------------------------------------------------------------------------------

    @property
    def next_index(self) -> int:
        """The index of the next entry to be written."""
        with self.lock:
            following = self.base + self.position
            assert following >= self.first, "SeqOrder: the first entry is behind the next one"
            return following

    def block_at(self, index: int) -> tuple[Block, int, int] | None:
        """The block that holds entry `index`, the bytes of it in use and its entries; None past the end."""
        with self.lock:
            if index < self.first:
                raise self._trimmed(index)
            if index >= self.base + self.position:
                return None
            number = bisect_right(self.bases, index) - 1
            if number < 0:
                raise CorruptionError("(missing)", 0, self.name, index, self.bases[0])
            block = self.blocks[number]
            assert block.head.base <= index, "DeliveredIsPrefix: the block begins behind its entry"
            # A full block that is damaged at its end holds fewer entries than the next one's number says:
            # those in between are missing, and reading them must say so instead of going on at the next
            # block.
            if number < len(self.blocks) - 1:
                following = self.bases[number + 1] - self.bases[number]
                return block, block.end, max(block.entries, following)
            return block, self.offset - block.extent.offset, self.position

    def view(self, block: Block, index: int) -> memoryview:
        """A window onto the block, for a reader of entry `index`, which is trimmed if the block is gone.

        A reader holds no lock while it reads, so its file may be unlinked between `block_at` and here. That
        is no error of the disk: trimming got there first, and the reader is told what a later one would be.
        """
        spared = False
        while True:
            try:
                return self.owner.space.view(block.extent)
            except FileGone:
                raise self._trimmed(index) from None
            except OSError as error:
                if spared or not no_descriptor(error) or not self.owner.reclaim(error):
                    raise translated(error, f"reading topic {self.name!r}") from error
                spared = True

    def forget(self, block: Block) -> None:
        """A reader has left the block: its pages need not stay mapped, or long reads would map whole logs."""
        if block not in self.blocks[-1:]:
            self.owner.space.forget(block.extent)

    def damaged(self, block: Block, index: int, gap: DamagedRange) -> CorruptionError | IndexError:
        """The error for entry `index` in a gap; if the block was given back meanwhile, that is not damage."""
        if index < self.first or block not in self.blocks:
            return self._trimmed(index)
        # A reader that steps over the damage goes on at `resume`: behind where it was, or it never ends.
        resume = max(block.head.base + gap.resume, index + 1)
        assert resume > index >= block.head.base, "damage in another block than that of the entry"
        place = block.extent.offset + gap.offset
        return CorruptionError(file_name(block.extent.file), place, self.name, index, resume)

    def _trimmed(self, index: int) -> IndexError:
        if self.gone:
            return IndexError(f"entry {index} of {self.name!r}: the topic was deleted")
        return IndexError(f"entry {index} of {self.name!r} was trimmed away; the first is {self.first}")

    # -- giving back ------------------------------------------------------------------------------------

    def drop_blocks(self, before: int) -> list[Extent]:
        """Forget the blocks (never the tail) whose entries are all below `before`.

        The tail stays although it may hold nothing that is needed: its header alone says where the topic's
        next entry is numbered from.
        """
        # New lists, as in `_adopt`: a reader that has looked up a block by its number in the old ones must
        # not find another block there.
        with self.lock:
            keep = 0
            while keep < len(self.blocks) - 1 and self.bases[keep + 1] <= before:
                keep += 1
            gone, self.blocks, self.bases = self.blocks[:keep], self.blocks[keep:], self.bases[keep:]
            assert self.blocks or not gone, "SeqOrder: the numbering goes with the last block"
            assert not gone or self.bases[0] <= before, "AckedDurable: an entry goes that was to be kept"
            return [block.extent for block in gone]

    def check_invariants(self) -> None:
        """What the module's docstring promises."""
        with self.lock:
            bases = sorted(block.head.base for block in self.blocks)
            assert self.bases == bases, f"SeqOrder: {self.name}: an entry is looked for elsewhere"
            sequences = [block.head.sequence for block in self.blocks]
            assert sequences == sorted(set(sequences)), f"SeqOrder: {self.name}: blocks out of order"
            assert not self.asleep or self.limit == 0, f"AckedDurable: {self.name}: appended to in its sleep"
            assert self.blocks or self.limit == 0, f"{self.name}: room in no block"
            assert self.limit == 0 or self.offset <= self.limit, f"PrefixAgree: {self.name}: beyond its block"
            assert self.limit == 0 or self.file is not None, f"{self.name}: room in no file"
            assert self.first <= self.base + self.position, f"TrimmedIsSealed: {self.name}"
            assert self.first <= self.cursor <= self.base + self.position, f"CursorInBounds: {self.name}"
            following = self.base + self.position
            assert self.durable_index <= following, (
                f"AckedDurable: {self.name}: durable before it was written"
            )
            durable = max(0, self.durable_index - self.base)
            assert self.durable == durable or not self.blocks, f"AckedDurable: {self.name}"
            assert self.dirty or self.shape < 0, f"AckedDurable: {self.name}: no sync would cover it"
            if self.blocks:
                last = self.blocks[-1]
                assert self.base == last.head.base, f"SeqOrder: {self.name}: entries would get wrong numbers"
                assert (self.tag, self.mask, self.seed) == last.life, (
                    f"AckedDurable: {self.name}: records of another life"
                )
            if self.shape >= 0 and self.position < self.until:
                assert self.dirty, f"AckedDurable: {self.name}: no sync would cover the next record"
                room = self.limit - self.offset
                needed = (self.until - self.position) * (self.shape + OVERHEAD)
                assert needed <= room, f"PrefixAgree: {self.name}: a record beyond the block's end"
                head = RECORD_HEAD.pack(self.tag, self.shape, self.position, self.durable)
                begun = self.state ^ _LOW[self.position & 255]
                assert crc32(head, self.seed) == begun, (
                    f"AckedDurable: {self.name}: the next record is not sound"
                )


class MappedLog(Log):
    """The same, for backends that write by assignment into a mapping: no system call for a small entry.

    A block is written with zeros by a system call first, whatever the schedule for syncs: a store into a page
    that was never touched faults, and takes longer than the write of a whole record would. What a store
    cannot do is to report a full disk, but it never meets one: files are allocated in full (`mapped.py`).
    """

    touch_first = True

    __slots__ = ()

    def enter_tail(self, file: File) -> None:
        """Also take the window that is written to."""
        window = file.window(0, file.size)
        super().enter_tail(file)
        self.window = window

    def _adopt(self, block: Block, file: File) -> None:
        """Also let go of the pages of the block before, or a long log would be mapped from end to end."""
        super()._adopt(block, file)
        assert self.blocks[-1] is block, "the pages of the tail would be let go"
        if len(self.blocks) > 1:
            self.forget(self.blocks[-2])

    def append_one(self, data: bytes) -> int:
        """Append one entry; its index."""
        size = len(data)
        while True:
            try:
                self.take()
            except IndexError:
                self.lock.wait()
            try:
                position = self.position
                if (size == self.shape and position < self.until) or self._take_shape(size):
                    offset = self.offset
                    check = crc32(data, self.state ^ _LOW[position & 255]) ^ self.mask
                    try:
                        self.pack(self.window, offset, self.tag, size, position, self.durable, data, check)
                        self.offset, self.position = offset + size + OVERHEAD, position + 1
                    except BaseException as error:  # noqa: BLE001 - raised again
                        self._write_failed(error, offset)
                    return self.base + position
            finally:
                self.give(None)
                if self.line:
                    self.lock.wake()
            if size >= _LARGE:
                return self._append_large(data)
            self.make_room(size + OVERHEAD)

    def _packing(self, size: int) -> Callable[..., Any]:
        return _record_of(size).pack_into


def _write_record(file: File, life: Life, parts: list[bytes], offset: int, size: int) -> None:
    """Write head and payload, and the check behind them, which for a large record is computed meanwhile.

    Both the write and the CRC let other threads run, so on two processors they take the time of the longer.
    A crash between the two writes leaves a head and a payload without their check: a torn record like any
    other, for nothing was acknowledged yet.
    """
    if size < _WORTH_A_THREAD:
        write_all(file, [*parts, encode_check(life, parts)], offset)
        return
    check: list[bytes] = []
    beside = Thread(target=lambda: check.append(encode_check(life, parts)), daemon=True)
    beside.start()
    try:
        write_all(file, parts, offset)
    finally:
        beside.join()
    assert len(check) == 1, "the thread ended without the checksum"
    write_all(file, check, offset + size - len(check[0]))


def _write_zeros(file: File, extent: Extent) -> None:
    offset, end = extent.offset, extent.offset + extent.size
    while offset < end:
        part = memoryview(_ZEROS)[: end - offset]
        write_all(file, [part], offset)
        offset += len(part)
    assert offset == end, "AckedDurable: zeros were written into the neighbour's block"


def _assign(window: memoryview, data: bytes, offset: int) -> int:
    """`pwrite` without a system call."""
    window[offset : offset + len(data)] = data
    return len(data)


def _nowhere(data: Buffer, offset: int) -> int:
    raise AssertionError("a topic without a block has no room, so nothing is written to it")
