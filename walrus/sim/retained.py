"""The judge's records of retention, deletion and re-registration: the invariants of `spec/Retention.tla`.

    TrimmedIsSealed      what a Trim drops was sealed
    TrimmedStaysTrimmed  what was dropped, by a Trim or with its topic, is never there again
    ProtectedUntilAcked  with protect_groups a Trim drops nothing that a group has not read
    SkippedIsCounted     what a group misses by a Trim is counted, no more and no less
    MarkInBounds         no group stands below the first entry there is
    OnlyWhatWasMeant     DELETE and REGISTER change the topic that they were meant for
    NoAckAfterDelete     no entry is acknowledged in a topic that was gone when it was sent
    NoFrameOfAnOldTopic  no reader is given an entry of a topic that was gone when it asked

Each node itself asserts that copies go with their segments (SpaceIsGivenBack, `replicas/trimming.py`).

The records are kept beside the metadata: the allowed effect of a command is computed from the state before
it, and from the counts with which segments were sealed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from walrus.commands import Command, DeleteTopic, MoveGroup, RegisterTopic, Seal, Trim
from walrus.replicas.copies import Key
from walrus.segments import Metadata, Position, Topic

Judged: TypeAlias = Trim | DeleteTopic | Seal | RegisterTopic | MoveGroup
"""The commands that can drop something, or move a group."""

Found = Iterator[tuple[str, str]]
"""(invariant, what is wrong)"""


class TopicBefore(msgspec.Struct, frozen=True):
    """The state of a topic before a command."""

    first: int
    current: int
    deleting: bool
    protected: bool
    unread: dict[str, int]
    """Group that GETs -> how many entries it has not read below the first segment that the command keeps."""
    skipped: dict[str, int]


class End(msgspec.Struct, frozen=True):
    """The end of a topic."""

    last: int
    """The number of its last segment."""
    at: float
    unheard: float
    """When its last writer has no lease any more: if others sealed the segment, it may answer readers until
    then, and acknowledges nothing."""


class RetentionRecords:
    """What was dropped, and which topics existed."""

    def __init__(self, sealed_as: Mapping[Key, int], lease: float = 0.0) -> None:
        self._sealed_as, self._lease = sealed_as, lease
        self._floor: dict[str, int] = {}
        """Topic -> lowest segment number that it may still have."""
        self._ends: dict[str, list[End]] = {}

    def before(self, command: Command, metadata: Metadata) -> TopicBefore | None:
        """Return the topic's state before the command is applied; None if there is no such topic."""
        if not isinstance(command, Judged):
            return None
        topic = metadata.topics.get(command.topic)
        if topic is None:
            return None
        kept = command.first if isinstance(command, Trim) else topic.first
        unread = {
            group: self._entries(command.topic, topic, position, kept)
            for group, position in topic.cursors.items()
        }
        protected = bool(topic.settings.get("protect_groups"))
        skipped = dict(topic.skipped)
        return TopicBefore(topic.first, topic.current, topic.deleting, protected, unread, skipped)

    def _entries(self, name: str, topic: Topic, position: Position, kept: int) -> int:
        """Return how many entries segments had from a group's position up to segment `kept`, as sealed."""
        numbers = range(max(position.segment, topic.first), min(kept, topic.current))
        total = sum(self._sealed_as.get((name, number), 0) for number in numbers)
        return max(0, total - (position.offset if position.segment in numbers else 0))

    def after(self, command: Command, before: TopicBefore | None, metadata: Metadata, now: float) -> Found:
        """Yield what is wrong with the effect of the command, by invariant."""
        if not isinstance(command, Judged):
            return
        name, topic = command.topic, metadata.topics.get(command.topic)
        if isinstance(command, Trim) and topic is not None and before is not None:
            yield from self._trimmed(name, topic, before)
        if before is not None and topic is None:
            if not isinstance(command, Seal) or not before.deleting:
                yield "NoAckAfterDelete", f"{name} goes with {command}, and its writer goes on"
            self._floor[name] = max(self._floor.get(name, 1), before.current + 1)
            leased = self._lease if isinstance(command, Seal) and command.recovered else 0.0
            self._ends.setdefault(name, []).append(End(before.current, now, now + leased))
        if topic is not None:
            registered = isinstance(command, RegisterTopic) and command.number == topic.born
            if before is None and not registered:
                yield "OnlyWhatWasMeant", f"{name} is registered by {command}, born {topic.born}"
            marked = topic.deleting and not (before is not None and before.deleting)
            if marked and not (isinstance(command, DeleteTopic) and command.born == topic.born):
                yield "OnlyWhatWasMeant", f"{name}, born {topic.born}, is to be deleted by {command}"
            if topic.first < self._floor.get(name, 1):
                yield "TrimmedStaysTrimmed", f"{name} begins at {topic.first}, not {self._floor[name]}"
            places = [*topic.cursors.items(), *((group, done.low) for group, done in topic.groups.items())]
            for group, place in places:
                if place < topic.begin:
                    yield "MarkInBounds", f"{name} begins at {topic.begin}, {group!r} is at {place}"

    def _trimmed(self, name: str, topic: Topic, before: TopicBefore) -> Found:
        if topic.first == before.first:
            return
        self._floor[name] = max(self._floor.get(name, 1), topic.first)
        if topic.first < before.first:
            yield "TrimmedStaysTrimmed", f"{name} began at {before.first}, and begins at {topic.first}"
        for number in range(before.first, topic.first):
            if (name, number) not in self._sealed_as:
                yield "TrimmedIsSealed", f"{name}/{number} is dropped, and was open"
        for group, unread in before.unread.items():
            missed = topic.skipped.get(group, 0) - before.skipped.get(group, 0)
            if missed != unread:
                yield "SkippedIsCounted", f"{name}, {group!r}: {unread} are missed, {missed} are counted"
            if before.protected and unread:
                yield "ProtectedUntilAcked", f"{name}, {group!r} misses {unread} entries of {before}"

    def given(self, name: str, number: int, asked: float) -> Found:
        """Yield what is wrong with giving a reader an entry of this segment, requested at time `asked`."""
        if any(number <= end.last and end.unheard <= asked for end in self._ends.get(name, ())):
            yield "NoFrameOfAnOldTopic", f"an entry of {name}/{number} is given, of a topic that was gone"

    def acknowledged(self, name: str, number: int, asked: float) -> Found:
        """Yield what is wrong with acknowledging an entry in this segment that was sent at time `asked`."""
        if any(number <= end.last and end.at <= asked for end in self._ends.get(name, ())):
            yield "NoAckAfterDelete", f"an entry in {name}/{number} is acknowledged, in a topic that was gone"
