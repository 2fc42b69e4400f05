"""What the paper claims in sections 7 and 8, and the dissertation in 6.4."""

from __future__ import annotations

import msgspec

from tests.consensus.test_elections import heartbeat, say, three
from tests.consensus.world import CONFIG, RaftWorld, Simulation
from tests.world import Packet
from walrus.consensus.log import RaftLog
from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    EntryKind,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Membership,
    RaftConfig,
    Restored,
    Role,
)

CHUNKED = RaftConfig(heartbeat_interval=0.1, election_timeout=1.0, snapshot_chunk_bytes=16)


def behind(config: RaftConfig = CHUNKED) -> RaftWorld:
    """Server 3 was away while the others went on and compacted."""
    world = RaftWorld(seed=4, config=config)
    world.found([1, 2, 3])
    world.elect(1)
    world.crash(3)
    world.commit(1, *(b"command %d" % number for number in range(10)))
    world.hosts[1].compact()
    world.start(3)
    return world


def piece(offset: int, data: bytes, total: int, index: int = 9, term: int = 2) -> InstallSnapshotRequest:
    return InstallSnapshotRequest(
        term=term,
        round=0,
        last_index=index,
        last_term=1,
        membership=Membership((1, 2, 3)),
        offset=offset,
        total=total,
        data=data,
    )


def test_7_compaction_replaces_applied_entries_and_survives_a_restart() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a", b"b")
    world.hosts[1].compact()
    world.hosts[1].sync()
    log = world.raft(1).log
    assert (log.snapshot_index, log.last_index, log.last_term) == (4, 4, 2), (
        "StateMachineSafety: the log does not begin behind its snapshot"
    )
    world.restart(1)
    assert world.hosts[1].applied == [(3, b"a"), (4, b"b")], (
        "StateMachineSafety: a restart loses what the snapshot holds"
    )
    assert world.raft(1).membership == Membership((1, 2, 3)), (
        "ElectionSafety: a restart loses the membership of the snapshot"
    )
    world.elect(2)
    world.commit(2, b"c")
    assert world.hosts[1].applied == world.hosts[2].applied, "StateMachineSafety"


def test_7_a_snapshot_of_what_is_compacted_already_changes_nothing() -> None:
    """The host may have begun to make it before a leader's snapshot of more arrived."""
    world = three()
    world.elect(1)
    world.commit(1, b"a", b"b")
    world.hosts[1].compact()
    before, raft = world.raft(1).log.snapshot, world.raft(1)
    for index in (4, 3):
        try:
            raft.compact(index, b"late")
        except AssertionError as error:
            raise AssertionError("StateMachineSafety: a late snapshot replaces what it is part of") from error
    assert raft.log.snapshot is before, "StateMachineSafety: a late snapshot replaces what it is part of"


def test_7_who_is_too_far_behind_gets_the_snapshot_in_pieces() -> None:
    world = behind()
    pieces = 0

    def count(packet: object) -> bool:
        nonlocal pieces
        pieces += isinstance(getattr(packet, "message", None), InstallSnapshotRequest)
        return True

    for _ in range(4):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=count)
    assert world.hosts[3].applied == world.hosts[1].applied, (
        "StateMachineSafety: the snapshot is not what the leader has applied"
    )
    assert pieces >= 5, "CommitProgress: §7, a snapshot that is larger than a piece goes out in one"
    world.commit(1, b"after")
    assert world.hosts[3].applied[-1][1] == b"after", "CommitProgress: nothing follows a snapshot"


def test_7_a_lost_piece_is_sent_again() -> None:
    world = behind()
    lost = []

    def lose_the_second(packet: object) -> bool:
        message = getattr(packet, "message", None)
        if isinstance(message, InstallSnapshotRequest) and message.offset == 16 and not lost:
            lost.append(message)
            return False
        return True

    for _ in range(20):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=lose_the_second)
    assert lost and world.hosts[3].applied == world.hosts[1].applied, (
        "StateMachineSafety: a lost piece is not sent again"
    )


