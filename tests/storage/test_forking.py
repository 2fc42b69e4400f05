"""A forked copy of an engine refuses everything and holds nothing; the parent notices nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storage.stores import REAL, Store, uring_available
from walrus import FsyncSchedule, Walrus
from walrus.storage.batch import Batch
from walrus.storage.errors import EngineForked

SCHEDULES = [FsyncSchedule.sync_each(), FsyncSchedule.no_fsync(), FsyncSchedule.group_commit()]


def in_child(action: Callable[[], object]) -> object:
    """What `action` returns in a forked child, or its error's name; None if it hangs."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = action()
        except BaseException as error:  # noqa: BLE001 - told to the parent, which judges
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    try:
        ready = select.select([reading], [], [], 120)[0]
        return json.loads(os.read(reading, 1 << 16)) if ready else None
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "io_uring" and not uring_available(tmp_path / "probe"):
        pytest.skip("io_uring is not available here")
    return Store(request.param, tmp_path)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_call_is_refused_in_the_copy_and_the_parent_goes_on(
    real: Store, schedule: FsyncSchedule
) -> None:
    wal = real.open(fsync=schedule)
    wal.batch_append_for_topic("t", [b"%d" % number for number in range(100)])
    assert wal.read_next("t") is not None
    iterator, syncer = wal.entries("t"), wal.syncer()
    assert next(iterator).index == 0
    wal.write("t", Batch.of([b"in flight"]))
    syncer.start()
    calls = {
        "append": lambda: wal.append_for_topic("t", b"x"),
        "append of a topic at hand": lambda: wal._engine.logs["t"].append_one(b"x"),
        "first append": lambda: wal.append_for_topic("new", b"x"),
        "batch": lambda: wal.batch_append_for_topic("t", [b"x"]),
        "empty batch": lambda: wal.batch_append_for_topic("t", []),
        "write": lambda: wal.write("t", Batch.of([b"x"])),
        "read_next": lambda: wal.read_next("t"),
        "look": lambda: wal.read_next("t", checkpoint=False),
        "batch read": lambda: wal.batch_read_for_topic("t"),
        "seek": lambda: wal.seek("t", 0),
        "read_at": lambda: wal.read_at("t", 0),
        "entries": lambda: next(wal.entries("t")),
        "iterator": lambda: list(iterator),
        "topics": lambda: wal.topics(),
        "bounds": lambda: wal.bounds("t"),
        "count": lambda: wal.get_topic_entry_count("t"),
        "size": lambda: wal.get_topic_size("t"),
        "trim": lambda: wal.trim("t", 1),
        "delete": lambda: wal.delete_topic("t"),
        "verify": lambda: wal.verify(),
        "sync": lambda: wal.sync(),
        "syncer": lambda: wal.syncer(),
        "start": lambda: syncer.start(),
        "finish": lambda: syncer.finish(),
    }

    def tried() -> object:
        answers = {}
        for name, call in calls.items():
            try:
                call()
                answers[name] = "done"
            except EngineForked as error:
                answers[name] = "refused" if str(os.getppid()) in str(error) else str(error)
        wal.close()  # as a `with` block that the child leaves does
        return answers

    assert in_child(tried) == dict.fromkeys(calls, "refused")
    syncer.finish()
    assert wal.append_for_topic("t", b"parent") == 101
    wal.sync()
    wal = real.reopen(wal, crash=False)
    assert wal.recovery.clean
    assert list(wal.payloads("t"))[100:] == [b"in flight", b"parent"]
    real.close()


def test_locks_that_another_thread_holds_at_the_fork_hang_no_call(real: Store) -> None:
    wal = real.open(fsync=FsyncSchedule.no_fsync())
    wal.append_for_topic("t", b"x")
    wal.read_next("t")
    log, engine = wal._engine.logs["t"], wal._engine
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with log.lock, engine._mutex, engine._sync_lock, engine.space.lock, wal._cursors_lock:
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    for call in (
        lambda: wal.append_for_topic("t", b"y"),
        lambda: wal.read_next("t"),
        lambda: wal.trim("t", 1),
        lambda: wal.sync(),
    ):
        assert str(in_child(call)).startswith("EngineForked")
    release.set()
    thread.join()
    real.close()


def test_an_idle_child_does_not_keep_the_directory(real: Store) -> None:
    """The parent dies without a word while its child lives on: the next process may have the directory."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        wal = Walrus(real.directory, backend=real.backend)
        wal.append_for_topic("t", b"kept")
        if os.fork() == 0:
            held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
            held = [link for link in held if str(real.directory) in link]
            os.write(writing, json.dumps([os.getpid(), held]).encode())
            signal.pause()
        os._exit(0)
    assert select.select([reading], [], [], 120)[0]
    child, held = json.loads(os.read(reading, 1 << 16))
    try:
        os.waitpid(parent, 0)
        assert held == []
        with Walrus(real.directory, backend=real.backend) as wal:
            assert list(wal.payloads("t")) == [b"kept"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_a_child_may_have_an_engine_of_its_own(real: Store) -> None:
    wal = real.open()
    wal.append_for_topic("t", b"parent")

    def own() -> object:
        with Walrus(real.root / "child", backend=real.backend) as mine:
            return [mine.append_for_topic("t", b"child"), [entry.decode() for entry in mine.payloads("t")]]

    assert in_child(own) == [0, ["child"]]
    assert wal.append_for_topic("t", b"still here") == 1
    real.close()


def _is_open(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()
