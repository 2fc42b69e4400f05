"""Reclaiming the space of segments that are no longer retained: trimmed, or deleted with their topic.

The metadata decides what is retained (`segments.py`); a replica drops its copies when it applies the
decision. Nothing waits for that or asks for it again: a copy that outlives its segment is found at the next
start, when the metadata is restored from a snapshot, or by the tick that follows a full disk.

A frame that was in flight when its segment was dropped finds no segment in the metadata, and is not taken
(`replica.py`). Numbers are never reused, so it never will.

Invariant (as in `spec/Retention.tla`): SpaceIsGivenBack, once the disk has room to write that down.
"""

from __future__ import annotations

from collections.abc import Callable

from walrus.replicas.copies import Copies, Key
from walrus.segments import Metadata


class Trimming:
    """Drops this node's copies of segments that are gone."""

    def __init__(self, *, metadata: Metadata, copies: Copies, on_gone: Callable[[Key], None]) -> None:
        """`on_gone`: called before a copy is dropped, so that nothing writes to it any more."""
        self._metadata, self._copies, self._on_gone = metadata, copies, on_gone
        self._first: dict[str, int] = {}
        """For each topic, the segment number below which its copies were dropped."""
        self._left: dict[Key, None] = {}
        """Copies that could not be dropped, since the disk is full."""
        self.entries = 0
        """How many entries of dropped copies there were since this start."""

    def on_topic(self, topic: str) -> None:
        """The topic's metadata changed: its first segment may be another, or the topic may be gone."""
        known = self._metadata.topics.get(topic)
        first = known.first if known is not None else self._metadata.next_number(topic)
        before = self._first.get(topic, 1)
        assert first >= before, "TrimmedIsSealed: what was trimmed is there again"
        if first > before:
            numbers = range(before, first)
            keys = self._copies.known() if len(numbers) > 1_000 else [(topic, number) for number in numbers]
            for key in keys:
                if key[0] == topic and key[1] < first:
                    self._drop(key)
        if known is not None:
            self._first[topic] = first
        else:
            self._first.pop(topic, None)

    def on_snapshot(self) -> None:
        """The metadata was replaced by a snapshot: drop every copy that is gone by now."""
        for key in self._copies.known():
            if self._metadata.is_gone(*key):
                self._drop(key)
        for topic in [topic for topic in self._first if topic not in self._metadata.topics]:
            del self._first[topic]

    def _drop(self, key: Key) -> None:
        assert self._metadata.is_gone(*key), f"TrimmedIsSealed: {key} is retained"
        self._on_gone(key)
        held = self._copies.entries
        if self._copies.drop(key):
            self._left.pop(key, None)
            assert self._copies.entries <= held, "SpaceIsGivenBack: there is more after than before"
            self.entries += held - self._copies.entries
        else:
            self._left[key] = None

    def on_tick(self) -> None:
        """Try again to drop copies that could not be dropped on a full disk."""
        for key in list(self._left):
            self._drop(key)

    def check_invariants(self) -> None:
        """Assert that no copy outlives its segment, except those that a full disk keeps."""
        for topic, number in self._copies.known():
            gone = self._metadata.is_gone(topic, number) and (topic, number) not in self._left
            assert not gone, f"SpaceIsGivenBack: a copy of {topic}/{number} is left"
        assert all(self._metadata.is_gone(*key) for key in self._left), "TrimmedIsSealed: it would be dropped"
