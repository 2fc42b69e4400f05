"""The seeded world: one clock, one heap of events, and hosts on which the real controllers run.

A *step* is one event: a message arrives, a timer fires, a sync ends, a client asks, a fault strikes. The
heap decides the order of the steps and one `random.Random` everything uncertain, so a seed and the options
determine a whole run, on every machine: nothing here reads a real clock or depends on the order of a hash
table or on an address in memory.

After every step the judge checks the node that took it (`judge.py`, `invariants.py`). A broken invariant, a
failed assertion or an exception inside a node ends the run with a `Violation`.

The order within a turn is that of `node.py`: input, `flush`, effects, syncs, timer. Now and then several
inputs share a turn, as they do in a real event loop.

Two exceptions may end a process without ending the run: a `StorageError` (`node.py` stops on it too, since
the process can no longer know its state) and an ordered `Crash` of the simulated disk. Any other exception
is a bug of ours.
"""

from __future__ import annotations

import heapq
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeAlias, assert_never

from walrus.broker.handshake import CalleeSide, CallerSide
from walrus.config import NodeConfig
from walrus.consensus.journal import JournalError
from walrus.protocol import PeerCodec, Request
from walrus.segments import START_BITS
from walrus.sim.calls import Caller, ClientCall
from walrus.sim.disk import Crash
from walrus.sim.drives import DATA, META, Drive, EngineDrive, MemoryDrive
from walrus.sim.greeting import SECRET, Doorkeeper, nonce, shake_hands
from walrus.sim.host import NEVER, EngineSync, Host, Saved, address, node_at
from walrus.sim.judge import Judge
from walrus.sim.network import Network, Weather
from walrus.sim.options import Options
from walrus.sim.violation import Violation, named, said
from walrus.storage.errors import StorageError
from walrus.wire.effects import Effect, Halt, LogLine, Peers, Reply, Send, Trace, no_trace
from walrus.wire.messages import Hello, HelloReply, Join, JoinReply, PeerMessage

Rule: TypeAlias = Callable[[int, int, PeerMessage], bool]


def both(one: Callable[[int], Trace], other: Callable[[int], Trace]) -> Callable[[int], Trace]:
    """Combine two recorders: a run that is recorded for the specs and filmed for people."""

    def of(node: int) -> Trace:
        first, second = one(node), other(node)

        def trace(event: str, /, **values: object) -> None:
            first(event, **values)
            second(event, **values)

        return trace

    return of


class Filming(Protocol):
    """Records a run for people (`filming.py`): it is told what happens, and changes nothing."""

    def watch(self, now: Callable[[], float]) -> None: ...
    def of(self, node: int) -> Trace: ...
    def noted(self, node: int, what: str) -> None: ...
    def sent(self, host: Host, to: int, message: PeerMessage, copies: int) -> None: ...
    def arrives(self, host: Host, sender: int, message: PeerMessage) -> None: ...
    def asked(self, host: Host, call: ClientCall, request: Request) -> None: ...
    def replied(self, host: Host, call: ClientCall, data: bytes, count: int) -> None: ...
    def looked(self, host: Host) -> None: ...


CLUSTER = "simulated"
EPOCH = 1_700_000_000
"""Unix time at which a run begins; each machine's wall clock is a little off."""

_is_open = ClientCall.is_open

SHORTEST_TICK = 0.005
"""The shortest interval of a timer, as in `node.py`, in seconds."""

HISTORY = 4_000
"""How many of the latest events are kept for the table of a failure."""


def healthy(options: Options) -> tuple[float, float]:
    """Return the shortest and the longest duration of a sync on a healthy disk, in seconds."""
    return options.sync_time / 4, options.sync_time


