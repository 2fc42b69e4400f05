"""The lock of a topic: one at a time, no thread forgotten, none overtaken for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.storage.stores import Store
from walrus.storage import mutex as module
from walrus.storage.mutex import Mutex
from walrus.wal import FsyncSchedule

DEADLINE = 30.0


def start(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], object]) -> None:
    """Wait for something that other threads bring about."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        threading.Event().wait(0.001)


@pytest.mark.parametrize("patience", [0.0, 0.001, 1000.0], ids=["handed over", "default", "overtaken"])
def test_one_at_a_time_and_nobody_is_forgotten(patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", patience)
    lock, inside, total = Mutex(), [0], [0]

    def work() -> None:
        for _ in range(500):
            with lock:
                inside[0] += 1
                assert inside[0] == 1
                threading.Event().wait(0)  # lets the others run, and find the token gone
                total[0] += 1
                inside[0] -= 1

    threads = [start(work) for _ in range(6)]
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert total == [3000]
    assert not lock.locked and not lock.line


def test_one_who_waited_long_enough_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    lock, got = Mutex(), threading.Event()
    with lock:
        thread = start(lambda: (lock.wait(), got.set())[0])
        until(lambda: lock.line)
    assert lock.locked, "the token was handed to the one in line, it was not on the stack in between"
    assert got.wait(DEADLINE)
    lock.give(None)
    thread.join(DEADLINE)


def test_those_in_line_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    lock, order = Mutex(), list[int]()

    def work(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        threads = []
        for number in range(8):
            threads.append(start(lambda number=number: work(number)))  # type: ignore[misc]
            until(lambda number=number: len(lock.line) == number + 1)
    for thread in threads:
        thread.join(DEADLINE)
    assert order == list(range(8))


@pytest.mark.parametrize("handed", [False, True])
def test_an_interrupted_wait_passes_its_call_on(handed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bell of the first in line fails, as an interrupt makes it: the second must not wait for ever."""
    monkeypatch.setattr(module, "PATIENCE", -1.0 if handed else 1000.0)

    class Bell:
        """A lock whose first acquire by its waiter is interrupted, after it was rung."""

        def __init__(self) -> None:
            self.lock, self.rung, self.calls = threading.Lock(), threading.Event(), 0

        def acquire(self, timeout: float = -1) -> bool:
            self.calls += 1
            if self.calls == 2:
                assert self.rung.wait(DEADLINE)
                raise KeyboardInterrupt
            return self.lock.acquire(timeout=timeout)

        def release(self) -> None:
            self.lock.release()
            self.rung.set()

    lock, interrupted, got = Mutex(), threading.Event(), threading.Event()

    def first() -> None:
        with pytest.raises(KeyboardInterrupt):
            lock.wait()
        interrupted.set()

    def second() -> None:
        with lock:
            got.set()

    with lock:
        with monkeypatch.context() as patch:
            patch.setattr(module, "Lock", Bell)
            threads = [start(first)]
            until(lambda: len(lock.line) == 1)
        threads.append(start(second))
        until(lambda: len(lock.line) == 2)
    assert interrupted.wait(DEADLINE) and got.wait(DEADLINE)
    for thread in threads:
        thread.join(DEADLINE)
    assert not lock.locked and not lock.line


def test_a_sync_comes_between_the_appends_of_others(plain: Store) -> None:
    """Found by `test_closing_while_others_write`, which once waited three minutes for one `sync`."""
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    wal.append_for_topic("t", b"first")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            wal.append_for_topic("t", b"x")

    writers = [start(write) for _ in range(3)]
    try:
        for _ in range(20):
            before, done = wal.bounds("t")[1], threading.Event()
            syncing = start(lambda done=done: (wal.sync(), done.set())[0])  # type: ignore[misc]
            assert done.wait(DEADLINE), "a sync that never gets its turn"
            syncing.join(DEADLINE)
            until(lambda before=before: wal.bounds("t")[1] > before)
    finally:
        stop.set()
        for writer in writers:
            writer.join(DEADLINE)
