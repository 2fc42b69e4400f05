"""`AsyncClient`: the client for asyncio. See `walrus.client` for how to use it and what it promises.

The tasks that share a client share its connection, and their requests are pipelined: a hundred tasks that
put one entry each cost about as much as one `put_many` of a hundred. If a task gives up (at its deadline, or
when it is cancelled), its requests keep their place in the order, so that the replies of the others still
match. The connection then takes no new requests, and closes after the last reply that a task waits for.

A client belongs to the event loop in which it is used. In a later loop, or in a forked child, it opens a new
connection. It cannot be used in two loops that run at the same time: in the second it raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import ssl
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, cast, overload

from walrus import credentials, tls
from walrus.acknowledged import Position
from walrus.client import calls, consuming, core, deliveries, following, forks, names
from walrus.client.blocking import CLOSED, reset_on_close
from walrus.client.calls import Buffer, Call, Entry, TopicSettings, TopicState
from walrus.client.deliveries import AsyncHeldDelivery, Delivery, Receipt, Receiving
from walrus.client.errors import WalrusError
from walrus.client.producing import AsyncProducer, Numbering
from walrus.protocol import ProtocolError

_MOST_IDLE = 8
"""How many idle connections are kept for calls that ask the node to wait."""


@dataclass(slots=True)
class _Waiting:
    """A task that waits for the replies to one exchange."""

    done: asyncio.Future[None]
    due: float  # the time at which it gives up, by time.monotonic
    patience: float


class _AsyncLink(asyncio.Protocol):
    """One connection and the pipeline over it, shared by the calls of all tasks of one event loop."""

    def __init__(self, address: str, connected: socket.socket, token: str) -> None:
        self.address = address
        self.closed = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._socket = connected
        self._heard = False
        self._pipeline = core.Pipeline(token)
        self._waiting: dict[int, _Waiting] = {}  # by id of an exchange that is not done
        self._transport: asyncio.Transport | None = None
        self._retired = False
        self._to_write = False
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @property
    def usable(self) -> bool:
        """Whether a new call may use it; not if the node closed it, which the event loop may not know."""
        return not (self.closed or self._retired or (self._pipeline.idle and self._poll.poll(0)))

    async def run(self, step: core.Attempt) -> bool:
        """Run one attempt; return whether the connection is usable. The exchange is done in any case."""
        exchange, done = step.exchange, asyncio.get_running_loop().create_future()
        waiting = self._waiting[id(exchange)] = _Waiting(done, step.reply_by, step.patience)
        try:
            self._pipeline.start(exchange)
            self._write_soon()
            while not exchange.done:
                await asyncio.wait((done,), timeout=max(0.0, waiting.due - time.monotonic()))
                if not exchange.done and time.monotonic() >= waiting.due:
                    raise TimeoutError("no answer in time")
        except TimeoutError as error:
            self._give_up(exchange, error)
        except BaseException as error:  # the task was cancelled
            self._give_up(exchange, error)
            raise
        finally:
            self._waiting.pop(id(exchange), None)
        return self.usable

    def _give_up(self, exchange: core.Exchange[Any], cause: BaseException) -> None:
        """Complete the exchange with errors; send no more of it, and drop late replies to it."""
        if not exchange.done:
            del self._waiting[id(exchange)]
            if self._pipeline.abandon(exchange, self.address, cause):
                self.retire()

    def retire(self) -> None:
        """Take no new calls; close after the last reply that a call waits for."""
        self._retired = True
        if not self._waiting:
            self._close_retired()

    def _close_retired(self) -> None:
        """Close; with a reset, if replies are still due to calls that gave up."""
        if not self._pipeline.idle:
            reset_on_close(self._socket)
        self.abort()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def disown(self) -> None:
        """Close this process's copy of the socket; leave the event loop alone, which may be the parent's."""
        self.closed = True
        self._socket.close()

    def data_received(self, data: bytes) -> None:
        self._heard = True
        try:
            answered = self._pipeline.input(data)
        except ProtocolError as error:
            self._lost(error)
            self.abort()
            return
        now = time.monotonic()
        for exchange in answered:
            if exchange.done:
                self._finish(id(exchange))
            elif waiting := self._waiting.get(id(exchange)):
                waiting.due = now + waiting.patience
        self._write()
        if self._retired and not self._waiting:
            self._close_retired()

    def connection_lost(self, exc: Exception | None) -> None:
        error = ConnectionError(tls.why(exc)) if isinstance(exc, ssl.SSLError) else exc
        encrypted = self._transport and self._transport.get_extra_info("ssl_object")
        self._lost(error or ConnectionError(CLOSED if self._heard else tls.closed_early(encrypted)))
        if not self.gone.done():
            self.gone.set_result(None)

    def _lost(self, error: BaseException) -> None:
        self.closed = True
        self._pipeline.lost(self.address, error)
        for exchange in list(self._waiting):  # all of them, also any whose last reply has just arrived
            self._finish(exchange)

    def _finish(self, exchange: int) -> None:
        waiting = self._waiting.pop(exchange, None)
        if waiting is not None and not waiting.done.done():
            waiting.done.set_result(None)

    def _write_soon(self) -> None:
        """Write once per iteration of the event loop, so that requests of all its tasks are pipelined."""
        if not self._to_write:
            self._to_write = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._to_write = False
        if self._transport is not None and not self.closed and (output := self._pipeline.output()):
            self._transport.write(output)


async def _connect(
    address: str, host: str, port: int, by: float, context: ssl.SSLContext | None, token: str
) -> _AsyncLink:
    """Connect to the first endpoint of a host that accepts, before the time `by`. Raises OSError."""
    endpoints = await names.resolve_async(host, port)
    failure: OSError = TimeoutError(f"no time is left to connect to {host}")
    for tried, endpoint in enumerate(endpoints):
        left = by - time.monotonic()
        if left <= 0:
            break
        try:
            return await _dial(address, endpoint, left / (len(endpoints) - tried), host, context, token)
        except OSError as error:  # TimeoutError is one
            failure = error
    raise failure


async def _dial(
    address: str,
    endpoint: names.Endpoint,
    within: float,
    host: str,
    context: ssl.SSLContext | None,
    token: str,
) -> _AsyncLink:
    loop = asyncio.get_running_loop()
    dialled = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        dialled.setblocking(False)
        async with asyncio.timeout(within):
            await loop.sock_connect(dialled, endpoint.address)
            core.refuse_own_end(dialled.getsockname(), dialled.getpeername())
            name = None if context is None else host
            _, link = await loop.create_connection(
                lambda: _AsyncLink(address, dialled, token), sock=dialled, ssl=context, server_hostname=name
            )
    except ssl.SSLError as error:
        dialled.close()
        raise ConnectionError(tls.why(error)) from error
    except BaseException:
        dialled.close()
        raise
    return link


class AsyncClient:
    """A client for asyncio, with the methods of `Client`. Every method may raise a `WalrusError`."""

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        timeout: float = calls.DEFAULT_TIMEOUT,
        token: str | None = None,
    ) -> None:
        """`addresses`: HOST:PORT of nodes, of which the first that works is used. `timeout`: in seconds.

        `token` identifies the client; None: that of WALRUS_TOKEN_FILE or WALRUS_TOKEN; "": none. Raises
        TypeError, ValueError.
        """
        self._token = credentials.token_from(os.environ) if token is None else token
        self.timeout = calls.seconds(timeout)
        self._addresses = core.Addresses(addresses)
        self._tls = tls.from_environment(os.environ)
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the connections and of the lock
        self._link: _AsyncLink | None = None
        self._idle: list[_AsyncLink] = []  # idle connections, for calls that ask the node to wait
        self._links: weakref.WeakSet[_AsyncLink] = weakref.WeakSet()  # also the retired ones
        self._connecting: asyncio.Lock | None = None
        self._closings = 0
        self._rng = random.Random()
        forks.follow(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, which ends calls in progress; a later call opens a new one."""
        self._enter_loop()
        self._closings += 1
        self._link = None
        self._idle.clear()
        links = [link for link in self._links if not link.gone.done()]
        for link in links:
            link.abort()
        if links:
            await asyncio.wait([link.gone for link in links])

    @property
    def address(self) -> str:
        """The address to which the next call will go."""
        return self._addresses.current

    # --- commands

    async def register(
        self, topic: str, settings: TopicSettings | None = None, *, timeout: float | None = None
    ) -> None:
        """Create the topic unless it exists; raises `TopicExists` if it does with other settings."""
        calls.only(await self._call(calls.register(topic, settings), timeout))

    async def configure(self, topic: str, settings: TopicSettings, *, timeout: float | None = None) -> None:
        """Change settings of the topic, such as `{"retain_seconds": 86_400}`; the others stay."""
        calls.only(await self._call(calls.configure(topic, settings), timeout))

    async def delete(self, topic: str, *, timeout: float | None = None) -> None:
        """Delete the topic with all its entries, groups and settings.

        After `OutcomeUnknown` it may be deleted or not. If it is registered again, that is a new topic.
        """
        calls.only(await self._call(calls.delete(topic), timeout))

    async def put(
        self, topic: str, payload: Buffer, *, timeout: float | None = None, retry: bool = False
    ) -> Position:
        """Append one entry; return its position once a majority of replicas has it: see `Client.put`."""
        results = await self._call(calls.put(topic, payload), timeout, retry)
        return cast("Position", calls.only(results))

    async def put_many(
        self, topic: str, payloads: Iterable[Buffer], *, timeout: float | None = None, retry: bool = False
    ) -> list[Position | WalrusError]:
        """Append entries, pipelined and in order. Returns for each its position, or the error."""
        return await self._call(calls.put_many(topic, payloads), timeout, retry)

    def producer(self, topic: str, name: str = "", next_number: int = 0) -> AsyncProducer:
        """Return a producer, which sends its entries until they are acknowledged, and writes none twice.

        See `Client.producer` about names.
        """
        return AsyncProducer(Numbering(topic, name, next_number), self._call, self._patience)

    async def get(
        self, topic: str, group: str = "", *, wait: float = 0.0, timeout: float | None = None
    ) -> bytes | None:
        """Return the next entry of the shared or a group's cursor, or None: see `Client.get`."""
        results = await self._call(following.get(topic, group, wait), timeout)
        return cast("bytes | None", calls.only(results))

    async def get_many(
        self, topic: str, count: int, group: str = "", *, timeout: float | None = None
    ) -> list[bytes]:
        """Return up to `count` next entries, pipelined; fewer if there are no more.

        If it fails midway, the error's `received` has the entries that arrived.
        """
        return calls.taken(await self._call(calls.get_many(topic, count, group), timeout))

    async def fetch(
        self, topic: str, segment: int, offset: int, *, wait: float = 0.0, timeout: float | None = None
    ) -> bytes | None:
        """Return the entry at that position, or None; no cursor moves. `wait`: seconds to wait for it."""
        found = calls.only(await self._call(following.fetch(topic, segment, offset, wait), timeout))
        return None if found is None else cast("bytes", found.payload)

    async def fetch_many(
        self, topic: str, segment: int, offset: int, count: int, *, timeout: float | None = None
    ) -> list[bytes]:
        """Return up to `count` entries of one segment from `offset` on; fewer at its end."""
        return calls.payloads(await self._call(calls.fetch_many(topic, segment, offset, count), timeout))

    async def entries(
        self, topic: str, segment: int = 1, offset: int = 0, *, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Yield all entries from that position on, across segments, to the end of what is acknowledged."""
        async for entry in self.scan(topic, segment, offset, timeout=timeout):
            yield entry.payload

    async def scan(
        self, topic: str, segment: int = 1, offset: int = 0, *, timeout: float | None = None
    ) -> AsyncIterator[Entry]:
        """Like `entries`, but with the position of each entry, from which to go on later."""
        async for entry in self._walk(core.walk(topic, segment, offset), timeout):
            yield entry

    async def follow(
        self,
        topic: str,
        segment: int = 1,
        offset: int = 0,
        *,
        group: str = "",
        prefetch: int = 100,
        timeout: float | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """Like `scan`, but at the end it waits for further entries, without end. Stop iterating to end it.

        With a `group` (one that is read with RECEIVE) it begins at the group's position and acknowledges
        entries on the way. An entry counts as done when the loop asks for the next one. Entries that are
        done are acknowledged together, before the loop waits for more, or once 100 ms have passed since the
        first of them. When the loop is left (`break`, an exception), entries that are done are acknowledged,
        and the rest given back, including the current entry, which is *not* done. After a crash, or a lost
        answer, these entries are delivered again: the current one, those fetched ahead, and those done but
        not acknowledged yet. At most `prefetch` entries are out at a time. They must be done within the
        visibility timeout, or they are handed out again. Temporary errors, such as a failover, are waited
        out; others are raised.

        After `break`, the event loop ends an async generator only later;
        `async with aclosing(client.follow(...)) as entries:` ends it at once.
        """
        calls.number(prefetch, "prefetch", 1)
        if group != "":
            work = consuming.follower(topic, group, (segment, offset), prefetch, timeout)
            known = self._closings, os.getpid()
            loop = consuming.follow_async(self, work, lambda: known != (self._closings, os.getpid()))
            async with aclosing(loop) as entries:
                async for entry in entries:
                    yield entry
        else:
            async for entry in self._walk(following.follow(topic, segment, offset), timeout):
                yield entry

    async def _walk(self, steps: core.Walk | following.Follow, timeout: float | None) -> AsyncIterator[Entry]:
        results: list[Any] | None = None
        while (step := core.following(steps, results)) is not None:
            results = await self._call(step, timeout) if isinstance(step, Call) else None
            if isinstance(step, core.Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, list):
                for entry in step:
                    yield entry

    async def find(self, topic: str, time: datetime, *, timeout: float | None = None) -> Position:
        """Return the position of the first entry that was appended at `time` or later, or of the next entry.

        `time` has a time zone. Append times are by the clocks of the segments' leaders. No cursor moves.
        """
        return cast("Position", calls.only(await self._call(calls.find(topic, time), timeout)))

    async def state(self, topic: str, *, timeout: float | None = None) -> TopicState:
        """Return the topic's segments, leaders, replicas and cursors."""
        return cast("TopicState", calls.only(await self._call(calls.state(topic), timeout)))

    async def topics(self, prefix: str = "", *, timeout: float | None = None) -> list[str]:
        """Return the names of topics that begin with `prefix`, in order; at most 1,000."""
        return calls.names_of(calls.only(await self._call(calls.topics(prefix), timeout)))

    async def groups(self, topic: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the topic's consumer groups, with position and lag; exact if the topic's leader answers."""
        return cast("dict[str, Any]", calls.only(await self._call(calls.groups(topic), timeout)))

    async def metrics(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the view that the node at `address` has of itself and of the cluster."""
        return cast("dict[str, Any]", calls.only(await self._call(calls.metrics(), timeout)))

    async def leave(self, node_id: int, *, force: bool = False, timeout: float | None = None) -> None:
        """Remove a member; returns once it is removed and its data is on other nodes.

        Raises NeedsForce if fewer voters would remain than the replication factor, unless `force` is set.
        """
        calls.only(await self._call(calls.leave(node_id, force), timeout))

    async def recover(self, topic: str, segment: int, *, timeout: float | None = None) -> None:
        """Recover a segment that waits for an operator, from the copies that answer. May lose entries."""
        calls.only(await self._call(calls.recover(topic, segment), timeout))

    # --- work queues

    @overload
    def receive(
        self, topic: str, group: str, *, wait: None, timeout: float | None = None
    ) -> Receiving[AsyncHeldDelivery]: ...
    @overload
    def receive(
        self, topic: str, group: str, *, wait: float | None = 0.0, timeout: float | None = None
    ) -> Receiving[AsyncHeldDelivery | None]: ...
    def receive(
        self, topic: str, group: str, *, wait: float | None = 0.0, timeout: float | None = None
    ) -> Receiving[AsyncHeldDelivery | None]:
        """Take the next entry of a work queue, until it is acknowledged; None if there is none.

        `wait`: seconds to wait for an entry, in addition to the timeout; None: for ever. The call waits on a
        connection of its own. `async with client.receive("jobs", "workers", wait=None) as delivery:`
        acknowledges the entry at the end of the block, or gives it back if the block raises or is cancelled.
        """
        return Receiving(self._receive(topic, group, wait, timeout))

    async def _receive(
        self, topic: str, group: str, wait: float | None, timeout: float | None
    ) -> AsyncHeldDelivery | None:
        while True:
            patience = deliveries.FOLLOW_WAIT if wait is None else wait
            found = await self.receive_many(topic, group, 1, wait=patience, timeout=timeout)
            if found or wait is not None:
                return found[0] if found else None

    async def receive_many(
        self, topic: str, group: str, count: int, *, wait: float = 0.0, timeout: float | None = None
    ) -> list[AsyncHeldDelivery]:
        """Return up to `count` deliveries, pipelined. Only the first waits, for up to `wait` seconds."""
        make = partial(AsyncHeldDelivery, client=self, topic=topic, group=group)
        results = await self._call(deliveries.receive_many(make, topic, group, count, wait), timeout)
        return deliveries.received(AsyncHeldDelivery, results)

    async def ack(self, topic: str, group: str, receipt: Receipt, *, timeout: float | None = None) -> None:
        """Acknowledge an entry: the group never gets it again, even if its visibility timeout has ended."""
        calls.only(await self._call(deliveries.ack_many(topic, group, [receipt]), timeout))

    async def ack_many(
        self, topic: str, group: str, receipts: Sequence[Receipt], *, timeout: float | None = None
    ) -> list[WalrusError | None]:
        """Acknowledge many entries, pipelined. Returns for each None, or the error."""
        return await self._call(deliveries.ack_many(topic, group, receipts), timeout)

    async def nack(
        self, topic: str, group: str, receipt: Receipt, *, delay: float = 0.0, timeout: float | None = None
    ) -> None:
        """Give an entry back, to be handed out again after `delay` seconds."""
        calls.only(await self._call(deliveries.nack(topic, group, receipt, delay), timeout))

    async def extend(
        self, topic: str, group: str, receipt: Receipt, seconds: float, *, timeout: float | None = None
    ) -> None:
        """The work takes longer: the visibility timeout ends `seconds` from now."""
        calls.only(await self._call(deliveries.extend(topic, group, receipt, seconds), timeout))

    async def seek(
        self, topic: str, group: str, to: str | tuple[int, int] | datetime, *, timeout: float | None = None
    ) -> None:
        """Move a group, forwards or back: to "begin", "end", (segment, offset) or a datetime.

        Outstanding deliveries are forgotten. A datetime has a time zone, and means the first entry that was
        appended then or later, by the clocks of the segments' leaders.
        """
        calls.only(await self._call(deliveries.seek(topic, group, to), timeout))

    async def consume(
        self,
        topic: str,
        group: str,
        handler: Callable[[Delivery], Awaitable[None]],
        *,
        prefetch: int = 100,
        workers: int = 4,
        retry_after: float = 1.0,
        on_error: Callable[[Delivery, Exception], None] | None = None,
        stop: asyncio.Event | None = None,
        until_empty: bool = False,
    ) -> int:
        """Work on entries of the group until `stop` is set; return how many were acknowledged.

        `workers` tasks call `handler` at the same time. An entry is acknowledged after `handler` returns.
        If `handler` raises, the entry is given back for `retry_after` seconds, and `on_error` is called.
        Temporary errors, such as a failover, are waited out; others are raised. With `until_empty` it ends
        when no entry waits. When `stop` is set, the entries in hand are finished and the rest is given back.
        At most `prefetch` entries are out at a time; all of them must be done within the visibility timeout,
        or some are worked on twice.
        """
        work = consuming.Work(topic, group, prefetch, workers, retry_after, on_error, until_empty)
        return await consuming.consume_async(self, work, handler, stop or asyncio.Event())

    # --- the steps of a call

    def _patience(self, timeout: float | None) -> float:
        return calls.seconds(self.timeout if timeout is None else timeout)

    async def _call(self, call: Call[Any], timeout: float | None, retry: bool = False) -> list[Any]:
        timeout = self._patience(timeout)
        self._enter_loop()
        closings = self._closings

        def closed() -> bool:
            return self._closings != closings

        steps = core.conduct(call, self._addresses, timeout, time.monotonic, self._rng, retry, closed)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return cast("list[Any]", end.value)
            if isinstance(step, core.Pause):
                await asyncio.sleep(step.seconds)
            else:
                await self._attempt(step, closed)

    async def _attempt(self, step: core.Attempt, closed: Callable[[], bool]) -> None:
        address = self._addresses.current
        try:
            async with asyncio.timeout(max(0.0, step.connect_by - time.monotonic())):
                alone = step.exchange.call.wait > 0
                link = await (self._alone(step.connect_by) if alone else self._connected(step.connect_by))
            if closed():
                link.retire()  # it was dialled while `close` ran, which did not know of it
                raise ConnectionError("the client was closed")
        except OSError as error:  # TimeoutError is one
            step.exchange.lost(address, error)
            return
        usable = False
        try:
            usable = await link.run(step)
        finally:
            self._put_back(link, usable, alone)

    def _put_back(self, link: _AsyncLink, usable: bool, alone: bool) -> None:
        """A call has ended: keep its connection for the next one, or retire it."""
        if alone and usable and len(self._idle) < _MOST_IDLE:
            self._idle.append(link)
        elif alone:
            link.retire()
        elif not usable and self._link is link:
            self._link = None

    async def _connected(self, by: float) -> _AsyncLink:
        """Return the shared connection to the current address; concurrent tasks wait for a single dial."""
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            address, (host, port) = self._addresses.pair
            if self._link is not None and not (self._link.usable and self._link.address == address):
                self._link.retire()
                self._link = None
            if self._link is None:
                self._link = await _connect(address, host, port, by, self._tls, self._token)
                self._links.add(self._link)
            return self._link

    async def _alone(self, by: float) -> _AsyncLink:
        """Return a separate connection for a call that asks the node to wait.

        Replies keep their order, so on the shared connection all other calls would wait for it.
        """
        address, (host, port) = self._addresses.pair
        while self._idle:
            link = self._idle.pop()
            if link.usable and link.address == address:
                return link
            link.retire()
        link = await _connect(address, host, port, by, self._tls, self._token)
        self._links.add(link)
        return link

    def _enter_loop(self) -> None:
        """Bind the client to the running loop. Raises RuntimeError if it is in use in another one."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError("this AsyncClient is in use in another event loop: make one for each loop")
        for link in list(self._links):
            if self._loop is None or self._loop.is_closed():
                link.disown()
            else:  # that loop may run again: its selector must not keep a descriptor that is reused
                self._loop.call_soon_threadsafe(link.abort)
        self._links.clear()
        self._idle.clear()
        self._loop, self._link, self._connecting = loop, None, None

    def _forked(self) -> None:
        """In a child: see `forks.py`. The parent shares the event loop's selector: do not touch it."""
        for link in list(self._links):
            link.disown()
        self._links.clear()
        self._idle.clear()
        self._loop, self._link, self._connecting = None, None, None
        self._rng = random.Random()  # with the parent's state, both processes would retry at the same times
