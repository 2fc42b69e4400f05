"""An exception from outside at every traced line of every public call: the log goes on, or it refuses.

What a signal handler raises appears between two instructions of the engine. Here it is raised at the n-th
line of `walrus/` that a call executes, for each n; then the log is used again, closed, and opened again:

* AckedDurable: what was acknowledged, before and after, is there, at its index.
* nothing hangs: the timeout of the test is the watchdog, a thread has two minutes;
* no false corruption: neither the run itself nor recovery or `verify` calls anything damaged;
* NothingSkipped: a cursor gives each entry to a reader.

`make deep` runs all of it; the quick tests run a seeded sample.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest

import walrus
from tests.storage.stores import REAL, uring_available
from walrus import FsyncSchedule, Walrus
from walrus.sim.disk import Platter
from walrus.storage.batch import Batch
from walrus.storage.errors import CorruptionError, EngineFailed, EngineReentered, StorageError
from walrus.storage.interrupts import give_back
from walrus.storage.log import Log, Mark
from walrus.storage.mapped import MappedDisk
from walrus.storage.mutex import Mutex
from walrus.storage.posix import PosixDisk, PosixFile
from walrus.storage.space import file_name
from walrus.storage.syncing import GroupCommit
from walrus.storage.uring import UringDisk

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A disk in memory, where there is one: what is cut are calls, and on a disk each sync is a wait."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(prefix="walrus-", dir=MEMORY) as name:
        yield Path(name)


PACKAGE = str(Path(walrus.__file__).parent)
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
HANGS = 120.0  # seconds after which a thread waits for ever
SECONDS = 0.8  # of one core for each backend and schedule, in the quick tests

SCHEDULES = {
    "each": FsyncSchedule.sync_each(),
    "none": FsyncSchedule.no_fsync(),
    "group": FsyncSchedule.group_commit(),
    "1 ms": FsyncSchedule.milliseconds(1),
}


DISKS = {"pwritev": PosixDisk, "mmap": MappedDisk, "io_uring": UringDisk}
DESCRIPTORS = Path("/proc/self/fd")
LOST = 16  # of thousands of cuts: those between opening a file and handing its number to an owner


def descriptors() -> int:
    """How many this process has, when nothing but a cycle holds none."""
    gc.collect()
    return len(os.listdir(DESCRIPTORS)) if DESCRIPTORS.exists() else 0


class Outside(Exception):
    """What the handler raises."""


def interrupted(call: Callable[[], object], point: int, within: str = PACKAGE) -> bool:
    """Whether `call` got as far as its `point`-th traced line, where the exception came."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(within) or _in_finalizer(frame):
            return None
        if event == "line":
            seen += 1
            if seen == point:
                raise Outside
        return trace

    sys.settrace(trace)
    try:
        next(_apart(call))
    except (Outside, StorageError):
        pass
    finally:
        sys.settrace(None)
    return seen >= point


def _apart(call: Callable[[], object]) -> Iterator[object]:
    """With a handled exception of its own, as each generator has.

    Cut by a trace function at the last line of an `except`, CPython 3.11 does not end the handling: that
    exception, its frames, and what those have open would stay with the thread, and be the context of every
    later one. A signal handler is not called there.
    """
    yield call()


def _in_finalizer(frame: FrameType | None) -> bool:
    """The interpreter swallows what a finalizer raises: such a point would cut nothing."""
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def append(wal: Walrus) -> None:
    wal.append_for_topic("t", b"cut")


def stored(wal: Walrus) -> None:
    """As where several threads append."""
    wal._engine._shared = True
    wal.append("t", b"cut")
    wal.append("t", b"cut again")


def first_append(wal: Walrus) -> None:
    wal.append_for_topic("new", b"cut")


def roll(wal: Walrus) -> None:
    wal.append_for_topic("t", bytes(40_000))


def batch(wal: Walrus) -> None:
    wal.batch_append_for_topic("t", [b"cut", b"", b"short"])


def write(wal: Walrus) -> None:
    wal.write("t", Batch.of([b"cut"] * 3))
    wal.sync()


def read_next(wal: Walrus) -> None:
    wal.read_next("t")


def batch_read(wal: Walrus) -> None:
    wal.batch_read_for_topic("t", max_bytes=8)


def receive(wal: Walrus) -> None:
    wal.receive("u")


def ack(wal: Walrus) -> None:
    if (received := wal.receive("u")) is not None:
        wal.ack("u", received)


def nack(wal: Walrus) -> None:
    if (received := wal.receive("u")) is not None:
        wal.nack("u", received)


