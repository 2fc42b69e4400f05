"""Raft: one server of a replicated log, as a function with memory.

`step` (a message arrived), `tick` (time passed), `propose` (a client wants something) and `persisted`
(the disk is done) go in; one frozen value, `Ready`, comes out and says what to write, what to send before
that is durable, what to send only afterwards, and what to apply. No sockets, no clock, no threads: `now`
is a number and `rng` an object that are handed in, peers are visited in sorted order, so equal seeds give
equal runs. The host's contract is the docstring of `Ready`.

The protocol. "paper" is Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm"
(extended version), "dissertation" is Ongaro's "Consensus: Bridging Theory and Practice"; a bare § belongs
to the work named before it. The glossary and a reading guide are in docs/raft.md:

* Time is divided into terms, each with at most one leader (paper §5.1, §5.2). Every message carries a
  term: a newer one turns the receiver into a follower, an older one is answered with the newer or dropped.
* A follower that hears no leader for a random time canvasses (PreVote, dissertation §9.6), then stands:
  it votes for itself and asks the others (paper §5.2). They vote once a term, only for a log at least as
  complete as theirs (paper §5.4.1), and not while they hear a live leader (dissertation §4.2.3).
* The leader appends and replicates (paper §5.3); what a majority holds durably, in the leader's own term,
  is committed together with all before it (paper §5.4.2). See consensus/leader.py.
* Membership changes by one server at a time, each an entry that is in force once appended (dissertation
  §4.1), and none before the leader has committed an entry of its own term. Learners receive without voting
  (dissertation §4.2.1). A leader that is removed leaves once the removal is committed (§4.2.2).
* Applied entries are replaced by snapshots (paper §7); reads are confirmed by a round of heartbeats
  (dissertation §6.4); a leader that no majority answers steps down (dissertation §6.2).

Invariants (paper Figure 3; tests/consensus checks them over whole clusters): ElectionSafety,
LeaderAppendOnly, LogMatching, LeaderCompleteness, StateMachineSafety. On one server, asserted by
`check_invariants`: the term never falls and the vote never changes within a term (one method changes
them, `_set_term_and_vote`); a leader has a `Leadership` and nobody else does; only a leader or a voter
with a timer can become something else.

Assertions guard against our own mistakes. What a peer sends never trips one: a message that cannot be
true (`consensus/validation.py`) is dropped, and counted by reason in `ignored`.

Deliberately left out: joint consensus (one server at a time suffices and is simpler to check, dissertation
§4.3), lease-based reads, and forwarding proposals to the leader (the controller routes).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import assert_never

import msgspec

from walrus.consensus.election import Election
from walrus.consensus.leader import Leadership
from walrus.consensus.log import LogPosition, RaftLog, entry_bytes
from walrus.consensus.messages import (
    COMMAND,
    MEMBERSHIP,
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
    Ready,
    RequestVoteRequest,
    RequestVoteResponse,
    Restored,
    Rng,
    Role,
    TimeoutNowRequest,
    Trace,
)
from walrus.consensus.outbox import Outbox
from walrus.consensus.progress import Progress
from walrus.consensus.snapshot import SnapshotReceiver
from walrus.consensus.validation import entries_flaw, response_flaw, snapshot_flaw


class Raft:
    """One server. Construct it from what the journal restored; drive it as the module docstring says.

    >>> import random
    >>> from walrus.consensus.messages import Membership, Restored
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
        trace: Trace | None = None,
    ) -> None:
        self.node_id, self.config = node_id, config
        self.log = RaftLog(restored)
        self.current_term = restored.hard_state.term
        self.voted_for = restored.hard_state.voted_for
        self.leader_id: int | None = None
        self.role = Role.FOLLOWER
        self.ignored: Counter[str] = Counter()
        """How many messages were dropped, by reason."""
        self._last_contact = -math.inf
        self._last_tick = self._now = now
        self._election = Election(config, rng)
        self._leadership: Leadership | None = None
        self._outbox = Outbox(restored.hard_state)
        self._receiver = SnapshotReceiver()
        self._trace = trace
        self._event("Restart", voted_for=self.voted_for)
        self._settle_role(now)
        if self.membership.voters == (node_id,):
            self._election.deadline = now

    # -------------------------------------------------------------------------------------- questions

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
        """What a leader knows of each follower; empty on everybody else."""
        return self._leadership.progress if self._leadership else {}

    @property
    def last_contact(self) -> float:
        """Follower: when it last heard the current leader. Leader: a majority heard it at or after this."""
        return self._leadership.quorum_contact if self._leadership else self._last_contact

    @property
    def is_passive(self) -> bool:
        """Does it know of no cluster at all? Then it neither votes nor stands until a leader tells it."""
        return self.log.last_index == 0 and not self.membership.voters

    def next_deadline(self) -> float:
        """When `tick` will have something to do; infinite if only a message can move this server."""
        return self._leadership.next_deadline() if self._leadership else self._election.deadline

    # ------------------------------------------------------------------------- the contract with the host

    def has_ready(self) -> bool:
        """Would `ready` return anything?"""
        log, leading = self.log, self._leadership
        return (
            self._outbox.has_work()
            or log.saved_index < log.last_index
            or log.applied_index < log.commit_index
            or (leading is not None and (leading.pending or bool(leading.new_reads) or leading.has_reads()))
        )

    def ready(self) -> Ready:
        """Everything that is to be done now; see `Ready` for the order."""
        reads: tuple[tuple[int, int], ...] = ()
        if self._leadership is not None:
            if self._leadership.pending or self._leadership.new_reads:
                self._leadership.replicate(self._now)
            reads = self._leadership.take_reads()
        return self._outbox.take(self.log.take_unsaved(), self.log.take_committed(), reads)

    def persisted(self, ready: Ready, now: float) -> None:
        """What this Ready (and every one before it) says is durable.

        Only now does a candidate count its own vote, and a leader its own copy (dissertation §10.2.1).
        """
        self._now = now
        durable = self._outbox.persisted(ready)
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
            self._election.collect(self.node_id, True)
            self._count_votes(now)
        self._advance_commit_index(now)

    def tick(self, now: float) -> None:
        """Time has passed: stand for election, send heartbeats, give up what took too long."""
        self._now = now
        if self._leadership is not None:
            self._tick_leader(self._leadership, now)
        elif now >= self._election.deadline:
            self._canvass(now)
        self._last_tick = now

    def _tick_leader(self, leading: Leadership, now: float) -> None:
        """Heartbeats (paper §5.2), CheckQuorum (dissertation §6.2), transfers that took too long (§3.10)."""
        if now - self._last_tick > self.config.election_timeout / 2:
            # We were not running, so nobody could have been heard: answers may be waiting to be read.
            # Office is kept for one more window; `last_contact`, which leases use, is not prolonged.
            leading.since = now
        if now >= leading.heartbeat_due:
            leading.heartbeat(now)
        if leading.transfer is not None and now >= leading.transfer.deadline:
            leading.transfer = None
        if leading.lost_quorum(now):
            self._become_follower(self.current_term, None, now)
            self._event("CheckQuorumFailed")

    def leader_unreachable(self, peer: int, now: float) -> None:
        """A peer's process is known to be gone: as if its election timeout had passed, almost at once.

        The leader, too, would rather probe than wait for answers that cannot come.
        """
        self._now = now
        if peer in self.progress:
            self.progress[peer].probe_from(self.progress[peer].match_index + 1)
        elif peer == self.leader_id and self.role is Role.FOLLOWER:
            self.leader_id = None  # so that we also grant what the others ask (see `_hears_leader`)
            self._election.hasten(now)

    # --------------------------------------------------------------------------------- clients of the log

    def propose(self, data: bytes, now: float) -> int | None:
        """ClientRequest: append a command (paper §5.3). None: not leader, handing over, or backlog full."""
        self._now = now
        leading = self._leadership
        if leading is None or leading.transfer is not None:
            return None
        size = entry_bytes(Entry(0, 0, COMMAND, data))
        if leading.uncommitted_bytes and leading.uncommitted_bytes + size > self.config.max_uncommitted_bytes:
            return None
        return self._append(COMMAND, data)

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
        if leading is None or leading.transfer is not None or not leading.has_committed_in_term():
            return None
        if self.log.membership_index > self.commit_index:
            return None
        if len(changed := self.membership.changed_servers(membership)) > 1:
            raise ValueError(f"servers {changed} differ, and only one may at a time")
        newcomers = set(membership.voters) - {*self.membership.voters, self.node_id}
        if not all(map(leading.has_caught_up, newcomers)):
            return None
        index = self._append(MEMBERSHIP, membership.encode())
        leading.membership_changed()  # in force at once; a leader it removes leads until it commits (§4.2.2)
        return index

    def transfer_leadership(self, to: int, now: float) -> bool:
        """Hand over to a voter (dissertation §3.10).

        False when not leader, already handing over, or there is no such voter.
        """
        self._now = now
        leading = self._leadership
        if leading is None or leading.transfer is not None:
            return False
        if to == self.node_id or to not in self.membership.voters:
            return False
        leading.start_transfer(to, now)
        return True

    def read_index(self, context: int, now: float) -> bool:
        """Ask for a confirmed read (dissertation §6.4); the answer comes in `Ready.reads`.

        False when not leader. A leader that steps down forgets its reads: the caller's deadline ends them.
        """
        self._now = now
        if self._leadership is None:
            return False
        self._leadership.new_reads.append(context)
        return True

    def compact(self, index: int, data: bytes) -> None:
        """The state machine's snapshot after `index` replaces the log up to there (paper §7).

        Ignored when a snapshot from the leader has already taken us further.
        """
        if index > self.log.base_index:
            self._outbox.note_checkpoint(self.log.compact(index, data))
            self._event("CompactLog", index=index)

    def _append(self, kind: EntryKind, data: bytes) -> int:
        """Add an entry of the current term to the leader's log."""
        assert self._leadership is not None, "only a leader appends on its own"
        entry = Entry(self.current_term, self.log.last_index + 1, kind, data)
        self.log.append(entry)
        self._leadership.note_appended(entry)
        members = msgspec.structs.asdict(self.membership) if kind is MEMBERSHIP else {}
        self._event("ClientRequest", index=entry.index, kind=kind.name, **members)
        return entry.index

    # ------------------------------------------------------------------------------------ term, vote, role

    def _set_term_and_vote(self, term: int, voted_for: int | None) -> None:
        """The one door: the term never falls, and within a term a vote, once given, stays (paper §5.2)."""
        assert term >= self.current_term, "the term must not fall"
        assert term > self.current_term or self.voted_for in (None, voted_for), "the vote must not change"
        if (term, voted_for) != (self.current_term, self.voted_for):
            self.current_term, self.voted_for = term, voted_for
            self._outbox.note_hard_state(HardState(term, voted_for))

    @property
    def is_electable(self) -> bool:
        """Is it a voter of the membership in force, or of the one before while that is not committed?

        While its own removal is not committed yet, a server must still stand: it may be the only one whose
        log is complete enough to commit that removal (dissertation §4.2.2, Figure 4.6).
        """
        settled = self.log.settled_membership
        return self.node_id in self.membership.voters or self.node_id in settled.voters

    def _settle_role(self, now: float) -> None:
        """Follow quietly: as a follower with a timer if it may be elected, else as a learner."""
        self._leadership = None
        self.role = Role.FOLLOWER if self.is_electable else Role.LEARNER
        if self.role is Role.LEARNER:
            self._election.disable()
        elif self._election.deadline == math.inf:
            self._election.reset(now)

    def _become_follower(self, term: int, leader_id: int | None, now: float) -> None:
        """Follow in this term; the vote of the term, if it is the same one, is kept."""
        self._last_contact = self.last_contact
        self._set_term_and_vote(term, self.voted_for if term == self.current_term else None)
        self.leader_id = leader_id
        self._settle_role(now)

    def _canvass(self, now: float) -> None:
        """PreVote: would the others elect us? (dissertation §9.6) Nobody's term changes."""
        assert self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE)
        self.role, self.leader_id = Role.PRE_CANDIDATE, None
        self._event("PreVote")
        self._election.begin(now)
        self._election.collect(self.node_id, True)
        last = self.log.last
        request = PreVoteRequest(
            term=self.current_term + 1, last_log_index=last.index, last_log_term=last.term
        )
        self._ask_voters(request)
        self._count_canvass(now)

    def _stand(self, now: float, transfer: bool = False) -> None:
        """Timeout: begin an election in a new term (paper §5.2); our own vote counts once it is durable."""
        assert self._leadership is None and self.is_electable
        self.role, self.leader_id = Role.CANDIDATE, None
        self._set_term_and_vote(self.current_term + 1, self.node_id)
        self._event("Timeout", transfer=transfer)
        self._election.begin(now)
        last = self.log.last
        self._ask_voters(
            RequestVoteRequest(
                term=self.current_term,
                last_log_index=last.index,
                last_log_term=last.term,
                transfer=transfer,
            )
        )

    def _ask_voters(self, request: PreVoteRequest | RequestVoteRequest) -> None:
        """RequestVote: the same question to every other voter."""
        for peer in self.membership.voters:
            if peer != self.node_id:
                self._outbox.send(peer, request)

    def _count_canvass(self, now: float) -> None:
        """A majority would vote for us: stand. It will not: wait for the next timeout."""
        if self._election.won(self.membership):
            self._stand(now)
        elif self._election.lost(self.membership):
            self._settle_role(now)

    def _count_votes(self, now: float) -> None:
        """A majority voted for us, ourselves durably among it: lead (paper §5.2)."""
        if self.node_id in self._election.granted and self._election.won(self.membership):
            self._become_leader(now)
        elif self._election.lost(self.membership):
            self._settle_role(now)

    def _become_leader(self, now: float) -> None:
        """Take office, and append a no-op so that what came before can commit (paper §5.4.2, §8)."""
        assert self.role is Role.CANDIDATE and self.voted_for == self.node_id
        assert not self._outbox.hard_state_pending
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
        self._election.disable()
        self._receiver.forget()
        self._event("BecomeLeader")
        self._append(NOOP, b"")
        self._leadership.heartbeat(now)

    def _membership_changed(self, now: float) -> None:
        """The membership in force, or the committed one, is another: who followed may listen now, or back."""
        if self.is_electable != (self.role is Role.FOLLOWER):
            self._settle_role(now)

    def _hears_leader(self, now: float) -> bool:
        """Is there a live leader, so that an election would only disturb? (dissertation §4.2.3)"""
        if self.role is Role.LEADER:
            return True
        return self.leader_id is not None and now - self._last_contact < self.config.election_timeout

    # ---------------------------------------------------------------------------------------- messages

    def step(self, sender: int, message: RaftMessage, now: float) -> None:
        """A message arrived."""
        self._now = now
        if sender == self.node_id:
            self._ignore("a message from ourselves")
        elif self._observe_term(sender, message, now):
            self._receive(sender, message, now)

    def _observe_term(self, sender: int, message: RaftMessage, now: float) -> bool:
        """The term rule, once for all messages (paper §5.1): may this one be handled in our term?"""
        if isinstance(message, PreVoteRequest):
            return True  # its term is hypothetical: it changes nothing and is judged by the handler
        if isinstance(message, PreVoteResponse) and message.granted:
            return message.term == self.current_term + 1 or self._ignore("an answer to an earlier canvass")
        if message.term > self.current_term:
            if isinstance(message, RequestVoteRequest) and not message.transfer and self._hears_leader(now):
                return self._ignore("a vote request while a leader is alive")
            self._become_follower(message.term, None, now)
            self._event("UpdateTerm")
        elif message.term < self.current_term:
            self._answer_stale(sender, message)
            return self._ignore("a message of an older term")
        return True

    def _answer_stale(self, sender: int, message: RaftMessage) -> None:
        """A request of an older term is refused with ours, so that its sender steps down (paper §5.1)."""
        term = self.current_term
        match message:
            case RequestVoteRequest():
                self._outbox.send(sender, RequestVoteResponse(term=term, granted=False))
            case AppendEntriesRequest(round=round_number, prev_log_index=prev):
                refusal = AppendEntriesResponse(
                    term=term, round=round_number, success=False, prev_log_index=prev
                )
                self._outbox.send(sender, refusal)
            case InstallSnapshotRequest(round=round_number):
                self._outbox.send(
                    sender,
                    AppendEntriesResponse(term=term, round=round_number, success=False, prev_log_index=0),
                )
            case _:
                pass  # DropStaleResponse: nobody waits for an answer to an answer

    def _ignore(self, reason: str) -> bool:
        """Drop a message; always False, for the caller to return."""
        self.ignored[reason] += 1
        return False

    def _receive(self, sender: int, message: RaftMessage, now: float) -> None:
        """Every message, in every role, in the current term."""
        match message:
            case PreVoteRequest():
                # Any role answers; a leader, and whoever hears one, refuses.
                self._handle_pre_vote_request(sender, message, now)
            case PreVoteResponse():
                # A pre-candidate collects it; in any other role that canvass is over.
                if self.role is Role.PRE_CANDIDATE:
                    self._election.collect(sender, message.granted)
                    self._count_canvass(now)
            case RequestVoteRequest():
                # Any role answers; who leads or stands in this term has voted, for itself, and refuses.
                # A learner may have been made a voter by an entry it has not seen: it answers too.
                self._handle_request_vote_request(sender, message, now)
            case RequestVoteResponse():
                # A candidate collects it; in any other role that election is over.
                if self.role is Role.CANDIDATE:
                    self._handle_request_vote_response(sender, message, now)
            case AppendEntriesRequest():
                # A follower or learner appends; for who canvasses or stands it means the election is
                # lost (paper §5.2); a leader cannot meet another of its term (ElectionSafety).
                if self._accept_leader(sender, now):
                    self._handle_append_entries_request(sender, message, now)
            case InstallSnapshotRequest():
                # As AppendEntries: it, too, comes only from the one leader of this term.
                if self._accept_leader(sender, now):
                    self._handle_install_snapshot_request(sender, message, now)
            case AppendEntriesResponse() | InstallSnapshotResponse():
                # The leader moves its progress; nobody else has asked anything in this term.
                if self._leadership is None or sender not in self._leadership.progress:
                    self._ignore("an answer from a server that was not asked")
                else:
                    self._handle_response(self._leadership, sender, message, now)
            case TimeoutNowRequest():
                # A follower stands if its own leader asks; a learner cannot, and others already stand.
                if self.role is Role.FOLLOWER and sender == self.leader_id:
                    self._stand(now, transfer=True)
                else:
                    self._ignore("a request to stand that our leader did not send")
            case _ as never:
                assert_never(never)

    # ------------------------------------------------------------------------------------------- votes

    def _handle_pre_vote_request(self, sender: int, message: PreVoteRequest, now: float) -> None:
        """Would we vote for it? (dissertation §9.6) Nothing changes here, except that we may yield."""
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
                self._settle_role(now)
        answer = PreVoteResponse(term=message.term if granted else self.current_term, granted=granted)
        self._outbox.send(sender, answer)

    def _handle_request_vote_request(self, sender: int, message: RequestVoteRequest, now: float) -> None:
        """Vote once a term, first come first served (paper §5.2), for a log at least as complete (§5.4.1)."""
        granted = (
            self.voted_for in (None, sender)
            and LogPosition(message.last_log_term, message.last_log_index) >= self.log.last
            and not self.is_passive
        )
        if granted:
            self._set_term_and_vote(self.current_term, sender)
            if self.role is Role.PRE_CANDIDATE:
                self._settle_role(now)
            if self.role is Role.FOLLOWER:
                self._election.reset(now)
        self._event("HandleRequestVoteRequest", sender=sender, granted=granted)
        self._outbox.send(sender, RequestVoteResponse(term=self.current_term, granted=granted))

    def _handle_request_vote_response(self, sender: int, message: RequestVoteResponse, now: float) -> None:
        """Collect a vote."""
        self._election.collect(sender, message.granted)
        self._event("HandleRequestVoteResponse", sender=sender, granted=message.granted)
        self._count_votes(now)

    # ----------------------------------------------------------------------------------- following a leader

    def _accept_leader(self, sender: int, now: float) -> bool:
        """The sender leads this term: follow it, and wait anew before standing."""
        if self.role is Role.LEADER or self.leader_id not in (None, sender):
            return self._ignore("a second leader of one term")
        self.leader_id = sender
        self._last_contact = now
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self._settle_role(now)
        if self.role is Role.FOLLOWER:
            self._election.reset(now)
        return True

    def _handle_append_entries_request(self, sender: int, message: AppendEntriesRequest, now: float) -> None:
        """The receiver's steps 2 to 5 of paper Figure 2."""
        if reason := entries_flaw(message, self.log, self.commit_index):
            self._ignore(reason)
        elif not self.log.matches(message.prev_log_index, message.prev_log_term):
            self._refuse_entries(sender, message)
        else:
            upto = message.prev_log_index + len(message.entries)
            added = self.log.merge(message.entries)
            self._event(
                "AcceptAppendEntriesRequest",
                sender=sender,
                prev_log_index=message.prev_log_index,
                match_index=upto,
                added=added,
            )
            self._learn_commit(min(message.leader_commit, upto))
            self._membership_changed(now)
            self._acknowledge(sender, message, upto, added)

    def _refuse_entries(self, sender: int, message: AppendEntriesRequest) -> None:
        """Our log does not hold the predecessor: say where the conflicting term begins (paper §5.3)."""
        prev = message.prev_log_index
        if prev > self.log.last_index:
            conflict_term, conflict_index = 0, self.log.last_index + 1
        else:
            conflict_term, conflict_index = self.log.term_at(prev), self.log.first_index_of_term(prev)
        self._event("RejectAppendEntriesRequest", sender=sender, prev_log_index=prev)
        self._outbox.send(
            sender,
            AppendEntriesResponse(
                term=self.current_term,
                round=message.round,
                success=False,
                prev_log_index=prev,
                conflict_term=conflict_term,
                conflict_index=conflict_index,
            ),
        )

    def _learn_commit(self, index: int) -> None:
        """What the leader has committed, as far as our log is known to agree with its (paper §5.3)."""
        if index > self.commit_index:
            self.log.commit_to(index)
            self._event("LearnCommitIndex")

    def _acknowledge(self, sender: int, message: AppendEntriesRequest, upto: int, added: int) -> None:
        """Answer with what is durable: at once, so that a slow disk does not look like a dead server, and
        once more when the rest is durable."""

        def answer(match_index: int) -> AppendEntriesResponse:
            return AppendEntriesResponse(
                term=self.current_term,
                round=message.round,
                success=True,
                prev_log_index=message.prev_log_index,
                match_index=match_index,
            )

        durable = min(upto, self.log.persisted_index)
        if durable == upto or not added:
            self._outbox.send(sender, answer(durable))
        if durable < upto:
            self._outbox.send_after(sender, answer(upto))

    def _handle_install_snapshot_request(
        self, sender: int, message: InstallSnapshotRequest, now: float
    ) -> None:
        """A piece of a snapshot (paper §7, Figure 13)."""
        if reason := snapshot_flaw(message):
            self._ignore(reason)
        elif self.log.holds(message.last_index) and self.log.matches(message.last_index, message.last_term):
            # We hold everything it covers: then it only says that all of it is committed.
            self._learn_commit(message.last_index)
            self._membership_changed(now)
            self._answer_snapshot(sender, message, installed=True)
        elif message.last_index <= self.commit_index:
            self._answer_snapshot(sender, message, installed=True)
        elif (snapshot := self._receiver.take(sender, message)) is None:
            self._answer_snapshot(sender, message, installed=False)
        else:
            self.log.install(snapshot)
            self._outbox.note_snapshot(snapshot)
            self._membership_changed(now)
            self._event("InstallSnapshot", sender=sender, index=snapshot.index)
            self._answer_snapshot(sender, message, installed=True)

    def _answer_snapshot(self, sender: int, message: InstallSnapshotRequest, installed: bool) -> None:
        """An installed snapshot is acknowledged when it is durable, a piece of one at once."""
        answer = InstallSnapshotResponse(
            term=self.current_term,
            round=message.round,
            last_index=message.last_index,
            offset=message.total if installed else self._receiver.held,
            installed=installed,
        )
        (self._outbox.send_after if installed else self._outbox.send)(sender, answer)

    # ------------------------------------------------------------------------------------------- leading

    def _handle_response(
        self,
        leading: Leadership,
        sender: int,
        message: AppendEntriesResponse | InstallSnapshotResponse,
        now: float,
    ) -> None:
        """A follower answered: it is alive, and we know more of its log."""
        if reason := response_flaw(message, leading.round, self.log.last_index):
            self._ignore(reason)
            return
        leading.heard(sender, message.round, now)
        match message:
            case AppendEntriesResponse():
                leading.on_append_response(sender, message)
                self._event("HandleAppendEntriesResponse", sender=sender, success=message.success)
            case InstallSnapshotResponse():
                leading.on_snapshot_response(sender, message)
                self._event("HandleInstallSnapshotResponse", sender=sender, installed=message.installed)
            case _ as never:
                assert_never(never)
        self._advance_commit_index(now)

    def _advance_commit_index(self, now: float) -> None:
        """AdvanceCommitIndex: a majority holds it, and it is of our own term (paper §5.4.2, Figure 8)."""
        leading = self._leadership
        if leading is None:
            return
        index = leading.quorum_match()
        if index <= self.commit_index or self.log.term_at(index) != self.current_term:
            return
        before = self.commit_index
        self.log.commit_to(index)
        leading.note_committed(self.log.entries(before + 1, index + 1))
        self._event("AdvanceCommitIndex")
        if before < self.log.membership_index <= index:
            self._membership_committed(leading, now)

    def _membership_committed(self, leading: Leadership, now: float) -> None:
        """A change is complete: tell who was removed, and leave if it is ourselves (dissertation §4.2.2)."""
        leading.replicate(now)
        if self.node_id in self.membership.voters:
            leading.membership_changed()
        else:
            leading.hand_over(self.membership)
            self._become_follower(self.current_term, None, now)
            self._event("LeaveOffice")

    # ------------------------------------------------------------------------------------- self-checks

    def _event(self, event_name: str, **values: object) -> None:
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
        assert self.log.last_term <= self.current_term, "an entry of a term we have not seen"
        assert (self._leadership is not None) == (self.role is Role.LEADER)
        assert self.role is not Role.LEADER or self.leader_id == self.node_id
        if self.role in (Role.CANDIDATE, Role.LEADER):
            assert self.voted_for == self.node_id
        if self.role is Role.LEARNER:
            assert not self.is_electable and self._election.deadline == math.inf
        if self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE):
            assert self.is_electable and self._election.deadline < math.inf
        if self._leadership is not None:
            assert self._leadership.term == self.current_term
            self._leadership.check_invariants()
