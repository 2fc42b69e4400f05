"""`python -m tools.planted`: which tool notices which planted bug, under which name, and how soon.

    python -m tools.planted                                  measure what is not known yet, write the page
    python -m tools.planted --tools random,explore --bugs no_fence_check,commits_old_terms
    python -m tools.planted --page                           write docs/planted-bugs.md from what is known

Every tool is run on every bug of `walrus/sim/mutants`, each pair in a process of its own:

    unit         the unit tests of the bug's package
    transcript   tests/*/transcripts
    hypothesis   the state machines of Hypothesis
    random       seeds of the simulator, one after another, each with options of its own
    scenario     the simulator's named schedules
    explore      the exploration of the real Raft class, and of the segment protocol
    trace        recorded runs with the bug in the code, checked against the specs
    replay       behaviours of Raft.tla or Walrus.tla, performed on servers with the bug
    TLC          the same bug in the specs: `walrus.tlc mutants` checks each in the configuration it names

Seconds are processor seconds of the process. Measurements are appended to `docs/planted-bugs.jsonl`. A
measurement is valid until the bug's lines change, and what was not found is measured again with a larger
`--budget`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec

from tools import sees
from walrus.sim import faults, mutants, scenarios
from walrus.sim.explore import STARTS, Bounds, explore
from walrus.sim.explore_segments import SegmentBounds, explore_segments
from walrus.sim.mutants.plant import Mutant, place_of
from walrus.sim.options import Options, varied
from walrus.sim.run import FailedRun, said_next, simulate
from walrus.sim.search import Exploration, Told
from walrus.sim.violation import UNNAMED, Violation
from walrus.tlc.mutants import PLANTED

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "planted-bugs.jsonl"
PAGE = ROOT / "docs" / "planted-bugs.md"

STEPS = 6_000
"""Steps of a random run."""
NEAR = {"raft": "consensus", "segments": "broker", "leases": "broker", "wire": "broker"}
"""Packages whose unit tests are under another package's name."""
BESIDE = {"broker": ("replicas",), "replicas": ("broker",)}
NOT_UNIT = ("citations", "transcripts", "machine", "mutants", "simulation")
MACHINES = {
    "consensus": ("tests/consensus/test_machine.py", "tests/consensus/test_log_machine.py"),
    "": ("tests/sim/test_machine_cluster.py", "tests/sim/test_machine_metadata.py"),
}


class Found(msgspec.Struct, frozen=True):
    """What a tool reported: the name that it began with, and where or with which seed it was."""

    name: str
    by: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The measurement of one tool on one bug."""

    bug: str
    lines: str
    """The digest of the bug's slips."""
    tool: str
    found: Found | None
    seconds: float
    budget: float


def digest(mutant: Mutant) -> str:
    """Return a digest of what a measurement depends on."""
    text = repr([(slip.line, slip.wrong) for slip in mutant.slips])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# --- the tools ---


def _package(mutant: Mutant) -> str:
    module = place_of(mutant.slips[0]).module.split(".")[1]
    return NEAR.get(module, module)


def _pytest(mutant: Mutant, paths: Sequence[str], budget: float) -> Found | None:
    """Run these tests until one fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-p", "tools.planting"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "--timeout=0"]
    command += ["-m", "not process and not tla and not slow", *paths]
    environ = {**os.environ, "WALRUS_PLANTED": mutant.name, "PYTHONPATH": str(ROOT)}
    limits = (int(budget) + 5, int(budget) + 5)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, limits)

    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, preexec_fn=limit)
    failed = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        return None
    said = re.search(r"(?:Error|Violation|Failed|FailedRun): ?\W*([A-Z]\w+):", done.stdout)
    return Found(said[1] if said else "", failed[1].removeprefix("tests/"))


def unit(mutant: Mutant, budget: float) -> Found | None:
    """Run the unit tests of the bug's package and of the one it works with, first those of its module."""
    module, package = place_of(mutant.slips[0]).module, _package(mutant)
    folders = [ROOT / "tests" / name for name in (package, *BESIDE.get(package, ()))]
    files = [path for folder in folders for path in sorted(folder.glob("test_*.py"))]
    files.sort(
        key=lambda path: (path.stem != f"test_{module.split('.')[-1]}", module not in path.read_text())
    )
    names = [str(path.relative_to(ROOT)) for path in files if not any(no in path.stem for no in NOT_UNIT)]
    return _pytest(mutant, names, budget)


