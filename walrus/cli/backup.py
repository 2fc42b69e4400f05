"""Backup and restore of topics while the cluster runs.

    walrus-cli backup DIR                 every topic: entries, settings, groups
    walrus-cli backup DIR --prefix shop.  of some topics
    walrus-cli restore DIR                into another cluster, of any size

A backup reads as any client does. So it needs no pause, no files of a node, and any node will do. Of each
topic it contains everything that was acknowledged before it began, and some of what was appended since.

    DIR/entries/      a directory of the storage engine: `python -m walrus.wal verify` and `dump` read it
    DIR/backup.json   written last, atomically: without it the backup is incomplete

**Groups** are read before the entries, and stored as the number of entries of the backup before the group's
position. So a restored group gets entries again that it read during the backup, and misses none. A work
queue also gets entries again that it acknowledged out of order.

**Restoring** writes every entry with PUB, by a producer that is named after the backup. A restore that was
interrupted is repeated with `--again`, which writes no entry twice.

Invariants: nothing is written to a cluster before the whole backup has been read and its checksums are
verified; a directory with `backup.json` is complete.

Left out: segment numbers and offsets are not preserved, since a restored topic has segments of its own. Nor
are the last numbers of producers (PUB): a producer that continues after a restore needs a new name. There
are no incremental backups.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from walrus.client import Client, Entry, TopicSettings, Trimmed, UnknownTopic
from walrus.storage.errors import StorageError
from walrus.storage.looking import LookedAtDisk
from walrus.storage.posix import sync_descriptor, sync_directory
from walrus.storage.schedule import FsyncSchedule
from walrus.wal import Walrus

FORMAT: Final = 1
ENTRIES, MANIFEST = "entries", "backup.json"
BATCH: Final = 1_000
BATCH_BYTES: Final = 4 << 20
MOST_TOPICS: Final = 1_000
"""The number of topics in one reply to TOPICS."""

Say = Callable[[str], None]


class BackupError(Exception):
    """The backup or restore is impossible; the message is one line."""


class SavedTopic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of a backup."""

    settings: dict[str, Any]
    entries: int
    bytes: int
    sum: int
    """CRC-32 of all entries, each preceded by its length."""
    cursors: dict[str, int]
    """For each group, how many of the entries are before its cursor; "" is the shared cursor."""
    queues: dict[str, int]
    """For each group that is read with RECEIVE, how many entries from the beginning are all acknowledged."""


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a backup. Times in seconds since the epoch."""

    format: int = FORMAT
    backup_id: str
    cluster_id: str
    begun_at: float
    ended_at: float
    topics: dict[str, SavedTopic]


class _RunningSum:
    """Counts entries and bytes, and computes the checksum of entries."""

    def __init__(self) -> None:
        self.entries = self.bytes = self.value = 0

    def add(self, payload: bytes) -> None:
        self.entries += 1
        self.bytes += len(payload)
        self.value = zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(4, "little"), self.value))


# --- backup ---------------------------------------------------------------------------------------


def backup(client: Client, directory: Path, prefix: str, say: Say) -> BackupManifest:
    """Copy the topics that begin with `prefix` into a directory that is empty or does not exist.

    Raises BackupError, WalrusError, OSError.
    """
    if directory.exists() and any(directory.iterdir()):
        raise BackupError(f"{directory} is not empty: name another directory, or remove it")
    names = client.topics(prefix)
    if len(names) == MOST_TOPICS:
        raise BackupError(f"{MOST_TOPICS:,} topics or more: take them in parts, with --prefix")
    begun, cluster_id = time.time(), str(client.metrics()["cluster_id"])
    states = {name: state for name in names if (state := _state(client, name)) is not None}
    directory.mkdir(parents=True, exist_ok=True)
    topics = {}
    with Walrus(directory / ENTRIES, fsync=FsyncSchedule.no_fsync()) as wal:
        for name, state in states.items():
            topics[name] = kept = _copy(client, wal, name, state)
            say(f"{name}: {kept.entries:,} entries")
        wal.sync()
    manifest = BackupManifest(
        backup_id=secrets.token_hex(8),
        cluster_id=cluster_id,
        begun_at=begun,
        ended_at=time.time(),
        topics=topics,
    )
    _write_last(directory, manifest)
    return manifest


def _state(client: Client, topic: str) -> dict[str, Any] | None:
    """Return the reply to STATE; None if the topic does not exist (any more)."""
    try:
        return cast("dict[str, Any]", client.state(topic))
    except UnknownTopic:
        return None


def _copy(client: Client, wal: Walrus, topic: str, state: dict[str, Any]) -> SavedTopic:
    """Copy the entries of a topic that were acknowledged when `state` was read, and perhaps later ones."""
    total, starts = _RunningSum(), dict[int, int]()
    for batch in _batches(_entries(client, topic, int(state["current_segment"]))):
        for entry in batch:
            starts.setdefault(entry.segment, total.entries - entry.offset)
            total.add(entry.payload)
        wal.append_batch(topic, [entry.payload for entry in batch])

    def behind(place: dict[str, int]) -> int:
        """How many entries are before a position; in a segment without entries, that of the next segment."""
        segment, offset = place["segment"], place["offset"]
        if segment in starts:
            return starts[segment] + offset
        later = [begin for number, begin in starts.items() if number > segment]
        return min(later, default=total.entries)

    return SavedTopic(
        settings=state.get("settings", {}),
        entries=total.entries,
        bytes=total.bytes,
        sum=total.value,
        cursors={group: behind(place) for group, place in state["cursors"].items()},
        queues={group: behind(place) for group, place in state.get("queues", {}).items()},
    )


def _entries(client: Client, topic: str, last: int) -> Iterator[Entry]:
    """Yield every entry up to the end of segment `last`, which was open when the backup began.

    Without this bound, the backup of a topic that is written faster than it is read would never end.
    Segments that retention drops meanwhile are skipped.
    """
    place = (1, 0)
    while True:
        try:
            for entry in client.scan(topic, *place):
                if entry.segment > last:
                    return
                place = (entry.segment, entry.offset + 1)
                yield entry
            return
        except Trimmed:
            place = (1, 0)  # from the current beginning of the topic, which is after the entries read so far
        except UnknownTopic:
            return  # deleted meanwhile: keep the entries read so far


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += len(entry.payload)
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_last(directory: Path, manifest: BackupManifest) -> None:
    """Write the manifest under another name, sync it, and rename it."""
    beside = directory / f"{MANIFEST}.part"
    with beside.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        file.flush()
        sync_descriptor(file.fileno())
    beside.rename(directory / MANIFEST)
    sync_directory(directory)


# --- restore --------------------------------------------------------------------------------------


def check(directory: Path) -> BackupManifest:
    """Read all of a backup; return its manifest. Raises BackupError if it is incomplete or damaged."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=BackupManifest)
    except OSError as error:
        raise BackupError(
            f"{directory}: no backup, or one that was not finished: {error.strerror}"
        ) from error
    except msgspec.MsgspecError as error:
        raise BackupError(f"{directory / MANIFEST}: {error}") from error
    if manifest.format != FORMAT:
        raise BackupError(f"{directory}: of format {manifest.format}, this release knows {FORMAT}")
    with _opened(directory) as wal:
        for name, kept in manifest.topics.items():
            total = _RunningSum()
            for payload in _payloads(wal, name, kept):
                total.add(payload)
            if (total.entries, total.bytes, total.value) != (kept.entries, kept.bytes, kept.sum):
                raise BackupError(
                    f"{directory}: {name} has {total.entries:,} entries with another checksum than the "
                    f"{kept.entries:,} that were written: the backup is damaged"
                )
    return manifest


