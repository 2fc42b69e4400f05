"""Clients of a work queue, from docs/protocol.md alone, like those of `client.py`:

    Producer   PUBs of numbered entries. It repeats what is not answered OK, and, without need, what was: from
               some numbers back, or from its very first. Now and then it leaves a number out, so that what is
               behind it must be refused
    Worker     RECEIVEs and ACKs, one of several of a group. It gives entries back, and it dies: what it had
               in hand must come again

Both go to one node after the other, and their topic is one of its own: it is written no faster than workers
get on, so that a run can end with an empty queue.
"""

from __future__ import annotations

import time
from typing import Any

from tests.node.chaos.client import MAYBE, OK, Connection, Queue, _Client, worth


class Producer(_Client):
    """PUBs."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._mine = self.told.puts.setdefault(self.name, [])
        self.told.producers.add(self.name)
        self._next = 0
        """The first number that was not answered OK."""

    def _payload(self, number: int) -> bytes:
        return b"%b-%d" % (self.name.encode(), number)

    def _numbers(self) -> list[int]:
        start = self.rng.choice((self._next, self._next, self._next, max(0, self._next - 3), 0))
        numbers = list(range(start, start + self.rng.choice((1, 1, 4, 12))))
        if len(numbers) > 2 and self.rng.random() < 0.1:
            numbers.pop(self.rng.randrange(1, len(numbers) - 1))
        return numbers

    def round(self, connection: Connection) -> bool:
        numbers = self._numbers()
        new = range(len(self._mine), numbers[-1] + 1)
        self._mine += [(self._payload(number), MAYBE) for number in new]
        name = self.name.encode()
        connection.send([b"PUB %b %b %d %b" % (self.topic, name, n, self._payload(n)) for n in numbers])
        replies = [self._told(number, connection.receive()) for number in numbers]
        while self._next < len(self._mine) and self._mine[self._next][1] == OK:
            self._next += 1
        self.rest()
        return replies[-1] == OK

    def _told(self, number: int, reply: bytes) -> str:
        if (outcome := worth(reply)) == OK:
            self._mine[number] = (self._payload(number), OK)
        expected = reply.removeprefix(b"ERR out of sequence: expected ").split(b":")[0].split(b" ")[0]
        unknown = reply.startswith(b"ERR unknown producer")
        if self._next and (unknown or (expected.isdigit() and int(expected) < self._next)):
            known = f"{self._next} numbers of {self.name} are acknowledged, number {number} is told"
            self.told.wrong.append(f"ProducerKept: {known} {reply[:80]!r}")
        return outcome


class Worker(_Client):
    """RECEIVEs and ACKs of the group `jobs`."""

    GROUP = b"jobs"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.careful = False
        """Whether all that comes is acknowledged: how a run ends."""
        self._hand: list[tuple[bytes, bytes]] = []
        self._queue = self.told.queues.setdefault(self.GROUP.decode(), Queue())

    def round(self, connection: Connection) -> bool:
        dice = self.rng.random()
        if self._hand and not self.careful and dice < 0.05:
            self._hand.clear()
            return False
        if self._hand and dice < 0.6:
            return self._finish(connection)
        return self._receive(connection)

    def _receive(self, connection: Connection) -> bool:
        asked, count = time.monotonic(), self.rng.choice((1, 8, 40))
        request = b"RECEIVE %b %b %d" % (self.topic, self.GROUP, self.rng.choice((0, 20, 200)))
        connection.send([request] * count)
        replies = [connection.receive() for _ in range(count)]
        for reply in replies:
            if reply.startswith(b"OK "):
                _, receipt, _, entry = reply.split(b" ", 3)
                self._queue.given.append((entry, asked))
                self._hand.append((receipt, entry))
        if worth(replies[-1]) != OK:
            self.rest()
        return worth(replies[-1]) == OK

    def _finish(self, connection: Connection) -> bool:
        self.rng.shuffle(self._hand)
        count = self.rng.randint(1, len(self._hand))
        done, self._hand = self._hand[:count], self._hand[count:]
        verb = b"ACK" if self.careful or self.rng.random() < 0.9 else b"NACK"
        doubtful = {entry for _, entry in done} if verb == b"ACK" else set()
        try:
            connection.send([b"%b %b %b %b" % (verb, self.topic, self.GROUP, receipt) for receipt, _ in done])
            replies = [(entry, connection.receive()) for _, entry in done]
            for entry, reply in replies if verb == b"ACK" else ():
                if worth(reply) == OK:
                    self._queue.acknowledged.setdefault(entry, time.monotonic())
                if worth(reply) != MAYBE:
                    doubtful.discard(entry)
        finally:
            self._queue.doubtful |= doubtful
        return worth(replies[-1][1]) == OK
