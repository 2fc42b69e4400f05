"""Reading: from verified bytes to entries, a span of records at a time.

A `Reader` walks through one topic and remembers its position, so continuing needs no search. Every span is
copied out of the mapping once, the copy is verified by one CRC over all its records (scan.py), and only
then cut into entries. The two shapes that logs have in practice are cut by one call into C each: a run of
records of one entry with equal lengths, and a batch whose entries have equal lengths. Everything else is
cut record by record.

A damaged record ends a span before it; when it comes first, it raises `CorruptionError`. Nothing is skipped.

A reader holds no lock, so the block that it is reading can be released at any time: trimmed, erased,
written to by another topic, its file removed. What it then finds fails its checksum, or cannot be opened,
and `Log` tells that from damage: for a block that the topic no longer has it raises `IndexError`, never
`CorruptionError` and never the operating system's error.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import accumulate

from walrus.storage.batch import EMPTY, Batch, concat
from walrus.storage.block import Block
from walrus.storage.errors import CorruptionError
from walrus.storage.log import Log
from walrus.storage.record import (
    BATCH,
    CHECK_SIZE,
    HEAD_SIZE,
    OVERHEAD,
    STAMPED,
    U32,
    Record,
    holds,
    peek,
)
from walrus.storage.scan import SPAN, Hole, sound, sound_batch

_MOST_RUN = 1024  # records in a run: what the cached cutters are made for
_LEAST_RUN = 8


@lru_cache(maxsize=32)
def _cutter(shape: str, count: int) -> struct.Struct:
    return struct.Struct("<" + shape * count)


class Reader:
    """A place in a topic. `index` is the next entry it gives; set it with `seek`."""

    __slots__ = ("_block", "_end", "_entries", "_log", "_offset", "_skip", "_view", "index")

    def __init__(self, log: Log, index: int) -> None:
        self._log = log
        self.seek(index)

    def seek(self, index: int) -> None:
        """Go to entry `index`, which is looked up at the next read."""
        self.index = index
        self._block: Block | None = None
        self._view = memoryview(b"")
        self._offset = self._end = self._entries = self._skip = 0

    def payloads(self, span: int = SPAN) -> list[bytes]:
        """The next entries, from about `span` bytes of records; empty at the end of the topic."""
        try:
            if not self._settle():
                return []
            while not (taken := self._run(span) or self._mixed(span)):
                self._look_again()
        except Hole as found:
            raise self._failure(found) from None
        if self._skip:
            taken, self._skip = taken[self._skip :], 0
        self.index += len(taken)
        return taken

    def batch(self, max_entries: int, max_bytes: int) -> Batch:
        """The next entries as one batch, at least one if there is one; the reader's place is lost."""
        parts: list[Batch] = []
        while max_entries > 0 and (max_bytes > 0 or not parts):
            part = self._next_batch(first=not parts)
            if part is None:
                break
            count = _fitting(part, max_entries, max_bytes, at_least_one=not parts)
            parts.append(part.slice(0, count))
            if count < part.count:
                break
            max_entries -= count
            max_bytes -= part.size
        return concat(parts) if parts else EMPTY

    def _next_batch(self, *, first: bool) -> Batch | None:
        """The entries of the next record. Damage ends the batch, unless nothing came before it."""
        try:
            return self._one_record() if self._settle() else None
        except Hole as found:
            if first:
                raise self._failure(found) from None
            return None
        except CorruptionError:
            if first:
                raise
            return None

    def _one_record(self) -> Batch:
        """The entries of the record at `_offset`, from `index` on."""
        while (found := self._sound_batch()) is None:
            self._look_again()
        batch, self._offset = found
        if self._skip:
            batch, self._skip = batch.slice(self._skip, batch.count), 0
        self.index += batch.count
        return batch

    def _settle(self) -> bool:
        """Stand at the head of the record that holds `index`; False if there is no such entry yet."""
        if self._block is not None and self._offset < self._end:
            return True
        found = self._log.block_at(self.index)
        if found is None:
            return False
        block, end, entries = found
        view = self._log.view(block, self.index)
        if block is self._block and self._offset == self._end < end:
            self._end, self._entries = end, entries  # the tail has grown since
            return True
        if self._block is not None and self._block is not block:
            self._log.forget(self._block)
        self._block, self._view, self._end, self._entries = block, view, end, entries
        self._stand_at(block.locate(view, self.index - block.head.base, end, entries))
        return True

    def _stand_at(self, record: Record) -> None:
        self._offset = record.offset
        self._skip = self.index - self._standing().head.base - record.position

    def _look_again(self) -> None:
        """The record at `_offset`, where heads have led, is not sound: go where it really is, or raise."""
        block = self._standing()
        position = self.index - block.head.base
        self._stand_at(block.search(self._view, position, self._end, self._entries))

    def _standing(self) -> Block:
        assert self._block is not None, "settle first"
        return self._block

    def _expected(self) -> int:
        """The position of the record at `_offset`."""
        return self.index - self._standing().head.base - self._skip

    def _sound_batch(self) -> tuple[Batch, int] | None:
        """The entries of the record at `_offset` and its end, if it is sound."""
        block = self._standing()
        version = block.head.version
        return sound_batch(self._view, block.life, self._offset, self._expected(), self._end, version)

    def _failure(self, found: Hole) -> Exception:
        """The error for a hole in the block; the next read looks it up again."""
        block, self._block = self._standing(), None
        return self._log.damaged(block, self.index, found.gap)

    def _run(self, span: int) -> list[bytes]:
        """Cut a run of equally long records of one entry each; empty if there is none here."""
        block, view, offset = self._standing(), self._view, self._offset
        first = peek(view, block.life, offset, self._end)
        if first is None or first.entries != 1 or first.position != self._expected():
            return []
        if view[offset + 7] & (BATCH >> 24):
            return []  # a batch of one, with its stamp
        size = first.end - offset - OVERHEAD
        stride = size + OVERHEAD
        count = min((self._end - offset) // stride, max(1, span // stride), _MOST_RUN)
        if count < _LEAST_RUN:
            return []
        data = bytes(view[offset : offset + count * stride])
        # The same four length bytes in every head, so each record begins where the one before says it ends.
        for at in range(4, 8):
            if data[at::stride] != data[at : at + 1] * count:
                return []
        last = (count - 1) * stride
        if U32.unpack_from(data, last + 8)[0] != first.position + count - 1 or not holds(
            memoryview(data), block.life, 0, len(data)
        ):
            return []
        self._offset = offset + len(data)
        return list(_cutter(f"{HEAD_SIZE}x{size}s{CHECK_SIZE}x", count).unpack(data))

    def _mixed(self, span: int) -> list[bytes]:
        """Cut records of any shape, one after the other; empty if the first is not sound."""
        block, start = self._standing(), self._offset
        first = peek(self._view, block.life, start, self._end)
        if first is not None and first.end - start >= span and (found := self._sound_batch()):
            batch, self._offset = found
            return batch.payloads()  # not copied twice
        records, data = sound(self._view, block.life, start, self._expected(), self._end, span)
        if not records:
            return []
        self._offset = records[-1].end
        if len(records) == 1 and data[7] & (BATCH >> 24):
            return _cut_batch(data, 0)
        taken = list[bytes]()
        for record in records:
            at = record.offset - start
            if data[at + 7] & (BATCH >> 24):
                taken += _cut_batch(data, at)
            else:
                taken.append(data[at + HEAD_SIZE : record.end - start - CHECK_SIZE])
        return taken


def _cut_batch(data: bytes, offset: int) -> list[bytes]:
    """The entries of the batch record at `offset`; what stands behind them, its stamps, is passed over."""
    body = offset + HEAD_SIZE
    count = U32.unpack_from(data, body)[0] & ~STAMPED
    lengths = data[body + 4 : body + 4 + 4 * count]
    blob = body + 4 + 4 * count
    if lengths == lengths[:4] * count:
        (size,) = U32.unpack_from(lengths)
        if size < 1 << 14 and count <= 2 * _MOST_RUN:
            return list(_cutter(f"{size}s", count).unpack_from(data, blob))
    ends = accumulate(struct.unpack(f"<{count}I", lengths), initial=blob)
    start = next(ends)
    return [data[start : (start := end)] for end in ends]


def _fitting(batch: Batch, max_entries: int, max_bytes: int, *, at_least_one: bool) -> int:
    """How many of the batch's entries keep within both limits."""
    if batch.count <= max_entries and batch.size <= max_bytes:
        return batch.count
    count, size = 0, 0
    for length in batch.sizes()[:max_entries]:
        size += length
        if size > max_bytes and (count or not at_least_one):
            break
        count += 1
    return count
