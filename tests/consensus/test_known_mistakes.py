"""Mistakes that published Raft implementations made, and what a hostile or broken peer may send."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.consensus.test_elections import heartbeat, say, three, vote
from tests.consensus.test_replication import append
from tests.consensus.world import RaftWorld
from walrus.consensus import messages as m
from walrus.consensus.election import Election
from walrus.consensus.log import LogPosition
from walrus.consensus.messages import (
    MEMBERSHIP,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    Membership,
    PreVoteResponse,
    RaftConfig,
    RaftMessage,
    RequestVoteRequest,
    RequestVoteResponse,
    Restored,
    Role,
)
from walrus.raft import Raft


def test_a_vote_is_not_sent_before_it_is_durable_and_not_given_twice_after_a_crash() -> None:
    world = three()
    world.auto_sync = False
    assert say(world, 2, 1, vote(2)) == [], "ElectionSafety: a vote is told before it is durable"
    world.restart(1)
    assert (world.raft(1).current_term, world.raft(1).voted_for) == (1, None), (
        "ElectionSafety: nobody was promised anything"
    )
    say(world, 2, 1, vote(2))
    world.hosts[1].sync()
    assert [packet.message for packet in world.packets] == [RequestVoteResponse(term=2, granted=True)], (
        "ElectionSafety: a durable vote is not told"
    )
    world.restart(1)
    assert (world.raft(1).current_term, world.raft(1).voted_for) == (2, 2), (
        "ElectionSafety: a vote that was told is forgotten"
    )
    world.auto_sync = True
    assert say(world, 3, 1, vote(2)) == [RequestVoteResponse(term=2, granted=False)], (
        "ElectionSafety: a second vote of one term"
    )


def test_a_candidate_does_not_ask_before_its_own_vote_is_durable() -> None:
    world = three()
    world.auto_sync = False
    world.time_out(1)
    world.packets.clear()
    world.act(1, lambda raft: raft.step(2, PreVoteResponse(term=2, granted=True), world.now))
    assert world.packets == [], "ElectionSafety: a candidate asks before its own vote is durable"
    world.hosts[1].sync()
    assert {type(packet.message) for packet in world.packets} == {RequestVoteRequest}, (
        "ElectionSafety: a candidate does not ask though its own vote is durable"
    )


def test_votes_that_were_never_asked_for_do_not_elect_before_our_own_is_durable() -> None:
    world = three()
    world.auto_sync = False
    world.time_out(1)
    world.act(1, lambda raft: raft.step(2, PreVoteResponse(term=2, granted=True), world.now))
    for peer in (2, 3):
        say(world, peer, 1, RequestVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.CANDIDATE, (
        "ElectionSafety: elected by a vote that a crash can take back"
    )
    world.hosts[1].sync()
    assert world.raft(1).role is Role.LEADER, "CommitProgress: §5.2, a majority elects"


def test_a_lone_voter_does_not_lead_by_a_vote_that_a_crash_can_take_back() -> None:
    """An earlier write ends while the vote is on its way to the disk: it vouches for itself alone."""
    world = RaftWorld(seed=1)
    world.found([1])
    world.auto_sync = False
    say(world, 2, 1, heartbeat(term=5))
    world.time_out(1)
    world.hosts[1].sync(first=1)
    raft = world.raft(1)
    assert raft.role is Role.CANDIDATE, "ElectionSafety: it leads by a vote that is not durable"
    assert (raft.current_term, raft.voted_for) == (6, 1), "ElectionSafety: term and vote are lost"
    world.hosts[1].sync()
    assert world.raft(1).role is Role.LEADER, "CommitProgress: §5.2, a majority elects"


def test_a_newer_term_is_durable_before_an_acknowledgement_in_it_leaves() -> None:
    world = three()
    world.auto_sync = False
    assert say(world, 2, 1, heartbeat(term=5)) == [], "ElectionSafety: a term is told before it is durable"
    world.hosts[1].sync()
    (packet,) = world.packets
    assert isinstance(packet.message, AppendEntriesResponse) and packet.message.term == 5, (
        "ElectionSafety: another term than its own"
    )


def test_an_acknowledgement_waits_for_the_last_of_several_writes_under_way() -> None:
    """Two requests are on their way to the disk; a heartbeat behind both is answered when both are there."""
    world = three()
    say(world, 2, 1, heartbeat(term=2))
    world.packets.clear()
    world.auto_sync = False
    say(world, 2, 1, append(2, prev=(1, 1), entries=[(2, 2)]))
    say(world, 2, 1, append(2, prev=(2, 2), entries=[(3, 2)]))
    world.packets.clear()
    say(world, 2, 1, append(2, prev=(3, 2), entries=[]))
    world.packets.clear()

    def acknowledged() -> list[int]:
        return [getattr(packet.message, "match_index", 0) for packet in world.packets]

    world.hosts[1].sync(first=1)
    assert max(acknowledged()) == 2, "CommittedNeverLost: entry 3 is not on the disk yet"
    world.hosts[1].sync(first=1)
    assert max(acknowledged()) == 3, "CommittedNeverLost: what is not durable is acknowledged"


def test_a_vote_is_kept_when_becoming_a_follower_in_the_same_term() -> None:
    world = three()
    assert say(world, 2, 1, vote(5)) == [RequestVoteResponse(term=5, granted=True)], (
        "ElectionSafety: a newer term has no vote of its own"
    )
    say(world, 3, 1, heartbeat(term=5))
    assert (world.raft(1).role, world.raft(1).voted_for) == (Role.FOLLOWER, 2), (
        "ElectionSafety: the vote of a newer term is lost"
    )


def test_a_vote_is_kept_when_another_candidate_of_its_term_asks() -> None:
    world = three()
    assert say(world, 2, 1, vote(5)) == [RequestVoteResponse(term=5, granted=True)], (
        "ElectionSafety: a first vote is refused"
    )
    assert say(world, 3, 1, vote(5)) == [RequestVoteResponse(term=5, granted=False)], (
        "ElectionSafety: two votes in one term"
    )
    assert say(world, 2, 1, vote(5)) == [RequestVoteResponse(term=5, granted=True)], (
        "ElectionSafety: asked again"
    )


def test_a_candidate_that_meets_a_leader_of_its_term_keeps_its_own_vote() -> None:
    """It steps down in the same term; with its vote forgotten it could help to elect a second leader."""
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=2, granted=True))
    assert (world.raft(1).role, world.raft(1).voted_for) == (Role.CANDIDATE, 1), (
        "ElectionSafety: a candidate does not vote for itself"
    )
    say(world, 3, 1, heartbeat(term=2))
    assert world.raft(1).role is Role.FOLLOWER, (
        "ElectionSafety: §5.1, a newer term makes a candidate a follower"
    )
    assert say(world, 2, 1, vote(2)) == [RequestVoteResponse(term=2, granted=False)], (
        "ElectionSafety: two votes in one term"
    )


def test_votes_are_collected_not_counted() -> None:
    world = RaftWorld(seed=1)
    world.found([1, 2, 3, 4, 5])
    world.time_out(1)
    for peer in (2, 3):
        say(world, peer, 1, PreVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.CANDIDATE, "ElectionSafety: one voter counts twice"
    for _ in range(5):
        say(world, 2, 1, RequestVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.CANDIDATE, "ElectionSafety: one voter elects a leader by itself"
    say(world, 3, 1, RequestVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.LEADER, "CommitProgress: §5.2, a majority elects"


def test_the_vote_of_a_stranger_counts_for_nothing() -> None:
    world = three()
    world.time_out(1)
    say(world, 9, 1, PreVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.PRE_CANDIDATE, "ElectionSafety: a stranger counts as a voter"


def test_a_second_leader_of_one_term_is_not_followed() -> None:
    """There is none, or two majorities share no voter: what claims to be one must not be listened to."""
    world = three()
    say(world, 2, 1, heartbeat(term=2))
    assert say(world, 3, 1, heartbeat(term=2)) == [] and world.raft(1).leader_id == 2, (
        "ElectionSafety: a second leader of one term is followed"
    )


def test_a_round_that_is_over_yields_to_any_other() -> None:
    """Both may have asked in vain once; were each to hold out for the other, neither would go on."""
    asked = Election(RaftConfig(heartbeat_interval=0.1), random.Random(1))
    asked.begin(0.0)
    better, worse = (LogPosition(1, 5), 3), (LogPosition(1, 5), 1)
    assert not asked.yields_to(better, worse, 0.09), "CommitProgress: of two that ask at once none goes on"
    assert asked.yields_to(better, worse, 0.11), "CommitProgress: two wait for each other"


def test_an_election_is_lost_when_those_who_are_left_are_no_majority() -> None:
    refused = Election(RaftConfig(), random.Random(1))
    refused.begin(0.0)
    for stranger in (7, 8, 9):
        refused.collect(stranger, False)
    assert not refused.lost(Membership((1, 2, 3, 4))), (
        "CommitProgress: §5.2, refusals of strangers count for nothing"
    )
    refused.collect(2, False)
    assert not refused.lost(Membership((1, 2, 3, 4))), "CommitProgress: §5.2, three of four are left"
    refused.collect(3, False)
    assert refused.lost(Membership((1, 2, 3, 4))), "CommitProgress: §5.2, two of four are no majority"


def test_an_answer_of_an_earlier_election_elects_nobody() -> None:
    world = three()
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=2, granted=True))
    world.time_out(1)
    say(world, 2, 1, PreVoteResponse(term=3, granted=True))
    assert (world.raft(1).role, world.raft(1).current_term) == (Role.CANDIDATE, 3), (
        "ElectionSafety: an answer to an earlier candidacy counts"
    )
    say(world, 2, 1, RequestVoteResponse(term=2, granted=True))
    assert world.raft(1).role is Role.CANDIDATE, "ElectionSafety: an answer to an earlier candidacy counts"


def test_a_repeated_old_request_does_not_cut_off_what_was_acknowledged_since() -> None:
    world = three()
    old = append(2, prev=(1, 1), entries=[(2, 2)])
    say(world, 2, 1, old)
    say(world, 2, 1, append(2, prev=(2, 2), entries=[(3, 2), (4, 2)]))
    say(world, 2, 1, old)
    assert world.log_terms(1) == [2, 2, 2], (
        "CommittedNeverLost: a shorter copy of a request cuts off what was acknowledged"
    )
    say(world, 2, 1, append(2, prev=(1, 1), entries=[]))
    assert world.log_terms(1) == [2, 2, 2], (
        "CommittedNeverLost: a shorter copy of a request cuts off what was acknowledged"
    )


def test_a_disk_that_finishes_late_does_not_vouch_for_entries_that_were_replaced() -> None:
    world = three()
    world.auto_sync = False
    say(world, 2, 1, append(2, prev=(1, 1), entries=[(2, 2), (3, 2)]))
    ready = world.hosts[1].unsynced.popleft()
    say(world, 3, 1, append(3, prev=(2, 2), entries=[(3, 3)]))
    world.raft(1).persisted(ready, world.now)
    held = world.raft(1).log.persisted_index
    assert held == 2, "CommittedNeverLost: a late sync vouches for entries that were replaced"


def test_equal_timers_do_not_split_votes_for_ever() -> None:
    def elects(seed: int) -> bool:
        world = RaftWorld(seed=seed)
        world.found([1, 2, 3])
        for _ in range(5):
            world.now = max(host.raft.next_deadline() for host in world.hosts.values())
            for server in (1, 2, 3):
                world.act(server, lambda raft: raft.tick(world.now))
            world.deliver_all()
        return world.leader() is not None

    assert all(elects(seed) for seed in range(10)), "Elections: equal timers split the votes for ever"


def test_a_server_with_an_empty_log_and_no_cluster_gives_no_vote() -> None:
    """It may be a member that lost its disk, and with it the memory of having voted or acknowledged."""
    world = RaftWorld()
    world.add(1, None)
    assert say(world, 2, 1, vote(5, index=0, log_term=0)) == [RequestVoteResponse(term=5, granted=False)], (
        "LeaderCompleteness: it elects a leader without knowing what it has acknowledged"
    )


def test_the_journal_is_trimmed_only_when_the_checkpoint_is_durable() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a", b"b")
    world.auto_sync = False
    world.hosts[1].compact()
    assert world.disks[1].bounds("raft")[0] == 0, (
        "CommittedNeverLost: trimmed before the checkpoint is durable"
    )
    world.restart(1)
    assert world.raft(1).log.last_index == 4, "CommittedNeverLost: a crash before the checkpoint is durable"
    world.hosts[1].applied_index = 0
    world.elect(2)


# ----------------------------------------------------------------------------- what a broken peer may send

GARBAGE = [
    append(2, prev=(-1, 1), entries=[]),
    append(2, prev=(1, 1), entries=[(5, 2)]),
    append(2, prev=(1, 1), entries=[(2, 9)]),
    append(2, prev=(1, 1), entries=[(2, 2), (3, 1)]),
    AppendEntriesRequest(
        term=2,
        round=0,
        prev_log_index=1,
        prev_log_term=1,
        leader_commit=0,
        entries=(Entry(2, 2, MEMBERSHIP, b"\xff"),),
    ),
    m.InstallSnapshotRequest(
        term=2,
        round=0,
        last_index=9,
        last_term=1,
        membership=Membership((2, 1)),
        offset=0,
        total=1,
        data=b"x",
    ),
    m.InstallSnapshotRequest(
        term=2, round=0, last_index=9, last_term=1, membership=Membership((1,)), offset=5, total=1, data=b"x"
    ),
]


@pytest.mark.parametrize("message", GARBAGE, ids=range(len(GARBAGE)))
def test_requests_that_cannot_be_true_are_dropped_with_a_reason(message: RaftMessage) -> None:
    world = three()
    assert say(world, 2, 1, message) == [], "LogMatching: a message that no leader sends is answered"
    assert sum(world.raft(1).ignored.values()) == 1, "LogMatching: a message that no leader sends is taken"
    assert world.log_terms(1) == [] and world.raft(1).commit_index == 0, (
        "LogMatching: a message that no leader sends changes the log"
    )


def answer(**more: Any) -> AppendEntriesResponse:
    told = {"round": 1, "success": True, "prev_log_index": 2, "match_index": 2}
    return AppendEntriesResponse(term=2, **told | more)  # type: ignore[arg-type]


IMPOSSIBLE: list[RaftMessage] = [
    answer(match_index=4),  # the leader's last index is 3
    answer(prev_log_index=4),
    answer(match_index=9),
    answer(round=99),
    answer(round=-2),
    answer(success=False, prev_log_index=9, match_index=0),
    answer(success=False, prev_log_index=-1, match_index=0),
    answer(success=False, match_index=0, conflict_index=-1),
    m.InstallSnapshotResponse(term=2, round=1, last_index=2, offset=-1, installed=False),
    m.InstallSnapshotResponse(term=2, round=99, last_index=2, offset=0, installed=True),
]


@pytest.mark.parametrize("message", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_answers_that_cannot_be_true_are_dropped_with_a_reason(message: RaftMessage) -> None:
    world = three()
    world.elect(1)
    index = world.propose(1, b"a")
    ignored = sum(world.raft(1).ignored.values())
    try:
        say(world, 2, 1, message)
    except AssertionError as error:
        raise AssertionError("CommitProgress: a peer's answer stops the leader") from error
    dropped = sum(world.raft(1).ignored.values()) == ignored + 1
    assert dropped and world.raft(1).commit_index < (index or 0), "CommittedNeverLost: an impossible answer"
    world.heartbeat(1)
    assert world.raft(1).commit_index == index, "CommitProgress: a peer's answer stops the leader"


def test_a_predecessor_that_contradicts_a_committed_entry_is_no_leaders() -> None:
    world = three()
    say(world, 2, 1, append(2, prev=(1, 1), entries=[(2, 2)], commit=2))
    assert say(world, 3, 1, append(3, prev=(2, 3), entries=[(3, 3)])) == [], (
        "LeaderCompleteness: one that contradicts what is committed is answered"
    )
    assert world.log_terms(1) == [2], "CommittedNeverLost: what is committed is replaced"
    assert world.raft(1).ignored["a predecessor that contradicts a committed entry"] == 1, (
        "LeaderCompleteness: one that contradicts what is committed leads"
    )


def test_entries_that_contradict_committed_ones_are_dropped() -> None:
    world = three()
    say(world, 2, 1, append(2, prev=(1, 1), entries=[(2, 2)], commit=2))
    say(world, 3, 1, append(3, prev=(1, 1), entries=[(2, 3)]))
    assert world.log_terms(1) == [2], "CommittedNeverLost: what is committed is replaced"
    assert world.raft(1).ignored["entries that contradict committed ones"] == 1, (
        "LeaderCompleteness: one that contradicts what is committed leads"
    )


number = st.integers(min_value=-2, max_value=12)
entries = st.builds(Entry, number, number, st.sampled_from(m.EntryKind), st.binary(max_size=3))
memberships = st.builds(Membership, st.lists(number, max_size=3).map(tuple), st.just(()))
anything: st.SearchStrategy[Any] = st.one_of(
    st.builds(m.PreVoteRequest, term=number, last_log_index=number, last_log_term=number),
    st.builds(m.PreVoteResponse, term=number, granted=st.booleans()),
    st.builds(vote, number, number, number, transfer=st.booleans()),
    st.builds(m.RequestVoteResponse, term=number, granted=st.booleans()),
    st.builds(
        AppendEntriesRequest,
        term=number,
        round=number,
        prev_log_index=number,
        prev_log_term=number,
        leader_commit=number,
        entries=st.lists(entries, max_size=3).map(tuple),
    ),
    st.builds(
        AppendEntriesResponse,
        term=number,
        round=number,
        success=st.booleans(),
        prev_log_index=number,
        match_index=number,
        conflict_term=number,
        conflict_index=number,
    ),
    st.builds(
        m.InstallSnapshotRequest,
        term=number,
        round=number,
        last_index=number,
        last_term=number,
        membership=memberships,
        offset=number,
        total=number,
        data=st.binary(max_size=4),
    ),
    st.builds(
        m.InstallSnapshotResponse,
        term=number,
        round=number,
        last_index=number,
        offset=number,
        installed=st.booleans(),
    ),
    st.builds(m.TimeoutNowRequest, term=number),
)


FOUNDED = Entry(1, 1, MEMBERSHIP, Membership((1, 2, 3)).encode())
RESTORED = {
    "founded": Restored(hard_state=m.HardState(1), entries=(FOUNDED,)),
    "with a log": Restored(
        hard_state=m.HardState(2), entries=(FOUNDED, Entry(1, 2), Entry(2, 3), Entry(2, 4))
    ),
    "behind a snapshot": Restored(
        hard_state=m.HardState(2),
        membership=Membership((1, 2, 3)),
        snapshot=m.Snapshot(3, 1, Membership((1, 2, 3)), b""),
        entries=(Entry(1, 4), Entry(2, 5)),
    ),
}


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), anything), max_size=25),
    st.booleans(),
    st.sampled_from(sorted(RESTORED)),
)
def test_no_message_of_any_peer_trips_an_assertion(
    script: list[tuple[int, int, RaftMessage]], leading: bool, restored: str
) -> None:
    """Deadlines pass between messages, so the server is met in every role."""
    raft = Raft(node_id=1, config=RaftConfig(), restored=RESTORED[restored], rng=random.Random(1), now=0.0)
    term = raft.current_term + 1
    now = 0.0

    def drain() -> None:
        while raft.has_ready():
            ready = raft.ready()
            raft.persisted(ready, now)
            raft.check_invariants()

    if leading:
        now = raft.next_deadline()
        raft.tick(now)
        raft.step(2, PreVoteResponse(term=term, granted=True), now)
        drain()
        raft.step(2, RequestVoteResponse(term=term, granted=True), now)
        assert raft.role is Role.LEADER
    for sender, pause, message in script:
        now += pause * 0.3
        raft.tick(now)
        raft.step(sender, message, now)
        drain()
