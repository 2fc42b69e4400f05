"""Whole nodes in memory: the data plane end to end, on a clock that a test moves."""

from __future__ import annotations

import copy

import msgspec
import pytest

from tests.broker.world import NodeWorld, batch, three
from walrus import commands, protocol
from walrus.broker import handshake
from walrus.broker.membership import MAX_CALLERS
from walrus.broker.supervisor import JOIN_PATIENCE, Supervisor
from walrus.consensus.messages import Membership
from walrus.segments import MAX_JOINING, Announce, DeleteTopic, RegisterTopic, next_incarnation
from walrus.wire import messages as m

OK = b"OK"


def test_three_nodes_join_and_agree():
    world = three()
    assert world.raft_leader == 1
    assert [c.raft.membership.voters for c in world.nodes.values()] == [(1, 2, 3)] * 3
    assert world.settled(), "StateMachineSafety: nodes do not agree"


def test_sixty_puts_in_segments_of_ten_come_back_in_order_through_any_node():
    world = three(max_segment_entries=10)
    world.register("logs", node=3)
    for number in range(60):
        assert world.put(number % 3 + 1, "logs", f"entry {number}") == [OK]
    topic = world.topic("logs")
    assert [segment.count for segment in topic.segments] == [10] * 6 + [None], (
        "SealedStable: segments of other sizes"
    )
    assert {segment.leader for segment in topic.segments} == {1, 2, 3}, (
        "OpenLeaderMatchesMap: not each node leads"
    )
    world.run(0.3)
    assert world.get_all(2, "logs") == [f"entry {number}".encode() for number in range(60)], (
        "AckedDurable, ProducerOrder"
    )
    world.until(world.settled)


def test_one_hundred_pipelined_puts_across_ten_rollovers_are_each_taken_once_and_in_order():
    world = three(max_segment_entries=10)
    world.register("logs")
    slots = [
        world.send(2, protocol.Put("logs", batch(*(f"{run}.{n}" for n in range(20))))) for run in range(5)
    ]
    world.until(lambda: all(len(world.replies[slot]) == 20 for slot in slots))
    assert all(reply == OK for slot in slots for reply in world.replies[slot]), (
        "AckedDurable: refused at a rollover"
    )
    assert world.get_all(3, "logs") == [f"{run}.{n}".encode() for run in range(5) for n in range(20)], (
        "AckedDurable, ProducerOrder, NoDuplicate"
    )


@pytest.mark.parametrize("victim", ["leader of the segment", "leader of Raft"])
def test_failover_loses_nothing_acknowledged(victim: str):
    world = three()
    world.register("logs")
    assert world.put(1, "logs", "before") == [OK]
    dead = world.topic("logs").open.leader if victim == "leader of the segment" else world.raft_leader
    world.kill(dead)
    left = min(world.nodes)
    assert world.put(left, "logs", "after")[0] == OK, "FailoverProgress"
    assert world.get_all(left, "logs") == [b"before", b"after"], "AckedDurable"


def test_restarted_leader_never_writes_its_old_segment_again():
    world = three()
    world.register("logs")
    leader = world.topic("logs").open.leader
    assert world.put(leader, "logs", "one") == [OK]
    world.kill(leader)
    world.start(leader)
    assert world.put(leader, "logs", "two") == [OK]
    topic = world.topic("logs")
    assert topic.segments[0].recovered and topic.segments[0].count == 1, (
        "SingleWriter: the segment of the earlier start goes on"
    )
    assert world.get_all(leader, "logs") == [b"one", b"two"], "AckedDurable"


def test_all_nodes_restart_and_go_on():
    world = three(max_segment_entries=4)
    world.register("logs")
    for number in range(10):
        world.put(1, "logs", f"{number}")
    assert [reply[3:] for reply in world.ask(2, protocol.Get("logs", "", 3))] == [b"0", b"1", b"2"], (
        "AckedDurable, DeliveredIsPrefix"
    )
    world.run(0.5)  # the cursor is committed
    for node in (1, 2, 3):
        world.kill(node)
    for node in (1, 2, 3):
        world.start(node)
    world.until(lambda: all(c.ready for c in world.nodes.values()))
    assert world.put(2, "logs", "10") == [OK]
    assert world.get_all(3, "logs") == [b"%d" % number for number in range(3, 11)], (
        "AckedDurable, DeliveredIsPrefix"
    )


def test_fourth_node_joins_and_takes_segments():
    world = three(max_segment_entries=2)
    world.register("logs")
    world.join(4)
    for number in range(12):
        assert world.put(4, "logs", f"{number}") == [OK]
    assert {segment.leader for segment in world.topic("logs").segments} == {1, 2, 3, 4}, (
        "OpenLeaderMatchesMap: a node that joined leads nothing"
    )
    assert world.get_all(4, "logs") == [b"%d" % number for number in range(12)], "AckedDurable"


