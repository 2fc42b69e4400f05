"""The bytes on disk: block headers and records. `docs/wal-format.md` is the same with pictures.

A *block* is a run of 16 KiB units in a data file that belongs to one topic for one life. A *record* is one
batch of entries, however many, with one checksum, so a batch is there entirely or not at all:

    block   = header name record* rest                      rest: zeros, or a torn write, or an older life
    record  = tag size position durable body check          16 bytes in front, 4 behind, little-endian u32s
    body    = entry                                         when bit 31 of `size` is clear
            | count length{count} entry{count} stamps?      when it is set; u32s, then the entries end to end

Bit 31 of `count` says that stamps (batch.py) follow the entries, as MessagePack. Only blocks of version 3
hold such records, and a topic gets its first one with its first stamped batch. So the format of a log
without stamps is unchanged, and a release that knows only version 1 refuses a log with stamps by its
version. In a block of version 2, which an earlier release wrote, the times in stamps are seconds.

`tag` and the seed of the check are derived from the block's place and its *life*, a random number drawn
each time a block is taken into use. So zeros are not a valid record, and neither are the remains of an
earlier life, another block or another file.

The check is a CRC-32 with a twist that makes reading fast. Feeding a CRC register the very value it holds
(here: xor a mask) always leaves it in the same state, whatever came before. The check of a record is
therefore `crc32(head + body, seed) ^ mask`, where `seed` is exactly the state in which the check leaves the
register:

    crc32(any whole records of a block, end to end, seed) == seed

One call over a megabyte verifies ten thousand records as surely as one, and a block that was filled needs no
checksum of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec

from walrus.storage.batch import Batch, Stamp
from walrus.storage.errors import FormatError

VERSION = 1
"""Of a block whose records have no stamps."""
STAMPED_VERSION = 3
SECONDS_VERSION = 2
"""Of a block in whose stamps times are seconds: written by an earlier release."""
MAGIC = b"walrus"
UNIT = 16 * 1024
"""Blocks start at multiples of this many bytes of a file, and are whole numbers of it long."""

MAX_BODY = 0x7FFF_FFFF
"""Bytes that one record can hold, its table of lengths included."""

BATCH = 0x8000_0000
STAMPED = 0x8000_0000
"""In the count of a batch: stamps follow its entries."""
RECORD_HEAD = struct.Struct("<IIII")  # tag, size, position, durable
U32 = struct.Struct("<I")
HEAD_SIZE = RECORD_HEAD.size
CHECK_SIZE = U32.size
OVERHEAD = HEAD_SIZE + CHECK_SIZE
"""Bytes that a record of one entry adds to it."""

_BLOCK_HEAD = struct.Struct("<6sHIIQQIQQIHH")
_CHECKED_FROM = 12  # everything after the header's own check
BLOCK_HEAD_SIZE = _BLOCK_HEAD.size
MAX_NAME = 1024
"""Bytes of a topic's name."""
ZEROS_FOLLOW = 1
"""Block flag: what lies behind the last record is zeros, unless a write was torn."""


class BlockHead(msgspec.Struct, frozen=True, kw_only=True):
    """What the header of a block says. Written once, with the block's first record, and never changed."""

    units: int  # its size in units, the header included
    life: int  # u64, random
    topic_id: int  # u64: the life of the topic's first block; 0 is the engine's own journal
    sequence: int  # 0, 1, 2, ... within the topic
    base: int  # index of its first entry
    durable: int  # entries below this index were durable when the block was taken into use
    previous_end: int  # bytes of the block before this one that are in use; 0 if there is none
    flags: int
    name: bytes  # the topic's, UTF-8
    version: int = VERSION

    @property
    def start(self) -> int:
        """Offset within the block of its first record."""
        return BLOCK_HEAD_SIZE + len(self.name)

    def encode(self, file_number: int, offset: int) -> bytes:
        """The header's bytes, for a block at `offset` of data file `file_number`."""
        assert offset % UNIT == 0, "recovery looks for headers at whole units only"
        assert len(self.name) <= MAX_NAME, "a name that `mend_block` would not cover"
        assert self.units * UNIT >= self.start, "a block that does not hold its own header"
        assert self.durable <= self.base, "AckedDurable: what a block will hold was durable before"
        rest = _BLOCK_HEAD.pack(
            MAGIC, self.version, 0, self.units, self.life, self.topic_id, self.sequence, self.base,
            self.durable, self.previous_end, self.flags, len(self.name),
        )  # fmt: skip
        rest = rest[_CHECKED_FROM:] + self.name
        # The check starts from the block's place, so a header that was copied elsewhere, inside a payload for
        # example, is not taken for one there.
        head = struct.pack("<6sHI", MAGIC, self.version, crc32(rest, _place(file_number, offset))) + rest
        assert len(head) == self.start, "the first record would lie elsewhere than readers look"
        return head


