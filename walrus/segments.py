"""Topics, segments and nodes: the metadata that Raft replicates.

A topic is a list of segments with consecutive numbers. All but the last are *sealed*: their entry counts
and checksums are here and never change. The last one is *open*: it has one leader, which alone originates
entries in it, and a fixed set of replicas. Changing the leader means sealing the segment and opening the
next, so the segment number is the fencing token of the whole data plane.

The life of a segment (the life of a topic is a chain of these):

    state    its entries                        left by               because
    open     originated by one incarnation      Seal, not recovered   it was full, or its leader leaves
                                                Seal, recovered       its leader died or was cut off
    sealed   `count` of them, for ever          Trim, the last Seal   retention, or an operator: it is gone
                                                (until then only its replicas change: SetReplicas)

**A topic ends with a Seal.** DeleteTopic marks it (`Topic.deleting`), and the Seal of its open segment then
opens no other one: the topic is gone. So its writer has stopped, or a majority of the copies is fenced, as
at every Seal. If the topic went at once, a writer that had not heard of it would acknowledge entries that
nothing can find again, and a client that had registered the name anew would lose them.

`Metadata` is a deterministic state machine. Every node applies the same commands in the same order and so
holds the same state; tests compare its `digest`. Every command is an idempotent compare-and-set against the
state it was made for:

    Announce       a node joined or started: its addresses and incarnation    rises with the start's number
    RegisterTopic  open a topic's first segment                              only if the topic is unknown, and
                                                                             this is its next number
    ConfigureTopic settings of a topic                                       only if nothing was set since
    Trim           forget the oldest sealed segments                         only if the old first one is that
    DeleteTopic    mark a topic: it goes with its next Seal                  only if it was born with that one
    Seal           close segment s at a count and open s+1, or forget the    only if s is the open segment
                   topic; its next number stays, as a tombstone
    CommitCursors  readers moved                                             only forward
    CommitGroups   consumers acknowledged entries                            joined: see `acknowledged.py`
    MoveGroup      SEEK: a group begins anew somewhere                       only if the generation is that
    SetReplicas    a sealed segment was copied to another node               only if the old set is the set
                                                                             and the new one is as it was
    MarkLeaving    give this node nothing new                                only if it is that directory's
    RemoveNode     forget this node                                          and only if no segment needs it

That is why a proposal needs no answer: the proposer repeats it until the state shows the change, or has
moved past it. Of two competing Seals one is applied and the other finds `s` sealed:

    index   command                        state of the topic afterwards
       17   Seal(s=3, count=40, leader=2)  3 is sealed, 4 is open on node 2    (proposed by the writer of 3)
       18   Seal(s=3, count=38, leader=3)  the same: 3 is not open any more      (proposed by a late recovery)

Invariants (names as in `spec/Walrus.tla`), checked by `Metadata.check_invariants`:
SealedStable (a sealed segment is never replaced), LastSealedIsSum, OpenLeaderMatchesMap,
CursorInBounds, DomainConsistency, MarkOnlyRises; of `spec/Retention.tla`: TrimmedIsSealed,
TrimmedStaysTrimmed, ProtectedUntilAcked.

**Numbers are never reused.** A topic that is registered under the name of a deleted one begins with the
number that the tombstone kept. So a frame, a receipt or a proposal of the old topic, however late, names a
segment that does not exist, and each comparison above tells the two topics apart.

**Totals stay.** Retention forgets a segment, but `sealed_total`, `trimmed` and `failovers` go on counting
it, and a group that had not read it is told how many entries it missed (`skipped`).

Left out on purpose: a cursor of GET never moves back.

Transcripts, in `tests/replicas/transcripts`: `rollover_by_entries`, `fence_and_seal`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeAlias, TypeVar, assert_never

import msgspec

from walrus.acknowledged import START as START
from walrus.acknowledged import Acknowledged, HandedOn
from walrus.acknowledged import Position as Position
from walrus.acknowledged import Run as Run
from walrus.commands import DELETION_VERSION as DELETION_VERSION
from walrus.commands import FIRST_VERSION as FIRST_VERSION
from walrus.commands import QUEUES_VERSION as QUEUES_VERSION
from walrus.commands import RETENTION_VERSION as RETENTION_VERSION
from walrus.commands import UNREADABLE as UNREADABLE
from walrus.commands import UNTOLD as UNTOLD
from walrus.commands import VERSION as VERSION
from walrus.commands import Announce as Announce
from walrus.commands import Command as Command
from walrus.commands import CommitCursors as CommitCursors
from walrus.commands import CommitGroups as CommitGroups
from walrus.commands import ConfigureTopic as ConfigureTopic
from walrus.commands import DeleteTopic as DeleteTopic
from walrus.commands import LastNumber as LastNumber
from walrus.commands import MarkLeaving as MarkLeaving
from walrus.commands import MoveGroup as MoveGroup
from walrus.commands import RegisterTopic as RegisterTopic
from walrus.commands import RemoveNode as RemoveNode
from walrus.commands import Seal as Seal
from walrus.commands import SetReplicas as SetReplicas
from walrus.commands import Trim as Trim
from walrus.commands import UnknownCommand as UnknownCommand
from walrus.commands import decode_command as decode_command
from walrus.commands import encode_command as encode_command
from walrus.commands import version_of as version_of
from walrus.quorum import majority
from walrus.settings import changed, makes_sense
from walrus.storage.batch import Checksum

MAX_JOINING = 16
"""The most members that have never started: since a Join suffices to become a member, this needs a limit."""

MAX_TOPICS = 100_000
MAX_GROUPS = 1_000
"""The most consumer groups of a topic, of both kinds. `MAX_TOPICS` and this bound the size of the metadata,
which clients determine."""

MAX_PRODUCERS = 1_000
"""The most producers (PUB) of a topic whose last number is known."""

IDLE_SECONDS = 3_600
"""A producer that has appended nothing for this long may be replaced by a new one."""
MAX_TOMBSTONES = 10_000
"""The most deleted topics whose next number is stored by name. `floor` stands for all earlier ones."""

MAX_HANDED_ON = 10_000
"""The most entries of a topic that a Seal lists as out; others are redelivered, which is allowed."""

START_BITS = 24
"""The lowest bits of an incarnation, which count a directory's starts; the bits above are random."""


