"""Recorded runs, checked against the specs: is this run one of their behaviours?

A run is a file of events in the format of docs/traces.md, one JSON object a line. It has events of
the data plane (`trace_walrus.py`), of Raft (`trace_raft.py`), of work queues (`trace_delivery.py`), of
topics that were trimmed or deleted (`trace_retention.py`) and of numbered entries (`trace_publish.py`), and
is checked against each spec that it has events of. The events become a TLA+ module (`TraceData`), which TLC
follows with WalrusTrace.tla (RaftTrace.tla, ...). That spec has one disjunct for each kind of event: the
spec's action, with the recorded values. A run is accepted if TLC reaches its end and every invariant holds
on the way. Otherwise the first event that nothing explains is reported, with the state of the spec just
before it. A spec that is about one thing of many, such as one consumer group, follows each separately.

This module merges the events of several files by their time and runs TLC: once for all runs together, as
far as its memory has room for them, and once more for the state before each refused event.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from walrus.tlc.run import SPEC_DIRECTORY, SpecError, TlcResult, TraceState, run_tlc
from walrus.tlc.trace_delivery import DELIVERY
from walrus.tlc.trace_publish import PUBLISH
from walrus.tlc.trace_raft import RAFT
from walrus.tlc.trace_retention import RETENTION
from walrus.tlc.trace_spec import Event, Forest, Run, TraceSpec, begin_of, tla
from walrus.tlc.trace_walrus import WALRUS
from walrus.tlc.values import Function, Value, format_value, parse_value

BRIEF_EVENTS = 50_000
"""Of runs with at most so many events, many of which begin alike, TLC makes some 10,000 states."""

MAX_TEXT = 2_000_000
"""Characters of events with which one JVM is full: TLC keeps what it has parsed, some 200 bytes for each."""

LONG = 300
"""Values in the state of a refused run are cut to so many characters: copies of segments can be long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceVerdict:
    """TLC's verdict on one run."""

    name: str
    spec: str
    """The spec that the run was checked against."""
    part: str = ""
    """The part of the run that was followed separately, such as a topic and its group; "" for all of it."""
    accepted: bool
    events: int
    """How many events of the run the spec knows."""
    followed: int
    """How many of them were followed."""
    refused: Event | None = None
    """The first event that is no step of the spec."""
    violated: str | None = None
    """An invariant that the run violates."""
    state: dict[str, str] = field(default_factory=dict)
    """The spec's variables just before the refused event."""

    def describe(self) -> str:
        """Return the verdict in one or a few lines for people."""
        name = f"{self.name}, {self.part}" if self.part else self.name
        if self.accepted:
            return f"{name}: accepted, {self.events} events of {self.spec}.tla"
        if self.violated:
            after = f"after {self.followed} of {self.events} events"
            return f"{name}: {self.violated} of {self.spec}.tla is violated {after}"
        where = f"{name}: event {self.followed + 1} of {self.events}"
        lines = [f"{where} is no step of {self.spec}.tla: {self.refused}"]
        lines += [f"    {name} = {value}" for name, value in self.around()]
        return "\n".join(lines)

    def around(self) -> list[tuple[str, str]]:
        """Return what belongs to the refused event's node, topic and segment in the state before it."""
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
    """Return a function's value at this node, topic or segment; TLC prints functions in three ways."""
    if isinstance(value, tuple) and isinstance(key, int) and 1 <= key <= len(value):
        return value[key - 1]
    if isinstance(value, Function) and isinstance(key, int):
        return value.get(key)
    if isinstance(value, Function) and isinstance(key, str):
        return value.get(key, value.get(tla(key)))
    return None


# --- reading -------------------------------------------------------------------------------------------


def read_lines(lines: bytes, name: str) -> list[Event]:
    """Return the events of one recording. Raises SpecError."""
    events: list[Event] = []
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            event = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise SpecError(f"not an event: {error}", name, number) from None
        if not isinstance(event.get("ev"), str):
            raise SpecError('an event needs "ev"', name, number)
        events.append(event)
    return events


def read_events(files: Iterable[Path]) -> list[Event]:
    """Return the events of one run; several files are merged by `at`. Raises SpecError."""
    events = [event for file in files for event in read_lines(file.read_bytes(), str(file))]
    if events and all("at" in event for event in events if event["ev"] != "Begin"):
        events.sort(key=lambda event: int(event.get("at", 0)))  # stable: equal times keep their order
    return events


# --- the verdict -----------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """What one spec follows separately: its events of a run, or of one thing that the run is about."""

    run: str
    name: str
    whole: Run
    events: Run


