"""Recorded runs for WalrusTrace.tla: the events of the data plane, with the values that the spec needs.

Names of topics stay strings; a node's incarnations are numbered 0, 1, ... in the order of its starts; the
commands that nodes apply become events of their own; a power loss gets the copies that the next start finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from walrus.tlc.trace_spec import (
    UNLIMITED,
    Event,
    Run,
    TraceSpec,
    begin_of,
    in_one,
    tla,
    tla_set,
    values_of,
)

_SEGMENT_EVENTS = {
    *("LeaderAppend", "ReplicaAppend", "Synced", "Report", "Ack", "Sure", "Grant", "BeginSeal"),
    *("ProposeSeal", "StartRecovery", "Fence", "AnswerFence", "Recover", "CopyTail", "AnswerCopy"),
    *("RecoverySeal", "Replace", "HandOut", "Confirm", "Rewind", "ProposeCursors"),
}
_APPLIED = {
    *("RegisterTopic", "Seal", "CommitCursors", "SetReplicas", "Announce", "MarkLeaving", "RemoveNode"),
    *("Voters", "Nothing", "Snapshot", "SnapshotTopics"),
}
_OTHERS = {"CommitGroups", "MoveGroup", "ConfigureTopic", "Trim", "DeleteTopic", "EndTopic"}
"""Commands that change nothing of the data plane, or only a topic that is not followed."""
_WORLD = {"Crash", "PowerLoss", "Restart"}
_FIELDS = {
    *("ev", "node", "topic", "segment", "start", "count", "length", "durable", "fenced", "sure", "told"),
    *("heard", "answer", "answers", "forced", "copied", "group", "offset", "cursors", "topics"),
    *("leader", "incarnation", "replicas", "of", "copies", "index", "voters"),
}


class _Incarnations:
    """Numbers a node's process starts 0, 1, ... in the order in which they first appear.

    A node that acts before any of its starts appears is in its start 0, whatever its incarnation.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._count: dict[int, int] = {}
        self._acted: set[int] = set()

    def acts(self, node: int) -> None:
        self._acted.add(node)

    def number(self, node: int, incarnation: int) -> int:
        if (node, incarnation) not in self._known:
            self._known[node, incarnation] = self._count.get(node, 0)
            self._count[node] = self._known[node, incarnation] + 1
        return self._known[node, incarnation]

    def knows(self, node: int, incarnation: int) -> bool:
        return (node, incarnation) in self._known

    def restart(self, node: int, incarnation: int) -> int:
        if node in self._acted:
            self._count.setdefault(node, 1)
        return self.number(node, incarnation)


def _with_copies(events: Sequence[Event]) -> list[Event]:
    """Return the events; each `PowerLoss` has the copies that the node finds at its next start."""
    found: list[Event] = []
    copies: dict[int, object] = {}
    for event in reversed(events):
        if event["ev"] == "Restart" and "copies" in event:
            copies[event["node"]] = event["copies"]
        if event["ev"] == "PowerLoss" and event["node"] in copies:
            event = {**event, "copies": copies[event["node"]]}
        found.append(event)
    return found[::-1]


class _Reading:
    """Turns the events of one run into those that WalrusTrace.tla knows, with the values that it reads."""

    def __init__(self) -> None:
        self._numbers = _Incarnations()
        self._down = set[int]()
        self._directories: dict[int, str] = {}

    def read(self, event: Event) -> Event | None:
        """Return the event for the spec; None if it does not belong to the data plane."""
        name = event["op"] if event["ev"] == "Apply" else event["ev"]
        if name in _OTHERS or name == "Nothing":
            return {"ev": "Nothing", "node": event["node"], "index": event["index"]}
        if "current_term" in event or name not in _SEGMENT_EVENTS | _APPLIED | _WORLD:
            return None
        node = event["node"]
        kept = {key: value for key, value in event.items() if key in _FIELDS} | {"ev": name}
        if name in _WORLD:
            return self._of_the_world(name, event, kept)
        if name == "Announce":
            self._announced(event, kept)
        elif name in ("RegisterTopic", "Seal"):
            kept["incarnation"] = self._numbers.number(event["leader"], event["incarnation"])
        self._numbers.acts(node)
        return kept

    def _announced(self, event: Event, kept: Event) -> None:
        known = self._numbers.knows(event["of"], event["incarnation"])
        if not known:  # admitted, not started yet: no state of the spec
            kept["ev"] = "Join"
            del kept["incarnation"]
        else:
            kept["incarnation"] = self._numbers.number(event["of"], event["incarnation"])

    def _of_the_world(self, name: str, event: Event, kept: Event) -> Event | None:
        node = event["node"]
        if name == "Crash" and node in self._down:
            return None
        if name == "PowerLoss" and "copies" not in event:  # its copies do not appear again
            kept["ev"], known = "Crash", node in self._down
            self._down.add(node)
            return None if known else kept
        if name != "Restart":
            self._down.add(node)
            return kept
        self._down.discard(node)
        directory = event.get("directory", "")
        before = self._directories.setdefault(node, directory)
        self._directories[node] = directory
        if before != directory:
            kept["ev"] = "Rejoin"
        kept.setdefault("copies", [])
        kept["incarnation"] = self._numbers.restart(node, event["incarnation"])
        if kept["incarnation"] == 0:
            return None  # its first start: the spec's nodes are up at the beginning
        self._numbers.acts(node)
        return kept


