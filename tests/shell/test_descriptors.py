"""A port accepts a few connections at a time, while there is room, and survives a lack of descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from walrus.shell import descriptors
from walrus.shell.descriptors import ACCEPTS_PER_PASS, SLACK, Listener, shares

PATIENCE = 120.0
ROOM = 5


class Connection(asyncio.Protocol):
    """Does nothing; released by the test."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.port.connections.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.port.listener.release()


class Port:
    """A listener with room for a few, and clients that wait for it."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.listener = Listener("test", ROOM, lambda: Connection(self))
        self.clients: list[socket.socket] = []

    async def open(self, clients: int) -> None:
        await self.listener.listen("127.0.0.1", 0, 100)
        for _ in range(clients):
            self.clients.append(socket.create_connection(("127.0.0.1", self.listener.port)))

    async def until_accepted(self, count: int) -> None:
        while len(self.connections) < count:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(self.connections) == count

    def close(self) -> None:
        self.listener.close()
        for client in self.clients:
            client.close()


def play(scenario: Callable[[Port], Awaitable[None]]) -> None:
    """Run a scenario to its end, or give up."""

    async def run() -> None:
        port = Port()
        try:
            async with asyncio.timeout(PATIENCE):
                await scenario(port)
        finally:
            port.close()

    asyncio.run(run())


def test_what_there_is_no_room_for_is_not_accepted_until_there_is() -> None:
    async def scenario(port: Port) -> None:
        await port.open(60)
        await port.until_accepted(ROOM + SLACK)
        for connection in port.connections[:3]:
            assert connection.transport is not None
            connection.transport.close()  # type: ignore[attr-defined]
        await port.until_accepted(ROOM + SLACK + 3)

    play(scenario)


def test_one_pass_of_the_loop_accepts_a_few_connections_only() -> None:
    async def scenario(port: Port) -> None:
        await port.open(60)
        port.listener._on_readable(port.listener._sockets[0])
        assert port.listener._open == ACCEPTS_PER_PASS

    play(scenario)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_a_lack_of_descriptors_pauses_the_port_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    accept, shortages = socket.socket.accept, [number, number]

    def short(listening: socket.socket) -> tuple[socket.socket, object]:
        if shortages:
            code = shortages.pop()
            raise OSError(code, os.strerror(code))
        return accept(listening)

    async def scenario(port: Port) -> None:
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
        await port.open(3)
        await port.until_accepted(3)
        assert not failed and not shortages

    monkeypatch.setattr(socket.socket, "accept", short)
    monkeypatch.setattr(descriptors, "PAUSE", 0.0)
    play(scenario)
    assert os.strerror(number) in caplog.text


def test_clients_and_strangers_together_leave_the_engines_their_share() -> None:
    for files in (64, 100, 256, 512, 1024, 4096, 65_536):
        clients, strangers = shares(files)
        assert clients > 0 and strangers > 0
        assert files - clients - strangers >= min(files // 2, 128), files
        assert files - clients - strangers >= files // 4, files
