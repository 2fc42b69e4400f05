"""What the paper claims in section 6, and the dissertation in chapter 4."""

from __future__ import annotations

import pytest

from tests.consensus.world import RaftWorld, Simulation
from walrus.consensus.messages import Membership, Role


def led(voters: int = 3, passive: tuple[int, ...] = (4,)) -> RaftWorld:
    """Server 1 leads; some servers of no cluster stand by."""
    world = RaftWorld(seed=2)
    world.found(range(1, voters + 1), passive)
    world.elect(1)
    return world


def change(
    world: RaftWorld, leader: int, voters: tuple[int, ...], learners: tuple[int, ...] = ()
) -> int | None:
    """Propose, without delivering anything."""
    membership = Membership(voters, learners)
    index: int | None = world.act(leader, lambda raft: raft.propose_membership(membership, world.now))
    return index


def settle(world: RaftWorld, leader: int) -> None:
    """A few heartbeats with all they cause."""
    for _ in range(3):
        world.heartbeat(leader)


def test_6_a_server_of_no_cluster_is_passive() -> None:
    world = led()
    raft = world.raft(4)
    assert (raft.role, raft.is_passive, raft.next_deadline()) == (Role.LEARNER, True, float("inf")), (
        "LeaderCompleteness: §6, a server of no cluster is not passive"
    )
    world.now += 100.0
    world.act(4, lambda raft: raft.tick(world.now))
    assert not world.packets, "LeaderCompleteness: §6, a server of no cluster campaigns"


def test_6_a_new_server_listens_without_voting_and_is_promoted_when_it_has_caught_up() -> None:
    world = led()
    world.commit(1, b"a")
    assert change(world, 1, (1, 2, 3), (4,)) is not None
    settle(world, 1)
    assert world.raft(4).role is Role.LEARNER and world.hosts[4].applied == world.hosts[1].applied, (
        "ElectionSafety: §6, a new server votes before it is promoted, or has not caught up"
    )
    assert change(world, 1, (1, 2, 3, 4)) is not None
    settle(world, 1)
    assert world.raft(4).role is Role.FOLLOWER, "CommitProgress: §6, a server that was promoted is no voter"
    assert world.raft(4).next_deadline() < float("inf"), (
        "CommitProgress: §6, a server that was promoted has no timer"
    )


def test_6_learners_count_in_no_majority() -> None:
    world = led()
    change(world, 1, (1, 2, 3), (4,))
    settle(world, 1)
    world.crash(2), world.crash(3)
    index = world.propose(1, b"a")
    world.deliver_all()
    assert world.raft(4).log.last_index == index and world.raft(1).commit_index < (index or 0), (
        "CommittedNeverLost: a learner counts in a majority"
    )


def test_4_2_1_a_server_that_has_not_caught_up_does_not_become_a_voter() -> None:
    world = led()
    refused = change(world, 1, (1, 2, 3, 4)) is None
    assert refused, "CommittedNeverLost: a server without the log counts for commits"
    change(world, 1, (1, 2, 3), (4,))
    world.deliver_all(only=lambda packet: packet.to != 4)
    assert change(world, 1, (1, 2, 3, 4)) is None, (
        "CommittedNeverLost: a server that has not caught up becomes a voter"
    )
    settle(world, 1)
    assert change(world, 1, (1, 2, 3, 4)) is not None, (
        "CommitProgress: §4.2.1, a server that has caught up does not become a voter"
    )


def test_4_2_1_what_a_server_lacks_fits_into_one_request_before_it_becomes_a_voter() -> None:
    """Two entries are missing, each as large as a request: a commit would wait for two round trips."""
    world = led()
    change(world, 1, (1, 2, 3), (4,))
    settle(world, 1)
    large = b"x" * world.config.max_append_bytes
    for entry in (large, large):
        assert world.propose(1, entry) is not None
        world.deliver_all(only=lambda packet: packet.to != 4)
    assert change(world, 1, (1, 2, 3, 4)) is None, (
        "CommittedNeverLost: §4.2.1: a voter that the first commit has to wait for"
    )
    settle(world, 1)
    assert change(world, 1, (1, 2, 3, 4)) is not None, (
        "CommitProgress: §4.2.1, a server that has caught up does not become a voter"
    )


def test_6_a_membership_is_in_force_when_appended() -> None:
    world = led(voters=2, passive=())
    world.crash(2)
    assert change(world, 1, (1,)) is not None, "CommitProgress: §6, a change is refused that may be made"
    world.deliver_all()
    assert world.raft(1).membership == Membership((1,)), (
        "ElectionSafety: §6, a membership waits for its commit to be in force"
    )
    assert world.raft(1).commit_index == world.raft(1).log.last_index, (
        "CommitProgress: the majority of one is enough now"
    )


