"""`python -m walrus.tlc`: the specs under TLC, in one command.

    check [CONFIG ...]   check configurations (by default the quick ones); `check raft-full`
    simulate [CONFIG]    random behaviours of a spec, deeper than a search can go
    coverage [CONFIG]    how often each action was taken; an action that was never taken is an error
    mutants [NAME ...]   plant bugs one at a time: TLC must refuse each by the expected property
    guards [NAME ...]    change each guard of each action: what refuses that, and what may survive
    trace FILE ...       is this recorded run of the code a behaviour of the specs?
    replay [CONFIG]      random behaviours of Raft.tla or Walrus.tla, performed on real servers: do
                         they reach the same states?

`--json` prints results as JSON instead of tables. The exit status is 0 if all is well, 1 if something was
violated, a mutant survived or a trace was refused, 2 if TLC could not run.

This module has the command line and the tables. `run` runs TLC, `configs` knows spec/, `mutants` has the
planted bugs, `verdicts` the mutants made by rule, `traces` checks recorded runs (`trace_walrus` and its
siblings know what each spec needs), `replay` performs behaviours, and `values` parses TLA+ values.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec
from rich.live import Live
from rich.table import Table
from rich.text import Text

from walrus.cli.command_line import Console, Parser, command
from walrus.shell.arguments import positive
from walrus.tlc import filming, replay_film, verdicts
from walrus.tlc.configs import (
    SPECS,
    Figures,
    config_file,
    expand,
    known_files,
    known_states,
    own_actions,
    spec_of,
    write_figures,
)
from walrus.tlc.mutants import CASES, Case, expected_of, listing, name_of, run_case, run_cases
from walrus.tlc.patches import Generated
from walrus.tlc.replay import CHECKPOINTS, replay
from walrus.tlc.run import (
    BRIEF_STATES,
    SearchProgress,
    SpecError,
    TlcError,
    TlcResult,
    TlcTimeout,
    ToolsMissing,
    TraceState,
    run_tlc,
    steps,
)
from walrus.tlc.traces import TraceVerdict, check_traces
from walrus.view import html
from walrus.view.film import Film
from walrus.view.links import links

__all__ = [
    "SearchProgress",
    "SpecError",
    "TlcError",
    "TlcResult",
    "TlcTimeout",
    "ToolsMissing",
    "TraceState",
    "TraceVerdict",
    "check",
    "check_traces",
    "coverage",
    "main",
    "simulate",
]

PROGRESS_SECONDS: Final = 10.0
"""Seconds between two lines of progress without a terminal."""

OnProgress = Callable[[SearchProgress], None]


def check(config: str, *, timeout: float = 3600.0, on_progress: OnProgress | None = None) -> TlcResult:
    """Check one configuration of spec/ exhaustively. Raises TlcError."""
    return _searched(config, [], timeout, on_progress)


def simulate(
    config: str,
    *,
    behaviours: int = 2_000,
    depth: int = 100,
    seed: int = 1,
    timeout: float = 3600.0,
    on_progress: OnProgress | None = None,
) -> TlcResult:
    """Run random behaviours of a configuration; equal seeds give equal behaviours. Raises TlcError."""
    file = config_file(config)
    arguments = ["-simulate", f"num={behaviours}", "-depth", str(depth), "-seed", str(seed)]
    brief = behaviours * depth <= BRIEF_STATES
    return run_tlc(
        spec_of(file), file, arguments=arguments, timeout=timeout, brief=brief, on_progress=on_progress
    )


def coverage(config: str, *, timeout: float = 3600.0, on_progress: OnProgress | None = None) -> TlcResult:
    """Check a configuration and count how often each action was taken. Raises TlcError."""
    return _searched(config, ["-coverage", "1"], timeout, on_progress)


def _searched(
    config: str, arguments: Sequence[str], timeout: float, on_progress: OnProgress | None
) -> TlcResult:
    file = config_file(config)
    brief = 0 < known_states().get(file.stem, 0) <= BRIEF_STATES
    return run_tlc(
        spec_of(file), file, arguments=arguments, timeout=timeout, brief=brief, on_progress=on_progress
    )


def idle(result: TlcResult) -> list[str]:
    """Return the actions that a configuration is for and never took: what depends on them is unchecked."""
    own = own_actions(config_file(result.config).read_text())
    return sorted(action for action in own if not result.coverage.get(action, (0, 0))[1])


def other_states(result: TlcResult) -> list[str]:
    """Return what the documentation says of a finished search if it is something else: another model."""
    known = known_states().get(result.config, result.distinct)
    if not result.ok or known == result.distinct:
        return []
    return [f"{result.config}: {result.distinct:,} distinct states, the documentation has {known:,}"]


def never_taken(results: Sequence[TlcResult]) -> list[str]:
    """Return the actions of a spec that none of these runs ever took."""
    taken: dict[str, int] = {}
    for result in results:
        for action, (_, times) in result.coverage.items():
            taken[action] = taken.get(action, 0) + times
    return sorted(action for action, times in taken.items() if not times)


# --- pictures ------------------------------------------------------------------------------------------


def counterexample(result: TlcResult) -> Table:
    """Return the counterexample, one row for each place that a step changed."""
    title = Text(f"{result.violated} is violated", "table.title")
    table = Table(title=title, title_justify="left", show_lines=False)
    for heading in ("step", "action", "what changed", "from", "to"):
        table.add_column(heading, overflow="fold")
    for state, changed in steps(result):
        first = [str(state.number), state.action]
        for place, old, new in changed or [("", "", "")]:
            table.add_row(*map(Text, (*first, place, old, new)))
            first = ["", ""]
    if result.loop_to is not None:
        stutters = result.loop_to == len(result.states)
        again = "stutters for ever" if stutters else f"back to step {result.loop_to}"
        table.add_row("", again, "", "", "")
    return table


def summary(results: Sequence[TlcResult]) -> Table:
    """Return one row for each run."""
    table = Table()
    table.add_column("configuration", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for heading in ("distinct states", "generated", "depth", "seconds"):
        table.add_column(heading, justify="right")
    for result in results:
        verdict = Text("holds", "green") if result.ok else Text(f"{result.violated} violated", "red")
        numbers = (result.distinct, result.generated, result.depth)
        table.add_row(
            Text(result.config), verdict, *(f"{number:,}" for number in numbers), f"{result.seconds:.1f}"
        )
    return table


@contextlib.contextmanager
def progress_line(console: Console, title: str) -> Iterator[OnProgress]:
    """Show how far TLC is: on a terminal a line that changes, else a first line and one every ten seconds.

    Without such lines a log or a CI job shows nothing for minutes, and seems to hang.
    """
    if not console.is_terminal:
        with _progress_lines(console, title) as show:
            yield show
        return
    with Live(Text(f"{title}: starting"), console=console, transient=True, auto_refresh=False) as live:
        yield lambda progress: live.update(Text(_how_far(title, progress)), refresh=True)


@contextlib.contextmanager
def _progress_lines(console: Console, title: str) -> Iterator[OnProgress]:
    """Print lines of progress. TLC reports once a minute, so a thread repeats the last report in between."""
    began, last = time.monotonic(), [f"{title}: starting"]
    over = threading.Event()

    def speak() -> None:
        while not over.wait(PROGRESS_SECONDS):
            console.print(f"{last[0]}; running for {time.monotonic() - began:.0f} s", soft_wrap=True)

    def show(progress: SearchProgress) -> None:
        last[0] = _how_far(title, progress)

    console.print(last[0], soft_wrap=True)
    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield show
    finally:
        over.set()
        thread.join()


def _how_far(title: str, progress: SearchProgress) -> str:
    rate = progress.distinct / progress.seconds if progress.seconds else 0
    return (
        f"{title}: {progress.distinct:,} distinct states ({rate:,.0f}/s), "
        f"{progress.queue:,} waiting, depth {progress.depth}, {progress.seconds:.0f} s"
    )


# --- subcommands ---------------------------------------------------------------------------------------


class _Report:
    """Reports results: tables for people, JSON for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json)
        self.chatter = self.console if self.console.is_terminal else Console(stderr=True)

    def results(self, results: Sequence[TlcResult]) -> int:
        if self.as_json:
            self.json([asdict(result) for result in results])
        else:
            for result in results:
                if not result.ok:
                    self.console.print(counterexample(result))
            self.console.print(summary(results))
        return 0 if all(result.ok for result in results) else 1

    def json(self, value: object) -> None:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _each(
    names: Sequence[str], report: _Report, function: Callable[[str, OnProgress], TlcResult]
) -> list[TlcResult]:
    results = []
    for name in names:
        with progress_line(report.chatter, name) as on_progress:
            results.append(function(name, on_progress))
    return results


