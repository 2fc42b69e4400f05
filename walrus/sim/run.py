"""One simulated run from beginning to end, and what to do when it fails.

    warm up    the topics are registered
    chaos      clients work while the fault schedule is carried out; invariants after every step
    calm       faults end, producers stop; all nodes must come to rest in time (the progress properties)
    verdict    everything is read back, the oracle judges, a last full check

A run is determined by its seed, its options and its schedule. `shrink` repeats a failing run with faults
left out, for as long as it fails in the same way: first halves, then quarters, then single faults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from walrus.protocol import Recover
from walrus.replicas.copies import Key
from walrus.segments import Position
from walrus.sim import faults, invariants, oracle
from walrus.sim.calls import ClientCall, Outcome, Unattended
from walrus.sim.clients import CATCH_UP_RUN, Consumer, Fetcher, Finder, Newcomer, Registrar, Scanner, Sender
from walrus.sim.faults import Fault, Faults
from walrus.sim.host import Host
from walrus.sim.keepers import Keeper, KeptClient
from walrus.sim.mutants import unasserted
from walrus.sim.options import Options
from walrus.sim.pipeliner import Pipeliner
from walrus.sim.repeaters import Repeater
from walrus.sim.shares import small_shares
from walrus.sim.violation import Violation
from walrus.sim.workers import GivingUp, QueueWorker
from walrus.sim.world import Filming, World
from walrus.wire.effects import Trace

REST = 60.0
"""Seconds of the world within which everything must come to rest once faults have ended."""
REST_OF_SEGMENT = 1.0
"""Further seconds for each segment: workers that are far behind pass one or two segments in a second."""
SHARE = 0.8
"""The share of the steps in which faults happen."""
AFTERWARDS = 1.0
"""Seconds that a run continues without the assertion that stopped it, before faults end."""
DENSITY = 300
"""The fewest steps per second of the world: it decides how far ahead faults are drawn."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run in which everything held."""

    seed: int
    steps: int
    seconds: float
    faults: int
    """How many faults struck."""
    sent: int
    acknowledged: int
    unknown: int
    delivered: int
    segments: int
    restarts: int
    digest: str
    """A hash over the run: equal for equal runs."""
    seen: dict[str, int]
    """How often each thing happened (`coverage.py`)."""


class FailedRun(msgspec.Struct, frozen=True, kw_only=True):
    """How a run failed, and what is needed to repeat it."""

    seed: int
    name: str
    what: str
    step: int
    at: float
    calm_at: float
    schedule: tuple[Fault, ...]


