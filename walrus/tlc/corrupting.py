"""The common part of all corruptions of recorded runs: how a run is searched, and how it is changed.

A kind of corruption is a function of a run and a source of randomness. It picks a place that suits it and
returns the run as it would have been recorded then, or None where no place suits it. The kinds are in
`corruptions.py` and, by the spec that refuses them, in `corruptions_raft.py`, `corruptions_delivery.py`,
`corruptions_retention.py` and `corruptions_publish.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeAlias, TypeVar

from walrus.tlc.trace_spec import Event, Run

Corruption: TypeAlias = Callable[[list[Event], Random], list[Event] | None]

Place = TypeVar("Place")


def those(run: Sequence[Event], *names: str) -> list[int]:
    """Return the places of the events with these names; an applied command goes by the name of its `op`."""
    return [place for place, event in enumerate(run) if event.get("op", event["ev"]) in names]


def pick(places: Iterable[Place], rng: Random) -> Place | None:
    """Return one of the places, or None if there are none."""
    known = list(places)
    return known[rng.randrange(len(known))] if known else None


def changed(run: list[Event], place: int, **values: Any) -> list[Event]:
    """Return the run with other values in the event at `place`."""
    return [*run[:place], {**run[place], **values}, *run[place + 1 :]]


def inserted(run: list[Event], place: int, event: Event) -> list[Event]:
    """Return the run with one more event, before the one at `place`."""
    return [*run[:place], event, *run[place:]]


def everywhere(run: list[Event], place: int, **values: Any) -> list[Event]:
    """Return the run in which all nodes record other values for the command that is applied at `place`."""
    same = {"ev": "Apply", "index": run[place]["index"], "op": run[place]["op"]}
    return [event | values if same.items() <= event.items() else event for event in run]


def firsts(run: Sequence[Event], *names: str) -> list[int]:
    """Return the places at which commands of these names are applied for the first time on any node."""
    found, last = [], 0
    for place, event in enumerate(run):
        if event["ev"] == "Apply" and event["index"] > last:
            last = event["index"]
            if event["op"] in names:
                found.append(place)
    return found


def corrupted(
    run: Run, kind: Corruption, count: int, rng: Random, read: Callable[[Run], object] = list
) -> list[list[Event]]:
    """Return up to `count` different corruptions of one kind of a run, none of them equal to the run.

    `read` returns what the spec reads of a run: a run that reads the same as the original is left out.
    """
    found: list[list[Event]] = []
    whole = read(run)
    for _ in range(4 * count):
        other = kind(list(run), rng)
        if other is not None and other not in found and read(other) != whole:
            found.append(other)
        if len(found) == count:
            break
    return found
