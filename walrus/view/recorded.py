"""Recordings of real nodes (`--trace`) as films: their steps in the order of their common clock.

A recording (docs/traces.md) contains what the specs describe: steps with their values, but no
messages. So the film has no arrows, and only as much of a node's state as its steps contain. The files of
several nodes on one machine are merged by their clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from walrus.view.film import MAX_LINE, Event, Film, FilmError, Lane, header

STATE = {
    "role": "role",
    "current_term": "term",
    "commit_index": "commit",
    "voted_for": "vote",
}
"""The values of Raft's steps that belong to the state after the step, with their names in a film."""

KINDS = {"Crash": "down", "PowerLoss": "down", "Restart": "up", "Pause": "fault", "Resume": "fault"}
"""The kinds of steps that are not actions of the node itself."""

MINOR = frozenset({"Report", "Synced", "AcceptAppendEntriesRequest", "HandleAppendEntriesResponse"})
"""Routine steps of a healthy cluster, which a viewer hides unless asked."""


def film(files: Iterable[Path]) -> Film:
    """Return the film of these files. Raises FilmError, which names file and line, and OSError."""
    paths = list(files)
    return of_steps((step for path in paths for step in _steps(path)), ", ".join(path.name for path in paths))


def of_steps(recorded: Iterable[dict[str, Any]], title: str) -> Film:
    """Return the film of recorded steps, in any order."""
    steps = sorted(recorded, key=lambda step: step.get("at", 0))
    begin = min((step["at"] for step in steps if "at" in step), default=0)
    events = [_event(number, step, begin) for number, step in enumerate(steps)]
    nodes = sorted({event.lane for event in events}, key=lambda name: (len(name), name))
    lanes = [Lane(name, f"node {name}") if name.isdecimal() else Lane(name, name, "client") for name in nodes]
    made = Film(header(title, lanes), events)
    servers = sum(lane.kind == "node" for lane in lanes)
    made.header.about = f"{len(events):,} recorded steps of {servers} node{'' if servers == 1 else 's'}"
    return made


def _steps(path: Path) -> Iterable[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                step = msgspec.json.decode(line[:MAX_LINE], type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise FilmError(f"{path}:{number}: {error}") from None
            if not isinstance(step.get("ev"), str):
                raise FilmError(f'{path}:{number}: no recorded step: it has no "ev"')
            if step["ev"] != "Begin":
                yield step


def _event(number: int, step: Mapping[str, Any], begin: int) -> Event:
    what, node = step["ev"], str(step.get("node", "?"))
    fields = {name: value for name, value in step.items() if name not in ("ev", "node", "at")}
    state: dict[str, Any] = {shown: step[name] for name, shown in STATE.items() if name in step}
    kind = KINDS.get(what, "step")
    if kind in ("down", "up"):
        state["up"] = kind == "up"
    if what in ("Pause", "Resume"):
        state["paused"] = True if what == "Pause" else None
    if "length" in step and "topic" in step and "segment" in step:
        length = step["length"]
        state[f"copy {step['topic']}/{step['segment']}"] = {"length": length, "durable": length}
    at = (step["at"] - begin) / 1e9 if "at" in step else number / 1000
    return Event(round(at, 6), node, kind, what, fields=fields, state=state, minor=what in MINOR)
