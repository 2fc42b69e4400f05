"""A simulated client that sends requests of all kinds without waiting, and checks their order.

The requests of one connection take effect in the order in which they were sent (`broker/ordering.py`). The
replies alone show whether they did:

    GET says EMPTY      every entry acknowledged before it on this connection was read by its group
    GET gives an entry  the entry was not sent after that GET
    FETCH               finds the entry that was acknowledged last, and only that
    PUT behind REGISTER is not told that the topic is unknown, if the REGISTER was answered OK

Invariant: ReadYourWrites, which is all of the above.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from walrus import protocol
from walrus.broker.ordering import Lane, RequestOrder
from walrus.protocol import Empty, Error, Fetch, Get, Ok, Put, Register
from walrus.sim.calls import ClientCall, Outcome, PutAttempt, outcome_of
from walrus.sim.clients import Sender
from walrus.sim.violation import Violation
from walrus.storage.batch import Batch
from walrus.wire.errors import unknown_topic

if TYPE_CHECKING:
    from walrus.sim.world import World

BURST: Final = 8
"""The most requests that the client sends at once."""
SIDE_TOPICS: Final = 4
"""The most topics that the client creates and uses at once."""


@dataclass(slots=True)
class _Question:
    """One request: its place in the connection's order, and what was known when it was started."""

    number: int
    request: protocol.Request
    attempts: list[PutAttempt] = field(default_factory=list)
    lane: Lane = None
    seen: int = 0
    """How many entries had been acknowledged on this connection."""
    wanted: bytes = b""
    """FETCH: the entry at the requested position."""


