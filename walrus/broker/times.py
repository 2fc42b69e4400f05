"""The position of a time: the first entry of a topic that was appended then, or later.

Each entry has its append time (`Batch.times`), and within a segment times ascend (TimesAscend). So a binary
search finds the position by reading single entries at any node that has the segment: some forty reads,
however large the topic, and without an index that would have to be written, stored and trusted. FIND
returns the position, SEEK moves a group there. If replicas are silent and the search has taken as long as a
request may (`request_timeout`), it ends with the answer, or the timeout, of the replica asked last.

    segment      1 (sealed at 4)    2 (sealed at 3)    3 (open, 2 entries)
    times        10 10 20 30        40 40 50           60 70  -  -  -  ...
    position of  5: 1.0   20: 1.2   40: 2.0            55: 3.0   99: 3.2, where the next entry comes

Only its leader knows the length of the open segment. So the search reads its first entry, which shows
whether the position is before it; if not, it reads 2, 4, 8, ... entries further on until one is late
enough, or missing: a short segment costs few requests to other nodes. Missing entries count as later.
Entries appended by a release without times have time 0 and count as earlier than any other. Two segments
have two writers, whose clocks may differ: if a segment begins at an earlier time than its predecessor
ended, more than one position fits, and the search finds one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import accumulate
from typing import TypeAlias

import msgspec

from walrus.config import NodeConfig
from walrus.replicas.reads import Reads
from walrus.segments import Metadata, Position
from walrus.storage.batch import Batch
from walrus.storage.errors import StorageError
from walrus.wire import errors

Place: TypeAlias = Position | errors.Reason
"""Where, or why that cannot be told."""

OPEN_SIZE = 1 << 32
"""More entries than a segment has."""


class TimeSearch(msgspec.Struct):
    """The place is one of `low .. high`, counted from the topic's first entry."""

    topic: str
    ms: int
    numbers: list[int]
    starts: list[int]
    """Of each segment: its number, and how many entries are before it."""
    low: int
    high: int
    deadline: float
    then: Callable[[Place, float], None]
    reach: int = 1
    """How far to look ahead where the end is not known."""

    @property
    def next(self) -> int:
        """The entry to look at next."""
        middle, last = (self.low + self.high) // 2, self.starts[-1]
        if self.high <= last:
            return middle
        return last if self.low <= last else min(middle, self.low + self.reach)

    def position(self, index: int) -> Position:
        """Where the entry with so many before it is."""
        at = bisect_right(self.starts, index) - 1
        return Position(self.numbers[at], index - self.starts[at])

    def saw(self, times: list[int]) -> None:
        """The next entry was appended then; or there is none."""
        if not times or times[0] >= self.ms:
            self.high = self.next
        else:
            self.low, self.reach = self.next + 1, 2 * self.reach
        assert self.low <= self.high, "the place of a time is passed"


class Times:
    """Finds places of times for this node's clients."""

    def __init__(
        self, *, config: NodeConfig, metadata: Metadata, reads: Reads, connected: Collection[int]
    ) -> None:
        self._config, self._metadata, self._reads, self._connected = config, metadata, reads, connected

    def find(self, topic: str, ms: int, then: Callable[[Place, float], None], now: float) -> None:
        """Call `then` with the place of that time in a known topic, or with the reason why there is none."""
        segments = list(self._metadata.topics[topic].numbered())
        sizes = [segment.count if segment.count is not None else OPEN_SIZE for _, segment in segments]
        *starts, end = accumulate(sizes, initial=0)
        deadline, numbers = now + self._config.request_timeout, [number for number, _ in segments]
        self._go_on(TimeSearch(topic, ms, numbers, starts, 0, end, deadline, then), now)

    def _go_on(self, search: TimeSearch, now: float, tried: int = 0) -> None:
        """Look at what this node has; what it has not is asked of another one, the `tried` first in vain."""
        while search.low < search.high:
            place = search.position(search.next)
            told = self._here(search.topic, place)
            if told is None:
                self._ask(search, place, now, tried)
                return
            search.saw(told)
            tried = 0
        topic = self._metadata.topics.get(search.topic)
        if topic is None:
            search.then(errors.unknown_topic(search.topic), now)
        else:  # what was the open segment when the search began may be trimmed by now
            search.then(max(search.position(search.low), topic.begin), now)

    def _here(self, topic: str, place: Position) -> list[int] | None:
        """When the entry there was appended; [] if there is none (yet), None if this node cannot tell."""
        segment = self._metadata.segment(topic, place.segment)
        if segment is None:
            return [-1]  # it was trimmed meanwhile: earlier than anything
        if segment.count is not None and place.offset >= segment.count:
            return []  # it was sealed meanwhile
        if self._reads.readable(topic, place.segment) > place.offset:
            with suppress(StorageError):  # another replica has it
                return self._reads.read_local(topic, place.segment, place.offset, 1, 1).times()
            return None
        return [] if self._reads.leads(topic, place.segment) else None

    def _ask(self, search: TimeSearch, place: Position, now: float, tried: int) -> None:
        holders = self._reads.holders(search.topic, place.segment, self._connected)
        if tried >= len(holders) or now >= search.deadline:
            search.then(errors.no_replica(search.topic, place.segment), now)
            return

        def answer(batch: Batch, error: str, at: float) -> None:
            if not error:
                search.saw(batch.times())
            self._go_on(search, at, tried + 1 if error else 0)

        self._reads.ask(
            holders[tried],
            search.topic,
            place.segment,
            place.offset,
            entries=1,
            raw=False,
            now=now,
            then=answer,
        )