class World:
    """Hosts, network, clock. `step` carries out the next event."""

    def __init__(
        self,
        seed: int,
        options: Options,
        recorder: Callable[[int], Trace] | None = None,
        film: Filming | None = None,
    ) -> None:
        self.seed, self.options = seed, options
        self.rng = Random(seed)
        self.now = 0.0
        self.steps = 0
        self.climate = Weather(options.latency / 5, options.latency, ordered=options.ordered)
        self.network = Network(self.rng, self.climate)
        self.clients: list[Caller] = []
        self.rules: list[Rule] = []
        """Called with each message before it is sent: if one returns True the message is not sent."""
        self.judge = Judge(options)
        self.seen = self.judge.seen
        self.hosts: dict[int, Host] = {}
        self._true: dict[int, Host] = {}
        """Machines in whose place a process with an older copy of their directory runs."""
        self.happened: list[tuple[float, int, str]] = []
        """(time, node, what) for the table of a failure. Node 0 is the world."""
        self._trace_for = recorder
        self._film = film
        if film is not None:
            film.watch(lambda: self.now)
            self._trace_for = film.of if recorder is None else both(recorder, film.of)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._codec: PeerCodec[PeerMessage] | None = PeerCodec(PeerMessage) if options.codec else None
        voters = tuple(range(1, options.nodes + 1))
        for node in voters:
            self.add_host(node).found(voters)
        for node in voters:
            self.start(node)

    # --- events ---

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event for this moment, after everything that was scheduled for it earlier."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, act, arguments))

    def after(self, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event `delay` seconds from now."""
        self.at(self.now + delay, act, *arguments)

    def step(self) -> None:
        """Carry out the next event."""
        self.now, _, act, arguments = heapq.heappop(self._heap)
        self.judge.now = self.now
        self.steps += 1
        act(*arguments)

    def run(self, until: float) -> None:
        """Carry out all events up to this moment."""
        while self._heap and self._heap[0][0] <= until:
            self.step()
        self.now = max(self.now, until)

    def run_until(self, done: Callable[[], bool], patience: float) -> bool:
        """Run until `done()`, for `patience` seconds at most; return whether it was reached."""
        end, again_at = self.now + patience, 0.0
        while self._heap and self._heap[0][0] <= end:
            if self.now >= again_at:
                again_at = self.now + 0.02
                if done():
                    return True
            self.step()
        return done()

    def note(self, node: int, what: str) -> None:
        """Remember an event for the table of a failure."""
        if self._film is not None:
            self._film.noted(node, what)
        self.happened.append((self.now, node, what))
        if len(self.happened) > 2 * HISTORY:
            del self.happened[:HISTORY]

    # --- hosts ---

    def add_host(self, node: int, directory: int = 1) -> Host:
        """Add a machine, switched off."""
        options, drive = self.options, self._drive()
        settings = {**options.settings, "durable_acks": options.fsync == "each"}
        config = NodeConfig(
            node_id=node, raft_address=address(node), client_address=address(node), **settings
        )
        host = self.hosts[node] = Host(config, drive, options.fsync, directory)
        host.sync_time = healthy(options)
        host.record.addresses = {n: address(n) for n in range(1, options.nodes + 1) if n != node}
        self.judge.add(host)
        return host

    def _drive(self) -> Drive:
        return EngineDrive(self.rng) if self.options.engine else MemoryDrive(self.rng)

    def live(self) -> list[Host]:
        """Return the machines on which a process runs, by id."""
        return [host for _, host in sorted(self.hosts.items()) if host.up]

    def _wall_clock(self, node: int) -> float:
        """Return the machine's wall clock in unix seconds: a little off, and set back again and again."""
        return EPOCH + self.now - 0.2 * (self.now // 0.5) + 0.05 * (node % 5)

    def start(self, node: int) -> None:
        """Start the process of a member."""
        host = self.hosts[node]
        if host.up or host.left:
            return
        self.note(node, f"start {host.record.incarnation + 1}")
        self._guarded(host, self._start, host)

    def _start(self, host: Host) -> None:
        stranger = self.judge.is_stranger(host)
        trace = self._trace_for(host.id) if self._trace_for and not stranger else no_trace
        self.judge.before_start(host)
        host.start(
            cluster_id=CLUSTER,
            rng=self.rng,
            now=self.now,
            watch=None if stranger else self.judge,
            is_open=_is_open,
            trace=trace,
            unix_time=partial(self._wall_clock, host.id),
        )
        self.judge.after_start(host)
        self._turn(host)
        for other in self.live():  # the node whose connection was lost soon dials again
            if host.id in other.wanted:
                self._dial_later(other, host.id, 0.002)
        if isinstance(self.options.fsync, float):
            self._sync_later(host, host.process)

    def kill(self, node: int, *, power: bool = False) -> None:
        """`kill -9`, or a power loss."""
        host = self.hosts[node]
        if host.up:
            self.note(node, "power loss" if power else "kill -9")
            self._died(host)
        if power:
            host.boot += 1
            host.drive.lose_power()
            self.judge.lost_power(host)
        if self._trace_for and host.process and not self.judge.is_stranger(host):
            self._trace_for(node)("PowerLoss" if power else "Crash")
        self.judge.full_check()

    def _died(self, host: Host) -> None:
        host.end()
        for call in [call for call in self.judge.calls if call.host == host.id]:
            call.lost(self.now)
        for other in self.live():
            if other.controller is not None and host.id in other.controller.connected:
                self.after(0.001, self._notice_gone, other, other.process, host.id)

    def stop(self, node: int) -> None:
        """SIGTERM: an orderly stop, which ends some time later."""
        host = self.hosts[node]
        if host.controller is not None:
            self.note(node, "SIGTERM")
            host.controller.stop(host.clock(self.now))
            self._turn(host)
            self.after(self.rng.uniform(0.05, 0.5), self._stopped, host, host.process)

    def _stopped(self, host: Host, process: int) -> None:
        if host.process == process and host.up and not host.paused:
            for group in host.groups:
                if group.in_flight is None:
                    self._begin_sync(host, group)
                self._guarded(host, self._finish_sync, host, group)
            if host.up:
                host.record.clean = True
                self.seen["stopped in order"] += 1
                self._died(host)

    def pause(self, node: int, paused: bool) -> None:
        """SIGSTOP or SIGCONT. Input that arrives in between is handled afterwards, in one turn."""
        host = self.hosts[node]
        if not host.up or host.paused == paused:
            return
        self.note(node, "SIGSTOP" if paused else "SIGCONT")
        host.paused = paused
        if not paused:
            backlog, host.backlog = host.backlog, []
            for late in backlog:
                if host.up:
                    self._guarded(host, late)
            host.timer = NEVER
            if host.controller is not None:
                self._guarded(host, host.controller.on_tick, host.clock(self.now))
            self._turn(host)

    def set_clock(self, node: int, rate: float, jump: float) -> None:
        """Let the machine's clock drift or jump."""
        host = self.hosts[node]
        host.set_clock(self.now, rate, jump)
        host.timer = NEVER
        self._set_timer(host)

    def join(self, node: int) -> None:
        """Let a machine outside the cluster ask members until one admits it, then start its process."""
        host = self.hosts.get(node) or self.add_host(node)
        if host.up or host.left:
            return
        members = [other for other in self.live() if not other.paused and self.network.passes(node, other.id)]
        if members:
            member = self.rng.choice(members)
            assert member.controller is not None
            reply, _ = self._ask(host.join_request(), host, member)
            self._turn(member)
            assert isinstance(reply, JoinReply)
            # Each asking machine has an empty directory and a free id, so the refusal cannot be final.
            assert not reply.final, f"node {member.id} refuses node {node} for good: {reply.error}"
            if reply.done:
                self.note(node, f"taken in by {member.id}")
                host.record.addresses = {n: place for n, place in reply.addresses.items() if n != node}
                self.start(node)
                return
        self.after(self.rng.uniform(0.05, 0.3), self.join, node)

    def renew(self, node: int) -> None:
        """Give a removed node's machine an empty directory."""
        old = self.hosts[node]
        if old.up:
            self.kill(node)
        self.judge.forget(node)
        self.add_host(node, old.directory + 1).process = old.process
        self.seen["joined anew"] += 1

    def start_stale(self, node: int, saved: Saved) -> None:
        """Kill the node's process, and start one with a copy of its directory.

        No node may accept a message of it: the judge does not know this process, and takes what it sends for
        a violation.
        """
        true = self.hosts[node]
        if self.judge.is_stranger(true):
            return  # there is a stale process already
        if true.up:
            self.kill(node)
        self._true[node] = true
        other = self.hosts[node] = Host(true.config, saved.drive, true.fsync, true.directory)
        other.record, other.process = saved.record, true.process
        other.record.incarnation += self.rng.randrange(1, 1 << 20) << START_BITS
        self.start(node)

    def end_stale(self, node: int) -> None:
        """End the process on the copy, and start one with the true directory."""
        true = self._true.pop(node, None)
        if true is not None:
            self.kill(node)
            true.process = self.hosts[node].process + 1
            self.hosts[node] = true
            self.start(node)

    def retire(self, node: int) -> None:
        """Switch off a removed node's machine for good."""
        self.hosts[node].left = True
        if self.hosts[node].up:
            self.kill(node)

    # --- connections ---

    def _dial_later(self, host: Host, peer: int, delay: float) -> None:
        if peer not in host.dialling:
            host.dialling.add(peer)
            self.after(delay * self.rng.uniform(0.5, 1.5), self._dial, host, host.process, peer)

    def _dial(self, host: Host, process: int, peer: int) -> None:
        controller, other = host.controller, self.hosts.get(peer)
        if host.process != process or controller is None:
            return
        host.dialling.discard(peer)
        if host.paused:  # a paused node does not dial; what it missed is in its backlog
            self._dial_later(host, peer, 0.1)
            return
        if peer not in host.wanted or peer in controller.connected or other is None:
            return
        if self.network.passes(host.id, peer):
            if other.controller is None:
                if peer not in host.refused:
                    host.refused.add(peer)
                    self._lose(host, peer, refused=True)
                    return
            elif not other.paused and self._greet(host, other):
                return
        self._dial_later(host, peer, 0.1)

    def _greet(self, host: Host, other: Host) -> bool:
        """One node introduces itself to another; return whether it is accepted, and so connected."""
        assert host.controller is not None
        assert other.controller is not None
        welcome = other.controller.members.on_caller
        for one, two in ((host, other), (other, host)):
            if self.judge.is_stranger(one) and not two.knows_later_start(one.id, one.record):
                return False  # a node that knows no later start cannot tell: see docs/durability.md
        other.callers.gone(host.id)  # the host dials only after its former connection has ended
        verdict, hello = self._ask(host.controller.members.hello(other.id), host, other)
        assert isinstance(verdict, HelloReply)
        if hello is not None:
            self._input(other, lambda now: welcome(hello))
            host.refused.discard(other.id)
            self._input(host, host.controller.on_connected, other.id, verdict)
            return True
        if verdict.final:
            self._input(host, host.controller.on_final_refusal, other.id, verdict.error, verdict.removed)
        return False

    def _ask(
        self, first: Hello | Join, host: Host, other: Host
    ) -> tuple[HelloReply | JoinReply | None, Hello | None]:
        """Run a handshake between two nodes; return the callee's verdict, and the Hello that it accepted."""
        assert other.controller is not None
        caller = CallerSide(first, SECRET, nonce())
        doorkeeper = Doorkeeper(other.controller, other.clock(self.now))
        accepted = shake_hands(caller, CalleeSide(other.callers, doorkeeper))
        return caller.verdict, accepted

    def _notice_gone(self, host: Host, process: int, peer: int) -> None:
        """A connection has lost its other end; the node learns soon whether a process listens there."""
        if host.process == process and host.controller and peer in host.controller.connected:
            if self.network.passes(host.id, peer) and not host.paused:
                gone = not self.hosts[peer].up
                host.refused.add(peer) if gone else None
                self._lose(host, peer, refused=gone)
            else:
                self.after(0.3, self._notice_gone, host, process, peer)

    def break_connection(self, node: int, peer: int) -> None:
        """Break a connection; the node that dialled it notices."""
        host = self.hosts[node]
        if host.controller is not None and peer in host.controller.connected:
            self.note(node, f"connection to {peer} breaks")
            self._lose(host, peer, refused=False)

    def _lose(self, host: Host, peer: int, *, refused: bool) -> None:
        assert host.controller is not None
        self._input(host, host.controller.on_disconnected, peer, refused)
        if host.up:
            self._dial_later(host, peer, 0.1 if refused else 0.01)

    # --- inputs of a host ---

    def _input(self, host: Host, handle: Callable[..., None], *arguments: Any) -> None:
        """Hand an input to a controller, and in most cases end the turn at once."""
        if host.paused:
            host.backlog.append(lambda: handle(*arguments, host.clock(self.now)))
            return
        try:
            handle(*arguments, host.offset + host.rate * self.now)
            if self.options.shared_turns and self.rng.random() < self.options.shared_turns:
                if not host.turn_due:
                    host.turn_due = True
                    self.after(self.rng.uniform(0.0, 0.003), self._late_turn, host, host.process)
            else:
                self._turn_inside(host)
        except (Exception, Crash) as error:  # noqa: BLE001 - whatever it is, it is judged
            self._failed(host, error)

    def _guarded(self, host: Host, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except (Exception, Crash) as error:  # noqa: BLE001 - whatever it is, it is judged
            self._failed(host, error)

    def _failed(self, host: Host, error: BaseException) -> None:
        """A process died: of its disk, which it survives by a restart, or of a bug, which ends the run."""
        if isinstance(error, Violation):
            raise error
        if isinstance(error, JournalError) and META not in host.drive.rotten:
            raise Violation("CommittedNeverLost", f"node {host.id} refuses its journal: {error}") from error
        if isinstance(error, StorageError | Crash):
            self.note(host.id, f"dies: {type(error).__name__}: {error}")
            self._died(host)  # also if it died while starting: that frees its disk
            if isinstance(error, Crash):
                self.judge.lost_power(host)
            self.judge.full_check()
            self.after(self.rng.uniform(0.05, 0.5), self.start, host.id)
            return
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        name = named(error) if isinstance(error, AssertionError) else type(error).__name__
        self.note(host.id, f"fails: {type(error).__name__}: {error}")
        raise Violation(name, f"node {host.id}: {said(error)} ({where})") from error

    def _late_turn(self, host: Host, process: int) -> None:
        if host.process == process and host.up:
            host.turn_due = False
            self._turn(host)

    def turn(self, node: int) -> None:
        """End the turn of a controller that a scenario called directly."""
        self._turn(self.hosts[node])

    def _turn(self, host: Host) -> None:
        self._guarded(host, self._turn_inside, host)

    def _turn_inside(self, host: Host) -> None:
        """End a turn: flush, carry out effects, sync, set the timer; then the judge checks."""
        controller = host.controller
        if controller is None or host.paused:
            return
        now = host.offset + host.rate * self.now
        controller.flush(now)
        meta_group = host.groups[1]
        if host.fsync == "each":
            data_group = host.groups[0]
            if data_group.in_flight is None and controller.data.written > data_group.covered:
                self._start_sync(host, data_group, controller.data.written)
        elif controller.data.written > host.data_reported:
            host.data_reported = controller.data.written
            controller.on_data_durable(host.data_reported, now)
        self.judge.note_acks(host)  # before any message tells of it
        for effect in controller.take_effects():
            if type(effect) is Send:
                self._send(host, effect.to, effect.message)
            else:
                self._carry_out(host, effect)
        if meta_group.in_flight is None and controller.meta.written > meta_group.covered:
            self._start_sync(host, meta_group, controller.meta.written)
        self._set_timer(host)
        if self._film is not None:
            self._film.looked(host)
        self.judge.look(host)

    def _set_timer(self, host: Host) -> None:
        if host.controller is None:
            return
        now = host.clock(self.now)
        when = (max(host.controller.next_deadline(now), now + SHORTEST_TICK) - host.offset) / host.rate
        if when < host.timer:
            host.timer = when
            self.at(when, self._tick, host, host.process, when)

    def _tick(self, host: Host, process: int, when: float) -> None:
        controller = host.controller
        if controller is None or host.process != process or host.timer != when or host.paused:
            return
        host.timer = NEVER
        self._input(host, controller.on_tick)

    def _carry_out(self, host: Host, effect: Effect) -> None:
        match effect:
            case Reply(slot=slot, data=data, count=count):
                assert isinstance(slot, ClientCall)
                if self._film is not None:
                    self._film.replied(host, slot, data, count)
                slot.reply(data, count, self.now)
            case Peers(addresses=addresses):
                host.record.addresses = dict(addresses)
                host.wanted = tuple(sorted(node_at(place) for place in addresses.values()))
                for peer in host.wanted:
                    self._dial_later(host, peer, 0.002)
            case LogLine(text=text):
                self.note(host.id, text)
            case Halt(reason=reason):
                self.note(host.id, f"halts: {reason}")
                self.judge.halted(host, reason)
                self.after(0.0, self._exit, host, host.process)
            case Send():
                raise AssertionError("sent above")
            case _:
                assert_never(effect)

    # --- messages ---

    def _exit(self, host: Host, process: int) -> None:
        """End a process that has halted."""
        if host.process == process and host.up:
            self._died(host)

    def _send(self, host: Host, to: int, message: PeerMessage) -> None:
        controller = host.controller
        assert controller is not None
        if to not in controller.connected:
            return
        self.seen[type(message).__name__] += 1
        self.judge.sent(host, to, message)
        if self._codec is not None:
            frame = self._codec.encode(message)
            decoded = self._codec.decode(frame[4:])
            assert decoded == message, f"the wire changes {message}"
            message = decoded
        if self.rules and self._kept(host.id, to, message):
            return
        arrivals = self.network.arrivals(host.id, to, self.now)
        if self._film is not None:
            self._film.sent(host, to, message, len(arrivals))
        for at in arrivals:
            self.at(at, self._arrive, host.id, self.hosts[to], message)

    def _kept(self, sender: int, to: int, message: PeerMessage) -> bool:
        """Show a message to every rule, even after one has kept it; return whether any did."""
        kept = False
        for rule in list(self.rules):
            kept |= rule(sender, to, message)
        return kept

    def deliver(self, sender: int, to: int, message: PeerMessage) -> None:
        """Deliver a message that a rule had kept."""
        self._arrive(sender, self.hosts[to], message)

    def _arrive(self, sender: int, host: Host, message: PeerMessage) -> None:
        controller = host.controller
        if controller is not None:
            self._input(host, self._hear, host, sender, message)

    def _hear(self, host: Host, sender: int, message: PeerMessage, now: float) -> None:
        assert host.controller is not None
        if self._film is not None:
            self._film.arrives(host, sender, message)
        self.judge.arrives(host, sender, message)
        host.controller.on_message(sender, message, now)

    # --- syncs ---

    def _start_sync(self, host: Host, group: EngineSync, written: int) -> None:
        group.in_flight = written
        self._begin_sync(host, group)
        least, most = host.sync_time
        self.after(
            least + self.rng.random() * (most - least), self._end_sync, host, host.process, group, written
        )

    def _end_sync(self, host: Host, process: int, group: EngineSync, written: int) -> None:
        controller = host.controller
        if controller is None or host.process != process:
            return
        try:
            self._finish_sync(host, group)
        except (StorageError, Crash) as error:
            self._failed(host, error)
            return
        group.covered, group.in_flight = written, None
        if group.name == DATA:
            if host.fsync == "each":
                self._input(host, controller.on_data_durable, written)
            return
        host.record.member = True
        self._input(host, controller.on_meta_durable, written)
        if host.up and controller.doubts_are_noted:
            host.record.sure = True

    def _begin_sync(self, host: Host, group: EngineSync) -> None:
        host.drive.start_sync(group.name)
        self.judge.sync_started(host, group.name)

    def _finish_sync(self, host: Host, group: EngineSync) -> None:
        host.drive.finish_sync(group.name)
        self.judge.sync_ended(host, group.name)

    def _sync_later(self, host: Host, process: int) -> None:
        """Begin a sync at each interval, as `--fsync 200` does, whatever has been written."""
        if host.process == process and host.controller is not None:
            group = host.groups[0]
            if group.in_flight is None and not host.paused:
                self._start_sync(host, group, host.controller.data.written)
            assert isinstance(self.options.fsync, float)
            self.after(self.options.fsync, self._sync_later, host, process)

    # --- clients ---

    def ask(self, host: Host, call: ClientCall, request: Request) -> bool:
        """Hand a client's request to a node; return False if no process listens there."""
        if host.controller is None:
            return False
        self.judge.calls[call] = None
        if self._film is not None:
            self._film.asked(host, call, request)
        self._input(host, host.controller.on_request, call, request)
        return True
