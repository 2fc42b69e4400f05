"""One block as the engine knows it in memory: where it is, what it holds, and how to find an entry in it.

The index of a block is sparse (one point every 4 KiB, eight bytes each). It is built by a walk over the
heads of the block's records, the first time that an entry in the middle of it is looked up. Both the index
and the walk from there on are hints: heads are followed without being verified, which is a hundred times
faster, as long as each has the tag and the position that the one before promised:

    points, with records of 80 bytes   entry 0 at 72, entry 52 at 4,232, entry 104 at 8,392
    look-up of entry 70                the last point at or before it: entry 52
    the heads from there on            52 53 ... 70: 19 heads of 16 bytes, and none of the payloads
    the record of entry 70             its reader verifies it

If a head does not fit, or the record at the end of the walk does not verify, `search` repeats the walk from
a point that does, and verifies every record (scan.py). Only `search` decides that an entry cannot be read.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from walrus.storage.record import BlockHead, Life, Record, peek
from walrus.storage.scan import DamagedRange, Hole, following, sound
from walrus.storage.space import Extent

_STEP = 4096
_LOW = 0xFFFF_FFFF


class Block:
    """A block in use. `end` and `entries` are final once a later block exists."""

    __slots__ = ("_points", "end", "entries", "extent", "head", "life")

    def __init__(self, extent: Extent, head: BlockHead, end: int = 0, entries: int = 0) -> None:
        self.extent = extent
        self.head = head
        self.life = Life.of(head.life, extent.file, extent.offset)
        self.end = end or head.start
        self.entries = entries
        # One number each, so that a point is added in one step: position << 32 | offset.
        self._points = array("Q", [head.start])

    @property
    def next_index(self) -> int:
        """Index after its last entry."""
        return self.head.base + self.entries

    def locate(self, view: memoryview, position: int, end: int, entries: int) -> Record:
        """The record that holds entry `position` of the block, by the heads; if it is not sound, `search`.

        Of the block, `end` bytes and `entries` entries are in use. Raises `Hole`.
        """
        offset, expected = self._point(self._before(position))
        # A head that lies sends the walk to a wrong place. There the tag fits by a chance of one in four
        # billion, and the expected position hardly ever, too; whatever passes is verified by the reader.
        while True:
            record = peek(view, self.life, offset, end)
            if record is None or record.position != expected:
                return self.search(view, position, end, entries)
            self._add_point(offset, expected)
            if position < record.position + record.entries:
                return record
            offset, expected = record.end, record.position + record.entries

    def search(self, view: memoryview, position: int, end: int, entries: int) -> Record:
        """The same, and the record is sound: nothing on the way there is believed without its checksum."""
        number = self._before(position)
        # A point may have been added by a walk that was led astray. Point 0 follows from the header, whose
        # check holds.
        while number and not sound(view, self.life, *self._point(number), end, 0).records:
            number -= 1
        offset, expected = self._point(number)
        while True:
            self._add_point(offset, expected)
            records = sound(view, self.life, offset, expected, end, _STEP).records
            if not records:
                # Damage, here or further on. It ends where the next sound record begins; if the entry that is
                # looked for lies behind that, the walk goes on, and the damage is another reader's.
                record = following(view, self.life, offset, expected, end)
                resume = entries if record is None else record.position
                if record is None or position < resume:
                    raise Hole(DamagedRange(offset, max(expected, position), max(resume, position + 1)))
                records = [record]
            last = records[-1]
            if position < last.position + last.entries:
                return next(each for each in records if position < each.position + each.entries)
            offset, expected = last.end, last.position + last.entries

    def _before(self, position: int) -> int:
        """The last point that is not behind entry `position`."""
        return bisect_right(self._points, position << 32 | _LOW) - 1

    def _point(self, number: int) -> tuple[int, int]:
        """Offset and position of a point."""
        return self._points[number] & _LOW, self._points[number] >> 32

    def _add_point(self, offset: int, position: int) -> None:
        """Remember a place, if it lies far enough behind the last one."""
        if offset - (self._points[-1] & _LOW) >= _STEP and position > self._points[-1] >> 32:
            self._points.append(position << 32 | offset)