def test_7_a_piece_under_way_is_sent_again_after_an_election_timeout_and_not_before() -> None:
    """Pieces are large: one that is only slow must not be sent with every heartbeat."""
    world, sent = behind(), list[float]()

    def note(sender: int, to: int, message: object) -> None:
        if isinstance(message, InstallSnapshotRequest):
            sent.append(world.now)

    world.watch = note
    world.now += 0.1
    world.act(1, lambda raft: raft.tick(world.now))
    while not sent:
        world.receive()
    for _ in range(20):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=lambda packet: 3 not in (packet.sender, packet.to))
    begun, again = sent[:2]
    assert len(sent) == 2 and again > begun + CHUNKED.election_timeout, (
        "CommitProgress: a piece that is on its way is sent again and again, or one that is lost is not"
    )


def test_7_a_follower_that_gets_a_snapshot_is_heard() -> None:
    """Chunks take long, and the leader must not step down while a majority answers nothing else."""
    world = three()
    world.elect(1)
    world.now += 0.1
    world.act(1, lambda raft: raft.tick(world.now))
    begun = world.packets[-1].message.round
    told = InstallSnapshotResponse(term=2, round=begun, last_index=1, offset=0, installed=False)
    say(world, 2, 1, told)
    assert world.raft(1).last_contact == world.now, "Lease: an answer about a snapshot confirms no round"


def test_7_a_follower_that_crashes_in_the_middle_starts_over() -> None:
    world = behind()
    world.now += 0.1
    world.act(1, lambda raft: raft.tick(world.now))
    for _ in range(8):
        world.receive()
    world.restart(3)
    for _ in range(30):
        world.heartbeat(1)
    assert world.hosts[3].applied == world.hosts[1].applied, (
        "StateMachineSafety: one that crashed in the middle has something else"
    )


def test_7_a_piece_that_arrives_twice_is_taken_once() -> None:
    world = three()
    data = msgspec.msgpack.encode([(2, b"a"), (3, b"b")])
    pieces = [(at, data[at : at + 3]) for at in range(0, len(data), 3)]
    for at, part in pieces[:-1]:
        for _ in range(2):
            (answer,) = say(world, 2, 1, piece(at, part, len(data)))
            assert isinstance(answer, InstallSnapshotResponse)
            assert answer.offset == at + len(part), "StateMachineSafety: a piece counts twice"
    say(world, 2, 1, piece(*pieces[-1], len(data)))
    assert world.hosts[1].applied == [(2, b"a"), (3, b"b")], "StateMachineSafety: not the leader's snapshot"


def test_7_a_snapshot_under_way_stays_the_same_when_the_leader_compacts_again() -> None:
    world = behind()
    world.now += 0.1
    world.act(1, lambda raft: raft.tick(world.now))
    for _ in range(10):
        world.receive()
    world.propose(1, b"more")
    for _ in range(5):
        world.receive()
    world.hosts[1].compact()
    for _ in range(30):
        world.heartbeat(1)
    assert world.hosts[3].applied == world.hosts[1].applied, "StateMachineSafety: two snapshots are mixed"


def test_7_an_answer_about_an_earlier_snapshot_says_nothing_about_the_one_under_way() -> None:
    """The network may repeat it at any later time."""
    world = behind()
    answers: list[InstallSnapshotResponse] = []

    def keep(packet: Packet) -> bool:
        if isinstance(packet.message, InstallSnapshotResponse):
            answers.append(packet.message)
        return True

    for _ in range(4):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        world.deliver_all(only=keep)
    early = answers[-1]
    assert early.installed, "CommitProgress: §7, the snapshot is installed"
    world.crash(3)
    world.commit(1, *(b"later %d" % number for number in range(10)))
    world.hosts[1].compact()
    world.start(3)
    world.now += 0.1
    world.act(1, lambda raft: raft.tick(world.now))
    progress = world.raft(1).progress[3]
    while progress.transfer is None:
        world.receive()
    world.act(1, lambda raft: raft.step(3, early, world.now))
    assert progress.match_index == early.last_index < world.raft(1).log.snapshot_index, (
        "CommittedNeverLost: a follower counts for a snapshot that it has not installed"
    )


