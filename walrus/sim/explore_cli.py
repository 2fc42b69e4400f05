"""`python -m walrus.sim explore`: the distinct states of each depth, and the shortest counterexample.

Exits with 0 if every invariant held, 1 after a violation, 2 for a bad flag.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.text import Text

from walrus.cli.command_line import Console, Parser
from walrus.shell.flags import whole
from walrus.sim import mutants
from walrus.sim.explore import STARTS, Bounds, Exploration, explore


def _parser() -> Parser:
    parser = Parser(
        prog="python -m walrus.sim explore",
        description="Every short behaviour of the real Raft class, breadth-first.",
    )
    add, defaults = parser.add_argument, Bounds()
    add("--nodes", type=whole(1, 5), default=defaults.nodes, help=f"servers ({defaults.nodes})")
    add("--depth", type=whole(1, 99), default=defaults.depth, help=f"steps ({defaults.depth})")
    add("--start", choices=sorted(STARTS), default="fresh", help="where it begins (fresh)")
    for name, what in (
        ("terms", "the newest term"),
        ("commands", "commands of clients"),
        ("deaths", "restarts and power failures"),
        ("heartbeats", "rounds of heartbeats"),
        ("snapshots", "snapshots that servers make"),
        ("slow", "steps on a slow disk"),
        ("packets", "messages on their way that are remembered"),
        ("states", "distinct states at which the search is given up"),
    ):
        default = getattr(defaults, name)
        add(f"--{name}", type=whole(0, 1 << 40), default=default, metavar="N", help=f"{what} ({default})")
    add("--no-symmetry", action="store_true", help="do not merge states that differ by the servers' names")
    add("--mutant", metavar="NAME", help="plant a bug in the code first (walrus/sim/mutants)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    flags = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    given = {name: getattr(flags, name) for name in Bounds.__dataclass_fields__ if hasattr(flags, name)}
    bounds = Bounds(symmetric=not flags.no_symmetry, **given)
    try:
        mutant = mutants.find(flags.mutant) if flags.mutant else None
    except LookupError as error:
        sys.stderr.write(f"walrus.sim explore: --mutant: {error}\n")
        return 2
    started = time.process_time()

    def told(depth: int, states: int) -> None:
        took = time.process_time() - started
        console.print(f"depth {depth:>2}: {states:>9,} new states, {took:6.1f} s", highlight=False)

    with mutants.planted(mutant):
        outcome = explore(bounds, flags.start, told)
    return _tell(outcome, bounds, console)


def _tell(outcome: Exploration, bounds: Bounds, console: Console) -> int:
    total = sum(outcome.states)
    if outcome.violation is None:
        how = "all states" if outcome.complete else "the search was given up, these states"
        console.print(f"held: {how} up to depth {bounds.depth}, {total:,} distinct", highlight=False)
        return 0
    for number, step in enumerate(outcome.path, 1):
        console.print(Text(f"{number:>3}  {step}"), soft_wrap=True)
    console.print(Text.assemble((outcome.violation.name, "bold red"), f": {outcome.violation.what}"))
    console.print(f"{len(outcome.path)} steps, a shortest counterexample", highlight=False)
    return 1
