"""What the logic asks of the world: the effects, and the outbox in which one turn collects them.

Every state machine of a node is handed the same `Outbox`. Nothing in it happens until the shell (or
the simulator) takes the effects and carries them out, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from walrus.wire.messages import PeerMessage


class Send(msgspec.Struct, frozen=True):
    """Send a message to a node. It may be lost, delayed, or arrive twice."""

    to: int
    message: PeerMessage


class Reply(msgspec.Struct, frozen=True):
    """Give the client behind `slot` these wire bytes, which are `count` of the replies it is owed."""

    slot: object
    data: bytes
    count: int


class Peers(msgspec.Struct, frozen=True):
    """The nodes to stay connected to, by id, and where they listen (host:port)."""

    addresses: dict[int, str]


class Halt(msgspec.Struct, frozen=True):
    """This node must not go on: say why and exit with this status."""

    reason: str
    exit_status: int


class LogLine(msgspec.Struct, frozen=True):
    """Something that the operator should read."""

    text: str


Effect: TypeAlias = Send | Reply | Peers | Halt | LogLine


class Trace(Protocol):
    """Records one spec-level event: its action's name and the values that matter."""

    def __call__(self, event: str, /, **values: object) -> None: ...


def no_trace(event: str, /, **values: object) -> None:
    """The trace of a node that records nothing."""


class OwnSlot(msgspec.Struct):
    """Where the node finds the answers to what it asks itself, as a client would: see `dead_letters.py`."""

    replies: list[bytes] = []


def or_own(is_open: Callable[[object], bool]) -> Callable[[object], bool]:
    """Whether the client behind a slot is still there; the node itself is."""
    return lambda slot: isinstance(slot, OwnSlot) or is_open(slot)


class Outbox:
    """Effects of the current turn, in order; messages of a node to itself never leave it."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.local: deque[PeerMessage] = deque()
        self.halted = False
        """Whether the node was told to stop: the logic does nothing more."""
        self._effects: list[Effect] = []

    def send(self, to: int, message: PeerMessage) -> None:
        """Send to a node; a message to ourselves is handled before the turn ends."""
        if to == self.node_id:
            self.local.append(message)
        else:
            self._effects.append(Send(to, message))

    def reply(self, slot: object, data: bytes, count: int = 1) -> None:
        """Answer a client, or this node itself."""
        if isinstance(slot, OwnSlot):
            slot.replies.append(data)
        else:
            self._effects.append(Reply(slot, data, count))

    def peers(self, addresses: dict[int, str]) -> None:
        """Change the set of nodes to be connected to; of several in one turn only the last counts."""
        self._effects = [effect for effect in self._effects if not isinstance(effect, Peers)]
        self._effects.append(Peers(addresses))

    def halt(self, reason: str, exit_status: int = 1) -> None:
        """Stop the node."""
        self.halted = True
        self._effects.append(Halt(reason, exit_status))

    def log(self, text: str) -> None:
        """Tell the operator."""
        self._effects.append(LogLine(text))

    def take(self) -> list[Effect]:
        """Everything collected since the last call."""
        effects, self._effects = self._effects, []
        return effects


Then: TypeAlias = Callable[[], None]
"""What to do once something is durable."""