def follow(wal: Walrus) -> None:
    list(wal.follow("t", 3, timeout=0.0))


def read_at(wal: Walrus) -> None:
    wal.read_at("t", 3)


def payloads(wal: Walrus) -> None:
    list(wal.payloads("t"))


def seek(wal: Walrus) -> None:
    wal.seek("t", 2)


def trim(wal: Walrus) -> None:
    wal.trim("old", 60)


def delete(wal: Walrus) -> None:
    wal.delete_topic("old")


def look(wal: Walrus) -> None:
    wal.topics()
    wal.bounds("t")
    wal.get_topic_entry_counts()
    wal.get_topic_sizes()
    wal.verify()


def sync(wal: Walrus) -> None:
    wal.append_for_topic("u", b"x")
    wal.sync()


def syncer(wal: Walrus) -> None:
    one = wal.syncer()
    wal.write("u", Batch.of([b"x"]))
    one.start()
    wal.write("u", Batch.of([b"y"]))
    one.finish()


def close(wal: Walrus) -> None:
    wal.close()


CALLS = [
    append, stored, first_append, roll, batch, write, read_next, batch_read, read_at, payloads, seek, trim,
    delete, look, sync, syncer, close, receive, ack, nack, follow,
]  # fmt: skip


class Run:
    """A log, a call that is cut, and what must hold of the rest."""

    def __init__(self, directory: Path, backend: str, schedule: FsyncSchedule) -> None:
        self.directory, self.backend, self.schedule = directory, backend, schedule
        self.acknowledged: dict[str, dict[int, bytes]] = {"t": {}, "u": {}, "new": {}}
        self.unsynced: list[tuple[str, int, bytes]] = []
        self.delivered: list[int] = []
        self.wal = self.open(directory)
        for number in range(60):
            self.wal.batch_append_for_topic("old", [b"%d" % number * 400] * 2)
        for number in range(6):
            self.append("t", b"before %d" % number)
        self.append("u", b"before")
        self.sync()
        for _ in range(2):
            self.delivered.append(self.wal.read_next("t").index)  # type: ignore[union-attr]

    def open(self, directory: Path) -> Walrus:
        return Walrus(directory, backend=self.backend, fsync=self.schedule)

    def append(self, topic: str, data: bytes) -> None:
        index = self.wal.append_for_topic(topic, data)
        if self.schedule.loop:
            self.unsynced.append((topic, index, data))
        else:
            self.acknowledged[topic][index] = data

    def sync(self) -> None:
        """Under `group_commit` nothing is acknowledged before this."""
        self.wal.sync()
        for topic, index, data in self.unsynced:
            self.acknowledged[topic][index] = data
        self.unsynced.clear()

    def go_on(self) -> None:
        """As a program does that caught the exception."""
        try:
            for number in range(4):
                for topic in self.acknowledged:
                    self.append(topic, b"after %d" % number)
                self.wal.batch_append_for_topic("t", [b"more"])
            if (entry := self.wal.read_next("t")) is not None:
                self.delivered.append(entry.index)
            self.wal.trim("u", 1)
            self.sync()
        except StorageError as error:
            assert not isinstance(error, CorruptionError), "no false corruption"
        try:
            self.wal.verify()
        except StorageError as error:
            assert not isinstance(error, CorruptionError), "no false corruption"

    def check(self, wal: Walrus, *, sought: bool) -> None:
        assert wal.recovery.damage == [] and not wal.recovery.nameless, "no false corruption"
        assert wal.verify() == [], "no false corruption"
        for topic, entries in self.acknowledged.items():
            first = wal.bounds(topic)[0]
            for index, data in entries.items():
                if index >= first:
                    found = wal.read_at(topic, index, max_entries=1)
                    assert [entry.data for entry in found] == [data], f"AckedDurable: {topic} {index}"
        if not sought:
            following = wal.read_next("t", checkpoint=False)
            assert following is None or following.index <= len(self.delivered) + 3, "NothingSkipped"
        wal._engine.space.check_invariants()


