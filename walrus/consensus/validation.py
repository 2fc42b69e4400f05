"""Messages of Raft that no honest node can have sent.

They are well-formed, and taking them at their word would break an assertion, or the log. `Raft` drops such a
message and counts it under the reason that is given here; None means that there is nothing wrong with it.
Whether a message is stale, early or unwelcome is another matter, and decided where it is handled.
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
    """What no honest leader of the message's term can have sent to whom this log belongs."""
    index, term = message.prev_log_index, message.prev_log_term
    if index < 0 or term < 0:
        return "entries before the beginning"
    for entry in message.entries:
        if entry.index != index + 1 or not term <= entry.term <= message.term:
            return "entries that do not follow each other"
        if entry.kind is MEMBERSHIP and not _is_membership(entry.data):
            return "a membership that cannot be read"
        index, term = entry.index, entry.term
    if log.matches(message.prev_log_index, message.prev_log_term):
        conflict = log.first_conflict(message.entries)
        if conflict is not None and conflict <= commit_index:
            return "entries that contradict committed ones"
    return None


def _is_membership(data: bytes) -> bool:
    """Does this decode as a membership with a voter?"""
    try:
        return bool(Membership.decode(data).voters)
    except (msgspec.MsgspecError, ValueError):
        return False


def snapshot_flaw(message: InstallSnapshotRequest) -> str | None:
    """What no honest leader can have sent."""
    if message.last_index < 1 or not 1 <= message.last_term <= message.term:
        return "a snapshot of nothing"
    if not 0 <= message.offset <= message.offset + len(message.data) <= message.total:
        return "a piece outside its snapshot"
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
        return "an acknowledgement of what was never sent"
    return None
