"""Every short behaviour of the real `Raft` class, breadth-first: deliveries, losses, timeouts, crashes.

Simulated runs sample long behaviours. This search enumerates short ones, as a model checker does with a
specification, but over the code. States are hashed and visited once, and because the search is breadth-first
the first counterexample is a shortest one. No seed is involved.

A *global state* is the servers' local states, the messages in flight and a little history for the
invariants. A server's next local state depends only on its own state and its input, so each such pair is
computed once, by the real code, on an unpickled copy; the search itself handles small numbers.

    deliver    any message in flight; a message that is never delivered is lost
    timeout    of a server that some majority would vote for: it campaigns. The exchange of pre-votes is one
               step, among servers that have not heard of their leader for an election timeout
    restart    kill -9, and a new process that reads the journal
    crash      a message is delivered, and the power fails before anything that it caused is durable
    propose    a client's command reaches a leader
    heartbeat  a leader begins a round
    compact    a server replaces what it has applied by a snapshot
    slow       deliver, propose or timeout on a slow disk: what is written waits for a step of its own
    sync       the oldest waiting write becomes durable
    power      the power fails where writes wait: they are lost

Time. A deadline may pass at any moment (`timeout`). A state keeps only one fact about the clock: whether the
server still hears its leader. States that differ by a renaming of the servers count as one (`symmetric`).
This merges slightly too much where the code breaks ties by server id, and nowhere else.

Starts. `fresh`: no server has ever voted. `led`: a term has passed, and all logs are equal. `turns`: the
first and the last server have led in turn, and each has an entry that no other has, which is how Figure 8
of the Raft paper begins.

Bounds make the space finite: terms, commands, restarts and crashes, rounds of heartbeats, snapshots,
messages in flight, steps on a slow disk.

Left out: membership changes, messages that arrive twice, leadership transfer. Without steps on a slow disk
(`--slow 0`) each step's writes are durable at its end, or lost by a crash.

    python -m walrus.sim explore --nodes 3 --depth 9
    python -m walrus.sim explore --start turns --mutant commits_old_terms
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations
from typing import Any, TypeAlias

from walrus.consensus.journal import JournalError, RaftJournal
from walrus.consensus.messages import (
    COMMAND,
    Entry,
    HardState,
    Membership,
    PreVoteRequest,
    PreVoteResponse,
    RaftConfig,
    RaftMessage,
    Ready,
    Role,
)
from walrus.raft import Raft
from walrus.sim.memory import MemoryEngine
from walrus.sim.search import Exploration, Search, Told
from walrus.sim.violation import Violation, noticed

CONFIG = RaftConfig(heartbeat_interval=0.1, election_timeout=1.0, max_append_bytes=1)
"""One entry per request: the search cannot lose part of a message."""

Packet: TypeAlias = tuple[int, int, int]
"""(sender, receiver, number of the message)"""
Log: TypeAlias = tuple[tuple[int, bytes], ...]
"""(term, data) of each entry from index 1 on; entries behind a snapshot come from the committed ones."""


Sent: TypeAlias = list[tuple[int, RaftMessage]]
Act: TypeAlias = "Callable[[Server], Sent | None]"
"""Applies an input to a server; returns the messages that this sends at once, if any."""
NAMES = {
    *("ElectionSafety", "LeaderAppendOnly", "LogMatching", "LeaderCompleteness", "StateMachineSafety"),
    *("CommittedNeverLost",),
}


class Lowest:
    """A source of randomness that always returns the lowest value."""

    def uniform(self, a: float, b: float) -> float:
        """Return the lower bound."""
        return a


class Server:
    """One server with its disk, its clock and its state machine."""

    def __init__(self, node: int, engine: MemoryEngine, now: float = 0.0) -> None:
        self.node, self.engine, self.now = node, engine, now
        self.journal = RaftJournal(engine)
        self.slow = False
        """Whether what the next step writes waits for a step of its own."""
        self.waiting: list[tuple[Ready, int]] = []
        """What is written and not durable: each with its number of engine writes."""
        self.applied: list[tuple[int, bytes]] = []
        restored = self.journal.load()
        if restored.snapshot is not None:
            self.applied = pickle.loads(restored.snapshot.data)
        self.raft = Raft(node_id=node, config=CONFIG, restored=restored, rng=Lowest(), now=now)

    def pump(self) -> tuple[Sent, Sent]:
        """Write, sync, send and apply all that is due; return what left before a sync, and after one."""
        early: Sent = []
        late: Sent = []
        while self.raft.has_ready():
            ready = self.raft.ready()
            (late if late else early).extend(ready.messages)
            self._take(ready)
            if ready.needs_persist:
                self.journal.save(ready)
                self.waiting.append((ready, self.engine.pending))
                while self.waiting and not self.slow:
                    late += self.sync()
        self.raft.check_invariants()
        self.slow = bool(self.waiting)
        return early, late

    def sync(self) -> Sent:
        """Make the oldest waiting write durable; return what may now be sent."""
        ready, covered = self.waiting.pop(0)
        self.engine.sync(all_but=self.engine.pending - covered)
        self.waiting = [(other, upto - covered) for other, upto in self.waiting]
        self.raft.persisted(ready, self.now)
        self.journal.durable(ready)
        return list(ready.messages_after)

    def _take(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.applied = pickle.loads(ready.snapshot.data)
        self.applied += [(entry.term, entry.data) for entry in ready.committed]

    def compact(self) -> None:
        """Replace what is applied by a snapshot."""
        self.raft.compact(len(self.applied), pickle.dumps(self.applied))


@dataclass(frozen=True, slots=True)
class Local:
    """What the search knows of a local state without unpickling it."""

    role: Role
    term: int
    log: Log
    commit: int
    applied: int
    compactable: bool
    durable: Log
    """What a power loss leaves of the log."""
    waits: bool
    """Whether something is written and not durable."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A global state: the numbers of the servers' local states, messages, and history."""

    locals: tuple[int, ...]
    packets: tuple[Packet, ...]
    leaders: tuple[tuple[int, int], ...]
    """(term, server)"""
    committed: Log
    budget: tuple[int, ...]
    """What is left of the bounds: commands, deaths, heartbeats, snapshots, steps on a slow disk."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far the search goes."""

    nodes: int = 3
    depth: int = 8
    terms: int = 4
    commands: int = 1
    deaths: int = 1
    heartbeats: int = 1
    snapshots: int = 0
    slow: int = 0
    packets: int = 6
    """How many messages in flight are remembered; beyond that the oldest are lost."""
    states: int = 1_000_000
    symmetric: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of one input on one local state."""

    local: int
    sent: tuple[tuple[int, int], ...]
    """(receiver, number of the message) of each message sent."""


class Servers:
    """Numbers local states and messages, and caches what the real code makes of each input."""

    def __init__(self) -> None:
        self._blobs: list[bytes] = []
        self.known: list[Local] = []
        self._numbers: dict[Any, int] = {}
        self.messages: list[RaftMessage] = []
        self._message_numbers: dict[RaftMessage, int] = {}
        self._steps: dict[tuple[Any, ...], Step] = {}
        self._renamed: dict[tuple[int, tuple[int, ...]], Any] = {}

    def message(self, message: RaftMessage) -> int:
        """Return the number of a message; a new message gets the next one."""
        number = self._message_numbers.get(message)
        if number is None:
            number = self._message_numbers[message] = len(self.messages)
            self.messages.append(message)
        return number

    def intern(self, server: Server) -> int:
        """Return the number of a local state; a new state gets the next one."""
        identity = tuple(range(32))
        key = (server.node, portrait(server, identity))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._blobs)
            self._blobs.append(pickle.dumps(server))
            self.known.append(_local(server))
        return number

    def wake(self, number: int) -> Server:
        """Return a copy of the server in this state."""
        server: Server = pickle.loads(self._blobs[number])
        return server

    def renamed(self, number: int, names: tuple[int, ...]) -> Any:
        """Return what identifies the state when servers have other ids."""
        key = (number, names)
        if key not in self._renamed:
            self._renamed[key] = repr(portrait(self.wake(number), names))
        return self._renamed[key]

    def step(self, number: int, what: str, act: Act, *key: Any) -> Step:
        """Return the effect of an input on a state; (`number`, `what`, `key`) is the key of the cache."""
        known = self._steps.get((number, what, *key))
        if known is None:
            server = self.wake(number)
            early, late = _guarded(server, act)
            known = self._step(server, [*early, *late])
            self._steps[(number, what, *key)] = known
        return known

    def crash(self, number: int, act: Act, *key: Any) -> Step:
        """Like `step`, but the power fails before anything is durable: only what left before that is sent."""
        known = self._steps.get((number, "crash", *key))
        if known is None:
            server = self.wake(number)
            early, _ = _guarded(server, act)
            back = self.wake(number)
            _guarded(back, _lose_power)
            known = self._step(back, early)
            self._steps[(number, "crash", *key)] = known
        return known

    def _step(self, server: Server, sent: list[tuple[int, RaftMessage]]) -> Step:
        return Step(self.intern(server), tuple((to, self.message(message)) for to, message in sent))


def _guarded(server: Server, act: Act) -> tuple[Sent, Sent]:
    """Let the server act. A failed assertion is a violation, by the name that its message begins with."""
    try:
        sent = act(server) or []
        early, late = server.pump()
    except (AssertionError, LookupError, ValueError, JournalError) as error:
        raise noticed(error, NAMES, f"server {server.node}") from error
    return early, [*sent, *late]


def _restarted(server: Server) -> Server:
    """Return the next process. Unless writes were waiting, it must find all of the last one's state."""
    fresh, raft = Server(server.node, server.engine.successor(), server.now), server.raft
    if server.waiting:  # the power may have failed: the invariants judge what that took
        return fresh
    before, now = (raft.current_term, raft.voted_for), (fresh.raft.current_term, fresh.raft.voted_for)
    assert before == now, f"ElectionSafety: term and vote were {before}, and are {now} after a restart"
    last, found = raft.log.last, fresh.raft.log.last
    assert last == found, f"CommittedNeverLost: the log ended at {last}, and ends at {found} after a restart"
    return fresh


