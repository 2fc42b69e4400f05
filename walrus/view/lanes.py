"""Part of a film for a terminal: a column for each lane, a row for each event, messages as arrows.

        time  node 1               node 2               node 3
      0.4312  ● Timeout            │                    │
      0.4312  ○──RequestVote──────▶│                    │
      0.4312  ○──RequestVote───────┼────────────✗       │            lost
      0.4340  │◀──RequestVoteRe────●                    │

A message is drawn once: in the row of its arrival, or in that of its send if it is lost. The text of an
event is written across the neighbouring lanes, which have no event in that row. Clients have lanes only
where there is room: three nodes take all of 80 columns, and leave room for three clients in 160.
"""

from __future__ import annotations

from collections.abc import Sequence

from walrus.view.film import Event, Film, causal_past, causes

TIME = 10
"""The columns of the time."""
LEAST = 14
"""The least columns of a node's lane."""
ROOMY = 22
"""The least columns of a lane if clients have lanes, too. Clients that do not fit have no lane, but their
events are shown."""


def story(film: Film, at: int, most: int = 20) -> list[int]:
    """Return the last `most` events that led to event `at`, without minor events, looks, and the sends of
    messages whose arrival is shown.
    """
    past = causal_past(film.events, at)
    sends = causes(film.events)
    told = {sends[number] for number in past if sends[number] >= 0}
    shown = [number for number in past if number not in told and _is_told(film.events[number])]
    if at not in shown and film.events[at].kind != "look":
        shown.append(at)
    return shown[-most:]


def _is_told(event: Event) -> bool:
    return event.kind != "look" and not event.minor


def draw(film: Film, shown: Sequence[int], width: int = 80) -> list[str]:
    """Return the rows of these events, after a row with the names of the lanes."""
    used = {lane for number in shown for lane in (film.events[number].lane, film.events[number].peer)}
    lanes = [lane for lane in film.header.lanes if lane.id in used or lane.kind == "node"]
    nodes = [lane for lane in lanes if lane.kind == "node"][: max(1, (width - TIME) // LEAST)]
    others = [lane for lane in lanes if lane.kind != "node"][: max(0, (width - TIME) // ROOMY - len(nodes))]
    lanes = [lane for lane in lanes if lane in nodes or lane in others]
    each = (width - TIME) // max(1, len(lanes))
    place = {lane.id: TIME + order * each for order, lane in enumerate(lanes)}
    rows = [
        "time".rjust(TIME - 2) + "  " + "".join(lane.name[: each - 1].ljust(each) for lane in lanes).rstrip()
    ]
    last = -1.0
    for number in shown:
        event = film.events[number]
        time = (f"{event.at:.0f}" if film.header.steps else f"{event.at:.4f}") if event.at != last else ""
        last = event.at
        canvas = list(time.rjust(TIME - 2).ljust(width))
        for column in place.values():
            canvas[column] = "│"
        broken = film.header.broken
        here = broken is not None and broken.event == number
        _draw_event(canvas, event, place, f"{broken.name}: {broken.what}" if broken and here else "")
        rows.append("".join(canvas).rstrip())
    return rows


def _draw_event(canvas: list[str], event: Event, place: dict[str, int], broke: str) -> None:
    here, there = place.get(event.lane), place.get(event.peer)
    if event.kind in ("send", "receive") and here is not None and there is not None and not broke:
        start, end = (here, there) if event.kind == "send" else (there, here)
        _arrow(canvas, start, end, label(event), event.kind == "send" and event.lost)
    elif here is not None:
        sign = {"down": "✖", "up": "▲", "fault": "↯"}.get("fault" if broke else event.kind, "●")
        _beside(canvas, here, sign, _told(event, broke))
    else:
        _put(canvas, TIME, f"{event.lane}: {_told(event, broke)}")


def _told(event: Event, broke: str) -> str:
    """The label, the other end of a message that is not drawn as an arrow, and the violation."""
    if event.what.startswith("fails") and broke:
        return broke  # it says the same, with the name of the invariant
    other = {"send": f" to {event.peer}", "receive": f" from {event.peer}"}.get(event.kind, "")
    return f"{label(event)}{other}{': ' if broke else ''}{broke}"


def _beside(canvas: list[str], here: int, sign: str, text: str) -> None:
    """Write the text of an event to the right of its lane, or to the left if there is more room."""
    right, left = len(canvas) - here - 2, here - TIME - 1
    if len(text) <= right or right >= left:
        _put(canvas, here, f"{sign} {text}")
    else:
        _put(canvas, here - len(text[:left]) - 1, f"{text[:left]} {sign}")


def _arrow(canvas: list[str], start: int, end: int, text: str, lost: bool) -> None:
    """Draw an arrow between two columns, with its text in it."""
    low, high = min(start, end), max(start, end)
    for column in range(low + 1, high):
        canvas[column] = "┼" if canvas[column] == "│" else "─"
    canvas[start] = "○"
    if lost:
        middle = (low + high) // 2
        for column in range(middle, end) if end > start else range(end + 1, middle + 1):
            canvas[column] = " " if canvas[column] == "─" else "│"
        canvas[middle] = "✗"
    elif end > start:
        canvas[end - 1] = "▶"
    else:
        canvas[end + 1] = "◀"
    room = (high - low) // 2 - 4 if lost else high - low - 5
    begin = low + 3 if not lost or end > start else (low + high) // 2 + 2
    _put(canvas, begin, text[:room])


def _put(canvas: list[str], at: int, text: str) -> None:
    for offset, letter in enumerate(text):
        if at + offset < len(canvas):
            canvas[at + offset] = letter


SHOWN = ("term", "op", "length", "count", "start", "success", "granted", "fenced", "gap")
"""The fields that a picture has room for, in addition to the segment's name."""


def label(event: Event) -> str:
    """Return a short label of an event.

    >>> label(Event(0.1, "1", "send", "RequestVoteRequest", {"term": 3, "last_log_index": 9}))
    'RequestVote term=3'
    >>> label(Event(0.1, "1", "send", "Append", {"topic": "t", "segment": 2, "start": 0}))
    'Append t/2 start=0'
    """
    fields = event.fields
    where = f"{fields['topic']}/{fields.get('segment', '')}".rstrip("/") if fields.get("topic") else ""
    facts = [
        f"{name}={fields[name]}"
        for name in SHOWN
        if fields.get(name) not in (None, "") and fields[name] is not False
    ]
    return " ".join(part for part in (event.what.removesuffix("Request"), where, *facts[:3]) if part)