def test_6_a_membership_that_is_truncated_is_not_in_force_any_more() -> None:
    world = led(passive=(4,))
    change(world, 1, (1, 2, 3), (4,))
    world.packets.clear()
    world.crash(1)
    world.elect(2)
    world.commit(2, b"a")
    world.start(1)
    assert world.raft(1).membership.learners == (4,), (
        "ElectionSafety: §6, a membership that was appended is forgotten by a restart"
    )
    settle(world, 2)
    assert world.raft(1).membership == Membership((1, 2, 3)), (
        "ElectionSafety: a membership that was truncated is in force"
    )


def test_4_1_only_one_server_may_change_at_a_time() -> None:
    world = led(passive=(4, 5))
    with pytest.raises(ValueError, match="only one"):
        change(world, 1, (1, 2, 3), (4, 5))
    with pytest.raises(ValueError, match="only one"):
        change(world, 1, (1, 2), (4,))
    with pytest.raises(ValueError, match="voter"):
        change(world, 1, ())


def test_4_1_no_second_change_before_the_first_has_committed() -> None:
    world = led(passive=(4, 5))
    assert change(world, 1, (1, 2, 3), (4,)) is not None
    assert change(world, 1, (1, 2, 3), (4, 5)) is None, (
        "LeaderCompleteness: a second change before the first has committed"
    )
    world.deliver_all()
    assert change(world, 1, (1, 2, 3), (4, 5)) is not None, (
        "CommitProgress: §4.1, a change is refused although the one before it has committed"
    )


def test_4_1_no_change_before_an_entry_of_the_leaders_own_term_has_committed() -> None:
    """Everything of the terms before is committed, and known to be: only the leader's own entry is not."""
    world = led()
    world.commit(1, b"a")
    world.now += 3.0
    world.act(2, lambda raft: raft.tick(world.now))
    world.deliver_all(only=lambda packet: not getattr(packet.message, "entries", ()))
    raft = world.raft(2)
    assert raft.role is Role.LEADER and raft.log.membership_index <= raft.commit_index
    assert change(world, 2, (1, 2, 3), (4,)) is None, (
        "LeaderCompleteness: a change before an entry of the own term has committed"
    )
    settle(world, 2)
    assert change(world, 2, (1, 2, 3), (4,)) is not None, (
        "CommitProgress: §4.1, a change is refused although an entry of the own term has committed"
    )


REMOVED, DEMOTED = (), (1,)
"""What becomes of leader 1: it is in the membership no more, or a learner of it. Both end its leadership."""


@pytest.mark.parametrize("learners", [REMOVED, DEMOTED])
def test_4_2_2_a_leader_that_loses_its_vote_leads_until_that_has_committed_and_hands_over(
    learners: tuple[int, ...],
) -> None:
    world = led(passive=())
    assert change(world, 1, (2, 3), learners) is not None
    leads = world.raft(1).role is Role.LEADER and world.propose(1, b"a") is not None
    assert leads, (
        "CommitProgress: §4.2.2, the leader steps down before the change that costs its vote has committed"
    )
    world.deliver_all()
    assert world.raft(1).role is Role.LEARNER, (
        "CommittedNeverLost: §4.2.2, a leader without a vote leads on after the commit"
    )
    assert world.leader() in (2, 3), (
        "CommitProgress: §4.2.2, it does not ask the best of the others to stand at once"
    )
    assert world.raft(2).membership == Membership((2, 3), learners)
    world.commit(world.leader() or 0, b"b")
    heard = [data for _, data in world.hosts[1].applied]
    assert (heard == [b"a", b"b"]) is (learners == DEMOTED), (
        "CommitProgress: §4.2.1, a learner receives what is committed"
    )


@pytest.mark.parametrize("behind", [2, 5])
def test_4_2_2_a_leader_that_loses_its_vote_names_the_most_complete_of_the_others(behind: int) -> None:
    """A server that lacks what the others have would lose the election, and cost a timeout."""
    world = led(voters=5, passive=())
    world.commit(1, b"a")
    change(world, 1, tuple(range(2, 6)))
    world.deliver_all(only=lambda packet: behind not in (packet.sender, packet.to))
    assert world.leader() not in (1, behind, None), (
        "CommitProgress: §4.2.2, the successor that it names cannot win"
    )


@pytest.mark.parametrize("learners", [REMOVED, DEMOTED])
def test_4_2_2_a_leader_that_loses_its_vote_does_not_count_itself(learners: tuple[int, ...]) -> None:
    """Of the voters 2 and 3 only one has the change, which is no majority of theirs."""
    world = led(passive=())
    index = change(world, 1, (2, 3), learners)
    world.deliver_all(only=lambda packet: 3 not in (packet.sender, packet.to))
    counts = world.raft(1).commit_index >= (index or 0) > 0
    assert world.raft(2).log.last_index == index, (
        "CommitProgress: §4.2.2, the entry does not reach the other server"
    )
    assert not counts, "CommittedNeverLost: §4.2.2, a leader without a vote counts itself"


