"""What a power loss cannot take of a node's writes, counted from outside, write by write and sync by sync.

A node's answers rest on its own count of what is durable. A simulator that trusted this count could not see
an acknowledgement that comes too early. So the world reports when each sync begins and ends, and this module
counts what those syncs covered: the length of each copy; Raft's term, vote and log; and the notes on copies.

Each count is a lower bound. A power loss may leave more than what was synced, by whole batches; `started`
reports what the next process found, which its engine has made durable before the node sends anything. After
`kill -9` alone the kernel has every byte, so opening the engines is a sync of all that was written.

Invariant: a sync that has ended covers what was written before it began, and nothing later.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias, assert_never

import msgspec

from walrus.consensus.log import RaftLog
from walrus.consensus.messages import HardState, Ready
from walrus.replicas.copies import Key, Note
from walrus.sim.drives import DATA

_notes = msgspec.msgpack.Decoder(Note)


class NodeLog:
    """One server's Raft log: the terms of the entries after a base."""

    __slots__ = ("base", "leading", "terms")

    def __init__(self) -> None:
        self.base = 0
        self.terms: list[int] = [0]  # terms[0] is the term of the base
        self.leading = 0  # the term in which the server was leader at its last write

    @property
    def last(self) -> int:
        """Return the index of the last entry."""
        return self.base + len(self.terms) - 1

    def term(self, index: int) -> int | None:
        """Return the term at this index; None if the log does not have it (any more)."""
        return self.terms[index - self.base] if self.base <= index <= self.last else None

    def holds(self, index: int, term: int) -> bool:
        """Return whether the entry is in the log, or was before it was compacted."""
        return self.base > index or self.term(index) == term

    def cut(self, index: int, term: int) -> None:
        """Replace everything up to an entry by a snapshot; what follows stays if the log agrees there."""
        if self.term(index) == term:
            del self.terms[: index - self.base]
        else:
            self.terms = [term]
        self.base = index

    def take(self, ready: Ready) -> None:
        """Apply what a `Ready` has the journal write."""
        if ready.snapshot is not None:
            self.base, self.terms = ready.snapshot.index, [ready.snapshot.term]
        if ready.checkpoint is not None:
            self.cut(ready.checkpoint.index, ready.checkpoint.term)
        for entry in ready.entries:
            if entry.index <= self.base:
                continue
            del self.terms[entry.index - self.base :]
            self.terms.append(entry.term)

    def begin(self, log: RaftLog) -> None:
        """Take over what a process read back from its journal."""
        self.base, self.terms = log.snapshot_index, [log.snapshot_term]
        self.terms += [entry.term for entry in log.entries(log.snapshot_index + 1, log.last_index + 1)]
        self.leading = 0


Written: TypeAlias = Ready | Note
"""What goes to the engine that holds Raft's journal."""


class DurableTruth:
    """What is durable on one node."""

    def __init__(self) -> None:
        self.copies: dict[str, int] = {}
        """Engine topic -> how many of its entries are durable."""
        self.log = NodeLog()
        self.hard_state = HardState()
        self.written = HardState()
        """The term and the vote written last, durable or not."""
        self.notes: dict[Key, Note] = {}
        self._written: dict[str, int] = {}  # of the data engine, since the last sync began
        self._covered: dict[str, int] = {}  # by the sync under way
        self._journal: deque[Written] = deque()  # not durable yet
        self._journal_covered = 0

    def wrote(self, name: str, end: int) -> None:
        """A copy was extended to `end` entries."""
        self._written[name] = end

    def deleted(self, name: str) -> None:
        """A copy was deleted."""
        for known in (self.copies, self._written, self._covered):
            known.pop(name, None)

    def persisted(self, ready: Ready) -> None:
        """Raft's journal wrote this."""
        self._journal.append(ready)
        self.written = ready.hard_state or self.written

    def noted(self, note: bytes) -> None:
        """A note on a copy was written."""
        self._journal.append(_notes.decode(note))

    def sync_started(self, engine: str) -> None:
        """A sync begins: it covers what has been written so far."""
        if engine == DATA:
            self._covered |= self._written
            self._written = {}
        else:
            self._journal_covered = len(self._journal)

    def sync_ended(self, engine: str) -> list[str]:
        """A sync has succeeded; return the copies whose durable length grew."""
        if engine == DATA:
            grown, self._covered = self._covered, {}
            self.copies |= grown
            return list(grown)
        for _ in range(self._journal_covered):
            match self._journal.popleft():
                case Note() as note:
                    self.notes[(note.topic, note.segment)] = note
                case Ready() as ready:
                    self.log.take(ready)
                    self.hard_state = ready.hard_state or self.hard_state
                case _ as never:
                    assert_never(never)
        self._journal_covered = 0
        return []

    def lost_power(self) -> None:
        """What was not synced may be lost."""
        self._written, self._covered = {}, {}
        self._journal.clear()
        self._journal_covered = 0

    def started(
        self, copies: dict[str, int], log: RaftLog, hard_state: HardState, notes: dict[Key, Note]
    ) -> None:
        """A process has started and found this."""
        self.copies, self.notes = copies, notes
        self.log.begin(log)
        self.hard_state = self.written = hard_state
