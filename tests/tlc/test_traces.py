"""Recorded runs held against the spec: none with one event removed, swapped or altered is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.node.harness import CALM, Launcher, wait_for
from tests.tlc.runs import Script, altered, event, place, swapped, without
from walrus.sim.options import SETTINGS, Options
from walrus.sim.run import Result, simulate
from walrus.sim.trace import Recorder
from walrus.tlc import main as tlc
from walrus.tlc import traces
from walrus.tlc.referee import Referee
from walrus.tlc.run import SpecError, TlcResult
from walrus.tlc.trace_delivery import DELIVERY
from walrus.tlc.trace_publish import PUBLISH
from walrus.tlc.trace_retention import RETENTION, retained
from walrus.tlc.trace_spec import Event, Forest
from walrus.tlc.trace_walrus import WALRUS, data_plane
from walrus.tlc.traces import read_events, read_lines, validate

pytestmark = [pytest.mark.tla, pytest.mark.timeout(3_000)]


def failover() -> list[Event]:
    """A leader writes three entries, two are acknowledged, it dies; node 2 recovers, seals and goes on."""
    run = Script()
    for node in (1, 2, 3):
        run.restart(node, 7)
    run.register(1, 2, 3)
    run.append(1, 1, 3)
    run.take(2, 1, 2)
    run.ack(1, 1, 2, [2, 2])
    run.deliver(1, 1, 0, 2)
    run.add("Crash", 1)
    run.add("StartRecovery", 2, topic="a", segment=1)
    run.fence(2, 1)
    run.fence(3, 1)
    run.add("Recover", 2, topic="a", segment=1, count=2, answers=[[2, 2, True], [3, 0, True]], forced=False)
    run.copy(3, 1, 2)
    run.add("RecoverySeal", 2, topic="a", segment=1, count=2)
    run.seal(2, 3, segment=1, count=2, leader=2)
    run.append(2, 2, 1)
    run.take(3, 2, 1)
    run.ack(2, 2, 1, [3, 1])
    run.deliver(2, 1, 0, 2)
    run.deliver(2, 2, 0, 1)
    run.commit_cursor(2, 3, segment=2, offset=1)
    run.restart(1, 9)
    run.command("Announce", 2, of=1, incarnation=9)
    run.apply(1, 1, 2)
    return run.events


def rollover() -> list[Event]:
    """A healthy leader rolls over to itself; a late frame is taken before it knows; two groups read."""
    run = Script()
    run.register(1, 2, 3, incarnation=0)
    run.append(1, 1, 3)
    run.append(1, 1, 1)
    run.take(2, 1, 4)
    run.on("BeginSeal", 1, 1)
    run.ack(1, 1, 3, [2, 3])
    run.ack(1, 1, 4, [2, 4])
    run.on("ProposeSeal", 1, 1, count=4, cursors=[])
    run.seal(1, segment=1, count=4, leader=1, incarnation=0)
    run.take(3, 1, 1)
    run.apply(3, 2)
    run.copy(3, 1, 4)
    run.deliver(1, 1, 0, 4, "g")
    run.deliver(1, 1, 0, 1, "h")
    run.deliver(1, 1, 1, 2, "h")
    run.commit_cursor(1, 3, segment=1, offset=3, group="h")
    run.add("HandOut", 1, topic="a", group="h", segment=1, start=3, count=1)
    run.command("SetReplicas", 1, 3, topic="a", segment=1, replicas=[1, 2])
    return run.events


def power_loss() -> list[Event]:
    """An unsynced replica comes back without its tail, answers unsure, and all three copies are asked."""
    run = Script(fsync_each=False)
    run.register(1, 2, 3, incarnation=0)
    run.append(1, 1, 2)
    run.take(2, 1, 2)
    run.ack(1, 1, 2, [2, 2])
    run.add("PowerLoss", 2)
    run.restart(2, 1, a_1=1)
    run.apply(2, 1)
    run.add("StartRecovery", 3, topic="a", segment=1)
    run.fence(2, 1, sure=False)
    run.fence(3, 1)
    run.fence(1, 1)
    answers = [[1, 2, True], [2, 1, False], [3, 0, True]]
    run.add("Recover", 3, topic="a", segment=1, count=2, answers=answers, forced=False)
    run.copy(2, 1, 2)
    run.add("RecoverySeal", 3, topic="a", segment=1, count=2)
    return run.events


def test_whole_runs_are_accepted() -> None:
    """rollover() ends with what is no step: a sealed segment that gives up a replica without need."""
    runs = {"failover": failover(), "rollover": rollover()[:-2], "power loss": power_loss()}
    verdicts = validate(runs)
    assert [verdict.accepted for verdict in verdicts] == [True] * 3, [v.describe() for v in verdicts]


def of_a_stranger() -> list[Event]:
    """Two of three replicas answer, and a node that is none."""
    answers = [[2, 2, True], [4, 5, True]]
    return altered(failover(), "Recover", 2, answers=answers, count=5)


CURSOR = {"topic": "a", "group": "h", "segment": 1}


def moves_back() -> list[Event]:
    """A commit that was proposed earlier comes after one that went further."""
    run = rollover()[:-2]
    confirmed = place(run, "Confirm", 1, 1) + 1
    early = [*run[:confirmed], event("ProposeCursors", 1, **CURSOR, offset=1), *run[confirmed:]]
    return [
        *early,
        event("Apply", 1, op="CommitCursors", index=4, cursors=[["a", "h", 1, 1]]),
    ]


def covers_what_was_handed_out() -> list[Event]:
    run = rollover()[:-2]
    return [
        *run,
        event("ProposeCursors", 1, **CURSOR, offset=4),
        event("Apply", 1, op="CommitCursors", index=4, cursors=[["a", "h", 1, 4]]),
    ]


def replicas(*nodes: int) -> list[Event]:
    """A change of the replica set of the first segment."""
    change = {"op": "SetReplicas", "topic": "a", "segment": 1, "replicas": list(nodes)}
    return [*rollover()[:-2], event("Apply", 1, index=4, **change)]


SHORTER = [["a", 1, 2, False]]

REFUSED = {
    "the topic is written before its leader knows it": without(failover(), "RegisterTopic", 1),
    "what is replicated was never appended": without(failover(), "LeaderAppend", 1),
    "one copy is acknowledged": without(failover(), "Report", 2),
    "what the writer did not hear is acknowledged": altered(failover(), "Ack", 1, heard=[[2, 1], [3, 0]]),
    "reported before it is synced": without(failover(), "Synced", 2),
    "what is not acknowledged is delivered": without(failover(), "Ack", 1),
    "one fence of three recovers": altered(failover(), "Recover", 2, answers=[[2, 2, True]]),
    "an answer that was not given": without(failover(), "AnswerFence", 3),
    "a fence majority with a stranger in it": of_a_stranger(),
    "decided by a node that never ran it": altered(failover(), "StartRecovery", 2, node=3),
    "a copy without a recovery": without(failover(), "Recover", 2),
    "sealed without the copy": without(failover(), "AnswerCopy", 3),
    "sealed without a proposal": without(failover(), "RecoverySeal", 2),
    "a seal that is skipped": without(failover(), "Seal", 2),
    "a replica beyond its end": altered(failover(), "ReplicaAppend", 2, start=1),
    "a replica that records another length": altered(failover(), "ReplicaAppend", 2, length=1),
    "more is replicated than was written": altered(failover(), "ReplicaAppend", 2, count=4, length=4),
    "a shorter answer": altered(failover(), "AnswerFence", 2, answer=[2, 1, True]),
    "a fence that does not hold": altered(failover(), "AnswerFence", 2, fenced=False),
    "the shortest wins": altered(failover(), "Recover", 2, count=0),
    "a seal of another count": altered(failover(), "Seal", 3, count=1),
    "two nodes apply different commands": altered(failover(), "Seal", 3, leader=3),
    "two nodes apply commands in different orders": altered(failover(), "CommitCursors", 3, index=4),
    "opened for an old incarnation": altered(failover(), "Seal", 2, leader=1, incarnation=9),
    "an incarnation is announced again": [
        *failover(),
        event("Apply", 2, op="Announce", index=5, of=1, incarnation=7),
    ],
    "acknowledged before it was replicated": swapped(failover(), "Ack", 1),
    "delivered before it was acknowledged": swapped(failover(), "HandOut", 1),
    "a dead writer goes on": [*failover()[:14], event("Crash", 1), failover()[place(failover(), "Ack", 1)]],
    "a reader skips": altered(rollover(), "HandOut", 1, start=1, count=3),
    "a reader is given the same twice, confirmed": altered(rollover(), "HandOut", 1, 2, start=0),
    "a cursor that moves back": moves_back(),
    "a cursor that covers what was only handed out": covers_what_was_handed_out(),
    "sealed below what was written": altered(rollover(), "ProposeSeal", 1, count=3),
    "a start after a crash that finds a shorter copy": altered(failover(), "Restart", 1, 1, copies=SHORTER),
    "a start without the fence that it answered": altered(
        [*power_loss(), event("Crash", 3), event("Restart", 3, incarnation=2)], "Restart", 3, copies=[]
    ),
    "a power loss takes what was synced": [
        {"ev": "Begin", "fsync_each": True, "nodes": [1, 2, 3]},
        *power_loss()[1:],
    ],
    "a replica leaves without need": rollover()[:-1],
    "a replica set of one": replicas(1),
    "a replica that holds nothing": replicas(1, 2, 4),
    "replicas that have not shown what they hold": replicas(1, 2, 3, 4),
    "an unsure copy in a majority of two": altered(
        power_loss(), "Recover", 3, answers=[[2, 1, False], [3, 0, True]], count=1
    ),
    "an unsure copy that claims to be sure": altered(power_loss(), "AnswerFence", 2, answer=[2, 1, True]),
}


def test_a_run_with_one_event_removed_swapped_or_altered_is_refused() -> None:
    verdicts = validate(REFUSED, explain=False)
    assert [verdict.name for verdict in verdicts if verdict.accepted] == []


def test_more_runs_than_one_jvm_has_room_for_are_judged_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLC ran out of memory on all the corrupted runs of `make deep` together."""
    whole = rollover()[:-2]
    runs = {"first": whole, "second": rollover()[:-1], "third": whole, "fourth": whole}
    monkeypatch.setattr(traces, "MAX_TEXT", of_one([data_plane(whole)]).text + 1)
    sizes, follow = list[int](), traces._Parts.follow

    def counted(batch: traces._Parts, stuck: tuple[int, int], timeout: float) -> TlcResult:
        sizes.append(len(batch.parts))
        return follow(batch, stuck, timeout)

    monkeypatch.setattr(traces._Parts, "follow", counted)
    verdicts = validate(runs, specs=[WALRUS], explain=False)
    assert sizes == [2, 2]
    assert [verdict.name for verdict in verdicts] == list(runs)
    assert [verdict.accepted for verdict in verdicts] == [True, False, True, True]


