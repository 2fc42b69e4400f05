"""Recording runs in the trace format of `docs/traces.md`, for `python -m walrus.tlc trace`.

In the simulator one thing happens after another, so the order of the lines is the order of the steps, and no
clock is needed. Without a recorder nothing is recorded, and recording costs nothing.
"""

from __future__ import annotations

import msgspec

from walrus.sim.options import Options
from walrus.wire.effects import Trace


class Recorder:
    """Collects the events of one run."""

    def __init__(self, options: Options) -> None:
        self.events: list[dict[str, object]] = [
            {
                "ev": "Begin",
                "fsync_each": options.fsync == "each",
                "exact": True,
                "replication_factor": options.settings.get("replication_factor", 3),
                "queue_window": options.settings.get("queue_window", 1_000),
                "nodes": list(range(1, options.nodes + 1)),
            }
        ]

    def of(self, node: int) -> Trace:
        """Return the trace of one node."""

        def record(event: str, /, **values: object) -> None:
            self.events.append({"ev": event, "node": node, **values})

        return record

    def lines(self) -> bytes:
        """Return the recorded events as one JSON object a line."""
        encode = msgspec.json.Encoder().encode
        return b"".join(encode(event) + b"\n" for event in self.events)
