"""The segment manager and the leases under Hypothesis, against models that can be read in a minute.

Rules carry the spec's action names, invariants its invariant names.
"""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from walrus.broker.takeover import restore
from walrus.leases import LeaseTable
from walrus.segments import (
    START,
    Announce,
    Command,
    CommitCursors,
    Metadata,
    Position,
    RegisterTopic,
    Seal,
    SetReplicas,
    decode_command,
    encode_command,
)
from walrus.storage.batch import Checksum

NODES = st.integers(1, 4)
TOPICS = st.sampled_from(("a", "b"))
SEGMENTS = st.integers(1, 6)
REPLICAS = st.lists(NODES, min_size=1, max_size=3, unique=True).map(tuple)
POSITIONS = st.builds(Position, SEGMENTS, st.integers(0, 5))


def announcement(node: int, incarnation: int) -> Announce:
    return Announce(
        node_id=node,
        directory_id=f"d{node}",
        incarnation=incarnation,
        raft_address=f"r{node}",
        client_address=f"c{node}",
    )


class MetadataMachine(RuleBasedStateMachine):
    """`Metadata` beside lists: per topic the sealed counts, and the furthest position of each group."""

    @initialize()
    def members(self) -> None:
        self.metadata = Metadata()
        self.counts: dict[str, list[int]] = {}
        self.cursors: dict[tuple[str, str], Position] = {}
        self.sealed_as: dict[tuple[str, int], int] = {}
        for node in (1, 2, 3):
            self.apply(announcement(node, 0))

    def apply(self, command: Command) -> str | None:
        """Through the wire, and twice: the second time must change nothing but what rises with each call."""
        changed = self.metadata.apply(decode_command(encode_command(command)))
        digest = self.metadata.digest()
        if not isinstance(command, SetReplicas):
            assert self.metadata.apply(command) is None or isinstance(command, SetReplicas)
            assert self.metadata.digest() == digest, "applied twice"
        return changed

    @rule(node=NODES, incarnation=st.integers(1, 3))
    def announce(self, node: int, incarnation: int) -> None:
        before = self.metadata.nodes.get(node)
        self.apply(announcement(node, incarnation))
        after = self.metadata.nodes.get(node)
        assert before is None or (after is not None and after.incarnation >= before.incarnation)

    @rule(topic=TOPICS, leader=NODES, replicas=REPLICAS)
    def register_topic(self, topic: str, leader: int, replicas: tuple[int, ...]) -> None:
        changed = self.apply(RegisterTopic(topic=topic, leader=leader, replicas=replicas))
        may = leader in replicas and all(node in self.metadata.nodes for node in replicas)
        assert (changed is not None) == (topic not in self.counts and may)
        if changed:
            self.counts[topic] = []

    @rule(
        topic=TOPICS, segment=SEGMENTS, count=st.integers(0, 5), leader=NODES, replicas=REPLICAS,
        group=st.sampled_from(("", "g")), to=POSITIONS,
    )  # fmt: skip
    def seal(
        self,
        topic: str,
        segment: int,
        count: int,
        leader: int,
        replicas: tuple[int, ...],
        group: str,
        to: Position,
    ) -> None:
        command = Seal(
            topic=topic,
            segment=segment,
            count=count,
            checksum=Checksum(count, 0),
            leader=leader,
            replicas=replicas,
            cursors={group: to},
        )
        changed = self.apply(command)
        may = leader in replicas and all(node in self.metadata.nodes for node in replicas)
        current = topic in self.counts and segment == len(self.counts[topic]) + 1
        assert (changed is not None) == (may and current)
        if changed:
            self.counts[topic].append(count)
            self.sealed_as[(topic, segment)] = count
            self._drawn_back(topic, Position(segment, count))
            self._moved(topic, group, to)

    @rule(topic=TOPICS, group=st.sampled_from(("", "g")), to=POSITIONS)
    def commit_cursors(self, topic: str, group: str, to: Position) -> None:
        self.apply(CommitCursors(cursors={topic: {group: to}}))
        if topic in self.counts:
            self._moved(topic, group, to)

    def _drawn_back(self, topic: str, end: Position) -> None:
        """A cursor past the end of what was sealed: an operator let a recovery give those entries up."""
        for (of, group), position in self.cursors.items():
            if of == topic:
                self.cursors[(of, group)] = min(position, end)

    def _moved(self, topic: str, group: str, to: Position) -> None:
        counts = self.counts[topic]
        inside = to.segment <= len(counts) + 1 and (
            to.segment > len(counts) or to.offset <= counts[to.segment - 1]
        )
        if inside:
            self.cursors[(topic, group)] = max(to, self.cursors.get((topic, group), START))

    @rule(topic=TOPICS, segment=SEGMENTS, new=REPLICAS, stale=st.booleans())
    def set_replicas(self, topic: str, segment: int, new: tuple[int, ...], stale: bool) -> None:
        known = self.metadata.segment(topic, segment)
        old = (9,) if stale or known is None else known.replicas
        changed = self.apply(SetReplicas(topic=topic, segment=segment, old=old, new=new))
        after = self.metadata.segment(topic, segment)
        if changed:
            assert known is not None and known.count is not None and not stale
            assert after == msgspec.structs.replace(known, replicas=new)
        else:
            assert after == known

    @rule()
    def restart(self) -> None:
        """From a snapshot, as a node that was away."""
        other = Metadata()
        restore(other, self.metadata.snapshot())
        assert other.digest() == self.metadata.digest()
        self.metadata = other

    @invariant()
    def sealed_stable(self) -> None:
        for (topic, segment), count in self.sealed_as.items():
            known = self.metadata.segment(topic, segment)
            assert known is not None and known.count == count

    @invariant()
    def last_sealed_is_sum(self) -> None:
        for topic, counts in self.counts.items():
            assert self.metadata.topics[topic].sealed_total == sum(counts)
            assert self.metadata.topics[topic].current == len(counts) + 1

    @invariant()
    def cursor_in_bounds(self) -> None:
        for topic in self.counts:
            for group, position in self.metadata.topics[topic].cursors.items():
                assert position == self.cursors[(topic, group)]

    @invariant()
    def domain_consistency_and_open_leader_matches_map(self) -> None:
        self.metadata.check_invariants()


