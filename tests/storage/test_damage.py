"""Torn tails and bit rot: the first is cut, the second is named, and neither is taken for the other."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from tests.storage.stores import Store, places
from walrus import FsyncSchedule, Walrus
from walrus.sim.disk import Platter
from walrus.storage.batch import Batch
from walrus.storage.errors import CorruptionError, FormatError
from walrus.storage.record import UNIT, Life, decode_block

FILE = "00000001.wal"


def change(store: Store, offset: int, data: bytes) -> None:
    """Overwrite bytes of the data file behind the engine's back."""
    path = store.directory / FILE
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("filler", ["zeros", "garbage"])
@pytest.mark.parametrize("last", ["one", "batch"])
def test_a_cut_at_every_byte_of_the_last_record(tmp_path: Path, last: str, filler: str) -> None:
    platter = Platter(random.Random(5))
    wal = Walrus(disk=platter.directory("log"))
    wal.batch_append_for_topic("t", [b"first", b"", b"third"])
    wal.append_for_topic("other", b"whole")
    entries = [b"x" * 20] if last == "one" else [b"a", b"bb" * 9, b""]
    wal.batch_append_for_topic("t", entries)
    start, end = places(wal, "t")[-1]
    image = platter.directory("log").open(FILE).view(0, 16 * UNIT).tobytes()
    for kept in range(end - start + 1):
        rest = (
            bytes(end - start - kept)
            if filler == "zeros"
            else random.Random(kept).randbytes(end - start - kept)
        )
        torn = Platter(random.Random(6))
        file = torn.directory("log").create(FILE, 16 * UNIT)
        file.pwrite(image[: start + kept] + rest + image[end:], 0)
        wal = Walrus(disk=torn.directory("log"))
        whole = image[start + kept : end] == rest  # the last bytes of a record may be zeros themselves
        left = 3 + len(entries) * whole
        assert wal.bounds("t") == (0, left), f"PrefixAgree: a torn record counts in part, cut at {kept}"
        assert list(wal.payloads("t"))[:3] == [b"first", b"", b"third"], "AckedDurable"
        assert list(wal.payloads("other")) == [b"whole"], "AckedDurable"
        assert wal.recovery.damage == [], "AckedDurable: a torn write passes for damage"
        touched = bool(image[start : start + kept].strip(b"\0")) or filler == "garbage"
        assert (wal.recovery.dropped_bytes > 0) == (touched and not whole), f"AckedDurable: cut at {kept}"
        assert wal.append_for_topic("t", b"after") == wal.bounds("t")[1] - 1, (
            "SeqOrder: the number after a cut is another one"
        )
        torn.kill()
        wal = Walrus(disk=torn.directory("log"))
        assert wal.recovery.clean, "AckedDurable: something to cut after a cut"
        assert list(wal.payloads("t"))[-1] == b"after", "AckedDurable"


