"""Reading segments that live on other nodes, and answering other nodes' reads.

A sealed segment is immutable, so any copy that is long enough answers for it. Of an open segment only
its leader knows how far entries are acknowledged, so only the leader answers, and only up to there.
`raw` reads a copy as it is, acknowledged or not: that is for recovery and repair alone.

Invariant: no entry at or beyond the sealed count, and none that is not acknowledged, is ever given to a
reader that is not `raw` (CursorInBounds and DeliveredIsPrefix rest on it).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec

from walrus.config import NodeConfig
from walrus.replicas.copies import Copies
from walrus.segments import Metadata
from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import CorruptionError, StorageError
from walrus.wire.effects import Outbox
from walrus.wire.messages import Read, ReadReply

Answer: TypeAlias = Callable[[Batch, str, float], None]
"""Called once with the entries and an error ("" if none), and the time."""

CommitIndex: TypeAlias = Callable[[str, int], int | None]
"""How far an open segment is acknowledged, if this node is its writer."""

TIMED_OUT = "no answer"

MAX_DAMAGED = 1_000
"""Damaged entries stepped over at once."""


class _Asked(msgspec.Struct):
    node: int
    deadline: float
    answer: Answer


class Reads:
    """Both ends of `Read`: what this node asked of others, and what others ask of it."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        copies: Copies,
        metadata: Metadata,
        outbox: Outbox,
        commit_index: CommitIndex,
        first_request: int,
    ) -> None:
        self._config, self._copies, self._metadata, self._outbox = config, copies, metadata, outbox
        self._commit_index = commit_index
        self._request = first_request
        self._asked: dict[int, _Asked] = {}

    def end(self, topic: str, number: int) -> int:
        """How many entries of the segment readers may see, wherever they are, as far as this node knows."""
        segment = self._metadata.segment(topic, number)
        if segment is None:
            return 0
        return segment.count if segment.count is not None else self._commit_index(topic, number) or 0

    def readable(self, topic: str, number: int) -> int:
        """How many entries of the segment this node may give to readers from its own copy."""
        segment = self._metadata.segment(topic, number)
        if segment is None:
            return 0
        if segment.count is not None:
            return min(segment.count, self._copies.get((topic, number)).length)
        return self._commit_index(topic, number) or 0

    def leads(self, topic: str, number: int) -> bool:
        """Whether this node is the writer of that open segment, and so knows how far it goes."""
        return self._commit_index(topic, number) is not None

    def read_local(self, topic: str, number: int, start: int, max_entries: int, max_bytes: int) -> Batch:
        """Entries from our own copy, only what readers may see. Raises CorruptionError."""
        copy = self._copies.get((topic, number))
        return self._copies.read(copy, start, self.readable(topic, number), max_entries, max_bytes)

    def holders(self, topic: str, number: int, connected: Collection[int]) -> list[int]:
        """Connected nodes that can answer for the segment, the likeliest first."""
        segment = self._metadata.segment(topic, number)
        if segment is None:
            return []
        others = [node for node in segment.replicas if node in connected]
        return others if segment.sealed else [node for node in others if node == segment.leader]

    def gap_end(self, topic: str, number: int, start: int) -> int:
        """Up to where this node's copy certainly lacks entries from `start` on; `start` if it has that one.

        The copy ends before the sealed count, or what is there is damaged.
        """
        segment, copy = self._metadata.segment(topic, number), self._copies.get((topic, number))
        if segment is not None and segment.count is not None and copy.length <= start < segment.count:
            return segment.count
        end = start
        while end < min(copy.length, start + MAX_DAMAGED):
            try:
                self._copies.read(copy, end, copy.length, 1, 1)
            except CorruptionError:
                end += 1
            else:
                break
        return end

    def ask(
        self,
        node: int,
        topic: str,
        number: int,
        start: int,
        *,
        entries: int,
        raw: bool,
        now: float,
        then: Answer,
    ) -> None:
        """Read from another node; `then` is called exactly once."""
        self._request += 1
        self._asked[self._request] = _Asked(node, now + self._config.request_timeout / 2, then)
        message = Read(
            request=self._request,
            topic=topic,
            segment=number,
            start=start,
            max_entries=entries,
            max_bytes=self._config.read_bytes,
            raw=raw,
        )
        self._outbox.send(node, message)

    def on_reply(self, sender: int, reply: ReadReply, now: float) -> None:
        """The answer to `ask`."""
        asked = self._asked.get(reply.request)
        if asked is not None and asked.node == sender:
            del self._asked[reply.request]
            asked.answer(reply.batch, reply.error, now)

    def on_disconnected(self, node: int, now: float) -> None:
        """No answers will come from there."""
        self._fail([number for number, asked in self._asked.items() if asked.node == node], now)

    def on_tick(self, now: float) -> None:
        """Give up on answers that are late."""
        self._fail([number for number, asked in self._asked.items() if asked.deadline <= now], now)

    def _fail(self, numbers: list[int], now: float) -> None:
        for number in numbers:
            self._asked.pop(number).answer(EMPTY, TIMED_OUT, now)

    def on_read(self, sender: int, read: Read) -> None:
        """Answer another node."""
        batch, error = EMPTY, ""
        entries, size = max(read.max_entries, 1), min(read.max_bytes, 4 * self._config.read_bytes)
        try:
            if read.raw:
                copy = self._copies.get((read.topic, read.segment))
                batch = self._copies.read(copy, read.start, copy.length, entries, size)
            elif self._may_answer(read):
                batch = self.read_local(read.topic, read.segment, read.start, entries, size)
            else:
                error = f"node {self._config.node_id} does not hold that part of the segment"
        except StorageError as damage:
            error = str(damage)
        self._outbox.send(sender, ReadReply(request=read.request, batch=batch, error=error))

    def _may_answer(self, read: Read) -> bool:
        segment = self._metadata.segment(read.topic, read.segment)
        if segment is None:
            return False
        if segment.count is None:
            return self._commit_index(read.topic, read.segment) is not None
        whole = self._copies.get((read.topic, read.segment)).length >= segment.count
        return whole or read.start < self.readable(read.topic, read.segment)
