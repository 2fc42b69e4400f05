"""The world of tests (`tests/world.py`) with Raft servers in it, and disks that lose what was not synced.

`RaftWorld` moves only when told: deliver this message, sync that disk, crash that server. The state machines
of Hypothesis and the transcripts drive it directly. `Simulation` adds a seeded scheduler: delays, losses,
duplicates, reordering.

After any step `RaftWorld.check` asserts the invariants of the paper's Figure 3, and CommittedNeverLost.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.world import Packet, TimedWorld, World
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import (
    COMMAND,
    MEMBERSHIP,
    Entry,
    HardState,
    Membership,
    RaftConfig,
    RaftMessage,
    Ready,
    Restored,
    Role,
    Snapshot,
)
from walrus.raft import Raft
from walrus.sim.memory import MemoryEngine

CONFIG = RaftConfig(heartbeat_interval=0.1, election_timeout=1.0)


class Host:
    """What a node does around a Raft server: the contract of `Ready`, and a state machine."""

    def __init__(self, world: RaftWorld, node_id: int, storage: MemoryEngine) -> None:
        self.world, self.node_id, self.storage = world, node_id, storage
        self.journal = RaftJournal(storage)
        self.unsynced: deque[Ready] = deque()
        self.applied: list[tuple[int, bytes]] = []
        self.applied_index = 0
        self.reads: list[tuple[int, int]] = []
        restored = self.journal.load()
        if restored.snapshot:
            self._install(restored.snapshot)
        self.raft = Raft(
            node_id=node_id,
            config=world.config,
            restored=restored,
            rng=world.rng,
            now=world.now,
            trace=world.trace,
        )

    def pump(self) -> None:
        """Take every Ready: write, send, apply."""
        while self.raft.has_ready():
            ready = self.raft.ready()
            self.world.send(self.node_id, ready.messages)
            if ready.snapshot:
                self._install(ready.snapshot)
            self._apply(ready.committed)
            self.reads.extend(ready.reads)
            assert ready.needs_persist or not ready.messages_after
            if ready.needs_persist:
                self.journal.save(ready)
                self.unsynced.append(ready)
        self.raft.check_invariants()

    def sync(self, first: int | None = None) -> None:
        """The disk has what the oldest `first` Readys wrote, by default all; each Ready is one write."""
        done = len(self.unsynced) if first is None else min(first, len(self.unsynced))
        self.storage.sync(all_but=len(self.unsynced) - done)
        for _ in range(done):
            ready = self.unsynced.popleft()
            self.world.send(self.node_id, ready.messages_after)
            self.raft.persisted(ready, self.world.now)
            self.journal.durable(ready)
        self.pump()

    def settle(self) -> None:
        """Pump, and sync one Ready after the other, until nothing is left to write."""
        self.pump()
        while self.unsynced:
            self.sync(first=1)

    def _apply(self, committed: Iterable[Entry]) -> None:
        for entry in committed:
            assert entry.index == self.applied_index + 1, "entries are applied in order, without a gap"
            self.applied_index = entry.index
            self.world.note_applied(self.node_id, entry)
            if entry.kind is COMMAND:
                self.applied.append((entry.index, entry.data))

    def _install(self, snapshot: Snapshot) -> None:
        try:
            self.applied = msgspec.msgpack.decode(snapshot.data, type=list[tuple[int, bytes]])
        except msgspec.DecodeError as error:
            raise AssertionError("StateMachineSafety: a snapshot that is no server's state") from error
        self.applied_index = snapshot.index

    def compact(self) -> None:
        """Snapshot the state machine at what it has applied."""
        if self.applied_index > self.raft.log.snapshot_index:
            self.raft.compact(self.applied_index, msgspec.msgpack.encode(self.applied))
            self.pump()


@dataclass
class History:
    """What has ever been observed, for the invariants that speak of all time."""

    leaders: dict[int, int] = field(default_factory=dict)
    leader_logs: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    entries: dict[tuple[int, int], tuple[int, Entry]] = field(default_factory=dict)
    applied: dict[int, Entry] = field(default_factory=dict)
    committed_in: dict[int, int] = field(default_factory=dict)


class RaftWorld(World):
    """Servers and their disks; nothing moves unless told."""

    def __init__(self, seed: int = 0, config: RaftConfig = CONFIG, trace: Any = None) -> None:
        super().__init__(seed)
        self.config, self.trace = config, trace
        self.hosts: dict[int, Host] = {}
        self.disks: dict[int, MemoryEngine] = {}
        self.history = History()
        self.auto_sync = True

    # ------------------------------------------------------------------------------------- building

    def found(self, voters: Iterable[int], passive: Iterable[int] = ()) -> None:
        """Start voters that share the same founding entry, and servers of no cluster."""
        membership = Membership(tuple(sorted(voters)))
        for node_id in membership.voters:
            self.add(node_id, membership)
        for node_id in passive:
            self.add(node_id, None)

    def add(self, node_id: int, membership: Membership | None) -> Host:
        self.disks[node_id] = MemoryEngine()
        if membership is not None:
            RaftJournal(self.disks[node_id]).bootstrap(membership)
            self.disks[node_id].sync()
        return self.start(node_id)

    def add_with_log(self, node_id: int, voters: Iterable[int], terms: Iterable[int], term: int) -> Host:
        """A server whose log has entries of these terms, after the founding entry (for the figures)."""
        self.disks[node_id] = MemoryEngine()
        journal = RaftJournal(self.disks[node_id])
        journal.bootstrap(Membership(tuple(sorted(voters))))
        entries = tuple(Entry(t, i, COMMAND, f"{i}@{t}".encode()) for i, t in enumerate(terms, start=2))
        journal.save(Ready(number=1, hard_state=HardState(term), entries=entries))
        self.disks[node_id].sync()
        return self.start(node_id)

    def start(self, node_id: int) -> Host:
        self.hosts[node_id] = Host(self, node_id, self.disks[node_id])
        self._after(self.hosts[node_id])
        return self.hosts[node_id]

    # ------------------------------------------------------------------------------------- moving

    def _after(self, host: Host) -> None:
        host.settle() if self.auto_sync else host.pump()

    def send(self, sender: int, messages: Iterable[tuple[int, RaftMessage]]) -> None:
        for to, message in messages:
            self.post(sender, to, message)

    def everyone(self) -> Collection[int]:
        return self.disks

    def running(self, node: int) -> bool:
        return node in self.hosts

    def hand_over(self, packet: Packet) -> None:
        self.act(packet.to, lambda raft: raft.step(packet.sender, packet.message, self.now))

    def act(self, node_id: int, action: Callable[[Raft], Any]) -> Any:
        """Call something on one server and do what it wants done."""
        result = action(self.hosts[node_id].raft)
        self._after(self.hosts[node_id])
        return result

    def receive(self, position: int = 0) -> Packet:
        """Deliver one of the messages under way."""
        packet = self.packets.pop(position)
        self.deliver(packet)
        return packet

    def deliver_all(self, limit: int = 10_000, only: Callable[[Packet], bool] = lambda _: True) -> None:
        """Deliver in order until silence; what `only` does not let through is lost."""
        while self.packets:
            packet = self.packets.pop(0)
            if only(packet):
                self.deliver(packet)
            limit -= 1
            assert limit, "the servers never fall silent"

    def time_out(self, node_id: int) -> None:
        """Time passes until this server's deadline."""
        self.now = max(self.now, self.hosts[node_id].raft.next_deadline())
        self.act(node_id, lambda raft: raft.tick(self.now))

    def elect(self, node_id: int) -> None:
        """The leader is forgotten; this server campaigns, is elected if it can be, and commits."""
        self.now += 3 * self.config.election_timeout
        self.act(node_id, lambda raft: raft.tick(self.now))
        self.deliver_all()

    def heartbeat(self, node_id: int) -> None:
        """The leader begins a round, and everything it causes is delivered."""
        self.now += self.config.heartbeat_interval
        self.act(node_id, lambda raft: raft.tick(self.now))
        self.deliver_all()

    def propose(self, node_id: int, data: bytes) -> int | None:
        return self.act(node_id, lambda raft: raft.propose(data, self.now))

    def commit(self, node_id: int, *commands: bytes) -> None:
        """Propose these and deliver until they are committed everywhere."""
        for data in commands:
            assert self.propose(node_id, data) is not None
        self.deliver_all()

    def crash(self, node_id: int, kept: int = 0) -> None:
        """The server loses everything that was not synced, but for a prefix of `kept` records."""
        self.disks[node_id].lose_power(lambda ends: min(ends[0] + kept, ends[-1]))
        del self.hosts[node_id]

    def restart(self, node_id: int, kept: int = 0) -> Host:
        if node_id in self.hosts:
            self.crash(node_id, kept)
        return self.start(node_id)

    def raft(self, node_id: int) -> Raft:
        return self.hosts[node_id].raft

    def leader(self) -> int | None:
        """The leader of the newest term, if there is one."""
        leaders = [(h.raft.current_term, i) for i, h in self.hosts.items() if h.raft.role is Role.LEADER]
        return max(leaders)[1] if leaders else None

    def log_terms(self, node_id: int) -> list[int]:
        """Terms of the entries after the founding one: how the paper's figures draw a log."""
        log = self.raft(node_id).log
        return [log.term_at(index) for index in range(2, log.last_index + 1)]

    # -------------------------------------------------------------------------------------- invariants

    def note_applied(self, node_id: int, entry: Entry) -> None:
        """StateMachineSafety: no two servers apply different entries at one index."""
        known = self.history.applied.setdefault(entry.index, entry)
        assert known == entry, f"StateMachineSafety: server {node_id} applies {entry} instead of {known}"
        term = self.hosts[node_id].raft.current_term if node_id in self.hosts else 0
        self.history.committed_in.setdefault(entry.index, term)

    def check(self) -> None:
        """Every invariant of Figure 3, and CommittedNeverLost."""
        self.check_election_safety()
        self.check_log_matching()
        self.check_leader_append_only()
        self.check_leader_completeness()
        self.check_committed_never_lost()

    def check_often(self) -> None:
        """What is cheap enough after every event of a long run."""
        self.check_election_safety()
        self.check_leader_append_only()

    def _leaders(self) -> list[Host]:
        return [host for _, host in sorted(self.hosts.items()) if host.raft.role is Role.LEADER]

    def check_election_safety(self) -> None:
        """ElectionSafety: at most one leader per term."""
        for host in self._leaders():
            first = self.history.leaders.setdefault(host.raft.current_term, host.node_id)
            assert first == host.node_id, f"ElectionSafety: term {host.raft.current_term}"

    def check_leader_append_only(self) -> None:
        """LeaderAppendOnly: a leader never overwrites or deletes entries of its own log."""
        for host in self._leaders():
            log, term = host.raft.log, host.raft.current_term
            before = self.history.leader_logs.get(term, [])
            for index, entry_term in before[-20:]:  # by LogMatching the rest follows from these
                assert index < log.snapshot_index or log.matches(index, entry_term), "LeaderAppendOnly"
            last = before[-1][0] if before else log.snapshot_index
            new = [(i, log.term_at(i)) for i in range(max(last, log.snapshot_index) + 1, log.last_index + 1)]
            self.history.leader_logs[term] = [*before, *new]

    def check_log_matching(self) -> None:
        """LogMatching: an entry's index and term determine it and its predecessor, hence all before it."""
        for host in self.hosts.values():
            log = host.raft.log
            for entry in log.entries(log.snapshot_index + 1, log.last_index + 1):
                seen = (log.term_at(entry.index - 1), entry)
                known = self.history.entries.setdefault((entry.index, entry.term), seen)
                assert known == seen, f"LogMatching: {known} and {seen} on server {host.node_id}"

    def check_leader_completeness(self) -> None:
        """LeaderCompleteness: what committed in one term is in the logs of the leaders of later ones."""
        for host in self._leaders():
            log = host.raft.log
            for index, term in self.history.committed_in.items():
                if term < host.raft.current_term and index > log.snapshot_index:
                    held = log.matches(index, self.history.applied[index].term)
                    assert held, f"LeaderCompleteness: {self.history.applied[index]} is not on {host.node_id}"

    def check_committed_never_lost(self) -> None:
        """CommittedNeverLost: no majority of the voters lacks a committed entry on its disks.

        A majority that holds it would be too much to ask while a membership change is under way: the entry
        may have been committed by a majority of the new set, which need not be one of the old.
        """
        if not self.history.applied:
            return
        changes = [entry for entry in self.history.applied.values() if entry.kind is MEMBERSHIP]
        membership = Membership.decode(max(changes, key=lambda entry: entry.index).data)
        durable = {voter: self._durable_log(voter) for voter in membership.voters}
        last = max(self.history.applied)
        lack = [voter for voter in durable if not self._holds(durable[voter], self.history.applied[last])]
        assert len(lack) < membership.quorum, f"CommittedNeverLost: {lack} lack {last}, of {membership}"

    def _durable_log(self, node_id: int) -> Restored:
        """What this server would find if it lost its power now."""
        return RaftJournal(self.disks[node_id].surviving()).load()

    @staticmethod
    def _holds(durable: Restored, entry: Entry) -> bool:
        base = durable.snapshot.index if durable.snapshot else 0
        position = entry.index - base - 1
        return position < 0 or (position < len(durable.entries) and durable.entries[position] == entry)


