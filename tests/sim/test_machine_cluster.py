"""The whole cluster under Hypothesis: rules carry the names of the spec's actions, every step is judged.

The world decides what happens by itself between two rules (messages, syncs, timers); the rules decide what
clients do and what goes wrong. Every invariant of `walrus.sim.invariants` is looked at after each step of a
node, and at the end everything is mended, must come to rest, and is judged by the oracle.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from walrus.sim.clients import Consumer
from walrus.sim.network import Weather
from walrus.sim.stage import Stage

NODES = st.integers(1, 3)
MOMENTS = st.sampled_from((0.0, 0.001, 0.005, 0.05, 0.3, 1.0))
KINDS = st.sampled_from(("late", "lost", "twice"))


class ClusterMachine(RuleBasedStateMachine):
    """Three nodes, one topic, one producer for each node and one consumer group."""

    stage: Stage

    @initialize(seed=st.integers(0, 1_000), fsync=st.sampled_from(("each", 0.2)), ordered=st.booleans())
    def begin(self, seed: int, fsync: str | float, ordered: bool) -> None:
        options: dict[str, Any] = {"fsync": fsync, "ordered": ordered, "producers": 0, "fetchers": 0}
        self.stage = Stage(seed, **options, think=0.05, settings={"max_segment_entries": 7})
        self.stage.until(lambda: self.stage.topic in self.stage.judge.metadata.topics, "registered")
        self.clients = {node: self.stage.producer(f"m{node}", node=node) for node in (1, 2, 3)}

    @rule(node=NODES, count=st.integers(1, 20), moment=MOMENTS)
    def leader_append(self, node: int, count: int, moment: float) -> None:
        """PUTs through a node; where they go is the cluster's business."""
        self.clients[node].node = node
        self.clients[node].put(count)
        self.stage.run(moment)

    @rule(node=NODES, moment=MOMENTS)
    def deliver(self, node: int, moment: float) -> None:
        """The consumer asks at this node from now on."""
        consumer = self.stage.simulation.consumers[0]
        assert isinstance(consumer, Consumer)
        consumer.hang_up()
        consumer.node = node
        self.stage.run(moment)

    @rule(node=NODES, moment=MOMENTS)
    def crash(self, node: int, moment: float) -> None:
        """kill -9."""
        self.stage.world.kill(node)
        self.stage.run(moment)

    @precondition(lambda self: not self.stage.judge.wounded())
    @rule(node=NODES, moment=MOMENTS)
    def lose_power(self, node: int, moment: float) -> None:
        """The machine loses what it did not sync."""
        self.stage.power_loss(node)
        self.stage.run(moment)

    @rule(node=NODES, moment=MOMENTS)
    def restart(self, node: int, moment: float) -> None:
        """A process starts where none runs; a sleeping one wakes up."""
        self.stage.world.start(node)
        self.stage.world.pause(node, False)
        self.stage.run(moment)

    @rule(node=NODES, moment=MOMENTS)
    def expire_lease(self, node: int, moment: float) -> None:
        """The node hears no other node."""
        self.stage.cut(node)
        self.stage.run(moment)

    @rule(moment=MOMENTS)
    def renew_lease(self, moment: float) -> None:
        """All links run, in fair weather."""
        self.stage.mend()
        self.stage.world.network.weather = self.stage.world.climate
        self.stage.run(moment)

    @rule(node=NODES, moment=MOMENTS)
    def sleep(self, node: int, moment: float) -> None:
        """SIGSTOP."""
        self.stage.world.pause(node, True)
        self.stage.run(moment)

    @rule(loss=st.floats(0, 0.5), twice=st.floats(0, 0.5), moment=MOMENTS)
    def storm(self, loss: float, twice: float, moment: float) -> None:
        """Messages are lost, repeated, late."""
        storm = Weather(most=0.02, loss=loss, duplicate=twice, ordered=False, late=0.02)
        self.stage.world.network.weather = storm
        self.stage.run(moment)

    @rule(node=NODES, moment=MOMENTS)
    def start_recovery(self, node: int, moment: float) -> None:
        """A node recovers the open segment, whether there is a reason or not."""
        host = self.stage.host(node)
        if host.controller is not None and not host.paused:
            known = host.controller.metadata.topics.get(self.stage.topic)
            if known is not None:
                now = host.clock(self.stage.world.now)
                host.controller.lifecycle.recover(self.stage.topic, known.current, now)
                self.stage.world.turn(node)
        self.stage.run(moment)

    def teardown(self) -> None:
        """Mend, rest, judge."""
        if hasattr(self, "stage"):
            self.stage.finish()


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=25)
