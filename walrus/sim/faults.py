"""The schedule of faults: what goes wrong, when and for how long, drawn before the run.

A `Fault` is a value that describes itself completely, so a schedule can be printed, pasted into a test,
replayed in part, and shrunk by leaving faults out. Each fault begins at a time, lasts for a while and ends
by itself; several may overlap. The schedule has a random generator of its own: leaving a fault out changes
what happens in the world afterwards, but not the other faults.

    kind         what happens to `node` (and `peer`) for `duration` seconds
    kill         kill -9, restarted afterwards
    power        power loss, restarted afterwards
    blackout     power loss of all nodes at once
    massacre     kill -9 of all nodes at once
    stop         SIGTERM, restarted afterwards
    pause        SIGSTOP, then SIGCONT
    cut          messages to `peer` vanish, one way
    isolate      messages to and from all others vanish
    split        the nodes whose bit is set in `value` are cut off from the others
    stopped      messages to `peer` wait
    weather      loss, duplication, delay and reordering everywhere
    reset        the connection to `peer` breaks
    slow         every sync takes up to `value` seconds
    full         the disk is full, for all or for one kind of write (chosen by `value`)
    forget       a replica loses power, and the writer dies before it has sent the lost entries again
    fail_sync    the next sync fails
    rot          bits flip in durable entries of a copy (chosen by `value`); one copy of a segment at most
    ambush       something happens to the next message of one type (chosen by `value`) and its two nodes
    sift         messages of some types are lost, late or repeated (`strikes.py`)
    needless     the node recovers a segment whose leader may live
    belate       the next DELETE is proposed a second time, `duration` seconds later
    recover      an operator ends recoveries that wait for sure copies
    clock        the clock jumps by `value` seconds and drifts by 10 % or less
    hang_up      every client goes away in the middle of what it does
    transfer     Raft's leader hands over to `peer`
    usurp        Raft's leader is cut off until another one leads; then that one fails, and the first returns
    rivals       Raft's leader falls silent, and the clocks of all others jump, so that they campaign at once
    join, leave  membership
    stale        the node comes back with a copy of its directory that is older than its last start

With each fault stray processes call `peer` (`strays.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from random import Random

import msgspec

from walrus.consensus.messages import Role
from walrus.protocol import Leave, Recover, Register, Request
from walrus.sim import strays
from walrus.sim.calls import ClientCall, Unattended
from walrus.sim.drives import ROOMS
from walrus.sim.host import Host, Saved
from walrus.sim.network import Weather
from walrus.sim.strikes import Strike, Strikes, sieve
from walrus.sim.world import World, healthy

CLASSES: dict[str, tuple[tuple[str, int], ...]] = {
    "crash": (("kill", 6), ("massacre", 1), ("stop", 2)),
    "power": (("power", 3), ("blackout", 1)),
    "pause": (("pause", 3),),
    "network": (
        ("cut", 4), ("isolate", 4), ("split", 2), ("stopped", 3), ("weather", 3), ("reset", 4),
    ),
    "disk": (("slow", 2), ("full", 2), ("fail_sync", 1)),
    "rot": (("rot", 4),),
    "clock": (("clock", 2),),
    "ambush": (("ambush", 10),),
    "messages": (("sift", 6),),
    "clients": (("hang_up", 2),),
    "leaders": (("transfer", 3), ("usurp", 5), ("rivals", 5)),
    "recovery": (("needless", 6), ("recover", 2)),
    "members": (("join", 2), ("leave", 2)),
    "directories": (("stale", 1),),
}  # fmt: skip
"""Classes of faults for `--faults`, and the weight of each kind."""

DEFAULT = (
    *("crash", "power", "pause", "network", "ambush", "messages", "disk", "rot", "clock", "clients"),
    *("leaders", "recovery", "members", "directories"),
)
MOST_NODES = 6
INTERVALS = (0.2, 0.8)
"""Seconds from one `forget` or `belate` to the next, in runs that have them."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of a schedule; times and durations in seconds of the world."""

    at: float
    kind: str
    node: int = 1
    peer: int = 2
    duration: float = 0.5
    value: float = 0.0


