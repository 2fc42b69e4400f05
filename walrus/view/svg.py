"""Part of a film as an SVG picture, for the documentation: a static version of the page's diagram.

Lanes run from left to right. A message is an arrow from its send to its arrival; the arrow of a lost message
ends in a cross. A lane's line has the colour of its term, and is thick while its node leads Raft. The
colours are those of the page's light theme. Every mark has its own shape, so the picture also works in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import inf, log1p
from typing import Any, NamedTuple

from walrus.view.film import Event, Film, Lane, causes
from walrus.view.lanes import label

ROW, TOP, LEFT = 64, 34, 96
TERMS = ("#8a949c", "#2f6fdb", "#c2410c", "#1f8a54", "#9333c9", "#b8860b", "#0e8fa3", "#c2185b")
INK, SOFT, BAD, HALTED = "#1d2327", "#667079", "#b3261e", "#c77700"
MARGIN = 150
"""The most pixels that the text of an event takes to its right."""
SMALL, MIDDLE = 'font-size="10"', 'text-anchor="middle"'
HALO = 'stroke="#ffffff" stroke-width="3" paint-order="stroke"'
"""A white outline around text, which keeps it readable on a line."""
LETTER, SMALL_LETTER = 6.4, 5.3
"""The approximate width of a letter, in pixels."""


def colour(term: int | None) -> str:
    """Return the colour of a term."""
    return TERMS[1 + (term - 1) % 7] if term else TERMS[0]


def picture(film: Film, shown: Sequence[int], title: str = "", widest: float = inf) -> str:
    """Return the SVG of these events, with the lanes of all nodes and of other processes that take part.

    A picture wider than `widest` pixels is broken into strips, one below the other.
    """
    lanes = _used(film, shown)
    drawings = [_Drawing(film, part, lanes) for part in _strips(film, shown, widest)]
    strip = TOP + len(lanes) * ROW
    body = [
        line
        for order, drawing in enumerate(drawings)
        for line in (f'<g transform="translate(0 {order * strip})">', *drawing.drawn(), "</g>")
    ]
    wide, tall = max(drawing.width for drawing in drawings), strip * len(drawings)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall}" width="{wide:.0f}" '
        f'height="{tall}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" role="img">'
    )
    return "\n".join(
        [head, f"<title>{escape(title or film.header.title)}</title>",
         f'<rect width="{wide:.0f}" height="{tall}" fill="#ffffff"/>', *body, "</svg>", ""]
    )  # fmt: skip


def _used(film: Film, shown: Sequence[int]) -> list[Lane]:
    """The lanes of these events, and those of all nodes."""
    used = {lane for number in shown for lane in (film.events[number].lane, film.events[number].peer)}
    return [lane for lane in film.header.lanes if lane.id in used or lane.kind == "node"]


def _strips(film: Film, shown: Sequence[int], widest: float) -> list[Sequence[int]]:
    """Split these events into strips of at most that width, where the fewest messages are in flight."""
    left, sends = list(shown), causes(film.events)
    strips: list[Sequence[int]] = []
    while True:
        x = _places(film, left)
        fit = sum(place <= widest - MARGIN for place in x.values())
        if fit == len(left):
            return [*strips, left]
        under_way = [sum(sends[late] in left[:cut] for late in left[cut:]) for cut in range(1, fit + 1)]
        cut = max(
            range(1, fit + 1), key=lambda cut: (-under_way[cut - 1], cut) if 2 * cut > fit else (-inf, cut)
        )
        strips.append(left[:cut])
        left = left[cut:]


def _places(film: Film, shown: Sequence[int]) -> dict[int, float]:
    """The horizontal position of each event; distances grow with the logarithm of the time between."""
    x: dict[int, float] = {}
    place, before = LEFT + 50.0, None
    for number in shown:
        if before is not None:
            apart = film.events[number].at - film.events[before].at
            place += 36 + (0.0 if film.header.steps else 22 * log1p(max(0.0, apart) / 0.0004))
        x[number], before = place, number
    return x


def _text(x: float, y: float, text: str, ink: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" {HALO} {more}>{escape(text)}</text>'


def _path(data: str, ink: str, more: str = "") -> str:
    return f'<path d="{data}" fill="none" stroke="{ink}" {more}/>'


def _cross(x: float, y: float, size: int) -> str:
    data = f"M{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"
    return _path(data, BAD, 'stroke-width="2"')


class Look(NamedTuple):
    """The part of a lane's state that its line shows."""

    term: int | None = None
    role: str | None = None
    up: bool | None = None
    paused: bool | None = None


