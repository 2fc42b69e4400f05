"""Threads share syncs and topics; an event loop waits for a descriptor."""

from __future__ import annotations

import errno
import select
import threading
from collections.abc import Callable

import pytest

from tests.storage.stores import Store
from walrus import FsyncSchedule, Walrus
from walrus.storage import syncing
from walrus.storage.batch import Batch
from walrus.storage.errors import EngineFailed, StorageError
from walrus.storage.posix import PosixFile
from walrus.storage.syncing import GroupCommit, _Round


def together(*work: Callable[[], None]) -> None:
    """Run all of it at once; fail if one of them does."""
    failures: list[BaseException] = []

    def guarded(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("schedule", [FsyncSchedule.sync_each(), FsyncSchedule.milliseconds(1)], ids=str)
def test_writers_to_the_same_topics_queue_up(store: Store, schedule: FsyncSchedule) -> None:
    if store.backend == "simulated":
        pytest.skip("the simulated disk is for one thread")
    wal = store.open(fsync=schedule)

    def writer(name: str) -> Callable[[], None]:
        def write() -> None:
            for number in range(60):
                own = wal.append_for_topic(name, b"%d" % number)
                assert wal.read_at(name, own)[0].data == b"%d" % number
                wal.batch_append_for_topic("shared", [f"{name}{number}".encode()] * 3)

        return write

    together(*(writer(name) for name in "abcdefgh"))
    wal = store.reopen(wal, crash=False)
    for name in "abcdefgh":
        assert list(wal.payloads(name)) == [b"%d" % number for number in range(60)]
    shared = list(wal.payloads("shared"))
    assert len(shared) == 8 * 60 * 3
    assert all(shared[at] == shared[at + 1] == shared[at + 2] for at in range(0, len(shared), 3))


@pytest.mark.parametrize("schedule", [FsyncSchedule.no_fsync(), FsyncSchedule.group_commit()], ids=str)
def test_where_threads_meet_records_are_stored_without_a_system_call(
    store: Store, schedule: FsyncSchedule
) -> None:
    """After 256 records at the latest; entries of all sizes, in topics of their own, rolls in between."""
    if store.backend == "simulated":
        pytest.skip("the simulated disk is for one thread")
    wal = store.open(fsync=schedule)
    entries = [bytes([size % 251]) * (size * 37 % 700) for size in range(1200)]
    met = threading.Barrier(4, timeout=60)

    def writer(topic: str) -> Callable[[], None]:
        def write() -> None:
            for number, entry in enumerate(entries):
                if number == 300:  # none is at its end before another one has begun
                    met.wait()
                wal.append(topic, entry)

        return write

    together(*(writer(topic) for topic in "abcd"))
    queues = store.backend == "io_uring" and schedule.loop
    for topic in "abcd":
        log = wal._engine.logs[topic]
        log.check_invariants()
        assert (log.window is None) == queues, "what is queued could land on what is stored after it"
        if store.backend == "pwritev":
            assert log.pwrite.args == (log.window,), "it is mapped, and written with system calls still"  # type: ignore[attr-defined]
    assert wal.verify() == []
    wal.sync()
    wal = store.reopen(wal, crash=True, fsync=schedule)
    for topic in "abcd":
        assert list(wal.payloads(topic)) == entries


def test_one_thread_alone_writes_with_system_calls(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    for _ in range(600):
        wal.append("t", b"x")
    assert wal._engine.logs["t"].window is None


def test_a_mapping_that_cannot_be_had_is_done_without(plain: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: PosixFile, offset: int, length: int) -> None:
        raise OSError(errno.EMFILE, "no descriptor is left")

    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    monkeypatch.setattr(PosixFile, "window", refuse)
    together(*[lambda: [wal.append("t", b"x") for _ in range(600)]] * 2)  # type: ignore[list-item]
    assert list(wal.payloads("t")) == [b"x"] * 1200


def test_who_waits_together_shares_a_sync() -> None:
    """Eight threads that come while a sync runs are covered by the one after it."""
    running, release, syncs = threading.Event(), threading.Event(), list[int]()

    def sync() -> None:
        syncs.append(1)
        running.set()
        assert release.wait(120)

    group = GroupCommit(sync)
    first = threading.Thread(target=group.commit)
    first.start()
    assert running.wait(120)
    others = [threading.Thread(target=group.commit) for _ in range(8)]
    for thread in others:
        thread.start()
    deadline = threading.Event()
    while len(group._next.waiting) < 8:
        deadline.wait(0.001)
    release.set()
    for thread in [first, *others]:
        thread.join()
    assert len(syncs) == 2, "AckedDurable: a sync covers what was appended after it began"


def test_a_sync_that_fails_is_told_to_everybody_it_concerns() -> None:
    running, release = threading.Event(), threading.Event()

    def sync() -> None:
        running.set()
        assert release.wait(120)
        raise EngineFailed("no")

    group, told = GroupCommit(sync), list[int]()

    def commit() -> None:
        try:
            group.commit()
        except StorageError:
            told.append(1)

    threads = [threading.Thread(target=commit) for _ in range(5)]
    threads[0].start()
    assert running.wait(120)
    for thread in threads[1:]:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert len(told) == 5


@pytest.mark.parametrize("schedule", [FsyncSchedule.group_commit(), FsyncSchedule.sync_each()], ids=str)
def test_an_event_loop_waits_for_a_descriptor(store: Store, schedule: FsyncSchedule) -> None:
    if store.backend == "simulated":
        pytest.skip("the simulator has no descriptors")
    wal = store.open(fsync=schedule)
    syncer = wal.syncer()
    for number in range(20):
        wal.write("t", Batch.of([b"%d" % number, b""]))
        syncer.start()
        wal.write("t", Batch.of([b"while it runs"]))
        assert select.select([syncer.fileno()], [], [], 30)[0]
        syncer.finish()
        assert wal._engine.logs["t"].durable_index >= 3 * number + 2
        assert select.select([syncer.fileno()], [], [], 0)[0] == []
    wal = store.reopen(wal, crash=False)
    assert wal.bounds("t") == (0, 60)


def test_topics_deleted_while_others_write(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    stop = threading.Event()

    def delete() -> None:
        for _ in range(200):
            wal.delete_topic("t")
        stop.set()

    def write() -> None:
        while not stop.is_set():
            wal.append_for_topic("t", b"x" * 1000)
            wal.batch_append_for_topic("t", [b"y"] * 10)

    together(delete, write, write)
    wal._engine.space.check_invariants()
    count = wal.bounds("t")[1]
    assert len(list(wal.payloads("t"))) == count
    wal = plain.reopen(wal, crash=True, fsync=FsyncSchedule.no_fsync())
    assert wal.bounds("t")[1] == count


def test_closing_while_others_write(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    started = threading.Event()
    accepted: list[int] = []

    def write() -> None:
        try:
            while True:
                accepted.append(wal.append_for_topic("t", b"x"))
                started.set()
        except StorageError:
            return

    def close() -> None:
        assert started.wait(120)
        wal.close()

    together(write, write, close)
    assert plain.open().bounds("t") == (0, len(accepted))


def test_reading_a_topic_while_it_is_trimmed(plain: Store) -> None:
    wal: Walrus = plain.open(fsync=FsyncSchedule.no_fsync())
    done = threading.Event()

    def write() -> None:
        for number in range(20_000):
            index = wal.append_for_topic("t", b"%d" % number * 20)
            if index % 1000 == 999:
                wal.trim("t", index - 500)
                wal.sync()
        done.set()

    def read() -> None:
        while not done.is_set():
            try:
                for entry in wal.entries("t"):
                    assert entry.data == b"%d" % entry.index * 20
            except IndexError:
                continue

    together(write, read)


def test_a_round_that_is_over_wakes_one_of_the_other_threads() -> None:
    me, over = threading.get_ident(), _Round()
    gates = [threading.Lock() for _ in range(4)]
    for gate in gates[:3]:
        gate.acquire()
    over.waiting = [(gates[0], me), (gates[1], me + 1), (gates[2], me + 2), (gates[3], me + 3)]
    over.ring()
    assert [gate.locked() for gate in gates[:3]] == [True, False, True], "one, and not the one that rings"
    over.ring()
    assert not gates[2].locked()
    over.ring()  # that thread was not at its gate yet: there is nothing to release
    over.ring()


def test_a_thread_that_waits_for_a_sync_of_others_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    running, release, sleeps = threading.Event(), threading.Event(), threading.Event()

    class Gate:
        """A lock that tells when a thread waits for it."""

        def __init__(self) -> None:
            lock = threading.Lock()
            self._acquire, self.release, self.locked = lock.acquire, lock.release, lock.locked

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if blocking:
                sleeps.set()
            return self._acquire(blocking, timeout)

    def sync() -> None:
        running.set()
        assert release.wait(120)

    monkeypatch.setattr(syncing, "Lock", Gate)
    group = GroupCommit(sync)
    threads = [threading.Thread(target=group.commit) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert running.wait(120)
    slept = sleeps.wait(120)
    release.set()
    for thread in threads:
        thread.join()
    assert slept, "it asks again and again, and takes the processor from the thread that syncs"


def test_a_call_that_is_cut_while_it_waits_for_a_sync_leads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gate:
        """A lock whose wait is interrupted."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if blocking:
                raise KeyboardInterrupt
            return True

    monkeypatch.setattr(syncing, "Lock", Gate)
    group = GroupCommit(lambda: None)
    group._leader = -1  # another thread
    with pytest.raises(KeyboardInterrupt):
        group.commit()
    assert group._next.waiting == [], "the next sync is left to a thread that does not wait any more"


def test_an_append_gives_back_the_one_token_that_it_took(store: Store) -> None:
    wal = store.open()
    wal.append("t", b"first")
    wal.append("t", b"x")
    log = wal._engine.logs["t"]
    with log.lock:
        assert log.lock.locked, "there is a second one: two threads write at once"