def test_the_cut_is_logged_and_counted(plain: Store, caplog: pytest.LogCaptureFixture) -> None:
    wal = plain.open()
    wal.append_for_topic("t", b"whole")
    wal.append_for_topic("t", b"torn off here")
    start, end = places(wal, "t")[-1]
    plain.crash()
    change(plain, end - 3, b"\0\0\0")
    with caplog.at_level(logging.WARNING, "walrus"):
        wal = plain.open()
    assert wal.recovery.dropped_bytes == end - 3 - start, "AckedDurable: more or less is cut than was torn"
    assert [cut.topic for cut in wal.recovery.cuts] == ["t"], "AckedDurable: the cut of another topic"
    assert f"{end - 3 - start} bytes of a torn write" in caplog.text


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "killed"])
@pytest.mark.parametrize(
    "schedule", [FsyncSchedule.sync_each(), FsyncSchedule.no_fsync()], ids=["each", "none"]
)
@pytest.mark.parametrize("where", ["tag", "size", "position", "body", "check"])
def test_E14_a_bad_record_in_the_middle_is_named_and_can_be_skipped(
    plain: Store, where: str, schedule: FsyncSchedule, crash: bool
) -> None:
    wal = plain.open(fsync=schedule)
    for number in range(10):
        wal.append_for_topic("t", b"entry %d" % number)
    wal.append_for_topic("other", b"fine")
    start, end = places(wal, "t")[4]
    plain.crash() if crash else wal.close()
    offset = {"tag": start, "size": start + 5, "position": start + 8, "body": start + 20, "check": end - 1}[
        where
    ]
    old = (plain.directory / FILE).read_bytes()[offset]
    change(plain, offset, bytes([old ^ 0x10]))
    wal = plain.open(fsync=schedule)
    for _ in range(2):
        assert wal.bounds("t") == (0, 10), "AckedDurable: damage is cut as if it were torn"
        with pytest.raises(CorruptionError) as caught:
            list(wal.payloads("t"))
        error = caught.value
        assert (error.file, error.offset, error.topic, error.index, error.resume) == (
            FILE,
            start,
            "t",
            4,
            5,
        ), "DeliveredIsPrefix: the damage is named elsewhere"
        assert [entry.index for entry in wal.read_at("t", 0)] == [0, 1, 2, 3], (
            "DeliveredIsPrefix: entries before the damage are not read"
        )
        with pytest.raises(CorruptionError):
            wal.read_at("t", 4)
        assert [entry.data for entry in wal.read_at("t", 5)] == [
            b"entry %d" % number for number in range(5, 10)
        ], "DeliveredIsPrefix: entries behind the damage are not read"
        assert list(wal.payloads("other")) == [b"fine"], "AckedDurable: damage of one topic costs another one"
        assert [(hole.topic, hole.first, hole.resume) for hole in wal.verify()] == [("t", 4, 5)], (
            "DeliveredIsPrefix: the damage is named elsewhere"
        )
        wal = plain.reopen(wal, crash=crash, fsync=schedule)
    assert [entry.index for entry in wal.batch_read_for_topic("t")] == [0, 1, 2, 3], (
        "DeliveredIsPrefix: entries before the damage are not delivered"
    )
    for _ in range(2):
        with pytest.raises(CorruptionError):
            wal.read_next("t")
    wal.seek("t", error.resume)
    assert wal.read_next("t").index == 5, "DeliveredIsPrefix: a read does not go on behind the damage"
    assert wal.append_for_topic("t", b"more") == 10, "SeqOrder"


def test_rot_in_the_last_record_of_a_closed_log_is_damage_not_a_torn_write(plain: Store) -> None:
    wal = plain.open()
    wal.append_for_topic("t", b"kept")
    wal.append_for_topic("t", b"rots")
    start, _ = places(wal, "t")[-1]
    wal.close()
    change(plain, start + 17, b"!")
    wal = plain.open()
    for _ in range(2):
        assert wal.bounds("t") == (0, 2), "AckedDurable: damage is cut as if it were torn"
        assert wal.verify()[0].first == 1, "AckedDurable: damage passes for a torn write"
        with pytest.raises(CorruptionError):
            wal.read_at("t", 1)
        wal = plain.reopen(wal, crash=False)
    assert wal.append_for_topic("t", b"next") == 2, "SeqOrder: the number of a durable entry is given again"
    wal = plain.reopen(wal, crash=True)
    assert wal.read_at("t", 2)[0].data == b"next", "AckedDurable: what follows the damage cannot be appended"
    with pytest.raises(CorruptionError):
        wal.read_at("t", 1)


def test_rot_in_an_open_log_is_found_by_the_next_read(plain: Store) -> None:
    wal = plain.open()
    for number in range(100):
        wal.append_for_topic("t", b"entry %d" % number)
    assert len(list(wal.payloads("t"))) == 100
    change(plain, places(wal, "t")[50][0] + 17, b"!")
    with pytest.raises(CorruptionError) as caught:
        list(wal.payloads("t"))
    assert caught.value.index == 50, "DeliveredIsPrefix: the damage is named elsewhere"


