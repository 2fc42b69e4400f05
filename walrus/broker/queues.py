"""Work queues, both ends: RECEIVE, ACK, NACK, EXTEND, SEEK. This module connects four others and decides
nothing.

    receivers   the node that has the client: takes the requests, asks the owner, answers
    dispatch    the owner, which leads the topic's open segment: who gets what, and what is acknowledged
    groups      one group at its owner: the state machine, with the life of an entry
    tenure      whether an owner may serve at the moment

The committed state of a group is `walrus/acknowledged.py`; `walrus/segments.py` applies the commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias, assert_never

from walrus.acknowledged import Acknowledged, HandedOn
from walrus.broker.cursors import Cursors
from walrus.broker.dispatch import Dispatcher
from walrus.broker.gaps import Gaps
from walrus.broker.receivers import Receivers
from walrus.config import NodeConfig
from walrus.protocol import Delivering, Request
from walrus.replicas.reads import Reads
from walrus.segments import Command, Metadata
from walrus.wire.effects import Outbox, Trace
from walrus.wire.messages import AskDeliveries, Deliveries, SeekGroup, Settle, Settled

QueueMessage: TypeAlias = AskDeliveries | Deliveries | Settle | SeekGroup | Settled


class Queues:
    """The work queues of one node: those that it owns, and the requests of its clients for any queue."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        metadata: Metadata,
        reads: Reads,
        gaps: Gaps,
        outbox: Outbox,
        is_open: Callable[[object], bool],
        first_request: int,
        connected: Collection[int],
        advanced: dict[str, None],
        cursors: Cursors,
        propose: Callable[[Command, float], None],
        request: Callable[[object, Request, float], None],
        trace: Trace,
    ) -> None:
        self.owner = Dispatcher(
            config=config,
            metadata=metadata,
            reads=reads,
            tenure=cursors.tenure,
            gaps=gaps,
            outbox=outbox,
            connected=connected,
            advanced=advanced,
            read_with_get=cursors.cursors(),
            propose=propose,
            request=request,
            trace=trace,
        )
        cursors.tenure.waiting.append(self.owner.on_tenure)
        cursors.read_with_receive = self.owner
        self.receivers = Receivers(
            config=config,
            metadata=metadata,
            outbox=outbox,
            is_open=is_open,
            first_request=first_request,
            connected=connected,
        )

    def start(self, slot: object, request: Delivering, now: float) -> None:
        """Serve a client's request for a known topic."""
        self.receivers.start(slot, request, now)

    def on_message(self, sender: int, message: QueueMessage, now: float) -> None:
        """Pass a message to the end that it is for."""
        match message:
            case AskDeliveries():
                self.owner.on_ask(sender, message, now)
            case Deliveries():
                self.receivers.on_deliveries(sender, message, now)
            case Settle():
                self.owner.on_settle(sender, message, now)
            case SeekGroup():
                self.owner.on_seek(sender, message, now)
            case Settled():
                self.receivers.on_settled(sender, message, now)
            case _:
                assert_never(message)

    def freeze(self, topic: str) -> tuple[dict[str, Acknowledged], dict[str, tuple[HandedOn, ...]]]:
        """Return the groups' state for a Seal of the topic; nothing is handed out until that is decided."""
        return self.owner.freeze(topic)

    def on_topic(self, topic: str, now: float) -> None:
        """The topic may have another owner."""
        self.owner.on_topic(topic, now)
        self.receivers.on_topic(topic, now)

    def on_committed(self, topics: Iterable[str], now: float) -> None:
        """Acknowledgements, or a SEEK, were applied to the metadata."""
        for topic in topics:
            self.owner.on_committed(topic, now)

    def on_connection(self, node: int, connected: bool, now: float) -> None:
        """A connection to another node began or ended."""
        if not connected:
            self.owner.on_disconnected(node)
        self.receivers.on_connection(node, connected, now)

    def on_tick(self, now: float) -> None:
        """Handle deadlines."""
        self.owner.on_tick(now)
        self.receivers.on_tick(now)

    def flush(self, now: float) -> None:
        """End of a turn."""
        self.owner.flush(now)

    def due(self, now: float) -> bool:
        """Whether another `flush` would make progress now."""
        return self.owner.due(now)

    def next_deadline(self, now: float) -> float:
        """Return when `on_tick` and `flush` are due at the latest."""
        return self.owner.next_deadline(now)

    @property
    def busy(self) -> bool:
        """Whether any request waits until its owner can be asked."""
        return self.receivers.busy

    def stop(self) -> None:
        """The node stops: answer EMPTY to clients that wait for an entry."""
        self.receivers.stop()

    def check_invariants(self) -> None:
        """Assert the invariants of both ends."""
        self.owner.check_invariants()
        self.receivers.check_invariants()
