"""The follower's half of Raft: what it does with the entries and snapshots that a leader sends.

`Raft` has applied the term rule before it calls this: the sender leads the current term, and this server
follows it. This leaves the receiver's steps of the paper's Figure 2 (AppendEntries) and Figure 13
(InstallSnapshot):

    1  a message that no leader can have sent is dropped, and counted by reason (validation.py)
    2  entries whose predecessor is not in the log are rejected, with a hint where to look (conflicts.py)
    3  an entry that conflicts with a new one is cut off, with all that follow it   } `RaftLog.merge`
    4  new entries are appended                                                     }
    5  the commit index follows the leader's, as far as this request shows that the logs agree

An acknowledgement makes two promises: "my log agrees with yours up to here", which holds at once, and "a
crash cannot take it from me", which holds after a sync. So when the disk is behind, the follower answers
twice. The first answer covers what is already durable, so that CheckQuorum does not take a slow disk for a
dead server; the second covers the rest, and waits in the outbox.

Why the commit index is limited to what the request covers. Follower and leader, terms by index:

    index       1  2  3  4  5
    leader      1  1  3  3  3      leader_commit 5, the request: prev 2, entry 3
    follower    1  1  2  2  2      3 is replaced, 4 and 5 go with it: the log ends at 3

    with prev 2 and no entry (a heartbeat), the log keeps its 3, 4 and 5 of term 2. A follower that believed
    leader_commit as far as its own log reaches would apply three entries that the leader does not have.

Invariants: the commit index never exceeds the index up to which the log is known to agree with the
leader's; no acknowledged index exceeds what is durable when the message leaves.

Deliberately left out: terms, roles and timers (raft.py).
"""

from __future__ import annotations

from collections.abc import Callable

from walrus.consensus.conflicts import conflict_hint
from walrus.consensus.log import RaftLog
from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    RaftTrace,
)
from walrus.consensus.outbox import RaftOutbox
from walrus.consensus.snapshot import SnapshotReceiver
from walrus.consensus.validation import entries_flaw, snapshot_flaw