def test_rot_at_the_end_of_a_tail_that_grew_under_its_reader_is_one_hole(plain: Store) -> None:
    wal = plain.open()
    wal.append_for_topic("t", b"read")
    assert wal.read_next("t").index == 0
    for number in range(1, 4):
        wal.append_for_topic("t", b"entry %d" % number)
    for start, _ in places(wal, "t")[1:]:
        change(plain, start + 17, b"!")
    with pytest.raises(CorruptionError) as caught:
        wal.read_next("t")
    assert (caught.value.index, caught.value.resume) == (1, 4), "DeliveredIsPrefix: the hole ends too early"


def test_a_flip_of_any_bit_never_gives_wrong_data(tmp_path: Path) -> None:
    """Every byte that is in use, one flipped bit each: entries are right, or refused, or cut from the end."""
    platter = Platter(random.Random(3))
    wal = Walrus(disk=platter.directory("log"))
    written = [[b"zero"], [b"one", b"two"], [b""], [b"four" * 5]]
    for entries in written:
        wal.batch_append_for_topic("t", entries)
    wal.read_next("t")
    wal.close()
    flat = [entry for entries in written for entry in entries]
    image = platter.directory("log").open(FILE).view(0, 16 * UNIT).tobytes()
    used = [offset for offset, byte in enumerate(image) if byte]
    for offset in used[::3]:
        damaged = bytearray(image)
        damaged[offset] ^= 1 << (offset % 8)
        again = Platter(random.Random(4))
        again.directory("log").create(FILE, len(image)).pwrite(damaged, 0)
        try:
            wal = Walrus(disk=again.directory("log"))
        except FormatError:
            continue
        for index in range(wal.bounds("t")[1]):
            try:
                found = wal.read_at("t", index, max_entries=1)[0].data
                assert found == flat[index], "PrefixAgree: damage is read as an entry"
            except CorruptionError as error:
                assert error.resume > index, "DeliveredIsPrefix: the reader does not get on"
        again.kill()


