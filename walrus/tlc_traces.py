"""Recorded runs, held against the spec: is this run one of its behaviours?

A run is a file of events in the format of docs/model-checking.md, one JSON object a line. It is turned into
a TLA+ module (`TraceData`), and TLC follows it with WalrusTrace.tla, which has one disjunct for each kind of
event: the spec's action, with the recorded values. A run is accepted if TLC gets to its end with every
invariant holding on the way. If not, the first event that nothing explains is reported, with the state of
the spec just before it.

What is done here before TLC sees a run: events of several files are merged by their time; Raft's events and
those of the data plane part; names of topics become strings; a node's incarnations are numbered 0, 1, ... in
the order of its starts; the commands that nodes apply become events of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from walrus.tlc_run import SPEC_DIRECTORY, SpecError, State, TlcResult, run_tlc
from walrus.tlc_values import Function, Value, format_value, parse_value

Event: TypeAlias = dict[str, Any]

LONG = 300
"""A value of a refused trace's state is cut to this length: copies of segments can be long."""

_SEGMENT_EVENTS = {
    *("LeaderAppend", "ReplicaAppend", "Report", "Ack", "Grant", "BeginSeal", "ProposeSeal", "Sure"),
    *("StartRecovery", "Fence", "Recover", "CopyTail", "RecoverySeal", "Deliver", "ProposeCursors"),
}
_APPLIED = {"RegisterTopic", "Seal", "CommitCursors", "SetReplicas", "Announce", "Snapshot"}
_WORLD = {"Crash", "PowerLoss", "Restart"}
_FIELDS = {
    *("ev", "node", "topic", "segment", "start", "count", "length", "sure", "group", "offset"),
    *("leader", "incarnation", "replicas", "of", "lengths", "all"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceVerdict:
    """What TLC says about one run."""

    name: str
    accepted: bool
    events: int
    """Events of the run that the spec knows."""
    followed: int
    """How many of them were followed."""
    refused: Event | None = None
    """The first event that is no step of the spec."""
    violated: str | None = None
    """An invariant that the run violates."""
    state: dict[str, str] = field(default_factory=dict)
    """The spec's variables just before the refused event."""

    def describe(self) -> str:
        """One or a few lines for people."""
        if self.accepted:
            return f"{self.name}: accepted, {self.events} events"
        if self.violated:
            return f"{self.name}: {self.violated} is violated after {self.followed} of {self.events} events"
        where = f"{self.name}: event {self.followed + 1} of {self.events}"
        lines = [f"{where} is no step of the spec: {self.refused}"]
        lines += [f"    {name} = {value}" for name, value in self.around()]
        return "\n".join(lines)

    def around(self) -> list[tuple[str, str]]:
        """Of the state before the refused event, what belongs to its node, topic and segment."""
        event, found = self.refused or {}, []
        for name, text in sorted(self.state.items()):
            value, place = parse_value(text), name
            for key in (event.get("node"), event.get("topic"), event.get("segment")):
                part = _part(value, key)
                if part is not None:
                    value, place = part, f"{place}[{key}]"
            shown = format_value(value)
            found.append((place, shown if len(shown) <= LONG else f"{shown[:LONG]} ..."))
        return found


def _part(value: Value, key: object) -> Value | None:
    """The value of a function at this node, topic or segment; TLC prints functions in three ways."""
    if isinstance(value, tuple) and isinstance(key, int) and 1 <= key <= len(value):
        return value[key - 1]
    if isinstance(value, Function) and isinstance(key, int):
        return value.get(key)
    if isinstance(value, Function) and isinstance(key, str):
        return value.get(key, value.get(_tla("", key)))
    return None


# --- reading -------------------------------------------------------------------------------------------


def read_lines(lines: bytes, name: str) -> list[Event]:
    """Events of one recording. Raises SpecError."""
    events: list[Event] = []
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            event = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise SpecError(f"not an event: {error}", name, number) from None
        if not isinstance(event.get("ev"), str):
            raise SpecError('an event needs "ev"', name, number)
        events.append(event)
    return events


def read_events(files: Iterable[Path]) -> list[Event]:
    """Events of one run; several files are merged by `at`. Raises SpecError."""
    events = [event for file in files for event in read_lines(file.read_bytes(), str(file))]
    if events and all("at" in event for event in events if event["ev"] != "Begin"):
        events.sort(key=lambda event: int(event.get("at", 0)))  # stable: equal times keep their order
    return events


class _Incarnations:
    """Numbers a node's process starts 0, 1, ... in the order in which they are first heard of.

    A node that acts before any start of it was heard of is in its start 0, whatever its number is.
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


def _starts_first(events: Sequence[Event]) -> list[Event]:
    """Each `Restart` before whatever its process already recorded while it was being put together.

    Raft is put together first, and its own Restart event marks the place.
    """
    found: list[Event] = []
    began: dict[int, int] = {}
    for event in events:
        if event["ev"] == "Restart" and "incarnation" in event:
            found.insert(began.pop(event["node"], len(found)), event)
            began = {}  # places behind the insertion have moved; starts of two nodes do not interleave
            continue
        if event["ev"] == "Restart":
            began[event["node"]] = len(found)
        found.append(event)
    return found


def _with_lengths(events: Sequence[Event]) -> list[Event]:
    """Each `PowerLoss` with the lengths that the node finds when it starts again."""
    found: list[Event] = []
    lengths: dict[int, object] = {}
    for event in reversed(events):
        if event["ev"] == "Restart" and "lengths" in event:
            lengths[event["node"]] = event["lengths"]
        if event["ev"] == "PowerLoss" and "lengths" not in event and event["node"] in lengths:
            event = {**event, "lengths": lengths[event["node"]], "all": True}
        found.append(event)
    return found[::-1]


def data_plane(events: Sequence[Event]) -> list[Event]:
    """The events that WalrusTrace.tla knows, with the values that it reads."""
    numbers, down, found = _Incarnations(), set[int](), list[Event]()
    for event in _with_lengths(_starts_first(events)):
        if "current_term" in event:
            continue  # Raft's
        name = event["op"] if event["ev"] == "Apply" else event["ev"]
        if name not in _SEGMENT_EVENTS | _APPLIED | _WORLD:
            continue
        node = event["node"]
        if name == "Crash" and node in down:
            continue
        if name in ("Crash", "PowerLoss"):
            down.add(node)
        elif name == "Restart":
            down.discard(node)
        kept = {key: value for key, value in event.items() if key in _FIELDS} | {"ev": name}
        if name == "PowerLoss":
            if "lengths" not in event:
                continue  # it never starts again, so nobody knows and nobody asks
            kept.setdefault("all", False)
        if name == "Restart":
            kept.pop("lengths", None)
            if numbers.restart(event["node"], event["incarnation"]) == 0:
                continue  # its first start: it is up from the beginning
        elif name == "Announce":
            if not numbers.knows(event["of"], event["incarnation"]):
                continue  # a member that has never started: the spec has no such state
            kept["incarnation"] = numbers.number(event["of"], event["incarnation"])
        elif name in ("RegisterTopic", "Seal"):
            kept["incarnation"] = numbers.number(event["leader"], event["incarnation"])
        if name == "Fence":
            kept.setdefault("sure", True)
        numbers.acts(node)
        found.append(kept)
    return found


# --- writing TLA+ ----------------------------------------------------------------------------------------


def _tla(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if name == "replicas":
        assert isinstance(value, list)
        return f"{{{', '.join(_tla('', item) for item in sorted(value))}}}"
    assert isinstance(value, list), f"a value that no event has: {value!r}"
    return f"<<{', '.join(_tla('', item) for item in value)}>>"


def _record(event: Event) -> str:
    return f"[{', '.join(f'{name} |-> {_tla(name, event[name])}' for name in sorted(event))}]"


def _module(traces: Sequence[Sequence[Event]], synced: bool, stuck: tuple[int, int]) -> str:
    written = ("<<\n" + ",\n".join("  " + _record(event) for event in trace) + "\n>>" for trace in traces)
    body = ",\n".join(written)
    return (
        "---- MODULE TraceData ----\nEXTENDS Naturals\n"
        f"EachIsSynced == {str(synced).upper()}\nStuckTrace == {stuck[0]}\nStuckAt == {stuck[1]}\n"
        f"Traces == <<\n{body}\n>>\n====\n"
    )


def _values(traces: Sequence[Sequence[Event]], *names: str) -> set[Any]:
    found = set()
    for trace in traces:
        for event in trace:
            for name in names:
                value = event.get(name, [])
                found.update(value if isinstance(value, list) else [value])
    return found


def _config(traces: Sequence[Sequence[Event]], nodes: set[int], stuck: tuple[int, int]) -> str:
    positions = [event for trace in traces for event in trace]
    segments = max((event.get("segment", 1) for event in positions), default=1) + 1
    entries = max(
        (event.get("start", event.get("length", 0)) + event.get("count", 0) for event in positions), default=0
    )
    topics = sorted(_values(traces, "topic")) or ["none"]
    check = (
        "NotStuck"
        if stuck[0]
        else (
            "Contents DomainConsistency AckedDurable NoWritesPastOpen SealedStable LastSealedIsSum "
            "OpenLeaderMatchesMap CursorInBounds"
        )
    )
    sets = {
        "Node": ", ".join(map(str, sorted(nodes | _values(traces, "node", "leader", "replicas", "of")))),
        "Topic": ", ".join(_tla("", topic) for topic in topics),
        "Group": ", ".join(_tla("", group) for group in sorted(_values(traces, "group"))),
    }
    constants = {name: f"{{{items}}}" for name, items in sets.items()} | {
        "ReplicationFactor": "3",
        "MaxSegments": str(segments),
        "MaxEntries": str(entries + 1),
        "SealAt": "0",
        "FsyncEach": "FALSE",
        "Leases": "FALSE",
        **dict.fromkeys(("MaxCrashes", "MaxPowerLosses", "MaxExpiries", "MaxReplicaChanges"), "1000000"),
        "Bug": '"none"',
    }
    lines = [f"  {name} = {value}" for name, value in constants.items()]
    head = ["SPECIFICATION TraceSpec", "CONSTRAINT Reached", f"INVARIANTS {check}", "CONSTANTS"]
    return "\n".join([*head, *lines, ""])


# --- the verdict -----------------------------------------------------------------------------------------


def _run(
    traces: Sequence[Sequence[Event]], nodes: set[int], synced: bool, stuck: tuple[int, int], timeout: float
) -> TlcResult:
    with tempfile.TemporaryDirectory(prefix="walrus-trace-") as scratch:
        directory = Path(scratch)
        (directory / "TraceData.tla").write_text(_module(traces, synced, stuck))
        config = directory / "walrus-trace.cfg"
        config.write_text(_config(traces, nodes, stuck))
        spec = directory / "WalrusTrace.tla"
        spec.write_text((SPEC_DIRECTORY / "WalrusTrace.tla").read_text())
        return run_tlc(spec, config, timeout=timeout)


def _followed(result: TlcResult, count: int) -> list[int]:
    reached = [0] * count
    for line in result.printed:
        if line.startswith('<<"REACHED"'):
            which, at = (int(part) for part in line.strip("<>").split(",")[1:])
            reached[which - 1] = max(reached[which - 1], at)
    return reached


def _begin(events: Sequence[Event]) -> Event:
    return events[0] if events and events[0]["ev"] == "Begin" else {}


def validate(
    named: Mapping[str, Sequence[Event]], *, explain: bool = True, timeout: float = 600.0
) -> list[TraceVerdict]:
    """Is each of these runs a behaviour of Walrus.tla? One JVM for all of them. Raises TlcError.

    `explain` has the state before each refused event looked up, which takes a run of TLC for each.

    A run that violates an invariant ends TLC's search, so the others are tried again without it.
    """
    verdicts: dict[str, TraceVerdict] = {}
    while len(verdicts) < len(named):
        left = {name: events for name, events in named.items() if name not in verdicts}
        verdicts.update(_validate(left, explain, timeout))
    return [verdicts[name] for name in named]


def _validate(named: Mapping[str, Sequence[Event]], explain: bool, timeout: float) -> dict[str, TraceVerdict]:
    names = list(named)
    traces = [data_plane(events) for events in named.values()]
    begins = [_begin(events) for events in named.values()]
    nodes = {node for begin in begins for node in begin.get("nodes", [])}
    synced = any(begin.get("fsync_each", False) for begin in begins)
    result = _run(traces, nodes, synced, (0, 0), timeout)
    if result.violated:
        last = result.states[-1].variables
        index, at = int(last["which"]) - 1, int(last["l"]) - 1
        return {names[index]: _verdict(names[index], traces[index], at, violated=result.violated)}
    found = {}
    for index, (name, at) in enumerate(zip(names, _followed(result, len(traces)), strict=True)):
        state = None
        if explain and at < len(traces[index]):
            state = _state_before(traces, nodes, synced, (index + 1, at + 1), timeout)
        found[name] = _verdict(name, traces[index], at, state=state)
    return found


def _verdict(
    name: str, trace: Sequence[Event], at: int, *, violated: str | None = None, state: State | None = None
) -> TraceVerdict:
    refused = trace[at] if at < len(trace) and not violated else None
    return TraceVerdict(
        name=name,
        accepted=at == len(trace) and not violated,
        events=len(trace),
        followed=at,
        refused=refused,
        violated=violated,
        state=state.variables if state else {},
    )


def _state_before(
    traces: Sequence[Sequence[Event]], nodes: set[int], synced: bool, stuck: tuple[int, int], timeout: float
) -> State | None:
    """Once more, with an invariant that the state before the refused event violates."""
    states = _run(traces, nodes, synced, stuck, timeout).states
    return states[-1] if states else None


def check_traces(files: Sequence[Path], *, timeout: float = 600.0) -> list[TraceVerdict]:
    """Validate runs: one file is one run, unless all have times, then they are one run's nodes."""
    separate = {file.name: read_events([file]) for file in files}
    timed = all("at" in event for events in separate.values() for event in events if event["ev"] != "Begin")
    if len(files) > 1 and timed:
        return validate({"+".join(separate): read_events(files)}, timeout=timeout)
    return validate(dict(separate), timeout=timeout)
