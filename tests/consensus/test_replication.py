"""What the paper claims in sections 5.3, 5.4.2, 5.5, and the dissertation in 10.2."""

from __future__ import annotations

import pytest

from tests.consensus.test_elections import say, three
from tests.consensus.world import RaftWorld, Simulation
from walrus.consensus.log import RaftLog, entry_bytes
from walrus.consensus.messages import (
    COMMAND,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    RaftConfig,
    Restored,
    Role,
)


def append(
    term: int, prev: tuple[int, int], entries: list[tuple[int, int]], commit: int = 0
) -> AppendEntriesRequest:
    """Entries as (index, term) after `prev`, which is one too."""
    return AppendEntriesRequest(
        term=term,
        round=1,
        prev_log_index=prev[0],
        prev_log_term=prev[1],
        leader_commit=commit,
        entries=tuple(Entry(t, i, COMMAND, b"%d@%d" % (i, t)) for i, t in entries),
    )


# ------------------------------------------------------------------------------------------ section 5.3


def test_5_3_a_command_commits_once_a_majority_has_it_and_is_applied_everywhere_in_order() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a", b"b", b"c")
    assert [host.applied for host in world.hosts.values()] == [[(3, b"a"), (4, b"b"), (5, b"c")]] * 3, (
        "StateMachineSafety: not the same commands in one order everywhere"
    )


def test_5_3_a_minority_that_is_down_does_not_matter_and_catches_up() -> None:
    world = three()
    world.elect(1)
    world.crash(3)
    world.commit(1, b"a", b"b")
    assert world.hosts[1].applied == [(3, b"a"), (4, b"b")], (
        "CommitProgress: a majority is there, and nothing commits"
    )
    world.start(3)
    world.heartbeat(1)
    world.heartbeat(1)
    assert world.hosts[3].applied == world.hosts[1].applied, (
        "StateMachineSafety: one that was away has applied something else"
    )


def test_5_3_nothing_commits_without_a_majority() -> None:
    world = three()
    world.elect(1)
    world.crash(2), world.crash(3)
    index = world.propose(1, b"a")
    world.deliver_all()
    assert index is not None and world.raft(1).commit_index < index, (
        "CommittedNeverLost: committed without a majority"
    )


def test_5_3_entries_whose_predecessor_is_not_there_are_refused() -> None:
    world = three()
    (answer,) = say(world, 2, 1, append(2, prev=(4, 1), entries=[(5, 2)]))
    assert isinstance(answer, AppendEntriesResponse)
    assert (answer.success, answer.conflict_term, answer.conflict_index) == (False, 0, 2), (
        "LogMatching: entries without their predecessor are taken"
    )
    assert world.raft(1).log.last_index == 1, "LogMatching: entries without their predecessor are taken"


def test_5_3_conflicting_entries_and_all_after_them_are_replaced() -> None:
    world = RaftWorld()
    world.add_with_log(1, [1, 2, 3], terms=[1, 1, 2, 2, 2], term=2)
    (answer,) = say(world, 2, 1, append(3, prev=(3, 1), entries=[(4, 3)]))
    assert isinstance(answer, AppendEntriesResponse) and answer.match_index == 4, (
        "LogMatching: what replaces a conflict is not acknowledged"
    )
    assert world.log_terms(1) == [1, 1, 3], "LogMatching: entries behind a conflict stay"


def test_5_3_a_refusal_names_the_first_entry_of_the_conflicting_term() -> None:
    world = RaftWorld()
    world.add_with_log(1, [1, 2, 3], terms=[1, 2, 2, 2], term=2)
    (answer,) = say(world, 2, 1, append(3, prev=(5, 3), entries=[(6, 3)]))
    assert isinstance(answer, AppendEntriesResponse)
    assert (answer.success, answer.conflict_term, answer.conflict_index) == (False, 2, 3), (
        "LogMatching: §5.3, a refusal does not name where the conflict begins"
    )


@pytest.mark.parametrize(("conflicting_terms", "most"), [(1, 2), (3, 4), (6, 7)])
def test_5_3_one_round_trip_per_conflicting_term(conflicting_terms: int, most: int) -> None:
    world = RaftWorld()
    stray = [term for term in range(2, 2 + conflicting_terms) for _ in range(20)]
    world.add_with_log(1, [1, 2, 3], terms=[20] * (len(stray) + 1), term=20)
    world.add_with_log(2, [1, 2, 3], terms=[20] * (len(stray) + 1), term=20)
    world.add_with_log(3, [1, 2, 3], terms=stray, term=19)
    refusals = 0

    def count(packet: object) -> bool:
        nonlocal refusals
        message = getattr(packet, "message", None)
        refusals += isinstance(message, AppendEntriesResponse) and not message.success
        return True

    world.now += 3.0
    world.act(1, lambda raft: raft.tick(world.now))
    world.deliver_all(only=count)
    assert world.leader() == 1 and world.log_terms(3) == world.log_terms(1), (
        "LogMatching: the follower's log is another one"
    )
    assert refusals <= most, "CommitProgress: §5.3, more than one round trip for each term"


