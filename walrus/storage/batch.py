"""A batch: the unit in which entries are written, sent and stored.

Whatever arrives in one turn of the event loop becomes one batch, and a batch stays one piece all the
way: the leader's engine writes its bytes, the replicas receive those same bytes and write them too,
entries are not split apart until they are read. That is why it is kept as two byte strings
rather than as a list of entries:

    lengths   count x u32 little-endian     the length of each entry in bytes
    blob      the entries, end to end       sum(lengths) bytes

Both parts concatenate: the lengths of two neighbouring batches, joined, are the lengths of the joined
batch, and so are the blobs. A checksum taken over the two streams therefore does not depend on where
the batch boundaries fell, which is how two replicas that received different batches compare copies
(see `Checksum`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple
from zlib import crc32

import msgspec

MAX_BATCH_BYTES = 1 << 30
"""Most bytes of payload in one entry, or in one batch of the public API."""

MAX_BATCH_ENTRIES = 2_000
"""Most entries in one batch of the public API. Batches joined inside one turn may hold more."""


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive entries as `lengths` (u32 little-endian each) and `blob` (their bytes, end to end).

    Construct one with `Batch.of`; one that came from a peer must pass `check` before it is used.

    >>> batch = Batch.of([b"one", b"", b"three"])
    >>> batch.count, batch.blob, batch.payloads()
    (3, b'onethree', [b'one', b'', b'three'])
    >>> batch.slice(1, 3).payloads()
    [b'', b'three']
    """

    lengths: bytes
    blob: bytes

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> Batch:
        """The batch of these entries, in order. TypeError for what is not bytes-like."""
        sizes, blob = list(map(len, payloads)), b"".join(payloads)
        if sum(sizes) != len(blob):  # something counts its length in items, not in bytes
            return cls.of([bytes(memoryview(payload)) for payload in payloads])
        return cls(struct.pack(f"<{len(sizes)}I", *sizes), blob)

    @property
    def count(self) -> int:
        """Number of entries."""
        return len(self.lengths) >> 2

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return len(self.blob)

    @property
    def weight(self) -> int:
        """Bytes that the batch takes. Limits count these: empty entries have no bytes of payload."""
        return len(self.lengths) + len(self.blob)

    def sizes(self) -> tuple[int, ...]:
        """The length of each entry, in bytes."""
        return struct.unpack(f"<{self.count}I", self.lengths)

    def payloads(self) -> list[bytes]:
        """The entries themselves."""
        blob, end = self.blob, 0
        return [blob[end : (end := end + size)] for size in self.sizes()]

    def slice(self, start: int, stop: int) -> Batch:
        """Entries `start` up to but not including `stop`, counted from 0 within this batch."""
        if start <= 0 and stop >= self.count:
            return self
        ends = [0, *accumulate(self.sizes())]
        return Batch(self.lengths[start * 4 : stop * 4], self.blob[ends[start] : ends[stop]])

    def check(self) -> None:
        """Raise ValueError unless the two parts agree: for batches that a peer or a disk handed us."""
        if len(self.lengths) % 4 or sum(self.sizes()) != len(self.blob):
            raise ValueError(f"malformed batch: {self.count} lengths do not add up to {self.size} bytes")


EMPTY = Batch(b"", b"")


def concat(batches: Iterable[Batch]) -> Batch:
    """One batch holding the entries of all of them, in order.

    >>> concat([Batch.of([b"a"]), Batch.of([b"b", b"c"])]).payloads()
    [b'a', b'b', b'c']
    """
    parts = list(batches)
    if len(parts) == 1:
        return parts[0]
    return Batch(b"".join(part.lengths for part in parts), b"".join(part.blob for part in parts))


class Checksum(NamedTuple):
    """CRC-32 of a sequence of entries: of the stream of lengths and of the stream of payload bytes.

    Independent of how the entries were batched, so copies of a segment can be compared:

    >>> one = Checksum().extend(Batch.of([b"a", b"b"]))
    >>> two = Checksum().extend(Batch.of([b"a"])).extend(Batch.of([b"b"]))
    >>> one == two
    True
    """

    lengths: int = 0
    blob: int = 0

    def extend(self, batch: Batch) -> Checksum:
        """The checksum of what was summed so far followed by `batch`."""
        return Checksum(crc32(batch.lengths, self.lengths), crc32(batch.blob, self.blob))
