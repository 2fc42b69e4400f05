"""What a node takes over that is sent a snapshot of many topics: processor time, turn by turn.

    python -m benchmarks.takeover                              100,000 topics in turns of 500
    python -m benchmarks.takeover --share 100000               all of them in one turn
    python -m benchmarks.takeover --topics 20000

One node's logic on engines in memory: it has just started, and the leader of its log sends the snapshot in
one piece. Each topic has a sealed and an open segment, with copies on three other nodes. The turn that
writes the snapshot to Raft's journal is a row of its own.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from statistics import median

import msgspec

from walrus.broker import takeover
from walrus.broker.controller import Controller
from walrus.config import Identity, NodeConfig
from walrus.consensus.messages import InstallSnapshotRequest, Membership
from walrus.segments import Member, Metadata, Segment, Topic, snapshot_encoder
from walrus.shell import garbage
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Checksum

INDEX = 1_000_000
NODES = (1, 2, 3)


def snapshot(count: int) -> bytes:
    """Return a snapshot of so many topics, led by nodes 1 to 3."""
    opened = [Segment(leader=node, incarnation=1, replicas=NODES) for node in NODES]
    sealed = msgspec.structs.replace(opened[0], count=1, checksum=Checksum(), size=100, sealed_ms=1)
    topics = sorted(
        (f"topic-{number}", Topic(segments=[sealed, opened[number % 3]], sealed_total=1))
        for number in range(count)
    )
    nodes = [
        (node, Member(directory_id=f"d{node}", incarnation=1, raft_address="", client_address=""))
        for node in (*NODES, 4)
    ]
    frame = msgspec.structs.replace(Metadata().contents([3], topics), nodes=nodes)
    return snapshot_encoder.encode(frame)


def started() -> Controller:
    """Return a node that has started, with an empty directory."""
    return Controller(
        config=NodeConfig(node_id=4, raft_address="", client_address=""),
        identity=Identity(cluster_id="benchmark", directory_id="d4", incarnation=1),
        data=MemoryEngine(),
        meta=MemoryEngine(),
        rng=random.Random(1),
        now=0.0,
    )


def took(step: Callable[[], object]) -> float:
    """Return how many milliseconds of processor time this takes."""
    begun = time.process_time()
    step()
    return (time.process_time() - begun) * 1_000


def main() -> None:
    """Measure, and print the rows."""
    parser = argparse.ArgumentParser(prog="benchmarks.takeover", description="a snapshot of many topics")
    parser.add_argument("--topics", type=int, default=100_000)
    parser.add_argument("--share", type=int, default=takeover.MAX_TAKEN, help="topics per turn")
    flags = parser.parse_args()
    takeover.MAX_TAKEN = flags.share
    node, data = started(), snapshot(flags.topics)
    garbage.begin()  # as a node does
    piece = InstallSnapshotRequest(
        term=1,
        round=1,
        last_index=INDEX,
        last_term=1,
        membership=Membership((*NODES, 4)),
        offset=0,
        total=len(data),
        data=data,
    )
    node.on_message(1, piece, 0.0)
    written = took(lambda: node.flush(0.0))
    turns = [took(lambda: node.on_meta_durable(node.meta.written, 0.0))]
    while node.behind:
        turns.append(took(lambda: node.flush(0.0)))
    assert node.applied == INDEX and len(node.metadata.topics) == flags.topics
    print(f"{flags.topics:,} topics, {len(data):,} bytes, {len(turns)} turns; milliseconds of processor time")
    print(f"  written to Raft's journal   {written:8.0f}")
    print(f"  first turn                  {turns[0]:8.0f}")
    print(f"  longest turn                {max(turns):8.0f}")
    print(f"  median turn                 {median(turns):8.0f}")
    print(f"  all turns                   {sum(turns):8.0f}")


if __name__ == "__main__":
    main()
