"""What goes wrong, when and for how long: a schedule, drawn before the run, that can be replayed in part.

A `Fault` is a value: it says everything about itself, so a schedule can be printed, pasted into a test,
and shrunk by leaving faults out. Each begins at a time, lasts for a while and ends by itself; several may
overlap. The schedule has its own random numbers. Leaving a fault out changes what follows in the world, but
not what else was planned.

    kind         what happens to `node` (and `peer`) for `duration` seconds
    kill         kill -9, restarted afterwards
    power        power loss, restarted afterwards
    blackout     power loss of all nodes at once
    massacre     kill -9 of all nodes at once
    stop         SIGTERM, restarted afterwards
    pause        SIGSTOP, then SIGCONT
    cut          messages to `peer` vanish, one way
    isolate      messages to and from everybody vanish
    split        the nodes whose bit is set in `value` are cut off from the others
    stopped      messages to `peer` wait
    weather      loss, duplication, delay and reordering everywhere
    reset        the connection to `peer` breaks
    slow         every sync takes up to `value` seconds
    full         the disk is full
    fail_sync    the next sync fails
    rot          bits flip in durable entries of a copy (chosen by `value`); one copy of a segment at most
    ambush       something happens to the next message of one type (chosen by `value`) and its two nodes
    clock        the clock jumps by `value` seconds and drifts by 10 % or less
    hang_up      every client goes away in the middle of what it does
    transfer     Raft's leader hands over to `peer`
    join, leave  membership
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import msgspec

from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    TimeoutNowRequest,
)
from walrus.protocol import Leave
from walrus.sim.calls import ClientCall, Nobody
from walrus.sim.network import Weather
from walrus.sim.world import World
from walrus.wire import messages as m
from walrus.wire.messages import PeerMessage

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
    "clients": (("hang_up", 2),),
    "leaders": (("transfer", 3),),
    "members": (("join", 1), ("leave", 1)),
}  # fmt: skip
"""Classes of faults for `--faults`, and how likely each kind is."""

DEFAULT = (
    *("crash", "power", "pause", "network", "ambush", "disk", "rot", "clock", "clients", "leaders"),
    "members",
)
MOST_NODES = 6

AMBUSHED: tuple[type, ...] = (
    *(m.Fence, m.FenceReply, m.Copy, m.CopyReply, m.Append, m.AppendReply, m.Forward, m.ForwardReply),
    *(m.GetEntries, m.GetReply, m.Confirm, m.Propose, m.ReadReply, m.ReadIndexReply),
    *(RequestVoteRequest, RequestVoteResponse, AppendEntriesRequest, AppendEntriesResponse),
    *(InstallSnapshotRequest, InstallSnapshotResponse, TimeoutNowRequest),
)
STRIKES = (
    *("late", "late", "late", "twice", "lost", "kill sender", "kill receiver", "power sender"),
    *("power receiver", "isolate sender", "isolate receiver", "pause sender"),
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that goes wrong."""

    at: float
    kind: str
    node: int = 1
    peer: int = 2
    duration: float = 0.5
    value: float = 0.0


