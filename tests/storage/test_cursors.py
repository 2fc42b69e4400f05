"""NothingSkipped and RepeatsBounded: a crash, an error or a thread anywhere in a read, in each mode.

`storage/cursors.py` states both promises. Each crash is checked in both directions: the next process begins
neither behind an entry that no reader was given, nor further back than the mode allows.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable

import pytest

from tests.storage.stores import Store
from walrus import FsyncSchedule, ReadConsistency, Walrus
from walrus.sim.disk import Crash, Platter
from walrus.storage.cursors import Entry
from walrus.storage.errors import DiskFull, EngineFailed

COUNT = 24
EACH = FsyncSchedule.sync_each()
MODES = {
    "strict": ReadConsistency.strictly_at_once(),
    "every 3": ReadConsistency.at_least_once(3),
    "every 100": ReadConsistency.at_least_once(100),
}
READS: dict[str, Callable[[Walrus], int]] = {
    "one": lambda wal: 1 if wal.read_next("t") else 0,
    "batch": lambda wal: len(wal.batch_read_for_topic("t", max_bytes=4 * 100)),
}


class Consumer:
    """Reads a topic on a disk that dies at a given operation, and counts what it was handed."""

    def __init__(self, mode: ReadConsistency, read: Callable[[Walrus], int], retain: str) -> None:
        self.platter = Platter(random.Random(1))
        self.mode, self.retain, self.read = mode, retain, read
        self.delivered = self.last = 0
        self.wal = self.open()
        for number in range(COUNT):
            self.wal.append_for_topic("t", b"%d" % number * (100 if number < 10 else 50))

    def open(self) -> Walrus:
        disk = self.platter.directory("log")
        return Walrus(disk=disk, fsync=EACH, consistency=self.mode, retain=self.retain)

    def drain(self) -> None:
        """Read to the end, and once more, which confirms the last read."""
        while True:
            count = self.read(self.wal)
            if count == 0:
                self.last = 0 if self.mode.persist_every == 1 else self.last
                return
            self.delivered, self.last = self.delivered + count, count

    def operations(self) -> int:
        before = self.platter.operations
        self.drain()
        return self.platter.operations - before


@pytest.mark.parametrize("retain", ["all", "unread"])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("mode", MODES)
def test_a_crash_at_every_disk_operation_of_reading(mode: str, read: str, power: bool, retain: str) -> None:
    every = MODES[mode].persist_every
    for operation in range(1, Consumer(MODES[mode], READS[read], retain).operations() + 1):
        consumer = Consumer(MODES[mode], READS[read], retain)
        consumer.platter.crash_at(consumer.platter.operations + operation, power=power)
        with pytest.raises(Crash):
            consumer.drain()
        consumer.platter.heal()
        following = consumer.open().read_next("t")
        begins = COUNT if following is None else following.index
        delivered = consumer.delivered
        assert begins <= delivered, f"NothingSkipped: operation {operation} of {mode}, {read}"
        assert begins >= delivered - max(every, consumer.last), f"RepeatsBounded: operation {operation}"


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_that_came_to_the_end_and_looked_again_gets_nothing_twice(mode: str) -> None:
    consumer = Consumer(MODES[mode], READS["batch"], "all")
    consumer.drain()
    consumer.platter.kill()
    left = consumer.open().get_topic_entry_count("t")
    assert left == 0 or mode != "strict", "RepeatsBounded: the read that found nothing confirms"
    assert left <= max(MODES[mode].persist_every, consumer.last), "RepeatsBounded"


def test_closing_confirms_every_read(store: Store) -> None:
    for mode in MODES.values():
        wal = store.open(consistency=mode)
        wal.batch_append_for_topic("t", [b"x"] * 5)
        for _ in range(5):
            assert wal.read_next("t") is not None, "NothingSkipped"
        wal = store.reopen(wal, crash=False)
        assert wal.read_next("t") is None, "RepeatsBounded: closing confirms what was read"
        wal.close()


@pytest.mark.parametrize("fault", ["write", "sync"])
def test_a_read_that_fails_delivers_nothing_and_skips_nothing(fault: str) -> None:
    platter = Platter(random.Random(3))
    wal = Walrus(disk=platter.directory("log"), fsync=EACH)
    wal.batch_append_for_topic("t", [b"%d" % number for number in range(5)])
    first = [wal.read_next("t").index for _ in range(2)]  # type: ignore[union-attr]
    assert first == [0, 1], "DeliveredIsPrefix"
    platter.fail(fault, errno.EIO)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(EngineFailed):
            wal.read_next("t")
        with pytest.raises(EngineFailed):
            wal.batch_read_for_topic("t")
    assert wal.read_next("t", checkpoint=False).index == 2, "NothingSkipped"  # type: ignore[union-attr]
    platter.kill()
    platter.heal()
    following = Walrus(disk=platter.directory("log")).read_next("t")
    assert following is not None and following.index in (1, 2), "NothingSkipped, RepeatsBounded"


def test_a_read_that_waits_for_its_sync_has_moved_nothing(plain: Store) -> None:
    """Another thread's note, made while this read waits, must not cover what this read has not returned."""
    wal = plain.open(fsync=EACH)
    wal.batch_append_for_topic("t", [b"%d" % number for number in range(4)])
    assert wal.read_next("t") is not None
    cursor = wal._cursor("t")
    assert cursor is not None
    waiting, go_on = threading.Event(), threading.Event()

    def commit() -> None:
        waiting.set()
        assert go_on.wait(120)

    cursor._commit = commit
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.append(wal.read_next("t").index))  # type: ignore[union-attr]
    reader.start()
    assert waiting.wait(120)
    assert (cursor.index, cursor.persisted) == (1, 1), "NothingSkipped: nothing moves before the read returns"
    go_on.set()
    reader.join(120)
    assert got == [1], "NothingSkipped"


