"""What replication alone costs in Python: a chain of three bare processes.

    client ──frame──► leader: pwrite ──frame──► two followers: pwrite ──one byte──► leader ──OK──► client

There is no log, no term, no lease, no limit: a frame in, a `pwrite`, two sends, and the first answer back.
With `--sync` each process also calls `fdatasync` before it answers. `benchmarks.one_put` compares a cluster
of three nodes with this limit: what a node takes beyond it is the cost of its promises.

    python -m benchmarks.bare_chain follower PORT FILE [--sync]
    python -m benchmarks.bare_chain leader PORT FILE FOLLOWER_PORT FOLLOWER_PORT [--sync]
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from benchmarks.cluster import OK_FRAME

_LENGTH = struct.Struct("<I")


class Disk:
    """A file that grows with each write, and is synced if the chain is durable."""

    def __init__(self, path: str, sync: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._sync, self._end = sync, 0

    def write(self, data: bytes) -> None:
        """Append the data."""
        self._end += os.pwrite(self._fd, data, self._end)

    def sync(self) -> None:
        """Make the data durable, with `--sync`."""
        if self._sync:
            os.fdatasync(self._fd)


class Frames(asyncio.Protocol):
    """A connection that counts whole frames."""

    def __init__(self) -> None:
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is made."""
        self.transport = cast(asyncio.Transport, transport)

    def whole(self, data: bytes) -> int:
        """Take the next bytes; return how many frames they complete."""
        data = self._rest + data
        position, count = 0, 0
        while len(data) - position >= 4 and position + 4 + _LENGTH.unpack_from(data, position)[0] <= len(
            data
        ):
            position += 4 + _LENGTH.unpack_from(data, position)[0]
            count += 1
        self._rest = data[position:]
        return count


class Follower(Frames):
    """Writes what it receives, and answers one byte for each frame."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def data_received(self, data: bytes) -> None:
        """Frames from the leader arrive."""
        count = self.whole(data)
        self._disk.write(data)
        self._disk.sync()
        self.transport.write(b"!" * count)


class Chain:
    """The leader's state: the clients that wait, in the order of their frames, and how many are answered."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.waiting: deque[asyncio.Transport] = deque()
        self.answered = 0
        self.links: list[Link] = []

    def send(self, data: bytes, client: asyncio.Transport, count: int) -> None:
        """Write frames from a client, send them to both followers, and sync."""
        self.waiting.extend([client] * count)
        self.disk.write(data)
        for link in self.links:
            link.transport.write(data)
        self.disk.sync()

    def advance(self, acknowledged: int) -> None:
        """Answer frames up to `acknowledged`: a follower has them, so with the leader a majority."""
        while self.answered < acknowledged:
            self.answered += 1
            self.waiting.popleft().write(OK_FRAME)


class Link(asyncio.Protocol):
    """The leader's connection to one follower."""

    def __init__(self, chain: Chain) -> None:
        self._chain, self._acknowledged = chain, 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is made."""
        self.transport = cast(asyncio.Transport, transport)
        self._chain.links.append(self)

    def data_received(self, data: bytes) -> None:
        """One byte for each frame arrives."""
        self._acknowledged += len(data)
        self._chain.advance(self._acknowledged)


class Leader(Frames):
    """A client's connection to the leader."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self._chain = chain

    def data_received(self, data: bytes) -> None:
        """Frames from a client arrive."""
        if count := self.whole(data):
            self._chain.send(data, self.transport, count)


async def serve(role: str, port: int, path: str, followers: list[int], sync: bool) -> None:
    """Run one of the three processes until killed."""
    loop, disk = asyncio.get_running_loop(), Disk(path, sync)
    chain = Chain(disk)
    for follower in followers:
        await loop.create_connection(lambda: Link(chain), "127.0.0.1", follower)
    server = await loop.create_server(
        lambda: Follower(disk) if role == "follower" else Leader(chain), "127.0.0.1", port
    )
    await server.serve_forever()


def main(arguments: Sequence[str], factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> int:
    """`python -m benchmarks.bare_chain`; `factory` makes the event loop, by default asyncio's."""
    role, port, path, *followers = [word for word in arguments if word != "--sync"]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(role, int(port), path, list(map(int, followers)), "--sync" in arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