@pytest.mark.parametrize("learners", [REMOVED, DEMOTED])
def test_4_2_2_a_leader_that_loses_its_vote_confirms_no_read_by_itself(learners: tuple[int, ...]) -> None:
    """One of the new voters may follow a newer leader with the other: their majority is both of them."""
    world = led(passive=())
    change(world, 1, (2, 3), learners)
    world.packets.clear()
    world.act(1, lambda raft: raft.read_index(7, world.now))
    world.deliver_all(only=lambda packet: 3 not in (packet.sender, packet.to))
    assert not world.hosts[1].reads, (
        "ReadIndex: §6.4, a read is confirmed by a leader without a vote, and one voter"
    )


@pytest.mark.parametrize("learners", [REMOVED, DEMOTED])
def test_4_2_2_a_leader_whose_change_is_lost_has_its_vote_back(learners: tuple[int, ...]) -> None:
    """Until the change has committed it may be undone: the server is electable, and a voter again."""
    world = led(passive=())
    change(world, 1, (2, 3), learners)
    world.packets.clear()
    world.elect(2)
    assert world.raft(1).membership == Membership((1, 2, 3)), "LogMatching: a change stays that was truncated"
    assert world.raft(1).role is Role.FOLLOWER, (
        "CommitProgress: §4.2.2, a voter whose removal was lost cannot campaign"
    )
    world.elect(1)
    assert world.leader() == 1, "CommitProgress: §4.2.2, no server leads"


@pytest.mark.parametrize("learners", [REMOVED, DEMOTED])
def test_6_2_a_leader_without_a_vote_steps_down_if_no_majority_of_the_voters_answers(
    learners: tuple[int, ...],
) -> None:
    """CheckQuorum counts the voters of the membership in force: its own vote keeps it no longer."""
    world = led(voters=2, passive=())
    change(world, 1, (2,), learners)
    world.crash(2)
    for _ in range(12):
        world.heartbeat(1)
    assert world.raft(1).role is not Role.LEADER, (
        "CommitProgress: §6.2, a leader whose only voter is silent leads on"
    )
    assert world.raft(1).is_electable, (
        "CommitProgress: §4.2.2, it cannot commit the change that costs its vote"
    )


def test_4_2_2_only_the_removed_server_can_commit_its_removal() -> None:
    """The dissertation's Figure 4.6: it must stand although it is not in its own newest membership."""
    world = led(voters=2, passive=())
    change(world, 1, (2,))
    world.packets.clear()
    world.restart(1)
    assert world.raft(1).role is Role.FOLLOWER and 1 not in world.raft(1).membership.voters, (
        "CommitProgress: §4.2.2, a follower does not take a membership without it"
    )
    world.elect(1)
    assert world.raft(1).role is Role.LEARNER, "ElectionSafety: §4.2.2, a removed server still has a timer"
    assert world.leader() == 2, "CommitProgress: §4.2.2, no server leads"


def test_4_2_3_a_removed_follower_disturbs_nobody() -> None:
    world = Simulation(11)
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    leader = world.leader()
    assert leader is not None
    world.run(1.0)
    gone = next(i for i in (1, 2, 3) if i != leader)
    rest = tuple(i for i in (1, 2, 3) if i != gone)
    world.isolate(gone)  # so that it never hears of its removal, and believes it still votes
    change(world, leader, rest)
    world.run(3.0)
    world.heal()
    term = world.raft(leader).current_term
    world.run(20.0)
    assert (world.leader(), world.raft(leader).current_term) == (leader, term), (
        "CommitProgress: §4.2.3, a removed server deposes a leader"
    )


def test_a_removed_follower_is_told() -> None:
    world = led(passive=())
    change(world, 1, (1, 2))
    world.deliver_all()
    told = world.raft(3).membership == Membership((1, 2)) and world.raft(3).role is Role.LEARNER
    assert told, "CommitProgress: §4.2.2, a removed server is not told that its removal has committed"
    assert 3 not in world.raft(1).progress, (
        "ElectionSafety: §4.2.2, a removed server is sent what follows its removal"
    )


def test_a_voter_can_become_a_learner_and_come_back() -> None:
    world = led(passive=())
    change(world, 1, (1, 2), (3,))
    settle(world, 1)
    assert world.raft(3).role is Role.LEARNER, "ElectionSafety: §6, a demoted voter votes"
    change(world, 1, (1, 2, 3))
    settle(world, 1)
    assert world.raft(3).role is Role.FOLLOWER, "CommitProgress: §6, a promoted learner does not vote"


def test_a_cluster_grows_from_one_to_five() -> None:
    world = RaftWorld(seed=3)
    world.found([1], passive=[2, 3, 4, 5])
    world.act(1, lambda raft: raft.tick(world.now))
    for newcomer in (2, 3, 4, 5):
        voters = tuple(range(1, newcomer))
        assert change(world, 1, voters, (newcomer,)) is not None
        settle(world, 1)
        assert change(world, 1, (*voters, newcomer)) is not None
        settle(world, 1)
    assert {host.raft.role for host in world.hosts.values()} == {Role.LEADER, Role.FOLLOWER}, (
        "ElectionSafety: §6, a member is left out"
    )
    world.crash(1)
    world.crash(2)
    world.elect(4)
    assert world.leader() == 4, "CommitProgress: §6, a new member cannot lead"