def classes(names: str) -> tuple[str, ...]:
    """The classes that `--faults` names: "all", "none", "default", or some of them with commas.

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
    """A schedule for this seed. How dense and of what kinds it is, the seed decides too."""
    if not chosen:
        return []
    rng = Random(f"faults {seed}")
    pace = rng.choice((0.05, 0.1, 0.2, 0.5, 1.2))
    kinds, weights = zip(*(pair for name in chosen for pair in CLASSES[name]), strict=True)
    favoured = [weight * rng.choice((0, 1, 1, 3)) for weight in weights]
    weights = tuple(favoured) if any(favoured) else weights
    schedule, at = [], start
    while (at := at + rng.expovariate(1 / pace)) < end:
        kind = rng.choices(kinds, weights)[0]
        schedule.append(_fault(rng, round(at, 4), kind, nodes))
    return schedule


def _fault(rng: Random, at: float, kind: str, nodes: int) -> Fault:
    """One of this kind. Most are short; some outlast every timeout."""
    node = rng.randint(1, nodes)
    peer = rng.choice([n for n in range(1, nodes + 1) if n != node] or [node])
    duration = rng.choice((0.01, 0.05, 0.3, 1.0, 2.5, 5.0)) * rng.uniform(0.5, 1.5)
    value = 0.0
    match kind:
        case "slow":
            value = rng.choice((0.05, 0.5, 2.0))
        case "clock":
            value = rng.choice((0.0, 0.0, 0.2, 3.0, 7200.0))
        case "split":
            value = rng.randrange(1, 1 << nodes)
        case "join" | "leave":
            node = rng.randint(nodes + 1, MOST_NODES) if kind == "join" else rng.randint(1, MOST_NODES)
        case _:
            value = round(rng.random(), 4)
    return Fault(at=at, kind=kind, node=node, peer=peer, duration=round(duration, 4), value=value)


class Faults:
    """Carries a schedule out, until it is told to calm down."""

    def __init__(self, world: World, schedule: Iterable[Fault]) -> None:
        self.world = world
        self.calm = False
        self.schedule = sorted(schedule, key=lambda fault: fault.at)
        for fault in self.schedule:
            world.at(fault.at, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        if self.calm or (fault.node not in self.world.hosts and fault.kind != "join"):
            return
        self.world.note(fault.node, f"FAULT {fault.kind} {_about(fault)}")
        getattr(self, f"_{fault.kind}")(fault)

    # --- processes and machines ---

    def _kill(self, fault: Fault) -> None:
        self.world.kill(fault.node)
        self.world.after(fault.duration, self.world.start, fault.node)

    def _power(self, fault: Fault) -> None:
        # Where entries are synced at intervals, a second power loss before the first one's losses are made up
        # may take what is acknowledged: that is in the contract, and nothing to be found here.
        judge = self.world.judge
        self.world.kill(fault.node, power=not judge.wounded() and not judge.one_sound_copy_is_all())
        self.world.after(fault.duration, self.world.start, fault.node)

    def _everybody(self, fault: Fault, *, power: bool) -> None:
        for number, host in enumerate(sorted(self.world.hosts)):
            if self.world.hosts[host].process:  # a machine that never ran has nothing to lose
                self.world.kill(host, power=power)
                self.world.after(fault.duration * (1 + number * fault.value), self.world.start, host)

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
            # TCP gives up some time later, if ever within the cut; each end by itself.
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
        others = [node for node in sorted(self.world.hosts) if node != fault.node]
        self._cut_links([pair for n in others for pair in ((fault.node, n), (n, fault.node))], fault)

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
        """Wait for a message of one type, and strike there: this is how rare moments become common ones."""
        dice = Random(f"ambush {fault.value}")
        kind, strike = dice.choice(AMBUSHED), dice.choice(STRIKES)
        world, end = self.world, self.world.now + 5.0

        def rule(sender: int, to: int, message: PeerMessage) -> bool:
            if type(message) is not kind and world.now < end:
                return False
            world.rules.remove(rule)
            if self.calm or world.now >= end:
                return False
            world.note(sender, f"AMBUSH {kind.__name__} to {to}: {strike}")
            return self._strike(strike, fault, sender, to, message)

        world.rules.append(rule)

    def _strike(self, strike: str, fault: Fault, sender: int, to: int, message: PeerMessage) -> bool:
        """Do it, in the next step; whether the message is kept back."""
        world = self.world
        match strike:
            case "late":
                world.after(fault.duration, world.deliver, sender, to, message)
                return True
            case "twice":
                world.after(fault.duration, world.deliver, sender, to, message)
                return False
            case "lost":
                return True
            case "kill sender" | "kill receiver" | "power sender" | "power receiver":
                kind = "kill" if strike.startswith("kill") else "power"
                node = sender if strike.endswith("sender") else to
                fault = Fault(at=0.0, kind=kind, node=node, duration=fault.duration)
                world.after(0.002 * world.rng.random(), self._kill if kind == "kill" else self._power, fault)
            case "isolate sender" | "isolate receiver":
                node = sender if strike.endswith("sender") else to
                fault = Fault(at=0.0, kind="isolate", node=node, duration=fault.duration, value=fault.value)
                world.after(0.002 * world.rng.random(), self._isolate, fault)
            case "pause sender":
                world.after(0.0, world.pause, sender, True)
                world.after(fault.duration, world.pause, sender, False)
        return False

    # --- disks and clocks ---

    def _slow(self, fault: Fault) -> None:
        host = self.world.hosts[fault.node]
        host.sync_time = (fault.value / 10, fault.value)
        self.world.after(fault.duration, self._fast, fault.node)

    def _fast(self, node: int) -> None:
        self.world.hosts[node].sync_time = (0.0005, 0.002)

    def _full(self, fault: Fault) -> None:
        self.world.hosts[fault.node].drive.fill(True)
        self.world.after(fault.duration, self.world.hosts[fault.node].drive.fill, False)

    def _fail_sync(self, fault: Fault) -> None:
        self.world.hosts[fault.node].drive.fail_sync()

    def _rot(self, fault: Fault) -> None:
        """A copy that nobody reads may be bad for long, so a segment has one bad copy until it is made anew.
        What remains is enough if nothing else is lost: see `_power`.
        """
        dice, judge = Random(f"rot {fault.value}"), self.world.judge
        if judge.options.fsync != "each" and judge.wounded():
            return
        name = dice.choice(judge.perishable(fault.node)[-12:] or [""])  # mostly what is in use
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

    def _transfer(self, fault: Fault) -> None:
        """Each node that believes to lead Raft hands over, if it can."""
        for host in self.world.live():
            controller = host.controller
            if controller is not None and controller.raft.role is Role.LEADER and not host.paused:
                controller.raft.transfer_leadership(fault.peer, host.clock(self.world.now))
                self.world.turn(host.id)

    def _join(self, fault: Fault) -> None:
        host = self.world.hosts.get(fault.node)
        if host is None:
            self.world.join(fault.node)

    def _leave(self, fault: Fault) -> None:
        leaving = self.world.hosts[fault.node]
        asked = [host for host in self.world.live() if host.id != fault.node and not host.paused]
        if asked and not leaving.left and len(self.world.judge.membership.voters) > 3:
            call = ClientCall(Nobody(), asked[0].id, 1, self.world.now)
            self.world.ask(asked[0], call, Leave(fault.node))

    # --- the end of it ---

    def stop(self) -> None:
        """No more faults, and everything that was broken is mended."""
        self.calm = True
        world = self.world
        world.note(0, "all faults end")
        world.network.mend()
        world.network.weather = world.climate
        for node in sorted(world.hosts):
            host = world.hosts[node]
            host.drive.fill(False)
            self._fast(node)
            world.pause(node, False)
            world.set_clock(node, 1.0, 0.0)
            if not host.up and host.process:
                world.start(node)


def _about(fault: Fault) -> str:
    where = f"-> {fault.peer} " if fault.kind in ("cut", "stopped", "reset") else ""
    return f"{where}for {fault.duration:g} s" + (f", {fault.value:g}" if fault.value else "")
