"""Raft's durable state: one append-only topic of the storage engine.

A journal is a sequence of records, each an entry of the topic:

    record     = kind (1 byte) body (MessagePack)
    "H"          HardState             the newest one counts
    "E"          Entry                 replaces the entry of its index and everything after it
    "S"          SnapshotHeader        a snapshot follows, in pieces
    "C"          bytes                 the next piece of that snapshot

Nothing is ever overwritten; a log that is truncated in memory is truncated here by the next entry with a
lower index. What a crash leaves is a prefix of what was written, and every prefix is a valid state: the
hard state is written before the entries that follow it, and a snapshot whose last piece is missing at the
end of the topic does not count yet, so what came before it still does.

A snapshot goes in together with the hard state and all entries that follow it (the core puts them into the
same Ready), so that once it is durable nothing before it is needed: `durable` trims it. Not earlier:
between writing a snapshot and its sync, the records before it are all that survives a power loss.

    ... E98 E99 H(7) | S(index 99) C C C H(7) E100 E101 | E102 ...
                     ^ trimmed up to here once the snapshot is durable

Invariants of what `load` returns: entries follow the snapshot without a gap, terms never fall. Anything
else, and any record that cannot be decoded, raises `JournalError`: a server that cannot trust its journal
must not start, for it could forget a vote or an acknowledged entry.

Deliberately left out: syncing (the host's), checksums of records (the engine's).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from zlib import crc32

import msgspec

from walrus.consensus.messages import MEMBERSHIP, Entry, HardState, Membership, Ready, Restored, Snapshot
from walrus.storage.batch import Batch
from walrus.storage.errors import DiskFull, StorageError
from walrus.storage.port import Storage

CHUNK_BYTES = 256 * 1024
"""Largest piece of a snapshot in one record."""
READ_ENTRIES, READ_BYTES = 4096, 4 * 1024 * 1024
"""How much is read at once while loading."""

_HARD_STATE, _ENTRY, _SNAPSHOT, _CHUNK = b"H", b"E", b"S", b"C"


class JournalError(StorageError):
    """The journal cannot be trusted; the message says where and what to do."""


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is, ahead of its pieces."""

    index: int
    term: int
    membership: Membership
    size: int
    crc: int


