"""File descriptors: how many each component may hold, and ports that stop accepting before they run out.

A process has a limited number of descriptors. An engine may need one for a data file at the moment a client
writes, so connections must never take the last ones:

    limit of the process    ├── clients ──────────────┤── strangers ──┤── engines, peers, logs ──┤
                              at most --max-connections   on the raft    a quarter of the limit, or
                                                          port           FEWEST_RESERVED

asyncio's own server accepts a whole backlog of connections before it runs the protocol of the first.
`Listener` accepts a few in each pass of the event loop and counts each from `accept` until its release: its
socket is closed, or another component counts it from then on. The listener stops accepting while it has no
room. Connections that are not accepted wait in the kernel's backlog and cost this process nothing; the
kernel refuses those that do not fit there.

If the process gets no descriptor all the same (ENFILE: the whole machine has none left), the condition is
temporary: the port pauses, and the engine refuses the append with `DiskFull` and stays intact
(`storage/backend.py`).

Invariant: at most `room` + `SLACK` counted sockets of one port are open at any time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable

from walrus.tls import HANDSHAKE_SECONDS, why

log = logging.getLogger("walrus.shell.descriptors")

FEWEST_FILES = 64
"""A node refuses to start with fewer: it would fail at an arbitrary later moment."""
WANTED_FILES = 65_536
"""The soft limit is raised to this, if the hard limit allows: each client takes a descriptor."""
FEWEST_RESERVED = 128
"""Descriptors that are reserved for engines, peers and logs at least, if the process has twice as many."""
MAX_STRANGERS = 256
"""Connections on the raft port whose caller has not been accepted yet."""
ACCEPTS_PER_PASS = 16
"""Connections that one port accepts in one pass of the event loop."""
SLACK = ACCEPTS_PER_PASS
"""Sockets beyond the limit: a new connection is accepted before the one that it replaces is closed."""
PAUSE = 0.5
"""Seconds for which a port stops accepting after the kernel had no descriptor, or no memory, for it."""
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def raise_file_limit() -> int:
    """Raise the soft limit of open files towards the hard one; return how many this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def shares(files: int) -> tuple[int, int]:
    """Return how many of `files` descriptors clients, and strangers on the raft port, may use.

    >>> shares(65_536), shares(1_024), shares(FEWEST_FILES)
    ((48896, 256), (704, 64), (28, 4))
    """
    reserved = min(files // 2, max(FEWEST_RESERVED, files // 4))
    strangers = min(MAX_STRANGERS, files // 16)
    return files - reserved - strangers, strangers


class Listener:
    """A listening port that accepts connections while there is room."""

    def __init__(
        self,
        name: str,
        room: int,
        factory: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`room`: how many sockets may be open at once. Each protocol calls `release` once, for its own."""
        self._tls = tls
        self._name = name
        self._room = room
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._open = 0
        self._paused = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, backlog: int) -> None:
        """Accept connections from now on. Raises OSError."""
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
                self._sockets.append(socket.create_server(address, family=family, backlog=backlog))
        except OSError:
            self.close()
            raise
        for listening in self._sockets:
            listening.setblocking(False)
        self._resume()

    @property
    def port(self) -> int:
        """The port number, also if the kernel chose it."""
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more connections."""
        self._pause()
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    def release(self) -> None:
        """A connection of this port is closed, or another component counts it from now on."""
        self._open -= 1
        assert self._open >= 0, "more sockets were released than accepted"
        if self._paused and self._open < self._room + SLACK:
            self._resume()

    def _pause(self) -> None:
        self._paused = True
        for listening in self._sockets:
            self._loop.remove_reader(listening)

    def _resume(self) -> None:
        self._paused = False
        for listening in self._sockets:
            self._loop.add_reader(listening, self._on_readable, listening)

    def _on_readable(self, listening: socket.socket) -> None:
        """Connections wait: accept a few of them."""
        for _ in range(ACCEPTS_PER_PASS):
            if self._open >= self._room + SLACK:
                self._pause()
                return
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    raise
                log.warning("the %s port accepts nothing for %g s: %s", self._name, PAUSE, error.strerror)
                self._pause()
                self._loop.call_later(PAUSE, self._resume)
                return
            accepted.setblocking(False)
            self._open += 1
            task = self._loop.create_task(self._connect(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        """Give an accepted socket its protocol."""
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
            )
        except OSError as error:  # also a failed TLS handshake: no protocol knows of the socket in that case
            log.warning("a connection on the %s port was dropped: %s", self._name, why(error))
            accepted.close()
            self.release()
