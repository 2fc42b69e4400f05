"""A picture of latencies: the share of requests that took no longer, with the rare slow ones magnified.

The horizontal axis is the share of requests, each nine of the same width (50, 90, 99, 99.9 %); the vertical
axis is the latency, each factor of ten of the same height. There is a panel for each kind of request, and a
line for each load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

WIDTH, HEIGHT, GAP, LEFT, TOP, BOTTOM = 260, 240, 60, 56, 48, 40
SHARES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
LINES = (("#8a949c", "2 4"), ("#2f6fdb", ""), ("#c2410c", "7 3"), ("#1f8a54", "1 3"))
"""Colour and dashes of each load, so that the picture can be read in grey, too."""
INK, SOFT, GRID = "#1d2327", "#667079", "#dfe3e6"
POINTS = 120


def _nines(share: float) -> float:
    """Return the number of nines: 0 for 0 %, 1 for 90 %, 2 for 99 %."""
    return -log10(1.0 - share)


def _text(x: float, y: float, text: str, anchor: str = "middle", ink: str = SOFT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" text-anchor="{anchor}">{escape(text)}</text>'


class _Scale:
    """The coordinates of a share and a latency."""

    def __init__(self, low: float, high: float) -> None:
        """Fit latencies from `low` to `high` milliseconds: the axis has whole powers of ten."""
        self.low, self.high = low, high

    def x(self, share: float) -> float:
        return WIDTH * _nines(share) / _nines(SHARES[-1])

    def y(self, milliseconds: float) -> float:
        height = log10(max(milliseconds, self.low) / self.low) / log10(self.high / self.low)
        return HEIGHT * (1.0 - height)

    def grid(self) -> list[str]:
        lines = [f'<path d="M{self.x(share):.1f} 0V{HEIGHT}" stroke="{GRID}"/>' for share in SHARES]
        lines += [_text(self.x(share), HEIGHT + 16, f"{share * 100:g}") for share in SHARES]
        power = self.low
        while power <= self.high * 1.01:
            lines.append(f'<path d="M0 {self.y(power):.1f}H{WIDTH}" stroke="{GRID}"/>')
            lines.append(_text(-6, self.y(power) + 4, f"{power:g}", "end"))
            power *= 10
        return lines

    def curve(self, values: Sequence[float], line: tuple[str, str]) -> str:
        """Return a line through the quantiles of sorted latencies, as far as there are enough of them."""
        last = min(1.0 - 1.0 / len(values), SHARES[-1])
        shares = [1.0 - 10.0 ** (-_nines(last) * point / POINTS) for point in range(POINTS + 1)]
        places = [
            f"{self.x(share):.1f} {self.y(values[min(int(share * len(values)), len(values) - 1)]):.1f}"
            for share in shares
        ]
        ink, dashes = line
        return (
            f'<path d="M{"L".join(places)}" fill="none" stroke="{ink}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"/>'
        )


def picture(panels: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> str:
    """Return the SVG.

    Args:
        panels: by kind of request and load: latencies in milliseconds, sorted, at least one of each.
        title: what was measured, in a line.
    """
    everything = [values for loads in panels.values() for values in loads.values()]
    low = 10.0 ** int(log10(max(min(values[0] for values in everything), 0.01)) - 0.999)
    high = 10.0 ** int(log10(max(max(values[-1] for values in everything), 10 * low)) + 0.999)
    scale = _Scale(low, high)
    wide = LEFT + len(panels) * (WIDTH + GAP) + 8
    tall = TOP + HEIGHT + BOTTOM + 18
    body = [_text(LEFT, 18, title, "start", INK)]
    for number, (name, loads) in enumerate(panels.items()):
        parts = [*scale.grid(), _text(WIDTH / 2, -8, name, ink=INK)]
        parts += [scale.curve(values, LINES[n % len(LINES)]) for n, values in enumerate(loads.values())]
        body.append(f'<g transform="translate({LEFT + number * (WIDTH + GAP)} {TOP})">{"".join(parts)}</g>')
    body.append(_text(LEFT, tall - 24, "% of requests took no longer than so many ms (log)", "start"))
    x = float(LEFT)
    for number, load in enumerate(next(iter(panels.values()))):
        ink, dashes = LINES[number % len(LINES)]
        data = f"M{x:.0f} {tall - 10}h30"
        body.append(f'<path d="{data}" stroke="{ink}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        body.append(_text(x + 36, tall - 6, load, "start"))
        x += 60 + 7 * len(load)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" '
        f'height="{tall}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" role="img">'
    )
    background = f'<rect width="{wide}" height="{tall}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", background, *body, "</svg>", ""])