class RaftJournal:
    """Writes what a `Ready` says, and reads it back as `Restored`.

    `save` only writes. When the host's sync is done it calls `durable`, next to `Raft.persisted`.
    """

    __slots__ = ("_checkpoints", "_storage", "_topic")

    def __init__(self, storage: Storage, topic: str = "raft") -> None:
        self._storage, self._topic = storage, topic
        self._checkpoints: dict[int, int] = {}
        """Number of each Ready whose snapshot is written but not durable, and where its header is."""

    def is_empty(self) -> bool:
        """Has nothing ever been written? Then this server belongs to no cluster yet."""
        return self._storage.bounds(self._topic)[1] == 0

    def bootstrap(self, membership: Membership) -> None:
        """The first records of a new cluster: term 1, and the founding membership as entry 1."""
        assert self.is_empty(), "a journal is founded once"
        membership.check()
        founded = Entry(1, 1, MEMBERSHIP, membership.encode())
        self._write([_record(_HARD_STATE, HardState(1, None)), _record(_ENTRY, founded)])

    def save(self, ready: Ready) -> None:
        """Write what this Ready wants to become durable, in the order that makes every prefix valid."""
        records: list[bytes] = []
        if snapshot := ready.snapshot or ready.checkpoint:
            assert ready.hard_state is not None, "a snapshot replaces all before it, the hard state too"
            records += _snapshot_records(snapshot)
        if ready.hard_state is not None:
            records.append(_record(_HARD_STATE, ready.hard_state))
        records += [_record(_ENTRY, entry) for entry in ready.entries]
        if records:
            first = self._write(records)
            if snapshot:
                self._checkpoints[ready.number] = first

    def durable(self, ready: Ready) -> None:
        """This Ready and all before it are durable: trim what a snapshot among them made superfluous."""
        done = [number for number in self._checkpoints if number <= ready.number]
        if done:
            place = max(self._checkpoints.pop(number) for number in done)
            # Not even room to note it? The next snapshot makes this one superfluous, too.
            with suppress(DiskFull):
                self._storage.trim(self._topic, place)

    def load(self) -> Restored:
        """Read everything back; raises JournalError when it does not make sense."""
        loader = _Loader(self._topic, founded=self._storage.bounds(self._topic)[0] == 0)
        for position, record in self._records():
            loader.take(position, record)
        return loader.restored()

    def _write(self, records: list[bytes]) -> int:
        return self._storage.write(self._topic, Batch.of(records))

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Every record that is still there, with its position in the topic."""
        position, end = self._storage.bounds(self._topic)
        while position < end:
            batch = self._storage.read_batch(self._topic, position, READ_ENTRIES, READ_BYTES)
            if not batch.count:
                raise JournalError(f"topic {self._topic!r} ends at {position} instead of {end}: {_ADVICE}")
            for record in batch.payloads():
                yield position, record
                position += 1


_ADVICE = "do not start this node on it; restore the directory, or remove the member and let it join anew"


class _Loader:
    """Replays the records in order. Each must be possible after the ones before it."""

    def __init__(self, topic: str, founded: bool) -> None:
        self._topic = topic
        self._founded = founded
        """Is the very beginning still there? Else a complete snapshot must take its place."""
        self._skipping = not founded
        """Nothing counts before the first snapshot of a trimmed journal."""
        self._hard_state = HardState()
        self._snapshot: Snapshot | None = None
        self._entries: list[Entry] = []
        self._header: SnapshotHeader | None = None
        self._data = bytearray()

    def take(self, position: int, record: bytes) -> None:
        """One record."""
        kind, body = record[:1], record[1:]
        if self._skipping and kind != _SNAPSHOT:
            return
        self._skipping = False
        if self._header is not None and kind != _CHUNK:
            self._abandon_snapshot()
            if self._skipping and kind != _SNAPSHOT:
                return
            self._skipping = False
        try:
            self._replay(position, kind, body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._error(position, f"a record of kind {kind!r} cannot be read ({error})") from error

    def _replay(self, position: int, kind: bytes, body: bytes) -> None:
        match kind:
            case b"H":
                self._hard_state = msgspec.msgpack.decode(body, type=HardState)
            case b"E":
                self._replay_entry(position, msgspec.msgpack.decode(body, type=Entry))
            case b"S":
                self._header = msgspec.msgpack.decode(body, type=SnapshotHeader)
                self._data.clear()
                self._finish_snapshot(position)
            case b"C":
                self._data += msgspec.msgpack.decode(body, type=bytes)
                self._finish_snapshot(position)
            case _:
                raise self._error(position, f"unknown kind of record {kind!r}")

    def _replay_entry(self, position: int, entry: Entry) -> None:
        """An entry replaces its index and all after it; it may not leave a gap."""
        base = self._snapshot.index if self._snapshot else 0
        if not base < entry.index <= base + len(self._entries) + 1:
            raise self._error(position, f"entry {entry.index} does not follow what is there")
        del self._entries[entry.index - base - 1 :]
        last_term = self._entries[-1].term if self._entries else self._snapshot.term if self._snapshot else 0
        if entry.term < last_term:
            raise self._error(position, f"entry {entry.index} is of an older term than the one before it")
        if entry.kind is MEMBERSHIP:
            Membership.decode(entry.data)
        self._entries.append(entry)

    def _finish_snapshot(self, position: int) -> None:
        """If all pieces are here, the snapshot is in force (paper §7, Figure 13 steps 6 and 7)."""
        header = self._header
        if header is None:
            raise self._error(position, "a piece of no snapshot")
        if len(self._data) < header.size:
            return
        if len(self._data) > header.size or crc32(self._data) != header.crc:
            raise self._error(position, f"the Raft snapshot at index {header.index} is corrupt")
        header.membership.check()
        self._entries = self._entries_after(header.index, header.term)
        self._snapshot = Snapshot(header.index, header.term, header.membership, bytes(self._data))
        self._header = None
        self._data.clear()

    def _abandon_snapshot(self) -> None:
        """A crash cut this snapshot off, so what came before it was not trimmed and still counts."""
        self._header = None
        self._data.clear()
        self._skipping = not self._founded and self._snapshot is None

    def _entries_after(self, index: int, term: int) -> list[Entry]:
        """What follows the snapshot's last entry, if the log had exactly that one."""
        for position, entry in enumerate(self._entries):
            if (entry.index, entry.term) == (index, term):
                return self._entries[position + 1 :]
        return []

    def restored(self) -> Restored:
        """The state that all records together describe."""
        if not self._founded and self._snapshot is None:
            reason = "was trimmed and holds no whole Raft snapshot"
            raise JournalError(f"topic {self._topic!r} {reason}: {_ADVICE}")
        last_term = self._entries[-1].term if self._entries else self._snapshot.term if self._snapshot else 0
        if self._hard_state.term < last_term:
            raise JournalError(f"topic {self._topic!r} has lost the term of its last entry: {_ADVICE}")
        membership = self._snapshot.membership if self._snapshot else Membership()
        return Restored(
            hard_state=self._hard_state,
            membership=membership,
            snapshot=self._snapshot,
            entries=tuple(self._entries),
        )

    def _error(self, position: int, reason: str) -> JournalError:
        return JournalError(f"topic {self._topic!r}, record {position}: {reason}: {_ADVICE}")


def _record(kind: bytes, body: HardState | Entry | SnapshotHeader | bytes) -> bytes:
    return kind + msgspec.msgpack.encode(body)


def _snapshot_records(snapshot: Snapshot) -> list[bytes]:
    """The header and the pieces of a snapshot."""
    data = snapshot.data
    header = SnapshotHeader(snapshot.index, snapshot.term, snapshot.membership, len(data), crc32(data))
    pieces = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    return [_record(_SNAPSHOT, header), *(_record(_CHUNK, piece) for piece in pieces)]