def decode_block(
    view: memoryview, file_number: int, offset: int, room: int | None = None
) -> BlockHead | None:
    """The header at the start of `view` (the file's bytes from `offset` on), or None: no block starts here.

    `room` is how many bytes the file has from there, if the view does not show them all. A header of another
    version is refused, but only if its check holds: anything else is just bytes.
    """
    if len(view) < BLOCK_HEAD_SIZE or bytes(view[: len(MAGIC)]) != MAGIC:
        return None
    _, version, check, units, life, topic_id, sequence, base, durable, end, flags, size = (
        _BLOCK_HEAD.unpack_from(view)
    )
    if crc32(view[_CHECKED_FROM : BLOCK_HEAD_SIZE + size], _place(file_number, offset)) != check:
        return None
    if not VERSION <= version <= STAMPED_VERSION:
        raise FormatError(
            f"{file_number:08}.wal has version {version} of the format, "
            f"this release reads {STAMPED_VERSION}: open it with the release that wrote it"
        )
    if units * UNIT > (len(view) if room is None else room):
        return None
    return BlockHead(
        units=units, life=life, topic_id=topic_id, sequence=sequence, base=base, durable=durable,
        previous_end=end, flags=flags, name=bytes(view[BLOCK_HEAD_SIZE : BLOCK_HEAD_SIZE + size]),
        version=version,
    )  # fmt: skip


def mend_block(view: memoryview, file_number: int, offset: int) -> BlockHead | None:
    """The header at the start of `view` with one bit flipped back; None if that does not make it one.

    A topic's last block is described by nothing but its header. Without it what the block holds would not be
    damaged but gone, unnoticed. One wrong bit is what CRC-32 can not only detect but find.
    """
    # Every unit of every file is tried when a log is opened, so what cannot be a header must be told cheaply:
    # by its magic, in which the wrong bit may be.
    wrong = int.from_bytes(view[: len(MAGIC)]) ^ int.from_bytes(MAGIC)
    if len(view) < BLOCK_HEAD_SIZE or wrong.bit_count() > 1:
        return None
    trial = bytearray(view[: BLOCK_HEAD_SIZE + MAX_NAME])
    for bit in range(8 * len(trial)):
        trial[bit >> 3] ^= 1 << (bit & 7)
        head = decode_block(memoryview(trial), file_number, offset, len(view))
        if head is not None:
            return head
        trial[bit >> 3] ^= 1 << (bit & 7)
    return None


def _place(file_number: int, offset: int) -> int:
    assert file_number >= 0 and offset >= 0, "a block is nowhere"
    return crc32(struct.pack("<QQ", file_number, offset))


class Life(NamedTuple):
    """The numbers by which records of one life of one block are told from everything else."""

    tag: int  # the first four bytes of every record
    mask: int  # xored onto every check
    seed: int  # the CRC register before and after every record

    @classmethod
    def of(cls, life: int, file_number: int, offset: int) -> Life:
        """The numbers for the block at `offset` of file `file_number` in its life `life`."""
        identity = struct.pack("<QQQ", life, file_number, offset)
        mask = crc32(identity, 1)
        # The first byte is never 0: the search for a lost record's successor runs through zeros quickly.
        numbers = cls(crc32(identity) | 1, mask, crc32(U32.pack(mask)))
        # The register, fed its own value xored with the mask, comes to `seed` whatever it held. `holds` rests
        # on that; the shortest record that shows it would have neither head nor body.
        assert crc32(U32.pack(numbers.seed ^ mask), numbers.seed) == numbers.seed, "no record would ever hold"
        return numbers


class Record(NamedTuple):
    """Where one record is, and what its head says. Offsets are within the block."""

    offset: int
    position: int  # index of its first entry, counted from the block's first
    entries: int
    end: int
    durable: int  # entries of this block that were durable when it was written, likewise counted