def of_one(runs: list[list[Event]]) -> Forest:
    forest = Forest()
    for run in runs:
        forest.add(run, {})
    return forest


def test_variants_of_a_run_are_little_text_and_all_of_it_is_counted() -> None:
    """TLC keeps what it has parsed. Each event of each variant was written; one seed filled a JVM."""
    run = data_plane(failover())
    variants = of_one([run, *(run[:dropped] + run[dropped + 1 :] for dropped in range(len(run)))])
    assert variants.text < 3 * of_one([run]).text
    written = variants.definitions()
    assert 0.9 < variants.text / len(written["Events"] + written["Traces"]) < 1.1


def test_a_run_gets_no_commit_that_only_another_run_goes_on_with() -> None:
    """Up to the Seal they are alike; then one of them is about segment 2, which is not open yet.

    The commit is no event. It was taken for the Seal, and the other run left after it.
    """
    whole = failover()
    seal = place(whole, "Seal", 2)
    copy = {"length": 0, "durable": 0, "fenced": False, "sure": True}
    early = [*whole[:seal], event("Report", 2, topic="a", segment=2, told=0, **copy), *whole[seal:]]
    verdicts = validate({"whole": whole, "early": early}, specs=[WALRUS], explain=False)
    assert [(verdict.accepted, verdict.followed) for verdict in verdicts] == [
        (True, len(data_plane(whole))),
        (False, Referee(early).judge()[0]),
    ]


