"""What an exploration found, as a film (`walrus/view/film.py`): a shortest counterexample, step by step.

A step of the search is one event on the lane of its server, or, if a message arrives, an arrow: it is drawn
as sent in the instant before, although it left when an earlier step caused it, and waited. Time counts steps.
"""

from __future__ import annotations

import re
from typing import Any

from walrus.sim import why
from walrus.sim.search import Exploration
from walrus.view.film import Broken, Event, Film, Lane, header

_ARRIVES = re.compile(r"(\d+) -> (\d+): (\w+)(.*)")
_AT = re.compile(r"(?:.*?\b(?:of|at|reaches) )?(\d+)\b")
_FIELD = re.compile(r"(\w+)=(\[.*\]|\(.*\)|\{.*\}|[^ ,]+)")


def film(outcome: Exploration, again: str = "") -> Film:
    """The film of a counterexample. ValueError if the search found none."""
    if outcome.violation is None:
        raise ValueError("the search found nothing that a film could show")
    violation, trail = outcome.violation, outcome.trail or [{1: {}}]
    nodes = sorted(trail[0])
    events = [Event(0.0, str(node), "look", "", state=trail[0][node] | {"up": True}) for node in nodes]
    last = 0
    for number, told in enumerate(outcome.path, 1):
        before = trail[min(number, len(trail)) - 1]
        after = trail[number] if number < len(trail) else before
        changed = {node: _new(before[node], after[node]) for node in nodes}
        events += _events(number, told, nodes)
        last = len(events) - 1
        events[last].state = changed.pop(int(events[last].lane))
        events += [Event(number, str(node), "look", "", state=new) for node, new in changed.items() if new]
    title = f"{violation.name}: a shortest counterexample"
    made = Film(header(title, [Lane(str(node), f"server {node}") for node in nodes], again=again), events)
    made.header.steps = True
    made.header.broken = Broken(violation.name, violation.what, last, why.why(violation.name))
    return made


def _events(number: int, told: str, nodes: list[int]) -> list[Event]:
    """One step of the search."""
    at = float(number)
    if message := _ARRIVES.match(told):
        sender, receiver, what, rest = message.groups()
        fields: dict[str, Any] = dict(_FIELD.findall(rest))
        if end := re.search(r", (and|on) .*$", rest):
            fields["then"] = end[0].removeprefix(", ")
        return [
            Event(at - 0.5, sender, "send", what, fields, peer=receiver, message=number),
            Event(at, receiver, "receive", what, fields, peer=sender, message=number),
        ]
    place = _AT.match(told)
    lane = place[1] if place and int(place[1]) in nodes else str(nodes[0])
    return [Event(at, lane, "step", told)]


def _new(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    return changed | {name: None for name in before if name not in after}
