"""What real nodes recorded with `--trace`, as a film: their steps in the order of their common clock.

A recorded run (docs/model-checking.md) holds what the specs know of: steps with their values, no messages.
So there are no arrows, and of a node's state only what a step says of it. Files of several nodes of one
machine merge by their clock.
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
"""Values of Raft's steps that are the state after it, and their names in a film."""

DOWN, UP = frozenset({"Crash", "PowerLoss"}), frozenset({"Restart"})


def film(files: Iterable[Path]) -> Film:
    """Return the film of these files. Raises FilmError, which names file and line, and OSError."""
    paths = list(files)
    steps = [step for path in paths for step in _steps(path)]
    steps.sort(key=lambda step: step.get("at", 0))
    begin = min((step["at"] for step in steps if "at" in step), default=0)
    events = [_event(number, step, begin) for number, step in enumerate(steps)]
    nodes = sorted({event.lane for event in events}, key=lambda name: (len(name), name))
    lanes = [Lane(node, f"node {node}") for node in nodes]
    made = Film(header(", ".join(path.name for path in paths), lanes), events)
    made.header.about = f"{len(events):,} recorded steps of {len(nodes)} nodes"
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
    kind = "down" if what in DOWN else "up" if what in UP else "step"
    if kind != "step":
        state["up"] = kind == "up"
    if "length" in step and "topic" in step and "segment" in step:
        length = step["length"]
        state[f"copy {step['topic']}/{step['segment']}"] = {"length": length, "durable": length}
    at = (step["at"] - begin) / 1e9 if "at" in step else number / 1000
    return Event(round(at, 6), node, kind, what, fields=fields, state=state)
