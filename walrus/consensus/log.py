"""The log of one Raft server, in memory: what it holds, what is committed, what is durable.

The log is a list of entries behind a snapshot (paper §7). Indexes start at 1; index 0 is the empty log,
with term 0, so that the very first AppendEntries has a predecessor like any other.

         snapshot      |<------------------------ entries ------------------------->|
    1 ... snapshot_index | snapshot_index+1 ... commit_index ... persisted ... saved ... last_index
                         |  handed out to be applied: <= applied_index

Three marks move along it:

    mark              says                                   moves back when
    commit_index      no leader will ever replace these      never
    persisted_index   the disk has these                     the entries it covers are replaced
    saved_index       the journal was given these to write   the same; or a snapshot makes the journal
                                                             start over

`commit_index` may be ahead of `persisted_index`: a majority is enough, and this server need not be part of
it. After a restart its log may therefore end below its old commit index, so persisting that index would be
of no use: the next leader's first entry establishes it again (paper §8).

Membership is part of the log (paper §6: a server uses the newest configuration in its log, committed or
not), so the history of memberships lives here and truncation undoes the newest ones.

Invariants, asserted by `check_invariants`:

* snapshot_index <= applied_index <= commit_index <= last_index
* snapshot_index <= saved_index <= last_index, persisted_index <= last_index
* indexes are consecutive, terms never fall along the log, none is below the snapshot's term
* memberships: strictly rising indexes, the first at or below the snapshot, one for each MEMBERSHIP entry

Deliberately left out: disk (see journal.py) and any decision (see raft.py). Entries at or below the
snapshot are dropped at once: metadata snapshots are small, so a follower that misses them gets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walrus.consensus.messages import MEMBERSHIP, Entry, Membership, Restored, Snapshot

ENTRY_OVERHEAD = 32
"""Counted per entry on top of its data, so that empty entries are not free."""


def entry_bytes(entry: Entry) -> int:
    """The bytes that an entry counts for in every limit."""
    size = len(entry.data) + ENTRY_OVERHEAD
    assert size > 0, "an entry that costs nothing would pass every limit"
    return size


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """Where a log ends. Comparing two of these is the election restriction (paper §5.4.1).

    The term decides, whatever the lengths: a long log may consist of entries that were never committed.

    >>> LogPosition(term=3, index=4) > LogPosition(term=2, index=9)
    True
    """

    term: int
    index: int


class RaftLog:
    """Entries behind a snapshot, with the commit, apply and persistence marks.

    >>> log = RaftLog(Restored())
    >>> log.append(Entry(1, 1)); log.append(Entry(1, 2)); log.last
    LogPosition(term=1, index=2)
    >>> log.matches(2, 1), log.matches(2, 2), log.matches(3, 1), log.matches(0, 0)
    (True, False, False, True)
    """

    __slots__ = (
        "_entries",
        "_memberships",
        "applied_index",
        "commit_index",
        "persisted_index",
        "saved_index",
        "snapshot",
        "snapshot_index",
        "snapshot_term",
    )

    def __init__(self, restored: Restored) -> None:
        self.snapshot = restored.snapshot
        self.snapshot_index = restored.snapshot.index if restored.snapshot else 0
        self.snapshot_term = restored.snapshot.term if restored.snapshot else 0
        self._entries: list[Entry] = []
        self._memberships: list[tuple[int, Membership]] = [(self.snapshot_index, restored.membership)]
        # Everything the snapshot covers is committed and applied. Beyond it nothing is known to be: what
        # this server once knew about commitment was not persisted.
        self.commit_index = self.applied_index = self.snapshot_index
        self.saved_index = self.persisted_index = self.snapshot_index
        for entry in restored.entries:
            self.append(entry)
        self.saved_index = self.persisted_index = self.last_index
        assert self.snapshot is None or self.snapshot_index >= 1, "a snapshot of the empty log"

    # -------------------------------------------------------------------------------------- questions

    @property
    def last_index(self) -> int:
        """Index of the last entry; of the snapshot when no entry follows it."""
        return self.snapshot_index + len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._entries[-1].term if self._entries else self.snapshot_term

    @property
    def last(self) -> LogPosition:
        """Where the log ends, in the form that voters compare (paper §5.4.1)."""
        return LogPosition(self.last_term, self.last_index)

    @property
    def membership(self) -> Membership:
        """The newest one in the log, committed or not: the one in force (paper §6)."""
        return self._memberships[-1][1]

    @property
    def membership_index(self) -> int:
        """Where the membership in force was appended."""
        index = self._memberships[-1][0]
        assert index <= self.last_index, "LogMatching: a membership beyond the end of the log"
        return index

    @property
    def committed_membership(self) -> Membership:
        """The newest membership that is certainly committed.

        Until the newest one is known to be, that is the one before it: a leader appends no second change
        before the first has committed. After a restart the commit index is not known, so this errs
        towards the older one.
        """
        if self.membership_index <= self.commit_index or len(self._memberships) < 2:
            return self.membership
        return self._memberships[-2][1]

    def membership_at(self, index: int) -> Membership:
        """The membership in force after the first `index` entries."""
        assert self.snapshot_index <= index <= self.last_index
        return next(membership for at, membership in reversed(self._memberships) if at <= index)

    def term_at(self, index: int) -> int:
        """Term of an entry that is here, of the snapshot's last one, or 0 at index 0."""
        if index == self.snapshot_index:
            return self.snapshot_term
        assert self.snapshot_index < index <= self.last_index, f"LogMatching: no term for {index}"
        return self._entries[index - self.snapshot_index - 1].term

    def holds(self, index: int) -> bool:
        """Return whether `term_at` can answer for this index."""
        return self.snapshot_index <= index <= self.last_index

    def matches(self, index: int, term: int) -> bool:
        """Return whether (index, term) is in this log, so that all before it agrees too (LogMatching).

        Everything at or below the snapshot is committed, hence in the log of every later leader: true there.
        """
        return index < self.snapshot_index or (self.holds(index) and self.term_at(index) == term)

    def entry(self, index: int) -> Entry:
        """The entry at an index after the snapshot."""
        assert self.snapshot_index < index <= self.last_index, f"no entry {index} behind the snapshot"
        return self._entries[index - self.snapshot_index - 1]

    def entries(self, start: int, stop: int) -> tuple[Entry, ...]:
        """Entries `start` up to but not including `stop`."""
        assert self.snapshot_index < start, f"LogMatching: entry {start} is in the snapshot"
        assert stop <= self.last_index + 1, f"LogMatching: entry {stop - 1} is beyond the end"
        return tuple(self._entries[start - self.snapshot_index - 1 : stop - self.snapshot_index - 1])

    def entries_within(self, start: int, max_bytes: int) -> tuple[Entry, ...]:
        """As many entries from `start` as fit into `max_bytes`; at least one if there is one.

        An entry that is larger than the limit travels alone. Were it held back, the follower that needs it
        would never get past it.
        """
        stop, size = start, 0
        while stop <= self.last_index:
            size += entry_bytes(self.entry(stop))
            if size > max_bytes and stop > start:
                break
            stop += 1
        assert stop > start or start > self.last_index, "CommitProgress: none past a large entry"
        return self.entries(start, stop)

    def first_index_of_term(self, index: int) -> int:
        """The first index with the same term as `index`: where a follower's conflict begins (paper §5.3)."""
        term = self.term_at(index)
        while index > self.snapshot_index + 1 and self.term_at(index - 1) == term:
            index -= 1
        assert self.term_at(index) == term
        return index

    def last_index_of_term(self, term: int, at_most: int) -> int | None:
        """The last index <= `at_most` with this term, if the log has one behind the snapshot."""
        index = min(at_most, self.last_index)
        while index > self.snapshot_index and self.term_at(index) > term:
            index -= 1
        assert index <= at_most
        return index if index >= self.snapshot_index and self.term_at(index) == term else None

    # ---------------------------------------------------------------------------------------- changes

    def append(self, entry: Entry) -> None:
        """Add one entry at the end (a leader its own; LeaderAppendOnly: it never does anything else)."""
        assert entry.index == self.last_index + 1, f"LogMatching: {entry} does not follow {self.last_index}"
        assert entry.term >= self.last_term, f"LogMatching: {entry} is of an older term than {self.last_term}"
        self._entries.append(entry)
        if entry.kind is MEMBERSHIP:
            self._memberships.append((entry.index, Membership.decode(entry.data)))

    def merge(self, entries: Sequence[Entry]) -> int:
        """Store a leader's entries, after the caller found that their predecessor matches.

        Returns how many were new. Compare before truncating: a delayed, shorter copy of an earlier request
        must not cut off what was acknowledged since (paper Figure 2, AppendEntries receiver step 3: only
        "if an existing entry conflicts with a new one").
        """
        for position, entry in enumerate(entries):
            if self.matches(entry.index, entry.term):
                continue
            if entry.index <= self.last_index:
                self._truncate(entry.index)
            for new in entries[position:]:
                self.append(new)
            assert self.last_index == entries[-1].index, "LogMatching: the leader's last entry is now ours"
            return len(entries) - position
        assert not entries or self.last_index >= entries[-1].index, (
            "CommittedNeverLost: nothing is lost by a repetition"
        )
        return 0

    def first_conflict(self, entries: Sequence[Entry]) -> int | None:
        """The index at which `merge` would truncate, if it would."""
        for entry in entries:
            if entry.index > self.last_index:
                return None
            if not self.matches(entry.index, entry.term):
                assert entry.index > self.snapshot_index, (
                    "LogMatching: what a snapshot covers matches every leader"
                )
                return entry.index
        return None

    def _truncate(self, index: int) -> None:
        """Drop everything from `index` on, memberships included."""
        assert index > self.commit_index, f"CommittedNeverLost: truncating committed entries from {index}"
        del self._entries[index - self.snapshot_index - 1 :]
        while self._memberships[-1][0] >= index:
            self._memberships.pop()
        # What comes to stand at these indexes has yet to be written. Leaving the marks where they were
        # would acknowledge the new entries because the old ones were durable.
        self.saved_index = min(self.saved_index, index - 1)
        self.persisted_index = min(self.persisted_index, index - 1)
        assert self._memberships, "ElectionSafety: the membership of the snapshot stays"
        assert self.last_index == index - 1, "LogMatching: more or less is cut than was to be"

    def commit_to(self, index: int) -> None:
        """Move the commit index forward; it never falls."""
        assert self.commit_index <= index <= self.last_index, f"CommittedNeverLost: cannot commit to {index}"
        self.commit_index = index

    def persisted(self, entries: Sequence[Entry], snapshot: Snapshot | None) -> None:
        """The disk has these, as they were when they were handed out.

        An entry may have been replaced since, while the disk was busy with it. It does not count: only a
        log that still has it, with the same term, may call that index durable.
        """
        if snapshot is not None:
            assert snapshot.index <= self.snapshot_index, "StateMachineSafety: a snapshot that it never had"
            self.persisted_index = max(self.persisted_index, snapshot.index)
        for entry in reversed(entries):
            if self.holds(entry.index) and self.term_at(entry.index) == entry.term:
                self.persisted_index = max(self.persisted_index, entry.index)
                break
        assert self.persisted_index <= self.last_index, (
            "CommittedNeverLost: durable beyond the end of the log"
        )

    def compact(self, index: int, data: bytes) -> Snapshot:
        """Replace everything up to an applied index by a snapshot of the state machine there (paper §7)."""
        assert self.snapshot_index < index <= self.applied_index, (
            f"StateMachineSafety: cannot compact to {index}"
        )
        membership = self.membership_at(index)
        snapshot = Snapshot(index, self.term_at(index), membership, data)
        last = self.last
        self._rebase(snapshot)
        assert self.last == last, (
            "StateMachineSafety: compaction changes neither the end of the log nor its term"
        )
        return snapshot

    def install(self, snapshot: Snapshot) -> None:
        """Adopt a leader's snapshot of more than is committed here (paper §7, Figure 13 steps 6 and 7).

        Entries after the snapshot stay if the log agrees with it at its last index, else none does.
        """
        assert snapshot.index > self.commit_index, "CommittedNeverLost: a snapshot must not take us back"
        if not (self.holds(snapshot.index) and self.term_at(snapshot.index) == snapshot.term):
            self._truncate(self.commit_index + 1)
        self._rebase(snapshot)
        self.commit_index = self.applied_index = snapshot.index
        assert self.last_index >= snapshot.index

    def _rebase(self, snapshot: Snapshot) -> None:
        """Let the log begin behind this snapshot; what it covers, whether held or not, is dropped."""
        assert snapshot.index > self.snapshot_index, "StateMachineSafety: the log only ever begins later"
        del self._entries[: snapshot.index - self.snapshot_index]
        later = [(at, membership) for at, membership in self._memberships if at > snapshot.index]
        self._memberships = [(snapshot.index, snapshot.membership), *later]
        self.snapshot = snapshot
        self.snapshot_index, self.snapshot_term = snapshot.index, snapshot.term
        # What follows is saved once more, behind the snapshot, so that the journal can forget all before
        # it. `persisted_index` stays: it may lag behind the snapshot until that is durable.
        self.saved_index = snapshot.index
        assert self.persisted_index <= self.last_index, (
            "CommittedNeverLost: durable beyond the end of the log"
        )

    # --------------------------------------------------------------------------------- what is left to do

    def take_unsaved(self) -> tuple[Entry, ...]:
        """Entries that the host has not been given yet, to append to the journal."""
        if self.saved_index == self.last_index:
            return ()
        unsaved = self.entries(self.saved_index + 1, self.last_index + 1)
        self.saved_index = self.last_index
        assert unsaved[-1].index == self.saved_index, "CommittedNeverLost: an entry is not saved"
        return unsaved

    def take_committed(self) -> tuple[Entry, ...]:
        """Committed entries that the state machine has not been given yet."""
        if self.applied_index == self.commit_index:
            return ()
        committed = self.entries(self.applied_index + 1, self.commit_index + 1)
        self.applied_index = self.commit_index
        assert committed[-1].index == self.applied_index, "StateMachineSafety: an entry is not applied"
        return committed

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert self.snapshot_index <= self.applied_index <= self.commit_index <= self.last_index, (
            "StateMachineSafety: applied before it is committed, or committed and not there"
        )
        assert self.snapshot_index <= self.saved_index <= self.last_index, (
            "CommittedNeverLost: saved beyond the end of the log"
        )
        assert self.persisted_index <= self.last_index
        assert (self.snapshot is None) == (self.snapshot_index == 0)
        term = self.snapshot_term
        for position, entry in enumerate(self._entries):
            assert entry.index == self.snapshot_index + 1 + position, "LogMatching: an entry at another index"
            assert entry.term >= term, "LogMatching: terms fall along the log"
            term = entry.term
        listed = [at for at, _ in self._memberships]
        there = [self.snapshot_index] + [e.index for e in self._entries if e.kind is MEMBERSHIP]
        assert listed == there, "TypeOK: a membership is in force whose entry is gone"
