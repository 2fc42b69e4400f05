"""What of a node's writes a power loss cannot take: counted from outside, write by write and sync by sync.

A node says by itself what is durable, and that is what its answers rest on. A simulator that believed it
would never see an acknowledgement that comes too early. So the world tells of every sync when it begins and
when it has ended, and here is counted what those syncs covered: per copy its length, of Raft the term, the
vote and the log, and the notes on copies.

Each is a lower bound. A power loss may leave more than what was synced, by whole batches; `started` says what
the next process found, which its engine has made durable before it says a word. After `kill -9` alone the
kernel has every byte, so opening the engines is a sync of all that was written.

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
    """One server's Raft log: terms behind a base."""

    __slots__ = ("base", "leading", "terms")

    def __init__(self) -> None:
        self.base = 0
        self.terms: list[int] = [0]  # terms[0] is the base's
        self.leading = 0  # the term in which it was leader when it last wrote

    @property
    def last(self) -> int:
        """Index of the last entry."""
        return self.base + len(self.terms) - 1

    def term(self, index: int) -> int | None:
        """The term at this index; None if it is not there (any more)."""
        return self.terms[index - self.base] if self.base <= index <= self.last else None

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is in the log, or was before it was compacted."""
        return self.base > index or self.term(index) == term

    def cut(self, index: int, term: int) -> None:
        """A snapshot replaces everything up to an entry; what follows it stays if the log agrees there."""
        if self.term(index) == term:
            del self.terms[: index - self.base]
        else:
            self.terms = [term]
        self.base = index

    def take(self, ready: Ready) -> None:
        """What a `Ready` has the journal write."""
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
        """What a process read back from its journal."""
        self.base, self.terms = log.snapshot_index, [log.snapshot_term]
        self.terms += [entry.term for entry in log.entries(log.snapshot_index + 1, log.last_index + 1)]
        self.leading = 0


Written: TypeAlias = Ready | Note
"""What goes to the engine of Raft's journal."""


class DurableTruth:
    """Of one node."""

    def __init__(self) -> None:
        self.copies: dict[str, int] = {}
        """Engine topic -> so many entries of it are durable."""
        self.log = NodeLog()
        self.hard_state = HardState()
        self.written = HardState()
        """The term and the vote that it wrote last, durable or not."""
        self.notes: dict[Key, Note] = {}
        self._written: dict[str, int] = {}  # of the data engine, since the last sync began
        self._covered: dict[str, int] = {}  # by the sync that is under way
        self._journal: deque[Written] = deque()  # not durable yet
        self._journal_covered = 0

    def wrote(self, name: str, end: int) -> None:
        """A copy was extended to `end` entries."""
        self._written[name] = end

    def deleted(self, name: str) -> None:
        """A copy is gone."""
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
        """A sync begins: it covers what is written by now."""
        if engine == DATA:
            self._covered |= self._written
            self._written = {}
        else:
            self._journal_covered = len(self._journal)

    def sync_ended(self, engine: str) -> list[str]:
        """It has ended well; the copies that are durably longer."""
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
        """What was not synced may be gone."""
        self._written, self._covered = {}, {}
        self._journal.clear()
        self._journal_covered = 0

    def started(
        self, copies: dict[str, int], log: RaftLog, hard_state: HardState, notes: dict[Key, Note]
    ) -> None:
        """This is what it has found."""
        self.copies, self.notes = copies, notes
        self.log.begin(log)
        self.hard_state = self.written = hard_state
