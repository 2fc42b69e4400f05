"""The lock of a topic: one at a time, no thread forgotten, none overtaken for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.storage.stores import Store
from walrus.storage import mutex as module
from walrus.storage.errors import TokenLost
from walrus.storage.interrupts import deserted
from walrus.storage.mutex import Mutex
from walrus.wal import FsyncSchedule, Walrus

DEADLINE = 120.0


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


class Starved:
    """The bell of a thread that the machine lets run again only when the test says so."""

    def __init__(self, bell: threading.Lock) -> None:
        self._bell, self.heard, self.runs = bell, threading.Event(), threading.Event()
        self.waits = threading.Event()

    def acquire(self, timeout: float) -> bool:
        self.waits.set()
        rung = self._bell.acquire(timeout=timeout)
        if rung:
            self.heard.set()
            assert self.runs.wait(DEADLINE)
        return rung

    def release(self) -> None:
        self._bell.release()


def test_a_token_that_was_handed_to_a_starved_thread_is_not_lost() -> None:
    looks = list[bool]()
    lock = Mutex(lambda: looks.append(deserted()) or looks[-1])  # type: ignore[func-returns-value]
    got, failed = list[str](), list[BaseException]()

    def work(name: str) -> None:
        try:
            lock.wait()
        except TokenLost as error:
            failed.append(error)
        else:
            got.append(name)
            lock.give(None)
            lock.wake()

    lock.take()
    starved = start(lambda: work("starved"))
    until(lambda: lock.line)
    bell = lock.line[0].bell = Starved(lock.line[0].bell)  # type: ignore[assignment]
    until(bell.waits.is_set)
    lock.give(None)
    lock.wake()
    until(bell.heard.is_set)
    looks.clear()
    other = start(lambda: work("other"))
    until(lambda: len(looks) >= 3 or failed)
    bell.runs.set()
    for thread in (starved, other):
        thread.join(DEADLINE)
    assert failed == [], "a thread that has the token and does not run yet is no reason to fail the engine"
    assert got == ["starved", "other"]


class Told:
    """A bell that says how each wait for it ended."""

    def __init__(self) -> None:
        self._lock, self.waits = threading.Lock(), list[bool]()

    def acquire(self, timeout: float = -1) -> bool:
        rung = self._lock.acquire(timeout=timeout)
        self.waits.append(rung)
        return rung

    def release(self) -> None:
        self._lock.release()


def test_a_token_that_came_back_before_the_wait_began_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bells = list[Told]()
    monkeypatch.setattr(module, "Lock", lambda: bells.append(Told()) or bells[-1])
    lock = Mutex()
    lock.wait()
    assert lock.locked and bells[0].waits[1:] == [True], "it stood in line until its patience ended"


def test_a_token_counts_as_lost_only_after_two_looks_in_vain() -> None:
    """Its thread may have given it back between the wait and the look, and have met an empty line."""
    looks = list[int]()
    lock = Mutex(lambda: looks.append(1) or len(looks) == 1)  # type: ignore[func-returns-value]
    lock.take()
    thread = start(lock.wait)
    until(lambda: len(looks) > 1 or not thread.is_alive())
    assert thread.is_alive(), "a token that another thread has counts as lost"
    lock.give(None)
    lock.wake()
    thread.join(DEADLINE)
    assert lock.locked and not lock.line


class Line(list[object]):
    """A line from which another thread takes its first, and is held up with it in hand."""

    def __init__(self, lock: Mutex) -> None:
        super().__init__()
        self.lock, self.asker = lock, 0
        self.looked_for = threading.Event()

    def pop(self, index: Any = -1) -> object:
        first = super().pop(index)
        if threading.get_ident() != self.asker:
            self.lock.take()  # a third thread was faster, and loses the token to an exception
            assert self.looked_for.wait(DEADLINE)
        return first

    def remove(self, waiter: object) -> None:
        try:
            super().remove(waiter)
        finally:
            self.looked_for.set()


def test_a_thread_that_asks_for_a_lost_token_does_not_rely_on_being_rung() -> None:
    """It gives up while it is out of the line, in the hands of a thread that puts it back without a ring."""
    lock, answers = Mutex(), list[bool]()
    lock.line = line = Line(lock)  # type: ignore[assignment]

    def ask() -> None:
        line.asker = threading.get_ident()
        answers.append(lock.comes_back())

    lock.take()
    asker = start(ask)
    until(lambda: line)
    until(lambda: time.monotonic() > line[0].since + module.PATIENCE)  # type: ignore[attr-defined]
    lock.give(None)
    lock.wake()
    until(lambda: not asker.is_alive())
    assert answers == [False], "the token is lost, and the thread is told so"


def test_a_ring_alone_does_not_say_that_a_lost_token_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may ring for a token that another one took, and lost, a moment before."""
    monkeypatch.setattr(module, "PATIENCE", 1000.0)
    lock, answers = Mutex(), list[bool]()
    lock.take()
    asker = start(lambda: answers.append(lock.comes_back()))
    until(lambda: lock.line)
    lock.line.pop(0).bell.release()
    until(lambda: not asker.is_alive())
    assert answers == [False]


def test_one_that_only_asked_for_a_lost_token_stands_in_line_no_more() -> None:
    lock = Mutex()
    lock.take()
    assert not lock.comes_back()
    assert not lock.line, "the next token would be handed to a thread that does not wait"


def test_a_token_is_not_handed_to_a_thread_that_has_left_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that hands it over may be starved between its look at the line and the handing."""
    lock, waiter = Mutex(), module._Waiter()
    lock.take()
    lock.line.append(waiter)

    def starved() -> float:
        if waiter.since:
            waiter.since = 0.0
            lock._leave(waiter)  # cut by an exception from outside
        return 1e9

    lock.give(None)
    monkeypatch.setattr(module, "monotonic", starved)
    lock.wake()
    assert not lock.locked and not waiter.handed


def test_an_engine_whose_lock_is_lost_gives_its_directory_back(tmp_path: Path) -> None:
    wal = Walrus(tmp_path / "log")
    wal.append_for_topic("t", b"x")
    wal._engine.fail(OSError("no more writes"))
    wal._engine.logs["t"].lock.take()  # by a thread that is no more
    wal.close()
    assert wal._engine.released
    with Walrus(tmp_path / "log") as again:
        assert [entry.data for entry in again.read_at("t", 0)] == [b"x"]