def transcript(mutant: Mutant, budget: float) -> Found | None:
    """Run the transcripts of Raft and of the segment protocol."""
    where = "consensus" if _package(mutant) == "consensus" else "replicas"
    return _pytest(mutant, [f"tests/{where}/test_transcripts.py"], budget)


def hypothesis(mutant: Mutant, budget: float) -> Found | None:
    """Run the state machines of Hypothesis."""
    return _pytest(mutant, MACHINES.get(_package(mutant), MACHINES[""]), budget)


BETWEEN_TURNS = {"commands_applied_to_half_a_snapshot"}
"""Bugs that need a look of several turns, as there is with small shares alone."""


def at_random(mutant: Mutant, budget: float) -> Found | None:
    """Run seeds until one fails, with operators that set retention for the bugs that need them."""
    seed, begun = 0, time.process_time()
    keepers = 2 if mutant in mutants.retention.ALL else 0
    shares = mutant.name in BETWEEN_TURNS
    while time.process_time() - begun < budget:
        seed += 1
        options = varied(seed, Options(keepers=keepers, small_shares=shares))
        with mutants.planted(mutant):
            outcome = simulate(seed, options, STEPS, faults.DEFAULT)
            if isinstance(outcome, FailedRun):
                said = said_next(outcome, options) if outcome.name == UNNAMED else None
                return Found((said or outcome).name, f"seed {seed}")
    return None


WRITTEN_FOR = {
    "unsure_counts_as_sure": "short_copy_and_lagging_copy",
    "damaged_counts_as_sure": "bit_flips_while_the_third_copy_lags",
    "repeated_forward_is_handed_back": "forwards_repeated_after_the_seal",
    "reads_past_the_seal": "leader_reaches_clients_but_no_replica",
    "raft_goes_on_before_durable": "blackout_with_slow_disks",
    "timeout_says_failed": "answers_lost_behind_an_append",
    "replicas_by_command_unseen": "replica_by_a_command",
    "replicas_by_snapshot_unseen": "replica_by_a_command",
    "replaced_entries_count_as_durable": "entries_replaced_while_they_are_synced",
    "trims_before_durable": "power_lost_while_checkpoints_are_written",
    "snapshot_moves_on": "power_lost_while_checkpoints_are_written",
    "snapshot_pieces_repeat": "pieces_of_snapshots",
    "snapshot_pieces_of_two_leaders": "pieces_of_snapshots",
    "deposed_leader_dates_its_lease": "raft_leader_that_no_majority_answers",
    "doubt_ends_with_the_snapshot": "journal_that_ends_with_its_snapshot",
    "doubt_not_restored": "journal_that_ends_with_its_snapshot",
    "doubts_noted_before_durable": "synced_from_now_on",
    "notes_cut_before_rewritten": "power_lost_while_notes_are_rewritten",
    "fence_answered_with_a_later_length": "fenced_again_while_it_is_copied",
    "forced_recovery_takes_a_minority": "forced_recovery_that_begins_again",
    "shadow_begins_with_the_old_one": "damaged_twice_on_a_full_disk",
    "shorter_copy_kept": "node_dies_while_a_copy_is_made_anew",
    "one_proven_replica_is_enough": "member_leaves_and_another_lacks_entries",
    "set_replicas_without_compare": "replica_by_a_command",
    "next_segment_too_early": "healthy_cluster",
    "replicas_are_told_another_time": "healthy_cluster",
}
"""Bug -> the scenario that has the schedule which the bug needs."""


def scenario(mutant: Mutant, budget: float) -> Found | None:
    """Run the named schedules in order, first the one that was written for the bug."""
    begun, first = time.process_time(), WRITTEN_FOR.get(mutant.name, "")
    with mutants.planted(mutant):
        for name in sorted(scenarios.ALL, key=lambda name: name != first):
            try:
                for seed in range(1, 7 if name == first else 2):
                    scenarios.ALL[name].run(seed)
            except Violation as violation:
                return Found(violation.name, name)
            if time.process_time() - begun > budget:
                break
    return None


