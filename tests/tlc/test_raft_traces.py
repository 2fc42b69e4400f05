"""Recorded runs of Raft held against Raft.tla: those of planted bugs, and edited ones, are refused."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.consensus.test_mutants import NOTICED
from tests.consensus.test_simulation import Chaos
from tests.consensus.world import RaftWorld
from tests.tlc.runs import altered, event, swapped, without
from walrus.consensus.messages import Membership
from walrus.sim import mutants
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import Result, simulate
from walrus.sim.trace import Recorder
from walrus.tlc import main as tlc
from walrus.tlc.run import SPEC_DIRECTORY
from walrus.tlc.trace_raft import EVENTS, RAFT, raft_events
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import WALRUS
from walrus.tlc.traces import TraceVerdict, read_lines, specs_of, validate

pytestmark = [pytest.mark.tla, pytest.mark.timeout(3_000)]


class Recording:
    """The events of one run, as they would be read from a file."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def trace(self, ev: str, /, **values: object) -> None:
        self.lines.append(msgspec.json.encode({"ev": ev, **values}))

    def events(self) -> list[Event]:
        return raft_events(read_lines(b"\n".join(self.lines), "recorded"))


def refused(runs: dict[str, list[Event]]) -> list[TraceVerdict]:
    return [verdict for verdict in validate(runs, specs=[RAFT], explain=False) if not verdict.accepted]


def change(world: RaftWorld, leader: int, voters: tuple[int, ...], learners: tuple[int, ...] = ()) -> None:
    """Propose a membership, and deliver until every server has it."""
    wanted = Membership(voters, learners)
    assert world.act(leader, lambda raft: raft.propose_membership(wanted, world.now)) is not None
    world.deliver_all()
    world.heartbeat(leader)


@cache
def eventful() -> tuple[Event, ...]:
    """Server 1 leads and dies with an entry that no other server has; 2 leads on, takes 4 in, and leaves."""
    recording = Recording()
    world = RaftWorld(1, trace=recording.trace)
    world.found([1, 2, 3], passive=[4])
    world.elect(1)
    world.commit(1, b"a")
    world.propose(1, b"lost")
    world.packets.clear()
    world.crash(1)
    world.elect(2)
    world.commit(2, b"b")
    world.start(1)
    world.heartbeat(2)
    world.heartbeat(2)
    world.hosts[2].compact()
    change(world, 2, (1, 2, 3), (4,))
    world.heartbeat(2)
    change(world, 2, (1, 2, 3, 4))
    wanted = Membership((1, 3, 4))
    world.act(2, lambda raft: raft.propose_membership(wanted, world.now))
    world.deliver_all()
    return tuple(recording.events())


@cache
def cut_short() -> tuple[Event, ...]:
    """A follower takes an entry, learns that it is committed, and loses power before it is durable there."""
    recording = Recording()
    world = RaftWorld(1, trace=recording.trace)
    world.found([1, 2, 3])
    world.elect(1)
    world.auto_sync = False
    world.propose(1, b"a")
    world.hosts[1].sync()
    world.deliver_all(only=lambda packet: packet.to == 2)
    world.hosts[2].sync()
    world.deliver_all(only=lambda packet: packet.to == 1)
    world.hosts[1].pump()
    world.heartbeat(1)
    world.restart(3)
    world.auto_sync = True
    world.heartbeat(1)
    world.heartbeat(1)
    return tuple(recording.events())


@cache
def vote_lost() -> tuple[Event, ...]:
    """Server 2 votes, loses power before that is durable, and starts twice without the vote."""
    recording = Recording()
    world = RaftWorld(1, trace=recording.trace)
    world.found([1, 2, 3])
    world.auto_sync = False
    world.time_out(1)
    world.deliver_all()
    world.hosts[1].sync()
    world.deliver_all(only=lambda packet: packet.to == 2)
    world.restart(2)
    world.restart(2)
    return tuple(recording.events())