@pytest.mark.parametrize("leaving", [1, 2, 3])
def test_leave_of_one_of_three(leaving: int):
    world = three(max_segment_entries=4)
    world.register("logs")
    for number in range(10):
        world.put(1, "logs", f"{number}")
    asked = min({1, 2, 3} - {leaving})
    assert world.ask(asked, protocol.Leave(leaving, force=True), within=60) == [OK]
    for segment in world.topic("logs").segments:
        assert leaving not in segment.replicas, "ReplicasKept: a segment names a node that has left"
    world.kill(leaving)
    assert world.get_all(asked, "logs") == [b"%d" % number for number in range(10)], "AckedDurable"
    assert leaving not in world.nodes[asked].raft.membership.members, (
        "DomainConsistency: a node that has left is a member of Raft"
    )


def test_minority_acknowledges_nothing_and_heals():
    world = three()
    world.register("logs")
    leader = world.topic("logs").open.leader
    assert world.put(leader, "logs", "one") == [OK]
    world.isolate(leader)
    slot = world.send(leader, protocol.Put("logs", batch("cut off")))
    other = min({1, 2, 3} - {leader})
    world.run(3.0)
    assert world.put(other, "logs", "two")[0] == OK, "FailoverProgress"
    assert OK not in world.replies[slot], "AckedDurable: a minority acknowledges"
    world.cut.clear()
    world.until(lambda: len(world.replies[slot]) == 1)
    assert world.replies[slot][0].startswith(b"ERR "), "AckedDurable: a minority acknowledges"
    assert world.put(leader, "logs", "three") == [OK]
    got = world.get_all(leader, "logs")
    assert [entry for entry in got if entry != b"cut off"] == [b"one", b"two", b"three"], (
        "AckedDurable, ProducerOrder"
    )


def test_unknown_topic_is_looked_up_before_it_is_refused():
    world = three()
    reply = world.ask(2, protocol.Put("nope", batch("x")))
    assert reply == [b"ERR unknown topic nope: send REGISTER nope first"], (
        "ReadConsistency: a topic that is there is unknown, or the other way round"
    )


# --- identity ---


def hello(world: NodeWorld, sender: int, target: int, **changes: object) -> m.Hello:
    values: dict[str, object] = {
        "version": 1,
        "cluster_id": "test",
        "node_id": sender,
        "directory_id": f"d{sender}",
        "incarnation": world.incarnations.get(sender, 1),
        "target": target,
    }
    return m.Hello(**{**values, **changes})  # type: ignore[arg-type]


def test_hello_is_judged():
    world = three()

    def judge(hello: m.Hello) -> str:
        return world.nodes[1].members.judge_hello(hello, world.now)

    assert judge(hello(world, 2, 1)) == ""
    assert "another cluster" in judge(hello(world, 2, 1, cluster_id="other"))
    assert "this is node 1" in judge(hello(world, 2, 3))
    assert "another data directory" in judge(hello(world, 2, 1, directory_id="new disk")), (
        "SingleWriter: another disk under a known id is welcome"
    )
    assert "not (yet, or any more) a member" in judge(hello(world, 9, 1))
    assert judge(hello(world, 2, m.ANY_NODE)) == "", "it has moved, and knows only that a member lives here"
    assert "another cluster" in judge(hello(world, 2, m.ANY_NODE, cluster_id="other"))
    assert "another data directory" in judge(hello(world, 2, m.ANY_NODE, directory_id="new disk")), (
        "SingleWriter: another disk under a known id is welcome"
    )


def test_refusal_does_not_tell_the_cluster_id():
    world = three()
    guess = hello(world, 2, 1, cluster_id="guess")
    refused = [
        world.nodes[1].members.judge_hello(msgspec.structs.replace(guess, **changes), world.now)
        for changes in ({}, {"target": m.ANY_NODE}, {"node_id": 9}, {"member_at": 1 << 60})
    ]
    assert all("another cluster" in error and "test" not in error for error in refused), refused


@pytest.mark.parametrize("node_id", [2, 9])
def test_claim_to_be_a_member_further_on_in_the_log_lets_nothing_in_while_there_is_a_leader(node_id: int):
    world = three()
    far = hello(world, node_id, 1, directory_id="stranger", member_at=1 << 60, raft_address="x:1")
    for node in (1, 2, 3):
        error = world.nodes[node].members.judge_hello(msgspec.structs.replace(far, target=node), world.now)
        assert "not known here yet" in error
        assert not world.nodes[node].members.is_removed(far), "that is not proven"
    world.isolate(3)
    world.run(5)
    assert not world.nodes[3].members.judge_hello(msgspec.structs.replace(far, target=3), world.now), (
        "the leader?"
    )
    near = msgspec.structs.replace(far, target=3, member_at=world.nodes[3].applied)
    assert world.nodes[3].members.judge_hello(near, world.now), "as far as it has applied, it is no member"
    assert world.nodes[3].members.is_removed(near)
    assert not world.nodes[3].members.is_removed(msgspec.structs.replace(near, cluster_id="another"))