def test_5_3_a_leader_never_changes_its_own_log() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a")
    before = world.log_terms(1)
    say(world, 2, 1, append(2, prev=(1, 1), entries=[(2, 2), (3, 2), (4, 2), (5, 2)]))
    assert world.log_terms(1) == before, "LeaderAppendOnly: a leader's log changes"
    assert world.raft(1).ignored["a second leader of one term"] == 1, (
        "ElectionSafety: a second leader of one term is listened to"
    )


def test_5_3_followers_learn_of_a_commit_without_waiting_for_a_heartbeat() -> None:
    world = three()
    world.elect(1)
    now = world.now
    world.commit(1, b"a")
    assert world.now == now, "CommitProgress: §5.3, time passes until a commit is known"
    assert {host.applied_index for host in world.hosts.values()} == {3}, (
        "CommitProgress: §5.3, a follower waits for a heartbeat to learn of a commit"
    )


def test_5_3_a_commit_index_is_believed_only_as_far_as_the_request_shows_agreement() -> None:
    world = RaftWorld()
    world.add_with_log(1, [1, 2, 3], terms=[1, 1, 2], term=2)  # the last one conflicts with the leader's
    say(world, 2, 1, append(3, prev=(2, 1), entries=[(3, 1)], commit=4))
    assert world.raft(1).commit_index == 3, (
        "CommittedNeverLost: an entry commits that the request says nothing about"
    )


# ---------------------------------------------------------------------------------------- section 5.4.2


def test_5_4_2_an_older_entry_commits_only_below_one_of_the_leaders_own_term() -> None:
    world = RaftWorld()
    for server, terms in ((1, [1, 2]), (2, [1, 2]), (3, [1])):
        world.add_with_log(server, [1, 2, 3], terms=terms, term=2)
    # The no-op of term 3 reaches no server; all confirm the entry of term 2.
    for _ in range(2):
        world.now += 1.9
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=lambda packet: not getattr(packet.message, "entries", ()))
    assert world.raft(1).role is Role.LEADER and world.raft(1).progress[2].match_index >= 3, (
        "CommitProgress: §5.4.2, no leader, or nothing to commit"
    )
    assert world.raft(1).commit_index == 0, "CommittedNeverLost: an entry of an older term commits by itself"
    world.heartbeat(1)
    world.heartbeat(1)
    world.heartbeat(1)
    assert world.raft(1).commit_index == 4, "CommitProgress: an entry of the own term commits nothing"


# ------------------------------------------------------------------------------------------ section 5.5


def test_5_5_requests_may_come_again() -> None:
    world = three()
    request = append(2, prev=(1, 1), entries=[(2, 2), (3, 2)], commit=3)
    assert say(world, 2, 1, request) == say(world, 2, 1, request), (
        "LogMatching: §5.5, a repeated request is answered otherwise"
    )
    assert world.log_terms(1) == [2, 2] and len(world.hosts[1].applied) == 2, (
        "StateMachineSafety: a repeated request is applied twice"
    )


@pytest.mark.parametrize("seed", range(3))
def test_5_5_followers_that_crash_again_and_again_end_up_equal(seed: int) -> None:
    world = Simulation(seed)
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    for number in range(10):
        leader = world.leader()
        victim = next(i for i in sorted(world.hosts) if i != leader)
        if leader is not None:
            world.propose(leader, b"%d" % number)
        world.restart(victim)
        world.run(0.7)
    world.run(5.0)
    assert len({tuple(host.applied) for host in world.hosts.values()}) == 1, (
        "StateMachineSafety: followers that crashed have applied something else"
    )


def test_5_3_what_replaces_a_tail_is_written_anew_and_durable_only_then() -> None:
    log = RaftLog(Restored(entries=tuple(Entry(1, index, COMMAND) for index in (1, 2, 3))))
    log.merge((Entry(2, 2, COMMAND),))
    assert (log.saved_index, log.persisted_index) == (1, 1), (
        "CommittedNeverLost: what replaces a durable tail passes for durable"
    )
    assert [entry.term for entry in log.take_unsaved()] == [2], "CommittedNeverLost: it is never written"


# -------------------------------------------------------------------------------- pipelining, limits, disk


def test_10_2_2_entries_that_fit_exactly_go_in_one_request() -> None:
    each = entry_bytes(Entry(1, 1, COMMAND, b"x"))
    log = RaftLog(Restored(entries=tuple(Entry(1, index, COMMAND, b"x") for index in (1, 2, 3))))
    taken = [len(log.entries_within(1, limit)) for limit in (1, 2 * each - 1, 2 * each)]
    assert taken == [1, 1, 2], "CommitProgress: more or less than a request may hold, or no entry at all"


