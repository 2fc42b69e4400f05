"""GET and FETCH at the node that has the client.

GET goes to the leader of the topic's open segment, which has the cursor. For each group this node requests
one run of entries at a time, so that its clients never read backwards; GETs that arrive meanwhile are sent
together in the next request. A request whose answer is lost is sent again: no delivery is committed before
it is confirmed, so this can repeat an entry but never skip one.

FETCH moves no cursor. A sealed segment is served from this node's own disk if it holds a copy, or else
by any replica; the open one by its leader, up to the last acknowledged entry.

Either may wait for an entry if there is none (`waits.py`). A waiting GET leaves the queue of its group
meanwhile, so it blocks no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import msgspec

from walrus import protocol
from walrus.broker.gaps import Gaps
from walrus.broker.times import Times
from walrus.broker.waits import Parked, Waits
from walrus.config import NodeConfig
from walrus.protocol import Fetch, Get
from walrus.replicas.reads import Reads
from walrus.segments import START, Metadata, Position
from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import StorageError
from walrus.wire import errors
from walrus.wire.effects import Outbox
from walrus.wire.messages import Confirm, GetEntries, GetReply

MAX_GET = 2_000
"""The most entries of one request."""

NEVER = float("-inf")

LOSS_PATIENCE = 5
"""How many resend intervals the replicas have to answer whether they lack an entry that none gives."""


class WaitingGets:
    """A client's run of GETs, which is owed `left` replies, and is not answered EMPTY before `until`."""

    __slots__ = ("deadline", "left", "slot", "until")

    def __init__(self, slot: object, left: int, deadline: float, until: float) -> None:
        self.slot, self.left, self.deadline, self.until = slot, left, deadline, until


