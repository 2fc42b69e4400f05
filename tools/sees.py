"""Which planted bugs recorded runs and replayed behaviours show: one function for each of the two tools.

    traced      runs of the simulator with the bug planted, recorded, and checked against the specs
    replayed    behaviours of Raft.tla or Walrus.tla, performed on servers with the bug planted

`python -m tools.planted` runs both. A run is refused at an event that is no step of the spec, or by an
invariant that it breaks; `STANDS_FOR` maps an event to the invariant that the step's conditions protect. A
replay ends with the variable that differs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Final

from walrus.sim import scenarios
from walrus.sim.explore_node import ASSERTED
from walrus.sim.mutants import planted, unasserted
from walrus.sim.mutants.plant import Mutant
from walrus.sim.mutants.producers import ALL as OF_PRODUCERS
from walrus.sim.mutants.queues import ALL as OF_QUEUES
from walrus.sim.mutants.raft import ALL as OF_RAFT
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import simulate
from walrus.sim.stage import watched
from walrus.sim.trace import Recorder
from walrus.sim.violation import Violation
from walrus.tlc.referee import Referee
from walrus.tlc.replay import (
    NARROW,
    NARROW_SEGMENTS,
    Perform,
    Replayed,
    behaviours,
    perform,
    perform_all,
    perform_segments,
)
from walrus.tlc.replay_steps import SpecState
from walrus.tlc.trace_delivery import DELIVERY
from walrus.tlc.trace_publish import PUBLISH
from walrus.tlc.trace_raft import RAFT
from walrus.tlc.trace_spec import Event, TraceSpec
from walrus.tlc.trace_walrus import WALRUS
from walrus.tlc.traces import TraceVerdict, read_lines, validate
from walrus.wire.effects import Trace

FAULTS: Final = ("crash", "power", "pause", "network", "ambush", "leaders")
RAFT_BUGS: Final = {mutant.name for mutant in OF_RAFT}
QUEUE_BUGS: Final = {mutant.name for mutant in OF_QUEUES}
PRODUCER_BUGS: Final = {mutant.name for mutant in OF_PRODUCERS}

STANDS_FOR: Final = {
    **dict.fromkeys(("Ack", "Report", "Synced", "AnswerFence", "Fence", "Recover"), "AckedDurable"),
    **dict.fromkeys(("Restart", "PowerLoss", "Sure", "StartRecovery"), "AckedDurable"),
    **dict.fromkeys(("ReplicaAppend", "CopyTail"), "PrefixAgree"),
    **dict.fromkeys(("LeaderAppend", "Announce"), "SingleWriter"),
    **dict.fromkeys(("Grant", "BeginSeal"), "OpenLeaderMatchesMap"),
    **dict.fromkeys(("ProposeSeal", "RecoverySeal", "Seal", "SetReplicas", "AnswerCopy"), "SealedStable"),
    **dict.fromkeys(("HandOut", "Confirm", "Rewind"), "DeliveredIsPrefix"),
    **dict.fromkeys(("ProposeCursors", "CommitCursors"), "CursorInBounds"),
    **dict.fromkeys(("Receive", "Withhold", "Return"), "AckedNotRedelivered"),
    **dict.fromkeys(("AckEntry", "NoteDead", "StepOver", "CommitGroups"), "NothingSkipped"),
    "Answer": "PromisedIsCommitted",
    **dict.fromkeys(("PubAppend", "DropProducer"), "NoDuplicateAppend"),
    **dict.fromkeys(("AnswerPub", "Repeat"), "RepeatOkImpliesAcked"),
    "RefusePub": "EveryPubAnswered",
    "MoveGroup": "MarkOnlyRises",
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
"""Event, or variable of Raft.tla -> the invariant that its conditions protect."""

STANDS_FOR_SEGMENTS: Final = {
    **dict.fromkeys(("synced", "matched", "acked", "fenced", "unsure", "answers", "decided"), "AckedDurable"),
    **dict.fromkeys(("copied", "proposals", "metadata"), "SealedStable"),
    **dict.fromkeys(("log", "stream"), "PrefixAgree"),
    **dict.fromkeys(("lease", "sealing", "view", "recovering"), "OpenLeaderMatchesMap"),
    **dict.fromkeys(("announced", "incarnation"), "SingleWriter"),
    "sealed_total": "LastSealedIsSum",
    **{name: name for name in (*ASSERTED, "Lease")},
}
"""The same for variables of Walrus.tla that a replay compares, and for results that name an invariant."""

REPLIES: Final = "what clients are told is not recorded"
CONTENTS: Final = "entries are counted and not read"
UNDONE: Final = "nothing wrong is done: something is left undone"
CLOCKS: Final = "leases run out by a clock, which is not recorded"
TIMES: Final = "when entries were appended is not recorded"

CANNOT_SHOW: Final = {
    **dict.fromkeys(
        (
            *("acks_one_too_many", "acks_what_did_not_fit", "takes_a_forward_twice", "timeout_says_failed"),
            *("sent_again_behind_the_clients_back", "repeated_forward_is_handed_back", "anybody_hands_back"),
            *("next_segment_too_early", "handed_back_to_the_end", "overtaken_is_written"),
            *("late_reply_of_another_leader", "any_replica_answers_for_the_open_segment"),
            *("register_answered_before_applied", "refused_delivery_counts", "partial_delivery_counts"),
        ),
        REPLIES,
    ),
    **dict.fromkeys(("damage_is_skipped", "read_ahead_is_not_cut"), CONTENTS),
    **dict.fromkeys(
        (
            *("opens_what_is_fenced", "nobody_fails_over", "nobody_seals", "replicas_by_snapshot_unseen"),
            *("replicas_by_command_unseen", "laggards_never_catch_up", "damage_stays"),
            *("readers_stop_at_a_segments_end",),
        ),
        UNDONE,
    ),
    **dict.fromkeys(("writes_without_lease", "lease_never_expires"), CLOCKS),
    **dict.fromkeys(("time_of_a_clock_that_was_set_back", "replicas_are_told_another_time"), TIMES),
}
"""Planted bugs of the data plane and of PUB that no recorded run can show, and why."""


def recorded(seed: int, *, workers: int = 0, repeaters: int = 0) -> list[Event]:
    """Return the events of a short simulated run with faults; a violation may end it early."""
    settings = {**SETTINGS, "max_segment_entries": 6, "compact_entries": 20}
    options = Options(
        topics=1,
        producers=1 + seed % 3,
        consumers=1,
        fetchers=0,
        newcomers=0,
        workers=workers,
        repeaters=repeaters,
        think=(0.2, 0.02)[seed % 2],
        settings=settings,
        ordered=seed % 3 > 0,
        fsync="none" if seed % 4 == 3 else "each",
    )
    recorder = Recorder(options)
    simulate(seed, options, 2_500, FAULTS, recorder.of)
    return read_lines(recorder.lines(), f"seed {seed}")


def recorded_with(mutant: Mutant, seed: int) -> list[Event]:
    """Return the events of such a run with this bug, and without the assertions that would stop it."""
    with planted(mutant), unasserted():
        clients = {"workers": QUEUE_BUGS, "repeaters": PRODUCER_BUGS}
        return recorded(seed, **{kind: 2 * (mutant.name in bugs) for kind, bugs in clients.items()})


def played(scenario: str, seed: int = 1) -> list[Event]:
    """Return what a scenario of the simulator records, to its end or its failure."""
    recorders: list[Recorder] = []

    def recording(options: Options) -> Callable[[int], Trace]:
        recorders.append(Recorder(options))
        return recorders[-1].of

    with watched(recording), suppress(Violation):
        scenarios.ALL[scenario].run(seed)
    return read_lines(recorders[-1].lines(), scenario)


def played_with(mutant: Mutant, scenario: str, seed: int = 1) -> list[Event]:
    """Return what a scenario records with this bug, without the assertions that would stop it."""
    with planted(mutant), unasserted():
        return played(scenario, seed)


def said(verdict: TraceVerdict) -> tuple[str, str]:
    """Return the invariant that a refused run breaks, or that its event stands for; and the event."""
    event = (verdict.refused or {}).get("ev", "")
    return verdict.violated or STANDS_FOR.get(event, ""), event or "an invariant"


def _spec_of(mutant: Mutant) -> TraceSpec:
    """Return the spec that the bug's recorded runs are checked against."""
    bugs = ((RAFT, RAFT_BUGS), (DELIVERY, QUEUE_BUGS), (PUBLISH, PRODUCER_BUGS))
    return next((spec for spec, names in bugs if mutant.name in names), WALRUS)


