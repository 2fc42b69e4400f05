"""Messages that stream through a cluster in play mode, and what became of each.

There are one producer and one reader. Each message has its number, and PUB stores the numbers in order, each
once. So the reader remembers only the next number: a number that it skips was lost; a number below it is a
duplicate, or came too late.

    counted          when
    acknowledged     the cluster has said OK
    read             the reader has met it in the log
    on its way       acknowledged, and not read yet: a moment in a healthy cluster
    lost             a later number was read, and this one was not
    duplicated       a number was read that is not above all before it

Invariant: `lost` and `duplicated` stay 0, whatever is killed, paused and started. The page shows them.

Left out: interleaved messages of several producers, and work queues (`walrus.demo`, `tests/node`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from walrus.client import AsyncClient
from walrus.client.errors import PASSING
from walrus.client.producing import AsyncProducer

TOPIC: Final = "play"
PAUSE: Final = 0.05
"""Seconds from one acknowledgement to the next message: slow enough to watch, and to fit into a film."""
MAX_STEPS: Final = 4_000
"""How many of the stream's steps are kept for a film: more than half a minute."""


@dataclass
class Tally:
    """What became of the messages of one run; the reader reports what it reads, in the order of the log."""

    run: str
    sent: int = 0
    acknowledged: int = 0
    read: int = 0
    lost: int = 0
    duplicated: int = 0
    _next: int = 0

    def payload(self) -> bytes:
        """Return the next message."""
        self.sent += 1
        return f"{self.run} {self.sent - 1}".encode()

    def met(self, payload: bytes) -> None:
        """Count an entry of the log, which may be of another run."""
        run, _, number = payload.decode("utf-8", "replace").partition(" ")
        if run != self.run:
            return
        self.read += 1
        at = int(number)
        self.lost += max(0, at - self._next)
        self.duplicated += at < self._next
        self._next = max(self._next, at + 1)


class PlayedStream:
    """The producer and the reader of play mode."""

    def __init__(self, addresses: Iterable[str], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.tally = Tally(secrets.token_hex(4))
        self.steps: deque[dict[str, Any]] = deque(maxlen=MAX_STEPS)
        """Steps in the form of a recorded run (`view/recorded.py`), on the lane `stream`."""
        self._addresses, self._clock = list(addresses), clock
        self._waits_since: int | None = None
        self._longest = 0
        self._again = 0

    def picture(self) -> dict[str, Any]:
        """Return what the page shows; times in seconds."""
        waits = self._clock() - self._waits_since if self._waits_since is not None else 0
        counts = self.tally
        return {
            "topic": TOPIC,
            "sent": counts.sent,
            "acknowledged": counts.acknowledged,
            "read": counts.read,
            "lost": counts.lost,
            "duplicated": counts.duplicated,
            "again": self._again,
            "waits": round(waits / 1e9, 3),
            "longest": round(max(waits, self._longest) / 1e9, 3),
        }

    async def run(self) -> None:
        """Produce and read until cancelled."""
        async with AsyncClient(self._addresses, timeout=60.0) as client:
            await client.register(TOPIC)
            begin = (await client.state(TOPIC))["current_segment"]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._produce(client))
                tasks.create_task(self._read(begin))

    async def _produce(self, client: AsyncClient) -> None:
        producer = client.producer(TOPIC)
        while True:
            payload, since = self.tally.payload(), self._clock()
            self._waits_since = since
            self._step("send", number=self.tally.sent - 1)
            await _put(producer, payload)
            self._longest = max(self._longest, self._clock() - since)
            self.tally.acknowledged, self._again, self._waits_since = (
                self.tally.sent,
                producer.sent_again,
                None,
            )
            self._step("acknowledged", number=self.tally.sent - 1)
            await asyncio.sleep(PAUSE)

    async def _read(self, segment: int) -> None:
        """Follow the topic with a client of its own, so that reading does not wait behind the producer."""
        offset = 0
        async with AsyncClient(self._addresses, timeout=60.0) as client:
            while True:
                try:
                    async for entry in client.follow(TOPIC, segment, offset):
                        self.tally.met(entry.payload)
                        segment, offset = entry.segment, entry.offset + 1
                except PASSING:
                    await asyncio.sleep(PAUSE)  # then continue where it stopped

    def _step(self, what: str, **values: object) -> None:
        self.steps.append({"ev": what, "node": "stream", "at": self._clock(), **values})


async def _put(producer: AsyncProducer, payload: bytes) -> None:
    """Put until acknowledged: the producer keeps what fails, and sends it first."""
    entries: tuple[bytes, ...] = (payload,)
    while entries or producer.kept:
        try:
            await producer.put_many(entries)
            return
        except PASSING:
            entries = () if producer.kept else entries
            await asyncio.sleep(PAUSE)
