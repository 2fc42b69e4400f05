"""Recorded runs for DeliveryTrace.tla: what happened to each consumer group that is read with RECEIVE.

Delivery.tla is about one group of one topic, so a run has one part for each group, and each part is followed
separately. The entries of a topic are numbered 1, 2, 3, ... through all segments, as far as these were
sealed; the segment numbers are the owners. An event about several entries becomes one event for each.

A topic that was trimmed or deleted is left out: Delivery.tla has neither (Retention.tla does).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from walrus.tlc.trace_spec import UNLIMITED, Event, Run, TraceSpec, begin_of, values_of
from walrus.tlc.trace_walrus import shortened

Group: TypeAlias = tuple[str, str]
"""(topic, group)"""

_STEPS: Final = ("Receive", "Withhold", "Return", "AckEntry", "StepOver", "NoteDead")
_SNAPSHOTS: Final = ("Snapshot", "SnapshotTopics")
_APPLIED: Final = ("CommitGroups", "MoveGroup", *_SNAPSHOTS)
WINDOW: Final = 1_000
"""How far above the mark entries may be out, for a run that does not say so."""


def _groups(run: Run) -> list[Group]:
    """Return the groups that some event is about."""
    found = set[Group]()
    gone = shortened(run)
    for event in run:
        if event["ev"] in (*_STEPS, "Answer"):
            found.add((event["topic"], event["group"]))
        elif event.get("op") in _APPLIED:
            found |= {(told[0], told[1]) for told in event.get("groups", ())}
    return sorted(key for key in found if key[0] not in gone)


class _Topic:
    """Where entries are in a topic, and which process leads each of its segments."""

    def __init__(self, run: Run, name: str) -> None:
        self._counts: dict[int, int] = {}
        self.leaders: dict[int, tuple[int, int]] = {}
        """Segment -> the node and the incarnation for which it was opened."""
        for event in run:
            if event.get("topic") != name:
                continue
            if event.get("op") == "RegisterTopic":
                self.leaders.setdefault(1, (event["leader"], event["incarnation"]))
            elif event.get("op") == "Seal":
                self._counts.setdefault(event["segment"], event["count"])
                self.leaders.setdefault(event["segment"] + 1, (event["leader"], event["incarnation"]))

    def before(self, segment: int, offset: int) -> int:
        """Return how many entries of the topic are before that position."""
        return sum(count for number, count in self._counts.items() if number < segment) + offset

    def entries(self, runs: Iterable[Sequence[int]]) -> list[int]:
        """Return the numbers of the entries in these runs of [segment, start, end]."""
        return [self.before(segment, at) + 1 for segment, start, end in runs for at in range(start, end)]


class _OfGroup:
    """Turns the events of a run into those of one group."""

    def __init__(self, run: Run, key: Group) -> None:
        self._name, self._group = key
        self._topic = _Topic(run, key[0])
        self._starts: dict[int, int] = {}
        self._owners: dict[int, int] = {}  # node -> the segment that its process leads, or led last

    def read(self, event: Event) -> list[Event]:
        """Return what the event means for this group."""
        name = str(event.get("op", event["ev"]))
        node: int = event.get("node", 0)
        if name == "Restart" and "current_term" not in event:
            self._starts[node] = event["incarnation"]
            self._owners.pop(node, None)
        elif name in _APPLIED:
            return self._applied(name, node, event)
        elif event.get("topic") != self._name:
            return []
        elif name == "RegisterTopic":
            self._leads(node, 1)
        elif name == "Seal":
            return self._sealed(node, event)
        elif name == "ProposeSeal" and "groups" in event:
            return [self._proposed(node, event)]
        elif event.get("group") == self._group:
            return self._step(name, node, event)
        return []

    def _leads(self, node: int, segment: int) -> None:
        """The node knows that `segment` is open: note it as owner if this very process leads it."""
        leader, incarnation = self._topic.leaders.get(segment, (0, 0))
        if leader == node and self._starts.get(node, incarnation) == incarnation:
            self._owners[node] = segment

    def _told(self, ev: str, node: int, **values: Any) -> Event:
        return {"ev": ev, "node": node, "owner": self._owners.get(node, 0), **values}

    def _state(self, states: Iterable[Sequence[Any]]) -> dict[str, Any] | None:
        """Return the state of this group among these; None if it is not there."""
        for group, generation, segment, offset, above in states:
            if group == self._group:
                low = self._topic.before(segment, offset)
                return {"generation": generation, "low": low, "done": self._topic.entries(above)}
        return None

    def _applied(self, name: str, node: int, event: Event) -> list[Event]:
        if name in _SNAPSHOTS:
            name = "Snapshot"  # of one topic, which is whole at once
            for topic, segment in event["topics"]:
                if topic == self._name:
                    self._leads(node, segment)
        state = self._state(told[1:] for told in event.get("groups", ()) if told[0] == self._name)
        if state is None:
            return []
        return [self._told(name, node, index=event["index"], keeps=False, **state)]

    def _sealed(self, node: int, event: Event) -> list[Event]:
        number, before = event["segment"], self._owners.get(node)
        self._leads(node, number + 1)
        state = self._state(event.get("groups", ())) or {"generation": 0, "low": 0, "done": []}
        values = {"index": event["index"], "from": number, "recovered": event.get("recovered", False)}
        keeps = before == number and not values["recovered"]
        handed = self._handed(event)
        return [self._told("Seal", node, keeps=keeps, out=handed, **values, **state)]

    def _handed(self, event: Event) -> list[int]:
        places = [place for group, out in event.get("handed", ()) if group == self._group for place in out]
        return [self._topic.before(*place) + 1 for place in places]

    def _proposed(self, node: int, event: Event) -> Event:
        state = self._state(event["groups"])
        noted = state["done"] if state else []
        return self._told("ProposeSeal", node, noted=noted, out=self._handed(event))

    def _step(self, name: str, node: int, event: Event) -> list[Event]:
        generation = event.get("generation", 0)
        if name == "Answer":
            entries = self._topic.entries(event["entries"])
            return [self._told(name, node, generation=generation, entries=entries)] if entries else []
        if name not in _STEPS:
            return []
        run = [event["segment"], event["start"], event["start"] + event["count"]]
        entries = self._topic.entries([run])
        return [self._told(name, node, generation=generation, entry=entry) for entry in entries]


def deliveries(run: Run) -> dict[str, list[Event]]:
    """Return the events of each group that is read with RECEIVE, with the values DeliveryTrace.tla reads."""
    parts = {}
    for key in _groups(run):
        reading = _OfGroup(run, key)
        parts[" ".join(key)] = [kept for event in run for kept in reading.read(event)]
    return parts


def _constants(whole: Sequence[Run], runs: Sequence[Run], _: set[int]) -> dict[str, str]:
    entries = values_of(runs, "entry", "entries", "done", "out", "noted", "low")
    owners = {owner + 1 for owner in values_of(runs, "owner", "from")}
    return {
        "Entries": str(max(entries, default=1)),
        "MaxOwners": str(max(owners, default=1)),
        "Window": str(max((begin_of(run).get("queue_window", WINDOW) for run in whole), default=WINDOW)),
        "DeadLetters": "TRUE",
        **dict.fromkeys(("MaxSeeks", "MaxRecords"), UNLIMITED),
    }


DELIVERY = TraceSpec(
    name="Delivery",
    parts=deliveries,
    constants=_constants,
    step_constraint="SoundStep",
)
