"""The disk scenarios 17 to 21 at the level of the engine, on the simulated disk."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.stores import Store, entries_of
from walrus import Entry, FsyncSchedule, Walrus
from walrus.sim.disk import KEEP_ALL, LOSE_ALL, Crash, Fate, Platter, SimFile
from walrus.storage.backend import Buffer
from walrus.storage.batch import Batch
from walrus.storage.errors import DiskFull, EngineFailed, StorageError


class World:
    """A script of operations, what they were told, and what must hold after a crash."""

    def __init__(self, seed: int) -> None:
        self.platter = Platter(random.Random(seed))
        self.written: dict[str, list[bytes]] = {}
        self.acknowledged: dict[str, int] = {}
        self.delivered = 0
        self.closed = False

    def open(self) -> Walrus:
        return Walrus(disk=self.platter.directory("log"), fsync=FsyncSchedule.sync_each())

    def append(self, wal: Walrus, topic: str, entries: list[bytes]) -> None:
        log = self.written.setdefault(topic, [])
        log += entries
        wal.batch_append_for_topic(topic, entries)
        self.acknowledged[topic] = len(log)

    def script(self, wal: Walrus) -> None:
        """Appends, rollovers, cursors, a trim, a deletion, a clean close."""
        for number in range(4):
            self.append(wal, "a", [b"%d" % number * 700] * 9)
            self.append(wal, "b", [b"b%d" % number])
            entry = wal.read_next("a")
            assert entry is not None and entry.index == self.delivered, "DeliveredIsPrefix"
            self.delivered += 1
        wal.batch_append_for_topic("gone", [b"x"])
        wal.delete_topic("gone")
        wal.close()
        self.closed = True

    def check(self, wal: Walrus) -> None:
        assert wal.recovery.damage == [], "AckedDurable: a durable entry cannot be read"
        for topic, entries in self.written.items():
            found = entries_of(wal, topic)
            assert found == entries[: len(found)], f"PrefixAgree: {topic} is no prefix of what was written"
            assert len(found) >= self.acknowledged.get(topic, 0), f"AckedDurable: of {topic} entries are lost"
        position = wal.bounds("a")[1] - wal.get_topic_entry_count("a")
        assert position <= self.delivered, "NothingSkipped"
        assert position >= self.delivered - (not self.closed), "RepeatsBounded: the last read alone"
        assert set(wal.topics()) <= {"a", "b", "gone"}
        assert wal.verify() == [], "AckedDurable: damage without a fault of the disk"
        wal._engine.space.check_invariants()


def operations_of_the_script() -> int:
    world = World(0)
    world.script(world.open())
    return world.platter.operations


@pytest.mark.parametrize("power", [True, False], ids=["power", "kill"])
def test_17_18_a_crash_at_every_operation_and_again_while_recovering(power: bool) -> None:
    rng = random.Random(17)
    for operation in range(1, operations_of_the_script() + 1):
        world = World(operation)
        world.platter.crash_at(operation, power=power)
        with contextlib.suppress(Crash):
            world.script(world.open())
        for _ in range(2):
            world.platter.crash_at(world.platter.operations + rng.randrange(1, 8), power=power)
            with contextlib.suppress(Crash):
                world.open()
                world.platter.kill()
        world.platter.heal()
        wal = world.open()
        world.check(wal)
        found = {topic: entries_of(wal, topic) for topic in wal.topics()}
        wal.write("b", Batch.of([b"more"]))
        wal.sync()
        world.platter.lose_power()
        wal = world.open()
        found["b"] = [*found.get("b", []), b"more"]
        now = {topic: entries_of(wal, topic) for topic in wal.topics()}
        assert now == found, "AckedDurable: what a recovery found is there after the next power loss"


@pytest.mark.parametrize("seed", range(12))
def test_18_unsynced_writes_survive_in_any_part_and_the_log_is_a_prefix(seed: int) -> None:
    rng = random.Random(seed)
    platter = Platter(random.Random(seed))
    written: list[bytes] = []
    synced = 0
    for _ in range(10):
        wal = Walrus(disk=platter.directory("log"), fsync=FsyncSchedule.no_fsync())
        found = entries_of(wal, "t")
        assert found == written[: len(found)], "PrefixAgree: no prefix of what was written"
        assert len(found) >= synced, "AckedDurable: a sync covered what is lost"
        assert wal.recovery.damage == [], "AckedDurable: a durable entry cannot be read"
        written = found
        for _ in range(rng.randrange(30)):
            written.append(rng.randbytes(rng.choice([10, 600, 5000])))
            wal.append_for_topic("t", written[-1])
            if rng.random() < 0.1:
                wal.sync()
                synced = len(written)
        platter.lose_power()


def test_19_a_new_file_is_in_its_directory_before_anything_in_it_counts() -> None:
    for seed in range(20):
        platter = Platter(random.Random(seed))
        wal = Walrus(disk=platter.directory("log"))
        for _ in range(3):
            wal.append_for_topic("t", bytes(900_000))
        platter.lose_power()
        assert Walrus(disk=platter.directory("log")).bounds("t") == (0, 3), "AckedDurable: a file is lost"


@pytest.mark.parametrize("fate", [KEEP_ALL, LOSE_ALL], ids=str)
@pytest.mark.parametrize("way", ["each", "sync", "syncer"])
def test_20_a_failed_fsync_is_final(way: str, fate: Fate) -> None:
    platter = Platter(random.Random(20))
    schedule = FsyncSchedule.sync_each() if way == "each" else FsyncSchedule.group_commit()
    wal = Walrus(disk=platter.directory("log"), fsync=schedule)
    wal.append_for_topic("t", b"safe")
    wal.sync()
    platter.fail("sync", errno.EIO)
    with pytest.raises(EngineFailed):
        wal.append_for_topic("t", b"doubtful")
        if way == "sync":
            wal.sync()
        if way == "syncer":
            syncer = wal.syncer()
            syncer.start()
            syncer.finish()
    for call in (
        lambda: wal.append_for_topic("t", b"x"),
        lambda: wal.append_for_topic("new", b"x"),
        lambda: wal.batch_append_for_topic("t", [b"x"]),
        lambda: wal.read_next("t"),
        lambda: wal.trim("t", 1),
        lambda: wal.delete_topic("t"),
        lambda: wal.sync(),
    ):
        with pytest.raises(EngineFailed, match="open the log again"):
            call()
    assert next(wal.payloads("t")) == b"safe", "AckedDurable"
    wal.close()
    wal = Walrus(disk=platter.directory("log"))
    visible = entries_of(wal, "t")
    assert visible[0] == b"safe", "AckedDurable"
    wal.append_for_topic("t", b"later")
    platter.lose_power(fate)
    found = entries_of(Walrus(disk=platter.directory("log")), "t")
    assert found == [*visible, b"later"], "AckedDurable: what was read, or acknowledged behind it, is lost"


@pytest.mark.parametrize("operation", ["write", "create", "sync_directory", "sync", "remove"])
def test_no_error_of_the_disk_is_dropped(operation: str) -> None:
    for skip in range(12):
        platter = Platter(random.Random(skip))
        wal = Walrus(disk=platter.directory("log"))
        acknowledged: list[bytes] = []
        platter.fail(operation, errno.EIO, skip=skip)
        failed = False
        for number in range(12):
            entry = b"%d" % number * 20_000
            try:
                wal.append_for_topic("t", entry)
                acknowledged.append(entry)
                assert not failed, "AckedDurable: appended behind a failure of the disk"
            except EngineFailed:
                failed = True
        with contextlib.suppress(StorageError):
            wal.delete_topic("unknown")
            wal.close()
        platter.kill()
        platter.heal()
        wal = Walrus(disk=platter.directory("log"))
        found = entries_of(wal, "t")
        assert found[: len(acknowledged)] == acknowledged, "AckedDurable: an error of the disk was dropped"
        assert len(found) <= len(acknowledged) + 1
        assert wal.verify() == [], "AckedDurable: damage without rot"


def test_short_writes_are_completed(tmp_path: Path) -> None:
    platter = Platter(random.Random(2))
    platter.short_writes = 0.7
    wal = Walrus(disk=platter.directory("log"))
    written = [random.Random(n).randbytes(n * 37) for n in range(60)]
    for number, entry in enumerate(written):
        wal.append_for_topic("t", entry) if number % 2 else wal.batch_append_for_topic("t", [entry])
    platter.lose_power()
    assert entries_of(Walrus(disk=platter.directory("log")), "t") == written, "AckedDurable"


def test_21_E8_disk_full_and_room_again() -> None:
    platter = Platter(random.Random(21), capacity=6 << 20)
    wal = Walrus(disk=platter.directory("log"))
    wal.append_for_topic("other", b"x")
    written: list[bytes] = []
    with pytest.raises(DiskFull, match="nothing was written"):
        for number in range(1000):
            entry = b"%d" % number * 4000
            wal.append_for_topic("t", entry)
            written.append(entry)
    for _ in range(3):
        with pytest.raises(DiskFull):
            wal.batch_append_for_topic("t", [bytes(1 << 20)] * 4)
        assert entries_of(wal, "t") == written, "PrefixAgree: of a refused batch a part is there"
    wal.append_for_topic("other", b"still fits")
    wal.trim("t", len(written) - 3)
    for _ in range(20):
        index = wal.append_for_topic("t", b"again" * 1000)
        written.append(b"again" * 1000)
    assert index == len(written) - 1, "SeqOrder"
    platter.lose_power()
    wal = Walrus(disk=platter.directory("log"))
    assert wal.verify() == [], "AckedDurable: damage without rot"
    assert entries_of(wal, "t") == written[wal.bounds("t")[0] :], "AckedDurable"
    assert entries_of(wal, "other") == [b"x", b"still fits"], "AckedDurable"


def without_room_for_a_note(wal: Walrus, platter: Platter) -> None:
    """Fill all room with entries and notes: the next note needs a block, and there is none."""
    wal.append("other", b"x")
    platter.capacity = platter.used
    for fill in (b"z" * 1000, b""):
        with pytest.raises(DiskFull):
            while True:
                wal.append("fill", fill)
    with pytest.raises(DiskFull):
        for number in range(10_000):
            wal.seek("other", number % 2)


def test_a_trim_for_whose_note_there_is_no_room_has_not_happened_and_a_second_one_says_so_too() -> None:
    platter = Platter(random.Random(1))
    wal = Walrus(disk=platter.directory("log"), fsync=FsyncSchedule.no_fsync())
    for number in range(40):
        wal.append("t", b"%d" % number * 2000)
    without_room_for_a_note(wal, platter)
    for _ in range(2):
        answered = False
        with contextlib.suppress(DiskFull):
            wal.trim("t", 20)
            answered = True
        assert not answered, "AnswersAreTrue: a trim is answered that was refused before, and is not noted"
        assert wal.bounds("t") == (0, 40), "AnswersAreTrue: it was refused, and the entries are gone"
    platter.kill()
    platter.capacity = None
    wal = Walrus(disk=platter.directory("log"))
    assert wal.bounds("t") == (0, 40), "TrimmedStaysTrimmed: entries are trimmed that the disk still has"
    wal.trim("t", 20)
    platter.kill()
    wal = Walrus(disk=platter.directory("log"))
    assert wal.bounds("t") == (20, 40), "TrimmedStaysTrimmed"


def test_a_deletion_for_whose_note_there_is_no_room_takes_back_nothing_of_what_was_delivered() -> None:
    platter = Platter(random.Random(1))
    wal = Walrus(disk=platter.directory("log"), fsync=FsyncSchedule.no_fsync())
    for topic in ("read", "work"):
        wal.append_batch(topic, [b"0", b"1", b"2"])
    assert wal.read("read") == Entry(0, b"0")
    received = wal.receive("work")
    assert received is not None and received.index == 0
    without_room_for_a_note(wal, platter)
    for topic in ("read", "work"):
        with pytest.raises(DiskFull):
            wal.delete_topic(topic)
    ahead = wal.read("read", checkpoint=False)
    assert ahead == Entry(1, b"1"), "RepeatsBounded: delivered again, and nothing has crashed"
    received = wal.receive("work")
    assert received is not None and received.index == 1, "RepeatsBounded: out with two consumers at a time"


def test_an_append_that_was_refused_is_not_read_later_though_all_of_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    armed, write = list[bool](), SimFile.pwrite

    def late(self: SimFile, data: Buffer, offset: int) -> int:
        count = write(self, data, offset)
        if armed:
            armed.pop()
            raise OSError(errno.ENOSPC, "no room, and it was written all the same")
        return count

    monkeypatch.setattr(SimFile, "pwrite", late)
    platter = Platter(random.Random(1))
    wal = Walrus(disk=platter.directory("log"))
    wal.append_for_topic("t", b"A")
    armed.append(True)
    with pytest.raises(DiskFull, match="nothing was written"):
        wal.append_for_topic("t", b"B")
    platter.kill()
    found = entries_of(Walrus(disk=platter.directory("log")), "t")
    assert found == [b"A"], "AnswersAreTrue: it was refused, and is there"


@pytest.mark.parametrize("backend", ["pwritev", "mmap", "io_uring"])
def test_disk_full_on_a_real_file_system(tmp_path: Path, backend: str) -> None:
    """A limit on file sizes is the disk that a test can fill without being root."""
    code = f"""