class Simulation:
    """A world with clients in it and a schedule of faults."""

    def __init__(
        self,
        seed: int,
        options: Options,
        schedule: Sequence[Fault],
        recorder: Callable[[int], Trace] | None = None,
        film: Filming | None = None,
    ) -> None:
        self.world = World(seed, options, recorder, film)
        world, topics = self.world, [f"t{number}" for number in range(options.topics)]
        self.topics = topics
        self.registrars = [Registrar(world, topic) for topic in topics]
        self.producers = [
            Sender(world, f"p{number}", topics[number % len(topics)], window=options.window)
            for number in range(options.producers)
        ]
        self.producers += [
            Pipeliner(world, f"m{number}", topics[number % len(topics)])
            for number in range(options.pipeliners)
        ]
        self.consumers = [
            Consumer(world, f"c{number}", topics[number % len(topics)], f"g{number}")
            for number in range(options.consumers)
        ]
        fetchers = [
            Fetcher(world, f"f{number}", topics[number % len(topics)]) for number in range(options.fetchers)
        ]
        self.workers = [
            QueueWorker(world, f"w{number}", topics[0], "work", seeks=not number)
            for number in range(options.workers)
        ]
        giving_up = [GivingUp(world, f"u{number}") for number in range(options.giving_up)]
        self.workers += giving_up
        self.repeaters = [
            Repeater(world, f"r{number}", topics[number % len(topics)]) for number in range(options.repeaters)
        ]
        self.kept = [
            KeptClient(world, f"k{number}", eager=not number) for number in range(2 if options.keepers else 0)
        ]
        keepers = [Keeper(world, f"keeper {number}") for number in range(options.keepers)]
        self.finders = [
            Finder(world, f"finder {number}", topics[0], "work" if options.workers and not number else "")
            for number in range(options.finders)
        ]
        newcomers = [Newcomer(world, f"n{number}") for number in range(options.newcomers)]
        world.clients += [*self.registrars, *self.producers, *self.consumers, *self.workers, *fetchers]
        world.clients += [*self.repeaters, *newcomers, *keepers, *self.kept, *self.finders]
        self.faults = Faults(world, schedule)
        self.calm_at = 0.0

    # --- the phases ---

    def run(self, steps: int, calm_at: float | None = None) -> Result:
        """Run all phases. `calm_at` ends the faults at a time of the world, not after a share of `steps`."""
        with small_shares(self.world.options.small_shares):
            return self._run(steps, calm_at)

    def _run(self, steps: int, calm_at: float | None) -> Result:
        world = self.world
        while world.steps < steps * SHARE if calm_at is None else world.now < calm_at:
            world.step()
        self.calm_at = world.now if calm_at is None else calm_at
        self.rest()
        self.verdict()
        return self.result()

    def rest(self) -> None:
        """End the faults and wait for rest. Raises Violation if the cluster is not at rest in time."""
        world = self.world
        self.faults.stop()
        for client in world.clients:
            client.rest()
        segments = sum(topic.current for topic in world.judge.metadata.topics.values())
        calmed = world.run_until(self._at_rest, REST + REST_OF_SEGMENT * segments)
        if not calmed:
            self._why_not()

    def _at_rest(self) -> bool:
        if not all(registrar.done for registrar in self.registrars):
            return False
        if any(producer.pending for producer in self.producers):
            return False
        if any(repeater.pending for repeater in self.repeaters):
            return False
        self._operate()
        try:
            for progress in invariants.PROGRESS:
                progress(self.world.judge)
        except Violation:
            return False
        return self._caught_up()

    def _operate(self) -> None:
        """Force recoveries that wait for sure copies, as an operator does who reads METRICS."""
        if self.world.options.fsync == "each":
            return
        for host in self.world.live():
            assert host.controller is not None
            for (topic, segment), recovery in sorted(host.controller.lifecycle.recoveries.items()):
                if recovery.waits_for_sure_copies and len(self.world.live()) == len(self.world.hosts):
                    call = ClientCall(Unattended(), host.id, 1, self.world.now)
                    self.world.ask(host, call, Recover(topic, segment))

    def _caught_up(self) -> bool:
        """Return whether every member has applied everything, no known damage is left, every replica of a
        sealed segment holds all of it, and every committed cursor equals its group's position.
        """
        judge = self.world.judge
        for host in self.world.live():
            assert host.controller is not None
            if self._unmended(host):
                return False
            member = host.id in judge.membership.members  # a removed node may not know that it was removed
            if member and host.controller.applied != len(judge.committed):
                return False
        for (topic, number), count in judge.sealed_as.items():
            segment, truth = judge.metadata.segment(topic, number), judge.truth((topic, number))
            if segment is None and judge.metadata.is_gone(topic, number):
                continue
            assert segment is not None
            if any(truth.lengths.get(node, 0) < count for node in segment.replicas):
                return False
        return all(
            judge.metadata.topics[topic].cursors.get(group, Position(1, 0)) == known.upto
            for (topic, group), known in judge.groups.items()
        )

    def _unmended(self, host: Host) -> list[Key]:
        """Return this node's copies of sealed segments that it knows to be damaged and has not rebuilt."""
        assert host.controller is not None
        judge, unmended = self.world.judge, []
        for key in host.controller.copies.damaged:
            segment = judge.metadata.segment(*key)
            if key in judge.sealed_as and segment is not None and host.id in segment.replicas:
                unmended.append(key)
        return unmended

    def _why_not(self) -> None:
        senders: list[Sender | Repeater] = [*self.producers, *self.repeaters]
        for sender in senders:
            if sender.pending:
                raise Violation("Replies", f"{sender.name} waits for {sender.pending} answers")
        for progress in invariants.PROGRESS:
            progress(self.world.judge)
        applied = {host.id: host.controller.applied for host in self.world.live() if host.controller}
        lacking = [
            (key, node)
            for key, count in self.world.judge.sealed_as.items()
            if (segment := self.world.judge.metadata.segment(*key)) is not None
            for node in segment.replicas
            if self.world.judge.truth(key).lengths.get(node, 0) < count
        ]
        raise Violation(
            "NoRest",
            f"applied {applied} of {len(self.world.judge.committed)}; copies too short: {lacking[:5]}; "
            f"damaged: {[(host.id, self._unmended(host)) for host in self.world.live()]}; "
            f"given {[(key, group.upto) for key, group in self.world.judge.groups.items()]}, committed "
            f"{[topic.cursors for topic in self.world.judge.metadata.topics.values()]}",
        )

    def verdict(self) -> None:
        """Read everything back, and judge it. Raises Violation."""
        world, judge = self.world, self.world.judge
        judge.full_check()
        readers = [
            Consumer(world, f"reader of {topic}", topic, "oracle", run=CATCH_UP_RUN) for topic in self.topics
        ]
        scanners = [Scanner(world, topic) for topic in self.topics]

        def read_back() -> bool:
            return all(reader.empty_at >= 0 for reader in readers) and all(s.done for s in scanners)

        # The world must be at rest, too: a PUT that timed out may add an entry meanwhile.
        if not world.run_until(lambda: read_back() and self._at_rest(), REST):
            if read_back():
                self._why_not()
            raise Violation("ReadProgress", "the log cannot be read back")
        for reader, scanner in zip(readers, scanners, strict=True):
            reader.stopped = scanner.stopped = True
            histories = [(p.name, p.attempts) for p in self.producers if p.topic == reader.topic]
            log = scanner.log
            oracle.check_same(reader.topic, log, judge.order(reader.topic))
            oracle.check_log([entry for entry in log if entry not in judge.numbered], histories)
            for repeater in self.repeaters:
                if repeater.topic == reader.topic:
                    oracle.check_numbers(repeater.name, repeater.payloads(), log)
            oracle.check_reader(reader.name, reader.received, log)
            oracle.check_same(reader.topic, list(dict.fromkeys(reader.received)), log)
            for consumer in self.consumers:
                if consumer.topic == reader.topic:
                    oracle.check_reader(consumer.name, consumer.received, log)
        if not world.run_until(lambda: not any(map(self._unmended, world.live())), REST):
            self._why_not()  # the readers may have met damage
        judge.full_check()

    def result(self) -> Result:
        """Return the figures of this run."""
        world, judge = self.world, self.world.judge
        outcomes = [attempt.outcome for producer in self.producers for attempt in producer.attempts]
        digest = hashlib.sha256(repr(world.rng.getstate()).encode())
        digest.update(repr((world.now, world.steps, judge.metadata.digest())).encode())
        return Result(
            seed=world.seed,
            steps=world.steps,
            seconds=round(world.now, 6),
            faults=sum(1 for fault in self.faults.schedule if fault.at <= self.calm_at),
            sent=len(outcomes),
            acknowledged=outcomes.count(Outcome.OK),
            unknown=outcomes.count(Outcome.UNKNOWN),
            delivered=sum(len(consumer.received) for consumer in self.consumers),
            segments=sum(topic.current for topic in judge.metadata.topics.values()),
            restarts=sum(host.record.incarnation - 1 for host in world.hosts.values()),
            digest=digest.hexdigest()[:16],
            seen=dict(sorted((+judge.seen).items())),
        )


