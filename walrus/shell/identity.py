"""The data directory of a node: its lock, its ids, and how the last run ended.

A node's files live below `<data-dir>/node_<id>/`:

    lock        held by the process that uses this directory, and names it (`storage/processes.py`)
    identity    one JSON object, replaced atomically (write a new file, sync, rename, sync the directory)
    user_data/  engine #1: segment copies
    raft_meta/  engine #2: Raft's log, term and vote; the notes of fences

The identity file answers four questions that no other file can answer:

* *Which cluster?*  `cluster_id` is random, drawn at bootstrap or received on joining; empty until then.
* *Which disk?*  `directory_id` is random, drawn when the directory is created. A node that returns with an
  empty disk draws a new one, so it cannot pass for the member that it was: its votes and copies are gone.
* *Which start?*  `incarnation` is incremented, and the file synced, before the node sends anything. An open
  segment is led by one incarnation, so a restarted node never resumes a segment that it led before.
* *How did the last run end?*  An orderly stop sets `clean`, after everything was synced. Without it, and on
  another boot of the machine (the kernel's boot id differs), bytes that were only in the page cache are
  gone. Copies may then be shorter than this node once reported, and the node is not `sure` of them, unless
  its schedule synced before it reported anything. The death of the process alone (`kill -9`) loses nothing
  that is in the page cache.

Invariants:

* an incarnation never repeats within one directory id, not even if the directory is copied or restored from
  a backup: it counts the starts, and its bits above the count are random (`segments.start_number`);
* a directory whose state is `member` has a Raft journal. An empty journal means that it was lost: the node
  refuses to start, since it could vote again in terms in which it has voted;
* `clean` is never on disk while a process runs.

Left out: repair of a damaged identity file. The file is small and changes once per start. Whatever damaged
it may have damaged other files, too, so the node reports it and does not start.
"""

from __future__ import annotations

import os
import secrets
import uuid
from pathlib import Path
from typing import Literal

import msgspec

from walrus.config import Identity
from walrus.segments import next_incarnation
from walrus.storage.posix import Descriptor, sync_descriptor, sync_directory
from walrus.storage.processes import LockHeld, take_lock

FORMAT = 1
"""Version of the identity file; a file of another version is refused."""


class DirectoryError(Exception):
    """The data directory cannot be used; the message is one line that says why, and what to do."""


class IdentityFile(msgspec.Struct, frozen=True, kw_only=True):
    """The identity file's content."""

    format: int = FORMAT
    node_id: int
    directory_id: str
    cluster_id: str = ""
    state: Literal["new", "founding", "joining", "member"] = "new"
    """`founding` and `joining` last until the Raft journal is durable for the first time."""
    member_at: int = 0
    """An index of Raft's log at which this directory is a member, as JoinReply said."""
    addresses: dict[int, str] = {}
    """The last known addresses of the other members: a restarted node dials these until it has a leader."""
    incarnation: int = 0
    clean: bool = True
    boot_id: str = ""
    fsync: str = "each"
    """The schedule of the last run: only with `each` are copies sure after a power loss."""
    sure: bool = True
    """False from a start at which copies may be too short, until all of them are whole again."""


def has_data(directory: Path) -> bool:
    """Return whether an engine's directory has files, other than the file system's own `lost+found`."""
    return directory.is_dir() and any(entry.name != "lost+found" for entry in directory.iterdir())


