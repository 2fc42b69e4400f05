"""A worker of a queue, for both clients: receive, work, acknowledge, and go on through failovers.

    receive    up to its share of `prefetch` entries, waiting for the first one
    work       `handler`, one entry after the other; an exception gives the entry back for a while
    ack        what is done, together, at the latest 100 ms after the first of it
    stop       what is in hand is finished, acknowledged, and the rest is given back at once

An acknowledgement that got no answer is sent again with the next ones (ACK twice is ACK once), so a failover
in the middle costs a delay, and at most a second delivery of what was not acknowledged in time. Nothing here
remembers which entries were seen: a handler must bear being called twice for one.

`Worker.steps` decides, without I/O, as `core.conduct` does for a call: a generator that yields what to do
next and is sent what came of it. Two drivers carry the steps out, one in threads and one in tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, assert_never, cast

from walrus.client import calls, deliveries
from walrus.client.deliveries import Delivery, Receipt
from walrus.client.errors import PASSING, WalrusError

OnError = Callable[[Delivery, Exception], None]

PATIENCE: Final = 1.0
"""Seconds that a RECEIVE waits at most, so that `stop` is heard."""
PAUSE: Final = 0.2
"""Seconds between two attempts while the cluster does not answer."""
ACK_AFTER: Final = 0.1
"""Seconds that a finished entry waits for others to be acknowledged with it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is consumed, and how: the arguments of `consume`, checked."""

    topic: str
    group: str
    prefetch: int
    workers: int
    retry_after: float
    on_error: OnError | None
    until_empty: bool = False

    def __post_init__(self) -> None:
        calls.name_bytes(self.topic)
        calls.name_bytes(self.group, "group")
        calls.number(self.prefetch, "prefetch", 1)
        calls.number(self.workers, "workers", 1)
        deliveries.milliseconds(self.retry_after, "retry_after")

    @property
    def wait(self) -> float:
        """How long a RECEIVE waits."""
        return 0.0 if self.until_empty else PATIENCE

    @property
    def share(self) -> int:
        """How many entries one worker has at a time."""
        return max(1, self.prefetch // self.workers)


# --- what a worker does next ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Take:
    """A step: receive. Sent back: the deliveries, or None if the cluster does not answer."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A step: call the handler. Sent back: what it raised, or None."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A step: ACK these. Sent back: for each None, or what went wrong."""

    done: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A step: NACK each. What that does not reach comes back by its visibility timeout, later."""

    batch: Sequence[Delivery]
    delay: float


@dataclass(frozen=True, slots=True)
class Rest:
    """A step: wait a little."""


Step: TypeAlias = Take | Handle | Acknowledge | GiveBack | Rest


@dataclass(slots=True)
class Worker:
    """One worker's deliveries: those that are done and not acknowledged yet."""

    work: Work
    done: list[Delivery] = field(default_factory=list)
    acknowledged: int = 0
    _since: float = 0.0

    def finished(self, delivery: Delivery, now: float) -> None:
        """The handler returned."""
        if not self.done:
            self._since = now
        self.done.append(delivery)

    def due(self, now: float) -> bool:
        """Return whether it is time to acknowledge."""
        return bool(self.done) and now >= self._since + ACK_AFTER

    def settled(self, results: Sequence[WalrusError | None], now: float) -> None:
        """The answers to the acknowledgement of `done`: those that did not come are asked for again."""
        assert len(results) == len(self.done), "an answer for each"
        self.acknowledged += sum(result is None for result in results)
        self.done = [
            delivery
            for delivery, result in zip(self.done, results, strict=True)
            if isinstance(result, PASSING)
        ]
        self._since = now

    def steps(self, stopped: Callable[[], bool], clock: Callable[[], float]) -> Generator[Step, Any, int]:
        """Yield what to do next, until `stopped`; return how many entries were acknowledged."""
        work = self.work
        while not stopped():
            batch = yield Take()
            if batch is None:
                yield Rest()
                continue
            if work.until_empty and not batch:
                break
            for number, delivery in enumerate(batch):
                if stopped():
                    yield GiveBack(batch[number:], 0.0)
                    break
                error = yield Handle(delivery)
                if error is None:
                    self.finished(delivery, clock())
                else:
                    yield GiveBack([delivery], work.retry_after)
                    if work.on_error:
                        work.on_error(delivery, error)
                if self.due(clock()):
                    self.settled((yield Acknowledge(self.done)), clock())
            if self.done:
                self.settled((yield Acknowledge(self.done)), clock())
        return self.acknowledged