# --- a directory that was copied, or put back from a backup ---


def backup(world: NodeWorld, node: int) -> tuple[object, int]:
    return copy.deepcopy(world.stores[node]), world.incarnations[node]


def put_back(world: NodeWorld, node: int, saved: tuple[object, int]) -> None:
    world.stores[node], world.incarnations[node] = saved  # type: ignore[assignment]


@pytest.mark.parametrize("starts_since", [1, 2])
def test_directory_that_is_older_than_a_start_the_cluster_has_seen_is_refused_for_good(starts_since: int):
    world = three()
    world.kill(3)
    saved = backup(world, 3)
    for _ in range(starts_since):
        world.start(3)
        world.until(lambda: world.nodes[3].ready)
        world.kill(3)
    put_back(world, 3, saved)
    world.start(3)
    world.until(lambda: 3 in world.halted)
    assert "older backup" in world.halted[3] and "LEAVE 3" in world.halted[3], (
        "SingleWriter: an older directory goes on"
    )
    assert world.exit_statuses[3] == 1


def test_directory_that_is_older_than_what_it_acknowledged_is_refused_by_the_raft_leader():
    """Copied from the running node: its next start has a number that none has seen."""
    world = three()
    saved = backup(world, 3)
    world.register("t")
    world.until(world.settled)
    world.kill(3)
    put_back(world, 3, saved)
    world.start(3)
    world.until(lambda: 3 in world.halted)
    assert "has acknowledged the log up to" in world.halted[3], (
        "CommittedNeverLost: a log that was cut goes on"
    )


def test_directory_that_was_put_back_complete_goes_on():
    world = three()
    world.register("t")
    world.until(world.settled)
    world.kill(3)
    saved = backup(world, 3)
    world.register("u")
    put_back(world, 3, saved)
    world.start(3)
    world.until(lambda: world.nodes[3].ready and world.settled())


def test_uncommitted_entries_that_a_new_leader_replaced_are_no_proof_of_an_older_directory():
    """A deposed leader that does not know it yet counts them as acknowledged."""
    world = three()
    assert world.raft_leader == 1
    world.lose = lambda sender, to, message: (sender, to) == (3, 1) or 2 in (sender, to)
    world.nodes[1].raft_host.propose(RegisterTopic(topic="t", leader=1, replicas=(1,)), world.now)
    world.run(0.1)
    progress = world.nodes[1].raft.progress[3]
    assert progress.match_index <= world.nodes[1].raft.commit_index
    progress.match_index = world.nodes[1].raft.log.last_index  # as if 3 had answered
    short = msgspec.structs.replace(
        world.nodes[3].members.hello(1), log_index=world.nodes[1].raft.commit_index
    )
    final = world.nodes[1].members.is_final(short)
    assert not final, "CommittedNeverLost: what is not committed is held against a healthy member"


def test_process_that_learns_of_a_second_one_under_its_identity_stops():
    world = three()
    twin = Announce(
        node_id=3, directory_id="d3", incarnation=1 << 40 | 1, raft_address="elsewhere:1", client_address=""
    )
    later = msgspec.structs.replace(twin, incarnation=next_incarnation(world.incarnations[3], 99))
    world.nodes[1].raft_host.propose(twin, world.now)
    world.run(1)
    assert 3 not in world.halted, "SingleWriter: it came first, and is the one that counts"
    world.nodes[1].raft_host.propose(later, world.now)
    world.until(lambda: 3 in world.halted)
    assert "not as this process" in world.halted[3], "SingleWriter: two processes under one identity"


def test_node_that_is_not_ready_says_why_in_its_log_and_in_metrics():
    world = three()
    assert world.metrics(3)["why_not_ready"] is None and world.metrics(3)["ready"] is True
    world.isolate(3)
    world.until(lambda: not world.nodes[3].ready)
    assert "no Raft leader" in world.metrics(3)["why_not_ready"]
    world.nodes[3].members.on_refused(1, "for a reason")
    assert "node 1 refuses it: for a reason" in world.metrics(3)["why_not_ready"]
    world.run(5)
    assert [line for line in world.logs if "3: this node is not ready: it knows no Raft leader" in line]
    before = len(world.logs)
    world.run(20)
    assert len(world.logs) - before <= 1, "said again now and then only"
    world.nodes[3].on_connected(1, m.HelloReply(error="", cluster_id="test"), world.now)
    assert "refuses" not in world.metrics(3)["why_not_ready"]


