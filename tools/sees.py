"""Which planted bugs recorded runs and replayed behaviours show: one function for each of the two tools.

    traced      runs of the simulator with the bug planted, recorded, and held against the specs
    replayed    behaviours of Raft.tla, performed on servers with the bug planted

Both are asked by `python -m tools.planted`. A run is refused at an event that is no step, or by an invariant
that is broken; `STANDS_FOR` says for which invariant the conditions of a step are there. A replay ends with
the variable that differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Final

from walrus.sim.mutants import planted, unasserted
from walrus.sim.mutants.plant import Mutant
from walrus.sim.mutants.raft import ALL as OF_RAFT
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import simulate
from walrus.sim.trace import Recorder
from walrus.tlc.referee import Referee
from walrus.tlc.replay import NARROW, Replayed, behaviours, perform
from walrus.tlc.replay_steps import SpecState
from walrus.tlc.trace_raft import RAFT
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import WALRUS
from walrus.tlc.traces import TraceVerdict, read_lines, validate

FAULTS: Final = ("crash", "power", "pause", "network", "ambush", "leaders")
RAFT_BUGS: Final = {mutant.name for mutant in OF_RAFT}

STANDS_FOR: Final = {
    **dict.fromkeys(("Ack", "Report", "Synced", "AnswerFence", "Fence", "Recover"), "AckedDurable"),
    **dict.fromkeys(("Restart", "PowerLoss", "Sure", "StartRecovery"), "AckedDurable"),
    **dict.fromkeys(("ReplicaAppend", "CopyTail"), "PrefixAgree"),
    **dict.fromkeys(("LeaderAppend", "Announce"), "SingleWriter"),
    **dict.fromkeys(("Grant", "BeginSeal"), "OpenLeaderMatchesMap"),
    **dict.fromkeys(("ProposeSeal", "RecoverySeal", "Seal", "SetReplicas", "AnswerCopy"), "SealedStable"),
    **dict.fromkeys(("HandOut", "Confirm", "Rewind"), "DeliveredIsPrefix"),
    **dict.fromkeys(("ProposeCursors", "CommitCursors"), "CursorInBounds"),
    **dict.fromkeys(("Timeout", "HandleRequestVoteRequest", "HandleRequestVoteResponse"), "ElectionSafety"),
    **dict.fromkeys(("BecomeLeader", "UpdateTerm", "Persist"), "ElectionSafety"),
    **dict.fromkeys(("AcceptAppendEntriesRequest", "ClientRequest"), "LogMatching"),
    **dict.fromkeys(("AdvanceCommitIndex", "HandleAppendEntriesResponse"), "LeaderCompleteness"),
    **dict.fromkeys(("LearnCommitIndex", "InstallSnapshot", "CompactLog"), "StateMachineSafety"),
    **dict.fromkeys(
        ("requests", "votes", "voted_for", "current_term", "role", "leader_of"), "ElectionSafety"
    ),
    **dict.fromkeys(("log", "leader_log"), "LogMatching"),
    **dict.fromkeys(("commit_index", "leader_commit"), "LeaderCompleteness"),
    **dict.fromkeys(("matched", "persisted"), "CommittedNeverLost"),
    "base": "StateMachineSafety",
}
"""Of each event, and of each variable of Raft.tla: the invariant that its conditions are there for."""


def recorded(seed: int) -> list[Event]:
    """A short simulated run with faults, as far as it came: a violation ends it early."""
    settings = {**SETTINGS, "max_segment_entries": 6, "compact_entries": 20}
    options = Options(
        topics=1,
        producers=1 + seed % 3,
        consumers=1,
        fetchers=0,
        newcomers=0,
        think=(0.2, 0.02)[seed % 2],
        settings=settings,
        ordered=seed % 3 > 0,
        fsync="none" if seed % 4 == 3 else "each",
    )
    recorder = Recorder(options)
    simulate(seed, options, 2_500, FAULTS, recorder.of)
    return read_lines(recorder.lines(), f"seed {seed}")


def recorded_with(mutant: Mutant, seed: int) -> list[Event]:
    """The same with this bug in the code, and without the assertions that would stop it."""
    with planted(mutant), unasserted():
        return recorded(seed)


def said(verdict: TraceVerdict) -> tuple[str, str]:
    """The invariant that a refused run breaks, or that its event stands for; and the event."""
    event = (verdict.refused or {}).get("ev", "")
    return verdict.violated or STANDS_FOR.get(event, ""), event or "an invariant"


def traced(mutant: Mutant, budget: float) -> tuple[str, str] | None:
    """Recorded runs with the bug, one after the other, until TLC refuses one: (invariant, where).

    Of the data plane the second judge is asked first: it takes milliseconds, and the two agree.
    """
    seed, begun = 0, time.process_time()
    while time.process_time() - begun < budget:
        seed += 1
        run, spec = recorded_with(mutant, seed), RAFT if mutant.name in RAFT_BUGS else WALRUS
        if spec is WALRUS and not Referee(run).judge()[1]:
            continue
        for verdict in validate({mutant.name: run}, specs=[spec], explain=False):
            if not verdict.accepted:
                name, event = said(verdict)
                return name, f"seed {seed}, {event}"
    return None


@cache
def written(count: int = 150, seed: int = 1) -> tuple[tuple[SpecState, ...], ...]:
    """Behaviours of Raft.tla, written by TLC once for all planted bugs."""
    every = behaviours("raft-simulate", NARROW, count=count, depth=60, seed=seed)
    return tuple(tuple(states) for states in every)


def performed(chosen: Sequence[Sequence[SpecState]]) -> Replayed:
    """Perform them all, or as many as it takes to find a difference."""
    outcome = Replayed()
    for number, states in enumerate(chosen):
        outcome.behaviours += 1
        perform(list(states), True, number, outcome)
        if outcome.differences:
            break
    return outcome


def replayed(mutant: Mutant, budget: float) -> tuple[str, str] | None:
    """Behaviours performed on servers with the bug, until there is a difference: (invariant, where)."""
    if mutant.name not in RAFT_BUGS:
        return None
    chosen = written()
    with planted(mutant):
        outcome = performed(chosen)
    if not outcome.differences:
        return None
    first = outcome.differences[0]
    variable = first.variable.split("[")[0].split(",")[0]
    return STANDS_FOR.get(variable, ""), f"{first.variable}, behaviour {first.behaviour}, step {first.step}"
