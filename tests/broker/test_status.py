"""METRICS: every figure is what it says, against a world in which all of them are known."""

from __future__ import annotations

import msgspec
import pytest

from tests.broker.world import EPOCH, STEP, NodeWorld, batch, three
from walrus import protocol
from walrus.broker import takeover
from walrus.broker.raft_host import Changes, RaftHost
from walrus.broker.takeover import Takeover
from walrus.consensus.messages import Snapshot

OK = b"OK"
SECOND = 1_000_000_000


def test_times_are_unix_nanoseconds_of_when_each_node_was_heard():
    world = three()
    world.kill(3)
    died = world.now
    world.run(1.5)
    metrics = world.metrics(1)
    now = (EPOCH + world.now) * SECOND
    assert 0 <= now - metrics["last_quorum_acked"] <= 0.3 * SECOND
    assert metrics["heartbeat"].keys() == {"1", "2", "3"}
    assert abs(now - metrics["heartbeat"]["1"]) <= 0.1 * SECOND
    assert 0 <= now - metrics["heartbeat"]["2"] <= 0.3 * SECOND
    assert abs(metrics["heartbeat"]["3"] - (EPOCH + died) * SECOND) <= 0.3 * SECOND
    assert abs(metrics["millis_since_quorum_ack"] - (now - metrics["last_quorum_acked"]) / 1e6) <= STEP * 1000
    follower = world.metrics(2)
    assert (follower["last_quorum_acked"], follower["heartbeat"], follower["replication"]) == (
        None,
        None,
        None,
    )


def test_log_id_of_the_membership_is_that_of_its_entry():
    world = three()
    before = world.metrics(1)["membership_config"]
    assert before["log_id"]["index"] == world.nodes[1].raft.log.membership_index
    world.register("t")
    assert world.metrics(1)["membership_config"] == before, "other entries do not move it"
    assert world.metrics(2)["membership_config"] == before, "it is the same on every node"
    world.join(4)
    after = world.metrics(1)["membership_config"]
    assert before["log_id"]["index"] < after["log_id"]["index"] <= world.metrics(1)["last_log_index"]
    assert after["membership"]["configs"] == [[1, 2, 3, 4]]


def test_counts_are_what_they_say():
    world = three(max_segment_entries=4)
    world.register("t")
    world.register("u")
    assert world.put(2, "t", "aa", "bb", "cc", "dd", "ee") == [OK] * 5
    assert world.put(3, "u", "x") == [OK]
    world.run(1)
    seen = {node: world.metrics(node) for node in (1, 2, 3)}
    for node, metrics in seen.items():
        assert metrics["topics"] == 2
        assert metrics["entries"] == 6, "every node holds a copy of each"
        assert metrics["bytes"] == 11, "payloads"
        assert metrics["connected"] == sorted({1, 2, 3} - {node})
        assert metrics["commit_index"] == metrics["last_applied"]["index"] == metrics["last_log_index"]
        assert (metrics["failovers"], metrics["recoveries"], metrics["copies_behind"]) == (0, 0, 0)
        assert metrics["starts"] == 1 and metrics["ready"] is True
        led = {name: t.current for name in ("t", "u") if (t := world.topic(name)).open.leader == node}
        assert (metrics["segments_led"], metrics["leases"], metrics["leases_held"]) == (
            len(led),
            len(led),
            led,
        )
    assert [seen[node]["puts_acknowledged"] for node in (1, 2, 3)] == [0, 5, 1], "by the node with the client"
    assert len({metrics["metadata_digest"] for metrics in seen.values()}) == 1
    assert seen[1]["replication"].keys() == {"1", "2", "3"}
    assert {log["index"] for log in seen[1]["replication"].values()} == {seen[1]["last_log_index"]}


def test_failovers_and_recoveries_that_wait_are_counted():
    world = three(durable_acks=False)
    world.sync_each = False
    world.register("t")
    assert world.put(1, "t", "a") == [OK]
    leader = world.topic("t").open.leader
    others = sorted({1, 2, 3} - {leader})
    world.lose_power(others[0])
    world.kill(leader)
    world.start(others[0], sure=False)
    world.until(lambda: any(c.lifecycle.recoveries for c in world.nodes.values()))
    recovering = next(node for node, c in world.nodes.items() if c.lifecycle.recoveries)
    world.run(1)
    waiting = world.metrics(recovering)["recoveries_waiting_for_sure_copies"]
    assert world.metrics(recovering)["recoveries"] == 1
    assert waiting.keys() == {"t/1"} and waiting["t/1"] > 0.9
    assert world.ask(recovering, protocol.Recover("t", 1)) == [OK]
    world.run(0.2)
    assert world.metrics(recovering)["failovers"] == 1
    assert world.metrics(recovering)["recoveries_waiting_for_sure_copies"] == {}


@pytest.mark.parametrize("behind", [True, False])
def test_copies_that_are_behind_are_counted(behind: bool):
    world: NodeWorld = three(max_segment_entries=2)
    world.register("t")
    leader = world.topic("t").open.leader
    slow = min({1, 2, 3} - {leader})
    world.lose = lambda sender, to, message: behind and to == slow and hasattr(message, "batch")
    slot = world.send(leader, protocol.Put("t", batch("a", "b")))
    world.until(lambda: bool(world.replies[slot]) and world.topic("t").current == 2)
    world.run(0.5)
    assert world.metrics(slow)["copies_behind"] == behind
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.metrics(slow)["copies_behind"] == 0)


def behind_a_snapshot() -> NodeWorld:
    """Node 3 is down, and lacks more than the logs of the others still have."""
    world = three(compact_entries=10)
    world.run(5.0)
    world.kill(3)
    for number in range(30):
        world.register(f"t{number}", 1)
    return world


def test_metrics_are_answered_while_a_snapshot_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is applied is then below the log, so its term is not known."""
    world, asked = behind_a_snapshot(), list[tuple[int, str]]()
    restore = RaftHost._restore

    def ask(self: RaftHost, snapshot: Snapshot, changes: Changes, *, at_once: bool = False) -> None:
        if 3 in world.nodes and self is world.nodes[3].raft_host:
            asked.append((self.applied, world.send(3, protocol.Metrics())))
        restore(self, snapshot, changes, at_once=at_once)

    monkeypatch.setattr(RaftHost, "_restore", ask)
    world.start(3)
    world.until(lambda: bool(asked) and bool(world.replies[asked[0][1]]))
    applied, slot = asked[0]
    assert applied > 0, "it had applied something before"
    answer = msgspec.json.decode(world.replies[slot][0])
    assert answer["last_applied"]["leader_id"]["term"] == 0
    assert answer["last_applied"]["index"] == applied < answer["snapshot"]["index"]


def test_metrics_have_no_digest_of_a_part_of_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of no index: another node would have to be just as far in the same snapshot to agree."""
    monkeypatch.setattr(takeover, "MAX_TAKEN", 1)
    world, asked = behind_a_snapshot(), list[int]()
    take_over = RaftHost._take_over

    def ask(self: RaftHost, taken: Takeover, changes: Changes, *, at_once: bool = False) -> None:
        take_over(self, taken, changes, at_once=at_once)
        if not self.metadata.whole:
            asked.append(world.send(3, protocol.Metrics()))

    monkeypatch.setattr(RaftHost, "_take_over", ask)
    world.start(3)
    world.until(lambda: bool(asked) and bool(world.replies[asked[0]]))
    answer = msgspec.json.decode(world.replies[asked[0]][0])
    assert answer["metadata_digest"] is None, "StateMachineSafety: a digest of a state that no index has"
