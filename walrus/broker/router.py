"""From the node that has the client to the segment's leader: the path of a PUT, and its order.

Any node accepts any PUT. The router of the node that has the client sends it to the leader of the topic's
open segment (often itself), waits for the outcome, and answers. One forward carries all entries that arrived
for the topic in one turn.

**Order per client.** PUTs of one connection to one topic are stored in the order in which they were sent:

* forwards of a topic are sent in order, to one segment at a time; nothing goes to the next segment's
  leader before everything sent to the previous one is settled;
* a leader that is sealing hands back the entries that it did not append. They come back in order, and go to
  the front of the queue. If a later entry was written nevertheless (the network delayed the earlier
  forward), the returned ones are refused instead: they could only be written out of order;
* answers are sent in order: an outcome that is known early waits for those before it.

**Outcomes.** `OK`: acknowledged. Handed back: known not to have been written, so the router resends it
until its deadline. Lost on the way (the leader died, its segment was recovered, no answer in time):
*unknown*, and the client is told so. No node retries it on its own: a retry could write it twice.

If a client has reset its connection, entries of it that still wait here are not written. The client will
send them again, perhaps through another node; written seconds later, the first ones would be duplicates.

Invariant: an entry is in one place at a time: waiting, in one forward, or answered.

Transcripts, in `tests/replicas/transcripts`: `forward_handed_back`, `rollover_keeps_the_order`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from walrus import protocol
from walrus.config import NodeConfig
from walrus.segments import Metadata, Segment
from walrus.storage.batch import Batch, concat
from walrus.wire import errors
from walrus.wire.effects import Outbox
from walrus.wire.messages import Forward, ForwardReply

MAX_FORWARD_BYTES = 4 << 20


class Item:
    """The entries of one request that are not answered yet."""

    __slots__ = ("batch", "deadline", "positions", "slot")

    def __init__(self, slot: object, batch: Batch, deadline: float, positions: bool) -> None:
        self.slot, self.batch, self.deadline, self.positions = slot, batch, deadline, positions


class Sent:
    """One forward in flight, or with its `outcome`."""

    __slots__ = ("items", "leader", "outcome", "request", "segment", "weight")

    def __init__(self, request: int, segment: int, leader: int, items: list[Item], weight: int) -> None:
        self.request, self.segment, self.leader = request, segment, leader
        self.items, self.weight = items, weight
        self.outcome: ForwardReply | None = None


class Route:
    """The PUTs to one topic at this node."""

    __slots__ = ("closed", "returned", "sent", "sent_bytes", "topic", "waiting")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.waiting: deque[Item] = deque()
        self.sent: deque[Sent] = deque()
        self.sent_bytes = 0
        self.returned: list[Item] = []  # handed back; they go before `waiting` once `sent` is settled
        self.closed = 0  # the last segment that is known to take nothing more

    @property
    def idle(self) -> bool:
        """Whether no PUT waits or is in flight."""
        return not (self.waiting or self.sent or self.returned)


def _accepted(item: Item, count: int, outcome: ForwardReply, before: int) -> bytes:
    """The replies to the first `count` entries of an item; `before` entries precede it in its forward."""
    if not item.positions:
        return protocol.OK * count
    untold = outcome.taken - outcome.placed
    blank = min(count, max(0, untold - before))
    first = outcome.first + before + blank - untold
    return protocol.OK * blank + protocol.ok_places(outcome.segment, first, count - blank)


class Router:
    """The routes of all topics that clients of this node write to."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        outbox: Outbox,
        first_request: int,
        incarnation: Callable[[int], int | None],
        is_open: Callable[[object], bool],
    ) -> None:
        """`incarnation`: the current start of a node, as far as this node knows; `is_open`: whether the
        client of a slot is still connected.
        """
        self._config, self._metadata, self._outbox = config, metadata, outbox
        self._incarnation, self._is_open = incarnation, is_open
        self._request = first_request
        self._routes: dict[str, Route] = {}
        self.dirty: dict[str, None] = {}
        """The topics for which `flush` may have something to send."""
        self.waiting_bytes = 0
        self.acknowledged = 0  # entries answered OK, for METRICS

    def put(self, slot: object, topic: str, batch: Batch, now: float, positions: bool = False) -> None:
        """Accept entries of a client. Each will be answered, in order; `positions`: with its position."""
        if self.waiting_bytes > self._config.max_pending_bytes:
            self._outbox.reply(slot, protocol.error(errors.BUSY) * batch.count, batch.count)
            return
        route = self._routes.get(topic)
        if route is None:
            route = self._routes[topic] = Route(topic)
        route.waiting.append(Item(slot, batch, now + self._config.put_timeout, positions))
        self.waiting_bytes += batch.weight
        self.dirty[topic] = None

    @property
    def busy(self) -> bool:
        """Whether any PUT is not answered yet."""
        return any(not route.idle for route in self._routes.values())

    def flush(self, connected: Collection[int]) -> None:
        """Send what can be sent, as few forwards per topic as possible."""
        for topic in list(self.dirty):
            self._send(self._routes[topic], connected)
        self.dirty.clear()

    def _send(self, route: Route, connected: Collection[int]) -> None:
        if not route.sent and route.returned:
            route.waiting.extendleft(reversed(route.returned))
            route.returned = []
        number, segment = self._metadata.open_segment(route.topic) or (0, None)
        while segment and route.waiting and self._may_send(route, number, segment, connected):
            items, weight = self._take(route)
            if not items:
                return
            self._request += 1
            route.sent.append(Sent(self._request, number, segment.leader, items, weight))
            route.sent_bytes += weight
            forward = Forward(
                request=self._request,
                topic=route.topic,
                segment=number,
                batch=concat([item.batch for item in items]),
            )
            self._outbox.send(segment.leader, forward)

    def _take(self, route: Route) -> tuple[list[Item], int]:
        """Take the items of the next forward, and their weight; an item whose client has gone is refused."""
        items: list[Item] = []
        weight = 0
        while route.waiting and weight < MAX_FORWARD_BYTES:
            numbered = bool(route.waiting[0].batch.stamps)
            if numbered and items:
                break  # a producer's entries are forwarded alone, so that the outcome is theirs alone
            item = route.waiting.popleft()
            if not self._is_open(item.slot):
                self._refuse(item, errors.no_writer(route.topic))
                continue
            items.append(item)
            weight += item.batch.weight
            if numbered:
                break
        return items, weight

    def _may_send(self, route: Route, number: int, segment: Segment, connected: Collection[int]) -> bool:
        if number <= route.closed or route.returned:
            return False
        running = self._incarnation(segment.leader)
        if running is not None and running != segment.incarnation:
            return False  # the leader has restarted: it does not lead this segment, which will be recovered
        if route.sent and (route.sent[-1].segment != number or route.sent_bytes > self._config.window_bytes):
            return False
        return segment.leader == self._config.node_id or segment.leader in connected

    # --- outcomes ---

    def on_reply(self, sender: int, reply: ForwardReply) -> None:
        """Take the outcome of a forward."""
        route = self._routes.get(reply.topic)
        for sent in route.sent if route else ():
            if sent.request == reply.request and sent.leader == sender:
                sent.outcome = reply
                break
        if route:
            self._settle(route)

    def _settle(self, route: Route) -> None:
        """Answer in order, as far as outcomes are known."""
        while route.sent and route.sent[0].outcome is not None:
            sent = route.sent.popleft()
            outcome = sent.outcome
            assert outcome is not None
            route.sent_bytes -= sent.weight
            if outcome.refused:
                route.closed = max(route.closed, sent.segment)
            self._finish(route, sent, outcome)
        if route.waiting or route.returned:
            self.dirty[route.topic] = None

    def _finish(self, route: Route, sent: Sent, outcome: ForwardReply) -> None:
        taken = outcome.taken
        if taken:  # what was handed back earlier was overtaken: sent again, it would be out of order
            for item in route.returned:
                self._refuse(item, errors.OVERTAKEN)
            route.returned = []
        for item in sent.items:
            count = item.batch.count
            here = min(taken, count)
            if here and outcome.acked:
                self._answer(item, here, _accepted(item, here, outcome, outcome.taken - taken))
                self.acknowledged += here
            elif here:
                self._answer(item, here, protocol.error(outcome.error or errors.FAILED_OVER) * here)
            taken -= here
            if here < count:
                rest = Item(item.slot, item.batch.slice(here, count), item.deadline, item.positions)
                if outcome.refused:
                    route.returned.append(rest)
                else:
                    self._refuse(rest, outcome.error)

    def _refuse(self, item: Item, why: errors.Reason) -> None:
        """Answer all entries of an item with an error."""
        self._answer(item, item.batch.count, protocol.error(why) * item.batch.count)

    def _answer(self, item: Item, count: int, replies: bytes) -> None:
        size = item.batch.weight if count == item.batch.count else item.batch.slice(0, count).weight
        self.waiting_bytes -= size
        self._outbox.reply(item.slot, replies, count)

    # --- what goes wrong ---

    def on_topic(self, topic: str) -> None:
        """The topic's metadata changed: a segment with forwards in flight may have been recovered."""
        route = self._routes.get(topic)
        if route is None:
            return
        self.dirty[topic] = None
        for sent in route.sent:
            segment = self._metadata.segment(topic, sent.segment)
            if segment is not None and segment.recovered:
                self._lost(route, sent, errors.FAILED_OVER)
            elif self._metadata.is_gone(topic, sent.segment):
                self._lost(route, sent, errors.DELETED)
        self._settle(route)
        if topic not in self._metadata.topics and not route.sent:
            for queue in (route.returned, route.waiting):
                while queue:
                    item = queue.pop(0) if isinstance(queue, list) else queue.popleft()
                    self._refuse(item, errors.unknown_topic(topic))

    def on_connection(self, node: int, connected: bool) -> None:
        """A connection began or ended: after its end, no outcomes of forwards to that node arrive."""
        for route in self._routes.values():
            if not connected:
                for sent in route.sent:
                    if sent.leader == node:
                        self._lost(route, sent, errors.FAILED_OVER)
                self._settle(route)
            elif not route.idle:
                self.dirty[route.topic] = None

    def _lost(self, route: Route, sent: Sent, error: errors.Reason) -> None:
        if sent.outcome is None:
            count = sum(item.batch.count for item in sent.items)
            sent.outcome = ForwardReply(
                request=sent.request,
                topic=route.topic,
                segment=sent.segment,
                taken=count,
                acked=0,
                refused=False,
                error=error,
            )

    def on_tick(self, now: float) -> None:
        """Answer PUTs that have waited too long, in order; forget idle routes."""
        for topic, route in list(self._routes.items()):
            for sent in route.sent:
                if sent.items[-1].deadline <= now:
                    self._lost(route, sent, errors.TIMEOUT)
            self._settle(route)
            self._expire(route, now)
            if route.idle:
                del self._routes[topic]
                self.dirty.pop(topic, None)

    def _expire(self, route: Route, now: float) -> None:
        """Refuse overdue PUTs that were never sent, and so certainly not written, once all sent ones are
        answered."""
        if route.sent:
            return
        for queue in (route.returned, route.waiting):
            while queue and queue[0].deadline <= now:
                item = queue[0]
                del queue[0]
                self._refuse(item, errors.no_writer(route.topic))

    def check_invariants(self) -> None:
        """Assert the invariants of the router's own state."""
        total = 0
        for route in self._routes.values():
            requests = [sent.request for sent in route.sent]
            assert requests == sorted(set(requests)), "ProducerOrder: forwards are on their way in order"
            assert len({sent.segment for sent in route.sent}) <= 1, "one segment at a time"
            assert route.sent_bytes == sum(sent.weight for sent in route.sent), "the window does not add up"
            items = [item for sent in route.sent for item in sent.items]
            total += sum(item.batch.weight for item in (*items, *route.returned, *route.waiting))
        assert total == self.waiting_bytes
