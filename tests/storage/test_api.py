"""What `Walrus` promises, on every backend."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from tests.storage.stores import Store
from walrus import Entry, FsyncSchedule, ReadConsistency, Walrus
from walrus.storage.batch import Batch
from walrus.storage.errors import BatchTooLarge, DirectoryInUse, EngineClosed, StorageError
from walrus.storage.io_uring import DISABLE_VARIABLE
from walrus.storage.record import MAX_NAME
from walrus.wal import MAX_TOPIC_BYTES, key_directory

BOTH = pytest.mark.parametrize("crash", [False, True], ids=["closed", "killed"])


@BOTH
def test_what_was_appended_is_read_back_also_after_reopening(store: Store, crash: bool) -> None:
    wal = store.open()
    assert [wal.append_for_topic("t", b"%d" % number) for number in range(5)] == [0, 1, 2, 3, 4], (
        "SeqOrder: entries do not get the next numbers"
    )
    assert wal.batch_append_for_topic("t", [b"a", b"", b"c"]) == 5, (
        "SeqOrder: a batch does not get the next numbers"
    )
    assert wal.batch_append_for_topic("u", [b"x"]) == 0, "SeqOrder: the numbers of two topics mix"
    for _ in range(3):
        assert list(wal.payloads("t")) == [b"0", b"1", b"2", b"3", b"4", b"a", b"", b"c"], "AckedDurable"
        assert wal.read_at("t", 4, max_entries=2) == [Entry(4, b"4"), Entry(5, b"a")], "DeliveredIsPrefix"
        assert list(wal.entries("t", 6)) == [Entry(6, b""), Entry(7, b"c")], (
            "AckedDurable: not what was appended"
        )
        assert wal.topics() == ["t", "u"], "AckedDurable: a topic is missing, or more than there are"
        assert wal.bounds("t") == (0, 8), "AckedDurable"
        assert wal.recovery.clean, "AckedDurable: damage or a cut after an orderly close"
        wal = store.reopen(wal, crash=crash)
    assert wal.append_for_topic("t", b"next") == 8, "SeqOrder"


@pytest.mark.parametrize("sizes", [(100,), (0,), (1, 2, 3), (40_000, 10), (5_000_000,)], ids=str)
def test_many_blocks_of_entries_of_any_size(store: Store, sizes: tuple[int, ...]) -> None:
    rng = random.Random(7)
    wal = store.open(fsync=FsyncSchedule.no_fsync())
    written: list[bytes] = []
    total = 0
    while total < 6_000_000 and len(written) < 20_000:
        entries = [rng.randbytes(rng.choice(sizes)) for _ in range(rng.choice([1, 1, 1, 200]))][:2000]
        entries = entries if max(sizes) < 10_000 else entries[:2]
        if len(entries) == 1:
            assert wal.append_for_topic("t", entries[0]) == len(written), "SeqOrder"
        else:
            assert wal.batch_append_for_topic("t", entries) == len(written), "SeqOrder"
        written += entries
        total += sum(map(len, entries)) + 100
    for _ in range(2):
        assert list(wal.payloads("t")) == written, "AckedDurable"
        for _ in range(50):
            index = rng.randrange(len(written))
            assert wal.read_at("t", index, max_entries=1) == [Entry(index, written[index])], (
                "AckedDurable: not what was appended"
            )
        start = rng.randrange(len(written))
        batch = wal.read_batch("t", start, 10_000, 1 << 20)
        assert batch.payloads() == written[start : start + batch.count], "AckedDurable: not what was appended"
        assert batch.count
        wal = store.reopen(wal, crash=True, fsync=FsyncSchedule.no_fsync())
    assert wal.verify() == [], "AckedDurable: damage in a sound log"


def test_limits_of_a_read(store: Store) -> None:
    wal = store.open()
    wal.batch_append_for_topic("t", [b"x" * size for size in (10, 100, 10, 10, 0)])
    sizes = [
        [len(entry.data) for entry in wal.read_at("t", 0, max_bytes=limit)] for limit in (0, 10, 109, 110)
    ]
    assert sizes == [[10], [10], [10], [10, 100]]
    assert [entry.index for entry in wal.read_at("t", 1, max_entries=2)] == [1, 2], (
        "DeliveredIsPrefix: a read goes beyond its limit, or skips"
    )
    assert wal.read_at("t", 5) == [], "DeliveredIsPrefix: something is read behind the end"
    assert wal.read_at("nobody", 0) == []
    assert wal.read_batch("t", 1, 2, 5).payloads() == [b"x" * 100]
    assert wal.read_batch("t", 99, 2, 5) == Batch(b"", b""), (
        "DeliveredIsPrefix: something is read behind the end"
    )
    assert [len(e.data) for e in wal.batch_read_for_topic("t", max_bytes=50)] == [10]
    assert [len(e.data) for e in wal.batch_read_for_topic("t", max_bytes=50)] == [100]
    assert [len(e.data) for e in wal.batch_read_for_topic("t", max_bytes=50)] == [10, 10, 0]
    assert wal.batch_read_for_topic("t", max_bytes=50) == []


def test_a_batch_of_several_records_keeps_within_its_bytes(store: Store) -> None:
    wal = store.open()
    for _ in range(3):
        wal.append("t", b"ten bytes.")
    assert wal.read_batch("t", 0, 100, 25).count == 2


def test_batches_are_limited_before_anything_is_written(store: Store) -> None:
    wal = store.open()
    with pytest.raises(BatchTooLarge, match="2001 entries"):
        wal.batch_append_for_topic("t", [b""] * 2001)
    with pytest.raises(ValueError, match="split it"):
        wal.batch_append_for_topic("t", [bytes(1 << 20)] * 1025)
    assert wal.topics() == []
    assert wal.batch_append_for_topic("t", [b""] * 2000) == 0, (
        "SeqOrder: a batch that was refused has taken numbers"
    )
    assert wal.batch_append_for_topic("t", []) == 2000, "SeqOrder: an empty batch takes a number"
    assert len(wal.batch_read_for_topic("t")) == 2000, "AckedDurable"


def test_any_bytes_like_object_is_an_entry_and_text_is_not(plain: Store) -> None:
    wal = plain.open()
    numbers = array("I", [1, 2, 3])
    odd = memoryview(b"abcdef")[::2]
    for data in (b"x", bytearray(b"x"), memoryview(b"x"), numbers, odd):
        wal.append_for_topic("t", data)
    wal.batch_append_for_topic("t", [b"x", bytearray(b"x"), memoryview(b"x"), numbers, odd])
    assert list(wal.payloads("t")) == [b"x", b"x", b"x", bytes(numbers), b"ace"] * 2, (
        "AckedDurable: not what was appended"
    )
    for wrong in ("text", 7, None):
        with pytest.raises(TypeError, match="encode it" if wrong == "text" else "bytes-like"):
            wal.append_for_topic("t", wrong)
        with pytest.raises(TypeError):
            wal.batch_append_for_topic("t", [b"fine", wrong])
    with pytest.raises(TypeError, match="use append"):
        wal.batch_append_for_topic("t", b"one entry")
    assert wal.bounds("t") == (0, 10), "SeqOrder: what was refused has taken a number"


@BOTH
def test_the_cursor_goes_on_where_it_was(store: Store, crash: bool) -> None:
    wal = store.open()
    wal.batch_append_for_topic("t", [b"%d" % number for number in range(10)])
    assert wal.read_next("t", checkpoint=False) == wal.read_next("t") == Entry(0, b"0"), (
        "DeliveredIsPrefix: a look moves the cursor"
    )
    assert [e.index for e in wal.batch_read_for_topic("t", max_bytes=3, checkpoint=False)] == [1, 2, 3], (
        "DeliveredIsPrefix"
    )
    assert [e.index for e in wal.batch_read_for_topic("t", max_bytes=3)] == [1, 2, 3], (
        "DeliveredIsPrefix: a look moves the cursor"
    )
    wal = store.reopen(wal, crash=crash)
    if crash:  # the last read, which no later one has confirmed, comes again
        assert [e.index for e in wal.batch_read_for_topic("t", max_bytes=3)] == [1, 2, 3], (
            "DeliveredIsPrefix: a look moves the cursor"
        )
    assert wal.get_topic_entry_count("t") == 6
    assert wal.get_topic_entry_counts() == {"t": 6}
    assert wal.read_next("t") == Entry(4, b"4"), "NothingSkipped: a cursor does not go on where it was"
    wal.seek("t", 8)
    wal = store.reopen(wal, crash=crash)
    assert [entry.index for entry in wal.batch_read_for_topic("t")] == [8, 9], "NothingSkipped"
    assert wal.read_next("t") is None, "DeliveredIsPrefix: something is read behind the end"
    for outside in (-1, 11):
        with pytest.raises(IndexError):
            wal.seek("t", outside)
    with pytest.raises(KeyError):
        wal.seek("unknown", 0)


@BOTH
def test_trim_and_delete(store: Store, crash: bool) -> None:
    wal = store.open(fsync=FsyncSchedule.no_fsync())
    for _ in range(40):
        wal.batch_append_for_topic("t", [bytes(1000)] * 200)
        wal.append_for_topic("u", b"u")
    size = wal.get_topic_size("t")
    wal.trim("t", 7000)
    assert wal.get_topic_size("t") < size, "SpaceIsGivenBack: a trim gives nothing back"
    wal.trim("u", 1000)
    wal.trim("nobody", 1)
    for _ in range(2):
        assert wal.bounds("t") == (7000, 8000), "TrimmedStaysTrimmed, AckedDurable"
        assert wal.bounds("u") == (40, 40), "TrimmedStaysTrimmed, SeqOrder"
        assert next(wal.entries("t")).index == 7000, "TrimmedStaysTrimmed"
        assert wal.read_next("t", checkpoint=False).index == 7000, (
            "MarkInBounds: a cursor is at what is trimmed"
        )
        with pytest.raises(IndexError, match="7000"):
            wal.read_at("t", 6999)
        assert wal.read_next("u") is None, "TrimmedStaysTrimmed"
        wal = store.reopen(wal, crash=crash)
    wal.delete_topic("t")
    wal.delete_topic("nobody")
    for _ in range(2):
        assert wal.topics() == ["u"], "TrimmedStaysTrimmed: a deleted topic comes back"
        assert wal.bounds("t") == (0, 0), "TrimmedStaysTrimmed: of a deleted topic something is left"
        assert wal.read_next("t") is None, "TrimmedStaysTrimmed: of a deleted topic something is read"
        wal = store.reopen(wal, crash=crash)
    assert wal.append_for_topic("t", b"new") == 0, (
        "TrimmedStaysTrimmed: a topic that is begun anew has the numbers of the old one"
    )
    assert wal.append_for_topic("u", b"new") == 40, "SeqOrder"
    wal = store.reopen(wal, crash=crash)
    assert list(wal.payloads("t")) == [b"new"], "TrimmedStaysTrimmed: entries of the deleted topic"
    assert list(wal.payloads("u")) == [b"new"], "AckedDurable"


def test_space_that_was_given_back_is_used_again(store: Store) -> None:
    wal = store.open(retain="unread", fsync=FsyncSchedule.no_fsync())
    files: set[str] = set()
    for round_number in range(60):
        wal.batch_append_for_topic("t", [bytes(1000)] * 1000)
        assert len(wal.batch_read_for_topic("t", max_bytes=1 << 30)) == 1000, "NothingSkipped"
        files |= set(store.data_files()) if round_number > 30 else set()
    wal.sync()
    assert wal._engine.space.total_bytes() < 100 << 20, "SpaceIsGivenBack"
    wal._engine.space.check_invariants()
    assert wal.bounds("t")[1] == 60_000, "SeqOrder"
    assert wal.bounds("t")[0] > 40_000, "SpaceIsGivenBack"


def test_deleting_gives_files_back_to_the_file_system(store: Store) -> None:
    wal = store.open()
    for _ in range(30):
        wal.batch_append_for_topic("t", [bytes(1 << 20)])
    before = wal._engine.space.total_bytes()
    wal.delete_topic("t")
    assert wal._engine.space.total_bytes() < before / 4, "SpaceIsGivenBack"
    assert len(store.data_files()) == len(wal._engine.space.sizes), "SpaceIsGivenBack"


def test_a_second_engine_on_the_directory_is_told_the_pid(plain: Store) -> None:
    plain.open()
    with pytest.raises(DirectoryInUse) as caught:
        plain.open()
    assert (caught.value.directory, caught.value.pid) == (str(plain.directory), os.getpid())
    code = f"from walrus import Walrus; Walrus({str(plain.directory)!r})"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}" in child.stderr


def test_nothing_works_after_close(store: Store) -> None:
    wal = store.open()
    wal.append_for_topic("t", b"x")
    wal.read_next("t", checkpoint=False)
    wal.close()
    wal.close()
    calls = [
        lambda: wal.append_for_topic("t", b"x"),
        lambda: wal.append_for_topic("new", b"x"),
        lambda: wal.batch_append_for_topic("t", [b"x"]),
        lambda: wal.batch_append_for_topic("t", []),
        lambda: wal.read_next("t"),
        lambda: wal.batch_read_for_topic("t"),
        lambda: wal.seek("t", 0),
        lambda: wal.read_at("t", 0),
        lambda: next(wal.payloads("t")),
        lambda: next(wal.entries("t")),
        lambda: wal.topics(),
        lambda: wal.bounds("t"),
        lambda: wal.get_topic_entry_count("t"),
        lambda: wal.get_topic_entry_counts(),
        lambda: wal.get_topic_size("t"),
        lambda: wal.sync(),
        lambda: wal.syncer(),
        lambda: wal.trim("t", 1),
        lambda: wal.delete_topic("t"),
        lambda: wal.verify(),
    ]
    for call in calls:
        with pytest.raises(EngineClosed):
            call()


def test_keys_are_directories_that_neither_escape_nor_collide(tmp_path: Path) -> None:
    keys = [
        "a",
        "A",
        "a/b",
        "a_b",
        "..",
        ".",
        "",
        "ä",
        "engine.lock",
        "x" * 500,
        "y" * 500,
        "%",
        "a%2fb",
        "con",
    ]
    names = [key_directory(key) for key in keys]
    assert len({name.lower() for name in names}) == len(keys)
    assert all(len(name) < 200 and not set(name) & set("/\\.\0") for name in names)
    for number, key in enumerate(keys):
        with Walrus(tmp_path / "root", key=key) as wal:
            assert wal.append_for_topic("t", b"%d" % number) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    for number, key in enumerate(keys):
        with Walrus(tmp_path / "root", key=key) as wal:
            assert list(wal.payloads("t")) == [b"%d" % number], "AckedDurable: two keys share a directory"


def test_the_environment_gives_directory_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALRUS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WALRUS_INSTANCE_KEY", "tenant")
    with Walrus() as wal:
        wal.append_for_topic("t", b"x")
    assert (tmp_path / "data" / "tenant" / "00000001.wal").exists()
    monkeypatch.delenv("WALRUS_DATA_DIR")
    monkeypatch.delenv("WALRUS_INSTANCE_KEY")
    monkeypatch.chdir(tmp_path)
    with Walrus() as wal:
        wal.append_for_topic("t", b"x")
    assert (tmp_path / "wal_files" / "00000001.wal").exists()


def test_backends_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DISABLE_VARIABLE, "1")
    with pytest.raises(StorageError, match="io_uring is not available here"):
        Walrus(tmp_path, backend="io_uring")
    with Walrus(tmp_path, fsync=FsyncSchedule.group_commit()) as wal:
        assert wal.backend == "pwritev"
    with pytest.raises(ValueError, match="there are auto"):
        Walrus(tmp_path, backend="punched cards")
    with pytest.raises(ValueError, match="unread"):
        Walrus(tmp_path, retain="some")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is always pwritev")
def test_auto_is_what_the_benchmark_shows_to_be_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DISABLE_VARIABLE, "1")
    best = {
        FsyncSchedule.sync_each(): "pwritev",
        FsyncSchedule.milliseconds(50): "mmap",
        FsyncSchedule.no_fsync(): "mmap",
        FsyncSchedule.group_commit(): "pwritev",  # io_uring, where it is available
    }
    for schedule, backend in best.items():
        with Walrus(tmp_path, key=str(schedule), fsync=schedule) as wal:
            assert wal.backend == backend, schedule


def test_schedules_and_consistencies_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FsyncSchedule.milliseconds(0)
    with pytest.raises(ValueError, match="at least 1"):
        ReadConsistency.at_least_once(0)


@pytest.mark.parametrize("schedule", [FsyncSchedule.sync_each(), FsyncSchedule.milliseconds(1)], ids=str)
def test_every_schedule_survives_a_kill(store: Store, schedule: FsyncSchedule) -> None:
    if store.backend == "simulated":
        pytest.skip("the simulated disk is for one thread")
    wal = store.open(fsync=schedule)
    for number in range(50):
        wal.append_for_topic("t", b"%d" % number)
    wal = store.reopen(wal, crash=True, fsync=schedule)
    assert wal.bounds("t") == (0, 50), "AckedDurable: lost by a kill"


def test_a_thousand_small_topics_are_cheap(plain: Store) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    for number in range(1000):
        wal.append_for_topic(f"topic-{number}", b"small")
    wal = plain.reopen(wal, crash=False)
    assert len(wal.topics()) == 1000
    assert sum(path.stat().st_size for path in plain.directory.glob("*")) < 50 << 20
    assert len(plain.data_files()) < 6


def test_the_limit_of_an_entry_holds_for_each_one(plain: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = plain.open(fsync=FsyncSchedule.no_fsync())
    wal.append_for_topic("known", b"small")
    monkeypatch.setattr("walrus.storage.log.MAX_BATCH_BYTES", 1 << 20)
    for topic in ("known", "new"):
        with pytest.raises(BatchTooLarge, match="the limit is"):
            wal.append_for_topic(topic, bytes((1 << 20) + 1))
    assert wal.append_for_topic("known", bytes(1 << 20)) == 1
    assert wal.topics() == ["known"]


def test_a_record_that_its_size_cannot_tell_is_refused(plain: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GiB and more: one bit of the size says that a record is a batch."""
    wal = plain.open()
    wal.append_for_topic("t", b"before")
    monkeypatch.setattr("walrus.storage.log.MAX_BODY", 1 << 16)
    with pytest.raises(BatchTooLarge, match="does not fit into one record"):
        wal.batch_append_for_topic("t", [bytes(1 << 10)] * 64)
    assert wal.batch_append_for_topic("t", [bytes(1 << 10)] * 60) == 1
    wal = plain.reopen(wal, crash=True)
    assert len(wal.batch_read_for_topic("t", max_bytes=1 << 20)) == 61


