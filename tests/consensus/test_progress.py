"""What a leader knows of one follower: where to send next, and what need not be sent again."""

from __future__ import annotations

from walrus.consensus.progress import Progress, ProgressState


def test_a_probe_never_goes_below_what_was_acknowledged():
    progress = Progress(next_index=9)
    progress.match_index = 5
    progress.probe_from(2)
    assert (progress.state, progress.next_index) == (ProgressState.PROBE, 6), "LogMatching: 5 is agreed"


def test_an_accepted_probe_goes_on_behind_the_place_where_the_logs_agree():
    """What it carried may not be durable yet; what comes before its place is there."""
    progress = Progress(next_index=8)
    progress.accepted(prev_log_index=7, match_index=3)
    assert (progress.state, progress.match_index, progress.next_index) == (ProgressState.REPLICATE, 3, 8), (
        "CommittedNeverLost: what a probe carried counts before it is durable, or is never sent again"
    )


def test_a_rejection_of_what_was_acknowledged_meanwhile_is_late():
    """Acting on it would send again, one request at a time, what is under way already."""
    progress = Progress(next_index=6)
    progress.accepted(prev_log_index=5, match_index=5)
    assert progress.is_stale_rejection(5), "LogMatching: what was acknowledged is asked for again"
    assert not progress.is_stale_rejection(6), "CommitProgress: a lost request is never sent again"


def test_match_index_increases_monotonically():
    """Answers may arrive in any order: an earlier one, of fewer entries, takes nothing back."""
    progress = Progress(next_index=4)
    progress.accepted(prev_log_index=3, match_index=9)
    progress.accepted(prev_log_index=3, match_index=5)
    assert progress.match_index == 9, "CommittedNeverLost: match_index increases monotonically"
    progress.probe_from(6)
    assert progress.next_index == 10, "LogMatching: what was acknowledged is asked for again"


def test_a_late_acknowledgement_of_all_that_was_asked_for_ends_the_probe():
    """It is the answer to a request from before the probe, and says as much as the probe's own would."""
    progress = Progress(next_index=9)
    progress.probe_from(5)
    progress.accepted(prev_log_index=2, match_index=4)
    assert progress.state is ProgressState.REPLICATE, (
        "CommitProgress: a follower is probed at a place that it has acknowledged"
    )
