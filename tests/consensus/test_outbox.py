"""What leaves a server at once, and what waits for a disk."""

from __future__ import annotations

from walrus.consensus.messages import (
    AppendEntriesResponse,
    Entry,
    HardState,
    Membership,
    Snapshot,
    TimeoutNowRequest,
)
from walrus.consensus.outbox import RaftOutbox

ACKNOWLEDGED = AppendEntriesResponse(term=1, round=1, success=True, prev_log_index=1, match_index=2)


def test_an_acknowledgement_waits_for_the_last_write_under_way_and_is_not_lost():
    outbox = RaftOutbox(HardState(1))
    first, last = outbox.make_ready((Entry(1, 2),)), outbox.make_ready((Entry(1, 3),))
    outbox.send_after(2, ACKNOWLEDGED)
    assert outbox.make_ready().messages == (), "CommittedNeverLost: acknowledged before it is durable"
    outbox.persisted(first)
    assert outbox.make_ready().messages == (), "CommittedNeverLost: acknowledged with an earlier write"
    outbox.persisted(last)
    assert outbox.make_ready().messages == ((2, ACKNOWLEDGED),), "CommitProgress: never acknowledged"


def test_one_sync_covers_the_vote_of_an_earlier_write():
    outbox = RaftOutbox(HardState(1))
    outbox.note_hard_state(HardState(2, 1))
    outbox.make_ready()
    last = outbox.make_ready((Entry(1, 2),))
    assert outbox.hard_state_pending, "ElectionSafety: a vote counts before it is durable"
    outbox.persisted(last)
    assert not outbox.hard_state_pending, "CommitProgress: a durable vote never counts"


def test_a_vote_that_is_cast_during_a_sync_waits_for_the_next_one():
    outbox = RaftOutbox(HardState(1))
    written = outbox.make_ready((Entry(1, 2),))
    outbox.note_hard_state(HardState(2, 1))
    outbox.persisted(written)
    assert outbox.hard_state_pending, "ElectionSafety: a vote counts before it is durable"
    outbox.send(3, TimeoutNowRequest(term=2))
    assert outbox.make_ready().messages == (), "ElectionSafety: a vote is told before it is durable"


def test_a_snapshot_to_install_replaces_a_checkpoint_of_the_same_turn():
    """It is newer than anything applied here; the journal would keep the older of the two."""
    outbox = RaftOutbox(HardState(1))
    outbox.note_checkpoint(Snapshot(4, 1, Membership((1, 2, 3)), b"ours"))
    installed = Snapshot(9, 1, Membership((1, 2, 3)), b"the leader's")
    outbox.note_snapshot(installed)
    ready = outbox.make_ready()
    assert (ready.snapshot, ready.checkpoint) == (installed, None), (
        "StateMachineSafety: two snapshots at once"
    )
    assert ready.hard_state == HardState(1), "ElectionSafety: a snapshot replaces the record of term and vote"