def test_callers_whose_word_is_remembered_are_bounded():
    world = three()
    world.isolate(3)
    world.run(5)
    for number in range(10, 10 + 2 * MAX_CALLERS):
        world.nodes[3].members.on_caller(
            hello(world, number, 3, member_at=1 << 60, raft_address=f"x:{number}")
        )
    assert len(world.nodes[3].members.addresses()) == MAX_CALLERS + 2, "besides the members"
    assert world.nodes[3].members.addresses()[9 + 2 * MAX_CALLERS] == f"x:{9 + 2 * MAX_CALLERS}"


# --- joining ---


def stray(node_id: int = 4) -> m.Join:
    return m.Join(node_id=node_id, directory_id="stray", raft_address="nowhere:1", client_address="")


def test_join_with_no_process_behind_it_is_dropped_again():
    world = three()
    world.nodes[2].on_join(stray(), world.now)
    world.until(lambda: 4 in world.nodes[1].raft.membership.learners)
    assert world.nodes[2].on_join(stray(), world.now).done
    world.until(lambda: all(4 not in node.metadata.nodes for node in world.nodes.values()))
    assert all(4 not in node.raft.membership.members for node in world.nodes.values())
    assert any("has not started" in line for line in world.logs)


def test_id_that_a_stray_join_took_is_free_for_the_real_node_soon():
    world = three()
    world.nodes[2].on_join(stray(), world.now)
    world.until(lambda: 4 in world.nodes[1].raft.membership.learners)
    real = msgspec.structs.replace(stray(), directory_id="d4")
    reply = world.nodes[1].on_join(real, world.now)
    assert not reply.done and not reply.final and "has not started" in reply.error
    world.join(4)
    assert world.nodes[1].metadata.nodes[4].directory_id == "d4"
    assert 4 in world.nodes[1].raft.membership.voters


def test_joiner_that_takes_its_time_to_start_is_waited_for():
    world = three()
    world.until(lambda: world.nodes[1].on_join(msgspec.structs.replace(stray(), directory_id="d4"), 0).done)
    world.run(world.nodes[1].config.failure_timeout * (JOIN_PATIENCE - 1))
    world.start(4)
    world.until(lambda: world.nodes[4].ready)
    world.run(world.nodes[1].config.failure_timeout * JOIN_PATIENCE * 2)
    assert world.nodes[4].ready


def taken_in(world: NodeWorld) -> float:
    """Node 4 is taken in and runs, and nothing that it says arrives: how long one may be absent."""
    applicant = msgspec.structs.replace(stray(), directory_id="d4")
    world.until(lambda: world.nodes[1].on_join(applicant, world.now).done)
    world.lose = lambda sender, to, message: sender == 4
    world.start(4)
    world.until(lambda: 4 in world.nodes[1].connected)
    return world.nodes[1].config.failure_timeout * JOIN_PATIENCE


def test_joiner_that_is_connected_is_waited_for_however_long_its_start_takes():
    world = three()
    world.run(3 * taken_in(world))
    assert not world.nodes[1].metadata.nodes[4].incarnation, "JoinerIsWaitedFor: it is dropped"
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.nodes[4].ready)


@pytest.mark.parametrize("late", [1, 3])
def test_joiner_that_died_is_dropped_once_it_has_been_gone_for_long_and_not_before(late: int):
    world = three()
    patience = taken_in(world)
    world.run(late * patience)
    world.kill(4)
    world.run(patience * 0.9)
    assert 4 in world.nodes[1].metadata.nodes, "JoinerIsWaitedFor: it may come back"
    world.until(lambda: 4 not in world.nodes[1].metadata.nodes, within=patience)


def test_joiner_that_was_dropped_and_joins_again_at_once_is_waited_for_anew(monkeypatch: pytest.MonkeyPatch):
    world = three()
    applicant = msgspec.structs.replace(stray(), directory_id="d4")
    world.until(lambda: world.nodes[1].on_join(applicant, world.now).done)
    world.until(lambda: 4 not in world.nodes[1].metadata.nodes)
    with monkeypatch.context() as before_the_next_look:
        before_the_next_look.setattr(Supervisor, "on_tick", lambda self, now: None)
        world.until(lambda: world.nodes[1].on_join(applicant, world.now).done)
    world.run(world.nodes[1].config.failure_timeout * (JOIN_PATIENCE - 1))
    assert 4 in world.nodes[1].metadata.nodes, "JoinerIsWaitedFor: it is dropped for its first, late start"
    world.start(4)
    world.until(lambda: world.nodes[4].ready)


