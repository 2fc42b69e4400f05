"""What the paper claims in sections 5.1, 5.2 and 5.4.1, and the dissertation in 3.10, 4.2.3, 6.2 and 9.6."""

from __future__ import annotations

from typing import Any

import pytest

from tests.consensus.world import RaftWorld, Simulation
from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Membership,
    PreVoteRequest,
    PreVoteResponse,
    RaftMessage,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    TimeoutNowRequest,
)


def three() -> RaftWorld:
    """Three voters in term 1, without a leader."""
    world = RaftWorld(seed=1)
    world.found([1, 2, 3])
    return world


def say(world: RaftWorld, sender: int, to: int, message: RaftMessage) -> list[RaftMessage]:
    """Hand one message over; what the receiver answers to its sender."""
    world.packets.clear()
    world.act(to, lambda raft: raft.step(sender, message, world.now))
    return [packet.message for packet in world.packets if packet.to == sender]


def vote(term: int, index: int = 1, log_term: int = 1, **more: Any) -> RequestVoteRequest:
    return RequestVoteRequest(term=term, last_log_index=index, last_log_term=log_term, **more)


def heartbeat(term: int, prev: int = 1, prev_term: int = 1, commit: int = 0) -> AppendEntriesRequest:
    return AppendEntriesRequest(
        term=term, round=1, prev_log_index=prev, prev_log_term=prev_term, leader_commit=commit
    )


# ------------------------------------------------------------------------------------------ section 5.1


def test_5_1_a_newer_term_is_adopted_and_makes_a_leader_a_follower() -> None:
    world = three()
    world.elect(1)
    say(world, 2, 1, heartbeat(term=7))
    assert (world.raft(1).current_term, world.raft(1).role) == (7, Role.FOLLOWER), (
        "ElectionSafety: §5.1, a newer term makes a leader a follower"
    )
    assert world.raft(1).leader_id == 2, "CommitProgress: §5.1, the leader of the newer term is not followed"


def test_5_1_a_newer_term_makes_a_candidate_a_follower() -> None:
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=9, granted=False))
    assert (world.raft(1).current_term, world.raft(1).role) == (9, Role.FOLLOWER), (
        "ElectionSafety: §5.1, a newer term makes a candidate a follower"
    )


@pytest.mark.parametrize("message", [vote(1), heartbeat(1)])
def test_5_1_a_request_of_an_older_term_is_refused_with_the_newer(message: RaftMessage) -> None:
    world = three()
    say(world, 2, 1, heartbeat(term=7))
    (answer,) = say(world, 3, 1, message)
    assert isinstance(answer, RequestVoteResponse | AppendEntriesResponse)
    assert answer.term == 7, (
        "ElectionSafety: §5.1, a request of an older term is answered with another term than ours"
    )
    assert not getattr(answer, "granted", False) and not getattr(answer, "success", False), (
        "ElectionSafety: a request of an older term is granted"
    )


def test_5_1_an_answer_of_an_older_term_is_dropped() -> None:
    world = three()
    world.elect(1)
    before = world.raft(1).progress[2].match_index
    stale = AppendEntriesResponse(term=1, round=0, success=True, prev_log_index=1, match_index=2)
    assert say(world, 2, 1, stale) == [], "ElectionSafety: §5.1, an answer of an older term has no answer"
    assert world.raft(1).progress[2].match_index == before, (
        "CommittedNeverLost: an answer of an older term moves the progress"
    )
    assert world.raft(1).ignored["a message of an older term"] == 1


# ------------------------------------------------------------------------------------------ section 5.2


def test_5_2_servers_start_as_followers() -> None:
    world = three()
    assert {host.raft.role for host in world.hosts.values()} == {Role.FOLLOWER}, (
        "ElectionSafety: §5.2, a server starts as something else than a follower"
    )


def test_5_2_who_hears_a_leader_stays_a_follower() -> None:
    world = Simulation(3)
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    leader, term = world.leader(), world.raft(1).current_term
    world.run(30.0)
    assert (world.leader(), world.raft(1).current_term) == (leader, term), (
        "CommitProgress: §5.2, a live leader was replaced"
    )


