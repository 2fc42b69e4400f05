"""The judge's records of work queues: the invariants of `spec/Delivery.tla`, by their names.

    AckedNotRedelivered    a RECEIVE that is sent after the OK to an ACK never returns that entry again
    PromisedIsCommitted    an entry whose ACK is answered OK is done in the committed metadata
    NothingSkipped         an entry that is done was acknowledged by a consumer, or is in the dead-letter
                           topic, or a SEEK passed over it
    MarkOnlyRises          what is done stays done, within a generation
    OutIsBounded           an owner hands out nothing beyond the window above the mark that it knows
    EveryEntryAcked        once faults have ended and workers acknowledge, every entry is done

A receipt names the generation, so a promise made before a SEEK does not bind after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

from walrus.acknowledged import START, Acknowledged, Position
from walrus.replicas.copies import Key
from walrus.segments import Metadata, Topic
from walrus.sim.violation import Violation, holds
from walrus.wire.receipts import Receipt

Generation: TypeAlias = tuple[str, str, int]
"""(topic, group, generation)"""


class View(Protocol):
    """The part of the truth that these checks read."""

    now: float
    metadata: Metadata

    def written_at(self, payload: bytes) -> list[tuple[Key, int]]:
        """Return the positions of this entry."""

    def settled(self, key: Key) -> int:
        """Return how many entries of a segment are settled."""

    def is_given_up(self, topic: str, position: Position) -> bool:
        """Return whether no copy need hold this entry any more."""

    def is_dead_letter(self, topic: str, position: Position) -> bool:
        """Return whether the entry is in the topic's dead-letter topic."""


class DeliveryRecord:
    """What the consumers of one generation of one group were given and told."""

    def __init__(self, done: Acknowledged) -> None:
        self.finished: set[Position] = set()
        """Entries for which an ACK was sent."""
        self.promised: dict[Position, float] = {}
        """Entries whose ACK was answered OK, and when."""
        self.done = done
        """What was committed at the last check."""


class DeliveryRecords:
    """The records of all generations of all groups."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._records: dict[Generation, DeliveryRecord] = {}

    def _of(self, topic: str, group: str, generation: int) -> DeliveryRecord:
        known = self._records.get((topic, group, generation))
        if known is None:
            done = self._view.metadata.topics[topic].groups.get(group, Acknowledged())
            begin = done if done.generation == generation else Acknowledged(generation)
            known = DeliveryRecord(Acknowledged(generation, begin.low if generation else START))
            self._records[(topic, group, generation)] = known
        return known

    def received(self, topic: str, group: str, receipt: Receipt, payload: bytes, sent_at: float) -> None:
        """A consumer was handed an entry, in answer to a RECEIVE that it sent at `sent_at`."""
        places, position = self._view.written_at(payload), Position(receipt.segment, receipt.offset)
        if ((topic, receipt.segment), receipt.offset) not in places:
            raise Violation("PrefixAgree", f"{payload!r} is at {places}, and came as {receipt}")
        if receipt.offset >= self._view.settled((topic, receipt.segment)):
            raise Violation("DeliveredIsPrefix", f"{receipt} of {topic} is not settled, and was handed out")
        promised = self._of(topic, group, receipt.generation).promised.get(position)
        if promised is not None and sent_at > promised:
            what = f"{receipt} of {topic}, {group}: promised at {promised:.4f}, asked for at {sent_at:.4f}"
            raise Violation("AckedNotRedelivered", what)

    def acknowledges(self, topic: str, group: str, receipts: Iterable[Receipt]) -> None:
        """A consumer sends an ACK."""
        for receipt in receipts:
            position = Position(receipt.segment, receipt.offset)
            self._of(topic, group, receipt.generation).finished.add(position)

    def acknowledged(self, topic: str, group: str, receipt: Receipt) -> None:
        """A consumer was told OK."""
        position, now = Position(receipt.segment, receipt.offset), self._view.now
        done = self._view.metadata.topics[topic].groups.get(group, Acknowledged())
        committed = done.generation > receipt.generation or done.covers(position)
        holds(committed, "PromisedIsCommitted", f"{receipt} of {topic}, {group} was promised: {done}")
        self._of(topic, group, receipt.generation).promised.setdefault(position, now)

    def look(self, name: str, topic: Topic) -> None:
        """Check NothingSkipped and MarkOnlyRises on the committed state of this topic's groups."""
        for group, done in topic.groups.items():
            known = self._of(name, group, done.generation)
            if done == known.done:
                continue
            rises = done.low >= known.done.low and all(map(done.covers, _above(known.done)))
            if not rises and not self._view.is_given_up(name, known.done.low):
                raise Violation("MarkOnlyRises", f"{name}, {group}: {done} after {known.done}")
            for position in _fresh(topic, known.done, done):
                excused = self._view.is_given_up(name, position) or self._view.is_dead_letter(name, position)
                if position not in known.finished and not excused:
                    raise Violation("NothingSkipped", f"{name}, {group}: {position} is done, no ACK was sent")
            known.done = done

    def unfinished(self, name: str, topic: Topic, end: Position) -> str:
        """Return a group that still has entries before `end` that are not done; "" if there is none."""
        for group, done in sorted(topic.groups.items()):
            if topic.advance(done.low) < end:
                return f"{name}, {group}: done up to {done.low} of {end}, and {done.above}"
        return ""


def _above(done: Acknowledged) -> Iterator[Position]:
    """Yield the entries above the mark that are done."""
    for run in done.above:
        for offset in range(run.start, run.end):
            yield Position(run.segment, offset)


def _fresh(topic: Topic, before: Acknowledged, done: Acknowledged) -> Iterator[Position]:
    """Yield the entries that are done now and were not before."""
    position = topic.advance(before.low)
    while position < done.low:
        if not before.covers(position):
            yield position
        position = topic.advance(Position(position.segment, position.offset + 1))
    for position in _above(done):
        if not before.covers(position):
            yield position
