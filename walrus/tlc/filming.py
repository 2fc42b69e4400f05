"""A counterexample of TLC as a film (`walrus/view/film.py`): each state, what changed, and the action.

A state has no processes and no messages, only variables. A variable that is a function of the nodes is shown
at each node, and all others on a lane of their own. An action is on the lane of the node that it changed:
the first of several, the spec's lane if none. Time is the number of the state.
"""

from __future__ import annotations

import re
from typing import Any

from walrus.tlc.run import TlcResult, steps
from walrus.tlc.values import Function, TlaRecord, Value, format_value, parse_value
from walrus.view.film import Broken, Event, Film, Lane, header

SPEC = "spec"
_NODE = re.compile(r"[ns]\d+$")


def film(result: TlcResult, again: str = "") -> Film:
    """Return the film of a counterexample; without a counterexample a film without events."""
    whole = [_by_lane(state.variables) for state in result.states]
    nodes = sorted({lane for state in whole for lane in state if lane != SPEC}, key=lambda n: (len(n), n))
    events: list[Event] = []
    before: dict[str, dict[str, Any]] = {}
    for (state, changed), after in zip(steps(result), whole, strict=True):
        new = {lane: _new(before.get(lane, {}), after.get(lane, {})) for lane in [*nodes, SPEC]}
        moved = [lane for lane in nodes if new[lane]]
        at = moved[0] if moved and events else SPEC
        fields = {place: f"{old or '(nothing)'} → {value or '(nothing)'}" for place, old, value in changed}
        events.append(Event(float(state.number), at, "step", state.action, fields=fields, state=new[at]))
        events += [
            Event(float(state.number), lane, "look", "", state=change)
            for lane, change in new.items()
            if change and lane != at
        ]
        before = after
    lanes = [*(Lane(node, node) for node in nodes), Lane(SPEC, "spec", "node")]
    made = Film(header(f"{result.config}: {result.violated} is violated", lanes, again=again), events)
    made.header.about, made.header.steps = result.message, True
    if result.violated:
        last = max((n for n, event in enumerate(events) if event.kind == "step"), default=-1)
        made.header.broken = Broken(result.violated, result.message, last)
    return made


def _by_lane(variables: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the variables of a state by lane: those of each node, and the rest."""
    lanes: dict[str, dict[str, Any]] = {SPEC: {}}
    for name, text in variables.items():
        try:
            value = parse_value(text)
        except ValueError:  # a value that only TLC can parse
            lanes[SPEC][name] = text
            continue
        if _per_node(value):
            assert isinstance(value, Function), "only functions are of nodes"
            for node, part in value.items():
                lanes.setdefault(str(node), {})[name] = format_value(part)
        else:
            lanes[SPEC][name] = format_value(value)
    return lanes


def _per_node(value: Value) -> bool:
    if not isinstance(value, Function) or isinstance(value, TlaRecord) or not value:
        return False
    return all(isinstance(key, str) and bool(_NODE.match(key)) for key in value)


def _new(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    return changed | {name: None for name in before if name not in after}
