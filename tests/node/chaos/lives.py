"""A client that registers a topic, fills it, reads it, deletes it, and begins again.

From docs/protocol.md alone, like those of `client.py`. What it puts after the `OK` to a REGISTER is of that
life of the topic: it must be there, and nothing that was acknowledged in an earlier life may be, whichever
node was asked for which part. Its topic is one of its own, and it is the only client, so it knows what must
be there without the log in the end.

A leader that was replaced may answer readers until its lease ends, so a life is read only after that.

What has no known outcome may have it later: a PUT in a later life, and a DELETE may end a later one. So for a
while after such a DELETE nothing is judged.

    NoAckAfterDelete     an entry of this life that was acknowledged is not given to a group that reads it
                         whole: it was acknowledged in a topic that was deleted
    NoFrameOfAnOldTopic  an entry that was acknowledged in an earlier life is given
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.node.chaos.client import MAYBE, OK, Connection, _Client, worth

LATE = 20.0
"""Seconds in which a DELETE may still take effect: no node is frozen for as long, nor any bytes held back."""
STALE = 2.0
"""Seconds after a DELETE in which an old leader may answer GET: a lease of 1.2 by a clock that is slow."""


class Renewer(_Client):
    """REGISTER, PUTs, GETs, DELETE: a step a round, each at whatever node it is connected to."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._former: set[bytes] = set()
        self._judges_from = self._reads_from = 0.0
        self._step: Callable[[Connection], bool] = self._asks_to_register
        self._is_new()

    def _is_new(self) -> None:
        self._number, self._doubtful, self._most = 0, 0, self.rng.choice((1, 1, 3, 20))
        self._acknowledged: set[bytes] = set()
        self._given: set[bytes] = set()
        self._ending = False

    def round(self, connection: Connection) -> bool:
        done = self._step(connection)
        if not done:
            self.rest()
        return done

    @property
    def _life(self) -> bytes:
        return b"life-%d" % self.told.lives

    def _asks_to_register(self, connection: Connection) -> bool:
        if worth(connection.ask(b"REGISTER " + self.topic)) != OK:
            return False
        self._step = self._puts
        return self.rng.random() < 0.5

    def _puts(self, connection: Connection) -> bool:
        payload = b"%b-%d" % (self._life, self._number)
        self._number += 1
        outcome = worth(connection.ask(b"PUT %b %b" % (self.topic, payload)))
        if outcome == OK:
            self._acknowledged.add(payload)
        if self._number >= self._most and self._acknowledged:
            self._step = self._gets
        return outcome == OK and self.rng.random() < 0.7

    def _gets(self, connection: Connection) -> bool:
        if time.monotonic() < self._reads_from:
            return False
        self._doubtful += 1  # until its answer is here
        reply = connection.ask(b"GET %b %b" % (self.topic, self._life))
        if worth(reply) != OK:
            return False
        self._doubtful -= 1
        if reply.startswith(b"OK "):
            self._given.add(reply[3:])
            return True
        self._is_read()
        self._step = self._asks_to_delete
        return False

    def _is_read(self) -> None:
        """The topic has been read to its end."""
        if old := sorted(self._given & self._former):
            self.told.wrong.append(f"NoFrameOfAnOldTopic: {old[0]!r} is given in {self._life!r}")
        lost = sorted(self._acknowledged - self._given)
        if len(lost) > self._doubtful and time.monotonic() > self._judges_from:
            lines = f"{len(lost)} of {len(self._acknowledged)} entries of {self._life!r}, first {lost[0]!r}"
            self.told.wrong.append(f"NoAckAfterDelete: {lines} were acknowledged, and are not there")

    def _asks_to_delete(self, connection: Connection) -> bool:
        """Once more after an answer that leaves it open: it may be gone, or go now."""
        before, self._judges_from = self._judges_from, time.monotonic() + LATE  # until its answer is here
        reply = connection.ask(b"DELETE " + self.topic)
        gone = worth(reply) == OK or (self._ending and reply.startswith(b"ERR unknown topic"))
        if worth(reply) != MAYBE:
            self._judges_from = before
        self._ending = True
        if gone:
            self.told.lives += 1
            self._reads_from = time.monotonic() + STALE
            self._former |= self._acknowledged
            self._is_new()
            self._step = self._asks_to_register
        return gone and self.rng.random() < 0.5