def test_the_first_event_that_nobody_can_explain_is_shown_with_the_state_before_it() -> None:
    (verdict,) = validate({"run": REFUSED["one copy is acknowledged"]})
    assert not verdict.accepted
    assert verdict.refused is not None and verdict.refused["ev"] == "Ack"
    assert verdict.followed == 8
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
        newcomers=int(seed <= 5),  # topics from the first moment on; each costs TLC some
        think=0.3,
        settings=settings,
        codec=seed % 2 == 0,
        fsync="none" if seed % 4 == 3 else "each",
    )
    recorder = Recorder(options)
    outcome = simulate(seed, options, 2_000, ("crash", "power", "pause", "network"), recorder.of)
    assert isinstance(outcome, Result), outcome
    return read_lines(recorder.lines(), "simulated")


def test_simulated_runs_with_faults_are_behaviours_of_both_specs() -> None:
    runs = {f"seed {seed}": simulated(seed) for seed in range(1, 7)}
    events = [each for run in runs.values() for each in run]
    kinds = {each.get("op", each["ev"]) for each in events}
    assert kinds >= {"Crash", "PowerLoss", "Fence", "Recover", "Seal", "Confirm", "CommitCursors"}
    assert kinds >= {"Report", "Sure", "ProposeSeal", "StartRecovery", "RecoverySeal", "AnswerCopy"}
    verdicts = validate(runs)
    assert [verdict.spec for verdict in verdicts] == ["Walrus", "Raft"] * len(runs)
    assert all(verdict.accepted for verdict in verdicts), [
        verdict.describe() for verdict in verdicts if not verdict.accepted
    ]


