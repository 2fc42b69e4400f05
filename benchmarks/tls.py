"""What TLS costs: the same PUTs through a cluster with TLS and through one without, in turns.

    python -m benchmarks.tls                            a minute and a half
    python -m benchmarks.tls --pairs 5 --fsync 200      half a minute

Two clusters of three run side by side: one plain, one with TLS on both ports and client certificates
(`walrus.cluster --tls`). A client sends PUTs of 100 bytes to the leader of its topic with 100 in flight,
first to one cluster, then to the other, in pairs of alternating order. The figure of a pair is its ratio,
and the result is the median of the ratios, so that other programs affect both clusters alike. Client and
nodes share the processors: the client's own encryption is part of the cost.

`--seconds` is the length of one turn. The goal for the ratio is 0.6 (docs/performance-cluster.md).
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.cluster import (
    CLIENT_PORT,
    PAYLOAD,
    RAFT_PORT,
    SCHEDULES,
    cluster,
    dial,
    frame,
    pipelined,
    repeated,
    segment_leader,
)
from walrus.client import Client
from walrus.cluster import LocalCluster
from walrus.tls import from_environment
from walrus.wire.addresses import parse_address

ASKED = 0.6
SECURED_CLIENT_PORT, SECURED_RAFT_PORT = CLIENT_PORT + 10, RAFT_PORT + 10
"""The ports of the cluster with TLS, since both run at the same time."""
PUT = frame(b"PUT t " + PAYLOAD)


def dial_tls(context: ssl.SSLContext, address: tuple[str, int]) -> socket.socket:
    """Connect a client with TLS."""
    return context.wrap_socket(dial(address), server_hostname=address[0])


def topic_of(nodes: LocalCluster) -> tuple[str, int]:
    """Register the topic; return the client address of its leader, in the cluster that was started last."""
    with Client(nodes.addresses, timeout=30.0) as client:
        client.register("t")
    return parse_address(nodes.address(segment_leader(nodes, "t", 1)))


def measure(directory: Path, fsync: str, pairs: int, seconds: float) -> list[tuple[float, float]]:
    """Return PUTs per second of each pair: plain, TLS."""
    with cluster(directory / "plain", "--fsync", fsync) as plain:
        ways: dict[str, tuple[tuple[str, int], Callable[[tuple[str, int]], socket.socket]]] = {
            "plain": (topic_of(plain), dial)
        }
        with cluster(
            directory / "tls",
            "--fsync",
            fsync,
            client_port=SECURED_CLIENT_PORT,
            raft_port=SECURED_RAFT_PORT,
            tls=True,
        ) as secured:
            context = from_environment(os.environ)
            assert context is not None, "clients of this cluster speak TLS"
            ways["TLS"] = topic_of(secured), partial(dial_tls, context)
            found = []
            for turn in range(-1, pairs):
                rates = {}
                for name in sorted(ways, reverse=bool(turn % 2)):
                    address, how = ways[name]
                    rates[name] = pipelined(address, repeated(PUT), 6, seconds, dial=how)
                if turn >= 0:  # the first turn warms up
                    found.append((rates["plain"], rates["TLS"]))
            return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m benchmarks.tls`; return 0 if the ratio reaches the goal."""
    parser = argparse.ArgumentParser(prog="benchmarks.tls", description="what TLS costs, in pairs")
    parser.add_argument("--pairs", type=int, default=9, metavar="N", help="default: 9")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn; default: 2")
    parser.add_argument("--fsync", choices=SCHEDULES, action="append", help="default: both")
    told = parser.parse_args(arguments)
    console, reached = Console(highlight=False), True
    for fsync in told.fsync or SCHEDULES:
        with tempfile.TemporaryDirectory(prefix="walrus-tls-", dir=".") as directory:
            pairs = measure(Path(directory), fsync, told.pairs, told.seconds)
        ratios = [secured / plain for plain, secured in pairs]
        ratio = statistics.median(ratios)
        reached = reached and ratio >= ASKED
        plain, secured = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        console.print(
            f"--fsync {fsync}: plain {plain:,.0f}/s, TLS {secured:,.0f}/s, ratio {ratio:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {len(pairs)} pairs)"
        )
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
