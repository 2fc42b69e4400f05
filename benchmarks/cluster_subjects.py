"""What a cluster is measured beside, and how: servers that are started, and connections that send entries.

A `Subject` is started anew for each round, in an empty directory, and says what its answer means: how many
copies exist by then, and when they are synced. Each of its servers has a process of its own, on free ports
of loopback, and is killed by its pid.

A `Line` is a connection of the client. It uses no client library, not even Walrus's own: a request is bytes,
and answers are counted by their ends, so that the server determines the cost of a row.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from walrus.cluster import pause

PAYLOAD: Final = b"x" * 100
PATIENCE: Final = 60.0
"""Seconds for a start, and for an answer."""
Found = TypeVar("Found")


class PeerError(Exception):
    """A server does not start, or gives an unexpected answer."""


def dial(address: tuple[str, int]) -> socket.socket:
    """Connect without Nagle's delay."""
    connection = socket.create_connection(address, timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def free_ports(count: int) -> list[int]:
    """Return free ports of loopback; all of them are held before one is released."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Line(ABC):
    """One connection that sends entries: builds requests, and counts their answers."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    @abstractmethod
    def requests(self, count: int) -> bytes:
        """Return `count` requests of one entry each."""

    @abstractmethod
    def answers(self, data: bytes) -> int:
        """Return how many answers end in these bytes, which follow the earlier ones. Raises PeerError."""

    def ask(self, count: int) -> None:
        """Send `count` requests."""
        self.socket.sendall(self.requests(count))

    def take(self) -> int:
        """Wait for data; return how many answers ended in it."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise PeerError("the server hung up")
        return self.answers(data)


class Marked(Line):
    """A connection whose answers each have a unique mark: the cheapest way to count them."""

    mark: ClassVar[bytes]
    trouble: ClassVar[bytes]
    """A piece of an answer that refuses."""
    rest = b""

    def answers(self, data: bytes) -> int:
        """Count the marks, including one that arrives in two parts."""
        data = self.rest + data
        self.rest = data[max(0, len(data) - len(self.mark) + 1) :]
        if self.trouble in data:
            raise PeerError(f"refused: {data[:200]!r}")
        return data.count(self.mark)


class Subject(ABC):
    """What is measured: servers that are started in an empty directory, and the meaning of their answers."""

    program: ClassVar[str] = ""
    brought_by: ClassVar[str] = ""

    def __init__(self, name: str, copies: str, synced: str, *, durable: bool) -> None:
        self.name, self.copies, self.synced, self.durable = name, copies, synced, durable
        self.processes: list[subprocess.Popen[bytes]] = []
        self.directory = Path()

    @classmethod
    def path(cls) -> str | None:
        """Return the path of the program, beside this Python or on the PATH."""
        return shutil.which(
            cls.program, path=str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
        )

    def missing(self) -> str:
        """Return what to install; "" if nothing is missing."""
        if not self.program or self.path():
            return ""
        return f"{self.name} is not measured: there is no {self.program} here ({self.brought_by})"

    @abstractmethod
    def start(self, directory: Path) -> None:
        """Start the servers; they are ready for entries on return."""

    @abstractmethod
    def line(self) -> Line:
        """Connect to the server that takes entries."""

    @abstractmethod
    def stored(self) -> int | None:
        """Return how many entries are stored; None if the subject stores none."""

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes.clear()

    def launch(self, *arguments: str) -> None:
        """Start one more process of the program."""
        program = self.path()
        assert program is not None, "missing() says so"
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def wait_for(self, look: Callable[[], Found | None]) -> Found:
        """Repeat `look` until it finds something; the server may not answer yet. Raises PeerError."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if found := look():
                    return found
            for number, process in enumerate(self.processes):
                if process.poll() is not None:
                    said = (self.directory / f"{number}.log").read_text(errors="replace")
                    raise PeerError(f"{self.name} ended: {said[-300:]}")
            pause(0.05)
        raise PeerError(f"{self.name} is not ready after {PATIENCE:.0f} s")
