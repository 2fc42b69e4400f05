"""The parts of a Raft server by themselves: rules that a whole cluster shows only now and then."""

from __future__ import annotations

import random

import pytest

from tests.consensus.test_replication import append
from walrus.consensus.election import Election
from walrus.consensus.follower import Following
from walrus.consensus.leader import Leadership
from walrus.consensus.log import LogPosition, RaftLog
from walrus.consensus.messages import (
    COMMAND,
    AppendEntriesResponse,
    Entry,
    HardState,
    InstallSnapshotRequest,
    Membership,
    RaftConfig,
    RaftMessage,
    Restored,
    Snapshot,
    TimeoutNowRequest,
)
from walrus.consensus.outbox import RaftOutbox
from walrus.consensus.progress import Progress
from walrus.consensus.snapshot import SnapshotReceiver
from walrus.consensus.validation import entries_flaw, response_flaw, snapshot_flaw

THREE = Membership((1, 2, 3))


def log_of(*terms: int, snapshot: Snapshot | None = None) -> RaftLog:
    first = snapshot.index + 1 if snapshot else 1
    entries = tuple(Entry(term, index, COMMAND, b"") for index, term in enumerate(terms, first))
    return RaftLog(Restored(entries=entries, snapshot=snapshot, membership=THREE))


def chunk(term: int, last_term: int = 1, offset: int = 0) -> InstallSnapshotRequest:
    return InstallSnapshotRequest(
        term=term,
        round=0,
        last_index=7,
        last_term=last_term,
        membership=THREE,
        offset=offset,
        total=4,
        data=b"ab",
    )


def an_election() -> Election:
    election = Election(RaftConfig(heartbeat_interval=0.1, election_timeout=1.0), random.Random(1))
    election.begin(10.0)
    return election


# --- progress ---


def test_an_answer_to_an_earlier_round_that_comes_late_takes_nothing_back() -> None:
    progress = Progress(next_index=1)
    progress.heard(5, 1.0)
    progress.heard(3, 2.0)
    assert progress.acked_round == 5, "ElectionSafety: a leader forgets that it was heard"


# --- elections ---


def test_the_first_answer_of_a_voter_counts_whatever_it_says_later() -> None:
    election = an_election()
    election.collect(2, True)
    election.collect(3, False)
    election.collect(2, False)
    election.collect(3, True)
    assert (election.granted, election.refused) == ({2}, {3}), "ElectionSafety: one voter says both"


def test_a_server_yields_to_one_that_has_refused_it() -> None:
    """It may have refused before it noticed that the leader is gone; both would wait for a timeout."""
    election = an_election()
    mine, theirs = (LogPosition(2, 2), 3), (LogPosition(2, 2), 2)
    assert not election.yields_to(mine, theirs, 10.0), "CommitProgress: both yield"
    election.collect(2, False)
    assert election.yields_to(mine, theirs, 10.0), "CommitProgress: both wait"


def test_a_timer_that_is_shortened_is_never_prolonged() -> None:
    election = an_election()
    election.deadline = 10.0
    election.expire_soon(20.0)
    assert election.deadline == 10.0, "CommitProgress: a timer is prolonged"


# --- snapshots ---


def test_a_piece_of_a_later_term_begins_the_snapshot_anew() -> None:
    receiver = SnapshotReceiver()
    assert receiver.add(1, chunk(2)) is None and receiver.held == 2
    assert receiver.add(1, chunk(3, offset=2)) is None and receiver.held == 0, (
        "StateMachineSafety: pieces of two terms make one snapshot"
    )


def test_a_server_that_leads_holds_no_half_of_a_snapshot() -> None:
    following = Following(
        log=log_of(),
        outbox=RaftOutbox(HardState(2)),
        event=lambda *_, **__: None,
        membership_changed=lambda now: None,
    )
    assert following.on_install_snapshot(1, chunk(2), 0.0) is None
    following.forget_snapshot()
    assert following._receiver.held == 0, "StateMachineSafety: half a snapshot is kept"


# --- messages that no honest server sends ---


def test_entries_that_contradict_the_last_committed_one_are_refused() -> None:
    log = log_of(1, 1, 1)
    message = append(2, prev=(2, 1), entries=[(3, 2)])
    assert entries_flaw(message, log, 2) is None
    assert entries_flaw(message, log, 3), "CommittedNeverLost: what is committed would be cut off"


@pytest.mark.parametrize(("prev", "match"), [(4, 0), (0, 4)])
def test_an_answer_about_entries_that_the_leader_does_not_have_is_refused(prev: int, match: int) -> None:
    answer = AppendEntriesResponse(term=2, round=0, success=True, prev_log_index=prev, match_index=match)
    assert response_flaw(answer, 0, 4) is None
    assert response_flaw(answer, 0, 3), "LogMatching: a follower holds more than the leader"


def test_a_snapshot_of_a_later_term_than_its_leaders_is_refused() -> None:
    assert snapshot_flaw(chunk(2, last_term=2)) is None
    assert snapshot_flaw(chunk(2, last_term=3)), "ElectionSafety: a leader of a term that has not begun"


# --- the log and the leader ---


def test_the_last_entry_of_a_snapshot_is_one_of_its_term() -> None:
    """A follower whose log ends there is asked to go on from there, and not sent the snapshot."""
    log = log_of(3, 3, snapshot=Snapshot(5, 2, THREE, b""))
    assert log.last_index_of_term(2, 7) == 5, "LogMatching: the logs agree there"


def test_a_leader_that_was_removed_names_a_voter_and_no_learner() -> None:
    sent: list[tuple[int, RaftMessage]] = []
    log = RaftLog(Restored(membership=Membership((1, 2, 3), (4,))))
    leading = Leadership(
        node_id=1,
        term=2,
        config=RaftConfig(),
        log=log,
        send=lambda to, message: sent.append((to, message)),
        now=0.0,
        elected_at=0.0,
    )
    leading.progress[4].next_index, leading.progress[4].match_index = 9, 8
    leading.name_successor(Membership((2, 3), (4,)))
    assert sent == [(2, TimeoutNowRequest(term=2))], "CommitProgress: one is named that cannot campaign"
