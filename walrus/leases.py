"""Leases: may this node write to a segment at this moment?

A lease is never sent over the network. A node derives its leases from the metadata that it has applied
(it leads the topic's open segment, and in this very incarnation), and a lease is good only while the
node has heard from a Raft leader within `ttl`. The Raft leader begins to replace a node only after
`failure_timeout` of silence, and `ttl < failure_timeout`, so a node that is cut off stops writing
before anybody starts to fence it.

This is belt and braces. Safety does not rest on clocks: a writer whose lease is wrong is stopped by
the fence (`replicas/copies.py`), which asks a majority of its replicas. What the lease adds is that a stale
writer notices by itself, quickly, and says so instead of waiting for acknowledgements that cannot come.

The check must be made in the same step as the append. A lease that is checked, and then a wait for a
lock or the disk, and then the append, is no lease at all.

Invariant: at most one segment a topic is leased, and only one that the metadata says we lead.
"""

from __future__ import annotations

from walrus.segments import Metadata, Segment

RECONCILE_INTERVAL = 0.1
"""Seconds between two looks at whether every lease is still what the metadata says."""


class LeaseTable:
    """The leases of one process start of one node."""

    def __init__(self, node_id: int, incarnation: int, ttl: float) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._ttl = ttl
        self._heard_at = float("-inf")
        self._granted: dict[str, int] = {}
        self._reconcile_at = float("-inf")

    def is_ours(self, segment: Segment) -> bool:
        """Whether this very process start leads the segment, or led it to its end."""
        return (segment.leader, segment.incarnation) == (self._node_id, self._incarnation)

    def heard(self, at: float) -> None:
        """A Raft leader was heard from at `at` (for the leader itself: a quorum was)."""
        self._heard_at = max(self._heard_at, at)

    def reconcile(self, metadata: Metadata, topic: str | None = None) -> None:
        """Grant and revoke by the metadata: for one topic that changed, or for all."""
        for name in [topic] if topic is not None else sorted(metadata.topics):
            number, segment = metadata.open_segment(name) or (0, None)
            if segment and self.is_ours(segment):
                self._granted[name] = number
            else:
                self._granted.pop(name, None)

    def on_tick(self, metadata: Metadata, now: float) -> None:
        """Whatever else went wrong: no lease outlives its segment by more than this."""
        if now >= self._reconcile_at:
            self._reconcile_at = now + RECONCILE_INTERVAL
            for name in list(self._granted):
                self.reconcile(metadata, name)

    def expires_at(self) -> float:
        """When all leases end unless a Raft leader is heard from."""
        return self._heard_at + self._ttl

    def holds(self, topic: str, segment: int, now: float) -> bool:
        """Whether (topic, segment) may be written in this step."""
        return self._granted.get(topic) == segment and now < self.expires_at()

    def held(self, now: float) -> dict[str, int]:
        """The leases that are good now: topic -> segment."""
        return dict(self._granted) if now < self.expires_at() else {}

    def granted(self) -> dict[str, int]:
        """What the metadata grants, heard from a leader or not."""
        return self._granted

    def check_invariants(self, metadata: Metadata) -> None:
        """Assert that every lease is for an open segment that we lead."""
        for topic, number in self._granted.items():
            current = metadata.open_segment(topic)
            assert current is not None and current[0] == number and current[1].leader == self._node_id
