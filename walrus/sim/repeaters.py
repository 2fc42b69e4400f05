"""Simulated producers that number their entries (PUB), and repeat them more often than necessary.

Each sends runs of its next entries, several at a time, to any node. It sends again what was not answered OK,
and now and then also what was: from a few numbers back, or from its first entry. Whatever the network and
the nodes do, each number must be in the topic once, in order, and every OK must be true (`invariants.py`, by
the names of Publish.tla).
"""

from __future__ import annotations

from walrus import protocol
from walrus.protocol import Error, Ok, Put
from walrus.sim.calls import ClientCall
from walrus.sim.clients import SimClient
from walrus.sim.world import World
from walrus.storage.batch import Batch

AHEAD = 12
"""How far a producer sends beyond its first unacknowledged number."""


class Repeater(SimClient):
    """One producer; at rest once all that it has sent is acknowledged."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self.first = 0
        """The first number that is not acknowledged."""
        self.sent = 0
        """All numbers below were sent."""
        self.again = 0
        """How many entries were sent more than once."""
        self._acknowledged: set[int] = set()
        self._resting = False
        super().__init__(world, name, topic)

    @property
    def pending(self) -> int:
        """Return how many entries are not acknowledged."""
        return self.sent - self.first

    def rest(self) -> None:
        """Send no new entries."""
        self._resting = True

    def payload(self, number: int) -> bytes:
        """Return the entry with this number."""
        return b"%b#%06d" % (self.name.encode(), number)

    def payloads(self) -> list[bytes]:
        """Return all entries sent, in the order of their numbers."""
        return [self.payload(number) for number in range(self.sent)]

    def act(self) -> None:
        """Send a run: the next numbers, or some of them again."""
        if not self.node or len(self.calls) >= 3:
            return
        dice = self.rng.random()
        start = self.sent if dice < 0.5 and self.calls else self.first
        if dice > 0.95:
            start = 0
        elif dice > 0.8:
            start = max(0, self.first - 3)
        end = min(start + self.rng.randint(1, 6), self.sent if self._resting else self.first + AHEAD)
        if start < end and self.world.judge.segments(self.topic):
            self._send(start, end)

    def _send(self, start: int, end: int) -> None:
        payloads = [self.payload(number) for number in range(start, end)]
        for number, payload in enumerate(payloads, start):
            self.world.judge.numbered[payload] = (self.name, number)
        if start < self.sent:  # a repeat may overtake the first sending on another connection
            self.again += self.sent - start
            self.node = self.rng.choice(sorted(self.world.hosts))
        self.sent = max(self.sent, end)
        batch = Batch.of(payloads).stamped(self.name, start, 0)
        self.ask(Put(self.topic, batch, positions=True), start)

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """OK: the entry is in the topic for good. Any other reply: it is sent again, perhaps elsewhere."""
        start: int = call.value  # type: ignore[assignment]
        for number, reply in enumerate(replies, start + first):
            if isinstance(reply, Ok):
                self.world.judge.published(self.topic, self.payload(number))
                if reply.payload is not None:  # a repeat is answered without a position
                    self.world.judge.placed(self.topic, self.payload(number), reply)
                self._acknowledged.add(number)
            elif isinstance(reply, Error):
                self.world.judge.refused(call, self.topic, reply.reason)
                self.node = 0
        while self.first in self._acknowledged:
            self.first += 1
