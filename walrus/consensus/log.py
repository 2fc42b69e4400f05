"""The log of one Raft server, in memory: what it holds, what is committed, what is durable.

The log is a list of entries behind a snapshot (paper §7). Indexes start at 1; index 0 is the empty log,
with term 0, so that the very first AppendEntries has a predecessor like any other.

       snapshot     |<----------------------- entries ----------------------->|
    1 ... base_index | base_index+1 ...  commit_index ...  persisted ... saved ... last_index
                     |  handed to apply: <= applied_index

`saved_index` is what has been handed to the host for persisting, `persisted_index` what the host said is
durable. A truncation pulls both back, since what they covered is gone.

Membership is part of the log (paper §6: a server uses the newest configuration in its log, committed or
not), so the history of memberships lives here and truncation undoes the newest ones.

Invariants, asserted by `check_invariants`:

* base_index <= applied_index <= commit_index <= last_index
* base_index <= saved_index <= last_index, persisted_index <= last_index
* indexes are consecutive, terms never fall along the log, none is below the snapshot's term
* memberships: strictly rising indexes, the first at or below the base, one for each MEMBERSHIP entry

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
    """What an entry counts for in every limit of bytes."""
    return len(entry.data) + ENTRY_OVERHEAD


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """How up to date a log is; comparing two of these is the paper's §5.4.1 rule."""

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
        "base_index",
        "base_term",
        "commit_index",
        "persisted_index",
        "saved_index",
        "snapshot",
    )

    def __init__(self, restored: Restored) -> None:
        self.snapshot = restored.snapshot
        self.base_index = restored.snapshot.index if restored.snapshot else 0
        self.base_term = restored.snapshot.term if restored.snapshot else 0
        self._entries: list[Entry] = []
        self._memberships: list[tuple[int, Membership]] = [(self.base_index, restored.membership)]
        self.commit_index = self.applied_index = self.base_index
        self.saved_index = self.persisted_index = self.base_index
        for entry in restored.entries:
            self.append(entry)
        self.saved_index = self.persisted_index = self.last_index

    # -------------------------------------------------------------------------------------- questions

    @property
    def last_index(self) -> int:
        """Index of the last entry; of the snapshot when no entry follows it."""
        return self.base_index + len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._entries[-1].term if self._entries else self.base_term

    @property
    def last(self) -> LogPosition:
        """Where the log ends, in the form that voters compare (paper §5.4.1)."""
        return LogPosition(self.last_term, self.last_index)

    @property
    def snapshot_index(self) -> int:
        """Index of the last entry that the snapshot covers; 0 without one."""
        return self.base_index

    @property
    def membership(self) -> Membership:
        """The newest one in the log, committed or not: the one in force (paper §6)."""
        return self._memberships[-1][1]

    @property
    def membership_index(self) -> int:
        """Where the membership in force was appended."""
        return self._memberships[-1][0]

    @property
    def settled_membership(self) -> Membership:
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
        assert index >= self.base_index
        return next(membership for at, membership in reversed(self._memberships) if at <= index)

    def term_at(self, index: int) -> int:
        """Term of an entry that is here, of the snapshot's last one, or 0 at index 0."""
        if index == self.base_index:
            return self.base_term
        assert self.base_index < index <= self.last_index, f"no term for index {index}"
        return self._entries[index - self.base_index - 1].term

    def holds(self, index: int) -> bool:
        """Can `term_at` answer for this index?"""
        return self.base_index <= index <= self.last_index

    def matches(self, index: int, term: int) -> bool:
        """Is (index, term) in this log, so that all before it agrees too (LogMatching, paper §5.3)?

        Everything at or below the snapshot is committed, hence in the log of whoever leads: true there.
        """
        return index < self.base_index or (self.holds(index) and self.term_at(index) == term)

    def entry(self, index: int) -> Entry:
        """The entry at an index after the snapshot."""
        return self._entries[index - self.base_index - 1]

    def entries(self, start: int, stop: int) -> tuple[Entry, ...]:
        """Entries `start` up to but not including `stop`."""
        assert self.base_index < start, f"entry {start} is behind the snapshot"
        return tuple(self._entries[start - self.base_index - 1 : stop - self.base_index - 1])

    def entries_within(self, start: int, max_bytes: int) -> tuple[Entry, ...]:
        """As many entries from `start` as fit; at least one if there is one, so that nothing gets stuck."""
        stop, size = start, 0
        while stop <= self.last_index:
            size += entry_bytes(self.entry(stop))
            if size > max_bytes and stop > start:
                break
            stop += 1
        return self.entries(start, stop)

    def first_index_of_term(self, index: int) -> int:
        """The first index with the same term as `index`: where a follower's conflict begins (paper §5.3)."""
        term = self.term_at(index)
        while index > self.base_index + 1 and self.term_at(index - 1) == term:
            index -= 1
        return index

    def last_index_of_term(self, term: int, at_most: int) -> int | None:
        """The last index <= `at_most` with this term, if the leader has the follower's conflicting term."""
        index = min(at_most, self.last_index)
        while index > self.base_index and self.term_at(index) > term:
            index -= 1
        return index if index >= self.base_index and self.term_at(index) == term else None

    # ---------------------------------------------------------------------------------------- changes

    def append(self, entry: Entry) -> None:
        """Add one entry at the end (a leader its own; LeaderAppendOnly: it never does anything else)."""
        assert entry.index == self.last_index + 1, f"{entry} does not follow {self.last_index}"
        assert entry.term >= self.last_term, f"{entry} is of an older term than {self.last_term}"
        self._entries.append(entry)
        if entry.kind is MEMBERSHIP:
            self._memberships.append((entry.index, Membership.decode(entry.data)))

    def merge(self, entries: Sequence[Entry]) -> int:
        """Take a leader's entries; returns how many were new.

        Compare before truncating: a delayed, shorter copy of an earlier request must not cut off what was
        acknowledged since (paper Figure 2, AppendEntries receiver step 3: only "if an existing entry
        conflicts with a new one").
        """
        for position, entry in enumerate(entries):
            if self.matches(entry.index, entry.term):
                continue
            if entry.index <= self.last_index:
                self._truncate(entry.index)
            for new in entries[position:]:
                self.append(new)
            return len(entries) - position
        return 0

    def first_conflict(self, entries: Sequence[Entry]) -> int | None:
        """The index at which `merge` would truncate, if it would."""
        for entry in entries:
            if entry.index > self.last_index:
                return None
            if not self.matches(entry.index, entry.term):
                return entry.index
        return None

    def _truncate(self, index: int) -> None:
        """Drop everything from `index` on, memberships included."""
        assert index > self.commit_index, f"truncating committed entries from {index}"
        del self._entries[index - self.base_index - 1 :]
        while self._memberships[-1][0] >= index:
            self._memberships.pop()
        self.saved_index = min(self.saved_index, index - 1)
        self.persisted_index = min(self.persisted_index, index - 1)

    def commit_to(self, index: int) -> None:
        """Move the commit index forward; it never falls."""
        assert self.commit_index <= index <= self.last_index
        self.commit_index = index

    def persisted(self, entries: Sequence[Entry], snapshot: Snapshot | None) -> None:
        """These are durable; entries that were replaced after they had been handed out do not count."""
        if snapshot is not None:
            self.persisted_index = max(self.persisted_index, snapshot.index)
        for entry in reversed(entries):
            if self.holds(entry.index) and self.term_at(entry.index) == entry.term:
                self.persisted_index = max(self.persisted_index, entry.index)
                return

    def compact(self, index: int, data: bytes) -> Snapshot:
        """Replace everything up to an applied index by a snapshot of the state machine there (paper §7)."""
        assert self.base_index < index <= self.applied_index, f"cannot compact to {index}"
        membership = self.membership_at(index)
        snapshot = Snapshot(index, self.term_at(index), membership, data)
        self._rebase(snapshot)
        return snapshot

    def install(self, snapshot: Snapshot) -> None:
        """Take a leader's snapshot of more than is committed here (paper §7, Figure 13 steps 6 and 7).

        Entries after the snapshot stay if the log agrees with it at its last index, else none does.
        """
        assert snapshot.index > self.commit_index, "a snapshot must not take us back"
        if not (self.holds(snapshot.index) and self.term_at(snapshot.index) == snapshot.term):
            self._truncate(self.commit_index + 1)
        self._rebase(snapshot)
        self.commit_index = self.applied_index = snapshot.index

    def _rebase(self, snapshot: Snapshot) -> None:
        """Make the snapshot the base; what it covers, whether held or not, is dropped."""
        del self._entries[: snapshot.index - self.base_index]
        later = [(at, membership) for at, membership in self._memberships if at > snapshot.index]
        self._memberships = [(snapshot.index, snapshot.membership), *later]
        self.snapshot = snapshot
        self.base_index, self.base_term = snapshot.index, snapshot.term
        # What follows is saved once more, behind the snapshot, so that the journal can forget all before
        # it. `persisted_index` stays: it may lag behind the base until the snapshot is durable.
        self.saved_index = snapshot.index

    # --------------------------------------------------------------------------------- what is left to do

    def take_unsaved(self) -> tuple[Entry, ...]:
        """Entries that the host has not been given yet, to append to the journal."""
        if self.saved_index == self.last_index:
            return ()
        unsaved = self.entries(self.saved_index + 1, self.last_index + 1)
        self.saved_index = self.last_index
        return unsaved

    def take_committed(self) -> tuple[Entry, ...]:
        """Committed entries that the state machine has not been given yet."""
        if self.applied_index == self.commit_index:
            return ()
        committed = self.entries(self.applied_index + 1, self.commit_index + 1)
        self.applied_index = self.commit_index
        return committed

    def check_invariants(self) -> None:
        """Assert what the module docstring lists."""
        assert self.base_index <= self.applied_index <= self.commit_index <= self.last_index
        assert self.base_index <= self.saved_index <= self.last_index
        assert self.persisted_index <= self.last_index
        term = self.base_term
        for position, entry in enumerate(self._entries):
            assert entry.index == self.base_index + 1 + position
            assert entry.term >= term
            term = entry.term
        listed = [at for at, _ in self._memberships]
        assert listed == [self.base_index] + [e.index for e in self._entries if e.kind is MEMBERSHIP]