def test_joiner_that_does_not_say_who_it_is_has_as_long_as_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
):
    """A process of a release before this one."""
    monkeypatch.setattr("walrus.sim.greeting.Doorkeeper.directory_id", lambda self: "")
    world = three()
    patience = taken_in(world)
    world.run(patience * 0.8)
    assert 4 in world.nodes[1].metadata.nodes
    world.until(lambda: 4 not in world.nodes[1].metadata.nodes, within=patience)


def test_joiner_that_is_waited_for_can_be_sent_away():
    world = three()
    world.run(2 * taken_in(world))
    assert world.ask(2, protocol.Leave(4, force=True), within=60) == [OK]
    assert 4 not in world.nodes[2].metadata.nodes


def test_joiner_that_came_too_late_is_told_so_for_good():
    world = three()
    applicant = msgspec.structs.replace(stray(), directory_id="d4")
    world.until(lambda: world.nodes[1].on_join(applicant, world.now).done)
    member_at = world.nodes[1].on_join(applicant, world.now).member_at
    world.until(lambda: all(4 not in node.metadata.nodes for node in world.nodes.values()))
    late = hello(world, 4, 1, member_at=member_at)
    assert world.nodes[1].members.judge_hello(late, world.now) and world.nodes[1].members.is_removed(late)


def test_new_raft_leader_waits_for_a_joiner_anew():
    world = three()
    world.nodes[2].on_join(stray(), world.now)
    world.until(lambda: 4 in world.nodes[1].raft.membership.learners)
    world.run(world.nodes[1].config.failure_timeout * (JOIN_PATIENCE - 1))
    world.kill(1)
    world.until(lambda: any(node.raft.role.value == "Leader" for node in world.nodes.values()))
    since = world.now
    world.until(lambda: 4 not in world.nodes[2].metadata.nodes, within=60)
    assert world.now - since > world.nodes[2].config.failure_timeout * JOIN_PATIENCE


def test_strays_that_join_are_bounded():
    world = three()
    for number in range(10, 10 + 2 * MAX_JOINING):
        world.nodes[1].on_join(stray(number), world.now)
        world.run(0.1)
    assert world.nodes[1].metadata.joining() == MAX_JOINING
    before = world.nodes[1].raft.log.last_index
    reply = world.nodes[1].on_join(stray(99), world.now)
    assert "joining already" in reply.error and not reply.final
    world.run(0.1)
    assert world.nodes[1].raft.log.last_index - before <= 2, "nothing is proposed for it"
    world.until(lambda: not world.nodes[1].metadata.joining(), within=120)
    world.join(4)


@pytest.mark.parametrize("via", [1, 2, 3])
def test_put_right_after_a_restart_of_the_whole_cluster_waits_for_the_next_segment(via: int):
    """The open segment's leader is another start by then, which could not say what became of the PUT."""
    world = three()
    world.register("t")
    assert world.put(via, "t", "before") == [OK]
    for node in (1, 2, 3):
        world.kill(node)
    for node in (1, 2, 3):
        world.start(node)
    assert world.put(via, "t", "after") == [OK]


def test_node_with_an_empty_disk_under_a_known_id_is_not_taken_in():
    world = three()
    join = m.Join(node_id=2, directory_id="new disk", raft_address="x", client_address="y")
    reply = world.nodes[1].on_join(join, world.now)
    assert not reply.done and "another data directory" in reply.error and not reply.cluster_id, (
        "SingleWriter: an empty disk is taken in under a known id"
    )
    world.until(lambda: world.nodes[1].on_join(join, world.now).final)


def test_a_disk_is_not_taken_in_under_the_id_of_a_member_of_raft_that_the_metadata_does_not_know():
    """Its predecessor may be a voter still: a leader has yet to drop it."""
    world = three()
    world.kill(3)
    world.run(3)
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    leader = world.nodes[world.raft_leader]
    assert leader.raft.propose_membership(Membership((1, 2), (3,)), world.now) is not None
    join = m.Join(node_id=3, directory_id="new disk", raft_address="x", client_address="y")
    refused = "another data directory" in leader.on_join(join, world.now).error
    assert refused, "ElectionSafety: a disk votes that does not know how its predecessor voted"


def test_refusal_is_not_final_where_the_leader_is_heard_and_its_log_not_applied(
    monkeypatch: pytest.MonkeyPatch,
):
    """As after a restart: the LEAVE that made the id free is committed, and this node has not come to it."""
    world = three()
    monkeypatch.setattr(world.nodes[3].raft_host, "_next_committed", lambda: ())
    assert world.ask(1, protocol.Leave(2, force=True), within=60) == [OK]
    join = m.Join(node_id=2, directory_id="new disk", raft_address="x", client_address="y")
    for _ in range(20):
        reply = world.nodes[3].on_join(join, world.now)
        assert "another data directory" in reply.error and not reply.final, (
            "OnlyWhatWasMeant: refused for good, and node 2 was removed meanwhile"
        )
        world.run(0.5)
    assert world.nodes[3].raft.leader_id == 1
    monkeypatch.undo()
    world.until(lambda: world.nodes[3].on_join(join, world.now).done)


