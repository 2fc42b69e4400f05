"""Producers: entries are numbered, so that they can be sent again and are never written twice (PUB).

A producer has a unique name, and numbers its entries of one topic 0, 1, 2, ... The topic's leader knows the
last number of each producer and stores no number twice, so an entry may be sent any number of times. Until
the deadline of the call, the producer sends it again by itself, through any node that answers. Without an
answer by then, the outcome is unknown, as after any PUT. But the producer keeps the entry under its number,
and sends it first when it is used again.

    an entry is          until
    numbered, kept       it is acknowledged: dropped
                         it is refused for good (too large, an unknown topic): dropped, its number is free
                         the deadline passes: the error is raised; the next `put` or `flush` sends it first

If the producer dropped an entry whose outcome is unknown, it could neither skip the number (the leader
accepts no gap) nor use it for another entry (which the leader would take for a duplicate, and not write).

Calls of one producer run one after the other, since the order of the numbers is the order of the log. A call
that waits for others until its deadline raises `TimedOut`, and its entries are not taken. A forked child
must not use a producer of its parent: two processes would give the same number to two entries, and the
second would be answered OK although it is not written.

Left out: a name that outlives its process. A program that needs one must store the next number durably with
its own state, and pass both (`producer(topic, name, next_number)`).
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, Final, TypeAlias

from walrus.acknowledged import Position
from walrus.client import calls, forks
from walrus.client.calls import Buffer, Call
from walrus.client.errors import InvalidRequest, LimitReached, TimedOut, UnknownTopic, WalrusError

_FINAL = (InvalidRequest, UnknownTopic, LimitReached)
"""Errors of an entry that was never written, however often it was sent."""

LEAST_TIMEOUT: Final = 0.001
"""The timeout, in seconds, of a call whose turn comes at its deadline."""
LOOK_AGAIN: Final = 0.1
"""Seconds after which a waiting call checks for itself whether its turn has come, in case Ctrl-C interrupted
the call before it."""

Outcomes: TypeAlias = list[Position | WalrusError]


class Numbering:
    """The numbers of a producer's entries, and the entries that are not known to be written."""

    def __init__(self, topic: str, name: str = "", next_number: int = 0) -> None:
        self.topic = topic
        self.name = name or secrets.token_hex(8)
        calls.name_bytes(topic)
        calls.name_bytes(self.name, "producer")
        # One value, so that both change together: an exception in between would renumber the kept entries.
        self._unsettled: tuple[int, list[bytes]] = calls.number(next_number, "next_number", 0), []
        self.sent_again = 0
        self._sent = self.first  # numbers below this were sent

    @property
    def first(self) -> int:
        """The first number whose entry is not known to be written."""
        return self._unsettled[0]

    @property
    def kept(self) -> list[bytes]:
        """Entries `first`, `first + 1`, ..."""
        return self._unsettled[1]

    def call(self, payloads: Iterable[Buffer]) -> Call[Position]:
        """Number these entries; return the call that sends the kept entries and these. Raises TypeError,
        PayloadTooLarge."""
        entries = calls.pub_entries(self.topic, self.name, payloads)
        first, kept = self.first, self.kept + entries
        self._unsettled = first, kept
        call = calls.pub_many(self.topic, self.name, first, kept)

        def encode(start: int, stop: int) -> bytes:
            self.sent_again += max(0, min(self._sent, first + stop) - (first + start))
            self._sent = max(self._sent, first + stop)
            return call.encode(start, stop)

        return replace(call, encode=encode)

    def settle(self, outcomes: Outcomes) -> None:
        """Drop the entries that are acknowledged, or refused for good."""
        assert len(outcomes) == len(self.kept), "each entry has an outcome"
        failed = (n for n, outcome in enumerate(outcomes) if isinstance(outcome, WalrusError))
        done = next(failed, len(outcomes))
        # The entries after one that was refused for good were refused, too: they would have left a gap.
        refused = done < len(outcomes) and isinstance(outcomes[done], _FINAL)
        self._unsettled = self.first + done, [] if refused else self.kept[done:]
        if refused:
            self._sent = self.first


class _Producer:
    """What both kinds of producer share.

    `patience` checks the `timeout` of a call; it returns the client's timeout for None.
    """

    def __init__(self, numbering: Numbering, patience: Callable[[float | None], float]) -> None:
        self._numbering, self._patience = numbering, patience
        self._inherited = False
        forks.follow(self)

    def _forked(self) -> None:
        """In a child (`forks.py`): the parent continues with these numbers, so the child must not."""
        self._inherited = True

    def _begin(self, timeout: float | None) -> float:
        """Return the deadline of a call, by `time.monotonic`. Raises RuntimeError in a forked child."""
        if self._inherited:
            # The leader would take an entry of this process for a duplicate of the parent's entry with that
            # number, answer OK, and not write it.
            raise RuntimeError(
                f"producer {self.name} was made before a fork, and its numbers are the parent's: "
                "make another one in this process"
            )
        return time.monotonic() + self._patience(timeout)

    @property
    def topic(self) -> str:
        """The topic of the entries."""
        return self._numbering.topic

    @property
    def name(self) -> str:
        """The producer's name, which no other producer of the topic may have."""
        return self._numbering.name

    @property
    def next_number(self) -> int:
        """The number of the first entry that is not known to be written."""
        return self._numbering.first

    @property
    def sent_again(self) -> int:
        """How many entries were sent more than once so far, counted each time."""
        return self._numbering.sent_again

    @property
    def kept(self) -> int:
        """How many entries are not known to be written; the next call sends them first."""
        return len(self._numbering.kept)


