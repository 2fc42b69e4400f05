"""Leases: may this node write to a segment at this moment?

A lease is never sent over the network. A node derives its leases from the metadata that it has applied (it
leads the topic's open segment, in its current incarnation), and a lease is valid only while the node has
heard from a Raft leader within `ttl`. The Raft leader begins to replace a node only after `failure_timeout`
of silence, and `ttl < failure_timeout`, so a node that is cut off stops writing before a recovery starts to
fence it:

    time   a node is cut off at 0 (ttl 1.2, failure_timeout 2.0)
     0.0   the last heartbeat arrives: leases are valid until 1.2
     1.2   `holds` is false: PUTs wait, and are refused at their deadline with an error that says why
     2.0   the Raft leader on the other side takes the node for dead and has its segments recovered
     2.1   each is sealed, and the next one is open on another node

The Raft leader itself receives no heartbeats. Its leases count from the time at which it *sent* the last
round that a majority answered (`Raft.last_contact`): the answers show only that those servers followed it
then, and a delayed answer must not prolong a lease.

This is belt and braces. Safety does not rest on clocks: a writer that wrongly believes in its lease is
stopped by the fence (`replicas/copies.py`), which a majority of its replicas holds. The lease adds that a
stale writer notices by itself, quickly, and says so instead of waiting for acknowledgements that cannot
come.

The check must be made in the same step as the append. If a wait for a lock or the disk can come between the
two, the lease protects nothing.

Invariant: at most one segment per topic is leased, and only one that the metadata says we lead.

Transcripts, in `tests/replicas/transcripts`: `lease_lost_and_returned`,
`acknowledge_without_a_raft_leader`.
"""

from __future__ import annotations

from walrus.rota import Rota
from walrus.segments import START, Metadata, Segment

RECONCILE_INTERVAL = 0.1
"""Seconds between two looks at whether leases are still what the metadata says."""

MAX_RECONCILED = 200
"""Leases that one such look takes; with more of them they take turns."""


class LeaseTable:
    """The leases of one process start of one node."""

    def __init__(self, node_id: int, incarnation: int, ttl: float) -> None:
        assert ttl > 0, "a lease that never holds"
        self._node_id = node_id
        self._incarnation = incarnation
        self._ttl = ttl
        self._heard_at = float("-inf")
        self._granted: dict[str, int] = {}
        self._reconcile_at = float("-inf")
        self._looks: Rota[str] = Rota()

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
            before = self._granted.get(name, 0)
            assert segment is None or number >= before, "SingleWriter: a lease on an earlier segment again"
            if segment and self.is_ours(segment):
                assert not segment.sealed, "NoWritesPastOpen: a lease on a segment that has ended"
                assert self._node_id in segment.replicas, "OpenLeaderMatchesMap: a lease without a copy"
                self._granted[name] = number
            else:
                self._granted.pop(name, None)

    def on_tick(self, metadata: Metadata, now: float) -> None:
        """Revoke leases that the metadata no longer grants.

        `reconcile` runs with each change of a topic, so there should be none. A change that was missed would
        leave a lease for good; this bounds its life by `RECONCILE_INTERVAL` for each `MAX_RECONCILED` leases.
        To look at all of them each time took most of a node's processor time with 20,000 topics.
        """
        if now >= self._reconcile_at:
            self._reconcile_at = now + RECONCILE_INTERVAL
            for name in self._looks.share(MAX_RECONCILED, lambda: self._granted):
                self.reconcile(metadata, name)
                assert name in metadata.topics or name not in self._granted, (
                    "SingleWriter: a lease outlives its topic"
                )

    def expires_at(self) -> float:
        """When all leases end unless a Raft leader is heard from."""
        return self._heard_at + self._ttl

    def holds(self, topic: str, segment: int, now: float) -> bool:
        """Whether (topic, segment) may be written in this step."""
        assert segment >= START.segment, "SingleWriter: a lease that is asked for by a number that is none"
        return self._granted.get(topic) == segment and now < self.expires_at()

    def held(self, now: float) -> dict[str, int]:
        """The leases that are good now: topic -> segment."""
        return dict(self._granted) if now < self.expires_at() else {}

    def granted(self) -> dict[str, int]:
        """What the metadata grants, heard from a leader or not."""
        return self._granted

    def check_invariants(self, metadata: Metadata) -> None:
        """Assert that every lease is for an open segment that this process start leads."""
        for topic, number in self._granted.items():
            current, segment = metadata.open_segment(topic) or (0, None)
            assert segment is not None, f"DomainConsistency: a lease on {topic}, which is unknown"
            assert current == number, f"OpenLeaderMatchesMap: a lease on {topic}/{number}, open is {current}"
            assert self.is_ours(segment), f"OpenLeaderMatchesMap: another process leads {topic}/{number}"
            assert segment.leader in segment.replicas, f"OpenLeaderMatchesMap: no copy of {topic}/{number}"
