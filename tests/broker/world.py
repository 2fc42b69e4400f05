"""The world of tests (`tests/world.py`) with whole nodes in it: controllers, their two disks, their clients.

`NodeWorld.run` moves the clock in small steps; in each of them packets travel a few hops, in order per link.
What a node wrote becomes durable in the same turn, first a prefix of it and then the rest (unless the test
holds it back): a component that waits for more than it needs, or for less, shows. Faults are attributes:
those of `World`, `paused` (SIGSTOP), `slow_disk` (nodes whose data engine does not finish a sync), and a
`MemoryEngine` can be full or damaged.
"""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from tests.world import Packet, TimedWorld, oldest
from walrus import protocol
from walrus.broker.controller import Controller
from walrus.broker.handshake import CalleeSide, Callers, CallerSide
from walrus.config import Identity, NodeConfig
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import Membership, Role
from walrus.segments import Topic, next_incarnation
from walrus.sim.greeting import Doorkeeper, shake_hands
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Batch
from walrus.wire import messages as m
from walrus.wire.effects import Halt, LogLine, Peers, Reply, Send
from walrus.wire.errors import kind_of
from walrus.wire.messages import HelloReply

STEP = 0.02
EPOCH = 1_700_000_000
"""Unix time at which the world's clock stands at 0."""
HOPS = 8
ANSWERED: dict[type, str] = {
    protocol.Put: "EveryPubAnswered",
    protocol.Get: "ReadProgress",
    protocol.Fetch: "ReadProgress",
    protocol.Delete: "DeletedInTheEnd",
    protocol.Receive: "EveryEntryAcked",
    protocol.Ack: "EveryEntryAcked",
}
"""The promise that a request without an answer breaks, where nothing else is seen to be stuck."""


def config(node_id: int = 1, **changes: Any) -> NodeConfig:
    """The settings of a node, all of them the defaults but for `changes`."""
    return NodeConfig(
        node_id=node_id,
        raft_address=f"127.0.0.1:600{node_id}",
        client_address=f"127.0.0.1:909{node_id}",
        **changes,
    )


def batch(*payloads: bytes | str) -> Batch:
    return Batch.of([p.encode() if isinstance(p, str) else p for p in payloads])


def frames(data: bytes) -> list[bytes]:
    """The bodies of the reply frames in `data`."""
    bodies, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        bodies.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return bodies


