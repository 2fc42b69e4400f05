"""The data directory: who holds it, who it is, and what its last run left behind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.storage.test_interrupts import interrupted
from walrus.segments import start_number
from walrus.shell.identity import DataDirectory, DirectoryError

DOUBT = "AckedDurable: a node is sure of copies that a power loss may have shortened"


def kind_of(fd: int) -> str:
    """What is behind a descriptor."""
    return "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"


def reopened(directory: DataDirectory) -> DataDirectory:
    """What the next process finds after this one died without a word."""
    directory.close()
    return DataDirectory(directory.path.parent, directory.node_id)


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path, 1)
    with pytest.raises(DirectoryError, match=r"in use by process \d+"):
        DataDirectory(tmp_path, 1)
    DataDirectory(tmp_path, 2).close()
    first.close()
    DataDirectory(tmp_path, 1).close()


def test_the_incarnation_rises_with_every_start_and_is_durable_before_begin_returns(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 1)
    seen = []
    for _ in range(3):
        seen.append(start_number(directory.begin("each", "boot").incarnation))
        directory = reopened(directory)
    assert seen == [1, 2, 3]


def test_the_ids_stay_and_an_empty_disk_has_another_one(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a", 1)
    directory.begin("each", "boot")
    cluster = directory.found().cluster_id
    again = reopened(directory)
    assert again.record.cluster_id == cluster
    assert again.record.directory_id == directory.record.directory_id
    assert again.record.state == "founding"
    other = DataDirectory(tmp_path / "b", 1)
    assert other.record.directory_id != directory.record.directory_id
    assert other.record.cluster_id == ""


def test_a_joined_directory_keeps_where_the_members_were(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 4)
    directory.begin("each", "boot")
    directory.join("c", {1: "h:1"})
    directory.user_data.mkdir()
    (directory.user_data / "engine.lock").touch()
    directory.settle()
    again = reopened(directory)
    assert (again.record.cluster_id, again.record.addresses, again.record.state) == (
        "c",
        {1: "h:1"},
        "member",
    )


@pytest.mark.parametrize(
    ("fsync", "clean", "same_boot", "sure"),
    [
        ("200 ms", False, False, False),  # power loss with bytes that were never synced
        ("none", False, False, False),
        ("each", False, False, True),  # everything that was reported had been synced
        ("200 ms", True, False, True),  # stopped in order, synced at the end
        ("200 ms", False, True, True),  # killed: the page cache lives on
    ],
)
def test_a_start_is_sure_unless_unsynced_bytes_may_be_gone(
    tmp_path: Path, fsync: str, clean: bool, same_boot: bool, sure: bool
) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin(fsync, "one boot")
    if clean:
        directory.finish()
    again = reopened(directory)
    assert again.begin(fsync, "one boot" if same_boot else "another").sure is sure


def test_doubt_outlives_a_restart_until_it_is_noted_elsewhere(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin("none", "one")
    directory = reopened(directory)
    assert not directory.begin("none", "two").sure, DOUBT
    directory = reopened(directory)  # killed before the copies in doubt were noted
    assert not directory.begin("none", "two").sure, DOUBT
    directory.trust()
    directory = reopened(directory)
    assert directory.begin("none", "two").sure


@pytest.mark.parametrize("clean", [False, True])
def test_what_a_killed_process_left_in_the_page_cache_is_synced_before_it_is_relied_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    """The next run may sync everything that it writes, and be sure of itself after a power loss."""
    synced: list[int] = []
    monkeypatch.setattr(
        "walrus.shell.identity.sync_descriptor", lambda fd: synced.append(os.fstat(fd).st_ino)
    )
    directory = DataDirectory(tmp_path, 1)
    directory.begin("none", "boot")
    directory.user_data.mkdir()
    data = directory.user_data / "00000001.wal"
    data.write_bytes(b"entries")
    if clean:
        directory.finish()
    assert reopened(directory).begin("each", "boot").sure
    assert synced == ([] if clean else [data.stat().st_ino]), (
        "AckedDurable: what was never synced counts as durable"
    )


def test_an_identity_is_on_the_disk_before_it_takes_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss leaves the old one or the new one, and never a name without its bytes."""
    directory = DataDirectory(tmp_path, 1)
    fsync, replace, steps = os.fsync, Path.replace, list[str]()
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(kind_of(fd)), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *names: (steps.append("renamed"), replace(*names)))
    directory.begin("each", "boot")
    assert steps[:3] == ["file", "renamed", "directory"], (
        "AckedDurable: a power loss takes the identity, and with it what the node is sure of"
    )


