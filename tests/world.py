"""The world that every test drives: a clock that is a number, a network of packets, disks that sync a prefix.

`World` holds what Raft servers (`tests/consensus/world.py`) and whole nodes (`tests/broker/world.py`) share.
Nothing in it sleeps, opens a socket or asks the system for the time or for randomness, so a run is a function
of its seed and of what the test does to it:

    packets          messages under way, oldest first; `deliver`, or `hold` and `release`
    cut              directed links that lose what arrives over them; `isolate`, `heal`
    lose, watch      a test's say in which packets are lost, and its view of all that are sent
    now, rng         the time in seconds, and the only source of randomness
    sync_oldest      a disk finishes some of the writes that wait, in their order

The disks are `walrus.sim.memory.MemoryEngine`, the only in-memory storage that tests use. A test that makes
all writes durable at once cannot see a component that acknowledges write 2 when write 1 is durable; so each
host finishes a prefix first and then the rest, and a bench of one component does it with `sync_oldest`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from walrus.replicas.durability import Durable
from walrus.sim.memory import MemoryEngine


@dataclass(frozen=True)
class Packet:
    """A message under way."""

    sender: int
    to: int
    message: Any


class World(ABC):
    """A clock and a network. A subclass says which servers there are, and hands a packet to one of them."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.packets: list[Packet] = []
        self.held: list[Packet] = []
        self.cut: set[tuple[int, int]] = set()
        self.lose: Callable[[int, int, Any], bool] = lambda sender, to, message: False
        self.watch: Callable[[int, int, Any], None] = lambda sender, to, message: None

    @abstractmethod
    def everyone(self) -> Collection[int]:
        """All servers, running or not."""

    @abstractmethod
    def running(self, node: int) -> bool:
        """Return whether this server can be handed a message."""

    @abstractmethod
    def hand_over(self, packet: Packet) -> None:
        """Let the receiver, which is running, handle the message."""

    # --- the network ---

    def post(self, sender: int, to: int, message: Any) -> None:
        """A message sets out."""
        self.watch(sender, to, message)
        self.packets.append(Packet(sender, to, message))

    def arrives(self, packet: Packet) -> bool:
        """Return whether the packet gets through: its receiver runs, its link is not cut, it is not lost."""
        link = (packet.sender, packet.to)
        return (
            self.running(packet.to)
            and link not in self.cut
            and not self.lose(packet.sender, packet.to, packet.message)
        )

    def deliver(self, packet: Packet) -> bool:
        """Hand a packet over if it gets through; return whether it did."""
        arrives = self.arrives(packet)
        if arrives:
            self.hand_over(packet)
        return arrives

    def hold(self, which: Callable[[Packet], bool] = lambda _: True) -> None:
        """Keep these packets back until `release`."""
        self.held += filter(which, self.packets)
        self.packets = [packet for packet in self.packets if not which(packet)]

    def release(self, which: Callable[[Packet], bool] = lambda _: True) -> None:
        """What was held back arrives next."""
        self.packets[:0] = filter(which, self.held)
        self.held = [packet for packet in self.held if not which(packet)]

    def isolate(self, *nodes: int) -> None:
        """Cut these off from all others, in both directions, without closing connections."""
        for inside in nodes:
            for outside in set(self.everyone()) - set(nodes):
                self.cut |= {(inside, outside), (outside, inside)}

    def heal(self) -> None:
        """No link is cut any more."""
        self.cut.clear()


class TimedWorld(World):
    """A world with a scheduler of its own: it runs for a time, or until something holds."""

    @abstractmethod
    def step(self, end: float) -> None:
        """Do what happens next; the clock moves on, and not beyond `end`."""

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.step(end)

    def until(self, condition: Callable[[], bool], within: float = 30.0, claim: str = "") -> float:
        """Let time pass until the condition holds; return how long that took. `claim` says that it does."""
        start = self.now
        while not condition():
            assert self.now < start + within, (
                f"{claim or self.stuck() or 'Progress'}: the condition did not come true within {within} s"
            )
            self.step(start + within)
        return self.now - start

    def stuck(self) -> str:
        """Return the promise of progress that is not kept now, if it shows: where `until` gives up."""
        return ""


def oldest(durable: Durable, share: float = 1.0) -> int:
    """The number of the last write that is durable once this share of those that wait has been synced."""
    return durable.durable + int((durable.written - durable.durable) * share)


def sync_oldest(durable: Durable, share: float = 1.0) -> None:
    """The disk finishes this share of the writes that wait, oldest first, and the logic hears of it."""
    number, engine = oldest(durable, share), durable.storage
    assert isinstance(engine, MemoryEngine), "only a disk in memory can be told what to finish"
    engine.sync(all_but=durable.written - number)
    durable.on_durable(number)
