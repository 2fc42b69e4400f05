"""One block as the engine knows it in memory: where it is, what it holds, and how to find an entry in it.

The index of a block is sparse (one point every 4 KiB, eight bytes each) and made when somebody first looks
for an entry in the middle of the block, by walking over the heads of its records. It is only a hint about
where to look: whatever is found there is verified before it is believed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from walrus.storage.record import BlockHead, Life, Record, find, peek
from walrus.storage.space import Extent

_STEP = 4096


class Hole(Exception):
    """Entries `position` up to `resume` (counted from the block's first) cannot be read; raised to say so."""

    def __init__(self, offset: int, position: int, resume: int) -> None:
        super().__init__(offset, position, resume)
        self.offset = offset
        self.position = position
        self.resume = resume


class Block:
    """A block in use. `end` and `entries` are final once a later block exists."""

    __slots__ = ("_offsets", "_positions", "end", "entries", "extent", "head", "life")

    def __init__(self, extent: Extent, head: BlockHead, end: int = 0, entries: int = 0) -> None:
        self.extent = extent
        self.head = head
        self.life = Life.of(head.life, extent.file, extent.offset)
        self.end = end or head.start
        self.entries = entries
        self._positions = array("I", [0])
        self._offsets = array("I", [head.start])

    @property
    def next_index(self) -> int:
        """Index after its last entry."""
        return self.head.base + self.entries

    def locate(self, view: memoryview, position: int, end: int, entries: int) -> Record:
        """The record (not verified) that holds entry `position` of the block, or raise its `Hole`."""
        point = bisect_right(self._positions, position) - 1
        offset, expected = self._offsets[point], self._positions[point]
        while True:
            record = peek(view, self.life, offset, end)
            if record is None or record.position != expected:
                record = find(view, self.life, offset + 1, end, expected + 1)
                resume = entries if record is None else record.position
                if record is None or position < resume:
                    raise Hole(offset, max(expected, position), max(resume, position + 1))
            if position < record.position + record.entries:
                return record
            offset, expected = record.end, record.position + record.entries
            if offset - self._offsets[-1] >= _STEP:
                self._offsets.append(offset)
                self._positions.append(expected)

    def index_bytes(self) -> int:
        """Memory that the index takes."""
        return 8 * len(self._positions)
