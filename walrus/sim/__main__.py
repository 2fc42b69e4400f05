"""`python -m walrus.sim`: run seeds, examine a failure, measure the rate.

    python -m walrus.sim --seed 7 --steps 100000 --nodes 3
    python -m walrus.sim --seeds 50 --faults crash,network      seeds 1 to 50
    python -m walrus.sim --scenario leader_restarts_at_once
    python -m walrus.sim --scenarios                            all of them
    python -m walrus.sim --seed 7 --html run.html               the run as a page for a browser
    python -m walrus.sim --seeds 20 --steps 6000 --html run.html   the first of these that fails
    python -m walrus.sim --mutant no_fence_check --seeds 50     with a planted bug (`mutants`)
    python -m walrus.sim explore --nodes 3 --depth 8            every short behaviour of Raft (`explore.py`)
    python -m walrus.sim --bench

Exits with 0 if everything held, 1 after a violation, 2 for a bad flag.
"""

from __future__ import annotations

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.text import Text

from walrus.cli.command_line import Console, Parser, command
from walrus.shell.arguments import whole
from walrus.shell.flags import fsync
from walrus.sim import coverage, explore_cli, faults, filming, mutants, report, scenarios
from walrus.sim.filming import Camera
from walrus.sim.options import Options, varied
from walrus.sim.run import FailedRun, Result, said_next, shrink, simulate
from walrus.sim.stage import watched
from walrus.sim.trace import Recorder
from walrus.sim.violation import UNNAMED, Violation
from walrus.view import lanes
from walrus.view.film import Film
from walrus.wire.effects import Trace

SHRINKS = 150
"""How many runs are spent on shortening a failing schedule."""
CLIENTS = ("repeaters", "workers", "keepers", "giving_up", "finders")
"""Flags that give the number of clients of each kind."""


def _parser() -> Parser:
    parser = Parser(
        prog="python -m walrus.sim", description="Real nodes in a world of seeds: network, disks, clocks."
    )
    add, some = parser.add_argument, whole(1, 1 << 40)
    add("--seed", type=int, default=1, help="the run's seed (1)")
    add("--seeds", type=some, default=1, metavar="N", help="run N seeds, beginning with --seed")
    add("--steps", type=some, default=100_000, help="events in which things go wrong (100000)")
    add("--nodes", type=whole(1, 99), help="nodes at the beginning (varied; 3 if --plain)")
    known = ",".join(faults.CLASSES)
    add("--faults", default="default", metavar="KINDS", help=f"none, all, default, or of {known}")
    add("--fsync", type=fsync, help="each, none, or milliseconds between syncs (varied; each if --plain)")
    add("--repeaters", type=int, default=0, metavar="N", help="producers that number and repeat entries")
    add("--workers", type=int, default=0, metavar="N", help="consumers of a work queue beside the others")
    add("--keepers", type=int, default=0, metavar="N", help="operators that trim and delete a topic")
    add("--giving-up", type=int, default=0, metavar="N", help="consumers that fill the dead letters")
    add("--finders", type=int, default=0, metavar="N", help="clients that ask where times are")
    add("--engine", action="store_true", help="the real storage engine on a simulated disk")
    add("--codec", action="store_true", help="send every message through its wire encoding")
    add("--unordered", action="store_true", help="links do not keep the order of messages")
    add("--plain", action="store_true", help="the same load and settings for every seed")
    add("--small-shares", action="store_true", help="a turn takes one or two of what it takes hundreds of")
    add("--sampled", action="store_true", help="look at expensive invariants now and then only")
    add("--scenario", metavar="NAME", help="run a named scenario")
    add("--scenarios", action="store_true", help="run all scenarios")
    add("--mutant", metavar="NAME", help="plant a bug in the code first (walrus/sim/mutants)")
    add("--bench", action="store_true", help="measure steps per second")
    add("--trace", type=Path, metavar="FILE", help="record spec-level events, one JSON object a line")
    add("--html", type=Path, metavar="FILE", help="the run (of seeds: the first that fails) as a page")
    add("--show", action="store_true", help="after a failure, the last events that led to it as lanes")
    add("--why", action="store_true", help="after a failure, what the broken invariant is for")
    add("--no-shrink", action="store_true", help="do not look for a shorter schedule after a failure")
    add("--json", action="store_true", help="print results as JSON")
    return parser


