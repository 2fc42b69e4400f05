"""Retention: which sealed segments are dropped, by a topic's settings. The Raft leader's duty.

    retain_entries    the oldest segments are dropped while the ones after them have that many entries
    retain_bytes      the same in bytes
    retain_seconds    a segment is dropped that long after it was sealed

Each limit applies independently: a segment that any of them drops is dropped. Only whole segments are
dropped, and never the open one: a topic keeps at least what its limits say, and up to a segment more. The
open segment counts for entries and bytes only once it is sealed, because its count is not in the metadata
before that.

Size and time come with the Seal (`Segment.size`, `sealed_ms`), from the node that sealed. A segment without
them was sealed before retention was set. Segments are sealed in order, so a segment before one that is old
enough is old enough, too; a segment of unknown size (a recovery does not know it) counts as empty.

A topic with a new segment or changed settings is examined at the next tick. All other topics with a limit
are examined every `monitor_check` seconds, for segments age and groups read on; a new Raft leader examines
every topic once, to learn which these are. One tick examines `MAX_LOOKED` of either, so with more than some
100,000 topics a round takes longer (`rota.py`).

Nothing here is needed for safety: whatever this module proposes, `Metadata` drops only sealed segments, and
none that is protected for a group. Wall clocks decide when, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from walrus.config import NodeConfig
from walrus.rota import Rota
from walrus.segments import Command, Metadata, Topic, Trim

MAX_LOOKED = 1_000
"""How many changed topics one tick examines, and how many of those whose turn it is."""


def first_retained(topic: Topic, config: NodeConfig, unix_ms: float) -> int:
    """Return the number of the first segment that the topic's settings keep."""
    entries, size, seconds = (
        config.setting(name, topic.settings) for name in ("retain_entries", "retain_bytes", "retain_seconds")
    )
    first, behind, behind_bytes = topic.current, 0, 0
    oldest_ms = unix_ms - seconds * 1000
    while first > topic.first:
        before = topic.segment(first - 1)
        assert before is not None and before.count is not None, "TrimmedIsSealed: an open segment would go"
        enough = (entries and behind >= entries) or (size and behind_bytes >= size)
        too_old = seconds and 0 < before.sealed_ms <= oldest_ms
        if enough or too_old:
            break
        behind, behind_bytes, first = behind + before.count, behind_bytes + before.size, first - 1
    return first


class Retention:
    """Proposes to drop segments. It acts only on the Raft leader."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        propose: Callable[[Command, float], None],
        unix_time: Callable[[], float],
    ) -> None:
        self._config, self._metadata, self._propose, self._unix_time = config, metadata, propose, unix_time
        self._changed: dict[str, None] = {}
        """Topics with a new segment or changed settings since they were examined."""
        self._retaining: dict[str, None] = {}
        """Topics with a limit, which are examined again and again."""
        self._looks: Rota[str] = Rota()
        self._looked_at_all = False
        self._look_at = float("-inf")
        """When the next round begins."""

    def on_topic(self, topic: str) -> None:
        """The topic has a new segment, or changed settings."""
        self._changed[topic] = None

    def on_tick(self, now: float) -> None:
        """On the Raft leader: examine topics that have changed, or whose turn it is, and propose Trims."""
        looked = dict.fromkeys(islice(self._changed, MAX_LOOKED))
        for name in looked:
            del self._changed[name]
        if not self._looks.over or now >= self._look_at:
            if self._looks.over:
                self._look_at = now + self._config.monitor_check
            looked |= dict.fromkeys(self._looks.share(MAX_LOOKED, self._everything))
        for name in looked:
            self._look(name, now)

    def _everything(self) -> Iterable[str]:
        """Return the topics of a round: all in the first one, which finds those with a limit."""
        first, self._looked_at_all = not self._looked_at_all, True
        return self._metadata.topics if first else self._retaining

    def _look(self, name: str, now: float) -> None:
        topic = self._metadata.topics.get(name)
        if topic is None or not self._config.retains(topic.settings):
            self._retaining.pop(name, None)
            return
        self._retaining[name] = None
        if len(topic.segments) == 1:
            return
        first = self._unprotected(topic, first_retained(topic, self._config, self._unix_time() * 1000))
        if first > topic.first:
            self._propose(Trim(topic=name, old=topic.first, first=first), now)

    def _unprotected(self, topic: Topic, first: int) -> int:
        """With protect_groups, keep what a group has not read. `Metadata` checks it again."""
        if not self._config.setting("protect_groups", topic.settings):
            return first
        places = [*topic.cursors.values(), *(done.low for done in topic.groups.values())]
        return min([first, *(topic.advance(place).segment for place in places)])

    def stop(self) -> None:
        """This node does not lead Raft: when it does, it begins with a round over all topics."""
        self._changed.clear()
        self._retaining.clear()
        self._looks.begin_anew()
        self._looked_at_all, self._look_at = False, float("-inf")
