"""Promises: what a node says must be true of its disk at that moment.

A violated invariant is often the late consequence of an answer that came too early, and shows only after a
power loss at the right moment. So every message between nodes that promises something is compared, when it
is sent, with what is durable (`durable.py`), as the `--fsync` mode requires:

    a vote, any term     the term and the vote are durable; the candidate's log is no worse than the voter's
    a match index        the log is durable up to it, and equal to the leader's there
    a snapshot installed the log is durable up to its index
    a replica's length   so many entries of the copy are durable
    a fence answered     the fence is noted durably, its length is durable and covers all that was reported
    a copy made          so many entries are durable
    a read confirmed     at an index no less than what was committed when it was asked for

A process that starts must remember what was durable before. And a writer may append only while its lease
holds: within `lease_ttl` on its own clock, the node has heard from a leader of Raft, or, as that leader,
from a majority.

Each violation has the name of the spec's invariant that depends on the promise. Two have no such name:
`ReadIndex` (Raft.tla has no reads) and `Lease` (no invariant of Walrus.tla needs leases).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from walrus.consensus.log import RaftLog
from walrus.consensus.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    TimeoutNowRequest,
)
from walrus.replicas.copies import Key
from walrus.sim.durable import NodeLog
from walrus.sim.host import Host
from walrus.sim.truth import Truth
from walrus.sim.violation import Violation, holds
from walrus.wire import messages as m

NEVER = float("-inf")
SLACK = 1e-6
"""Seconds by which rounding may make two readings of a clock differ."""


class Promises:
    """Checks messages when they are sent and when they arrive."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._candidacies: dict[tuple[int, int], tuple[int, int]] = {}
        """(node, term) -> the (term, index) at which the candidate's log ends, as it said."""
        self._reported: dict[tuple[int, Key], int] = {}
        """The greatest length that a replica reported to the writer of a segment."""
        self._asked: dict[tuple[int, int], int] = {}
        """(node, request) -> entries committed when the node first asked for a ReadIndex."""
        self._leases = Leases()
        self._checks: dict[type, Callable[[Host, int, Any], None]] = {
            RequestVoteRequest: self._stands,
            RequestVoteResponse: self._votes,
            AppendEntriesRequest: self._leads,
            AppendEntriesResponse: self._matches,
            InstallSnapshotRequest: self._leads,
            InstallSnapshotResponse: self._installed,
            TimeoutNowRequest: self._reveals,
            m.AppendReply: self._reports,
            m.FenceReply: self._fences,
            m.CopyReply: self._copied,
            m.ReadIndex: self._asks,
            m.ReadIndexReply: self._confirms,
        }

    def sent(self, host: Host, to: int, message: m.PeerMessage, now: float) -> None:
        """Check a message that a node sends at `now`, the world's time. Raises Violation."""
        check = self._checks.get(type(message))
        if check is not None:
            check(host, to, message)
            self._leases.sent(host, message, now)

    def arrives(self, host: Host, sender: int, message: m.PeerMessage, now: float) -> None:
        """Note what a node learns from a message."""
        self._leases.arrives(host, sender, message, now)

    def appended(self, host: Host, now: float) -> None:
        """A writer may have appended in this step of the node: its lease must hold."""
        for write in self._truth.writes:
            if write.originated and (write.node, write.incarnation) == (host.id, host.record.incarnation):
                self._leases.must_hold(host, write.key, now)

    # --- Raft ---

    def _reveals(self, host: Host, to: int, message: Any) -> None:
        durable = self._truth.durable[host.id].hard_state
        if message.term > durable.term:
            raise Violation(
                "ElectionSafety",
                f"node {host.id} sends {type(message).__name__} of term {message.term}, durable is {durable}",
            )

    def _stands(self, host: Host, to: int, message: RequestVoteRequest) -> None:
        self._reveals(host, to, message)
        place = (message.last_log_term, message.last_log_index)
        self._candidacies[(host.id, message.term)] = place

    def _votes(self, host: Host, to: int, message: RequestVoteResponse) -> None:
        self._reveals(host, to, message)
        if not message.granted:
            return
        durable = self._truth.durable[host.id].hard_state
        if message.term == durable.term and durable.voted_for != to:
            raise Violation(
                "ElectionSafety",
                f"node {host.id} votes for {to} in term {message.term}, durable is {durable}",
            )
        assert host.controller is not None
        mine = host.controller.raft.log.last
        theirs = self._candidacies.get((to, message.term), (mine.term, mine.index))
        # A log that ends in the vote's own term has grown since the vote was given, so it is not compared.
        if mine.term < message.term and (mine.term, mine.index) > theirs:
            raise Violation(
                "LeaderCompleteness",
                f"node {host.id}, whose log ends at {mine}, votes for {to}, whose log ends at {theirs}",
            )

    def _leads(self, host: Host, to: int, message: AppendEntriesRequest | InstallSnapshotRequest) -> None:
        self._reveals(host, to, message)

    def _matches(self, host: Host, to: int, message: AppendEntriesResponse) -> None:
        self._reveals(host, to, message)
        index, mine = message.match_index, self._truth.durable[host.id].log
        if not message.success or index <= mine.base:
            return
        term = mine.term(index)
        if term is None:
            raise Violation(
                "CommittedNeverLost", f"node {host.id} acknowledges {index}, durable up to {mine.last}"
            )
        theirs = self._truth.logs[to].term(index)
        leader = self._truth.hosts[to].controller
        leads = leader is not None and leader.raft.role is Role.LEADER
        if leads and leader and leader.raft.current_term == message.term and theirs not in (None, term):
            raise Violation(
                "LogMatching",
                f"node {host.id} acknowledges {index} of term {term} to {to}, which has term {theirs} there",
            )

    def _installed(self, host: Host, to: int, message: InstallSnapshotResponse) -> None:
        self._reveals(host, to, message)
        log = self._truth.durable[host.id].log
        if message.installed and log.last < message.last_index:
            raise Violation(
                "CommittedNeverLost",
                f"node {host.id} has installed a snapshot of {message.last_index}, durable up to {log.last}",
            )

    def _asks(self, host: Host, to: int, message: m.ReadIndex) -> None:
        self._asked.setdefault((host.id, message.request), len(self._truth.committed))

    def _confirms(self, host: Host, to: int, message: m.ReadIndexReply) -> None:
        committed = self._asked.get((to, message.request), 0)
        if message.index < committed:
            what = f"node {host.id} confirms a read of {to} at {message.index}, committed were {committed}"
            raise Violation("ReadIndex", what)

    # --- copies ---

    def _durable(self, host: Host, key: Key) -> int:
        """Return how many entries of the node's copy count as durable in this `--fsync` mode."""
        truth = self._truth.truth(key)
        held = truth.synced if self._truth.options.fsync == "each" else truth.lengths
        return held.get(host.id, 0)

    def _says(self, host: Host, key: Key, length: int, what: str, name: str) -> None:
        if self._truth.metadata.is_gone(*key):
            return  # dropped in the same turn: nothing rests on it any more
        if length > (durable := self._durable(host, key)):
            raise Violation(name, f"node {host.id} {what} {length} entries of {key}, {durable} are durable")

    def _reports(self, host: Host, to: int, message: m.AppendReply) -> None:
        key = (message.topic, message.segment)
        self._says(host, key, message.length, "reports", "AckedDurable")
        assert host.controller is not None
        if host.controller.metadata.is_gone(*key) or self._truth.metadata.is_gone(*key):
            # The node has just dropped its copy, and `copies.get` would create one. Or an earlier start of
            # the node did, and this start has yet to apply the reason. Nothing rests on the report either
            # way, as there is no writer that could receive it.
            return
        copies = host.controller.copies
        copy = copies.get(key)
        if copy.sure and not copies.in_doubt:  # of several answers in one turn, the last has it all
            self._sure_of(host, key, copy.durable)
        if not message.fenced:  # of a refusal the writer counts nothing: it hands over
            self._reported[(host.id, key)] = max(message.length, self._reported.get((host.id, key), 0))

    def _copied(self, host: Host, to: int, message: m.CopyReply) -> None:
        self._says(host, (message.topic, message.segment), message.length, "has copied", "SealedStable")

    def _fences(self, host: Host, to: int, message: m.FenceReply) -> None:
        key = (message.topic, message.segment)
        if key in self._truth.sealed_as or self._truth.metadata.is_gone(*key):
            return  # any answer will do: a seal that it leads to is refused
        self._says(host, key, message.length, "is fenced with", "SealedStable")
        note = self._truth.durable[host.id].notes.get(key)
        if note is None or not note.fenced:
            raise Violation(
                "AckedDurable", f"node {host.id} answers a fence of {key} that is not noted durably"
            )
        if message.sure:
            self._sure_of(host, key, message.length)

    def _sure_of(self, host: Host, key: Key, length: int) -> None:
        """A node calls its copy sure: then it must have all that it ever reported to the writer."""
        reported = self._reported.get((host.id, key), 0)
        if length < reported:
            what = f"node {host.id} is sure of {length} entries of {key}, and once reported {reported}"
            raise Violation("AckedDurable", what)

    # --- what a start finds ---

    def remembers(self, host: Host, found: dict[str, int]) -> None:
        """A process has opened its engines and `found` these copies: what was durable must be there."""
        controller, durable = host.controller, self._truth.durable[host.id]
        assert controller is not None
        for name, length in durable.copies.items():
            if found.get(name, 0) < length:
                what = f"node {host.id} finds {found.get(name, 0)} of {length} durable entries of {name}"
                raise Violation("AckedDurable", what)
        raft, before = controller.raft, durable.hard_state
        now = HardState(raft.current_term, raft.voted_for)
        forgot = now.term < before.term or (
            now.term == before.term and before.voted_for not in (None, now.voted_for)
        )
        holds(not forgot, "ElectionSafety", f"node {host.id} starts with {now}, durable was {before}")
        self._finds_entries(host, raft.log, durable.log)
        for key, note in durable.notes.items():
            open_still = self._truth.metadata.segment(*key) and key not in self._truth.sealed_as
            if note.fenced and open_still and not controller.copies.get(key).fenced:
                raise Violation("AckedDurable", f"node {host.id} has forgotten that {key} is fenced")

    def _finds_entries(self, host: Host, log: RaftLog, durable: NodeLog) -> None:
        """A log has been read back: what was durable of it must be there, or have been replaced."""
        snapshot = log.snapshot_index
        if durable.term(snapshot) not in (None, log.term_at(snapshot)):
            return  # replaced by a leader's snapshot, which was written and not known to be durable
        for index in range(max(durable.base, snapshot) + 1, durable.last + 1):
            term = durable.term(index)
            if log.last_index >= index and log.term_at(index) == term:
                continue
            if log.last_index >= index and log.term_at(index) > (term or 0):
                break  # replaced by a later leader's entry, which was written and not known to be durable
            raise Violation(
                "CommittedNeverLost",
                f"node {host.id} starts without entry {index} of term {term}, durable before",
            )