@dataclass(frozen=True)
class Syncing:
    """A sync under way: it covers the Readys that were written when it began, and none that came since."""

    host: Host
    readys: int


class Simulation(RaftWorld, TimedWorld):
    """Messages take time, get lost, doubled, overtaken; disks take time."""

    def __init__(self, seed: int, config: RaftConfig = CONFIG, trace: Any = None) -> None:
        super().__init__(seed, config, trace)
        self.auto_sync = False
        self.drop = self.duplicate = 0.0
        self.delay = (0.001, 0.02)
        self.sync_time = (0.001, 0.01)
        self._queue: list[tuple[float, int, Any]] = []
        self._sequence = 0
        self._syncing: set[int] = set()

    def send(self, sender: int, messages: Iterable[tuple[int, RaftMessage]]) -> None:
        for to, message in messages:
            if (sender, to) in self.cut or self.rng.random() < self.drop:
                continue
            copies = 2 if self.rng.random() < self.duplicate else 1
            for _ in range(copies):
                self._schedule(self.rng.uniform(*self.delay), Packet(sender, to, message))

    def _schedule(self, after: float, event: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + after, self._sequence, event))

    def _after(self, host: Host) -> None:
        host.pump()
        if host.unsynced and host.node_id not in self._syncing:
            self._syncing.add(host.node_id)
            self._schedule(self.rng.uniform(*self.sync_time), Syncing(host, len(host.unsynced)))

    def crash(self, node_id: int, kept: int = 0) -> None:
        super().crash(node_id, kept)
        self._syncing.discard(node_id)

    def run(self, seconds: float) -> None:
        super().run(seconds)
        self.check()

    def stuck(self) -> str:
        return "CommitProgress"

    def until(self, condition: Callable[[], bool], within: float = 60.0, claim: str = "") -> float:
        took = super().until(condition, within, claim)
        self.check()
        return took

    def step(self, end: float) -> None:
        self._happen(end)
        self.check_often()

    def _happen(self, end: float) -> None:
        """The next timer, arrival or sync, unless it lies after `end`."""
        timers = [(host.raft.next_deadline(), i) for i, host in sorted(self.hosts.items())]
        timer = min(timers, default=(float("inf"), 0))
        arrival = self._queue[0][0] if self._queue else float("inf")
        if min(timer[0], arrival) > end:
            self.now = end
        elif timer[0] < arrival:
            self.now = max(self.now, timer[0])
            self.act(timer[1], lambda raft: raft.tick(self.now))
        else:
            self.now, _, event = heapq.heappop(self._queue)
            self._arrive(event)

    def _arrive(self, event: Any) -> None:
        if isinstance(event, Packet):
            self.deliver(event)
        elif self.hosts.get(event.host.node_id) is event.host:
            self._syncing.discard(event.host.node_id)
            event.host.sync(event.readys)
            self._after(event.host)