EXPLORED = (
    Bounds(depth=6, terms=5),
    Bounds(nodes=1, depth=7, terms=5, slow=4, heartbeats=0),
    Bounds(depth=7, terms=5, snapshots=1, packets=4, commands=2, deaths=0),
    Bounds(depth=8, terms=4, deaths=0, heartbeats=0, packets=4),
)
"""How far the exploration of Raft goes, one step further each time."""
OF_SEGMENTS: tuple[tuple[str, SegmentBounds], ...] = (
    ("open", SegmentBounds(depth=5)),
    ("acked", SegmentBounds(depth=7, puts=1, deaths=0)),
    ("open", SegmentBounds(depth=5, slow=2)),
    ("acked", SegmentBounds(depth=6, puts=1, slow=2)),
    ("open", SegmentBounds(depth=7, puts=1, recoveries=0, lapses=1, repeats=1, ticks=1)),
    ("acked", SegmentBounds(depth=9, puts=1, deaths=1, packets=4)),
)
"""How far the exploration of the segment protocol goes."""


def explored(mutant: Mutant, budget: float) -> Found | None:
    """Explore the short behaviours of Raft, or of the segment protocol, from every start."""
    searches = _of_raft() if _package(mutant) == "consensus" else _of_segments()
    begun = time.process_time()
    with mutants.planted(mutant):
        for start, search in searches:
            outcome = search(lambda depth, states: _within(begun, budget))
            if outcome.violation is not None:
                return Found(outcome.violation.name, f"{start}, {len(outcome.path)} steps")
    return None


Explore: TypeAlias = Callable[[Told], Exploration]


def _of_raft() -> Iterator[tuple[str, Explore]]:
    for bounds in EXPLORED:
        for start in STARTS:
            yield start, partial(explore, bounds, start)


def _of_segments() -> Iterator[tuple[str, Explore]]:
    for start, extent in OF_SEGMENTS:
        yield start, partial(explore_segments, extent, start)


class _Late(Exception):
    """The budget is spent."""


def _within(begun: float, budget: float) -> None:
    if time.process_time() - begun > budget:
        raise _Late


def trace(mutant: Mutant, budget: float) -> Found | None:
    """Check recorded runs with the bug in the code against the specs."""
    found = sees.traced(mutant, budget)
    return Found(*found) if found else None


def replay(mutant: Mutant, budget: float) -> Found | None:
    """Perform behaviours of the specs on servers with the bug."""
    found = sees.replayed(mutant, budget)
    return Found(*found) if found else None


def tlc(mutant: Mutant, budget: float) -> Found | None:
    """Return what the same bug violates in the specs, which a test checks in the named configuration."""
    violated = {f"{case.config.partition('-')[0]}:{case.name}": case.expected for case in PLANTED}
    return Found(violated[mutant.spec], mutant.spec) if mutant.spec else None


TOOLS: dict[str, Callable[[Mutant, float], Found | None]] = {
    "transcript": transcript,
    "explore": explored,
    "random": at_random,
    "unit": unit,
    "scenario": scenario,
    "hypothesis": hypothesis,
    "trace": trace,
    "replay": replay,
    "TLC": tlc,
}


# --- measuring ---


def known() -> dict[tuple[str, str], Measured]:
    """Return the valid measurements by bug and tool; the latest counts."""
    lines = DATA.read_bytes().splitlines() if DATA.exists() else []
    found = [msgspec.json.decode(line, type=Measured) for line in lines]
    return {
        (one.bug, one.tool): one
        for one in found
        if one.bug in mutants.ALL and one.lines == digest(mutants.ALL[one.bug]) and one.tool in TOOLS
    }


def noticed_by() -> dict[str, list[str]]:
    """Return the tools that noticed each bug."""
    measured = known()
    return {
        bug: [tool for tool in TOOLS if (one := measured.get((bug, tool))) and one.found is not None]
        for bug in mutants.ALL
    }


