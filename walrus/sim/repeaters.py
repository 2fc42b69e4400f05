"""Simulated producers that number their entries (PUB), and repeat them without need.

Each sends runs of its next entries, several at a time, at whatever node; what is not answered OK it sends
again, and now and then also what was: from a few numbers back, or from its very first. Whatever the network
and the nodes do, each number is in the topic once, in order, and an OK is true (`invariants.py`, by the names
of Publish.tla).
"""

from __future__ import annotations

from walrus import protocol
from walrus.protocol import Error, Ok, Put
from walrus.sim.calls import ClientCall
from walrus.sim.clients import SimClient
from walrus.sim.world import World
from walrus.storage.batch import Batch

AHEAD = 12
"""Numbers beyond the first that is not acknowledged, up to which it sends."""


class Repeater(SimClient):
    """One producer. It rests once all that it has sent is acknowledged."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self.first = 0
        """The first number that is not acknowledged."""
        self.sent = 0
        """Numbers below were sent."""
        self.again = 0
        """Entries that were sent more than once."""
        self._acknowledged: set[int] = set()
        self._resting = False
        super().__init__(world, name, topic)

    @property
    def pending(self) -> int:
        """Entries that are not acknowledged."""
        return self.sent - self.first

    def rest(self) -> None:
        """Number no more entries."""
        self._resting = True

    def payload(self, number: int) -> bytes:
        """The entry of this number."""
        return b"%b#%06d" % (self.name.encode(), number)

    def payloads(self) -> list[bytes]:
        """All that were sent, in the order of their numbers."""
        return [self.payload(number) for number in range(self.sent)]

    def act(self) -> None:
        """Send a run: the next numbers, or some once more."""
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
        if start < self.sent:  # what is sent again may arrive before what was sent first, by another way
            self.again += self.sent - start
            self.node = self.rng.choice(sorted(self.world.hosts))
        self.sent = max(self.sent, end)
        batch = Batch.of(payloads).stamped(self.name, start, 0)
        self.ask(Put(self.topic, batch, positions=True), start)

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """OK: that number is in the topic for good. Anything else: it is sent again, perhaps elsewhere."""
        start: int = call.value  # type: ignore[assignment]
        for number, reply in enumerate(replies, start + first):
            if isinstance(reply, Ok):
                self.world.judge.published(self.topic, self.payload(number))
                if reply.payload is not None:  # of a repetition no place is told
                    self.world.judge.placed(self.topic, self.payload(number), reply)
                self._acknowledged.add(number)
            elif isinstance(reply, Error):
                self.world.judge.refused(call, self.topic, reply.reason)
                self.node = 0
        while self.first in self._acknowledged:
            self.first += 1
