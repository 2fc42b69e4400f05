"""Messages of Raft that no honest node can have sent.

They are well-formed, but accepting them would break an assertion, or the log. `Raft` drops such a message
and counts it under the reason returned here; None means that the message is valid. Whether a valid message
is stale, early or unwelcome is decided where it is handled.

This module has no assertions: everything that it examines comes from outside, and a peer must not be able
to stop this server. The assertions of the other modules rely on its checks:

    assertion elsewhere                             rests on
    entries are appended without a gap              consecutive indexes, behind prev_log_index
    terms never fall along the log                  terms between prev_log_term and the message's term
    a MEMBERSHIP entry can be decoded               `_is_membership`
    committed entries are never truncated           no conflict at or below the commit index
    a rejection is about an uncommitted index       the same, for the predecessor
    a snapshot is not longer than announced         every chunk lies within `total`
    no follower acknowledges what was never sent    match_index <= the leader's last index
    no answer is to a round that has not begun      round <= the leader's current round

It does not defend against a peer that lies consistently: Raft assumes servers that fail by stopping, not
Byzantine ones (paper §2). What it does is turn a bug, a stray process or a flipped bit into a counted
message.
"""

from __future__ import annotations

import msgspec

from walrus.consensus.log import RaftLog
from walrus.consensus.messages import (
    MEMBERSHIP,
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Membership,
)


def entries_flaw(message: AppendEntriesRequest, log: RaftLog, commit_index: int) -> str | None:
    """What no honest leader of the message's term can have sent to the server with this log."""
    index, term = message.prev_log_index, message.prev_log_term
    if index < 0 or term < 0:
        return "entries before the beginning"
    for entry in message.entries:
        if entry.index != index + 1 or not term <= entry.term <= message.term:
            return "entries that do not follow each other"
        if entry.kind is MEMBERSHIP and not _is_membership(entry.data):
            return "a membership that cannot be read"
        index, term = entry.index, entry.term
    # LeaderCompleteness: a leader's log holds every committed entry. A sender whose log does not is no
    # leader, whatever it says.
    if not log.matches(message.prev_log_index, message.prev_log_term):
        unlike = message.prev_log_index <= commit_index
        return "a predecessor that contradicts a committed entry" if unlike else None
    conflict = log.first_conflict(message.entries)
    if conflict is not None and conflict <= commit_index:
        return "entries that contradict committed ones"
    return None


def _is_membership(data: bytes) -> bool:
    """Return whether this decodes as a membership with a voter."""
    try:
        return bool(Membership.decode(data).voters)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def snapshot_flaw(message: InstallSnapshotRequest) -> str | None:
    """What no honest leader can have sent."""
    if message.last_index < 1 or not 1 <= message.last_term <= message.term:
        return "a snapshot of nothing"
    if not 0 <= message.offset <= message.offset + len(message.data) <= message.total:
        return "a chunk outside its snapshot"
    try:
        message.membership.check()
    except ValueError:
        return "a snapshot with an impossible membership"
    return None


def response_flaw(
    message: AppendEntriesResponse | InstallSnapshotResponse, current_round: int, last_index: int
) -> str | None:
    """What no honest follower can have answered to a leader in this round, with a log that ends there."""
    if not 0 <= message.round <= current_round:
        return "an answer to a round that has not begun"
    if isinstance(message, InstallSnapshotResponse):
        return "an answer before the beginning" if message.offset < 0 else None
    if not message.prev_log_index >= 0 or message.conflict_index < 0:
        return "an answer before the beginning"
    if max(message.match_index, message.prev_log_index) > last_index:
        # Believing it would commit entries that do not exist.
        return "an acknowledgement of what was never sent"
    return None
