"""Replication of an open segment: its writer. The other end is `replica.py`.

The protocol, with the names of `spec/Walrus.tla`:

    LeaderAppend   the leader appends to its own copy, if it holds the lease, is not fenced and is not
                   sealing, all checked in that step; and sends the same bytes to the other replicas,
                   in order, without waiting for answers
    ReplicaAppend  a replica takes a frame only in order and never for a segment on which it is fenced,
                   and answers with its length once that is durable
    Ack            an entry is acknowledged once a majority of the replica set has it durably
    BeginSeal      at the threshold the writer takes nothing more; when all that it appended is
                   acknowledged, the count is final and is proposed as a Seal

All entries that arrive in one turn of the event loop are appended as one batch: one record, one write, one
message to each replica. A replica that lags or was away gets the missing entries from the leader's own disk;
the same path (`_send_from_disk`) serves the first frame, retries and catching up.

The sequence of one PUT:

    origin            leader                    replica
      │  Forward        │                         │
      ├────────────────►│ append to own copy      │
      │                 ├──── Append ────────────►│ append
      │                 │ fsync                   │ fsync
      │                 │◄──── AppendReply ───────┤
      │◄─ ForwardReply ─┤ majority: commit_index  │

The life of a forward (the entries that one message brought from an origin) at the writer:

    state      where its entries are            left when                        the origin is told
    pending    in memory only                   a flush appends them             nothing yet
                                                the writer is sealing or fenced  refused, taken=0: resend
                                                its deadline passes              an error: not written
    appended   here on the disk, or soon, and   a majority has them durably      taken=acked=n: OK
               on the way to the replicas       a recovery seals the segment     nothing; the seal tells the
                                                                                 router: outcome unknown

At the end of a segment only part of a forward may fit. If ten entries arrive when there is room for four,
four are taken. The reply says `refused` and taken=4, and the router sends the other six to the leader of
the next segment, ahead of any later entries.

A replica, as the writer sees it (`Follower`; `length` is that of the writer's own copy):

    state         its numbers            is sent                        left when
    away          next_index = match     nothing                        it connects: asked
    asked         next_index = match     a frame without entries        it answers: catching up
    catching up   next_index < length    missing entries, from disk     next_index = length: streaming
    streaming     next_index = length    every new frame, at once       its window fills: catching up;
                                                                        it is silent, or has a gap: asked

What a writer knows of three replicas, itself included, and what it may acknowledge (`_advance`):

    durable here, match of 2, match of 3     sorted      commit_index
    7  5  0                                  0 5 7       5: two of three hold it
    7  7  0                                  0 7 7       7
    2  5  5                                  2 5 5       5: no need to wait for its own disk, the slowest
    7  5  5, and fenced                                  unchanged: the recovery decides, and may have decided

Entries that a producer numbers (PUB) are checked before they are appended: duplicates are not appended
again, and their forward is answered together with the entries that are (`producers.py`).

All entries appended in a turn have one time, from the writer's clock, which is replicated and stored with
them (`Batch.stamps`). A segment has one writer, whose times never go back: so times ascend in a segment,
whatever clocks do (TimesAscend), and every copy has the same ones (TimesAgree). The next segment's writer
has another clock.

Invariants: SingleWriter (a writer exists only for a segment whose leader and incarnation are ours),
SeqOrder (its appends are numbered by the copy's length), AckedDurable (`commit_index` is the largest
length that a majority has durably), commit_index <= copy.length, and nothing is acknowledged once the
copy is fenced or a seal was proposed.

Transcripts, in `tests/replicas/transcripts`: `acknowledge_with_a_majority`,
`acknowledge_not_in_a_minority`, `replica_lags_and_catches_up`, `rollover_by_entries`,
`rollover_by_bytes`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from walrus.config import NodeConfig
from walrus.leases import LeaseTable
from walrus.replicas.copies import Copies, SegmentCopy
from walrus.replicas.latency import Took, Turns
from walrus.replicas.producers import Producers
from walrus.segments import Segment
from walrus.storage.batch import EMPTY, Batch, Checksum, concat
from walrus.storage.errors import DiskFull, StorageError
from walrus.wire import errors
from walrus.wire.effects import Outbox
from walrus.wire.messages import Append, AppendReply, Forward, ForwardReply

GAP_PAUSE = 0.05
"""Seconds in which a replica that misses something is sent it once.

