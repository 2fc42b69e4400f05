"""A run: a world, its clients, its nemesis, and at the end the checker's verdict."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.node.chaos import checker
from tests.node.chaos.client import Fetcher, Getter, Told, Writer
from tests.node.chaos.jobs import Producer, Worker
from tests.node.chaos.lives import Renewer
from tests.node.chaos.nemesis import Nemesis
from tests.node.chaos.world import JOBS, LIVES, TOPIC, TOPICS, World
from tests.node.harness import nap

PLANT = """
from walrus.sim.mutants import find
from walrus.sim.mutants.plant import planted
planted_bug = planted(find({name!r}))
planted_bug.__enter__()
"""
"""What a node with a planted bug runs first. This package imports nothing of walrus; the node may."""

CLOCK = """
import random, time
clock, rng, began = time.monotonic, random.Random({seed}), time.monotonic()
def drifting():
    return began + (clock() - began) * {rate}
def jumping():
    return rng.uniform(0.0, 4e9)
time.monotonic, time.time = drifting, jumping
"""
"""What a node whose clock is wrong runs first: its seconds are too long or too short, its date is none."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is drawn from the seed if it is not given."""

    seed: int
    seconds: float
    nodes: int = 0
    fsync: str = ""
    bug: str = ""
    only: str = ""
    disks: bool = True
    clocks: bool | None = None
    """Whether clocks drift, by up to a tenth, and dates jump."""
    topic: bytes = b""
    """If given, only this topic and its clients: the more of them, the sooner what concerns it is seen."""


def play(options: Options, say: Callable[[str], None]) -> list[str]:
    """Run a cluster for so many seconds; the violations, of which there should be none."""
    rng = random.Random(options.seed)
    nodes, fsync = rng.choice((3, 3, 5)), rng.choice(("each", "each", "none", "20"))
    nodes, fsync = options.nodes or nodes, options.fsync or fsync
    clocks = rng.random() < 0.5 if options.clocks is None else options.clocks
    planted = PLANT.format(name=options.bug) if options.bug else ""
    rates = [rng.uniform(0.9, 1.1) if clocks else 1.0 for _ in range(nodes)]
    patches = [(CLOCK.format(seed=options.seed, rate=rate) if clocks else "") + planted for rate in rates]
    with tempfile.TemporaryDirectory(prefix="walrus-chaos-", ignore_cleanup_errors=True) as place:
        # A node whose own assertion meets the planted bug stops, and breaks no promise: they are off then.
        flags = ["--fsync", fsync]
        topics = [topic for topic in (*TOPICS, LIVES) if options.topic in (b"", topic)]
        world = World(Path(place), flags, patches, topics, options.disks, assertions=not options.bug)
        try:
            without = "" if world.disks else "; no disks can be mounted here: no full ones, no loss of power"
            drift = ", clocks at " + " ".join(f"{rate:.2f}" for rate in rates) if clocks else ""
            say(f"seed {options.seed}: {nodes} nodes, --fsync {fsync}{drift}{without}")
            return _play(world, options, fsync, say)
        finally:
            world.close()


CLIENTS = (
    *((Writer, TOPIC, name) for name in ("w1", "w2", "w3")),
    *((Getter, TOPIC, name) for name in ("g1", "g2")),
    (Fetcher, TOPIC, "f1"),
    *((Producer, JOBS, name) for name in ("p1", "p2")),
    *((Worker, JOBS, name) for name in ("worker1", "worker2", "worker3")),
    (Renewer, LIVES, "renewer"),
)
PATIENCE = 30.0
"""Seconds without an entry after which a work queue counts as stuck: many times what a failover takes."""


def _play(world: World, options: Options, fsync: str, say: Callable[[str], None]) -> list[str]:
    world.start()
    told = {TOPIC: Told(), JOBS: Told(), LIVES: Told()}
    clients = [
        kind(told[topic], world.addresses, topic, name, options.seed)
        for kind, topic, name in CLIENTS
        if topic in world.topics
    ]
    workers = [client for client in clients if isinstance(client, Worker)]
    nemesis = Nemesis(world, options.seed, fsync, options.only)
    end, minute = time.monotonic() + options.seconds, time.monotonic() + 60
    for client in clients:
        client.start()
    try:
        while time.monotonic() < end:
            nemesis.strike()
            if time.monotonic() >= minute:
                minute += 60
                say(_line(told, nemesis))
        for client in clients:
            if client not in workers:
                client.stop()
        found, count = _verdict(world, told, workers)
    except AssertionError as error:
        return [f"Serves: {error} (seed {options.seed}, after {', '.join(nemesis.last)})"]
    finally:
        for client in clients:
            client.stop()
    say(f"{_line(told, nemesis)}; {count:,} entries, {len(found)} violations")
    return [f"{one} (seed {options.seed}, after {', '.join(nemesis.last)})" for one in found]


def _verdict(world: World, told: dict[bytes, Told], workers: list[Worker]) -> tuple[list[str], int]:
    """End the faults and the work, and hold what clients were told against the logs: violations, entries."""
    world.heal()
    found, count = list(told[LIVES].wrong), 0
    for topic in filter(TOPICS.__contains__, world.topics):
        of_topic = told[topic]
        log, wrong = world.whole_log(topic)
        if of_topic.queues:
            _empty(log, of_topic, workers)
        found += [*wrong, *checker.violations(log, of_topic)]
        count += len(log)
    return found, count


def _empty(log: list[checker.Place], told: Told, workers: list[Worker]) -> None:
    """Have the workers finish the queue; give up when nothing more comes."""
    for worker in workers:
        worker.careful = True
    (queue,) = told.queues.values()
    left, deadline = len(log) + 1, time.monotonic() + PATIENCE
    while (now := len(checker.unfinished(log, queue))) and time.monotonic() < deadline:
        if now < left:
            left, deadline = now, time.monotonic() + PATIENCE
        nap(0.05)
    for worker in workers:
        worker.stop()


def _line(told: dict[bytes, Told], nemesis: Nemesis) -> str:
    faults = ", ".join(f"{name} {times}" for name, times in sorted(nemesis.done.items()))
    given, places = sum(map(len, told[TOPIC].gets.values())), len(told[TOPIC].fetched)
    acknowledged = told[TOPIC].acknowledged()
    put = f"{acknowledged:,} acknowledged, {given:,} given, {places:,} places fetched"
    queues = told[JOBS].queues.values()
    received = sum(len(queue.given) for queue in queues)
    done = sum(len(queue.acknowledged) for queue in queues)
    work = f"{told[JOBS].acknowledged():,} published, {received:,} received, {done:,} done"
    return f"{put}, {work}, {told[LIVES].lives} lives; {faults}"
