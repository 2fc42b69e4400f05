"""GET and FETCH that wait for an entry, at the node that has the client.

A request that finds no entry and may wait is parked here, with the position that its entry will have. This
node sends the segment's writer a `Read` that waits (`replicas/reads.py`); the writer answers in the turn in
which the entry is acknowledged, without the delay of a timer. A request is woken when

    an entry came             it gets the entry (FETCH), or asks the cursor again (GET)
    the segment was sealed    a FETCH beyond the end is answered EMPTY, and STATE says where to continue;
                              a GET continues in the next segment
    its time is over          it is answered EMPTY
    its connection is gone    it is forgotten, at the next Read
    the writer is gone        it goes on waiting, and asks the next writer

A Read waits for at most `ASK_FOR` seconds and is then repeated, so that another node soon forgets the Reads
of clients that have gone. A parked request costs a few hundred bytes, and no work while no entry comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from walrus.broker.pending import WaitingRequests
from walrus.config import NodeConfig
from walrus.replicas.reads import Reads
from walrus.segments import Metadata, Position
from walrus.storage.batch import Batch

MAX_WAITS = 100_000
"""The most requests that wait for an entry at one node."""

ASK_FOR = 10.0
"""The longest wait, in seconds, that the writer of a segment is asked for at a time."""


class Parked(msgspec.Struct):
    """A request that waits for the entry at `place`."""

    slot: object
    topic: str
    place: Position
    deadline: float
    came: Callable[[Batch, float], None]
    """Called once with the entry, or with an empty batch if the request should look again."""
    over: Callable[[], None]
    """Called once instead, at the deadline."""
    asked: bool = False


class Waits:
    """The requests of this node's clients that wait for an entry."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        reads: Reads,
        is_open: Callable[[object], bool],
        connected: Collection[int],
    ) -> None:
        self._config, self._metadata, self._reads = config, metadata, reads
        self._is_open, self._connected = is_open, connected
        self._number = 0
        self._parked = WaitingRequests[Parked]()

    @property
    def full(self) -> bool:
        """Whether no more requests may wait."""
        return len(self._parked) >= MAX_WAITS

    def park(self, parked: Parked, now: float) -> None:
        """Wait until there is an entry, or until the deadline."""
        assert not self.full, "looked at before a request may wait"
        self._number += 1
        self._parked.add(self._number, parked, parked.deadline)
        self._ask(self._number, now)

    def _ask(self, number: int, now: float) -> None:
        """Ask the writer to answer when there is an entry; wake the request if its segment has ended."""
        parked = self._parked[number]
        self._parked.unasked.pop(number, None)
        if not self._is_open(parked.slot):
            self._parked.remove(number)
            return
        segment = self._metadata.segment(parked.topic, parked.place.segment)
        if segment is None or segment.sealed:
            self._parked.remove(number).came(Batch(b"", b""), now)
            return
        if segment.leader != self._config.node_id and segment.leader not in self._connected:
            self._parked.unasked[number] = None
            return

        def answer(batch: Batch, error: str, at: float) -> None:
            if self._parked.get(number) is not parked:
                return
            if batch.count and not error:
                self._parked.remove(number).came(batch, at)
            else:
                self._parked.unasked[number] = None  # asked again with the next tick

        self._reads.ask(
            segment.leader,
            parked.topic,
            *parked.place,
            entries=1,
            raw=False,
            now=now,
            then=answer,
            wait=min(ASK_FOR, max(0.0, parked.deadline - now)),
        )

    # --- what changes around them ---

    def on_topic(self, topic: str, now: float) -> None:
        """The topic's metadata changed: its open segment may be another one."""
        for number in self._parked.of_topic(topic):
            segment = self._metadata.segment(topic, self._parked[number].place.segment)
            if segment is None or segment.sealed or number in self._parked.unasked:
                self._ask(number, now)

    def on_connection(self, now: float) -> None:
        """A connection began: it may be that of a writer."""
        for number in list(self._parked.unasked):
            self._ask(number, now)

    def on_tick(self, now: float) -> None:
        """Answer requests at their deadline, and ask again for those without an answer."""
        for parked in self._parked.overdue(now):
            parked.over()
        for number in list(self._parked.unasked):
            self._ask(number, now)

    def next_deadline(self) -> float:
        """Return the first deadline of a waiting request."""
        return self._parked.deadlines.first()

    def stop(self) -> None:
        """The node stops: answer all requests as at their deadline."""
        for number, _ in self._parked.items():
            self._parked.remove(number).over()

    def check_invariants(self) -> None:
        """Assert the invariants of the waiting requests."""
        self._parked.check_invariants()