def _check(options: argparse.Namespace, report: _Report) -> int:
    def one(name: str, show: OnProgress) -> TlcResult:
        return check(name, timeout=options.timeout, on_progress=show)

    names = expand(options.configs) or [path.stem for path in known_files("quick")]
    results = _each(names, report, one)
    _page(options, results)
    return report.results(results)


def _page(options: argparse.Namespace, results: Sequence[TlcResult]) -> None:
    """Write the first counterexample as a page, if that was asked for."""
    for result in results:
        if options.html and not result.ok:
            made = filming.film(result, f"python -m walrus.tlc {options.command} {result.config}")
            _write(made, options.html)
            return


def _write(film: Film, path: Path) -> None:
    film.header.links = links(path)
    html.write(film, path)


def _simulate(options: argparse.Namespace, report: _Report) -> int:
    def one(name: str, show: OnProgress) -> TlcResult:
        return simulate(
            name,
            behaviours=options.behaviours,
            depth=options.depth,
            seed=options.seed,
            timeout=options.timeout,
            on_progress=show,
        )

    names = expand(options.configs) or [path.stem for path in known_files("simulate")]
    results = _each(names, report, one)
    _page(options, results)
    return report.results(results)


def _coverage(options: argparse.Namespace, report: _Report) -> int:
    def one(name: str, show: OnProgress) -> TlcResult:
        return coverage(name, timeout=options.timeout, on_progress=show)

    names = expand(options.configs) or [path.stem for path in known_files("quick")]
    results = _each(names, report, one)
    status = report.results(results)
    if options.write:
        write_figures(
            {
                each.config: Figures(each.distinct, each.depth, round(each.seconds))
                for each in results
                if each.ok
            }
        )
    missing = [f"{result.config}: {action} was never taken" for result in results for action in idle(result)]
    missing += [] if options.write else [line for result in results for line in other_states(result)]
    for spec in sorted({result.spec for result in results}):
        group = [result for result in results if result.spec == spec]
        if not report.as_json:
            for table in times_taken(spec, group, report.console.width):
                report.console.print(table)
        if not options.configs:
            missing += [f"{spec}: no configuration takes {action}" for action in never_taken(group)]
    for line in missing:
        report.console.print(Text(line, "red"))
    return 1 if missing else status