def test_7_a_snapshot_has_the_membership_at_its_index() -> None:
    """Not that of a change behind it, which may still be lost, nor the one before."""
    learner, voter = Membership((1, 2, 3), (4,)), Membership((1, 2, 3, 4))
    changes = {1: Membership((1, 2, 3)), 3: learner, 5: voter}
    entries = tuple(
        Entry(1, index, EntryKind.MEMBERSHIP, changes[index].encode())
        if index in changes
        else Entry(1, index)
        for index in range(1, 6)
    )
    for index, expected in ((2, changes[1]), (3, learner), (4, learner)):
        log = RaftLog(Restored(entries=entries))
        log.commit_to(4)
        log.take_committed()
        assert log.compact(index, b"").membership == expected, (
            "ElectionSafety: who installs the snapshot counts other voters than the log names"
        )
        log.check_invariants()


def test_7_what_follows_a_checkpoint_is_in_the_journal_behind_it() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a", b"b")
    world.propose(1, b"c")
    world.hosts[1].compact()
    world.hosts[1].sync()
    assert world.raft(1).log.snapshot_index == 4, "CommitProgress: §7, the leader has compacted"
    log = world.restart(1).raft.log
    assert (log.snapshot_index, log.last_index) == (4, 5), (
        "CommittedNeverLost: a durable entry went with what the checkpoint replaced"
    )


def test_7_a_snapshot_installs_membership_and_log_position() -> None:
    world = three()
    data = b"\x90"  # an empty list, the state machine of these tests
    (answer,) = say(world, 2, 1, piece(0, data, 1))
    assert answer == InstallSnapshotResponse(term=2, round=0, last_index=9, offset=1, installed=True), (
        "StateMachineSafety: a snapshot that is whole is not installed"
    )
    log = world.raft(1).log
    assert (log.last_index, log.last_term, log.commit_index) == (9, 1, 9), (
        "StateMachineSafety: the log does not begin behind its snapshot"
    )


def test_7_entries_after_a_matching_snapshot_stay() -> None:
    world = RaftWorld()
    world.add_with_log(1, [1, 2, 3], terms=[1, 1, 1], term=1)
    say(world, 2, 1, piece(0, b"\x90", 1, index=3))
    assert world.raft(1).log.last_index == 4 and world.raft(1).commit_index == 3, (
        "CommittedNeverLost: entries behind a snapshot that matches are cut off"
    )


def test_7_entries_after_a_contradicting_snapshot_go() -> None:
    world = RaftWorld()
    world.add_with_log(1, [1, 2, 3], terms=[1, 2, 2, 2], term=2)
    say(world, 2, 1, piece(0, b"\x90", 1, index=4, term=3))
    log = world.raft(1).log
    assert (log.last_index, log.last_term) == (4, 1), "LogMatching: a tail of another log stays"
    log = world.restart(1).raft.log
    assert (log.last_index, log.last_term) == (4, 1), "LogMatching: a tail of another log comes back"


def test_7_a_snapshot_of_less_than_is_committed_is_only_acknowledged() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a", b"b")
    before = world.log_terms(2)
    (answer,) = say(world, 1, 2, piece(0, b"\x90", 1, index=2, term=2))
    assert isinstance(answer, InstallSnapshotResponse) and answer.installed, (
        "CommitProgress: §7, a late snapshot is not acknowledged"
    )
    assert world.log_terms(2) == before and len(world.hosts[2].applied) == 2, (
        "CommittedNeverLost: a late snapshot takes back what is committed"
    )


def test_7_pieces_of_two_leaders_are_not_mixed() -> None:
    world = three()
    say(world, 2, 1, piece(0, b"\x91", 3, term=2))
    (answer,) = say(world, 3, 1, piece(1, b"\x02\x03", 3, term=3))
    assert isinstance(answer, InstallSnapshotResponse)
    assert (answer.installed, answer.offset) == (False, 0), (
        "StateMachineSafety: pieces of two leaders are mixed"
    )


