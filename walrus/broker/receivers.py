"""RECEIVE, ACK, NACK, EXTEND and SEEK at the node that has the client, which may be any node.

Each request goes to the owner of the topic's groups, the leader of its open segment (`dispatch.py`). If the
owner changes, it is sent again to the next one, until its deadline. Sending it twice does no harm: an ACK is
idempotent, and an entry that is handed out twice has two deliveries, one of which arrives here unrequested.

**Unrequested entries are given back.** If the client has gone, or its request was answered meanwhile, the
entries of an answer are returned to the owner at once, instead of staying out until their timeout.

A request is answered in parts, as entries come; the connection puts the replies in order.

Invariant: a request gets at most as many replies as it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, assert_never

import msgspec

from walrus import protocol
from walrus.acknowledged import START
from walrus.broker.pending import WaitingRequests
from walrus.config import NodeConfig
from walrus.protocol import Ack, Delivering, Extend, Nack, Receipt, Receive, Seek, Time
from walrus.segments import Metadata
from walrus.wire import errors
from walrus.wire.effects import Outbox
from walrus.wire.messages import AskDeliveries, Deliveries, SeekGroup, Settle, Settled

MAX_PENDING = 100_000
"""The most requests of this node's clients that wait for an owner."""


class Owed(msgspec.Struct):
    """A request that is owed `left` replies."""

    slot: object
    request: Delivering
    left: int
    empty_at: float
    """When a RECEIVE without an entry is answered EMPTY."""
    owner: int = 0
    """The node that was asked; 0: none."""
    again_at: float = 0.0

    @property
    def topic(self) -> str:
        """The topic of the request."""
        return self.request.topic


