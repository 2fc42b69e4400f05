"""GET and FETCH that wait for an entry, and following a topic: reading it to its end, and on as it grows.

A follower reads the existing entries in batches, as `scan` does. At the end it fetches one entry and asks
the node to wait for it. The node answers as soon as the entry is acknowledged, so there is neither polling
nor delay. The follower then asks for the entries after it in runs, whose length doubles as long as they are
full. If the segment is sealed during the wait, the answer is EMPTY, and the follower continues in the next
segment.

Following with a group is different: see `consuming.py`.
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
    """One GET, which waits for an entry for up to `wait` seconds."""
    at_once = calls.get_many(topic, 1, group)
    patience = milliseconds(wait, "wait")
    if not patience:
        return at_once
    if group == "":
        raise ValueError("a GET that waits is a group's: name one")
    frame = protocol.frame(b"GET %b %b %d" % (name_bytes(topic), name_bytes(group, "group"), patience))
    return replace(at_once, encode=lambda start, stop: frame, wait=patience / 1000, again=at_once)


def fetch(topic: str, segment: int, offset: int, wait: float) -> Call[Found | None]:
    """One FETCH, which waits for the entry for up to `wait` seconds."""
    at_once = calls.fetch_many(topic, segment, offset, 1)
    patience = milliseconds(wait, "wait")
    if not patience:
        return at_once
    place = number(segment, "segment", 1), number(offset, "offset", 0)
    frame = protocol.frame(b"FETCH %b %d %d %d" % (name_bytes(topic), *place, patience))
    return replace(at_once, encode=lambda start, stop: frame, wait=patience / 1000, again=at_once)


def follow(topic: str, segment: int, offset: int) -> Follow:
    """Yield calls, whose results are sent back, and entries, without end."""
    while True:
        segment, offset = yield from walk(topic, segment, offset)
        run = 1
        while found := calls.fetched((yield _next(topic, segment, offset, run))):
            yield calls.entries(segment, offset, found)
            offset += len(found)
            run = min(2 * run, WALK) if len(found) == run else 1


def _next(topic: str, segment: int, offset: int, run: int) -> Call[Found | None]:
    """The call for the next run; a run of one waits for its entry."""
    if run > 1:
        return calls.fetch_many(topic, segment, offset, run)
    return fetch(topic, segment, offset, FOLLOW_WAIT)
