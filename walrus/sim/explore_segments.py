"""Every short behaviour of the real segment protocol, breadth-first: writers, replicas, recoveries, leases.

Like `explore.py` for Raft, this enumerates short behaviours over the code of `walrus/replicas` and of
`Lifecycle`, wired as in a node. Raft is outside: a proposal waits until a step commits it, and each node
applies the one log of commands in steps of its own. So a node's metadata may be arbitrarily far behind,
which is the only effect of Raft that the segment protocol has to tolerate.

    deliver    any message in flight; a message that is never delivered is lost
    put        a client's entry reaches the writer of the open segment
    commit     Raft commits what was proposed
    apply      a node applies the next command
    recover    a node recovers the open segment, whether its leader is gone or not
    kill       kill -9, and a new process that reads its disk and what it had applied
    power      a power loss and a new process; what waits for a sync is lost, and the node is unsure
    slow       deliver or put on a slow disk: what is written waits for a step of its own
    sync       what waits becomes durable: the entries, or the notes of fences
    tick       time passes at one node: it asks again for what was not answered
    lapse      a node hears no leader of Raft any more: its leases are over
    repeat     a message is delivered, and stays in flight

A local state is identified by the inputs that led to it from the beginning, and is restored by repeating
them. Two local states are the same if they look the same (`explore_node.py`, which has the node). The effect
of an input on a local state is computed once.

After each step: what was acknowledged is durable on a majority (AckedDurable), and lies within the count of
its segment once that is sealed; a majority holds what is sealed (SealedStable); copies agree (PrefixAgree),
and hold no entry twice (Duplicate). A failed assertion of the code is a violation, by the name that its
message begins with.

Bounds: entries, recoveries, deaths, ticks, lapses, repetitions, slow steps, messages that are remembered.
Starts. `open`: t/1 is open at node 1, and all three nodes know it. `acked`: nodes 1 and 2 have acknowledged
one entry of it, and node 3 has not answered.

Left out: repair, readers, cursors, work queues, and routers (a put is handed directly to the writer).

    python -m walrus.sim explore segments --depth 7
    python -m walrus.sim explore segments --start acked --depth 8 --mutant no_fence_check
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

from walrus.replicas.copies import Key
from walrus.segments import (
    Command,
    Metadata,
    RegisterTopic,
    Segment,
    decode_command,
    encode_command,
)
from walrus.sim.explore_node import ASSERTED, CLIENT, FAR, NODES, Input, SegmentNode, announcement, look
from walrus.sim.search import Exploration, Search, Told
from walrus.sim.violation import Violation, noticed
from walrus.storage.batch import Batch
from walrus.wire import messages as m

Packet: TypeAlias = tuple[int, int, int]
"""(sender, receiver, number of the message)"""


@dataclass(frozen=True, slots=True)
class NodeLook:
    """What the search knows of a local state without restoring it."""

    applied: int
    copies: tuple[tuple[Key, tuple[bytes, ...], int], ...]
    """(key, entries, how many are durable)"""
    writes: tuple[str, int] | None
    """The segment that this node writes, if any."""
    acknowledged: int
    waits: tuple[bool, bool]
    """Whether entries wait for a sync, and whether notes do."""


def _looked(node: SegmentNode) -> NodeLook:
    data = node.engines[0]
    keys = sorted({*node.copies._names, *node.copies._copies})
    names = {key: node.copies.get(key).name for key in keys}
    writer = next(iter(node.lifecycle.writers.values()), None)
    return NodeLook(
        applied=len(node.log),
        copies=tuple((key, tuple(data.entries.get(n, ())), data.durable(n)) for key, n in names.items()),
        writes=(writer.topic, writer.number) if writer else None,
        acknowledged=writer.commit_index if writer else 0,
        waits=(bool(data.pending), bool(node.engines[1].pending)),
    )


def shown(look: NodeLook) -> dict[str, Any]:
    """Return what a film shows of a local state."""
    state: dict[str, Any] = {"applied": look.applied}
    for (topic, number), entries, durable in look.copies:
        copy: dict[str, Any] = {"length": len(entries), "durable": durable}
        if look.writes == (topic, number):
            copy |= {"acknowledged": look.acknowledged}
        state[f"copy {topic}/{number}"] = copy
    return state


@dataclass(frozen=True, slots=True)
class Reaction:
    """The effect of one input on one local state."""

    local: int
    sent: tuple[tuple[int, int], ...]
    proposed: tuple[bytes, ...]


class Locals:
    """Numbers local states and messages, and caches what the real code makes of each input."""

    def __init__(self) -> None:
        self.known: list[NodeLook] = []
        self._paths: list[tuple[int, tuple[tuple[Input, bool], ...]]] = []
        self._numbers: dict[Any, int] = {}
        self.messages: list[m.PeerMessage] = []
        self._message_numbers: dict[Any, int] = {}
        self._reactions: dict[Any, Reaction] = {}

    def begin(self, node: int) -> int:
        """Return the number of a node's state before any input."""
        return self._intern(SegmentNode(node), node, ())

    def message(self, message: m.PeerMessage) -> int:
        """Return the number of a message; a new message gets the next one."""
        key = look(message, 0.0)
        if key not in self._message_numbers:
            self._message_numbers[key] = len(self.messages)
            self.messages.append(message)
        return self._message_numbers[key]

    def _intern(self, woken: SegmentNode, node: int, path: tuple[tuple[Input, bool], ...]) -> int:
        key = look(woken, woken.now)
        if key not in self._numbers:
            self._numbers[key] = len(self.known)
            self.known.append(_looked(woken))
            self._paths.append((node, path))
        return self._numbers[key]

    def react(self, number: int, given: Input, *, slow: bool = False) -> Reaction:
        """Return the effect of an input on a state. Raises Violation."""
        key = (number, given[:1] + tuple(map(id, given[1:])) if given[0] == "deliver" else given, slow)
        if key not in self._reactions:
            node, path = self._paths[number]
            woken = SegmentNode(node)
            for before, slowly in path:
                woken.step(before, slow=slowly)
            woken.proposed.clear()
            sent = _guarded(woken, given, slow)
            local = self._intern(woken, node, (*path, (given, slow)))
            told = tuple((to, self.message(message)) for to, message in sent)
            self._reactions[key] = Reaction(local, told, tuple(woken.proposed))
        return self._reactions[key]


