"""What the Raft leader does for all nodes: failover, membership, and who may leave."""

from __future__ import annotations

import itertools
from operator import itemgetter

import pytest

from tests.broker.test_segments import announce, cluster, seal
from tests.broker.world import NodeWorld, batch, three
from walrus import protocol
from walrus.broker import raft_host, supervisor
from walrus.broker.placement import first_leader
from walrus.broker.supervisor import too_few_stay, why_not_leave
from walrus.consensus.messages import Membership
from walrus.segments import MarkLeaving
from walrus.wire import messages as m

OK = b"OK"


def world_with_topic(*, led_by_raft_leader: bool = False) -> tuple[NodeWorld, str]:
    """A world, and a topic in it whose leader is (or is not) Raft's leader too."""
    world = three()
    for number in range(20):
        world.register(f"t{number}")
        if (world.topic(f"t{number}").open.leader == world.raft_leader) is led_by_raft_leader:
            return world, f"t{number}"
    raise AssertionError("no such topic")


def test_silent_leader_is_replaced_after_the_failure_timeout_and_not_before():
    world, name = world_with_topic()
    leader = world.topic(name).open.leader
    world.isolate(leader)
    began = world.now
    world.until(lambda: world.topic(name).current == 2)
    assert 1.9 <= world.now - began <= 3.0, "FailoverProgress: too early, or too late"


def test_dead_leader_is_replaced_at_once():
    world, name = world_with_topic()
    world.kill(world.topic(name).open.leader)
    world.until(lambda: world.topic(name).current == 2, within=0.5)


def test_dead_raft_leader_that_led_a_segment_is_replaced_soon():
    world, name = world_with_topic(led_by_raft_leader=True)
    world.kill(world.topic(name).open.leader)
    world.until(lambda: world.topic(name).current == 2, within=1.0)


def test_healthy_cluster_has_no_failover():
    world = three()
    world.register("t")
    for number in range(50):
        assert world.put(number % 3 + 1, "t", f"{number}") == [OK], "EveryPubAnswered"
    world.run(20)
    assert world.topic("t").current == 1, "SingleWriter: a failover of a leader that is alive"


def test_nodes_that_could_not_be_heard_because_all_were_asleep_are_not_taken_for_dead():
    """A machine with all of them is suspended: its clock shows ten seconds of silence, and there was none."""
    world = three()
    name = next(name for name in map(str, range(99)) if first_leader(name, (1, 2, 3)) != world.raft_leader)
    world.register(name)
    world.now += 10.0
    world.run(1.0)
    assert world.topic(name).current == 1, (
        "SingleWriter: a failover of a leader that was not heard while nothing was"
    )


def test_a_new_raft_leader_gives_every_node_time_to_answer():
    world = three()
    leader = world.raft_leader
    slow = next(node for node in world.nodes if node != leader)
    name = next(name for name in map(str, range(99)) if first_leader(name, (1, 2, 3)) == slow)
    world.register(name)
    world.lose = lambda sender, to, message: slow in (sender, to)
    raft = world.nodes[leader].raft
    raft._become_follower(raft.current_term, None, world.now)
    world.until(lambda: any(n != slow and c.raft_host.leads for n, c in world.nodes.items()))
    world.run(0.5)
    world.lose = lambda sender, to, message: False
    world.run(1.0)
    assert world.topic(name).current == 1, (
        "SingleWriter: a failover of a leader that a new Raft leader has yet to hear"
    )


def test_a_node_does_not_vote_before_its_start_is_known():
    """It has caught up; but which commands its release can read, it says with its Announce."""
    world = three()
    world.start(4)
    join = m.Join(node_id=4, directory_id="d4", raft_address="127.0.0.1:6004", client_address="")
    world.until(lambda: world.nodes[1].on_join(join, world.now).done)
    world.lose = lambda sender, to, message: sender == 4 and isinstance(message, m.Propose)
    world.run(2.0)
    leader = world.nodes[world.raft_leader].raft
    assert leader.progress[4].match_index == leader.commit_index, (
        "DeliveredIsPrefix: it has all that there is"
    )
    assert leader.membership.voters == (1, 2, 3), "DomainConsistency: a node votes whose start is not known"
    world.lose = lambda sender, to, message: False
    world.until(lambda: leader.membership.voters == (1, 2, 3, 4))


