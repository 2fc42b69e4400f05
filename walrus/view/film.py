"""Films: a recorded run as data: every event, its cause, and the state after it.

A film is a file of JSON objects, one per line. The first is the header. Each other one is an event, in the
order in which the events happened (for real nodes, by the clock that those of one machine share). Version 1:

    header   {"walrus": "film", "version": 1, "title": "...", "again": "...", "about": "...",
              "lanes": [["1", "node 1", "node"], ...], "broken": null or {"name", "what", "event"}}
    event    {"at": 0.0123, "lane": "1", "kind": "receive", "what": "AppendEntriesRequest",
              "fields": {"term": 2, ...}, "peer": "2", "message": 17, "state": {"term": 2, "commit": 9}}

`at` is in seconds. A *lane* is a process: a node, a client, or the world, which injects faults. The kinds:

    step      an action of the lane itself, under its name in the spec
    send      a message leaves; `lost` if it never arrives
    receive   a message arrives; `message` is that of its send, so a duplicate is received twice
    down, up  a process ends (kill -9, power loss, an orderly stop); a new one starts
    fault     the world injects a fault
    note      a line that a node logs for its operator
    look      no event: the state has changed

`state` holds the changes of the lane's state by the event: value by name, None for a value that is gone. A
name is that of the spec where it has one (`term`, `role`, `commit`, `log`), or `<thing> <name>` for one of
many (`copy orders/3`, `lease orders`, `group orders g`); `paused` marks a process that is stopped. The state
after an event is the sum of all changes up to it. So a film of 20,000 events stays small, and a viewer can
show what an event changed.

Invariant: in a film that `check` accepts, every event is of a known kind and on a known lane, and no message
arrives before it is sent.

Left out: the contents of messages, except for the fields that distinguish them; payloads are counted, not
stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

VERSION = 1

MAX_EVENTS = 20_000
"""The most events on one page. Of a longer film it shows a window around the violation, or the end."""

MAX_LINE = 1 << 20
"""The most bytes of the first line that are parsed, since a file of another kind may have no line ends."""

KINDS = ("step", "send", "receive", "down", "up", "fault", "note", "look")

WORLD = "world"


class FilmError(ValueError):
    """The input is not a film; the message says why."""


class Lane(msgspec.Struct, frozen=True, array_like=True):
    """A process: its id in events, its name, and its kind: `node`, `client` or `world`."""

    id: str
    name: str
    kind: str = "node"


class Broken(msgspec.Struct, frozen=True, omit_defaults=True):
    """The violation: the invariant's name, the judge's message, and the index of the event after which."""

    name: str
    what: str
    event: int
    why: str = ""
    """The purpose of the invariant, in a few sentences."""


class Header(msgspec.Struct, omit_defaults=True):
    """The description of a film."""

    walrus: str = ""
    version: int = 0
    title: str = ""
    again: str = ""
    """The command that repeats the run."""
    about: str = ""
    steps: bool = False
    """Whether `at` counts steps, as in a counterexample, instead of seconds."""
    lanes: list[Lane] = []
    broken: Broken | None = None
    opens: int = 0
    """The event at which the page opens, if there is no violation."""
    invariants: list[tuple[str, str]] = []
    """The invariants that were checked after each event: name and description."""
    links: dict[str, list[tuple[str, str]]] = {}
    """References for events, by `what`: text and address ("": only text)."""


class Event(msgspec.Struct, omit_defaults=True):
    """One event; see the module's docstring."""

    at: float
    lane: str
    kind: str
    what: str
    fields: dict[str, Any] = {}
    peer: str = ""
    message: int = 0
    lost: bool = False
    minor: bool = False
    """A routine event, such as a heartbeat: a viewer hides it unless asked."""
    state: dict[str, Any] = {}


class Film(msgspec.Struct):
    """A header and its events."""

    header: Header
    events: list[Event]

    def check(self) -> None:
        """Raise FilmError if an event contradicts the header or earlier events."""
        lanes = {lane.id for lane in self.header.lanes}
        sent: set[int] = set()
        for number, event in enumerate(self.events):
            if event.lane not in lanes:
                raise FilmError(f"event {number} is on lane {event.lane!r}, and there is no such lane")
            if event.kind not in KINDS:
                raise FilmError(f"event {number} is of kind {event.kind!r}: {', '.join(KINDS)} are known")
            if event.kind == "send":
                sent.add(event.message)
            elif event.kind == "receive" and event.message and event.message not in sent:
                raise FilmError(f"event {number}: message {event.message} arrives before it is sent")
        broken = self.header.broken
        if broken is not None and not -1 <= broken.event < len(self.events):
            raise FilmError(f"{broken.name} is broken at event {broken.event} of {len(self.events)}")

    def lines(self) -> bytes:
        """Return the film as JSON lines."""
        encode = msgspec.json.Encoder().encode
        return b"".join(encode(one) + b"\n" for one in (self.header, *self.events))