def times_taken(spec: str, results: Sequence[TlcResult], width: int) -> Iterator[Table]:
    """Return how often each action was taken, with the actions that a configuration is for in bold.

    Configurations stand side by side, as many in a table as fit into the width.
    """
    actions = sorted({action for result in results for action in result.coverage})
    room = (width - max(map(len, actions), default=0) - 4) // (max(len(each.config) for each in results) + 3)
    for start in range(0, len(results), max(1, room)):
        shown = results[start : start + max(1, room)]
        table = Table(title=f"{spec}: times taken")
        for heading in ("action", *(result.config for result in shown)):
            table.add_column(Text(heading), no_wrap=True)
        own = [own_actions(config_file(result.config).read_text()) for result in shown]
        for action in actions:
            cells = [
                Text(f"{result.coverage.get(action, (0, 0))[1]:,}", "bold" if action in mine else "dim")
                for result, mine in zip(shown, own, strict=True)
            ]
            table.add_row(Text(action), *cells)
        yield table


def _mutants(options: argparse.Namespace, report: _Report) -> int:
    if options.list:
        sys.stdout.write(listing())
        return 0
    chosen = [
        case for case in CASES if not options.names or any(name in name_of(case) for name in options.names)
    ]
    if not chosen:
        raise TlcError(f"there is no mutant {' or '.join(options.names)}; `mutants` alone runs all of them")
    rows: list[dict[str, object]] = []

    def show(case: Case, violated: str | None) -> None:
        caught = violated == expected_of(case)
        rows.append({"name": name_of(case), "caught": caught, "violated": violated, "about": case.about})
        if not report.as_json:
            style = "green" if caught else "red"
            report.console.print(
                Text(f"{name_of(case):48} {violated or 'survived':24}", style), Text(case.about, "dim")
            )

    wrong = run_cases(chosen, show, options.timeout)
    if options.html:  # a counterexample needs a search of its own
        _page(options, [run_case(chosen[0], options.timeout)])
    if report.as_json:
        report.json(rows)
    for line in wrong:
        report.console.print(Text(line, "red"))
    report.console.print(f"{len(chosen) - len(wrong)} of {len(chosen)} as expected")
    return 1 if wrong else 0


