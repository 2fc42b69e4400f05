"""The persistent cursor of a topic: delivers entries in order, each to one of the instance's readers.

Deliveries are decided under one lock. The cursor reads a span of the topic ahead, since going back to the
log for every entry would cost more than the entry; entries are immutable, so the span cannot be out of
date.

The life of an entry, as its cursor sees it, and where the next reader begins if the process ends there:

    state       becomes it by                                     after kill -9      after a power loss
    ---------   -----------------------------------------------   ----------------   ------------------
    ahead       the cursor reads a span of the log into memory    here               here
    delivered   the read that moves the cursor returns            here: again        here: again
    noted       a later read, `persist` or `seek` appends the     behind it          here: again
                position to the journal
    durable     a sync covers the journal                         behind it          behind it

A position is noted by a *later* read than the one that delivered up to it. If a position were on disk
before its entries have been returned, and the process died in between, every reader would miss them. And
the note must be on disk before the read returns, or the bound below would not hold. So the order within one
read is

    note what earlier reads delivered, if it is due ──► sync (`sync_each`) ──► move in memory ──► return

and no crash, failed write or exception on the way skips an entry. The price is that no schedule delivers
exactly once: the last read may be repeated, as with every log whose consumer commits after processing.

Invariants
* NothingSkipped: `persisted <= index`, and a note never covers an entry whose read has not returned.
* RepeatsBounded: after a read has returned, `index - persisted <= max(persist_every, entries of that read)`.
  With several threads on one cursor each adds its own last read to that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, count
from threading import RLock

import msgspec

from walrus.storage.engine import Engine
from walrus.storage.errors import CorruptionError
from walrus.storage.interrupts import give_back, refuse_reentry
from walrus.storage.log import Log
from walrus.storage.reading import Reader


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of a topic.

    >>> Entry(7, b"seventh from the start").index
    7
    """

    index: int
    data: bytes


class Cursor:
    """The position of the readers of a topic."""

    def __init__(
        self, engine: Engine, log: Log, persist_every: int, commit: Callable[[], None], *, give_back: bool
    ) -> None:
        """`commit` returns when the notes appended before the call are as durable as the schedule demands."""
        self._engine = engine
        self._log = log
        self._every = persist_every
        self._commit = commit
        self._give_back = give_back
        self.lock = RLock()
        self._reader = Reader(log, log.cursor)
        self._ahead: list[bytes] = []
        self._at = 0  # the next entry in `_ahead`
        self.index = log.cursor
        self.persisted = log.cursor

    def next(self, *, move: bool) -> Entry | None:
        """Return the next entry, or None at the end; `move`: also move past it."""
        refuse_reentry(self.lock)
        while True:
            with self.lock:
                self._check(move)
                if not (move and self._due(1)):
                    if self._at == len(self._ahead) and not self._read_ahead():
                        return None
                    entry = Entry(self.index, self._ahead[self._at])
                    if move:
                        self._advance(1)
                    return entry
                self._note(self.index)
            self._commit()  # without the lock, so that readers of one topic share a sync

    def batch(self, max_bytes: int, max_entries: int, *, move: bool) -> list[Entry]:
        """Return the next entries, at least one if there is any; `move`: also move past them."""
        refuse_reentry(self.lock)
        while True:
            with self.lock:
                self._check(move)
                taken = self._peek(max_bytes, max_entries)
                if not (move and self._due(max(1, len(taken)))):
                    entries = list(map(Entry, count(self.index), taken))
                    if move:
                        self._advance(len(taken))
                    return entries
                self._note(self.index)
            self._commit()

    def seek(self, index: int) -> None:
        """Move to `index` and persist that."""
        refuse_reentry(self.lock)
        with self.lock:
            self._engine.note_cursor(self._log, index)
            self.persisted = index
            self._go(index)

    def rewind(self, index: int) -> None:
        """Move back to `index`, where a read began that an exception ended, to deliver its entries again."""
        give_back(self.lock)
        with self.lock:
            if self.index > index:
                self._go(index)

    def persist(self) -> None:
        """Persist the position if it has changed."""
        with self.lock:
            if self.index != self.persisted and not self._log.gone:
                self._note(self.index)

    def _read_ahead(self) -> bool:
        while True:
            try:
                self._align(self.index)
                self._ahead, self._at = self._reader.payloads(), 0
            except IndexError:  # overtaken by a trim: go on at the first entry that is left
                if self.index >= self._log.first:
                    raise
                self._go(self._log.first)
            else:
                return bool(self._ahead)

    def _align(self, index: int) -> None:
        """Make the reader continue at `index`: an exception may have lost the entries that it gave last."""
        if self._reader.index != index:
            self._reader.seek(index)

    def _peek(self, max_bytes: int, max_entries: int) -> list[bytes]:
        """Return the next payloads within both limits, and keep them in `_ahead`."""
        if self._at == len(self._ahead) and not self._read_ahead():
            return []
        while True:
            ready = self._ahead[self._at : self._at + max_entries]
            sizes = list(accumulate(map(len, ready)))
            if len(ready) >= max_entries or sizes[-1] >= max_bytes:
                break
            try:
                self._align(self.index + len(self._ahead) - self._at)
                more = self._reader.payloads()
            except (CorruptionError, IndexError):
                break  # deliver the entries before the damage, or before what was trimmed, first
            if not more:
                break
            self._ahead, self._at = self._ahead[self._at :] + more, 0
        return ready[: max(1, bisect_right(sizes, max_bytes))]

    def _check(self, move: bool) -> None:
        """Raise if the engine is closed, or, for a read that moves, has failed; skip trimmed entries."""
        if self._engine.stopped:
            self._engine.check_open(writing=move)
        if self.index < self._log.first:
            self._go(self._log.first)

    def _due(self, entries: int) -> bool:
        """Whether earlier deliveries must be noted before `entries` more are delivered."""
        delivered = self.index - self.persisted
        return delivered > 0 and delivered + entries > self._every

    def _advance(self, entries: int) -> None:
        """Move past entries that the caller is about to return, in one step that no exception interrupts."""
        self.index, self._at = self.index + entries, self._at + entries

    def _note(self, index: int) -> None:
        """Append the position to the journal; every entry below `index` has been delivered."""
        assert index <= self.index, "NothingSkipped: a note covers what was delivered, nothing else"
        self._engine.note_cursor(self._log, index)
        self.persisted = index
        if self._give_back and len(self._log.bases) > 1 and self._log.bases[1] <= index:
            self._engine.trim(self._log, index)

    def _go(self, index: int) -> None:
        self._ahead, self._at = [], 0
        self.index, self.persisted = index, min(self.persisted, index)
        self._reader.seek(index)
