"""`python -m walrus.sim explore`: the distinct states of each depth, and the shortest counterexample.

    explore             Raft
    explore segments    writers, replicas, recoveries and leases

Exits with 0 if every invariant held, 1 after a violation, 2 for a bad flag.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from walrus.cli.command_line import Console, Parser
from walrus.shell.arguments import whole
from walrus.sim import explore_film, filming, mutants, report
from walrus.sim.explore import STARTS, Bounds, explore
from walrus.sim.explore_segments import STARTS as SEGMENT_STARTS
from walrus.sim.explore_segments import SegmentBounds, explore_segments
from walrus.sim.search import Exploration, Told

OF_RAFT = {
    "terms": "the newest term",
    "commands": "commands of clients",
    "deaths": "restarts and power failures",
    "heartbeats": "rounds of heartbeats",
    "snapshots": "snapshots that servers make",
    "slow": "steps on a slow disk",
}
OF_SEGMENTS = {
    "puts": "entries of clients",
    "recoveries": "recoveries that begin",
    "deaths": "restarts and power failures",
    "ticks": "intervals after which a node asks again",
    "lapses": "leases that end",
    "repeats": "messages that arrive twice",
    "slow": "steps on a slow disk",
}
OF_BOTH = {
    "packets": "messages on their way that are remembered",
    "states": "distinct states at which the search is given up",
}


def _parser(
    what: str, starts: Iterable[str], bounds: dict[str, str], defaults: Bounds | SegmentBounds
) -> Parser:
    prog = "python -m walrus.sim explore"
    parser = Parser(prog=prog, description=f"Every short behaviour of {what}, breadth-first.")
    add = parser.add_argument
    depth = defaults.depth
    add("--depth", type=whole(1, 99), default=depth, help=f"steps ({depth})")
    first = next(iter(starts))
    add("--start", choices=sorted(starts), default=first, help=f"where it begins ({first})")
    for name, told in (bounds | OF_BOTH).items():
        default = getattr(defaults, name)
        add(f"--{name}", type=whole(0, 1 << 40), default=default, metavar="N", help=f"{told} ({default})")
    add("--mutant", metavar="NAME", help="plant a bug in the code first (walrus/sim/mutants)")
    add("--html", type=Path, metavar="FILE", help="a counterexample as a page for a browser")
    return parser


def _of_raft(arguments: Sequence[str]) -> tuple[Any, Callable[[Told], Exploration]]:
    defaults = Bounds()
    parser = _parser("the real Raft class", STARTS, OF_RAFT, defaults)
    add = parser.add_argument
    add("--nodes", type=whole(1, 5), default=defaults.nodes, help=f"servers ({defaults.nodes})")
    add("--no-symmetry", action="store_true", help="do not merge states that differ by the servers' names")
    flags = parser.parse_args(arguments)
    given = {name: getattr(flags, name) for name in Bounds.__dataclass_fields__ if hasattr(flags, name)}
    bounds = Bounds(symmetric=not flags.no_symmetry, **given)
    return flags, lambda told: explore(bounds, flags.start, told)


def _of_segments(arguments: Sequence[str]) -> tuple[Any, Callable[[Told], Exploration]]:
    parser = _parser("the real segment protocol", SEGMENT_STARTS, OF_SEGMENTS, SegmentBounds())
    flags = parser.parse_args(arguments)
    extent = SegmentBounds(**{name: getattr(flags, name) for name in SegmentBounds.__dataclass_fields__})
    return flags, lambda told: explore_segments(extent, flags.start, told)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    segments = arguments[:1] == ["segments"]
    flags, search = _of_segments(arguments[1:]) if segments else _of_raft(arguments)
    console = report.console()
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
        outcome = search(told)
    if flags.html and outcome.violation is not None:
        again = " ".join(["python -m walrus.sim explore", *(str(word) for word in arguments)])
        filming.write(explore_film.film(outcome, again), flags.html)
    return _tell(outcome, flags, console)


def _tell(outcome: Exploration, flags: argparse.Namespace, console: Console) -> int:
    total = sum(outcome.states)
    if outcome.violation is None:
        how = "all states" if outcome.complete else "the search was given up, these states"
        console.print(f"held: {how} up to depth {flags.depth}, {total:,} distinct", highlight=False)
        return 0
    for number, step in enumerate(outcome.path, 1):
        console.print(Text(f"{number:>3}  {step}"), soft_wrap=True)
    console.print(Text.assemble((outcome.violation.name, "bold red"), f": {outcome.violation.what}"))
    console.print(f"{len(outcome.path)} steps, a shortest counterexample", highlight=False)
    if flags.html:
        console.print(Text(f"a page of it: {flags.html}"), soft_wrap=True)
    return 1