class Following:
    """What a server does with its leader's messages; it exists in every role, and is used in one."""

    __slots__ = ("_event", "_log", "_membership_changed", "_outbox", "_receiver")

    def __init__(
        self,
        *,
        log: RaftLog,
        outbox: RaftOutbox,
        event: RaftTrace,
        membership_changed: Callable[[float], None],
    ) -> None:
        self._log, self._outbox = log, outbox
        self._event, self._membership_changed = event, membership_changed
        # Both callbacks lead back into `Raft`: what is recorded shows its role and term, and a membership
        # that arrives may make a learner of a voter.
        self._receiver = SnapshotReceiver()

    def forget_snapshot(self) -> None:
        """Drop a snapshot that was half received: this server leads now."""
        self._receiver.forget()
        assert self._receiver.held == 0

    # ------------------------------------------------------------------------------------------ entries

    def on_append_entries(self, sender: int, message: AppendEntriesRequest, now: float) -> str | None:
        """The receiver's steps 2 to 5 of paper Figure 2; returns the reason to drop the message, if any."""
        if reason := entries_flaw(message, self._log, self._log.commit_index):
            return reason
        if not self._log.matches(message.prev_log_index, message.prev_log_term):
            self._reject(sender, message)
            return None
        upto = message.prev_log_index + len(message.entries)
        added = self._log.merge(message.entries)
        assert 0 <= added <= len(message.entries), "LogMatching: more is added than was sent"
        assert upto <= self._log.last_index, "LogMatching: all of the request is in our log"
        self._event(
            "AcceptAppendEntriesRequest",
            sender=sender,
            prev_log_index=message.prev_log_index,
            match_index=upto,
            added=added,
        )
        # Not leader_commit itself: beyond `upto` our log may hold entries of an earlier leader, which the
        # request says nothing about.
        self._learn_commit(min(message.leader_commit, upto))
        self._membership_changed(now)
        self._acknowledge(sender, message, upto, added)
        return None

    def _reject(self, sender: int, message: AppendEntriesRequest) -> None:
        """Our log does not hold the predecessor: say where the conflict begins (paper §5.3)."""
        prev = message.prev_log_index
        assert prev > self._log.commit_index, "LeaderCompleteness: what is committed is in a leader's log"
        hint = conflict_hint(self._log, prev)
        self._event("RejectAppendEntriesRequest", sender=sender, prev_log_index=prev)
        self._outbox.send(
            sender,
            AppendEntriesResponse(
                term=message.term,
                round=message.round,
                success=False,
                prev_log_index=prev,
                conflict_term=hint.term,
                conflict_index=hint.index,
            ),
        )

    def _learn_commit(self, index: int) -> None:
        """What the leader has committed, as far as our log is known to agree with its (paper §5.3)."""
        if index > self._log.commit_index:
            self._log.commit_to(index)
            self._event("LearnCommitIndex")
        assert self._log.commit_index >= index, "CommittedNeverLost: the commit index falls"

    def _acknowledge(self, sender: int, message: AppendEntriesRequest, upto: int, added: int) -> None:
        """Answer with what is durable, and once more when the rest is.

        A request that added entries and has none of them durable gets no first answer: another request, or
        the next heartbeat, follows soon enough to show that this server lives.
        """
        assert self._log.holds(upto) or upto < self._log.snapshot_index, (
            "CommittedNeverLost: acknowledging what is not here"
        )

        def answer(match_index: int) -> AppendEntriesResponse:
            return AppendEntriesResponse(
                term=message.term,
                round=message.round,
                success=True,
                prev_log_index=message.prev_log_index,
                match_index=match_index,
            )

        # A heartbeat adds nothing and is always answered at once: CheckQuorum and reads wait for it.
        durable = min(upto, self._log.persisted_index)
        assert durable <= self._log.persisted_index, (
            "CommittedNeverLost: an acknowledgement that a crash could take back"
        )
        if durable == upto or not added:
            self._outbox.send(sender, answer(durable))
        if durable < upto:
            self._outbox.send_after(sender, answer(upto))

    # ---------------------------------------------------------------------------------------- snapshots

    def on_install_snapshot(self, sender: int, message: InstallSnapshotRequest, now: float) -> str | None:
        """A chunk of a snapshot (paper §7, Figure 13); returns the reason to drop the message, if any."""
        if reason := snapshot_flaw(message):
            return reason
        # Entries that follow the snapshot here may be acknowledged already, so a snapshot that the log agrees
        # with must not cut them off (paper Figure 13, step 6).
        if self._log.holds(message.last_index) and self._log.matches(message.last_index, message.last_term):
            # We hold everything it covers: then it only says that all of it is committed.
            self._learn_commit(message.last_index)
            self._membership_changed(now)
            self._answer_snapshot(sender, message, installed=True)
        elif message.last_index <= self._log.commit_index:
            # Late, or from a leader that does not know yet how much is here: nothing to install.
            self._answer_snapshot(sender, message, installed=True)
        elif (snapshot := self._receiver.add(sender, message)) is None:
            self._answer_snapshot(sender, message, installed=False)
        else:
            self._log.install(snapshot)
            self._outbox.note_snapshot(snapshot)
            self._membership_changed(now)
            assert self._log.commit_index == snapshot.index, (
                "StateMachineSafety: a snapshot holds committed entries only"
            )
            self._event("InstallSnapshot", sender=sender, index=snapshot.index)
            self._answer_snapshot(sender, message, installed=True)
        return None

    def _answer_snapshot(self, sender: int, message: InstallSnapshotRequest, installed: bool) -> None:
        """Acknowledge an installed snapshot when it is durable, a chunk of one at once.

        A chunk is kept in memory only and promises nothing: a follower that restarts says 0 bytes, and the
        leader begins anew. An installed snapshot lets the leader send the entries behind it, and count
        this server for everything it covers.
        """
        answer = InstallSnapshotResponse(
            term=message.term,
            round=message.round,
            last_index=message.last_index,
            offset=message.total if installed else self._receiver.held,
            installed=installed,
        )
        assert not installed or self._log.commit_index >= message.last_index, (
            "CommittedNeverLost: installed, and not committed"
        )
        (self._outbox.send_after if installed else self._outbox.send)(sender, answer)
