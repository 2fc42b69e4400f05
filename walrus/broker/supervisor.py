"""What the Raft leader does for the cluster: failover, membership, and planning repairs.

The Raft leader is the one node that hears from all others (their answers to its heartbeats), so it is the
one that notices silence. On every tick, and only while it leads, it compares the metadata with the nodes
that are alive and takes at most one step towards the desired state. A new leader first applies what its
predecessors committed: otherwise it would see nodes that have been removed, and add them again.

    a leader of an open segment is dead, gone or was restarted    recover the segment (replicas/failover.py)
    a node is in the metadata but not in Raft's membership        add it, as a learner
    one is in Raft's membership but not in the metadata           remove it: it has since been forgotten
    a learner has caught up                                       promote it to voter
    an open segment has too few replicas, or a leaving one        ask its leader to roll over early
    a sealed segment has too few replicas, or a leaving one       repair it (replicas/repair.py)
    no segment needs a leaving node any more                      remove it from Raft, then forget it
    a node that joined does not start, and is not connected       the same
    a sealed segment is beyond its topic's retention              propose to trim it (retention.py)

A node may lead thousands of segments, and their recovery is work for all nodes. So one check recovers
`MAX_SEGMENTS` of them and asks as many to roll over, and the check at the next tick continues after them
(`rota.py`). The metadata indexes the segments of each node (`open_at`, `sealed_at`): no check reads all
topics, and retention, which must, has a rota of its own.

**A node that has joined** but not started is in the metadata by its Join alone, and anything that reaches
the port can send one. So it is dropped again `JOIN_PATIENCE` after it was last connected, if it has not
started by then. It counts as connected while this Raft leader has a connection to the directory that sent
the Join, as the callee says in the handshake: a slow start, or links that lose its Announce, may take as
long as they take. Another process at the address that the Join gave, such as the real node of that id, is
no reason to wait. An operator who does not want to wait sends LEAVE.

All state that matters is in the metadata or in Raft's membership, so another Raft leader continues where
this one died. Nothing here is needed for safety: a supervisor that is wrong about whether a node is alive
causes a needless failover, never a lost entry.

Transcripts, in `tests/replicas/transcripts`: `leave_hands_over`, `leave_needs_force`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import TypeAlias

from walrus.broker.retention import Retention
from walrus.config import NodeConfig
from walrus.consensus.messages import Membership
from walrus.quorum import majority
from walrus.raft import Raft
from walrus.replicas.copies import Key
from walrus.replicas.repair import Repairs
from walrus.rota import Rota
from walrus.segments import Command, Metadata, Placement, RemoveNode, Segment, Topic
from walrus.wire.effects import Outbox
from walrus.wire.messages import CopyReply, RollOver

JOIN_PATIENCE = 5
"""Failure timeouts for which a node that was taken in may be absent before its first start."""

MAX_SEGMENTS = 200
"""Segments that one look recovers, and as many that it asks to roll over."""

CAUGHT_UP = 100
"""A learner this many entries behind the commit index is close enough to vote."""

Placed: TypeAlias = Segment | Placement
"""An open segment, or where many of them are: both say who leads them, and who has copies."""


class Supervisor:
    """The Raft leader's duties. Asleep on every other node."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        raft: Raft,
        leads: Callable[[], bool],
        outbox: Outbox,
        repairs: Repairs,
        propose: Callable[[Command, float], None],
        recover: Callable[[str, int, float], None],
        voters: Callable[[], list[int]],
        retention: Retention,
    ) -> None:
        self._retention = retention
        self._config, self._metadata, self._raft, self._outbox = config, metadata, raft, outbox
        self._leads, self._propose, self._recover, self._voters = leads, propose, recover, voters
        self._repairs = repairs
        self._leading = False
        self._again_at = 0.0
        self._led_since = self._ticked_at = 0.0
        self._gone: set[int] = set()
        self._there: dict[int, str] = {}  # node this one is connected to -> the directory behind it
        self._taken_in: dict[tuple[int, str], float] = {}  # (node, directory) not started yet -> there last
        self.dirty = True
        self._to_recover, self._to_roll_over = Rota[str](), Rota[str]()

    # --- which nodes are alive ---

    def on_connected(self, node: int, directory_id: str) -> None:
        """A process is there, on this directory ("": it does not say)."""
        self._gone.discard(node)
        self._there[node] = directory_id
        self.dirty = True

    def on_disconnected(self, node: int, refused: bool) -> None:
        """It is not reached any more; `refused`: it is certainly gone, its address refuses connections."""
        self._there.pop(node, None)
        if refused:
            self._gone.add(node)
        self.dirty = True

    def forget_node(self, node: int) -> None:
        """A node was removed: if it joins again, on the same directory even, it is waited for anew."""
        self._taken_in = {key: at for key, at in self._taken_in.items() if key[0] != node}

    def on_copy_reply(self, node: int, reply: CopyReply, now: float) -> None:
        """A node has made a copy, perhaps for a repair of this Raft leader."""
        self._repairs.on_copy_reply(node, reply, now)

    def on_topic(self, topic: str) -> None:
        """A topic has another segment, or other settings: perhaps some of it is to go."""
        self._retention.on_topic(topic)

    def on_replicas(self, key: Key) -> None:
        """A sealed segment has another replica set, perhaps by a repair of this Raft leader."""
        self._repairs.on_replicas(key)

    def silent_for(self, node: int, now: float) -> float:
        """Seconds since the node was heard from, as far as this Raft leader can tell."""
        if node == self._config.node_id:
            return 0.0
        progress = self._raft.progress.get(node)
        heard = progress.last_heard if progress is not None else self._led_since
        return now - max(heard, self._led_since)

    def _alive(self, node: int, now: float) -> bool:
        return node not in self._gone and self.silent_for(node, now) < self._config.failure_timeout

    # --- the duties ---

    def on_tick(self, now: float) -> None:
        """Take the next step of each duty."""
        if not self._leads():
            if self._leading:
                self._repairs.stop()
            self._retention.stop()
            self._leading = False
            return
        if not self._leading:
            self._leading, self._led_since, self.dirty = True, now, True
            self._taken_in.clear()
            self._to_recover.begin_anew()
            self._to_roll_over.begin_anew()
        if now - self._ticked_at > self._config.failure_timeout / 4:
            # This process slept: no node could have been heard, or have started, in the meantime.
            self._led_since = now
            self._taken_in.clear()
        self._ticked_at = now
        self._retention.on_tick(now)
        if not self.dirty and now < self._again_at:
            return
        self.dirty = False
        self._again_at = now + min(self._config.repair_interval, self._config.failure_timeout / 8)
        self._fail_over(now)
        self._members(now)
        voters = self._voters()
        live = [node for node in voters if self._alive(node, now)]
        self._early_rollovers(voters)
        patience = self._config.dead_replica_timeout
        dead = [n for n in sorted(self._metadata.nodes) if self.silent_for(n, now) > patience]
        leaving = [n for n, node in sorted(self._metadata.nodes.items()) if node.leaving]
        sources = [n for n in sorted({*live, *leaving}) if self._alive(n, now)]
        self._repairs.on_tick(voters, sources, dead, now)

    def _fail_over(self, now: float) -> None:
        def is_lost(segment: Placed) -> bool:
            node = self._metadata.nodes.get(segment.leader)
            restarted = node is None or node.incarnation != segment.incarnation
            return restarted or not self._alive(segment.leader, now)

        for name, topic in self._next(self._to_recover, is_lost):
            self._recover(name, topic.current, now)

    def _early_rollovers(self, voters: list[int]) -> None:
        wanted = min(self._config.replication_factor, len(voters))

        def has_few(segment: Placed) -> bool:
            staying = [node for node in segment.replicas if node in voters]
            # A leaving node is needed until no segment names it, the open one included.
            return len(staying) < max(wanted, len(segment.replicas))

        for name, topic in self._next(self._to_roll_over, has_few):
            message = RollOver(topic=name, segment=topic.current, replicas=wanted)
            self._outbox.send(topic.open.leader, message)

    def _next(self, rota: Rota[str], concerned: Callable[[Placed], bool]) -> Iterator[tuple[str, Topic]]:
        """The topics whose turn it is among those whose open segment is (still) concerned."""
        open_at = self._metadata.open_at
        for name in rota.share(
            MAX_SEGMENTS, lambda: chain(*(names for place, names in open_at.items() if concerned(place)))
        ):
            topic = self._metadata.topics.get(name)
            if topic is not None and concerned(topic.open):
                yield name, topic
        self.dirty |= not rota.over

    def _members(self, now: float) -> None:
        """One step of membership change; Raft refuses a second one before the first has committed."""
        membership, nodes = self._raft.membership, self._metadata.nodes
        overdue = self._overdue(now)
        going = {n for n, node in nodes.items() if node.leaving or n in overdue}
        for node in sorted(nodes):
            if node not in membership.members and node not in going:
                self._change(membership.voters, (*membership.learners, node), now)
                return
        for node in membership.members:
            if node not in nodes and node != self._config.node_id:  # which may not have announced itself yet
                self._drop(node, membership, now)
                return
        for node in membership.learners:
            progress = self._raft.progress.get(node)
            near = progress and progress.match_index + CAUGHT_UP >= self._raft.commit_index
            known = node in nodes and nodes[node].incarnation > 0
            if near and known and self._alive(node, now) and node not in going:
                learners = tuple(n for n in membership.learners if n != node)
                self._change((*membership.voters, node), learners, now)
                return
        for node in sorted(going):
            if not self._metadata.needs(node) and self._can_do_without(node, now):
                self._remove(node, membership, now)
                return

    def _overdue(self, now: float) -> set[int]:
        """Return the nodes that were taken in, have not started, and were not there for too long.

        One that votes is none of them: it has started, or founded the cluster.
        """
        nodes, voters = self._metadata.nodes, self._raft.membership.voters
        waiting = {(n, node.directory_id) for n, node in nodes.items() if not node.incarnation}
        there = waiting & self._there.items()
        self._taken_in = {
            key: now if key in there else self._taken_in.get(key, now)
            for key in waiting
            if key[0] not in voters
        }
        patience = JOIN_PATIENCE * self._config.failure_timeout
        return {node for (node, _), since in self._taken_in.items() if now - since > patience}

    def _can_do_without(self, node: int, now: float) -> bool:
        """Whether a majority of the voters that would be left is alive.

        It was when LEAVE was asked for, but handing over takes time. A change whose new majority does not
        answer never commits, and meanwhile no other one can be made: not even one that removes the dead.
        """
        rest = [voter for voter in self._raft.membership.voters if voter != node]
        return sum(self._alive(voter, now) for voter in rest) >= majority(len(rest))

    def _remove(self, node: int, membership: Membership, now: float) -> None:
        if node not in membership.members:
            directory = self._metadata.nodes[node].directory_id
            self._propose(RemoveNode(node_id=node, directory_id=directory), now)
        elif node == self._config.node_id:
            heirs = [n for n in self._voters() if n != node and self._alive(n, now)]
            if heirs:
                self._raft.transfer_leadership(heirs[0], now)
        else:
            changed = self._drop(node, membership, now)
            if changed and not self._metadata.nodes[node].leaving:
                self._outbox.log(f"node {node} was taken in and has not started: it is dropped again")

    def _drop(self, node: int, membership: Membership, now: float) -> bool:
        voters = tuple(n for n in membership.voters if n != node)
        return self._change(voters, tuple(n for n in membership.learners if n != node), now)

    def _change(self, voters: tuple[int, ...], learners: tuple[int, ...], now: float) -> bool:
        """Propose a membership; return whether Raft takes the proposal."""
        change = Membership(tuple(sorted(voters)), tuple(sorted(learners)))
        return self._raft.propose_membership(change, now) is not None

    def check_invariants(self) -> None:
        """Assert what must hold of the repairs under way."""
        self._repairs.check_invariants()


