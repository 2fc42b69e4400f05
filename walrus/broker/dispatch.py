"""Work queues at their owner: which RECEIVE gets which entry, and which ACK may be answered.

The owner of a topic's groups is the leader of its open segment. This module connects the state of each
group (`groups.py`), the lease to serve (`tenure.py`), the reads of entries (`reads.py`), and the nodes that
have the clients (`receivers.py`):

    AskDeliveries ──► waits in its group ──► an entry, a lease ──► Deliveries  (Receive)
    Settle "ack"  ──► noted ──► CommitGroups ──► applied ──► Settled           (AckEntry, CommitGroup, Answer)
    SeekGroup     ──► MoveGroup ──► applied ──► Settled                        (Seek)

A waiting RECEIVE learns of an entry from the writer whose commit index grew (`Writers.advanced`), in the
same turn and without a timer. Requests of one group are served in the order in which they came.

Acknowledgements of all groups are proposed together, one proposal at a time: those that arrive while one is
in flight go into the next, which leaves when that one is applied. A lost proposal is repeated after
`ack_interval`. So Raft's own pace sets the rate, and a burst becomes one command. The answers leave once
the metadata that this node has applied includes them, and only while it serves. A request to a node that is
no longer the owner is answered `moved`, and the node that has the client sends it to the next owner.

Left out: two proposals in flight at once. That would be correct, as a commit is a join (`acknowledged.py`):
the order does not matter, nor does the loss of one that is part of a later one. But the ACKs of one round
arrive together and make one proposal anyhow, and those of many connections would be spread over more
commands, each of which costs its calls at three nodes.

On a healthy rollover the Seal includes the acknowledged and the outstanding entries (`freeze`): nothing is
redelivered.

Invariants: those of `groups.py`; a group is read with RECEIVE or with GET, not with both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator
from functools import partial
from typing import TypeAlias

import msgspec

from walrus.acknowledged import Acknowledged, HandedOn, Position, Run, runs_of
from walrus.broker.dead_letters import DeadLetters, Place, dead_letter_topic
from walrus.broker.gaps import Gaps
from walrus.broker.groups import WorkQueue
from walrus.broker.tenure import Tenure
from walrus.config import NodeConfig
from walrus.deadlines import Deadlines
from walrus.protocol import Request
from walrus.replicas.reads import Reads
from walrus.segments import (
    MAX_GROUPS,
    MAX_HANDED_ON,
    Command,
    CommitGroups,
    Metadata,
    MoveGroup,
    Topic,
)
from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import StorageError
from walrus.wire import errors
from walrus.wire.effects import Outbox, Trace, no_trace
from walrus.wire.messages import AskDeliveries, Deliveries, SeekGroup, Settle, Settled
from walrus.wire.receipts import Receipt

GroupKey: TypeAlias = tuple[str, str]
"""(topic, group)"""

Caller: TypeAlias = tuple[int, int]
"""(node that has the client, number of its request)"""

MAX_RECEIVES = 100_000
"""Requests that wait for an entry at one owner, or for an acknowledgement to be committed."""

IDLE_AFTER = 10.0
"""Seconds after which an unused group gives its memory back."""


def _is_near(topic: Topic, done: Acknowledged, handed: HandedOn, window: int) -> bool:
    """Whether an entry that was handed on is in the window: it is, if the Seal is of an honest node."""
    position = Position(handed.segment, handed.offset)
    return (
        done.low <= position
        and topic.in_bounds(position)
        and topic.distance(done.low, position) < window
        and handed.deliveries > 0
    )


class Waiting(msgspec.Struct, gc=False):
    """A RECEIVE that waits for entries: `left` of them, until `deadline`."""

    left: int
    deadline: float


class Unanswered(msgspec.Struct):
    """An ACK whose entries are noted: answered once all of them are committed. Or a SEEK: of a generation."""

    errors: tuple[errors.Reason, ...]
    entries: tuple[Run, ...]
    deadline: float
    seek: MoveGroup | None = None
    again_at: float = 0.0


class Counts(msgspec.Struct):
    """What this node has done for groups that are read with RECEIVE, since this start."""

    deliveries: int = 0
    redeliveries: int = 0
    """Of those, of entries that had been out before."""
    dead_letters: int = 0
    lost: int = 0
    """Entries that groups stepped over because no replica has them."""


class Alarms(msgspec.Struct):
    """What the clock has for the owner: of RECEIVEs that wait, of groups, and of those that are idle."""

    waits: Deadlines[tuple[Caller, GroupKey]]
    wakes: Deadlines[GroupKey]
    idle_at: float = 0.0


class Queue:
    """One group, with the requests that wait for it."""

    __slots__ = ("answers", "dead", "fetched", "group", "key", "reading", "used_at", "waiting", "wake_at")

    def __init__(self, key: GroupKey, group: WorkQueue) -> None:
        self.key = key
        """The same object for all that wait: each request comes with names of its own."""
        self.group = group
        self.waiting: dict[Caller, Waiting] = {}
        self.answers: dict[Caller, Unanswered] = {}
        self.fetched: tuple[Position, Batch] | None = None
        """Entries that another replica gave, the first one at that position."""
        self.dead: set[Position] = set()
        """What went to the dead-letter topic, and is not committed yet."""
        self.reading = False
        self.used_at = 0.0
        self.wake_at = float("inf")
        """When the clock has something for this group, as far as the dispatcher was told."""

    @property
    def idle(self) -> bool:
        """Whether nothing here waits, and nothing is kept that is not in the metadata."""
        return not (self.waiting or self.answers or self.reading) and self.group.idle


class Dispatcher:
    """The work queues of all topics whose open segment this node leads."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        reads: Reads,
        tenure: Tenure,
        gaps: Gaps,
        outbox: Outbox,
        connected: Collection[int],
        advanced: dict[str, None],
        read_with_get: Container[GroupKey],
        propose: Callable[[Command, float], None],
        request: Callable[[object, Request, float], None],
        trace: Trace,
    ) -> None:
        self._trace = trace
        self.letters = DeadLetters(config, request, self._on_dead)
        self._config, self._metadata, self._reads = config, metadata, reads
        self._tenure, self._gaps, self._outbox, self._connected = tenure, gaps, outbox, connected
        self._advanced, self._read_with_get, self._propose = advanced, read_with_get, propose
        self._queues: dict[str, dict[str, Queue]] = {}
        self._frozen: dict[str, int] = {}  # topic -> the segment that is being sealed
        self._alarms = Alarms(Deadlines(self._waits), Deadlines(lambda key, at: self._wakes_at(key) == at))
        self._unsettled: dict[GroupKey, None] = {}  # groups that every tick looks at
        self._uncommitted: dict[GroupKey, None] = {}
        self._commit_at = 0.0
        self._requests = 0
        self.counts = Counts()

    def __contains__(self, key: object) -> bool:
        """Whether this node has a queue of that (topic, group)."""
        return isinstance(key, tuple) and key[1] in self._queues.get(key[0], ())

    def _visibility(self, topic: Topic) -> float:
        """For how many seconds an entry stays out."""
        return self._config.setting("visibility_ms", topic.settings) / 1000

    def _all(self) -> Iterator[tuple[GroupKey, Queue]]:
        for name, queues in list(self._queues.items()):
            for group, queue in list(queues.items()):
                yield (name, group), queue

    # --- the group of a request ---

    def _queue(self, key: GroupKey, now: float) -> Queue | errors.Reason:
        """The queue of a group, made on first use, or why there is none."""
        name, group = key
        here = self._queues.get(name, {})
        queue = here.get(group)
        if queue is None:
            topic = self._metadata.topics[name]
            if group in topic.cursors or key in self._read_with_get:
                return errors.group_in_use(group, with_get=True)
            known = topic.cursors.keys() | topic.groups.keys() | here.keys()
            if group not in known and len(known) >= MAX_GROUPS:
                return errors.too_many_groups(MAX_GROUPS)
            until = now + self._visibility(topic)
            done = topic.group(group)
            window = self._config.queue_window
            handed = [one for one in topic.handed.get(group, ()) if _is_near(topic, done, one, window)]
            queue = Queue(key, WorkQueue(done, handed, until, window, self._trace_of(key)))
            self._queues.setdefault(name, {})[group] = queue
        queue.used_at = now
        return queue

    def _trace_of(self, key: GroupKey) -> Trace | None:
        """What records the steps of one group, if anything does."""
        return None if self._trace is no_trace else partial(self._trace, topic=key[0], group=key[1])

    # --- RECEIVE ---

    def on_ask(self, origin: int, ask: AskDeliveries, now: float) -> None:
        """A node has a client that wants entries."""
        caller, key = (origin, ask.request), (ask.topic, ask.group)
        if not self._tenure.owns(ask.topic):
            self._give(key, caller, last=True, moved=True)
            return
        queue = self._queue(key, now)
        if not isinstance(queue, Queue):
            self._give(key, caller, last=True, error=queue)
        elif caller in queue.waiting:
            queue.waiting[caller].left = ask.count
            self._serve(key, queue, now)
        elif self._requests >= MAX_RECEIVES:
            self._give(key, caller, last=True, error=errors.BUSY)
        else:
            queue.waiting[caller] = Waiting(ask.count, now + ask.wait)
            self._requests += 1
            self._alarms.waits.add(now + ask.wait, (caller, queue.key))
            self._serve(key, queue, now)
            if not ask.wait and not queue.reading:
                self._end(key, queue, caller, now)

    def _serves(self, name: str, now: float) -> bool:
        """Whether this node may hand out entries of the topic in this step."""
        return name not in self._frozen and self._tenure.serves(name, now)

    def _serve(self, key: GroupKey, queue: Queue, now: float) -> None:
        """Hand out what there is to those that wait, in their order; answer those that do not wait."""
        if not queue.waiting:
            return
        self._tenure.keep(now)
        if not self._serves(key[0], now):
            return
        queue.group.expire(now)
        for caller, waiting in list(queue.waiting.items()):
            while waiting.left:
                receipts, entries = self._take(key, queue, waiting.left, now)
                if not receipts:
                    break
                waiting.left -= len(receipts)
                self._give(key, caller, receipts, entries, last=not waiting.left)
            if waiting.left and (queue.reading or waiting.deadline > now):
                break  # those behind it wait for the same entry
            if waiting.left:
                self._give(key, caller, last=True)
            self._drop(queue, caller)
        self._arm(key, queue)

    def _arm(self, key: GroupKey, queue: Queue) -> None:
        """Wake the group when the next timeout or delay ends."""
        at = queue.group.next_deadline()
        if at < queue.wake_at:
            queue.wake_at = at
            self._alarms.wakes.add(at, key)

    def _waits(self, alarm: tuple[Caller, GroupKey], _: float) -> bool:
        caller, key = alarm
        return key in self and caller in self._queues[key[0]][key[1]].waiting

    def _wakes_at(self, key: GroupKey) -> float | None:
        return self._queues[key[0]][key[1]].wake_at if key in self else None

    def _drop(self, queue: Queue, caller: Caller) -> None:
        del queue.waiting[caller]
        self._requests -= 1

    def _take(self, key: GroupKey, queue: Queue, count: int, now: float) -> tuple[list[Receipt], Batch]:
        """Hand out the next entries, as many as one read gives; none if there are none at hand."""
        topic, group = self._metadata.topics[key[0]], queue.group
        end = self._reads.end(key[0], topic.current)
        position = group.candidate(topic, end, now)
        while position is not None and self._is_spent(key[0], group, position):
            entries = self._read(key, queue, position, 1, now)
            if not entries.count:
                return [], EMPTY
            group.withhold(position)
            self.letters.append((*key, position), entries.slice(0, 1).blob, now)
            position = group.candidate(topic, end, now)
        if position is None:
            return [], EMPTY
        receipts: list[Receipt] = []
        until = now + self._visibility(topic)
        entries = self._read(key, queue, position, count, now)
        most = min(entries.count, count)
        while len(receipts) < most:
            run = group.fresh(position, topic, end, most - len(receipts))
            receipts += group.hand_out_run(position, run, until)
            position = Position(position.segment, position.offset + run)
            if group.candidate(topic, end, now) != position or self._is_spent(key[0], group, position):
                break
        self.counts.deliveries += len(receipts)
        self.counts.redeliveries += len([receipt for receipt in receipts if receipt.delivery > 1])
        return receipts, entries.slice(0, len(receipts))

    def _is_spent(self, name: str, group: WorkQueue, position: Position) -> bool:
        """Whether the entry was handed out as often as the topic says, and goes to the dead letters."""
        limit = self._config.setting("max_deliveries", self._metadata.topics[name].settings)
        return 0 < limit <= group.deliveries(position) and dead_letter_topic(name) is not None

    def _on_dead(self, place: Place, now: float) -> None:
        """An entry is in the dead-letter topic: it is done for the group."""
        name, group, position = place
        queue = self._queues.get(name, {}).get(group)
        if queue is not None and queue.group.give_up(position):
            queue.dead.add(position)
            self.counts.dead_letters += 1
            self._uncommitted[name, group] = None

    def _read(self, key: GroupKey, queue: Queue, position: Position, count: int, now: float) -> Batch:
        """Entries from `position` on; none if they must be fetched from another node first."""
        name, (number, offset) = key[0], position
        if self._reads.readable(name, number) > offset:
            try:
                size = self._config.read_bytes
                return self._reads.read_local(name, number, offset, count, size)
            except StorageError as damage:
                self._outbox.log(f"reading {name} from another replica: {damage}")
        if queue.fetched is not None:
            start, entries = queue.fetched
            skip = offset - start.offset
            if start.segment == number and 0 <= skip < entries.count:
                return entries.slice(skip, entries.count)
        self._fetch(key, queue, position, count, now)
        return EMPTY

    def _fetch(self, key: GroupKey, queue: Queue, position: Position, count: int, now: float) -> None:
        """Ask another replica for what this node cannot read; a tick asks again."""
        segment = self._metadata.segment(key[0], position.segment)
        assert segment is not None, f"{position} is in no segment"
        holders = [node for node in segment.replicas if node in self._connected]
        self._unsettled[key] = None
        if queue.reading or not holders:
            return
        queue.reading = True

        def answer(batch: Batch, error: str, at: float) -> None:
            queue.reading = False
            if self._queues.get(key[0], {}).get(key[1]) is not queue:
                return
            there = max(self._reads.end(key[0], position.segment) - position.offset, 0)
            found = batch.slice(0, there)
            if not error and found.count:
                queue.fetched = position, found
                self._serve(key, queue, at)
            else:
                self._step_over(key, queue, position, at)

        node = holders[int(now * 10) % len(holders)]  # another one at the next attempt
        raw, place = not segment.sealed, (key[0], position.segment, position.offset)
        self._reads.ask(node, *place, entries=count, raw=raw, now=now, then=answer)

    def _step_over(self, key: GroupKey, queue: Queue, position: Position, now: float) -> None:
        """Entries that are on no replica any more count as done, or the group would wait for ever."""
        name, (number, offset) = key[0], position
        end = min(self._gaps.end((name, number, offset), now), self._reads.end(name, number))
        for lost in range(offset, end):
            if not queue.group.step_over(Position(number, lost), self._metadata.topics[name], end):
                break  # beyond the window: the next step goes on there
            self.counts.lost += 1
            self._uncommitted[key] = None
        if end > offset:
            self._outbox.log(
                f"lost: entries {offset} to {end - 1} of segment {number} of {name} are on none of its "
                f"replicas; RECEIVE goes on behind them (group {key[1]!r})"
            )

    def _give(
        self,
        key: GroupKey,
        caller: Caller,
        receipts: Collection[Receipt] = (),
        batch: Batch = EMPTY,
        *,
        last: bool,
        moved: bool = False,
        error: errors.Reason = errors.NO_ERROR,
    ) -> None:
        origin, request = caller
        given = Deliveries(
            request=request,
            topic=key[0],
            group=key[1],
            receipts=tuple(receipts),
            batch=batch,
            last=last,
            moved=moved,
            error=error,
        )
        self._outbox.send(origin, given)

    # --- ACK, NACK, EXTEND, SEEK ---

    def on_settle(self, origin: int, settle: Settle, now: float) -> None:
        """What became of deliveries."""
        caller, key = (origin, settle.request), (settle.topic, settle.group)
        queue = self._queue_for(caller, key, len(settle.receipts), now)
        if queue is None:
            return
        if settle.what == "ack":
            self._acknowledge(key, queue, caller, settle.receipts, now)
            return
        queue.group.expire(now)
        change = queue.group.give_back if settle.what == "nack" else queue.group.extend
        known = [change(receipt, now + settle.seconds) for receipt in settle.receipts]
        self._settled(caller, tuple(errors.NO_ERROR if done else errors.STALE_RECEIPT for done in known))
        self._arm(key, queue)
        self._serve(key, queue, now)

    def _queue_for(self, caller: Caller, key: GroupKey, count: int, now: float) -> Queue | None:
        """The queue that a request is about. Answers the request if there is none."""
        if not self._tenure.owns(key[0]):
            self._settled(caller, (), moved=True)
            return None
        queue = self._queue(key, now)
        if isinstance(queue, Queue):
            return queue
        self._settled(caller, (queue,) * count)
        return None

    def _acknowledge(
        self, key: GroupKey, queue: Queue, caller: Caller, receipts: tuple[Receipt, ...], now: float
    ) -> None:
        topic = self._metadata.topics[key[0]]
        end = self._reads.end(key[0], topic.current)
        known = [queue.group.acknowledge(receipt, topic, end) for receipt in receipts]
        queue.group.record_acknowledged(receipts, known)
        if queue.group.noted:
            self._uncommitted[key] = None
        reasons = tuple([errors.NO_ERROR if done else errors.STALE_RECEIPT for done in known])
        entries = runs_of([one[:2] for one, done in zip(receipts, known, strict=True) if done])
        self._await(key, queue, caller, Unanswered(reasons, entries, now + self._config.request_timeout), now)

    def _await(self, key: GroupKey, queue: Queue, caller: Caller, waits: Unanswered, now: float) -> None:
        """Answer once it is committed, which it may be already."""
        if caller not in queue.answers and self._requests >= MAX_RECEIVES:
            self._settled(caller, (errors.BUSY,) * len(waits.errors))
            return
        self._requests += caller not in queue.answers
        queue.answers[caller] = waits
        self._unsettled[key] = None
        self._tenure.keep(now)
        # This one alone: to look at all that wait whenever one more comes costs the square of their number.
        self._answer(key[0], queue, (caller,), now)

    def on_seek(self, origin: int, seek: SeekGroup, now: float) -> None:
        """Move a group: proposed until it has another generation."""
        caller, key = (origin, seek.request), (seek.topic, seek.group)
        queue = self._queue_for(caller, key, 1, now)
        if queue is None or caller in queue.answers:
            return
        topic = self._metadata.topics[seek.topic]
        end = Position(topic.current, self._reads.end(seek.topic, topic.current))
        to = end if seek.to is None else max(seek.to, topic.begin)
        if not (topic.in_bounds(to) and to <= end):
            self._settled(caller, (errors.invalid_position(seek.topic, *to),))
            return
        move = MoveGroup(topic=seek.topic, group=seek.group, generation=queue.group.done.generation, to=to)
        waits = Unanswered((errors.NO_ERROR,), (), now + self._config.request_timeout, move)
        self._await(key, queue, caller, waits, now)
        self._push_seek(waits, now)

    def _push_seek(self, waits: Unanswered, now: float) -> None:
        if waits.seek is not None and now >= waits.again_at:
            waits.again_at = now + self._config.resend_interval
            self._propose(waits.seek, now)

    def _settled(self, caller: Caller, reasons: tuple[errors.Reason, ...], *, moved: bool = False) -> None:
        origin, request = caller
        self._outbox.send(origin, Settled(request=request, moved=moved, errors=reasons))

    # --- what Raft has committed ---

    def on_committed(self, name: str, now: float) -> None:
        """The metadata has other states of this topic's groups."""
        topic = self._metadata.topics.get(name)
        for group, queue in list(self._queues.get(name, {}).items()) if topic is not None else ():
            assert topic is not None
            if group in topic.cursors:
                # A cursor of an earlier leader, committed late: it is read with GET, and has no queue.
                self._end_queue((name, group), queue, errors.group_in_use(group, with_get=True))
                continue
            done = topic.group(group)
            if done != queue.group.done:
                self._commit_at = now  # the proposal that was on its way has arrived: the next may go
                if done.generation != queue.group.done.generation:
                    self.letters.forget(name, group)
                queue.group.on_committed(done)
                queue.dead &= queue.group.noted  # or it would count again, if a SEEK brings it back
                self._answer(name, queue, queue.answers, now)
                self._serve((name, group), queue, now)
            if not queue.group.noted:
                self._uncommitted.pop((name, group), None)

    def _end_queue(self, key: GroupKey, queue: Queue, reason: errors.Reason = errors.NO_ERROR) -> None:
        """All that wait are told why there is no queue any more: without a reason it is at another owner."""
        moved = reason == errors.NO_ERROR
        for caller in list(queue.waiting):
            self._give(key, caller, last=True, moved=moved, error=reason)
            self._drop(queue, caller)
        for caller, waits in list(queue.answers.items()):
            self._settled(caller, () if moved else (reason,) * len(waits.errors), moved=moved)
            self._unawait(queue, caller)
        self._forget(key)

    def _answer(self, name: str, queue: Queue, callers: Collection[Caller], now: float) -> None:
        """OK to those of them whose entries are committed in this node's own view, while it serves."""
        if not queue.answers or not self._tenure.owns(name) or not self._tenure.serves(name, now):
            return
        done = queue.group.done
        for caller in tuple(callers):
            waits = queue.answers[caller]
            if waits.seek is not None:
                ready = done.generation > waits.seek.generation
            else:
                ready = all(done.covers(Position(number, a), b - a) for number, a, b in waits.entries)
            if ready:
                if waits.seek is None and (trace := self._trace_of(queue.key)):
                    trace("Answer", generation=done.generation, entries=[list(run) for run in waits.entries])
                self._settled(caller, waits.errors)
                self._unawait(queue, caller)

    def _unawait(self, queue: Queue, caller: Caller) -> None:
        del queue.answers[caller]
        self._requests -= 1

    # --- leadership comes and goes ---

    def on_topic(self, name: str, now: float) -> None:
        """The topic's metadata changed: begin anew after others, forget what is no longer ours."""
        topic = self._metadata.topics.get(name)
        anew = self._tenure.on_topic(name, topic, now)
        if topic is None or self._frozen.get(name) != topic.current:
            self._frozen.pop(name, None)
        if anew or not self._tenure.owns(name):
            for group, queue in list(self._queues.get(name, {}).items()):
                self._end_queue((name, group), queue)
        else:
            self.on_committed(name, now)
            self._serve_topic(name, now)

    def _serve_topic(self, name: str, now: float) -> None:
        for group, queue in list(self._queues.get(name, {}).items()):
            self._serve((name, group), queue, now)

    def _forget(self, key: GroupKey) -> None:
        self.letters.forget(*key)
        del self._queues[key[0]][key[1]]
        if not self._queues[key[0]]:
            del self._queues[key[0]]
        self._uncommitted.pop(key, None)
        self._unsettled.pop(key, None)

    def freeze(self, name: str) -> tuple[dict[str, Acknowledged], dict[str, tuple[HandedOn, ...]]]:
        """Hand out nothing more; what the Seal takes along of each group: what is done, and what is out."""
        topic = self._metadata.topics[name]
        self._frozen[name] = topic.current
        done: dict[str, Acknowledged] = {}
        handed: dict[str, tuple[HandedOn, ...]] = {}
        room = MAX_HANDED_ON
        for group in sorted(self._queues.get(name, {}).keys() | topic.handed.keys()):
            queue = self._queues.get(name, {}).get(group)
            if queue is not None:
                state, out = queue.group.seal()
            else:  # not asked for since the last Seal: what that one handed on is handed on
                state = Acknowledged(topic.group(group).generation)
                out = topic.handed[group]
            if out or state.above or state.low > topic.begin:
                done[group], handed[group] = state, out[:room]
                room -= len(handed[group])
        return done, handed

    def on_disconnected(self, node: int) -> None:
        """A node that has clients is gone. What they have stays out until its timeout."""
        for _, queue in self._all():
            for caller in [caller for caller in queue.waiting if caller[0] == node]:
                self._drop(queue, caller)
            for caller in [caller for caller in queue.answers if caller[0] == node]:
                self._unawait(queue, caller)

    # --- time ---

    def next_deadline(self, now: float) -> float:
        """When `flush` or `on_tick` has something to do by the clock."""
        first = min(self._alarms.waits.first(), self._alarms.wakes.first())
        if self._uncommitted:
            return min(first, self._commit_at)
        return first if first < float("inf") else now + 1.0

    def due(self, now: float) -> bool:
        """Whether `flush` would get on now."""
        return self._may_commit(now) or bool(self._advanced) or self.letters.due(now)

    def _may_commit(self, now: float) -> bool:
        return bool(self._uncommitted) and now >= self._commit_at

    def flush(self, now: float) -> None:
        """The end of a turn: serve those that wait for what it brought; propose what was acknowledged."""
        self.letters.flush(now)
        for name in self._advanced:
            self._serve_topic(name, now)
        self._advanced.clear()
        if self._may_commit(now):
            self._commit(now)

    def _commit(self, now: float) -> None:
        groups: dict[str, dict[str, Acknowledged]] = {}
        dead: dict[str, dict[str, tuple[Run, ...]]] = {}
        for name, group in self._uncommitted:
            queue = self._queues[name][group]
            state = queue.group.to_commit()
            if state is not None:
                groups.setdefault(name, {})[group] = state
            if queue.dead:
                dead.setdefault(name, {})[group] = runs_of(queue.dead)
        self._commit_at = now + self._config.ack_interval
        if groups:
            self._propose(CommitGroups(groups=groups, dead=dead), now)

    def on_tenure(self, now: float) -> None:
        """There is a lease again: what waited for it goes on."""
        for (name, group), queue in self._all():
            self._answer(name, queue, queue.answers, now)
            self._serve((name, group), queue, now)

    def on_tick(self, now: float) -> None:
        """Deadlines: of waits, of deliveries, of answers that are not awaited any more."""
        for name in self._tenure.on_tick(now):
            self._serve_topic(name, now)
        if self._requests:
            self._tenure.keep(now)
        for caller, key in self._alarms.waits.due(now):
            due = self._queues[key[0]][key[1]]
            self._end(key, due, caller, now)
            if caller in due.waiting:  # look again when its node has given up on it
                patience = due.waiting[caller].deadline + self._config.request_timeout
                if patience <= now:
                    self._drop(due, caller)
                else:
                    self._alarms.waits.add(patience, (caller, key))
        self._wake(now)
        for key in list(self._unsettled):
            del self._unsettled[key]
            self._tick(key, self._queues[key[0]][key[1]], now)
        if now >= self._alarms.idle_at:
            self._alarms.idle_at = now + IDLE_AFTER / 4
            self._rest(now)

    def _wake(self, now: float) -> None:
        for name, group in self._alarms.wakes.due(now):
            queue = self._queues[name][group]
            queue.wake_at = float("inf")
            queue.group.expire(now)
            self._serve((name, group), queue, now)
            self._arm((name, group), queue)

    def _end(self, key: GroupKey, queue: Queue, caller: Caller, now: float) -> None:
        """The wait is over: there was none. Without a lease nothing is known of entries, and nothing said."""
        if caller in queue.waiting and self._serves(key[0], now):
            self._give(key, caller, last=True)
            self._drop(queue, caller)

    def _tick(self, key: GroupKey, queue: Queue, now: float) -> None:
        """A group that waits for Raft, or for another node."""
        for caller, waits in list(queue.answers.items()):
            if waits.deadline <= now:
                self._unawait(queue, caller)
            else:
                self._push_seek(waits, now)
        self._answer(key[0], queue, queue.answers, now)
        self._serve(key, queue, now)
        if queue.answers or queue.reading:
            self._unsettled[key] = None

    def _rest(self, now: float) -> None:
        """Idle groups give their memory back: what is committed is in the metadata."""
        for key, queue in self._all():
            if queue.idle and now - queue.used_at > IDLE_AFTER:
                self._forget(key)

    def out(self, name: str) -> dict[str, int]:
        """How many entries of a topic each group has out, of the groups that this node keeps."""
        return {group: len(queue.group.out) for group, queue in self._queues.get(name, {}).items()}

    def queues(self) -> Iterator[tuple[GroupKey, WorkQueue]]:
        """The work queues that this node keeps."""
        for key, queue in self._all():
            yield key, queue.group

    def check_invariants(self) -> None:
        """Assert what must hold of the queues by themselves."""
        count = 0
        for (name, group), queue in self._all():
            topic = self._metadata.topics[name]
            queue.group.check_invariants(topic)
            count += len(queue.waiting) + len(queue.answers)
            assert group not in topic.cursors, f"{group} of {name} is read in two ways"
            assert queue.dead <= queue.group.noted, (
                "EveryEntryAcked: what is committed is a dead letter again"
            )
        assert count == self._requests
        assert all(self._queues[name][group].group.noted for name, group in self._uncommitted)
