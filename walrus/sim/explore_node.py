"""One node of the segment protocol for the exploration: its state machines, its inputs, and how states
compare.

`SegmentNode` wires the state machines as `Controller` does, without router, readers and Raft: commands are
applied on request. Every input ends its turn, and at the end of the turn what was written is durable, unless
the disk is slow.

What a node tells others must be true of its disk at that moment, as in `promises.py`.

`look` decides which local states are equal: it returns everything reachable from the state machines, as
nested tuples. Times count relative to now, up to `LONG`. This is sound, because it leaves out only fields
that decide nothing (`SKIPPED`), and otherwise merges fewer states than it could.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ClassVar, TypeAlias, cast

import msgspec

from walrus.broker.cursors import Cursors
from walrus.broker.lifecycle import Lifecycle, Writers
from walrus.broker.queues import Queues
from walrus.config import NodeConfig
from walrus.leases import LeaseTable
from walrus.replicas.copies import NOTES, Copies, Note
from walrus.replicas.durability import Durable
from walrus.replicas.puller import Puller
from walrus.replicas.reads import Reads
from walrus.replicas.repair import CatchUp
from walrus.replicas.replica import Replica
from walrus.segments import Announce, Command, Metadata, SetReplicas, decode_command, encode_command
from walrus.sim.memory import MemoryEngine
from walrus.sim.violation import Violation
from walrus.storage.batch import Batch
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send, no_trace

NODES = (1, 2, 3)
CLIENT = 9
"""The origin of all PUTs: it stands for a router, and its answers count as what clients are told."""
LONG = 10.0
"""Seconds by which a tick advances a node's clock: longer than every interval of `SETTINGS`."""
FAR = 1e6
SETTINGS: dict[str, Any] = {
    "max_segment_entries": 2,
    "resend_interval": 0.5,
    "monitor_check": 0.5,
    "put_timeout": FAR,
}
ASSERTED = {
    *("AckedDurable", "SealedStable", "PrefixAgree", "SeqOrder", "SingleWriter", "OpenLeaderMatchesMap"),
    *("NoWritesPastOpen", "DomainConsistency", "LastSealedIsSum", "DeliveredIsPrefix"),
}
"""The invariants named by assertions of these state machines."""
Input: TypeAlias = tuple[Any, ...]
"""(what, arguments ...): an input of one node."""


def announcement(node: int, start: int) -> Announce:
    """Return the command that Raft commits when a node starts with this number; 0 makes it a member."""
    return Announce(
        node_id=node, directory_id=f"d{node}", incarnation=start, raft_address=f"{node}.{start}",
        client_address="c",
    )  # fmt: skip


class Frozen:
    """Stands in for cursors: there are none, so a seal need not wait for any."""

    def freeze(self, topic: str) -> Any:
        """Return the cursors that are sealed with the segment: none."""
        return {}


class NoQueues:
    """Stands in for work queues: there are none."""

    def freeze(self, topic: str) -> Any:
        """Return the queues' state that is sealed with the segment: none."""
        return {}, {}