def test_a_vote_that_was_lost_does_not_come_back() -> None:
    run = list(vote_lost())
    back = {"voted_for": 1, "current_term": 2}
    runs = {
        "as it is": run,
        "it was durable after all": altered(altered(run, "Restart", 2, 1, **back), "Restart", 2, 2, **back),
        "it comes back": altered(run, "Restart", 2, 2, **back),
    }
    assert [verdict.name for verdict in refused(runs)] == ["it comes back"]


@cache
def renewed(member: int) -> tuple[Event, ...]:
    """Server 3 is removed from four, and this one starts in an empty directory; 3 is taken in again."""
    recording = Recording()
    world = RaftWorld(1, trace=recording.trace)
    world.found([1, 2, 3, 4])
    world.elect(1)
    world.commit(1, b"a")
    change(world, 1, (1, 2, 4))
    del world.hosts[member]
    world.add(member, None)
    if member == 3:
        change(world, 1, (1, 2, 4), (3,))
        world.heartbeat(1)
        world.heartbeat(1)
        change(world, 1, (1, 2, 3, 4))
        world.heartbeat(1)
    return tuple(recording.events())


def test_a_server_joins_anew_only_if_it_was_removed() -> None:
    """One that is a member comes back with all that was durable, or what it acknowledged is gone."""
    run = list(renewed(3))
    assert {"voters": [1, 2, 3, 4], "learners": []}.items() <= [e for e in run if "voters" in e][-1].items()
    runs = {
        "removed": run,
        "still a member": list(renewed(4)),
        "before its removal is committed": without(run, "AdvanceCommitIndex", 1, 2),
        "it remembers its term": altered(run, "Restart", 3, 1, current_term=1),
        "what it had told counts on": told_before(run),
    }
    assert [verdict.name for verdict in refused(runs)] == [name for name in runs if name != "removed"]


def told_before(run: list[Event]) -> list[Event]:
    """The leader hears at the end what the removed server had told it, and nothing else from it."""
    empty = next(
        at for at, each in enumerate(run) if each["ev"] == "Restart" and each["node"] == 3 and at > 4
    )
    old = next(
        each for each in run if each["ev"] == "HandleAppendEntriesResponse" and each.get("sender") == 3
    )
    return [*run[: empty + 1], old]


def test_an_eventful_run_is_accepted() -> None:
    whole, short = list(eventful()), list(cut_short())
    kinds = {each["ev"] for each in whole}
    assert kinds >= {"PreVote", "CompactLog", "InstallSnapshot", "StepDown", "Persist", "Restart"}
    crashed = [each for each in short if each["node"] == 3]
    lost = crashed.index(next(each for each in crashed[1:] if each["ev"] == "Restart"))
    assert crashed[lost - 1]["ev"] == "LearnCommitIndex"
    assert crashed[lost]["last_log_index"] < crashed[lost - 1]["commit_index"], "it forgets what it applied"
    assert [verdict.describe() for verdict in refused({"whole": whole, "short": short})] == []


