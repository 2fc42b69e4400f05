"""How a recorded run becomes input for a spec: its events, the module TraceData, the constants.

A `TraceSpec` says for one spec which events of a run belong to it and with which values, what TraceData
defines besides the events, and how large the constants must be. This module writes that down as TLA+, in the
same way for every spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
Run: TypeAlias = Sequence[Event]

UNLIMITED = "1000000"
"""A budget that no run uses up."""

_SETS = {"replicas", "voters", "learners", "entries", "done", "noted", "out", "segments", "producers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpec:
    """How one spec follows a run."""

    name: str
    """The name of the spec; its `{name}Trace.tla` follows a run."""
    parts: Callable[[Run], Mapping[str, list[Event]]]
    """The events of a whole run that this spec knows, with the values that it reads.

    One part, named "", or one part for each thing that the spec is about, which is followed separately.
    """
    constants: Callable[[Sequence[Run], Sequence[Run], set[int]], dict[str, str]]
    """The spec's constants, from the whole runs, its own events of each run, and the set of nodes."""
    definitions: Callable[[Sequence[Run]], dict[str, str]] = lambda _: {}
    """What TraceData defines besides the events, from whole runs."""
    step_constraint: str = ""
    """What each step must satisfy, besides `Sound`, which each state must satisfy."""

    def module(self, whole: Sequence[Run], forest: Forest, stuck: tuple[int, int]) -> str:
        """Return the module TraceData; `forest` has this spec's events of the `whole` runs."""
        defined = {"StuckTrace": str(stuck[0]), "StuckAt": str(stuck[1])}
        defined |= self.definitions(whole) | forest.definitions()
        lines = [f"{name} == {text}" for name, text in defined.items()]
        return "\n".join(["---- MODULE TraceData ----", "EXTENDS Integers", *lines, "====", ""])

    def config(
        self, whole: Sequence[Run], runs: Sequence[Run], nodes: set[int], stuck: tuple[int, int]
    ) -> str:
        """Return the configuration; `stuck` = (run, event), from 1, asks for the state before that event."""
        lines = ["SPECIFICATION TraceSpec", "CONSTRAINT Sound"]
        lines += [f"ACTION_CONSTRAINT {self.step_constraint}"] if self.step_constraint else []
        lines += ["INVARIANT NotStuck"] if stuck[0] else []
        constants = self.constants(whole, runs, nodes)
        return "\n".join(
            [*lines, "CONSTANTS", *(f"  {name} = {text}" for name, text in constants.items()), ""]
        )


def in_one(events: Callable[[Run], list[Event]]) -> Callable[[Run], dict[str, list[Event]]]:
    """Return parts of a run for a spec that follows a run as a whole."""
    return lambda run: {"": found} if (found := events(run)) else {}


class Forest:
    """Runs that begin alike, stored once: each is a root, or branches off a root after `shared` events.

    And each different event is stored once, what branches off being a list of their numbers: runs that begin
    alike are mostly one run with one change, so they go on alike, too.
    """

    def __init__(self) -> None:
        self.root: list[int] = []
        """For each run the run that it branches off, from 0; a root has its own number."""
        self.shared: list[int] = []
        self.text = 0
        """So many characters are its events and their numbers in TraceData."""
        self._runs: list[Run] = []
        self._preambles: list[object] = []
        self._tails: list[list[int]] = []
        self._numbers: dict[str, int] = {}

    def add(self, run: Run, preamble: object) -> None:
        """Add a run. `preamble` is what it says about itself: only runs with equal ones can share events."""
        number = len(self._runs)
        roots = [other for other in range(number) if self.root[other] == other]
        alike = {
            other: common(run, self._runs[other]) for other in roots if self._preambles[other] == preamble
        }
        best = max(alike, key=lambda other: alike[other], default=number)
        shared = alike.get(best, 0)
        self.root.append(best if shared else number)
        self.shared.append(shared)
        self._runs.append(run)
        self._preambles.append(preamble)
        self._tails.append([self._number(_record(event)) for event in run[shared:]])

    def _number(self, record: str) -> int:
        if record not in self._numbers:
            self._numbers[record] = len(self._numbers) + 1
            self.text += len(record)
        number = self._numbers[record]
        self.text += len(f"{number}, ")
        return number

    def definitions(self) -> dict[str, str]:
        """Return the definitions that FollowTrace.tla needs."""
        forks = [
            {other + 1 for other, root in enumerate(self.root) if root == number != other}
            for number in range(len(self.root))
        ]
        return {
            "Roots": tla_set({root + 1 for root in self.root}),
            "Shared": f"<<{', '.join(map(str, self.shared))}>>",
            "Forks": f"<<{', '.join(map(tla_set, forks))}>>",
            "Events": _lines(self._numbers),
            "Traces": _lines(f"<<{', '.join(map(str, tail))}>>" for tail in self._tails),
        }

    def followed(self, reached: Mapping[int, int]) -> list[int]:
        """Return how far each run was followed; `reached` is what TLC printed, with runs counted from 1."""
        found = []
        for number, (root, shared) in enumerate(zip(self.root, self.shared, strict=True)):
            found.append(reached.get(number + 1, min(reached.get(root + 1, 0), shared)))
        return found


def common(run: Run, other: Run) -> int:
    """Return how many events two runs have in common at their beginning.

    >>> common([{"ev": "a"}, {"ev": "b"}], [{"ev": "a"}])
    1
    """
    count = 0
    for one, two in zip(run, other, strict=False):
        if one != two:
            break
        count += 1
    return count


def tla(value: object, name: str = "") -> str:
    """Return a value of an event in TLA+; lists under some names become sets.

    >>> tla("a"), tla([2, True]), tla([2, 1], "replicas")
    ('"a"', '<<2, TRUE>>', '{1, 2}')
    """
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    assert isinstance(value, list), f"a value that no event has: {value!r}"
    if name in _SETS:
        return tla_set(value)
    return f"<<{', '.join(map(tla, value))}>>"


def tla_set(values: Sequence[object] | set[Any]) -> str:
    """Return a set in TLA+, sorted."""
    return f"{{{', '.join(map(tla, sorted(values)))}}}"


def _lines(values: Iterable[str]) -> str:
    return "<<\n  " + ",\n  ".join(values) + "\n>>"


def _record(event: Event) -> str:
    return f"[{', '.join(f'{name} |-> {tla(event[name], name)}' for name in sorted(event))}]"


def values_of(runs: Sequence[Run], *names: str) -> set[Any]:
    """Return all values under these names, including those in lists."""
    found = set()
    for run in runs:
        for event in run:
            for name in names:
                value = event.get(name, [])
                found.update(value if isinstance(value, list) else [value])
    return found


def begin_of(run: Run) -> Mapping[str, Any]:
    """Return what the run says about itself in its first line; {} if it does not."""
    return run[0] if run and run[0]["ev"] == "Begin" else {}