def why_not_leave(
    node: int, metadata: Metadata, voters: Collection[int], reachable: Collection[int]
) -> str | None:
    """Why removing this member now would lose data or the majority; None if it would not."""
    rest = [other for other in voters if other != node]
    alive = [other for other in rest if other in reachable]
    if not any(other in metadata.nodes and not metadata.nodes[other].leaving for other in rest):
        return "it is the last voter that stays"
    if len(alive) < majority(len(rest)):
        return f"only {len(alive)} of the other {len(rest)} voters answer, which is no majority"
    if node in reachable:
        return None  # it can still hand over what it has
    lost: list[tuple[str, int]] = []
    for place, names in metadata.open_at.items():
        if _is_lost_without(node, place.replicas, reachable, majority(len(place.replicas))):
            lost += [(name, metadata.topics[name].current) for name in names]
    for replicas, keys in metadata.sealed_at.items():
        if _is_lost_without(node, replicas, reachable, 1):
            lost += keys
    if lost:
        name, number = min(lost)
        return f"segment {number} of {name} would be lost: no other live node holds it"
    return None


def _is_lost_without(node: int, replicas: tuple[int, ...], reachable: Collection[int], needed: int) -> bool:
    """Whether segments with these replicas need this one of them: too few others can be reached."""
    others = [other for other in replicas if other != node and other in reachable]
    return node in replicas and len(others) < needed


def too_few_stay(node: int, metadata: Metadata, voters: Collection[int], factor: int) -> int | None:
    """How many voters stay if this one leaves, where that costs replicas; None where it does not.

    It does where segments can now have as many replicas as the replication factor asks for, and could not any
    more. In a cluster that is smaller in any case a LEAVE is no surprise.
    """
    staying = {voter for voter in voters if voter in metadata.nodes and not metadata.nodes[voter].leaving}
    left = len(staying - {node})
    return left if left < factor <= len(staying) else None
