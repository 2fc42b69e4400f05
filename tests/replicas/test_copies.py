"""Copies: they only grow and only in order; fences and doubts survive a restart; what is told is durable."""

from __future__ import annotations

import pytest

from tests.broker.world import batch, config
from tests.world import sync_oldest
from walrus.replicas import copies
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.replica import Replica
from walrus.segments import Metadata
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import EMPTY, Batch, Checksum
from walrus.storage.errors import CorruptionError, DiskFull, StorageError
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send

KEY = ("t", 1)


class Disk:
    """A node's two engines, and its copies on them."""

    def __init__(self, data: MemoryEngine | None = None, meta: MemoryEngine | None = None) -> None:
        self.data_memory, self.meta_memory = data or MemoryEngine(), meta or MemoryEngine()
        self.data, self.meta = Durable(self.data_memory), Durable(self.meta_memory)
        self.copies = Copies(self.data, self.meta)
        self.copy = self.copies.get(KEY)
        self.outbox = Outbox(config().node_id)
        self.replica = Replica(node_id=1, copies=self.copies, metadata=Metadata(), outbox=self.outbox)

    def sync(self) -> None:
        sync_oldest(self.meta)
        sync_oldest(self.data)

    def append(self, start: int, *payloads: str) -> None:
        self.copies.append(self.copy, start, batch(*payloads), lambda: None)

    def fence(self) -> list[m.FenceReply]:
        self.replica.on_fence(2, m.Fence(topic="t", segment=1))
        return self.answers()

    def answers(self) -> list[m.FenceReply]:
        return [e.message for e in self.outbox.take() if isinstance(e, Send)]  # type: ignore[misc]

    def restart(self) -> Disk:
        return Disk(self.data_memory, self.meta_memory)


def test_append_is_durable_only_when_synced():
    disk = Disk()
    done: list[int] = []
    disk.copies.append(disk.copy, 0, batch("a", "b"), lambda: done.append(disk.copy.durable))
    assert (disk.copy.length, disk.copy.durable, done) == (2, 0, []), (
        "AckedDurable: durable before it is synced"
    )
    disk.sync()
    assert (disk.copy.durable, done) == (2, [2]), "AckedDurable"


@pytest.mark.parametrize(
    ("start", "payloads", "length"),
    [(0, "abc", 3), (0, "ab", 3), (1, "bcd", 4), (3, "d", 4), (0, "", 3), (0, "a", 3), (2, "", 3)],
)
def test_frame_that_overlaps_the_copy_adds_only_what_is_new(start: int, payloads: str, length: int):
    disk = Disk()
    disk.append(0, "a", "b", "c")
    disk.sync()
    done: list[bool] = []
    disk.copies.append(disk.copy, start, batch(*payloads), lambda: done.append(True))
    disk.sync()
    assert disk.copy.length == length and done == [True], "SeqOrder"
    assert disk.data_memory.entries["t/1"] == [b"a", b"b", b"c", b"d"][:length], "SeqOrder, PrefixAgree"


def test_checksum_is_that_of_the_entries_however_they_arrived():
    disk = Disk()
    disk.append(0, "a", "b")
    disk.append(1, "b", "c")
    expected = Checksum().extend(batch("a", "b", "c"))
    assert disk.copies.checksum(disk.copy, 3) == expected, "SealedStable"
    assert disk.copies.checksum(disk.copy, 2) == Checksum().extend(batch("a", "b")), "SealedStable"
    assert disk.restart().copies.checksum(disk.restart().copy, 3) == expected, (
        "SealedStable: another checksum after a restart"
    )


@pytest.mark.parametrize("length", [0, 1, 2])
def test_checksum_of_a_part_is_not_that_of_what_is_known_to_follow(length: int):
    """A deposed writer has summed up its tail, which is beyond the count that was sealed."""
    disk, said = Disk(), list[copies.Summary | StorageError]()
    disk.append(0, "a", "b", "c")
    disk.copies.when_summed(disk.copy, length, said.append)
    (summary,) = said
    assert isinstance(summary, copies.Summary)
    part = Checksum().extend(batch(*"abc"[:length]))
    assert summary.checksum == part, "SealedStable: the checksum of more entries than were asked for"


