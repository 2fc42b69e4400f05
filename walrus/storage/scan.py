"""The one walk over the records of a block: which of its bytes are sound records, and which are not.

Readers, recovery, `verify` and the index of a block (block.py) all walk through here, so that they cannot
come to different verdicts about the same bytes.

The head of a record is only a claim until its checksum has been verified. `size` above all: it says
where the next record begins, so a walk that believes a flipped size looks in the wrong place, finds no tag
there, and takes sound records for damage. The verdict is therefore about one place at a time. At `offset`,
where entry `position` is expected,

    the head has the block's tag, ends within the block,
    has that position, and the checksum holds            -> a sound record; the walk goes on behind it
    anything else                                        -> a gap, up to the next sound record with that
                                                            position or a later one, wherever its tag is found

A block with records of 10 entries each, one bit of the third flipped, and where the walk stands:

    record         0      1      2 (flipped)                       3
    entries        0-9    10-19  20-29                             30-39
    the bit is in                its payload: the check fails      sound, and has position 30
                                 its size: no tag where it ends    the same; it is found by its tag
                                 its position: not the expected    the same
    verdict        read   read   a gap: position 20, resume 30     read

Verifying each record by itself would make reading slow, so `sound` follows the heads for a while as if they
could be trusted, verifies all of them by one CRC (record.py says why that is enough), and goes back to
verifying one by one only if it fails. It works on a copy: a block may be given back and written to by another
topic while it is being read, and what is returned must be the bytes that were verified.

Invariants
* OneVerdict: no function here, and no caller, steps over a byte because an unverified head says so.
* A gap is as long as what was damaged: `resume` is the first sound record's position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import msgspec

from walrus.storage.batch import Batch
from walrus.storage.record import (
    BATCH,
    CHECK_SIZE,
    HEAD_SIZE,
    STAMPED,
    STAMPED_VERSION,
    U32,
    Life,
    Record,
    decode_stamps,
    find,
    holds,
    peek,
)

SPAN = 128 * 1024
"""Bytes that are verified at a time."""


class DamagedRange(msgspec.Struct, frozen=True):
    """Bytes within a block that are no sound record. Positions count from the block's first entry."""

    offset: int
    position: int  # the first entry that cannot be read
    resume: int  # the next one that can


class Hole(Exception):
    """Raised by what looks for an entry in a gap."""

    def __init__(self, gap: DamagedRange) -> None:
        super().__init__(gap)
        self.gap = gap


class Span(NamedTuple):
    """Sound records that stand end to end (none, if the first is not sound), and a copy of their bytes."""

    records: list[Record]
    data: bytes  # from the beginning of the first to the end of the last


class Scan(msgspec.Struct):
    """What a block holds."""

    end: int
    entries: int
    durable: int  # entries of this block known to be durable, according to its records
    gaps: list[DamagedRange]


def sound(view: memoryview, life: Life, offset: int, position: int, end: int, size: int = SPAN) -> Span:
    """Sound records from `offset` on, where entry `position` is expected: one or more, about `size` bytes."""
    records = _heads(view, life, offset, position, end, size)
    if not records:
        return Span(records, b"")
    data = bytes(view[offset : records[-1].end])
    copy = memoryview(data)
    if holds(copy, life, 0, len(data)):
        return Span(records, data)
    count = 0
    while count < len(records):
        record = records[count]
        if not holds(copy, life, record.offset - offset, record.end - offset):
            break
        count += 1
    kept = records[:count]
    return Span(kept, data[: kept[-1].end - offset] if kept else b"")


def _heads(view: memoryview, life: Life, offset: int, position: int, end: int, size: int) -> list[Record]:
    """The heads from `offset` on, as far as they make sense, about `size` bytes of them; not verified."""
    found: list[Record] = []
    stop = offset + size
    while (record := peek(view, life, offset, end)) is not None and record.position == position:
        found.append(record)
        offset, position = record.end, record.position + record.entries
        if offset >= stop:
            break
    return found


def sound_batch(
    view: memoryview, life: Life, offset: int, position: int, end: int, version: int = STAMPED_VERSION
) -> tuple[Batch, int] | None:
    """The entries of the record at `offset`, where entry `position` is expected, and its end; None if it is
    not sound. A large record is copied once only: its parts are verified one after the other. `version` is
    the block's.
    """
    record = peek(view, life, offset, end)
    if record is None or record.position != position:
        return None
    head, body = bytes(view[offset : offset + HEAD_SIZE]), offset + HEAD_SIZE
    if U32.unpack_from(head, 4)[0] & BATCH:
        blob_at = body + 4 + 4 * record.entries
        head += bytes(view[body : body + 4])
        lengths = bytes(view[body + 4 : blob_at])
        blob = bytes(view[blob_at : record.end - CHECK_SIZE])
        check = crc32(blob, crc32(lengths, crc32(head, life.seed)))
        stamped = bool(U32.unpack_from(head, HEAD_SIZE)[0] & STAMPED)
    else:
        stamped = False
        blob = bytes(view[body : record.end - CHECK_SIZE])
        lengths = U32.pack(len(blob))
        check = crc32(blob, crc32(head, life.seed))
    stored = bytes(view[record.end - CHECK_SIZE : record.end])
    if crc32(stored, check) != life.seed:
        return None
    return (_with_stamps(lengths, blob, version) if stamped else Batch(lengths, blob)), record.end


def _with_stamps(lengths: bytes, rest: bytes, version: int) -> Batch:
    """The batch whose entries and stamps are these bytes, which a check has verified."""
    end = sum(Batch(lengths, b"").sizes())
    return Batch(lengths, rest[:end], decode_stamps(rest[end:], version))


def following(view: memoryview, life: Life, offset: int, position: int, end: int) -> Record | None:
    """Where the walk goes on if no sound record is at `offset`; None if nothing sound follows."""
    return find(view, life, offset, end, position)


def runs(
    view: memoryview, life: Life, place: int, position: int, limit: int
) -> Iterator[list[Record] | DamagedRange]:
    """What stands from `place` on, where entry `position` of the block is expected, up to the last record."""
    while True:
        records = sound(view, life, place, position, limit).records
        if not records:
            record = following(view, life, place, position, limit)
            if record is None:
                return
            yield DamagedRange(place, position, record.position)
            records = [record]
        yield records
        place, position = records[-1].end, records[-1].position + records[-1].entries


def records(view: memoryview, life: Life, place: int, limit: int) -> Iterator[Record]:
    """The sound records of a block, one by one, from the first, which is at `place`."""
    for found in runs(view, life, place, 0, limit):
        if not isinstance(found, DamagedRange):
            yield from found


def scan(view: memoryview, life: Life, place: int, position: int, limit: int) -> Scan:
    """The same walk, folded."""
    result = Scan(place, position, 0, [])
    for found in runs(view, life, place, position, limit):
        if isinstance(found, DamagedRange):
            result.gaps.append(found)
        else:
            last = found[-1]
            result.end, result.entries = last.end, last.position + last.entries
            result.durable = max(result.durable, last.durable)
    return result


def damage_in(view: memoryview, life: Life, start: int, end: int, entries: int) -> list[DamagedRange]:
    """The gaps between `start` and `end`, where a block's `entries` entries should be."""
    found = scan(view, life, start, 0, end)
    if found.entries < entries:
        found.gaps.append(DamagedRange(found.end, found.entries, entries))
    return found.gaps
