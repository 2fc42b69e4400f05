"""Scenarios: schedules that broke published systems, and moments that chance does not reach, as named runs.

Each says what happens when, and what must hold. Every scenario ends in `Stage.finish`, so beyond its own
last checks all of `invariants.py` and `oracle.py` applies: no acknowledged entry is lost, repeated or out of
order, no two values are at one position, and everything comes to rest in the end. A scenario's numbers are
its lines in the catalogue at the end of `docs/simulator.md`. Schedules inside the engine alone are in
`tests/storage`.

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
"""Importing these modules fills `ALL`."""
