"""Receive, ack, nack and follow of the engine: nothing is skipped, nothing acknowledged comes again.

`storage/handout.py` states what a crash may bring again. The clock is the test's: no test waits for a
timeout to end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.storage.stores import Store
from walrus import FsyncSchedule, ReadConsistency, Walrus
from walrus.sim.disk import Crash, Platter
from walrus.storage.errors import EngineClosed
from walrus.storage.handout import MAX_IN_HAND, Handout, Received

EACH = FsyncSchedule.sync_each()
MODES = {"strict": ReadConsistency.strictly_at_once(), "every 4": ReadConsistency.at_least_once(4)}


class Timed:
    """A log with entries 0, 1, 2, ... and a clock that only the test moves."""

    def __init__(self, count: int, **options: object) -> None:
        self.platter, self.options = Platter(random.Random(1)), {"fsync": EACH, **options}
        self.now = 0.0
        self.wal = self.open()
        for number in range(count):
            self.wal.append("t", b"%d" % number)

    def open(self) -> Walrus:
        self.wal = Walrus(disk=self.platter.directory("log"), **self.options)  # type: ignore[arg-type]
        self.wal._clock = lambda: self.now
        return self.wal

    def take(self, count: int = 1, **options: float) -> list[tuple[int, int]]:
        """Receive so many entries: (index, deliveries) of each."""
        found = [self.wal.receive("t", **options) for _ in range(count)]
        return [(one.index, one.deliveries) for one in found if one is not None]


def test_what_is_received_is_out_until_it_is_acknowledged_given_back_or_its_time_ends() -> None:
    timed = Timed(4)
    first, second, third = (timed.wal.receive("t", visibility=10) for _ in range(3))
    assert first and second and third and (first.data, first.deliveries) == (b"0", 1), "EveryEntryAcked"
    assert timed.wal.ack("t", second) and timed.wal.ack("t", second), (
        "EveryEntryAcked: twice is the same as once"
    )
    assert timed.wal.nack("t", third, delay=5) and timed.wal.count("t") == 3, (
        "EveryEntryAcked: given back and not counted"
    )
    assert timed.take(2) == [(3, 1)], "OutIsBounded: what is out is out once"
    timed.now = 5.0
    assert timed.take(2) == [(2, 2)], "EveryEntryAcked: the delay is over"
    assert not timed.wal.nack("t", third), "EveryEntryAcked: that delivery is over"
    timed.now = 10.0
    assert timed.take(2) == [(0, 2)], "EveryEntryAcked: its time is over"
    assert timed.wal.ack("t", first), "EveryEntryAcked: a late acknowledgement counts"
    timed.now = 100.0
    assert timed.take(3) == [(3, 2), (2, 3)], "AckedNotRedelivered"


def test_what_is_not_there_yet_and_what_is_too_far_on_cannot_be_acknowledged() -> None:
    timed = Timed(1)
    first = timed.wal.receive("t")
    assert first is not None
    early = Received(1, b"of another log", 1)
    assert not timed.wal.ack("t", early), "NothingSkipped: acknowledged before it was appended"
    timed.wal.append("t", b"1")
    assert timed.take() == [(1, 1)], "NothingSkipped"
    handout = Handout(0)
    assert handout.acknowledge(MAX_IN_HAND - 1) and not handout.acknowledge(MAX_IN_HAND), "OutIsBounded"
    handout.check_invariants()


def test_what_comes_back_again_and_again_costs_no_memory_and_holds_up_no_other() -> None:
    handout = Handout(0)
    handout.hand_out(0, 30.0)
    for _ in range(3 * MAX_IN_HAND):
        assert handout.candidate(2, 1.0) == 1
        deliveries = handout.hand_out(1, 50.0)
        assert handout.give_back(1, deliveries, 0.5), "EveryEntryAcked: what is out cannot be given back"
        assert len(handout._due) <= 2 * MAX_IN_HAND, "OutIsBounded: deadlines of deliveries that are over"
    handout.hand_out(1, 50.0)
    assert handout.candidate(2, 30.0) == 0, "EveryEntryAcked: its consumer is dead, and it never comes back"


def test_what_is_not_acknowledged_comes_again_after_a_crash_and_what_is_below_the_mark_does_not() -> None:
    timed = Timed(6)
    entries = [timed.wal.receive("t") for _ in range(5)]
    for index in (0, 1, 3):
        assert timed.wal.ack("t", entries[index])  # type: ignore[arg-type]
    timed.platter.kill()
    timed.open()
    assert timed.take(9) == [(2, 1), (3, 1), (4, 1), (5, 1)], "NothingSkipped, AckedNotRedelivered"
    assert timed.wal.count("t") == 4, "EveryEntryAcked"


def test_an_orderly_close_keeps_what_is_acknowledged_without_a_gap(store: Store) -> None:
    wal = store.open(consistency=ReadConsistency.at_least_once(100))
    wal.append_batch("t", [b"x"] * 5)
    for _ in range(3):
        assert wal.ack("t", wal.receive("t"))  # type: ignore[arg-type]
    wal = store.reopen(wal, crash=False)
    assert wal.receive("t").index == 3, "AckedNotRedelivered: acknowledged, and given again by the next start"  # type: ignore[union-attr]
    wal.close()


@pytest.mark.parametrize("retain", ["all", "unread"])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("mode", MODES)
def test_a_crash_at_every_disk_operation_of_working(mode: str, power: bool, retain: str) -> None:
    every, operation = MODES[mode].persist_every, 0
    while True:
        operation += 1
        timed, done = Timed(12, consistency=MODES[mode], retain=retain), 0
        timed.platter.crash_at(timed.platter.operations + operation, power=power)
        try:
            while (received := timed.wal.receive("t")) is not None:
                timed.wal.ack("t", received)
                done = received.index + 1
        except Crash:
            timed.platter.heal()
            again = timed.open().receive("t")
            begins = 12 if again is None else again.index
            assert begins <= done + 1, f"NothingSkipped: operation {operation} of {mode}"
            assert begins > done - every, f"RepeatsBounded: operation {operation} of {mode}"
        else:
            assert operation > 12 / every, "there were crashes"
            return


def test_never_more_than_the_bound_is_out_or_known_as_done() -> None:
    timed = Timed(0)
    timed.wal.append_batch("t", [b"x"] * (MAX_IN_HAND + 10))
    entries = [timed.wal.receive("t") for _ in range(MAX_IN_HAND)]
    assert timed.wal.receive("t") is None, "OutIsBounded"
    for entry in entries[1:]:
        assert entry and timed.wal.ack("t", entry)
    assert timed.wal.receive("t") is None, "OutIsBounded: the first one holds the mark"
    assert entries[0] and timed.wal.ack("t", entries[0])
    assert timed.take(20) == [(MAX_IN_HAND + n, 1) for n in range(10)], "OutIsBounded"


def test_trim_and_seek_move_the_mark_and_a_deleted_topic_begins_anew() -> None:
    timed = Timed(8)
    entries = [timed.wal.receive("t") for _ in range(4)]
    assert entries[3] and timed.wal.ack("t", entries[3])
    timed.wal.trim("t", 3)
    assert timed.take(1) == [(4, 1)] and timed.wal.count("t") == 4, "NothingSkipped"
    timed.wal.seek("t", 6)
    assert timed.take(9) == [(6, 1), (7, 1)], "AckedNotRedelivered"
    assert entries[2] and timed.wal.ack("t", entries[2]), "AckedNotRedelivered: below the mark: done"
    timed.wal.delete_topic("t")
    assert timed.wal.receive("t") is None, "AckedNotRedelivered: something that is done, or not there"
    timed.wal.append("t", b"new")
    assert timed.take(2) == [(0, 1)], "NothingSkipped"


def test_what_was_acknowledged_before_it_was_handed_out_again_is_not_next_after_a_trim() -> None:
    timed = Timed(6)
    entries = [timed.wal.receive("t") for _ in range(4)]
    timed.wal.seek("t", 0)
    for entry in entries[2:]:
        assert entry and timed.wal.ack("t", entry)
    timed.wal.trim("t", 2)
    assert timed.take(9) == [(4, 1), (5, 1)], "AckedNotRedelivered"


def test_a_topic_is_read_in_one_way() -> None:
    timed = Timed(3)
    timed.wal.seek("t", 1)
    assert timed.take(1) == [(1, 1)], "NothingSkipped"
    with pytest.raises(ValueError, match=r"topic 't' is read with receive\(\)"):
        timed.wal.read("t")
    timed.wal.append_batch("u", [b"x", b"y"])
    timed.wal.read("u")
    with pytest.raises(ValueError, match=r"topic 'u' is read with read\(\)"):
        timed.wal.receive("u")
    with pytest.raises(KeyError, match="no topic 'w'"):
        timed.wal.ack("w", timed.wal.receive("t"))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_the_machine_keeps_its_invariants_and_hands_everything_out(seed: int) -> None:
    rng, handout, now, end = random.Random(seed), Handout(0), 0.0, 40
    acknowledged: set[int] = set()
    hand: list[tuple[int, int]] = []
    for _ in range(600):
        now += rng.random()
        action = rng.random()
        if action < 0.5 and (index := handout.candidate(end, now)) is not None:
            assert index not in acknowledged, "AckedNotRedelivered"
            hand.append((index, handout.hand_out(index, now + rng.choice((1.0, 3.0, 20.0)))))
        elif hand and action < 0.7:
            index, _ = hand.pop(rng.randrange(len(hand)))
            assert handout.acknowledge(index)
            acknowledged.add(index)
        elif hand and action < 0.85:
            handout.give_back(*rng.choice(hand), now + rng.choice((0.0, 2.0)))
        elif hand:
            hand.pop()  # its consumer dies
        handout.check_invariants()
        assert all(index in acknowledged for index in range(handout.mark)), "NothingSkipped"
    while (index := handout.candidate(end, 1e9)) is not None:
        handout.hand_out(index, 2e9)
        assert handout.acknowledge(index), "EveryEntryAcked: an entry that is there cannot be acknowledged"
    assert handout.mark == end, "EveryEntryAcked"


def test_a_receive_that_waits_hears_of_an_entry_and_of_one_that_is_given_back(tmp_path: Path) -> None:
    with Walrus(tmp_path, fsync=FsyncSchedule.no_fsync()) as wal:
        found: list[int] = []

        def work() -> None:
            while (received := wal.receive("t", timeout=30)) is not None and received.data != b"end":
                found.append(received.index)
                wal.nack("t", received) if received.deliveries == 1 else wal.ack("t", received)

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for _ in range(20):
            wal.append("t", b"task")
        for _ in workers:
            wal.append("t", b"end")
        for worker in workers:
            worker.join(120)
        assert not any(worker.is_alive() for worker in workers)
        assert set(found) == set(range(20)), "NothingSkipped"
        assert wal._bell.waiting == 0, "appends ring only while a thread waits"


def test_follow_goes_on_with_what_is_appended_and_ends_when_nothing_comes(tmp_path: Path) -> None:
    with Walrus(tmp_path, fsync=FsyncSchedule.no_fsync()) as wal:
        seen = wal.follow("t", timeout=30)
        late = threading.Thread(target=lambda: [wal.append("t", b"%d" % n) for n in range(5)])
        late.start()
        assert [next(seen).data for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        late.join()
        assert [entry.index for entry in wal.follow("t", 3, timeout=0.0)] == [3, 4]
        assert wal.count("t") == 5, "it moves no cursor"


def test_closing_ends_every_wait(tmp_path: Path) -> None:
    wal = Walrus(tmp_path, fsync=FsyncSchedule.no_fsync())
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            wal.receive("t", timeout=None)
        except EngineClosed as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not wal._bell.waiting:
        threading.Event().wait(0.001)
    wal.close()
    waiter.join(120)
    assert len(raised) == 1 and not waiter.is_alive()


WORKER = """
import os, sys
from walrus import FsyncSchedule, Walrus
wal = Walrus(sys.argv[1], fsync=FsyncSchedule.no_fsync())
while True:
    wal.append("t", b"x")
    received = wal.receive("t")
    wal.ack("t", received)
    os.write(1, b"%d\\n" % (received.index + 1))
