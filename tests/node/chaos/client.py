"""A client and its memory, written from docs/protocol.md alone: sockets, frames, and what an answer is worth.

Nothing here, or in the rest of this package, imports `walrus`: what the nodes and their own clients have
wrong in the same way, this has not. Even which errors mean "not written" is read from the page's table.

Three kinds of clients run for as long as a run takes, each in a thread, and write down what they were told:

    Writer     PUTs of payloads that occur once, in windows, to one node after the other
    Getter     GETs of a consumer group that it has for itself
    Fetcher    FETCHes at random places: what was there once must stay there

Those of a work queue are in `jobs.py`, and one that deletes its topic again and again in `lives.py`.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"
OK, NOT_DONE, MAYBE = "ok", "not done", "maybe"
Address = tuple[str, int]


@cache
def reasons() -> tuple[tuple[str, str], ...]:
    """The page's table of errors: how a reason begins, and whether the request may have had its effect."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Errors\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `\w+` \| (no|maybe) \|", text, re.MULTILINE)
    assert len(rows) > 20, "the page has its table"
    return tuple(sorted(rows, key=lambda row: -len(row[0])))


def worth(reply: bytes) -> str:
    """What an answer to a PUT or a GET says of its effect; a line that the page does not have, nothing."""
    if reply in (b"OK", b"EMPTY") or reply.startswith(b"OK "):
        return OK
    reason = reply.removeprefix(b"ERR ").decode(errors="replace")
    done = next((done for beginning, done in reasons() if reason.startswith(beginning)), "maybe")
    return NOT_DONE if done == "no" else MAYBE


class Connection:
    """Frames out, frames in. Raises OSError, also for a node that is silent for `patience` seconds."""

    def __init__(self, address: Address, patience: float = 10.0) -> None:
        self._socket = socket.create_connection(address, timeout=patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, requests: Sequence[bytes]) -> None:
        """Send these in one write."""
        self._socket.sendall(b"".join(struct.pack("<I", len(one)) + one for one in requests))

    def receive(self) -> bytes:
        """The next reply."""
        (length,) = struct.unpack("<I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the node hung up")
            self._read += data
        found, self._read = self._read[:count], self._read[count:]
        return found

    def ask(self, request: bytes) -> bytes:
        """One request, its reply."""
        self.send([request])
        return self.receive()


def ask(address: Address, request: bytes, patience: float = 10.0) -> bytes:
    """One request on a connection of its own."""
    with Connection(address, patience) as connection:
        return connection.ask(request)


@dataclass
class Queue:
    """What the workers of one group were told, together."""

    given: list[tuple[bytes, float]] = field(default_factory=list)
    """Entries that were handed out, and when the RECEIVE was sent."""
    acknowledged: dict[bytes, float] = field(default_factory=dict)
    """Entries whose ACK was answered OK, and when that was read."""
    doubtful: set[bytes] = field(default_factory=set)
    """Entries for which an ACK was sent whose outcome is unknown."""


@dataclass
class Told:
    """What the clients of one topic did and were told, in the order of each."""

    puts: dict[str, list[tuple[bytes, str]]] = field(default_factory=dict)
    """By writer or producer: payloads in the order of first sending, and what became of each."""
    producers: set[str] = field(default_factory=set)
    """Of these, the clients that number their entries: each is there once, however often it was sent."""
    queues: dict[str, Queue] = field(default_factory=dict)
    """By group that is read with RECEIVE."""
    gets: dict[str, list[bytes]] = field(default_factory=dict)
    """By group: entries in the order of delivery."""
    doubtful_gets: dict[str, int] = field(default_factory=dict)
    """By group: GETs whose answer did not arrive, each of which may have moved the cursor."""
    fetched: dict[tuple[int, int], bytes] = field(default_factory=dict)
    lives: int = 0
    """How often the topic was deleted, after all of it was read."""
    wrong: list[str] = field(default_factory=list)
    """Violations that a client saw itself."""

    def acknowledged(self) -> int:
        """PUTs that were answered OK."""
        return sum(outcome == OK for puts in list(self.puts.values()) for _, outcome in list(puts))


class _Client(threading.Thread, ABC):
    """Talks to one node after the other until it is stopped."""

    def __init__(
        self, told: Told, addresses: Callable[[], list[Address]], topic: bytes, name: str, seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.told, self.topic = told, topic
        self.rng = random.Random(f"{seed} {name}")
        self.failure: BaseException | None = None
        self._addresses = addresses
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    with Connection(self.rng.choice(self._addresses()), patience=10.0) as connection:
                        while not self._over.is_set() and self.rng.random() > 0.01 and self.round(connection):
                            continue
                except OSError:
                    self._over.wait(0.02)
        except BaseException as failure:
            self.failure = failure
            raise

    @abstractmethod
    def round(self, connection: Connection) -> bool:
        """Ask something; False to go to another node."""

    def stop(self) -> None:
        """End after what is on its way."""
        self._over.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} waits for an answer that does not come"
        assert self.failure is None, f"{self.name}: {self.failure!r}"

    def rest(self) -> None:
        """What was refused is not asked again at once."""
        self._over.wait(0.02)


class Writer(_Client):
    """PUTs."""

    _numbers: itertools.count[int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._numbers = itertools.count()
        self._mine = self.told.puts.setdefault(self.name, [])

    def round(self, connection: Connection) -> bool:
        window = self.rng.choice((1, 1, 8, 40))
        payloads = [b"%b-%d " % (self.name.encode(), next(self._numbers)) for _ in range(window)]
        payloads = [payload + b"." * self.rng.choice((0, 0, 20, 300)) for payload in payloads]
        outcomes: list[str] = []
        try:
            connection.send([b"PUT %b %b" % (self.topic, payload) for payload in payloads])
            while len(outcomes) < window:
                outcomes.append(worth(connection.receive()))
        finally:
            outcomes += [MAYBE] * (window - len(outcomes))
            self._mine += zip(payloads, outcomes, strict=True)
        if NOT_DONE in outcomes:
            self.rest()
        return outcomes[-1] == OK


class Getter(_Client):
    """GETs of the group that has this thread's name."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._mine = self.told.gets.setdefault(self.name, [])
        self.told.doubtful_gets[self.name] = 0

    def round(self, connection: Connection) -> bool:
        try:
            reply = connection.ask(b"GET %b %b" % (self.topic, self.name.encode()))
        except OSError:
            self.told.doubtful_gets[self.name] += 1
            raise
        if reply.startswith(b"OK "):
            self._mine.append(reply[3:])
            return True
        self.told.doubtful_gets[self.name] += worth(reply) == MAYBE
        self.rest()
        return reply == b"EMPTY"


class Fetcher(_Client):
    """FETCHes."""

    def round(self, connection: Connection) -> bool:
        state = connection.ask(b"STATE " + self.topic)
        if not state.startswith(b"{"):
            self.rest()
            return False
        segment = self.rng.randint(1, json.loads(state)["current_segment"])
        start = self.rng.choice((0, self.rng.randrange(400)))
        connection.send([b"FETCH %b %d %d" % (self.topic, segment, start + n) for n in range(50)])
        replies = [connection.receive() for _ in range(50)]
        for offset, reply in enumerate(replies, start):
            if reply.startswith(b"OK "):
                self._note((segment, offset), reply.split(b" ", 2)[2])
        self.rest()
        return True

    def _note(self, place: tuple[int, int], entry: bytes) -> None:
        before = self.told.fetched.setdefault(place, entry)
        if before != entry:
            what = f"at {place} there was {before[:40]!r}, then {entry[:40]!r}"
            self.told.wrong.append(f"PlacesStable: {what}")
