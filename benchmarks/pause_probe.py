"""The longest passes of a node's event loop, in processor time, and what made them long.

    python -m benchmarks.pause_probe REPORT ARGUMENTS...      a node that reports when it stops

A pass lasts from the return of one `select` to the call of the next; meanwhile the node answers no request.
Its *processor* time does not depend on other programs, so a pause that is the node's own shows on a busy
machine, too, and one of the disk or the scheduler does not. Each suspected part is timed separately, garbage
collections by the interpreter's own callbacks.
"""

from __future__ import annotations

import functools
import gc
import json
import sys
import time
from collections.abc import Callable
from heapq import heappush, heappushpop
from pathlib import Path
from typing import Any

KEPT = 20
"""How many of the longest passes are reported."""
PAUSE = 0.02
"""Seconds from which a pass counts as a pause."""

clock = time.thread_time


class Passes:
    """The longest passes, with the processor time of the parts that ran in each."""

    def __init__(self) -> None:
        self.longest: list[tuple[float, int, dict[str, float]]] = []
        self.pauses: dict[str, tuple[int, float]] = {}
        """What took most of a pause (`mostly`) -> how many pauses, and the longest, in seconds."""
        self.count = 0
        self._parts: dict[str, float] = {}
        self._began = clock()
        self._collecting = 0.0
        self._serving = self.closed = False

    def end(self) -> None:
        """End a pass. Passes of the start, before the node freezes its objects, do not count.

        Nor does the pass in which the node closes its engines.
        """
        took = clock() - self._began
        counts = self._serving
        # `get_freeze_count` walks over all frozen objects, so it is called only until there are some.
        self._serving = counts or gc.get_freeze_count() > 0
        if self.closed or not counts:
            self._parts = {}
            return
        self.count += 1
        if took > PAUSE:
            what = mostly(took, self._parts)
            count, worst = self.pauses.get(what, (0, 0.0))
            self.pauses[what] = count + 1, max(worst, took)
        entry = (took, self.count, self._parts)
        if len(self.longest) < KEPT:
            heappush(self.longest, entry)
        elif took > self.longest[0][0]:
            heappushpop(self.longest, entry)
        self._parts = {}

    def begin(self) -> None:
        """Begin a pass: `select` has returned."""
        self._began = clock()

    def add(self, part: str, seconds: float) -> None:
        """Charge processor time to a part."""
        self._parts[part] = self._parts.get(part, 0.0) + seconds

    def collected(self, phase: str, info: dict[str, int]) -> None:
        """A garbage collection begins or ends."""
        if phase == "start":
            self._collecting = clock()
        else:
            self.add(f"garbage collection {info['generation']}", clock() - self._collecting)

    def end_with(self, owner: Any, method: str) -> None:
        """Count no pass from the one on in which this method is called."""
        function = getattr(owner, method)

        @functools.wraps(function)
        def last(*args: Any, **kwargs: Any) -> Any:
            self.closed = True
            return function(*args, **kwargs)

        setattr(owner, method, last)

    def wrap(self, owner: Any, method: str) -> None:
        """Charge a method, including what it calls."""
        function, name = getattr(owner, method), f"{owner.__name__}.{method}"

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(name, clock() - begin)

        setattr(owner, method, timed)

    def report(self, path: Path) -> None:
        """Write the milliseconds of the longest passes and of their parts, and the pauses by part."""
        rows = [
            {"ms": took * 1e3, "pass": number, "parts": {name: cost * 1e3 for name, cost in parts.items()}}
            for took, number, parts in sorted(self.longest, reverse=True)
        ]
        pauses = {what: [count, worst * 1e3] for what, (count, worst) in self.pauses.items()}
        path.write_text(json.dumps({"passes": self.count, "longest": rows, "pauses": pauses}))


def mostly(took: float, parts: dict[str, float]) -> str:
    """Return the smallest part that makes up half of a pass: parts nest, and the smallest says most.

    >>> mostly(0.05, {"PeerSession.buffer_updated": 0.048, "RaftHost.flush": 0.03, "Router.flush": 0.001})
    'RaftHost.flush'
    >>> mostly(0.05, {"Router.flush": 0.001})
    'what is not timed by itself'
    """
    large = [(cost, name) for name, cost in parts.items() if cost >= took / 2]
    return min(large)[1] if large else "what is not timed by itself"


def install() -> Passes:
    """Observe this process's node."""
    from walrus.broker.controller import Controller
    from walrus.broker.lifecycle import Lifecycle
    from walrus.broker.raft_host import RaftHost
    from walrus.broker.retention import Retention
    from walrus.broker.router import Router
    from walrus.broker.supervisor import Supervisor
    from walrus.node import Node
    from walrus.shell.client_connections import ClientConnection
    from walrus.shell.event_loop import EndingSelector
    from walrus.shell.peer_connections import PeerSession

    passes, select = Passes(), EndingSelector.select

    def watched(self: EndingSelector, timeout: float | None = None) -> Any:
        passes.end()
        try:
            return select(self, timeout)
        finally:
            passes.begin()

    EndingSelector.select = watched  # type: ignore[method-assign]
    gc.callbacks.append(passes.collected)
    for owner, method in (
        (Controller, "on_tick"),
        (Controller, "on_message"),
        (Controller, "_on_applied"),
        (RaftHost, "flush"),
        (RaftHost, "_persisted"),
        (RaftHost, "_compact"),
        (Router, "flush"),
        (Supervisor, "on_tick"),
        (Lifecycle, "flush"),
        (Lifecycle, "on_tick"),
        (Lifecycle, "on_connection"),
        (Retention, "on_tick"),
        (ClientConnection, "buffer_updated"),
        (PeerSession, "buffer_updated"),
    ):
        passes.wrap(owner, method)
    passes.end_with(Node, "_close")
    return passes


def main(run: Callable[[], int] | None = None) -> int:
    """Run a node, and write its report (see the module's docstring)."""
    path = Path(sys.argv.pop(1))
    passes = install()
    from walrus.node import main as node

    status = (run or node)()
    passes.report(path)
    return status


if __name__ == "__main__":
    sys.exit(main())
