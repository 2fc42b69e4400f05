"""Behaviours of Raft.tla, performed on the real `Raft` class: a cluster of servers that follows the spec.

TLC chooses the behaviours. This module performs one step of the spec after the other on real servers, maps
their state back to the spec's variables, and compares. `replay_steps.py` recognises a step by the two states
around it.

Messages are the servers' own wherever the spec has them: a request for votes, a vote, an acknowledgement
counts only if a real server has sent it, and what promises something must be durable when it leaves. Entries
are sent by the step that takes them, cut out of what the leader's log was, because the spec lets any slice
of it arrive.

Forbidden effects are tried, too, on copies of servers (`_probe`): a vote that the spec does not grant,
acknowledgements that do not suffice, a commit index without its entries, a repeated request.

Where the code does in one step what the spec does in two, the comparison waits (`RealServer.unborn`,
`.ahead`): a new leader appends its no-op at once; a term that is written makes durable what was written
before it; a leader that is removed leaves with the commit. A step that only the spec can take ends the
replay of a behaviour, and is counted (`Beyond`): the loss of a tail although a later write was durable, a
transfer to a server that has restarted.

Left out: `elections`, `committed` and `budget`, which are history; and time: clocks are moved so that no
server refuses because it hears a leader.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

import msgspec

from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import (
    MEMBERSHIP,
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
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
    Role,
    Snapshot,
    TimeoutNowRequest,
)
from walrus.raft import Raft
from walrus.storage.batch import Batch
from walrus.tlc.replay_steps import Beyond, Difference, SpecState, SpecStep, same
from walrus.tlc.values import TlaRecord

CONFIG: Final = RaftConfig(heartbeat_interval=0.1, election_timeout=1.0)


class _Lowest:
    """A source of randomness that always returns the lowest value."""

    def uniform(self, a: float, b: float) -> float:
        """Return the lower bound."""
        return a


class _Disk:
    """The part of `Storage` that a journal needs: one topic of entries. What is written is durable."""

    def __init__(self) -> None:
        self._first, self._entries = 0, list[bytes]()

    def write(self, topic: str, batch: Batch) -> int:
        self._entries += batch.payloads()
        return self._first + len(self._entries) - batch.count

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        at = start - self._first
        return Batch.of(self._entries[at : at + max_entries])

    def bounds(self, topic: str) -> tuple[int, int]:
        return self._first, self._first + len(self._entries)

    def topics(self) -> list[str]:
        return []

    def trim(self, topic: str, before: int) -> None:
        gone = max(0, min(before - self._first, len(self._entries)))
        del self._entries[:gone]
        self._first += gone

    def delete_topic(self, topic: str) -> None:
        raise NotImplementedError


# --- one server -------------------------------------------------------------------------------------------


class RealServer:
    """A real server, its waiting writes, and the part of its state that the spec does not have yet."""

    def __init__(self, node: int, disk: _Disk, now: float) -> None:
        self.node, self.now = node, now
        self.disk, self.journal = disk, RaftJournal(disk)
        restored = self.journal.load()
        self.raft = Raft(node_id=node, config=CONFIG, restored=restored, rng=_Lowest(), now=now)
        self.waiting: list[Ready] = []
        self.durable = restored.hard_state
        """The term and the vote on disk."""
        self.unborn = False
        """Whether it leads and has appended the no-op, which the spec appends in a later step."""
        self.ahead = False
        """Whether more of its log is durable than in the spec."""
        self.full: list[Entry] = []
        """The log from index 1 on, including the entries that a snapshot covers."""
        self.snapshot: Snapshot | None = None

    @property
    def left(self) -> bool:
        """Return whether it led and left with the commit of its removal."""
        return self.raft.role is Role.LEARNER and self.node not in self.raft.membership.voters

    def look(self) -> None:
        """Bring `full` up to date with the log."""
        log = self.raft.log
        base = log.snapshot_index
        self.full[base:] = log.entries(base + 1, log.last_index + 1)

    def shown(self) -> list[Entry]:
        """Return the log without a no-op that the spec does not have yet."""
        return self.full[:-1] if self.unborn else list(self.full)


def _mapped(entry: Entry) -> Mapping[str, object]:
    members = Membership.decode(entry.data) if entry.kind is MEMBERSHIP else Membership()
    return {
        "term": entry.term,
        "voters": frozenset(members.voters),
        "learners": frozenset(members.learners),
    }


# --- the cluster ------------------------------------------------------------------------------------------


class Cluster:
    """Real servers in the initial state of a behaviour; `perform` applies a step to them and compares."""

    def __init__(self, first: SpecState, pre_votes: bool) -> None:
        self._pre_votes = pre_votes
        self._sent: list[tuple[int, int, RaftMessage]] = []
        terms = len(first["leader_of"])
        self._leaders = [0] * terms
        self._leader_logs: list[list[Entry]] = [[] for _ in range(terms)]
        self._leader_commits = [0] * terms
        self._own_votes = set[tuple[int, int]]()
        if any(role != "Follower" for role in first["role"].values()):
            raise Beyond("the behaviour begins in the middle of things: only Begun = 1 can be set up")
        self.servers = {node: self._founded(node, first) for node in sorted(first["role"])}
        self.compare(first)

    def _founded(self, node: int, first: SpecState) -> RealServer:
        disk = _Disk()
        if first["log"][node]:
            (founding,) = first["log"][node]
            members = Membership(tuple(sorted(founding["voters"])), tuple(sorted(founding["learners"])))
            RaftJournal(disk).bootstrap(members)
        server = RealServer(node, disk, 0.0)
        if first["commit_index"][node]:
            server.raft.log.commit_to(first["commit_index"][node])
        self._pump(server)
        return server

    def perform(self, step: SpecStep, before: SpecState, after: SpecState) -> None:
        """Do one step. Raises Difference if the code ends in another state than the spec, or Beyond."""
        goes_on = step.action in (
            "ClientRequest",
            "AdvanceCommitIndex",
            "ChangeMembership",
            "CheckQuorumFailed",
        )
        if goes_on and before["role"][step.node] == "Leader" and self.servers[step.node].left:
            raise Beyond("a leader that was removed goes on")
        if any(len(log) and _voters(log) == 1 for log in after["log"].values()):
            raise Beyond("a cluster of one commits by itself")
        action = getattr(self, f"_{step.action}")
        try:
            action(step, after)
            for server in self.servers.values():
                server.raft.check_invariants()
        except (AssertionError, LookupError, ValueError) as error:
            raise Difference("an assertion", "kept", f"broken: {error!r}") from error
        self.compare(after)
        try:
            self._probe(step, after)
        except (AssertionError, LookupError, ValueError) as error:
            raise Difference("an assertion", "kept", f"broken: {error!r}") from error

    # --- what is on its way ---

    def _send(self, server: RealServer, envelopes: Any) -> None:
        """Record what a server sends. Raises Difference for a promise that is not durable."""
        for to, message in envelopes:
            match message:
                case RequestVoteRequest(term=term) if server.durable != HardState(term, server.node):
                    raise Difference("requests", "durable before they leave", f"{message} of {server.node}")
                case RequestVoteResponse(term=term, granted=True) if server.durable != HardState(term, to):
                    raise Difference("votes", "durable before they leave", f"{message} of {server.node}")
                case AppendEntriesResponse(success=True, match_index=index):
                    if index > self._on_disk(server):
                        raise Difference("matched", "durable before it is told", f"{message}")
            self._sent.append((server.node, to, message))

    def _on_disk(self, server: RealServer) -> int:
        """Return how much of the log the next start would find."""
        restored = RaftJournal(server.disk).load()
        base = restored.snapshot.index if restored.snapshot else 0
        return restored.entries[-1].index if restored.entries else base

    def _pump(self, server: RealServer, *, sync: bool = True) -> None:
        """Take what the server wants done; with `sync` do it, otherwise let it wait for the disk."""
        raft = server.raft
        while raft.has_ready():
            ready = raft.ready()
            self._send(server, ready.messages)
            if ready.needs_persist:
                server.waiting.append(ready)
            if sync:
                self._sync(server)
        if sync:
            self._sync(server)

    def _sync(self, server: RealServer) -> None:
        while server.waiting:
            ready = server.waiting.pop(0)
            self._write(server, ready)
            self._send(server, ready.messages_after)
            server.raft.persisted(ready, server.now)
            server.journal.durable(ready)

    def _write(self, server: RealServer, ready: Ready) -> None:
        server.journal.save(ready)
        if ready.hard_state is not None:
            server.durable = ready.hard_state

    def _tell(self, server: RealServer, sender: int, message: RaftMessage, *, sync: bool = True) -> None:
        server.raft.step(sender, message, server.now)
        self._pump(server, sync=sync)

    def _received(self, kind: type, sender: int, to: int, term: int) -> list[Any]:
        return [
            message
            for source, target, message in self._sent
            if isinstance(message, kind) and (source, target) == (sender, to) and message.term == term
        ]

    # --- elections ---

    def _PreVote(self, step: SpecStep, after: SpecState) -> None:
        server = self.servers[step.node]
        server.now = max(server.now, server.raft.next_deadline())
        server.raft.tick(server.now)
        self._catch_up(server)
        self._pump(server)

    def _catch_up(self, server: RealServer) -> None:
        """A write that is durable at once makes durable what waits before it."""
        server.ahead = server.ahead or bool(server.waiting)

    def _Timeout(self, step: SpecStep, after: SpecState) -> None:
        server, raft = self.servers[step.node], self.servers[step.node].raft
        self._catch_up(server)
        if not self._pre_votes:
            self._PreVote(step, after)
            for peer in raft.membership.voters:
                if raft.role is Role.PRE_CANDIDATE and peer != step.node:
                    granted = PreVoteResponse(term=raft.current_term + 1, granted=True)
                    self._tell(server, peer, granted)
        elif raft.role is Role.PRE_CANDIDATE:
            self._canvass(server)
        else:
            self._transfer(server)
        self._own_votes |= (
            {(raft.current_term, step.node)} if server.durable.voted_for == step.node else set()
        )

    def _canvass(self, server: RealServer) -> None:
        """Ask every server that would grant a pre-vote, and deliver its answer."""
        term = server.raft.current_term + 1
        asked = {
            to: message  # the latest one
            for sender, to, message in self._sent
            if sender == server.node and isinstance(message, PreVoteRequest) and message.term == term
        }
        leaders = {to for to in asked if self.servers[to].raft.role is Role.LEADER}
        for to, message in asked.items():
            if server.raft.role is Role.PRE_CANDIDATE and to in server.raft.membership.voters:
                other = self.servers[to]
                if other.raft.current_term > message.term or to in leaders:
                    continue  # it would refuse, and perhaps report a newer term
                # A pre-candidate would become a follower, for which the spec has no step. A server that is
                # in the new term by now has granted the pre-vote before.
                if other.raft.role is Role.PRE_CANDIDATE or other.raft.current_term == message.term:
                    self._tell(server, to, PreVoteResponse(term=message.term, granted=True))
                    continue
                other.now += 2 * CONFIG.election_timeout
                before = len(self._sent)
                self._catch_up(other)
                self._tell(other, server.node, message)
                for sender, _, answer in self._sent[before:]:
                    if isinstance(answer, PreVoteResponse):
                        self._tell(server, sender, answer)
        if server.raft.role is Role.PRE_CANDIDATE and leaders:
            raise Beyond("a leader grants no pre-vote")

    def _transfer(self, server: RealServer) -> None:
        raft = server.raft
        if raft.role is not Role.FOLLOWER or raft.leader_id is None:
            raise Beyond("a server that has restarted does not know who may tell it to campaign")
        self._tell(server, raft.leader_id, TimeoutNowRequest(term=raft.current_term))

    def _HandleRequestVoteRequest(self, step: SpecStep, after: SpecState) -> None:
        server, (candidate,) = self.servers[step.node], step.values
        term = server.raft.current_term
        asked = [
            message
            for sender, _, message in self._sent
            if sender == candidate and isinstance(message, RequestVoteRequest) and message.term == term
        ]
        if not asked:
            raise Difference("requests", f"one of {candidate} in term {term}", "none")
        server.now += 2 * CONFIG.election_timeout
        self._catch_up(server)
        self._tell(server, candidate, asked[0])

    def _UpdateTerm(self, step: SpecStep, after: SpecState) -> None:
        server, (term,) = self.servers[step.node], step.values
        other = next(node for node in self.servers if node != step.node)
        self._let_go(server)
        self._catch_up(server)
        self._tell(server, other, RequestVoteResponse(term=term, granted=False))

    def _BecomeLeader(self, step: SpecStep, after: SpecState) -> None:
        server, raft = self.servers[step.node], self.servers[step.node].raft
        for voter in self.servers:
            for vote in self._received(RequestVoteResponse, voter, step.node, raft.current_term):
                if vote.granted and raft.role is Role.CANDIDATE:
                    raft.step(voter, vote, server.now)
        server.unborn = raft.role is Role.LEADER
        self._pump(server, sync=False)

    def _CheckQuorumFailed(self, step: SpecStep, after: SpecState) -> None:
        server = self.servers[step.node]
        for _ in range(40):
            if server.raft.role is Role.LEADER:
                server.now += 0.4 * CONFIG.election_timeout
                server.raft.tick(server.now)
        self._let_go(server)
        self._pump(server, sync=False)

    def _let_go(self, server: RealServer) -> None:
        """A leader is deposed."""
        if server.unborn:
            raise Beyond("a leader that is deposed before its first entry")

    # --- replication ---

    def _ClientRequest(self, step: SpecStep, after: SpecState) -> None:
        server = self.servers[step.node]
        if server.unborn:
            server.unborn = False
        else:
            server.raft.propose(b"x", server.now)
        self._pump(server, sync=False)

    def _Persist(self, step: SpecStep, after: SpecState) -> None:
        server = self.servers[step.node]
        self._sync(server)
        self._pump(server, sync=server.raft.role is not Role.LEADER)
        server.ahead = server.unborn  # the no-op is durable, too, and the spec appends it later

    def _leader(self, node: int) -> int:
        term = self.servers[node].raft.current_term
        leader = self._leaders[term - 1]
        if not leader:
            raise Difference("leader_of", f"a leader of term {term}", "none")
        return leader

    def _request(self, node: int, prev: int, last: int, commit: int) -> AppendEntriesRequest:
        term = self.servers[node].raft.current_term
        log = self._leader_logs[term - 1]
        if last > len(log):
            raise Difference("leader_log", f"{last} entries", f"{len(log)}")
        return AppendEntriesRequest(
            term=term,
            round=0,
            prev_log_index=prev,
            prev_log_term=log[prev - 1].term if prev else 0,
            leader_commit=commit,
            entries=tuple(log[prev:last]),
        )

    def _AcceptAppendEntriesRequest(self, step: SpecStep, after: SpecState) -> None:
        server, (prev, last) = self.servers[step.node], step.values
        leader = self._leader(step.node)
        self._tell(server, leader, self._request(step.node, prev, last, 0))
        server.ahead = False

    def _LearnCommitIndex(self, step: SpecStep, after: SpecState) -> None:
        server, (index,) = self.servers[step.node], step.values
        self._catch_up(server)
        self._tell(server, self._leader(step.node), self._request(step.node, index, index, index))

    def _answered(self, leader: RealServer, peer: int, index: int) -> None:
        """Deliver a follower's answers: it installed a snapshot, and it holds entries up to `index`.

        In this order: while a leader sends a snapshot, it ignores answers to entries, and the spec's leader
        does not forget what it was told.
        """
        term = leader.raft.current_term
        for snapshot in self._received(InstallSnapshotResponse, peer, leader.node, term):
            leader.raft.step(peer, snapshot, leader.now)
        told = [
            answer
            for answer in self._received(AppendEntriesResponse, peer, leader.node, term)
            if answer.success and answer.match_index >= index
        ]
        if told:
            answer = min(told, key=lambda each: each.match_index)
            prev = min(answer.prev_log_index, index)
            capped = msgspec.structs.replace(answer, match_index=index, prev_log_index=prev)
            leader.raft.step(peer, capped, leader.now)

    def _AdvanceCommitIndex(self, step: SpecStep, after: SpecState) -> None:
        server, (index,) = self.servers[step.node], step.values
        raft = server.raft
        for peer in self.servers:
            if raft.commit_index < index:
                self._answered(server, peer, index)
        if raft.commit_index < index and any(progress.transfer for progress in raft.progress.values()):
            raise Beyond("the leader waits for the answer to another snapshot")
        if raft.role is not Role.LEADER:
            self._catch_up(server)
        self._pump(server, sync=raft.role is not Role.LEADER)

    # --- snapshots ---

    def _CompactLog(self, step: SpecStep, after: SpecState) -> None:
        server, (index,) = self.servers[step.node], step.values
        self._compact(server, index)

    def _compact(self, server: RealServer, index: int) -> None:
        log = server.raft.log
        members = log.membership_at(index)
        server.snapshot = Snapshot(index, log.term_at(index), members, b"snapshot")
        self._catch_up(server)
        server.raft.compact(index, b"snapshot")
        self._pump(server)

    def _InstallSnapshot(self, step: SpecStep, after: SpecState) -> None:
        server, leader = self.servers[step.node], self.servers[self._leader(step.node)]
        snapshot = leader.snapshot
        if snapshot is None or snapshot.index != after["base"][step.node]:
            raise Difference("base", after["base"][step.node], snapshot)
        request = InstallSnapshotRequest(
            term=server.raft.current_term,
            round=0,
            last_index=snapshot.index,
            last_term=snapshot.term,
            membership=snapshot.membership,
            offset=0,
            total=len(snapshot.data),
            data=snapshot.data,
        )
        if not server.raft.log.holds(snapshot.index) or server.full[snapshot.index - 1].term != snapshot.term:
            server.full = leader.full[: snapshot.index]
        self._catch_up(server)
        self._tell(server, leader.node, request)
        server.snapshot = snapshot
        if server.raft.log.snapshot_index < snapshot.index:  # it had all of that: its host compacts, too
            self._compact(server, snapshot.index)

    # --- membership ---

    def _ChangeMembership(self, step: SpecStep, after: SpecState) -> None:
        server, entry = self.servers[step.node], after["log"][step.node][-1]
        raft = server.raft
        wanted = Membership(tuple(sorted(entry["voters"])), tuple(sorted(entry["learners"])))
        for learner in set(wanted.voters) - set(raft.membership.voters):
            needed = max(raft.log.membership_index, raft.log.snapshot_index)
            self._answered(server, learner, needed)
            if raft.progress[learner].transfer is not None:
                raise Beyond("the leader waits for the answer to another snapshot")
        if raft.propose_membership(wanted, server.now) is None:
            raise Difference("log", f"{wanted} may be proposed", "refused")
        self._pump(server, sync=False)

    def _StepDown(self, step: SpecStep, after: SpecState) -> None:
        """Do nothing: the code leaves with the commit."""

    # --- faults ---

    def _Restart(self, step: SpecStep, after: SpecState) -> None:
        if not step.node:
            return  # a server that loses nothing: no variable changes
        server, length = self.servers[step.node], len(after["log"][step.node])
        while server.waiting and server.waiting[0].entries and server.waiting[0].entries[-1].index <= length:
            self._write(server, server.waiting.pop(0))
        if self._on_disk(server) > length:
            raise Beyond("a tail is lost that a later write made durable")
        again = RealServer(step.node, server.disk, server.now)
        again.full, again.snapshot = server.full[:length], server.snapshot
        self.servers[step.node] = again
        self._pump(again)

    # --- what must not happen ---

    def _probe(self, step: SpecStep, spec: SpecState) -> None:
        if step.action == "Timeout":
            self._probe_votes(step.node, spec)
        elif step.action == "HandleRequestVoteRequest":
            self._probe_second_vote(step.node, step.values[0])
        elif step.action in ("AcceptAppendEntriesRequest", "Persist"):
            self._probe_commit(step.node, spec)

    def _probe_second_vote(self, node: int, candidate: int) -> None:
        """Another server asks for the vote that was just given."""
        voter = self.servers[node]
        other = next(each for each in self.servers if each not in (node, candidate))
        asked = self._received(RequestVoteRequest, candidate, node, voter.raft.current_term)
        if asked:
            copied = deepcopy(voter)
            copied.raft.step(other, asked[-1], copied.now)
            same(f"voted_for[{node}], asked again", candidate, copied.raft.voted_for)
            answers = copied.raft.ready().messages
            if any(isinstance(answer, RequestVoteResponse) and answer.granted for _, answer in answers):
                raise Difference("votes", f"one of {node} in this term", "two")

    def _probe_votes(self, candidate: int, spec: SpecState) -> None:
        """Send the request for votes to copies of all others: they may grant it only where the spec does."""
        asked = [
            message
            for sender, _, message in self._sent
            if sender == candidate and isinstance(message, RequestVoteRequest)
        ]
        for node, server in self.servers.items():
            if node == candidate or not asked or server.raft.current_term > asked[-1].term:
                continue
            copied = deepcopy(server)
            copied.now += 2 * CONFIG.election_timeout
            copied.raft.step(candidate, asked[-1], copied.now)
            theirs = (asked[-1].last_log_term, asked[-1].last_log_index)
            log = spec["log"][node]
            free = server.raft.current_term < asked[-1].term or spec["voted_for"][node] in (0, candidate)
            may = bool(log) and free and theirs >= (log[-1]["term"], len(log))
            granted = copied.raft.current_term == asked[-1].term and copied.raft.voted_for == candidate
            leads = server.raft.role is Role.LEADER or server.unborn
            if granted and not may and not leads:
                raise Difference("votes", f"none of {node} for {candidate}", "one")

    def _probe_commit(self, node: int, spec: SpecState) -> None:
        """A copy of the leader gets all acknowledgements, a copy of the server the leader's commit index."""
        term = self.servers[node].raft.current_term
        leader = self.servers.get(self._leaders[term - 1]) if term else None
        if leader is None or leader.raft.role is not Role.LEADER or leader.raft.current_term != term:
            return
        if not (leader.unborn or leader.ahead):
            self._probe_leader(leader, spec)
        server = self.servers[node]
        if node != leader.node and not server.unborn and spec["role"][node] == "Follower":
            copied, known = deepcopy(server), server.raft.commit_index
            copied.raft.step(
                leader.node, self._request(node, known, known, leader.raft.commit_index), copied.now
            )
            same(f"commit_index[{node}], of what was not shown", known, copied.raft.commit_index)
            sent = self._leader_logs[term - 1]
            if known < min(len(sent), len(server.full)) and sent[known] == server.full[known]:
                copied.raft.step(leader.node, self._request(node, known, known + 1, 0), copied.now)
                last = copied.raft.log.last_index
                same(f"log[{node}], after a request that says nothing new", len(server.full), last)
            self._probe_predecessor(server, leader, sent)

    def _probe_predecessor(self, server: RealServer, leader: RealServer, sent: list[Entry]) -> None:
        """A copy gets a request whose predecessor it has in another term."""
        for prev, (theirs, mine) in enumerate(zip(sent, server.full, strict=False), 1):
            if theirs.term == mine.term:
                continue
            copied = deepcopy(server)
            copied.raft.step(leader.node, self._request(server.node, prev, prev, 0), copied.now)
            ready = copied.raft.ready()
            for _, answer in (*ready.messages, *ready.messages_after):
                if isinstance(answer, AppendEntriesResponse) and answer.success:
                    raise Difference(f"log[{server.node}]", f"another one up to {prev}", "taken for the same")
            return

    def _probe_leader(self, leader: RealServer, spec: SpecState) -> None:
        term, log = leader.raft.current_term, spec["log"][leader.node]
        voters = leader.raft.membership.voters
        held = dict(spec["matched"][term - 1]) | {leader.node: spec["persisted"][leader.node]}
        most = sorted((held[voter] for voter in voters), reverse=True)[len(voters) // 2]
        may = most if most and log[most - 1]["term"] == term else 0
        copied = deepcopy(leader)
        for sender, to, message in self._sent:
            if to == leader.node and isinstance(message, AppendEntriesResponse) and message.term == term:
                copied.raft.step(sender, message, copied.now)
        if copied.raft.commit_index > max(may, leader.raft.commit_index):
            raise Difference(f"commit_index[{leader.node}]", f"at most {may}", copied.raft.commit_index)

    # --- comparing ---

    def compare(self, spec: SpecState) -> None:
        """Compare all variables. Raises Difference at the first one that differs in the code."""
        for server in self.servers.values():
            server.look()
            self._note_leader(server)
            self._compare_server(server, spec)
        code = {
            "requests": self._requests(),
            "votes": self._votes(),
            "leader_of": tuple(self._leaders),
            "leader_log": tuple(tuple(map(_mapped, log)) for log in self._leader_logs),
            "leader_commit": tuple(self._leader_commits),
        }
        for name, value in code.items():
            same(name, spec[name], value)
        for term, matched in enumerate(self._matched(), 1):
            same(f"matched[{term}]", dict(spec["matched"][term - 1]), matched)

    def _note_leader(self, server: RealServer) -> None:
        raft = server.raft
        if raft.role is Role.LEADER:
            at = raft.current_term - 1
            self._leaders[at] = server.node
            self._leader_logs[at] = server.shown()
            self._leader_commits[at] = max(self._leader_commits[at], raft.commit_index)
        elif raft.current_term and self._leaders[raft.current_term - 1] == server.node:
            at = raft.current_term - 1
            self._leader_commits[at] = max(self._leader_commits[at], raft.commit_index)

    def _compare_server(self, server: RealServer, spec: SpecState) -> None:
        raft, node = server.raft, server.node
        base, shown = raft.log.snapshot_index, server.shown()
        durable = (server.durable.term, server.durable.voted_for or 0)
        same(f"current_term[{node}]", spec["current_term"][node], raft.current_term)
        same(f"voted_for[{node}]", spec["voted_for"][node], raft.voted_for or 0)
        same(f"voted_for[{node}], durable", (spec["current_term"][node], spec["voted_for"][node]), durable)
        same(f"log[{node}]", tuple(spec["log"][node]), tuple(map(_mapped, shown)))
        same(f"commit_index[{node}]", spec["commit_index"][node], raft.commit_index)
        same(f"base[{node}]", spec["base"][node], base)
        persisted = min(raft.log.persisted_index, len(shown))
        known = spec["persisted"][node]
        if not (server.ahead and persisted >= known):
            same(f"persisted[{node}]", known, persisted)
        if persisted > self._on_disk(server):
            raise Difference(f"persisted[{node}]", self._on_disk(server), persisted)
        role = "Follower" if raft.role is Role.LEARNER else raft.role.value
        if spec["role"][node] == "Leader" and server.left:
            return
        same(f"role[{node}]", spec["role"][node], role)

    def _requests(self) -> frozenset[Any]:
        return frozenset(
            TlaRecord(
                term=message.term,
                candidate=sender,
                last_term=message.last_log_term,
                last_index=message.last_log_index,
            )
            for sender, _, message in self._sent
            if isinstance(message, RequestVoteRequest)
        )

    def _votes(self) -> frozenset[Any]:
        given = {
            (message.term, sender, to)
            for sender, to, message in self._sent
            if isinstance(message, RequestVoteResponse) and message.granted
        }
        given |= {(term, node, node) for term, node in self._own_votes}
        return frozenset(TlaRecord(term=term, voter=voter, candidate=to) for term, voter, to in given)

    def _matched(self) -> list[dict[int, int]]:
        found = [dict.fromkeys(self.servers, 0) for _ in self._leaders]
        for sender, to, message in self._sent:
            index = 0
            if isinstance(message, AppendEntriesResponse) and message.success:
                index = message.match_index
            elif isinstance(message, InstallSnapshotResponse) and message.installed:
                index = message.last_index
            if index and self._leaders[message.term - 1] == to:
                found[message.term - 1][sender] = max(found[message.term - 1][sender], index)
        return found


def _voters(log: Any) -> int:
    return next((len(entry["voters"]) for entry in reversed(log) if entry["voters"]), 0)