def start_number(incarnation: int) -> int:
    """Return the number of a start of its directory, from 1; 0 for a node that has never started.

    Two starts with the same number began with the same state: the directory was copied, or restored from a
    backup. Their incarnations differ nevertheless, in the random bits.

    >>> start_number(next_incarnation(next_incarnation(0, 77), 99))
    2
    """
    return incarnation & ((1 << START_BITS) - 1)


def next_incarnation(last: int, drawn: int) -> int:
    """Return the incarnation of the start that follows `last`; `drawn` is random, of at most 28 bits.

    The result is below 2**53, so that every JSON parser represents it exactly.
    """
    number = start_number(last) + 1
    assert 0 <= drawn < 1 << 28 and number < 1 << START_BITS
    following = drawn << START_BITS | number
    assert start_number(following) == number and following < 1 << 53, "SingleWriter: a start's number is lost"
    return following


def latest(producers: dict[str, LastNumber]) -> dict[str, LastNumber]:
    """Return the producers to remember: if there are too many, those that appended last.

    Dropping one producer at a time, whenever there is one too many, has the same result.
    """
    if len(producers) <= MAX_PRODUCERS:
        return producers
    order = sorted(producers, key=lambda name: (producers[name].at, name))
    return {name: producers[name] for name in order[len(order) - MAX_PRODUCERS :]}


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment. `count` is None while it is open."""

    leader: int
    incarnation: int
    """The start of the leader for which it was opened: after a restart the node does not lead it."""
    replicas: tuple[int, ...]
    count: int | None = None
    checksum: Checksum = Checksum()
    recovered: bool = False
    """Whether a recovery sealed it, and not its leader: PUTs in flight to that leader have an unknown
    outcome."""
    size: int = 0
    """The bytes of its entries, and `sealed_ms`, the Unix time of the node that sealed it; 0 if not known.
    Only retention uses them."""
    sealed_ms: int = 0

    @property
    def majority(self) -> int:
        """How many replicas make a majority."""
        return majority(len(self.replicas))

    @property
    def sealed(self) -> bool:
        """Whether it is sealed: `count` and `checksum` are final."""
        return self.count is not None


class Topic(msgspec.Struct, kw_only=True):
    """A topic's segments, in order from number `first`, and the positions of its groups."""

    segments: list[Segment]
    first: int = 1
    """The number of the first segment that is retained."""
    born: int = 1
    """The number of the first segment at registration, which distinguishes topics of the same name."""
    deleting: bool = False
    """Whether the Seal of the open segment is the end of the topic."""
    settings: dict[str, int] = {}
    """Its settings (`settings.py`); `configured` counts their changes."""
    configured: int = 0
    trimmed: int = 0
    """How many entries retention has dropped; `skipped`: how many of these each group had not read."""
    skipped: dict[str, int] = {}
    dead: dict[str, int] = {}
    """How many entries of each group went to the dead-letter topic."""
    sealed_total: int = 0
    """How many entries all sealed segments have had, including trimmed ones."""
    cursors: dict[str, Position] = {}
    """The positions of groups that are read with GET."""
    groups: dict[str, Acknowledged] = {}
    """What groups that are read with RECEIVE (work queues) have acknowledged."""
    handed: dict[str, tuple[HandedOn, ...]] = {}
    """The entries that each work queue had out when the last segment was sealed."""
    producers: dict[str, LastNumber] = {}
    """The last number of each producer when the last segment was sealed."""

    @property
    def current(self) -> int:
        """The number of the open segment, always the last."""
        return self.first + len(self.segments) - 1

    @property
    def begin(self) -> Position:
        """The position of the first entry that is retained."""
        return Position(self.first, 0)

    def numbered(self, start: int = 0) -> Iterator[tuple[int, Segment]]:
        """Return the segments from number `start` on, with their numbers."""
        start = max(start, self.first)
        return enumerate(self.segments[start - self.first :], start)

    @property
    def open(self) -> Segment:
        """The open segment."""
        return self.segments[-1]

    def segment(self, number: int) -> Segment | None:
        """Return segment `number`; None if it does not exist (yet, or any more)."""
        at = number - self.first
        return self.segments[at] if 0 <= at < len(self.segments) else None

    def group(self, name: str) -> Acknowledged:
        """Return what a work queue has acknowledged; nothing, if the group is unknown."""
        done = self.groups.get(name) or Acknowledged(low=self.begin)
        assert done.low >= self.begin, "MarkInBounds: a group is at what is trimmed"
        return done

    def cursor(self, name: str) -> Position:
        """Return the position of a group that is read with GET; the beginning, if it is unknown."""
        position = self.cursors.get(name, self.begin)
        assert position >= self.begin, "MarkInBounds: a cursor is at what is trimmed"
        return position

    def advance(self, position: Position) -> Position:
        """Return a position in its normal form, which names the segment that holds the next entry, or will.

        If segment 3 was sealed at 40, (3, 40) and (4, 0) are the same position, and the second is its normal
        form; empty segments are passed in the same step. Only normal forms compare correctly as tuples. A
        position in a trimmed segment becomes the beginning of the topic.
        """
        assert position.segment >= START.segment, "CursorInBounds: segments are numbered from 1"
        number, offset = max(position, self.begin)
        while number < self.current and offset >= (self.segments[number - self.first].count or 0):
            number, offset = number + 1, 0
        assert (number, offset) >= position, "CursorInBounds: a cursor moved back"
        return Position(number, offset)

    def distance(self, start: Position, end: Position) -> int:
        """Return how many retained entries are from `start` to `end`, which is not before it."""
        begin = self.begin
        start, end = max(start, begin), max(end, begin)
        assert start <= end, "OutIsBounded: entries behind the window would count as within it"
        if start.segment == end.segment:
            return end.offset - start.offset
        counts = (self.segments[at - self.first].count or 0 for at in range(start.segment, end.segment))
        return sum(counts) - start.offset + end.offset

    def has(self, group: str) -> bool:
        """Whether the group is known, be it read with GET or with RECEIVE."""
        return group in self.cursors or group in self.groups

    def in_bounds(self, position: Position) -> bool:
        """Whether this may be the position of a cursor, as far as the metadata shows."""
        segment = self.segment(position.segment)
        return (
            segment is not None
            and position.offset >= 0
            and (segment.count is None or position.offset <= segment.count)
        )