def test_5_2_timeouts_are_drawn_from_an_interval() -> None:
    timeout = 1.0
    deadlines = []
    for seed in range(50):
        world = RaftWorld(seed=seed)
        world.found([1, 2, 3])
        deadlines.append(world.raft(1).next_deadline())
    assert all(timeout <= deadline < 2 * timeout for deadline in deadlines), (
        "CommitProgress: §5.2, a timeout outside of its interval"
    )
    assert len(set(deadlines)) == len(deadlines), "CommitProgress: §5.2, timeouts that are not random"


def test_5_2_a_candidate_raises_its_term_votes_for_itself_and_asks_all_others() -> None:
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=2, granted=True))
    raft = world.raft(1)
    assert (raft.role, raft.current_term, raft.voted_for) == (Role.CANDIDATE, 2, 1), (
        "ElectionSafety: a candidate enters a term, and votes for itself in it"
    )
    assert {p.to for p in world.packets if isinstance(p.message, RequestVoteRequest)} == {2, 3}, (
        "CommitProgress: §5.2, a candidate asks all others"
    )


def test_5_2_a_majority_elects_and_the_leader_says_so_at_once() -> None:
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=2, granted=True))
    say(world, 2, 1, RequestVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.LEADER, "CommitProgress: §5.2, a majority elects"
    assert {p.to for p in world.packets if isinstance(p.message, AppendEntriesRequest)} == {2, 3}, (
        "CommitProgress: §5.2, a new leader says so at once"
    )


def test_5_2_one_vote_a_term_first_come_first_served_and_again_for_the_same() -> None:
    world = three()
    answers = [say(world, sender, 1, vote(2))[0] for sender in (2, 3, 2)]
    granted = [answer.granted for answer in answers if isinstance(answer, RequestVoteResponse)]
    assert granted == [True, False, True], "ElectionSafety: two votes in a term, or one that is not repeated"


def test_5_2_who_has_just_voted_gives_its_candidate_a_whole_timeout_to_win() -> None:
    world = three()
    world.now = world.raft(2).next_deadline() - 0.01
    assert say(world, 1, 2, vote(2)) == [RequestVoteResponse(term=2, granted=True)]
    left = world.raft(2).next_deadline() - world.now
    assert left >= world.config.election_timeout, "Elections: a voter stands against the one it voted for"


def test_5_2_a_candidate_that_hears_the_leader_of_its_term_follows_it() -> None:
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=2, granted=True))
    say(world, 3, 1, heartbeat(term=2))
    assert (world.raft(1).role, world.raft(1).leader_id, world.raft(1).voted_for) == (Role.FOLLOWER, 3, 1), (
        "ElectionSafety: a candidate follows the leader of its term, and keeps its vote"
    )


def test_5_2_a_candidate_refuses_a_leader_of_an_older_term_and_goes_on() -> None:
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=2, granted=True))
    say(world, 3, 1, heartbeat(term=1))
    assert world.raft(1).role is Role.CANDIDATE, (
        "CommitProgress: §5.2, a leader of an older term ends a candidacy"
    )


def test_5_2_a_split_vote_is_followed_by_another_election() -> None:
    world = RaftWorld(seed=5)
    world.found([1, 2, 3, 4])
    for candidate, voter in ((1, 2), (3, 4)):
        world.hosts[candidate].raft._campaign(world.now)
        world.act(candidate, lambda raft: None)
        world.deliver_all(only=lambda p, c=candidate, v=voter: {p.sender, p.to} == {c, v})  # type: ignore[misc]
    assert world.leader() is None, "ElectionSafety: two of four elect a leader"
    world.elect(1)
    assert world.leader() == 1, "CommitProgress: a split vote is followed by no other election"


