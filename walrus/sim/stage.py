"""The helpers that scenarios are written with: a small cluster under load, interference, and a verdict.

A `Stage` is a `Simulation` without a schedule. A scenario warms it up, interferes at the moments that it
names (a message is seen, a step is taken), checks its own point, and calls `finish`: everything is mended,
must come to rest, and is judged like any other run.
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
"""Makes the recorder of a run with these options, which makes the trace of each of its nodes."""


@dataclass(slots=True)
class Audience:
    """Observes a scenario: keeps the simulation of its stage for the table of a failure."""

    recording: Recording | None = None
    film: Filming | None = None
    simulation: Simulation | None = None


_audience: ContextVar[Audience | None] = ContextVar("audience", default=None)


@contextmanager
def watched(recording: Recording | None = None, film: Filming | None = None) -> Iterator[Audience]:
    """Observe the scenarios played inside the `with`, and record or film them if asked to."""
    audience = Audience(recording, film)
    token = _audience.set(audience)
    try:
        yield audience
    finally:
        _audience.reset(token)


class Stage:
    """The cluster of one scenario, under load on the topic `t0`."""

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
        """Return the topic as Raft has it."""
        return self.judge.metadata.topics[self.topic]

    def segment(self) -> Segment:
        """Return the open segment."""
        return self.metadata().open

    def stream(self) -> list[bytes]:
        """Return the entries that the open segment's writer has taken."""
        return self.judge.truth((self.topic, self.metadata().current)).stream

    def leader(self) -> int:
        """Return the leader of the open segment."""
        return self.segment().leader

    def followers(self) -> list[int]:
        """Return the other replicas of the open segment."""
        return [node for node in self.segment().replicas if node != self.leader()]

    def host(self, node: int) -> Host:
        """Return the machine of a node."""
        return self.world.hosts[node]

    def controller(self, node: int) -> Controller:
        """Return the controller of a node that runs."""
        controller = self.host(node).controller
        assert controller is not None, f"node {node} does not run"
        return controller

    def raft_leader(self) -> int:
        """Return the node that leads Raft in the newest term; 0 if there is none."""
        leads = [
            (host.controller.raft.current_term, host.id)
            for host in self.world.live()
            if host.controller is not None and host.controller.raft.role is Role.LEADER
        ]
        return max(leads)[1] if leads else 0

    def raft_term(self) -> int:
        """Return the newest term that a node has seen."""
        live = [host.controller for host in self.world.live() if host.controller is not None]
        return max((controller.raft.current_term for controller in live), default=0)

    def settled(self) -> int:
        """Return how many entries of the topic are sealed or acknowledged."""
        current = self.metadata().current
        return self.metadata().sealed_total + self.judge.truth((self.topic, current)).acked

    def acknowledged(self) -> int:
        """Return how many entries the producers have their OK for."""
        return sum(producer.acknowledged for producer in self.producers)

    # --- letting time pass ---

    def run(self, seconds: float) -> None:
        """Let `seconds` of the world's time pass."""
        self.world.run(self.world.now + seconds)

    def until(self, done: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Run until `done()`. Raises Violation if that takes more than `patience` seconds."""
        end = self.world.now + patience
        while not done():
            holds(self.world.now < end, "Scenario", f"it did not come to this: {what}")
            self.world.step()

    def warm(self) -> None:
        """Run until entries are acknowledged and delivered, and a node leads Raft."""
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
        """Run until a message of this type is sent; return (sender, receiver, message). It still arrives."""
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
        """Keep back the messages that match from now on."""
        return Kept(self, matches)

    def cut(self, node: int, peers: list[int] | None = None) -> None:
        """Cut all links between the node and these peers (None: all others)."""
        for peer in peers if peers is not None else sorted(self.world.hosts):
            if peer != node:
                self.world.network.link(node, peer).cuts += 1
                self.world.network.link(peer, node).cuts += 1

    def mend(self) -> None:
        """Let all links run."""
        self.world.network.mend()

    def power_loss(self, node: int) -> None:
        """Cut the power of a machine."""
        self.world.kill(node, power=True)

    def producer(self, name: str, *, node: int = 0) -> Sender:
        """Return a producer that sends only what it is told to."""
        made = Sender(self.world, name, self.topic, window=0)
        made.node = node
        self.producers.append(made)
        self.world.clients.append(made)
        return made

    def quiet(self) -> None:
        """Stop the producers of the background load."""
        for producer in self.producers:
            producer.stopped = True

    # --- the end ---

    def finish(self) -> int:
        """Mend everything, wait for rest, and judge. Return how many steps the whole run took."""
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
        """Deliver the messages now, and keep no more."""
        self._stage.world.rules.remove(self._rule)
        for sender, to, message in self.messages:
            self._stage.world.deliver(sender, to, message)

    def drop(self) -> None:
        """Lose the messages, and keep no more."""
        self._stage.world.rules.remove(self._rule)


def expect(condition: bool, what: str) -> None:
    """Check the point of a scenario. Raises Violation."""
    if not condition:
        raise Violation("Scenario", what)
