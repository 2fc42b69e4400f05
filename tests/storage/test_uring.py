"""The queue in front of the ring: what is read, in which order writes land, and what an error becomes."""

from __future__ import annotations

import errno
import os
import resource
import select
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from walrus.storage import uring
from walrus.storage.io_uring import Ring, unavailable_because
from walrus.storage.processes import boot_id
from walrus.storage.uring import BUFFER_BYTES, IoUringUnavailable, UringDisk, UringFile, UringSync

pytestmark = pytest.mark.skipif(
    unavailable_because() is not None, reason=f"no io_uring: {unavailable_because()}"
)

SIZE = 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[UringDisk]:
    disk = UringDisk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def file(disk: UringDisk) -> Iterator[UringFile]:
    file = disk.create("f", SIZE)
    assert isinstance(file, UringFile)
    yield file
    file.close()


def on_disk(disk: UringDisk, length: int, offset: int = 0) -> bytes:
    """What the operating system has, whatever is queued."""
    with (Path(disk.path) / "f").open("rb") as stored:
        return os.pread(stored.fileno(), length, offset)


def finish(syncer: UringSync) -> None:
    assert select.select([syncer.fileno()], [], [], 30)[0], "no completion"
    syncer.finish()


def test_a_write_is_queued_until_the_sync_takes_it_along(disk: UringDisk, file: UringFile) -> None:
    assert file.pwrite(b"queued", 100) == 6
    assert file.pwritev([b"ab", b"", b"cd"], 106) == 4
    assert on_disk(disk, 10, 100) == bytes(10)
    file.sync()
    assert on_disk(disk, 10, 100) == b"queuedabcd"


def test_reads_see_queued_writes(file: UringFile) -> None:
    view = file.view(0, 4096)
    file.pwrite(b"abc", 10)
    assert file.pread(3, 10) == b"abc"
    file.pwrite(b"def", 13)
    file.flush()
    assert bytes(view[10:16]) == b"abcdef"


def test_reads_see_writes_in_flight(disk: UringDisk, file: UringFile) -> None:
    syncer = disk.async_sync()
    view = file.view(0, 4096)
    file.pwrite(b"flying", 0)
    syncer.start([file])
    file.pwrite(b"queued", 6)
    file.flush()
    assert bytes(view[:12]) == b"flyingqueued"
    finish(syncer)
    assert bytes(view[:12]) == b"flyingqueued"


def test_reads_never_see_the_zeros_that_a_record_was_written_over(disk: UringDisk, file: UringFile) -> None:
    """A new block is zeroed, then appended to. The kernel may write the zeros after we wrote the record."""
    syncer = disk.async_sync()
    view = file.view(0, SIZE)
    for number in range(400):
        block, record = number % 4 * 16384, number.to_bytes(4, "little") * 50
        file.pwrite(bytes(16384), block)
        file.pwrite(b"head", block)
        file.pwrite(record, block + 64)
        syncer.start([file])
        file.flush()
        while not select.select([syncer.fileno()], [], [], 0)[0]:
            assert bytes(view[block + 64 : block + 264]) == record
        finish(syncer)
        assert bytes(view[block : block + 4]) == b"head"
    del view


def test_an_event_loop_waits_on_one_descriptor_for_many_syncs(disk: UringDisk, file: UringFile) -> None:
    syncer = disk.async_sync()
    for turn in range(20):
        file.pwrite(bytes([turn]) * 100, turn * 100)
        syncer.start([file])
        finish(syncer)
        assert on_disk(disk, 100, turn * 100) == bytes([turn]) * 100
        assert not select.select([syncer.fileno()], [], [], 0)[0]


def test_a_descriptor_says_nothing_before_there_was_a_sync(disk: UringDisk) -> None:
    assert select.select([disk.async_sync().fileno()], [], [], 0)[0] == []


def test_closing_waits_for_a_sync_under_way(disk: UringDisk, file: UringFile) -> None:
    syncer = disk.async_sync()
    file.pwrite(b"x", 0)
    syncer.start([file])
    syncer.close()
    assert disk._queue._flight is None and on_disk(disk, 1) == b"x"


def test_a_sync_covers_several_files(disk: UringDisk, file: UringFile) -> None:
    other = disk.create("g", SIZE)
    syncer = disk.async_sync()
    file.pwrite(b"one", 0)
    other.pwrite(b"two", 0)
    file.pwrite(b"three", 10)
    syncer.start([file, other])
    finish(syncer)
    assert on_disk(disk, 15) == b"one".ljust(10, b"\0") + b"three"
    assert (Path(disk.path) / "g").read_bytes()[:3] == b"two"
    other.close()


