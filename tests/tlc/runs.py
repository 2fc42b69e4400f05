"""Events of a run, and a run with one event removed, altered, or swapped with the one before it."""

from __future__ import annotations

from typing import Any

from walrus.tlc.trace_spec import Event


def event(ev: str, node: int, **values: Any) -> Event:
    return {"ev": ev, "node": node, **values}


def place(run: list[Event], ev: str, node: int, which: int = 0) -> int:
    """Where the event is: of those of one name and node, the one with this number."""
    return [i for i, each in enumerate(run) if each.get("op", each["ev"]) == ev and each["node"] == node][
        which
    ]


def without(run: list[Event], ev: str, node: int, which: int = 0) -> list[Event]:
    at = place(run, ev, node, which)
    return run[:at] + run[at + 1 :]


def altered(run: list[Event], ev: str, node: int, which: int = 0, /, **values: Any) -> list[Event]:
    at = place(run, ev, node, which)
    return [*run[:at], {**run[at], **values}, *run[at + 1 :]]


def swapped(run: list[Event], ev: str, node: int, which: int = 0) -> list[Event]:
    """The event and its predecessor, the other way round."""
    at = place(run, ev, node, which)
    return [*run[: at - 1], run[at], run[at - 1], *run[at + 1 :]]