def test_only_a_minority_left_seals_nothing_and_heals():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [OK], "EveryPubAnswered"
    left = leader
    for node in (1, 2, 3):
        if node != left:
            world.kill(node)
    slot = world.send(left, protocol.Put("t", batch("b")))
    world.run(10)
    assert world.replies[slot][0].startswith(b"ERR ") and world.topic("t").current == 1, (
        "AckedDurable: a minority acknowledges, or seals"
    )
    for node in (1, 2, 3):
        if node != left:
            world.start(node)
    world.until(lambda: all(c.ready for c in world.nodes.values()))
    assert world.put(left, "t", "c") == [OK], "FailoverProgress: a cluster that is whole again takes nothing"
    got = world.get_all(left, "t")
    assert got[0] == b"a" and got[-1] == b"c", "AckedDurable, ProducerOrder"


def test_segments_of_a_cluster_that_grows_get_their_replicas():
    world = NodeWorld()
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    world.register("t")
    assert world.put(1, "t", "a") == [OK]
    assert world.topic("t").open.replicas == (1,), "EnoughReplicas"
    for node in (2, 3):
        world.join(node)
    world.until(lambda: all(len(segment.replicas) == 3 for segment in world.topic("t").segments))
    assert world.get_all(3, "t") == [b"a"], "AckedDurable"


def test_a_learner_that_is_dropped_takes_no_other_learner_along(monkeypatch: pytest.MonkeyPatch):
    world = three()
    supervisor = world.nodes[world.raft_leader].supervisor
    changes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    monkeypatch.setattr(
        supervisor, "_change", lambda voters, learners, now: changes.append((voters, learners))
    )
    supervisor._remove(4, Membership((1, 2, 3), (4, 5)), world.now)
    assert changes == [((1, 2, 3), (5,))], (
        "DomainConsistency: another learner goes with the one that is dropped"
    )


def test_a_voter_that_is_down_keeps_its_place_in_new_replica_sets():
    """With two replicas a majority is both: one more node down, and nothing could be acknowledged."""
    world = three(max_segment_entries=2)
    world.register("t")
    down = max({1, 2, 3} - {world.raft_leader, world.topic("t").open.leader})
    world.kill(down)
    world.run(1.0)
    up = min(world.nodes)
    world.register("u")
    assert world.put(up, "t", "a", "b", "c") == [b"OK"] * 3
    world.until(lambda: world.topic("t").current >= 2)
    for segment in (*world.topic("t").segments, world.topic("u").open):
        assert sorted(segment.replicas) == [1, 2, 3], (
            "EnoughReplicas: Replicas: a voter that is down holds none"
        )
        assert segment.leader != down, "OpenLeaderMatchesMap: it opens at a node that is down"


@pytest.mark.parametrize("factors", [(3, 1, 1), (1, 3, 3), (3, 2, 1), (1, 2, 3)])
def test_raft_leaders_replication_factor_takes_one_rollover_whoever_leads(factors: tuple[int, ...]):
    """Others may have been given another one: what the Raft leader asks for is what the next segment gets."""
    world = NodeWorld(replication_factor=factors[0])
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    for node in (2, 3):
        world.settings["replication_factor"] = factors[node - 1]
        world.join(node)
    for number in range(6):
        world.register(f"t{number}", node=number % 3 + 1)
    world.run(6)
    topics = [world.topic(f"t{number}") for number in range(6)]
    assert max(topic.current for topic in topics) <= 2, "EnoughReplicas: a row of empty segments"
    assert min(len(topic.open.replicas) for topic in topics) >= factors[world.raft_leader - 1], (
        "EnoughReplicas"
    )


def test_two_nodes_join_at_once():
    world = NodeWorld()
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    for node in (2, 3):
        world.start(node)
        join = m.Join(
            node_id=node, directory_id=f"d{node}", raft_address=f"127.0.0.1:600{node}", client_address=""
        )
        world.nodes[1].on_join(join, world.now)
    world.until(lambda: all(c.ready for c in world.nodes.values()))
    assert world.nodes[1].raft.membership.voters == (1, 2, 3), (
        "DomainConsistency: a node that joined is no voter"
    )


@pytest.mark.parametrize("how", ["cut off", "restarted"])
def test_node_that_was_away_follows_a_leader_that_joined_meanwhile(how: str):
    """It knows neither that there is such a node nor where, and can learn it from no other node."""
    world = three()
    away = next(node for node in (1, 2, 3) if node != world.raft_leader)
    if how == "cut off":
        world.isolate(away)
    else:
        world.kill(away)
    world.join(4)
    world.until(lambda: 4 in world.nodes[world.raft_leader].raft.membership.voters)
    world.until(lambda: world.nodes[world.raft_leader].raft.transfer_leadership(4, world.now))
    world.until(lambda: world.raft_leader == 4)
    if how == "cut off":
        world.cut.clear()
    else:
        world.start(away, knows={1, 2, 3})
    world.until(lambda: world.raft_leader == 4 and world.settled())