"""


def test_a_worker_killed_in_a_loop_loses_no_entry_and_repeats_none_that_it_acknowledged(
    tmp_path: Path,
) -> None:
    rng, done = random.Random(5), 0
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 300)):
            done = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        done = max([done, *map(int, child.stdout.read().split())])
        child.wait()
        with Walrus(tmp_path, fsync=FsyncSchedule.no_fsync()) as wal:
            again = wal.receive("t")
            begins = wal.bounds("t")[1] if again is None else again.index
            assert begins >= done, "AckedNotRedelivered: the process died, the note was written"
            assert begins <= done + 1, "NothingSkipped"


def test_a_mark_is_noted_when_as_many_as_may_come_again_are_acknowledged_and_not_before() -> None:
    timed, noted = Timed(9, consistency=MODES["every 4"]), list[int]()
    for _ in range(9):
        assert timed.wal.ack("t", timed.wal.receive("t"))  # type: ignore[arg-type]
        noted.append(timed.wal._engine.logs["t"].cursor)
    assert noted == [0, 0, 0, 4, 4, 4, 4, 8, 8], "AckedNotRedelivered: noted later than the schedule says"


def test_an_entry_that_comes_back_is_read_again_although_those_behind_it_are_at_hand() -> None:
    timed = Timed(1)
    first = timed.wal.receive("t")
    timed.wal.append("t", b"1")
    assert timed.take() == [(1, 1)], "NothingSkipped"
    assert timed.wal.nack("t", first)  # type: ignore[arg-type]
    again = timed.wal.receive("t")
    assert again and (again.index, again.data) == (0, b"0"), "DeliveredIsPrefix: another entry in its place"


def test_an_entry_that_is_trimmed_while_it_is_out_does_not_come_again_when_its_time_ends() -> None:
    timed = Timed(3)
    assert timed.take(visibility=10) == [(0, 1)], "EveryEntryAcked"
    timed.wal.trim("t", 2)
    timed.now = 10.0
    assert timed.take(2) == [(2, 1)], "AckedNotRedelivered"


def test_what_was_acknowledged_above_a_gap_and_is_trimmed_counts_for_nothing() -> None:
    timed = Timed(5)
    timed.take(visibility=10)
    assert timed.wal.ack("t", timed.wal.receive("t"))  # type: ignore[arg-type]
    assert timed.wal.count("t") == 4, "EveryEntryAcked"
    timed.wal.trim("t", 2)
    assert timed.wal.count("t") == 3, "EveryEntryAcked: what is trimmed counts as acknowledged, too"


# --- with wal.receive(...) ----------------------------------------------------------------------------


def test_the_end_of_the_block_acknowledges_and_an_exception_in_it_gives_back() -> None:
    timed = Timed(3)
    with timed.wal.receive("t", timeout=None) as received:
        assert (received.index, received.data, timed.wal.count("t")) == (0, b"0", 3), (
            "EveryEntryAcked: it is in hand"
        )
    assert timed.wal.count("t") == 2, "EveryEntryAcked: the end of the block does not acknowledge"
    for error in (RuntimeError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), timed.wal.receive("t", timeout=None) as received:
            raise error
    assert timed.wal.count("t") == 2, "NothingSkipped: its work did not end"
    assert timed.take() == [(1, 3)], "EveryEntryAcked"


def test_what_the_block_gives_back_is_not_acknowledged_at_its_end() -> None:
    timed = Timed(2)
    with timed.wal.receive("t", timeout=None) as received:
        assert timed.wal.nack("t", received, delay=5), "EveryEntryAcked"
    assert timed.wal.count("t") == 2, "NothingSkipped: an ack counts after a nack, too"
    assert timed.take(2) == [(1, 1)], "NothingSkipped"
    timed.now = 5.0
    assert timed.take() == [(0, 2)], "EveryEntryAcked"


def test_a_block_may_close_the_log_or_delete_the_topic_and_raise() -> None:
    for end in (lambda wal: wal.close(), lambda wal: wal.delete_topic("t")):
        timed = Timed(1)
        with pytest.raises(ZeroDivisionError), timed.wal.receive("t", timeout=None):
            end(timed.wal)
            raise ZeroDivisionError
