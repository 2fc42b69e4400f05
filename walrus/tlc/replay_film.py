"""A behaviour of the spec that ends differently on the code, as a film (`walrus/view/film.py`).

Up to the step before the last, spec and code agree after each step, so one picture shows both: role, term,
vote, log and commit index of each server. The last step shows what the code made of it, and beside that what
the spec has instead: `log in the spec`, for the servers and the fields that differ. The variable that
differs is the film's broken name, with both of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec

from walrus.raft import Role
from walrus.tlc.replay_raft import RealServer
from walrus.tlc.replay_steps import SpecState
from walrus.view.film import Broken, Event, Film, Lane, header

Picture = dict[str, Any]


class Shot(msgspec.Struct, frozen=True):
    """The state after a step, in the spec and in the code."""

    number: int
    action: str
    node: int
    """The server that took the step; 0 at the beginning."""
    spec: dict[int, Picture]
    code: dict[int, Picture]


class Footage:
    """Observes behaviours as they are performed, and keeps the shots of the first one that differs."""

    def __init__(self) -> None:
        self.shots: list[Shot] = []
        self.broken: tuple[str, str] | None = None
        """The variable that differs, and the description of the difference."""

    def note(
        self, number: int, action: str, node: int, spec: SpecState, servers: Mapping[int, RealServer]
    ) -> None:
        """A step was performed; number 0 begins another behaviour."""
        if self.broken is None:
            if not number:
                self.shots.clear()
            expected = {server: _in_the_spec(spec, server) for server in sorted(spec["role"])}
            code = {server: _in_the_code(servers[server]) for server in sorted(servers)}
            self.shots.append(Shot(number, action, node, expected, code or expected))

    def differs(self, variable: str, what: str) -> None:
        """Spec and code differ after the last shot."""
        self.broken = self.broken or (variable, what)


def film(footage: Footage, again: str = "") -> Film:
    """Return the film of a difference. Raises ValueError if there was none."""
    if footage.broken is None:
        raise ValueError("spec and code came to the same: there is nothing that a film could show")
    first, variable, what = footage.shots[0], *footage.broken
    lanes = [Lane(str(node), f"server {node}") for node in first.code]
    events = [Event(0.0, str(node), "look", "", state=first.code[node] | {"up": True}) for node in first.code]
    last = 0
    for before, shot in pairwise(footage.shots):
        told, here = _changes(before, shot), str(shot.node or next(iter(shot.code)))
        last = len(events)
        now = float(shot.number)
        events.append(Event(now, here, "step", shot.action, state=told.pop(here, {})))
        events += [Event(now, lane, "look", "", state=new) for lane, new in told.items() if new]
    events[last].fields["differs"] = what
    made = Film(header(f"{variable}: the spec and the code part", lanes, again=again), events)
    made.header.steps = True
    why = "Raft.tla and walrus/raft.py took the same steps and came apart here: one of them is wrong."
    made.header.broken = Broken(variable, what, last, why)
    return made


def _changes(before: Shot, shot: Shot) -> dict[str, Picture]:
    """Return by lane what a step changed in the code, and the spec's value where that differs."""
    told: dict[str, Picture] = {}
    for node, picture in shot.code.items():
        new = {name: value for name, value in picture.items() if before.code[node].get(name) != value}
        expected = shot.spec[node]
        apart = {f"{name} in the spec": expected[name] for name in picture if picture[name] != expected[name]}
        told[str(node)] = new | {name: _words(value) for name, value in apart.items()}
    return told


def _in_the_code(server: RealServer) -> Picture:
    raft = server.raft
    role = Role.FOLLOWER if raft.role is Role.LEARNER else raft.role
    terms = [entry.term for entry in server.shown()]
    return _picture(role.value, raft.current_term, raft.voted_for or 0, terms, raft.commit_index)


def _in_the_spec(spec: SpecState, node: int) -> Picture:
    terms = [entry["term"] for entry in spec["log"][node]]
    term, vote = spec["current_term"][node], spec["voted_for"][node]
    return _picture(spec["role"][node], term, vote, terms, spec["commit_index"][node])


def _picture(role: str, term: int, vote: int, terms: list[int], commit: int) -> Picture:
    ends = [[here, at] for at, here in enumerate(terms, 1) if terms[at : at + 1] != [here]]
    return {"role": role, "term": term, "vote": vote or None, "log": [[0, 0], *ends], "commit": commit}


def _words(value: object) -> str:
    """Return a value as text, since the page draws only the state of the code."""
    if isinstance(value, list):
        return ", ".join(f"term {term} to index {at}" for term, at in value[1:]) or "empty"
    return "none" if value is None else str(value)