# --- leaving ---


def test_leave_is_refused_where_it_would_cost_the_majority_or_data():
    metadata = cluster(seal(1, 5, replicas=(1, 2)))
    assert why_not_leave(3, metadata, (1, 2, 3), {1, 2, 3}) is None, (
        "ReplicasKept: a LEAVE that costs nothing is refused"
    )
    assert "majority" in str(why_not_leave(3, metadata, (1, 2, 3), {1, 3})), (
        "ReplicasKept: a LEAVE costs the majority"
    )
    assert "last voter" in str(why_not_leave(1, metadata, (1,), {1})), (
        "DomainConsistency: the last voter leaves"
    )
    assert why_not_leave(2, metadata, (1, 2, 3), {1, 3, 2}) is None, (
        "ReplicasKept: a LEAVE that costs nothing is refused"
    )
    gone = why_not_leave(1, cluster(seal(1, 5, replicas=(1, 2))), (1, 2, 3, 4), {2, 3, 4})
    assert gone is not None and "segment 2" in gone, "AckedDurable: of the open segment no majority is left"


def test_a_node_stays_a_voter_until_no_segment_needs_it():
    """Its copies are the only ones, and nothing is handed over yet: without Raft it would learn nothing."""
    world = three(replication_factor=1)
    leaving = next(node for node in (2, 3) if node != world.raft_leader)
    name = next(name for name in map(str, range(99)) if first_leader(name, (1, 2, 3)) == leaving)
    world.register(name)
    assert world.put(1, name, "a") == [OK]
    world.lose = lambda sender, to, message: isinstance(message, m.Read | m.Copy)
    left = world.send(1, protocol.Leave(leaving))
    world.run(5)
    members = {node: host.raft.membership.voters for node, host in world.nodes.items()}
    assert set(members.values()) == {(1, 2, 3)}, "ReplicasKept: it is removed with the only copy there is"
    world.lose = lambda sender, to, message: False
    world.until(lambda: bool(world.replies[left]), within=60)
    assert world.get_all(1, name) == [b"a"], "AckedDurable"


def test_what_copies_have_shown_to_a_raft_leader_is_void_once_it_leads_no_more(
    monkeypatch: pytest.MonkeyPatch,
):
    """A node may lose its copy, or leave and come back, before it leads again."""
    world = three()
    deposed = world.raft_leader
    stopped: list[int] = []
    monkeypatch.setattr(world.nodes[deposed].supervisor._repairs, "stop", lambda: stopped.append(deposed))
    world.run(1)
    assert not stopped, "it leads"
    world.isolate(deposed)
    world.until(lambda: world.nodes[deposed].raft.role.value != "Leader")
    world.run(0.1)
    assert stopped == [deposed], "SealedStable: what a copy has shown to an earlier term of the leader counts"


def test_last_node_that_stays_may_not_leave():
    metadata = cluster(MarkLeaving(node_id=1), MarkLeaving(node_id=2))
    assert why_not_leave(3, metadata, (1, 2, 3), {1, 2, 3}), (
        "DomainConsistency: the last node that stays leaves"
    )


@pytest.mark.parametrize(
    ("leaving", "voters", "factor", "stay"),
    [
        (3, (1, 2, 3), 3, 2),
        (4, (1, 2, 3, 4), 3, None),  # as many stay as replicas are wanted
        (2, (1, 2), 3, None),  # the cluster is smaller in any case
        (2, (1, 2), 2, 1),
        (1, (1,), 1, 0),
        (4, (1, 2, 3), 3, None),  # a learner holds no replicas
    ],
)
def test_too_few_stay_where_a_leave_costs_replicas_that_there_could_be(
    leaving: int, voters: tuple[int, ...], factor: int, stay: int | None
):
    assert too_few_stay(leaving, cluster(announce(4, 0), announce(4)), voters, factor) == stay, (
        "ReplicasKept: other than what a LEAVE costs"
    )


