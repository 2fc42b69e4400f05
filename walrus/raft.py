"""Raft: one server of a replicated log, as a function with memory.

The inputs are `step` (a message arrived), `tick` (time passed), `propose` (a client wants a change) and
`persisted` (the disk is done). The output is one frozen value, `Ready`, which says what to write, what to
send before that is durable, what to send only afterwards, and what to apply. There are no sockets, clocks
or threads: `now` (a number) and `rng` are arguments, and peers are visited in sorted order, so equal seeds
give equal runs. The docstring of `Ready` is the host's contract, and says what breaks without it.

The protocol in brief; docs/raft.md has a glossary and a reading guide. "Paper" is Ongaro and Ousterhout,
"In Search of an Understandable Consensus Algorithm" (extended version), "dissertation" is Ongaro's
"Consensus: Bridging Theory and Practice"; a bare § belongs to the work named before it:

* Time is divided into terms, each with at most one leader (paper §5.1, §5.2). Every message carries a
  term: a newer one turns the receiver into a follower, an older one is answered with the newer or dropped.
* A follower that hears no leader for a random time asks for pre-votes (dissertation §9.6), then campaigns:
  it votes for itself and asks the others (paper §5.2). They vote once per term, only for a log at least as
  complete as theirs (paper §5.4.1), and not while they hear from a live leader (dissertation §4.2.3).
* The leader appends and replicates (paper §5.3). Once a majority durably holds an entry of the leader's own
  term, that entry and all before it are committed (paper §5.4.2).
* Membership changes by one server at a time. Each change is an entry that takes effect once appended
  (dissertation §4.1), and none is made before the leader has committed an entry of its own term. Learners
  receive without voting (dissertation §4.2.1). A leader that is removed steps down once the removal is
  committed (§4.2.2).
* Applied entries are replaced by snapshots (paper §7); reads are confirmed by a round of heartbeats
  (dissertation §6.4); a leader that gets no answer from a majority steps down (dissertation §6.2).

This module is the front door. It has the term rule and the meaning of each message in each role, and
exports what a host needs (`__all__`). The modules behind it, in walrus/consensus/, in reading order:

    messages     entries, the nine messages, Ready, RaftConfig: the vocabulary
    log          RaftLog: entries behind a snapshot, with the marks for committed, durable, applied
    election     Election: the timer, the votes, the tie-break
    outbox       RaftOutbox: which message waits for which sync
    conflicts    where a follower's log and the leader's part
    snapshot     SnapshotReceiver: a snapshot from its chunks
    follower     Following: what a follower does with entries and snapshots
    progress     Progress: one follower as the leader sees it
    leader       Leadership: replication, rounds, reads, transfer; exists only while this server leads
    validation   messages that no honest node can have sent
    journal      RaftJournal: term, vote and log on disk, where every prefix is a state

What a message means depends on the role of the server that receives it. Its term is already known not to be
older than ours; "-" means that it is dropped:

    message                   follower          learner    pre-candidate    candidate    leader
    PreVoteRequest            grant, unless a leader is heard or its log is behind ours      refuse
    RequestVoteRequest        vote, unless another has this term's vote or its log is behind ours
    PreVoteResponse           -                 -          collect          -            -
    RequestVoteResponse       -                 -          -                collect      -
    AppendEntriesRequest      store             store      follow, store    follow, store  (impossible)
    InstallSnapshotRequest    store             store      follow, store    follow, store  (impossible)
    AppendEntriesResponse     -                 -          -                -            move progress
    InstallSnapshotResponse   -                 -          -                -            move progress
    TimeoutNowRequest         campaign, if its  -          -                -            -
                              leader asks

A learner may vote: an entry that it has not received may have made it a voter, and the candidate that asks
knows more. "impossible": a second leader of one term would break ElectionSafety, so the message is dropped
and counted.

Invariants (paper Figure 3; tests/consensus checks them over whole clusters): ElectionSafety,
LeaderAppendOnly, LogMatching, LeaderCompleteness, StateMachineSafety. On one server, asserted by
`check_invariants`: the term never decreases and the vote never changes within a term (only
`_set_term_and_vote` changes them); the leader, and no other server, has a `Leadership`; electable servers
that do not lead, and no others, have an election timer.

Assertions guard against our own mistakes. No message from a peer can trip one: an impossible message
(`consensus/validation.py`) is dropped, and counted by reason in `ignored`.

Deliberately left out: joint consensus (one server at a time suffices and is simpler to check, dissertation
§4.3), lease-based reads, and forwarding proposals to the leader (the controller routes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import assert_never

import msgspec

from walrus.consensus.election import Election
from walrus.consensus.follower import Following
from walrus.consensus.journal import JournalError, RaftJournal
from walrus.consensus.leader import Leadership
from walrus.consensus.log import LogPosition, RaftLog, entry_bytes
from walrus.consensus.messages import (
    COMMAND,
    MEMBERSHIP,
    NO_ROUND,
    NOOP,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Membership,
    PreVoteRequest,
    PreVoteResponse,
    RaftConfig,
    RaftMessage,
    RaftTrace,
    Ready,
    RequestVoteRequest,
    RequestVoteResponse,
    Restored,
    Rng,
    Role,
    Snapshot,
    TimeoutNowRequest,
)
from walrus.consensus.outbox import RaftOutbox
from walrus.consensus.progress import Progress
from walrus.consensus.validation import response_flaw

__all__ = [
    "COMMAND",
    "MEMBERSHIP",
    "NOOP",
    "Entry",
    "EntryKind",
    "JournalError",
    "Membership",
    "Raft",
    "RaftConfig",
    "RaftJournal",
    "RaftMessage",
    "RaftTrace",
    "Ready",
    "Restored",
    "Rng",
    "Role",
    "Snapshot",
]


class Raft:
    """One server. Construct it from what the journal restored; drive it as the module docstring says.

    >>> import random
    >>> founded = Entry(1, 1, MEMBERSHIP, Membership((1,)).encode())
    >>> restored = Restored(hard_state=HardState(1), entries=(founded,))
    >>> raft = Raft(node_id=1, config=RaftConfig(), restored=restored, rng=random.Random(1), now=0.0)
    >>> raft.tick(0.0); raft.persisted(raft.ready(), 0.0); raft.role
    <Role.LEADER: 'Leader'>
    >>> raft.propose(b"x", 0.0)
    3
    >>> raft.persisted(raft.ready(), 0.0); [entry.data for entry in raft.ready().committed][2:]
    [b'x']
    """

    def __init__(
        self,
        *,
        node_id: int,
        config: RaftConfig,
        restored: Restored,
        rng: Rng,
        now: float,
        trace: RaftTrace | None = None,
    ) -> None:
        self.node_id, self.config = node_id, config
        self.log = RaftLog(restored)
        self.leader_id: int | None = None
        self.role = Role.FOLLOWER
        self.ignored: Counter[str] = Counter()
        """How many messages were dropped, by reason."""
        # Term and vote in one value: they change together, and are written together.
        self._hard_state = restored.hard_state
        self._last_contact = -math.inf
        self._last_tick = self._now = now
        self._election = Election(config, rng)
        self._leadership: Leadership | None = None
        self._outbox = RaftOutbox(restored.hard_state)
        self._following = Following(
            log=self.log,
            outbox=self._outbox,
            event=self._event,
            membership_changed=self._membership_changed,
        )
        self._trace = trace
        assert self.log.last_term <= self.current_term, (
            "ElectionSafety: a term was forgotten that the log still shows"
        )
        self._event("Restart", voted_for=self.voted_for)
        self._resume_following(now)
        # Restarted servers wait a whole timeout: the leader, if there is one, is heard before that.
        if self.membership.voters == (node_id,):
            self._election.deadline = now  # there is no leader to wait for

    # -------------------------------------------------------------------------------------- questions

    @property
    def current_term(self) -> int:
        """The latest term this server has seen (paper Figure 2). Changed by `_set_term_and_vote` alone."""
        return self._hard_state.term

    @property
    def voted_for(self) -> int | None:
        """The server it voted for in the current term, if any (paper Figure 2)."""
        return self._hard_state.voted_for

    @property
    def membership(self) -> Membership:
        """The newest membership in the log, committed or not (paper §6)."""
        return self.log.membership

    @property
    def commit_index(self) -> int:
        """The highest index known to be committed (paper Figure 2)."""
        return self.log.commit_index

    @property
    def progress(self) -> dict[int, Progress]:
        """What a leader knows of each follower; empty unless this server leads."""
        return self._leadership.progress if self._leadership else {}

    @property
    def last_contact(self) -> float:
        """Follower: when it last heard the current leader. Leader: a majority heard it at or after this."""
        return self._leadership.quorum_contact if self._leadership else self._last_contact

    @property
    def is_passive(self) -> bool:
        """Return whether it knows of no cluster. Then it neither votes nor campaigns until a leader calls.

        An empty log may also be that of a member that lost its disk, and with it the memory of votes that
        it gave and entries that it acknowledged. Its vote could elect a leader without those entries.
        """
        return self.log.last_index == 0 and not self.membership.voters

    @property
    def is_electable(self) -> bool:
        """Return whether it is a voter of the membership in force, or of the one before until that commits.

        While its own removal is not committed, a server must still campaign: it may be the only one whose
        log is complete enough to commit that removal (dissertation §4.2.2, Figure 4.6).
        """
        committed = self.log.committed_membership
        return self.node_id in self.membership.voters or self.node_id in committed.voters

    def next_deadline(self) -> float:
        """When `tick` will have something to do; infinite if only a message can move this server."""
        # A host that sleeps until then, and ticks, makes progress: `tick` compares with the same numbers.
        deadline = self._leadership.next_deadline() if self._leadership else self._election.deadline
        assert deadline < math.inf or self.role is Role.LEARNER, (
            "CommitProgress: a server that waits for nothing"
        )
        return deadline

    # ------------------------------------------------------------------------- the contract with the host

    def has_ready(self) -> bool:
        """Return whether `ready` would return anything."""
        log, leading = self.log, self._leadership
        return (
            self._outbox.has_work()
            or log.saved_index < log.last_index
            or log.applied_index < log.commit_index
            or (leading is not None and (leading.pending or bool(leading.new_reads) or leading.has_reads()))
        )

    def ready(self) -> Ready:
        """Everything that is to be done now; see `Ready` for the order.

        A proposal sends nothing by itself: whatever was proposed in one turn leaves from here, as one
        message per follower.
        """
        reads: tuple[tuple[int, int], ...] = ()
        if self._leadership is not None:
            if self._leadership.pending or self._leadership.new_reads:
                self._leadership.replicate(self._now)
            reads = self._leadership.take_reads()
        ready = self._outbox.make_ready(self.log.take_unsaved(), self.log.take_committed(), reads)
        assert self.log.applied_index == self.commit_index and self.log.saved_index == self.log.last_index, (
            "StateMachineSafety: what is committed, or unsaved, is left behind"
        )
        assert not self.has_ready(), (
            "CommitProgress: a host that asks until nothing is left would never finish"
        )
        return ready

    def persisted(self, ready: Ready, now: float) -> None:
        """What this Ready (and every one before it) says is durable.

        Only now does a candidate count its own vote, and a leader its own copy (dissertation §10.2.1).
        """
        self._now = now
        durable = self._outbox.persisted(ready)
        assert all(done.number <= ready.number for done in durable), (
            "CommittedNeverLost: what is not durable yet says nothing"
        )
        for done in durable:
            self.log.persisted(done.entries, done.snapshot or done.checkpoint)
        if durable:
            self._event(
                "Persist",
                persisted_term=self._outbox.durable.term,
                persisted_vote=self._outbox.durable.voted_for,
                persisted_index=self.log.persisted_index,
            )
        if self.role is Role.CANDIDATE and not self._outbox.hard_state_pending:
            # The own vote is one among the others. Had it been counted when it was cast, a crash could
            # take it back after it had made a leader, and the same server could then vote for another.
            self._election.collect(self.node_id, True)
            self._count_votes(now)
        self._advance_commit_index(now)

    def tick(self, now: float) -> None:
        """Time has passed: start an election, send heartbeats, give up what took too long."""
        self._now = now
        assert (self._leadership is not None) == (self.role is Role.LEADER)
        if self._leadership is not None:
            self._tick_leader(self._leadership, now)
        elif now >= self._election.deadline:
            self._start_pre_vote(now)
        self._last_tick = now

    def _tick_leader(self, leading: Leadership, now: float) -> None:
        """Heartbeats (paper §5.2), CheckQuorum (dissertation §6.2), transfers that took too long (§3.10)."""
        assert self.role is Role.LEADER and self._election.deadline == math.inf
        if now - self._last_tick > self.config.election_timeout / 2:
            # This process was not running, so it heard nothing: answers may be waiting in its
            # sockets. It leads for one more window; `last_contact`, which leases use, is not prolonged.
            leading.since = now
        if now >= leading.heartbeat_due:
            leading.heartbeat(now)
        if leading.transfer is not None and now >= leading.transfer.deadline:
            leading.transfer = None
        if leading.lost_quorum(now):
            # A leader that is cut off would otherwise accept proposals and reads for ever, and its clients
            # would wait for answers that cannot come, instead of asking the new leader.
            self._become_follower(self.current_term, None, now)
            self._event("CheckQuorumFailed")

    def leader_unreachable(self, peer: int, now: float) -> None:
        """A peer's process is known to be gone: as if its election timeout had passed, almost at once.

        If this server leads, it probes that peer again: no answer to what is in flight can come.
        """
        self._now = now
        if peer in self.progress:
            self.progress[peer].probe_from(self.progress[peer].match_index + 1)
        # A learner has no timer to shorten, and a candidate does not wait for a leader.
        elif peer == self.leader_id and self.role is Role.FOLLOWER:
            self.leader_id = None  # so that pre-votes of the others are granted, too (`_hears_leader`)
            self._election.expire_soon(now)
            assert not self._hears_leader(now), "CommitProgress: pre-votes are refused"

    def peers_reachable(self, peers: Collection[int], now: float) -> None:
        """These peers are connected. A server that has just started need not wait for a leader it never had.

        An election timeout tells a leader's silence from its delay. Right after a start there is no silence
        yet: a leader that exists calls within a heartbeat of being connected. So with a majority of the
        voters in reach, and no leader heard since the start, this server times out after a heartbeat, and a
        cluster that was stopped as a whole is back within two. If it is mistaken, pre-votes are refused.
        """
        self._now = now
        reached = {self.node_id, *peers}.intersection(self.membership.voters)
        waits = self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE) and self._last_contact == -math.inf
        if waits and len(reached) >= self.membership.quorum:
            assert self.leader_id is None, "ElectionSafety: a leader is known that was never heard"
            self._election.expire_soon(now + self.config.heartbeat_interval)

    # --------------------------------------------------------------------------------- clients of the log

    def propose(self, data: bytes, now: float) -> int | None:
        """ClientRequest: append a command (paper §5.3); returns its index.

        None when not leader, during a leadership transfer, or when the backlog is full (back-pressure). A
        backlog of one entry is always allowed, however large: otherwise it could never be proposed.
        """
        self._now = now
        leading = self._leadership
        if leading is None or leading.transfer is not None:
            return None
        size = entry_bytes(Entry(0, 0, COMMAND, data))
        if leading.uncommitted_bytes and leading.uncommitted_bytes + size > self.config.max_uncommitted_bytes:
            return None
        index = self._append(COMMAND, data)
        assert index > self.commit_index, (
            "CommittedNeverLost: a proposal is not committed before it is replicated"
        )
        return index

    def propose_membership(self, membership: Membership, now: float) -> int | None:
        """Append a membership that differs by at most one server (paper §6, dissertation §4.1).

        One at a time: any majority of the old set and any of the new one share a server, which is no longer
        true for two changes at once. And not before an entry of this term has committed: otherwise a leader
        could build upon a change that its predecessor is about to lose. A new voter must have caught up as a
        learner first, or the majority might wait for it while it waits for a snapshot (§4.2.1).

        None when any of that is not so yet, or when not leader; ValueError if it can never be.
        """
        self._now = now
        membership.check()
        if not membership.voters:
            raise ValueError("a membership needs at least one voter")
        leading = self._leadership
        # What an entry of the own term prevents, with voters 1 2 3 4: leader 1 appends "5 joins", and only 5
        # gets it. Leader 2, of the next term, appends "1 leaves", a set of three, and commits it on 2 and 3.
        # Then 1 asks again; 4 and 5 vote for it, three of its set of five, and what was committed is lost.
        # Had 2 committed a no-op first, three of the four would hold it, and none of them votes for 1.
        if leading is None or leading.transfer is not None or not leading.has_committed_in_term():
            return None
        if self.log.membership_index > self.commit_index:
            return None  # the change before this one may still be lost
        if len(changed := self.membership.changed_servers(membership)) > 1:
            raise ValueError(f"servers {changed} differ, and only one may at a time")
        newcomers = set(membership.voters) - {*self.membership.voters, self.node_id}
        if not all(map(leading.has_caught_up, newcomers)):
            return None
        assert self.log.committed_membership == self.membership, (
            "LeaderCompleteness: the change before is committed"
        )
        index = self._append(MEMBERSHIP, membership.encode())
        leading.membership_changed()  # in force at once; a leader it removes leads until it commits (§4.2.2)
        return index

    def transfer_leadership(self, to: int, now: float) -> bool:
        """Start a leadership transfer to a voter (dissertation §3.10).

        False when not leader, when a transfer is already under way, or if there is no such voter.
        """
        self._now = now
        leading = self._leadership
        if leading is None or leading.transfer is not None:
            return False
        if to == self.node_id or to not in self.membership.voters:
            return False
        assert to in leading.progress, "CommitProgress: a voter without progress"
        leading.start_transfer(to, now)
        return True

    def read_index(self, context: int, now: float) -> bool:
        """Ask for a confirmed read (dissertation §6.4); the answer comes in `Ready.reads`.

        False when not leader. A leader that steps down forgets its reads: the caller's deadline ends them.
        The read does not join a round that is under way: its answers may have been sent before this call.
        """
        self._now = now
        # A follower could forward it, but then two servers would have to remember the asker; the host knows
        # the leader as well as this server does.
        if self._leadership is None:
            return False
        self._leadership.new_reads.append(context)
        return True

    def compact(self, index: int, data: bytes) -> None:
        """The state machine's snapshot after `index` replaces the log up to there (paper §7).

        Ignored when a snapshot from the leader has already replaced more.
        """
        if index > self.log.snapshot_index:
            self._outbox.note_checkpoint(self.log.compact(index, data))
            self._event("CompactLog", index=index)
        assert self.log.snapshot_index >= index, "StateMachineSafety: a snapshot that is older than the log's"

    def _append(self, kind: EntryKind, data: bytes) -> int:
        """Add an entry of the current term to the leader's log."""
        assert self._leadership is not None, "LeaderAppendOnly: only a leader appends on its own"
        # Not sent from here: the next `ready` carries it, with everything else that this turn proposed.
        entry = Entry(self.current_term, self.log.last_index + 1, kind, data)
        self.log.append(entry)
        self._leadership.note_appended(entry)
        members = msgspec.structs.asdict(self.membership) if kind is MEMBERSHIP else {}
        self._event("ClientRequest", index=entry.index, kind=kind.name, **members)
        return entry.index

    # ------------------------------------------------------------------------------------ term, vote, role

    def _set_term_and_vote(self, term: int, voted_for: int | None) -> None:
        """The one door: the term never falls, and within a term a vote, once given, stays (paper §5.2).

        Most published Raft bugs are a second door: a vote that is cleared on becoming a follower of the
        same term, or a term that is changed without being written.
        """
        assert term >= self.current_term, "ElectionSafety: the term must not fall"
        assert term > self.current_term or self.voted_for in (None, voted_for), (
            "ElectionSafety: the vote must not change within a term"
        )
        if (term, voted_for) != (self.current_term, self.voted_for):
            self._hard_state = HardState(term, voted_for)
            self._outbox.note_hard_state(self._hard_state)

    def _resume_following(self, now: float) -> None:
        """Become a follower with a timer if electable, else a learner without one, in the current term."""
        self._leadership = None
        self.role = Role.FOLLOWER if self.is_electable else Role.LEARNER
        if self.role is Role.LEARNER:
            self._election.disable()
        elif self._election.deadline == math.inf:
            self._election.reset(now)
        assert (self._election.deadline < math.inf) == self.is_electable, (
            "ElectionSafety: a timer of a server that may not campaign"
        )

    def _become_follower(self, term: int, leader_id: int | None, now: float) -> None:
        """Follow in this term; the vote of the term, if it is the same one, is kept."""
        assert leader_id != self.node_id, "ElectionSafety: a server does not follow itself"
        # Taken over before the leadership is dropped: what a majority last heard of this server as leader
        # is how long its lease is still good.
        self._last_contact = self.last_contact
        self._set_term_and_vote(term, self.voted_for if term == self.current_term else None)
        self.leader_id = leader_id
        self._resume_following(now)
        assert self._leadership is None and self.current_term == term

    def _start_pre_vote(self, now: float) -> None:
        """PreVote: ask whether the others would vote for this server (dissertation §9.6); no term changes.

        A server that is cut off would otherwise raise its term with every timeout, and depose a working
        leader when it comes back.
        """
        assert self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)
        assert self.is_electable
        self.role, self.leader_id = Role.PRE_CANDIDATE, None
        self._event("PreVote")
        self._election.begin(now)
        self._election.collect(self.node_id, True)
        last = self.log.last
        request = PreVoteRequest(
            term=self.current_term + 1, last_log_index=last.index, last_log_term=last.term
        )
        self._ask_voters(request)
        # A lone voter has its majority already.
        self._count_pre_votes(now)

    def _campaign(self, now: float, transfer: bool = False) -> None:
        """Timeout: start an election in a new term (paper §5.2).

        The requests wait in the outbox until term and own vote are durable, and so does the own vote:
        `persisted` collects it.
        """
        assert self._leadership is None and self.is_electable
        self.role, self.leader_id = Role.CANDIDATE, None
        self._set_term_and_vote(self.current_term + 1, self.node_id)
        self._event("Timeout", transfer=transfer)
        self._election.begin(now)
        # From the membership in force; a majority of it is what `Election.won` looks for.
        last = self.log.last
        self._ask_voters(
            RequestVoteRequest(
                term=self.current_term,
                last_log_index=last.index,
                last_log_term=last.term,
                transfer=transfer,
            )
        )
        assert not self._election.granted, (
            "ElectionSafety: the own vote counts once it is durable, not before"
        )

    def _ask_voters(self, request: PreVoteRequest | RequestVoteRequest) -> None:
        """RequestVote: the same question to every other voter."""
        assert request.last_log_term <= self.current_term <= request.term
        for peer in self.membership.voters:
            if peer != self.node_id:
                self._outbox.send(peer, request)

    def _count_pre_votes(self, now: float) -> None:
        """With a majority, campaign. If a majority refuses, wait for the next timeout."""
        assert self.role is Role.PRE_CANDIDATE
        if self._election.won(self.membership):
            self._campaign(now)
        elif self._election.lost(self.membership):
            self._resume_following(now)

    def _count_votes(self, now: float) -> None:
        """With a majority, this server's own durable vote among it, lead (paper §5.2)."""
        assert self.role is Role.CANDIDATE
        # `won` alone would not do: in a cluster of five, four others could elect this server before its own
        # vote is durable, and after a crash it could vote for another candidate of the same term.
        if self.node_id in self._election.granted and self._election.won(self.membership):
            self._become_leader(now)
        elif self._election.lost(self.membership):
            self._resume_following(now)

    def _become_leader(self, now: float) -> None:
        """Lead this term, and append a no-op so that what came before can commit (paper §5.4.2, §8)."""
        assert self.role is Role.CANDIDATE and self.voted_for == self.node_id, (
            "ElectionSafety: a leader without its own vote"
        )
        assert not self._outbox.hard_state_pending, "ElectionSafety: the own vote could still be forgotten"
        self.role, self.leader_id = Role.LEADER, self.node_id
        self._leadership = Leadership(
            node_id=self.node_id,
            term=self.current_term,
            config=self.config,
            log=self.log,
            send=self._outbox.send,
            now=now,
            elected_at=self._election.started_at,
        )
        self._last_tick = now
        # A leader's clock is the heartbeat. What it half received belongs to a leader that is deposed.
        self._election.disable()
        self._following.forget_snapshot()
        self._event("BecomeLeader")
        self._append(NOOP, b"")
        self._leadership.heartbeat(now)

    def _membership_changed(self, now: float) -> None:
        """The configuration changed: a follower may have become a learner, or a learner a voter."""
        assert self.role in (Role.FOLLOWER, Role.LEARNER), (
            "LeaderAppendOnly: only followers get entries from elsewhere"
        )
        if self.is_electable != (self.role is Role.FOLLOWER):
            self._resume_following(now)

    def _hears_leader(self, now: float) -> bool:
        """Return whether there is a live leader, which an election would only disturb (dissertation §4.2.3).

        So a leader that a majority heard at time t is not deposed before t plus the election timeout,
        unless it asks for that (a transfer): that is what makes `last_contact` worth something to a lease.
        """
        if self.role is Role.LEADER:
            return True
        return self.leader_id is not None and now - self._last_contact < self.config.election_timeout

    # ---------------------------------------------------------------------------------------- messages

    def step(self, sender: int, message: RaftMessage, now: float) -> None:
        """A message arrived. Nothing that it contains makes this raise."""
        self._now = now
        # No server sends to itself; a message that says so is forged, or the addresses are mixed up.
        if sender == self.node_id:
            self._ignore("a message from ourselves")
        elif self._observe_term(sender, message, now):
            self._receive(sender, message, now)

    def _observe_term(self, sender: int, message: RaftMessage, now: float) -> bool:
        """The term rule, once for all messages (paper §5.1); returns whether to handle it in our term."""
        if isinstance(message, PreVoteRequest):
            return True  # its term is hypothetical: it changes nothing and is judged by the handler
        if isinstance(message, PreVoteResponse) and message.granted:
            # A granted pre-vote echoes the term asked for, which no server has entered. A refusal carries
            # the responder's own term and obeys the rule below: that is how a server that was away learns
            # of the term that the others are in.
            return message.term == self.current_term + 1 or self._ignore("an answer to an earlier pre-vote")
        if message.term > self.current_term:
            if isinstance(message, RequestVoteRequest) and not message.transfer and self._hears_leader(now):
                # Not even the term is adopted: a removed server that never heard of its removal would
                # otherwise depose a working leader with every timeout (dissertation §4.2.3).
                return self._ignore("a vote request while a leader is alive")
            self._become_follower(message.term, None, now)
            self._event("UpdateTerm")
        elif message.term < self.current_term:
            self._answer_stale(sender, message)
            return self._ignore("a message of an older term")
        assert message.term == self.current_term, "ElectionSafety: a message of another term is handled"
        return True

    def _answer_stale(self, sender: int, message: RaftMessage) -> None:
        """A request of an older term is rejected with ours, so that its sender steps down (paper §5.1)."""
        term = self.current_term
        assert message.term < term
        match message:
            case RequestVoteRequest():
                self._outbox.send(sender, RequestVoteResponse(term=term, granted=False))
            case AppendEntriesRequest() | InstallSnapshotRequest():
                # Any response with our term makes the sender step down, one to a snapshot as well.
                self._outbox.send(
                    sender, AppendEntriesResponse(term=term, round=NO_ROUND, success=False, prev_log_index=0)
                )
            case TimeoutNowRequest():
                pass  # its sender asked for an election, and there has been one since
            case PreVoteRequest():
                pass  # not stale by its term: the handler answers it (`_observe_term`)
            case (
                PreVoteResponse()
                | RequestVoteResponse()
                | AppendEntriesResponse()
                | InstallSnapshotResponse()
            ):
                pass  # DropStaleResponse: an answer has no answer
            case _ as never:
                assert_never(never)

    def _ignore(self, reason: str) -> bool:
        """Drop a message; always False, for the caller to return."""
        self.ignored[reason] += 1
        return False

    def _note_flaw(self, reason: str | None) -> None:
        """Count a message that no honest leader can have sent, if this one was."""
        if reason is not None:
            self._ignore(reason)

    def _receive(self, sender: int, message: RaftMessage, now: float) -> None:
        """Every message, in every role, in the current term."""
        match message:
            case PreVoteRequest():
                # Any role answers; a leader, or a server that hears one, refuses.
                self._handle_pre_vote_request(sender, message, now)
            case PreVoteResponse():
                # A pre-candidate collects it; in any other role that pre-vote is over.
                if self.role is Role.PRE_CANDIDATE:
                    self._election.collect(sender, message.granted)
                    self._count_pre_votes(now)
            case RequestVoteRequest():
                # Any role answers; a leader or candidate of this term has voted for itself and refuses.
                # A learner may have been made a voter by an entry it has not seen: it answers too.
                self._handle_request_vote_request(sender, message, now)
            case RequestVoteResponse():
                # A candidate collects it; in any other role that election is over.
                if self.role is Role.CANDIDATE:
                    self._handle_request_vote_response(sender, message, now)
            case AppendEntriesRequest():
                # A follower or learner appends; to a (pre-)candidate it says that the election is lost
                # (paper §5.2); a leader cannot meet another of its term (ElectionSafety).
                if self._accept_leader(sender, now):
                    self._note_flaw(self._following.on_append_entries(sender, message, now))
            case InstallSnapshotRequest():
                # As AppendEntries: it, too, comes only from the one leader of this term.
                if self._accept_leader(sender, now):
                    self._note_flaw(self._following.on_install_snapshot(sender, message, now))
            case AppendEntriesResponse() | InstallSnapshotResponse():
                # The leader moves its progress; no other role has asked anything in this term.
                if self._leadership is None or sender not in self._leadership.progress:
                    self._ignore("an answer from a server that was not asked")
                else:
                    self._handle_response(self._leadership, sender, message, now)
            case TimeoutNowRequest():
                # A follower campaigns if its own leader asks; a learner cannot, a candidate already does.
                if self.role is Role.FOLLOWER and sender == self.leader_id:
                    self._campaign(now, transfer=True)
                else:
                    self._ignore("a request to campaign that our leader did not send")
            case _ as never:
                assert_never(never)

    # ------------------------------------------------------------------------------------------- votes

    def _handle_pre_vote_request(self, sender: int, message: PreVoteRequest, now: float) -> None:
        """Answer whether we would vote for it (dissertation §9.6); the only change is that we may yield."""
        before = self._hard_state
        theirs = LogPosition(message.last_log_term, message.last_log_index)
        granted = (
            message.term > self.current_term
            and theirs >= self.log.last
            and not self._hears_leader(now)
            and not self.is_passive
        )
        if granted and self.role is Role.PRE_CANDIDATE:
            mine = (self.log.last, self.node_id)
            granted = self._election.yields_to(mine, (theirs, sender), now)
            if granted:
                self._resume_following(now)
        answer = PreVoteResponse(term=message.term if granted else self.current_term, granted=granted)
        self._outbox.send(sender, answer)
        assert self._hard_state == before, "ElectionSafety: a pre-vote is no vote"

    def _handle_request_vote_request(self, sender: int, message: RequestVoteRequest, now: float) -> None:
        """Vote once a term, first come first served (paper §5.2), for a log at least as complete (§5.4.1)."""
        granted = (
            self.voted_for in (None, sender)
            and LogPosition(message.last_log_term, message.last_log_index) >= self.log.last
            and not self.is_passive
        )
        if granted:
            assert self.role not in (Role.CANDIDATE, Role.LEADER), (
                "ElectionSafety: these have voted for themselves"
            )
            self._set_term_and_vote(self.current_term, sender)
            if self.role is Role.PRE_CANDIDATE:
                # Its own pre-vote, if it succeeded now, would start a competing election.
                self._resume_following(now)
            if self.role is Role.FOLLOWER:
                # A follower that has just voted gives its candidate a whole timeout to win.
                self._election.reset(now)
        self._event("HandleRequestVoteRequest", sender=sender, granted=granted)
        self._outbox.send(sender, RequestVoteResponse(term=self.current_term, granted=granted))

    def _handle_request_vote_response(self, sender: int, message: RequestVoteResponse, now: float) -> None:
        """Collect a vote."""
        assert self.voted_for == self.node_id and sender != self.node_id, (
            "ElectionSafety: a vote for another one, or its own, is collected"
        )
        self._election.collect(sender, message.granted)
        self._event("HandleRequestVoteResponse", sender=sender, granted=message.granted)
        self._count_votes(now)

    # ----------------------------------------------------------------------------------- following a leader

    def _accept_leader(self, sender: int, now: float) -> bool:
        """The sender leads this term: follow it, and restart the election timer."""
        if self.role is Role.LEADER or self.leader_id not in (None, sender):
            return self._ignore("a second leader of one term")
        # Whatever the message turns out to contain, it shows that the leader lives and is heard here. That
        # keeps this server from campaigning, and from voting for others (`_hears_leader`).
        self.leader_id = sender
        self._last_contact = now
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self._resume_following(now)
        if self.role is Role.FOLLOWER:
            self._election.reset(now)
        assert self.role in (Role.FOLLOWER, Role.LEARNER)
        return True

    # ------------------------------------------------------------------------------------------- leading

    def _handle_response(
        self,
        leading: Leadership,
        sender: int,
        message: AppendEntriesResponse | InstallSnapshotResponse,
        now: float,
    ) -> None:
        """A follower answered: it is alive, and the leader knows more of its log."""
        assert leading is self._leadership and leading.term == message.term
        if reason := response_flaw(message, leading.round, self.log.last_index):
            self._ignore(reason)
            return
        # Even a rejection confirms the round: the follower took part in it, whatever its log looks like.
        leading.heard(sender, message.round, now)
        match message:
            case AppendEntriesResponse():
                leading.on_append_response(sender, message)
                told = {"success": message.success, "match_index": message.match_index}
                self._event("HandleAppendEntriesResponse", sender=sender, **told)
            case InstallSnapshotResponse():
                leading.on_snapshot_response(sender, message)
                told = {"success": message.installed, "match_index": message.last_index}
                self._event("HandleInstallSnapshotResponse", sender=sender, **told)
            case _ as never:
                assert_never(never)
        self._advance_commit_index(now)

    def _advance_commit_index(self, now: float) -> None:
        """AdvanceCommitIndex: a majority holds it, and it is of our own term (paper §5.4.2, Figure 8).

        An entry of an older term that a majority holds may still be replaced, by a leader whose log ends
        in a newer term (docs/raft.md links the transcript). It commits together with an entry of ours.
        """
        leading = self._leadership
        if leading is None:
            return
        index = leading.quorum_match()
        if index <= self.commit_index or self.log.term_at(index) != self.current_term:
            return
        # Everything before `index` is committed with it, entries of older terms too: any server that lacks
        # them lacks this one as well, and loses every vote of the majority that holds it.
        before = self.commit_index
        self.log.commit_to(index)
        leading.note_committed(self.log.entries(before + 1, index + 1))
        self._event("AdvanceCommitIndex")
        assert leading.has_committed_in_term(), "LeaderCompleteness: only entries of the own term count"
        if before < self.log.membership_index <= index:
            self._membership_committed(leading, now)

    def _membership_committed(self, leading: Leadership, now: float) -> None:
        """A change is complete: tell the removed server, and step down if it is this one (§4.2.2)."""
        assert self.log.committed_membership == self.membership, (
            "LeaderCompleteness: a change is complete that is not committed"
        )
        # First the news that it is committed, to every earlier member, while there is still a
        # `Progress` for a removed server: nothing is sent to it afterwards.
        leading.replicate(now)
        if self.node_id in self.membership.voters:
            leading.membership_changed()
        else:
            leading.name_successor(self.membership)
            self._become_follower(self.current_term, None, now)
            assert self.role is Role.LEARNER, "ElectionSafety: a removed server campaigns"
            self._event("StepDown")

    # ------------------------------------------------------------------------------------- self-checks

    def _event(self, event_name: str, /, **values: object) -> None:
        """One specification-level transition, with the state it led to."""
        if self._trace is not None:
            self._trace(
                event_name,
                node=self.node_id,
                role=self.role.value,
                current_term=self.current_term,
                commit_index=self.commit_index,
                last_log_index=self.log.last_index,
                last_log_term=self.log.last_term,
                **values,
            )

    def check_invariants(self) -> None:
        """Assert what must hold on one server between any two calls."""
        self.log.check_invariants()
        self._election.check_invariants()
        self._outbox.check_invariants()
        assert self.log.last_term <= self.current_term, "ElectionSafety: an entry of a term we have not seen"
        assert (self._leadership is not None) == (self.role is Role.LEADER)
        assert (self.role is Role.LEADER) == (self.leader_id == self.node_id), (
            "ElectionSafety: two leaders of a term, or none that it knows of"
        )
        assert self._outbox.durable.term <= self.current_term, (
            "ElectionSafety: a term is durable that was never entered"
        )
        if self.role in (Role.CANDIDATE, Role.LEADER):
            assert self.voted_for == self.node_id, "ElectionSafety: a candidate's vote is its own"
        if self.role is Role.LEADER:
            assert not self._outbox.hard_state_pending, "ElectionSafety: a leader's vote is durable"
            assert self._election.deadline == math.inf
        if self.role is Role.LEARNER:
            assert not self.is_electable and self._election.deadline == math.inf, (
                "ElectionSafety: a learner campaigns"
            )
        if self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE):
            assert self.is_electable and self._election.deadline < math.inf, (
                "CommitProgress: a voter that waits for nothing"
            )
        if self._leadership is not None:
            assert self._leadership.term == self.current_term
            self._leadership.check_invariants()
