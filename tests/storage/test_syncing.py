"""What a sync covers and what it marks, and what recovery does before it overwrites anything."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterable

import pytest

from tests.storage.stores import entries_of, places
from walrus import FsyncSchedule, Walrus
from walrus.sim.disk import FATES, KEEP_ALL, LOSE_ALL, Crash, Fate, Platter
from walrus.storage import engine
from walrus.storage.batch import Batch
from walrus.storage.errors import DiskFull
from walrus.storage.journal import STATE, TopicNote, deleted_note, topic_note
from walrus.storage.reading import Reader
from walrus.storage.record import UNIT
from walrus.storage.scan import records
from walrus.storage.space import Extent, Space

FILE = "00000001.wal"
GROUP = FsyncSchedule.group_commit()


def wal_append(wal: Walrus, payload: bytes) -> bytes:
    """Append a single entry; return it."""
    wal.append("t", payload)
    return payload


def opened(platter: Platter) -> Walrus:
    return Walrus(disk=platter.directory("log"), fsync=GROUP)


@pytest.mark.parametrize("fate", FATES, ids=str)
def test_a_sync_covers_the_files_of_a_sync_in_flight(fate: Fate) -> None:
    """The one in flight has taken what was written before, and may never end."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"first"]))
    wal.sync()
    wal.write("t", Batch.of([b"second"]))
    wal.syncer().start()
    wal.sync()
    platter.lose_power(fate)
    assert opened(platter).bounds("t") == (0, 2), "AckedDurable: all that was written before the sync"


@pytest.mark.parametrize("fate", FATES, ids=str)
def test_a_sync_covers_every_file_that_was_written_to_since_the_one_before(fate: Fate) -> None:
    """The engine is told of the first write alone; a log that goes on in another file says so by itself."""
    platter = Platter(random.Random(1))
    wal, written = opened(platter), 0
    while len(wal._engine.space.sizes) < 3:
        written = wal.write("t", Batch.of([bytes(300_000)])) + 1
    wal.sync()
    platter.lose_power(fate)
    wal = opened(platter)
    assert wal.bounds("t") == (0, written), "AckedDurable: a file was written to, and not synced"
    assert entries_of(wal, "t") == [bytes(300_000)] * written, "AckedDurable"


def test_a_sync_marks_what_was_written_before_it_began() -> None:
    """What was appended since is not durable, and a record must not say so: its loss would be damage."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"before"]))
    engine, log = wal._engine, wal._engine.logs["t"]
    plan = engine.begin_sync()
    wal.write("t", Batch.of([b"since"]))
    for file in plan.files:
        file.sync()
    wal.write("t", Batch.of([b"since"]))
    engine.finish_sync(plan, None)
    assert log.durable_index == 1, "AckedDurable: a sync marks more than it covered"
    wal.write("t", Batch.of([b"later"]))
    view, block = engine.space.view(log.blocks[-1].extent), log.blocks[-1]
    assert [each.durable for each in records(view, block.life, block.head.start, block.extent.size)][
        -1
    ] == 1, "AckedDurable: a record says more durable than was"


def test_what_is_appended_while_a_sync_runs_and_behind_it_can_be_read() -> None:
    """Each record says how much was durable, and its check is begun before that is known to have grown."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"before"]))
    engine, log = wal._engine, wal._engine.logs["t"]
    plan = engine.begin_sync()
    log.append_one(b"during")
    for file in plan.files:
        file.sync()
    engine.finish_sync(plan, None)
    log.append_one(b"behind")
    log.check_invariants()
    wal.sync()
    platter.lose_power(LOSE_ALL)
    wal = opened(platter)
    assert wal.bounds("t") == (0, 3), "AckedDurable: a record of what was synced is not sound"
    assert entries_of(wal, "t") == [b"before", b"during", b"behind"], "AckedDurable"


def test_a_second_sync_does_not_take_over_from_one_that_began_after_it() -> None:
    platter = Platter(random.Random(1))
    wal = opened(platter)
    engine = wal._engine
    wal.write("t", Batch.of([b"one"]))
    first = engine.begin_sync()
    wal.write("t", Batch.of([b"two"]))
    second = engine.begin_sync()
    engine.finish_sync(first, None)
    covered = set(engine.begin_sync().files)
    assert set(second.files) <= covered, "AckedDurable: the second one is in flight still"