def test_a_sync_of_nothing_is_done_at_once(disk: UringDisk, file: UringFile) -> None:
    syncer = disk.async_sync()
    syncer.start([])
    finish(syncer)
    file.pwrite(b"written, not synced", 0)
    syncer.start([])
    finish(syncer)
    assert on_disk(disk, 7) == b"written"
    assert not select.select([syncer.fileno()], [], [], 0)[0]


def test_a_kernel_that_takes_no_entries_is_done_without(
    disk: UringDisk, file: UringFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, "io_uring took 0 of 2 entries")

    syncer = disk.async_sync()
    monkeypatch.setattr(Ring, "submit", refuse)
    file.pwrite(b"first", 0)
    file.sync()
    assert on_disk(disk, 5) == b"first"
    file.pwrite(b"second", 5)
    syncer.start([file])
    finish(syncer)
    assert on_disk(disk, 11) == b"firstsecond"


def test_neighbours_become_one_link(disk: UringDisk, file: UringFile) -> None:
    queue = file._queue
    for at in range(50):
        file.pwrite(b"x" * 10, at * 10)
    assert len(queue._writes) == 1
    file.pwrite(b"elsewhere", 5000)
    file.pwrite(b"y", 500)
    assert len(queue._writes) == 3
    queue.check_invariants()


def test_more_writes_than_a_chain_has_links(disk: UringDisk, file: UringFile) -> None:
    for at in range(1000):
        file.pwrite(b"x", at * 2)
    file.sync()
    assert on_disk(disk, 2000) == b"x\0" * 1000


def test_what_does_not_fit_the_buffer_goes_down_directly(disk: UringDisk) -> None:
    file = disk.create("f", 4 * BUFFER_BYTES)
    file.pwrite(b"before", 0)
    big = os.urandom(BUFFER_BYTES + 1)
    assert file.pwrite(big, 3) == len(big)
    assert on_disk(disk, 10) == b"bef" + big[:7]
    for at in range(5):
        file.pwrite(big[:400_000], 2 * BUFFER_BYTES + at * 1000)
    file.sync()
    assert on_disk(disk, 1000, 2 * BUFFER_BYTES) == big[:1000]
    assert on_disk(disk, 400_000, 2 * BUFFER_BYTES + 4000) == big[:400_000]
    file.close()


def test_without_queueing_a_write_is_with_the_operating_system_at_once(tmp_path: Path) -> None:
    disk = UringDisk(tmp_path, queueing=False)
    file = disk.create("f", SIZE)
    file.pwrite(b"now", 0)
    file.pwritev([b"and", b"here"], 3)
    assert on_disk(disk, 10) == b"nowandhere"
    syncer = disk.async_sync()
    syncer.start([file])
    finish(syncer)
    file.close()
    disk.close()


def test_a_blocking_sync_while_one_is_in_flight(disk: UringDisk, file: UringFile) -> None:
    syncer = disk.async_sync()
    file.pwrite(b"first", 0)
    syncer.start([file])
    file.pwrite(b"second", 5)
    file.sync()
    assert on_disk(disk, 11) == b"firstsecond"
    finish(syncer)
    assert not select.select([syncer.fileno()], [], [], 0)[0]


def test_closing_a_file_lands_what_uses_its_descriptor(disk: UringDisk) -> None:
    file = disk.create("f", SIZE)
    syncer = disk.async_sync()
    file.pwrite(b"flying", 0)
    syncer.start([file])
    file.pwrite(b"queued", 6)
    file.close()
    assert on_disk(disk, 12) == b"flyingqueued"
    finish(syncer)