def options_of(flags: argparse.Namespace) -> Options:
    """Return the options that these flags stand for."""
    return Options(
        nodes=flags.nodes or 3,
        fsync=flags.fsync or "each",
        engine=flags.engine,
        codec=flags.codec,
        ordered=not flags.unordered,
        sampled=flags.sampled,
        small_shares=flags.small_shares,
        **{name: getattr(flags, name) for name in CLIENTS},
    )


@command("walrus.sim")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["explore"]:
        return explore_cli.main(given[1:])
    flags = _parser().parse_args(given)
    console = report.console()
    try:
        options, chosen = options_of(flags), faults.classes(flags.faults)
    except ValueError as error:
        return _refuse(f"--faults: {error}")
    names = [flags.scenario] if flags.scenario else list(scenarios.ALL) if flags.scenarios else []
    if unknown := [name for name in names if name not in scenarios.ALL]:
        return _refuse(f"no scenario {unknown[0]}; there are: {', '.join(scenarios.ALL)}")
    if flags.scenarios and (flags.trace or flags.html):
        return _refuse("--trace and --html record one run: name a --scenario")
    if flags.trace and flags.seeds > 1:
        return _refuse("--trace records one run: leave --seeds out, and name its --seed")
    try:
        mutant = mutants.find(flags.mutant) if flags.mutant else None
    except LookupError as error:
        return _refuse(f"--mutant: {error}")
    with mutants.planted(mutant):
        if flags.bench:
            return _bench(flags, console)
        if names:
            return _scenarios(names, flags, console)
        failed, seen = 0, Counter[str]()
        for seed in range(flags.seed, flags.seed + flags.seeds):
            result = _one(seed, options, chosen, flags, console)
            failed += result is None
            seen.update(result.seen if result else {})
            if failed and flags.html:
                return 1  # the page shows this run
        if flags.seeds > 1 and not flags.json:
            coverage.tell(console, seen, flags.seeds - failed)
            if flags.html and not failed:
                console.print(
                    "every run held: there is no page to write. A bug may take a rarer schedule: try more "
                    "seeds (--seeds 200), --faults all, --engine, and `python -m walrus.sim explore segments`"
                )
        return int(failed > 0)


def _asked(flags: argparse.Namespace) -> list[str]:
    """Return the option names that were given on the command line: `varied` leaves them as they are."""
    given = {name: getattr(flags, name) for name in ("nodes", "fsync", *CLIENTS)}
    given["ordered"] = flags.unordered
    return [name for name, value in given.items() if value]


def _refuse(why: str) -> int:
    """Report an invalid flag in one line; exit status 2."""
    sys.stderr.write(f"walrus.sim: {why}\n")
    return 2


def _one(
    seed: int, options: Options, chosen: Sequence[str], flags: argparse.Namespace, console: Console
) -> Result | None:
    """Run one seed; return its result if everything held."""
    options = options if flags.plain else varied(seed, options, asked=_asked(flags))
    started = time.perf_counter()
    recorder = Recorder(options) if flags.trace else None
    camera = Camera() if flags.html and flags.seeds == 1 else None
    outcome = simulate(seed, options, flags.steps, chosen, recorder.of if recorder else None, camera)
    if recorder is not None:
        flags.trace.write_bytes(recorder.lines())
    if isinstance(outcome, Result):
        rate = outcome.steps / (time.perf_counter() - started)
        if flags.json:
            sys.stdout.write(report.as_json(outcome) + "\n")
        else:
            console.print(
                f"seed {seed}: held. {outcome.steps:,} steps in {outcome.seconds:.1f} s of the world "
                f"({rate:,.0f} steps/s), {outcome.faults} faults, {outcome.restarts} restarts, "
                f"{outcome.acknowledged:,} of {outcome.sent:,} entries acknowledged "
                f"({outcome.unknown} unknown) in {outcome.segments} segments, "
                f"{outcome.delivered:,} delivered; digest {outcome.digest}",
                highlight=False,
            )
        if camera is not None:
            filming.write(camera.film(f"seed {seed}", again=_again(seed, flags)), flags.html)
        return outcome
    _show(outcome, options, flags, console)
    return None


