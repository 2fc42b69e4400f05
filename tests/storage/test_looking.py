"""The tools that look into a log change no byte of it, and need no more than permission to read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.storage.stores import Store
from walrus import FsyncSchedule, Walrus
from walrus.cli.wal import main
from walrus.storage.errors import DirectoryInUse
from walrus.storage.looking import LookedAtDisk
from walrus.storage.posix import LOCK_NAME

LAZY = FsyncSchedule.no_fsync()


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """What a directory holds, and when it was written to."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def torn(store: Store) -> None:
    """A log whose last record is there in part."""
    wal = store.open(fsync=LAZY)
    for number in range(5):
        wal.append("t", b"entry %d" % number * 300)
    wal.append("other", b"whole")
    block = wal._engine.logs["t"].blocks[-1]
    end = wal._engine.logs["t"].offset
    path = store.directory / f"{block.extent.file:08}.wal"
    store.crash()
    path = store.directory / path.name
    data = bytearray(path.read_bytes())
    data[end - 40 : end] = bytes(40)
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["verify", "inspect", "dump"])
def test_a_look_at_a_torn_log_leaves_every_byte(plain: Store, command: str) -> None:
    torn(plain)
    before = contents(plain.directory)
    assert main([command, str(plain.directory)]) == 0
    assert contents(plain.directory) == before
    with plain.open(fsync=LAZY) as wal:
        assert wal.recovery.cuts, "the tail is there to be cut by the log itself"


def test_a_log_that_may_only_be_read_is_verified(
    plain: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torn(plain)
    opened = os.open

    def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    assert main(["verify", str(plain.directory)]) == 0
    assert "everything is sound" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_log_on_a_read_only_mount_is_verified(plain: Store, tmp_path: Path) -> None:
    torn(plain)
    there = tmp_path / "mount"
    there.mkdir()
    inside = (
        'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" || exit 77; '
        'touch "$2/new" 2>/dev/null && exit 78; exec "$3" -m walrus.wal verify "$2"'
    )
    command = ["unshare", "-m", "sh", "-c", inside, "sh", str(plain.directory), str(there), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode in (1, 77) and "sound" not in done.stdout:
        pytest.skip(f"no mount is to be had here: {done.stderr.strip()}")
    assert (done.returncode, "everything is sound" in done.stdout) == (0, True), done


def test_what_is_written_through_it_is_seen_by_its_readers_and_lasts_no_longer(plain: Store) -> None:
    with plain.open(fsync=LAZY) as wal:
        wal.append("t", b"on the disk")
    before = contents(plain.directory)
    with Walrus(disk=LookedAtDisk(plain.directory), fsync=LAZY) as wal:
        wal.append("t", b"in memory")
        wal.append("large", bytes(5 << 20))
        wal._engine.let_go()
        assert list(wal.payloads("t")) == [b"on the disk", b"in memory"]
        assert list(wal.payloads("large")) == [bytes(5 << 20)]
        assert wal.verify() == []
        wal.delete_topic("t")
    assert contents(plain.directory) == before


def test_a_log_in_use_is_not_looked_at_and_one_without_a_lock_file_is(plain: Store) -> None:
    with plain.open(fsync=LAZY) as wal:
        wal.append("t", b"x")
        with pytest.raises(DirectoryInUse, match=str(os.getpid())):
            Walrus(disk=LookedAtDisk(plain.directory))
    (plain.directory / LOCK_NAME).unlink()
    with Walrus(disk=LookedAtDisk(plain.directory), fsync=LAZY) as wal:
        assert list(wal.payloads("t")) == [b"x"]
    assert not (plain.directory / LOCK_NAME).exists()