def test_7_a_snapshot_is_acknowledged_only_when_it_is_durable() -> None:
    world = three()
    say(world, 2, 1, heartbeat(term=2))  # so that nothing else has to become durable
    world.packets.clear()
    world.auto_sync = False
    say(world, 2, 1, piece(0, b"\x90", 1))
    assert world.packets == [], "CommittedNeverLost: a snapshot is acknowledged before it is durable"
    world.hosts[1].sync()
    assert [type(packet.message) for packet in world.packets] == [InstallSnapshotResponse], (
        "CommitProgress: §7, a durable snapshot is not acknowledged"
    )


def test_7_nothing_counts_as_durable_that_only_a_snapshot_under_way_to_the_disk_covers() -> None:
    world = three()
    say(world, 2, 1, heartbeat(term=2))
    world.auto_sync = False
    say(world, 2, 1, piece(0, b"\x90", 1))
    (answer,) = say(world, 2, 1, heartbeat(term=2, prev=9))
    assert isinstance(answer, AppendEntriesResponse) and answer.match_index < 9, (
        "CommittedNeverLost: acknowledged by a snapshot that a crash can take back"
    )


def test_7_a_removed_server_that_learns_from_a_snapshot_that_this_has_committed_campaigns_no_more() -> None:
    """It holds all that the snapshot covers, its own removal too, and did not know that this is committed."""
    world, others = three(), Membership((2, 3))
    removal = Entry(2, 2, EntryKind.MEMBERSHIP, others.encode())
    request = AppendEntriesRequest(
        term=2, round=0, prev_log_index=1, prev_log_term=1, leader_commit=1, entries=(removal,)
    )
    say(world, 2, 1, request)
    assert world.raft(1).role is Role.FOLLOWER, "CommitProgress: a removal may be lost until it has committed"
    told = msgspec.structs.replace(piece(0, b"\x90", 1, index=2), last_term=2, membership=others)
    say(world, 2, 1, told)
    assert world.raft(1).role is Role.LEARNER, "ElectionSafety: a removed server campaigns"


# -------------------------------------------------------------------------------------------- section 8


def test_8_a_new_leader_commits_a_no_op_first() -> None:
    world = three()
    world.elect(1)
    noop = world.raft(1).log.entry(2)
    assert (noop.kind, noop.term) == (EntryKind.NOOP, 2), (
        "LeaderCompleteness: §8, a new leader's first entry is no no-op"
    )
    assert world.raft(1).commit_index == 2, "CommitProgress: §8, the no-op does not commit"


def test_8_a_read_is_confirmed_by_a_majority_and_sees_what_was_committed() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a")
    assert world.act(1, lambda raft: raft.read_index(77, world.now))
    assert world.hosts[1].reads == [], "ReadIndex: a read is confirmed by what was answered before it"
    world.deliver_all()
    assert world.hosts[1].reads == [(77, 3)], "ReadIndex: a read does not see what was committed before it"


def test_8_reads_of_one_turn_share_one_round() -> None:
    world = three()
    world.elect(1)

    def ask(raft: object) -> None:
        for context in range(50):
            assert world.raft(1).read_index(context, world.now)

    world.act(1, ask)
    asked = [p for p in world.packets if isinstance(p.message, AppendEntriesRequest)]
    assert len(asked) == 2, "ReadIndex: more than one round for the reads of a turn"
    world.deliver_all()
    assert [context for context, _ in world.hosts[1].reads] == list(range(50)), (
        "ReadIndex: a read is left out"
    )


def test_8_an_answer_to_an_earlier_round_confirms_nothing() -> None:
    world = three()
    world.elect(1)
    world.now += 0.1
    world.act(1, lambda raft: raft.tick(world.now))
    while any(packet.to != 1 for packet in world.packets):
        world.receive(next(i for i, packet in enumerate(world.packets) if packet.to != 1))
    late = list(world.packets)
    assert len(late) == 2, "both followers have answered the round before"
    world.act(1, lambda raft: raft.read_index(1, world.now))
    for packet in late:
        world.deliver(packet)
    assert world.hosts[1].reads == [], "ReadIndex: a read is confirmed by what was answered before it"
    world.deliver_all()
    assert world.hosts[1].reads == [(1, 2)], "ReadIndex: at the commit index, not one below it"