def test_a_name_longer_than_a_block_header_can_mend_is_refused(plain: Store) -> None:
    wal = plain.open()
    for name in ("x" * (MAX_TOPIC_BYTES + 1), "\u00e9" * (MAX_TOPIC_BYTES // 2) + "x"):
        with pytest.raises(ValueError, match="at most 1024 bytes, this one has 1025"):
            wal.append_for_topic(name, b"entry")
    assert wal.topics() == []
    longest = "\u00e9" * (MAX_TOPIC_BYTES // 2)
    wal.append_for_topic(longest, b"entry")
    wal = plain.reopen(wal, crash=False)
    assert [entry.data for entry in wal.batch_read_for_topic(longest, max_bytes=50)] == [b"entry"]
    assert MAX_TOPIC_BYTES == MAX_NAME


def test_the_names_of_the_original_are_the_same_methods() -> None:
    names = {
        "append_for_topic": "append",
        "batch_append_for_topic": "append_batch",
        "read_next": "read",
        "batch_read_for_topic": "read_many",
        "get_topic_entry_count": "count",
        "get_topic_entry_counts": "counts",
        "get_topic_size": "size",
        "get_topic_sizes": "sizes",
    }
    for old, new in names.items():
        assert getattr(Walrus, old) is getattr(Walrus, new), old