# --- threads --------------------------------------------------------------------------------------


class _Blocking(Protocol):
    """The part of `Client` that a worker needs."""

    def receive_many(self, topic: str, group: str, count: int, *, wait: float) -> list[Delivery]: ...
    def ack_many(self, topic: str, group: str, receipts: Sequence[Receipt]) -> list[WalrusError | None]: ...
    def nack(self, topic: str, group: str, receipt: Receipt, *, delay: float) -> None: ...


def consume(client: _Blocking, work: Work, handler: Callable[[Delivery], None], stop: threading.Event) -> int:
    """Run the workers in threads until `stop` is set or one fails; return how many were acknowledged."""
    with ThreadPoolExecutor(work.workers, thread_name_prefix="walrus-consume") as pool:
        loops = [pool.submit(_drive, client, Worker(work), handler, stop) for _ in range(work.workers)]
        try:
            wait(loops, return_when="FIRST_EXCEPTION")
        finally:
            stop.set()  # also after Ctrl-C: what is in hand is finished, then the exception goes on
    return sum(loop.result() for loop in loops)


def _drive(
    client: _Blocking, worker: Worker, handler: Callable[[Delivery], None], stop: threading.Event
) -> int:
    steps, answer = worker.steps(stop.is_set, time.monotonic), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return cast("int", end.value)
        answer = _carry_out(client, worker.work, step, handler, stop)


def _carry_out(
    client: _Blocking, work: Work, step: Step, handler: Callable[[Delivery], None], stop: threading.Event
) -> Any:
    """Do one step; return what is sent back."""
    match step:
        case Take():
            with suppress(*PASSING):
                return client.receive_many(work.topic, work.group, work.share, wait=work.wait)
        case Handle(delivery):
            try:
                handler(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, the entry comes again
                return error
        case Acknowledge(done):
            return client.ack_many(work.topic, work.group, done)
        case GiveBack(batch, delay):
            with suppress(WalrusError):
                for delivery in batch:
                    client.nack(work.topic, work.group, delivery, delay=delay)
        case Rest():
            stop.wait(PAUSE)
        case _:
            assert_never(step)
    return None


# --- tasks ----------------------------------------------------------------------------------------


class _Awaited(Protocol):
    """The part of `AsyncClient` that a worker needs."""

    async def receive_many(self, topic: str, group: str, count: int, *, wait: float) -> list[Delivery]: ...
    async def ack_many(
        self, topic: str, group: str, receipts: Sequence[Receipt]
    ) -> list[WalrusError | None]: ...
    async def nack(self, topic: str, group: str, receipt: Receipt, *, delay: float) -> None: ...


async def consume_async(
    client: _Awaited, work: Work, handler: Callable[[Delivery], Awaitable[None]], stop: asyncio.Event
) -> int:
    """Run the workers as tasks until `stop` is set or one fails; return how many were acknowledged."""
    loops = [
        asyncio.ensure_future(_drive_async(client, Worker(work), handler, stop)) for _ in range(work.workers)
    ]
    try:
        await asyncio.wait(loops, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        stop.set()
        await asyncio.wait(loops)
    return sum([loop.result() for loop in loops])


async def _drive_async(
    client: _Awaited, worker: Worker, handler: Callable[[Delivery], Awaitable[None]], stop: asyncio.Event
) -> int:
    steps, answer = worker.steps(stop.is_set, time.monotonic), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return cast("int", end.value)
        answer = await _carry_out_async(client, worker.work, step, handler)


async def _carry_out_async(
    client: _Awaited, work: Work, step: Step, handler: Callable[[Delivery], Awaitable[None]]
) -> Any:
    """Do one step; return what is sent back."""
    match step:
        case Take():
            with suppress(*PASSING):
                return await client.receive_many(work.topic, work.group, work.share, wait=work.wait)
        case Handle(delivery):
            try:
                await handler(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, the entry comes again
                return error
        case Acknowledge(done):
            return await client.ack_many(work.topic, work.group, done)
        case GiveBack(batch, delay):
            with suppress(WalrusError):
                for delivery in batch:
                    await client.nack(work.topic, work.group, delivery, delay=delay)
        case Rest():
            await asyncio.sleep(PAUSE)
        case _:
            assert_never(step)
    return None