def _guarded(node: SegmentNode, given: Input, slow: bool) -> list[tuple[int, m.PeerMessage]]:
    """Carry out an input. A failed assertion is a violation, by the name that its message begins with."""
    try:
        return node.step(given, slow=slow)
    except (AssertionError, LookupError, ValueError) as error:
        raise noticed(error, ASSERTED, f"node {node.node}") from error


# --- the search -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SegmentBounds:
    """How far the search goes."""

    depth: int = 7
    puts: int = 2
    recoveries: int = 1
    deaths: int = 1
    ticks: int = 0
    lapses: int = 0
    repeats: int = 0
    slow: int = 0
    packets: int = 6
    """How many messages in flight are remembered; beyond that the oldest are lost."""
    states: int = 1_000_000


BUDGET = ("puts", "recoveries", "deaths", "ticks", "lapses", "repeats", "slow")


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A global state."""

    locals: tuple[int, ...]
    packets: tuple[Packet, ...]
    log: tuple[bytes, ...]
    proposed: tuple[bytes, ...]
    acked: frozenset[tuple[str, int, bytes]]
    """(topic, segment, entry) of each entry that a client was told is written."""
    budget: tuple[int, ...]

    def left(self, name: str) -> int:
        """Return what is left of a bound."""
        return self.budget[BUDGET.index(name)]


Step: TypeAlias = tuple[str, Callable[[], SegmentState]]


class SegmentExplorer(Search[SegmentState]):
    """Breadth-first search from one start."""

    def __init__(self, extent: SegmentBounds, start: str = "open") -> None:
        super().__init__(extent.depth, extent.states)
        self.extent, self.nodes = extent, Locals()
        self._agreed: dict[tuple[bytes, ...], Metadata] = {}
        self._start = STARTS[start]

    def opened(self) -> SegmentState:
        """Return a state in which t/1 is open at node 1, and all nodes know it."""
        commands: list[Command] = [announcement(node, start) for node in NODES for start in (0, 1)]
        commands.append(RegisterTopic(topic="t", leader=1, replicas=NODES))
        log = tuple(map(encode_command, commands))
        numbers = []
        for node in NODES:
            number = self.nodes.begin(node)
            for command in log:
                number = self.nodes.react(number, ("apply", command)).local
            numbers.append(number)
        budget = tuple(getattr(self.extent, name) for name in BUDGET)
        return SegmentState(tuple(numbers), (), log, (), frozenset(), budget)

    def acknowledged(self) -> SegmentState:
        """Return a state: nodes 1 and 2 have acknowledged one entry, the frame to node 3 is in flight."""
        state = self._after(self.opened(), 1, self.nodes.react(self.opened().locals[0], ("put", "t", 1, 1)))
        for _ in range(2):
            packet = next(packet for packet in state.packets if 3 not in packet[:2])
            state = self._deliver(state, packet)
        return state

    def _begin(self) -> SegmentState:
        return self._start(self)

    def _shown(self, state: SegmentState) -> dict[int, dict[str, Any]]:
        return {node: shown(self.nodes.known[local]) for node, local in zip(NODES, state.locals, strict=True)}

    # --- what can happen ---

    def _steps_of(self, state: SegmentState) -> Iterator[Step]:
        for packet in dict.fromkeys(state.packets):
            told = f"{packet[0]} -> {packet[1]}: {describe(self.nodes.messages[packet[2]])}"
            yield told, partial(self._deliver, state, packet)
            if state.left("slow"):
                yield f"{told}, on a slow disk", partial(self._deliver, state, packet, slow=True)
            if state.left("repeats"):
                yield f"{told}, and again later", partial(self._deliver, state, packet, again=True)
        for command in state.proposed:
            yield f"Raft commits {describe(decode_command(command))}", partial(self._commit, state, command)
        for node in NODES:
            yield from self._steps_at(state, node)

    def _steps_at(self, state: SegmentState, node: int) -> Iterator[Step]:
        local = self.nodes.known[state.locals[node - 1]]
        do = partial(self._do, state, node)
        if local.applied < len(state.log):
            command = state.log[local.applied]
            yield f"{node} applies {describe(decode_command(command))}", partial(do, ("apply", command))
        if local.writes and state.left("puts"):
            request = self.extent.puts - state.left("puts") + 2
            yield f"an entry reaches {node}", partial(do, ("put", *local.writes, request), "puts")
            if state.left("slow"):
                slowly = partial(self._do, replace(state, budget=_spent(state.budget, "slow")), node)
                given = ("put", *local.writes, request)
                yield f"an entry reaches {node}, whose disk is slow", partial(slowly, given, "puts", True)
        if state.left("recoveries"):
            topic = self._metadata(state.log[: local.applied]).topics["t"]
            yield (
                f"{node} recovers t/{topic.current}",
                partial(do, ("recover", "t", topic.current), "recoveries"),
            )
        if state.left("deaths"):
            yield f"{node} is killed", partial(do, ("kill",), "deaths")
            if any(local.waits) or state.left("slow"):
                yield f"the power of {node} fails", partial(do, ("power",), "deaths")
        for which, waits in enumerate(local.waits):
            if waits:
                what = ("entries", "notes")[which]
                yield f"the {what} of {node} are durable", partial(do, ("sync", which), "", any(local.waits))
        if state.left("ticks"):
            yield f"time passes at {node}", partial(do, ("tick",), "ticks")
        if state.left("lapses") and local.writes:
            yield f"{node} hears no leader of Raft", partial(do, ("lapse",), "lapses")

    def _do(
        self, state: SegmentState, node: int, given: Input, spent: str = "", slow: bool = False
    ) -> SegmentState:
        reaction = self.nodes.react(state.locals[node - 1], given, slow=slow)
        after = self._after(state, node, reaction)
        return replace(after, budget=_spent(after.budget, spent)) if spent else after

    def _deliver(
        self, state: SegmentState, packet: Packet, *, slow: bool = False, again: bool = False
    ) -> SegmentState:
        sender, to, number = packet
        left = list(state.packets)
        if not again:
            left.remove(packet)
        budget = _spent(state.budget, "slow") if slow else state.budget
        budget = _spent(budget, "repeats") if again else budget
        rest = replace(state, packets=tuple(left), budget=budget)
        given = ("deliver", sender, self.nodes.messages[number])
        waits = any(self.nodes.known[state.locals[to - 1]].waits)
        return self._after(rest, to, self.nodes.react(state.locals[to - 1], given, slow=slow or waits))

    def _commit(self, state: SegmentState, command: bytes) -> SegmentState:
        return replace(
            state,
            log=(*state.log, command),
            proposed=tuple(other for other in state.proposed if other != command),
        )

    def _after(self, state: SegmentState, node: int, reaction: Reaction) -> SegmentState:
        changed = list(state.locals)
        changed[node - 1] = reaction.local
        packets, acked = list(state.packets), set(state.acked)
        for to, number in reaction.sent:
            message = self.nodes.messages[number]
            if to == CLIENT:
                assert isinstance(message, m.ForwardReply)
                if message.acked:
                    acked.add((message.topic, message.segment, b"%d" % message.request))
            else:
                packets.append((node, to, number))
        proposed = tuple(dict.fromkeys((*state.proposed, *reaction.proposed)))
        return SegmentState(
            tuple(changed),
            tuple(sorted(packets[-self.extent.packets :])),
            state.log,
            proposed,
            frozenset(acked),
            state.budget,
        )

    # --- what must hold ---

    def _metadata(self, log: tuple[bytes, ...]) -> Metadata:
        """Return the metadata that this log of commands produces."""
        if log not in self._agreed:
            metadata = Metadata()
            for command in log:
                metadata.apply(decode_command(command))
            metadata.check_invariants()
            self._agreed[log] = metadata
        return self._agreed[log]

    def _checked(self, before: SegmentState, made: SegmentState) -> SegmentState:
        if made not in self._seen:
            self._check(made)
        return made

    def _check(self, state: SegmentState) -> None:
        known = [self.nodes.known[number] for number in state.locals]
        topic = self._metadata(state.log).topics["t"]
        for number, segment in enumerate([*topic.segments[: topic.current - 1], topic.open], 1):
            key = ("t", number)
            copies = {
                node: (entries, durable)
                for node, local in enumerate(known, 1)
                for of, entries, durable in local.copies
                if of == key
            }
            _agree(key, copies)
            acked = [entry for of, at, entry in state.acked if (of, at) == key]
            _kept(key, segment, copies, acked)
            for node, local in enumerate(known, 1):
                if local.writes == key:
                    _held("AckedDurable", key, segment, copies, local.acknowledged, f"node {node} counts")


def _spent(budget: tuple[int, ...], name: str) -> tuple[int, ...]:
    at = BUDGET.index(name)
    return (*budget[:at], budget[at] - 1, *budget[at + 1 :])


CopiesOf: TypeAlias = dict[int, tuple[tuple[bytes, ...], int]]
"""Node -> (entries, how many are durable), of one segment."""


def _agree(key: Key, copies: CopiesOf) -> None:
    """Check PrefixAgree, and that no copy holds an entry twice."""
    for (one, (mine, _)), (other, (theirs, _)) in combinations(copies.items(), 2):
        common = min(len(mine), len(theirs))
        if mine[:common] != theirs[:common]:
            raise Violation("PrefixAgree", f"the copies of {key} at nodes {one} and {other} differ")
    for node, (entries, _) in copies.items():
        if len(set(entries)) < len(entries):
            raise Violation("Duplicate", f"node {node} has an entry of {key} twice: {entries}")


def _held(name: str, key: Key, segment: Segment, copies: CopiesOf, count: int, what: str) -> None:
    """Check that a majority of the replicas has `count` entries durably."""
    holders = [node for node in segment.replicas if copies.get(node, ((), 0))[1] >= count]
    if len(holders) < segment.majority:
        raise Violation(name, f"{what} {count} entries of {key}, durable on {holders} only")


def _kept(key: Key, segment: Segment, copies: CopiesOf, acked: list[bytes]) -> None:
    """Check SealedStable, and AckedDurable for what clients were told."""
    longest = max((entries for entries, _ in copies.values()), key=len, default=())
    if segment.sealed:
        _held("SealedStable", key, segment, copies, segment.count or 0, "sealed are")
        longest = longest[: segment.count]
    for entry in acked:
        at = longest.index(entry) + 1 if entry in longest else FAR
        holders = [node for node in segment.replicas if copies.get(node, ((), 0))[1] >= at]
        if len(holders) < segment.majority:
            what = f"entry {entry!r} of {key} is acknowledged, and durable on {holders} only"
            raise Violation("AckedDurable", what)


def describe(value: Any) -> str:
    """Describe a message or a command in a line."""
    left_out = ("topic", "checksum", "cursors", "groups", "handed", "error", "raft_address", "client_address")
    fields = [
        f"{name}={getattr(value, name)}"
        for name in value.__struct_fields__
        if name not in left_out and not isinstance(getattr(value, name), Batch)
    ]
    batch = getattr(value, "batch", None)
    carries = [f"entries={[entry.decode() for entry in batch.payloads()]}"] if batch else []
    return " ".join([type(value).__name__, *fields, *carries])


STARTS: dict[str, Callable[[SegmentExplorer], SegmentState]] = {
    "open": SegmentExplorer.opened,
    "acked": SegmentExplorer.acknowledged,
}


def explore_segments(extent: SegmentBounds, start: str = "open", told: Told | None = None) -> Exploration:
    """Search from this start. A failed assertion of the code is a violation, too."""
    explorer = SegmentExplorer(extent, start)
    return explorer.run(told or (lambda depth, states: None))