def test_members_that_leave_already_do_not_count_as_staying():
    four = cluster(announce(4, 0), announce(4), MarkLeaving(node_id=3))
    assert too_few_stay(4, four, (1, 2, 3, 4), 3) == 2, (
        "ReplicasKept: a node that leaves already counts as one that stays"
    )
    assert too_few_stay(2, cluster(MarkLeaving(node_id=3)), (1, 2, 3), 3) is None, (
        "ReplicasKept: there are too few already"
    )


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_leave_that_costs_replicas_needs_force_on_any_node(asked: int):
    world = three()
    world.register("t")
    (refused,) = world.ask(asked, protocol.Leave(3), within=60)
    assert refused.startswith(b"ERR needs force: 2 voters would stay"), f"ReplicasKept: {refused!r}"
    assert b"LEAVE 3 force" in refused and b"\n" not in refused, (
        "ReplicasKept: a LEAVE that costs replicas is not refused by name"
    )
    world.run(1)
    assert not world.nodes[1].metadata.nodes[3].leaving, "ReplicasKept: a refused LEAVE does nothing"
    assert world.put(asked, "t", "a") == [OK]
    left = world.ask(asked, protocol.Leave(3, force=True), within=60) == [OK]
    assert left, "RolloverProgress: an open segment names the node that leaves, and is not rolled over"
    assert world.ask(1, protocol.Leave(2), within=60) == [OK], "the cluster is below the factor anyway"


def test_leave_that_was_forced_may_be_asked_for_again_without():
    """A client whose answer was lost asks again: the member leaves already, nothing is left to decide."""
    world = three(max_segment_entries=5)
    world.register("t")
    world.lose = lambda sender, to, message: isinstance(message, m.Read | m.Copy | m.RollOver)
    first = world.send(1, protocol.Leave(3, force=True))
    world.until(lambda: world.nodes[1].metadata.nodes[3].leaving)
    again = world.send(1, protocol.Leave(3))
    world.run(0.5)
    assert not world.replies[again], "ReplicasKept: it waits like the first"
    world.lose = lambda sender, to, message: False
    world.until(lambda: bool(world.replies[first] and world.replies[again]), within=60)
    assert world.replies[first] == world.replies[again] == [OK], (
        "ReplicasKept: a LEAVE that was forced once is refused"
    )


def test_force_does_not_remove_what_would_cost_the_majority():
    world = three()
    world.kill(3)
    world.run(3)
    assert world.ask(1, protocol.Leave(2, force=True))[0].startswith(b"ERR cannot leave"), (
        "ReplicasKept: force costs the majority"
    )


def test_leave_of_an_unknown_node():
    world = three()
    assert world.ask(1, protocol.Leave(9))[0].startswith(b"ERR unknown node"), "OnlyWhatWasMeant"


@pytest.mark.parametrize("leaving", [1, 2, 3, 4])
def test_node_leaves_under_load_and_nothing_is_lost(leaving: int):
    world = three(max_segment_entries=5)
    world.join(4)
    world.register("t")
    asked = min({1, 2, 3, 4} - {leaving})
    slots = []
    left = world.send(asked, protocol.Leave(leaving))
    for number in range(40):
        slots.append(world.send(asked, protocol.Put("t", batch(f"{number}"))))
        world.run(0.1)
    world.until(lambda: bool(world.replies[left]), within=60)
    assert world.replies[left] == [OK], "ReplicasKept: a node does not get away"
    world.until(lambda: leaving in world.halted)
    world.until(lambda: all(world.replies[slot] for slot in slots))
    assert all(world.replies[slot] == [OK] for slot in slots), "AckedDurable: PUTs fail while a node leaves"
    assert [int(entry) for entry in world.get_all(asked, "t")] == list(range(40)), (
        "AckedDurable, ProducerOrder"
    )
    assert not any(leaving in segment.replicas for segment in world.topic("t").segments), (
        "ReplicasKept: a segment names a node that has left"
    )


def test_node_that_dies_while_another_one_leaves_does_not_take_the_cluster_with_it():
    """With it gone, removing the one that leaves would leave two voters, one of them dead, for ever."""
    world = three(replication_factor=1)
    leader, dying, leaving = world.raft_leader, 2, 3
    assert leader == 1
    name = next(name for name in map(str, range(99)) if first_leader(name, (1, 2, 3)) == leaving)
    world.register(name)
    assert world.put(1, name, "a") == [OK]
    left = world.send(1, protocol.Leave(leaving))
    world.lose = lambda sender, to, message: isinstance(message, m.Read | m.Copy)  # nothing is handed over
    world.run(1)
    world.kill(dying)
    world.lose = lambda sender, to, message: False
    world.run(20)
    assert world.nodes[1].raft.membership.voters == (1, 2, 3), (
        "CommitProgress: a change is begun of which the new majority does not answer"
    )
    assert world.put(1, name, "b") == [OK], "FailoverProgress"
    assert world.ask(1, protocol.Leave(dying), within=60) == [OK], "ReplicasKept"
    world.until(lambda: world.nodes[1].raft.membership.voters == (1,), within=60)
    world.until(lambda: bool(world.replies[left]))
    world.kill(leaving)
    assert world.put(1, name, "c") == [OK], "FailoverProgress"
    assert world.get_all(1, name) == [b"a", b"b", b"c"], "AckedDurable"