def looks(film: Film, shown: Sequence[int]) -> dict[str, list[Look]]:
    """Return each lane's look before the first of these events, and after each of them."""
    states: dict[str, dict[str, Any]] = {lane.id: {} for lane in film.header.lanes}
    seen: dict[str, list[Look]] = {lane: [] for lane in states}
    begin = 0
    for stop in [shown[0] if shown else 0, *(number + 1 for number in shown)]:
        for event in film.events[begin:stop]:
            states[event.lane].update(event.state)
        begin = stop
        for lane, state in states.items():
            seen[lane].append(Look(*map(state.get, Look._fields)))
    return seen


class _Drawing:
    """The layout and the elements of one strip."""

    def __init__(self, film: Film, shown: Sequence[int], lanes: Sequence[Lane]) -> None:
        self._film, self._shown = film, list(shown)
        self.lanes = {lane.id: order for order, lane in enumerate(lanes)}
        self._names = [lane.name for lane in lanes]
        self._looks = looks(film, self._shown)
        self._x = _places(film, self._shown)
        self._texts: dict[int, float] = {}
        """For each height, where its last label ends."""
        ends = (x + self._room(film.events[number]) for number, x in self._x.items())
        self.width = max(ends, default=LEFT + MARGIN)

    @staticmethod
    def _room(event: Event) -> float:
        """The pixels that the text of an event may take to its right."""
        if event.kind == "receive":
            return max(60, SMALL_LETTER * len(label(event)[:28]))
        return max(60, LETTER * len(_short(event)) / 2 + 20)

    def drawn(self) -> list[str]:
        """All elements, from back to front."""
        return [*self.lines(), *self.arrows(), *self.marks(), *self.names()]

    def _y(self, lane: str) -> float:
        return TOP + self.lanes[lane] * ROW + ROW / 2

    def lines(self) -> list[str]:
        """The lines of the lanes, drawn by term and role."""
        drawn = []
        for lane in self.lanes:
            start, look = float(LEFT), self._looks[lane][0]
            for number, after in zip(self._shown, self._looks[lane][1:], strict=True):
                if after != look:
                    drawn.append(self._line(lane, start, self._x[number], look))
                    start, look = self._x[number], after
            drawn.append(self._line(lane, start, self.width - 16, look))
        return drawn

    def _line(self, lane: str, start: float, end: float, look: Look) -> str:
        y = self._y(lane)
        if look.up is False or look.paused:
            return (
                f'<rect x="{start:.1f}" y="{y - 5:.1f}" width="{max(0, end - start):.1f}" height="10" '
                f'fill="{BAD if look.up is False else HALTED}" opacity="0.25"/>'
            )
        data = f"M{start:.1f} {y:.1f}H{max(start, end):.1f}"
        thick = 6 if look.role == "Leader" else 2
        return _path(data, colour(look.term), f'stroke-width="{thick}"')

    def arrows(self) -> list[str]:
        """The arrows of messages, received and lost."""
        drawn, sends, events = [], causes(self._film.events), self._film.events
        for number in self._shown:
            event, sent = events[number], sends[number]
            if sent >= 0 and event.peer in self.lanes:
                drawn += self._arrow(self._x.get(sent, self._x[number] - 14), event.peer, number)
            elif event.kind == "send" and event.lost and event.peer in self.lanes:
                drawn += self._lost(number)
        return drawn

    def _arrow(self, x1: float, sender: str, number: int) -> list[str]:
        event = self._film.events[number]
        x2, y1, y2 = self._x[number], self._y(sender), self._y(event.lane)
        sign = 1 if y2 > y1 else -1
        end = y2 - sign * 6
        head = f"m-4 {-sign * 7}L{x2:.1f} {end:.1f}l4 {-sign * 7}"
        text = self._beside(x1, y1, x2, y2, label(event)[:28])
        return [_path(f"M{x1:.1f} {y1:.1f}L{x2:.1f} {end:.1f}{head}", SOFT), text]

    def _beside(self, x1: float, y1: float, x2: float, y2: float, text: str) -> str:
        """A message's label beside its arrow, between two lanes, where it covers no other label."""
        sign = 1 if y2 > y1 else -1
        free = (0.0, x1, y1)
        for gap in range(round(abs(y2 - y1) / ROW)):
            for shift in (-6, 6, -18, 18):
                y = y1 + sign * (gap + 0.5) * ROW + shift
                x = x1 + (x2 - x1) * (y - y1) / (y2 - y1) + 5
                taken = self._texts.get(round(y), 0.0)
                if taken <= x:
                    self._texts[round(y)] = x + len(text) * SMALL_LETTER + 4
                    return _text(x, y + 3, text, SOFT, SMALL)
                free = max(free, (-taken, x, y))
        return _text(free[1], free[2] + 3, text, SOFT, SMALL)

    def _lost(self, number: int) -> list[str]:
        event = self._film.events[number]
        x, y1 = self._x[number], self._y(event.lane)
        y2 = y1 + 0.45 * (self._y(event.peer) - y1)
        line = _path(f"M{x:.1f} {y1:.1f}L{x + 12:.1f} {y2:.1f}", BAD, 'stroke-dasharray="4 3"')
        return [line, _cross(x + 12, y2, 4)]

    def marks(self) -> list[str]:
        """The marks and labels of events."""
        drawn, broken = [], self._film.header.broken
        ends: dict[tuple[str, int], float] = {}
        for number in self._shown:
            event, x, y = self._film.events[number], self._x[number], self._y(self._film.events[number].lane)
            broke = broken is not None and broken.event == number
            ink = BAD if broke or event.kind == "down" else INK
            fill = "#ffffff" if event.kind == "send" else ink
            dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{ink}"/>'
            drawn.append(_cross(x, y, 6) if event.kind == "down" else dot)
            if event.kind not in ("send", "receive") or broke:
                text = broken.name if broke and broken is not None else _short(event)
                drawn.append(self._label(ends, event.lane, x, text, ink))
        return drawn

    def _label(self, ends: dict[tuple[str, int], float], lane: str, x: float, text: str, ink: str) -> str:
        """A label above its event, below it, or further away, wherever there is room."""
        half, y = len(text) * LETTER / 2, self._y(lane)
        for place in (-12, 21, -25, 34):
            if ends.get((lane, place), 0.0) < x - half:
                break
        ends[lane, place] = x + half
        return _text(max(x, half + LEFT - 4), y + place, text, ink, MIDDLE)

    def names(self) -> list[str]:
        """The names of the lanes, and the times of the first and the last event."""
        back = (
            f'<rect width="{LEFT - 6}" height="{TOP + len(self.lanes) * ROW}" fill="#ffffff" opacity="0.85"/>'
        )
        drawn = [back] + [
            _text(8, TOP + order * ROW + ROW / 2 + 4, name, INK, 'font-weight="600"')
            for order, name in enumerate(self._names)
        ]
        for number in self._shown[:1] + self._shown[-1:]:
            at = self._film.events[number].at
            when = f"step {at:.0f}" if self._film.header.steps else f"{at:.4f} s"
            drawn.append(_text(self._x[number], 14, when, SOFT, MIDDLE))
        return drawn


def _short(event: Event) -> str:
    return event.what if len(event.what) <= 40 else event.what[:39] + "…"