class Placement(NamedTuple):
    """Where an open segment is placed; segments are indexed by it, to find those of a node."""

    leader: int
    incarnation: int
    replicas: tuple[int, ...]


OpenAt: TypeAlias = dict[Placement, dict[str, None]]
SealedAt: TypeAlias = dict[tuple[int, ...], dict[tuple[str, int], None]]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the cluster."""

    directory_id: str
    incarnation: int
    raft_address: str
    client_address: str
    leaving: bool = False
    knows: int = 0
    """The latest version of commands that it knows, as its latest start announced; 0: not announced."""

    @property
    def known(self) -> int:
        """The latest version of commands that it knows, also if it announced none."""
        return self.knows or UNTOLD

    def outdates(self, incarnation: int) -> bool:
        """Whether that start of the directory is older than the known one, or began from the same state."""
        mine, known = start_number(incarnation), start_number(self.incarnation)
        return mine < known or (mine == known and incarnation != self.incarnation)


Topics = TypeVar("Topics")


class Contents(msgspec.Struct, Generic[Topics], frozen=True, kw_only=True):
    """The contents of a snapshot. Its topics are values, or encoded already (`broker/imaging.py`)."""

    version: int
    nodes: list[tuple[int, Member]]
    topics: Topics
    tombstones: list[tuple[str, int]] = []
    floor: int = 1
    forgotten_failovers: int = 0


snapshot_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Metadata:
    """The metadata, on which all nodes agree. Only `apply` and `broker/takeover.py` change it."""

    def __init__(self) -> None:
        self.nodes: dict[int, Member] = {}
        self.topics: dict[str, Topic] = {}
        self.tombstones: dict[str, int] = {}
        """For the topics that were deleted last, the first segment number of the next topic of that name;
        for all others it is `floor`."""
        self.floor = START.segment
        self.forgotten_failovers = 0
        """How many of the `failovers` were of segments that were dropped since."""
        # Derived indexes, to find the segments of a node: there are few placements and many segments.
        self.open_at: OpenAt = {}
        """The topics whose open segment has this placement."""
        self.sealed_at: SealedAt = {}
        """The sealed segments that have these replicas."""
        self.failovers = 0
        """How many segments were sealed by a recovery."""
        self.all_know = VERSION
        """The latest version of commands that all members know, apart from those that have never started."""
        self.whole = True
        """Whether all of it is of one index; it is not while a snapshot is taken over."""

    def open_segment(self, topic: str) -> tuple[int, Segment] | None:
        """Return number and description of the topic's open segment; None for an unknown topic."""
        known = self.topics.get(topic)
        if known is None:
            return None
        segment = known.open
        assert not segment.sealed, "NoWritesPastOpen: the last segment has ended"
        return known.current, segment

    def segment(self, topic: str, number: int) -> Segment | None:
        """Return one segment; None if it does not exist."""
        known = self.topics.get(topic)
        return known.segment(number) if known else None

    def next_number(self, topic: str) -> int:
        """Return the first segment number for a topic that is to be registered."""
        number = self.tombstones.get(topic, self.floor)
        assert number >= START.segment, "DomainConsistency: segments are numbered from 1"
        return number

    def is_gone(self, topic: str, number: int) -> bool:
        """Whether this segment number is below those of the topic: it will never exist (again)."""
        known = self.topics.get(topic)
        return number < (known.first if known else self.next_number(topic))

    def older_than(self, version: int) -> list[int]:
        """Return the members that have started and do not know commands of this version, sorted."""
        older = [n for n, node in sorted(self.nodes.items()) if node.incarnation and node.known < version]
        assert version <= VERSION, "this release cannot have made that"
        assert bool(older) == (version > self.all_know), "DomainConsistency: an upgrade is not noticed"
        return older

    def _known_by_all(self) -> int:
        # A member that has never started has applied nothing. If its release is too old, it says so when it
        # starts.
        return min([VERSION, *(node.known for node in self.nodes.values() if node.incarnation)])

    def joining(self) -> int:
        """Return how many members have never started."""
        return sum(not node.incarnation for node in self.nodes.values())

    def is_sealed(self, topic: str, number: int) -> bool:
        """Whether this segment exists and is sealed."""
        segment = self.segment(topic, number)
        return segment is not None and segment.sealed

    def is_over(self, topic: str, number: int) -> bool:
        """Whether this segment is sealed or gone: nothing will be written to it."""
        return self.is_sealed(topic, number) or self.is_gone(topic, number)

    # --- the state machine ---

    def apply(self, command: Command) -> str | None:
        """Apply a committed command. Returns the name of the topic whose segments or settings changed."""
        match command:
            case Announce():
                self._announce(command)
                return None
            case RegisterTopic():
                return self._register(command)
            case ConfigureTopic():
                return self._configure(command)
            case Trim():
                return self._trim(command)
            case DeleteTopic():
                return self._delete(command)
            case Seal():
                return self._seal(command)
            case CommitCursors():
                for topic in sorted(command.cursors):
                    if topic in self.topics:
                        self._commit_cursors(self.topics[topic], command.cursors[topic])
                return None
            case CommitGroups():
                for topic in sorted(command.groups):
                    if topic in self.topics:
                        dead = command.dead.get(topic, {})
                        self._commit_groups(self.topics[topic], command.groups[topic], dead)
                return None
            case MoveGroup():
                self._move_group(command)
                return None
            case SetReplicas():
                return self._set_replicas(command)
            case MarkLeaving():
                if self._is_meant(command):
                    self._mark_leaving(command.node_id)
                return None
            case RemoveNode():
                if self._is_meant(command) and not self.needs(command.node_id):
                    self.nodes.pop(command.node_id, None)
                    self.all_know = self._known_by_all()
                return None
            case _:
                assert_never(command)

    def _is_meant(self, command: MarkLeaving | RemoveNode) -> bool:
        node = self.nodes.get(command.node_id)
        return node is not None and command.directory_id in ("", node.directory_id)

    def _announce(self, command: Announce) -> None:
        known = self.nodes.get(command.node_id)
        # Each refusal prevents two processes from counting as the same member: they could lead one segment
        # twice, or vote in Raft from a disk that does not have the votes given before.
        if known is not None and known.directory_id != command.directory_id:
            return  # another disk under a known id
        if known is not None and known.outdates(command.incarnation):
            return
        if known is None and command.incarnation and any(node.incarnation for node in self.nodes.values()):
            return  # a member that was removed and does not know it: only joining (or founding) admits it
        if known is None and not command.incarnation and self.joining() >= MAX_JOINING:
            return
        self.nodes[command.node_id] = Member(
            directory_id=command.directory_id,
            incarnation=command.incarnation,
            raft_address=command.raft_address,
            client_address=command.client_address,
            leaving=known.leaving if known else False,
            knows=command.knows,
        )
        self.all_know = self._known_by_all()
        assert known is None or known.directory_id == command.directory_id, (
            "SingleWriter: a disk votes that does not know how its predecessor voted"
        )
        assert known is None or start_number(command.incarnation) >= start_number(known.incarnation), (
            "SingleWriter: a start that is over came back"
        )
        assert command.incarnation or self.joining() <= MAX_JOINING, "more members than may wait to start"

    def _mark_leaving(self, node_id: int) -> None:
        node = self.nodes.get(node_id)
        stay = [other for other, known in self.nodes.items() if other != node_id and not known.leaving]
        if node and stay:  # at least one node must remain that may lead new segments
            self.nodes[node_id] = msgspec.structs.replace(node, leaving=True)
            assert not all(one.leaving for one in self.nodes.values()), "FailoverProgress: none may lead"

    def _register(self, command: RegisterTopic) -> str | None:
        if command.topic in self.topics or len(self.topics) >= MAX_TOPICS:
            return None
        if command.number != self.next_number(command.topic) or not makes_sense(command.settings):
            return None  # proposed before another topic of that name was registered and deleted
        segment = self._opened(command.leader, command.replicas)
        if segment is None:
            return None
        number, settings = command.number, changed({}, command.settings)
        topic = Topic(segments=[segment], first=number, born=number, settings=settings)
        self.tombstones.pop(command.topic, None)
        self.put_in(command.topic, topic)
        assert topic.current == command.number, "DomainConsistency: a topic begins with its first segment"
        return command.topic

    def _configure(self, command: ConfigureTopic) -> str | None:
        topic = self.topics.get(command.topic)
        if topic is None or (topic.born, topic.configured) != (command.born, command.configured):
            return None
        if not makes_sense(command.settings):
            return None
        topic.settings = changed(topic.settings, command.settings)
        topic.configured += 1
        return command.topic

    def _trim(self, command: Trim) -> str | None:
        """Drop the oldest segments, if they may be dropped: the planner may have known less."""
        topic = self.topics.get(command.topic)
        if topic is None or topic.first != command.old or not command.old < command.first <= topic.current:
            return None
        begin = Position(command.first, 0)
        if topic.settings.get("protect_groups") and not _all_read(topic, begin):
            return None
        for group, position in topic.cursors.items():
            self._skip(topic, group, topic.distance(min(topic.advance(position), begin), begin))
        for group, done in topic.groups.items():
            acknowledged = sum(run.end - run.start for run in done.above if run.segment < begin.segment)
            self._skip(topic, group, topic.distance(min(done.low, begin), begin) - acknowledged)
        for number, segment in topic.numbered():
            if number == command.first:
                break
            assert segment.count is not None, "TrimmedIsSealed: an open segment is dropped"
            topic.trimmed += segment.count
            self.forgotten_failovers += segment.recovered
            _remove(self.sealed_at, segment.replicas, (command.topic, number))
        del topic.segments[: command.first - command.old]
        topic.first = command.first
        topic.cursors = {group: topic.advance(at) for group, at in topic.cursors.items()}
        for group, done in topic.groups.items():
            topic.groups[group] = done.join(Acknowledged(done.generation, begin), topic.advance)
        assert topic.begin == begin, "TrimmedStaysTrimmed: another segment is the first"
        assert all(at >= begin for at in topic.cursors.values()), "MarkInBounds: it is at what is trimmed"
        return command.topic

    def _skip(self, topic: Topic, group: str, missed: int) -> None:
        """Count entries that retention has dropped before a group read them."""
        if missed > 0:
            topic.skipped[group] = topic.skipped.get(group, 0) + missed

    def _delete(self, command: DeleteTopic) -> str | None:
        topic = self.topics.get(command.topic)
        if topic is None or topic.born != command.born:
            return None  # deleted already; there may be a new topic of that name
        marked, topic.deleting = topic.deleting, True
        if not command.at_seal:
            self._forget(command.topic, topic)
        return None if marked and command.at_seal else command.topic

    def _forget(self, name: str, topic: Topic) -> None:
        """The topic is gone, with all its segments. Its next number stays."""
        assert name not in self.tombstones, "TrimmedStaysTrimmed: what is there has another number to come"
        self.take_out(name)
        self.tombstones[name] = topic.current + 1
        if len(self.tombstones) > MAX_TOMBSTONES:
            oldest = next(iter(self.tombstones))
            self.floor = max(self.floor, self.tombstones.pop(oldest))
        assert self.is_gone(name, topic.current), "TrimmedStaysTrimmed: its last segment may be again"

    def _seal(self, command: Seal) -> str | None:
        topic = self.topics.get(command.topic)
        if topic is None or topic.current != command.segment or command.count < 0:
            return None  # sealed already: the other proposal won
        assert not topic.open.sealed, "SealedStable: a count is set once"
        if topic.deleting:
            self._forget(command.topic, topic)
            self.failovers += command.recovered
            self.forgotten_failovers += command.recovered
            return command.topic
        following = self._opened(command.leader, command.replicas)
        if following is None:
            return None  # the next leader was removed in the meantime: propose again
        # One command seals and opens. With two commands, a crash in between would leave a topic that no node
        # leads, and no node could know whether the second command is still to come.
        _remove(self.open_at, _placement(topic.open), command.topic)
        topic.segments[-1] = msgspec.structs.replace(
            topic.open,
            count=command.count,
            checksum=command.checksum,
            recovered=command.recovered,
            size=command.size,
            sealed_ms=command.sealed_ms,
        )
        _add(self.sealed_at, topic.open.replicas, (command.topic, command.segment))
        self.failovers += command.recovered
        topic.segments.append(following)
        _add(self.open_at, _placement(following), command.topic)
        topic.sealed_total += command.count
        end = Position(command.segment, command.count)
        for group, position in topic.cursors.items():
            # A cursor beyond the end: the recovery has given up entries that had been acknowledged.
            topic.cursors[group] = min(position, end)
        self._commit_cursors(topic, command.cursors)
        self._seal_groups(topic, command, end)
        topic.producers = latest(topic.producers | command.producers)
        assert topic.current == command.segment + 1, "DomainConsistency: a seal opens the next segment"
        assert topic.segments[-2].count == command.count, "SealedStable: another count"
        assert all(map(topic.in_bounds, topic.cursors.values())), "CursorInBounds: a cursor beyond the seal"
        return command.topic

    def _seal_groups(self, topic: Topic, command: Seal, end: Position) -> None:
        """Pass on to the next leader what consumers have acknowledged, and what they have in hand."""
        for group, done in topic.groups.items():
            topic.groups[group] = done.cut(end).join(Acknowledged(done.generation), topic.advance)
        self._commit_groups(topic, command.groups, {})
        topic.handed = {
            group: command.handed[group]
            for group in sorted(command.handed.keys() & command.groups.keys() & topic.groups.keys())
            if topic.groups[group].generation == command.groups[group].generation
        }
        assert all(topic.in_bounds(done.low) for done in topic.groups.values()), (
            "CursorInBounds: a group's mark lies beyond the count"
        )
        assert topic.handed.keys() <= topic.groups.keys(), "NothingSkipped: handed on of a group that is none"

    def _opened(self, leader: int, replicas: tuple[int, ...]) -> Segment | None:
        """Return a new open segment; None if one of its nodes is not (or no longer) a member."""
        if leader not in replicas or not self._are_members(replicas):
            return None
        # The incarnation is that at the time of applying, not of proposing: if the leader restarted in
        # between, the new process leads the segment, and the old one is not mistaken for it.
        segment = Segment(leader=leader, incarnation=self.nodes[leader].incarnation, replicas=replicas)
        assert segment.leader in segment.replicas, "OpenLeaderMatchesMap: the leader holds no copy"
        assert not segment.sealed, "DomainConsistency: a segment is born open"
        return segment

    def _are_members(self, replicas: tuple[int, ...]) -> bool:
        """Whether these are one or more members, each named once."""
        return 0 < len(replicas) == len(set(replicas)) and all(node in self.nodes for node in replicas)

    def _commit_cursors(self, topic: Topic, cursors: dict[str, Position]) -> None:
        for group, position in sorted(cursors.items()):
            if group not in topic.cursors and not _has_room(topic, group):
                continue
            if topic.in_bounds(position) and position > topic.cursor(group):
                topic.cursors[group] = position

    def _commit_groups(
        self, topic: Topic, groups: dict[str, Acknowledged], dead: dict[str, tuple[Run, ...]]
    ) -> None:
        """Commit acknowledgements: a join within one generation; those of other generations are ignored."""
        for group, done in sorted(groups.items()):
            known = topic.groups.get(group)
            if known is None and not (done.generation == 0 and _has_room(topic, group)):
                continue
            known = known or topic.group(group)
            ends = [done.low, *(Position(run.segment, run.end) for run in done.above)]
            if max(ends) < topic.begin:
                continue  # all of it is trimmed, or belongs to an earlier topic of that name
            runs_are_sound = all(0 <= run.start < run.end for run in done.above)
            sound = runs_are_sound and all(end < topic.begin or topic.in_bounds(end) for end in ends)
            if sound and known.generation == done.generation:
                topic.groups[group] = joined = known.join(done, topic.advance)
                assert joined.low >= known.low, "MarkOnlyRises: what was acknowledged would be given again"
                given_up = [run for run in dead.get(group, ()) if joined.covers(Position(*run[:2]))]
                for segment, start, end in given_up:  # each entry counts once, however often it is committed
                    fresh = sum(not known.covers(Position(segment, at)) for at in range(start, end))
                    if fresh:
                        topic.dead[group] = topic.dead.get(group, 0) + fresh

    def _move_group(self, command: MoveGroup) -> None:
        """SEEK, forwards or back. Proposals of earlier generations are ignored from now on."""
        topic = self.topics.get(command.topic)
        if topic is None or command.to.segment < topic.born:
            return  # it belongs to an earlier topic of that name
        if not (command.to < topic.begin or topic.in_bounds(command.to)):
            return
        known = topic.groups.get(command.group)
        if known is None and not _has_room(topic, command.group):
            return
        if (known.generation if known else 0) == command.generation:
            low = topic.advance(command.to)
            assert topic.in_bounds(low), "CursorInBounds: a SEEK leads beyond the end"
            topic.groups[command.group] = Acknowledged(command.generation + 1, low)
            topic.handed.pop(command.group, None)

    def _set_replicas(self, command: SetReplicas) -> str | None:
        segment = self.segment(command.topic, command.segment)
        if segment is None or not segment.sealed or segment.replicas != command.old:
            return None
        directories = self.directories(command.new)
        if directories is None or command.directories not in ((), directories):
            return None
        topic = self.topics[command.topic]
        assert command.segment < topic.current, "SealedStable: an open segment keeps its replicas"
        moved = msgspec.structs.replace(segment, replicas=command.new)
        assert (moved.count, moved.checksum) == (segment.count, segment.checksum), (
            "SealedStable: only the replicas change"
        )
        topic.segments[command.segment - topic.first] = moved
        _remove(self.sealed_at, command.old, (command.topic, command.segment))
        _add(self.sealed_at, command.new, (command.topic, command.segment))
        return command.topic

    def directories(self, replicas: tuple[int, ...]) -> tuple[str, ...] | None:
        """Return the data directories of nodes; None unless these are members, each named once."""
        if not self._are_members(replicas):
            return None
        return tuple(self.nodes[node].directory_id for node in replicas)

    def needs(self, node_id: int) -> bool:
        """Whether the node still is a replica of any segment (or the leader of an open one)."""
        replica_sets = [*self.sealed_at, *(placement.replicas for placement in self.open_at)]
        needed = any(node_id in replicas for replicas in replica_sets)
        assert not needed or node_id in self.nodes, "DomainConsistency: a replica that is no member"
        return needed

    # --- snapshots ---

    def snapshot(self) -> bytes:
        """Return the whole state; equal states have equal bytes."""
        versions = map(version_for, self.topics.values())
        return snapshot_encoder.encode(self.contents(versions, sorted(self.topics.items())))

    def contents(self, versions: Iterable[int], topics: Topics) -> Contents[Topics]:
        """Return a snapshot with these topics, which need these versions, and all other state."""
        assert self.whole, "StateMachineSafety: a part of a snapshot is no state of any index"
        return Contents(
            version=max(RETENTION_VERSION if self.tombstones else FIRST_VERSION, *versions, FIRST_VERSION),
            nodes=sorted(self.nodes.items()),
            topics=topics,
            tombstones=list(self.tombstones.items()),  # in the order of the deletions, which counts
            floor=self.floor,
            forgotten_failovers=self.forgotten_failovers,
        )

    # --- a snapshot in the place of all that, topic by topic (`broker/takeover.py`) ---

    def admit(self, nodes: Iterable[tuple[int, Member]], *, only: bool) -> None:
        """Add or replace members. A snapshot begins with its members, and ends with `only` those."""
        if only:
            self.nodes.clear()  # not another dict: other components hold references to this one
        self.nodes.update(nodes)
        self.all_know = self._known_by_all()
        self.whole = only

    def put_in(self, name: str, topic: Topic) -> None:
        """Add a topic that is not there, and its segments to the indexes."""
        assert name not in self.topics, f"DomainConsistency: {name} is placed twice"
        self.topics[name] = topic
        _add(self.open_at, _placement(topic.open), name)
        for number, segment in topic.numbered():
            if segment.sealed:
                _add(self.sealed_at, segment.replicas, (name, number))

    def take_out(self, name: str) -> Topic:
        """Take a topic out, and its segments out of the indexes; return it."""
        topic = self.topics.pop(name)
        self.forgotten_failovers += recoveries(topic)
        _remove(self.open_at, _placement(topic.open), name)
        for number, segment in topic.numbered():
            if segment.sealed:
                _remove(self.sealed_at, segment.replicas, (name, number))
        assert self.forgotten_failovers <= self.failovers, "DomainConsistency: more are forgotten than were"
        return topic

    def _recovered(self) -> int:
        return self.forgotten_failovers + sum(map(recoveries, self.topics.values()))

    @property
    def segments(self) -> int:
        """The number of segments of all topics."""
        return len(self.topics) + sum(map(len, self.sealed_at.values()))

    def _placed(self) -> tuple[OpenAt, SealedAt]:
        """Compute `open_at` and `sealed_at` from the topics."""
        anew = Metadata()
        for name, topic in self.topics.items():
            anew.put_in(name, topic)
        return anew.open_at, anew.sealed_at

    def digest(self) -> str:
        """Return a hash of the state, equal on all nodes at the same applied index."""
        return hashlib.sha256(self.snapshot()).hexdigest()

    def check_invariants(self) -> None:
        """Assert the invariants that concern metadata only."""
        assert (self.open_at, self.sealed_at) == self._placed(), "DomainConsistency: an index is stale"
        assert self.failovers == self._recovered(), "DomainConsistency: failovers do not add up"
        assert self.all_know == self._known_by_all(), "DomainConsistency: an upgrade is not noticed"
        assert self.segments == sum(len(topic.segments) for topic in self.topics.values())
        few = len(self.topics) <= MAX_TOPICS or not self.whole
        assert few, "TypeOK: more topics than clients may register"
        for name, topic in self.topics.items():
            assert topic.segments, f"DomainConsistency: {name} has no segment"
            groups = len(topic.cursors) + len(topic.groups)
            assert groups <= MAX_GROUPS, f"TypeOK: more groups of {name} than there may be"
            assert topic.handed.keys() <= topic.groups.keys(), f"NothingSkipped: {name} hands on to no group"
            assert topic.open.checksum == Checksum(), f"SealedStable: {name} has a checksum of what is open"
            assert not topic.open.recovered, f"SealedStable: {name} was recovered before it ended"
            assert not topic.open.sealed, f"DomainConsistency: {name} has no open segment"
            counts = [segment.count for segment in topic.segments[:-1]]
            assert None not in counts, f"DomainConsistency: {name} has two open segments"
            assert all((count or 0) >= 0 for count in counts), f"TypeOK: {name} has a count below zero"
            total = topic.trimmed + sum(count or 0 for count in counts)
            assert topic.sealed_total == total, f"LastSealedIsSum: {name}"
            assert topic.born <= topic.first, f"TrimmedStaysTrimmed: {name} begins before it was born"
            assert makes_sense(topic.settings), f"TypeOK: settings of {name}"
            for segment in topic.segments:
                assert len(set(segment.replicas)) == len(segment.replicas) > 0, f"TypeOK: replicas of {name}"
                assert self.nodes.keys() >= set(segment.replicas), f"DomainConsistency: replicas of {name}"
            assert topic.open.leader in topic.open.replicas, f"OpenLeaderMatchesMap: {name}"
            led_by, member = topic.open.incarnation, self.nodes[topic.open.leader]
            if self.whole:  # else another directory may be in the place of one that led it
                late = start_number(led_by) > start_number(member.incarnation)
                assert not late, f"SingleWriter: {name}, {member}"
            for position in topic.cursors.values():
                assert topic.in_bounds(position), f"CursorInBounds: {name} {position}"
            for group, done in topic.groups.items():
                assert group not in topic.cursors, f"{group} of {name} is read in two ways"
                assert done.is_in_order and topic.in_bounds(done.low), f"CursorInBounds: {name} {done}"


