"""One work queue: the entries that a group of consumers has in hand, at the node that hands them out.

That node is the *owner*: the leader of the topic's open segment. This is a state machine without I/O and
without messages: its inputs are the consumers' requests, the time, and what Raft has committed.
`dispatch.py` decides which node may serve, and reads the entries; `acknowledged.py` is the committed state.
The protocol is `spec/Delivery.tla`, whose actions are named in parentheses here.

**The life of an entry in a group.**

    state       where it is kept            left by -> next state
    waiting     nowhere: all above `_next`,  RECEIVE (Receive) -> out
                or `_given_back`
    out         `_out`                      ACK (AckEntry) -> noted
                                            NACK, or the visibility timeout ends (Return) -> waiting
                                            a healthy Seal (SealWithGroups) -> out, at the next owner
                                            a failover (RecoverySeal) -> waiting, at the next owner
    spent       `_out`, withheld: was out   appended to the dead-letter topic (NoteDead) -> noted
                too often
    noted       `noted`: acknowledged,      Raft commits it (CommitGroup) -> done; the ACK is answered
                not committed yet           a healthy Seal -> done; a failover -> waiting, the ACK is resent
    done        the metadata                SEEK back (Seek) -> waiting

Entries are handed out in the order of the topic, returned ones before those that were never out. The latter
go in runs (`fresh`): entries beyond all that were ever out or acknowledged are not handled one by one.

**A delivery** is one handing out of an entry, named by its receipt. NACK and EXTEND concern the delivery
that the receipt names, and no later one. ACK concerns the entry: the work is done, whichever delivery led
to it. Only the generation must be the same, because a SEEK means that work is to be done again.

**The window.** No entry is handed out that is `queue_window` entries or more above the committed mark. This
bounds the state here, the runs in the metadata, and the redeliveries of a failover.

Invariants (names as in `spec/Delivery.tla`): OutIsBounded, AckedNotRedelivered; an entry is in at most one
of the states out, noted and given back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heappop, heappush
from itertools import compress

import msgspec

from walrus.acknowledged import Acknowledged, HandedOn, Position, runs_of
from walrus.segments import Topic
from walrus.wire.effects import Trace
from walrus.wire.receipts import Receipt


class InHand(msgspec.Struct, frozen=True):
    """A delivery of an entry that is out: its number, from 1 on, and until when."""

    number: int
    until: float


class WorkQueue:
    """The volatile state of one group, at its owner."""

    __slots__ = (
        "_deadlines",
        "_delayed",
        "_deliveries",
        "_due",
        "_furthest",
        "_given_back",
        "_next",
        "_out",
        "_trace",
        "_window",
        "done",
        "noted",
    )

    def __init__(
        self,
        done: Acknowledged,
        handed_on: Iterable[HandedOn],
        until: float,
        window: int = 1_000,
        trace: Trace | None = None,
    ) -> None:
        """Begin with what is committed; entries that the last owner handed on stay out until `until`."""
        self._window, self._trace = window, trace
        self.done = done
        """The committed acknowledgements, as far as this node knows."""
        self.noted: set[Position] = set()
        """Entries that are acknowledged here, but not committed yet."""
        self._next = done.low
        self._furthest = Position(0, 0)  # no entry after it was ever out or acknowledged here
        self._out: dict[Position, InHand] = {}
        self._deliveries: dict[Position, int] = {}  # of entries that were handed out and are not acknowledged
        self._given_back: dict[Position, float] = {}  # when it may be handed out again
        # Heaps, whose items are valid only if `_given_back` or `_out` has the same time.
        self._delayed: list[tuple[float, Position]] = []
        self._due: list[Position] = []
        self._deadlines: list[tuple[float, Position]] = []
        for segment, offset, deliveries in handed_on:
            position = Position(segment, offset)
            if not done.covers(position):
                self._deliveries[position] = deliveries
                self._hold([position], deliveries, until)

    @property
    def idle(self) -> bool:
        """Whether the metadata has all of the group's state."""
        return not (self._out or self.noted or self._given_back or self._deliveries)

    def deliveries(self, position: Position) -> int:
        """Return how often the entry was handed out; 0 if it is acknowledged."""
        return self._deliveries.get(position, 0)

    def withhold(self, position: Position) -> None:
        """The candidate has had all its deliveries: it is out, without a consumer, until `give_up`."""
        self._given_back.pop(position, None)
        self._hold([position], self._deliveries[position], float("inf"))
        self._record("Withhold", position)

    def give_up(self, position: Position) -> bool:
        """NoteDead: mark an entry as done, since it is a dead letter now; return whether it was out."""
        if position not in self._out:
            return False
        self._forget(position)
        self.noted.add(position)
        self._record("NoteDead", position)
        return True

    @property
    def out(self) -> Collection[Position]:
        """The entries that are with consumers."""
        return self._out.keys()

    # --- handing out ---

    def candidate(self, topic: Topic, end: int, now: float) -> Position | None:
        """Return the entry to hand out next, if any; `end`: how many entries the open segment has."""
        self.expire(now)
        while self._due:
            if self._given_back.get(self._due[0], now + 1) <= now:
                return self._due[0]
            heappop(self._due)
        position = self._next = topic.advance(self._next)
        while position in self._out or position in self._deliveries or self._is_acknowledged(position):
            position = self._next = topic.advance(Position(position.segment, position.offset + 1))
        exists = position.segment < topic.current or position.offset < end
        return position if exists and self._in_window(topic, position) else None

    def fresh(self, position: Position, topic: Topic, end: int, most: int) -> int:
        """Return how many entries from the candidate on may be handed out together, at most `most`.

        It is more than one only after all entries that were ever out or acknowledged; it ends with the
        segment or the window.
        """
        if most == 1 or position <= self._furthest or position < self.done.high:
            return 1
        segment = topic.segment(position.segment)
        assert segment is not None, "a candidate is in a segment"
        there = (end if segment.count is None else segment.count) - position.offset
        room = self._window - topic.distance(self.done.low, position)
        assert there > 0 and room > 0, "OutIsBounded: a candidate is there, and in the window"
        return min(most, there, room)

    def hand_out_run(self, first: Position, count: int, until: float) -> list[Receipt]:
        """Hand out `count` entries from the candidate on, at most as many as `fresh` allows."""
        if count == 1:
            return [self.hand_out(first, until)]
        assert first > self._furthest, "AckedNotRedelivered: an entry is out once"
        assert first >= self.done.high, "AckedNotRedelivered: a run goes over what was acknowledged"
        segment, offsets = first.segment, range(first.offset, first.offset + count)
        positions = [Position(segment, offset) for offset in offsets]
        self._deliveries.update(dict.fromkeys(positions, 1))
        self._hold(positions, 1, until)
        self._next = Position(segment, offsets.stop)
        self._record("Receive", first, count)
        generation = self.done.generation
        return [Receipt(segment, offset, generation, 1) for offset in offsets]

    def _is_acknowledged(self, position: Position) -> bool:
        return position in self.noted or self.done.covers(position)

    def _in_window(self, topic: Topic, position: Position) -> bool:
        return topic.distance(self.done.low, position) < self._window

    def hand_out(self, position: Position, until: float) -> Receipt:
        """Receive: hand out the candidate."""
        assert not self._is_acknowledged(position), "AckedNotRedelivered: it was acknowledged"
        assert position not in self._out, "AckedNotRedelivered: an entry is out once"
        self._given_back.pop(position, None)
        number = self._deliveries[position] = self._deliveries.get(position, 0) + 1
        self._hold([position], number, until)
        self._record("Receive", position)
        return Receipt(*position, self.done.generation, number)

    def _hold(self, positions: list[Position], number: int, until: float) -> None:
        """Note that these entries are out until `until`, as delivery `number` of each."""
        self._out.update(dict.fromkeys(positions, InHand(number, until)))
        self._furthest = max(self._furthest, positions[-1])
        for position in positions:
            heappush(self._deadlines, (until, position))
        if len(self._deadlines) > 2 * self._window:  # most of them are invalid
            self._deadlines = sorted((delivery.until, place) for place, delivery in self._out.items())

    # --- what consumers say ---

    def acknowledge(self, receipt: Receipt, topic: Topic, end: int) -> bool:
        """AckEntry: acknowledge an entry. Return whether the receipt is valid in the group's generation.

        The entry need not be out: its consumer may be late, or may have it from an earlier owner.
        """
        position = Position(receipt.segment, receipt.offset)
        if receipt.generation != self.done.generation:
            return False
        if position not in self._deliveries:  # else it was handed out here: it exists, and is in the window
            if self._is_acknowledged(position):
                return True
            # Not `in_bounds`, which also allows the position after the last entry of a sealed segment. If
            # that were noted, it would be proposed with all others, and the whole proposal refused.
            segment = topic.segment(position.segment)
            there = 0 if segment is None else end if segment.count is None else segment.count
            if not 0 <= position.offset < there:
                return False
            if not self._in_window(topic, position):
                return False
            self._furthest = max(self._furthest, position)
        self._forget(position)
        self.noted.add(position)
        return True

    def record_acknowledged(self, receipts: Iterable[Receipt], known: Iterable[bool]) -> None:
        """Record the receipts for which `acknowledge` returned True."""
        if self._trace is not None:
            for receipt in compress(receipts, known):
                position = Position(receipt.segment, receipt.offset)
                self._record("AckEntry", position, generation=receipt.generation)

    def step_over(self, lost: Position, topic: Topic, end: int) -> bool:
        """Mark an entry as done that no replica has any more. Return whether it is in the window."""
        known = self.acknowledge(Receipt(*lost, self.done.generation, 1), topic, end)
        if known:
            self._record("StepOver", lost)
        return known

    def give_back(self, receipt: Receipt, ready_at: float) -> bool:
        """Return: let an entry wait again from `ready_at` on. Return whether this delivery was out."""
        position = Position(receipt.segment, receipt.offset)
        if not self._is_out(position, receipt):
            return False
        self._return(position, ready_at)
        return True

    def extend(self, receipt: Receipt, until: float) -> bool:
        """Let the entry stay out until `until`. Return whether this delivery is out."""
        position = Position(receipt.segment, receipt.offset)
        if not self._is_out(position, receipt):
            return False
        self._hold([position], receipt.delivery, until)
        return True

    def _is_out(self, position: Position, receipt: Receipt) -> bool:
        delivery = self._out.get(position)
        same = delivery is not None and delivery.number == receipt.delivery
        return same and receipt.generation == self.done.generation

    def _return(self, position: Position, ready_at: float) -> None:
        del self._out[position]
        self._record("Return", position)
        self._given_back[position] = ready_at
        heappush(self._delayed, (ready_at, position))
        if len(self._delayed) > 2 * self._window:
            self._delayed = sorted((at, place) for place, at in self._given_back.items())

    def expire(self, now: float) -> None:
        """Return: let entries wait again whose visibility timeout or delay has ended."""
        while self._deadlines and self._deadlines[0][0] <= now:
            until, position = heappop(self._deadlines)
            delivery = self._out.get(position)
            if delivery is not None and delivery.until == until:
                self._return(position, now)
        while self._delayed and self._delayed[0][0] <= now:
            ready_at, position = heappop(self._delayed)
            if self._given_back.get(position) == ready_at:
                heappush(self._due, position)

    def next_deadline(self) -> float:
        """Return when `expire` has something to do; infinity for never."""
        return min((heap[0][0] for heap in (self._deadlines, self._delayed) if heap), default=float("inf"))

    def _forget(self, position: Position) -> None:
        self._out.pop(position, None)
        self._given_back.pop(position, None)
        self._deliveries.pop(position, None)

    # --- what is committed ---

    def to_commit(self) -> Acknowledged | None:
        """CommitGroup: return the acknowledgements to propose; None if there are none."""
        if not self.noted:
            return None
        return Acknowledged(generation=self.done.generation, above=runs_of(self.noted))

    def on_committed(self, done: Acknowledged) -> None:
        """Take the group's new state in the metadata: more is acknowledged, or a SEEK began a generation."""
        if done.generation != self.done.generation:
            self.noted.clear()
            for position in [*self._deliveries, *self._out, *self._given_back]:
                self._forget(position)
            self._next, self._furthest = done.low, Position(0, 0)
        self.done = done
        self.noted = set(done.missing(self.noted))
        for position in self._deliveries.keys() - done.missing(self._deliveries):
            self._forget(position)
        self._next = max(self._next, done.low)

    def seal(self) -> tuple[Acknowledged, tuple[HandedOn, ...]]:
        """SealWithGroups: return the state for the next owner. Nothing may be handed out from now on."""
        state = Acknowledged(self.done.generation, self.done.low, runs_of(self.noted))
        handed = ((position, self._deliveries[position]) for position in sorted(self._out))
        return state, tuple(HandedOn(*position, number) for position, number in handed)

    def _record(self, action: str, position: Position, count: int = 1, generation: int | None = None) -> None:
        """Record an action on `count` entries from `position` on."""
        if self._trace is not None:
            segment, start = position
            told = self.done.generation if generation is None else generation
            self._trace(action, segment=segment, start=start, count=count, generation=told)

    def check_invariants(self, topic: Topic) -> None:
        """Assert the invariants of a group."""
        out, back = self._out.keys(), self._given_back.keys()
        assert not out & back and not (out | back) & self.noted, "EveryEntryAcked: an entry is in one state"
        assert self._deliveries.keys() == out | back, (
            "EveryEntryAcked: deliveries are counted of what is not acknowledged"
        )
        for position in (*out, *back, *self.noted):
            assert not self.done.covers(position), f"AckedNotRedelivered: {position} is done"
            assert topic.distance(self.done.low, position) < self._window, f"OutIsBounded: {position}"
