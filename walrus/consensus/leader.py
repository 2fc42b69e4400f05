"""The leader's half of Raft: what exists only while a server leads, and ends with its term.

* Replication (paper §5.3): each follower is sent what it lacks, pipelined within a byte budget; where the
  logs part is found with one round trip per conflicting term; who is too far behind gets a snapshot (§7).
* The commit rule (paper §5.4.2): an index is committed once a majority of voters holds it durably *and*
  its entry is of the leader's own term. Counting replicas of an older entry is Figure 8's mistake. The
  leader is one of those voters, through what is durable on its own disk: it may send entries before it
  has written them (dissertation §10.2.1), but counts itself only afterwards.
* Rounds: heartbeats are numbered. A round that a majority answered proves that this server led after the
  round began: that confirms reads (dissertation §6.4), keeps the leader in office (CheckQuorum, §6.2),
  and dates the lease (`quorum_contact`).
* Leadership transfer (dissertation §3.10): bring one follower up to date, then tell it to stand.

Invariants, asserted by `check_invariants`: followers are never the leader itself; match_index never
exceeds the leader's last index; no acknowledged round lies ahead of the current one.

Deliberately left out: leases for reads (they trust clocks; ReadIndex costs one round trip and does not).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

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
        self._node_id, self._config, self._log, self._send = node_id, config, log, send
        self.term = term
        self.progress: dict[int, Progress] = {}
        self.since = now
        """Start of the current CheckQuorum window."""
        self.quorum_contact = elected_at
        """A majority heard this server at or after this instant: at first, when it asked for votes."""
        self.round = 0
        self._round_started: deque[tuple[int, float]] = deque([(0, now)])
        self.heartbeat_due = now
        self._reads: deque[tuple[int, int]] = deque()
        self.new_reads: list[int] = []
        self.transfer: Transfer | None = None
        uncommitted = log.entries(log.commit_index + 1, log.last_index + 1)
        self.uncommitted_bytes = sum(map(entry_bytes, uncommitted))
        self.pending = True
        """Is there something to send that the next Ready should carry?"""
        self.membership_changed()

    # --------------------------------------------------------------------------------------- followers

    def membership_changed(self) -> None:
        """Follow the membership: new members are probed, removed ones kept until their removal commits.

        A removed server is still sent entries up to its own removal, so that it learns of it; it counts
        in no majority (paper §6: a server uses the newest configuration in its log).
        """
        settled = self._log.settled_membership
        wanted = {*self._log.membership.members, *settled.members} - {self._node_id}
        for peer in set(self.progress) - wanted:
            del self.progress[peer]
        for peer in wanted - set(self.progress):
            self.progress[peer] = Progress(next_index=self._log.last_index + 1)
        self.progress = {peer: self.progress[peer] for peer in sorted(wanted)}
        self.pending = True

    def _quorum_value(self, mine: int, theirs: dict[int, int]) -> int:
        """The highest value that a majority of the voters has reached."""
        membership = self._log.membership
        values = [mine if voter == self._node_id else theirs[voter] for voter in membership.voters]
        return sorted(values, reverse=True)[membership.quorum - 1]

    def quorum_match(self) -> int:
        """The highest index that a majority of the voters holds durably, this server's own disk included."""
        matches = {peer: progress.match_index for peer, progress in self.progress.items()}
        return self._quorum_value(self._log.persisted_index, matches)

    def has_caught_up(self, peer: int) -> bool:
        """Does what a learner lacks fit into one request? Then it may become a voter (§4.2.1).

        It must also hold, durably, the entry that made it a learner: a voter whose log is empty would be
        taken for one that lost its disk, and would not be believed.
        """
        held = self.progress[peer].match_index if peer in self.progress else 0
        if held < max(self._log.membership_index, self._log.base_index):
            return False
        lacks = held + 1
        within = self._log.entries_within(lacks, self._config.max_append_bytes)
        return lacks + len(within) > self._log.last_index

    def note_appended(self, entry: Entry) -> None:
        """The leader appended an entry of its own."""
        self.uncommitted_bytes += entry_bytes(entry)
        self.pending = True

    def note_committed(self, entries: tuple[Entry, ...]) -> None:
        """These have committed: they leave the backlog, and followers are told."""
        self.uncommitted_bytes -= sum(map(entry_bytes, entries))
        assert self.uncommitted_bytes >= 0
        self.pending = True

    # ----------------------------------------------------------------------------------------- rounds

    def _start_round(self, now: float) -> None:
        """Number what is sent from now on."""
        self.round += 1
        self._round_started.append((self.round, now))
        self._settle_rounds()

    def _settle_rounds(self) -> None:
        """Find the newest round that a majority answered, and forget the ones before it."""
        acked = {peer: progress.acked_round for peer, progress in self.progress.items()}
        confirmed = self._quorum_value(self.round, acked)
        while self._round_started and self._round_started[0][0] <= confirmed:
            self.quorum_contact = max(self.quorum_contact, self._round_started.popleft()[1])

    def confirmed_round(self) -> int:
        """The newest round that a majority of the voters has answered."""
        return self._round_started[0][0] - 1 if self._round_started else self.round

    def heartbeat(self, now: float) -> None:
        """Begin a round and send every follower something, entries or not (paper §5.2)."""
        self.heartbeat_due = now + self._config.heartbeat_interval
        self._start_round(now)
        for peer, progress in self.progress.items():
            self._send_heartbeat(peer, progress, now)
        if self.transfer is not None:
            self._advance_transfer()

    def _send_heartbeat(self, peer: int, progress: Progress, now: float) -> None:
        """An empty request: at the end of what was sent, so that a loss on the way shows as a refusal.

        Who is being sent a snapshot gets one that any log agrees with, at index 0.
        """
        if progress.transfer is not None:
            lost = progress.transfer.sent_at
            if lost is not None and now - lost > self._config.election_timeout:
                progress.transfer.sent_at = None
            self._send_entries(peer, progress, 0, ())
        elif progress.next_index <= self._log.base_index:
            pass  # compacted since: below, a snapshot takes its place
        elif progress.probe_sent or progress.state is ProgressState.REPLICATE:
            self._send_entries(peer, progress, progress.next_index - 1, ())
        self._replicate_to(peer, progress, now)

    def lost_quorum(self, now: float) -> bool:
        """CheckQuorum (dissertation §6.2): has no majority answered for a whole election timeout?"""
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
        return tuple(reads)

    def has_reads(self) -> bool:
        """Would `take_reads` return any?"""
        confirmed = bool(self._reads) and self._reads[0][1] <= self.confirmed_round()
        return confirmed and self.has_committed_in_term()

    def has_committed_in_term(self) -> bool:
        """Has an entry of this leader's own term committed?"""
        return self._log.term_at(self._log.commit_index) == self.term

    # ---------------------------------------------------------------------------------------- sending

    def replicate(self, now: float) -> None:
        """Send each follower what it lacks; one round of heartbeats confirms all reads of this turn."""
        self.pending = False
        if self.new_reads:
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
        if progress.transfer is None and progress.next_index <= self._log.base_index:
            self._start_snapshot(progress)
        if progress.transfer is not None:
            self._send_chunk(peer, progress, now)
            return
        while progress.may_send(self._config.max_inflight_bytes):
            first = progress.state is ProgressState.PROBE
            entries = self._log.entries_within(progress.next_index, self._config.max_append_bytes)
            if not entries and not first:
                break
            self._send_entries(peer, progress, progress.next_index - 1, entries)
            progress.sent(entries)
        known = min(self._log.commit_index, progress.next_index - 1)
        if progress.state is ProgressState.REPLICATE and progress.sent_commit < known:
            self._send_entries(peer, progress, progress.next_index - 1, ())

    def _send_entries(self, peer: int, progress: Progress, prev: int, entries: tuple[Entry, ...]) -> None:
        """One AppendEntriesRequest. The receiver clips leader_commit to what the request covers."""
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
        """The next piece of a snapshot, unless one is under way (paper §7, Figure 13)."""
        transfer = progress.transfer
        assert transfer is not None
        if transfer.sent_at is not None:
            return
        snapshot, start = transfer.snapshot, transfer.offset
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
        self.progress[peer].heard(round_number, now)
        self._settle_rounds()

    def on_append_response(self, peer: int, response: AppendEntriesResponse) -> None:
        """Move a follower's progress by its answer (paper §5.3)."""
        progress = self.progress[peer]
        self.pending = True
        if response.success:
            if progress.transfer is None:
                progress.accepted(response.prev_log_index, response.match_index)
            self._advance_transfer()
        elif not progress.is_stale_refusal(response.prev_log_index):
            progress.refused(self._next_after_conflict(response))

    def _next_after_conflict(self, response: AppendEntriesResponse) -> int:
        """Where to try next: a whole term is skipped at a time (paper §5.3).

        If the leader has the follower's conflicting term too, the logs agree at most up to the leader's
        last entry of it; if not, none of the follower's entries of that term can stay.
        """
        next_index = response.conflict_index
        if response.conflict_term:
            mine = self._log.last_index_of_term(response.conflict_term, response.prev_log_index)
            next_index = mine + 1 if mine is not None else next_index
        return max(1, min(next_index, response.prev_log_index))

    def on_snapshot_response(self, peer: int, response: InstallSnapshotResponse) -> None:
        """The follower installed the snapshot, or holds a part of it and wants the next."""
        progress = self.progress[peer]
        transfer = progress.transfer
        if transfer is None or transfer.snapshot.index != response.last_index:
            return
        self.pending = True
        if response.installed:
            progress.finish_snapshot()
        elif response.offset != transfer.offset and response.offset < len(transfer.snapshot.data):
            transfer.offset, transfer.sent_at = response.offset, None

    # --------------------------------------------------------------------------------------- transfer

    def _advance_transfer(self) -> None:
        """Tell the chosen successor to stand once it has everything (dissertation §3.10)."""
        if self.transfer is None or self.transfer.target not in self.progress:
            return
        if self.progress[self.transfer.target].match_index == self._log.last_index:
            self._send(self.transfer.target, TimeoutNowRequest(term=self.term))

    def start_transfer(self, target: int, now: float) -> None:
        """Hand leadership over; no new proposals meanwhile."""
        self.transfer = Transfer(target=target, deadline=now + self._config.election_timeout)
        self._advance_transfer()

    def hand_over(self, membership: Membership) -> None:
        """Leave office for good, after one's own removal: the voter with the longest log stands at once."""
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
        for progress in self.progress.values():
            progress.check_invariants()
            assert progress.match_index <= self._log.last_index
            assert progress.acked_round <= self.round
