"""The segments that this node leads, from their opening to their Seal; and those that it recovers.

    metadata opens segment s here ──► SegmentWriter ──threshold──► sealing ──all acknowledged──► Seal proposed
              │                            │
              │ the copy is not empty      │ fenced by a recovery elsewhere
              └──────────► Recovery ◄──────┘   also requested by the Raft leader (supervisor.py)
                              │
                              └─ a majority holds the found length ──► Seal proposed, `recovered`

Both paths end in the same proposal, which is repeated until the metadata shows the segment sealed, by
whichever node. This module also chooses the next leader: round-robin over the voters that this node
reaches.

Checks of all writers of a node, which may be 100,000, are spread over ticks, a share at a time (`rota.py`):
the check of their thresholds, and the request to a replica that has come back.

A forward for a segment that this node does not know yet (its origin has newer metadata) waits for the
metadata; one for a sealed segment is handed back.

Transcripts, in `tests/replicas/transcripts`: `recovery_twice_and_one_seal`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from heapq import heappop, heappush

import msgspec

from walrus.acknowledged import groups_told, handed_told
from walrus.broker.cursors import Cursors
from walrus.broker.failovers import FENCED, NOTICED, OPENED, RECOVERED, SEALED, Failovers
from walrus.broker.placement import next_leader, replica_set
from walrus.broker.queues import Queues
from walrus.broker.spec_trace import producers_told
from walrus.config import NodeConfig
from walrus.leases import LeaseTable
from walrus.replicas.copies import Copies, Key
from walrus.replicas.failover import SegmentRecovery
from walrus.replicas.latency import Took
from walrus.replicas.producers import Producers, Repetitions
from walrus.replicas.replication import SegmentWriter, Shared
from walrus.rota import Rota
from walrus.segments import Command, Metadata, Seal
from walrus.storage.batch import Checksum
from walrus.wire.effects import Outbox, Trace
from walrus.wire.errors import NO_ERROR
from walrus.wire.messages import AppendReply, CopyReply, FenceReply, Forward, ForwardReply, Recover

MAX_SEALS = 200
"""Seals of this node that are proposed and not applied yet."""

MAX_LOOKED = 1_000
"""Writers that one tick shows the clock, which each sees every `monitor_check` seconds; and as many that
learn that a replica is back."""

MAX_EARLY = 1_000
"""Forwards kept per topic for segments that this node has not heard of yet."""


class Early(msgspec.Struct):
    """A forward for a segment that this node does not know to be open yet."""

    origin: int
    forward: Forward
    deadline: float


class EarlyForwards:
    """Those forwards: bounded in number for each topic, and in bytes for all together."""

    def __init__(self, max_bytes: int) -> None:
        self._waiting: dict[str, deque[Early]] = {}
        self._max_bytes = max_bytes
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, early: Early) -> None:
        """Keep one until its segment is known. Beyond the limits it is dropped; its origin says "unknown"."""
        topic, weight = early.forward.topic, early.forward.batch.weight
        if self.bytes + weight > self._max_bytes or len(self._waiting.get(topic, ())) >= MAX_EARLY:
            return
        self._waiting.setdefault(topic, deque()).append(early)
        self.bytes += weight

    def take(self, topic: str) -> Collection[Early]:
        """All of a topic, in order."""
        taken = self._waiting.pop(topic, deque())
        self.bytes -= sum(early.forward.batch.weight for early in taken)
        return taken

    def expire(self, now: float) -> None:
        """Drop those of topics of which the first is too old: their origins answer at their own deadlines."""
        for topic in [topic for topic, early in self._waiting.items() if early[0].deadline <= now]:
            self.take(topic)


class Writers(dict[str, SegmentWriter]):
    """The writers of this node, by topic: at most one each, for the topic's open segment."""

    def __init__(self, unix_time: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__()
        self.unix_time = unix_time
        self.advanced: dict[str, None] = {}
        """Topics of which more is acknowledged than when this was looked at last."""
        self.repetitions = Repetitions()
        self.took = Took()

    def of(self, topic: str, number: int) -> SegmentWriter | None:
        """Return the writer of a segment, if this node has it."""
        writer = self.get(topic)
        return writer if writer is not None and writer.number == number else None

    def commit_index(self, topic: str, number: int) -> int | None:
        """Return how many entries of a segment are acknowledged, if this node is its writer."""
        writer = self.of(topic, number)
        return None if writer is None else writer.commit_index


class Looks:
    """What concerns all writers of a node, of which each has its turn. What it returns are their topics."""

    def __init__(self, writers: Writers, monitor_check: float) -> None:
        self._writers, self._monitor_check = writers, monitor_check
        self._look_at = 0.0
        self._clock = Rota[str]()
        self._came: dict[int, Rota[str]] = {}  # nodes that not all writers know yet to be back

    @property
    def busy(self) -> bool:
        """Whether some writer has not heard yet that a replica is back."""
        return bool(self._came)

    def show_the_clock(self, now: float) -> dict[str, None]:
        """The next segments may have grown too old, or be full by other settings."""
        if self._clock.over and now < self._look_at:
            return {}
        if self._clock.over:
            self._look_at = now + self._monitor_check
        looked = dict.fromkeys(self._clock.share(MAX_LOOKED, lambda: self._writers))
        for topic in looked:
            if writer := self._writers.get(topic):
                writer.check_threshold(now)
        return looked

    def on_connection(self, node: int, connected: bool) -> None:
        """A round of telling begins, if the node is there; one that it went in is over."""
        self._came.pop(node, None)
        if connected:
            self._came[node] = Rota()

    def tell(self, first: Iterable[str], now: float) -> dict[str, None]:
        """The next writers ask the replicas that are back for their lengths; first those that wait for them.

        A writer that has not had its turn holds a replica for one out of reach, as it did until now.
        """
        told: dict[str, None] = {}
        for node, rota in list(self._came.items()):
            for topic in rota.share(MAX_LOOKED, lambda: [*first, *self._writers]):
                writer = self._writers.get(topic)
                if writer is not None and not writer.reaches(node):
                    writer.on_connection(node, True, now)
                    told[topic] = None
            if rota.over:
                del self._came[node]
        return told


class Proposals:
    """The Seals that this node has proposed and not seen applied: `MAX_SEALS` at once.

    Each is proposed again after an interval until it is applied, for a proposal may be lost. Where a node
    dies that led thousands of segments, all of them would be proposed again faster than Raft commits them,
    and the repetitions alone would keep the Raft leader from leading. One that was not applied in time makes
    room for another.
    """

    def __init__(self, resend_interval: float) -> None:
        self._resend_interval = resend_interval
        self._until: dict[Key, float] = {}  # in the order in which they are due again

    def has_room(self, now: float) -> bool:
        """Whether another Seal may be proposed now."""
        while self._until and self._until[first := next(iter(self._until))] <= now:
            del self._until[first]
        return len(self._until) < MAX_SEALS

    def allows(self, key: Key, now: float) -> bool:
        """Whether the Seal of this segment may be proposed (again) now."""
        return self.has_room(now) and key not in self._until

    def note(self, key: Key, now: float) -> None:
        """It is proposed now."""
        assert key not in self._until and len(self._until) < MAX_SEALS, (
            "RolloverProgress: a Seal is proposed that may not be"
        )
        self._until[key] = now + self._resend_interval

    def applied(self, key: Key) -> None:
        """The segment is sealed."""
        self._until.pop(key, None)


class Recoveries(dict[Key, SegmentRecovery]):
    """This node's recoveries, and of those that are done when the end of the segment is proposed (again).

    A look at every recovery in every turn would cost the square of their number where a node dies that led
    thousands of segments.
    """

    def __init__(self, resend_interval: float) -> None:
        super().__init__()
        self.failovers = Failovers()
        self._resend_interval = resend_interval
        self._done: list[tuple[float, Key]] = []  # a heap

    def go_on(self, recovery: SegmentRecovery, step: Callable[[], None], now: float) -> None:
        """A recovery takes a step, which may be its last."""
        was_done = recovery.found is not None
        step()
        if recovery.fenced:
            self.failovers.note(recovery.key, FENCED, now)
        if recovery.found is not None and not was_done:
            self.failovers.note(recovery.key, RECOVERED, now)
            heappush(self._done, (now, recovery.key))

    def next_due(self, now: float) -> Key | None:
        """One whose segment is to be ended now; it comes again until its Seal is applied."""
        while self.is_due(now):
            _, key = heappop(self._done)
            if key in self:
                heappush(self._done, (now + self._resend_interval, key))
                return key
        return None

    def is_due(self, now: float) -> bool:
        """Whether `next_due` may say one."""
        return bool(self._done) and self._done[0][0] <= now


class Lifecycle:
    """This node's writers and recoveries."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        copies: Copies,
        leases: LeaseTable,
        cursors: Cursors,
        queues: Queues,
        outbox: Outbox,
        trace: Trace,
        connected: Collection[int],
        voters: Callable[[], list[int]],
        propose: Callable[[Command, float], None],
        writers: Writers,
    ) -> None:
        self._config, self._metadata, self._copies = config, metadata, copies
        self.leases, self._cursors, self._outbox, self._trace = leases, cursors, outbox, trace
        self._queues = queues
        self._connected, self._voters, self._propose = connected, voters, propose
        self.writers = writers
        self.recoveries = Recoveries(config.resend_interval)
        self._early = EarlyForwards(config.max_pending_bytes)
        self._shared: dict[str, Shared] = {}
        self._dirty: dict[str, None] = {}
        self._waiting: dict[str, None] = {}  # topics whose writer waits for an answer, or for the clock
        self._seals = Proposals(config.resend_interval)
        self._ending: dict[str, int] = {}  # topic -> its segment that this node seals, or recovers
        self._looks = Looks(writers, config.monitor_check)

    @property
    def busy(self) -> bool:
        """Return whether anything here waits for an answer."""
        return bool(self.recoveries or self._early or self._looks.busy)

    def due(self, now: float) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._dirty) or (self.recoveries.is_due(now) and self._seals.has_room(now))

    def placeable(self) -> list[int]:
        """The nodes that a new segment may be given to: voters that this node reaches, sorted."""
        reachable = {*self._connected, self._config.node_id}
        return [node for node in self._voters() if node in reachable]

    def replicas_for(self, leader: int, live: list[int], at_least: int = 0) -> tuple[int, ...]:
        """The replica set of a new segment of this leader."""
        factor = max(self._config.replication_factor, at_least)
        return replica_set(leader, live, self._voters(), factor)

    # --- PUTs ---

    def on_forward(self, origin: int, forward: Forward, now: float) -> None:
        """Entries for a segment that this node leads, or is about to, or no longer does."""
        writer = self.writers.get(forward.topic)
        current, _ = self._metadata.open_segment(forward.topic) or (0, None)
        if writer is not None and writer.number == forward.segment:
            writer.on_forward(origin, forward, now)
            self._dirty[forward.topic] = None
        elif current < forward.segment and not self._metadata.is_gone(forward.topic, forward.segment):
            self._early.add(Early(origin, forward, now + self._config.put_timeout))
        elif self._was_never_taken(origin, forward):
            refusal = ForwardReply(
                request=forward.request,
                topic=forward.topic,
                segment=forward.segment,
                taken=0,
                acked=0,
                refused=True,
                error=NO_ERROR,
            )
            self._outbox.send(origin, refusal)

    def _was_never_taken(self, origin: int, forward: Forward) -> bool:
        """Whether a forward that no writer waits for can be handed back as certainly not written.

        It may be the repetition of one that was written, and what is handed back is sent to the next
        segment. So only the process that led the segment may say so, and only of a number that it has not
        seen; of all else the outcome is unknown, and nothing is said.
        """
        segment = self._metadata.segment(forward.topic, forward.segment)
        seen = {} if segment is None else self._shared_by(forward.topic).seen  # nothing of what is gone
        if segment is None or not self.leases.is_ours(segment) or forward.request <= seen.get(origin, 0):
            return False
        seen[origin] = forward.request
        return True

    def forget_node(self, node: int) -> None:
        """A node was removed: another one that joins under its id numbers its forwards anew."""
        for shared in self._shared.values():
            shared.seen.pop(node, None)

    def _shared_by(self, topic: str) -> Shared:
        """What all writers of a topic here share."""
        return self._shared.setdefault(topic, Shared(advanced=self.writers.advanced))

    def on_append_reply(self, node: int, reply: AppendReply, now: float) -> None:
        """A replica's length, for the writer of that segment."""
        writer = self.writers.of(reply.topic, reply.segment)
        if writer is None:
            return
        before = writer.commit_index
        writer.on_reply(node, reply, now)
        if writer.commit_index > before or reply.gap or writer.copy.fenced:
            self._dirty[reply.topic] = None  # the answer of the slowest replica changes nothing

    def on_fence(self, topic: str) -> None:
        """A copy of the topic was fenced: perhaps the one that is written to here."""
        if topic in self.writers:
            self._dirty[topic] = None

    def roll_over(self, topic: str, number: int, replicas: int) -> None:
        """End a segment early, for one with (at least) so many replicas."""
        writer = self.writers.of(topic, number)
        if writer is not None:
            writer.next_replicas = replicas
            writer.begin_seal()
            self._dirty[topic] = None

    def on_connection(self, node: int, connected: bool, now: float) -> None:
        """A connection came or went. Of the one that there was, all writers learn at once that it is over."""
        for writer in self.writers.values():
            writer.on_connection(node, False, now)
        self._looks.on_connection(node, connected)
        self._dirty |= self._looks.tell(self._waiting, now)

    def on_tick(self, now: float) -> None:
        """Deadlines, and the periodic look at thresholds."""
        for topic in list(self._waiting):
            writer = self.writers.get(topic)
            if writer is None or writer.idle:
                del self._waiting[topic]
            else:
                writer.on_tick(now)
                self._dirty[topic] = None
        for key in self._copies.damaged:  # a reader, or a checksum, met the damage before the writer did
            damaged = self.writers.of(*key)
            if damaged is not None and not damaged.copy.fenced:
                damaged.hand_over("damage that a reader found")
                self._dirty[key[0]] = None
        for recovery in self.recoveries.values():
            recovery.on_tick(now)
        self._early.expire(now)
        self._dirty |= self._looks.tell(self._waiting, now) | self._looks.show_the_clock(now)

    def flush(self, now: float) -> None:
        """Append what this turn brought; go on with the seals and recoveries that are due."""
        dirty, self._dirty = self._dirty, {}
        for topic in dirty:
            writer = self.writers.get(topic)
            if writer is None:
                continue
            writer.flush(now)
            if not writer.idle:
                self._waiting[topic] = None
            if writer.copy.fenced:
                self.recover(topic, writer.number, now)  # a recovery began, and may have died
            elif self._metadata.topics[topic].deleting:
                self._end(writer, now)
            elif writer.all_acknowledged:
                self._seal(writer, now)
        for topic in self.recoveries.failovers.awaited.keys() & self.writers.advanced.keys():
            writer = self.writers.of(topic, self.recoveries.failovers.awaited[topic] + 1)
            if writer is not None and writer.commit_index:
                self.recoveries.failovers.acknowledged(topic, now)
        while self._seals.has_room(now) and (due := self.recoveries.next_due(now)):
            self.recover(*due, now)

    # --- the end of a segment ---

    def _note(self, key: Key, now: float) -> None:
        """The Seal of a writer is proposed; it will be again."""
        topic, number = key
        self._ending[topic] = number
        self._seals.note(key, now)
        self._waiting[topic] = self._waiting.pop(topic, None)  # behind those that had no room

    def _seal(self, writer: SegmentWriter, now: float) -> None:
        """Propose the end of a segment whose writer is done."""
        key = (writer.topic, writer.number)
        if not self._seals.allows(key, now):
            return
        cursors = self._cursors.freeze(writer.topic)
        groups, handed = self._queues.freeze(writer.topic)
        live = self.placeable()
        if cursors is None or not live:
            return
        self._note(key, now)
        count, checksum = writer.ready_to_seal()
        places = [[group, *position] for group, position in cursors.items()]
        told = {"groups": groups_told(groups), "handed": handed_told(handed)}
        self._copies.record("ProposeSeal", writer.copy, count=count, cursors=places, **told)
        leader, stamp = next_leader(self._config.node_id, live), self._stamp(writer.topic)
        self._propose(
            Seal(
                topic=writer.topic,
                segment=writer.number,
                count=count,
                checksum=checksum,
                leader=leader,
                replicas=self.replicas_for(leader, live, writer.next_replicas),
                cursors=cursors,
                groups=groups,
                handed=handed,
                producers=writer.producers.since,
                size=writer.bytes if stamp else 0,
                sealed_ms=stamp,
            ),
            now,
        )

    def _end(self, writer: SegmentWriter, now: float) -> None:
        """Propose the Seal that is the end of a deleted topic: nothing is handed on, for nothing follows.

        The writer stops before there is room for its Seal: from then on it waits for its turn, as others do.
        """
        key = (writer.topic, writer.number)
        if not writer.seal_proposed:
            self._cursors.freeze(writer.topic)
            self._queues.freeze(writer.topic)
            writer.end()
        self._waiting.setdefault(writer.topic)
        live = self.placeable()
        if not live or not self._seals.allows(key, now):
            return
        self._note(key, now)
        # No segment follows, but the Raft leader appends no Seal that names a node that is leaving, as this
        # one may be.
        count, leader = writer.commit_index, next_leader(self._config.node_id, live)
        self._copies.record("ProposeSeal", writer.copy, count=count, cursors=[], groups=[], handed=[])
        self._propose(
            Seal(
                topic=writer.topic,
                segment=writer.number,
                count=count,
                checksum=Checksum(),
                leader=leader,
                replicas=self.replicas_for(leader, live),
                cursors={},
            ),
            now,
        )

    def recover(self, topic: str, number: int, now: float) -> None:
        """Begin to recover a segment, or go on: propose its end once a majority holds what was found."""
        key = (topic, number)
        segment = self._metadata.segment(topic, number)
        if segment is None or segment.sealed:
            return
        recovery = self.recoveries.get(key)
        if recovery is None:
            self._ending[topic] = number
            self._outbox.log(f"recovering segment {number} of {topic} from node {segment.leader}")
            self.recoveries.failovers.begin(key, segment.leader, NOTICED, now)
            recovery = self.recoveries[key] = SegmentRecovery(
                key, segment, config=self._config, outbox=self._outbox, trace=self._trace, now=now
            )
        if recovery.found is None:
            return
        live = self.placeable()
        if not live or not self._seals.allows(key, now):
            return
        self._seals.note(key, now)
        leader = next_leader(segment.leader, [node for node in live if node != segment.leader] or live)
        self._propose(
            Seal(
                topic=topic,
                segment=number,
                count=recovery.found.count,
                checksum=recovery.found.checksum,
                leader=leader,
                replicas=self.replicas_for(leader, live),
                cursors={},
                recovered=True,
                producers=recovery.found.producers,
                sealed_ms=self._stamp(topic),
            ),
            now,
        )

    def _stamp(self, topic: str) -> int:
        """Unix milliseconds for a Seal, if retention may ask for them: earlier releases cannot read that."""
        if not self._config.retains(self._metadata.topics[topic].settings):
            return 0
        return max(1, round(self.writers.unix_time() * 1000))

    def on_fence_reply(self, node: int, reply: FenceReply, now: float) -> None:
        """A replica is fenced, for the recovery of that segment."""
        if recovery := self.recoveries.get((reply.topic, reply.segment)):
            self.recoveries.go_on(recovery, lambda: recovery.on_fence_reply(node, reply, now), now)

    def on_copy_reply(self, node: int, reply: CopyReply, now: float) -> None:
        """A replica extended its copy, for the recovery of that segment."""
        if recovery := self.recoveries.get((reply.topic, reply.segment)):
            self.recoveries.go_on(recovery, lambda: recovery.on_copy_reply(node, reply, now), now)

    def on_recover(self, message: Recover, now: float) -> None:
        """An operator accepts what the copies that answered hold."""
        recovery = self.recoveries.get((message.topic, message.segment))
        if recovery and recovery.waits_for_sure_copies:
            self._outbox.log(
                f"an operator ends the recovery of {message.topic}/{message.segment} with the copies that "
                "answered: entries acknowledged before the power loss may be missing"
            )
            self.recoveries.go_on(recovery, lambda: recovery.force(now), now)

    # --- the metadata changed ---

    def on_topic(self, topic: str, now: float) -> None:
        """Forget what is sealed; open a writer for the segment that we now lead."""
        known = self._metadata.topics.get(topic)
        number = known.current if known is not None else self._metadata.next_number(topic)
        ending = self._ending.get(topic)
        if ending is not None and ending < number:
            self._ended((topic, ending), now)
        writer = self.writers.get(topic)
        if writer is not None and writer.number != number:
            writer.close()
            del self.writers[topic]
        if known is None:
            self._shared.pop(topic, None)
        elif writer is not None and writer.number == number:
            writer.configure(known.settings)
            self._dirty[topic] = None
        if self.leases.granted().get(topic) == number and topic not in self.writers:
            self._open(topic, number, now)

    def _ended(self, key: Key, now: float) -> None:
        """A segment that this node was about to seal, or recovers, has ended."""
        self._seals.applied(key)
        del self._ending[key[0]]
        if self.recoveries.pop(key, None) is None:
            return
        segment = self._metadata.segment(*key)
        if segment is not None and segment.recovered:
            self.recoveries.failovers.note(key, SEALED, now)
        else:
            self.recoveries.failovers.forget(key)

    def _open(self, topic: str, number: int, now: float) -> None:
        copy, segment = self._copies.get((topic, number)), self._metadata.topics[topic].open
        if copy.length or copy.fenced:
            self.recover(topic, number, now)  # a recovery began before this node learnt that it leads
            return
        if self._copies.recording:
            known = producers_told(self._metadata.topics[topic].producers)
            self._trace("Grant", topic=topic, segment=number, producers=known)
        before = self._metadata.segment(topic, number - 1)
        if before is not None and before.recovered:
            self.recoveries.failovers.begin((topic, number - 1), before.leader, OPENED, now)
        self.writers[topic] = SegmentWriter(
            topic,
            number,
            segment,
            config=self._config,
            copies=self._copies,
            leases=self.leases,
            outbox=self._outbox,
            connected=self._connected,
            now=now,
            shared=self._shared_by(topic),
            producers=Producers(
                self._metadata.topics[topic].producers, self.writers.unix_time, self.writers.repetitions
            ),
            settings=self._metadata.topics[topic].settings,
            took=self.writers.took,
        )
        self._dirty[topic] = None

    def replay_early(self, topic: str, now: float) -> None:
        """Forwards that came before we knew of their segment."""
        for early in self._early.take(topic):
            self.on_forward(early.origin, early.forward, now)

    def check_invariants(self) -> None:
        """Assert what must hold of writers and recoveries."""
        self.recoveries.failovers.check_invariants()
        for topic, writer in self.writers.items():
            writer.check_invariants()
            current, _ = self._metadata.open_segment(topic) or (0, None)
            assert writer.segment.leader == self._config.node_id, "SingleWriter"
            assert writer.number == current, "NoWritesPastOpen: a writer of a segment that has ended"
        for (topic, number), recovery in self.recoveries.items():
            recovery.check_invariants()
            current, _ = self._metadata.open_segment(topic) or (0, None)
            assert self._ending.get(topic) == number == current, (
                "SealedStable: a recovery of a segment that has ended"
            )