def test_a_damaged_block_header_takes_its_block_and_nothing_else(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    for number in range(60):
        wal.append_for_topic("t", b"%03d" % number * 1000)
        wal.append_for_topic("u", b"u")
    blocks = wal._engine.logs["t"].blocks
    assert len(blocks) >= 3
    lost = range(blocks[1].head.base, blocks[2].head.base)
    wal.close()
    change(plain, blocks[1].extent.offset + 20, b"????")
    wal = plain.open()
    assert [(hole.first, hole.resume) for hole in wal.recovery.damage] == [(lost.start, lost.stop)], (
        "AckedDurable: other entries than those of the block are lost"
    )
    with pytest.raises(CorruptionError) as caught:
        list(wal.payloads("t"))
    assert (caught.value.index, caught.value.resume) == (lost.start, lost.stop), "AckedDurable"
    assert len(list(wal.payloads("t", lost.stop))) == 60 - lost.stop, (
        "AckedDurable: what follows the damage cannot be read"
    )
    assert len(list(wal.payloads("u"))) == 60, "AckedDurable"


def test_any_flipped_bit_of_any_header_is_flipped_back() -> None:
    """Above all in a topic's last block: no other block speaks of it, its entries would just be gone."""
    platter = Platter(random.Random(3))
    wal = Walrus(disk=platter.directory("log"))
    for number in range(40):
        wal.write("orders/1", Batch.of([b"%03d" % number * 200]))
    wal.sync()
    blocks = list(wal._engine.logs["orders/1"].blocks)
    file = wal._engine.space.file(1).name
    platter.kill()
    assert len(blocks) == 2
    for block in blocks:
        for bit in range(0, 8 * block.head.start, 3):
            if bit // 8 in (6, 7):
                continue  # the version: another one is refused, and nothing is lost
            platter.flip_bit("log", file, 8 * block.extent.offset + bit)
            again = Walrus(disk=platter.directory("log"))
            whole = again.bounds("orders/1") == (0, 40) and again.recovery.clean
            assert whole, f"AckedDurable: bit {bit} of the header of block {block.head.sequence}"
            platter.kill()
            platter.flip_bit("log", file, 8 * block.extent.offset + bit)


def test_a_topic_that_loses_its_only_header_is_missed(plain: Store) -> None:
    wal = plain.open()
    wal.append_for_topic("u", b"u")
    wal.batch_append_for_topic("t", [b"x", b"y"])
    [block] = wal._engine.logs["t"].blocks
    wal.close()
    change(plain, block.extent.offset + 20, b"????")
    for _ in range(2):  # looking does not make it whole
        wal = plain.open()
        assert wal.topics() == ["u"], "AckedDurable"
        assert [note.durable for note in wal.recovery.nameless] == [2], (
            "AckedDurable: a topic that lost its header is not missed"
        )
        assert not wal.recovery.clean, "AckedDurable: a topic that lost its header is not missed"
        wal.close()
    wal = plain.open()
    assert wal.append_for_topic("t", b"anew") == 0, "SeqOrder"
    wal.close()
    wal = plain.open()
    assert wal.recovery.clean, "AckedDurable: what is missed of an earlier topic is missed of the next"
    assert list(wal.payloads("t")) == [b"anew"], "AckedDurable"


def test_a_version_that_is_not_known_is_refused(plain: Store) -> None:
    wal = plain.open()
    wal.append_for_topic("t", b"x")
    wal.close()
    change(plain, 6, b"\x63\x00")
    with pytest.raises(FormatError, match="version 99"):
        plain.open()
    change(plain, 6, b"\x01\x00")
    assert list(plain.open().payloads("t")) == [b"x"]


def test_an_older_life_of_a_block_is_never_read(plain: Store) -> None:
    """A recycled block holds records of the same topic, at the same places, with the same numbers."""
    wal = plain.open()
    for _ in range(3):
        for number in range(20):
            wal.append_for_topic("t", b"old %d" % number)
        wal.delete_topic("t")
    assert wal.append_for_topic("t", b"new") == 0, (
        "SeqOrder: a topic that is begun anew has the numbers of the old one"
    )
    plain.crash()
    block = wal._engine.logs["t"].blocks[0]
    old = Life.of(block.head.life - 1, block.extent.file, block.extent.offset)
    assert old.tag != block.life.tag
    wal = plain.open()
    assert list(wal.payloads("t")) == [b"new"], "PrefixAgree: an older life of a block is read"


def test_records_inside_entries_are_only_bytes(plain: Store) -> None:
    """An entry that holds a whole data file of this very log is not taken for one."""
    wal = plain.open()
    wal.append_for_topic("t", b"x" * 100)
    for _ in range(3):
        wal.append_for_topic("t", (plain.directory / FILE).read_bytes()[: 3 * UNIT])
    wal.append_for_topic("t", bytes(2 * UNIT))
    expected = list(wal.payloads("t"))
    wal = plain.reopen(wal, crash=True)
    assert list(wal.payloads("t")) == expected, "PrefixAgree: a payload is taken for a record"
    assert wal.recovery.clean, "AckedDurable: an entry passes for a record"
    assert wal.topics() == ["t"]


def test_headers_are_bound_to_their_place() -> None:
    platter = Platter(random.Random(9))
    wal = Walrus(disk=platter.directory("log"))
    wal.write("t", Batch.of([b"x"]))
    block = wal._engine.logs["t"].blocks[0]
    view = wal._engine.space.view(block.extent)
    assert decode_block(view, block.extent.file, block.extent.offset) == block.head, (
        "PrefixAgree: a header does not hold in its place"
    )
    assert decode_block(view, block.extent.file, block.extent.offset + UNIT) is None, (
        "PrefixAgree: a header holds elsewhere"
    )
    assert decode_block(view, block.extent.file + 1, block.extent.offset) is None, (
        "PrefixAgree: a header holds in another file"
    )


def test_a_first_block_that_lost_its_header_is_missed_if_it_held_one_entry(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    for _ in range(2):
        wal.append("t", bytes(16_000))
    first, second = wal._engine.logs["t"].blocks
    assert second.head.base == 1
    wal.close()
    change(plain, first.extent.offset + 20, b"????")
    wal = plain.open()
    damage = [(hole.first, hole.resume) for hole in wal.recovery.damage]
    assert damage == [(0, 1)], "AckedDurable: a reader would be told that the entry was trimmed on purpose"
