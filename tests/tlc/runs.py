"""Runs written by hand, simulated, or made of others: corrupted, or with one event removed or altered."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from walrus.sim.mutants import find, planted, unasserted
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import simulate
from walrus.sim.trace import Recorder
from walrus.tlc.corrupting import Corruption, corrupted
from walrus.tlc.trace_spec import Event
from walrus.tlc.traces import read_lines

FAULTS = ("crash", "power", "pause", "network")
DEEP: Final = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


def recorded(seed: int, *, faults: Sequence[str] = FAULTS, **clients: Any) -> list[Event]:
    """A simulated run with faults, of one topic with these clients besides its producer."""
    options = Options(
        topics=1,
        producers=1,
        **{"consumers": 0, "fetchers": 0, "newcomers": 0, **clients},
        settings={**SETTINGS, "max_segment_entries": 6, "compact_entries": 20},
    )
    recorder = Recorder(options)
    simulate(seed, options, 2_000, faults, recorder.of)
    return read_lines(recorder.lines(), f"seed {seed}")


def with_bug(name: str, simulated: Callable[[int], list[Event]], seed: int) -> list[Event]:
    """Such a run of code with a planted bug, which no assertion of the code ends."""
    with planted(find(name)), unasserted():
        return simulated(seed)


def corrupted_runs(
    whole: Mapping[str, list[Event]], kinds: Mapping[str, Corruption], each: int
) -> dict[str, list[Event]]:
    """Each run, up to so many times in each way, as `kind: run, number`."""
    made = {}
    for name, run in whole.items():
        for what, kind in kinds.items():
            others = corrupted(run, kind, each, random.Random(f"{name} {what}"))
            made |= {f"{what}: {name}, {number}": other for number, other in enumerate(others)}
    return made


@dataclass(frozen=True)
class Runs:
    """The runs that a trace spec is held against: as they were simulated, corrupted, and of planted bugs."""

    simulated: Callable[[int], list[Event]]
    """Makes the run of a seed."""
    seeds: Sequence[int]
    kinds: Mapping[str, Corruption]
    bugs: Mapping[str, tuple[int, str]]
    """Planted bug -> the seed of a run that shows it, and how it is refused."""

    @cached_property
    def whole(self) -> dict[str, list[Event]]:
        return {f"seed {seed}": self.simulated(seed) for seed in self.seeds}

    @cached_property
    def corrupt(self) -> dict[str, list[Event]]:
        return corrupted_runs(self.whole, self.kinds, 3 if DEEP else 1)

    @cached_property
    def with_bugs(self) -> dict[str, list[Event]]:
        return {name: with_bug(name, self.simulated, seed) for name, (seed, _) in self.bugs.items()}

    @property
    def all(self) -> dict[str, list[Event]]:
        return self.whole | self.corrupt | self.with_bugs

    def unfit_kinds(self) -> set[str]:
        """The kinds of corruption that fit no run."""
        return set(self.kinds) - {name.split(":")[0] for name in self.corrupt}


def event(ev: str, node: int, **values: Any) -> Event:
    return {"ev": ev, "node": node, **values}


def place(run: list[Event], ev: str, node: int, which: int = 0) -> int:
    """Where the event is: of those of one name and node, the one with this number."""
    return [i for i, each in enumerate(run) if each.get("op", each["ev"]) == ev and each["node"] == node][
        which
    ]


def without(run: list[Event], ev: str, node: int, which: int = 0) -> list[Event]:
    at = place(run, ev, node, which)
    return run[:at] + run[at + 1 :]


def altered(run: list[Event], ev: str, node: int, which: int = 0, /, **values: Any) -> list[Event]:
    at = place(run, ev, node, which)
    return [*run[:at], {**run[at], **values}, *run[at + 1 :]]


def swapped(run: list[Event], ev: str, node: int, which: int = 0) -> list[Event]:
    """The event and its predecessor, the other way round."""
    at = place(run, ev, node, which)
    return [*run[: at - 1], run[at], run[at - 1], *run[at + 1 :]]


class Script:
    """A run of three nodes, written step by step; each event gets the state that a node would record."""

    def __init__(self, *, fsync_each: bool = True) -> None:
        self.events: list[Event] = [{"ev": "Begin", "fsync_each": fsync_each, "nodes": [1, 2, 3]}]
        self._copies: dict[tuple[int, str, int], dict[str, Any]] = {}
        self._commands: list[Event] = []

    def add(self, ev: str, node: int, **values: Any) -> None:
        self.events.append(event(ev, node, **values))

    def on(self, ev: str, node: int, segment: int, /, **values: Any) -> None:
        """An event that concerns a copy of topic `a`; `length` and `fenced` say what it led to."""
        fresh = {"length": 0, "durable": 0, "fenced": False, "sure": True}
        copy = self._copies.setdefault((node, "a", segment), fresh)
        copy |= {name: values.pop(name) for name in tuple(values) if name in copy}
        self.add(ev, node, topic="a", segment=segment, **copy, **values)

    def length(self, node: int, segment: int) -> int:
        copy = self._copies.get((node, "a", segment))
        return copy["length"] if copy else 0

    def sync(self, node: int, segment: int) -> None:
        """A sync is done, and the writer hears of it."""
        length = self.length(node, segment)
        self.add("Synced", node, topic="a", segment=segment, length=length)
        self.on("Report", node, segment, durable=length, told=length)

    def append(self, node: int, segment: int, count: int) -> None:
        """The writer appends, and syncs."""
        start = self.length(node, segment)
        self.on("LeaderAppend", node, segment, length=start + count, start=start, count=count)
        self.sync(node, segment)

    def take(self, node: int, segment: int, count: int) -> None:
        """A replica takes a frame, and syncs."""
        start = self.length(node, segment)
        self.on("ReplicaAppend", node, segment, length=start + count, start=start, count=count)
        self.sync(node, segment)

    def ack(self, node: int, segment: int, count: int, *heard: list[int]) -> None:
        self.on("Ack", node, segment, count=count, heard=list(heard))

    def fence(self, node: int, segment: int, *, sure: bool = True) -> None:
        self.on("Fence", node, segment, fenced=True, sure=sure)
        self.on("AnswerFence", node, segment, answer=[node, self.length(node, segment), sure])

    def copy(self, node: int, segment: int, length: int) -> None:
        """A replica extends its copy from another one, and says so when it is durable."""
        start = self.length(node, segment)
        self.on("CopyTail", node, segment, length=length, start=start)
        self.add("Synced", node, topic="a", segment=segment, length=length)
        self.on("AnswerCopy", node, segment, durable=length, copied=length)

    def deliver(self, node: int, segment: int, start: int, count: int, group: str = "") -> None:
        """Entries are handed out, and reach a client."""
        place = {"topic": "a", "group": group, "segment": segment}
        self.add("HandOut", node, **place, start=start, count=count)
        self.add("Confirm", node, **place, offset=start + count)

    def commit_cursor(self, *nodes: int, segment: int, offset: int, group: str = "") -> None:
        """Proposed by the first of the nodes, applied by all of them."""
        self.add("ProposeCursors", nodes[0], topic="a", group=group, segment=segment, offset=offset)
        self.command("CommitCursors", *nodes, cursors=[["a", group, segment, offset]])

    def command(self, op: str, *nodes: int, **values: Any) -> None:
        """The next command of Raft's log, applied by these nodes."""
        self._commands.append({"op": op, "index": len(self._commands) + 1, **values})
        for node in nodes:
            self.apply(node, len(self._commands))

    def apply(self, node: int, *indexes: int) -> None:
        """A node applies what others have applied already."""
        for index in indexes:
            self.add("Apply", node, **self._commands[index - 1])

    def register(self, *nodes: int, incarnation: int = 7) -> None:
        opened = {"leader": 1, "incarnation": incarnation, "replicas": [1, 2, 3]}
        self.command("RegisterTopic", *nodes, topic="a", **opened)

    def seal(self, *nodes: int, segment: int, count: int, leader: int, incarnation: int = 7) -> None:
        opened = {"leader": leader, "incarnation": incarnation, "replicas": [1, 2, 3]}
        self.command("Seal", *nodes, topic="a", segment=segment, count=count, **opened, cursors=[])

    def restart(self, node: int, incarnation: int, **lengths: int) -> None:
        """A process starts; `a_1=2`: with less in its copy of segment 1 than it had."""
        copies = []
        for (owner, topic, segment), copy in sorted(self._copies.items()):
            if owner == node:
                copy["length"] = copy["durable"] = lengths.get(f"{topic}_{segment}", copy["length"])
                copies.append([topic, segment, copy["length"], copy["fenced"]])
        self.add("Restart", node, incarnation=incarnation, copies=copies)