@pytest.mark.parametrize("seed", range(5))
def test_5_2_elections_end_within_a_few_timeouts(seed: int) -> None:
    world = Simulation(seed)
    world.found([1, 2, 3, 4, 5])
    world.until(lambda: world.leader() is not None, within=10.0)


def test_5_2_a_lone_voter_elects_itself_without_waiting() -> None:
    world = RaftWorld()
    world.found([1])
    world.act(1, lambda raft: raft.tick(world.now))
    assert world.raft(1).role is Role.LEADER and world.raft(1).commit_index == 2, (
        "CommitProgress: §5.2, a lone voter waits"
    )


# ---------------------------------------------------------------------------------------- section 5.4.1


@pytest.mark.parametrize(
    ("index", "term", "granted"),
    [(3, 2, True), (4, 2, True), (2, 3, True), (2, 2, False), (9, 1, False)],
)
def test_5_4_1_votes_go_to_logs_at_least_as_complete(index: int, term: int, granted: bool) -> None:
    world = RaftWorld()
    world.add_with_log(1, [1, 2, 3], terms=[1, 2], term=2)  # ends at index 3 of term 2
    (answer,) = say(world, 2, 1, vote(5, index, term))
    assert isinstance(answer, RequestVoteResponse), "a candidate is answered"
    assert answer.granted == granted, "LeaderCompleteness: a vote for a log that lacks entries, or none"
    prospect = PreVoteRequest(term=9, last_log_index=index, last_log_term=term)
    (answer,) = say(world, 3, 1, prospect)
    assert isinstance(answer, PreVoteResponse) and answer.granted == granted, (
        "LeaderCompleteness: a pre-vote for a log that lacks entries, or none"
    )


# ------------------------------------------------------------------------------ PreVote, dissertation 9.6


def test_9_6_a_server_that_comes_back_from_isolation_deposes_nobody() -> None:
    world = Simulation(4)
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    leader = world.leader()
    assert leader is not None
    term = world.raft(leader).current_term
    away = next(i for i in (1, 2, 3) if i != leader)
    world.isolate(away)
    world.run(30.0)
    assert world.raft(away).current_term == term, (
        "CommitProgress: §9.6, a server that is cut off raises its term"
    )
    world.heal()
    world.run(10.0)
    assert (world.leader(), world.raft(away).current_term) == (leader, term), (
        "CommitProgress: §9.6, a server that comes back deposes a leader"
    )


def test_9_6_a_server_that_asks_for_pre_votes_names_no_leader_any_more() -> None:
    """It would refuse the pre-votes of the others, and send its clients to a leader that it has given up."""
    world = three()
    world.elect(1)
    world.time_out(2)
    assert world.raft(2).role is Role.PRE_CANDIDATE
    assert world.raft(2).leader_id is None, "CommitProgress: a leader is named that is silent"


def test_9_6_a_pre_vote_changes_no_term_and_no_vote() -> None:
    world = three()
    (answer,) = say(world, 2, 1, PreVoteRequest(term=2, last_log_index=1, last_log_term=1))
    assert answer == PreVoteResponse(term=2, granted=True)
    assert (world.raft(1).current_term, world.raft(1).voted_for) == (1, None), (
        "ElectionSafety: §9.6, a pre-vote changes the term or the vote"
    )


def test_9_6_of_two_that_ask_for_pre_votes_at_once_the_better_log_then_the_higher_id_goes_on() -> None:
    world = three()
    world.now = 5.0
    for server in (1, 2):
        world.act(server, lambda raft: raft.tick(world.now))
    world.deliver_all(only=lambda packet: 3 not in (packet.sender, packet.to))
    assert world.leader() == 2, "CommitProgress: §9.6, of two that ask at once none goes on"