def test_an_introduction_is_not_taken_for_an_older_directory_by_what_is_acknowledged_while_it_is_on_its_way():
    world = three()
    introduction = world.nodes[3].members.hello(m.ANY_NODE)
    world.register("t")
    leader = world.nodes[1]
    assert leader.raft.progress[3].match_index == leader.raft.commit_index
    assert leader.members.judge_hello(introduction, world.now) == ""


def test_directories_that_ask_under_a_known_id_are_bounded():
    world = three()
    for number in range(3 * MAX_CALLERS):
        join = m.Join(node_id=2, directory_id=f"new disk {number}", raft_address="x", client_address="y")
        world.nodes[1].on_join(join, world.now)
    assert len(world.nodes[1].members._doubted) == MAX_CALLERS
    world.until(lambda: world.nodes[1].on_join(join, world.now).final)
    assert not world.nodes[1].on_join(join, world.now).final, "the answer was about the question before"


def test_refusal_is_not_final_where_it_may_be_old_news():
    world = three()
    world.isolate(1)
    world.run(5)
    join = m.Join(node_id=2, directory_id="new disk", raft_address="x", client_address="y")
    reply = world.nodes[1].on_join(join, world.now)
    assert reply.error and not reply.final, "perhaps the old node 2 was removed meanwhile"


@pytest.mark.parametrize("when", ["at once", "after a restart", "away while it was removed"])
def test_member_that_was_removed_is_told_so_for_good(when: str):
    world = three()
    if when == "away while it was removed":
        world.kill(3)
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    if when == "after a restart":
        world.kill(3)
    if when != "at once":
        world.isolate(3)
        world.start(3)
    member_at = world.nodes[3].members.member_at
    assert member_at > 0
    for node in (1, 2):
        assert world.nodes[node].members.judge_hello(hello(world, 3, node), world.now)
        assert world.nodes[node].members.is_removed(hello(world, 3, node, member_at=member_at))


@pytest.mark.parametrize("nodes", [2, 3])
@pytest.mark.parametrize("asked", ["the one that leaves", "another"])
def test_node_that_leaves_stops_with_status_0_and_its_clients_hear_ok(nodes: int, asked: str):
    world = three()
    if nodes == 2:
        assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
        world.until(lambda: 3 in world.halted)
    leaving = nodes
    slot = world.send(leaving if asked == "the one that leaves" else 1, protocol.Leave(leaving, force=True))
    world.until(lambda: leaving in world.halted and bool(world.replies[slot]), within=60)
    assert world.replies[slot] == [OK]
    assert world.exit_statuses[leaving] == 0
    assert "empty --data-dir" in world.halted[leaving]


def test_node_that_comes_back_after_its_removal_stops_with_status_1():
    world = three()
    world.kill(3)
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    world.start(3)
    world.until(lambda: 3 in world.halted)
    assert world.exit_statuses[3] == 1


def test_member_is_not_taken_for_removed_by_one_that_has_not_heard_of_it():
    world = three()
    world.isolate(2)
    world.join(4)
    assert world.nodes[2].members.judge_hello(hello(world, 4, 2), world.now)
    assert not world.nodes[2].members.is_removed(
        hello(world, 4, 2, member_at=world.nodes[4].members.member_at)
    )
    assert not world.nodes[1].members.is_removed(hello(world, 9, 1)), "a joiner that knows nothing yet"
    assert not world.nodes[1].members.is_removed(hello(world, 3, 1, member_at=1, cluster_id="another"))


def test_member_that_left_is_not_taken_in_again_by_its_own_announcement():
    world = three()
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    world.kill(3)
    late = Announce(node_id=3, directory_id="d3", incarnation=7, raft_address="x", client_address="y")
    world.nodes[1].metadata.apply(late)
    assert 3 not in world.nodes[1].metadata.nodes


def test_full_disk_is_said_once():
    world = three()
    _, meta = world.stores[2]
    meta.full = True
    assert world.ask(1, protocol.Register("t")) == [OK]
    world.run(3)
    assert sum("Raft waits for room" in line for line in world.logs) == 1
    meta.full = False
    world.until(lambda: "t" in world.nodes[2].metadata.topics)
    meta.full = True
    assert world.ask(1, protocol.Register("u")) == [OK]
    world.run(3)
    assert sum("Raft waits for room" in line for line in world.logs) == 2


def test_remembered_address_that_a_start_leaves_out_is_dialled_once_it_is_known():
    """What is remembered may be ahead of the log, which a node that was cut off has yet to catch up with."""
    world = three()
    world.kill(3)
    world.join(4)
    world.start(3, knows={1, 2, 4})
    assert set(world.nodes[3].members.addresses()) == {1, 2}
    world.until(lambda: 4 in world.nodes[3].connected)


