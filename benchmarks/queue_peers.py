"""Work queues and numbered appends beside NATS JetStream: three nodes and three servers, in turns.

Both run at once, on files. A turn of one is followed by the same turn of the other, in alternating order:
each connection receives and acknowledges a hundred entries, or numbered entries are published. The figure is
the ratio of a pair. Both clients handle only bytes, and both wait for each answer:

* a RECEIVE is one of a hundred requests, and JetStream's pull consumer is asked for a batch of a hundred;
* an ACK is answered when Raft has committed it, and JetStream's `+ACK`, sent with a place for an answer,
  when its servers agree that the entry is done; a consumer may stop there without it, then it is a hope;
* PUB knows an entry again by its producer's number, JetStream by its `Nats-Msg-Id` for two minutes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

from rich.table import Table

from benchmarks.cluster_peers import Nats, NatsLine, NatsWire

PAIRS: Final = 5
BATCH: Final = 500
"""Entries in flight while the stream is filled."""
CONSUMER: Final = {
    "stream_name": "B",
    "config": {"durable_name": "C", "ack_policy": "explicit", "max_ack_pending": 10_000},
}


def fill(peer: Nats, entries: int) -> None:
    """Write the entries that will be received."""
    line = peer.line()
    with line.socket:
        for begin in range(0, entries, BATCH):
            publish(line, min(BATCH, entries - begin))


def publish(line: NatsLine, count: int) -> None:
    """Publish `count` entries, and wait for all answers."""
    line.ask(count)
    while count:
        count -= line.take()


def consumers(peer: Nats, count: int) -> list[NatsWire]:
    """Return `count` connections to the server that leads the consumer, which is created if necessary."""
    peer.wait_for(lambda: peer.request("CONSUMER.DURABLE.CREATE.B.C", CONSUMER))
    leader = peer.leader_of("CONSUMER.INFO.B.C")
    return [peer.wire(leader) for _ in range(count)]


def work(wires: list[NatsWire], count: int) -> None:
    """Receive and acknowledge the next `count` entries on each connection."""
    for wire in wires:
        question = b'{"batch":%d,"expires":30000000000}' % count
        head = b"PUB $JS.API.CONSUMER.MSG.NEXT.B.C %b %d\r\n" % (wire.inbox, len(question))
        wire.socket.sendall(head + question + b"\r\n")
    for wire in wires:
        places = [wire.message()[0] for _ in range(count)]
        wire.socket.sendall(b"".join(b"PUB %b %b 4\r\n+ACK\r\n" % (place, wire.inbox) for place in places))
    for wire in wires:
        for _ in range(count):
            wire.message()


def in_turns(entries: int, ours: Callable[[], None], theirs: Callable[[], None]) -> list[tuple[float, float]]:
    """Return the entries per second of both, for each turn; both handle `entries` entries per turn."""
    rates = []
    for number in range(PAIRS):
        seconds = {}
        for act in (ours, theirs) if number % 2 else (theirs, ours):
            begin = time.perf_counter()
            act()
            seconds[act] = time.perf_counter() - begin
        rates.append((entries / seconds[ours], entries / seconds[theirs]))
    return rates


def table_of(peer: Nats, fsync: str, found: dict[str, list[tuple[float, float]]]) -> Table:
    """Return the medians, and the median of the ratios with minimum and maximum."""
    title = f"Walrus, --fsync {fsync}, beside {peer.name} (synced: {peer.synced})"
    table = Table("", "Walrus", "NATS", "of it", title=title)
    for what, rates in found.items():
        ours, theirs = (statistics.median(side) for side in zip(*rates, strict=True))
        ratios = [one / other for one, other in rates]
        of_it = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        table.add_row(what, f"{ours:,.0f}/s", f"{theirs:,.0f}/s", of_it)
    return table
