"""Which planted bugs recorded runs and replayed behaviours can show: one function for each of the two tools.

    by_traces(name)    runs of the simulator with the bug planted, recorded, and held against the specs
    by_replay(name)    behaviours of Raft.tla, performed on servers with the bug planted

Each says whether the bug was seen, by what, and after how many seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from walrus.sim.mutants import find, planted, unasserted
from walrus.sim.mutants.raft import ALL as OF_RAFT
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import simulate
from walrus.sim.trace import Recorder
from walrus.tlc.referee import Referee
from walrus.tlc.replay import NARROW, Replayed, behaviours, perform
from walrus.tlc.replay_raft import SpecState
from walrus.tlc.trace_raft import RAFT
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import WALRUS
from walrus.tlc.traces import TraceVerdict, read_lines, validate

FAULTS = ("crash", "power", "pause", "network", "ambush", "leaders")
RAFT_BUGS = {mutant.name for mutant in OF_RAFT}


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether a tool saw a planted bug, by what (an invariant, an event, a variable), and how soon."""

    found: bool
    by: str
    seconds: float


def recorded(seed: int) -> list[Event]:
    """A short simulated run with faults, as far as it came: a violation ends it early."""
    settings = {**SETTINGS, "max_segment_entries": 6, "compact_entries": 20}
    options = Options(
        topics=1,
        producers=1,
        consumers=1,
        fetchers=0,
        newcomers=0,
        think=0.2,
        settings=settings,
        ordered=seed % 3 > 0,
        fsync="none" if seed % 4 == 3 else "each",
    )
    recorder = Recorder(options)
    simulate(seed, options, 2_500, FAULTS, recorder.of)
    return read_lines(recorder.lines(), f"seed {seed}")


def recorded_with(name: str, seed: int) -> list[Event]:
    """The same with this bug in the code, and without the assertions that would stop it."""
    with planted(find(name)), unasserted():
        return recorded(seed)


def told(verdict: TraceVerdict) -> str:
    """By what a run was refused: the invariant that it breaks, or the event that is no step."""
    refused = verdict.refused or {}
    return verdict.violated or f"{refused.get('ev', '?')} is no step of {verdict.spec}.tla"


def by_traces(name: str, seeds: Sequence[int] = range(1, 7)) -> Seen:
    """Recorded runs with the bug, one after the other, until TLC refuses one.

    Of the data plane the second judge is asked first: it takes milliseconds, and the two agree.
    """
    began = time.monotonic()
    for seed in seeds:
        run, spec = recorded_with(name, seed), RAFT if name in RAFT_BUGS else WALRUS
        if spec is WALRUS and not Referee(run).judge()[1]:
            continue
        for verdict in validate({name: run}, specs=[spec], explain=False):
            if not verdict.accepted:
                return Seen(True, told(verdict), time.monotonic() - began)
    return Seen(False, "", time.monotonic() - began)


@cache
def written(count: int = 150, seed: int = 1) -> tuple[tuple[SpecState, ...], ...]:
    """Behaviours of Raft.tla, written by TLC once for all planted bugs."""
    every = behaviours("raft-simulate", NARROW, count=count, depth=60, seed=seed)
    return tuple(tuple(states) for states in every)


def performed(count: int = 150) -> Replayed:
    """Perform them all, or as many as it takes to find a difference."""
    outcome = Replayed()
    for number, states in enumerate(written(count)):
        outcome.behaviours += 1
        perform(list(states), True, number, outcome)
        if outcome.differences:
            break
    return outcome


def by_replay(name: str, count: int = 150) -> Seen:
    """Behaviours performed on servers with the bug, until there is a difference."""
    written(count)
    began = time.monotonic()
    with planted(find(name)):
        outcome = performed(count)
    by = outcome.differences[0].variable if outcome.differences else ""
    return Seen(bool(by), by, time.monotonic() - began)