class DataDirectory:
    """One node's data directory, locked by this process from construction until `close`."""

    def __init__(self, data_dir: Path, node_id: int) -> None:
        self.path = data_dir / f"node_{node_id}"
        self.node_id = node_id
        self._lock = Descriptor(self._take_lock())
        try:
            self.record = self._load()
        except BaseException:
            self.close()
            raise

    @property
    def user_data(self) -> Path:
        """The directory of the engine with the segment copies."""
        return self.path / "user_data"

    @property
    def raft_meta(self) -> Path:
        """The directory of the engine with Raft's journal."""
        return self.path / "raft_meta"

    def identity(self) -> Identity:
        """Return what the controller needs to know of the directory. Valid after `begin`, with a cluster."""
        record = self.record
        assert record.cluster_id and record.incarnation > 0, "a node without a cluster or a start"
        return Identity(
            cluster_id=record.cluster_id,
            directory_id=record.directory_id,
            incarnation=record.incarnation,
            member_at=record.member_at,
            bootstrap=record.state == "founding",
            sure=record.sure,
        )

    def begin(self, fsync: str, boot: str) -> IdentityFile:
        """Durably count one more start; return the record of this process. Raises DirectoryError.

        `boot` is the current boot id. If it is unknown (""), another boot is assumed, which is safe.
        """
        last = self.record
        kept = last.clean or last.fsync == "each" or (boot != "" and boot == last.boot_id)
        if not last.clean:
            self._sync_data()
        return self._store(
            msgspec.structs.replace(
                last,
                incarnation=next_incarnation(last.incarnation, secrets.randbits(28)),
                clean=False,
                boot_id=boot,
                fsync=fsync,
                sure=last.sure and kept,
            )
        )

    def _sync_data(self) -> None:
        """Sync what a killed process left in the page cache, since this process will count it as durable.

        This process syncs its own writes, at the latest in an orderly stop, which then sets `clean`. Without
        this sync, `clean` would also vouch for bytes that an earlier process wrote and that nothing synced.
        """
        try:
            for file in sorted(file for file in self.user_data.glob("*") if file.is_file()):
                with file.open("rb+") as opened:
                    sync_descriptor(opened.fileno())
        except OSError as error:
            raise DirectoryError(f"cannot sync {self.user_data}: {error.strerror}") from error

    def found(self) -> IdentityFile:
        """Durably found a new cluster, with a random id and this directory as its first member."""
        assert self.record.state == "new", "only an empty directory founds a cluster"
        return self._store(
            msgspec.structs.replace(self.record, cluster_id=uuid.uuid4().hex, state="founding")
        )

    def join(self, cluster_id: str, addresses: dict[int, str], member_at: int = 0) -> IdentityFile:
        """Durably note the cluster that admitted this node, its members' addresses, and `member_at`."""
        assert self.record.cluster_id in ("", cluster_id), "a directory belongs to one cluster for life"
        assert self.record.state in ("new", "joining"), "a member does not join again"
        joined = msgspec.structs.replace(
            self.record, cluster_id=cluster_id, addresses=addresses, state="joining", member_at=member_at
        )
        return self._store(joined)

    def remember(self, addresses: dict[int, str]) -> IdentityFile:
        """Durably note the current addresses of the other members."""
        if addresses == self.record.addresses:
            return self.record
        return self._store(msgspec.structs.replace(self.record, addresses=addresses))

    def settle(self) -> IdentityFile:
        """Durably note that the Raft journal exists: from now on an empty one means that it was lost."""
        if self.record.state == "member":
            return self.record
        return self._store(msgspec.structs.replace(self.record, state="member"))

    def doubt(self) -> IdentityFile:
        """Durably note that a copy is shorter than it was: the node is unsure."""
        return self._store(msgspec.structs.replace(self.record, sure=False))

    def trust(self) -> IdentityFile:
        """Durably note that every copy is whole again: the node is sure."""
        return self._store(msgspec.structs.replace(self.record, sure=True))

    def finish(self) -> IdentityFile:
        """Durably note an orderly stop. Call it last, after both engines were synced and closed."""
        return self._store(msgspec.structs.replace(self.record, clean=True))

    def close(self) -> None:
        """Release the lock. Without `finish` before it, the stop counts as a crash."""
        self._lock.close()

    def _take_lock(self) -> int:
        """Open and lock the lock file. Raises DirectoryError, which names the holder."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return take_lock(self.path / "lock")
        except LockHeld as held:
            message = f"data directory {self.path} is in use by process {held.holder.pid or 'unknown'}"
            raise DirectoryError(f"{message}: stop it first") from None
        except OSError as error:
            raise DirectoryError(f"cannot use data directory {self.path}: {error.strerror}") from error

    def _load(self) -> IdentityFile:
        """Read the record, or make one for a new directory, which is not written before `begin`."""
        try:
            raw = (self.path / "identity").read_bytes()
        except FileNotFoundError:
            self._refuse_orphans()
            return IdentityFile(node_id=self.node_id, directory_id=uuid.uuid4().hex)
        except OSError as error:
            raise DirectoryError(f"cannot read {self.path / 'identity'}: {error.strerror}") from error
        try:
            record = msgspec.json.decode(raw, type=IdentityFile)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise DirectoryError(self._damaged(str(error))) from error
        if record.format != FORMAT:
            raise DirectoryError(
                f"{self.path / 'identity'} has format {record.format}, this release reads {FORMAT}: "
                f"start the node with the release that wrote it"
            )
        if record.node_id != self.node_id:
            raise DirectoryError(self._damaged(f"it belongs to node {record.node_id}"))
        if record.incarnation < 0 or record.member_at < 0:
            raise DirectoryError(self._damaged("a number in it is negative"))
        if record.state == "member" and not has_data(self.user_data):
            raise DirectoryError(
                f"{self.user_data} is empty, but this node is a member: its copies are lost. Restore it, or "
                f"LEAVE {self.node_id} on another node and start this one with an empty --data-dir"
            )
        return record

    def _damaged(self, why: str) -> str:
        return (
            f"{self.path / 'identity'} cannot be used ({why}): restore it, or LEAVE {self.node_id} on "
            f"another node and rejoin with an empty data directory"
        )

    def _refuse_orphans(self) -> None:
        """Raise DirectoryError if there is data without an identity file: such data is never deleted."""
        for data in (self.user_data, self.raft_meta):
            if has_data(data):
                raise DirectoryError(self._damaged(f"it is missing, but {data} has files"))

    def _store(self, record: IdentityFile) -> IdentityFile:
        """Replace the identity file durably. A crash before the return leaves the old file or the new one.

        Raises DirectoryError, for example on a full disk; this, too, leaves the old file or the new one.
        """
        target, aside = self.path / "identity", self.path / "identity.new"
        try:
            with aside.open("wb") as file:
                file.write(msgspec.json.encode(record) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(target)
            sync_directory(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise DirectoryError(f"cannot write {target}: {error.strerror}") from error
        self.record = record
        return record
