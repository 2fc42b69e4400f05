"""How many calls the nodes make for a hundred RECEIVEs and their hundred ACKs, and for a hundred GETs.

    python -m benchmarks.queue_calls                what each node does
    python -m benchmarks.queue_calls --functions    which functions, too

Like `benchmarks/one_put_calls.py`, whose stage it uses: three whole nodes in one thread, on a clock that
stands still while calls are counted. The client is connected to the owner of the group. Another node leads
Raft, so an ACK concerns all three: the owner proposes, Raft's leader and the third node sync. The output is
medians over all rounds.
"""

from __future__ import annotations

import argparse
import select
import socket
import tempfile
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cluster import PAYLOAD, frame
from benchmarks.one_put_calls import NODES, CallCounter, Stage, print_functions
from walrus.protocol import Ok, Reply, ReplyParser

IN_FLIGHT = 100
ROLES = ("owner", "Raft's leader", "third node")
KINDS = ("RECEIVE", "ACK", "GET")


class QueueStage(Stage):
    """Three nodes, and a client that works through a topic in rounds."""

    def rounds(self, count: int, warm_up: int = 3) -> dict[str, dict[str, CallCounter]]:
        """Play `count` rounds; return the counters by kind of request and by role."""
        topic, roles = self._topic()
        counters = {kind: [CallCounter() for _ in self.nodes] for kind in KINDS}
        with self.dial(roles[0]) as connection:
            self.until(lambda: bool(self.nodes[roles[0]].clients.connections))
            for _ in range(count + warm_up + 1):
                self._exchange(connection, [b"PUT %b %b" % (topic, PAYLOAD)] * IN_FLIGHT)
            self._begin(topic, connection)
            for number in range(-warm_up, count):
                self.counting = number >= 0
                self.counters = counters["RECEIVE"]
                given = self._exchange(connection, [b"RECEIVE %b work" % topic] * IN_FLIGHT)
                acks = [b"ACK %b work %b" % (topic, receipt(reply)) for reply in given]
                self.counters = counters["ACK"]
                self._exchange(connection, acks)
                self.counters = counters["GET"]
                self._exchange(connection, [b"GET %b read" % topic] * IN_FLIGHT)
                self.counting = False
        return {kind: dict(zip(ROLES, map(counters[kind].__getitem__, roles), strict=True)) for kind in KINDS}

    def _topic(self) -> tuple[bytes, tuple[int, int, int]]:
        """Return a topic whose owner does not lead Raft, and the nodes in their roles."""
        raft = next(number for number, one in enumerate(self.nodes) if one.controller.raft_host.leads)
        for name in ("a", "b", "c"):
            owner = self._owner(name)
            if owner != raft:
                return name.encode(), (owner, raft, sum(range(NODES)) - owner - raft)
        raise AssertionError("Raft's leader is every topic's owner")

    def _owner(self, topic: str) -> int:
        """Register a topic, and return its owner."""
        with self.dial(0) as connection:
            connection.sendall(frame(b"REGISTER %b" % topic.encode()))
            self.until(lambda: any(topic in one.controller.writers for one in self.nodes))
        return next(number for number, one in enumerate(self.nodes) if topic in one.controller.writers)

    def _begin(self, topic: bytes, connection: socket.socket) -> None:
        """Send one RECEIVE while time passes, until the owner hands out an entry; then its ACK."""
        connection.sendall(frame(b"RECEIVE %b work 60000" % topic))
        self.until(lambda: bool(select.select([connection], [], [], 0)[0]))
        [given] = ReplyParser().feed(connection.recv(1 << 20))
        self._exchange(connection, [b"ACK %b work %b" % (topic, receipt(given))])

    def _exchange(self, connection: socket.socket, requests: list[bytes]) -> list[Reply]:
        """Send all requests, let the nodes do their work, and return the replies."""
        parser, replies = ReplyParser(), list[Reply]()

        def all_here() -> bool:
            if select.select([connection], [], [], 0)[0]:
                replies.extend(parser.feed(connection.recv(1 << 20)))
            return len(replies) == len(requests)

        connection.sendall(b"".join(map(frame, requests)))
        self.carry(range(NODES), connection, all_here)
        assert all(isinstance(reply, Ok) for reply in replies), replies
        for counter in self.counters if self.counting else ():
            counter.end_row()
        return replies


def receipt(reply: Reply) -> bytes:
    """Return the receipt in a RECEIVE's reply, as the ACK names it."""
    assert isinstance(reply, Ok), reply
    assert reply.payload is not None
    return reply.payload.partition(b" ")[0]


def main() -> None:
    """`python -m benchmarks.queue_calls`."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.queue_calls", description="calls for 100 RECEIVEs and ACKs"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--functions", action="store_true", help="print which functions are called")
    options = parser.parse_args()
    console = Console(width=140)
    with (
        tempfile.TemporaryDirectory(prefix="walrus-calls-", dir=".") as directory,
        QueueStage(Path(directory), "200") as stage,
    ):
        found = stage.rounds(options.rounds)
    table = Table("", *ROLES, title=f"calls for {IN_FLIGHT} in flight: Python + C", box=box.SIMPLE)
    for kind, by_role in found.items():
        totals = (counter.totals() for counter in by_role.values())
        table.add_row(kind, *(f"{python:,.0f} + {c:,.0f}" for python, c in totals))
    console.print(table)
    for kind, by_role in found.items() if options.functions else ():
        for role, counter in by_role.items():
            console.print(f"{kind}, {role}:")
            print_functions(console, counter)


if __name__ == "__main__":
    main()
