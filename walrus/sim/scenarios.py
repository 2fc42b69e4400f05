"""Schedules that broke published systems, and moments that chance does not meet, each as a named run: what
happens when, and what must hold.

Every scenario ends in `Stage.finish`, so besides what its last lines ask, the whole of `invariants.py` and
`oracle.py` is asked of it: no acknowledged entry lost, none twice, none out of order, no two values at one
place, everything at rest in the end. The number of each is its line in the catalogue at the end of
`docs/simulator.md`. Schedules inside the engine alone are in `tests/storage`.

    python -m walrus.sim --scenario leader_restarts_at_once --seed 3
"""

from __future__ import annotations

from walrus.sim import (
    scenarios_clients,
    scenarios_copies,
    scenarios_disk,
    scenarios_failover,
    scenarios_raft,
)
from walrus.sim.catalogue import ALL, Scenario

__all__ = ["ALL", "CHAPTERS", "Scenario"]

CHAPTERS = (scenarios_failover, scenarios_disk, scenarios_clients, scenarios_copies, scenarios_raft)
"""Importing them is what fills `ALL`."""