def test_large_copy_is_summed_in_pieces_and_whoever_asked_meanwhile_shares_the_work(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(copies, "SCAN_BYTES", 1)
    disk = Disk()
    disk.append(0, *(f"{number}" for number in range(50)))
    again, said = disk.restart(), []
    for _ in range(3):
        again.copies.when_summed(again.copy, 50, said.append)
    ticks = 0
    while again.copies.summing:
        assert len(said) < 3, "SealedStable: said before it is summed"
        again.copies.go_on_summing()
        ticks += 1
    assert 5 <= ticks <= 8, "fifty reads, eight a tick, and the others find it done"
    expected = Checksum().extend(batch(*(f"{number}" for number in range(50))))
    assert [summary.checksum for summary in said] == [expected] * 3, "SealedStable"
    again.copies.when_summed(again.copy, 50, said.append)
    assert len(said) == 4, "SealedStable: what is known is said at once"


def test_a_checksum_that_is_asked_for_while_another_one_is_read_is_of_its_own_entries(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(copies, "SCAN_BYTES", 1)
    disk = Disk()
    entries = [f"{number}" for number in range(50)]
    disk.append(0, *entries)
    again, said = disk.restart(), []
    again.copies.checksum(again.copy, 5)
    again.copies.when_summed(again.copy, 50, said.append)
    assert again.copies.summing
    six = Checksum().extend(batch(*entries[:6]))
    assert again.copies.checksum(again.copy, 6) == six, "SealedStable: another sum runs on in it"
    while again.copies.summing:
        again.copies.go_on_summing()
    assert [summary.checksum for summary in said] == [Checksum().extend(batch(*entries))], "SealedStable"


def test_copy_that_is_replaced_while_it_is_summed_ends_with_an_error():
    disk = Disk()
    disk.append(0, "a", "b")
    again, said = disk.restart(), []
    again.data_memory.delete_topic("t/1")
    again.copies.when_summed(again.copy, 2, said.append)
    assert not again.copies.summing and isinstance(said[0], StorageError), "SealedStable"


def test_disk_full_writes_nothing_and_goes_on_when_there_is_room():
    disk = Disk()
    disk.append(0, "a")
    disk.data_memory.full = True
    with pytest.raises(DiskFull):
        disk.append(1, "b")
    assert disk.copy.length == 1, "SeqOrder: longer than what is written"
    disk.data_memory.full = False
    disk.append(1, "b")
    assert disk.copy.length == 2 and disk.copies.checksum(disk.copy, 2) == Checksum().extend(
        batch("a", "b")
    ), "SealedStable"


# --- the fence ---


def test_fence_refuses_at_once_and_answers_when_note_and_entries_are_durable():
    disk = Disk()
    disk.append(0, "a")
    assert disk.fence() == [] and disk.copy.fenced, "AckedDurable: answered before it is noted"
    disk.meta.on_durable(disk.meta.written)
    assert disk.answers() == [], "AckedDurable: answered before its entries are durable"
    disk.data.on_durable(disk.data.written)
    (reply,) = disk.answers()
    assert (reply.length, reply.checksum, reply.sure) == (1, Checksum().extend(batch("a")), True), (
        "AckedDurable"
    )


def test_fence_asked_again_after_everything_is_durable_is_answered_again():
    disk = Disk()
    disk.append(0, "a")
    disk.fence()
    disk.sync()
    disk.answers()
    assert [reply.length for reply in disk.fence()] == [1], "FailoverProgress"


def test_fence_survives_a_restart():
    disk = Disk()
    disk.append(0, "a")
    disk.fence()
    disk.sync()
    assert disk.restart().copy.fenced, "AckedDurable: a fence is forgotten"
    assert not disk.restart().copies.get(("t", 2)).fenced, "RolloverProgress"


def test_fence_that_could_not_be_noted_is_not_answered_until_it_is():
    disk = Disk()
    disk.append(0, "a")
    disk.sync()
    disk.meta_memory.full = True
    assert disk.fence() == [], "AckedDurable: answered without a note"
    disk.sync()
    assert disk.answers() == [], "AckedDurable: answered without a note"
    disk.meta_memory.full = False
    disk.fence()
    disk.sync()
    assert [reply.length for reply in disk.answers()] == [1] and disk.restart().copy.fenced, "AckedDurable"


def test_fence_for_a_segment_that_is_not_known_here_is_noted_too():
    disk = Disk()
    disk.replica.on_fence(2, m.Fence(topic="other", segment=7))
    disk.sync()
    assert [reply.length for reply in disk.answers()] == [0], "FailoverProgress"
    assert disk.restart().copies.get(("other", 7)).fenced, "AckedDurable: a fence is forgotten"


def test_damage_that_a_reader_found_ends_what_a_fence_is_answered_with():
    """The sum of a copy is taken as it grows; behind damage it would promise entries that none can copy."""
    disk = Disk()
    disk.append(0, "a", "b", "c")
    disk.sync()
    assert disk.copies.checksum(disk.copy, 3).extend(EMPTY) == disk.copies.checksum(disk.copy, 3)
    disk.data_memory.damaged.add(("t/1", 2))
    with pytest.raises(CorruptionError):
        disk.copies.read(disk.copy, 2, 3, 1, 100)
    disk.fence()
    disk.sync()
    (reply,) = disk.answers()
    assert (reply.length, reply.sure) == (2, False), "AckedDurable: entry 2 cannot be copied from here"


def test_damaged_copy_answers_a_fence_with_what_can_be_read_and_is_not_sure():
    disk = Disk()
    disk.append(0, "a", "b")
    disk.sync()
    disk.data_memory.damaged.add(("t/1", 1))
    again = disk.restart()
    again.fence()
    again.sync()
    (reply,) = again.answers()
    assert (reply.length, reply.sure) == (1, False), "AckedDurable: damaged, and sure"
    assert reply.checksum == Checksum().extend(Batch.of([b"a"])), "SealedStable"
    assert KEY in again.copies.damaged, "ReplicasKept: so that it is made anew once the segment is sealed"


# --- unsure copies ---


def test_doubt_and_certainty_survive_a_restart_and_keep_the_fence():
    disk = Disk()
    disk.append(0, "a")
    disk.copies.mark(disk.copy, sure=False)
    disk.fence()
    disk.sync()
    assert [reply.sure for reply in disk.answers()] == [False], "AckedDurable: it may be short, and is sure"
    again = disk.restart()
    assert again.copy.fenced and not again.copy.sure, "AckedDurable: a fence or a doubt is forgotten"
    again.copies.mark(again.copy, sure=True)
    third = again.restart()
    assert third.copy.fenced and third.copy.sure, "AckedDurable: a fence is forgotten"


def test_notes_that_are_not_needed_any_more_are_dropped_and_the_others_survive_a_restart():
    disk = Disk()
    for number in range(1, 6):
        disk.copies.fence(disk.copies.get(("t", number)), lambda: None)
    disk.copies.forget_notes({("t", 1), ("t", 2), ("t", 3), ("u", 9)})
    disk.copies.fence(disk.copies.get(("t", 6)), lambda: None)
    assert disk.meta.storage.bounds(copies.NOTES)[0] == 0, "AckedDurable: a fence is nowhere on the disk"
    disk.sync()
    assert disk.meta.storage.bounds(copies.NOTES) == (5, 8), "AckedDurable, SpaceIsGivenBack: notes"
    again = disk.restart()
    assert [n for n in range(1, 7) if again.copies.get(("t", n)).fenced] == [4, 5, 6], (
        "AckedDurable: a fence is forgotten"
    )
    again.copies.forget_notes({("t", 4), ("t", 5), ("t", 6)})
    again.sync()
    assert disk.restart().copies.noted == {}, "SpaceIsGivenBack"


def test_notes_stay_while_there_is_no_room_to_write_them_anew():
    disk = Disk()
    for number in (1, 2):
        disk.copies.fence(disk.copies.get(("t", number)), lambda: None)
    disk.sync()
    assert isinstance(disk.meta.storage, MemoryEngine)
    disk.meta.storage.full = True
    disk.copies.forget_notes({("t", 1)})
    assert [*disk.copies.noted] == [("t", 1), ("t", 2)], (
        "AckedDurable: a note is dropped that is nowhere else"
    )
    disk.meta.storage.full = False
    disk.copies.forget_notes({("t", 1)})
    disk.sync()
    assert [*disk.restart().copies.noted] == [("t", 2)], "AckedDurable: a fence is forgotten"


def test_names_with_slashes_are_found_again():
    disk = Disk()
    copy = disk.copies.get(("a/b/2", 3))
    disk.copies.append(copy, 0, batch("x"), lambda: None)
    assert disk.restart().copies.get(("a/b/2", 3)).length == 1, "AckedDurable: a copy is not found"
    assert disk.restart().copies.entries == 1


@pytest.mark.parametrize(
    ("original", "shadow", "kept"), [("ab", "abc", "t/1~"), ("abc", "ab", "t/1"), ("abc", "abc", "t/1~")]
)
@pytest.mark.parametrize("full", [False, True], ids=["", "disk full"])
def test_of_two_copies_that_a_restart_finds_the_longer_one_counts(
    original: str, shadow: str, kept: str, full: bool
):
    """A copy that was once made anew has the name of a shadow; what is made beside it has the other name."""
    data = MemoryEngine()
    data.write("t/1", batch(*original))
    data.write("t/1~", batch(*shadow))
    data.full = full
    copies = Copies(Durable(data), Durable(MemoryEngine()))
    found = copies.get(("t", 1)).name, copies.get(("t", 1)).length
    assert found == (kept, 3), "AckedDurable: the shorter of two copies counts"
    assert full or data.topics() == [kept], "SpaceIsGivenBack"


@pytest.mark.parametrize("adopted", [False, True], ids=["", "copied anew before"])
def test_a_copy_that_is_dropped_leaves_no_shadow_behind(adopted: bool):
    disk = Disk()
    disk.append(0, "a", "b")
    for _ in range(2 if adopted else 1):
        shadow = disk.copies.shadow(KEY)
        disk.copies.append(shadow, 0, batch("a", "b"), lambda: None)
        disk.sync()
        if adopted and disk.copies.get(KEY).name == "t/1":
            disk.copies.adopt(shadow)
    assert len(disk.data_memory.topics()) == 2, "SpaceIsGivenBack: a copy, and what is made beside it"
    assert disk.copies.drop(KEY)
    assert disk.data_memory.topics() == [], "SpaceIsGivenBack: a dropped copy leaves its shadow behind"


def test_the_entries_of_a_copy_that_was_made_anew_are_counted_once():
    disk = Disk()
    disk.append(0, "a", "b")
    shadow = disk.copies.shadow(KEY)
    disk.copies.append(shadow, 0, batch("a", "b"), lambda: None)
    disk.sync()
    disk.copies.adopt(shadow)
    assert disk.copies.entries == 2, "SpaceIsGivenBack: what a copy replaced is counted"
    assert disk.copies.drop(KEY) and disk.copies.entries == 0, "SpaceIsGivenBack: what is dropped is counted"


def test_what_is_dropped_is_not_summed_up_any_further(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(copies, "SCAN_BYTES", 1)
    monkeypatch.setattr(copies, "SCANS", 1)
    disk = Disk()
    disk.append(0, "a", "b", "c")
    disk.sync()
    again, said = disk.restart(), list[object]()
    again.copies.when_summed(again.copy, 3, said.append)
    assert again.copies.summing and again.copies.drop(KEY)
    assert not again.copies.summing and not said, "SpaceIsGivenBack: what is gone is read"


def test_read_ends_where_it_is_told_to():
    disk = Disk()
    disk.append(0, "a", "b", "c")
    read = disk.copies.read
    assert read(disk.copy, 0, 2, 10, 100).payloads() == [b"a", b"b"], "DeliveredIsPrefix"
    assert read(disk.copy, 2, 9, 10, 100).payloads() == [b"c"], "DeliveredIsPrefix"
    assert read(disk.copy, 3, 9, 10, 100) == EMPTY == read(disk.copy, 1, 1, 10, 100), "DeliveredIsPrefix"
    assert read(disk.copy, -1, 3, 10, 100) == EMPTY, "DeliveredIsPrefix"
    disk.data_memory.damaged.add(("t/1", 0))
    with pytest.raises(CorruptionError):
        read(disk.copy, 0, 3, 10, 100)


def test_batches_that_do_not_add_up_are_not_mistaken_for_entries():
    with pytest.raises(ValueError, match="malformed"):
        Batch(b"\x05\0\0\0", b"four").check()
