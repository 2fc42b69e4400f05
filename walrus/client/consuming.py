"""A worker of a queue, for both clients: receive, work, acknowledge, and go on through failovers.

    receive    up to its share of `prefetch` entries, waiting for the first one
    work       `handler`, one entry after the other; an exception gives the entry back for a while
    ack        finished entries together: after the batch, or once 100 ms have passed since the first
    stop       the current entry is finished and acknowledged, the rest is given back at once

An ACK without an answer is sent again with the next ones, since ACK is idempotent. So a failover causes a
delay, and at most a second delivery of entries that were not acknowledged in time. The worker does not
remember which entries it has seen: a handler must tolerate being called twice for one entry.

`Worker.steps` decides, without I/O, as `core.conduct` does for a call: it is a generator that yields what to
do next and is sent the result. Two drivers carry the steps out, one in threads and one in tasks.

A follower of a group (`follow`) is a single worker whose handler is the body of the caller's loop. When the
loop asks for the next entry, it has finished the one before. A loop that is left counts as a handler that
raises, followed by a stop. `follow` also has two drivers that decide nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, assert_never, cast

from walrus.client import calls, deliveries
from walrus.client.calls import Entry
from walrus.client.deliveries import FOLLOW_WAIT, Delivery, Receipt
from walrus.client.errors import PASSING, WalrusError

OnError = Callable[[Delivery, Exception], None]

PATIENCE: Final = 1.0
"""The longest wait of a RECEIVE, in seconds: short, so that `stop` is noticed."""
PAUSE: Final = 0.2
"""Seconds between two attempts while the cluster does not answer."""
ACK_AFTER: Final = 0.1
"""Seconds for which a finished entry waits for others, to be acknowledged together."""
LOOK: Final = 0.5
"""After how many seconds the thread that waits for the workers looks for Ctrl-C: a signal that arrives just
before a wait, or in another thread, does not end it."""


@dataclass(frozen=True, slots=True)
class Work:
    """The arguments of `consume`, checked. Raises TypeError, ValueError, InvalidTopic."""

    topic: str
    group: str
    prefetch: int
    workers: int
    retry_after: float
    on_error: OnError | None
    until_empty: bool = False
    patience: float = PATIENCE
    timeout: float | None = None

    def __post_init__(self) -> None:
        calls.name_bytes(self.topic)
        calls.name_bytes(self.group, "group")
        calls.number(self.prefetch, "prefetch", 1)
        calls.number(self.workers, "workers", 1)
        deliveries.milliseconds(self.retry_after, "retry_after")

    @property
    def wait(self) -> float:
        """For how many seconds a RECEIVE waits."""
        return 0.0 if self.until_empty else self.patience

    @property
    def share(self) -> int:
        """How many entries one worker receives at a time."""
        return max(1, self.prefetch // self.workers)


def follower(topic: str, group: str, place: tuple[int, int], prefetch: int, timeout: float | None) -> Work:
    """The checked arguments of a follower. `place` must be the default, since the group has a position.

    Raises TypeError, ValueError, InvalidTopic.
    """
    calls.number(place[0], "segment", 1)
    calls.number(place[1], "offset", 0)
    if place != (1, 0):
        raise ValueError(f"group {group} has a position of its own, and follows from there: seek moves it")
    return Work(topic, group, prefetch, 1, 0.0, None, patience=FOLLOW_WAIT, timeout=timeout)


# --- what a worker does next ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Take:
    """A step: receive. Its result: the deliveries, or None if the cluster does not answer."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A step: call the handler. Its result: the exception that it raised, or None."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A step: ACK these. Its result: for each of them None, or the error."""

    done: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A step: NACK each of them. If a NACK fails, the visibility timeout gives the entry back later."""

    batch: Sequence[Delivery]
    delay: float


@dataclass(frozen=True, slots=True)
class Rest:
    """A step: wait `PAUSE` seconds."""


