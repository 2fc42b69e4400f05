"""What the corruptions of recorded runs have in common: how a run is searched, and how it is changed.

A kind of corruption is a function of a run and a source of randomness. It picks a place at which it fits and
gives the run as it would have been recorded, or None where it fits nowhere. The kinds stand in
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
    """Where the events of these names are; a command is named by what it did."""
    return [place for place, event in enumerate(run) if event.get("op", event["ev"]) in names]


def pick(places: Iterable[Place], rng: Random) -> Place | None:
    """One of them, or None if there are none."""
    known = list(places)
    return known[rng.randrange(len(known))] if known else None


def changed(run: list[Event], place: int, **values: Any) -> list[Event]:
    """The event at that place says something else."""
    return [*run[:place], {**run[place], **values}, *run[place + 1 :]]


def inserted(run: list[Event], place: int, event: Event) -> list[Event]:
    """One more event was recorded, before the one at that place."""
    return [*run[:place], event, *run[place:]]


def everywhere(run: list[Event], place: int, **values: Any) -> list[Event]:
    """All nodes record other values of the command that is applied at that place."""
    same = {"ev": "Apply", "index": run[place]["index"], "op": run[place]["op"]}
    return [event | values if same.items() <= event.items() else event for event in run]


def firsts(run: Sequence[Event], *names: str) -> list[int]:
    """Where commands are applied by the first node that does."""
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
    """Up to so many runs that this kind of corruption makes of one, no two alike, none the run itself.

    `read`: what the spec that they are for reads of a run. One that reads the same is not corrupted.
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
