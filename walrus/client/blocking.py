"""`Client`: the client that blocks. See `walrus.client` for how to use it and what it promises.

A call takes an idle connection, or opens one, and has it for itself. Once every reply has arrived it puts
the connection back; otherwise it closes it. This is what makes a client safe to share between threads, and
safe when an exception interrupts a call (Ctrl-C, a signal handler that raises): there is no lock that could
stay locked, and no later call uses a connection on which replies may be due.
"""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, cast, overload

from walrus import credentials, tls
from walrus.acknowledged import Position
from walrus.client import calls, consuming, core, deliveries, following, forks, names
from walrus.client.calls import Buffer, Call, Entry, TopicSettings, TopicState
from walrus.client.deliveries import Delivery, HeldDelivery, Receipt
from walrus.client.errors import WalrusError
from walrus.client.producing import Numbering, Producer
from walrus.protocol import ProtocolError

_READ_BYTES: Final = 1 << 18
CLOSED: Final = "the node closed the connection"
_MOST_IDLE: Final = 8
"""How many idle connections are kept; more are open only while more threads call at the same time."""


def _connect(host: str, port: int, by: float, context: ssl.SSLContext | None) -> socket.socket:
    """Connect to the first endpoint of a host that accepts, before the time `by`. Raises OSError."""
    endpoints = names.resolve(host, port, max(0.0, by - time.monotonic()))
    failure: OSError = TimeoutError(f"no time is left to connect to {host}")
    for tried, endpoint in enumerate(endpoints):
        left = by - time.monotonic()
        if left <= 0:
            break
        try:
            return _dial(endpoint, left / (len(endpoints) - tried), host, context)
        except OSError as error:
            failure = error
    raise failure


def _dial(
    endpoint: names.Endpoint, within: float, host: str, context: ssl.SSLContext | None
) -> socket.socket:
    dialled = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        dialled.settimeout(within)
        dialled.connect(endpoint.address)
        core.refuse_own_end(dialled.getsockname(), dialled.getpeername())
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            dialled = context.wrap_socket(dialled, server_hostname=host)
        dialled.setblocking(False)
    except ssl.SSLError as error:
        dialled.close()
        raise ConnectionError(tls.why(error)) from error
    except BaseException:
        dialled.close()
        raise
    return dialled


class _Link:
    """One connected socket and the pipeline over it. Used by one call at a time."""

    def __init__(self, address: str, connected: socket.socket, token: str) -> None:
        self.address = address
        self._socket = connected
        self._heard = False
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._pipeline = core.Pipeline(token)

    def usable(self) -> bool:
        """Return whether a request may be sent: an idle connection that is readable has been closed."""
        return self._pipeline.idle and not self._poll.poll(0)

    def close(self) -> None:
        """Close the socket. While a call has this connection, only that call may close it."""
        self._socket.close()

    def interrupt(self) -> None:
        """Shut the connection down while a call in another thread uses it; that call then closes it."""
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # unlike SSLSocket's, it keeps TLS state
        except OSError:
            return  # the call has closed it, or the node has

    def run(self, step: core.Attempt) -> bool:
        """Run one attempt; return whether the connection is usable. The exchange is done in any case."""
        exchange, deadline = step.exchange, step.reply_by
        output = memoryview(b"")
        written = 0
        self._pipeline.start(exchange)
        try:
            while not exchange.done:
                if written == len(output):
                    output, written = memoryview(self._pipeline.output()), 0
                written += self._write(output[written:])
                self._wait(written < len(output), deadline)
                if (data := self._read()) and self._pipeline.input(data):
                    deadline = time.monotonic() + step.patience
        except (OSError, ProtocolError) as error:
            if isinstance(error, TimeoutError):
                reset_on_close(self._socket)
            unsent = core.unsent_frames(bytes(output), written)
            self._pipeline.lost(self.address, error, unsent)
            return False
        assert self._pipeline.idle, "no reply is due to a later call"
        return True

    def _write(self, output: memoryview) -> int:
        try:
            return self._socket.send(output) if output else 0
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _wait(self, for_writing: bool, deadline: float) -> None:
        left = deadline - time.monotonic()
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise ConnectionError("the connection was closed")
        self._poll.modify(descriptor, select.POLLIN | select.POLLOUT if for_writing else select.POLLIN)
        ready = self._poll.poll(max(0.0, left) * 1000)
        if for_writing:
            self._poll.modify(descriptor, select.POLLIN)
        if not ready:
            raise TimeoutError("no answer in time")

    def _read(self) -> bytes:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except ssl.SSLError as error:
            raise ConnectionError(tls.why(error)) from error
        if not data:
            raise ConnectionError(CLOSED if self._heard else tls.closed_early(self._socket))
        self._heard = True
        return data


