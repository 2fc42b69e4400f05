"""A simulated run as a film (`walrus/view/film.py`): what was sent, what arrived, how each node changed.

The camera observes the world and changes nothing: it draws no random number and hands nothing to a node. So
filming does not change the run of a seed. Four things reach it:

    steps      what nodes record for the specs, under the names that the specs use (`of` is a recorder)
    messages   between nodes, when they are sent and when they arrive; requests of clients and their replies
    faults     what the world notes
    looks      the state of a node after each of its turns, of which the film keeps what is new

A film shows the part of a state that the protocols decide by: term, role, vote, log and commit index; for
the newest segments of each topic the copy, how much of it is durable, whether it is fenced or unsure, and
the lease; and the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from walrus.broker.controller import Controller
from walrus.consensus.log import RaftLog
from walrus.consensus.messages import AppendEntriesRequest, AppendEntriesResponse
from walrus.protocol import Request
from walrus.sim.calls import ClientCall
from walrus.sim.catalogue import Scenario
from walrus.sim.host import Host
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, Simulation, attempt
from walrus.sim.stage import watched
from walrus.sim.violation import Violation
from walrus.sim.why import sentences, why
from walrus.storage.batch import Batch
from walrus.view import film, html
from walrus.view.film import Broken, Event, Film, Lane
from walrus.view.links import links
from walrus.wire.effects import Trace
from walrus.wire.messages import PeerMessage

SHOWN_SEGMENTS = 3
"""How many of a topic's newest segments are shown. Older ones no longer change, except for repairs."""

MAX_TEXT = 120
"""The most characters of a field's value."""

MINOR = frozenset({"Confirm", "CommitCursors", "ReadIndex", "ReadIndexReply"})
"""Messages and commands that are frequent and seldom matter. Heartbeats are recognised by their content."""

KINDS = {
    "down": ("kill", "power", "dies", "halts"),
    "up": ("start ",),
    "fault": ("FAULT", "AMBUSH", "SIEVE", "SIG", "connection", "entry ", "fails"),
}
"""Kinds of events, each with the beginnings of the world's notes that belong to it."""

PAUSES: dict[str, dict[str, Any]] = {"SIGSTOP": {"paused": True}, "SIGCONT": {"paused": None}}
"""Notes that change the state of a lane."""

UNSHOWN = frozenset({"node", "at", "last_log_index", "last_log_term"})
"""Values of recorded steps that the state beside them repeats."""


