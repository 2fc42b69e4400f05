"""Producers: entries that are numbered, so that they can be sent again and are never written twice (PUB).

A producer has a name that no other ever has, and numbers its entries of one topic 0, 1, 2, ... The topic's
leader has the last number of each, so an entry may be sent as often as it takes: until its call's deadline a
producer does that by itself, through whatever node answers. When no answer came by then, whether the entry
was written is as unknown as after any PUT. But it is not forgotten: it keeps its number, and goes first
when the producer is used again.

    an entry is          until
    numbered, kept       it is acknowledged: let go
                         it is refused for good (too large, an unknown topic): let go, its number is free
                         the deadline passes: the error is raised; the next `put` or `flush` sends it first

Were an entry of unknown outcome let go, its number could neither be left out (the leader takes no gap) nor
given to another entry (which the leader would take for a repetition, and not write).

Calls of one producer follow each other, since the order of its numbers is the order of the log. One that
waits for its turn until its deadline raises `TimedOut`, and its entries were not taken. A forked child may
not go on with a producer of its parent: two processes under one name would give two entries the same number,
and the second would be answered OK and not be there.

Left out: a name that outlives its process. A program that wants that has to keep the next number with what it
produces from, durably, and to give both (`producer(topic, name, next_number)`).
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
"""What is refused so was never written, however often it was sent."""

LEAST_TIMEOUT: Final = 0.001
"""Seconds for a call whose turn came with its deadline."""
LOOK_AGAIN: Final = 0.1
"""Seconds after which a call that waits for its turn looks by itself: Ctrl-C may have cut a call before."""

Outcomes: TypeAlias = list[Position | WalrusError]


class Numbering:
    """The numbers of one producer's entries, and those entries that are not known to be written."""

    def __init__(self, topic: str, name: str = "", next_number: int = 0) -> None:
        self.topic = topic
        self.name = name or secrets.token_hex(8)
        calls.name_bytes(topic)
        calls.name_bytes(self.name, "producer")
        # In one value: were an entry let go in two steps, an exception in between would give it two numbers.
        self._unsettled: tuple[int, list[bytes]] = calls.number(next_number, "next_number", 0), []
        self.sent_again = 0
        self._sent = self.first  # numbers below were sent

    @property
    def first(self) -> int:
        """The first number of which it is not known whether its entry is written."""
        return self._unsettled[0]

    @property
    def kept(self) -> list[bytes]:
        """Entries `first`, `first + 1`, ..."""
        return self._unsettled[1]

    def call(self, payloads: Iterable[Buffer]) -> Call[Position]:
        """Number these entries, and ask for them and for what was kept."""
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
        """Let go of what is acknowledged, or refused for good."""
        assert len(outcomes) == len(self.kept), "each entry has an outcome"
        failed = (n for n, outcome in enumerate(outcomes) if isinstance(outcome, WalrusError))
        done = next(failed, len(outcomes))
        # What is behind one that was refused for good was refused, too: it would have left a gap.
        refused = done < len(outcomes) and isinstance(outcomes[done], _FINAL)
        self._unsettled = self.first + done, [] if refused else self.kept[done:]
        if refused:
            self._sent = self.first


class _Producer:
    """What both kinds of producer have in common.

    `patience` makes of the `timeout` of a call how many seconds it may take, its client's if it is None.
    """

    def __init__(self, numbering: Numbering, patience: Callable[[float | None], float]) -> None:
        self._numbering, self._patience = numbering, patience
        self._inherited = False
        forks.follow(self)

    def _forked(self) -> None:
        """See `forks.py`: the parent goes on with these numbers."""
        self._inherited = True

    def _begin(self, timeout: float | None) -> float:
        """Until when the call may take, by `time.monotonic`. Raises in a forked child."""
        if self._inherited:
            # The leader would take what this process sends for a repetition of the parent's entry of that
            # number, answer OK, and not write it.
            raise RuntimeError(
                f"producer {self.name} was made before a fork, and its numbers are the parent's: "
                "make another one in this process"
            )
        return time.monotonic() + self._patience(timeout)

    @property
    def topic(self) -> str:
        """Where the entries go."""
        return self._numbering.topic

    @property
    def name(self) -> str:
        """The producer's name, which no other may have."""
        return self._numbering.name

    @property
    def next_number(self) -> int:
        """The number of the next entry that is not known to be written."""
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
    """Appends to one topic, each entry once: see `Client.producer`. Threads may share it."""

    def __init__(
        self,
        numbering: Numbering,
        call: Callable[[Call[Any], float | None], list[Any]],
        patience: Callable[[float | None], float],
    ) -> None:
        super().__init__(numbering, patience)
        self._call = call
        self._turns: deque[threading.Event] = deque()  # of the calls; the first has its turn

    def put(self, payload: Buffer, *, timeout: float | None = None) -> Position:
        """Append one entry; returns its place. If it raises, the entry is kept: the next call sends it first.

        The place is not `known` if the entry was there from an attempt whose answer was lost. After
        `TimedOut` other calls took all the time, and the entry was not taken.
        """
        return self._send((payload,), timeout)[0]

    def put_many(self, payloads: Iterable[Buffer], *, timeout: float | None = None) -> list[Position]:
        """Append entries, pipelined and in order; returns where each is, as `put` does.

        If it raises, those not acknowledged are kept.
        """
        return self._send(payloads, timeout)

    def flush(self, *, timeout: float | None = None) -> None:
        """Send what is kept."""
        self._send((), timeout)

    def _send(self, payloads: Iterable[Buffer], timeout: float | None) -> list[Position]:
        deadline = self._begin(timeout)
        mine = threading.Event()
        try:  # rather than a lock, which waits without a deadline, or stays taken after Ctrl-C
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
            if mine in self._turns:  # no signal handler runs between here and the end of `remove`
                self._turns.remove(mine)
            for following in list(self._turns)[:1]:
                following.set()


class AsyncProducer(_Producer):
    """The same for asyncio: see `AsyncClient.producer`. The tasks of one event loop may share it."""

    def __init__(
        self,
        numbering: Numbering,
        call: Callable[[Call[Any], float | None], Awaitable[list[Any]]],
        patience: Callable[[float | None], float],
    ) -> None:
        super().__init__(numbering, patience)
        self._call, self._lock = call, asyncio.Lock()

    async def put(self, payload: Buffer, *, timeout: float | None = None) -> Position:
        """Append one entry; returns its place, see `Producer.put`.

        If it raises or is cancelled, the entry is kept: the next call sends it first; but for `TimedOut`.
        """
        return (await self._send((payload,), timeout))[0]

    async def put_many(self, payloads: Iterable[Buffer], *, timeout: float | None = None) -> list[Position]:
        """Append entries, pipelined and in order; returns where each is, as `put` does.

        If it raises, those not acknowledged are kept.
        """
        return await self._send(payloads, timeout)

    async def flush(self, *, timeout: float | None = None) -> None:
        """Send what is kept."""
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
    """Where the last `count` entries are. Raises what went wrong first, if anything did."""
    places = []
    for outcome in outcomes:
        if isinstance(outcome, WalrusError):
            raise outcome
        places.append(outcome)
    return places[len(places) - count :]