class Pipeliner(Sender):
    """PUTs, GETs with a group of its own, FETCHes and REGISTERs, in any order and without waiting."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self._queue: deque[_Question] = deque()
        self._order = RequestOrder()
        self._connected_to = 0
        self._number = 0
        self._sent: dict[bytes, int] = {}  # payload -> the number of its PUT
        self._acknowledged: list[bytes] = []  # on this connection
        self._received: set[bytes] = set()
        self._registered: set[str] = set()
        self._resting = False
        self.checked = 0
        """How many replies were checked against the order."""
        super().__init__(world, name, topic)

    @property
    def pending(self) -> int:
        """Return how many requests have no answer, sent or not."""
        return super().pending + sum(asked.request.replies for asked in self._queue)

    def rest(self) -> None:
        """Send no more entries, but read on: a group that stops reading would look stuck."""
        self._resting = True

    def act(self) -> None:
        """Send a few more requests at once, unless some of the last ones are still waiting to be sent."""
        if self.node != self._connected_to:
            self._reconnect()
        if self.node and not self._queue:
            for _ in range(self.rng.randint(1, BURST)):
                self._enqueue()
            self._pump()

    def _enqueue(self) -> None:
        kinds = ("get", "fetch") if self._resting else ("put", "put", "get", "get", "fetch", "register")
        kind = self.rng.choice(kinds)
        if kind == "put":
            self._put(self.topic, self.rng.randint(1, 3), self.attempts)
        elif kind == "get":
            self._ask_later(Get(self.topic, self.name, self.rng.randint(1, 4)))
        elif kind == "fetch":
            self._ask_later(Fetch(self.topic, 1, 0))
        elif len(self._registered) < SIDE_TOPICS:
            side = f"{self.name}-{len(self._registered)}"
            self._ask_later(Register(side))
            self._put(side, 1, [])

    def _ask_later(self, request: protocol.Request, attempts: list[PutAttempt] | None = None) -> None:
        self._number += 1
        self._queue.append(_Question(self._number, request, attempts or []))

    def _put(self, topic: str, count: int, history: list[PutAttempt]) -> None:
        fresh = []
        for _ in range(count):
            payload = b"%b:%06d" % (self.name.encode(), len(self._sent))
            self._sent[payload] = self._number + 1
            fresh.append(PutAttempt(payload))
        history += fresh
        self._ask_later(Put(topic, Batch.of([attempt.payload for attempt in fresh])), fresh)

    def _pump(self) -> None:
        """Send the requests that are due, in the order in which a node's connection starts them."""
        while self.node and self._queue and self._order.admits(self._queue[0].request):
            asked = self._queue.popleft()
            self._prepare(asked)
            asked.lane = self._order.started(asked.request)
            if not self.ask(asked.request, asked):
                self._queue.appendleft(asked)
                self._reconnect()

    def _prepare(self, asked: _Question) -> None:
        """Note what is acknowledged by now; a FETCH asks for the last of it."""
        asked.seen = len(self._acknowledged)
        if isinstance(asked.request, Fetch) and self._acknowledged:
            asked.wanted = self._acknowledged[-1]
            (topic, segment), offset = self.world.judge.places[asked.wanted]
            asked.request = Fetch(topic, segment, offset)

    def _reconnect(self) -> None:
        """Start another connection, with its own order; drop the requests not sent on the last one."""
        for asked in self._queue:
            for attempt in asked.attempts:
                attempt.outcome, attempt.reply = Outcome.FAILED, "never sent"
        self._queue.clear()
        self._order, self._connected_to = RequestOrder(), self.node
        self._acknowledged.clear()

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Check the replies against the order."""
        asked: _Question = call.value  # type: ignore[assignment]
        for number, reply in enumerate(replies, first):
            match asked.request:
                case Put(topic=topic):
                    self._on_put(topic, asked.attempts[number], reply)
                case Get():
                    self._on_get(asked, reply)
                case Fetch():
                    self._on_fetch(asked, reply)
                case Register(topic=topic) if isinstance(reply, Ok):
                    self._registered.add(topic)
        if call.answered == call.owed and self.node == self._connected_to:
            self._order.answered(asked.lane)
            self.world.after(0.0, self._pump)

    def _on_put(self, topic: str, attempt: PutAttempt, reply: protocol.Reply) -> None:
        if isinstance(reply, Ok):
            attempt.outcome = Outcome.OK
            self.acknowledged += 1
            if topic == self.topic:
                self._acknowledged.append(attempt.payload)
        elif isinstance(reply, Error):
            attempt.outcome, attempt.reply = outcome_of(reply.reason), reply.reason
            if topic in self._registered and reply.reason == unknown_topic(topic):
                raise Violation("ReadYourWrites", f"{self.name} registered {topic}, and was told: {reply}")

    def _on_get(self, asked: _Question, reply: protocol.Reply) -> None:
        if isinstance(reply, Empty):
            missed = [entry for entry in self._acknowledged[: asked.seen] if entry not in self._received]
            self.checked += asked.seen > 0
            if missed:
                raise Violation("ReadYourWrites", f"{self.name} was told EMPTY before it read {missed[:3]}")
        elif isinstance(reply, Ok):
            assert reply.payload is not None
            self._take(reply.payload)
            if self._sent.get(reply.payload, 0) > asked.number:
                raise Violation("ReadYourWrites", f"{self.name} read {reply.payload!r} before it was sent")

    def _on_fetch(self, asked: _Question, reply: protocol.Reply) -> None:
        if not asked.wanted or isinstance(reply, Error):
            return
        self.checked += 1
        if not isinstance(reply, Ok) or protocol.split_fetched(reply.payload or b"")[1] != asked.wanted:
            raise Violation("ReadYourWrites", f"{self.name} fetched {reply}, not {asked.wanted!r}")

    def _take(self, payload: bytes) -> None:
        self._received.add(payload)
        self.world.judge.delivered(self.topic, self.name, payload)

    def on_lost(self, call: ClientCall, now: float) -> None:
        """A request without an answer may have taken effect or not: its outcome is unknown."""
        self.node = 0
        asked: _Question = call.value  # type: ignore[assignment]
        for attempt in asked.attempts[call.answered :]:
            attempt.outcome, attempt.reply = Outcome.UNKNOWN, "connection lost"

    def on_late(self, call: ClientCall, replies: list[protocol.Reply]) -> None:
        """GET has no acknowledgement, so an entry written to a closed socket counts as given."""
        asked: _Question = call.value  # type: ignore[assignment]
        for reply in replies:
            if isinstance(asked.request, Get) and isinstance(reply, Ok) and reply.payload is not None:
                self._take(reply.payload)