class Receivers:
    """The requests of this node's clients for work queues."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        outbox: Outbox,
        is_open: Callable[[object], bool],
        first_request: int,
        connected: Collection[int],
    ) -> None:
        self._config, self._metadata, self._outbox = config, metadata, outbox
        self._is_open, self._connected = is_open, connected
        self._number = first_request
        self._pending = WaitingRequests[Owed]()

    @property
    def busy(self) -> bool:
        """Whether any request waits until its owner can be asked."""
        return bool(self._pending.unasked)

    def start(self, slot: object, request: Delivering, now: float) -> None:
        """Serve a request for a known topic."""
        if len(self._pending) >= MAX_PENDING:
            self._outbox.reply(slot, protocol.error(errors.BUSY) * request.replies, request.replies)
            return
        wait = request.wait_ms / 1000 if isinstance(request, Receive) else 0.0
        deadline = now + wait + self._config.request_timeout
        self._number += 1
        self._pending.add(self._number, Owed(slot, request, request.replies, now + wait), deadline)
        self._ask(self._number, now)

    def _ask(self, number: int, now: float) -> None:
        """Ask the owner, once it is connected."""
        pending = self._pending[number]
        request = pending.request
        topic, group = request.topic, request.group
        known = self._metadata.topics.get(topic)
        if known is None:
            self._finish(number, protocol.error(errors.unknown_topic(topic)))
            return
        owner = known.open.leader
        if owner != self._config.node_id and owner not in self._connected:
            pending.owner = 0
            self._pending.unasked[number] = None
            return
        self._pending.unasked.pop(number, None)
        pending.owner = owner
        match request:
            case Receive():
                self._outbox.send(owner, self._asking(number, pending, request, now))
            case Ack():
                self._settle(number, owner, topic, group, "ack", request.receipts, 0.0)
            case Nack(receipt=receipt, delay_ms=delay):
                self._settle(number, owner, topic, group, "nack", (receipt,), delay / 1000)
            case Extend(receipt=receipt, ms=ms):
                self._settle(number, owner, topic, group, "extend", (receipt,), ms / 1000)
            case Seek():
                assert not isinstance(request.to, Time), "a time is looked up before (`times.py`)"
                to = START if request.to == "begin" else None if request.to == "end" else request.to
                self._outbox.send(owner, SeekGroup(request=number, topic=topic, group=group, to=to))
            case _:
                assert_never(request)

    def _asking(self, number: int, pending: Owed, request: Receive, now: float) -> AskDeliveries:
        wait = max(0.0, pending.empty_at - now)
        return AskDeliveries(
            request=number, topic=request.topic, group=request.group, count=pending.left, wait=wait
        )

    def _settle(
        self,
        number: int,
        owner: int,
        topic: str,
        group: str,
        what: Literal["ack", "nack", "extend"],
        receipts: tuple[Receipt, ...],
        seconds: float,
    ) -> None:
        settle = Settle(
            request=number, topic=topic, group=group, what=what, receipts=receipts, seconds=seconds
        )
        self._outbox.send(owner, settle)

    # --- answers ---

    def on_deliveries(self, sender: int, given: Deliveries, now: float) -> None:
        """Take the owner's answer to a RECEIVE: entries, or none."""
        pending = self._pending.get(given.request)
        if given.moved or given.error:
            self._refused(sender, given.request, given.moved, given.error, now)
            return
        asked = pending if pending is not None and pending.owner == sender else None
        count = 0
        if asked is not None and self._is_open(asked.slot):
            count = min(len(given.receipts), asked.left)
            self._deliver(asked, given, count)
        if len(given.receipts) > count:
            unasked = given.receipts[count:]
            self._settle(0, sender, given.topic, given.group, "nack", unasked, 0.0)
        if asked is not None and (given.last or not asked.left or not self._is_open(asked.slot)):
            self._finish(given.request, protocol.EMPTY)

    def _deliver(self, pending: Owed, given: Deliveries, count: int) -> None:
        if count:
            timed = isinstance(pending.request, Receive) and pending.request.times
            payloads = protocol.timed_payloads(given.batch) if timed else given.batch.payloads()
            replies = protocol.ok_received(given.receipts[:count], payloads[:count])
            self._outbox.reply(pending.slot, replies, count)
            pending.left -= count

    def on_settled(self, sender: int, settled: Settled, now: float) -> None:
        """Take the owner's answer to an ACK, NACK, EXTEND or SEEK."""
        pending = self._pending.get(settled.request)
        if pending is None or pending.owner != sender:
            return
        if settled.moved:
            self._refused(sender, settled.request, True, errors.NO_ERROR, now)
            return
        replies = [protocol.error(reason) if reason else protocol.OK for reason in settled.errors]
        if len(replies) == pending.left:
            self._outbox.reply(pending.slot, b"".join(replies), pending.left)
            self._pending.remove(settled.request)

    def _refused(self, sender: int, number: int, moved: bool, error: errors.Reason, now: float) -> None:
        pending = self._pending.get(number)
        if pending is None or pending.owner != sender:
            return
        if moved:
            pending.owner, pending.again_at = 0, now + self._config.resend_interval / 10
            self._pending.unasked[number] = None
        else:
            self._finish(number, protocol.error(error))

    def _finish(self, number: int, reply: bytes) -> None:
        self._give_up(self._pending.remove(number), reply)

    def _give_up(self, pending: Owed, reply: bytes) -> None:
        """Answer all replies that are still owed."""
        if pending.left:
            self._outbox.reply(pending.slot, reply * pending.left, pending.left)

    # --- what changes around them ---

    def on_topic(self, topic: str, now: float) -> None:
        """The topic may have another owner now."""
        known = self._metadata.topics.get(topic)
        for number in self._pending.of_topic(topic):
            if known is None or self._pending[number].owner != known.open.leader:
                self._ask(number, now)

    def on_connection(self, node: int, connected: bool, now: float) -> None:
        """A connection began or ended: messages in flight to or from that node may be lost."""
        for number, pending in self._pending.items():
            if pending.owner == node and not connected:
                pending.owner = 0
                self._pending.unasked[number] = None
        for number in list(self._pending.unasked):
            self._ask(number, now)

    def on_tick(self, now: float) -> None:
        """Ask again, and answer requests that have waited too long."""
        for late in self._pending.overdue(now):
            ack = isinstance(late.request, Ack | Seek)
            reason = errors.NOT_ACKNOWLEDGED_YET if ack else errors.OWNER_UNREACHED
            self._give_up(late, protocol.error(reason))
        for number in list(self._pending.unasked):
            if self._pending[number].again_at <= now:
                self._ask(number, now)

    def stop(self) -> None:
        """The node stops: answer EMPTY to requests that wait for an entry."""
        for number, pending in self._pending.items():
            if isinstance(pending.request, Receive):
                self._finish(number, protocol.EMPTY)

    def check_invariants(self) -> None:
        """Assert the invariants of the requests."""
        assert all(0 < pending.left <= pending.request.replies for _, pending in self._pending.items())
        self._pending.check_invariants()