import resource, signal
from walrus import Walrus
from walrus.storage.errors import DiskFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
wal = Walrus({str(tmp_path)!r}, backend={backend!r})
wal.append_for_topic("t", b"before")
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, {resource.RLIM_INFINITY}))
try:
    wal.append_for_topic("t", bytes(4 << 20))
except DiskFull as error:
    print("full")
wal.append_for_topic("t", b"small")
resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY}, {resource.RLIM_INFINITY}))
wal.append_for_topic("t", bytes(4 << 20))
print([len(entry) for entry in wal.payloads("t")])
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "io_uring is not available" in child.stderr:
        pytest.skip("io_uring is not available here")
    assert child.stdout == f"full\n[6, 5, {4 << 20}]\n", child.stderr


@pytest.mark.parametrize(("backend", "spare"), [("pwritev", 0), ("mmap", 0), ("mmap", 1)])
def test_without_a_descriptor_an_append_fails_and_works_again_later(
    tmp_path: Path, backend: str, spare: int
) -> None:
    """`spare` descriptors are free: with one, the new file is created and cannot be mapped."""
    code = f"""
import os, resource
from walrus import Walrus
from walrus.storage.errors import DiskFull
wal = Walrus({str(tmp_path)!r}, backend={backend!r})
wal.append_for_topic("t", b"before")
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    for _ in range({spare}):
        os.close(taken.pop())
for _ in range(2):
    try:
        wal.append_for_topic("t", bytes(4 << 20))
    except DiskFull as error:
        print("Too many open files" in str(error), "nothing was written" in str(error))
wal.append_for_topic("t", b"small")
for fd in taken:
    os.close(fd)
wal.append_for_topic("t", bytes(4 << 20))
print([len(entry) for entry in wal.payloads("t")])
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.stdout == f"True True\nTrue True\n[6, 5, {4 << 20}]\n", child.stderr


def test_the_log_record_of_a_failed_sync_keeps_no_frame_and_so_no_file(
    plain: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler may keep its records; the frames of a call that was cut have its file open."""
    wal = plain.open(fsync=FsyncSchedule.milliseconds(1))
    wal._flusher_died(OSError(errno.EIO, os.strerror(errno.EIO)))
    (record,) = caplog.records
    assert isinstance(record.args, tuple) and [type(argument) for argument in record.args] == [str]
    assert "Input/output error" in record.getMessage()


def test_E9_a_background_sync_that_fails_is_reported_to_the_next_caller(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.milliseconds(1))
    wal.append_for_topic("t", b"x")
    wal._flusher_died(OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(EngineFailed, match="Input/output error"):
        wal.append_for_topic("t", b"y")
    with pytest.raises(EngineFailed):
        wal.sync()