def cut_at(run: Run, call: Callable[[Walrus], None], point: int) -> bool:
    """Cut the call at the point and see that everything holds; False if it ended before."""
    reached = interrupted(lambda: call(run.wal), point)
    if call in (read_next, batch_read) and run.wal._engine.failure is None:
        entry = run.wal.read_next("t", checkpoint=False) if reached else None
        assert entry is None or entry.index == 2, "NothingSkipped: an interrupted read delivered nothing"
    run.go_on()
    copied = run.directory.parent / "killed"
    shutil.copytree(run.directory, copied)
    with run.open(copied) as wal:
        run.check(wal, sought=call in (seek, batch_read, read_next))
        if call in (receive, nack):
            again = wal.receive("u")
            assert again is not None and again.index == wal.bounds("u")[0], "NothingSkipped: it was not done"
    shutil.rmtree(copied)
    try:
        run.wal.close()
    except StorageError as error:
        assert isinstance(error, EngineFailed)
    assert run.wal._engine.released, "an engine that was cut gives its directory back all the same"
    with run.open(run.directory) as wal:
        run.check(wal, sought=call in (seek, batch_read, read_next))
    return reached


def lines_of(call: Callable[[Walrus], None], run: Run) -> int:
    """How many lines the call traces."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE) or _in_finalizer(frame):
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call(run.wal)
    finally:
        sys.settrace(None)
    run.wal.close()
    return count


@pytest.mark.timeout(7200 if DEEP else 600)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("backend", REAL)
def test_a_call_cut_at_any_line_loses_nothing_and_hangs_nothing(
    tmp_path: Path, backend: str, schedule: str
) -> None:
    if backend == "io_uring" and not uring_available(tmp_path / "probe"):
        pytest.skip("io_uring is not available here")
    rng, until = random.Random(backend + schedule + os.environ.get("SEED", "")), time.process_time() + SECONDS
    points = []
    for number, call in enumerate(CALLS):
        count = lines_of(call, Run(tmp_path / f"count{number}", backend, SCHEDULES[schedule]))
        points += [(call, point) for point in range(1, count + 1)]
    rng.shuffle(points)
    before = descriptors()
    for number, (call, point) in enumerate(points):
        if time.process_time() > until and not DEEP:
            break
        directory = tmp_path / str(number)
        try:
            cut_at(Run(directory / "log", backend, SCHEDULES[schedule]), call, point)
        except BaseException as error:
            error.add_note(f"{call.__name__} cut at line {point}")
            raise
        shutil.rmtree(directory)
    assert descriptors() <= before + LOST, "an engine that was cut gives its descriptors back"


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="the kernel does not list them")
@pytest.mark.parametrize("backend", REAL)
def test_a_close_cut_at_any_line_closes_each_descriptor_once(tmp_path: Path, backend: str) -> None:
    """None stays open; and none is closed twice, when its number may be that of another file."""
    if backend == "io_uring" and not uring_available(tmp_path / "probe"):
        pytest.skip("io_uring is not available here")
    before = descriptors()
    for point in range(1, 200):
        disk = DISKS[backend](tmp_path)
        disk.lock()
        notification = disk.async_sync()
        file = disk.create(f"{point}", 4096)
        del file
        reached = interrupted(disk.close, point)
        others = [FileIO(os.devnull) for _ in range(8)]  # they take the numbers that are free
        disk.close()
        for other in others:
            assert os.fstat(other.fileno()), f"the descriptor of another file was closed, line {point}"
            other.close()
        del notification
        assert len(os.listdir(DESCRIPTORS)) <= before, f"one stays open, line {point}"
        if not reached:
            return


class Writers:
    """Threads that append until they are stopped or refused."""

    def __init__(self, wal: Walrus, count: int) -> None:
        self.wal, self.acknowledged, self.stop = wal, dict[int, bytes](), threading.Event()
        self.threads = [started(lambda number=number: self.work(number)) for number in range(count)]  # type: ignore[misc]

    def work(self, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            data = b"%d %d" % (number, count)
            try:
                self.acknowledged[self.wal.append_for_topic("t", data)] = data
            except StorageError:
                return
            count += 1

    def go_on(self, seconds: float) -> bool:
        """Whether all of them do, or have been refused."""
        before, deadline = len(self.acknowledged), time.monotonic() + seconds
        while len(self.acknowledged) < before + 5 and self.wal._engine.failure is None:
            if time.monotonic() > deadline:
                return False
            self.stop.wait(0.001)
        self.stop.set()
        for thread in self.threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self.threads)


def started(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_other_threads_go_on_when_one_is_cut(tmp_path: Path) -> None:
    """The leader of a sync, and those who wait for it, are cut in turn: no other thread waits for ever."""
    for point in range(1, 400, 1 if DEEP else 23):
        wal = Walrus(tmp_path / str(point), backend="pwritev")
        writers = Writers(wal, 3)
        interrupted(lambda wal=wal: [wal.append_for_topic("t", b"main") for _ in range(4)], point)  # type: ignore[misc]
        assert writers.go_on(HANGS), f"a thread waits for ever, point {point}"
        wal.close()
        with Walrus(tmp_path / str(point), backend="pwritev") as again:
            for index, data in writers.acknowledged.items():
                assert again.read_at("t", index, max_entries=1)[0].data == data, "AckedDurable"


def use(lock: Mutex) -> None:
    with lock:
        pass


@pytest.mark.parametrize("contended", [False, True])
def test_a_mutex_cut_at_any_line_is_given_back_or_known_to_be_lost(contended: bool) -> None:
    for point in range(1, 60):
        lock = Mutex()
        if contended:
            lock.take()
            threading.Timer(0.002, lambda lock=lock: (lock.give(None), lock.wake())).start()  # type: ignore[misc]
        reached = interrupted(lambda lock=lock: use(lock), point)  # type: ignore[misc]
        if lock.locked and not lock.comes_back():
            lock.renew()
        other = started(lambda lock=lock: use(lock))  # type: ignore[misc]
        other.join(HANGS)
        assert not other.is_alive(), f"the token is gone, line {point}"
        assert not lock.locked
        if not reached:
            return


def test_a_group_commit_cut_at_any_line_leaves_a_leader_for_the_others() -> None:
    for point in range(1, 80):
        syncs: list[int] = []
        group = GroupCommit(lambda syncs=syncs: syncs.append(1))  # type: ignore[misc]
        reached = interrupted(group.commit, point)
        give_back(group._mutex)
        group.release()
        other = started(group.commit)
        other.join(HANGS)
        assert not other.is_alive(), f"nothing leads any more, line {point}"
        assert syncs
        if not reached:
            return


# --- a lost token, and a call from a signal handler ---


def test_a_token_that_no_thread_has_any_more_is_waited_for_by_none(tmp_path: Path) -> None:
    """Giving it back was cut as well, by a second signal: the thread that had it is outside the engine."""
    wal = Walrus(tmp_path, backend="pwritev", fsync=SCHEDULES["none"])
    wal.append_for_topic("t", b"acknowledged")
    wal._engine.logs["t"].lock.take()
    refused: list[BaseException] = []

    def work() -> None:
        for call in (append, append, read_at):
            try:
                call(wal)
            except StorageError as error:
                refused.append(error)

    waiting = [started(work) for _ in range(3)]
    for thread in waiting:
        thread.join(HANGS)
    assert not any(thread.is_alive() for thread in waiting), "a thread waits for ever"
    assert len(refused) == 6 and all(isinstance(error, EngineFailed) for error in refused), "appends only"
    wal.close()
    with Walrus(tmp_path, backend="pwritev") as again:
        assert [each.data for each in again.entries("t")] == [b"acknowledged"], "AckedDurable"


def test_a_token_that_another_thread_has_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = Walrus(tmp_path, backend="pwritev", fsync=SCHEDULES["none"])
    wal.append_for_topic("t", b"first")
    inside, go_on, write = threading.Event(), threading.Event(), walrus.storage.log.write_all

    def slow(*arguments: Any) -> None:
        inside.set()
        assert go_on.wait(HANGS)
        write(*arguments)

    monkeypatch.setattr("walrus.storage.log.write_all", slow)
    writers = [started(lambda: wal.append_batch("t", [b"slow", b"disk"])), started(lambda: append(wal))]
    assert inside.wait(HANGS)
    time_enough = threading.Event()
    assert not time_enough.wait(0.5), "longer than a thread waits before it looks round"
    go_on.set()
    for thread in writers:
        thread.join(HANGS)
    assert wal.count("t") == 4, "both were written"
    wal.close()


def called_inside(
    outer: Callable[[], object], inner: Callable[[], object], point: int
) -> tuple[bool, object]:
    """Call `inner` where `outer` has come to its `point`-th traced line, as a signal handler would be.

    Whether it got there, and what became of `inner`.
    """
    seen, outcome = 0, None

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen, outcome
        if not frame.f_code.co_filename.startswith(PACKAGE) or _in_finalizer(frame):
            return None
        if event == "line":
            seen += 1
            if seen == point:
                try:
                    outcome = inner()
                except (EngineReentered, StorageError) as error:
                    outcome = error
        return trace

    sys.settrace(trace)
    try:
        outer()
    except StorageError:
        pass
    finally:
        sys.settrace(None)
    return seen >= point, outcome


@pytest.mark.parametrize("schedule", ["none", "each"])
@pytest.mark.parametrize("inner", ["append", "sync", "read"])
def test_a_call_from_a_signal_handler_works_or_is_refused(tmp_path: Path, inner: str, schedule: str) -> None:
    step, refused, worked = (1 if DEEP else 7), 0, 0
    for point in range(1, 10_000, step):
        wal = Walrus(tmp_path / str(point), backend="pwritev", fsync=SCHEDULES[schedule])
        known = {wal.append_for_topic("t", data): data for data in (b"one", b"two", b"three")}
        calls: dict[str, Callable[[], object]] = {
            "append": lambda wal=wal: wal.append_for_topic("t", b"handler"),  # type: ignore[misc]
            "sync": wal.sync,
            "read": lambda wal=wal: wal.read_next("t"),  # type: ignore[misc]
        }
        done: list[int] = []
        reached, outcome = called_inside(
            lambda wal=wal, done=done: done.append(wal.append_for_topic("t", b"outer")),  # type: ignore[misc]
            calls[inner],
            point,
        )
        known |= dict.fromkeys(done, b"outer")
        if isinstance(outcome, int):
            known[outcome] = b"handler"
        refused += isinstance(outcome, EngineReentered)
        worked += reached and not isinstance(outcome, BaseException)
        try:
            wal.close()
        except StorageError as error:
            assert isinstance(error, EngineFailed)
        with Walrus(tmp_path / str(point), backend="pwritev") as again:
            for index, data in known.items():
                assert again.read_at("t", index, max_entries=1)[0].data == data, (
                    f"AckedDurable, point {point}"
                )
        if not reached:
            break
    assert worked and (refused or inner == "read"), "both happen"


def test_a_roll_that_is_cut_anywhere_leaves_a_log_that_can_be_verified(tmp_path: Path) -> None:
    for point in range(1, 400):
        wal = Walrus(tmp_path / str(point), backend="pwritev", fsync=SCHEDULES["none"])
        wal.append_for_topic("t", b"known")
        reached = interrupted(lambda wal=wal: roll(wal), point)  # type: ignore[misc]
        assert wal.verify() == [], f"no false corruption, point {point}"
        assert wal.read_at("t", 0, max_entries=1)[0].data == b"known"
        wal.close()
        if not reached:
            return


def test_a_generator_that_uses_the_log_may_fill_a_batch_of_it(tmp_path: Path) -> None:
    with Walrus(tmp_path, backend="pwritev") as wal:
        wal.append_batch("from", [b"a", b"b", b"c"])
        wal.append_batch("to", (entry.data for _ in range(3) if (entry := wal.read_next("from"))))  # type: ignore[arg-type]
        assert list(wal.payloads("to")) == [b"a", b"b", b"c"]


def test_two_threads_that_begin_a_sync_leave_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one covers the files of the first, which is in flight, or waits until it is."""
    wal = Walrus(tmp_path, backend="pwritev", fsync=SCHEDULES["none"])
    wal.append_for_topic("t", b"one")
    engine, begin, sync = wal._engine, Log.begin_sync, PosixFile.sync
    first, go_on, synced = threading.Event(), threading.Event(), set[str]()

    def slow(self: Log) -> Mark:
        mark = begin(self)
        if not first.is_set():
            first.set()
            assert go_on.wait(HANGS)
        return mark

    monkeypatch.setattr(Log, "begin_sync", slow)
    monkeypatch.setattr(PosixFile, "sync", lambda self: (synced.add(self.name), sync(self))[1])
    planning = started(engine.begin_sync)  # and never syncs
    assert first.wait(HANGS)
    second = started(wal.sync)
    second.join(0.3)
    go_on.set()
    for thread in (planning, second):
        thread.join(HANGS)
        assert not thread.is_alive()
    file = engine.logs["t"].blocks[-1].extent.file
    assert file_name(file) in synced, (
        "AckedDurable: sync() returned, and the entry is in the first one's file"
    )
    wal.close()


def test_a_call_gives_back_the_lock_that_it_was_cut_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between taking a lock and entering its block no `with` gives it back: the public method does."""
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    wal.append("t", b"x")

    def cut(*_: object) -> None:
        wal._cursors_lock.acquire()
        raise KeyboardInterrupt

    monkeypatch.setattr(wal._engine, "trim", cut)
    with pytest.raises(KeyboardInterrupt):
        wal.trim("t", 1)
    assert not wal._cursors_lock._is_owned(), "every other thread would wait for ever"  # type: ignore[attr-defined]