def taken_in_turns(seed: int, **clients: int) -> list[Event]:
    """A simulated run in which nodes take over snapshots of several topics, one topic a turn."""
    options = Options(
        topics=3,
        fetchers=0,
        newcomers=0,
        think=0.3,
        settings={**SETTINGS, "max_segment_entries": 6, "compact_entries": 15},
        small_shares=True,
        **clients,
    )
    recorder = Recorder(options)
    outcome = simulate(seed, options, 2_000, ("crash", "power", "pause", "network"), recorder.of)
    assert isinstance(outcome, Result), outcome
    return read_lines(recorder.lines(), "in turns")


def test_a_snapshot_that_is_taken_over_in_turns_moves_the_views_of_its_topics_one_by_one() -> None:
    run = taken_in_turns(3, producers=2, consumers=1)
    parts = [each for each in run if each.get("op") == "SnapshotTopics"]
    assert len(parts) > 2 and len({each["topics"][0][0] for each in parts}) > 1, "try another seed"
    (topic, current), *_ = parts[0]["topics"]
    ahead = altered(run, "SnapshotTopics", parts[0]["node"], topics=[[topic, current + 1]])
    whole, refused = validate({"whole": run, "ahead": ahead}, specs=[WALRUS], explain=False)
    assert whole.accepted and Referee(run).judge()[1] == "", whole.describe()
    assert not refused.accepted and refused.refused is not None
    assert refused.refused["ev"] == "SnapshotTopics" and refused.followed == Referee(ahead).judge()[0]


def test_the_specs_of_one_topic_follow_it_where_its_turn_comes() -> None:
    clients = {"producers": 1, "consumers": 0, "workers": 2, "keepers": 1, "repeaters": 1}
    runs = {f"seed {seed}": taken_in_turns(seed, **clients) for seed in (2, 5)}
    parts = [each for run in runs.values() for each in run if each.get("op") == "SnapshotTopics"]
    trimmed = any(first > 1 for each in parts for _, first in each["retained"])
    assert trimmed and any(each["groups"] for each in parts) and any(each["producers"] for each in parts)
    verdicts = validate(runs, specs=[DELIVERY, PUBLISH, RETENTION], explain=False)
    assert {verdict.spec for verdict in verdicts} == {"Delivery", "Publish", "Retention"}
    refused = [verdict.describe() for verdict in verdicts if not verdict.accepted]
    assert not refused, refused


