"""A simulated operator that sets retention, deletes and registers a topic again, and the topic's clients.

All of this happens to one topic (`KEPT`) that the other clients do not use, since their guarantee that every
entry can be read from the first one on does not hold there. `retained.py` has what holds instead.
"""

from __future__ import annotations

from itertools import count
from typing import cast

from walrus import protocol
from walrus.protocol import Configure, Delete, Error, Get, Ok, Put, Register
from walrus.sim.calls import ClientCall
from walrus.sim.clients import SimClient
from walrus.sim.world import World
from walrus.storage.batch import Batch

KEPT = "kept"
SEGMENT = 4
"""Entries per segment of that topic: small, so that much is dropped although little is written."""


class Keeper(SimClient):
    """An operator: sets retention, deletes the topic, and registers it again."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name, KEPT)

    def rest(self) -> None:
        """Make no more changes."""
        self.stopped = True

    def act(self) -> None:
        """Change something, unless a reply is outstanding."""
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
        """After an error the next request goes to another node."""
        if isinstance(replies[0], Error):
            self.node = 0


class KeptClient(SimClient):
    """Writes to the topic, and reads it as a group of its own; both fail while the topic does not exist."""

    def __init__(self, world: World, name: str, *, eager: bool) -> None:
        self._eager, self._numbers = eager, count()
        self.received = 0
        super().__init__(world, name, KEPT)

    def rest(self) -> None:
        """Write and read no more."""
        self.stopped = True

    def act(self) -> None:
        """Put or get a few entries: an eager client keeps up, any other misses what is dropped."""
        if self.calls or not self.node:
            return
        if self.rng.random() < (0.5 if self._eager else 0.9):
            payloads = [b"%b>%06d" % (self.name.encode(), next(self._numbers)) for _ in range(3)]
            self.ask(Put(KEPT, Batch.of(payloads)), payloads)
        else:
            self.ask(Get(KEPT, self.name, self.rng.choice((2, 8))), "get")

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Check that an entry belongs to the topic that existed at the request, or to a later one."""
        for at, reply in enumerate(replies, first):
            if isinstance(reply, Error):
                self.node = 0
            elif isinstance(reply, Ok) and call.value == "get":
                assert reply.payload is not None
                self.received += 1
                self.world.judge.kept_given(KEPT, reply.payload, call.sent_at)
            elif isinstance(reply, Ok):
                payloads = cast("list[bytes]", call.value)
                self.world.judge.kept_acknowledged(KEPT, payloads[at], call.sent_at)
