"""Receive and acknowledge: the entries that the consumers of a topic have in hand, in one process.

A cursor counts an entry as read when it is handed out; if the reader then dies, the entry is not read again.
Here it counts as done when it is *acknowledged*, and is redelivered otherwise:

    waiting    receive gives the lowest one, those that came back first  ─► out
    out        ack                                                        ─► done
               nack, or its visibility timeout ends                       ─► waiting
    done       never handed out again; a crash may forget it, see below

The topic's cursor is the mark below which every entry is done. Entries acknowledged above a gap are kept in
memory until the mark passes them. So the disk has only the cursor, in the journal, as before:

                                                after kill -9     after a power loss
    out                                         again             again
    acknowledged, above one that is not         again             again
    below the mark, not noted yet               again             again
    noted                                       done              again
    noted, and a sync covers the journal        done              done

An acknowledgement that moves the mark notes it as often as the cursor's schedule says: each with
`strictly_at_once`, which with `sync_each` also waits for the sync, before it returns. It is the same state
machine as a work queue of a cluster (`broker/groups.py`), without groups, generations and owners.

`Walrus.receive` returns a context manager, like a delivery of the clients: the end of its block is an ack,
an exception in it a nack, and an entry that the block has settled itself is left alone.

Left out: acknowledgements on disk one by one. A consumer that never finishes its entry holds back the mark,
and after a crash all entries that others finished above it are redelivered: at most `MAX_IN_HAND`.

Invariants
* NothingSkipped: everything below the mark was acknowledged, or trimmed.
* OutIsBounded: nothing is out, or known as done, `MAX_IN_HAND` entries or more above the mark.
* AckedNotRedelivered: within a process an entry that is acknowledged is not handed out again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from threading import RLock
from types import TracebackType
from typing import Protocol, Self

import msgspec

from walrus.storage.cursors import Entry
from walrus.storage.engine import Engine
from walrus.storage.errors import StorageError
from walrus.storage.interrupts import refuse_reentry
from walrus.storage.log import Log
from walrus.storage.reading import Reader

MAX_IN_HAND = 1_000
"""How many entries from the mark on may be out, or done."""


class Received(Entry, frozen=True, gc=False):
    """An entry that was handed out, and how often it has been, this time included."""

    deliveries: int


class Settles(Protocol):
    """The part of `Walrus` that settles what was received."""

    def ack(self, topic: str, received: Received) -> bool: ...
    def nack(self, topic: str, received: Received, delay: float = 0.0) -> bool: ...


class HeldEntry(Received, frozen=True, eq=False, gc=True, kw_only=True):
    """The result of `Walrus.receive`: a context manager that acknowledges, or gives back on an exception."""

    wal: Settles
    topic: str
    given_back: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.given_back:
            return
        if kind is None:
            self.wal.ack(self.topic, self)
            return
        with suppress(
            StorageError, KeyError
        ):  # the log is closed, or the topic deleted: the entry comes again
            self.wal.nack(self.topic, self)

    def leave_alone(self) -> None:
        """Note that it was given back, so that the end of the block does not acknowledge it."""
        msgspec.structs.force_setattr(self, "given_back", True)


class Out(msgspec.Struct):
    """An entry that was handed out and is not done: until when it is out, and how often it has been."""

    until: float
    deliveries: int


class Handout:
    """The state machine: indexes and times, without any I/O."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self._next = mark
        self._out: dict[int, Out] = {}
        self._due: list[tuple[float, int]] = []
        """A heap of (until, index). An item is valid only if `_out` has the same time for the index."""
        self.done: set[int] = set()
        """The acknowledged entries above the mark."""

    def candidate(self, end: int, now: float) -> int | None:
        """Return the index of the entry to hand out next, if any; `end`: the first that does not exist."""
        while self._due and not self._stands(*self._due[0]):
            heappop(self._due)
        if self._due and self._due[0][0] <= now:
            return self._due[0][1]
        while self._next in self.done:
            self._next += 1
        return self._next if self._next < min(end, self.mark + MAX_IN_HAND) else None

    def _stands(self, until: float, index: int) -> bool:
        out = self._out.get(index)
        return out is not None and out.until == until

    def next_deadline(self) -> float:
        """Return when the next entry that is out waits again; infinity if none is out."""
        return self._due[0][0] if self._due else float("inf")

    def hand_out(self, index: int, until: float) -> int:
        """Hand out the candidate until that time; return how often it was handed out."""
        assert index >= self.mark and index not in self.done, "AckedNotRedelivered: it was acknowledged"
        before = self._out.get(index)
        deliveries = 1 if before is None else before.deliveries + 1
        self._hold(index, Out(until, deliveries))
        self._next = max(self._next, index + 1)
        return deliveries

    def _hold(self, index: int, out: Out) -> None:
        self._out[index] = out
        heappush(self._due, (out.until, index))
        if len(self._due) > 2 * MAX_IN_HAND:  # most of them are invalid
            self._due = sorted((out.until, index) for index, out in self._out.items())

    def acknowledge(self, index: int) -> bool:
        """Mark the entry as done; return False if it is too far above the mark."""
        if index >= self.mark + MAX_IN_HAND:
            return False
        if index >= self.mark:
            self.done.add(index)
            self._out.pop(index, None)
            self._rise(self.mark)
        return True

    def _rise(self, mark: int) -> None:
        """Move the mark to `mark`, and further over entries that are done."""
        while mark in self.done:
            self.done.remove(mark)
            mark += 1
        self.mark, self._next = mark, max(self._next, mark)

    def give_back(self, index: int, deliveries: int, ready_at: float) -> bool:
        """Let the entry wait again from `ready_at` on; return False if that delivery is over."""
        out = self._out.get(index)
        if out is None or out.deliveries != deliveries:
            return False
        self._hold(index, Out(ready_at, deliveries))
        return True

    def trimmed(self, first: int) -> None:
        """Entries below `first` were trimmed: forget them."""
        self._out = {index: out for index, out in self._out.items() if index >= first}
        self.done = {index for index in self.done if index >= first}
        self._rise(max(self.mark, first))

    def check_invariants(self) -> None:
        """Assert the invariants of the module's docstring."""
        assert not self._out.keys() & self.done, "an entry is in one state"
        for index in (*self._out, *self.done):
            assert self.mark <= index < self.mark + MAX_IN_HAND, f"OutIsBounded: {index} at {self.mark}"
        assert self.mark not in self.done, "EveryEntryAcked: the mark moves over what is done"
        assert self.mark <= self._next, "AckedNotRedelivered: what is below the mark is next"
        assert len(self._due) <= 2 * MAX_IN_HAND, "OutIsBounded: deadlines"


