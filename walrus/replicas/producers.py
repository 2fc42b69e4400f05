"""Exactly-once appends: what a segment's writer knows of the producers that number their entries (PUB).

A producer numbers its entries of a topic 0, 1, 2, ... and may send each as often as it likes. The writer
keeps the last number of each producer, and so tells a new entry from a duplicate:

    number               outcome
    last + 1             appended, with its stamp (`storage/batch.py`)
    last, or below       a duplicate: never appended, and answered once all that is appended is acknowledged
    above last + 1       refused: an earlier one is missing
    0, unknown name      appended: a producer begins
    above 0, unknown     refused: the last number is forgotten, so a duplicate could not be told

The table begins with the metadata's, which the Seals of all earlier segments have filled, and follows each
append. A Seal passes on what this segment changed (`since`). A recovery has no writer to ask: each copy
derives the same table from the stamps of its entries (`copies.py`), and that of the chosen copy is kept.

Bound: `MAX_PRODUCERS` per topic. In a full table a new producer replaces the one that has been idle
longest, if that was for at least `IDLE_SECONDS`: by then none of its entries is in flight, whose late
number 0 would be taken for a new producer's. The choice follows from the times in the stamps, so all copies
agree on it (`segments.latest`).

Invariants, with the names of `spec/Publish.tla`: NoDuplicateAppend, NumbersWithoutGap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from walrus.segments import IDLE_SECONDS, MAX_PRODUCERS, LastNumber, latest
from walrus.storage.batch import Stamp
from walrus.wire import errors


class Repetitions(msgspec.Struct):
    """How many duplicates the writers of this node have recognised since this start."""

    entries: int = 0


class Producers:
    """The producers that one writer knows. `undo` takes back the calls of `append` since the last `keep`."""

    def __init__(
        self,
        begun: Mapping[str, LastNumber],
        unix_time: Callable[[], float],
        repetitions: Repetitions | None = None,
    ) -> None:
        self.repetitions = repetitions or Repetitions()
        self.since: dict[str, LastNumber] = {}
        """The producers that have appended to this segment."""
        self._begun = dict(begun)
        self._known = dict(begun)
        self.dropped: list[str] = []
        """The producers that this turn's appends have replaced."""
        self._turn: dict[str, LastNumber] = {}
        self._unix_time = unix_time
        self._at = 1000 * max((known.at for known in begun.values()), default=0)
        assert len(begun) <= MAX_PRODUCERS, "a table that no other copy would have"

    def now(self) -> int:
        """Return the append time of this turn, in unix milliseconds, from the clock.

        It is never before that of an earlier turn, or before a time in the table: a clock may be set back,
        and that of the previous writer may have been fast (TimesAscend).
        """
        before, self._at = self._at, max(self._at, int(self._unix_time() * 1000))
        assert self._at >= before, "TimesAscend: a writer goes back in time"
        return self._at

    def refuses(self, stamp: Stamp) -> errors.Reason:
        """Return why the run cannot be taken; "" if its first entry is the next one, or a duplicate."""
        known = self._known.get(stamp.producer)
        if known is not None:
            expected = known.last + 1
            return errors.out_of_sequence(expected) if stamp.first > expected else errors.NO_ERROR
        if stamp.first:
            return errors.unknown_producer(stamp.producer)
        if len(self._known) >= MAX_PRODUCERS and self._idlest().at + IDLE_SECONDS > self._at // 1000:
            return errors.too_many_producers(MAX_PRODUCERS)
        return errors.NO_ERROR

    def _idlest(self) -> LastNumber:
        assert self._known, "a table of none is not full"
        return min(self._known.values(), key=lambda known: known.at)

    def repeated(self, stamp: Stamp) -> int:
        """Return how many entries at the beginning of the run are duplicates."""
        known = self._known.get(stamp.producer)
        return 0 if known is None else max(0, min(stamp.entries, known.last + 1 - stamp.first))

    def append(self, stamp: Stamp) -> Stamp:
        """Note that the run is appended in this turn; return its stamp with the turn's time (`now`)."""
        assert not self.refuses(stamp) and not self.repeated(stamp), "NoDuplicateAppend: it was had before"
        stamp = stamp._replace(at=self._at)
        self._turn[stamp.producer] = LastNumber(stamp.first + stamp.entries - 1, stamp.at // 1000)
        self._known[stamp.producer] = self._turn[stamp.producer]
        if len(self._known) > MAX_PRODUCERS:
            kept = latest(self._known)
            self.dropped += self._known.keys() - kept.keys()
            self._known = kept
        assert len(self._known) <= MAX_PRODUCERS, "a table beyond its bound"
        assert stamp.producer in self._known, "NoDuplicateAppend: the newest producer is forgotten"
        return stamp

    def keep(self) -> None:
        """The appends since the last call were written."""
        self.since |= self._turn
        self._turn, self.dropped = {}, []

    def undo(self) -> None:
        """The appends since the last `keep` were not written: take them back."""
        self._turn, self.dropped = {}, []
        self._known = latest(self._begun | self.since)
        assert len(self._known) <= MAX_PRODUCERS, "a table beyond its bound"
