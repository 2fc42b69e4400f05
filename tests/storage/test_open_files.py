"""Data files are open while something needs them: as many as that takes, however much data there is."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.storage.stores import Store
from walrus import FsyncSchedule, Walrus
from walrus.storage import engine, log, space
from walrus.storage.backend import no_descriptor
from walrus.storage.errors import DiskFull
from walrus.storage.space import Space

ROOT = Path(__file__).resolve().parents[2]
LAZY = FsyncSchedule.no_fsync()
FEW = 4


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data file for every block of 16 KiB, and few of them open."""
    monkeypatch.setattr(space, "FIRST_FILE_UNITS", 1)
    monkeypatch.setattr(space, "LARGEST_FILE_UNITS", 1)
    monkeypatch.setattr(log, "LARGEST_BLOCK", 16 << 10)
    monkeypatch.setattr(log, "_LARGEST_ROOMY", 16 << 10)
    for module in (space, engine):
        monkeypatch.setattr(module, "MAX_OPEN_FILES", FEW)


def entry(topic: int, number: int) -> bytes:
    return b"%04d %04d " % (topic, number) * 1_500


def open_files(wal: Walrus) -> int:
    return wal._engine.space.open_files


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """No more than so many descriptors can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest, held = max(map(int, os.listdir("/proc/self/fd"))), [os.dup(0)]
    while held[-1] < highest:  # fill the gaps below
        held.append(os.dup(0))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + count, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)


@contextmanager
def no_collector() -> Iterator[None]:
    """What is part of a reference cycle stays: a file that waits for the collector is one too many."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_a_long_log_holds_few_files_open(store: Store) -> None:
    wal = store.open(fsync=LAZY)
    most = 0
    for number in range(60):
        wal.append("t", entry(0, number))
        most = max(most, open_files(wal))
    assert len(store.data_files()) > 25
    assert most <= 3 * FEW, "what was used last, what is not synced, and what makes room"
    for number, found in enumerate(wal.entries("t")):
        assert found.data == entry(0, number)
        assert open_files(wal) <= 3 * FEW
    del found
    wal = store.reopen(wal, crash=True, fsync=LAZY)
    assert open_files(wal) <= 2 * FEW, "opening reads every file, and keeps few open"
    assert [found.data for found in wal.entries("t")] == [entry(0, number) for number in range(60)]


def test_many_topics_with_a_tail_each_hold_few_files_open(store: Store) -> None:
    wal = store.open(fsync=LAZY)
    for number in range(3):
        for topic in range(40):
            wal.append(f"t{topic}", entry(topic, number)[:5_000])
            assert open_files(wal) <= 3 * FEW
        wal._engine.journal.log.check_invariants()
        for topic_log in wal._engine.logs.values():
            topic_log.check_invariants()
        if number == 1:
            wal = store.reopen(wal, crash=True, fsync=LAZY)
            assert open_files(wal) <= 2 * FEW, "no tail is open before it is appended to"
    for topic in range(40):
        found = [each.data for each in wal.entries(f"t{topic}")]
        assert found == [entry(topic, number)[:5_000] for number in range(3)]


def test_a_file_is_closed_only_once_it_is_durable(store: Store) -> None:
    wal = store.open(fsync=LAZY)
    for number in range(10):
        wal.append("t", entry(0, number))
    topic = wal._engine.logs["t"]
    topic_durable = topic.durable_index
    assert topic.unsynced and topic_durable < 10
    assert wal._engine.let_go()
    assert topic.durable_index == 10 and not topic.unsynced
    assert topic.file is None and topic.limit == 0, "the tail sleeps"
    assert open_files(wal) == 0
    wal.append("t", entry(0, 10))
    assert [each.data for each in wal.entries("t")] == [entry(0, number) for number in range(11)]


def test_a_file_is_open_once_whoever_keeps_it(plain: Store) -> None:
    """Two would not see what is queued for the other."""
    wal = plain.open(fsync=LAZY)
    wal.append("t", b"x")
    topic = wal._engine.logs["t"]
    wal._engine.space.drop_recent()
    assert topic.file is not None and wal._engine.space.file(topic.blocks[-1].extent.file) is topic.file


def test_a_trim_erases_a_bounded_number_of_files_at_a_time(store: Store) -> None:
    wal = store.open(fsync=LAZY)
    for number in range(40):
        wal.append("t", entry(0, number))
    before = len(store.data_files())
    wal.trim("t", 38)
    while wal._engine._retired or wal._engine._erased:
        wal._engine.sync()
        assert len(wal._engine._erased_files) <= FEW
    assert len(store.data_files()) < before - 15
    assert [each.data for each in wal.entries("t")] == [entry(0, number) for number in (38, 39)]


def write_and_read_with_few(backend: str, directory: str) -> None:
    """In a process of its own: in one that runs tests, other threads may take the last descriptors."""
    space.FIRST_FILE_UNITS = space.LARGEST_FILE_UNITS = 1
    log.LARGEST_BLOCK = log._LARGEST_ROOMY = 16 << 10
    space.MAX_OPEN_FILES = engine.MAX_OPEN_FILES = 1_000  # the system is what sets the limit
    store = Store(backend, Path(directory))
    wal = store.open(fsync=LAZY)
    wal.append("t", entry(0, 0))
    with no_collector(), descriptors_left(2):
        for number in range(1, 40):
            wal.append("t", entry(0, number))
        assert [each.data for each in wal.entries("t")] == [entry(0, number) for number in range(40)]
        wal.trim("t", 30)
        wal.close()
        wal = store.open(fsync=LAZY)
        assert [each.index for each in wal.entries("t", start=30)] == list(range(30, 40))
        wal.append("t", b"more")
    wal.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("backend", ["pwritev", "mmap"])
def test_a_process_with_few_descriptors_writes_and_reads_a_long_log(backend: str, tmp_path: Path) -> None:
    code = f"import {__name__} as tests; tests.write_and_read_with_few({backend!r}, {str(tmp_path)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("backend", "left"), [("pwritev", 0), ("mmap", 0), ("mmap", 1)])
def test_too_few_descriptors_are_an_error_to_wait_for(backend: str, left: int, tmp_path: Path) -> None:
    wal = Store(backend, tmp_path).open(fsync=LAZY)
    wal.append("t", entry(0, 0))
    wal._engine.let_go()
    with no_collector(), descriptors_left(left):
        with pytest.raises(DiskFull, match="raise ulimit -n") as caught:
            wal.append("t", entry(0, 1))
        del caught
        wal._engine.space.drop_recent()
        assert open_files(wal) == 0, "a file stays open for an append that has failed"
        with pytest.raises(DiskFull, match="raise ulimit -n"):
            list(wal.entries("t"))
    wal.append("t", entry(0, 1))
    assert [each.data for each in wal.entries("t")] == [entry(0, 0), entry(0, 1)]


def test_space_drops_what_is_kept_for_later_before_it_gives_up(
    plain: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = plain.open(fsync=LAZY)
    wal.append("t", b"x")
    tries: list[int] = []

    def refused() -> int:
        tries.append(len(wal._engine.space._recent))
        raise OSError(24, "Too many open files")

    with pytest.raises(OSError, match="Too many") as caught:
        Space._sparing(wal._engine.space, refused)
    assert no_descriptor(caught.value) and tries == [2, 0], "tried again, once, with nothing kept"
