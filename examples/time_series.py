"""Time series: a topic for each metric, with retention, and a chart in the terminal.

    python examples/time_series.py --addr 127.0.0.1:9091

Retention drops whole sealed segments. So the segments are short: each ends after a number of points
(`segment_entries`) or a time (`segment_seconds`). A series keeps at least `retain_entries` points. The chart
shows the points that are left.
"""

from __future__ import annotations

import argparse
import math
import struct
from collections.abc import Iterable

from walrus import Client

PREFIX = "example.series."
POINT = struct.Struct("<dd")
"""An entry, 16 bytes: seconds since the epoch, and the value."""
BARS = "▁▂▃▄▅▆▇█"
KEPT, SEGMENT = 400, 100


def write(client: Client, metric: str, points: Iterable[tuple[float, float]]) -> None:
    """Append points to a series."""
    topic = PREFIX + metric
    client.register(topic, {"segment_entries": SEGMENT, "segment_seconds": 3_600, "retain_entries": KEPT})
    client.producer(topic).put_many(POINT.pack(at, value) for at, value in points)


def read(client: Client, metric: str) -> list[tuple[float, float]]:
    """Return all points of a series that are left."""
    return [POINT.unpack(entry) for entry in client.entries(PREFIX + metric)]


def chart(points: list[tuple[float, float]], width: int = 60) -> str:
    """Draw points as a line of bars, each the mean of the points in an equal part of the time."""
    begin, end = points[0][0], points[-1][0]
    sums, counts = [0.0] * width, [0] * width
    for at, value in points:
        column = min(width - 1, int((at - begin) / max(end - begin, 1e-9) * width))
        sums[column] += value
        counts[column] += 1
    means = [total / count for total, count in zip(sums, counts, strict=True) if count]
    low, high = min(means), max(means)
    return "".join(BARS[min(7, int((mean - low) / max(high - low, 1e-9) * 8))] for mean in means)


def main() -> None:
    """Write two series, and draw the points that are left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--addr", action="append", required=True, help="a node; may be repeated")
    parser.add_argument("--count", type=int, default=1_000, help="points of each series")
    arguments = parser.parse_args()
    times = [60.0 * number for number in range(arguments.count)]
    with Client(arguments.addr, timeout=30) as client:
        write(client, "temperature", ((at, 20 + 5 * math.sin(at / 3_000)) for at in times))
        write(client, "requests", ((at, 100 + (at / 60) % 250) for at in times))
        for metric in ("temperature", "requests"):
            points = read(client, metric)
            first = client.state(PREFIX + metric).get("first_segment", 1)
            print(f"{metric:12} {chart(points)}")
            print(f"{'':12} {len(points)} of {arguments.count} points, the first segment is {first}")


if __name__ == "__main__":
    main()
