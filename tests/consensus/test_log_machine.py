"""The Raft log against a model that a reader checks in a minute: a list of terms, and four numbers."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from walrus.consensus.log import RaftLog
from walrus.consensus.messages import MEMBERSHIP, Entry, EntryKind, Membership, Restored, Snapshot

pick = st.integers(min_value=0, max_value=1_000)


def entry(term: int, index: int) -> Entry:
    """Every seventh entry changes the membership, so that truncation has something to undo."""
    if index % 7 == 3:
        return Entry(term, index, MEMBERSHIP, Membership((1, index + term)).encode())
    return Entry(term, index, EntryKind.COMMAND, b"%d@%d" % (index, term))


class LogMachine(RuleBasedStateMachine):
    """`terms[i]` is the term of entry i; entry 0 stands for the empty log."""

    def __init__(self) -> None:
        super().__init__()
        self.log = RaftLog(Restored())
        self.terms = [0]
        self.commit = self.applied = self.base = 0
        self.handed: list[tuple[Entry, ...] | tuple[Snapshot, list[int]]] = []
        """Given to the disk and not durable yet, oldest first: entries, or a snapshot (and its terms)."""
        self.disk: list[int] = [0]
        """Terms of what is durable; a later write at a lower index replaces the rest."""

    @rule(rise=st.integers(0, 2), count=st.integers(1, 4))
    def append(self, rise: int, count: int) -> None:
        term = max(1, self.terms[-1] + rise)
        for _ in range(count):
            self.log.append(entry(term, len(self.terms)))
            self.terms.append(term)

    @rule(back=pick, count=st.integers(0, 5), same=st.booleans())
    def merge(self, back: int, count: int, same: bool) -> None:
        """Entries from a leader: a copy of ours (delayed, shorter) or ones of a newer term."""
        start = self.commit + 1 + back % (len(self.terms) - self.commit)
        if same:
            start = max(self.base + 1, start - 3)
            copy = [entry(self.terms[i], i) for i in range(start, min(start + count, len(self.terms)))]
            assert self.log.merge(copy) == 0, "nothing is new, and nothing is cut off"
        else:
            term = self.terms[-1] + 1
            new = [entry(term, start + i) for i in range(count)]
            assert self.log.merge(new) == count
            if new:
                self.terms = self.terms[:start] + [term] * count

    @rule(to=pick)
    def commit_to(self, to: int) -> None:
        self.commit += to % (len(self.terms) - self.commit)
        self.log.commit_to(self.commit)

    @rule()
    def apply(self) -> None:
        taken = [e.index for e in self.log.take_committed()]
        assert taken == list(range(self.applied + 1, self.commit + 1))
        self.applied = self.commit

    @rule()
    def hand_to_disk(self) -> None:
        if unsaved := self.log.take_unsaved():
            self.handed.append(unsaved)

    @precondition(lambda self: self.handed)
    @rule()
    def persist(self) -> None:
        """The oldest write becomes durable."""
        written = self.handed.pop(0)
        if isinstance(written[0], Snapshot):
            snapshot, terms = written
            same = self.disk[snapshot.index : snapshot.index + 1] == [snapshot.term]
            self.disk = terms + (self.disk[snapshot.index + 1 :] if same else [])
            self.log.persisted((), snapshot)
        else:
            self.disk[written[0].index :] = [e.term for e in written]
            self.log.persisted(written, None)

    @precondition(lambda self: self.applied > self.base)
    @rule(back=pick)
    def compact(self, back: int) -> None:
        self.base = self.applied - back % (self.applied - self.base)
        snapshot = self.log.compact(self.base, b"state")
        assert (snapshot.index, snapshot.term) == (self.base, self.terms[self.base])
        self.handed.append((snapshot, self.terms[: self.base + 1]))

    @rule(ahead=st.integers(1, 6), matching=st.booleans())
    def install(self, ahead: int, matching: bool) -> None:
        index = self.commit + ahead
        matching = matching and index < len(self.terms)
        term = self.terms[index] if matching else self.terms[-1] + 1
        snapshot = Snapshot(index, term, Membership((1, 2)), b"state")
        self.log.install(snapshot)
        if not matching:
            self.terms = self.terms[: self.commit + 1] + [term] * (index - self.commit)
        self.base = self.commit = self.applied = index
        self.handed.append((snapshot, self.terms[: index + 1]))

    @invariant()
    def same_as_the_model(self) -> None:
        log = self.log
        assert log.last_index == len(self.terms) - 1
        assert log.last_term == self.terms[-1]
        assert (log.commit_index, log.applied_index, log.snapshot_index) == (
            self.commit,
            self.applied,
            self.base,
        )
        held = log.entries(self.base + 1, log.last_index + 1)
        assert [e.term for e in held] == self.terms[self.base + 1 :]

    @invariant()
    def membership_is_the_newest_in_the_log(self) -> None:
        held = self.log.entries(self.base + 1, self.log.last_index + 1)
        changes = [e for e in held if e.kind is MEMBERSHIP]
        if changes:
            assert self.log.membership == Membership.decode(changes[-1].data)
            assert self.log.membership_index == changes[-1].index
        else:
            assert self.log.membership_index == self.base

    @invariant()
    def durable_is_what_the_disk_has(self) -> None:
        durable = self.log.persisted_index
        assert self.disk[self.base + 1 : durable + 1] == self.terms[self.base + 1 : durable + 1]

    @invariant()
    def conflict_hints_name_whole_terms(self) -> None:
        log = self.log
        for index in range(self.base + 1, log.last_index + 1):
            first = log.first_index_of_term(index)
            assert log.term_at(first) == log.term_at(index)
            assert first == self.base + 1 or self.terms[first - 1] < self.terms[first]
            last = log.last_index_of_term(log.term_at(index), log.last_index)
            assert last is not None and self.terms[last] == self.terms[index]
            assert last == log.last_index or self.terms[last + 1] > self.terms[last]

    @invariant()
    def self_check(self) -> None:
        self.log.check_invariants()


TestRaftLog = LogMachine.TestCase