def traced(mutant: Mutant, budget: float) -> tuple[str, str] | None:
    """Check recorded runs with the bug until TLC refuses one: (invariant, where). Some seeds, then
    scenarios.

    For the data plane the second judge runs first: it takes milliseconds, and the two agree.
    """
    begun = time.process_time()
    spec = _spec_of(mutant)
    places: list[int | str] = [1, 2, 3, *scenarios.ALL]
    for where in places:
        run = recorded_with(mutant, where) if isinstance(where, int) else played_with(mutant, where)
        if spec is not WALRUS or Referee(run).judge()[1]:
            for verdict in validate({mutant.name: run}, specs=[spec], explain=False):
                if not verdict.accepted:
                    name, event = said(verdict)
                    return name, f"{f'seed {where}' if isinstance(where, int) else where}, {event}"
        if time.process_time() - begun > budget:
            break
    return None


@cache
def written(count: int = 150, seed: int = 1) -> tuple[tuple[SpecState, ...], ...]:
    """Return behaviours of Raft.tla, written by TLC once for all planted bugs."""
    every = behaviours("raft-simulate", NARROW, count=count, depth=60, seed=seed)
    return tuple(tuple(states) for states in every)


@cache
def written_segments(count: int = 60, seed: int = 1) -> tuple[tuple[SpecState, ...], ...]:
    """Return behaviours of Walrus.tla, written by TLC once for all planted bugs."""
    every = behaviours("walrus-simulate", NARROW_SEGMENTS, count=count, depth=60, seed=seed)
    return tuple(tuple(states) for states in every)


def performed(chosen: Sequence[Sequence[SpecState]], one: Perform = perform) -> Replayed:
    """Perform behaviours, until one differs."""
    return perform_all(chosen, one, most=1)


def replayed(mutant: Mutant, budget: float) -> tuple[str, str] | None:
    """Perform behaviours on servers with the bug until one differs: (invariant, where)."""
    of_raft = mutant.name in RAFT_BUGS
    chosen = written() if of_raft else written_segments()
    with planted(mutant):
        outcome = performed(chosen, perform if of_raft else perform_segments)
    if not outcome.differences:
        return None
    first = outcome.differences[0]
    variable = re.split(r"\W", first.variable)[0]
    stands_for = STANDS_FOR if of_raft else STANDS_FOR_SEGMENTS
    return stands_for.get(variable, ""), f"{first.variable}, behaviour {first.behaviour}, step {first.step}"
