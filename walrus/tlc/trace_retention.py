"""Recorded runs for RetentionTrace.tla: what happened to each topic that lost segments.

Retention.tla is about one topic name, one replica and one group. So a run has a part for each process start
that held something of such a topic; the topic's groups take turns in being the part's group. All parts have
the topic's commands, in the order of Raft's log, as recorded by the node that applied each first, and what
its writers did, on any node.

When a writer acknowledges an entry says little: the last report that completes its majority may be on its
way while the topic ends. What counts is when it took the entry. So a Put is where entries are appended
that will be acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from walrus.tlc.trace_spec import UNLIMITED, Event, Run, TraceSpec, values_of
from walrus.tlc.trace_walrus import shortened

Start: TypeAlias = tuple[int, int]
"""(node, number of one of its starts, from 0): the replica of a part."""

_COMMANDS: Final = ("RegisterTopic", "Seal", "EndTopic", "Trim", "DeleteTopic", "ConfigureTopic")
_MOVES: Final = ("CommitCursors", "CommitGroups", "MoveGroup")
_VALUES: Final = ("number", "protects", "segment", "old", "first", "born")
_TAKES: Final = ("LeaderAppend", "ReplicaAppend")
_STOPS: Final = ("ProposeSeal", "Recover")
_STEPS: Final = {
    **dict.fromkeys(_TAKES, "Take"),
    **{name: name for name in ("CopyTail", "Drop")},
    **dict.fromkeys(("HandOut", "Receive"), "Read"),
}


def _starts(run: Run) -> Iterator[tuple[Event, Start]]:
    """Yield each event with the process start that it belongs to."""
    numbers: dict[int, int] = {}
    acted = set[int]()
    for event in run:
        node = event.get("node", 0)
        if event["ev"] == "Restart" and "current_term" not in event:
            numbers[node] = numbers.get(node, -1 + (node in acted)) + 1
        acted.add(node)
        yield event, (node, numbers.get(node, 0))


class _Marks:
    """The segment of a group's next entry, as far as the topic's segments are sealed."""

    def __init__(self, topic: str, group: str) -> None:
        self._topic, self._group = topic, group
        self._counts: dict[int, int] = {}
        self._place: tuple[int, int] | None = None  # the last that was told

    def registered(self) -> None:
        """Begin another topic of the name, in which the group has no place yet."""
        self._place = None

    def sealed(self, segment: int, count: int) -> int:
        """Return the group's mark if it had read all of this segment, which ends here; else 0."""
        before = self._now()
        self._counts[segment] = count
        return after if (after := self._now()) != before else 0

    def _now(self) -> int:
        return self._advanced(*self._place) if self._place else 0

    def _advanced(self, segment: int, offset: int) -> int:
        while segment in self._counts and offset >= self._counts[segment]:
            segment, offset = segment + 1, 0
        return segment

    def of(self, event: Event) -> tuple[int, int]:
        """Return the group's mark and generation that the event has; 0 and 0 if it has none."""
        for topic, group, segment, offset in event.get("cursors", ()):
            if (topic, group) == (self._topic, self._group):
                self._place = segment, offset
                return self._now(), 0
        for told in event.get("groups", ()):
            topic, group, generation, segment, offset, _ = told if len(told) > 5 else [self._topic, *told]
            if (topic, group) == (self._topic, self._group):
                self._place = segment, offset
                return self._now(), generation
        return 0, 0