def test_replica_whose_fence_was_dropped_takes_nothing_from_a_deposed_writer_after_a_restart():
    """When it starts it has not applied the Seal again, but begins with a snapshot that contains it."""
    world = three(compact_entries=10)
    world.register("t")
    deposed = world.topic("t").open.leader
    other = next(node for node in (1, 2, 3) if node != deposed)
    world.put(deposed, "t", "a")
    world.isolate(deposed)
    world.until(lambda: world.topic("t").current == 2)
    assert ("t", 1) in world.nodes[other].copies.noted
    for number in range(15):
        world.ask(other, protocol.Register(f"t{number}"))
    world.until(lambda: ("t", 1) not in world.nodes[other].copies.noted)
    world.kill(other)
    world.isolate(other)
    world.start(other)
    assert not world.nodes[other].copies.get(("t", 1)).fenced, "AckedDurable: the note is to be gone"
    world.nodes[other].on_message(
        deposed, m.Append(topic="t", segment=1, start=1, batch=batch("late"), end=2), world.now
    )
    assert world.stored(other, "t", 1) == [b"a"], "AckedDurable: a deposed writer's frame is taken"


def test_a_member_says_how_far_it_knows_that_it_is_one():
    world = three()
    for node in world.nodes.values():
        assert node.members.member_at == node.applied > 0


def test_a_peer_whose_connection_is_gone_is_not_counted_as_connected():
    world = three()
    world.kill(3)
    assert world.nodes[1].connected == {2} and world.nodes[2].connected == {1}


def test_a_node_is_busy_as_long_as_a_client_waits_for_it():
    world = three()
    world.register("t")
    node = next(node for node in (1, 2, 3) if node != world.topic("t").open.leader)
    assert not world.nodes[node].busy
    put, get = protocol.Put("t", batch("a")), protocol.Get("t")
    for request, answered in ((put, b"OK"), (get, b"OK a"), (protocol.Register("u"), b"OK")):
        slot = world.send(node, request)
        assert world.nodes[node].busy, request
        world.until(lambda slot=slot: bool(world.replies[slot]))
        assert world.replies[slot] == [answered] and not world.nodes[node].busy


def test_topics_at_rest_are_not_looked_at_with_every_tick():
    """There may be a hundred thousand of them."""
    world = three()
    for number in range(6):
        world.register(f"t{number}")
        assert world.put(1, f"t{number}", "a") == [OK]
    world.run(1)
    for node in world.nodes.values():
        assert not node.lifecycle._waiting and not node.lifecycle.due(world.now)
        assert len(node.metadata.open_at) <= 3, (
            "EnoughReplicas: nor by the Raft leader, which looks at where segments are"
        )
    world.kill(2)
    assert world.put(1, "t0", "b") == [OK]
    assert any(node.lifecycle._waiting for node in world.nodes.values()), (
        "the dead node is sent what it lacks"
    )


def test_writer_that_is_fenced_while_it_is_idle_hands_over():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    world.run(1)
    world.nodes[leader].on_message(leader % 3 + 1, m.Fence(topic="t", segment=1), world.now)
    world.until(lambda: world.topic("t").current == 2, within=5, claim="FailoverProgress")


# --- releases ---


def knows(world: NodeWorld, node: int, version: int) -> None:
    """From now on the cluster believes that this member knows commands up to that version."""
    member = world.nodes[node].metadata.nodes[node]
    said = Announce(
        node_id=node,
        directory_id=member.directory_id,
        incarnation=member.incarnation,
        raft_address=member.raft_address,
        client_address=member.client_address,
        knows=version,
    )
    world.nodes[node].raft_host.propose(said, world.now)
    world.until(lambda: all(c.metadata.nodes[node].knows == version for c in world.nodes.values()))


@pytest.mark.parametrize("via", [1, 2, 3])
def test_what_a_member_of_an_older_release_does_not_know_is_refused_by_name_and_at_once(via: int):
    world = three()
    world.register("t")
    knows(world, 3, 2)
    for request in (
        protocol.Configure("t", {"retain_entries": 5}),
        protocol.Delete("t"),
        protocol.Register("u", {"retain_entries": 5}),
    ):
        (reply,) = world.ask(via, request, within=1.0)
        assert reply.startswith(b"ERR older release: node 3 runs one"), f"MixedReleases: {reply!r}"
    assert world.ask(via, protocol.Register("v")) == [OK], "MixedReleases: the older one knows that"
    assert world.put(via, "t", "a") == [OK] and not world.halted, "MixedReleases: an older member stops"
    knows(world, 3, 3)
    assert world.ask(via, protocol.Configure("t", {"retain_entries": 5})) == [OK], (
        "MixedReleases: refused although all know it"
    )


