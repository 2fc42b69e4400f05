"""Where the time of one PUT goes inside a node: exclusive time and calls by stage, one row per PUT.

`install` replaces some twenty methods of the node by wrappers that switch a clock between stages. Time that
a wrapped method spends in another wrapped one counts only for the inner stage, so the stages of a row add up
to the time between two PUTs. A row ends when the client's next request (on the leader) or the writer's next
frame (on a follower) arrives.

Each wrapper costs about half a microsecond, in the stage that it ends. So compare stages here, and take the
rate from a run without the wrappers. `python -m benchmarks.one_put` does both.
"""

from __future__ import annotations

import functools
import json
import selectors
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = (
    ("poll", "waiting for events: `epoll_wait`, the other processes' time included"),
    ("receive", "`recv` into the shared buffer"),
    ("parse", "bytes to requests and messages"),
    ("route", "requests, router"),
    ("append", "writer, replica, durability"),
    ("write", "the engine"),
    ("encode", "messages to bytes"),
    ("send", "`send` to peers, the wakeup of the other process included"),
    ("sync", "starting and finishing syncs"),
    ("reply", "the client's answer"),
    ("raft", "Raft's part in a turn, ticks"),
    ("turn", "what else a turn does"),
    ("loop", "asyncio, and what is not named here"),
)
NAMES = [name for name, _ in STAGES]


class Probe:
    """The clock, the current stage, and the rows."""

    def __init__(self) -> None:
        self.stage = NAMES.index("loop")
        self.times, self.calls = [0.0] * len(NAMES), [0] * len(NAMES)
        self.rows: list[tuple[list[float], list[int]]] = []
        self._mark = time.perf_counter()

    def switch(self, stage: int) -> int:
        """Charge the time until now to the current stage, and switch to another; return the former."""
        now = time.perf_counter()
        self.times[self.stage] += now - self._mark
        self._mark = now
        before, self.stage = self.stage, stage
        return before

    def end_row(self) -> None:
        """Begin the next PUT."""
        self.switch(self.stage)
        self.rows.append((self.times, self.calls))
        self.times, self.calls = [0.0] * len(NAMES), [0] * len(NAMES)

    def wrap(self, owner: Any, method: str, name: str, *, first: bool = False) -> None:
        """Charge `owner.method` to a stage; with `first` its call begins a row."""
        function, stage = getattr(owner, method), NAMES.index(name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if first:
                self.end_row()
            before = self.switch(stage)
            self.calls[stage] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        setattr(owner, method, timed)

    def receive(self, owner: Any) -> None:
        """Charge the `recv`: what asyncio does between `get_buffer` and `buffer_updated`."""
        stage, get_buffer = NAMES.index("receive"), owner.get_buffer

        def timed(*args: Any) -> Any:
            self.switch(stage)
            self.calls[stage] += 1
            return get_buffer(*args)

        owner.get_buffer = timed

    def report(self, path: Path) -> None:
        """Write the medians of all rows: microseconds and calls by stage."""
        result = {
            name: [
                statistics.median(times[n] for times, _ in self.rows) * 1e6,
                statistics.fmean(calls[n] for _, calls in self.rows),
            ]
            for n, name in enumerate(NAMES)
        }
        path.write_text(json.dumps({"rows": len(self.rows), "stages": result}))


def install() -> Probe:
    """Wrap the methods of this process's node."""
    from walrus.broker.controller import Controller
    from walrus.broker.raft_host import RaftHost
    from walrus.broker.requests import Requests
    from walrus.broker.router import Router
    from walrus.protocol import PeerCodec
    from walrus.replicas.durability import Durable
    from walrus.replicas.replica import Replica
    from walrus.replicas.replication import SegmentWriter
    from walrus.shell.client_connections import ClientConnection, Slot
    from walrus.shell.group_commit import AsyncGroupCommit
    from walrus.shell.peer_connections import PeerLink, PeerSession
    from walrus.shell.turn import Turn
    from walrus.wal import Walrus
    from walrus.wire.peer import PeerParser
    from walrus.wire.requests import RequestParser

    probe = Probe()
    probe.wrap(selectors.DefaultSelector, "select", "poll")
    for owner in (ClientConnection, PeerSession):
        probe.receive(owner)
    probe.wrap(ClientConnection, "buffer_updated", "loop", first=True)
    probe.wrap(PeerSession, "buffer_updated", "loop")
    wrapped: dict[str, list[tuple[Any, str]]] = {
        "parse": [(RequestParser, "feed"), (PeerParser, "feed")],
        "route": [(Requests, "on_request"), (Router, "flush"), (Router, "on_reply")],
        "append": [(SegmentWriter, "on_forward"), (SegmentWriter, "flush"), (SegmentWriter, "on_reply")],
        "write": [(Walrus, "write")],
        "encode": [(PeerCodec, "encode")],
        "send": [(PeerLink, "flush")],
        "sync": [(AsyncGroupCommit, "start_if_due"), (AsyncGroupCommit, "_on_sync_finished")],
        "reply": [(Slot, "reply"), (ClientConnection, "flush")],
        "raft": [(RaftHost, "flush"), (Controller, "on_tick"), (Controller, "next_deadline")],
        "turn": [(Turn, "end")],
    }
    for name, methods in wrapped.items():
        for owner, method in methods:
            probe.wrap(owner, method, name)
    probe.wrap(Replica, "on_append", "append", first=True)
    probe.wrap(Durable, "on_durable", "append")
    return probe


def main(run: Callable[[], int] | None = None) -> int:
    """`python -m benchmarks.one_put_probe REPORT ARGUMENTS...`: run a node that reports when it stops."""
    path = Path(sys.argv.pop(1))
    probe = install()
    from walrus.node import main as node

    status = (run or node)()
    probe.report(path)
    return status


if __name__ == "__main__":
    sys.exit(main())
