"""Simulated workers of work queues: they RECEIVE and ACK, give entries back, or die with entries in hand.

What each is told is compared with the truth at the moment in which it is told (`deliveries.py`). A worker
that dies forgets the entries in hand and connects anew: they are delivered again once their timeout has
ended. Once faults have ended every worker is `careful`: it acknowledges all that it gets, so the queue must
be worked off (EveryEntryAcked).
"""

from __future__ import annotations

from itertools import count
from typing import Literal

from walrus import protocol
from walrus.acknowledged import Position
from walrus.protocol import Ack, Error, Extend, Nack, Ok, Put, Receipt, Receive, Register, Seek
from walrus.sim.calls import ClientCall
from walrus.sim.clients import SimClient
from walrus.sim.violation import Violation
from walrus.sim.world import World
from walrus.storage.batch import Batch

HARD = "hard"
MOST_DELIVERIES = 2
"""How often an entry of the topic `HARD` is handed out before it goes to the dead letters."""
WAITS = (0, 0, 300, 2_000)
"""Milliseconds that a RECEIVE may wait."""


class QueueWorker(SimClient):
    """One of the consumers of a group."""

    def __init__(self, world: World, name: str, topic: str, group: str, *, seeks: bool = False) -> None:
        self.group, self._seeks = group, seeks
        self.hand: list[Receipt] = []
        self.received = 0
        self.careful = False
        super().__init__(world, name, topic)

    def rest(self) -> None:
        """Acknowledge everything received from now on."""
        self.careful = True

    def act(self) -> None:
        """Ask for entries, and finish entries in hand."""
        if not self.node:
            return
        dice = self.rng.random()
        if not self.careful and dice < 0.03:
            self.hand.clear()  # the worker dies
            self.hang_up()
        elif not self.careful and self._seeks and dice < 0.08:
            self._seek()
        elif self.hand and (self.careful or dice < 0.45):
            self._finish(dice)
        elif len(self.calls) < 2:
            wait, count = self.rng.choice(WAITS), self.rng.randint(1, 5)
            self.ask(Receive(self.topic, self.group, wait, count, times=True), None)

    def _finish(self, dice: float) -> None:
        receipts = [self.hand.pop(self.rng.randrange(len(self.hand)))]
        if not self.careful and dice < 0.08:
            self.ask(Nack(self.topic, self.group, receipts[0], self.rng.choice((0, 500))))
        elif not self.careful and dice < 0.1:
            self.ask(Extend(self.topic, self.group, receipts[0], 3_000))
        else:
            if dice < 0.4:
                receipts, self.hand = receipts + self.hand, []
            self.world.judge.deliveries.acknowledges(self.topic, self.group, receipts)
            self.ask(Ack(self.topic, self.group, tuple(receipts)), receipts)

    def _seek(self) -> None:
        segments = self.world.judge.segments(self.topic)
        if segments:
            segment = self.rng.randint(1, segments)
            middle = Position(segment, self.rng.randint(0, 5))
            places: tuple[Position | Literal["begin", "end"], ...] = ("begin", "end", middle)
            self.ask(Seek(self.topic, self.group, self.rng.choice(places)))

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Take an entry, or the confirmation of an ACK."""
        for number, reply in enumerate(replies, first):
            if isinstance(reply, Ok) and reply.payload is not None:
                self.hand.append(self._received(call, reply.payload))
            elif isinstance(reply, Ok) and isinstance(call.value, list):
                self.world.judge.deliveries.acknowledged(self.topic, self.group, call.value[number])
            elif isinstance(reply, Error):
                self.world.judge.refused(call, self.topic, reply.reason)
                self.node = 0

    def _received(self, call: ClientCall, text: bytes) -> Receipt:
        name, deliveries, entry = protocol.split_received(text)
        unix_ms, payload = protocol.split_time(entry)
        receipt = protocol.parse_receipt(name.encode())
        if receipt is None or receipt.delivery != deliveries:
            raise Violation("Replies", f"a receipt that is none: {text!r}")
        self.received += 1
        self.world.judge.deliveries.received(self.topic, self.group, receipt, payload, call.sent_at)
        self.world.judge.told_time(self.topic, receipt.segment, receipt.offset, unix_ms)
        return receipt

    def on_late(self, call: ClientCall, replies: list[protocol.Reply]) -> None:
        """Entries written to a closed socket: they are delivered again later."""
        for reply in replies:
            if isinstance(reply, Ok) and reply.payload is not None:
                self._received(call, reply.payload)


class GivingUp(QueueWorker):
    """A worker that writes tasks and gives most of them back, up to their topic's `max_deliveries`.

    An entry that goes to the dead letters is done without an ACK, so it must be there first
    (NothingSkipped).
    """

    def __init__(self, world: World, name: str) -> None:
        self._numbers = count()
        super().__init__(world, name, HARD, "work")

    def act(self) -> None:
        """Register the topic, put tasks, or work, with more failures than other workers have."""
        if HARD not in self.world.judge.metadata.topics:
            if not self.calls and self.world.judge.founded:
                self.ask(Register(HARD, {"max_deliveries": MOST_DELIVERIES, "visibility_ms": 500}))
        elif not self.careful and self.node and not self.calls and self.rng.random() < 0.2:
            tasks = [b"%b!%06d" % (self.name.encode(), next(self._numbers)) for _ in range(2)]
            self.ask(Put(HARD, Batch.of(tasks)))
        elif not self.careful and self.node and self.hand and self.rng.random() < 0.6:
            self.ask(Nack(HARD, self.group, self.hand.pop()))
        else:
            super().act()