def test_a_topic_that_a_snapshot_does_not_have_is_applied_where_it_is_dropped() -> None:
    def applied(index: int, node: int, op: str, **values: object) -> Event:
        return event("Apply", node, index=index, op=op, **values)

    def part(index: int, gone: list[str]) -> Event:
        return applied(index, 2, "SnapshotTopics", topics=[], retained=[], cursors=[], groups=[], gone=gone)

    registered = {"topic": "a", "leader": 1, "incarnation": 0, "number": 1, "protects": False}
    run = [
        applied(1, 1, "RegisterTopic", **registered),
        applied(1, 2, "RegisterTopic", **registered),
        event("ReplicaAppend", 2, topic="a", segment=1, start=0, count=1),
        applied(2, 1, "DeleteTopic", topic="a", born=1),
        event("ProposeSeal", 1, topic="a", segment=1),
        applied(3, 1, "EndTopic", topic="a", segment=1),
        part(3, ["b"]),
        part(3, ["a"]),
        event("Drop", 2, topic="a", segment=1),
    ]
    (told,) = retained(run).values()
    assert [each["index"] for each in told if each["ev"] == "Apply"] == [1, 3]
    (verdict,) = validate({"run": run}, specs=[RETENTION], explain=False)
    assert verdict.accepted, verdict.describe()


def test_files_are_read_and_merged_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {node: tmp_path / f"node{node}.jsonl" for node in (1, 2, 3)}
    for at, each in enumerate(failover()[1:]):
        with files[each["node"]].open("a") as file:
            file.write(json.dumps({**each, "at": at}) + "\n")
    assert tlc.main(["trace", *map(str, files.values())]) == 0
    assert "accepted, 43 events" in capsys.readouterr().out


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
    assert data_plane(events) == [{"ev": "Restart", "node": 1, "incarnation": 1, "copies": []}]


@pytest.mark.process
def test_a_real_cluster_that_lost_its_leader_is_a_behaviour_of_the_spec(
    launch: Launcher, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    cluster = launch(nodes=3, flags=[*CALM, "--trace", str(trace)], env={"WALRUS_MAX_SEGMENT_ENTRIES": "20"})
    cluster.register("t")
    leader = cluster.segment_leader("t")
    other = next(node for node in (1, 2, 3) if node != leader)
    with cluster.wire(other) as wire:
        for number in range(50):
            assert wire.ask(b"PUT t %d" % number) == b"OK"
        for _ in range(10):
            assert wire.ask(b"GET t").startswith(b"OK")
        receipt = wire.ask(b"RECEIVE t workers").split()[1]
        assert wire.ask(b"ACK t workers " + receipt) == b"OK"
        for number in (*range(25), 24, 0):
            assert wire.ask(b"PUB t maker %d numbered" % number).startswith(b"OK")
        assert wire.ask(b"PUB t maker 30 too early").startswith(b"ERR")
        leader = cluster.segment_leader("t")
        survivor = next(node for node in (1, 2, 3) if node != leader)
        cluster[leader].kill()
    with cluster.wire(survivor) as wire:
        wait_for(lambda: wire.ask(b"PUT t after") == b"OK" or None, "a new leader")
        for number in (24, 25, 26):  # what the dead leader appended last, and what comes next
            assert wire.ask(b"PUB t maker %d numbered" % number).startswith(b"OK")
        for _ in range(20):
            wire.ask(b"GET t")

        def received() -> bytes | None:
            reply = wire.ask(b"RECEIVE t workers")
            return reply.split()[1] if reply.startswith(b"OK") else None

        given = wait_for(received, "an entry")
        assert given != receipt
        wait_for(lambda: wire.ask(b"ACK t workers " + given) == b"OK" or None, "its owner")
    cluster.stop()
    verdicts = validate({"cluster": read_events([trace])})
    assert [verdict.spec for verdict in verdicts] == ["Walrus", "Raft", "Delivery", "Publish"]
    for verdict in verdicts:
        assert verdict.accepted, verdict.describe()
        assert verdict.events > (20 if verdict.spec == "Delivery" else 50)