def test_10_2_2_requests_go_out_ahead_of_answers_within_the_byte_budget() -> None:
    config = RaftConfig(
        heartbeat_interval=0.1, election_timeout=1.0, max_append_bytes=100, max_inflight_bytes=300
    )
    world = RaftWorld(config=config)
    world.found([1, 2, 3])
    world.elect(1)
    for _ in range(20):
        world.propose(1, b"x" * 18)  # 50 bytes each: two a request, three requests under way
    sent = [packet.message for packet in world.packets if packet.to == 2]
    entries = sum(len(m.entries) for m in sent if isinstance(m, AppendEntriesRequest))
    assert 6 <= entries <= 8, "CommitProgress: §10.2.2, more or less is under way than the budget allows"
    assert world.raft(1).progress[2].inflight_bytes <= 300 + 100, (
        "CommitProgress: §10.2.2, more is under way than the budget allows"
    )
    world.deliver_all()
    assert world.hosts[2].applied_index == 22, "CommitProgress: what waited for the budget is never sent"
    assert world.raft(1).progress[2].inflight_bytes == 0, (
        "CommitProgress: §10.2.2, what is acknowledged counts as under way"
    )


def test_10_2_1_a_leader_sends_before_it_wrote_and_counts_itself_afterwards() -> None:
    world = three()
    world.elect(1)
    world.auto_sync = False
    index = world.propose(1, b"a")
    assert {p.to for p in world.packets if isinstance(p.message, AppendEntriesRequest)} == {2, 3}, (
        "CommitProgress: §10.2.1, a leader writes before it sends"
    )
    world.receive(next(i for i, packet in enumerate(world.packets) if packet.to == 2))
    world.hosts[2].sync()
    world.deliver_all(only=lambda packet: packet.sender == 2)
    assert world.raft(1).commit_index == (index or 0) - 1, (
        "CommittedNeverLost: one durable copy of three is no majority"
    )
    world.hosts[1].sync()
    assert world.raft(1).commit_index == index, (
        "CommitProgress: §10.2.1, a leader does not count its own durable copy"
    )


def test_10_2_1_two_followers_commit_an_entry_that_the_leader_has_not_written() -> None:
    world = three()
    world.elect(1)
    world.auto_sync = False
    index = world.propose(1, b"a")
    for follower in (2, 3):
        world.receive(next(i for i, packet in enumerate(world.packets) if packet.to == follower))
        world.hosts[follower].sync()
    world.deliver_all(only=lambda packet: packet.to == 1)
    assert world.raft(1).commit_index == index, (
        "CommitProgress: §10.2.1, a leader waits for its own disk though a majority has it"
    )


def test_a_slow_disk_does_not_look_like_a_dead_server() -> None:
    world = three()
    world.elect(1)
    world.auto_sync = False
    world.propose(1, b"a")
    world.deliver_all(only=lambda packet: packet.to == 2)
    contact = world.raft(1).last_contact
    for _ in range(30):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=lambda packet: {packet.sender, packet.to} == {1, 2})
    assert world.raft(1).role is Role.LEADER and world.raft(1).last_contact > contact + 2, (
        "CommitProgress: §6.2, a server with a slow disk counts as silent"
    )
    assert world.raft(1).progress[2].match_index == 2, (
        "CommittedNeverLost: but nothing unwritten was acknowledged"
    )


def test_proposals_are_refused_while_too_much_is_uncommitted() -> None:
    config = RaftConfig(heartbeat_interval=0.1, election_timeout=1.0, max_uncommitted_bytes=200)
    world = RaftWorld(config=config)
    world.found([1, 2, 3])
    world.elect(1)
    taken = [world.propose(1, b"x" * 60) is not None for _ in range(4)]
    assert taken == [True, True, False, False], "CommitProgress: §10.2.2, more is uncommitted than may be"
    world.deliver_all()
    assert world.propose(1, b"x" * 60) is not None, (
        "CommitProgress: refused although everything has committed"
    )


def test_a_follower_takes_no_proposals() -> None:
    world = three()
    world.elect(1)
    assert world.propose(2, b"a") is None, "LeaderAppendOnly: a follower appends by itself"


def test_lost_requests_are_noticed_at_the_next_heartbeat() -> None:
    world = three()
    world.elect(1)
    for data in (b"a", b"b", b"c"):
        world.propose(1, data)
    world.packets.clear()
    world.heartbeat(1)
    assert {host.applied_index for host in world.hosts.values()} == {5}, (
        "CommitProgress: a loss is not noticed at the next heartbeat"
    )


def test_an_idle_server_has_nothing_to_do_between_heartbeats() -> None:
    world = three()
    world.elect(1)
    for server in (1, 2, 3):
        world.act(server, lambda raft: raft.tick(world.now))
        assert not world.raft(server).has_ready(), (
            "CommitProgress: §5.2, a server at rest has something to do"
        )
        assert world.raft(server).next_deadline() > world.now, (
            "CommitProgress: §5.2, a host that waits for the next deadline spins"
        )
