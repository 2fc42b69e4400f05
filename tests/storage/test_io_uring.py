"""The ring itself, one test per claim of `walrus.storage.io_uring`, on the real kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from walrus.storage import io_uring
from walrus.storage.io_uring import (
    DISABLE_VARIABLE,
    Completion,
    Flags,
    IoUringUnavailable,
    Ring,
    address_of,
    unavailable_because,
)

needs_io_uring = pytest.mark.skipif(
    unavailable_because() is not None, reason=f"no io_uring: {unavailable_because()}"
)

WRITE, FSYNC = 1, 2


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(entries=8) as ring:
        yield ring


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def page() -> mmap.mmap:
    page = mmap.mmap(-1, 8192)
    page[:11] = b"hello world"
    return page


@pytest.mark.skipif(sys.platform != "linux", reason="io_uring is Linux's")
def test_io_uring_is_found_where_the_kernel_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked without the module: were its probe wrong, every other test of io_uring would be skipped."""
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    io_uring_setup, parameters = 425, ctypes.create_string_buffer(120)
    ring = ctypes.CDLL(None).syscall(io_uring_setup, 1, parameters)
    if ring >= 0:
        os.close(ring)
    assert (unavailable_because() is None) == (ring >= 0)


@needs_io_uring
def test_a_write_and_its_fsync_are_one_chain_with_one_completion(
    ring: Ring, file: int, page: mmap.mmap
) -> None:
    ring.prepare_write(file, address_of(page), 11, 100, WRITE, Flags.LINK | Flags.SILENT)
    ring.prepare_fsync(file, FSYNC)
    ring.submit(wait_for=1)
    assert ring.completions() == [Completion(FSYNC, 0)]
    assert os.pread(file, 200, 100) == b"hello world"
    assert ring.completions() == []


@needs_io_uring
def test_the_links_of_a_chain_run_in_order(ring: Ring, file: int, page: mmap.mmap) -> None:
    """Each write overlaps the one before: any other order would leave other bytes."""
    for at in range(6):
        page[at * 10 : at * 10 + 10] = bytes([65 + at]) * 10
        ring.prepare_write(file, address_of(page) + at * 10, 10, at * 5, WRITE, Flags.LINK | Flags.SILENT)
    ring.prepare_fsync(file, FSYNC)
    ring.submit(wait_for=1)
    assert os.pread(file, 100, 0) == b"AAAAABBBBBCCCCCDDDDDEEEEEFFFFFFFFFF"


@needs_io_uring
def test_a_failed_write_is_the_one_completion_of_its_chain(ring: Ring, file: int, page: mmap.mmap) -> None:
    read_only = os.open("/proc/self/status", os.O_RDONLY)
    try:
        ring.prepare_write(read_only, address_of(page), 11, 0, WRITE, Flags.LINK | Flags.SILENT)
        ring.prepare_fsync(file, FSYNC)
        ring.submit(wait_for=1)
        assert ring.completions() == [Completion(WRITE, -errno.EBADF)]
    finally:
        os.close(read_only)


@needs_io_uring
def test_a_short_write_stops_its_chain(ring: Ring, file: int, page: mmap.mmap) -> None:
    """A file size limit cuts the write in the middle: the completion tells how far it got."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        ring.prepare_write(file, address_of(page), 11, 4090, WRITE, Flags.LINK | Flags.SILENT)
        ring.prepare_fsync(file, FSYNC)
        ring.submit(wait_for=1)
        assert ring.completions() == [Completion(WRITE, 6)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@needs_io_uring
def test_the_eventfd_becomes_readable_once_per_chain(ring: Ring, file: int, page: mmap.mmap) -> None:
    eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        ring.register_eventfd(eventfd)
        for _ in range(3):
            ring.prepare_write(file, address_of(page), 11, 0, WRITE, Flags.LINK | Flags.SILENT)
            ring.prepare_fsync(file, FSYNC)
            ring.submit()
            assert select.select([eventfd], [], [], 30)[0] == [eventfd]
            assert os.eventfd_read(eventfd) == 1
            assert ring.completions() == [Completion(FSYNC, 0)]
        assert select.select([eventfd], [], [], 0)[0] == []
    finally:
        os.close(eventfd)


@needs_io_uring
def test_slots_are_reused_many_times_around(ring: Ring, file: int, page: mmap.mmap) -> None:
    for turn in range(50):
        ring.prepare_write(file, address_of(page), 3, turn * 3, 100 + turn)
        ring.prepare_write(file, address_of(page), 5, turn * 3, 200 + turn)
        ring.submit(wait_for=2)
        assert sorted(ring.completions()) == [(100 + turn, 3), (200 + turn, 5)]


@needs_io_uring
def test_room_counts_down_and_submission_gives_it_back(ring: Ring, file: int) -> None:
    assert ring.room == 8
    for left in range(7, -1, -1):
        ring.prepare_fsync(file, FSYNC)
        assert ring.room == left
    with pytest.raises(AssertionError, match="submit first"):
        ring.prepare_fsync(file, FSYNC)
    ring.submit(wait_for=8)
    assert ring.room == 8
    assert ring.completions() == [Completion(FSYNC, 0)] * 8


@needs_io_uring
def test_closing_gives_the_descriptors_back_and_may_be_repeated() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        ring = Ring(entries=2)
        ring.close()
        ring.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_environment_can_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALRUS_DISABLE_IO_URING", "1")
    assert unavailable_because() == "WALRUS_DISABLE_IO_URING is set"
    with pytest.raises(IoUringUnavailable, match="WALRUS_DISABLE_IO_URING is set"):
        Ring()


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="Linux only")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSYS, "no io_uring"),
        (errno.EPERM, "not permitted"),
        (errno.ENOMEM, "locked-memory limit"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EINVAL, "Invalid argument"),
    ],
)
def test_a_refusing_kernel_is_quoted_with_what_it_means(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(*_: int) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(io_uring, "_load_syscall", lambda: refuse)
    with pytest.raises(IoUringUnavailable, match=said) as caught:
        Ring()
    assert caught.value.errno == code
    assert said in (unavailable_because() or "")