def simulate(
    seed: int,
    options: Options,
    steps: int,
    chosen: Sequence[str] = faults.DEFAULT,
    recorder: Callable[[int], Trace] | None = None,
    film: Filming | None = None,
) -> Result | FailedRun:
    """Run this seed with a schedule of faults of the chosen classes."""
    schedule = faults.draw(seed, chosen, options.nodes, 0.5, steps / DENSITY)
    if options.fsync != "each":
        schedule += faults.forgetting(seed, chosen, options.nodes, 0.5, steps / DENSITY)
    if options.keepers:
        schedule += faults.belating(seed, chosen, options.nodes, 0.5, steps / DENSITY)
    simulation = Simulation(seed, options, schedule, recorder, film)
    return attempt(simulation, steps, None)


def attempt(simulation: Simulation, steps: int, calm_at: float | None) -> Result | FailedRun:
    """Run a simulation; a violation becomes a `FailedRun`."""
    try:
        return simulation.run(steps, calm_at)
    except Violation as violation:
        world = simulation.world
        struck = simulation.calm_at or world.now
        return FailedRun(
            seed=world.seed,
            name=violation.name,
            what=violation.what,
            step=world.steps,
            at=world.now,
            calm_at=struck,
            schedule=tuple(fault for fault in simulation.faults.schedule if fault.at <= struck),
        )


def replay(
    failure: FailedRun, options: Options, schedule: Sequence[Fault]
) -> tuple[Simulation, Result | FailedRun]:
    """Repeat the failing run with this schedule."""
    simulation = Simulation(failure.seed, options, schedule)
    return simulation, attempt(simulation, failure.step, failure.calm_at)


def said_next(failure: FailedRun, options: Options) -> FailedRun | None:
    """Return how the run fails without assertions, where an assertion without a name stopped it.

    The code goes on without its assertions and does its harm. None if the judge finds nothing wrong, or the
    run fails under the same name again.
    """
    with unasserted():
        simulation = Simulation(failure.seed, options, failure.schedule)
        outcome = attempt(simulation, failure.step, failure.calm_at + AFTERWARDS)
    return outcome if isinstance(outcome, FailedRun) and outcome.name != failure.name else None


def shrink(
    failure: FailedRun,
    options: Options,
    attempts: int = 200,
    told: Callable[[int, int], None] = lambda runs, faults: None,
) -> tuple[FailedRun, int]:
    """Return the run with fewer faults that still fails in the same way, and how many runs that took.

    `told` is called before each run with the number of runs so far and the number of faults left.
    """
    size, runs = max(1, len(failure.schedule) // 2), 0
    while runs < attempts:
        position, before = 0, len(failure.schedule)
        while position < len(failure.schedule) and runs < attempts:
            rest = failure.schedule[:position] + failure.schedule[position + size :]
            told(runs, len(failure.schedule))
            runs += 1
            _, outcome = replay(failure, options, rest)
            if isinstance(outcome, FailedRun) and outcome.name == failure.name:
                failure = msgspec.structs.replace(outcome, schedule=rest, calm_at=failure.calm_at)
            else:
                position += size
        if size == 1 and len(failure.schedule) == before:
            break
        size = max(1, size // 2)
    return failure, runs
