"""Raft's durable state: one append-only topic of the storage engine.

A journal is a sequence of records, each an entry of the topic:

    record     = kind (1 byte) body (MessagePack)
    "H"          HardState             only the newest counts
    "E"          Entry                 replaces the entry of its index and everything after it
    "S"          SnapshotHeader        a snapshot follows, in chunks
    "C"          bytes                 the next chunk of that snapshot

Nothing is ever overwritten; after a truncation in memory, the next entry written has a lower index, and so
truncates the log here. A crash leaves a prefix of what was written, and every prefix is a valid state: the
hard state is written before the entries that follow it, and a snapshot without its last chunk does not
count yet, so the records before it still do.

    records                                     what `load` makes of them
    H(2) E1 E2 E3                               term 2, entries 1 2 3
    H(2) E1 E2 E3 | H(3) E2'                    term 3, entries 1 2': the new 2 replaced 2 and 3
    H(2) E1 E2 E3 | H(3)                        the same with E2' torn off: term 3, entries 1 2 3
    H(2) E1 E2 E3 | S(index 2) C                the last chunk is missing: term 2, entries 1 2 3
    H(2) E1 E2 E3 | S(index 2) C C              a snapshot at 2, and entry 3 behind it
    H(2) E1 E2 E3 | S(index 2) C C H(2) E3      the same

A snapshot is written together with the hard state and all entries that follow it (the core puts them into
the same Ready), so once it is durable nothing before it is needed, and `durable` trims that. Not earlier:
between writing a snapshot and its sync, only the records before it survive a power loss.

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
"""Largest chunk of a snapshot in one record."""
READ_ENTRIES, READ_BYTES = 4096, 4 * 1024 * 1024
"""How much is read at once while loading."""

_HARD_STATE, _ENTRY, _SNAPSHOT, _CHUNK = b"H", b"E", b"S", b"C"


class JournalError(StorageError):
    """The journal cannot be trusted; the message says where and what to do."""


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is, ahead of its chunks."""

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
        """Number of each Ready whose snapshot is written but not durable -> position of its header."""

    def is_empty(self) -> bool:
        """Return whether nothing has ever been written: then this server belongs to no cluster yet."""
        return self._storage.bounds(self._topic)[1] == 0

    def bootstrap(self, membership: Membership) -> None:
        """The first records of a new cluster: term 1, and the founding membership as entry 1."""
        assert self.is_empty(), "a journal is founded once"
        membership.check()
        assert membership.voters, "a cluster is founded by its voters"
        # Every founder writes the same entry, so all logs of the cluster agree at index 1.
        founded = Entry(1, 1, MEMBERSHIP, membership.encode())
        self._write([_record(_HARD_STATE, HardState(1, None)), _record(_ENTRY, founded)])
        assert not self.is_empty(), "the second start must not found it again"

    def save(self, ready: Ready) -> None:
        """Write what this Ready wants to become durable, in the order that makes every prefix valid."""
        assert not (ready.snapshot and ready.checkpoint), "one of them is older than the other"
        records: list[bytes] = []
        # The order makes every prefix valid: a snapshot without its last chunk is skipped, and the hard state
        # comes before the entries of its term, so no prefix shows an entry of a term that it does not know.
        if snapshot := ready.snapshot or ready.checkpoint:
            assert ready.hard_state is not None, (
                "ElectionSafety: a snapshot replaces all before it, the hard state too"
            )
            records += _snapshot_records(snapshot)
        if ready.hard_state is not None:
            records.append(_record(_HARD_STATE, ready.hard_state))
        records += [_record(_ENTRY, entry) for entry in ready.entries]
        if records:
            first = self._write(records)
            if snapshot:
                assert all(number < ready.number for number in self._checkpoints), "Readys are saved in order"
                self._checkpoints[ready.number] = first

    def durable(self, ready: Ready) -> None:
        """This Ready and all before it are durable: trim what a snapshot among them replaced.

        A later snapshot may be written already and not yet durable; its place must not be used.
        """
        done = [number for number in self._checkpoints if number <= ready.number]
        if done:
            place = max(self._checkpoints.pop(number) for number in done)
            assert not self._checkpoints or place < min(self._checkpoints.values()), (
                "CommittedNeverLost: a snapshot that is not durable yet would go"
            )
            # Without room to note the trim, the old records stay until the next snapshot trims them too.
            with suppress(DiskFull):
                self._storage.trim(self._topic, place)

    def load(self) -> Restored:
        """Read everything back; raises JournalError when it does not make sense.

        Reads in pieces, so that a large journal is not in memory twice.
        """
        loader = _Loader(self._topic, founded=self._storage.bounds(self._topic)[0] == 0)
        for position, record in self._records():
            loader.replay(position, record)
        return loader.restored()

    def _write(self, records: list[bytes]) -> int:
        """Write as one batch; returns the first record's position."""
        assert records, "a batch of nothing has no position"
        return self._storage.write(self._topic, Batch.of(records))

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Each record that was not trimmed, with its position in the topic."""
        # The end is taken once: nothing is written to a journal while it is loaded.
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
    """Replays the records in order. Each must be possible after the ones before it.

    Its input comes from a disk, so whatever is wrong with it is a `JournalError`, never an assertion.
    """

    def __init__(self, topic: str, founded: bool) -> None:
        self._topic = topic
        self._founded = founded
        """Whether the first record ever is still there; if not, a complete snapshot must stand in for it."""
        self._skipping = not founded
        """In a trimmed journal, records before the first snapshot do not count."""
        self._hard_state = HardState()
        self._snapshot: Snapshot | None = None
        self._entries: list[Entry] = []
        self._header: SnapshotHeader | None = None
        self._data = bytearray()

    def replay(self, position: int, record: bytes) -> None:
        """Replay one record; raises JournalError when it cannot follow the ones before it."""
        kind, body = record[:1], record[1:]
        # A trimmed journal must begin with a whole snapshot: records before one continue a log that is gone.
        # There may be some, since an engine gives space back in blocks.
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
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
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
        # A gap would be entries that were acknowledged and are not here. An entry at or below the snapshot
        # would replace one that is committed.
        if not base < entry.index <= base + len(self._entries) + 1:
            raise self._error(position, f"entry {entry.index} does not follow what is there")
        del self._entries[entry.index - base - 1 :]
        assert len(self._entries) == entry.index - base - 1, "LogMatching: an entry at another index"
        last_term = self._entries[-1].term if self._entries else self._snapshot.term if self._snapshot else 0
        if entry.term < last_term:
            raise self._error(position, f"entry {entry.index} is of an older term than the one before it")
        if entry.kind is MEMBERSHIP:
            Membership.decode(entry.data)
        self._entries.append(entry)

    def _finish_snapshot(self, position: int) -> None:
        """With its last chunk, the snapshot is in force (paper §7, Figure 13 steps 6 and 7)."""
        header = self._header
        if header is None:
            raise self._error(position, "a chunk of no snapshot")
        if len(self._data) < header.size:
            return
        if len(self._data) > header.size or crc32(self._data) != header.crc:
            raise self._error(position, f"the Raft snapshot at index {header.index} is corrupt")
        header.membership.check()
        self._entries = self._entries_after(header.index, header.term)
        assert not self._entries or self._entries[0].index == header.index + 1, (
            "LogMatching: the log does not begin behind its snapshot"
        )
        self._snapshot = Snapshot(header.index, header.term, header.membership, bytes(self._data))
        self._header = None
        self._data.clear()

    def _abandon_snapshot(self) -> None:
        """A crash cut this snapshot off: what came before it was not trimmed, and counts.

        Another record after an unfinished snapshot means just that: a server that crashed while writing it,
        started again from what came before, and went on writing.
        """
        assert self._header is not None and len(self._data) < self._header.size
        self._header = None
        self._data.clear()
        self._skipping = not self._founded and self._snapshot is None

    def _entries_after(self, index: int, term: int) -> list[Entry]:
        """The entries behind the snapshot's last one, if the log had exactly that one; else none can stay."""
        for position, entry in enumerate(self._entries):
            if (entry.index, entry.term) == (index, term):
                return self._entries[position + 1 :]
        return []

    def restored(self) -> Restored:
        """The state that all records together describe."""
        # Trimming comes after the sync of the snapshot that replaces what is trimmed (`RaftJournal.durable`),
        # so no crash leaves this; a damaged disk does.
        if not self._founded and self._snapshot is None:
            reason = "was trimmed and holds no whole Raft snapshot"
            raise JournalError(f"topic {self._topic!r} {reason}: {_ADVICE}")
        # The hard state is written before the entries of its term. If it is not here, then neither may be
        # the vote of that term, and this server could give it a second time.
        last_term = self._entries[-1].term if self._entries else self._snapshot.term if self._snapshot else 0
        if self._hard_state.term < last_term:
            raise JournalError(f"topic {self._topic!r} has lost the term of its last entry: {_ADVICE}")
        base = self._snapshot.index if self._snapshot else 0
        assert not self._entries or self._entries[0].index == base + 1, (
            "LogMatching: the log does not begin behind its snapshot"
        )
        assert base + len(self._entries) == (self._entries[-1].index if self._entries else base)
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
    """The header and the chunks of a snapshot."""
    data = snapshot.data
    header = SnapshotHeader(snapshot.index, snapshot.term, snapshot.membership, len(data), crc32(data))
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    assert sum(map(len, chunks)) == header.size
    return [_record(_SNAPSHOT, header), *(_record(_CHUNK, chunk) for chunk in chunks)]
