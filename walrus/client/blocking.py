"""`Client`: the client that blocks. See `walrus.client` for how to use it and what it promises."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, cast

from walrus.client import calls, core
from walrus.client.calls import Buffer, Call, Entry, TopicState
from walrus.client.errors import WalrusError
from walrus.protocol import ProtocolError

_READ_BYTES = 1 << 18


class _Link:
    """One connected socket and the pipeline over it. Used by one call at a time."""

    def __init__(self, address: str, host_port: tuple[str, int], within: float) -> None:
        self.address = address
        self._socket = socket.create_connection(host_port, timeout=within)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._pipeline = core.Pipeline()

    def usable(self) -> bool:
        """False if the node closed an idle connection: found out before sending, it costs no doubt."""
        return self._pipeline.idle and not self._poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def run(self, exchange: core.Exchange[Any], within: float) -> bool:
        """Do it; False if the connection did not survive. Whatever happens, the exchange is done then."""
        output = memoryview(b"")
        written = 0
        deadline = time.monotonic() + within
        self._pipeline.start(exchange)
        try:
            while not exchange.done:
                if written == len(output):
                    output, written = memoryview(self._pipeline.output()), 0
                written += self._write(output[written:])
                self._wait(written < len(output), deadline)
                if data := self._read():
                    answered = len(exchange.results)
                    self._pipeline.input(data)
                    if len(exchange.results) > answered:
                        deadline = time.monotonic() + within
        except (OSError, ProtocolError) as error:
            unsent = core.unsent_frames(bytes(output), written)
            self._pipeline.lost(self.address, error, unsent)
            return False
        return True

    def _write(self, output: memoryview) -> int:
        try:
            return self._socket.send(output) if output else 0
        except BlockingIOError:
            return 0

    def _wait(self, for_writing: bool, deadline: float) -> None:
        left = deadline - time.monotonic()
        self._poll.modify(self._socket, select.POLLIN | select.POLLOUT if for_writing else select.POLLIN)
        ready = self._poll.poll(max(0.0, left) * 1000)
        if for_writing:
            self._poll.modify(self._socket, select.POLLIN)
        if not ready:
            raise TimeoutError("no answer in time")

    def _read(self) -> bytes:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionError("the node closed the connection")
        return data


class Client:
    """A blocking client. See the module for what is retried; every method may raise a `WalrusError`."""

    def __init__(self, addresses: str | Iterable[str], *, timeout: float = 5.0) -> None:
        self.timeout = calls.seconds(timeout)
        self._addresses = core.Addresses(addresses)
        self._link: _Link | None = None
        self._rng = random.Random()
        self._turn = threading.Lock()
        self._sleep = threading.Event()  # never set: a wait that tests can replace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def address(self) -> str:
        """The node that the next call will go to."""
        return self._addresses.current

    # --- commands

    def register(self, topic: str, *, timeout: float | None = None) -> None:
        """Create the topic unless it exists."""
        calls.only(self._call(calls.register(topic), timeout))

    def put(self, topic: str, payload: Buffer, *, timeout: float | None = None, retry: bool = False) -> None:
        """Append one entry; returns once a majority of replicas has it.

        After `OutcomeUnknown` the entry may be there or not. `retry=True` sends it again instead, until
        the deadline: then it may be there twice.
        """
        calls.only(self._call(calls.put(topic, payload), timeout, retry))

    def put_many(
        self, topic: str, payloads: Iterable[Buffer], *, timeout: float | None = None, retry: bool = False
    ) -> list[WalrusError | None]:
        """Append entries, pipelined and in order. For each: None if acknowledged, or what went wrong."""
        return self._call(calls.put_many(topic, payloads), timeout, retry)

    def get(self, topic: str, group: str = "", *, timeout: float | None = None) -> bytes | None:
        """The next entry of the shared cursor, or of a consumer group's; None if there is none (yet).

        Never sent twice: after `OutcomeUnknown` the cursor may have moved past an entry nobody got.
        """
        return cast("bytes | None", calls.only(self._call(calls.get_many(topic, 1, group), timeout)))

    def get_many(
        self, topic: str, count: int, group: str = "", *, timeout: float | None = None
    ) -> list[bytes]:
        """Up to `count` next entries, pipelined; fewer at the end of what there is.

        If it fails on the way, the error's `received` has the entries that came.
        """
        return calls.taken(self._call(calls.get_many(topic, count, group), timeout))

    def fetch(self, topic: str, segment: int, offset: int, *, timeout: float | None = None) -> bytes | None:
        """The entry at that place, or None; moves no cursor."""
        results = self._call(calls.fetch_many(topic, segment, offset, 1), timeout)
        return cast("bytes | None", calls.only(results))

    def fetch_many(
        self, topic: str, segment: int, offset: int, count: int, *, timeout: float | None = None
    ) -> list[bytes]:
        """Up to `count` entries of one segment from `offset` on; fewer at its end."""
        return calls.fetched(self._call(calls.fetch_many(topic, segment, offset, count), timeout))

    def entries(
        self, topic: str, segment: int = 1, offset: int = 0, *, timeout: float | None = None
    ) -> Iterator[bytes]:
        """All entries from that place on, across segments, to the end of what is acknowledged."""
        for entry in self.scan(topic, segment, offset, timeout=timeout):
            yield entry.payload

    def scan(
        self, topic: str, segment: int = 1, offset: int = 0, *, timeout: float | None = None
    ) -> Iterator[Entry]:
        """Like `entries`, with the place of each entry, to go on from later."""
        steps = core.walk(topic, segment, offset)
        results: list[Any] | None = None
        while True:
            try:
                step = next(steps) if results is None else steps.send(results)
            except StopIteration:
                return
            results = None
            if isinstance(step, Call):
                results = self._call(step, timeout)
            elif isinstance(step, core.Pause):
                self._sleep.wait(step.seconds)
            else:
                yield from step

    def state(self, topic: str, *, timeout: float | None = None) -> TopicState:
        """The topic's segments, leaders, replicas and cursors."""
        return cast("TopicState", calls.only(self._call(calls.state(topic), timeout)))

    def metrics(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The own view of the node that `address` names."""
        return cast("dict[str, Any]", calls.only(self._call(calls.metrics(), timeout)))

    def leave(self, node_id: int, *, timeout: float | None = None) -> None:
        """Remove a member; returns once it is removed and its data is elsewhere."""
        calls.only(self._call(calls.leave(node_id), timeout))

    def recover(self, topic: str, segment: int, *, timeout: float | None = None) -> None:
        """Recover a segment that waits for an operator, from the copies there are. May lose entries."""
        calls.only(self._call(calls.recover(topic, segment), timeout))

    # --- the steps of a call

    def _call(self, call: Call[Any], timeout: float | None, retry: bool = False) -> list[Any]:
        timeout = calls.seconds(self.timeout if timeout is None else timeout)
        with self._turn:
            steps = core.conduct(call, self._addresses, timeout, time.monotonic, self._rng, retry)
            try:
                while True:
                    step = next(steps)
                    if isinstance(step, core.Pause):
                        self._sleep.wait(step.seconds)
                    else:
                        self._attempt(step)
            except StopIteration as end:
                return cast("list[Any]", end.value)
            except BaseException:  # an interrupted call leaves replies under way that are nobody's
                self.close()
                raise

    def _attempt(self, step: core.Attempt) -> None:
        address = self._addresses.current
        if self._link is not None and (self._link.address != address or not self._link.usable()):
            self.close()
        if self._link is None:
            try:
                self._link = _Link(address, self._addresses.host_port, step.connect_within)
            except OSError as error:
                step.exchange.lost(address, error)
                return
        if not self._link.run(step.exchange, step.reply_within):
            self.close()