class _Parts:
    """Parts of runs that are checked against one spec together, in one JVM."""

    def __init__(self, spec: TraceSpec) -> None:
        self.spec, self.forest = spec, Forest()
        self.parts: list[_Part] = []

    def add(self, part: _Part) -> None:
        """Take one more; what begins as another part does is stored once."""
        self.parts.append(part)
        self.forest.add(part.events, self.spec.definitions([part.whole]))

    def follow(self, stuck: tuple[int, int], timeout: float) -> TlcResult:
        """Have TLC follow the parts, or with `stuck` look for the state before one event."""
        whole, events = [part.whole for part in self.parts], [part.events for part in self.parts]
        nodes = {node for run in whole for node in begin_of(run).get("nodes", [])}
        with tempfile.TemporaryDirectory(prefix="walrus-trace-") as scratch:
            directory = Path(scratch)
            (directory / "TraceData.tla").write_text(self.spec.module(whole, self.forest, stuck))
            config = directory / f"{self.spec.name.lower()}-trace.cfg"
            config.write_text(self.spec.config(whole, events, nodes, stuck))
            spec = directory / f"{self.spec.name}Trace.tla"
            spec.write_text((SPEC_DIRECTORY / spec.name).read_text())
            brief = sum(map(len, events)) <= BRIEF_EVENTS
            return run_tlc(spec, config, timeout=timeout, brief=brief)

    def state_before(self, part: _Part, at: int, timeout: float) -> TraceState | None:
        """Follow one part again, with an invariant that the state before its refused event violates."""
        alone = _Parts(self.spec)
        alone.add(part)
        states = alone.follow((1, at + 1), timeout).states
        return states[-1] if states else None


_PRINTED = re.compile(r'<<"(REACHED|BROKEN)", (\d+), (\d+)(?:, "(\w+)")?>>')


def _told(result: TlcResult, forest: Forest) -> tuple[list[int], dict[int, str]]:
    """Return how far each run was followed, and which runs (from 0) broke an invariant there."""
    reached, broken = dict[int, int](), dict[int, tuple[int, str]]()
    for line in result.printed:
        if found := _PRINTED.fullmatch(line):
            which, at = int(found[2]), int(found[3])
            if found[1] == "REACHED":
                reached[which] = max(reached.get(which, 0), at)
            else:
                broken.setdefault(which, (at, found[4]))
    followed, violated = forest.followed(reached), dict[int, str]()
    for number, (root, shared) in enumerate(zip(forest.root, forest.shared, strict=True)):
        at, name = broken.get(number + 1) or broken.get(root + 1, (0, ""))
        if name and (number == root or number + 1 in broken or at <= shared):
            followed[number], violated[number] = at, name
    return followed, violated


SPECS: Final = (WALRUS, RAFT, DELIVERY, RETENTION, PUBLISH)


def specs_of(run: Run) -> list[TraceSpec]:
    """Return the specs that a run has events of; that of the data plane if it has none at all."""
    return [spec for spec in SPECS if spec.parts(run)] or [WALRUS]


def validate(
    named: Mapping[str, Run],
    *,
    specs: Sequence[TraceSpec] | None = None,
    explain: bool = True,
    timeout: float = 3_000.0,
) -> list[TraceVerdict]:
    """Check whether each of these runs is a behaviour of the specs that it has events of. Raises TlcError.

    There is one verdict for each run, spec (`specs` restricts these) and part, and one JVM for each spec and
    MAX_TEXT characters. `explain` looks up the state before each refused event, which takes a run of TLC for
    each.
    """
    verdicts: dict[str, list[TraceVerdict]] = {name: [] for name in named}
    for spec in SPECS if specs is None else specs:
        parts = [
            _Part(name, part, run, events)
            for name, run in named.items()
            for part, events in (spec.parts(run) or ({"": []} if spec in specs_of(run) else {})).items()
        ]
        for batch in _batches(spec, parts):
            for part, verdict in zip(batch.parts, _held_against(batch, explain, timeout), strict=True):
                verdicts[part.run].append(verdict)
    return [verdict for of_run in verdicts.values() for verdict in of_run]


def _batches(spec: TraceSpec, parts: Iterable[_Part]) -> Iterator[_Parts]:
    """Put the parts together, in their order. The part that fills a batch is its last; none is cut."""
    batch = _Parts(spec)
    for part in parts:
        batch.add(part)
        if batch.forest.text >= MAX_TEXT:
            yield batch
            batch = _Parts(spec)
    if batch.parts:
        yield batch


def _held_against(batch: _Parts, explain: bool, timeout: float) -> list[TraceVerdict]:
    found = []
    followed, violated = _told(batch.follow((0, 0), timeout), batch.forest)
    for number, (part, at) in enumerate(zip(batch.parts, followed, strict=True)):
        broken = violated.get(number)
        stuck = at < len(part.events) and broken is None
        state = batch.state_before(part, at, timeout) if explain and stuck else None
        found.append(_verdict(batch.spec, part, at, violated=broken, state=state))
    return found


def _verdict(
    spec: TraceSpec, part: _Part, at: int, *, violated: str | None = None, state: TraceState | None = None
) -> TraceVerdict:
    refused = part.events[at] if at < len(part.events) and not violated else None
    return TraceVerdict(
        name=part.run,
        part=part.name,
        spec=spec.name,
        accepted=at == len(part.events) and not violated,
        events=len(part.events),
        followed=at,
        refused=refused,
        violated=violated,
        state=state.variables if state else {},
    )


def check_traces(files: Sequence[Path], *, timeout: float = 600.0) -> list[TraceVerdict]:
    """Check runs: each file is one run, or, if all events have times, the files are one run's nodes."""
    separate = {file.name: read_events([file]) for file in files}
    timed = all("at" in event for events in separate.values() for event in events if event["ev"] != "Begin")
    if len(files) > 1 and timed:
        return validate({"+".join(separate): read_events(files)}, timeout=timeout)
    return validate(dict(separate), timeout=timeout)