class SegmentNode:
    """The segment protocol's state machines of one node, wired as `Controller` wires them."""

    settings: ClassVar[dict[str, Any]] = SETTINGS
    hears_itself = True
    """Whether a message to the node itself arrives in the same turn; if not, it leaves with the rest."""

    def __init__(self, node: int) -> None:
        self.node, self.starts, self.now, self.heard = node, 0, 0.0, True
        self.engines = MemoryEngine(), MemoryEngine()
        self.log: list[bytes] = []
        self.proposed: list[bytes] = []
        self._begin()

    def _begin(self, *, sure: bool = True) -> None:
        """Start a process: it reads its disk, and applies again the part of the log that it had applied."""
        self.starts += 1
        config = NodeConfig(node_id=self.node, raft_address="a", client_address="b", **self.settings)
        self.outbox, self.metadata = Outbox(self.node if self.hears_itself else 0), Metadata()
        self.data, self.meta = (Durable(engine) for engine in self.engines)
        self.copies = Copies(self.data, self.meta)
        writers = Writers()
        self.leases = LeaseTable(self.node, self.starts, FAR)
        connected = {node for node in NODES if node != self.node}
        self.reads = Reads(
            config=config, copies=self.copies, metadata=self.metadata, outbox=self.outbox,
            commit_index=writers.commit_index, first_request=self.starts << 20,
        )  # fmt: skip
        self.replica = Replica(
            node_id=self.node, copies=self.copies, metadata=self.metadata, outbox=self.outbox
        )
        self.catch_up = CatchUp(
            config=config, metadata=self.metadata, copies=self.copies, outbox=self.outbox,
            puller=Puller(copies=self.copies, reads=self.reads, outbox=self.outbox),
        )  # fmt: skip
        self.lifecycle = Lifecycle(
            config=config, metadata=self.metadata, copies=self.copies, leases=self.leases,
            cursors=cast(Cursors, Frozen()), queues=cast(Queues, NoQueues()), outbox=self.outbox,
            trace=no_trace, connected=connected, voters=self._voters, propose=self._propose,
            writers=writers,
        )  # fmt: skip
        self.connected: Collection[int] = connected
        before, self.log = self.log, []
        for command in before:
            self.apply(command)
        for topic, known in self.metadata.topics.items() if not sure else ():
            if self.node in known.open.replicas:
                self.copies.mark(self.copies.get((topic, known.current)), sure=False)

    def _voters(self) -> list[int]:
        """Return the nodes that a segment may be given to."""
        return list(NODES)

    def _propose(self, command: Command, now: float) -> None:
        self.proposed.append(encode_command(command))

    # --- inputs ---

    def deliver(self, sender: int, message: m.PeerMessage) -> None:
        """Take a message from another node or from this one."""
        lifecycle, now = self.lifecycle, self.now
        match message:
            case m.Append():
                self.replica.on_append(sender, message)
            case m.AppendReply():
                lifecycle.on_append_reply(sender, message, now)
            case m.Read():
                self.reads.on_read(sender, message, now)
            case m.ReadReply():
                self.reads.on_reply(sender, message, now)
            case m.Fence():
                self.replica.on_fence(sender, message)
                lifecycle.on_fence(message.topic)
            case m.FenceReply():
                lifecycle.on_fence_reply(sender, message, now)
            case m.Copy():
                self.catch_up.puller.on_copy(sender, message, now)
            case m.CopyReply():
                lifecycle.on_copy_reply(sender, message, now)
            case _:
                raise AssertionError(f"no message of the segment protocol: {message}")

    def put(self, topic: str, segment: int, request: int, payload: bytes = b"") -> None:
        """Take a client's entry for this segment; an empty `payload` becomes the number of the request."""
        batch = Batch.of([payload or b"%d" % request])
        forward = m.Forward(request=request, topic=topic, segment=segment, batch=batch)
        self.lifecycle.on_forward(CLIENT, forward, self.now)

    def apply(self, data: bytes) -> None:
        """Apply the next command of Raft's log."""
        command = decode_command(data)
        topic = self.metadata.apply(command)
        self.log.append(data)
        if topic is None:
            return
        if isinstance(command, SetReplicas):
            self.catch_up.on_replicas((topic, command.segment))
        known = self.metadata.topics[topic]
        self.leases.reconcile(self.metadata, topic)
        self.lifecycle.on_topic(topic, self.now)
        self.replica.announce(topic, known.current, known.open)
        self.catch_up.on_topic(topic)
        self.lifecycle.replay_early(topic, self.now)

    def recover(self, topic: str, segment: int) -> None:
        """Begin to recover a segment."""
        self.lifecycle.recover(topic, segment, self.now)

    def tick(self) -> None:
        """Let `LONG` seconds pass."""
        self.now += LONG
        self.leases.on_tick(self.metadata, self.now)
        self.copies.go_on_summing()
        self.reads.on_tick(self.now)
        self.catch_up.on_tick(self.now, self.connected)
        self.lifecycle.on_tick(self.now)

    def lapse(self) -> None:
        """Lose contact with every leader of Raft: the leases end."""
        self.heard, self.leases._heard_at = False, float("-inf")

    def kill(self) -> None:
        """kill -9, then a new process."""
        data, meta = self.engines
        self.engines = data.successor(), meta.successor()
        self._begin()

    def power(self) -> None:
        """Lose power; the next process does not know which writes that took."""
        for engine in self.engines:
            engine.lose_power()
        self.engines = self.engines[0].successor(), self.engines[1].successor()
        self._begin(sure=False)

    def sync(self, which: int) -> None:
        """Make durable what waits in one of the engines: 0 data, 1 meta."""
        self.engines[which].sync()
        durable = (self.data, self.meta)[which]
        durable.on_durable(durable.written)

    # --- a turn ---

    def step(self, given: Input, *, slow: bool) -> list[tuple[int, m.PeerMessage]]:
        """Carry out an input and finish its turn; return what is sent. Raises Violation."""
        led = {topic: writer.copy.length for topic, writer in self.lifecycle.writers.items()}
        what, *arguments = given
        getattr(self, what)(*arguments)
        sent = self._turn(slow or what == "sync")
        for topic, length in led.items():
            writer = self.lifecycle.writers.get(topic)
            if not self.heard and writer is not None and writer.copy.length > length:
                raise Violation("Lease", f"node {self.node} appends to {topic} without a lease")
        self._check()
        return sent

    def _turn(self, slow: bool) -> list[tuple[int, m.PeerMessage]]:
        sent = []
        while True:
            if self.heard:
                self.leases.heard(self.now)
            while self.outbox.local:
                self.deliver(self.node, self.outbox.local.popleft())
            self.lifecycle.flush(self.now)
            for effect in self.outbox.take():
                if isinstance(effect, Send):
                    self._promised(effect.message)
                    sent.append((effect.to, effect.message))
            if self.outbox.local or self.lifecycle.due(self.now):
                continue
            if slow or not any(engine.pending for engine in self.engines):
                return sent
            self.sync(1)
            self.sync(0)

    def _promised(self, message: m.PeerMessage) -> None:
        """Check a message against this node's disk. Raises Violation."""
        if not isinstance(message, m.AppendReply | m.FenceReply | m.CopyReply):
            return
        data, meta = self.engines
        name = self.copies.get((message.topic, message.segment)).name
        says = f"node {self.node} says {type(message).__name__} with {message.length} of {name}"
        if message.length > data.durable(name) and not (
            isinstance(message, m.AppendReply) and message.fenced
        ):
            kind = "SealedStable" if isinstance(message, m.CopyReply) else "AckedDurable"
            raise Violation(kind, f"{says}, {data.durable(name)} are durable")
        if isinstance(message, m.FenceReply):
            notes = meta.entries.get(NOTES, [])[: meta.durable(NOTES)]
            known = [msgspec.msgpack.decode(note, type=Note) for note in notes]
            if Note(message.topic, message.segment, True, True) not in known and (
                Note(message.topic, message.segment, True, False) not in known
            ):
                raise Violation("AckedDurable", f"{says}, and has no durable note of the fence")

    def _check(self) -> None:
        self.data.check_invariants()
        self.meta.check_invariants()
        self.metadata.check_invariants()
        self.leases.check_invariants(self.metadata)
        self.copies.check_invariants()
        self.reads.check_invariants()
        self.catch_up.check_invariants()
        self.lifecycle.check_invariants()