def test_8_a_rejection_of_an_older_term_confirms_no_round_of_the_term_that_it_names() -> None:
    """Server 1 leads two terms. A request of the first one arrives late, and so does its rejection, which
    names the second: when that has come to a round of the same number, server 1 is cut off.
    """
    world = three()
    world.elect(1)
    for _ in range(3):
        world.now += 0.1
        world.act(1, lambda raft: raft.tick(world.now))
        late = [packet for packet in world.packets if (packet.sender, packet.to) == (1, 2)]
        world.deliver_all()
    (request,) = late
    world.elect(3)
    world.elect(1)
    rejections = say(world, 1, 2, request.message)
    assert [rejection.term for rejection in rejections] == [world.raft(1).current_term], (
        "ElectionSafety: §5.1, a request of an older term is not rejected"
    )
    contact = world.raft(1).last_contact
    while not any(
        getattr(packet.message, "round", 0) == request.message.round - 1 for packet in world.packets
    ):
        world.now += 0.1  # no server hears these rounds
        world.act(1, lambda raft: raft.tick(world.now))
    world.act(1, lambda raft: raft.read_index(7, world.now))
    assert world.packets[-1].message.round == request.message.round
    for rejection in rejections:
        say(world, 2, 1, rejection)
    assert world.raft(1).last_contact == contact, "Lease: leases: no majority has heard this leader since"
    assert world.hosts[1].reads == [], "ReadIndex: no majority has heard this leader since"


def test_8_a_leader_that_was_replaced_confirms_no_read() -> None:
    world = three()
    world.elect(1)
    world.commit(1, b"a")
    cut = {1}
    world.now += 3.0
    world.act(2, lambda raft: raft.tick(world.now))
    world.deliver_all(only=lambda packet: not cut & {packet.sender, packet.to})
    world.propose(2, b"b")
    world.deliver_all(only=lambda packet: not cut & {packet.sender, packet.to})
    assert world.hosts[2].applied[-1][1] == b"b", "CommitProgress: §5.2, the other two go on"
    world.act(1, lambda raft: raft.read_index(1, world.now))
    world.deliver_all()
    assert world.hosts[1].reads == [], "ReadIndex: a leader that was replaced confirms a read"


def test_8_no_read_before_an_entry_of_the_term_has_committed() -> None:
    world = three()
    world.now += 3.0
    world.act(1, lambda raft: raft.tick(world.now))
    world.deliver_all(only=lambda packet: not getattr(packet.message, "entries", ()))
    world.act(1, lambda raft: raft.read_index(1, world.now))
    world.deliver_all(only=lambda packet: not getattr(packet.message, "entries", ()))
    assert world.hosts[1].reads == [], "ReadIndex: a read before an entry of the own term has committed"
    for _ in range(3):
        world.heartbeat(1)
    assert world.hosts[1].reads == [(1, 2)], "ReadIndex: a read is never confirmed"


def test_8_only_a_leader_takes_reads() -> None:
    world = three()
    world.elect(1)
    assert not world.act(2, lambda raft: raft.read_index(1, world.now)), "ReadIndex: a follower takes a read"


def test_8_a_lone_voter_reads_at_once() -> None:
    world = RaftWorld(config=CONFIG)
    world.found([1])
    world.act(1, lambda raft: raft.tick(0.0))
    world.act(1, lambda raft: raft.read_index(5, 0.0))
    assert world.hosts[1].reads == [(5, 2)], "ReadIndex: a lone voter waits"


def test_7_everybody_compacts_all_the_time_and_nothing_is_lost() -> None:
    world = Simulation(9, CHUNKED)
    world.drop = 0.1
    world.found([1, 2, 3])
    world.until(lambda: world.leader() is not None)
    for number in range(30):
        if (leader := world.leader()) is not None:
            world.propose(leader, b"%d" % number)
        world.run(0.2)
        world.hosts[1 + number % 3].compact()
    world.drop = 0.0
    world.run(8.0)
    assert len({tuple(host.applied) for host in world.hosts.values()}) == 1, (
        "StateMachineSafety: not the same commands in one order everywhere"
    )
