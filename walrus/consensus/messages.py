"""Raft's vocabulary: values in the log, messages on the wire, and what the core hands to its host.

Every value here is frozen: a message cannot change after it was sent, and the `repr` of any value can be
pasted into a test. The names follow the TLA+ specification that accompanies the Raft paper
("RequestVoteRequest", "AppendEntriesResponse"), with the fields of the paper's Figure 2 in snake_case.

    kind of value     types
    in the log        Entry, Membership, Snapshot, HardState
    over the wire     the union `RaftMessage` (nine messages; the sender is known from the connection)
    to the host       Ready (what to persist, send, apply);  from the host: Restored, RaftConfig

Three fields do not appear in the paper's figures:

* `round` in requests of the leader, echoed in the responses. The leader numbers its rounds of heartbeats; a
  majority that answered round r heard this leader after round r began. Round numbers belong to one term: a
  request of an older term is rejected with `NO_ROUND`, because its sender may lead the newer term by the
  time the rejection arrives, and would otherwise count it as an answer to a round of that term. ReadIndex
  (dissertation §6.4), CheckQuorum (dissertation §6.2) and the leader's own lease all rest on this one
  number.
* `conflict_term`, `conflict_index` in a rejection: where the follower's conflicting term begins, so that
  the leader skips a whole term per round trip (paper §5.3, last paragraphs; `consensus/conflicts.py`).
* `transfer` in a vote request: the current leader asked for this election (dissertation §3.10), so the
  rule that protects a live leader from elections (dissertation §4.2.3) does not apply.

Deliberately left out: message batching and compression (the transport's job), and client sessions (commands
are idempotent and versioned by the state machine above).
"""

from __future__ import annotations

import enum
from typing import Final, Protocol, TypeAlias

import msgspec

from walrus.quorum import majority

NO_ROUND: Final = -1
"""In a rejection that answers no round of the term that it names."""


class EntryKind(enum.IntEnum):
    """What a log entry is for. Only COMMAND entries mean something to the state machine."""

    NOOP = 0
    """Appended by each new leader, to commit what earlier terms left (paper §8)."""
    COMMAND = 1
    """Opaque bytes for the state machine."""
    MEMBERSHIP = 2
    """A new `Membership`, in force as soon as it is appended (paper §6)."""


NOOP, COMMAND, MEMBERSHIP = EntryKind.NOOP, EntryKind.COMMAND, EntryKind.MEMBERSHIP


class Role(enum.Enum):
    """What a server currently is (paper Figure 4, plus the pre-candidate and the learner)."""

    FOLLOWER = "Follower"
    PRE_CANDIDATE = "PreCandidate"
    CANDIDATE = "Candidate"
    LEADER = "Leader"
    LEARNER = "Learner"
    """Not a voter of the newest membership it knows: not yet, no longer, or of no cluster at all."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One log entry; the first one ever has index 1 (paper Figure 2)."""

    term: int
    index: int
    kind: EntryKind = EntryKind.COMMAND
    data: bytes = b""


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """The voters and the learners of a cluster; both sorted, no server in both.

    >>> Membership((1, 2, 3), (4,)).members
    (1, 2, 3, 4)
    >>> Membership((1, 2, 3)).quorum, Membership((1, 2)).quorum
    (2, 2)
    """

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()

    @property
    def members(self) -> tuple[int, ...]:
        """Voters and learners together, sorted."""
        members = tuple(sorted(self.voters + self.learners))
        assert len(set(members)) == len(members), "a server is a voter or a learner"
        return members

    @property
    def quorum(self) -> int:
        """The number of voters that make a majority."""
        quorum = majority(len(self.voters))
        assert 2 * quorum > len(self.voters), "ElectionSafety: two majorities must share a voter"
        return quorum

    def check(self) -> None:
        """Raise ValueError unless sorted, disjoint, and with a voter (or altogether empty)."""
        members = self.voters + self.learners
        if len(set(members)) != len(members):
            raise ValueError(f"a server is named twice in {self}")
        if self.voters != tuple(sorted(self.voters)) or self.learners != tuple(sorted(self.learners)):
            raise ValueError(f"servers are not sorted in {self}")
        if self.learners and not self.voters:
            raise ValueError(f"learners without a voter in {self}")

    def changed_servers(self, other: Membership) -> tuple[int, ...]:
        """The servers whose part differs between the two: at most one may (dissertation §4.1).

        >>> Membership((1, 2), (3,)).changed_servers(Membership((1, 2, 3)))
        (3,)
        """
        voting = set(self.voters) ^ set(other.voters)
        changed = tuple(sorted(voting | (set(self.learners) ^ set(other.learners))))
        assert bool(changed) == (self != other)
        return changed

    def encode(self) -> bytes:
        """As the `data` of a MEMBERSHIP entry."""
        assert self.voters, "no entry makes a cluster without a voter"
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> Membership:
        """The inverse of `encode`; raises ValueError on anything else."""
        membership = msgspec.msgpack.decode(data, type=Membership)
        membership.check()
        return membership


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """The state machine after `index` entries, the last of which has `term` (paper §7, Figure 12)."""

    index: int
    term: int
    membership: Membership
    data: bytes


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What must be durable before a message of this term leaves (paper Figure 2, persistent state)."""

    term: int = 0
    voted_for: int | None = None


# ---------------------------------------------------------------------------------------- the messages


class PreVoteRequest(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Would you vote for me in `term`, which is one above mine? (dissertation §9.6)"""

    term: int
    last_log_index: int
    last_log_term: int