Place = TypeVar("Place")
Item = TypeVar("Item")


def recoveries(topic: Topic) -> int:
    """Return how many of its segments a recovery sealed."""
    return sum(segment.recovered for segment in topic.segments)


def version_for(topic: Topic) -> int:
    """Return the earliest version that can represent the topic."""
    assert topic.groups or not topic.handed, (
        "NothingSkipped: a release without groups would drop what was handed on"
    )
    if topic.deleting:
        return DELETION_VERSION
    retained = topic.settings or topic.configured or topic.first > START.segment or topic.dead
    if topic.producers or retained or any(segment.size or segment.sealed_ms for segment in topic.segments):
        return RETENTION_VERSION
    return QUEUES_VERSION if topic.groups else FIRST_VERSION


def _all_read(topic: Topic, upto: Position) -> bool:
    """Whether every group has read or acknowledged all entries before a position."""
    places = [topic.advance(at) for at in topic.cursors.values()]
    return all(at >= upto for at in (*places, *(done.low for done in topic.groups.values())))


def _has_room(topic: Topic, group: str) -> bool:
    """Whether a new group of this name may be added to the topic."""
    return not topic.has(group) and len(topic.cursors) + len(topic.groups) < MAX_GROUPS


def _placement(segment: Segment) -> Placement:
    assert not segment.sealed, "DomainConsistency: only the open segment has a placement"
    return Placement(segment.leader, segment.incarnation, segment.replicas)


def _add(index: dict[Place, dict[Item, None]], place: Place, item: Item) -> None:
    items = index.setdefault(place, {})
    assert item not in items, f"DomainConsistency: {item} is placed twice"
    items[item] = None


def _remove(index: dict[Place, dict[Item, None]], place: Place, item: Item) -> None:
    assert item in index.get(place, {}), f"DomainConsistency: {item} was not where it should be"
    del index[place][item]
    if not index[place]:
        del index[place]  # an empty entry would stay for ever, and `needs` and repair would visit it