class Leases:
    """When each node last heard from a leader of Raft, or as leader from a majority, judged by messages."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}  # node -> its process, and the time on its clock
        self._rounds: dict[tuple[int, int], dict[int, float]] = {}  # (leader, term) -> round -> first sent
        self._answered: dict[tuple[int, int], dict[int, int]] = {}  # (leader, term) -> peer -> round
        self._stood: dict[tuple[int, int], float] = {}

    def sent(self, host: Host, message: m.PeerMessage, now: float) -> None:
        """Note when a round began, and when a candidate asked for votes."""
        if isinstance(message, AppendEntriesRequest | InstallSnapshotRequest):
            rounds = self._rounds.setdefault((host.id, message.term), {})
            rounds.setdefault(message.round, host.clock(now))
            # It leads, so a majority voted for it after it had asked. This counts after a step-down, too.
            self._hears(host, self._stood.get((host.id, message.term), NEVER))
        elif isinstance(message, RequestVoteRequest):
            self._stood.setdefault((host.id, message.term), host.clock(now))

    def arrives(self, host: Host, sender: int, message: m.PeerMessage, now: float) -> None:
        """Note that a leader is heard, or that a follower answers its leader."""
        assert host.controller is not None
        raft = host.controller.raft
        if isinstance(message, AppendEntriesRequest | InstallSnapshotRequest):
            if message.term >= raft.current_term:
                self._hears(host, host.clock(now))
        elif isinstance(message, AppendEntriesResponse | InstallSnapshotResponse):
            led = (host.id, message.term)
            rounds = self._rounds.get(led, {})
            if raft.role is Role.LEADER and raft.current_term == message.term and message.round in rounds:
                answered = self._answered.setdefault(led, {})
                answered[sender] = max(message.round, answered.get(sender, 0))
                voters = [voter for voter in raft.membership.voters if voter != host.id]
                latest = sorted((answered.get(voter, -1) for voter in voters), reverse=True)
                need = raft.membership.quorum - (host.id in raft.membership.voters)
                if 0 < need <= len(latest) and latest[need - 1] >= 0:
                    self._hears(host, self._rounds[led].get(latest[need - 1], NEVER))

    def _hears(self, host: Host, at: float) -> None:
        process, before = self._heard.get(host.id, (0, NEVER))
        self._heard[host.id] = (host.process, max(at, before) if process == host.process else at)

    def must_hold(self, host: Host, key: Key, now: float) -> None:
        """Check the lease of a node that has appended to a segment that it leads. Raises Violation."""
        assert host.controller is not None
        raft = host.controller.raft
        process, heard = self._heard.get(host.id, (0, NEVER))
        heard = heard if process == host.process else NEVER
        if raft.role is Role.LEADER:
            heard = max(heard, self._stood.get((host.id, raft.current_term), NEVER))
        since = host.clock(now) - heard
        if len(raft.membership.voters) > 1 and since > host.config.lease_ttl + SLACK:
            raise Violation(
                "Lease",
                f"node {host.id} appends to {key}, and has heard of no leader of Raft for {since:.3f} s",
            )