class PreVoteResponse(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """`term` echoes the request when granted, and is the responder's own term when rejected."""

    term: int
    granted: bool


class RequestVoteRequest(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Vote for me in `term` (paper §5.2). `transfer`: the leader of the term before asked me to campaign."""

    term: int
    last_log_index: int
    last_log_term: int
    transfer: bool = False


class RequestVoteResponse(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Sent once the vote is durable."""

    term: int
    granted: bool


class AppendEntriesRequest(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Entries that follow (prev_log_index, prev_log_term); none at all in a heartbeat (paper §5.3)."""

    term: int
    round: int
    prev_log_index: int
    prev_log_term: int
    leader_commit: int
    entries: tuple[Entry, ...] = ()


class AppendEntriesResponse(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """`match_index`: everything up to it equals the leader's log and is durable here (when `success`).

    A rejection names the place that did not match (`prev_log_index`, echoed so that a late rejection is
    recognised) and where to try next: `conflict_index` is the first entry of `conflict_term`, or one past
    the end of a log that is too short (`conflict_term` is 0 then).
    """

    term: int
    round: int
    success: bool
    prev_log_index: int
    match_index: int = 0
    conflict_term: int = 0
    conflict_index: int = 0


class InstallSnapshotRequest(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """One chunk of a snapshot (paper §7, Figure 13): `data` belongs at `offset` of `total` bytes."""

    term: int
    round: int
    last_index: int
    last_term: int
    membership: Membership
    offset: int
    total: int
    data: bytes


class InstallSnapshotResponse(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """`offset`: the bytes held so far, so the next chunk begins there; `installed`: durable and in force."""

    term: int
    round: int
    last_index: int
    offset: int
    installed: bool


class TimeoutNowRequest(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """The leader asks the receiver to start an election at once (dissertation §3.10)."""

    term: int


RaftMessage: TypeAlias = (
    PreVoteRequest
    | PreVoteResponse
    | RequestVoteRequest
    | RequestVoteResponse
    | AppendEntriesRequest
    | AppendEntriesResponse
    | InstallSnapshotRequest
    | InstallSnapshotResponse
    | TimeoutNowRequest
)

Envelope: TypeAlias = tuple[int, RaftMessage]
"""A message and the server it goes to."""


# ------------------------------------------------------------------------------- between core and host


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What the core wants done: the contract with the host.

    1. `messages` may be sent at once, before anything below is durable: they promise nothing that a crash
       could take back.
    2. Hand the Ready to `RaftJournal.save` when `needs_persist`. `snapshot` is also installed into the
       state machine; `checkpoint` is not, since the state machine made it. `entries` replace whatever the
       journal has from the first one's index on.
    3. Once all of that is durable, send `messages_after`, then call `Raft.persisted(ready, now)` and
       `RaftJournal.durable(ready)`. Several Readys may be on their way to the disk at once; they become
       durable in the order of their numbers.
    4. `committed` may be applied at once, in order. A majority holds those entries durably, this server
       perhaps not yet. `reads` are confirmed, as (context, index): each may be answered from the state
       machine as soon as it has applied up to index.

    What the order of 2 and 3 prevents:

        sent before it is durable      a crash, and then
        a vote                         the same server votes again in that term: two leaders
        a newer term                   it answers the deposed leader of the old term as if it still led
        an acknowledgement of entries  a committed entry is on fewer disks than a majority
        an acknowledged snapshot       the leader goes on behind a snapshot that the follower lost
    """

    number: int
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    checkpoint: Snapshot | None = None
    messages: tuple[Envelope, ...] = ()
    messages_after: tuple[Envelope, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[tuple[int, int], ...] = ()

    @property
    def needs_persist(self) -> bool:
        """Return whether anything in it must become durable."""
        return bool(self.entries) or any((self.hard_state, self.snapshot, self.checkpoint))


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal remembers. The default is a server that has never belonged to a cluster."""

    hard_state: HardState = HardState()
    membership: Membership = Membership()
    """As of the snapshot; membership entries that follow it override it."""
    snapshot: Snapshot | None = None
    entries: tuple[Entry, ...] = ()


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in bytes. Raises ValueError when they contradict each other."""

    heartbeat_interval: float = 0.05
    election_timeout: float = 0.3
    """The shortest; each server draws from [election_timeout, 2 x election_timeout) (paper §5.2)."""
    max_append_bytes: int = 256 * 1024
    """Of one AppendEntriesRequest; a single larger entry still goes, alone."""
    max_inflight_bytes: int = 4 * 1024 * 1024
    """Sent to one follower and not answered yet."""
    snapshot_chunk_bytes: int = 256 * 1024
    max_uncommitted_bytes: int = 16 * 1024 * 1024
    """Proposals beyond it are refused until some have committed (back-pressure)."""

    def __post_init__(self) -> None:
        """Refuse what cannot work: a leader must be heard several times within an election timeout."""
        if not 0 < self.heartbeat_interval <= self.election_timeout / 2:
            raise ValueError("heartbeat_interval must be positive and at most half of election_timeout")
        sizes = (self.max_append_bytes, self.max_inflight_bytes, self.snapshot_chunk_bytes)
        if min(*sizes, self.max_uncommitted_bytes) < 1:
            raise ValueError("every size limit must be at least one byte")


class Rng(Protocol):
    """The randomness a Raft server is handed; `random.Random` is one."""

    def uniform(self, a: float, b: float) -> float:
        """A float between the two."""


class RaftTrace(Protocol):
    """Called once per specification-level transition, with the action's name and its values."""

    def __call__(self, event_name: str, /, **values: object) -> None:
        """Record one transition."""
