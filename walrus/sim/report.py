"""A failed run, told: what was broken, how to see it again, and a table that reads by column.

The table has one column for each node and one for the world, one row for each moment, and shows the last
happenings before the end: starts, deaths, faults, what nodes told their operator, and, since the failing run
is repeated with tracing on, every step of the protocol with the names that the specs use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from walrus.sim.faults import Fault
from walrus.sim.options import Options
from walrus.sim.run import Failure, Result, Simulation, attempt
from walrus.wire.effects import Trace

ROWS = 60
HIDDEN = {"node", "commit_index", "last_log_index", "last_log_term", "at"}
"""Values that would fill the table."""


class Retold:
    """A recorder that adds each event of the protocol to the world's happenings."""

    def __init__(self) -> None:
        self.simulation: Simulation | None = None

    def __call__(self, node: int) -> Trace:
        """The trace of one node's process."""

        def trace(event: str, /, **values: object) -> None:
            if self.simulation is not None:
                shown = [_short(name, value) for name, value in values.items() if name not in HIDDEN]
                self.simulation.world.note(node, f"{event} {' '.join(shown)}")

        return trace


def _short(name: str, value: object) -> str:
    return str(value) if name in ("topic", "op", "role") else f"{name}={value}"


def retell(failure: Failure, options: Options) -> tuple[Simulation, Result | Failure]:
    """The same run with every step of the protocol among its happenings."""
    recorder = Retold()
    simulation = Simulation(failure.seed, options, failure.schedule, recorder)
    recorder.simulation = simulation
    return simulation, attempt(simulation, failure.step, failure.calm_at)


def table(simulation: Simulation, rows: int = ROWS) -> Table:
    """What each node did at the end of the run."""
    world = simulation.world
    nodes = sorted(world.hosts)
    made = Table(title=f"the last {rows} happenings", show_lines=False, pad_edge=False)
    made.add_column("time", justify="right", no_wrap=True)
    for node in nodes:
        made.add_column(f"node {node}", overflow="fold")
    made.add_column("world", overflow="fold")
    for at, node, what in world.happened[-rows:]:
        style = "bold red" if what.startswith(("FAULT", "kill", "power", "dies", "fails")) else ""
        cells = ["" for _ in nodes]
        if node in nodes:
            cells[nodes.index(node)] = what
        made.add_row(f"{at:.4f}", *map(Text, cells), Text("" if node in nodes else what), style=style)
    return made


def tell(console: Console, failure: Failure, options: Options, simulation: Simulation, again: str) -> None:
    """All of it, for people."""
    console.print(table(simulation))
    console.print(Text.assemble((failure.name, "bold red"), f": {failure.what}"))
    console.print(f"seed {failure.seed}, step {failure.step:,}, {failure.at:.3f} s into the run")
    console.print(f"{len(failure.schedule)} faults are enough:" if failure.schedule else "no fault is needed")
    for fault in failure.schedule:
        console.print(f"    {fault!r}", highlight=False, soft_wrap=True)
    console.print(f"again: {again}", highlight=False, soft_wrap=True)


def as_json(outcome: Result | Failure, schedule: Sequence[Fault] = ()) -> str:
    """The same for programs."""
    kind = "failure" if isinstance(outcome, Failure) else "result"
    return json.dumps({kind: msgspec.to_builtins(outcome)}, sort_keys=True)