def _show(failure: FailedRun, options: Options, flags: argparse.Namespace, console: Console) -> None:
    if not flags.no_shrink and failure.schedule:
        console.print(f"seed {failure.seed}: {failure.name}. Looking for fewer faults that lead to it ...")
        with console.status("") as status:

            def progress(runs: int, left: int) -> None:
                status.update(f"{left} faults are left after {runs} of at most {SHRINKS} runs")

            failure, _ = shrink(failure, options, SHRINKS, progress)
    afterwards = said_next(failure, options) if failure.name == UNNAMED else None
    if flags.json:
        sys.stdout.write(report.as_json(failure) + "\n")
        return
    again = _again(failure.seed, flags)
    if not flags.show:  # whose lanes say more
        console.print(report.table(report.retell(failure, options)))
    report.tell(console, failure, again)
    if afterwards is not None:
        told = f": {afterwards.what} (without the assertion that stopped it)"
        console.print(Text.assemble((afterwards.name, "bold red"), told))
    if flags.html or flags.show or flags.why:
        _picture(
            filming.play(failure, options, f"seed {failure.seed}: {failure.name}", again), flags, console
        )


def _picture(film: Film, flags: argparse.Namespace, console: Console) -> None:
    """Show the film of a run as far as it was asked for: lanes, reason, page."""
    broken = film.header.broken
    if broken is not None and flags.show:
        for line in lanes.draw(film, lanes.story(film, broken.event), console.width):
            console.print(Text(line, no_wrap=True), crop=True)
    if broken is not None and flags.why:
        console.print(Text(f"{broken.name}: {broken.why}"))
    if flags.html:
        filming.write(film, flags.html)
        console.print(Text(f"a page of it: {flags.html}"), soft_wrap=True)


def _again(seed: int, flags: argparse.Namespace) -> str:
    """Return the command that repeats a run."""
    parts = [f"python -m walrus.sim --seed {seed} --steps {flags.steps} --faults {flags.faults}"]
    if flags.nodes:
        parts.append(f"--nodes {flags.nodes}")
    if flags.fsync:
        named = isinstance(flags.fsync, str)
        parts.append(f"--fsync {flags.fsync if named else round(flags.fsync * 1000)}")
    counts = {name: getattr(flags, name) for name in CLIENTS}
    parts += [f"--{name.replace('_', '-')} {count}" for name, count in counts.items() if count]
    names = ("engine", "codec", "unordered", "sampled", "small_shares", "plain")
    parts += [f"--{name.replace('_', '-')}" for name in names if getattr(flags, name)]
    return " ".join(parts) + _planted(flags)


def _scenarios(names: Sequence[str], flags: argparse.Namespace, console: Console) -> int:
    """Run scenarios by name with the given seed; return the exit status."""
    failed = 0
    for name in names:
        again = f"python -m walrus.sim --scenario {name} --seed {flags.seed}{_planted(flags)}"
        started = time.perf_counter()
        recorders: list[Recorder] = []

        def recording(options: Options) -> Callable[[int], Trace]:
            recorders.append(Recorder(options))  # noqa: B023 - used within this turn of the loop
            return recorders[-1].of  # noqa: B023

        try:
            with watched(recording if flags.trace else None):
                steps = scenarios.ALL[name].run(flags.seed)
        except Violation as violation:
            failed += 1
            console.print(Text.assemble((name, "bold red"), ": failed"))
            if not flags.show and (played := report.play_again(scenarios.ALL[name], flags.seed)) is not None:
                console.print(report.table(played))
            report.tell_scenario(console, violation, scenarios.ALL[name], again)
            if flags.html or flags.show or flags.why:
                _picture(filming.play_scenario(scenarios.ALL[name], flags.seed, again), flags, console)
        else:
            took = time.perf_counter() - started
            console.print(f"{name}: held, {steps:,} steps in {took:.2f} s", highlight=False)
            if flags.html:
                _picture(filming.play_scenario(scenarios.ALL[name], flags.seed, again), flags, console)
        if flags.trace:
            flags.trace.write_bytes(recorders[-1].lines())
    return int(failed > 0)


def _planted(flags: argparse.Namespace) -> str:
    return f" --mutant {flags.mutant}" if flags.mutant else ""


def _bench(flags: argparse.Namespace, console: Console) -> int:
    """Measure steps per second of one core, with every invariant after every step and with samples."""
    for sampled in (False, True):
        options = Options(nodes=flags.nodes or 3, sampled=sampled)
        started, steps = time.process_time(), 0
        for seed in range(flags.seed, flags.seed + 3):
            outcome = simulate(seed, options, flags.steps, faults.DEFAULT)
            if isinstance(outcome, FailedRun):
                _show(outcome, options, flags, console)
                return 1
            steps += outcome.steps
        rate = steps / (time.process_time() - started)
        what = "expensive invariants sampled" if sampled else "every invariant after every step"
        console.print(
            f"{rate:>10,.0f} steps/s, {what} ({steps:,} steps, {options.nodes} nodes)", highlight=False
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