A frame that is lost makes every frame behind it a gap. The replica answers each of them, and each answer
would bring everything again, were only the first not taken for all that come within this time.
"""

MAX_TURN_BYTES = 4 << 20
"""Most bytes appended as one batch (`Batch.weight`); more waits for the next turn."""


class Follower:
    """What the writer knows of one replica: it has `match`, and is being sent `match .. next_index - 1`."""

    __slots__ = (
        "_gap_until",
        "_sent",
        "connected",
        "heard_at",
        "match",
        "next_index",
        "sent_at",
        "unanswered",
    )

    def __init__(self, now: float, connected: bool) -> None:
        self.match = 0  # a new segment is empty on every replica; nothing has to be asked for
        self.next_index = 0
        self.unanswered = 0  # payload bytes of the frames in `_sent`
        self.connected = connected
        self.sent_at = now
        self.heard_at = float("-inf")
        self._sent: deque[tuple[int, int]] = deque()  # (end, bytes) of each frame without an answer
        self._gap_until = float("-inf")

    def sent(self, end: int, size: int, now: float) -> None:
        """A frame that ends at `end` is on its way."""
        assert end >= self.next_index, "SeqOrder: frames are sent in the order of their entries"
        self.next_index, self.sent_at = end, now
        self.unanswered += size
        self._sent.append((end, size))

    def answered(self, length: int, now: float) -> None:
        """The replica durably has `length` entries."""
        self.match, self.heard_at = max(self.match, length), now
        # One answer covers all frames up to its length: the replica answers in order, and a connection that
        # breaks takes the answers with it.
        while self._sent and self._sent[0][0] <= self.match:
            self.unanswered -= self._sent.popleft()[1]
        assert self.unanswered >= 0, "more bytes were answered than sent"
        self.next_index = max(self.next_index, self.match)

    def rewind(self) -> None:
        """What was on its way is lost, or must be taken for lost: begin again behind `match`."""
        assert self.match <= self.next_index, "SeqOrder: entries that were never sent would be left out"
        self.next_index, self.unanswered = self.match, 0
        self._sent.clear()
        self._gap_until = float("-inf")

    def gap(self, length: int, now: float) -> None:
        """A frame began past the replica's end: begin again there.

        All frames behind a lost one are answered like this; the first answer is enough, or each of them would
        have everything sent once more. A length below `match` is a copy that a power loss has shortened:
        what was acknowledged because of it stays so, but it has to be sent again.
        """
        if now >= self._gap_until:
            self.match = min(self.match, max(length, 0))
            self.rewind()
            self._gap_until = now + GAP_PAUSE
        assert self.match <= self.next_index, "SeqOrder: what was answered would be sent again"

    def check_invariants(self) -> None:
        """Assert what must hold between its fields."""
        assert 0 <= self.match <= self.next_index, "SeqOrder: what was answered would be sent again"
        assert self.unanswered == sum(size for _, size in self._sent), "the window does not add up"
        ends = [end for end, _ in self._sent]
        assert ends == sorted(ends), "SeqOrder: frames are sent in the order of their entries"


# Two types, so that neither is answered as the other: an appended forward that was refused would be sent on
# by its router, and be written twice.


class PendingForward(msgspec.Struct):
    """A forward that waits to be appended: its sender, and until when it may wait."""

    origin: int
    forward: Forward
    deadline: float


class Taken(msgspec.Struct):
    """What one turn takes of a forward: `repeated` entries that a producer sent before, and this batch."""

    pending: PendingForward
    repeated: int
    batch: Batch


class AppendedForward(msgspec.Struct):
    """A forward whose first `taken` entries end at `end`, or before: answered when that is acknowledged.

    The last `placed` of them are new, the others repetitions of what is somewhere before.
    """

    origin: int
    forward: Forward
    taken: int
    end: int
    placed: int


class Thresholds(NamedTuple):
    """When a segment is full, by the settings of its topic; bytes and seconds are 0 for no such limit."""

    entries: int
    bytes: int
    seconds: int
    opened_at: float

    @classmethod
    def of(cls, config: NodeConfig, settings: Mapping[str, int], opened_at: float) -> Thresholds:
        """What counts for a topic with these settings."""
        entries = config.setting("segment_entries", settings)
        size, seconds = (config.setting(name, settings) for name in ("segment_bytes", "segment_seconds"))
        return cls(entries, size, seconds, opened_at)


class Shared(msgspec.Struct):
    """What the writers of one topic at this node share, one after the other."""

    seen: dict[int, int] = {}
    """The latest forward of each origin, also to earlier segments of the topic: a duplicate may arrive after
    a rollover, and appended in the next segment it would be delivered twice."""
    advanced: dict[str, None] = {}
    """Topics of which more is acknowledged than when this was looked at last."""
    limits: Thresholds | None = None
    """Of the writer that there is."""
    turns: Turns = msgspec.field(default_factory=lambda: Turns(Took()))
    """Those of that writer."""


class SegmentWriter:
    """The one writer of one open segment, from the moment this node knows that it leads it.

    `on_forward` and `flush` bring entries in, `on_reply` and `on_connection` tell of the replicas. It ends by
    `begin_seal` and `ready_to_seal`, or by `on_fenced`; `close` follows either. When is up to `Lifecycle`.
    """

    def __init__(
        self,
        topic: str,
        number: int,
        segment: Segment,
        *,
        config: NodeConfig,
        copies: Copies,
        leases: LeaseTable,
        outbox: Outbox,
        connected: Collection[int],
        now: float,
        shared: Shared | None = None,
        producers: Producers | None = None,
        settings: Mapping[str, int] = MappingProxyType({}),
        took: Took | None = None,
    ) -> None:
        self.topic, self.number, self.segment = topic, number, segment
        self.copy: SegmentCopy = copies.get((topic, number))
        self.commit_index = 0
        self.sealing = False
        self.seal_proposed = False
        self.bytes = 0
        self.next_replicas = 0
        """How many the Raft leader wants the next segment to have, if it asked for one."""
        self.followers = {
            node: Follower(now, node in connected)
            for node in sorted(segment.replicas)
            if node != config.node_id
        }
        self._config, self._copies, self._leases, self._outbox = config, copies, leases, outbox
        self._pending: deque[PendingForward] = deque()
        self._pending_bytes = 0
        self._appended: deque[AppendedForward] = deque()
        self._unacknowledged = 0  # payload bytes of the forwards in `_appended`
        self._shared = Shared() if shared is None else shared
        self.producers = producers or Producers({}, lambda: 0.0)
        self._shared.limits = Thresholds.of(config, settings, now)
        self._shared.turns = Turns(took or Took())
        assert segment.leader == config.node_id, "SingleWriter: another node leads this segment"
        assert not segment.sealed, "NoWritesPastOpen: a writer of a segment that has ended"
        assert self.copy.length == 0, (
            "SingleWriter: a writer begins with an empty segment, or is not the only"
        )

    @property
    def idle(self) -> bool:
        """Return whether nothing waits, here or at a replica in reach: the next step then needs a message.

        A replica out of reach is asked once it is connected again. So a node that is down costs the writers
        of its segments no look at the clock, however many there are.
        """
        idle = not (self._pending or self._appended or self.sealing or self.copy.fenced) and all(
            follower.match == self.copy.length or not follower.connected
            for follower in self.followers.values()
        )
        assert not idle or self._pending_bytes == self._unacknowledged == 0, "bytes are counted of no forward"
        return idle

    # --- taking PUTs ---

    def on_forward(self, origin: int, forward: Forward, now: float) -> None:
        """Entries from the node that has the client. Appended in `flush`, with the rest of the turn."""
        assert forward.batch.count, "a forward of nothing is refused at the door (`wire.messages.flaw`)"
        if forward.request <= self._shared.seen.get(origin, 0):
            return  # a duplicate, or overtaken by a later one: its origin no longer waits for it
        self._shared.seen[origin] = forward.request
        if self.sealing or self.copy.fenced:
            self._answer(origin, forward, 0, 0, refused=True)
        elif self._pending_bytes > self._config.max_pending_bytes:
            self._answer(origin, forward, 0, 0, error=errors.BUSY)
        else:
            # Below the router's own deadline, so that the origin hears that it was certainly not written
            # before it has to tell its client that the outcome is unknown.
            self._pending.append(PendingForward(origin, forward, now + self._config.put_timeout * 0.9))
            self._pending_bytes += forward.batch.weight

    def flush(self, now: float) -> None:
        """Append what waits, as one batch: LeaderAppend.

        That makes one record, one write and one frame to each replica of whatever the turn brought, however
        many clients sent it. Forwards keep the order in which they came.
        """
        while self._pending and self._may_append(now):
            if not self._append_turn(now):
                break

    def _may_append(self, now: float) -> bool:
        """All that an append needs, checked in the step that appends.

        The lease and the fence keep a deposed writer from appending. The other two keep entries from piling
        up that cannot be acknowledged: without a majority in reach, or behind a full window, they wait in
        `_pending`, where they can still be refused. Once appended, their outcome would be unknown.
        """
        assert self.sealing or not self.seal_proposed, "AckedDurable: an append behind a proposed count"
        return (
            self._leases.holds(self.topic, self.number, now)
            and not self.copy.fenced
            and not self.sealing
            and self.reachable() >= self.segment.majority
            and self._unacknowledged < self._config.window_bytes
        )

    def reachable(self) -> int:
        """Replicas that this node is connected to, itself included."""
        reachable = 1 + sum([follower.connected for follower in self.followers.values()])
        assert reachable <= len(self.segment.replicas), "AckedDurable: a node counts that is no replica"
        return reachable

    def _append_turn(self, now: float) -> bool:
        """Append what waits, up to the end of the segment and to `MAX_TURN_BYTES`; False on a full disk."""
        room = self.limits.entries - self.copy.length
        assert self._pending and room > 0, "AckedDurable: an append to a segment that is full"
        all_taken: list[Taken] = []
        size = weight = 0
        at = self.producers.now()
        while self._pending and room > 0 and weight < MAX_TURN_BYTES:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.forward.batch.weight
            taken = self._take(pending, room, size)
            if taken is None:
                continue
            batch, count = taken.batch, taken.batch.count
            assert count <= room, "SealedStable: a segment longer than its limit"
            room, size, weight = room - count, size + batch.size, weight + batch.weight
            all_taken.append(taken)
            if self._full(room, size):
                break
        return self._append(all_taken, at, now) if all_taken else True

    def _take(self, pending: PendingForward, room: int, size: int) -> Taken | None:
        """What of a forward is appended now: PubAppend and Repeat, if a producer numbered its entries.

        None if its numbers leave a gap, or are of a producer that nothing is known of: it is answered.
        """
        batch = pending.forward.batch
        repeated = 0
        if batch.stamps:
            if refusal := self.producers.refuses(batch.stamps[0]):
                producer, number = batch.stamps[0].producer, batch.stamps[0].first
                self._copies.record("RefusePub", self.copy, producer=producer, number=number)
                self._answer(pending.origin, pending.forward, 0, 0, error=refusal)
                return None
            repeated = self.producers.repeated(batch.stamps[0])
            self.producers.repetitions.entries += repeated
            batch = batch.slice(repeated, batch.count)
        batch = batch.slice(0, self._fitting(batch, room, size))
        if batch.stamps:
            stamp = self.producers.append(batch.stamps[0])
            batch = msgspec.structs.replace(batch, stamps=(stamp,))
        return Taken(pending, repeated, batch)

    def _fitting(self, batch: Batch, room: int, size: int) -> int:
        """How many entries of the batch the segment still takes: up to the one that fills it.

        The entry that crosses `max_segment_bytes` is still taken. Otherwise an entry larger than the limit
        would fit into no segment, and be handed from one to the next for ever.
        """
        limit = self.limits.bytes
        if not limit or self.bytes + size + batch.size < limit:
            return min(batch.count, room)
        count, total = 0, self.bytes + size
        assert total < limit, "AckedDurable: an append to a segment that is full"
        for length in batch.sizes():
            if total >= limit:
                break
            count, total = count + 1, total + length
        return min(count, room)

    def _full(self, room: int, size: int) -> bool:
        """Whether the segment, with `size` bytes more and `room` entries left, is over a threshold."""
        limit = self.limits.bytes
        return room <= 0 or (limit > 0 and self.bytes + size >= limit)

    def _append(self, all_taken: list[Taken], at: int, now: float) -> bool:
        """LeaderAppend: to the own copy, and the same bytes to the replicas, without waiting for any of them.

        All disks work at the same time, the leader's among them, and any majority of them acknowledges.
        `at` is written with the entries and sent with them: each copy has the same time of them, for good.
        """
        assert not (self.copy.fenced or self.sealing), "AckedDurable: an append behind a fence or the end"
        start, batch = self.copy.length, concat([taken.batch for taken in all_taken]).timed(at)
        count = batch.count
        try:
            if count:
                # With its own turns: once this segment is over, what is shared is the next writer's.
                self._copies.append(self.copy, start, batch, partial(self._on_durable, self._shared.turns))
        except DiskFull as error:
            self.producers.undo()
            for taken in all_taken:
                pending = taken.pending
                self._answer(pending.origin, pending.forward, 0, 0, error=errors.not_written(str(error)))
            return False
        self._record_numbered(all_taken, start)
        self.producers.keep()
        self._note_appended(all_taken, start)
        self._answer_acknowledged()  # repetitions may wait for nothing
        if not count:
            return True
        self._shared.turns.appended(self.copy.length, count, now)
        self._copies.record("LeaderAppend", self.copy, start=start, count=count)
        self.bytes += batch.size
        frame = self._frame(start, batch)
        for node, follower in self.followers.items():
            self._send(node, follower, frame, now)
        self.check_threshold()
        return True

    def _record_numbered(self, all_taken: list[Taken], start: int) -> None:
        """PubAppend of each run that was appended, and Drop of each producer that had no room any more."""
        if not self._copies.recording:
            return
        for taken in all_taken:
            if taken.batch.stamps:
                stamp = taken.batch.stamps[0]
                told = {"producer": stamp.producer, "number": stamp.first}
                self._copies.record("PubAppend", self.copy, **told, start=start, count=stamp.entries)
            start += taken.batch.count
        for producer in self.producers.dropped:
            self._copies.record("DropProducer", self.copy, producer=producer)
        assert start == self.copy.length, "SeqOrder: runs and entries appended do not add up"

    def _note_appended(self, all_taken: list[Taken], start: int) -> None:
        """Each forward waits for its entries. Repetitions wait for all that was appended before them, and so
        for what they repeat.
        """
        end = start
        for taken in all_taken:
            pending, count = taken.pending, taken.batch.count
            end += count
            assert taken.repeated >= 0, "more entries are new than were taken"
            self._appended.append(
                AppendedForward(pending.origin, pending.forward, taken.repeated + count, end, count)
            )
            self._unacknowledged += pending.forward.batch.weight
        assert end == self.copy.length, "SeqOrder: forwards and entries appended do not add up"

    # --- sending to replicas ---

    def _frame(self, start: int, batch: Batch) -> Append:
        """Return a frame for any number of replicas: one value sent to several is encoded once."""
        assert start + batch.count <= self.copy.length, "SingleWriter: a frame beyond the writer's own copy"
        return Append(topic=self.topic, segment=self.number, start=start, batch=batch, end=self.copy.length)

    def _send(self, node: int, follower: Follower, frame: Append, now: float) -> None:
        """Send a frame to a replica that has, or is being sent, everything before it."""
        weight = frame.batch.weight
        if not follower.connected or follower.next_index != frame.start:
            return  # behind: it is sent from the disk, when its answers come
        if follower.unanswered and follower.unanswered + weight > self._config.window_bytes:
            return
        self._outbox.send(node, frame)
        follower.sent(frame.start + frame.batch.count, weight, now)
        assert follower.unanswered <= max(weight, self._config.window_bytes), "more is on its way than may be"

    def _send_from_disk(self, node: int, follower: Follower, now: float) -> None:
        """Send what the replica misses, as far as the window allows.

        The window bounds what is on its way to one replica. A frame larger than the window goes out alone,
        or it never would.
        """
        while follower.connected and follower.next_index < self.copy.length:
            if follower.unanswered and follower.unanswered >= self._config.window_bytes:
                return
            start = follower.next_index
            try:
                batch = self._copies.read(
                    self.copy, start, self.copy.length, self.copy.length, self._config.read_bytes
                )
            except StorageError as damage:
                self.hand_over(str(damage))
                return
            self._send(node, follower, self._frame(start, batch), now)
            if follower.next_index == start:
                return

    def on_reply(self, node: int, reply: AppendReply, now: float) -> None:
        """A replica's length: Ack, if it completes a majority."""
        follower = self.followers.get(node)
        if follower is None or reply.length > self.copy.length:
            return  # not a replica, or it speaks of another writer's segment: nothing we could count
        if reply.fenced:
            self.on_fenced()
            return
        self._shared.turns.took.now = now
        follower.answered(reply.length, now)
        if reply.gap:
            follower.gap(reply.length, now)
        assert follower.match <= self.copy.length, "SingleWriter: a replica holds entries of another writer"
        self._advance(follower.match)
        self._send_from_disk(node, follower, now)

    def reaches(self, node: int) -> bool:
        """Whether this writer needs no word that a node is connected: it knows, or that has no copy."""
        assert node != self._config.node_id, "a writer reaches itself"
        follower = self.followers.get(node)
        return follower is None or follower.connected

    def on_connection(self, node: int, connected: bool, now: float) -> None:
        """The connection to a replica came or went; what was on its way may be lost."""
        follower = self.followers.get(node)
        if follower is not None:
            follower.connected = connected
            follower.rewind()
            self._probe(node, follower, now)

    def _probe(self, node: int, follower: Follower, now: float) -> None:
        """Ask a replica for its length, with a frame without entries: what to send depends on the answer.

        Resending from `match` without asking would repeat whole windows to a replica that has them and whose
        answers alone were lost.
        """
        assert follower.match <= self.copy.length, "SingleWriter: a replica holds entries of another writer"
        message = Append(
            topic=self.topic, segment=self.number, start=follower.match, batch=EMPTY, end=self.copy.length
        )
        if follower.connected:
            self._outbox.send(node, message)
            follower.sent_at = now

    def on_tick(self, now: float) -> None:
        """Send again what was not answered, and give up PUTs that waited too long."""
        for node, follower in self.followers.items():
            # Silent since it was last sent anything: a replica that is slow to sync answers late, and is not
            # asked again with every tick.
            silent = now - max(follower.sent_at, follower.heard_at) >= self._config.resend_interval
            if follower.match < self.copy.length and silent:
                follower.rewind()
                self._probe(node, follower, now)
        while self._pending and self._pending[0].deadline <= now:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.forward.batch.weight
            assert self._pending_bytes >= 0, "the bytes of what waits do not add up"
            self._answer(pending.origin, pending.forward, 0, 0, error=self._why_not(now))

    def _why_not(self, now: float) -> errors.Reason:
        """Why a forward that waited here until its deadline was not appended.

        Its client may send it again.
        """
        if self.reachable() < self.segment.majority:
            return errors.not_enough_replicas(self.reachable(), self.segment.majority)
        if not self._leases.holds(self.topic, self.number, now):
            return errors.NO_LEASE
        return errors.REPLICAS_BEHIND

    # --- acknowledging ---

    def _on_durable(self, turns: Turns) -> None:
        """This node's own copy counts as any other does."""
        if not self.copy.fenced:
            self._copies.record("Report", self.copy, told=self.copy.durable)
        turns.durable(self.copy.durable)
        self._advance(self.copy.durable)

    def _advance(self, length: int) -> None:
        """Acknowledge what a majority has, now that one copy durably has `length` entries.

        Never after a fence or a proposed seal.
        """
        if length <= self.commit_index:
            return  # the slowest replica's answer
        if self.copy.fenced or self.seal_proposed:
            return
        lengths = sorted([self.copy.durable, *[follower.match for follower in self.followers.values()]])
        majority = self.segment.majority
        commit = lengths[len(lengths) - majority]
        if commit <= self.commit_index:
            return
        assert commit <= self.copy.length, "AckedDurable: more is acknowledged than was ever written"
        assert len(lengths) - bisect_left(lengths, commit) >= majority, (
            "AckedDurable: fewer than a majority hold what is acknowledged"
        )
        self.commit_index = commit
        self._shared.turns.acknowledged(commit)
        self._shared.advanced[self.topic] = None
        if self._copies.recording:
            heard = [[node, follower.match] for node, follower in self.followers.items()]
            self._copies.record("Ack", self.copy, count=commit, heard=heard)
        self._answer_acknowledged()

    def _answer_acknowledged(self) -> None:
        """Answer the forwards of which all is acknowledged."""
        commit = self.commit_index
        while self._appended and self._appended[0].end <= commit:
            done = self._appended.popleft()
            assert done.end <= commit, "AckedDurable: a PUT is answered before all of it is acknowledged"
            self._unacknowledged -= done.forward.batch.weight
            refused = done.taken < done.forward.batch.count
            places = done.end - done.placed, done.placed
            self._answer(done.origin, done.forward, done.taken, done.taken, places, refused=refused)

    def _answer(
        self,
        origin: int,
        forward: Forward,
        taken: int,
        acked: int,
        places: tuple[int, int] = (0, 0),
        *,
        refused: bool = False,
        error: errors.Reason = errors.NO_ERROR,
    ) -> None:
        """Tell the origin how many of its entries are in this segment, how many are acknowledged, and where.

        `places`: the offset of the first that is new here, and how many are.
        """
        assert 0 <= acked <= taken <= forward.batch.count, "AckedDurable: more is acknowledged than was taken"
        assert places[1] <= taken, "places of entries that were not appended"
        assert refused or error or taken == forward.batch.count, "entries are neither taken nor given back"
        if acked and forward.batch.stamps and self._copies.recording:
            stamp = forward.batch.stamps[0]
            told = {"producer": stamp.producer, "number": stamp.first, "count": acked}
            self._copies.record("AnswerPub", self.copy, **told, start=places[0], placed=places[1])
        self._outbox.send(
            origin,
            ForwardReply(
                request=forward.request,
                topic=self.topic,
                segment=self.number,
                taken=taken,
                acked=acked,
                refused=refused,
                error=error,
                first=places[0],
                placed=places[1],
            ),
        )

    # --- the end of the segment ---

    def begin_seal(self) -> None:
        """Take nothing more: BeginSeal. What waits goes back, in order, to where the clients are."""
        if not self.sealing:
            self.sealing = True
            self._copies.record("BeginSeal", self.copy)
            self._refuse_pending()
            assert not self._pending, "SeqOrder: entries wait behind the end of the segment"

    def check_threshold(self, now: float | None = None) -> None:
        """Begin to seal if the segment is over its thresholds; `now` is given where age counts, too."""
        old = now is not None and self.copy.length > 0 and self._is_old(now)
        if old or self._full(self.limits.entries - self.copy.length, 0):
            self.begin_seal()

    @property
    def limits(self) -> Thresholds:
        """When this segment is full."""
        limits = self._shared.limits
        assert limits is not None, "a writer has limits from its beginning"
        return limits

    def configure(self, settings: Mapping[str, int]) -> None:
        """The topic has other settings: they count for this segment, too, which may be over by them."""
        self._shared.limits = Thresholds.of(self._config, settings, self.limits.opened_at)
        if not self.sealing:
            self.check_threshold()

    def _is_old(self, now: float) -> bool:
        return 0 < self.limits.seconds <= now - self.limits.opened_at

    @property
    def all_acknowledged(self) -> bool:
        """Whether the writer is sealing and its count is final."""
        assert self.commit_index <= self.copy.length, "AckedDurable: acknowledged beyond its own copy"
        return self.sealing and not self.copy.fenced and self.commit_index == self.copy.length

    def ready_to_seal(self) -> tuple[int, Checksum]:
        """Count and checksum of the finished segment. From now on nothing is acknowledged in it.

        All is acknowledged anyway. But a proposed seal may lose against that of a recovery, and then what
        this writer would still acknowledge might lie behind the recovery's count.
        """
        assert self.all_acknowledged, "SealedStable: the count is not final yet"
        assert not self._pending, "SealedStable: PUTs wait at a writer that takes nothing more"
        self.seal_proposed = True
        return self.copy.length, self._copies.checksum(self.copy, self.copy.length)

    def end(self) -> None:
        """The topic is deleted: take nothing more, and acknowledge nothing more.

        What is not acknowledged by now goes with the topic, and has an unknown outcome. To wait for it, as at
        a rollover, could take for ever: a topic is deleted because a disk is full, too.
        """
        self.begin_seal()
        self.seal_proposed = True
        assert not self._pending, "SeqOrder: entries wait behind the end of the topic"

    def hand_over(self, damage: str) -> None:
        """The writer's own copy cannot be read: let a recovery take the entries from a replica that has them.

        With it, the writer can neither bring a replica up to date nor answer a reader: only the writer of an
        open segment knows how much of it is acknowledged, so no other node answers for it.
        """
        self._outbox.log(f"the writer's own copy cannot be read, handing the segment over: {damage}")
        self.on_fenced()

    def on_fenced(self) -> None:
        """A recovery of this segment runs: the outcome of what is not acknowledged is unknown here.

        What is pending was certainly not written and goes back. What is appended gets no answer: the recovery
        may keep it or not, and with the seal each router tells its clients that the outcome is unknown.
        """
        if not self.copy.fenced:
            try:
                self._copies.fence(self.copy, lambda: None)
            except DiskFull as error:
                self._outbox.log(f"cannot note the fence of {self.copy.name}, asked again: {error}")
        self.sealing = True
        self._refuse_pending()

    def close(self) -> None:
        """The metadata says that the segment is sealed. Acknowledge nothing more, hand back what waits.

        After this writer's own seal nothing waits. A recovery's seal may come as a surprise: this node was
        cut off, or too slow, and has heard of it only now.
        """
        self.sealing = self.seal_proposed = True
        self._refuse_pending()
        assert not self._pending, "SeqOrder: entries wait behind the end of the segment"

    def _refuse_pending(self) -> None:
        """Send back what waits, in order. The router resends it to the next leader."""
        assert self.sealing, "SeqOrder: given back by a writer that would take what comes behind it"
        while self._pending:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.forward.batch.weight
            self._answer(pending.origin, pending.forward, 0, 0, refused=True)
        assert self._pending_bytes == 0, "the bytes of what waits do not add up"

    def check_invariants(self) -> None:
        """Assert what must hold of a writer by itself."""
        self.copy.check_invariants()
        assert 0 <= self.commit_index <= self.copy.length, "AckedDurable: acknowledged beyond its own copy"
        for follower in self.followers.values():
            follower.check_invariants()
            assert follower.next_index <= self.copy.length, "SingleWriter: sent beyond the writer's own copy"
        assert self._config.node_id not in self.followers, "AckedDurable: its own copy counts twice"
        ends = [appended.end for appended in self._appended]
        assert ends == sorted(ends), "SeqOrder: forwards out of the order of their entries"
        assert all(end > self.commit_index for end in ends), "AckedDurable: acknowledged, and not answered"
        assert self._unacknowledged == sum(appended.forward.batch.weight for appended in self._appended)
        assert self._pending_bytes == sum(pending.forward.batch.weight for pending in self._pending)
        assert self.sealing or not self.seal_proposed, "SealedStable: a seal is proposed of what goes on"
        assert not (self.sealing and self._pending), (
            "AnswersAreTrue: PUTs wait at a writer that takes nothing more"
        )
