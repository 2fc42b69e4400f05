"""Reading: from verified bytes to entries, a span of records at a time.

A `Reader` walks through one topic and remembers where it is, so going on costs no search. Every span is
copied out of the mapping once, verified by one CRC over all its records (`record.py` says why that is
enough), and only then cut into entries. The two shapes that logs have in practice are cut by one call into C
each: a run of records of one entry with equal lengths, and a batch whose entries have equal lengths.
Everything else is cut record by record.

A damaged record ends a span before it; when it comes first, it raises `CorruptionError`. Nothing is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from walrus.storage.batch import EMPTY, Batch, concat
from walrus.storage.block import Block, Hole
from walrus.storage.log import Log
from walrus.storage.record import (
    BATCH,
    CHECK_SIZE,
    HEAD_SIZE,
    OVERHEAD,
    U32,
    Record,
    entries_of,
    find,
    holds,
    peek,
)

SPAN = 128 * 1024
"""Bytes that are verified at a time."""

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
        if not self._settle():
            return []
        assert self._block is not None
        try:
            taken = self._run(span) or self._mixed(span)
        except Hole as hole:
            raise self._failure(self._block, hole) from None
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
        if not self._settle():
            return None
        assert self._block is not None
        try:
            record = self._peek()
            if not holds(self._view, self._block.life, record.offset, record.end):
                self._broken(record.offset)
        except Hole as hole:
            if not first:
                return None
            raise self._failure(self._block, hole) from None
        batch = entries_of(self._view, record)
        if self._skip:
            batch, self._skip = batch.slice(self._skip, batch.count), 0
        self._offset = record.end
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
        if block is self._block and self._offset == self._end < end:
            self._end, self._entries = end, entries  # the tail has grown since
            self._log.view(block)
            return True
        if self._block is not None and self._block is not block:
            self._log.forget(self._block)
        view = self._log.view(block)
        try:
            record = block.locate(view, self.index - block.head.base, end, entries)
        except Hole as hole:
            raise self._failure(block, hole) from None
        self._block, self._view, self._end, self._entries = block, view, end, entries
        self._offset = record.offset
        self._skip = self.index - block.head.base - record.position
        return True

    def _peek(self) -> Record:
        assert self._block is not None
        record = peek(self._view, self._block.life, self._offset, self._end)
        expected = self.index - self._block.head.base - self._skip
        if record is None or record.position != expected:
            self._broken(self._offset)
        assert record is not None
        return record

    def _broken(self, offset: int) -> None:
        """Raise the hole that begins with the record at `offset`."""
        assert self._block is not None
        position = self.index - self._block.head.base
        after = find(self._view, self._block.life, offset + 1, self._end, position + 1)
        raise Hole(offset, position, self._entries if after is None else after.position)

    def _failure(self, block: Block, hole: Hole) -> Exception:
        self._block = None  # whoever reads on looks again
        return self._log.damaged(block, hole)

    def _run(self, span: int) -> list[bytes]:
        """Cut a run of equally long records of one entry each; empty if there is none here."""
        assert self._block is not None
        view, offset, life = self._view, self._offset, self._block.life
        first = self._peek()
        size = first.end - offset - OVERHEAD
        stride = size + OVERHEAD
        count = min((self._end - offset) // stride, max(1, span // stride), _MOST_RUN)
        if first.entries != 1 or count < _LEAST_RUN:
            return []
        data = bytes(view[offset : offset + count * stride])
        # The same four length bytes in every head, so each record begins where the one before says it ends.
        for at in range(4, 8):
            if data[at::stride] != data[at : at + 1] * count:
                return []
        last = (count - 1) * stride
        if U32.unpack_from(data, last + 8)[0] != first.position + count - 1 or not holds(
            memoryview(data), life, 0, len(data)
        ):
            return []
        self._offset = offset + len(data)
        return list(_cutter(f"{HEAD_SIZE}x{size}s{CHECK_SIZE}x", count).unpack(data))

    def _mixed(self, span: int) -> list[bytes]:
        """Cut records of any shape, one after the other."""
        assert self._block is not None
        view, life, start = self._view, self._block.life, self._offset
        records = self._records(span)
        end = records[-1].end
        if not holds(view, life, start, end):
            records = list(_sound(view, records, self._block))
            if not records:
                self._broken(start)
            end = records[-1].end
        self._offset = end
        if len(records) == 1 and records[0].entries > 1:
            return _cut_batch(bytes(view[start:end]), 0)
        data, taken = bytes(view[start:end]), list[bytes]()
        for record in records:
            at = record.offset - start
            if data[at + 7] & (BATCH >> 24):
                taken += _cut_batch(data, at)
            else:
                taken.append(data[at + HEAD_SIZE : record.end - start - CHECK_SIZE])
        return taken

    def _records(self, span: int) -> list[Record]:
        """Heads of consecutive records, about `span` bytes of them, at least one."""
        assert self._block is not None
        record: Record | None = self._peek()
        assert record is not None
        found, offset, expected = [], self._offset, record.position
        while record is not None and record.position == expected:
            found.append(record)
            offset, expected = record.end, record.position + record.entries
            if offset - self._offset >= span:
                break
            record = peek(self._view, self._block.life, offset, self._end)
        return found


def _sound(view: memoryview, records: list[Record], block: Block) -> Iterator[Record]:
    """The records up to the first damaged one."""
    for record in records:
        if not holds(view, block.life, record.offset, record.end):
            return
        yield record


def _cut_batch(data: bytes, offset: int) -> list[bytes]:
    """The entries of the batch record at `offset`."""
    body = offset + HEAD_SIZE
    (count,) = U32.unpack_from(data, body)
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
