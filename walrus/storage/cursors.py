"""The persistent cursor of a topic: delivers entries in order, each to one of the instance's readers.

What is delivered is decided under one lock. A span of the topic is read ahead, since going back to the log
for every entry would cost more than the entry; it is immutable, so it cannot be out of date. The position is
persisted through the engine's journal, *before* the entries are handed out when it is due: so a crash at any
point delivers again, and never skips.

Invariants: `persisted <= index`; after a read has returned, `index - persisted < persist_every`.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from threading import Lock

import msgspec

from walrus.storage.engine import Engine
from walrus.storage.errors import CorruptionError
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
    """Where the readers of a topic are."""

    def __init__(self, engine: Engine, log: Log, persist_every: int, *, give_back: bool) -> None:
        self._engine = engine
        self._log = log
        self._every = persist_every
        self._give_back = give_back
        self._lock = Lock()
        self._reader = Reader(log, log.cursor)
        self._ahead: list[bytes] = []
        self._at = 0  # the next one of `_ahead`
        self.index = log.cursor
        self.persisted = log.cursor

    def next(self, *, move: bool) -> tuple[Entry | None, bool]:
        """The next entry, and whether a new position was persisted (and may need a sync)."""
        with self._lock:
            if self.index < self._log.first:
                self._go(self._log.first)
            if self._at == len(self._ahead) and not self._read_ahead():
                return None, False
            entry = Entry(self.index, self._ahead[self._at])
            if not move:
                return entry, False
            noted = self._advance(1)
            return entry, noted

    def batch(self, max_bytes: int, max_entries: int, *, move: bool) -> tuple[list[Entry], bool]:
        """The next entries, at least one if there is one, and whether a position was persisted."""
        with self._lock:
            if self.index < self._log.first:
                self._go(self._log.first)
            taken = self._peek(max_bytes, max_entries)
            noted = bool(taken) and move and self._advance(len(taken))
            first = self.index - (len(taken) if move else 0)
            return list(map(Entry, range(first, first + len(taken)), taken)), noted

    def seek(self, index: int) -> None:
        """Go to `index` and persist that."""
        with self._lock:
            self._engine.note_cursor(self._log, index)
            self.persisted = index
            self._go(index)

    def persist(self) -> None:
        """Persist the position if it is not."""
        with self._lock:
            if self.index != self.persisted and not self._log.gone:
                self._note(self.index)

    def _read_ahead(self) -> bool:
        self._ahead, self._at = self._reader.payloads(), 0
        return bool(self._ahead)

    def _peek(self, max_bytes: int, max_entries: int) -> list[bytes]:
        """The next payloads within both limits; what was read of them stays ahead."""
        if self._at == len(self._ahead) and not self._read_ahead():
            return []
        while True:
            ready = self._ahead[self._at : self._at + max_entries]
            sizes = list(accumulate(map(len, ready)))
            if len(ready) >= max_entries or sizes[-1] >= max_bytes:
                break
            try:
                more = self._reader.payloads()
            except CorruptionError:
                break  # what comes before the damage is delivered first
            if not more:
                break
            self._ahead, self._at = self._ahead[self._at :] + more, 0
        return ready[: max(1, bisect_right(sizes, max_bytes))]

    def _advance(self, count: int) -> bool:
        """Move over `count` entries, persisting the new position first if it is due."""
        due = self.index + count - self.persisted >= self._every
        if due:
            self._note(self.index + count)
        self.index += count
        self._at += count
        return due

    def _note(self, index: int) -> None:
        self._engine.note_cursor(self._log, index)
        self.persisted = index
        if self._give_back and len(self._log.bases) > 1 and self._log.bases[1] <= index:
            self._engine.trim(self._log, index)

    def _go(self, index: int) -> None:
        self.index = index
        self.persisted = min(self.persisted, index)
        self._ahead, self._at = [], 0
        self._reader.seek(index)