def _local(server: Server) -> Local:
    raft = server.raft
    held = raft.log.entries(raft.log.snapshot_index + 1, raft.log.last_index + 1)
    log = (*server.applied[: raft.log.snapshot_index], *((entry.term, entry.data) for entry in held))
    durable = log
    if server.waiting:
        left = RaftJournal(server.engine.surviving()).load()
        upto = left.snapshot.index if left.snapshot else 0
        durable = (*server.applied[:upto], *((entry.term, entry.data) for entry in left.entries))
    return Local(
        role=raft.role,
        term=raft.current_term,
        log=log,
        commit=raft.commit_index,
        applied=len(server.applied),
        compactable=len(server.applied) > raft.log.snapshot_index + 1,
        durable=durable,
        waits=bool(server.waiting),
    )


def shown(local: Local) -> dict[str, Any]:
    """Return what a film shows of a local state."""
    ends = {index: term for index, (term, _) in enumerate(local.log, 1)}
    runs = [[term, index] for index, term in ends.items() if ends.get(index + 1) != term]
    state = {"role": local.role.value, "term": local.term, "commit": local.commit, "log": [[0, 0], *runs]}
    return state | ({"not durable": len(local.log) - len(local.durable)} if local.waits else {})


def portrait(server: Server, names: tuple[int, ...]) -> Any:
    """Return everything that decides what this server will do, with its peers under other ids."""
    raft, log, election = server.raft, server.raft.log, server.raft._election
    call: dict[int | None, int | None] = {
        None: None,
        0: 0,
        **{node: names[node] for node in range(1, len(names))},
    }
    leading = raft._leadership
    leadership: Any = None
    if leading is not None:
        peers = sorted((call[peer], progress) for peer, progress in leading.progress.items())
        leadership = (
            leading.round,
            tuple(
                (peer, p.next_index, p.match_index, p.state.value, p.probe_sent, tuple(p.inflight),
                 p.sent_commit, p.acked_round, p.transfer and (p.transfer.snapshot.index, p.transfer.offset))
                for peer, p in peers
            ),
        )  # fmt: skip
    entries = log.entries(log.snapshot_index + 1, log.last_index + 1)
    return (
        raft.current_term, call[raft.voted_for], raft.role.value, call[raft.leader_id],
        log.snapshot_index, log.snapshot_term, tuple((e.term, e.data) for e in entries),
        log.commit_index, log.persisted_index, len(server.applied),
        tuple(sorted(call[n] or 0 for n in election.granted)),
        tuple(sorted(call[n] or 0 for n in election.refused)),
        raft._hears_leader(server.now), leadership, server.slow, _waiting(server, call),
    )  # fmt: skip