def edited() -> dict[str, list[Event]]:
    """The eventful run, with one event removed, altered, or before the one that it depends on."""
    run = list(eventful())
    return {
        "no server asked for pre-votes": without(run, "PreVote", 1),
        "it never stood": without(run, "Timeout", 1),
        "it stands in a term of its own choice": altered(run, "Timeout", 1, current_term=3),
        "it asked before its own vote was durable": without(run, "Persist", 1),
        "a term that was not heard of": without(run, "UpdateTerm", 2),
        "a vote that was not given": without(run, "HandleRequestVoteRequest", 2),
        "a vote that was refused": altered(run, "HandleRequestVoteRequest", 2, granted=False),
        "a vote for somebody else": altered(run, "HandleRequestVoteRequest", 2, sender=3),
        "a vote before it was durable": without(run, "Persist", 2),
        "a vote that the candidate did not see": without(run, "HandleRequestVoteResponse", 1),
        "it leads before it is elected": swapped(run, "BecomeLeader", 1),
        "a second leader of a term": altered(run, "BecomeLeader", 2, current_term=2),
        "nobody appended what is replicated": without(run, "ClientRequest", 1, 1),
        "an entry of another term": altered(run, "ClientRequest", 1, 1, last_log_term=1),
        "an entry is skipped": altered(run, "ClientRequest", 1, 1, index=4, last_log_index=4),
        "one copy is committed": without(run, "AcceptAppendEntriesRequest", 2),
        "a copy that is not durable is committed": without(run, "Persist", 3, 4),
        "entries from who does not lead": altered(run, "AcceptAppendEntriesRequest", 2, sender=3),
        "more is taken than was sent": altered(run, "AcceptAppendEntriesRequest", 2, match_index=3),
        "a predecessor that is not there": altered(
            run, "AcceptAppendEntriesRequest", 2, 2, prev_log_index=4, match_index=4
        ),
        "an entry is cut off that agrees": altered(run, "AcceptAppendEntriesRequest", 2, 1, added=1),
        "committed before a majority has it": altered(run, "AdvanceCommitIndex", 1, commit_index=3),
        "an answer that was not given": altered(run, "HandleAppendEntriesResponse", 1, match_index=9),
        "committed by what was not heard": unheard(run, 1),
        "committed twice": altered(run, "AdvanceCommitIndex", 1, 1, commit_index=2),
        "a follower learns too much": altered(run, "LearnCommitIndex", 2, commit_index=3),
        "learned before it was taken": swapped(run, "LearnCommitIndex", 2),
        "a start with less than was durable": altered(run, "Restart", 1, 1, last_log_index=3),
        "a start with more than there was": altered(run, "Restart", 1, 1, last_log_index=5, last_log_term=3),
        "a start without its vote": altered(run, "Restart", 1, 1, voted_for=0),
        "a start in an older term": altered(run, "Restart", 1, 1, current_term=1, voted_for=0),
        "a start that knows what is committed": altered(run, "Restart", 1, 1, commit_index=3),
        "a crash that is kept quiet": without(run, "Restart", 1, 1),
        "a snapshot of nothing": without(run, "CompactLog", 2),
        "a snapshot of what is not committed": altered(run, "CompactLog", 2, index=6),
        "a snapshot that was not sent": altered(run, "InstallSnapshot", 4, index=4),
        "two servers change at once": altered(run, "ClientRequest", 2, 2, voters=[1, 3], learners=[4]),
        "a learner is promoted before it is one": without(run, "ClientRequest", 2, 2),
        "a leader that stays leaves": altered(run, "StepDown", 2, node=3),
        "it stands unasked": altered(run, "Timeout", 1, 1, transfer=False),
    }


def unheard(run: list[Event], leader: int) -> list[Event]:
    """The leader got no answer at all."""
    answers = ("HandleAppendEntriesResponse", "HandleInstallSnapshotResponse")
    return [each for each in run if each["ev"] not in answers or each["node"] != leader]


def test_a_run_with_one_event_removed_swapped_or_altered_is_refused() -> None:
    runs = edited()
    found = {verdict.name for verdict in refused(runs)}
    assert [name for name in runs if name not in found] == []


def chaos(seed: int, steps: int, size: int, servers: int) -> list[Event]:
    """Servers and learners under a hostile scheduler; a planted bug may end the run early."""
    recording = Recording()
    try:
        each = Chaos(seed, size, servers, recording.trace)
        for _ in range(steps):
            each.step()
    except NOTICED:
        pass
    return recording.events()


def test_servers_under_a_hostile_scheduler_are_accepted() -> None:
    sizes = [(3, 4), (5, 6), (2, 4), (3, 5)]
    runs = {f"seed {seed}": chaos(seed, 40, *sizes[seed % 4]) for seed in range(8)}
    changed = {each["kind"] for run in runs.values() for each in run if each["ev"] == "ClientRequest"}
    assert changed == {"NOOP", "COMMAND", "MEMBERSHIP"}
    assert [verdict.describe() for verdict in refused(runs)] == []


PLANTED = (
    *("vote_not_persisted", "vote_sent_before_durable", "votes_without_log_check", "acks_before_durable"),
    *("leader_counts_unwritten", "commits_by_minority", "cuts_without_compare"),
)