def reset_on_close(connected: socket.socket) -> None:
    """Make the close of this socket a reset, which tells the node that no call waits for the other replies.

    An orderly close only says that nothing more is sent, as a client does that sends and does not wait.
    After a reset the node does not write PUTs that still wait for a segment's leader. So if a call gives up
    and the program repeats it, such a PUT is not written twice.
    """
    if connected.fileno() >= 0:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Client:
    """A blocking client. `core.py` says what is sent again; every method may raise a `WalrusError`.

    Threads may share it: each call has a connection of its own while it runs. A forked child may use it,
    too: it opens connections of its own. `timeout` arguments are in seconds; None: the client's.
    """

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
        self._idle: deque[_Link] = deque()  # the last one used is the next one taken
        self._links: set[weakref.ref[_Link]] = set()  # all that exist, idle or in use
        self._closings = 0
        self._rng = random.Random()
        forks.follow(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; a later call opens a new one.

        A call in progress in another thread ends at once, as if the node had closed its connection: with
        `OutcomeUnknown` if the request may have been executed.
        """
        self._closings += 1
        for link in self._alive():
            link.interrupt()
        while self._idle:
            self._idle.pop().close()

    @property
    def address(self) -> str:
        """The address to which the next call will go."""
        return self._addresses.current

    # --- commands

    def register(
        self, topic: str, settings: TopicSettings | None = None, *, timeout: float | None = None
    ) -> None:
        """Create the topic unless it exists; raises `TopicExists` if it does with other settings."""
        calls.only(self._call(calls.register(topic, settings), timeout))

    def configure(self, topic: str, settings: TopicSettings, *, timeout: float | None = None) -> None:
        """Change settings of the topic, such as `{"retain_seconds": 86_400}`; the others stay."""
        calls.only(self._call(calls.configure(topic, settings), timeout))

    def delete(self, topic: str, *, timeout: float | None = None) -> None:
        """Delete the topic with all its entries, groups and settings.

        After `OutcomeUnknown` it may be deleted or not. If it is registered again, that is a new topic.
        """
        calls.only(self._call(calls.delete(topic), timeout))

    def put(
        self, topic: str, payload: Buffer, *, timeout: float | None = None, retry: bool = False
    ) -> Position:
        """Append one entry; return its position once a majority of replicas has it.

        The position is not `known` from a node of an earlier release, which does not return it.
        After `OutcomeUnknown` the entry may be written or not. `retry=True` sends it again instead, until
        the deadline; it may then be written twice.
        """
        results = self._call(calls.put(topic, payload), timeout, retry)
        return cast("Position", calls.only(results))

    def put_many(
        self, topic: str, payloads: Iterable[Buffer], *, timeout: float | None = None, retry: bool = False
    ) -> list[Position | WalrusError]:
        """Append entries, pipelined and in order. Returns for each its position, or the error."""
        return self._call(calls.put_many(topic, payloads), timeout, retry)

    def producer(self, topic: str, name: str = "", next_number: int = 0) -> Producer:
        """Return a producer, which sends its entries until they are acknowledged, and writes none twice.

        No other producer of the topic may ever have had its name; without a name, a random one is drawn.
        With `next_number` it continues where the producer of that name has ended. A forked child needs a
        producer of its own.
        """
        return Producer(Numbering(topic, name, next_number), self._call, self._patience)

    def get(
        self, topic: str, group: str = "", *, wait: float = 0.0, timeout: float | None = None
    ) -> bytes | None:
        """Return the next entry of the shared cursor, or of a consumer group's; None if there is none (yet).

        `wait`: seconds to wait for an entry, in addition to the timeout; only with a group.
        A GET is never sent twice: after `OutcomeUnknown` the cursor may have moved past an entry that did
        not arrive.
        """
        results = self._call(following.get(topic, group, wait), timeout)
        return cast("bytes | None", calls.only(results))

    def get_many(
        self, topic: str, count: int, group: str = "", *, timeout: float | None = None
    ) -> list[bytes]:
        """Return up to `count` next entries, pipelined; fewer if there are no more.

        If it fails midway, the error's `received` has the entries that arrived.
        """
        return calls.taken(self._call(calls.get_many(topic, count, group), timeout))

    def fetch(
        self, topic: str, segment: int, offset: int, *, wait: float = 0.0, timeout: float | None = None
    ) -> bytes | None:
        """Return the entry at that position, or None; no cursor moves. `wait`: seconds to wait for it."""
        found = calls.only(self._call(following.fetch(topic, segment, offset, wait), timeout))
        return None if found is None else cast("bytes", found.payload)

    def fetch_many(
        self, topic: str, segment: int, offset: int, count: int, *, timeout: float | None = None
    ) -> list[bytes]:
        """Return up to `count` entries of one segment from `offset` on; fewer at its end."""
        return calls.payloads(self._call(calls.fetch_many(topic, segment, offset, count), timeout))

    def entries(
        self, topic: str, segment: int = 1, offset: int = 0, *, timeout: float | None = None
    ) -> Iterator[bytes]:
        """Yield all entries from that position on, across segments, to the end of what is acknowledged."""
        for entry in self.scan(topic, segment, offset, timeout=timeout):
            yield entry.payload

    def scan(
        self, topic: str, segment: int = 1, offset: int = 0, *, timeout: float | None = None
    ) -> Iterator[Entry]:
        """Like `entries`, but with the position of each entry, from which to go on later."""
        yield from self._walk(core.walk(topic, segment, offset), timeout)

    def follow(
        self,
        topic: str,
        segment: int = 1,
        offset: int = 0,
        *,
        group: str = "",
        prefetch: int = 100,
        timeout: float | None = None,
    ) -> Generator[Entry, None, None]:
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
        """
        calls.number(prefetch, "prefetch", 1)
        if group != "":
            work = consuming.follower(topic, group, (segment, offset), prefetch, timeout)
            known = self._closings, os.getpid()
            yield from consuming.follow(self, work, lambda: known != (self._closings, os.getpid()))
        else:
            yield from self._walk(following.follow(topic, segment, offset), timeout)

    def _walk(self, steps: core.Walk | following.Follow, timeout: float | None) -> Iterator[Entry]:
        results: list[Any] | None = None
        while (step := core.following(steps, results)) is not None:
            results = self._call(step, timeout) if isinstance(step, Call) else None
            if isinstance(step, core.Pause):
                time.sleep(step.seconds)
            elif isinstance(step, list):
                yield from step

    def find(self, topic: str, time: datetime, *, timeout: float | None = None) -> Position:
        """Return the position of the first entry that was appended at `time` or later, or of the next entry.

        `time` has a time zone. Append times are by the clocks of the segments' leaders. No cursor moves.
        """
        return cast("Position", calls.only(self._call(calls.find(topic, time), timeout)))

    def state(self, topic: str, *, timeout: float | None = None) -> TopicState:
        """Return the topic's segments, leaders, replicas and cursors."""
        return cast("TopicState", calls.only(self._call(calls.state(topic), timeout)))

    def topics(self, prefix: str = "", *, timeout: float | None = None) -> list[str]:
        """Return the names of topics that begin with `prefix`, in order; at most 1,000."""
        return calls.names_of(calls.only(self._call(calls.topics(prefix), timeout)))

    def groups(self, topic: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the topic's consumer groups, with position and lag; exact if the topic's leader answers."""
        return cast("dict[str, Any]", calls.only(self._call(calls.groups(topic), timeout)))

    def metrics(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the view that the node at `address` has of itself and of the cluster."""
        return cast("dict[str, Any]", calls.only(self._call(calls.metrics(), timeout)))

    def leave(self, node_id: int, *, force: bool = False, timeout: float | None = None) -> None:
        """Remove a member; returns once it is removed and its data is on other nodes.

        Raises NeedsForce if fewer voters would remain than the replication factor, unless `force` is set.
        """
        calls.only(self._call(calls.leave(node_id, force), timeout))

    def recover(self, topic: str, segment: int, *, timeout: float | None = None) -> None:
        """Recover a segment that waits for an operator, from the copies that answer. May lose entries."""
        calls.only(self._call(calls.recover(topic, segment), timeout))

    # --- work queues

    @overload
    def receive(
        self, topic: str, group: str, *, wait: None, timeout: float | None = None
    ) -> HeldDelivery: ...
    @overload
    def receive(
        self, topic: str, group: str, *, wait: float | None = 0.0, timeout: float | None = None
    ) -> HeldDelivery | None: ...
    def receive(
        self, topic: str, group: str, *, wait: float | None = 0.0, timeout: float | None = None
    ) -> HeldDelivery | None:
        """Take the next entry of a work queue, until it is acknowledged; None if there is none.

        `wait`: seconds to wait for an entry, in addition to the timeout; None: for ever. Calls of other
        threads do not wait for it. The delivery is a context manager:
        `with client.receive("jobs", "workers", wait=None) as delivery:` acknowledges the entry at the end of
        the block, and gives it back if the block raises.
        """
        while True:
            patience = deliveries.FOLLOW_WAIT if wait is None else wait
            found = self.receive_many(topic, group, 1, wait=patience, timeout=timeout)
            if found or wait is not None:
                return found[0] if found else None

    def receive_many(
        self, topic: str, group: str, count: int, *, wait: float = 0.0, timeout: float | None = None
    ) -> list[HeldDelivery]:
        """Return up to `count` deliveries, pipelined. Only the first waits, for up to `wait` seconds."""
        make = partial(HeldDelivery, client=self, topic=topic, group=group)
        results = self._call(deliveries.receive_many(make, topic, group, count, wait), timeout)
        return deliveries.received(HeldDelivery, results)

    def ack(self, topic: str, group: str, receipt: Receipt, *, timeout: float | None = None) -> None:
        """Acknowledge an entry: the group never gets it again, even if its visibility timeout has ended."""
        calls.only(self._call(deliveries.ack_many(topic, group, [receipt]), timeout))

    def ack_many(
        self, topic: str, group: str, receipts: Sequence[Receipt], *, timeout: float | None = None
    ) -> list[WalrusError | None]:
        """Acknowledge many entries, pipelined. Returns for each None, or the error."""
        return self._call(deliveries.ack_many(topic, group, receipts), timeout)

    def nack(
        self, topic: str, group: str, receipt: Receipt, *, delay: float = 0.0, timeout: float | None = None
    ) -> None:
        """Give an entry back, to be handed out again after `delay` seconds."""
        calls.only(self._call(deliveries.nack(topic, group, receipt, delay), timeout))

    def extend(
        self, topic: str, group: str, receipt: Receipt, seconds: float, *, timeout: float | None = None
    ) -> None:
        """The work takes longer: the visibility timeout ends `seconds` from now."""
        calls.only(self._call(deliveries.extend(topic, group, receipt, seconds), timeout))

    def seek(
        self, topic: str, group: str, to: str | tuple[int, int] | datetime, *, timeout: float | None = None
    ) -> None:
        """Move a group, forwards or back: to "begin", "end", (segment, offset) or a datetime.

        Outstanding deliveries are forgotten. A datetime has a time zone, and means the first entry that was
        appended then or later, by the clocks of the segments' leaders.
        """
        calls.only(self._call(deliveries.seek(topic, group, to), timeout))

    def consume(
        self,
        topic: str,
        group: str,
        handler: Callable[[Delivery], None],
        *,
        prefetch: int = 100,
        workers: int = 4,
        retry_after: float = 1.0,
        on_error: Callable[[Delivery, Exception], None] | None = None,
        stop: threading.Event | None = None,
        until_empty: bool = False,
    ) -> int:
        """Work on entries of the group until `stop` is set; return how many were acknowledged.

        `workers` threads call `handler` at the same time. An entry is acknowledged after `handler` returns.
        If `handler` raises, the entry is given back for `retry_after` seconds, and `on_error` is called.
        Temporary errors, such as a failover, are waited out; others are raised. With `until_empty` it ends
        when no entry waits. When `stop` is set, the entries in hand are finished and the rest is given back.
        At most `prefetch` entries are out at a time; all of them must be done within the visibility timeout,
        or some are worked on twice.
        """
        work = consuming.Work(topic, group, prefetch, workers, retry_after, on_error, until_empty)
        return consuming.consume(self, work, handler, stop or threading.Event())

    # --- the steps of a call

    def _patience(self, timeout: float | None) -> float:
        return calls.seconds(self.timeout if timeout is None else timeout)

    def _call(self, call: Call[Any], timeout: float | None, retry: bool = False) -> list[Any]:
        timeout = self._patience(timeout)
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
                time.sleep(step.seconds)
            else:
                self._attempt(step, closed)

    def _attempt(self, step: core.Attempt, closed: Callable[[], bool]) -> None:
        address, (host, port) = self._addresses.pair
        link: _Link | None = None
        survived = False
        try:
            link = self._take(address)
            if link is None:
                link = _Link(address, _connect(host, port, step.connect_by, self._tls), self._token)
                self._links.add(weakref.ref(link, self._links.discard))
            if closed():
                raise ConnectionError("the client was closed")
            survived = link.run(step)
        except OSError as error:
            step.exchange.lost(address, error)
        finally:
            if link is not None:
                self._put_back(link, survived and not closed())

    def _put_back(self, link: _Link, good: bool) -> None:
        if good and len(self._idle) < _MOST_IDLE:
            self._idle.append(link)
        else:
            link.close()

    def _take(self, address: str) -> _Link | None:
        """Take an idle connection to that address which the node has not closed; None if there is none."""
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:  # another thread took the last one
                return None
            if link.address == address and link.usable():
                return link
            link.close()
        return None

    def _alive(self) -> list[_Link]:
        return [link for reference in list(self._links) if (link := reference()) is not None]

    def _forked(self) -> None:
        """In a child: see `forks.py`."""
        for link in self._alive():
            link.close()
        self._idle.clear()
        self._links.clear()
        self._rng = random.Random()  # with the parent's state, both processes would retry at the same times
