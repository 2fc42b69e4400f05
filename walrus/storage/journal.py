"""The engine's notes to itself: cursors, trims, deletions, and how far each topic is known to be on disk.

They are entries of an ordinary topic (number 0, without a name), in ordinary records and blocks, so one
fsync covers them together with the data, and the same code recovers them. Folding the notes from first to
last gives the state; when a block is full, the next one begins with the whole state and the old ones are
released.

    note = "S"                                                                    the whole state follows
         | "O" boot:16 flags:u8                                                   a run began to write
         | "T" topic:u64 first:u64 cursor:u64 durable:u64 place:u32               the state of a topic
         | "D" topic:u64                                                          the topic was deleted

Folded from the first to the last, for a topic that is written, trimmed and deleted:

    S                                     nothing is known
    O b1 syncing                          the machine's boot b1 writes, and waits for its syncs
    T 7 first=0  cursor=0  durable=100    topic 7 certainly has 100 entries, perhaps more
    T 7 first=40 cursor=60 durable=150    the same topic: a later note replaces an earlier one
    D 7                                   no topic 7; any block of it that is still found is released

`durable` is an index below which every entry is certainly on disk, and `place` the offset just after entry
`durable - 1` within its block. Recovery need not examine anything before it, and knows that an unreadable
record there is damage and not a torn write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from threading import RLock

import msgspec

from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import EngineReentered, FormatError
from walrus.storage.log import Log, Owner
from walrus.storage.space import Extent

_RUN = struct.Struct("<c16sB")
_TOPIC = struct.Struct("<cQQQQI")
_DELETED = struct.Struct("<cQ")
_SYNCING = 1
STATE = b"S"
_LENGTHS = {b"O": _RUN.size, b"T": _TOPIC.size, b"D": _DELETED.size}


class TopicNote(msgspec.Struct, frozen=True):
    """What the journal knows of a topic."""

    first: int = 0
    cursor: int = 0
    durable: int = 0
    place: int = 0


class RunNote(msgspec.Struct, frozen=True):
    """The run that wrote last."""

    boot: bytes = b""
    syncing: bool = False  # whether a caller ever waited for the disk in that run


class Notes:
    """The fold of all notes."""

    def __init__(self) -> None:
        self.run = RunNote()
        self.topics: dict[int, TopicNote] = {}
        self.deleted: set[int] = set()

    def take(self, note: bytes) -> None:
        """Fold in the next note; one of a kind that is not known is none of ours, the format says so.

        A note of a known kind and another length is of a format that is not known: it may say what must not
        be missed, so it is a `FormatError`.
        """
        kind = note[:1]
        if len(note) != _LENGTHS.get(kind, len(note)):
            raise FormatError(
                f"a note {kind!r} of {len(note)} bytes: open this with the release that wrote it"
            )
        if kind == STATE:
            self.topics.clear()
            self.deleted.clear()
        elif kind == b"T":
            _, topic_id, first, cursor, durable, place = _TOPIC.unpack(note)
            self.topics[topic_id] = TopicNote(first, cursor, durable, place)
        elif kind == b"D":
            self.deleted.add(_DELETED.unpack(note)[1])
            self.topics.pop(_DELETED.unpack(note)[1], None)
        elif kind == b"O":
            _, boot, flags = _RUN.unpack(note)
            self.run = RunNote(boot, bool(flags & _SYNCING))


def topic_note(topic_id: int, note: TopicNote) -> bytes:
    """The bytes of a "T" note."""
    return _TOPIC.pack(b"T", topic_id, note.first, note.cursor, note.durable, note.place)


def deleted_note(topic_id: int) -> bytes:
    """The bytes of a "D" note."""
    return _DELETED.pack(b"D", topic_id)


def run_note(note: RunNote) -> bytes:
    """The bytes of an "O" note."""
    return _RUN.pack(b"O", note.boot.ljust(16, b"\0")[:16], _SYNCING * note.syncing)


class Journal:
    """Writes notes, and rewrites the state when a block is full."""

    def __init__(
        self,
        log: Log,
        state: Callable[[], Iterable[bytes]],
        retire: Callable[[list[Extent]], None],
    ) -> None:
        self.log = log
        self.lock = RLock()
        self._beginning = False  # a block that lacks the state
        self._state = state  # the notes that say everything there is to know now
        self._retire = retire

    @classmethod
    def topic(cls, owner: Owner) -> Log:
        """The log that the notes go to."""
        return Log(owner, "", topic_id=0)

    def rewrite(self) -> None:
        """Begin a new block with the whole state: the old ones were damaged.

        Folding goes on behind a damaged note, so one that came before it and was replaced by it may count
        again; the next open would judge by it.
        """
        with self.lock:
            self._begin_block(EMPTY)

    def add(self, notes: list[bytes]) -> None:
        """Append notes, which take effect together or not at all."""
        batch = Batch.of(notes)
        if self._beginning and self.lock._is_owned():  # type: ignore[attr-defined]
            raise EngineReentered  # a block begins with the state, and with nothing before it
        with self.lock:
            if not self._fits(batch):
                self._begin_block(batch)
            self.log.append_batch(batch)

    def _fits(self, batch: Batch) -> bool:
        self.log.make_room(0)  # awake
        with self.log.lock:
            return self.log.offset + batch.size + 4 * batch.count + 64 <= self.log.limit

    def _begin_block(self, batch: Batch) -> None:
        """Roll over to a block that begins with the state and has at least as much room again."""
        self._beginning = True
        try:
            self._begin(batch)
        finally:
            self._beginning = False

    def _begin(self, batch: Batch) -> None:
        state = Batch.of(list(self._state()))
        wanted = 4 * (state.size + 4 * state.count) + 2 * (batch.size + 4 * batch.count) + (60 << 10)
        self.log.make_room(wanted, new_block=True)
        if state.count:
            self.log.append_batch(state)
        self._retire(self.log.drop_blocks(self.log.base))
