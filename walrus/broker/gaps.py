"""Entries that no replica has any more, and where readers may continue after them.

A sealed count can promise more than the disks hold. With `--fsync none` or an interval, power may fail on
all replicas before the entries of a segment are synced: a documented loss (`docs/durability.md`). Or the
same entry is damaged on every replica. A cursor in front of such entries would wait for them for ever.

It skips them once they are certainly lost, which takes the word of every replica that is still a member:

    cursor's node ── FindGap(start) ──► each replica    my copy ends before `start`, or is damaged there:
                  ◄───── Gap(end) ─────                 up to `end`, which is `start` if the entry is there

Why that is certain: a replica's copy shrinks only by a power loss, and grows only from another replica of
the same segment. If none of a replica set has the entry, no later set can have it. A node that by its own
metadata is not a replica does not answer, because it may have deleted its copy after passing it on. A
replica that does not answer may have the entry: then the cursor waits, and clients are told so.

Invariant: no cursor moves past an entry that any replica could still give.

Left out: restoring the entries. A removed node's disk, or a backup, may have them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from walrus.config import NodeConfig
from walrus.replicas.reads import Reads
from walrus.segments import Metadata
from walrus.wire.effects import Outbox
from walrus.wire.messages import FindGap, Gap

Place: TypeAlias = tuple[str, int, int]
"""(topic, segment, offset)"""

MAX_PLACES = 1_000
"""The most places that are inquired about at a time; the oldest makes room."""


class Inquiry:
    """The answers of replicas about one place, and when they are asked again."""

    __slots__ = ("ask_at", "ends", "forget_at")

    def __init__(self, now: float) -> None:
        self.ask_at = self.forget_at = now
        self.ends: dict[int, tuple[int, float]] = {}  # replica -> (end of its gap, valid until)


class Gaps:
    """Inquiries about entries that could not be read."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        reads: Reads,
        outbox: Outbox,
        connected: Collection[int],
    ) -> None:
        self._config, self._metadata, self._reads, self._outbox = config, metadata, reads, outbox
        self._connected = connected
        self._inquiries: dict[Place, Inquiry] = {}

    def end(self, place: Place, now: float) -> int:
        """Return the offset after the entries certainly lost from `place` on; that of `place` if none is.

        Asks the replicas that have not answered yet; the caller looks again when one has, or at a tick.
        """
        topic, number, start = place
        segment = self._metadata.segment(topic, number)
        if segment is None:  # trimmed meanwhile: its readers have moved on already
            return start
        inquiry = self._inquiries.get(place)
        ends = {node: end for node, (end, until) in inquiry.ends.items() if until > now} if inquiry else {}
        members = [node for node in segment.replicas if node in self._metadata.nodes]
        if self._config.node_id in members:
            ends[self._config.node_id] = self._reads.gap_end(topic, number, start)
        if start in ends.values():
            return start
        silent = [node for node in members if node not in ends]
        if silent:
            self._ask(place, silent, now)
            return start
        return min((ends[node] for node in members), default=segment.count or start)

    def _ask(self, place: Place, nodes: list[int], now: float) -> None:
        inquiry = self._inquiries.setdefault(place, Inquiry(now))
        inquiry.forget_at = now + self._config.request_timeout
        if now >= inquiry.ask_at:
            inquiry.ask_at = now + self._config.resend_interval
            for node in nodes:
                if node in self._connected:
                    self._outbox.send(node, FindGap(topic=place[0], segment=place[1], start=place[2]))
        if len(self._inquiries) > MAX_PLACES:
            del self._inquiries[next(iter(self._inquiries))]

    def on_find(self, sender: int, message: FindGap) -> None:
        """Answer another node about this node's copy, if this node is a replica of the segment."""
        segment = self._metadata.segment(message.topic, message.segment)
        if segment is not None and self._config.node_id in segment.replicas:
            end = self._reads.gap_end(message.topic, message.segment, message.start)
            self._outbox.send(
                sender, Gap(topic=message.topic, segment=message.segment, start=message.start, end=end)
            )

    def on_gap(self, sender: int, message: Gap, now: float) -> None:
        """Take a replica's answer. It expires, since the replica may get the entries from another one."""
        inquiry = self._inquiries.get((message.topic, message.segment, message.start))
        if inquiry is not None:
            inquiry.ends[sender] = message.end, now + self._config.request_timeout

    def on_tick(self, now: float) -> None:
        """Forget inquiries that no reader needs any more."""
        for place in [place for place, inquiry in self._inquiries.items() if inquiry.forget_at <= now]:
            del self._inquiries[place]
