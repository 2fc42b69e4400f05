"""A batch: the unit in which entries are written, sent and stored.

All entries of a topic that arrive in one turn of the event loop become one batch, and a batch stays one
piece all the way: the leader's engine writes its bytes, and the replicas receive those same bytes and write
them too. Entries are not split apart until they are read. So a batch is two byte strings rather than a list
of entries:

    lengths   count x u32 little-endian     the length of each entry in bytes
    blob      the entries, end to end       sum(lengths) bytes

Both parts concatenate: the lengths of two neighbouring batches, joined, are the lengths of the joined
batch, and so are the blobs. A checksum taken over the two streams therefore does not depend on where
the batch boundaries fell, which is how two replicas that received different batches compare copies
(see `Checksum`).

Entries of a cluster are *stamped*: a third part, `stamps`, has the append time of each run of entries and,
if a producer has numbered them (PUB), the producer and the number of the first. It is sent and stored with
the batch. So all copies of a log agree on the times, and any remaining copy shows the last number of each
producer. The engine on its own stamps nothing.

    entries        a  b  c  d  e  f         stamps   (2, "", 0, 1764140000123)    a and b have no number
    producer             x  x  x            (3, "x", 7, 1764140000123)   c, d, e are numbers 7, 8, 9 of x
                                  y         (1, "y", 0, 1764140000123)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple
from zlib import crc32

import msgspec

MAX_BATCH_BYTES = 1 << 30
"""The most bytes of payload in one entry, or in one batch of the public API."""

MAX_BATCH_ENTRIES = 2_000
"""The most entries in one batch of the public API. Batches joined inside one turn may have more."""


class Stamp(NamedTuple):
    """A run of `entries` entries of `producer`, numbered from `first` on, appended at `at`.

    Without a producer ("") the entries have no numbers. `at` is in unix milliseconds; 0: not known.
    """

    entries: int
    producer: str
    first: int
    at: int

    def cut(self, start: int, stop: int) -> Stamp:
        """Return the stamp of its entries `start` to `stop - 1`, as far as it has them."""
        start, stop = max(start, 0), min(stop, self.entries)
        return self._replace(entries=max(0, stop - start), first=self.first + start if self.producer else 0)


class Batch(msgspec.Struct, frozen=True, array_like=True, repr_omit_defaults=True):
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
    stamps: tuple[Stamp, ...] = ()

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> Batch:
        """Return the batch of these entries, in order. Raises TypeError if one is not bytes-like."""
        sizes, blob = list(map(len, payloads)), b"".join(payloads)
        if sum(sizes) != len(blob):  # the length of some entry counts items of several bytes
            return cls.of([bytes(memoryview(payload)) for payload in payloads])
        return cls(struct.pack(f"<{len(sizes)}I", *sizes), blob)

    @property
    def count(self) -> int:
        """The number of entries."""
        return len(self.lengths) >> 2

    @property
    def size(self) -> int:
        """The bytes of payload."""
        return len(self.blob)

    @property
    def weight(self) -> int:
        """The bytes of the whole batch, which limits count, since empty entries have no payload."""
        return len(self.lengths) + len(self.blob)

    def sizes(self) -> tuple[int, ...]:
        """Return the length of each entry, in bytes."""
        return struct.unpack(f"<{self.count}I", self.lengths)

    def payloads(self) -> list[bytes]:
        """Return the entries."""
        blob, end = self.blob, 0
        return [blob[end : (end := end + size)] for size in self.sizes()]

    def slice(self, start: int, stop: int) -> Batch:
        """Return entries `start` to `stop - 1`, counted from 0 within this batch."""
        if start <= 0 and stop >= self.count:
            return self
        ends = [0, *accumulate(self.sizes())]
        stamps = self._cut_stamps(start, stop) if self.stamps else ()
        return Batch(self.lengths[start * 4 : stop * 4], self.blob[ends[start] : ends[stop]], stamps)

    def _cut_stamps(self, start: int, stop: int) -> tuple[Stamp, ...]:
        """Return the stamps of entries `start` to `stop - 1`; none if these have no producers and times."""
        cut, at = [], 0
        for stamp in self.stamps:
            begin, at = at, at + stamp.entries
            if max(start, begin) < min(stop, at):
                cut.append(stamp if start <= begin and at <= stop else stamp.cut(start - begin, stop - begin))
        return tuple(cut) if any(run.producer or run.at for run in cut) else ()

    def stamped(self, producer: str, first: int, at: int) -> Batch:
        """Return the batch with its entries numbered `first`, `first + 1`, ... of a producer ("": not)."""
        return Batch(self.lengths, self.blob, (Stamp(self.count, producer, first, at),))

    def timed(self, at: int) -> Batch:
        """Return the batch with the append time `at` (unix milliseconds)."""
        if not self.stamps:
            return self.stamped("", 0, at)
        return Batch(self.lengths, self.blob, tuple(run._replace(at=at) for run in self.stamps))

    def times(self) -> list[int]:
        """Return the append time of each entry, in unix milliseconds; 0 where it is not known.

        >>> Batch.of([b"a", b"b"]).timed(5).times(), Batch.of([b"c"]).times()
        ([5, 5], [0])
        """
        runs = self.stamps or (Stamp(self.count, "", 0, 0),)
        return [run.at for run in runs for _ in range(run.entries)]

    def check(self) -> None:
        """Raise ValueError unless the parts agree, for batches from a peer or a disk."""
        if len(self.lengths) % 4 or sum(self.sizes()) != len(self.blob):
            raise ValueError(f"malformed batch: {self.count} lengths do not add up to {self.size} bytes")
        if not self.stamps:
            return
        left = self.count
        for entries, _, first, at in self.stamps:
            left -= entries
            if entries < 1 or first < 0 or at < 0:
                left = -1
                break
        if left:
            raise ValueError(f"malformed batch: stamps that are not those of {self.count} entries")


EMPTY = Batch(b"", b"")


def concat(batches: Iterable[Batch]) -> Batch:
    """Return one batch with the entries of all of them, in order.

    >>> concat([Batch.of([b"a"]), Batch.of([b"b", b"c"])]).payloads()
    [b'a', b'b', b'c']
    """
    parts = list(batches)
    if len(parts) == 1:
        return parts[0]
    stamps: tuple[Stamp, ...] = ()
    if any(part.stamps for part in parts):
        runs = (part.stamps or (Stamp(part.count, "", 0, 0),) for part in parts if part.count)
        stamps = tuple(stamp for run in runs for stamp in run)
    return Batch(b"".join(part.lengths for part in parts), b"".join(part.blob for part in parts), stamps)


class Checksum(NamedTuple):
    """CRC-32 of a sequence of entries: of the stream of lengths and of the stream of payload bytes.

    It does not depend on how the entries were batched, so copies of a segment can be compared. It does not
    cover the stamps: the Seal of a segment contains the last number of each producer, and the checks of the
    records on disk cover the append times.

    >>> one = Checksum().extend(Batch.of([b"a", b"b"]))
    >>> two = Checksum().extend(Batch.of([b"a"])).extend(Batch.of([b"b"]))
    >>> one == two
    True
    """

    lengths: int = 0
    blob: int = 0

    def extend(self, batch: Batch) -> Checksum:
        """Return the checksum of the entries so far, followed by those of `batch`."""
        return Checksum(crc32(batch.lengths, self.lengths), crc32(batch.blob, self.blob))
