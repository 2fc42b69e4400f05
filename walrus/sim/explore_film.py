"""What an exploration found, as a film (`walrus/view/film.py`): a shortest counterexample, step by step.

A step of the search is one event on the lane of its server. A message that arrives is an arrow: the film
draws it as sent half a step before, although it was sent by an earlier step and then waited. Time counts
steps.

If the counterexample is a committed entry that can still be lost (Figure 8 of the Raft paper), the page
explains in words which server can be elected without it, by whose votes, and why.
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
    """Return the film of a counterexample. Raises ValueError if the search found none."""
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
    reason = why.why(violation.name)
    if found := _not_safe(int(events[last].lane), trail[-1]):
        events[last].state |= {"commit": found[0]}  # it counted this majority before an assertion stopped it
        reason = f"{found[1]} {reason}"
    made.header.broken = Broken(violation.name, violation.what, last, reason)
    return made


def _not_safe(leader: int, servers: dict[int, dict[str, Any]]) -> tuple[int, str] | None:
    """Return the index at which a leader counts a majority that another server can override, and why."""
    logs = {node: _terms(state.get("log", [])) for node, state in servers.items()}
    if servers.get(leader, {}).get("role") != "Leader":
        return None
    for index, term in reversed(list(enumerate(logs[leader], 1))):
        holders = [node for node, log in logs.items() if log[index - 1 : index] == [term]]
        if 2 * len(holders) > len(servers):
            break
    else:
        return None
    for rival in sorted(set(servers) - set(holders)):
        voters = [node for node, log in logs.items() if _ends(log) <= _ends(logs[rival])]
        if 2 * len(voters) > len(servers):
            persuaded = [node for node in voters if node != rival]
            return index, (
                f"Entry {index}, of term {term}, is on {_named(holders)}: a majority, so server {leader}, "
                f"the leader of term {servers[leader]['term']}, takes it for committed. But server {rival} "
                f"lacks it and can still be elected: its log ends in term {_ends(logs[rival])[0]}, not "
                f"behind that of {_named(persuaded)}, and with its own vote that is a majority. As the next "
                f"leader it writes its own entry {index} over it."
            )
    return None


def _terms(runs: list[list[int]]) -> list[int]:
    """Expand runs of [term, last index] into the term of each entry."""
    terms: list[int] = []
    for term, end in runs:
        terms += [term] * (end - len(terms))
    return terms


def _ends(log: list[int]) -> tuple[int, int]:
    """Return what voters compare: the last term, then the length (paper §5.4.1)."""
    return (log[-1] if log else 0, len(log))


def _named(nodes: list[int]) -> str:
    names = [str(node) for node in nodes]
    return f"server {names[0]}" if len(names) == 1 else f"servers {', '.join(names[:-1])} and {names[-1]}"


def _events(number: int, told: str, nodes: list[int]) -> list[Event]:
    """Return the events of one step of the search."""
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
