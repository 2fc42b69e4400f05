"""Reports of failed runs: what was broken, how to repeat the run, and a table with one column for each node.

The table has a column for the world, too, and one row for each moment. It shows the last events before the
end: starts, deaths, faults, messages of nodes to their operator, and every protocol step under the name that
the specs use, since the failing run is repeated with tracing on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from rich.table import Table
from rich.text import Text

from walrus.cli.command_line import Console
from walrus.sim.catalogue import Scenario
from walrus.sim.faults import Fault
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, Result, Simulation, attempt
from walrus.sim.stage import watched
from walrus.sim.violation import Violation
from walrus.wire.effects import Trace

ROWS = 60
HIDDEN = {"node", "commit_index", "last_log_index", "last_log_term", "at"}
"""Values that would fill the table without telling much."""


def console() -> Console:
    """Return the console for reports: as wide as the terminal or COLUMNS, in a file as wide as the table."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


def into(simulation: Callable[[], Simulation | None]) -> Callable[[int], Trace]:
    """Return a recorder that adds each protocol event to the simulation's events, once there is one."""

    def of(node: int) -> Trace:
        def trace(event: str, /, **values: object) -> None:
            if (told := simulation()) is not None:
                shown = [_short(name, value) for name, value in values.items() if name not in HIDDEN]
                told.world.note(node, f"{event} {' '.join(shown)}")

        return trace

    return of


def _short(name: str, value: object) -> str:
    return str(value) if name in ("topic", "op", "role") else f"{name}={value}"


def retell(failure: FailedRun, options: Options) -> Simulation:
    """Repeat the run with every protocol step among its events."""
    made: list[Simulation] = []
    simulation = Simulation(failure.seed, options, failure.schedule, into(lambda: made[0] if made else None))
    made.append(simulation)
    attempt(simulation, failure.step, failure.calm_at)
    return simulation


def play_again(scenario: Scenario, seed: int) -> Simulation | None:
    """Repeat a failing scenario with every protocol step among its events."""
    with watched() as audience, suppress(Violation):
        audience.recording = lambda _: into(lambda: audience.simulation)
        scenario.run(seed)
    return audience.simulation


def table(simulation: Simulation, rows: int = ROWS) -> Table:
    """Return the table of what each node did at the end of the run."""
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


def tell_scenario(console: Console, violation: Violation, scenario: Scenario, again: str) -> None:
    """Report how a scenario failed."""
    console.print(Text.assemble((violation.name, "bold red"), f": {violation.what}"))
    console.print(Text(f"scenario {scenario.name}: {scenario.about}"))
    console.print(Text(f"again: {again}"), soft_wrap=True)


def tell(console: Console, failure: FailedRun, again: str) -> None:
    """Report what broke and how to repeat it, for people."""
    console.print(Text.assemble((failure.name, "bold red"), f": {failure.what}"))
    console.print(f"seed {failure.seed}, step {failure.step:,}, {failure.at:.3f} s into the run")
    faults = len(failure.schedule)
    enough = {0: "no fault is needed", 1: "one fault is enough:"}
    console.print(enough.get(faults, f"{faults} faults are enough:"))
    for fault in failure.schedule:
        console.print(Text(f"    {fault!r}"), soft_wrap=True)
    console.print(f"again: {again}", highlight=False, soft_wrap=True)


def as_json(outcome: Result | FailedRun, schedule: Sequence[Fault] = ()) -> str:
    """Report the same as JSON, for programs."""
    kind = "failure" if isinstance(outcome, FailedRun) else "result"
    return json.dumps({kind: msgspec.to_builtins(outcome)}, sort_keys=True)
