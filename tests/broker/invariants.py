"""The invariants of `spec/Walrus.tla`, by name, over a `NodeWorld`: what every node and every disk holds.

`Invariants.check` looks at everything, after any step. What a predicate compares with the past (what was
acknowledged, how long a sealed segment is, where a cursor was) is kept here from the moment it came to be.
The simulator's predicates (`walrus/sim/invariants.py`) are finer, since they see each write; these need
nothing but the nodes and their disks, so that any test can use them.
"""

from __future__ import annotations

from itertools import zip_longest

from tests.broker.world import NodeWorld
from walrus.replicas.copies import SHADOW, Key
from walrus.segments import START, Metadata, Position, Segment
from walrus.sim.truth import key_of


class Invariants:
    """What has been seen of each segment, and what must hold of it."""

    def __init__(self, world: NodeWorld) -> None:
        self.world = world
        self.streams: dict[Key, list[bytes]] = {}
        """Per segment what its writer wrote: the longest copy that was ever seen."""
        self.acked: dict[Key, int] = {}
        self.sealed: dict[Key, int] = {}
        self.cursors: dict[tuple[str, str], Position] = {}
        self.given: dict[tuple[str, str], int] = {}
        """Per topic and group how many of the topic's entries it was given."""
        self.shortened: set[int] = set()
        """Nodes that lost power with entries that were acknowledged and not synced (`--fsync` not `each`)."""
        self.given_up: set[Key] = set()
        """Segments whose recovery an operator ended with the copies that answered."""
        self.metadata = Metadata()
        """What Raft has committed, as far as any node has applied it."""
        self._applied = 0

    def check(self) -> None:
        """Every invariant, on everything."""
        for controller in self.world.nodes.values():
            if controller.applied >= self._applied:
                self.metadata, self._applied = controller.metadata, controller.applied
        for key in self._keys():
            self._check_stream(key)
            self._check_acked(key)
            self._check_sealed(key)
        self._check_topics()
        self._check_leaders()

    def copy(self, node: int, key: Key) -> list[bytes]:
        """What is on this node's disk of the segment, synced or not."""
        entries = self.world.stores[node][0].entries
        names = (f"{key[0]}/{key[1]}", f"{key[0]}/{key[1]}{SHADOW}")
        return max((entries.get(name, []) for name in names), key=len)

    def holders(self, key: Key, segment: Segment, count: int) -> set[int]:
        """The replicas that hold so many entries of the segment, durably where that is asked for."""
        each = self.world.settings.get("durable_acks", True)
        held = set()
        for node in segment.replicas:
            engine = self.world.stores[node][0]
            names = (f"{key[0]}/{key[1]}", f"{key[0]}/{key[1]}{SHADOW}")
            length = max(map(engine.durable, names)) if each else len(self.copy(node, key))
            if length >= count:
                held.add(node)
        return held

    def _keys(self) -> set[Key]:
        names = (name for data, _ in self.world.stores.values() for name in data.topics())
        return {key for name in names if (key := key_of(name)) is not None}

    def _check_stream(self, key: Key) -> None:
        segment = self.metadata.segment(*key)
        assert segment is not None, f"NoWritesPastOpen: there is a copy of {key}"
        stream = self.streams.setdefault(key, [])
        for node in sorted(self.world.stores):
            copy = self.copy(node, key)
            for at, (mine, known) in enumerate(zip_longest(copy, stream)):
                assert mine is None or known is None or mine == known, (
                    f"PrefixAgree: node {node} has {mine!r} at {key}, {at}, others {known!r}"
                )
            if len(copy) > len(stream):
                assert segment.leader in self.world.stores
                written = self.copy(segment.leader, key)
                assert written[: len(copy)] == copy, f"SingleWriter: node {node} originates {key}"
                stream[:] = copy

    def _check_acked(self, key: Key) -> None:
        for controller in self.world.nodes.values():
            writer = controller.writers.get(key[0])
            if writer is not None and writer.number == key[1]:
                self.acked[key] = max(self.acked.get(key, 0), writer.commit_index)
        if key in self.given_up:
            self.acked[key] = 0
        self._held_by_majority("AckedDurable", key, self.acked.get(key, 0))

    def _held_by_majority(self, name: str, key: Key, count: int) -> None:
        segment = self.metadata.segment(*key)
        assert segment is not None
        held = self.holders(key, segment, count)
        excused = self.shortened.intersection(segment.replicas) - held
        assert len(held) + min(1, len(excused)) >= segment.majority, (
            f"{name}: {count} entries of {key} are on {sorted(held)} of {segment.replicas} only"
        )

    def _check_sealed(self, key: Key) -> None:
        segment = self.metadata.segment(*key)
        if segment is None or segment.count is None:
            return
        count = self.sealed.setdefault(key, segment.count)
        assert segment.count == count, f"SealedStable: {key} was sealed at {count}, now {segment}"
        acked = self.acked.get(key, 0)
        assert acked <= count, f"AckedDurable: {acked} acknowledged in {key}, sealed at {count}"
        self._held_by_majority("SealedStable", key, count)

    def settled(self, key: Key) -> int:
        """How many entries of the segment a reader may see."""
        return self.sealed.get(key, self.acked.get(key, 0))

    def _check_topics(self) -> None:
        for name, topic in self.metadata.topics.items():
            counts = [segment.count or 0 for segment in topic.segments]
            assert topic.sealed_total == sum(counts[:-1]), f"LastSealedIsSum: {name}: {topic.sealed_total}"
            for segment in topic.segments:
                last = segment is topic.open
                assert segment.sealed != last, f"DomainConsistency: {name}: {segment}"
            for group, position in topic.cursors.items():
                before = self.cursors.get((name, group), START)
                assert before <= position, f"CursorInBounds: {name}, {group!r} went back to {position}"
                inside = position.offset <= self.settled((name, position.segment))
                assert topic.in_bounds(position) and inside, f"CursorInBounds: {name}, {group!r}: {position}"
                self.cursors[(name, group)] = position

    def _check_leaders(self) -> None:
        for node, controller in self.world.nodes.items():
            for name, number in controller.leases.granted().items():
                topic = controller.metadata.topics[name]
                mine = (node, self.world.incarnations[node])
                leads = number == topic.current and (topic.open.leader, topic.open.incarnation) == mine
                assert leads, f"OpenLeaderMatchesMap: node {node} leads {name}/{number}, not {topic.open}"

    def delivered(self, topic: str, group: str, payload: bytes) -> None:
        """A client was given this entry: it is settled, and none before it was left out."""
        order: list[bytes] = []
        for number in range(1, self.metadata.topics[topic].current + 1):
            order += self.streams.get((topic, number), [])[: self.settled((topic, number))]
        upto = self.given.get((topic, group), 0)
        assert payload in order[: upto + 1], f"DeliveredIsPrefix: {payload!r} after {upto} of {order}"
        self.given[(topic, group)] = max(upto, order.index(payload) + 1)


NAMES = frozenset(
    {
        "AckedDurable",
        "CursorInBounds",
        "DeliveredIsPrefix",
        "DomainConsistency",
        "LastSealedIsSum",
        "NoWritesPastOpen",
        "OpenLeaderMatchesMap",
        "PrefixAgree",
        "SealedStable",
        "SingleWriter",
    }
)
