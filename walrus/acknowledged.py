"""What a consumer group has acknowledged, as all nodes agree on it: a low-water mark, and runs above it.

Every entry below `low` is acknowledged. Entries above it that were acknowledged out of order are stored as
runs, in order and with gaps between them. When a run touches the mark, the mark moves to the end of the run:

    . . . . . . . . . x x . . x . . .        x: acknowledged above the mark
                  ^ low

Merging two values is a join: the later mark, and the union of the runs. So commits are idempotent, and one
that is late, or from an earlier owner of the group, loses nothing. Only SEEK moves a group back: it begins a
new generation, and commits of another generation are ignored (`Metadata._commit_groups`).

`advance` is `Topic.advance`: it moves a position at the end of a sealed segment to the next segment, so that
the mark passes from segment to segment. The outstanding deliveries of a group are volatile
(`broker/groups.py`).

Invariants (names as in `spec/Delivery.tla`): MarkOnlyRises; the runs are above the mark, in order, not empty,
and neither touch it nor each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec


class Position(NamedTuple):
    """A position in a topic: that of an entry, or of the next one to read. Positions compare as tuples.

    Segments are numbered from 1. (0, 0) stands for a position that a node did not return; it is not `known`.
    """

    segment: int
    offset: int

    @property
    def known(self) -> bool:
        """Whether it is a position at all."""
        return self.segment > 0


START = Position(1, 0)

Advance: TypeAlias = Callable[[Position], Position]


class Run(NamedTuple):
    """Entries `start` to `end - 1` of one segment."""

    segment: int
    start: int
    end: int


class HandedOn(NamedTuple):
    """An entry that was handed out when its segment was sealed, and how often it had been."""

    segment: int
    offset: int
    deliveries: int


class Acknowledged(msgspec.Struct, frozen=True, array_like=True):
    """What one generation of a group has acknowledged: every entry below `low`, and the runs in `above`."""

    generation: int = 0
    low: Position = START
    above: tuple[Run, ...] = ()

    @property
    def high(self) -> Position:
        """The position after the last acknowledged entry."""
        return Position(self.above[-1].segment, self.above[-1].end) if self.above else self.low

    def covers(self, position: Position, count: int = 1) -> bool:
        """Whether `count` entries of one segment, from `position` on, are all acknowledged."""
        segment, offset = position
        if (segment, offset + count) <= self.low:
            return True
        if not self.above:
            return False
        at = bisect_right(self.above, Run(segment, offset, 1 << 63)) - 1
        return at >= 0 and self.above[at].segment == segment and offset + count <= self.above[at].end

    def missing(self, positions: Iterable[Position]) -> list[Position]:
        """Return those that are not acknowledged. Only positions among the runs are searched for."""
        low, high = self.low, self.high
        return [one for one in positions if one >= low and (one >= high or not self.covers(one))]

    def join(self, other: Acknowledged, advance: Advance) -> Acknowledged:
        """Return the join of this and `other`, which is of the same generation.

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
        """Return this without anything from `end` on, since a recovery has given up the entries there."""
        low = min(self.low, end)
        runs = (
            Run(run.segment, run.start, min(run.end, end.offset) if run.segment == end.segment else run.end)
            for run in self.above
            if (run.segment, run.start) < end
        )
        return Acknowledged(self.generation, low, tuple(runs))

    @property
    def is_in_order(self) -> bool:
        """Whether the invariants of the runs hold."""
        ends = [(self.low.segment, self.low.offset), *((run.segment, run.end) for run in self.above)]
        return all(
            run.start < run.end and end < (run.segment, run.start)
            for end, run in zip(ends, self.above, strict=False)
        )


def runs_of(places: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """Return these entries as runs; a place is (segment, offset), as a `Position`.

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
    """What each group has acknowledged, for a recorded run: [group, generation, segment, offset, runs]."""
    return [
        [group, done.generation, *done.low, [list(run) for run in done.above]]
        for group, done in sorted(groups.items())
    ]


def handed_told(handed: Mapping[str, Collection[HandedOn]]) -> list[list[object]]:
    """What each group had handed out, for a recorded run: [group, [[segment, offset], ...]]."""
    return [[group, [[one.segment, one.offset] for one in out]] for group, out in sorted(handed.items())]


def _merged(runs: Iterable[Run]) -> Iterator[Run]:
    """Merge runs, given in the order of their starts, that touch or overlap."""
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