Step: TypeAlias = Take | Handle | Acknowledge | GiveBack | Rest
Steps: TypeAlias = Generator[Step, Any, int]


@dataclass(slots=True)
class Worker:
    """One worker, with its deliveries that are finished and not acknowledged yet (`done`)."""

    work: Work
    done: list[Delivery] = field(default_factory=list)
    acknowledged: int = 0
    _since: float = 0.0

    def finished(self, delivery: Delivery, now: float) -> None:
        """The handler has returned."""
        if not self.done:
            self._since = now
        self.done.append(delivery)

    def due(self, now: float) -> bool:
        """Return whether it is time to acknowledge."""
        return bool(self.done) and now >= self._since + ACK_AFTER

    def settled(self, results: Sequence[WalrusError | None], now: float) -> None:
        """Take the answers to the ACKs of `done`; keep those that must be sent again."""
        assert len(results) == len(self.done), "an answer for each"
        self.acknowledged += sum(result is None for result in results)
        self.done = [
            delivery
            for delivery, result in zip(self.done, results, strict=True)
            if isinstance(result, PASSING)
        ]
        self._since = now

    def steps(self, stopped: Callable[[], bool], clock: Callable[[], float]) -> Steps:
        """Yield steps until `stopped`; return how many entries were acknowledged."""
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

    def receive_many(
        self, topic: str, group: str, count: int, *, wait: float, timeout: float | None
    ) -> Sequence[Delivery]: ...
    def ack_many(
        self, topic: str, group: str, receipts: Sequence[Receipt], *, timeout: float | None
    ) -> list[WalrusError | None]: ...
    def nack(
        self, topic: str, group: str, receipt: Receipt, *, delay: float, timeout: float | None
    ) -> None: ...


def consume(client: _Blocking, work: Work, handler: Callable[[Delivery], None], stop: threading.Event) -> int:
    """Run the workers in threads until `stop` is set or one fails; return how many were acknowledged."""
    with ThreadPoolExecutor(work.workers, thread_name_prefix="walrus-consume") as pool:
        try:
            loops = [pool.submit(_drive, client, Worker(work), handler, stop) for _ in range(work.workers)]
            _wait_for(loops)
        finally:
            stop.set()  # also after Ctrl-C: the workers finish the entries in hand, then it is raised
    return sum(loop.result() for loop in loops)


def _wait_for(loops: Sequence[Future[int]]) -> None:
    """Wait until all are done or one has failed."""
    running = set(loops)
    while running and not any(loop.exception() for loop in loops if loop not in running):
        running = wait(loops, LOOK, "FIRST_EXCEPTION").not_done


def follow(client: _Blocking, work: Work, closed: Callable[[], bool]) -> Iterator[Entry]:
    """Yield the entries of a group, and acknowledge them as the caller's loop proceeds: see `Client.follow`.

    `closed`: whether the client was closed meanwhile, or this is a forked child. Then the end of the loop
    neither acknowledges nor gives back anything.
    """
    stop = threading.Event()
    steps, answer = Worker(work).steps(stop.is_set, time.monotonic), None
    while True:
        step = steps.send(answer)
        answer = None
        if not isinstance(step, Handle):
            answer = _carry_out(client, work, step, _unhandled, stop)
            continue
        try:
            yield _entry(step.delivery)
        except BaseException as left:
            stop.set()
            if not closed():
                _run(client, work, steps, left, _unhandled, stop)
            raise


def _entry(delivery: Delivery) -> Entry:
    segment, offset = delivery.position
    return Entry(segment, offset, delivery.payload, delivery.unix_ms)


def _unhandled(delivery: Delivery) -> None:
    raise AssertionError("a follower's handler is the loop of its caller")


def _drive(
    client: _Blocking, worker: Worker, handler: Callable[[Delivery], None], stop: threading.Event
) -> int:
    return _run(client, worker.work, worker.steps(stop.is_set, time.monotonic), None, handler, stop)


