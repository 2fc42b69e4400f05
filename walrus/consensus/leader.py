"""The leader's half of Raft: what exists only while a server leads, and ends with its term.

* Replication (paper §5.3): the leader sends each follower the entries that it lacks, pipelined within a
  byte budget. It finds where the logs diverge with one round trip per conflicting term (conflicts.py). A
  follower whose next entry has been compacted away gets a snapshot (paper §7).
* The commit rule (paper §5.4.2): an index is committed once a majority of voters holds it durably *and*
  its entry is of the leader's own term. Counting replicas of an older entry is Figure 8's mistake. The
  leader is one of those voters, through what is durable on its own disk: it may send entries before it
  has written them (dissertation §10.2.1), but counts itself only afterwards.
* Rounds: heartbeats are numbered. A round that a majority answered proves that this server still led after
  the round began. That confirms reads (dissertation §6.4), satisfies CheckQuorum (§6.2), and dates the
  lease (`quorum_contact`).
* Leadership transfer (dissertation §3.10): bring one follower up to date, then tell it to campaign.

The commit index is the median of what the voters hold, if that entry is of the leader's term. With five
voters, of which the leader's own disk is one, sorted downwards:

    match_index of                  durable on a majority    term of that entry    the commit index is
    9 8 7 4 2   (leader: 9)         7                        the leader's          7
    9 8 7 4 2   (leader: 2)         7: a slow disk of its own does not hold the leader up
    9 7 5 4 2                       5                        an older one          unchanged (Figure 8)

Rounds are counted the same way. Three voters; rounds 7 and 8 began at 10.0 s and 10.1 s:

    answered by the two followers    confirmed    `quorum_contact`
    6 and 6                          6            when round 6 began
    7 and 6                          7            10.0, however late the answer came
    8 and 6                          8            10.1

A read, step by step, and the mistake that each step prevents:

    a read arrives                it waits for the next round, which starts after it arrived. Joining a
                                  round in progress would use answers older than the read, and a newer
                                  leader may have committed something between the two.
    a majority answers the round  this server still led when the round began, so whatever was committed
                                  before the read arrived was committed by it, or by a leader before it.
    an entry of this term         until then the leader's commit index may be behind what its predecessors
    has committed                 committed; its log holds all of it (LeaderCompleteness).
    the read is confirmed         at the commit index of *this* moment, which covers everything committed
                                  before the read. One index less would hide the newest entry.

Invariants, asserted by `check_invariants`: followers are never the leader itself; match_index never exceeds
the leader's last index; no acknowledged round lies ahead of the current one; unconfirmed rounds, and the
reads that wait for one, are in order.

Deliberately left out: lease-based reads (they trust clocks; ReadIndex costs one round trip and does not).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from walrus.consensus.conflicts import Conflict, next_after_conflict
from walrus.consensus.log import RaftLog, entry_bytes
from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Membership,
    RaftConfig,
    RaftMessage,
    TimeoutNowRequest,
)
from walrus.consensus.progress import Progress, ProgressState


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A leadership transfer under way; given up at `deadline` (dissertation §3.10)."""

    target: int
    deadline: float


