"""Read cursors, at the node that serves them: the leader of the topic's open segment.

A cursor says which entry a group of consumers gets next. There is one per topic and group for the whole
cluster, the default group being the one that a plain GET uses. It exists three times:

    position     how far entries were handed out                 volatile, here
    confirmed    how far they are known to have reached clients  volatile, here
    committed    the position in the metadata                    through Raft, every `cursor_interval`

and `committed <= confirmed <= position`. An entry that was handed out but not confirmed (the node with the
client died, or the client disconnected) is handed out again, so the death of any node causes a redelivery
and never a gap. A commit never moves a cursor back, whichever node sends it (`Metadata._commit_cursors`).

Each group has at most one unconfirmed delivery: until it is confirmed, the other nodes that share the cursor
wait. Otherwise they would read on, and an entry lost in transit would be redelivered after later ones.

The life of a cursor at the node that leads the topic:

    state        what it is                                 left when
    committed    only a position in the metadata            a GET of its group comes: idle, from there on
    idle         nothing handed out, no request waits       a GET comes
    reading      entries come from another replica          they came: handed out; none has it: idle
    handed out   one delivery waits for confirmation        confirmed: idle. Deadline passed, the client's
                                                            node is gone or asks again: rewound, idle
    frozen       hands out nothing; its segment is sealed   all is confirmed: the Seal includes it
    forgotten    no memory of it is left here               another leader, or idle for IDLE_AFTER: committed

A leader hands out entries only under a lease that a ReadIndex gave (`tenure.py`), so it knows of a deletion
that is older than that.

On a healthy rollover nothing is delivered twice: a sealing leader stops handing out entries, waits until
all deliveries are confirmed, and puts the cursors into the Seal itself, so that the next leader continues
exactly there.

Invariants: CursorInBounds, DeliveredIsPrefix (only acknowledged entries are handed out, in order).

Transcripts, in `tests/replicas/transcripts`: `get_moves_one_cursor`, `get_delivered_again`,
`get_across_a_failover`, `get_across_a_rollover`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Mapping
from typing import TypeAlias

import msgspec

from walrus.broker.gaps import Gaps
from walrus.broker.tenure import Ask, Tenure
from walrus.config import NodeConfig
from walrus.leases import LeaseTable
from walrus.replicas.reads import Reads
from walrus.segments import MAX_GROUPS, CommitCursors, Metadata, Position, Topic
from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import StorageError
from walrus.wire import errors
from walrus.wire.effects import Outbox, Trace
from walrus.wire.messages import Confirm, FindGap, Gap, GetEntries, GetReply

GroupKey: TypeAlias = tuple[str, str]
"""(topic, group)"""

IDLE_AFTER = 10.0
"""Seconds after which an unused cursor releases its memory."""

MAX_AHEAD = 256
"""The most cursors that hold entries read ahead; the oldest releases them for the next."""

MAX_AHEAD_ENTRIES = 4_000
"""The most entries that one cursor reads ahead, since each costs memory besides its bytes."""

MAX_AHEAD_BYTES = 64 << 20
"""The most bytes that all cursors together read ahead, with `ENTRY_BYTES` for each entry."""

ENTRY_BYTES = 48
"""The memory of an entry besides its bytes: an object, and a place in a list."""


class Handed(msgspec.Struct):
    """A delivery: the node and its request, the first position, and the deadline for its confirmation."""

    origin: int
    request: int
    start: Position
    deadline: float


class Ahead(msgspec.Struct):
    """Entries that were read ahead; the first one is at `position`."""

    position: Position
    entries: list[bytes]
    weight: int


class GroupCursor:
    """The position of one group in one topic, and its deliveries."""

    __slots__ = ("ahead", "handed", "key", "latest", "position", "reading", "stuck_at", "used_at", "waiting")

    def __init__(self, key: GroupKey, position: Position) -> None:
        self.key = key
        self.position = position
        self.handed: deque[Handed] = deque()
        self.waiting: deque[tuple[int, GetEntries, float]] = deque()  # (origin, request, deadline)
        self.latest: dict[int, int] = {}  # the last request of each origin
        self.ahead: Ahead | None = None
        self.reading = False
        self.stuck_at: Position | None = None
        """A position whose entry no replica could give."""
        self.used_at = 0.0

    @property
    def confirmed(self) -> Position:
        """The position below which every entry is known to have reached a client."""
        return self.handed[0].start if self.handed else self.position

    def rewind(self, to: Position) -> None:
        """Hand out again from `to` on."""
        while self.handed and self.handed[-1].start >= to:
            self.handed.pop()
        self.position = min(self.position, to)


class Cursors:
    """The cursors of all topics that this node leads."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        reads: Reads,
        leases: LeaseTable,
        outbox: Outbox,
        trace: Trace,
        connected: Collection[int],
        gaps: Gaps,
        ask: Ask,
    ) -> None:
        self._config, self._metadata, self._reads = config, metadata, reads
        self._leases, self._outbox, self._trace = leases, outbox, trace
        self.tenure = Tenure(config, metadata, leases, ask)
        """The lease to hand out entries; work queues have the same."""
        self.tenure.waiting.append(self._on_tenure)
        self._cursors: dict[GroupKey, GroupCursor] = {}
        self._groups: dict[str, dict[str, None]] = {}  # topic -> groups with a cursor here
        self._aheads: dict[GroupKey, None] = {}  # cursors with entries read ahead, the oldest first
        self._ahead_bytes = 0
        self._frozen: dict[str, int] = {}  # topic -> the segment that is being sealed
        self._commit_at = 0.0
        self._connected, self._gaps = connected, gaps
        self.read_with_receive: Container[GroupKey] = ()
        """The groups that this node serves as work queues."""
        self.lost = 0
        """How many entries cursors have skipped because no replica has them, since this start."""

    # --- handing out ---

    def on_get(self, origin: int, get: GetEntries, now: float) -> None:
        """A node with clients asks for entries."""
        number, segment = self._metadata.open_segment(get.topic) or (0, None)
        if segment is None or self._leases.granted().get(get.topic) != number:
            self._answer(origin, get, EMPTY, moved=True)
            return
        key = (get.topic, get.group)
        if get.group in self._metadata.topics[get.topic].groups or key in self.read_with_receive:
            self._answer(origin, get, EMPTY, error=errors.group_in_use(get.group, with_get=False))
            return
        cursor = self._cursor(key)
        if cursor is None:
            self._answer(origin, get, EMPTY, error=errors.too_many_groups(MAX_GROUPS))
            return
        cursor.used_at = now
        if get.request <= cursor.latest.get(origin, 0):
            return  # a duplicate, or overtaken by a later request: the origin does not wait for an answer
        cursor.latest[origin] = get.request
        # An origin asks for one run at a time. So if it asks again, it does not wait for an earlier answer,
        # and entries that it was given and has not confirmed have not arrived.
        cursor.waiting = deque(entry for entry in cursor.waiting if entry[0] != origin)
        lost = [handed.start for handed in cursor.handed if handed.origin == origin]
        if lost:
            self._rewind(cursor, min(lost))
        cursor.waiting.append((origin, get, now + self._config.request_timeout * 0.8))
        self._serve(cursor, now)

    def _cursor(self, key: GroupKey) -> GroupCursor | None:
        """Return the cursor of a group, made on first use; None if the topic has too many groups."""
        cursor = self._cursors.get(key)
        if cursor is None:
            name, group = key
            topic, here = self._metadata.topics[name], self._groups.setdefault(name, {})
            committed, others = topic.cursors, len(topic.groups)
            if group not in committed and others + len(committed.keys() | here.keys()) >= MAX_GROUPS:
                return None
            here[group] = None
            cursor = self._cursors[key] = GroupCursor(key, topic.cursor(group))
        return cursor

    def _of(self, name: str) -> list[GroupCursor]:
        """Return the cursors of one topic."""
        return [self._cursors[(name, group)] for group in self._groups.get(name, ())]

    def _forget(self, cursor: GroupCursor) -> None:
        del self._cursors[cursor.key]
        del self._groups[cursor.key[0]][cursor.key[1]]
        if not self._groups[cursor.key[0]]:
            del self._groups[cursor.key[0]]
        self._drop_ahead(cursor)

    def _serve(self, cursor: GroupCursor, now: float) -> None:
        """Answer the waiting requests, as far as entries are available here."""
        if not cursor.waiting:
            return
        name, topic = cursor.key[0], self._metadata.topics[cursor.key[0]]
        if name in self._frozen or not self._leases.holds(name, topic.current, now):
            return  # sealing, or without a lease: the next leader answers, or the requests time out
        self.tenure.keep(now)
        if not self.tenure.lasts(now):
            return  # the topic may be deleted: `_on_tenure` continues
        while cursor.waiting and not cursor.reading and not cursor.handed:
            origin, get, _ = cursor.waiting[0]
            batch = self._next(cursor, topic, get.count, now)
            if batch is None:
                return
            cursor.waiting.popleft()
            self._hand_out(cursor, origin, get, batch, now)

    def _next(self, cursor: GroupCursor, topic: Topic, count: int, now: float) -> Batch | None:
        """Return the next entries, at most `count`; None if they must be fetched from another node first."""
        cursor.position = topic.advance(cursor.position)
        while self._step_over(cursor, now):
            cursor.position = topic.advance(cursor.position)
        batch = self._from_ahead(cursor, count)
        if batch is not None:
            return batch
        (name, _), (number, offset) = cursor.key, cursor.position
        if self._reads.readable(name, number) > offset:
            try:
                entries = self._reads.read_local(
                    name, number, offset, MAX_AHEAD_ENTRIES, self._config.read_bytes
                )
            except StorageError as damage:
                self._outbox.log(f"reading {name} from another replica: {damage}")
            else:
                self._keep(cursor, cursor.position, entries)
                return self._from_ahead(cursor, count)
        elif number == topic.current:
            return EMPTY
        self._fetch(cursor, now)
        return None

    def _step_over(self, cursor: GroupCursor, now: float) -> bool:
        """Move past entries that no replica has any more; return whether there were any."""
        (name, group), (number, offset) = cursor.key, cursor.position
        if cursor.stuck_at != cursor.position:
            return False
        end = min(self._gaps.end((name, number, offset), now), self._reads.end(name, number))
        if end <= offset:
            return False
        self.lost += end - offset
        self._outbox.log(
            f"lost: entries {offset} to {end - 1} of segment {number} of {name} are on none of its replicas; "
            f"GET goes on behind them (group {group!r})"
        )
        cursor.position = cursor.stuck_at = Position(number, end)
        return True

    def _from_ahead(self, cursor: GroupCursor, count: int) -> Batch | None:
        if cursor.ahead is None or cursor.ahead.position.segment != cursor.position.segment:
            return None
        skip = cursor.position.offset - cursor.ahead.position.offset
        if not 0 <= skip < len(cursor.ahead.entries):
            return None
        return Batch.of(cursor.ahead.entries[skip : skip + count])

    def _keep(self, cursor: GroupCursor, position: Position, entries: Batch) -> None:
        """Keep entries that were read ahead; the oldest ones of other cursors make room."""
        self._drop_ahead(cursor)
        entries = entries.slice(0, MAX_AHEAD_ENTRIES)
        cursor.ahead = Ahead(position, entries.payloads(), entries.size + ENTRY_BYTES * entries.count)
        self._aheads[cursor.key] = None
        self._ahead_bytes += cursor.ahead.weight
        while len(self._aheads) > MAX_AHEAD or (
            self._ahead_bytes > MAX_AHEAD_BYTES and len(self._aheads) > 1
        ):
            self._drop_ahead(self._cursors[next(iter(self._aheads))])

    def _drop_ahead(self, cursor: GroupCursor) -> None:
        """Release entries that were read ahead; they can be read again."""
        if cursor.ahead is not None:
            self._ahead_bytes -= cursor.ahead.weight
            cursor.ahead = None
            del self._aheads[cursor.key]

    def _fetch(self, cursor: GroupCursor, now: float) -> None:
        """Read ahead from another replica; on failure, the waiting request may reach its deadline.

        This is also done for the open segment, if this node's copy is damaged: any copy has the acknowledged
        entries.
        """
        (name, _), position = cursor.key, cursor.position
        segment = self._metadata.segment(name, position.segment)
        assert segment is not None
        holders = [node for node in segment.replicas if node in self._connected]
        if not holders:
            cursor.stuck_at = position
            return
        cursor.reading = True
        node = holders[int(now * 10) % len(holders)]  # another one at the next attempt

        def answer(batch: Batch, error: str, at: float) -> None:
            cursor.reading = False
            if self._cursors.get(cursor.key) is not cursor:
                return
            there = max(self._reads.end(name, position.segment) - position.offset, 0)
            entries = batch.slice(0, there)
            if not error and entries.count:
                self._keep(cursor, position, entries)
                self._serve(cursor, at)
            else:  # another replica is asked at the next tick; if none has the entry, it is skipped at once
                cursor.stuck_at = position
                self._gaps.end((name, position.segment, position.offset), at)

        raw = not segment.sealed
        self._reads.ask(
            node,
            name,
            position.segment,
            position.offset,
            entries=MAX_AHEAD_ENTRIES,
            raw=raw,
            now=now,
            then=answer,
        )

    def _hand_out(self, cursor: GroupCursor, origin: int, get: GetEntries, batch: Batch, now: float) -> None:
        if batch.count:
            start = cursor.position
            cursor.position = Position(start.segment, start.offset + batch.count)
            self._record_delivery(cursor, start, batch.count)
            cursor.handed.append(Handed(origin, get.request, start, now + self._config.request_timeout / 2))
        self._answer(origin, get, batch, end=None if batch.count else cursor.position)

    def _record_delivery(self, cursor: GroupCursor, start: Position, count: int) -> None:
        (name, group), (number, offset) = cursor.key, start
        self._trace("HandOut", topic=name, group=group, segment=number, start=offset, count=count)

    def _answer(
        self,
        origin: int,
        get: GetEntries,
        batch: Batch,
        *,
        moved: bool = False,
        error: errors.Reason = errors.NO_ERROR,
        end: Position | None = None,
    ) -> None:
        reply = GetReply(request=get.request, batch=batch, moved=moved, error=error, end=end)
        self._outbox.send(origin, reply)

    # --- confirming ---

    def _rewind(self, cursor: GroupCursor, to: Position) -> None:
        """Hand out again from `to` on."""
        cursor.rewind(to)
        self._record("Rewind", cursor, cursor.position)

    def _record(self, event: str, cursor: GroupCursor, place: Position) -> None:
        name, group = cursor.key
        self._trace(event, topic=name, group=group, segment=place.segment, offset=place.offset)

    def on_confirm(self, origin: int, confirm: Confirm, now: float) -> None:
        """The entries have reached a client, or have not and are handed out again."""
        cursor = self._cursors.get((confirm.topic, confirm.group))
        for handed in cursor.handed if cursor else ():
            if (handed.origin, handed.request) == (origin, confirm.request):
                assert cursor is not None
                if confirm.delivered:
                    cursor.handed.remove(handed)
                    self._record("Confirm", cursor, cursor.confirmed)
                else:
                    self._rewind(cursor, handed.start)
                self._serve(cursor, now)
                return

    def on_gap(self, sender: int, gap: FindGap | Gap, now: float) -> None:
        """Take an inquiry about this node's copy, or a replica's answer that it lacks entries.

        If all replicas have answered so, the cursors that wait for these entries skip them.
        """
        if isinstance(gap, FindGap):
            self._gaps.on_find(sender, gap)
            return
        self._gaps.on_gap(sender, gap, now)
        place = Position(gap.segment, gap.start)
        for cursor in self._of(gap.topic):
            if cursor.stuck_at == place and self._gaps.end((gap.topic, *place), now) > gap.start:
                self._serve(cursor, now)

    def on_disconnected(self, node: int, now: float) -> None:
        """Hand out again what was handed to clients of that node, since it may be lost."""
        for cursor in list(self._cursors.values()):
            lost = [handed.start for handed in cursor.handed if handed.origin == node]
            cursor.waiting = deque(entry for entry in cursor.waiting if entry[0] != node)
            if lost:
                self._rewind(cursor, min(lost))
            self._serve(cursor, now)

    def _on_tenure(self, now: float) -> None:
        """The lease to hand out entries holds again: continue with what waits for it."""
        for cursor in [cursor for cursor in self._cursors.values() if cursor.waiting]:
            self._serve(cursor, now)

    def forget_node(self, node: int) -> None:
        """A node was removed: if another one joins under its id, its request numbers begin again."""
        for cursor in self._cursors.values():
            cursor.latest.pop(node, None)

    # --- leadership comes and goes ---

    def on_topic(self, name: str, now: float) -> None:
        """The topic's metadata changed: drop the cursors if this node does not lead it any more."""
        topic = self._metadata.topics.get(name)
        if topic is None or self._frozen.get(name) != topic.current:
            self._frozen.pop(name, None)
        ours = name in self._leases.granted()
        for cursor in self._of(name):
            if ours and topic is not None:
                self._keep_up(cursor, topic)
                self._serve(cursor, now)
            else:
                self._forget(cursor)
                for origin, get, _ in cursor.waiting:
                    self._answer(origin, get, EMPTY, moved=True)

    def _keep_up(self, cursor: GroupCursor, topic: Topic) -> None:
        """Adapt a cursor: others may have led the topic, and a recovery may have given up entries."""
        committed = topic.cursor(cursor.key[1])
        if cursor.position < committed:
            cursor.handed.clear()
            cursor.position = committed
            self._drop_ahead(cursor)
        if not topic.in_bounds(cursor.position):
            cursor.position = topic.advance(cursor.position)
        if (ahead := cursor.ahead) is not None:
            segment, offset = ahead.position
            if not topic.in_bounds(Position(segment, offset + len(ahead.entries))):
                self._drop_ahead(cursor)  # RECOVER gave up acknowledged entries that were read ahead

    def freeze(self, name: str) -> dict[str, Position] | None:
        """Stop handing out; return the cursors for the Seal, or None until all deliveries are confirmed."""
        self._frozen[name] = self._metadata.topics[name].current
        cursors = self._of(name)
        if any(cursor.handed for cursor in cursors):
            return None
        begin = self._metadata.topics[name].begin
        return {cursor.key[1]: cursor.position for cursor in cursors if cursor.position > begin}

    # --- committing ---

    def commit_at_once(self) -> None:
        """Commit without waiting for the next interval."""
        self._commit_at = 0.0

    @property
    def uncommitted(self) -> bool:
        """Whether any group was handed entries above its committed position."""
        return any(
            cursor.handed or cursor.confirmed > self._metadata.topics[name].cursor(group)
            for (name, group), cursor in self._cursors.items()
        )

    def to_commit(self, now: float) -> CommitCursors | None:
        """Return one command for all cursors that moved, every `cursor_interval`, until it is applied."""
        if now < self._commit_at:
            return None
        moved: dict[str, dict[str, Position]] = {}
        for (name, group), cursor in self._cursors.items():
            committed = self._metadata.topics[name].cursor(group)
            if cursor.confirmed > committed:
                moved.setdefault(name, {})[group] = cursor.confirmed
                self._record("ProposeCursors", cursor, cursor.confirmed)
        if not moved:
            return None
        self._commit_at = now + self._config.cursor_interval
        return CommitCursors(cursors=moved)

    def on_tick(self, now: float) -> None:
        """Handle deadlines of requests and deliveries; release the memory of idle cursors."""
        self._gaps.on_tick(now)
        for cursor in list(self._cursors.values()):
            if cursor.handed and cursor.handed[0].deadline <= now:
                self._rewind(cursor, cursor.handed[0].start)  # `_serve` below hands it to the next request
            if cursor.waiting:
                self._serve(cursor, now)
            while cursor.waiting and cursor.waiting[0][2] <= now:
                origin, get, _ = cursor.waiting.popleft()
                self._answer(origin, get, EMPTY, error=errors.CURSOR_STUCK)
            if now - cursor.used_at > IDLE_AFTER:
                self._rest(cursor)
            else:
                self.tenure.keep(now)  # or a GET now and then would wait for a ReadIndex each time

    def _rest(self, cursor: GroupCursor) -> None:
        """Release the memory of an idle cursor, and forget it if the metadata has its position."""
        self._drop_ahead(cursor)
        committed = self._metadata.topics[cursor.key[0]].cursor(cursor.key[1])
        if cursor.position <= committed and not (cursor.waiting or cursor.handed or cursor.reading):
            self._forget(cursor)

    def cursors(self) -> Mapping[GroupKey, GroupCursor]:
        """The cursors that this node serves."""
        return self._cursors

    def check_invariants(self) -> None:
        """Assert the invariants of the cursors."""
        ahead = [cursor.ahead for cursor in self._cursors.values() if cursor.ahead is not None]
        assert len(ahead) == len(self._aheads) and sum(one.weight for one in ahead) == self._ahead_bytes, (
            "DeliveredIsPrefix: entries are read ahead for a cursor that is not here"
        )
        for cursor in self._cursors.values():
            starts = [handed.start for handed in cursor.handed]
            assert starts == sorted(starts) and all(start <= cursor.position for start in starts), (
                "DeliveredIsPrefix: deliveries are not in the order of their entries"
            )
            topic = self._metadata.topics[cursor.key[0]]
            assert topic.in_bounds(cursor.position), f"CursorInBounds: {cursor.key} {cursor.position}"