def header(title: str, lanes: Iterable[Lane], *, again: str = "", about: str = "") -> Header:
    """Return the header of a new film."""
    return Header("film", VERSION, title, again, about, lanes=list(lanes))


def parse(lines: Iterable[bytes], name: str) -> Film:
    """Parse a film. Raises FilmError, which names the invalid line."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    head: Header | None = None
    events: list[Event] = []
    decode = msgspec.json.Decoder(Event).decode
    for number, line in numbered:
        try:
            if head is not None:
                events.append(decode(line))
                continue
            head = msgspec.json.decode(line[:MAX_LINE], type=Header)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FilmError(f"{name}:{number}: {error}") from None
        if head.walrus != "film":
            raise FilmError(f'{name} is not a film: its first line has no "walrus": "film"')
        if head.version != VERSION:
            raise FilmError(f"{name} is a film of version {head.version}; this release reads {VERSION}")
    if head is None:
        raise FilmError(f"{name} is empty")
    film = Film(head, events)
    film.check()
    return film


def read(path: Path) -> Film:
    """Read a film from a file. Raises FilmError, OSError."""
    with path.open("rb") as file:
        return parse(file, str(path))


def previous_on_lane(events: Sequence[Event]) -> list[int]:
    """Return for each event the index of the previous event on its lane; -1 if there is none."""
    last: dict[str, int] = {}
    before = []
    for number, event in enumerate(events):
        before.append(last.get(event.lane, -1))
        last[event.lane] = number
    return before


def causes(events: Sequence[Event]) -> list[int]:
    """Return for each receive event the index of its send; -1 for all other events."""
    sends: dict[int, int] = {}
    found = []
    for number, event in enumerate(events):
        if event.kind == "send":
            sends[event.message] = number
        found.append(sends.get(event.message, -1) if event.kind == "receive" else -1)
    return found


def causal_past(events: Sequence[Event], at: int) -> list[int]:
    """Return the events that happened before event `at`, and `at` itself, in order.

    These are earlier events of its own lane and, for each message received there, the events of the sender
    up to the send, and so on ("happened before": Lamport, "Time, clocks, and the ordering of events in a
    distributed system", 1978).

    >>> a, b = Event(0, "1", "step", "x"), Event(1, "1", "send", "m", message=1)
    >>> c, d = Event(1, "2", "step", "y"), Event(2, "2", "receive", "m", message=1)
    >>> causal_past([a, b, c, d], 3), causal_past([a, b, c, d], 2)
    ([0, 1, 2, 3], [2])
    """
    before, sent = previous_on_lane(events), causes(events)
    past, todo = {at}, [at]
    while todo:
        number = todo.pop()
        for cause in (before[number], sent[number]):
            if cause >= 0 and cause not in past:
                past.add(cause)
                todo.append(cause)
    return sorted(past)


def state_at(film: Film, at: int) -> dict[str, dict[str, Any]]:
    """Return every lane's state after event `at`."""
    states: dict[str, dict[str, Any]] = {lane.id: {} for lane in film.header.lanes}
    for event in film.events[: at + 1]:
        for name, value in event.state.items():
            if value is None:
                states[event.lane].pop(name, None)
            else:
                states[event.lane][name] = value
    return states


def window(film: Film, start: int | None = None, stop: int | None = None, most: int = MAX_EVENTS) -> Film:
    """Return the events `start` to `stop - 1` of a film, at most `most` of them, as a film.

    By default the window ends shortly after the violation, or at the end of the film. It begins with an
    event for each lane that sets the lane's state at that point.
    """
    broken = film.header.broken
    if stop is None:
        stop = len(film.events) if broken is None else min(len(film.events), broken.event + 1 + most // 20)
    if start is None:
        start = max(0, stop - most)
    stop = min(stop, start + most)
    if start <= 0 and stop >= len(film.events):
        return film
    assert 0 <= start <= stop <= len(film.events), "a window lies inside its film"
    at = film.events[start].at if start < len(film.events) else 0.0
    opening = [
        Event(at, lane, "look", f"as it was after {start:,} events", state=state)
        for lane, state in state_at(film, start - 1).items()
        if state
    ]
    sent = {event.message for event in film.events[start:stop] if event.kind == "send"}
    kept = [
        msgspec.structs.replace(event, message=0)
        if event.kind == "receive" and event.message not in sent
        else event
        for event in film.events[start:stop]
    ]
    opens = max(0, film.header.opens - start + len(opening))
    head = msgspec.structs.replace(film.header, broken=None, opens=opens)
    if broken is not None and start <= broken.event < stop:
        head.broken = msgspec.structs.replace(broken, event=broken.event - start + len(opening))
    return Film(head, opening + kept)