def test_a_trim_keeps_every_entry_from_its_place_on_wherever_that_is_in_a_block() -> None:
    platter = Platter(random.Random(1))
    wal, entries = Walrus(disk=platter.directory("log")), [b"%02d" % number * 1_500 for number in range(60)]
    wal.append_batch("t", entries[:1])
    for entry in entries[1:]:
        wal.append("t", entry)
    assert len(wal._engine.logs["t"].blocks) > 1
    for before in (*range(12), 30, 59, 60):
        wal.trim("t", before)
        if before % 5 == 3:
            platter.kill()
            wal = Walrus(disk=platter.directory("log"))
        assert list(wal.payloads("t", before)) == entries[before:], (
            "DeliveredIsPrefix: more goes than was to go"
        )


@pytest.mark.parametrize("mode", MODES)
def test_seek_is_persisted_before_it_returns(mode: str) -> None:
    consumer = Consumer(MODES[mode], READS["one"], "all")
    consumer.drain()
    consumer.wal.seek("t", 7)
    consumer.platter.lose_power()
    following = consumer.open().read_next("t")
    assert following is not None and following.index == 7, "CursorInBounds: a seek is lost"


def test_what_was_read_ahead_of_a_seek_is_not_given_behind_it() -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    wal.append_batch("t", [b"%d" % number for number in range(10)])
    assert wal.read("t") == Entry(0, b"0")
    for index in (7, 1, 9):
        wal.seek("t", index)
        assert wal.read("t") == Entry(index, b"%d" % index), "DeliveredIsPrefix: another entry in its place"


@pytest.mark.parametrize("read", READS)
def test_what_is_read_is_given_back_and_nothing_else(read: str) -> None:
    platter = Platter(random.Random(1))
    wal = Walrus(disk=platter.directory("log"), retain="unread")
    for number in range(60):
        wal.append("t", b"%02d" % number * 1_500)
    given = 0
    while count := READS[read](wal):
        given += count
        assert wal.bounds("t")[0] <= given, "NothingSkipped: what was not read is given back"
    assert given == 60, "NothingSkipped"
    assert wal.bounds("t")[0] > 0, "SpaceIsGivenBack"


def test_an_entry_beyond_the_limit_of_a_read_comes_alone() -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    wal.append_batch("t", [b"x" * 100] * 2)
    found = [[entry.index for entry in wal.read_many("t", max_bytes=10)] for _ in range(3)]
    assert found == [[0], [1], []], "ReadProgress: an entry that no read may return"


def test_what_is_trimmed_is_not_given_from_what_was_read_ahead() -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    wal.append_batch("t", [b"%d" % number for number in range(10)])
    assert wal.read("t") == Entry(0, b"0")
    wal.trim("t", 5)
    assert wal.read("t") == Entry(5, b"5"), "MarkInBounds: it is before the first entry"


def test_what_the_reader_gave_and_an_exception_lost_is_read_again() -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    for begin in range(0, 240, 60):
        wal.append_batch("t", [b"%03d" % number * 5_000 for number in range(begin, begin + 60)])
    cursor = wal._cursor("t")
    assert cursor is not None
    assert cursor._reader.payloads(), "given, and lost before it is kept"
    assert wal.read("t") == Entry(0, b"000" * 5_000), "NothingSkipped"
    assert cursor._ahead and cursor._reader.payloads(), "the same, while some are ahead"
    rest = wal.read_many("t", max_bytes=2_000_000)
    assert len(rest) > 60, "more than was ahead"
    for entry in rest:
        assert entry.data[:3] == b"%03d" % entry.index, "NothingSkipped: another entry in its place"


def test_what_an_exception_cut_off_is_delivered_again_and_noted_no_further() -> None:
    wal = Walrus(
        disk=Platter(random.Random(1)).directory("log"), consistency=ReadConsistency.at_least_once(1)
    )
    wal.append_batch("t", [b"%d" % number for number in range(10)])
    cursor = wal._cursor("t")
    assert cursor is not None
    for _ in range(3):
        assert wal.read("t")
    assert (cursor.index, cursor.persisted) == (3, 2), "RepeatsBounded"
    cursor.rewind(1)
    assert cursor.persisted <= cursor.index, "NothingSkipped: a note covers what is delivered again"
    assert [wal.read("t") for _ in range(2)] == [Entry(1, b"1"), Entry(2, b"2")], "DeliveredIsPrefix"


def test_a_seek_that_a_full_disk_refuses_is_forgotten_also_by_later_notes() -> None:
    """A note of the topic says where its cursor is, whatever it was made for: here that the log is closed."""
    platter = Platter(random.Random(1))
    wal = Walrus(disk=platter.directory("log"))
    wal.append_batch("t", [b"x"] * 10)
    platter.fail("write", errno.ENOSPC)
    with pytest.raises(DiskFull):
        wal.seek("t", 7)
    wal.close()
    following = Walrus(disk=platter.directory("log")).read("t")
    assert following is not None and following.index == 0, "NothingSkipped: a seek that failed is noted"


def test_a_cursor_is_noted_when_as_many_as_may_come_again_are_delivered_and_not_before() -> None:
    wal = Walrus(
        disk=Platter(random.Random(1)).directory("log"), consistency=ReadConsistency.at_least_once(4)
    )
    wal.append_batch("t", [b"x"] * 10)
    log, noted = wal._engine.logs["t"], list[int]()
    for _ in range(9):
        assert wal.read("t")
        noted.append(log.cursor)
    assert noted == [0, 0, 0, 0, 4, 4, 4, 4, 8], "RepeatsBounded, NothingSkipped"
