"""Effects: what the logic asks of the world, and the outbox in which one turn collects it.

All state machines of a node share one `Outbox`. An effect takes place once the shell, or the simulator, has
taken it from there at the end of the turn (`shell/turn.py`).

Invariants: effects are carried out in the order in which they were added; a message of a node to itself is
no effect, but waits in `local` until the node has handled it, in the same turn.
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
    """Give the client behind `slot` these wire bytes, which are `count` of the replies that it is owed."""

    slot: object
    data: bytes
    count: int


class Peers(msgspec.Struct, frozen=True):
    """The nodes to stay connected to: by id, the address (host:port) at which each listens."""

    addresses: dict[int, str]


class Halt(msgspec.Struct, frozen=True):
    """This node must not continue: log the reason and exit with this status."""

    reason: str
    exit_status: int


class LogLine(msgspec.Struct, frozen=True):
    """A line for the operator."""

    text: str


Effect: TypeAlias = Send | Reply | Peers | Halt | LogLine


class Trace(Protocol):
    """Records one event of the specification: the name of its action, and the values that matter."""

    def __call__(self, event: str, /, **values: object) -> None: ...


def no_trace(event: str, /, **values: object) -> None:
    """The trace of a node that records nothing."""


class OwnSlot(msgspec.Struct):
    """Collects the replies to requests that the node makes of itself, as a client: see `dead_letters.py`."""

    replies: list[bytes] = []


def or_own(is_open: Callable[[object], bool]) -> Callable[[object], bool]:
    """`is_open`, extended to the node's own slots, which are always open."""
    return lambda slot: isinstance(slot, OwnSlot) or is_open(slot)


class Outbox:
    """The effects of the current turn, in order, and the messages of the node to itself."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.local: deque[PeerMessage] = deque()
        self.halted = False
        """Whether the node was told to stop; the logic does nothing from then on."""
        self._effects: list[Effect] = []

    def send(self, to: int, message: PeerMessage) -> None:
        """Send a message to a node; one to this node is handled before the turn ends."""
        if to == self.node_id:
            self.local.append(message)
        else:
            self._effects.append(Send(to, message))

    def reply(self, slot: object, data: bytes, count: int = 1) -> None:
        """Answer a client, or this node itself (`OwnSlot`)."""
        if isinstance(slot, OwnSlot):
            slot.replies.append(data)
        else:
            self._effects.append(Reply(slot, data, count))

    def peers(self, addresses: dict[int, str]) -> None:
        """Change the set of nodes to be connected to; the last call of a turn counts."""
        self._effects = [effect for effect in self._effects if not isinstance(effect, Peers)]
        self._effects.append(Peers(addresses))

    def halt(self, reason: str, exit_status: int = 1) -> None:
        """Stop the node with this exit status."""
        self.halted = True
        self._effects.append(Halt(reason, exit_status))

    def log(self, text: str) -> None:
        """Log a line for the operator."""
        self._effects.append(LogLine(text))

    def take(self) -> list[Effect]:
        """Return the effects collected since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects


Then: TypeAlias = Callable[[], None]
"""A continuation: what to do once a write is durable."""