def _run(
    client: _Blocking,
    work: Work,
    steps: Steps,
    answer: Any,
    handler: Callable[[Delivery], None],
    stop: threading.Event,
) -> int:
    """Carry out steps to the end, beginning with the result of the last one; return how many were done."""
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return cast("int", end.value)
        answer = _carry_out(client, work, step, handler, stop)


def _carry_out(
    client: _Blocking, work: Work, step: Step, handler: Callable[[Delivery], None], stop: threading.Event
) -> Any:
    """Carry out one step; return its result."""
    match step:
        case Take():
            with suppress(*PASSING):
                return client.receive_many(
                    work.topic, work.group, work.share, wait=work.wait, timeout=work.timeout
                )
        case Handle(delivery):
            try:
                handler(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, the entry comes again
                return error
        case Acknowledge(done):
            return client.ack_many(work.topic, work.group, done, timeout=work.timeout)
        case GiveBack(batch, delay):
            with suppress(WalrusError):
                for delivery in batch:
                    client.nack(work.topic, work.group, delivery, delay=delay, timeout=work.timeout)
        case Rest():
            stop.wait(PAUSE)
        case _:
            assert_never(step)
    return None


# --- tasks ----------------------------------------------------------------------------------------


class _Awaited(Protocol):
    """The part of `AsyncClient` that a worker needs."""

    async def receive_many(
        self, topic: str, group: str, count: int, *, wait: float, timeout: float | None
    ) -> Sequence[Delivery]: ...
    async def ack_many(
        self, topic: str, group: str, receipts: Sequence[Receipt], *, timeout: float | None
    ) -> list[WalrusError | None]: ...
    async def nack(
        self, topic: str, group: str, receipt: Receipt, *, delay: float, timeout: float | None
    ) -> None: ...


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


async def follow_async(
    client: _Awaited, work: Work, closed: Callable[[], bool]
) -> AsyncGenerator[Entry, None]:
    """`follow` for an `AsyncClient`."""
    stop = asyncio.Event()
    steps, answer = Worker(work).steps(stop.is_set, time.monotonic), None
    while True:
        step = steps.send(answer)
        answer = None
        if not isinstance(step, Handle):
            answer = await _carry_out_async(client, work, step, _unhandled_async)
            continue
        try:
            yield _entry(step.delivery)
        except BaseException as left:
            stop.set()
            if not closed():
                await _run_async(client, work, steps, left, _unhandled_async)
            raise


async def _unhandled_async(delivery: Delivery) -> None:
    _unhandled(delivery)


async def _drive_async(
    client: _Awaited, worker: Worker, handler: Callable[[Delivery], Awaitable[None]], stop: asyncio.Event
) -> int:
    steps = worker.steps(stop.is_set, time.monotonic)
    return await _run_async(client, worker.work, steps, None, handler)


async def _run_async(
    client: _Awaited,
    work: Work,
    steps: Steps,
    answer: Any,
    handler: Callable[[Delivery], Awaitable[None]],
) -> int:
    """Carry out steps to the end, beginning with the result of the last one; return how many were done."""
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return cast("int", end.value)
        answer = await _carry_out_async(client, work, step, handler)


async def _carry_out_async(
    client: _Awaited, work: Work, step: Step, handler: Callable[[Delivery], Awaitable[None]]
) -> Any:
    """Carry out one step; return its result."""
    match step:
        case Take():
            with suppress(*PASSING):
                return await client.receive_many(
                    work.topic, work.group, work.share, wait=work.wait, timeout=work.timeout
                )
        case Handle(delivery):
            try:
                await handler(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, the entry comes again
                return error
        case Acknowledge(done):
            return await client.ack_many(work.topic, work.group, done, timeout=work.timeout)
        case GiveBack(batch, delay):
            with suppress(WalrusError):
                for delivery in batch:
                    await client.nack(work.topic, work.group, delivery, delay=delay, timeout=work.timeout)
        case Rest():
            await asyncio.sleep(PAUSE)
        case _:
            assert_never(step)
    return None