def test_a_bug_in_the_code_is_seen_in_what_it_records() -> None:
    runs = {}
    for bug in PLANTED:
        # With its assertions, the code stops before it takes the wrong step, and records nothing of it.
        with mutants.planted(mutants.find(bug)), mutants.unasserted():
            runs |= {f"{bug} {seed}": chaos(seed, 40, 3, 4) for seed in (0, 1)}
    found = {verdict.name.split()[0] for verdict in refused(runs)}
    assert [bug for bug in PLANTED if bug not in found] == []


def simulated(seed: int) -> list[Event]:
    """Whole nodes with faults, members that come and go, and snapshots all the time."""
    settings: dict[str, Any] = {**SETTINGS, "max_segment_entries": 6, "compact_entries": 10}
    options = Options(
        nodes=4, topics=1, producers=1, consumers=1, fetchers=0, think=0.3, settings=settings, codec=True
    )
    recorder = Recorder(options)
    kinds = ("members", "crash")
    outcome = simulate(seed, options, 2_000, kinds, recorder.of)
    assert isinstance(outcome, Result), outcome
    return read_lines(recorder.lines(), "simulated")


def joins_anew(run: list[Event]) -> list[int]:
    """The nodes that start with an empty log after a start with one."""
    starts = [each for each in raft_events(run) if each["ev"] == "Restart"]
    had = [each["node"] for each in starts if each["last_log_index"]]
    empty = [each["node"] for each in starts if not each["last_log_index"]]
    return [node for node in empty if empty.count(node) > 1 or node in had]


def test_clusters_whose_members_come_and_go_are_accepted() -> None:
    runs = {f"seed {seed}": simulated(seed) for seed in range(1, 5)}
    assert any(joins_anew(run) for run in runs.values()), "a member leaves, and its id joins again"
    kinds = {each.get("kind", each["ev"]) for run in runs.values() for each in raft_events(run)}
    assert kinds >= {"MEMBERSHIP", "CompactLog", "InstallSnapshot", "Restart", "Timeout"}
    assert [verdict.describe() for verdict in refused(runs)] == []


def test_the_command_says_which_spec_and_which_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The servers' files are merged by time."""
    runs = {"whole": list(eventful()), "edited": edited()["a vote before it was durable"]}
    for name, run in runs.items():
        for at, each in enumerate(run):
            with (tmp_path / f"{name}{each['node']}.jsonl").open("a") as file:
                file.write(json.dumps({**each, "at": at}) + "\n")
    assert tlc.main(["trace", *map(str, sorted(tmp_path.glob("whole*")))]) == 0
    assert f"accepted, {len(runs['whole'])} events of Raft.tla" in capsys.readouterr().out
    assert tlc.main(["trace", *map(str, sorted(tmp_path.glob("edited*")))]) == 1
    told = capsys.readouterr().out
    assert "is no step of Raft.tla: {'ev': 'HandleRequestVoteResponse', 'node': 1" in told
    assert "current_term[1] = 2" in told


def test_every_event_that_is_handed_to_tlc_has_a_step() -> None:
    text = (SPEC_DIRECTORY / "RaftTrace.tla").read_text()
    steps = text.split("Taken(e) ==")[1].split("OTHER")[0]
    assert set(re.findall(r'e.ev = "(\w+)"', steps)) == EVENTS


def test_what_a_run_holds_decides_which_specs_it_is_held_against() -> None:
    data = event("LeaderAppend", 1, topic="a", segment=1, start=0, count=1)
    raft = event("PreVote", 1, current_term=1)
    assert specs_of([data]) == [WALRUS]
    assert specs_of([raft]) == [RAFT]
    assert specs_of([raft, data]) == [WALRUS, RAFT]
    assert specs_of([]) == [WALRUS]


def test_a_vote_for_nobody_is_a_vote_for_node_zero() -> None:
    read = raft_events([event("Restart", 1, current_term=1, voted_for=None, at=7), event("Crash", 1)])
    assert read == [{"ev": "Restart", "node": 1, "current_term": 1, "voted_for": 0}]