class Camera:
    """Collects the events of one run."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._now: Callable[[], float] = lambda: 0.0
        self._messages: dict[tuple[str, str, int], tuple[int, object]] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._lanes: dict[str, Lane] = {}
        self._sent = 0
        self._beats: set[tuple[str, str]] = set()
        """(follower, leader) pairs whose latest AppendEntries was a heartbeat, like its answer."""

    def watch(self, now: Callable[[], float]) -> None:
        """Use this clock from now on."""
        self._now = now

    # --- what the world tells ---

    def of(self, node: int) -> Trace:
        """Return the recorder of one node's steps."""

        def trace(event: str, /, **values: object) -> None:
            shown = {name: _plain(value) for name, value in values.items() if name not in UNSHOWN}
            minor = shown.get("op") in MINOR or (
                event == "AcceptAppendEntriesRequest" and not shown.get("added")
            )
            if event == "HandleAppendEntriesResponse":
                minor = (str(shown.get("sender")), str(node)) in self._beats
            self._add(self._node(node), "step", event, fields=shown, minor=minor)

        return trace

    def noted(self, node: int, what: str) -> None:
        """Take an event of the world: a fault, a start, a death, or a message of a node to its operator."""
        lane = self._node(node) if node else self._lane(film.WORLD, "world", film.WORLD)
        kind = next((kind for kind, begins in KINDS.items() if what.startswith(begins)), "note")
        change = {"up": kind == "up"} if kind in ("down", "up") else PAUSES.get(what, {})
        after = {**self._states.get(lane, {}), **change}
        self._states[lane] = {name: value for name, value in after.items() if value is not None}
        self._add(lane, kind, what, state=change)

    def sent(self, host: Host, to: int, message: PeerMessage, copies: int) -> None:
        """A node sends a message that will arrive `copies` times."""
        self._leaves(self._node(host.id), self._node(to), message, lost=not copies)

    def arrives(self, host: Host, sender: int, message: PeerMessage) -> None:
        """A message arrives."""
        self._comes(self._node(sender), self._node(host.id), message)

    def asked(self, host: Host, call: ClientCall, request: Request) -> None:
        """A client's request reaches a node."""
        client, node = self._client(call), self._node(host.id)
        self._leaves(client, node, request, lost=False)
        self._comes(client, node, request)

    def replied(self, host: Host, call: ClientCall, data: bytes, count: int) -> None:
        """A node answers a client; the reply arrives in the same step."""
        client, node = self._client(call), self._node(host.id)
        size = int.from_bytes(data[:4], "little")
        first = str(_plain(data[4 : 4 + size].decode(errors="replace")))
        what = first.split(" ")[0] if first.startswith(("OK", "EMPTY", "ERR")) else "JSON"
        self._sent += 1
        fields = {"reply": first, "replies": count}
        self._add(node, "send", what, peer=client, message=self._sent, fields=fields)
        self._add(client, "receive", what, peer=node, message=self._sent, fields=fields)

    def looked(self, host: Host) -> None:
        """A turn of a node has ended: attach the changes of its state to its latest event."""
        assert host.controller is not None, "only a process that runs has turns"
        lane = self._node(host.id)
        now, before = picture(host.controller, host.clock(self._now())), self._states.get(lane, {})
        new = {name: value for name, value in now.items() if before.get(name) != value}
        new |= {name: None for name in before if name not in now}
        if not new:
            return
        self._states[lane] = now
        latest = self.events[-1] if self.events else None
        if latest is not None and latest.lane == lane and latest.at == self._now():
            latest.state = {**latest.state, **new}
        else:
            self._add(lane, "look", "", state=new)

    # --- the film ---

    def film(
        self, title: str, *, again: str = "", about: str = "", broken: tuple[str, str] | None = None
    ) -> Film:
        """Return everything so far as a film; `broken` is the (name, text) of the violation, if any."""
        order = {"node": 0, film.WORLD: 1, "client": 2}
        lanes = sorted(self._lanes.values(), key=lambda lane: (order[lane.kind], len(lane.id), lane.id))
        header = film.header(title, lanes, again=again, about=about)
        header.invariants = sentences()
        if broken is not None:
            name, what = broken
            last = max((n for n, event in enumerate(self.events) if event.kind != "look"), default=-1)
            header.broken = Broken(name, what, last, why(name))
        return Film(header, self.events)

    # --- inside ---

    def _add(self, lane: str, kind: str, what: str, **more: Any) -> None:
        self.events.append(Event(round(self._now(), 6), lane, kind, what, **more))

    def _lane(self, name: str, title: str, kind: str) -> str:
        if name not in self._lanes:
            self._lanes[name] = Lane(name, title, kind)
        return name

    def _node(self, node: int) -> str:
        return self._lane(str(node), f"node {node}", "node")

    def _client(self, call: ClientCall) -> str:
        name = getattr(call.owner, "name", "") or type(call.owner).__name__.lower()
        return self._lane(name, name, "client")

    def _leaves(self, sender: str, to: str, message: object, *, lost: bool) -> None:
        self._sent += 1
        self._messages[sender, to, id(message)] = self._sent, message  # kept, so that its id is not reused
        self._add(
            sender, "send", type(message).__name__, peer=to, message=self._sent, lost=lost,
            fields=fields_of(message), minor=self._is_minor(sender, to, message),
        )  # fmt: skip

    def _is_minor(self, sender: str, to: str, message: object) -> bool:
        match message:
            case AppendEntriesRequest(entries=entries):
                (self._beats.discard if entries else self._beats.add)((to, sender))
                return not entries
            case AppendEntriesResponse(success=success):
                return success and (sender, to) in self._beats
            case _:
                return type(message).__name__ in MINOR

    def _comes(self, sender: str, to: str, message: object) -> None:
        number, _ = self._messages.get((sender, to, id(message)), (0, None))
        self._add(
            to, "receive", type(message).__name__, peer=sender, message=number, fields=fields_of(message),
            minor=self._is_minor(sender, to, message),
        )  # fmt: skip


