"""A snapshot of the metadata that a node takes over some topics at a time, while it goes on serving.

A node that is far behind is sent a snapshot in place of the log (`InstallSnapshot`). With 100,000 topics it
takes seconds to show each of them to the state machines of the node, during which it would answer nothing.
So the topics are taken in several turns, in the order of the snapshot, and then those that are gone:

    turn   of the snapshot of index 100            metadata                          applied
           (before)                                a, b, x as of 40                       40
    1      its members; then a                     a as of 100; b, x as of 40             40
    2      b, c                                    a, b, c as of 100; x as of 40          40
    3      x is not in it: dropped; all the rest   as of 100                             100

Each topic is of one index: the old one or that of the snapshot, which differ from topic to topic for as long
as this lasts. That is what the protocol allows: it knows a node's view of each topic by itself (`view[n][t]`
in `spec/Walrus.tla`), and a node acts on a Seal as soon as it knows of it. What refers to the metadata as a
whole is the index `applied`, and that moves once, with the last turn. Until then a ReadIndex beyond it is
not answered, no command is applied, and a Raft leader decides nothing (`RaftHost`).

**Members** of the snapshot are there from the beginning, since its topics name them. Those that are gone stay
until the end, since topics that are not taken yet may name them.

**Numbers only rise.** A topic that is gone gets its next number from the snapshot in the same step, so what
`is_gone` says of a segment stays so; and METRICS counts a failover until the snapshot counts it as forgotten.

Another snapshot that arrives meanwhile takes the place of this one, and finds some topics newer than
`applied`. The order of topics, and where the turns end, make no difference to the result.

Invariant: the metadata is that of the snapshot at its index (StateMachineSafety).
"""

from __future__ import annotations

from itertools import islice

import msgspec

from walrus.segments import (
    FIRST_VERSION,
    UNREADABLE,
    VERSION,
    Contents,
    Metadata,
    Segment,
    Topic,
    UnknownCommand,
    recoveries,
)

MAX_TAKEN = 500
"""How many topics one turn takes over."""

_frame_decoder = msgspec.msgpack.Decoder(Contents[list[msgspec.Raw]])
_topic_decoder = msgspec.msgpack.Decoder(tuple[str, Topic])


class Takeover:
    """The snapshot of everything up to `index`, on its way into `metadata`."""

    def __init__(self, index: int, data: bytes, metadata: Metadata) -> None:
        """Nothing is taken yet. Raises `UnknownCommand` if this version cannot read the snapshot."""
        self.index, self.whole = index, False
        self._frame = _decoded(data)
        self._coming = self._frame.topics[::-1]  # the next one last
        self._frame.topics.clear()
        self._next_numbers = dict(self._frame.tombstones)
        self._metadata = metadata
        self._left = dict.fromkeys(metadata.topics)
        """The topics that the snapshot has not named yet."""
        self._begun = False

    def go_on(self) -> list[str]:
        """Take the next topics, at first with the members. Return the topics that changed, sorted.

        Raises `UnknownCommand` if one is unreadable, or does not end in its one open segment.
        """
        return self._take(MAX_TAKEN)

    def finish(self) -> list[str]:
        """As `go_on`, with all the rest."""
        return self._take(len(self._coming) + len(self._left))

    def _take(self, most: int) -> list[str]:
        taken = [_topic(self._coming.pop()) for _ in range(min(most, len(self._coming)))]
        if not self._begun:
            self._begun = True
            self._metadata.admit(self._frame.nodes, only=False)
        for name, _ in taken:
            self._left.pop(name, None)
        changed = [name for name, topic in taken if self._put(name, topic)]
        if not self._coming:
            changed += self._drop(most - len(taken))
            self.whole = not self._left
        if self.whole:
            self._settle()
        return sorted(changed)

    def _put(self, name: str, topic: Topic) -> bool:
        """Replace a topic by its later state, or add it. Return whether anything of it is another now."""
        metadata = self._metadata
        known = metadata.topics.get(name)
        if known == topic:
            return False
        counted = min(recoveries(metadata.take_out(name)), recoveries(topic)) if known is not None else 0
        metadata.put_in(name, topic)
        metadata.failovers += recoveries(topic) - counted
        metadata.forgotten_failovers -= counted
        return True

    def _drop(self, most: int) -> list[str]:
        """Drop topics that the snapshot does not have."""
        gone = list(islice(self._left, most))
        for name in gone:
            del self._left[name]
            topic = self._metadata.take_out(name)
            self._metadata.tombstones[name] = self._next_numbers.get(name, self._frame.floor)
            assert self._metadata.is_gone(name, topic.current), "TrimmedStaysTrimmed: it may be again"
        return gone

    def _settle(self) -> None:
        """All topics are there: replace everything else, too."""
        metadata, frame = self._metadata, self._frame
        metadata.tombstones.clear()
        metadata.tombstones.update(self._next_numbers)
        metadata.floor = frame.floor
        metadata.failovers += frame.forgotten_failovers - metadata.forgotten_failovers
        metadata.forgotten_failovers = frame.forgotten_failovers
        metadata.admit(frame.nodes, only=True)


def restore(metadata: Metadata, data: bytes) -> None:
    """Replace metadata by a snapshot at once. Raises `UnknownCommand` if this version cannot read it."""
    Takeover(0, data, metadata).finish()


def _decoded(data: bytes) -> Contents[list[msgspec.Raw]]:
    try:
        frame = _frame_decoder.decode(data)
    except UNREADABLE as error:
        raise UnknownCommand(f"metadata snapshot that this node cannot read: {error}") from error
    if not FIRST_VERSION <= frame.version <= VERSION:
        raise UnknownCommand(f"metadata snapshot of version {frame.version}: upgrade this node")
    return frame


def _topic(encoded: msgspec.Raw) -> tuple[str, Topic]:
    try:
        name, topic = _topic_decoder.decode(encoded)
    except UNREADABLE as error:
        raise UnknownCommand(f"metadata snapshot that this node cannot read: {error}") from error
    if not _is_chain(topic.segments):
        raise UnknownCommand("metadata snapshot with a topic that does not end in its one open segment")
    return name, topic


def _is_chain(segments: list[Segment]) -> bool:
    """Whether all segments but the last are sealed. It returns, not asserts: a snapshot may be invalid."""
    return bool(segments) and not segments[-1].sealed and all(segment.sealed for segment in segments[:-1])