class LeaseMachine(RuleBasedStateMachine):
    """One node's leases beside three facts: what the metadata says, which start this is, when it heard."""

    TTL = 1.0

    @initialize()
    def start(self) -> None:
        self.metadata, self.now, self.heard_at = Metadata(), 0.0, -100.0
        self.incarnation = 0
        for node in (1, 2):
            self.metadata.apply(announcement(node, 0))
        self.leases = LeaseTable(1, 0, self.TTL)

    @rule(seconds=st.floats(0, 2))
    def expire_lease(self, seconds: float) -> None:
        self.now += seconds

    @rule(ago=st.floats(0, 2))
    def renew_lease(self, ago: float) -> None:
        """A Raft leader was heard, or the news of it comes late."""
        self.leases.heard(self.now - ago)
        self.heard_at = max(self.heard_at, self.now - ago)

    @rule(topic=TOPICS, leader=st.integers(1, 2))
    def register_topic(self, topic: str, leader: int) -> None:
        self.metadata.apply(RegisterTopic(topic=topic, leader=leader, replicas=(1, 2)))
        self.leases.reconcile(self.metadata, topic)

    @rule(topic=TOPICS, leader=st.integers(1, 2))
    @precondition(lambda self: self.metadata.topics)
    def seal(self, topic: str, leader: int) -> None:
        known = self.metadata.topics.get(topic)
        if known is not None:
            self.metadata.apply(
                Seal(
                    topic=topic,
                    segment=known.current,
                    count=0,
                    checksum=Checksum(),
                    leader=leader,
                    replicas=(1, 2),
                    cursors={},
                )
            )
            self.leases.reconcile(self.metadata, topic)

    @rule()
    def restart(self) -> None:
        """Another process: it holds nothing, whatever the metadata still says."""
        self.incarnation += 1
        self.leases, self.heard_at = LeaseTable(1, self.incarnation, self.TTL), -100.0
        self.leases.reconcile(self.metadata)

    @rule()
    def announce(self) -> None:
        self.metadata.apply(announcement(1, self.incarnation))
        self.leases.reconcile(self.metadata)

    @invariant()
    def held_exactly_when_it_may_be(self) -> None:
        fresh = self.now < self.heard_at + self.TTL
        for name, topic in self.metadata.topics.items():
            mine = (topic.open.leader, topic.open.incarnation) == (1, self.incarnation)
            for number in range(1, topic.current + 2):
                may = fresh and mine and number == topic.current
                assert self.leases.holds(name, number, self.now) == may

    @invariant()
    def open_leader_matches_map(self) -> None:
        self.leases.check_invariants(self.metadata)


TestMetadata = MetadataMachine.TestCase
TestLeases = LeaseMachine.TestCase
