"""A lease to hand out entries: a ReadIndex that lasts.

The leases of the data plane (`leases.py`) are renewed by contact with the Raft leader. That is enough where
a fence backs them up. A work queue has no fence: if two owners served at once, one could hand out an entry
whose ACK the other has answered. So an owner must know that no later one serves (`spec/Delivery.tla`):

    owner      requests a ReadIndex, applies up to it, and serves until `lease_ttl` after the *request*
    successor  applies the Seal that makes it the owner, and serves once `failure_timeout` has passed since

A Seal that ends an ownership is committed after the last request that found this node the owner, or this
node would know of it. So the successor applies it later than that, and begins after the lease has ended,
however long a message, an answer or a process was delayed. The assumption is that no clock runs faster than
another by the factor `failure_timeout / lease_ttl`.

A successor waits only after the Seal of a recovery. A Seal that the owner proposed itself says that this
owner hands out nothing more.

Read cursors (GET, `cursors.py`) are served under the same lease, without the successor's wait, since GET may
give an entry twice. What the lease gives them is an end: a leader that hears heartbeats, and is not heard,
is replaced and keeps its lease of `leases.py` for as long as that lasts. It would give entries of a topic
that was deleted meanwhile.

One lease covers all topics of a node; the applied metadata says which of them it owns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from walrus.config import NodeConfig
from walrus.leases import LeaseTable
from walrus.segments import Metadata, Topic

Ask: TypeAlias = Callable[[Callable[[bool, float], None], float], None]
"""The type of `ReadIndexes.ask`."""


class Tenure:
    """Whether this node may hand out entries of the topics whose open segment it leads."""

    def __init__(
        self,
        config: NodeConfig,
        metadata: Metadata,
        leases: LeaseTable,
        ask: Ask,
    ) -> None:
        self._config, self._metadata, self._leases, self._ask = config, metadata, leases, ask
        self.waiting: list[Callable[[float], None]] = []
        """Called with the time when the node has a lease again after a time without."""
        self._until = float("-inf")
        self._asking = False
        self._seen: dict[str, int] = {}  # topic -> its open segment at the last call of `on_topic`
        self._begins_at: dict[str, float] = {}  # topic -> when no earlier owner can hand out any more

    def owns(self, topic: str) -> bool:
        """Whether this node leads the topic's open segment, by the metadata that it has applied."""
        number, _ = self._metadata.open_segment(topic) or (0, None)
        return number > 0 and self._leases.granted().get(topic) == number

    def serves(self, topic: str, now: float) -> bool:
        """Whether this node, if it owns the topic, may hand out entries and answer in this step."""
        return self.lasts(now) and now >= self._begins_at.get(topic, now)

    def lasts(self, now: float) -> bool:
        """Whether this node has applied all that was committed `lease_ttl` ago."""
        return now < self._until

    def keep(self, now: float) -> None:
        """Renew the lease in time, since it is needed."""
        if not self._asking and now >= self._until - self._config.lease_ttl / 2:
            self._asking = True
            self._ask(partial(self._answered, now), now)

    def _answered(self, asked_at: float, fresh: bool, now: float) -> None:
        self._asking = False
        lapsed = now >= self._until
        if fresh:
            self._until = max(self._until, asked_at + self._config.lease_ttl)
            if lapsed and now < self._until:
                for go_on in self.waiting:
                    go_on(now)

    def on_topic(self, name: str, topic: Topic | None, now: float) -> bool:
        """The topic's metadata changed. Return whether this process's deliveries of it are void.

        They are after a recovery. They also are if another process owned the topic in between, which happens
        if several Seals are applied at once: the entries out are those that that process handed on.
        """
        if topic is None:  # deleted: a new topic of the name begins at a later number, with no deliveries
            self._seen.pop(name, None)
            self._begins_at.pop(name, None)
            return False
        begin, self._seen[name] = max(self._seen.get(name, 1), topic.born), topic.current
        # A segment that was trimmed before this node saw it may have been sealed by a recovery.
        unseen = begin < topic.first
        recovered = unseen or any(segment.recovered for _, segment in topic.numbered(begin))
        if recovered:
            self._begins_at[name] = now + self._config.failure_timeout
        others = any(not self._leases.is_ours(segment) for _, segment in topic.numbered(begin))
        return recovered or others

    def on_tick(self, now: float) -> list[str]:
        """Return the topics for which the wait for earlier owners has ended since the last call."""
        over = [name for name, at in self._begins_at.items() if at <= now]
        for name in over:
            del self._begins_at[name]
        return over