@contextmanager
def _opened(directory: Path) -> Iterator[Walrus]:
    """The engine of a backup, which is opened read-only. Raises BackupError on damage."""
    try:
        with Walrus(disk=LookedAtDisk(directory / ENTRIES), fsync=FsyncSchedule.no_fsync()) as wal:
            yield wal
    except StorageError as error:
        raise BackupError(f"{directory / ENTRIES}: {error}") from error


def _payloads(wal: Walrus, topic: str, kept: SavedTopic) -> Iterator[bytes]:
    return wal.payloads(topic) if kept.entries and topic in wal.topics() else iter(())


def restore(client: Client, directory: Path, again: bool, say: Say) -> BackupManifest:
    """Write a backup into a cluster that has none of its topics. Raises BackupError, WalrusError.

    `again`: the topics may exist, from an interrupted restore of this backup.
    """
    manifest = check(directory)
    there = [name for name in manifest.topics if _state(client, name) is not None]
    if there and not again:
        raise BackupError(
            f"{there[0]} is a topic of this cluster already: restore into one that does not have it; to "
            f"go on with a restore of this backup that was interrupted, give --again"
        )
    with _opened(directory) as wal:
        for name, kept in manifest.topics.items():
            client.register(name, cast("TopicSettings", kept.settings) or None)
            producer = client.producer(name, f"restore-{manifest.backup_id}")
            for part in _parts(_payloads(wal, name, kept)):
                producer.put_many(part)
            _place_groups(client, name, kept)
            say(f"{name}: {kept.entries:,} entries")
    return manifest


def _parts(payloads: Iterator[bytes]) -> Iterator[list[bytes]]:
    return ([entry.payload for entry in batch] for batch in _batches(Entry(0, 0, data) for data in payloads))


def _place_groups(client: Client, topic: str, kept: SavedTopic) -> None:
    """Move each group to its position: that of a work queue by SEEK, a cursor by reading up to there."""
    places = _Places(_state(client, topic) or {})
    for group, behind in kept.queues.items():
        client.seek(topic, group, places.place(behind))
    for group, behind in kept.cursors.items():
        left = behind - places.behind(group)
        while left > 0 and (got := len(client.get_many(topic, min(left, BATCH), group=group))):
            left -= got


class _Places:
    """The positions of the entries of a restored topic."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._sealed = {int(number): count for number, count in state["sealed_segments"].items()}
        self._open, self._trimmed = state["current_segment"], state.get("trimmed_entries", 0)
        self._cursors = state["cursors"]

    def place(self, index: int) -> tuple[int, int]:
        """The position of the entry with `index` others before it, including entries trimmed since."""
        left = max(0, index - self._trimmed)
        for segment, count in sorted(self._sealed.items()):
            if left < count:
                return segment, left
            left -= count
        return self._open, left

    def behind(self, group: str) -> int:
        """How many entries are before the current position of a cursor; 0 if it does not exist yet."""
        at = self._cursors.get(group)
        if at is None:
            return 0
        before = sum(count for segment, count in self._sealed.items() if segment < at["segment"])
        return int(self._trimmed + before + at["offset"])
