"""The subjects of the engine's benchmark, and its clock: shared by the rows and the child processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from benchmarks.engine_peers import PEERS, Peer
from benchmarks.engine_walrus import Subject


class Clock:
    """The clock of a measurement: wall time, or processor time of the measuring thread (see `--cpu`)."""

    now: Callable[[], float] = staticmethod(perf_counter)


def open_subject(subject: str, directory: Path) -> Subject | Peer:
    """Open Walrus or the peer of this name."""
    if subject == "walrus":
        return Subject(directory, durable=False, backend="pwritev")
    (peer,) = [peer for peer in PEERS if peer.name == subject]
    return peer(directory, durable=False)