def classes(names: str) -> tuple[str, ...]:
    """Parse the classes that `--faults` names: "all", "none", "default", or some of them with commas.

    >>> classes("crash,network"), classes("none")
    (('crash', 'network'), ())
    """
    if names in ("none", ""):
        return ()
    chosen = {"all": tuple(CLASSES), "default": DEFAULT}.get(names) or tuple(names.split(","))
    unknown = [name for name in chosen if name not in CLASSES]
    if unknown:
        raise ValueError(f"no such faults: {', '.join(unknown)}; there are {', '.join(CLASSES)}")
    return chosen


def draw(seed: int, chosen: Sequence[str], nodes: int, start: float, end: float) -> list[Fault]:
    """Draw a schedule from this seed, which also decides how dense it is and how the kinds are weighted."""
    if not chosen:
        return []
    rng = Random(f"faults {seed}")
    pace = rng.choice((0.06, 0.12, 0.25, 0.5))
    kinds, weights = zip(*(pair for name in chosen for pair in CLASSES[name]), strict=True)
    favoured = [weight * rng.choice((0, 1, 1, 3)) for weight in weights]
    weights = tuple(favoured) if any(favoured) else weights
    schedule, at = [], start
    while (at := at + rng.expovariate(1 / pace)) < end:
        kind = rng.choices(kinds, weights)[0]
        schedule.append(_fault(rng, round(at, 4), kind, nodes))
    return schedule


def forgetting(seed: int, chosen: Sequence[str], nodes: int, start: float, end: float) -> list[Fault]:
    """Draw `forget` faults, for a run that syncs entries at intervals: only there a copy can be unsure.

    They are drawn separately, because chance alone does not reach the case: one run in five syncs at
    intervals, and the writer has to die in the milliseconds between a replica's start and the frame that
    makes its copy whole.
    """
    if "power" not in chosen:
        return []
    return _at_intervals(Random(f"forgetting {seed}"), "forget", nodes, start, end)


def belating(seed: int, chosen: Sequence[str], nodes: int, start: float, end: float) -> list[Fault]:
    """Draw `belate` faults, for a run in which topics are deleted and registered again.

    They are drawn separately, because chance alone does not reach the case: the node that took a DELETE
    learns of it only after the next topic of that name exists.
    """
    if "messages" not in chosen:
        return []
    return _at_intervals(Random(f"belating {seed}"), "belate", nodes, start, end)


def _at_intervals(rng: Random, kind: str, nodes: int, start: float, end: float) -> list[Fault]:
    """Draw faults of one kind, at random intervals."""
    times, at = [], start
    while (at := at + rng.uniform(*INTERVALS)) < end:
        times.append(round(at, 4))
    return [_fault(rng, at, kind, nodes) for at in times]


def _fault(rng: Random, at: float, kind: str, nodes: int) -> Fault:
    """Draw one fault of this kind. Most are short; some outlast every timeout."""
    node = rng.randint(1, nodes)
    peer = rng.choice([n for n in range(1, nodes + 1) if n != node] or [node])
    duration = rng.choice((0.01, 0.05, 0.05, 0.15, 0.4, 0.4, 1.0, 1.0, 2.5, 5.0)) * rng.uniform(0.5, 1.5)
    value = 0.0
    match kind:
        case "slow":
            value = rng.choice((0.05, 0.5, 2.0))
        case "clock":
            value = rng.choice((0.0, 0.0, 0.2, 3.0, 7200.0))
        case "split":
            value = rng.randrange(1, 1 << nodes)
        case "join" | "leave":
            node = rng.randint(1, MOST_NODES)
            value = round(rng.random(), 4)
        case _:
            value = round(rng.random(), 4)
    return Fault(at=at, kind=kind, node=node, peer=peer, duration=round(duration, 4), value=value)