def test_9_6_a_server_that_yields_to_another_asks_for_nothing_more() -> None:
    """Were its own pre-vote to succeed now, it would start a competing election."""
    world = three()
    world.now = 5.0
    world.act(1, lambda raft: raft.tick(world.now))
    (answer,) = say(world, 2, 1, PreVoteRequest(term=2, last_log_index=1, last_log_term=1))
    assert answer == PreVoteResponse(term=2, granted=True)
    say(world, 3, 1, PreVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.FOLLOWER, (
        "CommitProgress: §9.6, it granted its pre-vote, and campaigns by another's"
    )


# ---------------------------------------------------------- leave a live leader alone, dissertation 4.2.3


def test_4_2_3_a_vote_request_is_ignored_while_a_leader_is_alive() -> None:
    world = three()
    world.elect(1)
    for server in (1, 2):
        assert say(world, 3, server, vote(9, index=9, log_term=2)) == [], (
            "CommitProgress: §4.2.3, a vote request is answered while a leader is alive"
        )
        assert world.raft(server).current_term == 2, (
            "CommitProgress: §4.2.3, the term of a vote request is taken over while a leader is alive"
        )
    world.now += 1.0
    assert say(world, 3, 2, vote(9, index=9, log_term=2)) == [RequestVoteResponse(term=9, granted=True)], (
        "CommitProgress: §4.2.3, a vote is refused although the leader is silent"
    )


# ------------------------------------------------------------------------- CheckQuorum, dissertation 6.2


def test_6_2_a_leader_that_no_majority_answers_steps_down() -> None:
    world = Simulation(6)
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    leader = world.leader()
    assert leader is not None
    world.isolate(leader)
    world.run(1.5)
    assert world.raft(leader).role is not Role.LEADER, (
        "CommitProgress: §6.2, a leader that no majority answers goes on"
    )
    silent = world.now - world.raft(leader).last_contact
    assert silent >= 1.0, "Lease: a leader that no majority answers counts as heard from"
    world.until(lambda: world.leader() is not None)


def test_6_2_a_leader_that_steps_down_in_its_term_keeps_its_vote() -> None:
    world = three()
    world.elect(1)
    for _ in range(30):  # no server answers, for three election timeouts
        world.now += world.config.heartbeat_interval
        world.act(1, lambda raft: raft.tick(world.now))
        if world.raft(1).role is not Role.LEADER:
            break
    raft = world.raft(1)
    assert (raft.role, raft.current_term) == (Role.FOLLOWER, 2)
    assert raft.voted_for == 1, "ElectionSafety: the vote of the term is forgotten"


def test_6_2_a_leader_that_was_not_running_gets_time_to_read_its_answers() -> None:
    world = three()
    world.elect(1)
    contact = world.raft(1).last_contact
    world.now += 5.0
    world.act(1, lambda raft: raft.tick(world.now))
    assert world.raft(1).role is Role.LEADER, (
        "CommitProgress: §6.2, a leader that was not running steps down before it reads its answers"
    )
    assert world.raft(1).last_contact == contact, "Lease: nobody can take it for having been heard"
    world.deliver_all()
    assert world.raft(1).last_contact == world.now, "Lease: answers do not prolong it"


def test_6_2_last_contact_of_a_new_leader_is_when_it_asked_for_votes() -> None:
    """Its voters promised to leave it alone from when they were asked, not from when it has counted."""
    world = three()
    world.now += 3 * world.config.election_timeout
    world.act(1, lambda raft: raft.tick(world.now))
    asked = None
    while world.raft(1).role is not Role.LEADER:
        if asked is None and world.raft(1).role is Role.CANDIDATE:
            asked = world.now
        world.now += 0.01
        world.receive()
    assert world.raft(1).last_contact == asked < world.now, "Lease: a new leader dates it from its election"


def test_6_2_last_contact_of_a_leader_is_when_the_answered_round_began() -> None:
    world = three()
    world.elect(1)
    world.heartbeat(1)
    sent = world.now
    world.now += 0.05
    assert world.raft(1).last_contact == sent, "Lease: it does not date from when the answered round began"
    world.act(1, lambda raft: raft.tick(world.now))
    assert world.raft(1).last_contact == sent, "Lease: it grows with the clock, and not with what is answered"


def test_6_2_last_contact_of_a_leader_that_steps_down_is_when_a_majority_last_heard_it() -> None:
    """A newer term ends its leadership, and not what its followers have promised it."""
    world = three()
    world.elect(1)
    world.heartbeat(1)
    heard = world.now
    world.now += 0.05
    say(world, 2, 1, AppendEntriesResponse(term=9, round=0, success=False, prev_log_index=0))
    assert world.raft(1).role is Role.FOLLOWER, "ElectionSafety: §5.1, a newer term makes a leader a follower"
    assert world.raft(1).last_contact == heard, "Lease: a leader that steps down forgets that it was heard"


# -------------------------------------------------------------------------------- a leader known to be dead


def test_a_refused_reconnect_to_the_leader_starts_an_election_at_once() -> None:
    world = Simulation(8)
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    world.run(2.0)
    leader = world.leader()
    assert leader is not None
    world.crash(leader)
    for server in sorted(world.hosts):
        world.act(server, lambda raft: raft.leader_unreachable(leader, world.now))
    took = world.until(lambda: world.leader() is not None)
    assert took < world.config.election_timeout / 2, (
        "CommitProgress: §5.2, the leader's process is gone, and the others wait for a timeout"
    )


def test_somebody_else_being_unreachable_starts_nothing() -> None:
    world = three()
    world.elect(1)
    deadline = world.raft(2).next_deadline()
    world.act(2, lambda raft: raft.leader_unreachable(3, world.now))
    assert world.raft(2).next_deadline() == deadline and world.raft(2).leader_id == 1, (
        "CommitProgress: §5.2, another server that is gone starts an election"
    )


# ------------------------------------------------------------------------- a cluster that starts as a whole


def test_a_server_that_has_just_started_waits_a_heartbeat_and_not_a_timeout() -> None:
    world = three()
    world.act(1, lambda raft: raft.peers_reachable([2], world.now))
    heartbeat = world.config.heartbeat_interval
    assert world.now + heartbeat <= world.raft(1).next_deadline() <= world.now + 2 * heartbeat, (
        "CommitProgress: §5.2, a cluster that starts as a whole waits for a timeout"
    )


def test_without_a_majority_in_reach_it_waits_as_ever() -> None:
    world = three()
    deadline = world.raft(1).next_deadline()
    world.act(1, lambda raft: raft.peers_reachable([], world.now))
    world.act(1, lambda raft: raft.peers_reachable([9], world.now))
    assert world.raft(1).next_deadline() == deadline, (
        "CommitProgress: §5.2, a server without a majority in reach is in a hurry"
    )


def test_learners_in_reach_are_no_majority() -> None:
    world = RaftWorld(seed=1)
    world.add(1, Membership((1, 2, 3), (4, 5)))
    deadline = world.raft(1).next_deadline()
    world.act(1, lambda raft: raft.peers_reachable([4, 5], world.now))
    assert world.raft(1).next_deadline() == deadline, "Elections: it asks for votes that cannot come"


def test_one_that_asked_in_vain_before_the_others_came_asks_again_soon() -> None:
    world = three()
    world.time_out(1)
    assert world.raft(1).role is Role.PRE_CANDIDATE
    world.act(1, lambda raft: raft.peers_reachable([2, 3], world.now))
    assert world.raft(1).next_deadline() <= world.now + 2 * world.config.heartbeat_interval, (
        "CommitProgress: §5.2, a server that asked in vain waits for a timeout"
    )


def test_a_server_that_has_heard_a_leader_leaves_it_alone() -> None:
    world = three()
    world.elect(1)
    deadline = world.raft(2).next_deadline()
    world.act(2, lambda raft: raft.peers_reachable([1, 3], world.now))
    assert world.raft(2).next_deadline() == deadline, (
        "CommitProgress: §4.2.3, a server that has heard a leader is in a hurry"
    )


# -------------------------------------------------------------------- leadership transfer, dissertation 3.10


def test_3_10_leadership_is_handed_over_without_a_timeout() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a")
    assert world.act(1, lambda raft: raft.transfer_leadership(3, world.now)), (
        "CommitProgress: §3.10, a leader refuses to hand over"
    )
    world.deliver_all()
    assert world.leader() == 3 and world.raft(1).role is Role.FOLLOWER, (
        "CommitProgress: §3.10, the successor leads"
    )


def test_3_10_the_successor_is_brought_up_to_date_first_and_proposals_wait() -> None:
    world = three()
    world.elect(1)
    assert world.propose(1, b"a") is not None, (
        "CommitProgress: §3.10, a leader takes proposals before it hands over"
    )
    world.packets.clear()  # lost
    assert world.act(1, lambda raft: raft.transfer_leadership(2, world.now))
    assert world.propose(1, b"b") is None, (
        "CommitProgress: §3.10, a proposal is taken while the successor is to catch up"
    )
    assert not any(isinstance(packet.message, TimeoutNowRequest) for packet in world.packets), (
        "LeaderCompleteness: a successor is told to campaign that lacks an entry"
    )
    world.heartbeat(1)
    assert world.leader() == 2, "CommitProgress: §3.10, the successor leads"
    assert world.hosts[2].applied == [(3, b"a")], (
        "StateMachineSafety: the successor lacks what was proposed before"
    )


def test_3_10_a_transfer_that_takes_too_long_is_given_up() -> None:
    world = three()
    world.elect(1)
    assert world.act(1, lambda raft: raft.transfer_leadership(2, world.now))
    world.packets.clear()
    for _ in range(12):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=lambda packet: not isinstance(packet.message, TimeoutNowRequest))
    assert world.propose(1, b"a") is not None, (
        "CommitProgress: §3.10, a transfer that takes too long is not given up"
    )