class HandoutCursor:
    """A topic's `Handout`, with the log that it reads and the journal that stores its mark."""

    def __init__(
        self, engine: Engine, log: Log, persist_every: int, commit: Callable[[], None], *, give_back: bool
    ) -> None:
        """The arguments are those of `Cursor`."""
        self._engine, self._log, self._every = engine, log, persist_every
        self._commit, self._give_back = commit, give_back
        self.lock = RLock()
        self.handout = Handout(log.cursor)
        self.persisted = log.cursor
        self._ahead: list[bytes] = []
        self._ahead_at = 0  # the index of the first entry of `_ahead`

    def take(self, now: float, until: float) -> Received | None:
        """Hand out the next entry, if one waits. Raises `CorruptionError` for one that cannot be read."""
        refuse_reentry(self.lock)
        with self.lock:
            self._look(writing=True)
            index = self.handout.candidate(self._log.next_index, now)
            if index is None:
                return None
            data = self._read(index)
            return Received(index, data, self.handout.hand_out(index, until))

    def _look(self, *, writing: bool) -> None:
        if self._engine.stopped:
            self._engine.check_open(writing=writing)
        if self.handout.mark < self._log.first:
            self.handout.trimmed(self._log.first)

    def _read(self, index: int) -> bytes:
        """Return the entry; the ones after it are read ahead, as by a cursor."""
        if index < self._ahead_at:  # a redelivery: keep what was read ahead
            return Reader(self._log, index).batch(1, 1).payloads()[0]
        if index >= self._ahead_at + len(self._ahead):
            self._ahead, self._ahead_at = Reader(self._log, index).payloads(), index
        return self._ahead[index - self._ahead_at]

    def next_deadline(self) -> float:
        """Return when the next entry that is out waits again; infinity if none is out."""
        with self.lock:
            return self.handout.next_deadline()

    def count(self) -> int:
        """Return how many entries are not acknowledged."""
        with self.lock:
            self._look(writing=False)
            return self._log.next_index - self.handout.mark - len(self.handout.done)

    def acknowledge(self, index: int) -> bool:
        """See `Walrus.ack`."""
        refuse_reentry(self.lock)
        with self.lock:
            self._look(writing=True)
            counts = index < self._log.next_index and self.handout.acknowledge(index)
            due = self.handout.mark - self.persisted >= self._every
            if due:
                self.persist()
        if due:
            self._commit()  # without the lock, so that consumers of one topic share a sync
        return counts

    def give_back(self, received: Received, ready_at: float) -> bool:
        """See `Walrus.nack`."""
        refuse_reentry(self.lock)
        with self.lock:
            self._look(writing=False)
            return self.handout.give_back(received.index, received.deliveries, ready_at)

    def persist(self) -> None:
        """Persist the mark if it has changed."""
        with self.lock:
            if self.handout.mark != self.persisted and not self._log.gone:
                self._note(self.handout.mark)

    def seek(self, index: int) -> None:
        """Continue at `index` and persist that; outstanding deliveries are forgotten."""
        refuse_reentry(self.lock)
        with self.lock:
            self._engine.note_cursor(self._log, index)
            self.handout, self.persisted = Handout(index), index
            self._ahead, self._ahead_at = [], index

    def _note(self, mark: int) -> None:
        self._engine.note_cursor(self._log, mark)
        self.persisted = mark
        if self._give_back and len(self._log.bases) > 1 and self._log.bases[1] <= mark:
            self._engine.trim(self._log, mark)