def _guards(options: argparse.Namespace, report: _Report) -> int:
    """Check the verdicts of generated mutants, or find those that are missing."""
    if options.list:
        sys.stdout.write(verdicts.summary())
        return 0
    states, status = known_states(), 0
    for spec in SPECS.values():
        known = verdicts.load().get(spec, {})
        chosen = [
            mutant
            for mutant in verdicts.mutants_of(spec)
            if not options.names or any(name in f"{spec} {mutant.name}" for name in options.names)
        ]
        if options.search or options.strengthen:
            _search(spec, chosen, states, report, options.strengthen)
        else:
            status |= _recheck(spec, chosen, known, states, report)
    return status


def _search(
    spec: str, mutants: list[Generated], states: dict[str, int], report: _Report, better: bool
) -> None:
    def found(more: verdicts.Verdicts) -> None:
        known = verdicts.load()
        known.setdefault(spec, {}).update(more)
        verdicts.save(known)
        for name, verdict in more.items():
            said = f"{verdict.config}: {verdict.by}" if verdict.final else f"not by {verdict.tried}"
            report.console.print(Text(f"{spec} {name}: {said}"), soft_wrap=True)

    (verdicts.strengthen if better else verdicts.search)(spec, mutants, states, found)


def _recheck(
    spec: str, mutants: list[Generated], known: verdicts.Verdicts, states: dict[str, int], report: _Report
) -> int:
    wrong: list[str] = []
    judged = [mutant for mutant in mutants if mutant.name in known and known[mutant.name].config]
    for config in dict.fromkeys(known[mutant.name].config for mutant in judged):
        mine = [mutant for mutant in judged if known[mutant.name].config == config]
        for mutant, by in zip(mine, verdicts.judge(mine, config, states[config]), strict=True):
            expected = known[mutant.name].by
            report.console.print(Text(f"{spec} {mutant.name}: {config}: {by}"), soft_wrap=True)
            if by != expected:
                wrong.append(
                    f"{mutant.name}: {config} should refuse it by {expected}, but it was {by or 'none'}"
                )
    for line in wrong:
        report.console.print(Text(f"{spec} {line}", "red"), soft_wrap=True)
    return 1 if wrong else 0