def _waiting(server: Server, call: dict[int | None, int | None]) -> Any:
    """Return what waits for a slow disk, with peers under other ids."""
    return tuple(
        (
            ready.hard_state and (ready.hard_state.term, call[ready.hard_state.voted_for]),
            tuple((entry.index, entry.term) for entry in ready.entries),
            (ready.snapshot or ready.checkpoint) and True,
            tuple(sorted((call[to] or 0, repr(message)) for to, message in ready.messages_after)),
        )
        for ready, _ in server.waiting
    )


# --- the inputs ---


SLOW = 4
"""The index of the steps on a slow disk in a budget."""


def _deliver(sender: int, message: RaftMessage) -> Act:
    return lambda server: server.raft.step(sender, message, server.now)


def _late(server: Server) -> None:
    """Let an election timeout pass in which the leader is not heard."""
    server.now += 2 * CONFIG.election_timeout


def _time_out(server: Server) -> None:
    _late(server)
    server.now = max(server.now, server.raft.next_deadline())
    server.raft.tick(server.now)


def _hear_late(sender: int, message: RaftMessage) -> Act:
    def act(server: Server) -> None:
        _late(server)
        server.raft.step(sender, message, server.now)

    return act


def _restart(server: Server) -> None:
    fresh = _restarted(server)
    server.__dict__.update(fresh.__dict__)


