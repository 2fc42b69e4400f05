"""Faults aimed at single messages, or at types of messages: at the worst moment, or again and again.

Chance alone rarely hits the moment between a fence and its answer. An *ambush* waits for the next message of
one type and strikes there; a *sieve* loses, delays or duplicates messages of a few types for a while; a
*needless recovery* fences a segment whose leader is alive and does not hear of it. Each is determined by one
number of its fault, so a schedule stays a list of values.

    late, twice, lost           the message itself
    kill, power, isolate, pause its sender or its receiver, a moment later
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import NamedTuple

from walrus.commands import DeleteTopic
from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    TimeoutNowRequest,
)
from walrus.sim.world import Rule, World
from walrus.wire import messages as m
from walrus.wire.messages import PeerMessage

DATA_MESSAGES: tuple[type, ...] = (
    *(m.Fence, m.FenceReply, m.Copy, m.CopyReply, m.Append, m.AppendReply, m.Forward, m.ForwardReply),
    *(m.GetEntries, m.GetReply, m.Confirm, m.Propose, m.ReadReply, m.ReadIndexReply),
)
RAFT_MESSAGES: tuple[type, ...] = (
    *(RequestVoteRequest, RequestVoteResponse, AppendEntriesRequest, AppendEntriesResponse),
    *(InstallSnapshotRequest, InstallSnapshotResponse, TimeoutNowRequest),
)
AMBUSHED = (*DATA_MESSAGES, *RAFT_MESSAGES)
SIEVED = (*AMBUSHED, PreVoteRequest, PreVoteResponse)

STRIKES = (
    *("late", "late", "late", "twice", "lost", "kill sender", "kill receiver", "power sender"),
    *("power receiver", "isolate sender", "isolate receiver", "pause sender"),
)
WAITS = 5.0
"""Seconds after which an ambush is given up."""
OFTEN = (InstallSnapshotRequest, InstallSnapshotResponse, m.Fence, m.FenceReply, m.Append, m.AppendReply)
"""Types that a sieve names more often than others: each has machinery of its own against loss and delay."""


class Strike(NamedTuple):
    """What an ambush does to the nodes of its message."""

    kind: str
    node: int


class Sieve(NamedTuple):
    """Which messages are treated, and how. Node 0 means any node."""

    types: tuple[type, ...]
    sender: int
    to: int
    how: str
    chance: float
    delay: float

    def fits(self, sender: int, to: int, message: PeerMessage) -> bool:
        """Return whether this sieve treats such a message, if chance selects it."""
        return type(message) in self.types and self.sender in (0, sender) and self.to in (0, to)


def sieve(dice: Random, node: int, peer: int) -> Sieve:
    """Draw a sieve."""
    types = tuple(dice.choice((SIEVED, OFTEN)[dice.random() < 0.4]) for _ in range(dice.choice((1, 1, 2, 4))))
    sender, to = dice.choice(((0, 0), (node, 0), (0, node), (node, peer)))
    how = dice.choice(("lost", "late", "late", "twice"))
    return Sieve(types, sender, to, how, dice.choice((0.3, 1.0)), dice.choice((0.05, 0.3, 1.0, 2.0)))


def _deletes(message: PeerMessage) -> bool:
    return isinstance(message, m.Propose) and isinstance(message.commands[0], DeleteTopic)


class Strikes:
    """Adds rules to a world and removes them; `calm` ends them all."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.calm = False

    def ambush(self, value: float, delay: float, hit: Callable[[Strike], None]) -> None:
        """Wait for a message of one type, and strike when it is sent."""
        dice = Random(f"ambush {value}")
        kind, strike = dice.choice(AMBUSHED), dice.choice(STRIKES)

        def struck(sender: int, to: int, message: PeerMessage) -> bool:
            self._world.note(sender, f"AMBUSH {kind.__name__} to {to}: {strike}")
            self._world.seen[f"ambush {strike}"] += 1
            if strike in ("late", "twice", "lost"):
                return self._treat(strike, delay, sender, to, message)
            what, _, end_of_it = strike.partition(" ")
            hit(Strike(what, sender if end_of_it == "sender" else to))
            return False

        self._next(lambda message: type(message) is kind, struck, WAITS)

    def _next(self, fits: Callable[[PeerMessage], bool], strike: Rule, patience: float = inf) -> None:
        """Apply `strike` to the next message that fits, within `patience` seconds and before all is calm."""
        world, end = self._world, self._world.now + patience

        def rule(sender: int, to: int, message: PeerMessage) -> bool:
            if world.now < end and not fits(message):
                return False
            world.rules.remove(rule)
            return world.now < end and not self.calm and strike(sender, to, message)

        world.rules.append(rule)

    def _treat(self, how: str, delay: float, sender: int, to: int, message: PeerMessage) -> bool:
        """Treat a message; return whether it is kept back."""
        if how != "lost":
            self._world.after(delay, self._world.deliver, sender, to, message)
        return how != "twice"

    def belate(self, delay: float) -> None:
        """Repeat the next DELETE that a node proposes, `delay` seconds later.

        A node proposes again what it does not see applied, and may be the last one to learn that it was.
        """

        def again(sender: int, to: int, message: PeerMessage) -> bool:
            self._world.note(sender, f"BELATED {delay:.3f} s: {message}")
            self._world.seen["DELETE belated"] += 1
            return self._treat("twice", delay, sender, to, message)

        self._next(_deletes, again)

    def sift(self, chosen: Sieve, duration: float) -> None:
        """Treat the messages that the sieve fits, for `duration` seconds."""
        world = self._world
        world.note(chosen.sender, f"SIEVE {chosen.how} {', '.join(kind.__name__ for kind in chosen.types)}")

        def rule(sender: int, to: int, message: PeerMessage) -> bool:
            if self.calm or not chosen.fits(sender, to, message) or world.rng.random() >= chosen.chance:
                return False
            world.seen[f"sieve {chosen.how}"] += 1
            delay = chosen.delay * (0.5 + world.rng.random())
            return self._treat(chosen.how, delay, sender, to, message)

        world.rules.append(rule)
        world.after(duration, world.rules.remove, rule)

    def needless(self, value: float, node: int, duration: float) -> None:
        """Recover an open segment at `node`, or at another node if that one is paused.

        The segment's leader may be alive, and may for a while not hear of the recovery.
        """
        world, dice = self._world, Random(f"needless {value}")
        awake = [host for host in world.live() if not host.paused and host.id != node]
        host = world.hosts[node] if world.hosts[node].up and not world.hosts[node].paused else None
        host = host or (dice.choice(awake) if awake else None)
        if host is None or host.controller is None:
            return
        node, metadata = host.id, host.controller.metadata
        segments = [(name, topic.current) for name, topic in sorted(metadata.topics.items())]
        if not segments:
            return
        topic, number = dice.choice(segments)
        segment = metadata.segment(topic, number)
        assert segment is not None
        if dice.random() < 0.7:
            types = dice.choice(((m.Fence,), (m.Fence, m.AppendReply)))
            chosen = Sieve(types, dice.choice((0, node)), segment.leader, "lost", 1.0, 0.0)
            self.sift(chosen, duration)
        if dice.random() < 0.5:
            others = [peer for peer in segment.replicas if peer not in (node, segment.leader)] or [0]
            how = dice.choice(("lost", "late"))
            self.sift(Sieve((m.Fence, m.FenceReply), 0, dice.choice(others), how, 1.0, 0.1), duration / 2)
        world.seen["needless recovery"] += segment.leader != node
        host.controller.lifecycle.recover(topic, number, host.clock(world.now))
        world.turn(node)
