"""Dead letters: an entry that was handed out too often goes to a topic of its own, and counts as done.

A topic may limit how often an entry is handed out (`max_deliveries`). An entry that comes back after that
is not handed out again: its owner appends it to the topic `<topic>.dead`, which is registered on first
need, and then acknowledges it for the group. The order matters: if an owner dies in between, the entry is
in the dead-letter topic and still in the queue, and the next owner appends it once more. It may be there
twice, but is never lost (`spec/Delivery.tla`: AppendDead, NoteDead).

    spent ──PUT──► OK ──► noted, and committed with what consumers acknowledge
            │ unknown topic: REGISTER, then PUT again
            │ anything else: PUT again after a while

The node sends the PUT to itself, along the path of clients' requests, so that it is kept like any other.
The entries that wait here are bounded by the windows of the groups, because an entry on its way counts as
out.

Invariant (as in `spec/Delivery.tla`): NothingSkipped (no entry is done before it is in that topic).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from walrus import protocol
from walrus.acknowledged import Position
from walrus.config import NodeConfig
from walrus.protocol import MAX_NAME_BYTES, Put, Register, Request
from walrus.storage.batch import Batch
from walrus.wire.effects import OwnSlot

SUFFIX = ".dead"

Place: TypeAlias = tuple[str, str, Position]
"""(topic, group, entry)"""


def dead_letter_topic(topic: str) -> str | None:
    """Return the name of a topic's dead-letter topic; None if it is one itself, or its name is too long.

    >>> dead_letter_topic("jobs"), dead_letter_topic("jobs.dead")
    ('jobs.dead', None)
    """
    name = topic + SUFFIX
    return None if topic.endswith(SUFFIX) or len(name.encode()) > MAX_NAME_BYTES else name


class Letter(msgspec.Struct):
    """A dead letter that is being appended: the node's request to itself, and when it is due again."""

    payload: bytes
    slot: OwnSlot | None = None
    registering: bool = False
    again_at: float = 0.0


class DeadLetters:
    """Entries that this node, as the owner of their group, appends to dead-letter topics."""

    def __init__(
        self,
        config: NodeConfig,
        request: Callable[[object, Request, float], None],
        on_appended: Callable[[Place, float], None],
    ) -> None:
        """`on_appended`: called when the entry is in the dead-letter topic and may be marked as done."""
        self._config, self._request, self._on_appended = config, request, on_appended
        self._letters: dict[Place, Letter] = {}

    @property
    def busy(self) -> bool:
        """Whether any dead letter is being appended."""
        return bool(self._letters)

    def append(self, place: Place, payload: bytes, now: float) -> None:
        """Begin to append an entry that has had its deliveries."""
        assert dead_letter_topic(place[0]) is not None, f"{place[0]} has no dead-letter topic"
        self._letters.setdefault(place, Letter(payload))
        self.flush(now)

    def forget(self, topic: str, group: str) -> None:
        """This node does not own the group any more, or the group was moved (SEEK)."""
        for place in [place for place in self._letters if place[:2] == (topic, group)]:
            del self._letters[place]

    def due(self, now: float) -> bool:
        """Whether `flush` would make progress now."""
        return bool(self._letters) and any(
            letter.again_at <= now if letter.slot is None else letter.slot.replies
            for letter in self._letters.values()
        )

    def flush(self, now: float) -> None:
        """Process the replies, and send requests that are due."""
        for place, letter in list(self._letters.items()):
            if letter.slot is not None and letter.slot.replies:
                self._answered(place, letter, letter.slot.replies[0], now)
            if letter.slot is None and letter.again_at <= now and place in self._letters:
                self._ask(place, letter, now)

    def _answered(self, place: Place, letter: Letter, reply: bytes, now: float) -> None:
        letter.slot = None
        done = reply == protocol.OK
        if done and not letter.registering:
            del self._letters[place]
            self._on_appended(place, now)
            return
        unknown = reply.startswith(b"ERR unknown topic", protocol.HEADER_BYTES)
        letter.registering = unknown and not letter.registering
        if not (done or letter.registering):
            letter.again_at = now + self._config.resend_interval

    def _ask(self, place: Place, letter: Letter, now: float) -> None:
        name = dead_letter_topic(place[0])
        assert name is not None
        letter.slot = OwnSlot()
        request = Register(name) if letter.registering else Put(name, Batch.of((letter.payload,)))
        self._request(letter.slot, request, now)