def test_3_10_a_transfer_ends_at_its_deadline_and_not_with_the_heartbeat_after_it() -> None:
    """A host sleeps until the next deadline: proposals are refused until the leader wakes up."""
    world = three()
    world.elect(1)
    world.now += world.config.heartbeat_interval / 2  # so that no heartbeat is due at the deadline
    ends = world.now + world.config.election_timeout
    assert world.act(1, lambda raft: raft.transfer_leadership(2, world.now))
    while world.now < ends and world.raft(1).next_deadline() <= ends:
        world.time_out(1)
        world.deliver_all(only=lambda packet: not isinstance(packet.message, TimeoutNowRequest))
    given_up = world.propose(1, b"a") is not None
    assert given_up, "CommitProgress: §3.10, proposals are refused after the transfer's deadline"


def test_3_10_no_change_of_membership_begins_during_a_transfer() -> None:
    """It is a proposal like any other: the successor would be waited for until it has that, too."""
    world = three()
    world.elect(1)
    assert world.act(1, lambda raft: raft.transfer_leadership(2, world.now))
    world.packets.clear()
    change = world.act(1, lambda raft: raft.propose_membership(Membership((1, 2)), world.now))
    assert change is None, "ElectionSafety: §3.10, a leader appends a membership while it hands over"


def test_3_10_only_voters_can_take_over_and_only_leaders_hand_over() -> None:
    world = three()
    world.elect(1)
    assert not world.act(1, lambda raft: raft.transfer_leadership(1, world.now)), (
        "CommitProgress: §3.10, a leader hands over to itself"
    )
    assert not world.act(1, lambda raft: raft.transfer_leadership(9, world.now)), (
        "CommitProgress: §3.10, a leader hands over to a stranger"
    )
    assert not world.act(2, lambda raft: raft.transfer_leadership(3, world.now)), (
        "CommitProgress: §3.10, a follower hands over"
    )


def test_3_10_a_stranger_cannot_make_anybody_stand() -> None:
    world = three()
    world.elect(1)
    say(world, 3, 2, TimeoutNowRequest(term=2))
    assert world.raft(2).role is Role.FOLLOWER and world.raft(2).current_term == 2, (
        "CommitProgress: §3.10, a stranger makes a follower campaign"
    )
