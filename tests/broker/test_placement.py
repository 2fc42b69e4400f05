"""Where new segments go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.broker.test_segments import announce, cluster, register, seal
from tests.broker.world import NodeWorld, three
from walrus import protocol
from walrus.broker.placement import Departures, completed, first_leader, next_leader, replica_set
from walrus.consensus.log import RaftLog
from walrus.consensus.messages import COMMAND, Entry, Restored
from walrus.segments import MarkLeaving, RegisterTopic, encode_command
from walrus.wire import messages as m


def test_leaders_rotate():
    leaders = [1]
    for _ in range(5):
        leaders.append(next_leader(leaders[-1], [3, 1, 2]))
    assert leaders == [1, 2, 3, 1, 2, 3], "EnoughReplicas: leaders do not rotate"


def test_first_leaders_are_spread():
    led = [first_leader(f"topic {number}", [1, 2, 3]) for number in range(300)]
    assert all(led.count(node) > 60 for node in (1, 2, 3))


@given(
    st.integers(1, 5), st.sets(st.integers(1, 5), min_size=1), st.sets(st.integers(1, 5)), st.integers(0, 6)
)
def test_replica_set_holds_the_leader_and_prefers_the_living(
    leader: int, voters: set[int], live: set[int], factor: int
):
    chosen = replica_set(leader, live, voters, factor)
    assert chosen[0] == leader and len(set(chosen)) == len(chosen), (
        "OpenLeaderMatchesMap: the leader holds no copy, or a node is named twice"
    )
    enough = min(max(factor, 1), len(voters | {leader}))
    assert len(chosen) == enough, "EnoughReplicas: a segment opens with fewer than it should have"
    left_out = voters - set(chosen)
    assert not (left_out & live) or set(chosen) - {leader} <= live, (
        "EnoughReplicas: a dead voter is preferred"
    )


# --- EnoughReplicas: what the Raft leader makes of a placement ---


def test_a_placement_by_a_proposer_that_knows_too_few_members_is_completed() -> None:
    nodes = cluster().nodes
    assert completed(register(replicas=(1,)), [1, 2, 3], nodes, 3) == register(replicas=(1, 2, 3)), (
        "EnoughReplicas: not completed"
    )
    assert completed(register(replicas=(1,)), [1, 2, 3], nodes, 2) == register(replicas=(1, 2)), (
        "EnoughReplicas: completed beyond the factor"
    )
    few = seal(1, 7, leader=3, replicas=(3, 2))
    assert completed(few, [1, 2, 3], nodes, 3) == seal(1, 7, leader=3, replicas=(3, 1, 2)), (
        "EnoughReplicas: not completed"
    )
    whole = seal(1, 7, leader=2, replicas=(2, 1, 3))
    assert completed(whole, [1, 2, 3], nodes, 2) == whole, "EnoughReplicas: more than the factor stays"
    assert completed(announce(4), [1, 2, 3], nodes, 3) == announce(4), (
        "EnoughReplicas: other commands place nothing"
    )


def test_nothing_is_placed_while_a_voter_is_not_known() -> None:
    assert completed(register(replicas=(1, 2, 3)), [1, 2, 3, 4], cluster().nodes, 3) is None, (
        "EnoughReplicas: placed while a voter is not known"
    )


def test_nothing_is_given_to_a_leader_that_leaves_or_votes_no_more() -> None:
    leaving = cluster(MarkLeaving(node_id=3)).nodes
    assert completed(seal(1, 7, leader=3, replicas=(3, 1, 2)), [1, 2, 3], leaving, 3) is None, (
        "OpenLeaderMatchesMap: given to a leader that leaves"
    )
    assert completed(seal(1, 7, leader=3, replicas=(3, 1, 2)), [1, 2], cluster().nodes, 3) is None, (
        "OpenLeaderMatchesMap: given to a leader that votes no more"
    )
    kept = completed(seal(1, 7, leader=1, replicas=(1, 2, 3)), [1, 2, 3], leaving, 3)
    assert kept == seal(1, 7, leader=1, replicas=(1, 2)), "EnoughReplicas: the voters that stay"


def test_a_node_that_the_log_asks_to_leave_is_no_voter_that_stays_before_that_is_applied() -> None:
    nodes = cluster(announce(4, 0), announce(4)).nodes
    placed = completed(register(replicas=(1, 2, 3)), [1, 2, 3, 4], nodes, 3, leaving=[3])
    assert placed == register(replicas=(1, 2, 4)), "EnoughReplicas: three of those that stay"
    assert completed(seal(1, 7, leader=3, replicas=(3, 1, 2)), [1, 2, 3, 4], nodes, 3, leaving=[3]) is None, (
        "OpenLeaderMatchesMap: given to a leader that the log asks to leave"
    )


def test_a_raft_leader_that_leads_again_looks_anew_who_leaves() -> None:
    """Entries of others are where its own were, at indexes that it has looked at."""
    leave = {n: encode_command(MarkLeaving(node_id=n)) for n in (2, 3)}
    log, departures = RaftLog(Restored(entries=(Entry(1, 1), Entry(2, 2, COMMAND, leave[2])))), Departures()
    assert set(departures.ahead(log, 2, applied=0)) == {2}, (
        "EnoughReplicas: a leave of a log that was lost counts, or one of this log does not"
    )
    log.merge([Entry(3, 2, COMMAND, leave[3])])
    assert set(departures.ahead(log, 4, applied=0)) == {3}, "EnoughReplicas: one that leaves counts"
    assert not departures.ahead(log, 4, applied=2), "EnoughReplicas: the metadata says it"


def test_nothing_is_given_to_a_leader_of_which_no_start_is_known() -> None:
    nodes = cluster(announce(4, 0)).nodes
    refused = completed(seal(1, 7, leader=4, replicas=(4, 1, 2)), [1, 2, 3, 4], nodes, 3) is None
    assert refused, "FailoverProgress: a segment is opened for a process that there never was"
    placed = completed(seal(1, 7, leader=1, replicas=(1, 2, 4)), [1, 2, 3, 4], nodes, 3)
    assert placed == seal(1, 7, leader=1, replicas=(1, 2, 4)), "EnoughReplicas: it may hold a replica"


def test_a_leave_and_a_placement_behind_it_in_one_log() -> None:
    """EnoughReplicas, of commands that the Raft leader appends in one turn, before it has applied any."""
    world = three()
    world.join(4)
    raft = world.raft_leader
    gone = next(node for node in (1, 2, 3, 4) if node != raft)
    host = world.nodes[raft].raft_host
    replicas = tuple(sorted({raft, gone, next(n for n in (1, 2, 3, 4) if n not in (raft, gone))}))
    host.propose(MarkLeaving(node_id=gone), world.now)
    host.propose(RegisterTopic(topic="t", leader=raft, replicas=replicas), world.now)
    world.until(lambda: "t" in world.nodes[raft].metadata.topics)
    assert gone not in world.topic("t").open.replicas, "EnoughReplicas: a replica that leaves"
    assert len(world.topic("t").open.replicas) == 3, "EnoughReplicas"


@given(st.sets(st.integers(1, 3), min_size=1), st.integers(1, 5), st.sets(st.integers(1, 3)))
def test_a_completed_placement_is_large_enough(named: set[int], factor: int, leaving: set[int]) -> None:
    metadata = cluster(*(MarkLeaving(node_id=node) for node in sorted(leaving)))
    staying = [n for n in (1, 2, 3) if not metadata.nodes[n].leaving]
    leader = min(named)
    placed = completed(
        RegisterTopic(topic="u", leader=leader, replicas=tuple(named)), [1, 2, 3], metadata.nodes, factor
    )
    assert (placed is None) == (leader not in staying), (
        "OpenLeaderMatchesMap: placed on a leader that does not stay, or not on one that does"
    )
    if isinstance(placed, RegisterTopic):
        assert placed.replicas[0] == leader and set(placed.replicas) <= set(staying), (
            "EnoughReplicas: a replica that does not stay"
        )
        assert len(set(placed.replicas)) == len(placed.replicas) >= min(factor, len(staying)), (
            "EnoughReplicas"
        )


def test_a_proposal_that_was_made_before_the_cluster_grew_opens_with_all_replicas() -> None:
    world = three()
    old = RegisterTopic(topic="t", leader=2, replicas=(2,))
    world.nodes[3].on_message(2, m.Propose(commands=(old,)), world.now)  # not the Raft leader: it is lost
    world.nodes[1].on_message(2, m.Propose(commands=(old,)), world.now)
    world.until(lambda: all("t" in c.metadata.topics for c in world.nodes.values()))
    assert world.topic("t").open.replicas == (2, 1, 3), "EnoughReplicas"


def test_register_on_a_node_that_lags_places_the_topic_on_all_members() -> None:
    """It has heard of no other member when it is asked, and decides when it has."""
    world = NodeWorld()
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    world.join(2)
    world.lose = lambda sender, to, message: to == 2 and type(message).__name__ == "AppendEntriesRequest"
    world.start(3)
    world.kill(3)
    slot = world.send(2, protocol.Register("t"))
    world.run(1.0)
    assert world.replies[slot] == [], "EnoughReplicas: a node that lags places a topic by what it knows"
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.replies[slot] == [b"OK"])
    assert sorted(world.topic("t").open.replicas) == [1, 2], "EnoughReplicas"


def test_register_before_every_voter_is_known_says_which_ones_it_waits_for() -> None:
    world = three()
    asked, unknown = (node for node in (1, 2, 3) if node != world.raft_leader)
    del world.nodes[asked].metadata.nodes[unknown]  # as if its Announce had not been applied here yet
    [reply] = world.ask(asked, protocol.Register("t"))
    assert reply.startswith(b"ERR not enough replicas: t waits for members"), reply
    assert b"(node %d)" % unknown in reply, "EnoughReplicas: REGISTER does not say which voter it waits for"
    assert "t" not in world.nodes[asked].metadata.topics, (
        "EnoughReplicas: a topic is placed before every voter is known"
    )