class Faults:
    """Carries out a schedule until it is stopped."""

    def __init__(self, world: World, schedule: Iterable[Fault]) -> None:
        self.world = world
        self.calm = False
        self._strikes = Strikes(world)
        self.schedule = sorted(schedule, key=lambda fault: fault.at)
        for fault in self.schedule:
            world.at(fault.at, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        if self.calm or (fault.node not in self.world.hosts and fault.kind != "join"):
            return
        self.world.note(fault.node, f"FAULT {fault.kind} {_about(fault)}")
        self.world.seen[f"fault {fault.kind}"] += 1
        strays.call(self.world, fault.at, fault.peer, fault.node)
        getattr(self, f"_{fault.kind}")(fault)

    # --- processes and machines ---

    def _kill(self, fault: Fault) -> None:
        self.world.kill(fault.node)
        self.world.after(fault.duration, self.world.start, fault.node)

    def _power(self, fault: Fault) -> None:
        # Where entries are synced at intervals, a second power loss may take acknowledged entries unless the
        # first one's losses are made up. The contract allows that, so such a fault only kills the process.
        judge = self.world.judge
        self.world.kill(fault.node, power=not judge.wounded() and not judge.one_sound_copy_is_all())
        self.world.after(fault.duration, self.world.start, fault.node)

    def _everybody(self, fault: Fault, *, power: bool) -> None:
        for number, host in enumerate(sorted(self.world.hosts)):
            if self.world.hosts[host].process:  # a machine that never ran has nothing to lose
                self.world.kill(host, power=power)
                self.world.after(fault.duration * (1 + number * fault.value), self.world.start, host)

    def _forget(self, fault: Fault) -> None:
        """A replica loses power with entries that are acknowledged and not synced, and the writer fails a
        moment after the replica is back. Its copy is then short, and only its doubt says so.
        """
        self._mend()
        self._await_promise(fault, self.world.now + 3.0)

    def _await_promise(self, fault: Fault, until: float) -> None:
        world, judge = self.world, self.world.judge
        if self.calm or world.now > until or judge.wounded() or judge.one_sound_copy_is_all():
            return
        dice = Random(f"forget {fault.value}")
        # One frame with all that is missing would make the copy whole at once, so first wait for more than
        # that.
        found = judge.promises_to_lose(dice.choice((1, 6, 12)) if world.now < until - 2.0 else 1)
        if not found:
            world.after(0.005, self._await_promise, fault, until)
            return
        writer, replica = dice.choice(found)
        world.seen["promise forgotten"] += 1
        world.kill(replica, power=True)
        world.after(0.02, world.start, replica)
        moment = 0.02 + dice.choice((1, 2, 4, 8)) * dice.uniform(0.001, 0.001 + world.options.latency)
        falls = msgspec.structs.replace(fault, node=writer, duration=dice.choice((0.05, 0.3, 1.5)))
        world.after(moment, self._if_not_calm, dice.choice(("kill", "isolate", "pause")), falls)

    def _blackout(self, fault: Fault) -> None:
        self._everybody(fault, power=self.world.options.fsync == "each")

    def _massacre(self, fault: Fault) -> None:
        self._everybody(fault, power=False)

    def _stop(self, fault: Fault) -> None:
        self.world.stop(fault.node)
        self.world.after(0.5 + fault.duration, self.world.start, fault.node)

    def _pause(self, fault: Fault) -> None:
        self.world.pause(fault.node, True)
        self.world.after(fault.duration, self.world.pause, fault.node, False)

    # --- the network ---

    def _cut_links(self, pairs: list[tuple[int, int]], fault: Fault) -> None:
        links = [self.world.network.link(*pair) for pair in pairs]
        for link in links:
            link.cuts += 1
        for number, (node, peer) in enumerate(pairs):
            # Each end notices by itself, as TCP gives up: some time later, perhaps after the cut.
            notices = 0.05 + (fault.value * (number + 1) % 1.0) * 2 * fault.duration
            if notices < fault.duration:
                self.world.after(notices, self.world.break_connection, node, peer)
                self.world.after(notices * 1.1, self.world.break_connection, peer, node)
        self.world.after(fault.duration, self._join_links, pairs)

    def _join_links(self, pairs: list[tuple[int, int]]) -> None:
        for pair in pairs:
            link = self.world.network.link(*pair)
            link.cuts = max(0, link.cuts - 1)

    def _cut(self, fault: Fault) -> None:
        self._cut_links([(fault.node, fault.peer)], fault)

    def _isolate(self, fault: Fault) -> None:
        self._cut_links(self._around(fault.node), fault)

    def _around(self, node: int) -> list[tuple[int, int]]:
        """Return all links from and to a node."""
        others = [other for other in sorted(self.world.hosts) if other != node]
        return [pair for other in others for pair in ((node, other), (other, node))]

    def _mend(self) -> None:
        """Let all links and all machines run."""
        world = self.world
        world.network.mend()
        world.network.weather = world.climate
        for node in sorted(world.hosts):
            world.pause(node, False)
            if not world.hosts[node].up and world.hosts[node].process:
                world.start(node)

    def _split(self, fault: Fault) -> None:
        nodes, mask = sorted(self.world.hosts), int(fault.value)
        pairs = [(a, b) for a in nodes for b in nodes if (mask >> (a - 1)) & 1 != (mask >> (b - 1)) & 1]
        self._cut_links(pairs, fault)

    def _stopped(self, fault: Fault) -> None:
        link = self.world.network.link(fault.node, fault.peer)
        link.stopped_until = max(link.stopped_until, self.world.now + fault.duration)

    def _weather(self, fault: Fault) -> None:
        bad = Weather(
            most=0.001 + 0.05 * fault.value,
            loss=0.3 * fault.value,
            duplicate=0.5 * (1 - fault.value),
            ordered=fault.value < 0.3,
            late=0.03 if (fault.value * 10) % 1 < 0.5 else 0.0,
        )
        self.world.network.weather = bad
        self.world.after(fault.duration, self._clear_up, bad)

    def _clear_up(self, bad: Weather) -> None:
        if self.world.network.weather is bad:
            self.world.network.weather = self.world.climate

    def _reset(self, fault: Fault) -> None:
        self.world.break_connection(fault.node, fault.peer)

    # --- at the worst moment ---

    def _ambush(self, fault: Fault) -> None:
        self._strikes.ambush(fault.value, fault.duration, partial(self._hit, fault))

    def _hit(self, fault: Fault, strike: Strike) -> None:
        """An ambush strikes a node, in the next step."""
        later = self.world.rng.random() * 0.002
        mine = Fault(at=0.0, kind=strike.kind, node=strike.node, duration=fault.duration, value=fault.value)
        self.world.after(later, getattr(self, f"_{strike.kind}"), mine)

    def _sift(self, fault: Fault) -> None:
        chosen = sieve(Random(f"sieve {fault.value}"), fault.node, fault.peer)
        self._strikes.sift(chosen, fault.duration)

    def _belate(self, fault: Fault) -> None:
        self._strikes.belate(fault.duration)

    def _needless(self, fault: Fault) -> None:
        self._strikes.needless(fault.value, fault.node, fault.duration)

    # --- leaders ---

    def _raft_leader(self) -> Host | None:
        """Return the process that considers itself Raft's leader, in the newest term."""
        leaders = [
            (host.controller.raft.current_term, host.id)
            for host in self.world.live()
            if host.controller is not None and host.controller.raft.role is Role.LEADER
        ]
        return self.world.hosts[max(leaders)[1]] if leaders else None

    def _transfer(self, fault: Fault) -> None:
        """Have Raft's leader hand over to `peer`, if it can."""
        host = self._raft_leader()
        if host is not None and host.controller is not None and not host.paused:
            host.controller.raft.transfer_leadership(fault.peer, host.clock(self.world.now))
            self.world.turn(host.id)

    def _usurp(self, fault: Fault) -> None:
        """Raft's leader is cut off until another one leads; then that one fails, and the first is back.

        So two logs diverge, and the server with the older term may lead again (Figure 8 of the Raft paper).
        All other faults are mended first; otherwise no server would be elected.
        """
        self._mend()
        first = self._raft_leader()
        if first is not None:
            for number in range(3):  # entries that no other server gets
                self.world.after(0.1 * number, self._ask, first, Register(f"usurped.{number}"))
            pairs = self._around(first.id)
            for pair in pairs:
                self.world.network.link(*pair).cuts += 1
            self._await_usurper(fault, first.id, pairs, self.world.now + 3.0)

    def _ask(self, host: Host, request: Request) -> None:
        """Send a client's request and ignore the answer."""
        self.world.ask(host, ClientCall(Unattended(), host.id, request.replies, self.world.now), request)

    def _rivals(self, fault: Fault) -> None:
        """All servers campaign at once, so votes are split and asked for twice in a term."""
        dice, first = Random(f"rivals {fault.value}"), self._raft_leader()
        self._mend()
        if first is not None:
            how = dice.choice(("isolate", "kill", "none"))
            if how != "none":
                self._if_not_calm(how, msgspec.structs.replace(fault, node=first.id))
        for host in self.world.live():
            if first is None or host.id != first.id:
                jump = 2 * host.config.election_timeout + dice.choice((0.0, 0.02)) * dice.random()
                self.world.set_clock(host.id, 1.0, jump)

    def _await_usurper(self, fault: Fault, first: int, pairs: list[tuple[int, int]], until: float) -> None:
        world, second = self.world, self._raft_leader()
        if second is None or second.id == first:
            if world.now < until and not self.calm:
                world.after(0.01, self._await_usurper, fault, first, pairs, until)
            else:
                self._join_links(pairs)
            return
        dice = Random(f"usurp {fault.value}")
        how, pause = dice.choice(("isolate", "isolate", "kill", "pause")), dice.choice((0.0, 0.01, 0.05, 0.2))
        fault = msgspec.structs.replace(fault, node=second.id)
        world.seen["usurped"] += 1
        world.after(pause, self._if_not_calm, how, fault)
        world.after(pause + 0.02, world.set_clock, first, 1.0, dice.choice((0.0, 1.0)))
        world.after(pause + dice.choice((0.0, 0.05, 0.5)), self._join_links, pairs)

    def _if_not_calm(self, kind: str, fault: Fault) -> None:
        if not self.calm:
            getattr(self, f"_{kind}")(fault)

    # --- disks and clocks ---

    def _slow(self, fault: Fault) -> None:
        host = self.world.hosts[fault.node]
        host.sync_time = (fault.value / 10, fault.value)
        self.world.after(fault.duration, self._fast, fault.node)

    def _fast(self, node: int) -> None:
        self.world.hosts[node].sync_time = healthy(self.world.options)

    def _full(self, fault: Fault) -> None:
        """The disk has no room, mostly for one kind of write; for "delete" a copy is damaged, too."""
        drive, room = self.world.hosts[fault.node].drive, ROOMS[int(fault.value * 1000) % len(ROOMS)]
        drive.fill(room)
        if room == "delete":
            self._rot(fault)
        self.world.after(fault.duration + (3.0 if room == "delete" else 0.3), drive.fill, "")

    def _fail_sync(self, fault: Fault) -> None:
        self.world.hosts[fault.node].drive.fail_sync()

    def _rot(self, fault: Fault) -> None:
        """Damage entries of a copy. A segment has at most one bad copy until that copy is rebuilt, because
        a copy that is not read may be bad for long. The other copies suffice if nothing else is lost: see
        `_power`.
        """
        dice, judge = Random(f"rot {fault.value}"), self.world.judge
        if judge.options.fsync != "each" and judge.wounded():
            return
        name = dice.choice(judge.perishable(fault.node)[-12:] or [""])  # mostly newest segments
        length = judge.names.get((fault.node, name), 0)
        for _ in range(dice.choice((1, 1, 1, 5)) if length else 0):
            index = dice.choice((length - 1, dice.randrange(length), dice.randrange(length)))
            if self.world.hosts[fault.node].drive.rot(name, index, dice):
                self.world.note(fault.node, f"entry {index} of {name} rots")
                judge.rots(fault.node, name)

    def _clock(self, fault: Fault) -> None:
        self.world.set_clock(fault.node, 1 + 0.1 * ((fault.duration * 10) % 2 - 1), fault.value)
        self.world.after(fault.duration, self.world.set_clock, fault.node, 1.0, 0.0)

    # --- clients and members ---

    def _hang_up(self, fault: Fault) -> None:
        for client in self.world.clients:
            client.hang_up()

    def _recover(self, fault: Fault) -> None:
        """For a while an operator looks for recoveries that wait for sure copies, and forces them."""
        for look in range(20):
            self.world.after(look * (0.05 + fault.duration / 20), self._force)

    def _force(self) -> None:
        """Force those that lose nothing by it: so many replicas hold all that was acknowledged that every
        majority includes one of them.
        """
        world, judge = self.world, self.world.judge
        for host in world.live() if not self.calm else ():
            assert host.controller is not None
            for key, recovery in sorted(host.controller.lifecycle.recoveries.items()):
                truth, replicas = judge.truth(key), recovery.segment.replicas
                whole = [node for node in replicas if truth.lengths.get(node, 0) >= judge.settled(key)]
                sound = key not in judge.rotten and not judge.unknown.intersection(replicas)
                enough = len(whole) > len(replicas) - recovery.segment.majority
                if sound and enough and recovery.waits_for_sure_copies and not host.paused:
                    world.seen["recovery forced"] += 1
                    self._ask(host, Recover(*key))

    def _join(self, fault: Fault) -> None:
        """Start a new machine, or a removed one with an empty directory, and let it join."""
        host, judge = self.world.hosts.get(fault.node), self.world.judge
        if host is None:
            self.world.join(fault.node)
        elif fault.node in judge.removed:
            self.world.renew(fault.node)
            self.world.join(fault.node)

    def _leave(self, fault: Fault) -> None:
        """Remove a member, often the one that leads Raft."""
        leader = self._raft_leader()
        node = leader.id if leader is not None and fault.value < 0.4 else fault.node
        asked = [host for host in self.world.live() if not host.paused]
        leaving = self.world.hosts.get(node)
        if asked and leaving and not leaving.left and len(self.world.judge.membership.voters) > 3:
            host = asked[int(fault.value * len(asked))]
            self.world.seen["leader asked to leave"] += leader is leaving
            self._ask(host, Leave(node, force=True))

    def _stale(self, fault: Fault) -> None:
        """Copy the directory, restart the process, and some time later start a process with the copy. No
        node that knows of the later start may accept its messages; the other nodes are not tested.
        """
        world, saved = self.world, self.world.hosts[fault.node].saved()
        mine = fault.node in world.judge.membership.members
        if saved is None or not mine or world.judge.is_stranger(world.hosts[fault.node]):
            return
        world.kill(fault.node)
        world.start(fault.node)
        world.after(0.3, self._come_back_stale, fault, saved, world.now + 3.0)

    def _come_back_stale(self, fault: Fault, saved: Saved, until: float) -> None:
        world, node = self.world, fault.node
        if self.calm or world.now > until:
            return
        others = [host for number, host in world.hosts.items() if number != node]
        if any(host.knows_later_start(node, saved.record) for host in others):
            world.seen["stale start"] += 1
            world.start_stale(node, saved)
            world.after(0.1 + fault.duration, world.end_stale, node)
        else:
            world.after(0.1, self._come_back_stale, fault, saved, until)

    # --- the end of it ---

    def stop(self) -> None:
        """End all faults, and mend everything that was broken."""
        self.calm = self._strikes.calm = True
        world = self.world
        world.note(0, "all faults end")
        for node in sorted(world.hosts):
            world.end_stale(node)
            world.hosts[node].drive.fill("")
            self._fast(node)
        self._mend()
        for node in sorted(world.hosts):
            world.set_clock(node, 1.0, 0.0)


def _about(fault: Fault) -> str:
    where = f"-> {fault.peer} " if fault.kind in ("cut", "stopped", "reset") else ""
    return f"{where}for {fault.duration:g} s" + (f", {fault.value:g}" if fault.value else "")