def test_a_full_disk_is_an_error_with_one_line_and_leaves_the_old_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin("each", "boot")
    before = directory.record

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DirectoryError, match="No space left"):
            directory.remember({2: "h:1"})
    assert directory.record == reopened(directory).record == before


def test_doubt_about_what_was_found_lasts_until_it_is_noted_elsewhere(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 1)
    assert directory.begin("each", "boot").sure
    assert not directory.doubt().sure
    directory.finish()
    directory = reopened(directory)
    assert not directory.begin("each", "boot").sure, DOUBT
    assert directory.trust().sure


def test_no_room_for_the_lock_is_an_error_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DirectoryError, match="node_1: No space left"):
            DataDirectory(tmp_path, 1)
    DataDirectory(tmp_path, 1).close()


def test_a_close_cut_at_any_line_closes_the_lock_once(tmp_path: Path) -> None:
    """By the second time its number may be that of another file: of a client, or of an engine."""
    reached, point = True, 0
    while reached:
        point += 1
        directory = DataDirectory(tmp_path, 1)
        reached = interrupted(directory.close, point)
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]  # they take the number, if it is free
        directory.close()
        for other in others:
            assert os.fstat(other), f"the descriptor of another file was closed, line {point}"
            os.close(other)
        DataDirectory(tmp_path, 1).close()  # and it was closed
    assert point > 2, "a close was cut, at more than one line"


def test_an_unknown_boot_counts_as_another_one(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin("none", "")
    assert not reopened(directory).begin("none", "").sure, DOUBT


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b'{"format": 1, "directory_id": "x"}', b'{"node_id": 2, "directory_id": "x"}'],
)
def test_a_damaged_identity_is_refused_and_never_replaced(tmp_path: Path, damage: bytes) -> None:
    DataDirectory(tmp_path, 1).close()
    file = tmp_path / "node_1" / "identity"
    file.write_bytes(damage)
    with pytest.raises(DirectoryError, match="LEAVE 1"):
        DataDirectory(tmp_path, 1)
    assert file.read_bytes() == damage
    file.unlink()
    DataDirectory(tmp_path, 1).close()  # and the refusal gave the lock back


def test_the_identity_of_another_release_is_left_to_that_release(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin("each", "boot")
    file = directory.path / "identity"
    file.write_bytes(file.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(DirectoryError, match="format 2, this release reads 1: start"):
        reopened(directory)


@pytest.mark.parametrize("left", ["nothing", "the directory", "lost+found"])
def test_a_member_without_its_copies_is_refused(tmp_path: Path, left: str) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin("each", "boot")
    directory.found()
    directory = reopened(directory)
    assert directory.record.state == "founding", "nothing was there to be lost yet"
    directory.settle()
    if left != "nothing":
        directory.user_data.mkdir()
    if left == "lost+found":  # a file system of its own that was made anew
        (directory.user_data / "lost+found").mkdir()
    with pytest.raises(DirectoryError, match="its copies are lost"):
        reopened(directory)
    directory.user_data.mkdir(exist_ok=True)
    (directory.user_data / "engine.lock").touch()
    reopened(directory).close()


def test_data_without_an_identity_is_not_an_empty_directory(tmp_path: Path) -> None:
    data = tmp_path / "node_1" / "raft_meta"
    data.mkdir(parents=True)
    (data / "file").write_bytes(b"vote")
    with pytest.raises(DirectoryError, match="missing"):
        DataDirectory(tmp_path, 1)
    assert (data / "file").read_bytes() == b"vote"


def test_the_lost_and_found_of_a_new_file_system_is_no_data(tmp_path: Path) -> None:
    for name in ("user_data", "raft_meta"):
        (tmp_path / "node_1" / name / "lost+found").mkdir(parents=True)
    DataDirectory(tmp_path, 1).close()


def test_a_leftover_of_a_crash_in_the_middle_of_a_replacement_is_ignored(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, 1)
    directory.begin("each", "boot")
    (directory.path / "identity.new").write_bytes(b"{half")
    assert start_number(reopened(directory).begin("each", "boot").incarnation) == 2
