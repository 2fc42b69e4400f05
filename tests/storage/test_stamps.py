"""Stamps: they rest with the entries, are cut and joined as those are, and cost a plain log nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.records import encode
from walrus import Walrus
from walrus.sim.disk import Platter
from walrus.sim.memory import MemoryEngine
from walrus.storage import log, record
from walrus.storage.batch import Batch, Stamp, concat
from walrus.storage.errors import FormatError
from walrus.storage.record import SECONDS_VERSION, STAMPED_VERSION, VERSION, Life, peek, record_size
from walrus.storage.scan import sound_batch

entries = st.lists(st.binary(max_size=9), min_size=1, max_size=6)
stamped = st.builds(
    lambda payloads, producer, first: (
        Batch.of(payloads).stamped(producer, first, 5) if producer else Batch.of(payloads)
    ),
    entries,
    st.sampled_from(["", "", "x", "y" * 200]),
    st.integers(0, 2**40),
)


OTHER_NUMBER = "NoDuplicateAppend: an entry has the number of another one"


def numbers(batch: Batch) -> list[tuple[str, int]]:
    """Producer and number of each entry."""
    runs = batch.stamps or (Stamp(batch.count, "", 0, 0),)
    return [
        (run.producer, run.first + at if run.producer else 0) for run in runs for at in range(run.entries)
    ]


@given(st.lists(stamped, min_size=1, max_size=5), st.data())
def test_joined_and_cut_each_entry_keeps_its_number(batches: list[Batch], data: st.DataObject) -> None:
    whole = concat(batches)
    expected = [number for batch in batches for number in numbers(batch)]
    assert numbers(whole) == expected, f"{OTHER_NUMBER} where batches are joined"
    whole.check()
    start = data.draw(st.integers(0, whole.count))
    stop = data.draw(st.integers(start, whole.count))
    part = whole.slice(start, stop)
    assert numbers(part) == expected[start:stop], f"{OTHER_NUMBER} where a batch is cut"
    part.check()
    assert bool(part.stamps) == any(producer for producer, _ in expected[start:stop])


@given(stamped, st.integers(0, 2**64 - 1))
def test_a_record_brings_its_stamps_back(batch: Batch, number: int) -> None:
    life = Life.of(number, 1, 0)
    data = memoryview(encode(life, 3, 0, batch))
    assert len(data) == record_size(batch.count, batch.size, len(record.encode_stamps(batch)))
    found = peek(data, life, 0, len(data))
    assert found is not None and (found.entries, found.end) == (batch.count, len(data))
    assert sound_batch(data, life, 0, 3, len(data)) == (batch, len(data))


@pytest.mark.parametrize(
    "stamps",
    [(Stamp(1, "x", 0, 0),), (Stamp(3, "x", -1, 0),), (Stamp(4, "x", 0, 0), Stamp(-1, "y", 0, 0))],
)
def test_stamps_of_other_entries_are_malformed(stamps: tuple[Stamp, ...]) -> None:
    with pytest.raises(ValueError, match="stamps"):
        Batch(3 * b"\1\0\0\0", b"abc", stamps).check()


@pytest.mark.parametrize("backend", ["disk", "mapped", "memory"])
def test_a_log_gives_back_entries_and_stamps(backend: str, tmp_path: Path) -> None:
    plain, mine, one = Batch.of([b"a", b"bb"]), Batch.of([b"c", b""]).stamped("x", 0, 7), Batch.of([b"e"])
    single = Batch.of([b"f"]).stamped("y", 4, 8)
    written = [plain, mine, one, *[single] * 20, Batch.of([b"g"] * 20)]
    log: Walrus | MemoryEngine
    if backend == "memory":
        log = MemoryEngine()
    elif backend == "mapped":
        log = Walrus(tmp_path / "log", backend="mmap")
    else:
        log = Walrus(tmp_path / "log", backend="pwritev")
    whole = concat(written)
    for batch in written:
        log.write("t", batch)
    read = log.read_batch("t", 0, 1000, 1 << 20)
    assert read.payloads() == whole.payloads()
    assert numbers(read) == numbers(whole)
    assert numbers(log.read_batch("t", 3, 2, 1 << 20)) == numbers(whole)[3:5]
    if isinstance(log, Walrus):
        assert list(log.payloads("t")) == whole.payloads()
        log.close()
        again = Walrus(tmp_path / "log")
        assert again.read_batch("t", 0, 1000, 1 << 20) == read
        assert again.append("t", b"h") == whole.count
        again.close()


def test_only_a_topic_with_stamps_gets_blocks_of_the_later_version() -> None:
    wal = Walrus(disk=Platter(random.Random(1)).directory("log"))
    wal.append("plain", b"a")
    wal.append("t", b"a")
    wal.write("t", Batch.of([b"b"]).stamped("x", 0, 0))
    wal.write("t", Batch.of([b"c"]).stamped("x", 1, 0))
    wal.append("t", b"d")
    logs = wal._engine.logs
    assert [block.head.version for block in logs["plain"].blocks] == [VERSION]
    assert [block.head.version for block in logs["t"].blocks] == [VERSION, STAMPED_VERSION]
    assert list(wal.payloads("t")) == [b"a", b"b", b"c", b"d"]


def test_a_release_that_knows_no_stamps_refuses_a_log_that_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, batch in (("old", Batch.of([b"a"])), ("new", Batch.of([b"a"]).stamped("x", 0, 0))):
        with Walrus(tmp_path / name) as wal:
            wal.write("t", batch)
    monkeypatch.setattr(record, "STAMPED_VERSION", VERSION)  # the last version that it reads
    Walrus(tmp_path / "old").close()
    with pytest.raises(FormatError, match="has version 3 of the format, this release reads 1"):
        Walrus(tmp_path / "new")


def test_times_of_an_earlier_release_are_seconds_on_disk_and_milliseconds_once_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier, Walrus(tmp_path / "log") as wal:
        earlier.setattr(log, "STAMPED_VERSION", SECONDS_VERSION)
        wal.write("t", Batch.of([b"a"]).stamped("x", 0, 1_764_140_000))
    with Walrus(tmp_path / "log") as wal:
        wal.write("t", Batch.of([b"b"]).stamped("x", 1, 1_764_140_000_123))
        assert wal.read_batch("t", 0, 10, 100).times() == [1_764_140_000_000, 1_764_140_000_123]
        versions = [block.head.version for block in wal._engine.logs["t"].blocks]
        assert versions == [SECONDS_VERSION, STAMPED_VERSION], "what is read is not converted on the disk"
