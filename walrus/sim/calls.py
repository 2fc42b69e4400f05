"""What clients ask for and what they are told: calls, replies, and what a producer knows of an entry.

A `ClientCall` is one request in flight, and the `slot` that a controller is handed with it. A node's answer
reaches the call's `CallOwner` in the same step. `Outcome` is all that a producer knows of an entry that it
sent, and the only basis of the oracle's judgement.

This module does not import the world: the clients (`clients.py`), the world and the judge all depend on it.
"""

from __future__ import annotations

import enum
from typing import Protocol

from walrus import protocol
from walrus.protocol import ReplyParser
from walrus.sim.violation import Violation
from walrus.wire.errors import kind_of


class Outcome(enum.Enum):
    """What a producer knows of an entry it sent."""

    PENDING = "pending"
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CallOwner(Protocol):
    """The owner of a call: receives its replies."""

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """Take replies to this call; `first` is the number of the first of them, from 0."""

    def on_lost(self, call: ClientCall, now: float) -> None:
        """The connection broke, or no process listens: no more replies will come."""

    def on_late(self, call: ClientCall, replies: list[protocol.Reply]) -> None:
        """Take replies that the node gave after the client had gone, before it could know that."""


class Unattended:
    """An owner that makes calls without waiting for the answer."""

    def on_reply(self, call: ClientCall, first: int, replies: list[protocol.Reply], now: float) -> None:
        """See `CallOwner.on_reply`."""

    def on_lost(self, call: ClientCall, now: float) -> None:
        """See `CallOwner.on_lost`."""

    def on_late(self, call: ClientCall, replies: list[protocol.Reply]) -> None:
        """See `CallOwner.on_late`."""


class Caller(Protocol):
    """A client as the world sees it."""

    def hang_up(self) -> None:
        """The client closes its connection, whatever is in flight."""

    def rest(self) -> None:
        """Faults have ended: the client does what lets everything come to rest."""


class ClientCall:
    """One request in flight: the `slot` that a controller is handed."""

    __slots__ = ("answered", "host", "number", "open", "owed", "owner", "sent_at", "value")

    def __init__(self, owner: CallOwner, host: int, owed: int, now: float, value: object = None) -> None:
        self.owner, self.host, self.owed, self.value = owner, host, owed, value
        self.answered = 0
        self.open = True
        self.sent_at = now

    @staticmethod
    def is_open(slot: object) -> bool:
        """Return whether the client of this call still listens."""
        assert isinstance(slot, ClientCall)
        return slot.open

    def reply(self, data: bytes, count: int, now: float) -> None:
        """The node gives `count` of the replies that it owes; `data` has their frames."""
        replies = ReplyParser().feed(data)
        if len(replies) != count:
            raise Violation("Replies", f"{len(replies)} replies where {count} were announced")
        if self.answered + count > self.owed:
            raise Violation("Replies", f"{self.answered} + {count} replies to {self.owed} requests")
        first, self.answered = self.answered, self.answered + count
        if self.open:
            self.owner.on_reply(self, first, replies, now)
        else:
            self.owner.on_late(self, replies)
        self.open = self.open and self.answered < self.owed

    def lost(self, now: float) -> None:
        """The connection is gone."""
        if self.open:
            self.open = False
            self.owner.on_lost(self, now)


class PutAttempt:
    """One PUT and its outcome."""

    __slots__ = ("outcome", "payload", "reply")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.outcome = Outcome.PENDING
        self.reply = ""


def outcome_of(reason: str) -> Outcome:
    """Return what an error reply says about the entry.

    >>> outcome_of("unknown topic t: send REGISTER t first"), outcome_of("timeout: the outcome is unknown")
    (<Outcome.FAILED: 'failed'>, <Outcome.UNKNOWN: 'unknown'>)
    """
    kind = kind_of(reason)
    if kind is None:
        raise Violation("Replies", f"an error of no kind: {reason}")
    return Outcome.UNKNOWN if kind.done == "maybe" else Outcome.FAILED
