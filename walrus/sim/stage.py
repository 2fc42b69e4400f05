"""What scenarios are written with: a small cluster under load, a hand that interferes, and a verdict.

A `Stage` is a `Simulation` without a schedule. A scenario warms it up, does what its schedule says at the
very moments it names (a message is seen, a step is taken), asks what it is about, and calls `finish`:
everything is mended, must come to rest, and is judged like any other run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from walrus.broker.controller import Controller
from walrus.consensus.messages import Role
from walrus.segments import Segment, Topic
from walrus.sim.clients import Sender
from walrus.sim.host import Host
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import Simulation
from walrus.sim.violation import Violation, holds
from walrus.sim.world import Filming
from walrus.wire.effects import Trace
from walrus.wire.messages import PeerMessage

PATIENCE = 30.0

Recording: TypeAlias = Callable[[Options], Callable[[int], Trace]]
"""Makes the recorder of a run with these options: the trace of each of its nodes."""


@dataclass(slots=True)
class Audience:
    """Watches a scenario: the simulation that its stage was built on, for the table of a failure."""

    recording: Recording | None = None
    film: Filming | None = None
    simulation: Simulation | None = None


_audience: ContextVar[Audience | None] = ContextVar("audience", default=None)


@contextmanager
def watched(recording: Recording | None = None, film: Filming | None = None) -> Iterator[Audience]:
    """Scenarios that are played inside of this are watched, and recorded or filmed if that is asked for."""
    audience = Audience(recording, film)
    token = _audience.set(audience)
    try:
        yield audience
    finally:
        _audience.reset(token)


class Stage:
    """One scenario's cluster."""

    def __init__(self, seed: int, *, settings: dict[str, Any] | None = None, **options: Any) -> None:
        chosen = replace(Options(topics=1, producers=2, consumers=1, newcomers=0), **options)
        chosen = replace(chosen, settings={**SETTINGS, **(settings or {})})
        audience = _audience.get() or Audience()
        recorder = audience.recording(chosen) if audience.recording else None
        self.simulation = audience.simulation = Simulation(seed, chosen, (), recorder, audience.film)
        self.world, self.judge = self.simulation.world, self.simulation.world.judge
        self.producers = self.simulation.producers
        self.topic = "t0"

    # --- looking ---

    def metadata(self) -> Topic:
        """The topic as Raft has it."""
        return self.judge.metadata.topics[self.topic]

    def segment(self) -> Segment:
        """The open segment."""
        return self.metadata().open

    def stream(self) -> list[bytes]:
        """What the open segment's writer has taken."""
        return self.judge.truth((self.topic, self.metadata().current)).stream

    def leader(self) -> int:
        """The leader of the open segment."""
        return self.segment().leader

    def followers(self) -> list[int]:
        """The other replicas of the open segment."""
        return [node for node in self.segment().replicas if node != self.leader()]

    def host(self, node: int) -> Host:
        """A machine."""
        return self.world.hosts[node]

    def controller(self, node: int) -> Controller:
        """The controller of a node that runs."""
        controller = self.host(node).controller
        assert controller is not None, f"node {node} does not run"
        return controller

    def raft_leader(self) -> int:
        """The node that leads Raft, in the newest term."""
        leads = [
            (host.controller.raft.current_term, host.id)
            for host in self.world.live()
            if host.controller is not None and host.controller.raft.role is Role.LEADER
        ]
        return max(leads)[1] if leads else 0

    def raft_term(self) -> int:
        """The newest term that a node has seen."""
        live = [host.controller for host in self.world.live() if host.controller is not None]
        return max((controller.raft.current_term for controller in live), default=0)

    def settled(self) -> int:
        """Entries of the topic that are sealed or acknowledged."""
        current = self.metadata().current
        return self.metadata().sealed_total + self.judge.truth((self.topic, current)).acked

    def acknowledged(self) -> int:
        """Entries that a producer has its OK for."""
        return sum(producer.acknowledged for producer in self.producers)

    # --- letting time pass ---

    def run(self, seconds: float) -> None:
        """For so long."""
        self.world.run(self.world.now + seconds)

    def until(self, done: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Until something is so; it must become so."""
        end = self.world.now + patience
        while not done():
            holds(self.world.now < end, "Scenario", f"it did not come to this: {what}")
            self.world.step()

    def warm(self) -> None:
        """Until entries are acknowledged, delivered, and a node leads Raft."""
        self.until(
            lambda: (
                self.topic in self.judge.metadata.topics
                and self.acknowledged() > 20
                and bool(self.raft_leader())
                and bool(self.simulation.consumers[0].received)
                and len(self.judge.metadata.nodes) == self.world.options.nodes
                and self.judge.founded
            ),
            "a cluster at work",
        )

    def sees(self, kind: type, patience: float = PATIENCE) -> tuple[int, int, PeerMessage]:
        """Until a message of this type is sent; it goes its way."""
        seen: list[tuple[int, int, PeerMessage]] = []

        def look(sender: int, to: int, message: PeerMessage) -> bool:
            if type(message) is kind:
                seen.append((sender, to, message))
            return False

        self.world.rules.append(look)
        self.until(lambda: bool(seen), f"a {kind.__name__} is sent", patience)
        self.world.rules.remove(look)
        return seen[0]

    # --- interfering ---

    def keep(self, matches: Callable[[int, int, PeerMessage], bool]) -> Kept:
        """From now on these messages are kept back."""
        return Kept(self, matches)

    def cut(self, node: int, peers: list[int] | None = None) -> None:
        """Nothing passes between the node and these (or all others)."""
        for peer in peers if peers is not None else sorted(self.world.hosts):
            if peer != node:
                self.world.network.link(node, peer).cuts += 1
                self.world.network.link(peer, node).cuts += 1

    def mend(self) -> None:
        """All links run."""
        self.world.network.mend()

    def power_loss(self, node: int) -> None:
        """The machine loses its power."""
        self.world.kill(node, power=True)

    def producer(self, name: str, *, node: int = 0) -> Sender:
        """A producer that sends only what it is told to."""
        made = Sender(self.world, name, self.topic, window=0)
        made.node = node
        self.producers.append(made)
        self.world.clients.append(made)
        return made

    def quiet(self) -> None:
        """The producers of the background load have sent enough."""
        for producer in self.producers:
            producer.stopped = True

    # --- the end ---

    def finish(self) -> int:
        """Everything is mended, comes to rest, and is judged. How many steps it all took."""
        self.world.rules.clear()
        self.simulation.rest()
        self.simulation.verdict()
        return self.world.steps


class Kept:
    """Messages that were kept back."""

    def __init__(self, stage: Stage, matches: Callable[[int, int, PeerMessage], bool]) -> None:
        self.messages: list[tuple[int, int, PeerMessage]] = []
        self._stage, self._matches = stage, matches
        stage.world.rules.append(self._rule)

    def _rule(self, sender: int, to: int, message: PeerMessage) -> bool:
        if self._matches(sender, to, message):
            self.messages.append((sender, to, message))
            return True
        return False

    def release(self) -> None:
        """Let them arrive now, and keep no more."""
        self._stage.world.rules.remove(self._rule)
        for sender, to, message in self.messages:
            self._stage.world.deliver(sender, to, message)

    def drop(self) -> None:
        """They are lost, and no more are kept."""
        self._stage.world.rules.remove(self._rule)


def expect(condition: bool, what: str) -> None:
    """What a scenario is about."""
    if not condition:
        raise Violation("Scenario", what)
