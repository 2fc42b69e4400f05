"""What a consumer group has acknowledged, as all nodes agree on it: a low-water mark, and runs above it.

Everything below `low` is done. Above it, entries that were acknowledged before earlier ones are kept as runs,
in order and apart from each other. Once a run touches the mark, the mark moves over it:

    . . . . . . . . . x x . . x . . .        x: done above the mark
                  ^ low

Merging two of these is a join: the later mark, and the union of the rest. So a commit that comes late, twice,
or from an earlier owner of the group does no harm. SEEK is the only way back: it begins a generation, and
what belongs to another generation is void (`Metadata._commit_groups`).

`advance` is the topic's (`Topic.advance`): it moves a place at the end of a sealed segment on to the next
one, so that a mark passes from segment to segment. What a group has out is volatile (`broker/groups.py`).

Invariants (names as in `spec/Delivery.tla`): MarkOnlyRises; the runs are above the mark, in order, not empty,
and neither touch it nor each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec


class Position(NamedTuple):
    """A place in a topic: of an entry, or of the next one to read. Positions of one topic order as tuples do.

    Segments are numbered from 1. A client that was told no place has (0, 0), which is not `known`.
    """

    segment: int
    offset: int

    @property
    def known(self) -> bool:
        """Whether it is a place at all."""
        return self.segment > 0


START = Position(1, 0)

Advance: TypeAlias = Callable[[Position], Position]


class Run(NamedTuple):
    """Entries `start` to `end - 1` of one segment."""

    segment: int
    start: int
    end: int


class HandedOn(NamedTuple):
    """An entry that was out when its segment was sealed, and how often it had been handed out."""

    segment: int
    offset: int
    deliveries: int


class Acknowledged(msgspec.Struct, frozen=True, array_like=True):
    """What is done in one generation of a group: all below `low`, and the runs of `above`."""

    generation: int = 0
    low: Position = START
    above: tuple[Run, ...] = ()

    @property
    def high(self) -> Position:
        """Nothing is done from there on."""
        return Position(self.above[-1].segment, self.above[-1].end) if self.above else self.low

    def covers(self, position: Position, count: int = 1) -> bool:
        """Whether `count` entries are done, of one segment, from `position` on."""
        segment, offset = position
        if (segment, offset + count) <= self.low:
            return True
        if not self.above:
            return False
        at = bisect_right(self.above, Run(segment, offset, 1 << 63)) - 1
        return at >= 0 and self.above[at].segment == segment and offset + count <= self.above[at].end

    def missing(self, positions: Iterable[Position]) -> list[Position]:
        """Those of these entries that are not done. What is below all runs, or above, costs no search."""
        low, high = self.low, self.high
        return [one for one in positions if one >= low and (one >= high or not self.covers(one))]

    def join(self, other: Acknowledged, advance: Advance) -> Acknowledged:
        """This and what `other`, of the same generation, has besides.

        >>> held = Acknowledged(low=Position(1, 2), above=(Run(1, 4, 5),))
        >>> held.join(Acknowledged(above=(Run(1, 2, 4),)), lambda position: position)
        Acknowledged(generation=0, low=Position(segment=1, offset=5), above=())
        """
        assert self.generation == other.generation, "generations do not mix"
        low = advance(max(self.low, other.low))
        left: list[Run] = []
        for run in _merged(sorted({*self.above, *other.above})):
            segment, start, end = run
            if (segment, end) <= low:
                continue
            if (segment, start) <= low:
                low = advance(Position(segment, end))
            else:
                left.append(run)
        return Acknowledged(self.generation, low, tuple(left))

    def cut(self, end: Position) -> Acknowledged:
        """The same, of a topic that turned out to end there: a recovery gave up what was behind."""
        low = min(self.low, end)
        runs = (
            Run(run.segment, run.start, min(run.end, end.offset) if run.segment == end.segment else run.end)
            for run in self.above
            if (run.segment, run.start) < end
        )
        return Acknowledged(self.generation, low, tuple(runs))

    @property
    def is_in_order(self) -> bool:
        """Whether the runs are what they must be: see the invariants above."""
        ends = [(self.low.segment, self.low.offset), *((run.segment, run.end) for run in self.above)]
        return all(
            run.start < run.end and end < (run.segment, run.start)
            for end, run in zip(ends, self.above, strict=False)
        )


def runs_of(places: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """These entries as runs; a place is (segment, offset), as in a `Position`.

    >>> runs_of([Position(1, 4), Position(1, 3), Position(2, 0)])
    (Run(segment=1, start=3, end=5), Run(segment=2, start=0, end=1))
    """
    runs: list[Run] = []
    last, start, end = 0, 0, 0
    for segment, offset in sorted(places):
        if segment == last and offset <= end:
            end = offset + 1
            continue
        if end:
            runs.append(Run(last, start, end))
        last, start, end = segment, offset, offset + 1
    return (*runs, Run(last, start, end)) if end else ()


def groups_told(groups: Mapping[str, Acknowledged]) -> list[list[object]]:
    """What is done in each, for a recorded run: [group, generation, segment, offset, runs above it]."""
    return [
        [group, done.generation, *done.low, [list(run) for run in done.above]]
        for group, done in sorted(groups.items())
    ]


def handed_told(handed: Mapping[str, Collection[HandedOn]]) -> list[list[object]]:
    """What is out of each, for a recorded run: [group, [[segment, offset], ...]]."""
    return [[group, [[one.segment, one.offset] for one in out]] for group, out in sorted(handed.items())]


def _merged(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs in order of their starts, those that touch or overlap made one."""
    last: Run | None = None
    for run in runs:
        if last is not None and last.segment == run.segment and run.start <= last.end:
            last = Run(run.segment, last.start, max(last.end, run.end))
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last