@pytest.mark.parametrize("via", [1, 2])
def test_what_a_member_does_not_know_gets_into_no_log_whoever_proposes_it(via: int):
    world = three()
    world.register("t")
    knows(world, 3, 2)
    news, last = DeleteTopic(topic="t", born=1), world.nodes[1].raft.log.last_index
    world.nodes[via].raft_host.propose(news, world.now)
    world.nodes[1].on_message(2, m.Propose(commands=(news,)), world.now)
    world.run(1.0)
    assert world.nodes[1].raft.log.last_index == last and not world.halted, "MixedReleases: it would stop"
    assert any("not proposed: DeleteTopic of version 3, which is news to node 3" in s for s in world.logs), (
        "MixedReleases: what was not proposed is not said"
    )


def test_what_an_earlier_raft_leader_left_out_is_announced_to_the_next_one():
    """A Raft leader of a release that does not know of `knows` proposes an announcement without it."""
    world = three()
    knows(world, 3, 0)
    world.run(3.0)
    assert world.nodes[1].metadata.nodes[3].knows == 0, "MixedReleases: announced again and again"
    world.kill(world.raft_leader)
    world.until(lambda: all(c.metadata.nodes[3].knows == commands.VERSION for c in world.nodes.values()))


def test_an_announcement_to_the_next_raft_leader_that_is_lost_is_made_again():
    world = three()
    knows(world, 3, 0)
    world.lose = lambda sender, to, message: sender == 3 and isinstance(message, m.Propose)
    assert world.nodes[1].raft.transfer_leadership(2, world.now)
    world.until(lambda: world.nodes[3].raft.leader_id == 2)
    world.run(1.0)
    world.lose = lambda sender, to, message: False
    world.until(
        lambda: world.nodes[2].metadata.nodes[3].knows == commands.VERSION,
        within=60.0,
        claim="MixedReleases: what a node knows is never announced",
    )


def test_metrics_say_which_versions_are_spoken_and_known():
    world = three()
    knows(world, 3, 2)
    metrics = world.metrics(1)
    assert metrics["wire_versions"] == {"2": handshake.VERSION, "3": handshake.VERSION}
    assert metrics["command_versions"] == {"1": commands.VERSION, "2": commands.VERSION, "3": 2}


def test_a_read_ends_with_the_connection_that_it_was_sent_on():
    world = three()
    world.register("t")
    answers: list[str] = []
    world.nodes[1].reads.ask(
        2, "t", 1, 0, entries=1, raw=True, now=world.now, then=lambda batch, error, at: answers.append(error)
    )
    assert not answers, "ReadProgress: answered before it was asked"
    world.nodes[1].on_disconnected(2, True, world.now)
    assert [bool(error) for error in answers] == [True], "ReadProgress: it waits for what cannot come"


def test_of_a_node_that_was_removed_no_numbers_of_requests_are_kept():
    """Another one may join under its id; it numbers its requests anew, and they would pass for old ones."""
    world = three(replication_factor=1)
    for topic in ("a", "b"):
        world.register(topic)
    topic = next(name for name in ("a", "b") if world.topic(name).open.leader != 3)
    leader = world.nodes[world.topic(topic).open.leader]
    assert world.put(3, topic, "x") == [b"OK"] and world.ask(3, protocol.Get(topic)) == [b"OK x"]
    seen = leader.lifecycle._shared[topic].seen
    cursor = leader.cursors.cursors()[topic, ""]
    assert 3 in cursor.latest and 3 in seen, "NoDuplicate: a repeated request would not be told"
    assert world.ask(1, protocol.Leave(3), within=60) == [b"OK"], "OnlyWhatWasMeant"
    world.run(0.5)
    assert 3 not in cursor.latest and 3 not in seen, "ReadProgress: requests of another node pass for old"


def test_what_is_known_to_be_fresh_says_nothing_of_a_directory_that_asked_later():
    members, asked = three().nodes[1].members, []

    def refused_for_good(directory: str) -> bool:
        join = m.Join(node_id=2, directory_id=directory, raft_address="h:1", client_address="h:2")
        return members.on_join(join, lambda then, now: asked.append(then), 0.0).final

    assert not refused_for_good("first"), "OnlyWhatWasMeant: by metadata that may be old"
    assert not refused_for_good("second") and len(asked) == 1, "one question at a time"
    (fresh,) = asked
    fresh(True, 0.1)
    assert refused_for_good("first"), "OnlyWhatWasMeant: it asks for ever"
    asked.clear()
    assert not refused_for_good("second"), "OnlyWhatWasMeant: by metadata that is older than its question"
    assert asked, "OnlyWhatWasMeant: its own question is never asked"