class NodeWorld(TimedWorld):
    """Controllers 1..n and everything between them."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        super().__init__(seed)
        self.settings = settings
        self.nodes: dict[int, Controller] = {}
        self.stores: dict[int, tuple[MemoryEngine, MemoryEngine]] = {}
        self.incarnations: dict[int, int] = {}
        self.directories: dict[int, str] = {}
        self.asked: dict[object, protocol.Request] = {}
        self.replies: dict[object, list[bytes]] = defaultdict(list)
        self.closed: set[object] = set()
        self.wanted: dict[int, set[int]] = defaultdict(set)
        self.slow_disk: set[int] = set()
        self.paused: set[int] = set()
        self.sync_each = True
        self.logs: list[str] = []
        self.halted: dict[int, str] = {}
        self.exit_statuses: dict[int, int] = {}
        self.traced: list[tuple[int, str, dict[str, object]]] = []
        self._slots = self._starts = 0
        self._disks = random.Random(f"disks {seed}")

    # --- nodes come and go ---

    def start(
        self, node: int, *, bootstrap: bool = False, sure: bool = True, knows: Iterable[int] | None = None
    ) -> Controller:
        """Start a node, on the disk that it has. It remembers where the nodes `knows` are, by default all."""
        data, meta = self.stores.setdefault(node, (MemoryEngine(), MemoryEngine()))
        if bootstrap:
            RaftJournal(meta).bootstrap(Membership((node,)))
        self.wanted.pop(node, None)
        self._starts += 1
        self.incarnations[node] = next_incarnation(self.incarnations.get(node, 0), drawn=self._starts)
        identity = Identity(
            cluster_id="test",
            directory_id=self.directories.setdefault(node, f"d{node}"),
            incarnation=self.incarnations[node],
            sure=sure,
        )
        self.nodes[node] = Controller(
            config=config(node, **self.settings),
            identity=identity,
            data=data,
            meta=meta,
            rng=random.Random(self.rng.random()),
            now=self.now,
            addresses={peer: f"127.0.0.1:600{peer}" for peer in (self.stores if knows is None else knows)},
            is_open=lambda slot: slot not in self.closed,
            unix_time=lambda: EPOCH + self.now,
            trace=lambda event, /, **values: self.traced.append((node, event, values)),
        )
        return self.nodes[node]

    def kill(self, node: int) -> None:
        """kill -9: its connections close, and a new one is refused."""
        del self.nodes[node]
        self.packets = [packet for packet in self.packets if node not in (packet.sender, packet.to)]
        for _, controller in sorted(self.nodes.items()):
            if node in controller.connected:
                controller.on_disconnected(node, False, self.now)
                controller.on_disconnected(node, True, self.now)

    def lose_power(self, node: int) -> None:
        """Power loss: what was not synced is gone. Peers notice as with a killed process."""
        self.kill(node)
        for engine in self.stores[node]:
            engine.lose_power()

    def join(self, node: int) -> None:
        """Have a new node taken in through the lowest one, and wait until it votes."""
        contact = min(self.nodes)
        self.start(node)
        identity = self.nodes[node].identity
        join = m.Join(
            node_id=node,
            directory_id=identity.directory_id,
            raft_address=f"127.0.0.1:600{node}",
            client_address="",
        )

        def asked() -> bool:
            return self.nodes[contact].on_join(join, self.now).done

        self.until(asked)
        self.until(lambda: self.nodes[node].ready)

    # --- time ---

    def stuck(self) -> str:
        """Look for what waits: a log, the end of a topic, of a leaderless segment, of a full one."""
        topics = max(self.nodes.values(), key=lambda c: c.applied).metadata.topics if self.nodes else {}
        lives = [controller.lifecycle for controller in self.nodes.values()]
        if not any(c.raft.role is Role.LEADER for c in self.nodes.values()) or not self.settled():
            return "CommitProgress"
        if any(topic.deleting for topic in topics.values()):
            return "DeletedInTheEnd"
        leaderless = any(self.incarnations[t.open.leader] != t.open.incarnation for t in topics.values())
        if leaderless or any(t.open.leader not in self.nodes for t in topics.values()):
            return "FailoverProgress"
        if any(life.recoveries for life in lives):
            return "FailoverProgress"
        sealing = any(writer.sealing for life in lives for writer in life.writers.values())
        if sealing:
            return "RolloverProgress"
        silent = [asked for slot, asked in self.asked.items() if len(self.replies[slot]) < asked.replies]
        return next((ANSWERED[type(asked)] for asked in silent if type(asked) in ANSWERED), "")

    def everyone(self) -> Collection[int]:
        return self.stores

    def running(self, node: int) -> bool:
        return node in self.nodes

    def hand_over(self, packet: Packet) -> None:
        self.nodes[packet.to].on_message(packet.sender, packet.message, self.now)

    def step(self, end: float = 0.0) -> None:
        """One step of the clock: ticks, then packets travel until they rest or had enough hops."""
        self.now += STEP
        self._connect()
        for _, controller in self._awake():
            controller.on_tick(self.now)
        self.hop(HOPS)
        for _, controller in sorted(self.nodes.items()):
            controller.check_invariants()

    def hop(self, most: int) -> None:
        """Let turns, syncs and messages alone go on, while the clock stands still."""
        for _ in range(most):
            self._turns()
            if not self.packets:
                break
            self._deliver()

    def _awake(self) -> list[tuple[int, Controller]]:
        return [(node, c) for node, c in sorted(self.nodes.items()) if node not in self.paused]

    def resume(self, node: int) -> None:
        """SIGCONT: what was sent to the node meanwhile is in its sockets."""
        self.paused.discard(node)
        self.release(lambda packet: packet.to == node)

    def _connect(self) -> None:
        for node, controller in sorted(self.nodes.items()):
            for peer in sorted(self.wanted[node]):
                if peer not in self.nodes or peer in controller.connected:
                    continue
                other = self.nodes[peer]
                caller = CallerSide(controller.members.hello(peer))
                hello = shake_hands(caller, CalleeSide(Callers(), Doorkeeper(other, self.now)))
                assert isinstance(caller.verdict, HelloReply)
                if hello is not None:
                    other.members.on_caller(hello)
                    controller.on_connected(peer, caller.verdict, self.now)
                    continue
                if caller.verdict.final:
                    error, removed = caller.verdict.error, caller.verdict.removed
                    controller.on_final_refusal(peer, error, removed, self.now)
                else:
                    controller.members.on_refused(peer, caller.verdict.error)

    def _turns(self) -> None:
        for node, controller in self._awake():
            controller.flush(self.now)
            self._finish_syncs(node, self._disks.random())
            controller.flush(self.now)
            self._finish_syncs(node, 1.0)
            controller.flush(self.now)
            for effect in controller.take_effects():
                self._carry_out(node, effect)
        for node in self.halted:
            if node in self.nodes:
                self.kill(node)

    def _finish_syncs(self, node: int, share: float) -> None:
        """Both disks finish this share of what was written, oldest first: a prefix, then the rest."""
        if node not in self.slow_disk:
            self.finish_sync(node, share)
        controller, meta = self.nodes[node], self.stores[node][1]
        number = oldest(controller.meta, share)
        meta.sync(all_but=controller.meta.written - number)
        controller.on_meta_durable(number, self.now)

    def finish_sync(self, node: int, share: float = 1.0) -> None:
        """The data engine's disk finishes this share of what was written."""
        controller, data = self.nodes[node], self.stores[node][0]
        number = oldest(controller.data, share)
        if self.sync_each:
            data.sync(all_but=controller.data.written - number)
        controller.on_data_durable(number, self.now)

    def _carry_out(self, node: int, effect: object) -> None:
        match effect:
            case Send(to=to, message=message):
                if to in self.nodes and to in self.nodes[node].connected:
                    self.post(node, to, message)
            case Reply(slot=slot, data=data, count=count):
                bodies = frames(data)
                assert len(bodies) == count
                for body in bodies:
                    assert not body.startswith(b"ERR ") or kind_of(body[4:].decode()), body
                self.replies[slot] += bodies
            case LogLine(text=text):
                self.logs.append(f"{node}: {text}")
            case Halt(reason=reason, exit_status=status):
                self.halted[node], self.exit_statuses[node] = reason, status
            case Peers(addresses=addresses):
                self.wanted[node] = set(addresses)
                for peer in sorted(self.nodes[node].connected - set(addresses)):
                    self.nodes[node].on_disconnected(peer, False, self.now)
                for peer, other in sorted(self.nodes.items()):  # which it reads no more
                    if peer not in {node, *addresses} and node in other.connected:
                        other.on_disconnected(node, False, self.now)

    def _deliver(self) -> None:
        """One hop: what a paused node is sent waits in its sockets."""
        self.hold(lambda packet: packet.to in self.paused)
        packets, self.packets = self.packets, []
        for packet in packets:
            self.deliver(packet)

    # --- clients ---

    def send(self, node: int, request: protocol.Request) -> str:
        """A client's request; its replies will be in `replies` under the name returned."""
        self._slots += 1
        slot = f"request {self._slots}"
        self.asked[slot] = request
        self.nodes[node].on_request(slot, request, self.now)
        return slot

    def ask(self, node: int, request: protocol.Request, within: float = 15.0) -> list[bytes]:
        """A client's request, and all its replies."""
        slot = self.send(node, request)
        self.until(lambda: len(self.replies[slot]) >= request.replies, within)
        return self.replies[slot]

    def put(self, node: int, topic: str, *payloads: str | bytes) -> list[bytes]:
        return self.ask(node, protocol.Put(topic, batch(*payloads)))

    def register(self, topic: str, node: int | None = None) -> None:
        node = min(self.nodes) if node is None else node
        assert self.ask(node, protocol.Register(topic)) == [b"OK"]
        self.until(lambda: all(topic in c.metadata.topics for c in self.nodes.values()))

    def get_all(self, node: int, topic: str, group: str = "") -> list[bytes]:
        """GET until EMPTY."""
        got: list[bytes] = []
        while (reply := self.ask(node, protocol.Get(topic, group))[0]) != b"EMPTY":
            assert reply.startswith(b"OK "), reply
            got.append(reply[3:])
        return got

    def metrics(self, node: int) -> dict[str, Any]:
        return msgspec.json.decode(self.ask(node, protocol.Metrics())[0], type=dict[str, Any])

    # --- looking inside ---

    def topic(self, name: str) -> Topic:
        """The topic, as the node that has applied most knows it."""
        return max(self.nodes.values(), key=lambda c: c.applied).metadata.topics[name]

    @property
    def raft_leader(self) -> int:
        return next(n for n, c in sorted(self.nodes.items()) if c.raft.role.value == "Leader")

    def settled(self) -> bool:
        """All nodes have applied the same, and it is the same."""
        same = len({c.applied for c in self.nodes.values()}) == 1
        return same and len({c.metadata.digest() for c in self.nodes.values()}) == 1

    def stored(self, node: int, topic: str, segment: int) -> list[bytes]:
        return self.stores[node][0].entries.get(f"{topic}/{segment}", [])


def three(**settings: Any) -> NodeWorld:
    """Three nodes that know each other."""
    world = NodeWorld(**settings)
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    for node in (2, 3):
        world.join(node)
    world.until(lambda: all(c.ready for c in world.nodes.values()) and world.settled())
    return world