def picture(controller: Controller, now: float) -> dict[str, Any]:
    """Return what a film shows of a node's state."""
    raft = controller.raft
    shown: dict[str, Any] = {
        "up": True,
        "role": raft.role.value,
        "term": raft.current_term,
        "vote": raft.voted_for,
        "leader": raft.leader_id,
        "commit": raft.commit_index,
        "applied": controller.applied,
        "log": terms_of(raft.log),
    }
    held = controller.leases.held(now)
    for name, topic in controller.metadata.topics.items():
        if name in held:
            shown[f"lease {name}"] = held[name]
        for group, position in topic.cursors.items():
            shown[f"group {name} {group}"] = f"{position.segment}.{position.offset}"
        for number, segment in topic.numbered(topic.current - SHOWN_SEGMENTS + 1):
            if controller.config.node_id in segment.replicas:
                shown[f"copy {name}/{number}"] = _copy(controller, name, number)
    return shown


def _copy(controller: Controller, topic: str, number: int) -> dict[str, Any]:
    """Describe one copy: its length, how much of it is durable and acknowledged, and its marks."""
    copy, segment = controller.copies.get((topic, number)), controller.metadata.segment(topic, number)
    assert segment is not None, "only segments of the metadata are shown"
    shown: dict[str, Any] = {"length": copy.length, "durable": copy.durable, "leader": segment.leader}
    writer = controller.writers.of(topic, number)
    if writer is not None:
        shown["acknowledged"] = writer.commit_index
    if segment.sealed:
        shown["sealed"] = segment.count
    shown |= {mark: True for mark in ("fenced",) if copy.fenced}
    if not copy.sure:
        shown["unsure"] = True
    if (topic, number) in controller.copies.damaged:
        shown["damaged"] = True
    return shown


def terms_of(log: RaftLog) -> list[list[int]]:
    """Return a log as runs of [term, last index]; the first one is the snapshot's."""
    runs = [[log.snapshot_term, log.snapshot_index]]
    index = log.snapshot_index
    while index < log.last_index:
        term = log.term_at(index + 1)
        last = log.last_index_of_term(term, log.last_index)
        assert last is not None and last > index, "a term that is in the log ends in it"
        runs.append([term, last])
        index = last
    return runs


def fields_of(message: object) -> dict[str, Any]:
    """Return the fields that tell one message from another of its type."""
    names: Iterable[str] = getattr(message, "__struct_fields__", ())
    return {name: _plain(getattr(message, name)) for name in names}


def _plain(value: object) -> object:
    """Return a value as it is shown: short, and representable in JSON."""
    match value:
        case None | bool() | int() | float():
            return value
        case Batch():
            return f"{value.count} entries"
        case bytes() | bytearray() | memoryview():
            return f"{len(value)} bytes"
        case tuple() | list() if value and hasattr(value[0], "term"):
            return f"{len(value)} entries, {value[0].index} to {value[-1].index}"
        case str():
            return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
        case _:
            text = str(getattr(value, "value", value))
            return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def play(failure: FailedRun, options: Options, title: str, again: str) -> Film:
    """Run a failing schedule once more, filmed, and return the film with what broke."""
    camera = Camera()
    simulation = Simulation(failure.seed, options, failure.schedule, None, camera)
    outcome = attempt(simulation, failure.step, failure.calm_at)
    assert isinstance(outcome, FailedRun), "a camera changes nothing: the same schedule fails again"
    faults = "; ".join(
        f"{fault.kind} at {fault.at:.3f} s, node {fault.node}, for {fault.duration:.2g} s"
        for fault in failure.schedule
    )
    return camera.film(
        title, again=again, about=f"Faults: {faults or 'none is needed'}", broken=(outcome.name, outcome.what)
    )


def play_scenario(scenario: Scenario, seed: int, again: str) -> Film:
    """Play a scenario, filmed, whether it holds or not."""
    camera, broken = Camera(), None
    with watched(film=camera):
        try:
            scenario.run(seed)
        except Violation as violation:
            broken = violation.name, violation.what
    return camera.film(f"scenario {scenario.name}", again=again, about=scenario.about, broken=broken)


def write(film: Film, path: Path) -> None:
    """Write a film: as a page if the file's name ends in .html, otherwise as JSON lines."""
    if path.suffix == ".html":
        film.header.links = links(path)
        html.write(film, path)
    else:
        path.write_bytes(film.lines())
