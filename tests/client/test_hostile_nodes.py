"""Every method of both clients against what is no node, or not a good one.

Whatever answers, and however slowly: a call ends by its deadline, with a `WalrusError` or a value, and the
client works as soon as a good node answers at that address.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from tests.client.fake import MemoryLog, one_by_one
from tests.client.test_arguments import GOOD
from walrus import protocol
from walrus.client import AsyncClient, Client, WalrusError

TIMEOUT = 0.2
PATIENCE = 30.0
"""Seconds that a call of `TIMEOUT` may take on a busy machine: one that knows no deadline takes longer."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, arguments) for method, arguments in GOOD.items()},
    "much": ("put_many", {"topic": "t", "payloads": [bytes(1 << 20)] * 16}),
    "often": ("put_many", {"topic": "t", "payloads": [b"x"] * 1000, "retry": True}),
}
Behaviour = Callable[["Hostile", socket.socket], None]


class Hostile:
    """A listener that does to each connection what `behave` says at that time."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.over = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let all threads end."""
        self.over.set()
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.behave(self, connection)


def silent(node: Hostile, connection: socket.socket) -> None:
    """Read, and answer nothing."""
    while connection.recv(65536):
        pass


def deaf(node: Hostile, connection: socket.socket) -> None:
    """Do not even read: the pipe fills up."""
    node.over.wait()


def dripping(node: Hostile, connection: socket.socket) -> None:
    """Answer a byte at a time: what arrives is no answer before all of it is there."""
    connection.recv(65536)
    for byte in protocol.frame(b"OK " + bytes(10_000)):
        connection.sendall(bytes([byte]))
        if node.over.wait(TIMEOUT / 20):
            return


def hanging_up(node: Hostile, connection: socket.socket) -> None:
    """Accept, and close."""


def breaking_off(node: Hostile, connection: socket.socket) -> None:
    """Close in the middle of the first answer."""
    connection.recv(65536)
    connection.sendall(protocol.frame(b"OK 1 x")[:7])


def doubling(node: Hostile, connection: socket.socket) -> None:
    """Answer each request twice: the second answer is of no request, or of the next one."""
    while connection.recv(65536):
        connection.sendall(protocol.ok(b"1 wrong") * 2)


def babbling(node: Hostile, connection: socket.socket) -> None:
    """Talk before being asked, and hang up when asked."""
    connection.sendall(protocol.ok(b"1 wrong"))
    connection.recv(65536)


def running_on(node: Hostile, connection: socket.socket) -> None:
    """Behind each answer comes the beginning of one to a request that was never made."""
    while connection.recv(65536):
        connection.sendall(protocol.OK + protocol.frame(b"OK 1 wrong")[:6])


def saying(body: bytes) -> Behaviour:
    """Answer everything with this."""

    def behave(node: Hostile, connection: socket.socket) -> None:
        parser = protocol.RequestParser(max_frame_bytes=protocol.MAX_SKIP_BYTES)
        while data := connection.recv(65536):
            for request in parser.feed(data):
                if node.behave is good:
                    return
                connection.sendall(body * request.replies)

    return behave


def good(node: Hostile, connection: socket.socket) -> None:
    """As a node should."""
    log, parser = MemoryLog(topics={"q": [[b"q%d" % n for n in range(10)]]}), protocol.RequestParser()
    while data := connection.recv(65536):
        for request in parser.feed(data):
            for single in one_by_one(request):
                connection.sendall(b"".join(log.answer(single)))


BODIES = [
    b"OK",
    b"OK ",
    b"OK 0 x",
    b"OK 99999999999999999999 x",
    b"OK -1 x",
    b"OK 1.0.0.1 x y",
    b"OK 9.9.9.9 1 x",
    b"EMPTY",
    b"EMPTY x",
    b"ERR ",
    b"ERR \xff\xfe",
    b"ERR unknown topic t",
    b"{}",
    b'{"topics": [1]}',
    b'{"current_segment": -1, "sealed_segments": [], "first_segment": "x"}',
    b'{"current_segment": 1e300, "sealed_segments": {}}',
    b'{"a":' * 20_000,
    b"{\xff}",
    b"[]",
    b"\xff",
]
FRAMES = [*map(protocol.frame, BODIES), b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\x04"]


@contextmanager
def at(behave: Behaviour) -> Iterator[Hostile]:
    node = Hostile(behave)
    try:
        yield node
    finally:
        node.close()


Outcome = tuple[str, float, object]


def each_blocking(node: Hostile) -> list[Outcome]:
    """Each method at the same time, with a client of its own, which must work afterwards."""

    def one(case: str) -> Outcome:
        method, arguments = CASES[case]
        with Client(node.address, timeout=TIMEOUT) as client:
            begun, found = time.monotonic(), None
            try:
                found = getattr(client, method)(**arguments)
                found = next(found, None) if hasattr(found, "__next__") else found
            except WalrusError as error:
                found = error
            took = time.monotonic() - begun
            barrier.wait()
            assert client.fetch("q", 1, 3, timeout=60) == b"q3", case
            return case, took, found

    barrier = threading.Barrier(len(CASES), lambda: setattr(node, "behave", good), timeout=120)
    with ThreadPoolExecutor(len(CASES)) as pool:
        return list(pool.map(one, CASES))


async def each_awaited(node: Hostile) -> list[Outcome]:
    """The same with tasks."""

    async def one(case: str) -> Outcome:
        method, arguments = CASES[case]
        async with AsyncClient(node.address, timeout=TIMEOUT) as client:
            begun, found = time.monotonic(), None
            try:
                found = getattr(client, method)(**arguments)
                found = await (anext(found, None) if hasattr(found, "__anext__") else found)
            except WalrusError as error:
                found = error
            took = time.monotonic() - begun
            async with asyncio.timeout(120):
                await barrier.wait()
            node.behave = good
            assert await client.fetch("q", 1, 3, timeout=60) == b"q3", case
            return case, took, found

    barrier = asyncio.Barrier(len(CASES))
    return await asyncio.gather(*map(one, CASES))


def each_async(node: Hostile) -> list[Outcome]:
    return asyncio.run(each_awaited(node))


BEHAVIOURS = [silent, deaf, dripping, hanging_up, breaking_off, doubling, babbling, running_on]


@pytest.mark.parametrize("each", [each_blocking, each_async])
@pytest.mark.parametrize("behave", BEHAVIOURS, ids=lambda behave: behave.__name__)
def test_every_call_ends_by_its_deadline_whatever_the_node_does(
    behave: Behaviour, each: Callable[[Hostile], list[Outcome]]
) -> None:
    with at(behave) as node:
        for case, seconds, found in each(node):
            assert seconds < PATIENCE, f"{case}: {found!r} after {seconds:.1f} s"


@pytest.mark.parametrize("frame", [FRAMES[0], FRAMES[-7], *FRAMES[-3:]], ids=lambda frame: str(frame[:20]))
def test_whatever_a_node_says_is_a_value_or_an_error_of_the_client(frame: bytes) -> None:
    with at(saying(frame)) as node:
        for case, seconds, found in each_blocking(node):
            assert seconds < PATIENCE, f"{case}: {found!r} after {seconds:.1f} s"


def test_whatever_nodes_say_is_a_value_or_an_error_of_the_async_client() -> None:
    async def every(nodes: list[Hostile]) -> list[list[Outcome]]:
        return await asyncio.gather(*map(each_awaited, nodes))

    with ExitStack() as stack:
        nodes = [stack.enter_context(at(saying(frame))) for frame in FRAMES]
        assert len(asyncio.run(every(nodes))) == len(FRAMES)
