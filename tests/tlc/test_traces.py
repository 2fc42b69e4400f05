"""Recorded runs held against the spec: none with one event removed, swapped or altered is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.node.harness import QUICK, Launcher, wait_for
from tests.tlc.runs import altered, event, swapped, without
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import Result, simulate
from walrus.sim.trace import Recorder
from walrus.tlc import main as tlc
from walrus.tlc.run import SpecError
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import data_plane
from walrus.tlc.traces import read_events, read_lines, validate

pytestmark = [pytest.mark.tla, pytest.mark.timeout(600)]

ONE = {"topic": "a", "segment": 1}
TWO = {"topic": "a", "segment": 2}
REGISTERED = {"topic": "a", "leader": 1, "incarnation": 7, "replicas": [1, 2, 3]}


def applied(op: str, node: int, **values: Any) -> Event:
    return {"ev": "Apply", "op": op, "node": node, **values}


def failover() -> list[Event]:
    """A leader writes three entries, two are acknowledged, it dies; node 2 recovers, seals and goes on."""
    seal = {**ONE, "count": 2, "leader": 2, "incarnation": 7, "replicas": [1, 2, 3]}
    return [
        {"ev": "Begin", "nodes": [1, 2, 3]},
        *(event("Restart", node, incarnation=7) for node in (1, 2, 3)),
        *(applied("RegisterTopic", node, **REGISTERED) for node in (1, 2, 3)),
        event("LeaderAppend", 1, **ONE, start=0, count=3),
        event("ReplicaAppend", 2, **ONE, start=0, count=2),
        event("Ack", 1, **ONE, count=2),
        event("Deliver", 1, **ONE, group="", start=0, count=2),
        event("Crash", 1),
        event("Fence", 2, **ONE, length=2, sure=True),
        event("Fence", 3, **ONE, length=0, sure=True),
        event("Recover", 2, **ONE, count=2),
        event("CopyTail", 3, **ONE, length=2),
        event("RecoverySeal", 2, **ONE, count=2),
        applied("Seal", 2, **seal),
        applied("Seal", 3, **seal),
        event("LeaderAppend", 2, **TWO, start=0, count=1),
        event("ReplicaAppend", 3, **TWO, start=0, count=1),
        event("Ack", 2, **TWO, count=1),
        event("Deliver", 2, **TWO, group="", start=0, count=1),
        applied("CommitCursors", 2, topic="a", group="", segment=2, offset=1),
        event("Restart", 1, incarnation=9),
        applied("Announce", 2, of=1, incarnation=9),
        applied("RegisterTopic", 1, **REGISTERED),
        applied("Seal", 1, **seal),
    ]


def rollover() -> list[Event]:
    """A healthy leader rolls over to itself; a late frame is taken before it knows; two groups read."""
    seal = {**ONE, "count": 4, "leader": 1, "incarnation": 0, "replicas": [1, 2, 3]}
    registered = {**REGISTERED, "incarnation": 0}
    return [
        *(applied("RegisterTopic", node, **registered) for node in (1, 2, 3)),
        event("LeaderAppend", 1, **ONE, start=0, count=3),
        event("LeaderAppend", 1, **ONE, start=3, count=1),
        event("ReplicaAppend", 2, **ONE, start=0, count=4),
        event("BeginSeal", 1, **ONE),
        event("Ack", 1, **ONE, count=3),
        event("Ack", 1, **ONE, count=4),
        event("ProposeSeal", 1, **ONE, count=4),
        applied("Seal", 1, **seal),
        event("ReplicaAppend", 3, **ONE, start=0, count=1),
        applied("Seal", 3, **seal),
        event("CopyTail", 3, **ONE, length=4),
        event("Deliver", 1, **ONE, group="g", start=0, count=4),
        event("Deliver", 1, **ONE, group="h", start=0, count=1),
        event("Deliver", 1, **ONE, group="h", start=0, count=2),
    ]


def power_loss() -> list[Event]:
    """An unsynced replica comes back without its tail, answers unsure, and all three copies are asked."""
    registered = {**REGISTERED, "incarnation": 0}
    return [
        *(applied("RegisterTopic", node, **registered) for node in (1, 2, 3)),
        event("LeaderAppend", 1, **ONE, start=0, count=2),
        event("ReplicaAppend", 2, **ONE, start=0, count=2),
        event("Ack", 1, **ONE, count=2),
        event("PowerLoss", 2, lengths=[["a", 1, 1]]),
        event("Restart", 2, incarnation=1),
        event("Fence", 2, **ONE, length=1, sure=False),
        event("Fence", 3, **ONE, length=0, sure=True),
        event("Fence", 1, **ONE, length=2, sure=True),
        event("Recover", 3, **ONE, count=2),
        event("CopyTail", 2, **ONE, length=2),
        event("RecoverySeal", 3, **ONE, count=2),
    ]


def test_whole_runs_are_accepted() -> None:
    verdicts = validate({"failover": failover(), "rollover": rollover(), "power loss": power_loss()})
    assert [verdict.accepted for verdict in verdicts] == [True] * 3, [v.describe() for v in verdicts]
    assert [verdict.followed for verdict in verdicts] == [24, 17, 14]


REFUSED = {
    "the topic is written before its leader knows it": without(failover(), "RegisterTopic", 1),
    "nobody appended what is replicated": without(failover(), "LeaderAppend", 1),
    "one copy is acknowledged": without(failover(), "ReplicaAppend", 2),
    "what is not acknowledged is delivered": without(failover(), "Ack", 1),
    "one fence of three recovers": without(failover(), "Fence", 3),
    "a copy without a recovery": without(failover(), "Recover", 2),
    "sealed without the copy": without(without(failover(), "RecoverySeal", 2), "CopyTail", 3),
    "a seal that is skipped": without(failover(), "Seal", 2),
    "a replica beyond its end": altered(failover(), "ReplicaAppend", 2, start=1),
    "a replica twice": altered(failover(), "LeaderAppend", 2, start=1),
    "more is replicated than was written": altered(failover(), "ReplicaAppend", 2, count=4),
    "a shorter answer": altered(failover(), "Fence", 2, length=1),
    "the shortest wins": altered(failover(), "Recover", 2, count=0),
    "a seal of another count": altered(failover(), "Seal", 3, count=1),
    "a seal of another leader": altered(failover(), "Seal", 3, leader=3),
    "opened for an old incarnation": altered(failover(), "Seal", 2, leader=1, incarnation=9),
    "acknowledged before it was replicated": swapped(failover(), "Ack", 1),
    "delivered before it was acknowledged": swapped(failover(), "Deliver", 1),
    "a dead writer acknowledges": [*without(failover(), "Ack", 1)[:10], event("Ack", 1, **ONE, count=2)],
    "a reader skips": altered(rollover(), "Deliver", 1, start=1, count=3),
    "appends go on while sealing": [*rollover()[:8], event("LeaderAppend", 1, **ONE, start=4, count=1)],
    "sealed below what was written": altered(rollover(), "ProposeSeal", 1, count=3),
    "a start after a crash that finds a shorter copy": altered(
        failover(), "Restart", 1, 1, lengths=[["a", 1, 2]]
    ),
    "a replica set of one": [*failover(), applied("SetReplicas", 2, **ONE, replicas=[2])],
    "a replica that holds nothing": [*failover(), applied("SetReplicas", 2, **ONE, replicas=[2, 3, 4])],
    "an unsure copy in a majority of two": without(power_loss(), "Fence", 1),
    "an unsure copy that claims to be sure": altered(power_loss(), "Fence", 2, sure=True),
}


def test_a_run_with_one_event_removed_swapped_or_altered_is_refused() -> None:
    verdicts = validate(REFUSED, explain=False)
    assert [verdict.name for verdict in verdicts if verdict.accepted] == []


def test_the_first_event_that_nobody_can_explain_is_shown_with_the_state_before_it() -> None:
    (verdict,) = validate({"run": REFUSED["one copy is acknowledged"]})
    assert not verdict.accepted
    assert verdict.refused is not None and verdict.refused["ev"] == "Ack"
    assert verdict.followed == 4
    assert "acked" in verdict.state
    assert "is no step of Walrus.tla" in verdict.describe()
    assert "acked[a][1] = 0" in verdict.describe()


def simulated(seed: int) -> list[Event]:
    """A simulated run with faults in which not so much is written that TLC has much to carry."""
    settings = {**SETTINGS, "max_segment_entries": 6}
    options = Options(
        topics=1,
        producers=1,
        consumers=1,
        fetchers=0,
        think=0.3,
        settings=settings,
        codec=seed % 2 == 0,
    )
    recorder = Recorder(options)
    outcome = simulate(seed, options, 2_000, ("crash", "power", "pause", "network"), recorder.of)
    assert isinstance(outcome, Result), outcome
    return read_lines(recorder.lines(), "simulated")


def test_simulated_runs_with_faults_are_behaviours_of_both_specs() -> None:
    runs = {f"seed {seed}": simulated(seed) for seed in range(1, 21)}
    events = [each for run in runs.values() for each in run]
    kinds = {each.get("op", each["ev"]) for each in events}
    assert kinds >= {"Crash", "PowerLoss", "Fence", "Recover", "Seal", "Deliver", "CommitCursors"}
    verdicts = validate(runs)
    assert [verdict.spec for verdict in verdicts] == ["Walrus", "Raft"] * len(runs)
    assert all(verdict.accepted for verdict in verdicts), [
        verdict.describe() for verdict in verdicts if not verdict.accepted
    ]


def test_files_are_read_and_merged_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {node: tmp_path / f"node{node}.jsonl" for node in (1, 2, 3)}
    for at, each in enumerate(failover()[1:]):
        with files[each["node"]].open("a") as file:
            file.write(json.dumps({**each, "at": at}) + "\n")
    assert tlc.main(["trace", *map(str, files.values())]) == 0
    assert "accepted, 24 events" in capsys.readouterr().out


def test_a_file_that_is_not_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"ev": "Crash", "node": 1}\n{"no": "event"}\n')
    with pytest.raises(SpecError, match=r"broken.jsonl:2: an event needs"):
        read_events([path])
    path.write_text("nonsense\n")
    with pytest.raises(SpecError, match=r"broken.jsonl:1: not an event"):
        read_events([path])


def test_raft_events_and_first_starts_are_left_out() -> None:
    events = [
        event("Restart", 1, incarnation=5),
        event("Restart", 1, current_term=3),
        event("Timeout", 1, current_term=4),
        event("Restart", 1, incarnation=6),
    ]
    assert data_plane(events) == [{"ev": "Restart", "node": 1, "incarnation": 6}]


@pytest.mark.process
def test_a_real_cluster_that_lost_its_leader_is_a_behaviour_of_the_spec(
    launch: Launcher, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    cluster = launch(nodes=3, flags=[*QUICK, "--trace", str(trace)], env={"WALRUS_MAX_SEGMENT_ENTRIES": "20"})
    cluster.register("t")
    leader = cluster.segment_leader("t")
    other = next(node for node in (1, 2, 3) if node != leader)
    with cluster.wire(other) as wire:
        for number in range(50):
            assert wire.ask(b"PUT t %d" % number) == b"OK"
        for _ in range(10):
            assert wire.ask(b"GET t").startswith(b"OK")
        leader = cluster.segment_leader("t")
        survivor = next(node for node in (1, 2, 3) if node != leader)
        cluster[leader].kill()
    with cluster.wire(survivor) as wire:
        wait_for(lambda: wire.ask(b"PUT t after") == b"OK" or None, "a new leader")
        for _ in range(20):
            wire.ask(b"GET t")
    cluster.stop()
    verdicts = validate({"cluster": read_events([trace])})
    assert [verdict.spec for verdict in verdicts] == ["Walrus", "Raft"]
    for verdict in verdicts:
        assert verdict.accepted, verdict.describe()
        assert verdict.events > 50
