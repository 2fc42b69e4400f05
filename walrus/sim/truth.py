"""The truth about a simulated cluster: what its disks and nodes hold, seen all at once.

No node can see this, and nothing here influences a node. Each part is recorded from the moment at which it
comes into being:

    committed      the Raft log as it was first applied on any node, and the metadata that it makes
    streams        per segment the entries its one writer took, in order: a copy is a prefix of this
    acked          per segment how many of them were acknowledged
    lengths        per segment and node the length of the copy on that disk
    durable        per node what a power loss cannot take of its writes (`durable.py`)
    given          per topic and group which entries reached a client

`Truth` observes processes (`host.Observer`) and what happens to them, and notes what is *fresh*: changed
since the invariants were checked last. It judges nothing: `invariants.py` says what must hold, and
`judge.py` when to check it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, assert_never
from zlib import crc32

import msgspec

from walrus.broker.dead_letters import dead_letter_topic
from walrus.consensus.messages import (
    COMMAND,
    MEMBERSHIP,
    Entry,
    HardState,
    Membership,
    Ready,
    Role,
    Snapshot,
)
from walrus.replicas.copies import NOTES, SHADOW, Key
from walrus.segments import (
    START,
    Announce,
    CommitCursors,
    CommitGroups,
    ConfigureTopic,
    DeleteTopic,
    MarkLeaving,
    Metadata,
    MoveGroup,
    Position,
    RegisterTopic,
    RemoveNode,
    Seal,
    SetReplicas,
    Trim,
    decode_command,
)
from walrus.sim.deliveries import DeliveryRecords
from walrus.sim.drives import DATA, META
from walrus.sim.durable import DurableTruth, NodeLog
from walrus.sim.host import Host
from walrus.sim.options import Options
from walrus.sim.retained import RetentionRecords
from walrus.storage.batch import Batch
from walrus.storage.errors import CorruptionError
from walrus.storage.port import Storage


class Write(NamedTuple):
    """Entries that went to a copy.

    `before` is the length of the copy until then, `differs` the offset at which the entries depart from the
    stream (-1: nowhere), `originated` the number of entries that the stream did not have yet.
    """

    node: int
    incarnation: int
    key: Key
    start: int
    entries: int
    before: int
    differs: int
    originated: int


class SegmentTruth:
    """What is known of one segment."""

    __slots__ = ("acked", "excused", "lengths", "stream", "synced", "times", "writer")

    def __init__(self) -> None:
        self.stream: list[bytes] = []
        self.times: list[int] = []
        """The append time of each entry of `stream`, as it was written first."""
        self.acked = 0
        self.writer = (0, 0, 0)
        """The writer's node and process, and its commit index when it was last checked."""
        self.lengths: dict[int, int] = {}
        self.synced: dict[int, int] = {}
        """Node -> how many entries a power loss cannot take."""
        self.excused: dict[int, int] = {}
        """Node -> former length of its copy, which a power loss shortened although it had been reported."""


class ReplicaChange(NamedTuple):
    """A sealed segment got other replicas. `members`: the most nodes that could hold one until then."""

    key: Key
    before: tuple[int, ...]
    after: tuple[int, ...]
    members: int


class LogEntry(NamedTuple):
    """What LogMatching compares: for each (index, term) there is one entry with one predecessor."""

    previous_term: int
    kind: int
    crc: int


class GroupTruth:
    """What a consumer group was given: everything below `upto`, and the positions in `ahead` beyond it."""

    __slots__ = ("ahead", "upto")

    def __init__(self) -> None:
        self.upto = START
        self.ahead: set[Position] = set()


