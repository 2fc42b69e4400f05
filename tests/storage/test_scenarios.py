"""E1 to E13: what broke published engines of this kind, each on every backend."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.storage.stores import Store
from walrus import FsyncSchedule, ReadConsistency, Walrus
from walrus.storage.errors import BatchTooLarge
from walrus.storage.record import UNIT

FAST = {"fsync": FsyncSchedule.no_fsync()}


def test_E1_a_batch_read_that_ends_inside_the_last_full_block(store: Store) -> None:
    wal = store.open(**FAST)
    written = [b"%05d" % number * 100 for number in range(400)]
    for entry in written:
        wal.append_for_topic("t", entry)
    log = wal._engine.logs["t"]
    assert len(log.blocks) > 2
    assert log.position > 0
    found: list[bytes] = []
    while some := wal.batch_read_for_topic("t", max_bytes=7 * 500):
        assert len(some) <= 7
        found += [entry.data for entry in some]
        if len(found) % 3 == 0:
            wal = store.reopen(wal, crash=True, **FAST)
            again = wal.get_topic_entry_count("t") - (len(written) - len(found))
            assert again == len(some), "the last read comes again, and nothing else"
            assert len(wal.batch_read_for_topic("t", max_bytes=7 * 500)) == again
    assert found == written


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_E2_at_most_persist_every_entries_come_again(store: Store, batch: bool) -> None:
    options = {**FAST, "consistency": ReadConsistency.at_least_once(persist_every=5)}
    wal = store.open(**options)
    wal.batch_append_for_topic("t", [b"%02d" % number for number in range(100)])
    assert wal.read_next("empty") is None
    for _ in range(51 if not batch else 17):
        if batch:
            assert len(wal.batch_read_for_topic("t", max_bytes=6)) == 3
        else:
            assert wal.read_next("t") is not None
    delivered = 100 - wal.get_topic_entry_count("t")
    wal = store.reopen(wal, crash=True, **options)
    again = wal.read_next("t", checkpoint=False)
    assert again is not None
    assert delivered - 5 <= again.index <= delivered
    while wal.read_next("t"):
        pass
    assert wal.read_next("t") is None
    wal = store.reopen(wal, crash=False, **options)
    assert wal.read_next("t") is None


def test_E3_after_space_was_given_back_the_cursor_is_where_it_was(store: Store) -> None:
    options = {**FAST, "retain": "unread"}
    wal = store.open(**options)
    expected = 0
    for round_number in range(30):
        wal.batch_append_for_topic("t", [b"%d" % index * 300 for index in range(expected, expected + 50)])
        for _ in range(50 if round_number % 3 else 49):
            entry = wal.read_next("t")
            assert entry is not None
            expected_data = entry.data
            assert wal.bounds("t")[0] <= entry.index + 1
        wal.sync()
        wal = store.reopen(wal, crash=round_number % 2 == 0, **options)
        following = wal.read_next("t", checkpoint=False)
        if round_number % 3 == 0:
            assert following is not None
            assert following.index == entry.index + (round_number % 2)  # killed: the last read comes again
            assert wal.read_next("t") == following
        expected = wal.bounds("t")[1]
        assert expected_data
    assert wal.bounds("t")[0] > 0


def test_E4_a_refused_batch_leaves_no_trace(store: Store) -> None:
    wal = store.open(**FAST)
    wal.append_for_topic("fine", b"x")
    with pytest.raises(TypeError):
        wal.batch_append_for_topic("first", [b"x", "text"])  # type: ignore[list-item]
    with pytest.raises(BatchTooLarge):
        wal.batch_append_for_topic("second", [b""] * 2001)
    with pytest.raises(ValueError, match="1024"):
        wal.append_for_topic("ä" * 513, b"x")
    wal.batch_append_for_topic("third", [])
    for _ in range(2):
        assert wal.topics() == ["fine"]
        wal = store.reopen(wal, crash=True, **FAST)
    assert wal.batch_append_for_topic("second", [b"y"]) == 0


def test_E5_an_entry_larger_than_any_block_and_zeros_at_every_boundary(store: Store) -> None:
    wal = store.open(**FAST)
    written = [
        bytes(UNIT - 64 - 1 - 20),
        b"small",
        bytes(6 << 20),
        b"",
        bytes(UNIT),
        b"after",
        bytes(100_000),
    ]
    for entry in written:
        wal.append_for_topic("t", entry)
    for _ in range(2):
        assert list(wal.payloads("t")) == written
        wal = store.reopen(wal, crash=True, **FAST)
    assert wal.append_for_topic("t", b"more") == len(written)


def test_E6_instances_share_nothing(tmp_path: Path) -> None:
    one = Walrus(tmp_path, key="one", retain="unread", fsync=FsyncSchedule.no_fsync(), backend="mmap")
    two = Walrus(tmp_path, key="two", fsync=FsyncSchedule.sync_each(), backend="pwritev")
    for number in range(200):
        one.append_for_topic("t", bytes(1000))
        two.append_for_topic("t", b"%d" % number)
    while one.read_next("t"):
        pass
    one.delete_topic("t")
    one.close()
    assert two.get_topic_entry_count("t") == 200
    assert list(two.payloads("t")) == [b"%d" % number for number in range(200)]
    assert (one.backend, two.backend) == ("mmap", "pwritev")
    two.close()


def test_E7_looking_changes_nothing_and_readers_share_the_entries(store: Store) -> None:
    wal = store.open(**FAST)
    wal.append_for_topic("t", b"x")
    assert wal.read_next("t") is not None
    wal.sync()
    files, journal = store.data_files(), wal._engine.journal.log.next_index
    for _ in range(1000):
        assert wal.read_next("t", checkpoint=False) is None
        assert wal.batch_read_for_topic("t", checkpoint=False) == []
        assert wal.read_next("nobody") is None
    assert (store.data_files(), wal._engine.journal.log.next_index) == (files, journal)
    assert wal.topics() == ["t"]


@pytest.mark.parametrize("retain", ["all", "unread"])
def test_E7_each_entry_goes_to_one_of_many_readers(plain: Store, retain: str) -> None:
    wal = plain.open(**FAST, consistency=ReadConsistency.at_least_once(10), retain=retain)
    count, seen, lock = 4000, list[int](), threading.Lock()

    def write() -> None:
        for number in range(count // 2):
            wal.append_for_topic("t", b"%d" % number)

    def read() -> None:
        while len(seen) < count:
            some = wal.batch_read_for_topic("t", max_bytes=50)
            entry = wal.read_next("t")
            with lock:
                seen.extend(each.index for each in ([*some, entry] if entry else some))

    threads = [threading.Thread(target=work) for work in (write, write, read, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(count))


def test_E10_opening_and_closing_adds_nothing(store: Store) -> None:
    wal = store.open()
    wal.append_for_topic("t", b"x")
    wal.close()
    before = (store.data_files(), _content(store))
    for _ in range(5):
        store.open().close()
    assert (store.data_files(), _content(store)) == before


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "killed"])
def test_E10_runs_that_write_little_do_not_grow_the_log(store: Store, crash: bool) -> None:
    wal = store.open()
    for number in range(40):
        wal.append_for_topic("t", b"%d" % number)
        wal.append_for_topic("gone", bytes(50_000))
        wal.delete_topic("gone")
        wal = store.reopen(wal, crash=crash)
    assert wal._engine.space.total_bytes() <= 1 << 20
    assert len(store.data_files()) == 1
    assert list(wal.payloads("t")) == [b"%d" % number for number in range(40)]
    wal._engine.space.check_invariants()


def _content(store: Store) -> object:
    if store.backend == "simulated":
        return store.platter.image()
    return [(path.name, path.read_bytes()) for path in sorted(store.directory.glob("*.wal"))]


def test_E10_files_that_were_removed_are_closed(plain: Store) -> None:
    wal = plain.open()
    for _ in range(3):
        for _ in range(12):
            wal.batch_append_for_topic("t", [bytes(1 << 20)])
        wal.delete_topic("t")
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _exists(fd)]
    assert not [link for link in links if str(plain.directory) in link and "deleted" in link]


def _exists(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "a_b",
    "A",
    "a",
    "../../etc/passwd",
    "\0",
    "ä" * 512,
    "x" * 1024,
    "日本",
    "a\nb",
    " ",
]


def test_E11_any_name_is_a_topic_and_any_length_an_entry(store: Store) -> None:
    wal = store.open(**FAST)
    for number, name in enumerate(NAMES):
        assert wal.append_for_topic(name, b"") == 0
        assert wal.batch_append_for_topic(name, [b"", b"%d" % number, b""]) == 1
    outside = sorted(path.name for path in store.root.iterdir())
    for _ in range(2):
        assert wal.topics() == sorted(NAMES)
        for number, name in enumerate(NAMES):
            assert list(wal.payloads(name)) == [b"", b"", b"%d" % number, b""]
            entry = wal.read_next(name, checkpoint=False)
            assert entry is not None
            assert entry.data == b""
            assert len(wal.batch_read_for_topic(name, max_bytes=0, checkpoint=False)) >= 1
        wal = store.reopen(wal, crash=False, **FAST)
    assert sorted(path.name for path in store.root.iterdir()) == outside


def test_E12_leftovers_are_not_read_as_data(plain: Store) -> None:
    wal = plain.open()
    wal.append_for_topic("t", b"x")
    whole = (plain.directory / "00000001.wal").read_bytes()
    wal.close()
    (plain.directory / "00000001.wal.tmp").write_bytes(whole)
    (plain.directory / "notes.txt").write_bytes(b"walrus")
    (plain.directory / "00000002.wal").write_bytes(b"")
    (plain.directory / "00000003.wal").write_bytes(whole[: UNIT * 5 + 17])
    wal = plain.open()
    assert wal.topics() == ["t"]
    assert list(wal.payloads("t")) == [b"x"]
    for number in range(40):
        wal.append_for_topic("u", b"%d" % number * 5000)
    wal = plain.reopen(wal, crash=False)
    assert [entry[:1] for entry in wal.payloads("u")][:3] == [b"0", b"1", b"2"]
    assert wal.verify() == []


def test_E12_a_file_that_ends_with_its_last_block_opens(plain: Store) -> None:
    wal = plain.open()
    wal.append_for_topic("t", b"x")
    block = wal._engine.logs["t"].blocks[-1]
    wal.close()
    os.truncate(plain.directory / "00000001.wal", block.extent.offset + block.extent.size)
    wal = plain.open()
    assert list(wal.payloads("t")) == [b"x"]
    for _ in range(10):
        wal.append_for_topic("t", bytes(10_000))
    assert plain.reopen(wal, crash=True).bounds("t") == (0, 11)


@pytest.mark.parametrize("crash", [False, True], ids=["closed", "killed"])
def test_E13_everything_of_all_runs_is_there(store: Store, crash: bool) -> None:
    wal, written = store.open(), list[bytes]()
    for run in range(8):
        for number in range(30):
            written.append(b"run %d, entry %d" % (run, number) * 40)
            wal.append_for_topic("t", written[-1])
        wal = store.reopen(wal, crash=crash)
        assert list(wal.payloads("t")) == written