class _OfReplica:
    """Turns the events of a run into those of one topic, at one process start, with one group."""

    def __init__(self, topic: str, group: str, start: Start, acknowledged: Mapping[int, int]) -> None:
        """`acknowledged`: how many entries of each of the topic's segments ever were."""
        self._topic, self._start, self._acknowledged = topic, start, acknowledged
        self._marks = _Marks(topic, group)
        self._committed = 0

    def read(self, event: Event, of: Start) -> Iterator[Event]:
        """Yield what the event means for this part."""
        if event["ev"] == "Apply":
            if event["index"] > self._committed:
                self._committed = event["index"]
                yield from self._command(event)
            if of == self._start and self._concerned(event):
                yield {"ev": "Apply", "index": event["index"], "first": self._first(event)}
            return
        yield from self._of_writers(event)
        if of == self._start:
            yield from self._step(event)

    def _concerned(self, event: Event) -> bool:
        """Return whether the topic is of the event's index afterwards: a part of a snapshot has some only."""
        told = (*(name for name, _ in event.get("topics", ())), *event.get("gone", ()))
        return event["op"] != "SnapshotTopics" or self._topic in told

    def _first(self, event: Event) -> int:
        """Return the topic's first segment if the event has it, else 0."""
        if event["op"] in ("Snapshot", "SnapshotTopics"):
            return next((first for topic, first in event.get("retained", ()) if topic == self._topic), 0)
        ours = event.get("topic") == self._topic
        told: int = event.get("number" if event["op"] == "RegisterTopic" else "first", 0) if ours else 0
        return told

    def _command(self, event: Event) -> Iterator[Event]:
        name, ours = event["op"], event.get("topic") == self._topic
        told = {"ev": name, "index": event["index"]}
        if name in _COMMANDS and ours:
            moved = self._marks.sealed(event["segment"], event["count"]) if name == "Seal" else 0
            if name == "RegisterTopic":
                self._marks.registered()
            told |= {key: event[key] for key in _VALUES if key in event}
            yield {**told, "mark": self._marks.of(event)[0] or moved}
        elif name in _MOVES:
            mark, generation = self._marks.of(event)
            if mark:
                yield {**told, "mark": mark, "generation": generation}

    def _of_writers(self, event: Event) -> Iterator[Event]:
        if event.get("topic") != self._topic:
            return
        if event["ev"] in _STOPS:
            yield {"ev": "Stop", "segment": event["segment"]}
        elif event["ev"] == "LeaderAppend" and event["start"] < self._acknowledged.get(event["segment"], 0):
            yield {"ev": "Put", "segment": event["segment"]}

    def _step(self, event: Event) -> Iterator[Event]:
        if event["ev"] == "Restart" and "copies" in event:
            held = [
                segment for topic, segment, length, _ in event["copies"] if topic == self._topic and length
            ]
            if held:
                yield {"ev": "Found", "segments": held}
        elif event.get("topic") == self._topic and event["ev"] in _STEPS:
            yield {"ev": _STEPS[event["ev"]], "segment": event["segment"]}


def _groups(run: Run, topic: str) -> list[str]:
    """Return the groups of a topic that ever had a committed position; a nameless one if there are none."""
    found = {one[1] for event in run for one in event.get("cursors", ()) if one[0] == topic and len(one) == 4}
    for event in run:
        if event.get("op") in ("CommitGroups", "MoveGroup"):
            found |= {told[1] for told in event["groups"] if told[0] == topic}
    return sorted(found) or [""]


def _acknowledged(run: Run, topic: str) -> dict[int, int]:
    """Return how many entries of each segment were acknowledged.

    Those of a segment that an operator recovered by force are excused: its writer may go on.
    """
    told = [event for event in run if event.get("topic") == topic and event["ev"] in ("Ack", "Recover")]
    forced = {event["segment"] for event in told if event.get("forced")}
    acks = [event for event in told if event["ev"] == "Ack" and event["segment"] not in forced]
    return {event["segment"]: event["count"] for event in acks}  # the last of each says most


def retained(run: Run) -> dict[str, list[Event]]:
    """Return the events of each shortened topic at each process start, for RetentionTrace.tla."""
    parts: dict[str, list[Event]] = {}
    placed = list(_starts(run))
    for topic in sorted(shortened(run)):
        groups, acknowledged = _groups(run, topic), _acknowledged(run, topic)
        starts = dict.fromkeys(
            of for event, of in placed if event["ev"] in _STEPS and event.get("topic") == topic
        )
        for number, start in enumerate(starts):
            group = groups[number % len(groups)]
            reading = _OfReplica(topic, group, start, acknowledged)
            events = [kept for event, of in placed for kept in reading.read(event, of)]
            parts[f"{topic} {group}, start {start[1]} of node {start[0]}"] = events
    return parts


def _constants(_: Sequence[Run], runs: Sequence[Run], __: set[int]) -> dict[str, str]:
    numbers = values_of(runs, "segment", "segments", "number", "mark", "first", "old", "born")
    lives = sum(event["ev"] == "RegisterTopic" for run in runs for event in run)
    return {
        "MaxNumber": str(max(numbers, default=1) + 2),
        "MaxLives": str(lives + 1),
        "MaxSeeks": "0",
        "MaxLag": UNLIMITED,
        "Protect": "FALSE",
    }


RETENTION = TraceSpec(name="Retention", parts=retained, constants=_constants)