def encode_stamps(batch: Batch) -> bytes:
    """What follows the payload of a batch in its record; b"" if it has no stamps."""
    return msgspec.msgpack.encode(batch.stamps) if batch.stamps else b""


_stamps_decoder = msgspec.msgpack.Decoder(tuple[Stamp, ...])


def decode_stamps(data: bytes, version: int = STAMPED_VERSION) -> tuple[Stamp, ...]:
    """The stamps in these bytes of a block of that version, which a check has verified."""
    stamps = _stamps_decoder.decode(data)
    if version == SECONDS_VERSION:
        return tuple(stamp._replace(at=stamp.at * 1000) for stamp in stamps)
    return stamps


def encode_head(life: Life, position: int, durable: int, lengths: bytes, size: int, stamps: int = 0) -> bytes:
    """What precedes the payload, `size` bytes, of a batch; behind it there are `stamps` bytes of stamps."""
    assert lengths and len(lengths) % 4 == 0, "a record of no entries, or with half a length"
    assert 0 <= durable <= position, "AckedDurable: a record is durable before it is written"
    if len(lengths) == 4 and not stamps:
        return RECORD_HEAD.pack(life.tag, size, position, durable)
    body = 4 + len(lengths) + size + stamps
    assert body <= MAX_BODY, "the size would run into the bit that marks a batch"
    head = RECORD_HEAD.pack(life.tag, body | BATCH, position, durable)
    return head + U32.pack(len(lengths) >> 2 | (STAMPED if stamps else 0)) + lengths


def encode_check(life: Life, parts: Sequence[bytes]) -> bytes:
    """What follows the payload: `parts` are the head and the payload."""
    assert parts, "the check of nothing is that of any place in the block"
    check = life.seed
    for part in parts:
        check = crc32(part, check)
    return U32.pack(check ^ life.mask)


def record_size(count: int, payload: int, stamps: int = 0) -> int:
    """Bytes on disk of a record with `count` entries of `payload` bytes together, and its stamps' bytes.

    >>> record_size(1, 100), record_size(2, 100)
    (120, 132)
    """
    assert count > 0, "a record of no entries"
    return OVERHEAD + payload + stamps + (4 + 4 * count if count != 1 or stamps else 0)


def peek(view: memoryview, life: Life, offset: int, end: int) -> Record | None:
    """The record whose head is at `offset`, if it looks like one that lies before `end`. Not verified.

    Every number in it may be wrong. What is refused here is only what could lead out of the block, or in a
    circle: a record that ends where it begins, or behind `end`.
    """
    if offset + OVERHEAD > end:
        return None
    tag, size, position, durable = RECORD_HEAD.unpack_from(view, offset)
    if tag != life.tag:
        return None
    count, body = 1, size
    if size & BATCH:
        body = size ^ BATCH
        if body < 4 or offset + HEAD_SIZE + body > end:
            return None
        count = U32.unpack_from(view, offset + HEAD_SIZE)[0] & ~STAMPED
        if count == 0 or 4 + 4 * count > body:
            return None
    stop = offset + OVERHEAD + body
    return Record(offset, position, count, stop, durable) if stop <= end else None


def holds(view: memoryview, life: Life, start: int, end: int) -> bool:
    """Whether the bytes from `start` to `end` are whole, undamaged records, one or many.

    None at all also holds: nothing was fed, so the register is where it was.
    """
    assert start <= end, "bytes that were never read would hold: a view that ends before it begins is empty"
    return crc32(view[start:end], life.seed) == life.seed


def find(view: memoryview, life: Life, offset: int, end: int, position: int) -> Record | None:
    """The first sound record at or after `offset` whose first entry is `position` or a later one.

    A tag is four bytes, so payloads contain it by chance once in four billion places; position, size and
    check must fit, too. An earlier position than expected is an echo: a payload that is a copy of a block.
    """
    tag, data = U32.pack(life.tag), bytes(view[offset:end])
    at = data.find(tag)
    while at >= 0:
        record = peek(view, life, offset + at, end)
        if (
            record is not None
            and record.position >= position
            and holds(view, life, record.offset, record.end)
        ):
            assert offset <= record.offset < record.end <= end, "a record outside of what was searched"
            return record
        at = data.find(tag, at + 1)
    return None
