"""Opening a log: what is there, what was torn, what is damaged.

1. Walk over the data files from block header to block header; everything outside a block is free space.
2. Fold the journal's notes (`journal.py`).
3. For each topic, in the order of its blocks: a block that has a successor is described by it. The last
   block is scanned (scan.py) from the place up to which the journal knows it to be durable.

A record that does not match its checksum is one of three things, and they must not be confused:

    nothing sound follows it, and it was not known to be durable   -> the torn tail of a crash. Cut.
    it was known to be durable                                     -> damage. Kept, reads of it raise.
    something sound follows it, but it was not known to be durable -> depends on the machine, see below.

"Known to be durable" means evidence on disk: every record, block header and note of the journal says how
many entries before it were durable when it was written. The boot id settles the third case. If the machine
has not restarted since the log was written, no unsynced byte was lost, a crash can only have torn the last
write of a topic, and this is damage. If it has, the kernel may have written later sectors before earlier
ones, and keeping what follows would leave a hole in the log where a write was lost: everything from here on
was never acknowledged as durable, and is cut. After a restart all blocks above the durable mark are checked
this way.

The same log, four times. Records 0 to 4 were written, the journal knows 2 of them as durable, and record 3 is
torn; record 4 is whole:

    records        the machine    verdict
    0 1 2 x -      either         nothing sound follows: a torn tail, cut. 3 entries
    0 1 2 x 4      did not        record 3 was written before 4 and cannot have been torn by a crash: damage,
                   restart        3 is reported, 4 is kept. 5 entries, of which one cannot be read
    0 1 2 x 4      restarted      the disk wrote 4 before 3, and neither was acknowledged as durable: both are
                                  cut. 3 entries
    0 x 2 3 4      either         record 1 was durable, so it is damaged, not torn. 5 entries, of which one
                                  cannot be read

Cutting destroys evidence, so the known durable length is noted in the journal, and synced, before anything
is overwritten. The bytes that are cut are then overwritten with zeros, or an append of the same length
would bring the rest back to life. After a crash in between, recovery finds the same log and reaches the
same verdict:

    note what is known, sync       crash: found again as it was, judged in the same way
    zeros over what is cut, sync   crash: a part of it is zeros, which is torn as well; cut again
    release the blocks             in memory only
    the first append               crash: a torn tail behind the last record, as after any append
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import msgspec

from walrus.storage.backend import write_all
from walrus.storage.block import Block
from walrus.storage.journal import TopicNote
from walrus.storage.record import U32, UNIT, ZEROS_FOLLOW, decode_block, mend_block
from walrus.storage.scan import DamagedRange, Scan, scan
from walrus.storage.space import Extent, Space, file_name


class Cut(msgspec.Struct, frozen=True):
    """Bytes dropped from the end of a topic."""

    topic: str
    file: str
    offset: int  # in the file
    dropped_bytes: int


class Damage(msgspec.Struct, frozen=True):
    """Entries that cannot be read any more: `first` up to, but not including, `resume`."""

    topic: str
    file: str
    offset: int  # in the file
    first: int
    resume: int


class Recovery(msgspec.Struct):
    """What opening the log found (`Walrus.recovery`)."""

    topics: int = 0
    entries: int = 0
    cuts: list[Cut] = []
    damage: list[Damage] = []
    nameless: list[TopicNote] = []
    """Topics of which the journal knows and no block is left to say their names: all of each is lost."""
    scanned_bytes: int = 0

    @property
    def dropped_bytes(self) -> int:
        """Bytes of torn writes that were cut off, over all topics."""
        return sum(cut.dropped_bytes for cut in self.cuts)

    @property
    def clean(self) -> bool:
        """Whether nothing was cut and nothing is damaged."""
        return not self.cuts and not self.damage and not self.nameless


Gaps: TypeAlias = list[tuple[Block, DamagedRange]]
"""What is no sound record, and in which block: a `DamagedRange` counts from the beginning of its block."""


class Chain(msgspec.Struct):
    """One topic as recovered."""

    name: str
    topic_id: int
    blocks: list[Block]  # none if the topic turns out never to have been on disk
    note: TopicNote
    durable: int = 0  # entries below are known to be on disk
    torn: bool = False  # something has to be overwritten with zeros
    sealed: bool = False  # entries are missing at the end: no more appends to the last block
    gone: list[Block] = []  # blocks that were cut off altogether

    @property
    def next_index(self) -> int:
        """Index after the last entry."""
        assert self.blocks, "a topic that was never on disk has no entries to count"
        return self.blocks[-1].next_index

    def check_invariants(self) -> None:
        """Assert what must hold of a chain when it has been judged, whatever the disk said."""
        # Sequences may repeat: the erasure of a header may have been lost. They never fall, or the walk from
        # each block to the next would count entries below zero.
        sequences = [block.head.sequence for block in self.blocks]
        assert sequences == sorted(sequences), f"SeqOrder: {self.name}: blocks out of order"
        assert not self.gone or self.torn, f"{self.name}: blocks go that nothing will overwrite"
        assert not self.sealed or self.blocks, f"{self.name}: entries are missing of no block"
        if self.blocks:
            assert self.durable <= self.next_index, (
                f"{self.name}: what was durable is neither kept nor missed"
            )


def find_blocks(space: Space) -> dict[int, list[Block]]:
    """Every block of every file, by topic; hands the rest of the files to the free ranges.

    Where a block ends, the next one may begin, or a free range. So a header is looked for at each unit until
    one is found, and a header that is damaged beyond mending costs its own block: its units pass for free
    ones, and the block behind it is found all the same. A run of zeros up to the end of the file holds no
    header, and asking the disk where that run begins saves reading it.
    """
    found: dict[int, list[Block]] = {}
    for number, units in sorted(space.sizes.items()):
        file, start, free = space.file(number), 0, 0
        view = space.view(Extent(number, 0, units)) if units else memoryview(b"")
        used: int | None = None  # no block starts at this unit or behind it, as far as the disk can tell
        while start < units:
            if used is not None and start >= used:
                start, free = units, free + units - start
                break
            rest = view[start * UNIT : units * UNIT]
            head = decode_block(rest, number, start * UNIT) or mend_block(rest, number, start * UNIT)
            if head is None or not head.units:
                start, free = start + 1, free + 1
                if used is None:
                    used = -(-file.zeros_from(start * UNIT, units * UNIT) // UNIT)
                continue
            if free:
                space.release(Extent(number, start - free, free))
                free = 0
            block = Block(Extent(number, start, head.units), head)
            found.setdefault(head.topic_id, []).append(block)
            start += head.units
        assert start == units, "a block reaches beyond its file"
        if free:
            space.release(Extent(number, start - free, free))
    for blocks in found.values():
        # By sequence. Two blocks of one number (the erasure of a header was lost, for example) are at least
        # in the same order at every open.
        blocks.sort(key=lambda block: (block.head.sequence, block.head.base, block.head.life))
    return found


class Recoverer:
    """Recovers topics one by one; `report` is what `Walrus.recovery` shows."""

    def __init__(self, space: Space, *, same_boot: bool) -> None:
        self._space = space
        self._same_boot = same_boot
        self.report = Recovery()

    def chain(self, name: str, topic_id: int, blocks: list[Block], note: TopicNote) -> Chain:
        """Work out what a topic holds. Changes nothing on disk."""
        assert blocks, "a topic is known by its blocks"
        assert all(block.head.topic_id == topic_id for block in blocks), (
            "PrefixAgree: a chain of two topics' blocks"
        )
        chain = Chain(name, topic_id, blocks, note)
        # Gaps are collected first and judged last, because the mark up to which the topic was durable comes
        # from all blocks and records together.
        gaps = self._describe(chain)
        if not self._same_boot:
            gaps += self._check_unsynced(chain)
            self._cut_unsynced(chain, gaps)
            assert all(block.head.base + gap.position < chain.durable for block, gap in gaps), (
                "a hole is kept where a write was lost: no reader could tell that anything is missing"
            )
        for block, gap in gaps:
            self._report_damage(chain, block, gap.offset, gap.position, gap.resume)
        if chain.blocks:
            self._settle_end(chain)
        chain.check_invariants()
        return chain

    def _describe(self, chain: Chain) -> Gaps:
        """Set the end of every block, from its successor where there is one, and what is known as durable."""
        blocks, note = chain.blocks, chain.note
        gaps: Gaps = []
        # The first block is not the topic's first one: either those before were trimmed, and then the journal
        # says so, or their headers are lost, and then it is a gap at the beginning. Passed over in silence, a
        # reader from 0 would be told that the entries were trimmed on purpose.
        if blocks[0].head.base > max(note.first, 0) and blocks[0].head.sequence > 0:
            gaps.append((blocks[0], DamagedRange(0, note.first - blocks[0].head.base, 0)))
        for block, following in pairwise(blocks):
            if following.head.sequence == block.head.sequence + 1:
                block.end = following.head.previous_end
                block.entries = following.head.base - block.head.base
            else:  # blocks are missing in between, so this one has to be read; what they held is a gap
                gaps += self._take(block, self._scan(block, block.extent.size))
                gaps.append(
                    (block, DamagedRange(block.end, block.entries, following.head.base - block.head.base))
                )
        last = blocks[-1]
        found = self._scan(last, last.extent.size, note)
        gaps += self._take(last, found)
        # All the evidence there is. Each mark was true when it was written, so the highest counts. If that
        # one is lost, a lower one holds, and damage may pass for a torn write; never the other way round.
        marks = [note.durable, last.head.base + found.durable if found.durable else 0]
        chain.durable = max(marks + [block.head.durable for block in blocks])
        assert chain.durable >= note.durable, "AckedDurable: the journal knew more than is believed"
        return gaps

    def _scan(self, block: Block, limit: int, note: TopicNote | None = None) -> Scan:
        """The records of a block, from where the journal knows it to be on disk: the rest was read before."""
        # From the journal's mark only if it lies within this block. A mark of another block would put the
        # walk in the middle of a record, where nothing sound is found, and the tail would pass for torn.
        place, position = block.head.start, 0
        if note is not None and block.head.base < note.durable and place < note.place <= limit:
            place, position = note.place, note.durable - block.head.base
        start = block.extent.offset
        zeros = self._space.file(block.extent.file).zeros_from(start + place, start + limit) - start
        found = scan(self._view(block), block.life, place, position, min(limit, zeros))
        assert found.end >= place and found.entries >= position, "a scan that ends before it begins"
        self.report.scanned_bytes += found.end - place
        return found

    def _take(self, block: Block, found: Scan) -> Gaps:
        """Believe a scan: the block ends with its last sound record."""
        assert found.end <= block.extent.size, "PrefixAgree: the next append would go into another block"
        block.end, block.entries = found.end, found.entries
        return [(block, gap) for gap in found.gaps]

    def _check_unsynced(self, chain: Chain) -> Gaps:
        """After a restart of the machine: look into the full blocks above the durable mark, too.

        A successor's header describes a full block, and may have reached the disk before all of its records.
        """
        assert not self._same_boot, "what the kernel had is on disk or still in its cache: nothing to check"
        gaps: Gaps = []
        for block, following in pairwise(chain.blocks):
            described = following.head.sequence == block.head.sequence + 1
            if described and block.next_index > chain.durable:
                found = self._scan(block, block.end)
                gaps += [(block, gap) for gap in found.gaps]
                if found.entries < block.entries:
                    gaps.append((block, DamagedRange(found.end, found.entries, block.entries)))
        return gaps

    def _cut_unsynced(self, chain: Chain, gaps: Gaps) -> None:
        """End the topic before the first gap above the durable mark; forget the gaps behind it."""
        assert not self._same_boot, "AckedDurable: damage would be cut as if it were torn"
        # In the order of the topic. What lies behind the first gap was written later than what is missing, so
        # none of it was acknowledged as durable; kept, it would close over a hole that no reader can see.
        gaps.sort(key=lambda item: (item[0].head.base + item[1].position, item[0].head.sequence))
        for number, (block, gap) in enumerate(gaps):
            if block.head.base + gap.position >= chain.durable:
                del gaps[number:]
                kept = chain.blocks.index(block) + (
                    gap.offset > 0
                )  # not even the block, if it lacks its first
                chain.blocks, chain.gone = chain.blocks[:kept], chain.blocks[kept:]
                chain.torn = True
                if kept:
                    block.end, block.entries = gap.offset, gap.position
                    assert block.next_index >= chain.durable, "AckedDurable: what was durable is cut"
                for each in chain.gone:
                    self._report_cut(chain, each, each.head.start, each.end - each.head.start)
                return

    def _settle_end(self, chain: Chain) -> None:
        """See what follows the last record, and whether entries are missing that must have been there."""
        block = chain.blocks[-1]
        if block.next_index < chain.durable:
            # They were acknowledged as durable, so their numbers are never given to other entries: a reader
            # is told of the damage, and appends go on behind it, in a block of their own.
            missing = chain.durable - block.head.base
            self._report_damage(chain, block, block.end, block.entries, missing)
            block.entries = missing
            chain.sealed = True
        else:
            # Nothing that was known to be durable is missing, so what stands behind the last sound record was
            # never acknowledged as durable: it may go, and has to, before an append can meet it.
            remains = self._remains(block)
            chain.torn = chain.torn or remains > 0
            self._report_cut(chain, block, block.end, remains)
        assert chain.next_index >= chain.durable, "AckedDurable: the number of a durable entry is given again"
        self.report.topics += 1
        self.report.entries += max(0, chain.next_index - chain.note.first)

    def _view(self, block: Block) -> memoryview:
        """The block's bytes, header included."""
        return self._space.view(block.extent)

    def _remains(self, block: Block) -> int:
        """Bytes of torn writes behind the last record; an older life's remains are not ours.

        Only the report depends on it, and whether there is something to overwrite. Where zeros follow, every
        other byte was written by this life; elsewhere only what begins with its tag is known to be.
        """
        start, file = block.extent.offset, self._space.file(block.extent.file)
        end = file.zeros_from(start + block.end, start + block.extent.size) - start
        rest = self._view(block)[block.end : end]
        if not block.head.flags & ZEROS_FOLLOW and bytes(rest[:4]) != U32.pack(block.life.tag):
            return 0
        return _used(rest)

    def _report_cut(self, chain: Chain, block: Block, offset: int, dropped: int) -> None:
        if dropped > 0:
            file = file_name(block.extent.file)
            self.report.cuts.append(Cut(chain.name, file, block.extent.offset + offset, dropped))

    def _report_damage(self, chain: Chain, block: Block, offset: int, first: int, resume: int) -> None:
        file, base = file_name(block.extent.file), block.head.base
        place = block.extent.offset + offset
        self.report.damage.append(Damage(chain.name, file, place, base + first, base + resume))

    def cut_on_disk(self, chain: Chain) -> None:
        """Overwrite what was cut, and sync. What was known has been noted durably by now."""
        assert chain.torn, "nothing was cut of this topic"
        assert not {block.extent for block in chain.gone} & {block.extent for block in chain.blocks}, (
            "a block that is kept would be erased"
        )
        last = chain.blocks[-1:]
        # One file at a time: a log that was cut far back has more of them than may be open.
        for number in sorted({block.extent.file for block in (*chain.gone, *last)}):
            file = self._space.file(number)
            for gone in [gone for gone in chain.gone if gone.extent.file == number]:
                self._space.erase(gone.extent)
            for block in [block for block in last if block.extent.file == number]:
                rest = _used(self._view(block)[block.end :])
                write_all(file, [bytes(rest)], block.extent.offset + block.end)
            file.sync()
        # Released last. A unit that is free may be taken at once, and its new header would then be erased.
        for gone in chain.gone:
            self._space.release(gone.extent)


def _used(rest: memoryview) -> int:
    """Length of `rest` without the zeros at its end."""
    end, step = len(rest), 1 << 16  # piece by piece from the end: a block is mostly zeros, and megabytes long
    while end > 0:
        start = max(0, end - step)
        part = bytes(rest[start:end])
        if part != bytes(len(part)):
            used = start + len(part.rstrip(b"\0"))
            assert rest[used - 1], "zeros at the end would count as what a torn write left"
            return used
        end = start
    return 0
