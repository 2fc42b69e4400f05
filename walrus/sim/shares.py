"""Bounds on the work of one turn, so small that a run of the simulator reaches each of them.

A scan of all topics, a snapshot, a backlog of commands: each takes a share per turn, and shares are sized
for 100,000 topics. A simulated cluster has ten, so one turn does all the work, and what can happen between
two turns does not happen. With `Options.small_shares` a share is one or two.

Bounds on bytes and on waiting clients are left out: `SETTINGS` and the load reach those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from walrus import leases
from walrus.broker import cursors, imaging, lifecycle, raft_host, retention, supervisor, takeover
from walrus.replicas import puller, reads

SMALL: Final[dict[tuple[ModuleType, str], int]] = {
    (imaging, "MAX_IMAGED"): 1,
    (lifecycle, "MAX_LOOKED"): 1,
    (lifecycle, "MAX_SEALS"): 1,
    (supervisor, "MAX_SEGMENTS"): 1,
    (retention, "MAX_LOOKED"): 1,
    (raft_host, "MAX_APPLIED"): 2,
    (takeover, "MAX_TAKEN"): 1,
    (leases, "MAX_RECONCILED"): 1,
    (puller, "MAX_PULLS"): 2,
    (reads, "MAX_AHEAD"): 2,
    (cursors, "MAX_AHEAD"): 1,
}
"""(module, constant) -> its value in such a run."""


@contextmanager
def small_shares(wanted: bool = True) -> Iterator[None]:
    """Set these bounds, if `wanted`, until the end of the `with`."""
    before = {(module, name): getattr(module, name) for module, name in SMALL}
    try:
        for (module, name), value in SMALL.items() if wanted else ():
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)