def _sync(server: Server) -> Sent:
    return server.sync()


def _lose_power(server: Server) -> None:
    server.engine.lose_power()
    _restart(server)


def _slowly(act: Act) -> Act:
    """The same action on a slow disk."""

    def slow(server: Server) -> Sent | None:
        server.slow = True
        return act(server)

    return slow


def _heartbeat(server: Server) -> None:
    server.now += CONFIG.heartbeat_interval
    server.raft.tick(server.now)


def _propose(server: Server) -> None:
    server.raft.propose(b"x", server.now)


# --- the search ---


class Explorer(Search[ClusterState]):
    """Breadth-first search from one start."""

    def __init__(self, bounds: Bounds, start: str) -> None:
        super().__init__(bounds.depth, bounds.states)
        self.bounds = bounds
        self.servers = Servers()
        self.start = STARTS[start](self)
        self._nodes = tuple(range(1, bounds.nodes + 1))
        self._names = [(0, *names) for names in permutations(self._nodes)]

    def founded(self, node: int, terms: tuple[int, ...] = (), term: int = 1) -> int:
        """Return a server whose log has entries of these terms after the founding entry."""
        engine = MemoryEngine()
        journal = RaftJournal(engine)
        journal.bootstrap(Membership(tuple(range(1, self.bounds.nodes + 1))))
        entries = tuple(Entry(t, i, COMMAND, b"%d@%d" % (i, t)) for i, t in enumerate(terms, start=2))
        journal.save(Ready(number=1, hard_state=HardState(term), entries=entries))
        engine.start_sync()
        engine.finish_sync()
        return self.servers.intern(Server(node, engine))

    def begin(self, servers: list[int]) -> ClusterState:
        """Return the global state that consists of these servers, with the full budget."""
        bounds = self.bounds
        budget = (bounds.commands, bounds.deaths, bounds.heartbeats, bounds.snapshots, bounds.slow)
        return ClusterState(tuple(servers), (), (), (), budget)

    def _begin(self) -> ClusterState:
        return self.start

    def _shown(self, state: ClusterState) -> dict[int, dict[str, Any]]:
        return {node: shown(self.servers.known[local]) for node, local in enumerate(state.locals, 1)}

    def _key(self, state: ClusterState) -> Any:
        """Return a key that is equal for states that differ only by the ids of their servers."""
        if not self.bounds.symmetric:
            return (state.locals, tuple(sorted(state.packets)), state.leaders, state.committed, state.budget)
        return min(self._called(state, names) for names in self._names)

    def _called(self, state: ClusterState, names: tuple[int, ...]) -> Any:
        looks = sorted(
            (names[node], self.servers.renamed(local, names)) for node, local in enumerate(state.locals, 1)
        )
        packets = sorted((names[sender], names[to], number) for sender, to, number in state.packets)
        leaders = sorted((term, names[node]) for term, node in state.leaders)
        return (tuple(looks), tuple(packets), tuple(leaders), state.committed, state.budget)

    # --- what can happen ---

    def _steps_of(self, state: ClusterState) -> Iterator[tuple[str, Callable[[], ClusterState | None]]]:
        """Yield every possible next step, with its description."""
        yield from self._deliveries(state)
        commands, deaths, heartbeats, snapshots, slow = state.budget
        for node, number in enumerate(state.locals, 1):
            local = self.servers.known[number]
            leads, compactable = local.role is Role.LEADER, bool(snapshots) and local.compactable
            possible = (
                (f"restart {node}", "restart", _restart, 1, bool(deaths)),
                (f"a command reaches {node}", "propose", _propose, 0, leads and bool(commands)),
                (f"heartbeats of {node}", "heartbeat", _heartbeat, 2, leads and bool(heartbeats)),
                (f"{node} makes a snapshot", "compact", Server.compact, 3, compactable),
                (f"a command reaches {node}, whose disk is slow", "propose slowly", _slowly(_propose), SLOW,
                 leads and bool(slow and commands)),
                (f"the disk of {node} has written", "sync", _sync, -1, local.waits),
                (f"the power of {node} fails", "power", _lose_power, 1, local.waits and bool(deaths)),
            )  # fmt: skip
            for told, what, act, spent, can in possible:
                if can:
                    yield told, partial(self._act, state, node, what, act, spent)
            if not leads and local.term < self.bounds.terms:
                yield from self._timeouts(state, node)

    def _act(self, state: ClusterState, node: int, what: str, act: Act, spent: int) -> ClusterState:
        return self._after(state, node, self.servers.step(state.locals[node - 1], what, act), spent)

    def _deliveries(self, state: ClusterState) -> Iterator[tuple[str, Callable[[], ClusterState | None]]]:
        for packet in dict.fromkeys(state.packets):
            sender, to, number = packet
            told = f"{sender} -> {to}: {describe(self.servers.messages[number])}"
            yield told, partial(self._deliver, state, packet, "")
            if state.budget[1]:
                yield f"{told}, and the power fails there", partial(self._deliver, state, packet, "crash")
            if state.budget[SLOW]:
                yield f"{told}, on a slow disk", partial(self._deliver, state, packet, "slow")

    def _deliver(self, state: ClusterState, packet: Packet, how: str) -> ClusterState:
        sender, to, number = packet
        left = list(state.packets)
        left.remove(packet)
        rest = ClusterState(state.locals, tuple(left), state.leaders, state.committed, state.budget)
        act, local = _deliver(sender, self.servers.messages[number]), state.locals[to - 1]
        if how == "crash":
            return self._after(rest, to, self.servers.crash(local, act, sender, number), 1)
        if how == "slow":
            step = self.servers.step(local, "deliver slowly", _slowly(act), sender, number)
            return self._after(rest, to, step, SLOW)
        return self._after(rest, to, self.servers.step(local, "deliver", act, sender, number))

    def _timeouts(
        self, state: ClusterState, node: int
    ) -> Iterator[tuple[str, Callable[[], ClusterState | None]]]:
        others = [other for other in self._nodes if other != node]
        for group in combinations(others, len(self._nodes) // 2):
            told = f"{node} times out, and {' and '.join(map(str, group))} would vote for it"
            yield told, partial(self._campaign, state, node, group, False)
            if state.budget[SLOW]:
                yield f"{told}, its disk is slow", partial(self._campaign, state, node, group, True)

    def _campaign(
        self, state: ClusterState, node: int, group: tuple[int, ...], slow: bool
    ) -> ClusterState | None:
        """Run a pre-vote round among a majority as one step; None if it does not lead to a campaign."""
        step = self.servers.step(state.locals[node - 1], "timeout", _time_out)
        asked = {
            to: number
            for to, number in step.sent
            if isinstance(self.servers.messages[number], PreVoteRequest)
        }
        if self.servers.known[step.local].role is not Role.PRE_CANDIDATE:  # no round of pre-votes follows
            if slow:
                step = self.servers.step(state.locals[node - 1], "timeout slowly", _slowly(_time_out))
            return self._after(state, node, step, SLOW if slow else -1)
        state = self._after(state, node, Step(step.local, ()))
        for peer in group:
            if peer not in asked:
                return None
            message = self.servers.messages[asked[peer]]
            answer = self.servers.step(
                state.locals[peer - 1], "late", _hear_late(node, message), node, asked[peer]
            )
            state = self._after(state, peer, Step(answer.local, ()))
            for _, number in answer.sent:
                reply = self.servers.messages[number]
                if isinstance(reply, PreVoteResponse):
                    hear, what = _deliver(peer, reply), "deliver slowly" if slow else "deliver"
                    step = self.servers.step(
                        state.locals[node - 1], what, _slowly(hear) if slow else hear, peer, number
                    )
                    state = self._after(state, node, step, SLOW if slow else -1)
                    slow = False
        return state if self.servers.known[state.locals[node - 1]].role is Role.CANDIDATE else None

    def _after(self, state: ClusterState, node: int, step: Step, spent: int = -1) -> ClusterState:
        """Return the state after a server's step, with the messages that it sent."""
        changed = list(state.locals)
        changed[node - 1] = step.local
        fresh = tuple((node, to, number) for to, number in step.sent)
        budget = list(state.budget)
        if spent >= 0:
            budget[spent] -= 1
        packets = (*state.packets, *fresh)[-self.bounds.packets :]
        return ClusterState(tuple(changed), packets, state.leaders, state.committed, tuple(budget))

    # --- what must hold ---

    def _checked(self, before: ClusterState, after: ClusterState) -> ClusterState:
        """Check the invariants and update the state's history. Raises Violation by the invariant's name."""
        known = [self.servers.known[number] for number in after.locals]
        leaders = dict(after.leaders)
        for node, local in enumerate(known, 1):
            if local.role is Role.LEADER and leaders.setdefault(local.term, node) != node:
                what = f"servers {leaders[local.term]} and {node} lead term {local.term}"
                raise Violation("ElectionSafety", what)
            past = self.servers.known[before.locals[node - 1]]
            leads_on = past.role is local.role is Role.LEADER and past.term == local.term
            if leads_on and local.log[: len(past.log)] != past.log:
                raise Violation("LeaderAppendOnly", f"leader {node} of term {local.term} rewrites its log")
        _match(known)
        committed = _committed(after.committed, known)
        _held(committed, known)
        return ClusterState(
            after.locals, after.packets, tuple(sorted(leaders.items())), committed, after.budget
        )


def _match(known: list[Local]) -> None:
    """LogMatching: the same term at the same index means the same log up to there."""
    for one, other in combinations(known, 2):
        common = range(min(len(one.log), len(other.log)), 0, -1)
        index = next((i for i in common if one.log[i - 1][0] == other.log[i - 1][0]), 0)
        if one.log[:index] != other.log[:index]:
            what = f"two logs have term {one.log[index - 1][0]} at {index} and differ before"
            raise Violation("LogMatching", what)


def _committed(committed: Log, known: list[Local]) -> Log:
    """StateMachineSafety: what one server has committed, all servers have committed at that index."""
    for node, local in enumerate(known, 1):
        mine = local.log[: local.commit]
        common = min(len(mine), len(committed))
        if mine[:common] != committed[:common]:
            raise Violation("StateMachineSafety", f"server {node} commits {mine}, before it was {committed}")
        committed = committed if len(committed) >= len(mine) else mine
    return committed


def _held(committed: Log, known: list[Local]) -> None:
    """LeaderCompleteness and CommittedNeverLost."""
    count = len(committed)
    if not count:
        return
    for node, local in enumerate(known, 1):
        newer = local.term > committed[-1][0] and local.role is Role.LEADER
        if newer and local.log[:count] != committed:
            raise Violation("LeaderCompleteness", f"leader {node} of term {local.term} lacks entry {count}")
    holders = [node for node, local in enumerate(known, 1) if local.durable[:count] == committed]
    if 2 * len(holders) <= len(known):
        raise Violation("CommittedNeverLost", f"entry {count} is on {holders} only")


def describe(message: RaftMessage) -> str:
    """Describe a message in a line."""
    fields = [
        f"{name}={getattr(message, name)}"
        for name in message.__struct_fields__
        if name not in ("entries", "data", "membership", "round", "total")
    ]
    entries = getattr(message, "entries", ())
    carries = [f"entries={[(entry.index, entry.term) for entry in entries]}"] if entries else []
    return f"{type(message).__name__} {' '.join([*fields, *carries])}"


# --- where it begins ---


def _fresh(explorer: Explorer) -> ClusterState:
    return explorer.begin([explorer.founded(node) for node in range(1, explorer.bounds.nodes + 1)])


def _led(explorer: Explorer) -> ClusterState:
    nodes = explorer.bounds.nodes
    return explorer.begin([explorer.founded(node, (2,), 2) for node in range(1, nodes + 1)])


def _turns(explorer: Explorer) -> ClusterState:
    nodes = explorer.bounds.nodes
    own = {1: (2,), nodes: (3,)}
    return explorer.begin([explorer.founded(node, own.get(node, ()), 3) for node in range(1, nodes + 1)])


STARTS: dict[str, Callable[[Explorer], ClusterState]] = {"fresh": _fresh, "led": _led, "turns": _turns}


def explore(bounds: Bounds, start: str = "fresh", told: Told | None = None) -> Exploration:
    """Search from this start. A failed assertion of the code is a violation, too."""
    explorer = Explorer(bounds, start)
    return explorer.run(told or (lambda depth, states: None))