def measure(mutant: Mutant, tool: str, budget: float) -> Measured:
    """Run one tool on one bug, in this process."""
    begun, children = time.process_time(), _children()
    try:
        found = TOOLS[tool](mutant, budget)
    except _Late:
        found = None
    seconds = round(time.process_time() - begun + _children() - children, 1)
    return Measured(
        bug=mutant.name, lines=digest(mutant), tool=tool, found=found, seconds=seconds, budget=budget
    )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure_all(tools: Sequence[str], bugs: Iterable[str], budget: float, enough: int) -> None:
    for tool in tools:
        before, tools_of = known(), noticed_by()
        for bug in bugs:
            one = before.get((bug, tool))
            if len(tools_of[bug]) < enough and (one is None or (one.found is None and one.budget < budget)):
                made = measure(mutants.ALL[bug], tool, budget)
                with DATA.open("ab") as file:
                    file.write(msgspec.json.encode(made) + b"\n")
                said = f"{made.found.name or 'yes'}, {made.found.by}" if made.found else "not found"
                print(f"{bug} {tool}: {said}, {made.seconds} s", flush=True)


# --- the page ---

HEAD = """# Planted bugs, and which tool notices them

<!-- written by `python -m tools.planted --page`; do not edit -->

Every bug of `walrus/sim/mutants` was planted, one at a time, and run under each tool. A cell says after how
many seconds of one core the tool noticed the bug, and under which name; *italic*: under a name other than
that of an invariant which the bug breaks. A dash: not noticed within that many seconds; empty: not run.
`tools/planted.py` describes each tool, and how to repeat the measurement. At least two tools notice each
bug. Once two had noticed a bug, most others were not run, so many cells are empty.

"""


def _first_of_the_simulator(bug: str, measured: dict[tuple[str, str], Measured]) -> Found | None:
    """Return what is shown first for a bug: a random run, else a scenario, else an exploration."""
    asked = (measured.get((bug, tool)) for tool in ("random", "scenario", "explore"))
    return next((one.found for one in asked if one is not None and one.found is not None), None)


def _cell(one: Measured | None, mutant: Mutant) -> str:
    if one is None:
        return ""
    if one.found is None:
        return f"– {one.seconds:.0f} s" if one.tool != "TLC" else ""
    name = one.found.name
    shown = name if name in mutant.expected else f"*{name or 'by a test'}*"
    return shown if one.tool == "TLC" else f"{one.seconds:.0f} s {shown}"


def page() -> str:
    """Return the whole page."""
    measured, lines = known(), []
    for bug, mutant in mutants.ALL.items():
        cells = " | ".join(_cell(measured.get((bug, tool)), mutant) for tool in TOOLS)
        lines.append(f"| `{bug}` | {mutant.about} | {cells} |")
    head = f"| bug | what is wrong | {' | '.join(TOOLS)} |\n|{'---|' * (len(TOOLS) + 2)}\n"
    return HEAD + _summary(measured) + "\n\n" + head + "\n".join(lines) + "\n"


def _summary(measured: dict[tuple[str, str], Measured]) -> str:
    said = [f"{len(mutants.ALL)} bugs."]
    for tool in TOOLS:
        asked = [one for (_, of), one in measured.items() if of == tool]
        found = [one for one in asked if one.found is not None]
        named = sum(
            one.found is not None and one.found.name in mutants.ALL[one.bug].expected for one in found
        )
        if not asked:
            said.append(f"*{tool}* was not asked yet.")
        elif tool != "TLC":
            said.append(f"*{tool}* noticed {len(found)} of {len(asked)}, {named} by name.")
    said.append(
        f"{sum(len(tools) >= 2 for tools in noticed_by().values())} are noticed by two tools or more."
    )
    first = [_first_of_the_simulator(bug, measured) for bug in mutants.ALL]
    names = [
        found.name in mutants.ALL[bug].expected
        for bug, found in zip(mutants.ALL, first, strict=True)
        if found
    ]
    said.append(f"The simulator noticed {len(names)}, {sum(names)} by the name of what they break first.")
    return "\n".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.planted", description=__doc__.split("\n")[0])
    parser.add_argument("--tools", default=",".join(TOOLS), help="which tools are asked")
    parser.add_argument("--bugs", default=",".join(mutants.ALL), help="about which bugs")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each (60)")
    parser.add_argument(
        "--enough", type=int, default=len(TOOLS), help="bugs that so many tools noticed are not asked about"
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    flags = parser.parse_args(arguments)
    if not flags.page:
        _measure_all(flags.tools.split(","), flags.bugs.split(","), flags.budget, flags.enough)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