class GetQueue:
    """The GETs of this node's clients for one (topic, group); at most one request for them is in flight."""

    __slots__ = ("again_at", "asked", "leader", "request", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[WaitingGets] = deque()
        self.request = 0
        self.leader = 0  # the node that was asked; 0: none
        self.asked = 0
        self.again_at = 0.0


class DoubtfulFetch(msgspec.Struct):
    """A run of FETCHes that no replica answers: the entries are lost, or on an unreachable replica."""

    slot: object
    fetch: Fetch
    deadline: float


def _rest(fetch: Fetch, answered: int) -> Fetch:
    """Return the rest of a run after its first `answered` replies."""
    return msgspec.structs.replace(fetch, offset=fetch.offset + answered, count=fetch.count - answered)


class Consumers:
    """Reads on behalf of this node's clients."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        reads: Reads,
        outbox: Outbox,
        is_open: Callable[[object], bool],
        first_request: int,
        connected: Collection[int],
        gaps: Gaps,
    ) -> None:
        self._gaps = gaps
        self._doubtful: list[DoubtfulFetch] = []
        self._config, self._metadata, self._reads, self._outbox = config, metadata, reads, outbox
        self._is_open = is_open
        self._request = first_request
        self._groups: dict[tuple[str, str], GetQueue] = {}
        self._connected = connected
        self.times = Times(config=config, metadata=metadata, reads=reads, connected=connected)
        self.waits = Waits(
            config=config, metadata=metadata, reads=reads, is_open=is_open, connected=connected
        )

    @property
    def busy(self) -> bool:
        """Whether any GET, or any FETCH of entries that may be lost, is not answered yet."""
        return bool(self._groups or self._doubtful)

    # --- GET ---

    def get(self, slot: object, get: Get, now: float) -> None:
        """Serve a run of GETs of a known topic."""
        until = now + get.wait_ms / 1000 if get.wait_ms else NEVER
        self._queue((get.topic, get.group), slot, get.count, until, now)

    def _queue(self, key: tuple[str, str], slot: object, count: int, until: float, now: float) -> None:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = GetQueue()
        group.waiting.append(WaitingGets(slot, count, now + self._config.request_timeout, until))
        self._ask(key, group, now)

    def _ask(self, key: tuple[str, str], group: GetQueue, now: float) -> None:
        if group.leader or not group.waiting or now < group.again_at:
            return
        topic = self._metadata.topics.get(key[0])
        if topic is None:
            while group.waiting:
                self._drop_first(group, protocol.error(errors.unknown_topic(key[0])))
            return
        leader = topic.open.leader
        if leader != self._config.node_id and leader not in self._connected:
            return  # it is asked once it is connected, or once the topic has another leader
        self._request += 1
        group.leader, group.request = leader, self._request
        group.asked = min(sum(wanted.left for wanted in group.waiting), MAX_GET)
        message = GetEntries(request=self._request, topic=key[0], group=key[1], count=group.asked)
        self._outbox.send(leader, message)

    def on_reply(self, sender: int, reply: GetReply, now: float) -> None:
        """Take the leader's reply: entries, or none, or that another node leads."""
        for key, group in self._groups.items():  # noqa: B007 - `key` is used after the loop
            if (group.leader, group.request) == (sender, reply.request):
                break
        else:
            return  # a late reply: its entries are not confirmed, so they are handed out again
        group.leader = 0
        if reply.moved:
            group.again_at = now + self._config.resend_interval / 10
        elif reply.error:
            self._drop_first(group, protocol.error(reply.error))
        elif reply.batch.count:
            self._deliver(sender, key, group, reply)
        else:
            self._drop_all(key, group, reply.end or START, now)
        self._next(key, group, now)

    def _deliver(self, sender: int, key: tuple[str, str], group: GetQueue, reply: GetReply) -> None:
        """Give the entries to the clients, in the order of their requests; confirm them."""
        payloads, position = reply.batch.payloads(), 0
        delivered = True
        while group.waiting and position < len(payloads) and delivered:
            wanted = group.waiting[0]
            if not self._is_open(wanted.slot):
                group.waiting.popleft()
                delivered = False
                break
            part = payloads[position : position + wanted.left]
            self._outbox.reply(wanted.slot, protocol.ok_many(part), len(part))
            position += len(part)
            wanted.left -= len(part)
            if not wanted.left:
                group.waiting.popleft()
        # If it is not confirmed, entries that did reach clients are handed out again, too, which is allowed.
        self._outbox.send(
            sender,
            Confirm(
                request=reply.request,
                topic=key[0],
                group=key[1],
                delivered=delivered and position == len(payloads),
            ),
        )

    def _drop_all(self, key: tuple[str, str], group: GetQueue, end: Position, now: float) -> None:
        """There are no entries: answer EMPTY to each GET that the request covered and that may not wait."""
        asked = group.asked
        while group.waiting and asked > 0:
            wanted = group.waiting[0]
            count = min(wanted.left, asked)
            if wanted.until > now and not self.waits.full:
                asked -= count
                self._park(key, group.waiting.popleft(), end, now)
                continue
            self._outbox.reply(wanted.slot, protocol.EMPTY * count, count)
            asked -= count
            wanted.left -= count
            if not wanted.left:
                group.waiting.popleft()

    def _park(self, key: tuple[str, str], wanted: WaitingGets, end: Position, now: float) -> None:
        """Let GETs wait until there is an entry, outside the queue."""

        def came(batch: Batch, at: float) -> None:
            self._queue(key, wanted.slot, wanted.left, wanted.until, at)

        def over() -> None:
            self._outbox.reply(wanted.slot, protocol.EMPTY * wanted.left, wanted.left)

        self.waits.park(Parked(wanted.slot, key[0], end, wanted.until, came, over), now)

    def _drop_first(self, group: GetQueue, answer: bytes) -> None:
        if group.waiting:
            wanted = group.waiting.popleft()
            self._outbox.reply(wanted.slot, answer * wanted.left, wanted.left)

    def _next(self, key: tuple[str, str], group: GetQueue, now: float) -> None:
        if group.waiting:
            self._ask(key, group, now)
        elif not group.leader:
            self._groups.pop(key, None)

    # --- FETCH ---

    def fetch(self, slot: object, fetch: Fetch, now: float, tried: int = 0) -> None:
        """Serve a run of FETCHes of a known segment at consecutive offsets, or one FETCH that waits.

        `tried`: how many replicas have been asked in vain.
        """
        if self._metadata.is_gone(fetch.topic, fetch.segment):
            self._refuse_gone(slot, fetch)
            return
        if fetch.wait_ms and self.waits.full:
            self._outbox.reply(slot, protocol.error(errors.BUSY))
            return
        if fetch.wait_ms:
            self._fetch_later(slot, fetch, now)
            return
        left: Fetch | None = fetch
        while left is not None and (batch := self._read_here(left)).count:
            left, tried = self._fetched(slot, left, batch), 0
        if left is None:
            return
        if self._at_end(left):
            self._outbox.reply(slot, protocol.EMPTY * left.count, left.count)
        else:
            self._fetch_elsewhere(slot, left, now, tried)

    def _refuse_gone(self, slot: object, fetch: Fetch) -> None:
        """Refuse a FETCH of a segment that was trimmed, or deleted with its topic."""
        topic = self._metadata.topics.get(fetch.topic)
        reason = errors.trimmed(fetch.topic, topic.first) if topic else errors.unknown_topic(fetch.topic)
        self._outbox.reply(slot, protocol.error(reason) * fetch.count, fetch.count)

    def _fetch_later(self, slot: object, fetch: Fetch, now: float) -> None:
        """Answer when there is an entry, or the segment has ended; at once if the entry is on this node."""
        at_once = msgspec.structs.replace(fetch, count=1, wait_ms=0)

        def came(batch: Batch, at: float) -> None:
            if batch.count:
                self._fetched(slot, at_once, batch)
            else:
                self.fetch(slot, at_once, at)

        def over() -> None:
            self._outbox.reply(slot, protocol.EMPTY)

        if self._reads.readable(fetch.topic, fetch.segment) > fetch.offset:
            self.fetch(slot, at_once, now)
            return
        place, until = Position(fetch.segment, fetch.offset), now + fetch.wait_ms / 1000
        self.waits.park(Parked(slot, fetch.topic, place, until, came, over), now)

    def _read_here(self, fetch: Fetch) -> Batch:
        """Return the entries that this node has and may serve, perhaps none."""
        if self._reads.readable(fetch.topic, fetch.segment) <= fetch.offset:
            return EMPTY
        try:
            return self._read_local(fetch)
        except StorageError as damage:
            self._outbox.log(f"fetching from another replica: {damage}")
            return EMPTY

    def _read_local(self, fetch: Fetch) -> Batch:
        return self._reads.read_local(
            fetch.topic, fetch.segment, fetch.offset, fetch.count, self._config.read_bytes
        )

    def _at_end(self, fetch: Fetch) -> bool:
        """Whether this node knows by itself that there is no entry at that offset."""
        segment = self._metadata.segment(fetch.topic, fetch.segment)
        if segment is not None and segment.count is not None:
            return fetch.offset >= segment.count
        return self._reads.leads(fetch.topic, fetch.segment)

    def _fetched(self, slot: object, fetch: Fetch, batch: Batch) -> Fetch | None:
        """Answer with these entries; return the rest of the run, None if nothing is left."""
        batch = batch.slice(0, fetch.count)
        payloads = protocol.timed_payloads(batch) if fetch.times else batch.payloads()
        self._outbox.reply(slot, protocol.ok_fetch_many(fetch.offset, payloads), len(payloads))
        left = fetch.count - len(payloads)
        return _rest(fetch, len(payloads)) if left else None

    def _fetch_elsewhere(self, slot: object, fetch: Fetch, now: float, tried: int) -> None:
        holders = self._reads.holders(fetch.topic, fetch.segment, self._connected)
        if tried >= len(holders):
            deadline = now + LOSS_PATIENCE * self._config.resend_interval
            self._look_for_loss(DoubtfulFetch(slot, fetch, deadline), now)
            return

        def answer(batch: Batch, error: str, at: float) -> None:
            if error:
                self.fetch(slot, fetch, at, tried + 1)
            elif batch.count:
                if left := self._fetched(slot, fetch, batch):
                    self.fetch(slot, left, at)
            else:
                self._outbox.reply(slot, protocol.EMPTY * fetch.count, fetch.count)

        self._reads.ask(
            holders[tried],
            fetch.topic,
            fetch.segment,
            fetch.offset,
            entries=fetch.count,
            raw=False,
            now=now,
            then=answer,
        )

    def _look_for_loss(self, doubtful: DoubtfulFetch, now: float) -> None:
        """No replica gives these entries: answer that they are lost, if that is certain."""
        slot, fetch = doubtful.slot, doubtful.fetch
        segment = self._metadata.segment(fetch.topic, fetch.segment)
        sealed = segment is not None and segment.sealed
        end = self._gaps.end((fetch.topic, fetch.segment, fetch.offset), now) if sealed else fetch.offset
        if end > fetch.offset:
            count = min(fetch.count, end - fetch.offset)
            reason = errors.lost(fetch.topic, fetch.segment, fetch.offset, end)
            self._outbox.reply(slot, protocol.error(reason) * count, count)
            if count < fetch.count:
                self.fetch(slot, _rest(fetch, count), now)
        elif sealed and now < doubtful.deadline:
            self._doubtful.append(doubtful)  # until the replicas have answered whether they have them
        else:
            refusal = protocol.error(errors.no_replica(fetch.topic, fetch.segment))
            self._outbox.reply(slot, refusal * fetch.count, fetch.count)

    # --- what changes around them ---

    def on_topic(self, topic: str, now: float) -> None:
        """The topic may have another leader now."""
        self.waits.on_topic(topic, now)
        _, segment = self._metadata.open_segment(topic) or (0, None)
        for key, group in list(self._groups.items()):
            if key[0] == topic:
                if group.leader and (segment is None or group.leader != segment.leader):
                    self._forget(group)
                self._ask(key, group, now)

    def _forget(self, group: GetQueue) -> None:
        """Stop waiting for the node that was asked; entries that it handed out are handed out again."""
        group.leader = 0

    def on_connection(self, node: int, connected: bool, now: float) -> None:
        """A connection began or ended."""
        self.waits.on_connection(now)
        for key, group in list(self._groups.items()):
            if group.leader == node and not connected:
                self._forget(group)
            self._ask(key, group, now)

    def on_tick(self, now: float) -> None:
        """Ask again, and answer the GETs whose deadline has passed."""
        self.waits.on_tick(now)
        doubtful, self._doubtful = self._doubtful, []
        for each in doubtful:
            if self._is_open(each.slot):
                self._look_for_loss(each, now)
        for key, group in list(self._groups.items()):
            while group.waiting and group.waiting[0].deadline <= now:
                self._forget(group)
                self._drop_first(group, protocol.error(errors.CURSOR_UNREACHED))
            self._next(key, group, now)