class Leadership:
    """Everything a leader knows that a follower does not."""

    __slots__ = (
        "_config",
        "_log",
        "_node_id",
        "_reads",
        "_round_started",
        "_send",
        "heartbeat_due",
        "new_reads",
        "pending",
        "progress",
        "quorum_contact",
        "round",
        "since",
        "term",
        "transfer",
        "uncommitted_bytes",
    )

    def __init__(
        self,
        *,
        node_id: int,
        term: int,
        config: RaftConfig,
        log: RaftLog,
        send: Callable[[int, RaftMessage], None],
        now: float,
        elected_at: float,
    ) -> None:
        assert elected_at <= now, "ElectionSafety: elected before it asked for votes"
        assert log.last_term < term, (
            "LeaderAppendOnly: nothing of a leader's term is in its log before it leads"
        )
        self._node_id, self._config, self._log, self._send = node_id, config, log, send
        self.term = term
        self.progress: dict[int, Progress] = {}
        self.since = now
        """Start of the current CheckQuorum window."""
        self.quorum_contact = elected_at
        """A majority heard this server at or after this instant: at first, when it asked for votes."""
        self.round = 0
        self._round_started: deque[tuple[int, float]] = deque([(0, now)])
        """(number, start) of each round that no majority has answered yet."""
        self.heartbeat_due = now
        self._reads: deque[tuple[int, int]] = deque()
        """(context, round that confirms it), in the order of the rounds."""
        self.new_reads: list[int] = []
        """Contexts of reads that the next round will be started for."""
        self.transfer: Transfer | None = None
        uncommitted = log.entries(log.commit_index + 1, log.last_index + 1)
        self.uncommitted_bytes = sum(map(entry_bytes, uncommitted))
        self.pending = True
        """Whether there is something to send that the next Ready should carry."""
        self.membership_changed()

    # --------------------------------------------------------------------------------------- followers

    def membership_changed(self) -> None:
        """Follow the membership: new members are probed, removed ones kept until their removal commits.

        A removed server is still sent entries up to its own removal, so that it learns of it; it counts
        in no majority (paper §6: a server uses the newest configuration in its log).
        """
        committed = self._log.committed_membership
        wanted = {*self._log.membership.members, *committed.members} - {self._node_id}
        for peer in set(self.progress) - wanted:
            del self.progress[peer]
        for peer in wanted - set(self.progress):
            self.progress[peer] = Progress(next_index=self._log.last_index + 1)
        # Sorted, so that messages leave in the same order in every run of the same seed.
        self.progress = {peer: self.progress[peer] for peer in sorted(wanted)}
        self.pending = True
        assert set(self._log.membership.voters) <= {*self.progress, self._node_id}, (
            "CommitProgress: a voter without progress"
        )

    def _quorum_value(self, mine: int, theirs: dict[int, int]) -> int:
        """The highest value that a majority of the voters has reached."""
        membership = self._log.membership
        # A leader that is being removed is no voter: its own value does not count (dissertation §4.2.2).
        values = [mine if voter == self._node_id else theirs[voter] for voter in membership.voters]
        value = sorted(values, reverse=True)[membership.quorum - 1]
        reached = [one for one in values if one >= value]
        assert len(reached) >= membership.quorum, "CommittedNeverLost: no majority has reached it"
        return value

    def quorum_match(self) -> int:
        """The highest index that a majority of the voters holds durably, this server's own disk included."""
        matches = {peer: progress.match_index for peer, progress in self.progress.items()}
        index = self._quorum_value(self._log.persisted_index, matches)
        assert index <= self._log.last_index, "CommittedNeverLost: a majority holds more than the leader"
        return index

    def has_caught_up(self, peer: int) -> bool:
        """Return whether what a learner lacks fits into one request: then it may become a voter (§4.2.1).

        It must also hold, durably, the entry that made it a learner: a voter whose log is empty would be
        taken for one that lost its disk, and would not be believed.
        """
        held = self.progress[peer].match_index if peer in self.progress else 0
        if held < max(self._log.membership_index, self._log.snapshot_index):
            return False
        assert held <= self._log.last_index
        lacks = held + 1
        within = self._log.entries_within(lacks, self._config.max_append_bytes)
        return lacks + len(within) > self._log.last_index

    def note_appended(self, entry: Entry) -> None:
        """The leader appended an entry of its own."""
        assert entry.term == self.term, "LeaderAppendOnly: a leader appends entries of its own term"
        assert entry.index == self._log.last_index, "LeaderAppendOnly: an entry elsewhere than at the end"
        self.uncommitted_bytes += entry_bytes(entry)
        self.pending = True

    def note_committed(self, entries: tuple[Entry, ...]) -> None:
        """These have committed: they leave the backlog, and followers are told."""
        assert entries and entries[-1].index == self._log.commit_index
        self.uncommitted_bytes -= sum(map(entry_bytes, entries))
        assert self.uncommitted_bytes >= 0, "CommittedNeverLost: more has committed than was appended"
        self.pending = True

    # ----------------------------------------------------------------------------------------- rounds

    def _start_round(self, now: float) -> None:
        """Number what is sent from here on."""
        self.round += 1
        self._round_started.append((self.round, now))
        self._confirm_rounds()

    def _confirm_rounds(self) -> None:
        """Find the newest round that a majority answered, and forget the ones before it.

        `quorum_contact` is when that round *began*, not when its answers arrived: a follower promises to
        leave a leader alone for an election timeout after it heard of it, and it cannot have heard of the
        round earlier than that.
        """
        acked = {peer: progress.acked_round for peer, progress in self.progress.items()}
        confirmed = self._quorum_value(self.round, acked)
        while self._round_started and self._round_started[0][0] <= confirmed:
            self.quorum_contact = max(self.quorum_contact, self._round_started.popleft()[1])
        assert self.confirmed_round() <= self.round, "a round is confirmed that has not begun"

    def confirmed_round(self) -> int:
        """The newest round that a majority of the voters has answered."""
        return self._round_started[0][0] - 1 if self._round_started else self.round

    def heartbeat(self, now: float) -> None:
        """Start a round and send every follower something, entries or not (paper §5.2)."""
        self.heartbeat_due = now + self._config.heartbeat_interval
        self._start_round(now)
        for peer, progress in self.progress.items():
            self._send_heartbeat(peer, progress, now)
        if self.transfer is not None:
            self._advance_transfer()
        assert self.heartbeat_due > now, "a host that waits for the next deadline must not spin"

    def _send_heartbeat(self, peer: int, progress: Progress, now: float) -> None:
        """An empty request behind the last one that was sent: a loss on the way shows as a rejection.

        While a snapshot transfer runs, heartbeats carry prev_log_index 0, which matches every log: the
        follower must hear of this leader, and its log is going to be replaced. The transfer's chunk is
        sent again if it went unanswered for an election timeout.
        """
        if progress.transfer is not None:
            sent_at = progress.transfer.sent_at
            if sent_at is not None and now - sent_at > self._config.election_timeout:
                progress.transfer.sent_at = None
            self._send_entries(peer, progress, 0, ())
        elif progress.next_index <= self._log.snapshot_index:
            pass  # compacted since the last message: `_replicate_to` below starts a snapshot instead
        elif progress.probe_sent or progress.state is ProgressState.REPLICATE:
            self._send_entries(peer, progress, progress.next_index - 1, ())
        self._replicate_to(peer, progress, now)

    def lost_quorum(self, now: float) -> bool:
        """Return whether no majority has answered for an election timeout (CheckQuorum, §6.2)."""
        return now >= self._quorum_deadline()

    def _quorum_deadline(self) -> float:
        """One expression for "when" and "whether", so that a host that waits for it does not spin."""
        return max(self.quorum_contact, self.since) + self._config.election_timeout

    def take_reads(self) -> tuple[tuple[int, int], ...]:
        """Reads whose round is confirmed, at the commit index (dissertation §6.4).

        Not before an entry of this term has committed: only then does the leader know what is committed.
        """
        if not self._reads or not self.has_committed_in_term():
            return ()
        confirmed, reads = self.confirmed_round(), []
        while self._reads and self._reads[0][1] <= confirmed:
            reads.append((self._reads.popleft()[0], self._log.commit_index))
        assert not self.has_reads(), "a confirmed read was left behind"
        return tuple(reads)

    def has_reads(self) -> bool:
        """Return whether `take_reads` would return any."""
        confirmed = bool(self._reads) and self._reads[0][1] <= self.confirmed_round()
        return confirmed and self.has_committed_in_term()

    def has_committed_in_term(self) -> bool:
        """Return whether an entry of this leader's own term has committed."""
        return self._log.term_at(self._log.commit_index) == self.term

    # ---------------------------------------------------------------------------------------- sending

    def replicate(self, now: float) -> None:
        """Send each follower what it lacks; one round of heartbeats confirms all reads of this turn."""
        self.pending = False
        if self.new_reads:
            # A round of its own, even while an earlier one is under way: an answer to that one may have
            # been sent before these reads arrived.
            self._start_round(now)
            self._reads.extend((context, self.round) for context in self.new_reads)
            self.new_reads.clear()
            for peer, progress in self.progress.items():
                self._send_heartbeat(peer, progress, now)
            return
        for peer, progress in self.progress.items():
            self._replicate_to(peer, progress, now)

    def _replicate_to(self, peer: int, progress: Progress, now: float) -> None:
        """As many requests as the byte budget allows (dissertation §10.2.2, pipelining)."""
        # A transfer that is under way goes on even if the leader has compacted further meanwhile. Starting
        # anew with each compaction might never come to an end.
        if progress.transfer is None and progress.next_index <= self._log.snapshot_index:
            self._start_snapshot(progress)
        if progress.transfer is not None:
            self._send_chunk(peer, progress, now)
            return
        assert progress.next_index > self._log.snapshot_index, (
            "StateMachineSafety: these entries are compacted away"
        )
        while progress.may_send(self._config.max_inflight_bytes):
            first = progress.state is ProgressState.PROBE
            entries = self._log.entries_within(progress.next_index, self._config.max_append_bytes)
            if not entries and not first:
                break  # a probe goes out even without entries: it asks where the logs agree
            self._send_entries(peer, progress, progress.next_index - 1, entries)
            progress.sent(entries)
        # The commit index travels with entries. When there are none to send, an empty request takes it to
        # the follower at once, rather than with the next heartbeat.
        known = min(self._log.commit_index, progress.next_index - 1)
        if progress.state is ProgressState.REPLICATE and progress.sent_commit < known:
            self._send_entries(peer, progress, progress.next_index - 1, ())

    def _send_entries(self, peer: int, progress: Progress, prev: int, entries: tuple[Entry, ...]) -> None:
        """One AppendEntriesRequest. The receiver clips leader_commit to what the request covers."""
        assert not entries or entries[0].index == prev + 1, "LogMatching: entries follow their predecessor"
        self._send(
            peer,
            AppendEntriesRequest(
                term=self.term,
                round=self.round,
                prev_log_index=prev,
                prev_log_term=self._log.term_at(prev) if prev else 0,
                leader_commit=self._log.commit_index,
                entries=entries,
            ),
        )
        if progress.state is ProgressState.REPLICATE:
            progress.sent_commit = min(self._log.commit_index, prev + len(entries))

    def _start_snapshot(self, progress: Progress) -> None:
        assert self._log.snapshot is not None, "a log is compacted only into a snapshot"
        progress.start_snapshot(self._log.snapshot)

    def _send_chunk(self, peer: int, progress: Progress, now: float) -> None:
        """The next chunk of a snapshot, unless one is under way (paper §7, Figure 13)."""
        transfer = progress.transfer
        assert transfer is not None, "no snapshot is being sent to it"
        if transfer.sent_at is not None:
            return
        snapshot, start = transfer.snapshot, transfer.offset
        assert 0 <= start <= len(snapshot.data)
        transfer.sent_at = now
        self._send(
            peer,
            InstallSnapshotRequest(
                term=self.term,
                round=self.round,
                last_index=snapshot.index,
                last_term=snapshot.term,
                membership=snapshot.membership,
                offset=start,
                total=len(snapshot.data),
                data=snapshot.data[start : start + self._config.snapshot_chunk_bytes],
            ),
        )

    # ---------------------------------------------------------------------------------------- answers

    def heard(self, peer: int, round_number: int, now: float) -> None:
        """A follower answered something that was sent in this round."""
        assert round_number <= self.round, "an answer to a round that has not begun"
        self.progress[peer].heard(round_number, now)
        self._confirm_rounds()

    def on_append_response(self, peer: int, response: AppendEntriesResponse) -> None:
        """Move a follower's progress by its answer (paper §5.3)."""
        assert response.term == self.term, "ElectionSafety: an answer of another term counts"
        progress = self.progress[peer]
        self.pending = True
        if response.success:
            if progress.transfer is None:
                progress.accepted(response.prev_log_index, response.match_index)
            self._advance_transfer()
        elif not progress.is_stale_rejection(response.prev_log_index):
            hint = Conflict(response.conflict_term, response.conflict_index)
            progress.rejected(next_after_conflict(self._log, response.prev_log_index, hint))

    def on_snapshot_response(self, peer: int, response: InstallSnapshotResponse) -> None:
        """The follower installed the snapshot, or holds a part of it and wants the next chunk.

        An answer about another snapshot than the one being sent is late, and tells nothing. So is an
        offset that has not moved: the chunk at that place is under way, and the heartbeat sends it again
        if it got lost.
        """
        progress = self.progress[peer]
        transfer = progress.transfer
        if transfer is None or transfer.snapshot.index != response.last_index:
            return
        self.pending = True
        if response.installed:
            progress.finish_snapshot()
            assert progress.match_index >= response.last_index, (
                "CommittedNeverLost: installed, and not counted"
            )
        elif response.offset != transfer.offset and response.offset < len(transfer.snapshot.data):
            transfer.offset, transfer.sent_at = response.offset, None

    # --------------------------------------------------------------------------------------- transfer

    def _advance_transfer(self) -> None:
        """Tell the chosen successor to campaign once it has everything (dissertation §3.10)."""
        if self.transfer is None or self.transfer.target not in self.progress:
            return  # the target was removed meanwhile; the deadline ends the transfer
        # Sent again with every heartbeat and answer until the transfer ends: the request may be lost, and
        # a follower that campaigns already ignores it.
        if self.progress[self.transfer.target].match_index == self._log.last_index:
            self._send(self.transfer.target, TimeoutNowRequest(term=self.term))

    def start_transfer(self, target: int, now: float) -> None:
        """Transfer leadership; no proposals are accepted meanwhile, so that the target can catch up."""
        assert target != self._node_id and self.transfer is None
        self.transfer = Transfer(target=target, deadline=now + self._config.election_timeout)
        self._advance_transfer()

    def name_successor(self, membership: Membership) -> None:
        """After the leader's own removal: tell the voter with the longest log to campaign at once.

        Without it the cluster would wait out an election timeout. Any voter would do for safety; the one
        that is most up to date is the one that cannot lose to another's log.
        """
        assert self._node_id not in membership.voters, "a voter that leads has no reason to leave"
        # `progress` still has all of them: it follows the membership in force, which this is.
        voters = [peer for peer in membership.voters if peer in self.progress]
        if voters:
            best = max(voters, key=lambda peer: (self.progress[peer].match_index, -peer))
            self._send(best, TimeoutNowRequest(term=self.term))

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        deadline = min(self.heartbeat_due, self._quorum_deadline())
        return deadline if self.transfer is None else min(deadline, self.transfer.deadline)

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert self._node_id not in self.progress
        assert list(self.progress) == sorted(self.progress), "equal seeds must give equal runs"
        for progress in self.progress.values():
            progress.check_invariants()
            assert progress.match_index <= self._log.last_index, (
                "LogMatching: a follower holds more than the leader"
            )
            assert progress.next_index <= self._log.last_index + 1, (
                "LogMatching: a follower is sent more than the leader has"
            )
            assert progress.acked_round <= self.round, "a round is answered that has not begun"
        rounds = [number for number, _ in self._round_started]
        assert rounds == sorted(set(rounds)) and all(number <= self.round for number in rounds), (
            "rounds out of their order"
        )
        waiting = [number for _, number in self._reads]
        assert waiting == sorted(waiting), "reads out of the order of their rounds"
