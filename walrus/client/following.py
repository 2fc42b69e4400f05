"""GET and FETCH that wait for an entry, and following a topic: reading it to its end, and on as it grows.

A follower reads what is there in batches, as `scan` does. At the end it asks for one entry and lets the node
wait for it, which is answered as soon as there is one: no polling, and no pause between the entry's
acknowledgement and its arrival here. What came behind it is asked for in runs that double as long as they
are full. A segment that ends while it is waited for is answered with nothing: the follower goes on in the
next one.

A follower with a group is another thing, a worker of one: see `consuming.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeAlias

from walrus import protocol
from walrus.client import calls
from walrus.client.calls import Call, Entry, Found, name_bytes, number
from walrus.client.core import WALK, Pause, walk
from walrus.client.deliveries import FOLLOW_WAIT, milliseconds

Follow: TypeAlias = Generator[Call[Any] | list[Entry] | Pause, list[Any], None]


def get(topic: str, group: str, wait: float) -> Call[bytes | None]:
    """One GET, which waits for an entry if there is none."""
    at_once = calls.get_many(topic, 1, group)
    patience = milliseconds(wait, "wait")
    if not patience:
        return at_once
    if group == "":
        raise ValueError("a GET that waits is a group's: name one")
    frame = protocol.frame(b"GET %b %b %d" % (name_bytes(topic), name_bytes(group, "group"), patience))
    return replace(at_once, encode=lambda start, stop: frame, wait=patience / 1000, again=at_once)


def fetch(topic: str, segment: int, offset: int, wait: float) -> Call[Found | None]:
    """One FETCH, which waits for the entry if it is not there yet."""
    at_once = calls.fetch_many(topic, segment, offset, 1)
    patience = milliseconds(wait, "wait")
    if not patience:
        return at_once
    place = number(segment, "segment", 1), number(offset, "offset", 0)
    frame = protocol.frame(b"FETCH %b %d %d %d" % (name_bytes(topic), *place, patience))
    return replace(at_once, encode=lambda start, stop: frame, wait=patience / 1000, again=at_once)


def follow(topic: str, segment: int, offset: int) -> Follow:
    """Yields calls to make (and be sent their results) and entries, without end."""
    while True:
        segment, offset = yield from walk(topic, segment, offset)
        run = 1
        while found := calls.fetched((yield _next(topic, segment, offset, run))):
            yield calls.entries(segment, offset, found)
            offset += len(found)
            run = min(2 * run, WALK) if len(found) == run else 1


def _next(topic: str, segment: int, offset: int, run: int) -> Call[Found | None]:
    """The next run; one entry is waited for."""
    if run > 1:
        return calls.fetch_many(topic, segment, offset, run)
    return fetch(topic, segment, offset, FOLLOW_WAIT)