def test_replaced_disk_under_an_old_id_is_listened_to():
    """Its starts, and with them its requests, are numbered from the beginning again."""
    world = three(max_segment_entries=3)
    world.register("t")
    for number in range(20):  # each node has led the topic, and has had forwards and GETs of node 3
        assert world.put(3, "t", f"{number}") == [OK]
        assert world.ask(3, protocol.Get("t")) == [b"OK %d" % number], "DeliveredIsPrefix"
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    world.kill(3)
    del world.stores[3], world.incarnations[3]
    world.directories[3] = "a new disk"
    world.join(3)
    for number in range(20, 30):
        listened = world.put(3, "t", f"{number}") == [OK]
        assert listened, "NoDuplicate: what a node sends is taken for what its predecessor sent"
        assert world.ask(3, protocol.Get("t")) == [b"OK %d" % number], (
            "DeliveredIsPrefix: a new disk under an old id is not listened to"
        )


def test_node_that_restarts_after_billions_of_requests_is_listened_to():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    node = next(n for n in (1, 2, 3) if n != leader)
    assert world.put(node, "t", "a") == [OK]
    world.nodes[node].router._request += 3 << 32
    assert world.put(node, "t", "b") == [OK], (
        "EveryPubAnswered: a restarted node numbers anew, and is not listened to"
    )
    world.kill(node)
    world.start(node)
    world.until(lambda: world.nodes[node].ready)
    assert world.put(node, "t", "c") == [OK], (
        "EveryPubAnswered: a restarted node numbers anew, and is not listened to"
    )


def test_dead_node_can_be_removed_and_its_place_taken_anew():
    world = three(max_segment_entries=3)
    world.register("t")
    for number in range(7):
        world.put(1, "t", f"{number}")
    world.kill(3)
    world.run(3)
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    del world.stores[3]
    world.directories[3] = "a new disk"
    world.incarnations[3] = 0
    world.join(3)
    assert world.nodes[1].metadata.nodes[3].directory_id == "a new disk", (
        "DomainConsistency: the removed disk is still a member"
    )
    world.until(lambda: all(len(s.replicas) == 3 for s in world.topic("t").segments))
    assert world.get_all(3, "t") == [b"%d" % number for number in range(7)], "AckedDurable"


def test_a_new_leader_takes_no_removed_node_in_again(monkeypatch: pytest.MonkeyPatch):
    """It may lead before it has applied that the node was removed; Raft's membership says so already."""
    world = three(compact_entries=10_000)
    for number in range(30):
        world.register(f"t{number}")
    world.kill(3)
    world.run(3)
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    monkeypatch.setattr(raft_host, "MAX_APPLIED", 1)
    for node in (1, 2):
        world.kill(node)
    for node in (1, 2):
        world.start(node)
    world.until(world.settled)
    world.run(5)
    for node in (1, 2):
        assert world.nodes[node].raft.membership.members == (1, 2), "DomainConsistency: a node is back"
    del world.stores[3], world.incarnations[3]
    world.directories[3] = "a new disk"
    world.join(3)


def test_a_member_of_raft_that_the_metadata_does_not_know_is_dropped():
    """A leader of an earlier release took it in again: LEAVE knows no such node, and its id is of no use."""
    world = three()
    world.kill(3)
    world.run(3)
    assert world.ask(1, protocol.Leave(3, force=True), within=60) == [OK]
    leader = world.nodes[world.raft_leader].raft
    assert leader.propose_membership(Membership((1, 2), (3,)), world.now) is not None
    world.until(lambda: all(c.raft.membership.members == (1, 2) for c in world.nodes.values()))


def test_the_segments_of_a_dead_leader_are_recovered_some_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor, "MAX_SEGMENTS", 2)
    world = three()
    dead = next(node for node in (1, 2, 3) if node != world.raft_leader)
    names = [name for name in (f"t{number}" for number in range(40)) if first_leader(name, [1, 2, 3]) == dead]
    for name in names:
        world.register(name)
    assert len(names) > 6
    host, asked = world.nodes[world.raft_leader].supervisor, []
    monkeypatch.setattr(host, "_recover", lambda name, number, now: asked.append((now, name)))
    world.kill(dead)
    world.until(lambda: len(asked) >= 2 * len(names))
    looks = [list(names) for _, names in itertools.groupby(asked, key=itemgetter(0))]
    assert all(len(look) <= 2 for look in looks), "FailoverProgress: more recoveries at a look than the bound"
    assert {name for _, name in asked[: len(names)]} == set(names), (
        "FailoverProgress: each in turn, though none was recovered"
    )
