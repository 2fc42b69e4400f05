"""A simulated operator that sets retention, deletes and registers again, and the clients of that topic.

All of it happens to one topic (`KEPT`) that the other clients know nothing of: what they are promised, that
every entry can be read from the first on, does not hold there. What holds is in `retained.py`.
"""

from __future__ import annotations

from itertools import count

from walrus import protocol
from walrus.protocol import Configure, Delete, Error, Get, Ok, Put, Register
from walrus.sim.calls import ClientCall
from walrus.sim.clients import SimClient
from walrus.sim.world import World
from walrus.storage.batch import Batch

KEPT = "kept"
SEGMENT = 4
"""Entries of a segment of it: little is written, and much is dropped."""


class Keeper(SimClient):
    """The operator."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, KEPT)

    def rest(self) -> None:
        """Leave everything as it is."""
        self.stopped = True

    def act(self) -> None:
        """Change something, unless an answer is awaited."""
        if self.calls or not self.world.judge.founded:
            return
        dice = self.rng.random()
        settings = {"segment_entries": SEGMENT, "retain_entries": self.rng.choice((4, 12, 30))}
        if dice < 0.04:
            self.ask(Delete(KEPT))
        elif KEPT not in self.world.judge.metadata.topics or dice < 0.1:
            self.ask(Register(KEPT, settings))
        elif dice < 0.2:
            self.ask(Configure(KEPT, {**settings, "protect_groups": self.rng.choice((0, 1))}))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Refused: it asks another node next time."""
        if isinstance(replies[0], Error):
            self.node = 0


class KeptClient(SimClient):
    """Writes to the topic, and reads it as a group of its own; both are refused while there is no topic."""

    def __init__(self, world: World, name: str, *, eager: bool) -> None:
        self._eager, self._numbers = eager, count()
        self.received = 0
        super().__init__(world, name, KEPT)

    def rest(self) -> None:
        """Write and read no more."""
        self.stopped = True

    def act(self) -> None:
        """Put a few entries, or get some: an eager one keeps up, another one misses what is dropped."""
        if self.calls or not self.node:
            return
        if self.rng.random() < (0.5 if self._eager else 0.9):
            payloads = [b"%b>%06d" % (self.name.encode(), next(self._numbers)) for _ in range(3)]
            self.ask(Put(KEPT, Batch.of(payloads)))
        else:
            self.ask(Get(KEPT, self.name, self.rng.choice((2, 8))), "get")

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """An entry: it is of the topic that there was when it was asked for, or of a later one."""
        for reply in replies:
            if isinstance(reply, Error):
                self.node = 0
            elif isinstance(reply, Ok) and call.value == "get":
                assert reply.payload is not None
                self.received += 1
                self.world.judge.kept_given(KEPT, reply.payload, call.sent_at)