def test_a_sync_that_ends_late_takes_back_nothing_that_a_later_one_has_made_durable() -> None:
    """What is below the mark is known to be damaged when it cannot be read; above it, it passes for torn."""
    wal = opened(Platter(random.Random(1)))
    engine, plans = wal._engine, []
    for payload in (b"first", b"second"):
        wal.write("t", Batch.of([payload]))
        plans.append(engine.begin_sync())
    for plan in plans:
        for file in plan.files:
            file.sync()
    for plan in reversed(plans):
        engine.finish_sync(plan, None)
        assert engine.logs["t"].durable_index == 2, "AckedDurable: a late sync takes back what is durable"
    engine.logs["t"].check_invariants()


def test_single_entries_behind_a_batch_stay_within_their_block() -> None:
    """How many of one size still fit is reckoned once, for all of them; a batch takes room of any size."""
    wal = opened(Platter(random.Random(1)))
    written = [wal_append(wal, bytes(200))]
    wal.write("t", Batch.of([bytes(UNIT // 2)]))
    log, block = wal._engine.logs["t"], wal._engine.logs["t"].blocks[-1]
    log.check_invariants()
    while log.blocks[-1] is block:
        written.append(wal_append(wal, bytes(200)))
        log.check_invariants()
    assert block.end <= block.extent.size, "PrefixAgree: a record beyond the block's end"
    assert entries_of(wal, "t") == [written[0], bytes(UNIT // 2), *written[1:]], "PrefixAgree"


def test_a_trim_that_a_full_disk_refuses_leaves_all_that_there_was(monkeypatch: pytest.MonkeyPatch) -> None:
    wal = opened(Platter(random.Random(1)))
    payloads = [bytes([number]) * 9_000 for number in range(12)]
    for payload in payloads:
        wal.write("t", Batch.of([payload]))
    wal.sync()

    def full(notes: object) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(wal._engine.journal, "add", full)
    with pytest.raises(DiskFull):
        wal.trim("t", 11)
    assert wal.bounds("t") == (0, 12), "TrimmedIsSealed: a trim that failed is half done"
    assert entries_of(wal, "t") == payloads, "AckedDurable: a trim that failed has dropped blocks"


def test_a_cut_tail_is_overwritten_whole() -> None:
    """A, then a lost write, then C: both are cut. X in the gap must not bring C back behind it."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"A"]))
    wal.sync()
    wal.write("t", Batch.of([b"B" * 40]))
    wal.write("t", Batch.of([b"C" * 40]))
    lost = places(wal, "t")[1][0]
    platter.lose_power(KEEP_ALL)
    platter.flip_bit("log", FILE, 8 * (lost + 20))  # the write of B did not reach the disk whole
    wal = opened(platter)
    assert entries_of(wal, "t") == [b"A"], "PrefixAgree: what was cut is read"
    wal.write("t", Batch.of([b"X" * 40]))
    platter.kill()
    wal = opened(platter)
    assert entries_of(wal, "t") == [b"A", b"X" * 40], "PrefixAgree: what was cut stays cut"
    assert wal.recovery.clean, "AckedDurable: something to cut after a cut"


def test_a_cut_is_synced_in_every_file_that_it_touches() -> None:
    """What is appended next syncs its own file. A block that was cut in another one would be back."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"A"]))
    wal.sync()
    wal.write("t", Batch.of([b"B" * 40]))
    while wal._engine.logs["t"].blocks[-1].extent.file == 1:
        wal.write("t", Batch.of([bytes(300_000)]))
    torn = places(wal, "t", block=0)[1][0]
    platter.lose_power(KEEP_ALL)
    platter.flip_bit("log", FILE, 8 * (torn + 20))
    wal = opened(platter)
    assert entries_of(wal, "t") == [b"A"], "PrefixAgree: what was cut is read"
    wal.write("t", Batch.of([b"X"]))
    wal.sync()
    platter.lose_power(LOSE_ALL)
    assert entries_of(opened(platter), "t") == [b"A", b"X"], "PrefixAgree: what was cut stays cut"


def test_the_topic_ends_before_the_first_of_several_lost_writes() -> None:
    """One in a full block, which its successor describes, and one in the last block: found in that order."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"A"]))
    wal.sync()
    log = wal._engine.logs["t"]
    while len(log.blocks) == 1:
        wal.write("t", Batch.of([b"B" * 4_000]))
    for _ in range(3):
        wal.write("t", Batch.of([b"C" * 4_000]))
    lost = places(wal, "t", block=0)[2][0]
    also = places(wal, "t")[1][0]
    platter.lose_power(KEEP_ALL)
    for place in (lost, also):
        platter.flip_bit("log", FILE, 8 * (place + 20))
    wal = opened(platter)
    assert entries_of(wal, "t") == [b"A", b"B" * 4_000], "PrefixAgree: it goes on behind a lost write"
    assert wal.verify() == [], "PrefixAgree: a hole is kept where a write was lost"


def test_a_topic_whose_first_block_never_reached_the_disk_begins_anew() -> None:
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("other", Batch.of([b"x"]))
    wal.sync()
    wal.write("t", Batch.of([b"A" * 4_000]))
    log = wal._engine.logs["t"]
    while len(log.blocks) == 1:
        wal.write("t", Batch.of([b"B" * 4_000]))
    head = log.blocks[0].extent.offset
    platter.lose_power(KEEP_ALL)
    for byte in range(0, 40, 4):
        platter.flip_bit("log", FILE, 8 * (head + byte))
    wal = opened(platter)
    assert "t" not in wal.topics() or wal.bounds("t") == (0, 0), (
        "PrefixAgree: what follows a lost block is kept"
    )
    assert wal.write("t", Batch.of([b"anew"])) == 0, "SeqOrder"
    wal.sync()
    platter.lose_power(LOSE_ALL)
    wal = opened(platter)
    assert entries_of(wal, "t") == [b"anew"] and wal.recovery.clean, "AckedDurable, PrefixAgree"


def test_a_mark_of_an_earlier_block_is_no_place_in_a_later_one() -> None:
    """The journal says where the topic was durable: in a block that has been left since."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    written = [b"%02d" % number * 1_500 for number in range(80)]
    for entry in written[:4]:
        wal.write("t", Batch.of([entry]))
    wal.sync()
    wal.seek("t", 0)  # which notes it
    place = wal._engine.logs["t"].durable_place
    assert place > 0
    log, count = wal._engine.logs["t"], 4
    while len(log.blocks) == 1 or places(wal, "t")[-1:] < [(log.blocks[-1].extent.offset + place, 0)]:
        wal.write("t", Batch.of([written[count]]))
        count += 1
    wal.write("t", Batch.of([written[count]]))
    platter.kill()
    wal = opened(platter)
    assert wal.recovery.clean, "AckedDurable: what is sound passes for torn, or for damaged"
    assert entries_of(wal, "t") == written[: count + 1], "AckedDurable: the tail passes for torn"


def test_a_place_that_the_journal_notes_is_where_that_many_entries_end() -> None:
    """A record behind the noted end says that more is durable; of that end only the number is known."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"A"]))
    wal.close()
    wal = opened(platter)
    wal.write("t", Batch.of([b"B"]))
    wal.sync()
    wal.write("t", Batch.of([b"C"]))  # its record says that two entries are durable
    platter.lose_power(KEEP_ALL)
    wal = Walrus(disk=platter.directory("log"), fsync=FsyncSchedule.no_fsync())  # syncs nothing anew
    wal._engine.note_cursor(wal._engine.logs["t"], 1)
    platter.lose_power(KEEP_ALL)
    wal = opened(platter)
    assert entries_of(wal, "t") == [b"A", b"B", b"C"], "AckedDurable: what is sound passes for torn"
    assert wal.verify() == [], "AckedDurable: what is sound passes for damaged"


def test_a_cursor_behind_a_lost_write_goes_back_to_where_the_topic_ends() -> None:
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("t", Batch.of([b"A"]))
    wal.write("t", Batch.of([b"B"]))
    wal._engine.note_cursor(wal._engine.logs["t"], 2)
    lost = places(wal, "t")[1][0]
    platter.lose_power(KEEP_ALL)
    platter.flip_bit("log", FILE, 8 * (lost + 20))
    wal = opened(platter)
    log = wal._engine.logs["t"]
    assert (log.cursor, log.next_index) == (1, 1), "CursorInBounds: what is written next would be skipped"
    wal.append("t", b"X")
    entry = wal.read("t")
    assert entry is not None and entry.data == b"X", "NothingSkipped"


def in_two_blocks(platter: Platter, *, synced: bool) -> Walrus:
    """A log whose last entry is the first of a second block; `synced`: those before it, and not that one."""
    wal = opened(platter)
    written = 0
    while not wal.topics() or len(wal._engine.logs["t"].blocks) == 1:
        if synced:
            wal.sync()
        written = wal.write("t", Batch.of([b"A" * 4_000])) + 1
    assert wal._engine.logs["t"].base == written - 1, "SeqOrder"
    return wal


def test_what_was_durable_when_a_block_began_is_missed_though_no_record_of_it_says_so() -> None:
    platter = Platter(random.Random(1))
    wal = in_two_blocks(platter, synced=True)
    end, first = wal.bounds("t")[1], places(wal, "t", block=0)[0][0]
    platter.lose_power(KEEP_ALL)
    platter.flip_bit("log", FILE, 8 * (first + 20))
    wal = opened(platter)
    assert wal.bounds("t") == (0, end), "AckedDurable: a damaged durable entry takes all behind it along"
    assert wal.verify(), "AckedDurable: it is not missed"


def test_a_topic_that_keeps_a_block_without_entries_goes_on_with_its_numbers() -> None:
    """All before the block is trimmed, and its own first entry was lost: its header says where it begins."""
    platter = Platter(random.Random(1))
    wal = in_two_blocks(platter, synced=False)
    base, lost = wal._engine.logs["t"].base, places(wal, "t")[0][0]
    wal.write("t", Batch.of([b"behind what is lost"]))
    wal.trim("t", base)
    platter.lose_power(KEEP_ALL)
    platter.flip_bit("log", FILE, 8 * (lost + 20))
    wal = opened(platter)
    assert wal.write("t", Batch.of([b"B"])) == base, (
        "SeqOrder: the numbers of trimmed entries are given again"
    )
    assert entries_of(wal, "t") == [b"B"], "PrefixAgree"


def test_space_that_waits_for_a_sync_that_was_cut_is_given_back_by_the_next() -> None:
    wal = in_two_blocks(Platter(random.Random(1)), synced=True)
    wal.write("u", Batch.of([b"stays"]))
    wal.delete_topic("t")
    wal.sync()
    free, plan = wal._engine.space.free_bytes(), wal._engine.begin_sync()
    assert plan.erased, "SpaceIsGivenBack: nothing of a deleted topic is erased"
    wal._engine._sync_cut(plan, KeyboardInterrupt())
    wal.sync()
    given = sum(extent.size for extent in plan.erased)
    assert wal._engine.space.free_bytes() == free + given, (
        "SpaceIsGivenBack: what was erased is free for none"
    )


def test_what_is_known_is_noted_before_the_evidence_is_overwritten() -> None:
    """The only proof that B was durable stands in a record that is cut: no crash in between may lose it."""
    operation = 1
    while True:
        platter = Platter(random.Random(operation))
        wal = opened(platter)
        wal.write("other", Batch.of([b"so that there is a journal"]))
        wal.write("t", Batch.of([b"A"]))
        wal.write("t", Batch.of([b"B" * 40]))
        wal.sync()
        wal.write("t", Batch.of([b"C" * 40]))
        wal.write("t", Batch.of([b"D" * 40]))  # says that two entries were durable
        spots = places(wal, "t")
        platter.lose_power(KEEP_ALL)
        platter.flip_bit("log", FILE, 8 * (spots[2][0] + 20))
        before = platter.operations
        platter.crash_at(before + operation, power=False)
        crashed = False
        with contextlib.suppress(Crash):
            opened(platter)
            crashed = platter.operations < before + operation
        platter.kill()
        platter.heal()
        platter.flip_bit("log", FILE, 8 * (spots[1][0] + 20))  # B rots
        wal = opened(platter)
        assert wal.bounds("t")[1] >= 2, f"AckedDurable: a durable entry is cut as torn, operation {operation}"
        assert wal.verify("t")[0].first == 1, "AckedDurable: its damage is named"
        if crashed:
            return
        operation += 1


def test_a_deletion_is_noted_again_when_the_journal_begins_a_new_block() -> None:
    """Its blocks are erased only later: until that is durable, each state of the journal has to name it."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.write("gone", Batch.of([b"x"]))
    wal.write("kept", Batch.of([b"y"]))
    wal.sync()
    wal.delete_topic("gone")
    wal._engine.journal.rewrite()
    wal.sync()  # the notes are durable, the erasure is not
    platter.lose_power(LOSE_ALL)
    wal = opened(platter)
    assert wal.topics() == ["kept"], "TrimmedStaysTrimmed: a deleted topic comes back"


@pytest.mark.parametrize("lead", [0, 1])
def test_each_block_of_the_journal_begins_with_the_whole_state(lead: int) -> None:
    wal = opened(Platter(random.Random(1)))
    wal.write("t", Batch.of([b"x"]))
    journal = wal._engine.journal
    for _ in range(lead):  # a note that is shorter, so that another number of bytes is left in the end
        journal.add([deleted_note(1)])
    block = journal.log.blocks[-1]
    while journal.log.blocks[-1] is block:
        journal.add([topic_note(wal._engine.logs["t"].topic_id, TopicNote())])
    begins = Reader(journal.log, journal.log.blocks[-1].head.base).payloads()
    assert begins[0] == STATE, "AckedDurable: the blocks before go, and with them what no note says again"


class Door:
    """A lock that tells when a thread comes to it."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock, self.reached = lock, threading.Event()
        self._is_owned = lock._is_owned  # type: ignore[attr-defined]

    def __enter__(self) -> None:
        self.reached.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_note_of_another_thread_waits_while_a_block_of_the_journal_begins() -> None:
    """It is not called from a signal handler in the middle of it: that one alone would wait for ever."""
    wal = opened(Platter(random.Random(1)))
    wal.write("t", Batch.of([b"x"]))
    journal, begun, go_on, added = wal._engine.journal, threading.Event(), threading.Event(), list[bool]()
    state = journal._state

    def slow() -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(120)
        return state()

    journal._state = slow
    beginning = threading.Thread(target=journal.rewrite)
    beginning.start()
    assert begun.wait(120)
    door = journal.lock = Door(journal.lock)  # type: ignore[assignment]
    adding = threading.Thread(target=lambda: (journal.add([deleted_note(1)]), added.append(True))[0])
    adding.start()
    reached = door.reached.wait(120)  # type: ignore[attr-defined]
    go_on.set()
    for thread in (beginning, adding):
        thread.join(120)
    assert reached and added, "AckedDurable: a note is refused because another thread begins a block"


def test_what_is_deleted_is_given_back_at_once_if_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"), fsync=FsyncSchedule.no_fsync())
    wal.append("t", b"x")
    log, space = wal._engine.logs["t"], wal._engine.space
    size, before = log.blocks[0].extent.size, space.free_bytes()
    monkeypatch.setattr(engine, "_HURRY", size)
    wal._engine.delete(log)
    assert space.free_bytes() == before + size, "SpaceIsGivenBack: the sync that frees it may never come"


def test_a_free_range_that_fits_exactly_is_used_again() -> None:
    space = Space(Platter(random.Random(1)).directory("log"))
    first, _ = space.allocate(UNIT)
    space.allocate(UNIT)
    space.release(first)
    assert space.allocate(UNIT) == (first, False), "SpaceIsGivenBack: a free range that fits is not used"


def test_space_that_was_used_does_not_pass_for_zeros_when_it_is_free_again() -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    for topic in ("t", "u", "v"):
        for _ in range(3):
            wal.append(topic, b"x" * 30_000)
    for topic in ("u", "t", "v"):
        wal.delete_topic(topic)
    space = wal._engine.space
    for number, ranges in space._free.items():
        for start, units, zeros in ranges:
            if zeros:
                found = bytes(space.view(Extent(number, start, units)))
                assert not any(found), (
                    "PrefixAgree: recovery takes what a deleted topic left for a torn write"
                )


def test_joined_free_ranges_are_zeros_only_if_both_are() -> None:
    space = Space(Platter(random.Random(1)).directory("log"))
    first, _ = space.allocate(UNIT)
    space.release(first)  # beside the rest of the new file, which was never written to
    assert space.allocate(UNIT) == (first, False), "PrefixAgree: used space passes for zeros"