def test_a_short_write_is_completed_by_hand_or_its_error_reported(
    disk: UringDisk, file: UringFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size limit stops the write after 6 of 12 bytes, and the repetition says why."""
    syncer = disk.async_sync()
    file.pwrite(b"begin", 0)
    file.pwrite(b"twelve bytes", 4090)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        syncer.start([file])
        with pytest.raises(OSError, match="too large") as caught:
            finish(syncer)
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(OSError, match="too large"):
        file.sync()  # nothing after a failure can vouch for what was lost before it


@pytest.mark.parametrize("link", [0, 1, 2])
@pytest.mark.parametrize("result", [3, -errno.EINTR, -errno.EAGAIN, -errno.ECANCELED])
def test_a_chain_that_stops_early_is_finished_by_hand(
    disk: UringDisk, file: UringFile, link: int, result: int
) -> None:
    """Two writes and an fsync; the kernel's answer is replaced by one that stops at `link`."""
    queue = file._queue
    file.pwrite(b"first", 0)
    file.pwrite(b"second", 100)
    flight = uring.Flight(queue._writes, [file], queue._buffers[queue._filling], queue._ring)
    flight.completed(link, result)
    assert flight.landed and flight.error is None
    if link == 0:
        assert on_disk(disk, 5) == b"first"
    if link <= 1:
        assert on_disk(disk, 6, 100) == b"second"


@pytest.mark.parametrize("link", [0, 1])
def test_an_error_of_the_disk_is_final(file: UringFile, link: int) -> None:
    """Not one more system call: an fsync that failed has proved that the data may be gone."""
    queue = file._queue
    file.pwrite(b"first", 0)
    flight = uring.Flight(queue._writes, [file], queue._buffers[queue._filling], queue._ring)
    flight.completed(link, -errno.EIO)
    assert flight.error is not None and flight.error.errno == errno.EIO


def test_threads_write_and_sync_side_by_side(disk: UringDisk, file: UringFile) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for at in range(40):
                file.pwrite(bytes([number + 1]) * 20, (at * 8 + number) * 20)
                file.sync()
                assert file.pread(20, (at * 8 + number) * 20) == bytes([number + 1]) * 20
        except BaseException as error:  # noqa: BLE001 (shown by the assertion below)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and not any(thread.is_alive() for thread in threads)
    assert on_disk(disk, 40 * 8 * 20) == b"".join(bytes([n + 1]) * 20 for _ in range(40) for n in range(8))


def test_asking_for_it_where_it_is_switched_off_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALRUS_DISABLE_IO_URING", "1")
    with pytest.raises(IoUringUnavailable, match="WALRUS_DISABLE_IO_URING"):
        UringDisk(tmp_path)


@pytest.mark.parametrize("queueing", [True, False])
def test_a_disk_that_queues_writes_does_not_say_that_the_machine_runs_on(
    tmp_path: Path, queueing: bool
) -> None:
    """By its boot id recovery would take what a killed process lost for damage."""
    disk = UringDisk(tmp_path, queueing=queueing)
    assert disk.boot_id() == (b"" if queueing else boot_id())
    disk.close()


class QueueMachine(RuleBasedStateMachine):
    """Whatever is queued, in flight or down: reads see the last write to each byte, and so does the disk."""

    size = 16384

    @initialize()
    def open(self) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.disk = UringDisk(self.home.name)
        file = self.disk.create("f", self.size)
        assert isinstance(file, UringFile)
        self.file = file
        self.syncer = self.disk.async_sync()
        self.flying = False
        self.model = bytearray(self.size)
        self.promised = bytes(self.size)
        self.view = self.file.view(0, self.size)

    @rule(data=st.binary(min_size=1, max_size=300), offset=st.integers(0, 2000))
    def write(self, data: bytes, offset: int) -> None:
        assert self.file.pwritev([data[:5], data[5:]], offset) == len(data)
        self.model[offset : offset + len(data)] = data

    @rule()
    def flush(self) -> None:
        self.file.flush()
        assert self.view == self.model

    @rule()
    def sync(self) -> None:
        self.file.sync()
        assert on_disk(self.disk, self.size) == self.model

    @precondition(lambda self: not self.flying)
    @rule()
    def start(self) -> None:
        self.syncer.start([self.file])
        self.flying, self.promised = True, bytes(self.model)

    @precondition(lambda self: self.flying)
    @rule()
    def finish(self) -> None:
        finish(self.syncer)
        self.flying = False

    @rule(offset=st.integers(0, 2000))
    def read(self, offset: int) -> None:
        assert self.file.pread(100, offset) == self.model[offset : offset + 100]

    @invariant()
    def queue_is_sound(self) -> None:
        if hasattr(self, "file"):
            self.file._queue.check_invariants()

    def teardown(self) -> None:
        if not hasattr(self, "file"):
            return
        if self.flying:
            self.finish()
        self.file.close()
        assert on_disk(self.disk, self.size) == self.model
        self.view.release()
        self.disk.close()
        self.home.cleanup()


TestQueueMachine = QueueMachine.TestCase