# --- what a local state is --------------------------------------------------------------------------------

SKIPPED = {"_config", "config", "_outbox", "outbox", "_trace", "now", "proposed", "_request", "number"}


def look(value: Any, now: float) -> Any:
    """Return everything reachable from `value` as nested tuples: equal for states that behave alike."""
    return _Look(now).of(value)


class _Look:
    def __init__(self, now: float) -> None:
        self._now = now
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps the objects alive, so that no id is used twice

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | str | bytes):
            return value
        if isinstance(value, float):
            return max(-LONG, min(LONG, value - self._now))
        if isinstance(value, tuple | list | deque):
            return tuple(map(self.of, value))
        if isinstance(value, set | frozenset):
            return tuple(sorted(map(repr, value)))
        if isinstance(value, dict) and type(value) is dict:
            return tuple((self.of(key), self.of(item)) for key, item in value.items())
        if isinstance(value, BuiltinFunctionType):
            return value.__name__
        if id(value) in self._met:
            return ("met", self._met[id(value)])
        self._met[id(value)] = len(self._met)
        self._kept.append(value)
        if isinstance(value, MethodType):
            return (value.__name__, self.of(value.__self__))
        if isinstance(value, FunctionType):
            return (value.__qualname__, *(self.of(cell.cell_contents) for cell in value.__closure__ or ()))
        if isinstance(value, partial):
            return (self.of(value.func), *map(self.of, value.args))
        return (type(value).__name__, *self._fields(value))

    def _fields(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield tuple((self.of(key), self.of(item)) for key, item in value.items())
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        names += [*getattr(value, "__struct_fields__", ()), *getattr(value, "__dict__", ())]
        for name in dict.fromkeys(names):
            if name not in SKIPPED and name != "__weakref__" and hasattr(value, name):
                yield self.of(getattr(value, name))