class Truth:
    """The actual state of the cluster, and which parts of it are fresh."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.hosts: dict[int, Host] = {}
        self.metadata = Metadata()
        self.committed: list[Entry] = []
        self.membership = Membership()
        self.fewest_voters = options.nodes
        """The fewest voters so far, without those that leave: the least size of a replica set."""
        self.truths: dict[Key, SegmentTruth] = {}
        self.names: dict[tuple[int, str], int] = {}
        self.places: dict[bytes, tuple[Key, int]] = {}
        """Payload -> where it was written first."""
        self.again: dict[bytes, list[tuple[Key, int]]] = {}
        """Payload -> where it was written later: by error, or because no seal kept the first place."""
        self.sealed_as: dict[Key, int] = {}
        self.retention = RetentionRecords(self.sealed_as, options.settings["failure_timeout"])
        """What was dropped: see `retained.py`."""
        self.groups: dict[tuple[str, str], GroupTruth] = {}
        self.deliveries = DeliveryRecords(self)
        self.numbered: dict[bytes, tuple[str, int]] = {}
        """Payload -> producer and number, for producers that number their entries."""
        self.now = 0.0
        """The world's time."""
        self.cursors: dict[tuple[str, str], Position] = {}
        """Where each committed cursor was at the last check."""
        self.logs: dict[int, NodeLog] = {}
        self.durable: dict[int, DurableTruth] = {}
        self.commit_indexes: dict[int, tuple[int, int]] = {}
        """Node -> its process, and its commit index at the last check."""
        self.log_entries: dict[tuple[int, int], LogEntry] = {}
        self.leaders: dict[int, int] = {}
        self.checkpoints: dict[int, int] = {}
        self.rotten: dict[Key, tuple[int, str]] = {}
        """The copy of a segment (node, engine topic) that has flipped bits and was not rebuilt since."""
        self.unknown: set[int] = set()
        """Nodes that lost power and did not start since: what they hold is not known yet."""
        self.removed: set[int] = set()
        """Nodes that were members and have been removed."""
        self.halts: dict[int, str] = {}
        self.seen: Counter[str] = Counter()
        """Counts of what has happened so far: faults, messages, commands and rare steps (`coverage.py`)."""
        # What is fresh.
        self.host: Host | None = None
        self.writes: list[Write] = []
        self.keys: dict[Key, None] = {}
        self.topics: dict[str, None] = {}
        self.applied = False
        self.conflicts: list[tuple[str, str]] = []
        self.replica_changes: list[ReplicaChange] = []
        self._raft_states: dict[int, tuple[object, ...]] = {}

    def is_stranger(self, host: Host) -> bool:
        """Return whether this machine runs with a copy of another one's directory, under the same id."""
        return self.hosts.get(host.id) is not host

    def forget(self, node: int) -> None:
        """Forget a removed machine, which gets an empty directory."""
        for owner, name in [known for known in self.names if known[0] == node]:
            del self.names[(owner, name)]
        for key in [key for key, (owner, _) in self.rotten.items() if owner == node]:
            del self.rotten[key]
        for truth in self.truths.values():
            for held in (truth.lengths, truth.synced, truth.excused):
                held.pop(node, None)
        self.unknown.discard(node)
        self.removed.discard(node)

    def add(self, host: Host) -> None:
        """Add a new machine."""
        self.hosts[host.id] = host
        self.logs[host.id] = NodeLog()
        self.durable[host.id] = DurableTruth()

    # --- what is known of segments ---

    def truth(self, key: Key) -> SegmentTruth:
        """Return what is known of this segment."""
        truth = self.truths.get(key)
        if truth is None:
            truth = self.truths[key] = SegmentTruth()
        return truth

    def holders(self, key: Key, count: int) -> set[int]:
        """Return the replicas that hold `count` entries, with `--fsync each` even after a power loss."""
        segment, truth = self.metadata.segment(*key), self.truth(key)
        held = truth.synced if self.options.fsync == "each" else truth.lengths
        nodes = segment.replicas if segment is not None else ()
        return {node for node in nodes if held.get(node, 0) >= count and not self.hosts[node].left}

    def settled(self, key: Key) -> int:
        """Return how many entries of a segment readers may see, or might until it was dropped."""
        sealed = self.sealed_as.get(key)
        return self.truth(key).acked if sealed is None else sealed

    def written_at(self, payload: bytes) -> list[tuple[Key, int]]:
        """Return the positions of this entry: several, if a recovery gave it up and it was sent again."""
        first = self.places.get(payload)
        return [first, *self.again.get(payload, ())] if first is not None else []

    def settled_places(self, payload: bytes) -> list[tuple[Key, int]]:
        """Return the positions at which readers may see this entry: one, if all is well."""
        places = self.written_at(payload)
        return [(key, offset) for key, offset in places if offset < self.settled(key)]

    @property
    def founded(self) -> bool:
        """Return whether all members have announced a start: no topic is registered before that."""
        nodes = self.metadata.nodes.values()
        return bool(nodes) and all(node.incarnation for node in nodes)

    def segments(self, topic: str) -> int:
        """Return how many segments the topic has had."""
        known = self.metadata.topics.get(topic)
        return known.current if known else 0

    def order(self, topic: str) -> list[bytes]:
        """Return the settled entries of the topic, in order."""
        entries: list[bytes] = []
        for number in range(1, self.segments(topic) + 1):
            entries += self.truth((topic, number)).stream[: self.settled((topic, number))]
        return entries

    def kept_places(self, payload: bytes) -> list[tuple[Key, int]]:
        """Return the positions of an entry, except those beyond the sealed count of their segment."""
        places = self.written_at(payload)
        return [(key, offset) for key, offset in places if offset < self.sealed_as.get(key, offset + 1)]

    def is_given_up(self, topic: str, position: Position) -> bool:
        """Return whether no copy need hold this entry any more: lost unsynced in a power loss, or rotted."""
        key = (topic, position.segment)
        return self.options.fsync != "each" or bool(self.truth(key).excused) or key in self.rotten

    def is_dead_letter(self, topic: str, position: Position) -> bool:
        """Return whether readers can see the entry in the topic's dead-letter topic."""
        stream = self.truth((topic, position.segment)).stream
        places = self.settled_places(stream[position.offset]) if position.offset < len(stream) else []
        return any(key[0] == dead_letter_topic(topic) for key, _ in places)

    def advance(self, topic: str, group: GroupTruth) -> None:
        """Advance the position up to which the group was given everything."""
        while True:
            group.upto = self.metadata.topics[topic].advance(group.upto)
            if group.upto not in group.ahead:
                return
            group.ahead.remove(group.upto)
            group.upto = Position(group.upto.segment, group.upto.offset + 1)

    # --- what processes do (`host.Observer`) ---

    def on_write(self, node: int, engine: str, name: str, start: int, batch: Batch) -> None:
        """Compare entries of a copy with the stream, or extend the stream with them."""
        if engine != DATA:
            for note in batch.payloads() if name == NOTES else ():
                self.durable[node].noted(note)
            return
        key = key_of(name)
        if key is None:
            return
        truth, host = self.truth(key), self.hosts[node]
        self.seen["copy made anew"] += name.endswith(SHADOW)
        before = self.names.get((node, name), 0)
        self._compare_times(host, key, truth, start, batch.times())
        self._compare(host, key, truth, start, batch.payloads(), before, host.record.incarnation)
        self.names[(node, name)] = end = start + batch.count
        self.durable[node].wrote(name, end)
        truth.lengths[node] = max(end, truth.lengths.get(node, 0))
        if truth.excused and end >= truth.excused.get(node, end + 1):
            del truth.excused[node]

    def _former(self, host: Host, key: Key) -> int:
        """Return the incarnation that wrote what this node finds in a copy: the one that led the segment.

        The process may have died in the middle of a write, before that write was observed.
        """
        segment = self.metadata.segment(*key)
        ours = segment is not None and segment.leader == host.id
        return segment.incarnation if segment and ours else host.record.incarnation

    def _compare(
        self,
        host: Host,
        key: Key,
        truth: SegmentTruth,
        start: int,
        payloads: list[bytes],
        before: int,
        incarnation: int,
    ) -> None:
        stream, differs = truth.stream, -1
        known = stream[start : start + len(payloads)]
        if known != payloads[: len(known)]:
            differs = start + next(i for i, (a, b) in enumerate(zip(known, payloads, strict=False)) if a != b)
        fresh = payloads[len(known) :]
        if fresh and start <= len(stream):
            for position, payload in enumerate(fresh, len(stream)):
                if self.places.setdefault(payload, (key, position)) != (key, position):
                    self.again.setdefault(payload, []).append((key, position))
            stream += fresh
        self.writes.append(
            Write(host.id, incarnation, key, start, len(payloads), before, differs, len(fresh))
        )

    def _compare_times(
        self, host: Host, key: Key, truth: SegmentTruth, start: int, written: list[int]
    ) -> None:
        """Check that an entry has one time on every copy, and that no time is before its predecessor's."""
        times = truth.times
        known = times[start : start + len(written)]
        if known != written[: len(known)]:
            what = f"node {host.id} has {key} from {start} on written at {written}, others at {known}"
            self.conflicts.append(("TimesAgree", what))
        fresh = written[len(known) :]
        if fresh and start <= len(times):
            both = [*times[-1:], *fresh]
            if both != sorted(both):
                what = f"node {host.id} goes on in {key} with times {both}"
                self.conflicts.append(("TimesAscend", what))
            times += fresh

    def on_delete(self, node: int, engine: str, name: str) -> None:
        """A copy, or a shadow of one, was deleted."""
        key = key_of(name) if engine == DATA else None
        durable = self.durable[node].copies.get(name, 0)
        self.durable[node].deleted(name)
        if key is not None and self.rotten.get(key) == (node, name):
            del self.rotten[key]
        if key is not None and self.names.pop((node, name), None) is not None:
            other = name.removesuffix(SHADOW) if name.endswith(SHADOW) else name + SHADOW
            left = self.names.get((node, other), 0)
            if left < min(durable, self.sealed_as.get(key, durable)) and not self.metadata.is_gone(*key):
                what = f"node {node} deletes {name} with {durable} entries, and {other} has {left}"
                self.conflicts.append(("AckedDurable", what))
            self.truth(key).lengths[node] = left
            self.truth(key).synced[node] = self.durable[node].copies.get(other, 0)
            self.keys[key] = None

    def on_full(self, node: int, engine: str, what: str) -> None:
        """An engine had no room for this kind of write."""
        self.seen[f"no room to {what}, {engine}"] += 1

    def on_persist(self, node: int, ready: Ready) -> None:
        """Extend, cut or replace the log as this `Ready` does, and check it."""
        log, host = self.logs[node], self.hosts[node]
        controller = host.controller
        leading = controller.raft.current_term if controller and controller.raft.role is Role.LEADER else 0
        if ready.entries and not ready.checkpoint:
            first = ready.entries[0].index
            self.seen["log cut off"] += first <= log.last
            if leading and leading == log.leading and first <= log.last:
                self.conflicts.append(
                    ("LeaderAppendOnly", f"leader {node} of term {leading} rewrites entry {first}")
                )
        self.seen["log compacted"] += ready.checkpoint is not None
        for snapshot in (ready.snapshot, ready.checkpoint):
            if snapshot is not None:
                self._compare_state(node, snapshot)
        log.take(msgspec.structs.replace(ready, entries=()))
        self._compare_entries(node, log, ready.entries)
        log.take(Ready(number=ready.number, entries=ready.entries))
        log.leading = leading
        self._compare_vote(node, ready)
        self.durable[node].persisted(ready)

    def _compare_vote(self, node: int, ready: Ready) -> None:
        """Check that the term never falls, and that a vote stays for the whole term."""
        before, now = self.durable[node].written, ready.hard_state
        if now is None or now.term > before.term:
            return
        if now.term < before.term or before.voted_for not in (None, now.voted_for):
            self.conflicts.append(("ElectionSafety", f"node {node} writes {now}, and wrote {before} before"))

    def _compare_state(self, node: int, snapshot: Snapshot) -> None:
        """Check that equal indexes give equal states."""
        crc = crc32(snapshot.data)
        if self.checkpoints.setdefault(snapshot.index, crc) != crc:
            what = f"node {node} has another state after entry {snapshot.index}"
            self.conflicts.append(("StateMachineSafety", what))

    def _compare_entries(self, node: int, log: NodeLog, entries: tuple[Entry, ...]) -> None:
        """Check that each index and term has one entry, with one predecessor."""
        previous = log.term(entries[0].index - 1) if entries else 0
        for entry in entries:
            if previous is None:
                self.conflicts.append(("LogMatching", f"node {node} writes entry {entry.index} after a gap"))
                return
            seen = LogEntry(previous, int(entry.kind), crc32(entry.data))
            if self.log_entries.setdefault((entry.index, entry.term), seen) != seen:
                self.conflicts.append(
                    ("LogMatching", f"node {node} has another entry {entry.index} of term {entry.term}")
                )
            previous = entry.term

    def on_apply(self, node: int, entries: tuple[Entry, ...]) -> None:
        """The first node to apply an index decides its entry; all others must apply the same."""
        for entry in entries:
            if entry.index <= len(self.committed):
                if self.committed[entry.index - 1] != entry:
                    what = f"node {node} applies {entry}, others {self.committed[entry.index - 1]}"
                    self.conflicts.append(("StateMachineSafety", what))
            elif entry.index == len(self.committed) + 1:
                self._commit(entry)
            else:
                self.conflicts.append(("StateMachineSafety", f"node {node} skips to entry {entry.index}"))

    def _staying(self) -> int:
        """Return how many voters are not marked as leaving."""
        nodes = self.metadata.nodes
        return sum(not (voter in nodes and nodes[voter].leaving) for voter in self.membership.voters)

    def _commit(self, entry: Entry) -> None:
        self.committed.append(entry)
        self.applied = True
        if entry.kind is MEMBERSHIP:
            self.membership = Membership.decode(entry.data)
        if entry.kind is not COMMAND:
            return
        self.fewest_voters = min(self.fewest_voters, self._staying())
        command = decode_command(entry.data)
        self.seen[type(command).__name__] += 1
        before = (
            self.metadata.segment(command.topic, command.segment)
            if isinstance(command, SetReplicas)
            else None
        )
        kept = self.retention.before(command, self.metadata)
        changed = self.metadata.apply(command)
        self.conflicts += self.retention.after(command, kept, self.metadata, self.now)
        if changed is not None and isinstance(command, RegisterTopic | Seal):
            self._opened(command)
        match command:
            case CommitCursors(cursors=moved) | CommitGroups(groups=moved):
                self.topics.update(dict.fromkeys(moved))
            case MoveGroup() | ConfigureTopic() | Trim() | DeleteTopic():
                self.topics[command.topic] = None
            case Seal() if changed is not None:
                self.seen["sealed by a recovery" if command.recovered else "sealed by its writer"] += 1
                full = command.recovered or command.count >= self.options.settings["max_segment_entries"]
                self.seen["rolled over by bytes"] += not full
                self.sealed_as.setdefault((command.topic, command.segment), command.count)
                self.keys[(command.topic, command.segment)] = None
                self.topics[command.topic] = None
            case SetReplicas() if changed is not None and before is not None:
                after = self.metadata.segment(command.topic, command.segment)
                assert after is not None
                key = (command.topic, command.segment)
                change = ReplicaChange(key, before.replicas, after.replicas, self.fewest_voters)
                self.replica_changes.append(change)
                self.keys[key] = None
                self.topics[command.topic] = None
            case RemoveNode() if command.node_id not in self.metadata.nodes:
                self.removed.add(command.node_id)
            case RegisterTopic() if changed is not None:
                self.topics[command.topic] = None
            case RegisterTopic() | Seal() | SetReplicas() | RemoveNode() | Announce() | MarkLeaving():
                pass  # without effect, or with an effect that is not judged here
            case _:
                assert_never(command)

    def _opened(self, command: RegisterTopic | Seal) -> None:
        """Check that a segment opens with as many replicas as the cluster has room for at this index."""
        nodes = self.metadata.nodes
        staying = [n for n in self.membership.voters if n not in nodes or not nodes[n].leaving]
        factor = next(iter(self.hosts.values())).config.replication_factor
        voting = [node for node in command.replicas if node in staying]
        if len(voting) < min(factor, len(staying)):
            what = f"{command.topic} goes on with replicas {command.replicas}, there are voters {staying}"
            self.conflicts.append(("EnoughReplicas", what))

    def on_restore(self, node: int, snapshot: Snapshot) -> None:
        """Check that a snapshot is the state that every node had at its index."""
        self.seen["snapshot installed"] += 1
        if snapshot.index > len(self.committed):
            self.conflicts.append(("StateMachineSafety", f"node {node} has a snapshot from the future"))
        self._compare_state(node, snapshot)

    # --- what the world does ---

    def sync_started(self, host: Host, engine: str) -> None:
        """A sync begins on this machine."""
        if self.is_stranger(host):
            return
        self.durable[host.id].sync_started(engine)

    def sync_ended(self, host: Host, engine: str) -> None:
        """A sync on this machine has succeeded."""
        if self.is_stranger(host):
            return
        durable = self.durable[host.id]
        for name in durable.sync_ended(engine):
            key = key_of(name)
            assert key is not None
            synced = self.truth(key).synced
            synced[host.id] = max(synced.get(host.id, 0), durable.copies[name])

    def before_start(self, host: Host) -> None:
        """A process opens its engines, which makes durable what is still there."""
        if self.is_stranger(host):
            return
        for engine in (DATA, META):
            self.durable[host.id].sync_started(engine)

    def found(self, host: Host) -> dict[str, int]:
        """Return the copies that a process has, and their lengths."""
        assert host.controller is not None
        storage = host.controller.data.storage
        return {name: storage.bounds(name)[1] for name in storage.topics() if key_of(name) is not None}

    def after_start(self, host: Host) -> None:
        """A process has read its disk: record what it found."""
        controller = host.controller
        assert controller is not None
        self.unknown.discard(host.id)
        storage, found = controller.data.storage, self.found(host)
        for name, length in found.items():
            key = key_of(name)
            assert key is not None
            for start, entries in readable(storage, name, length):
                self._compare(host, key, self.truth(key), start, entries, start, self._former(host, key))
        self._lengths(host.id, found)
        log, raft = self.logs[host.id], controller.raft
        log.begin(raft.log)
        self._compare_entries(
            host.id, log, raft.log.entries(raft.log.snapshot_index + 1, raft.log.last_index + 1)
        )
        hard_state = HardState(raft.current_term, raft.voted_for)
        self.durable[host.id].started(found, raft.log, hard_state, dict(controller.copies.noted))
        for name in found:
            key = key_of(name)
            assert key is not None
            self.truth(key).synced[host.id] = self.truth(key).lengths[host.id]

    def _lengths(self, node: int, found: dict[str, int]) -> None:
        """Record the lengths of a disk's copies, after a power loss or a restart may have changed them."""
        known = {name for owner, name in self.names if owner == node}
        by_key: dict[Key, int] = {}
        for name in sorted(known | set(found)):
            key = key_of(name)
            if key is not None:
                by_key[key] = max(by_key.get(key, 0), found.get(name, 0))
                self.names[(node, name)] = found.get(name, 0)
        for key, length in by_key.items():
            truth = self.truth(key)
            before = truth.lengths.get(node, 0)
            if length < before:
                if self.options.fsync != "each":
                    truth.excused[node] = max(before, truth.excused.get(node, 0))
                self.keys[key] = None
            truth.lengths[node] = length

    def lost_power(self, host: Host) -> None:
        """The machine lost power: unsynced writes may be lost."""
        if self.is_stranger(host):
            return
        self.durable[host.id].lost_power()
        lengths = host.drive.lengths()
        if lengths is None:
            self.unknown.add(host.id)
        else:
            self._lengths(host.id, lengths)

    def wounded(self) -> bool:
        """Return whether a copy that a power loss shortened still lacks entries that readers may see."""
        return any(
            truth.lengths.get(node, 0) < self.settled(key)
            for key, truth in self.truths.items()
            for node in truth.excused
        ) or (self.options.fsync != "each" and bool(self.unknown))

    def one_sound_copy_is_all(self) -> bool:
        """Return whether a further loss may be one too many: of two copies of an entry one may be bad."""
        return self.options.fsync != "each" and bool(self.rotten)

    def promises_to_lose(self, least: int) -> list[tuple[int, int]]:
        """Return (writer, replica) pairs: a power loss of the replica takes acknowledged entries.

        The segment is open, and at least `least` of its acknowledged entries are unsynced on the replica.
        """
        found = []
        for name, topic in self.metadata.topics.items():
            segment = topic.segments[-1]
            truth, nodes = self.truths.get((name, topic.current)), segment.replicas
            if truth is None or len(nodes) < 3 or not all(self.hosts[node].up for node in nodes):
                continue
            for node in nodes:
                held = truth.synced.get(node, 0), truth.lengths.get(node, 0)
                if node != segment.leader and held[0] + least <= truth.acked <= held[1]:
                    found.append((segment.leader, node))
        return found

    def perishable(self, node: int) -> list[str]:
        """Return the node's copies that may be damaged: a majority of copies stays intact. Oldest first."""
        found: list[tuple[int, str]] = []
        for (owner, name), length in self.names.items():
            key = key_of(name) if owner == node and length else None
            segment = self.metadata.segment(*key) if key else None
            if key is None or segment is None or self.rotten.get(key, (node, name)) != (node, name):
                continue
            if node in segment.replicas and len(segment.replicas) > 2:
                found.append((key[1], name))
        return [name for _, name in sorted(found)]

    def rots(self, node: int, name: str) -> None:
        """Bits have flipped in this copy."""
        key = key_of(name)
        assert key is not None
        self.rotten[key] = (node, name)

    def halted(self, host: Host, reason: str) -> None:
        """A node stops for good. Scenarios that expect this read `halts`."""
        if self.is_stranger(host):
            return
        self.halts[host.id] = reason

    def raft_moved(self, host: Host) -> bool:
        """Return whether anything but heartbeats happened in this node's Raft since the last call."""
        assert host.controller is not None
        raft = host.controller.raft
        state = (raft.current_term, raft.role, raft.log.last_index, raft.log.commit_index, host.process)
        moved = self._raft_states.get(host.id) != state
        self._raft_states[host.id] = state
        return moved

    def note_acks(self, host: Host) -> None:
        """Note what this node has acknowledged, before any other node hears of it."""
        if self.is_stranger(host):
            return
        controller = host.controller
        assert controller is not None
        for topic, writer in controller.writers.items():
            if writer.commit_index:
                key = (topic, writer.number)
                truth, index = self.truth(key), writer.commit_index
                node, process, before = truth.writer
                if (node, process) == (host.id, host.process) and index < before:
                    what = f"node {host.id}: the commit index of {key} fell, {before} to {index}"
                    self.conflicts.append(("AckedDurable", what))
                truth.writer = (host.id, host.process, index)
                if index > truth.acked:
                    truth.acked = index
                    self.keys[key] = None


def readable(storage: Storage, name: str, end: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the parts of an engine topic between damaged entries: the start index and entries of each."""
    start = 0
    while start < end:
        try:
            entries = storage.read_batch(name, start, end - start, 1 << 40).payloads()
        except CorruptionError as damage:
            start = damage.resume
        else:
            yield start, entries
            start += len(entries)


def key_of(name: str) -> Key | None:
    """Return the segment of which the engine topic `name` is a copy.

    >>> key_of("orders/eu/3"), key_of("orders/3~"), key_of("notes")
    (('orders/eu', 3), ('orders', 3), None)
    """
    topic, _, number = name.removesuffix(SHADOW).rpartition("/")
    return (topic, int(number)) if topic and number.isdigit() else None