def shortened(events: Run) -> set[str]:
    """Return the topics that lost segments: Retention.tla is about those, and no other spec is."""
    return {event["topic"] for event in events if event.get("op") in ("Trim", "DeleteTopic", "EndTopic")}


def _retained(events: Sequence[Event]) -> Iterator[Event]:
    """Yield the events without the topics that lost segments."""
    gone = shortened(events)
    for event in events if gone else ():
        if event.get("topic") in gone:
            if event["ev"] == "Apply":
                yield {**event, "op": "Nothing"}
            continue
        lists: Event = {
            name: [one for one in event[name] if one[0] not in gone]
            for name in ("copies", "topics", "cursors")
            if name in event and event["ev"] in ("Apply", "Restart")
        }
        yield {**event, **lists}
    if not gone:
        yield from events


def data_plane(events: Sequence[Event]) -> list[Event]:
    """Return the events that WalrusTrace.tla knows, with the values that it reads."""
    reading = _Reading()
    told = _with_copies(list(_retained(events)))
    return [kept for event in told if (kept := reading.read(event)) is not None]


def _begins(run: Run) -> str:
    begin = begin_of(run)
    fields = {
        "fsync_each": begin.get("fsync_each", False),
        "exact": begin.get("exact", False),
        "factor": begin.get("replication_factor", 3),
    }
    return f"[{', '.join(f'{name} |-> {tla(value)}' for name, value in fields.items())}]"


def _definitions(runs: Sequence[Run]) -> dict[str, str]:
    return {"Begins": f"<<{', '.join(map(_begins, runs))}>>"}


class _Named:
    """All nodes, topics, groups, segments and lengths in the events: the constants must include them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.nodes = values_of(runs, "node", "leader", "replicas", "of")
        self.topics, self.groups = values_of(runs, "topic"), values_of(runs, "group")
        self.segments, self.lengths = values_of(runs, "segment"), values_of(runs, "length", "count", "told")
        for run in runs:
            for event in run:
                self._lists(event)

    def _lists(self, event: Event) -> None:
        for name in ("heard", "answers"):
            self.nodes |= {entry[0] for entry in event.get(name, ())}
        for *names, group, segment, _ in event.get("cursors", ()):
            self.topics |= set(names)
            self.groups.add(group)
            self.segments.add(segment)
        for topic, segment, *rest in [*event.get("copies", ()), *event.get("topics", ())]:
            self.topics.add(topic)
            self.segments.add(segment)
            self.lengths |= set(rest[:1])


def _constants(_: Sequence[Run], runs: Sequence[Run], nodes: set[int]) -> dict[str, str]:
    named = _Named(runs)
    segments = max(named.segments, default=1) + 1
    everyone = tla_set(nodes | named.nodes)
    events = [event for run in runs for event in run]
    opened = [len(event["replicas"]) for event in events if event["ev"] in ("RegisterTopic", "Seal")]
    return {
        "Node": everyone,
        "Topic": tla_set(named.topics or {"none"}),
        "Group": tla_set(named.groups),
        # Here all nodes are members from the beginning; a cluster that grew opened segments with fewer.
        "ReplicationFactor": str(min(opened, default=3)),
        "MaxSegments": str(segments),
        "MaxEntries": str(max(named.lengths, default=0) + 1),
        "SealAt": "0",
        "WriteTo": str(segments),
        "MayLead": everyone,
        "Begun": "FALSE",
        "FsyncEach": "TRUE",
        "Faults": '{"crash", "replicas"}',
        "Losses": '{"power"}',
        "Chores": '{"recovery"}',
        **dict.fromkeys(("MaxFaults", "MaxLosses"), UNLIMITED),
    }


WALRUS = TraceSpec(
    name="Walrus",
    parts=in_one(data_plane),
    definitions=_definitions,
    constants=_constants,
)