class Producer(_Producer):
    """Appends to one topic, each entry exactly once: see `Client.producer`. Threads may share it."""

    def __init__(
        self,
        numbering: Numbering,
        call: Callable[[Call[Any], float | None], list[Any]],
        patience: Callable[[float | None], float],
    ) -> None:
        super().__init__(numbering, patience)
        self._call = call
        self._turns: deque[threading.Event] = deque()  # one for each call; the first is running

    def put(self, payload: Buffer, *, timeout: float | None = None) -> Position:
        """Append one entry; return its position. If it raises, the entry is kept, and sent by the next call.

        The position is not `known` if an earlier attempt, whose answer was lost, had written the entry.
        After `TimedOut` the entry was not taken: other calls used up the time.
        """
        return self._send((payload,), timeout)[0]

    def put_many(self, payloads: Iterable[Buffer], *, timeout: float | None = None) -> list[Position]:
        """Append entries, pipelined and in order; return the position of each, as `put` does.

        If it raises, entries that are not acknowledged are kept.
        """
        return self._send(payloads, timeout)

    def flush(self, *, timeout: float | None = None) -> None:
        """Send the entries that are kept."""
        self._send((), timeout)

    def _send(self, payloads: Iterable[Buffer], timeout: float | None) -> list[Position]:
        deadline = self._begin(timeout)
        mine = threading.Event()
        try:  # not a lock, which could stay locked after Ctrl-C
            self._turns.append(mine)
            while self._turns[0] is not mine:
                if (left := deadline - time.monotonic()) <= 0:
                    raise _not_taken()
                mine.wait(min(left, LOOK_AGAIN))
            kept = self.kept
            call = self._numbering.call(payloads)
            if not call.count:
                return []
            outcomes = self._call(call, max(LEAST_TIMEOUT, deadline - time.monotonic()))
            self._numbering.settle(outcomes)
            return _places(outcomes, len(outcomes) - kept)
        finally:
            if mine in self._turns:  # no signal handler runs between this test and the end of `remove`
                self._turns.remove(mine)
            for following in list(self._turns)[:1]:
                following.set()


class AsyncProducer(_Producer):
    """A `Producer` for asyncio: see `AsyncClient.producer`. The tasks of one event loop may share it."""

    def __init__(
        self,
        numbering: Numbering,
        call: Callable[[Call[Any], float | None], Awaitable[list[Any]]],
        patience: Callable[[float | None], float],
    ) -> None:
        super().__init__(numbering, patience)
        self._call, self._lock = call, asyncio.Lock()

    async def put(self, payload: Buffer, *, timeout: float | None = None) -> Position:
        """Append one entry; return its position: see `Producer.put`.

        If it raises anything but `TimedOut`, or is cancelled, the entry is kept, and sent by the next call.
        """
        return (await self._send((payload,), timeout))[0]

    async def put_many(self, payloads: Iterable[Buffer], *, timeout: float | None = None) -> list[Position]:
        """Append entries, pipelined and in order; return the position of each, as `put` does.

        If it raises, entries that are not acknowledged are kept.
        """
        return await self._send(payloads, timeout)

    async def flush(self, *, timeout: float | None = None) -> None:
        """Send the entries that are kept."""
        await self._send((), timeout)

    async def _send(self, payloads: Iterable[Buffer], timeout: float | None) -> list[Position]:
        deadline = self._begin(timeout)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._lock.acquire()
        except TimeoutError:
            raise _not_taken() from None
        try:
            kept = self.kept
            call = self._numbering.call(payloads)
            if not call.count:
                return []
            outcomes = await self._call(call, max(LEAST_TIMEOUT, deadline - time.monotonic()))
            self._numbering.settle(outcomes)
            return _places(outcomes, len(outcomes) - kept)
        finally:
            self._lock.release()


def _not_taken() -> TimedOut:
    return TimedOut("another call of this producer took all the time; this one's entries were not taken")


def _places(outcomes: Outcomes, count: int) -> list[Position]:
    """Return the positions of the last `count` entries. Raises the first error among the outcomes."""
    places = []
    for outcome in outcomes:
        if isinstance(outcome, WalrusError):
            raise outcome
        places.append(outcome)
    return places[len(places) - count :]