def _trace(options: argparse.Namespace, report: _Report) -> int:
    for name in options.files:
        if not Path(name).is_file():
            raise TlcError(f"{name}: no such file")
    verdicts = check_traces([Path(name) for name in options.files], timeout=options.timeout)
    if report.as_json:
        report.json([asdict(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            style = "green" if verdict.accepted else "red"
            report.console.print(Text(verdict.describe(), style), soft_wrap=True)
    return 0 if all(verdict.accepted for verdict in verdicts) else 1


def _replay(options: argparse.Namespace, report: _Report) -> int:
    footage = replay_film.Footage()
    only = options.only
    outcome = replay(
        options.config,
        {} if options.as_is else CHECKPOINTS if options.checkpoints else None,
        count=options.behaviours if only is None else only + 1,
        depth=options.depth,
        seed=options.seed,
        timeout=options.timeout,
        footage=footage,
        first=only or 0,
    )
    again = [_again(options, difference.behaviour) for difference in outcome.differences]
    if options.html and footage.broken:
        _write(replay_film.film(footage, again[0]), options.html)
    if report.as_json:
        report.json(asdict(outcome) | {"again": again})
        return 1 if outcome.differences else 0
    table = Table(title=f"{options.config}: steps performed")
    table.add_column("action")
    table.add_column("times", justify="right")
    for action, times in sorted(outcome.actions.items()):
        table.add_row(action, f"{times:,}")
    report.console.print(table)
    for reason, times in sorted(outcome.beyond.items()):
        report.console.print(Text(f"{times} behaviours end where only the spec goes on: {reason}", "dim"))
    for difference, repeat in zip(outcome.differences, again, strict=True):
        report.console.print(Text(str(difference), "red"), soft_wrap=True)
        report.console.print(Text(f"    {repeat}", "dim"), soft_wrap=True)
    report.console.print(
        f"{outcome.behaviours:,} behaviours, {outcome.steps:,} steps, "
        f"{len(outcome.differences)} differences, {outcome.seconds:.0f} s"
    )
    if options.html and footage.broken:
        report.console.print(Text(f"a page of the first: {options.html}"), soft_wrap=True)
    return 1 if outcome.differences else 0


def _again(options: argparse.Namespace, behaviour: int) -> str:
    """Return the command that performs this behaviour once more, and no other one."""
    constants = " --as-is" * options.as_is + " --checkpoints" * options.checkpoints
    return (
        f"python -m walrus.tlc replay {options.config}{constants} "
        f"--depth {options.depth} --seed {options.seed} --only {behaviour}"
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m walrus.tlc", description="Check the specs with TLC.")
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print results as JSON")
    common.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="for each run")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function, about in (
        ("check", _check, "check configurations exhaustively (default: the quick ones)"),
        ("simulate", _simulate, "random behaviours, deeper than a search goes"),
        ("coverage", _coverage, "how often each action was taken"),
    ):
        command = commands.add_parser(name, parents=[common], help=about)
        command.add_argument("configs", nargs="*", metavar="CONFIG")
        command.set_defaults(function=function)
        if name != "coverage":
            command.add_argument("--html", type=Path, metavar="FILE", help="a counterexample as a page")
        if name == "coverage":
            command.add_argument("--write", action="store_true", help="figures into the documentation")
        if name == "simulate":
            command.add_argument("--behaviours", type=positive, default=2_000)
            command.add_argument("--depth", type=positive, default=100)
            command.add_argument("--seed", type=int, default=1)
    command = commands.add_parser("mutants", parents=[common], help="planted bugs that TLC must refuse")
    command.add_argument("names", nargs="*", metavar="NAME")
    command.add_argument("--list", action="store_true", help="print the table of the documentation")
    command.add_argument("--html", type=Path, metavar="FILE", help="the counterexample of one as a page")
    command.set_defaults(function=_mutants)
    command = commands.add_parser("guards", parents=[common], help="a mutant for each guard of each action")
    command.add_argument("names", nargs="*", metavar="NAME")
    command.add_argument("--search", action="store_true", help="find the verdicts that are missing")
    command.add_argument(
        "--strengthen", action="store_true", help="better ones than another number of states"
    )
    command.add_argument("--list", action="store_true", help="print the table of the documentation")
    command.set_defaults(function=_guards)
    command = commands.add_parser("trace", parents=[common], help="is this run a behaviour of the specs?")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.set_defaults(function=_trace)
    command = commands.add_parser(
        "replay", parents=[common], help="perform behaviours of Raft.tla or Walrus.tla on the code"
    )
    command.add_argument("config", nargs="?", default="raft-simulate", metavar="CONFIG")
    command.add_argument("--behaviours", type=positive, default=100)
    command.add_argument("--depth", type=positive, default=60)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument(
        "--only", type=positive, metavar="NUMBER", help="perform the behaviour with this number"
    )
    command.add_argument("--as-is", action="store_true", help="the configuration's own constants")
    command.add_argument(
        "--checkpoints", action="store_true", help="of Walrus.tla: with fences that are forgotten"
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="the first difference as a page (Raft)")
    command.set_defaults(function=_replay)
    return parser


@command("walrus.tlc")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    report = _Report(options.json)
    try:
        status: int = options.function(options, report)
        return status
    except TlcError as error:
        report.console.print(Text(str(error), "red"), soft_wrap=True)
        return 2
