"""OneVerdict: reader, index, recovery and `verify` say the same about the same damaged bytes.

And a gap is as long as what was damaged: an intact record is readable whatever became of its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.storage.records import encode
from tests.storage.stores import Store
from walrus import FsyncSchedule, Walrus
from walrus.sim.disk import Platter
from walrus.storage import scan as module
from walrus.storage.batch import Batch
from walrus.storage.errors import CorruptionError
from walrus.storage.reading import Reader
from walrus.storage.record import BATCH, HEAD_SIZE, RECORD_HEAD, U32, Life, find, peek
from walrus.storage.scan import records, sound, sound_batch

FILE = "00000001.wal"
FAST = FsyncSchedule.no_fsync()

SHAPES: dict[str, list[list[bytes]]] = {
    "equal": [[b"%04d" % number * 25] for number in range(120)],
    "batches": [[b"%d" % number] * (1 + number % 5) for number in range(80)],
    "mixed": [
        [bytes([number % 256]) * (number * 37 % 900)] * (1 + (number % 7 == 0)) for number in range(150)
    ],
}


def opened(platter: Platter) -> Walrus:
    return Walrus(disk=platter.directory("log"), fsync=FAST)


def written(batches: list[list[bytes]]) -> tuple[Platter, list[bytes], list[tuple[int, int, int]]]:
    """A closed log, its entries, and where each record of its last block is: (entry, start, end)."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    wal.batch_append_for_topic("t", batches[0])
    log = wal._engine.logs["t"]
    log.make_room(200_000, new_block=True)  # one block for all that follows
    for entries in batches[1:]:
        wal.batch_append_for_topic("t", entries)
    block = log.blocks[-1]
    view = wal._engine.space.view(block.extent)
    found = [
        (block.head.base + each.position, block.extent.offset + each.offset, block.extent.offset + each.end)
        for each in records(view, block.life, block.head.start, block.extent.size)
    ]
    wal.close()
    return platter, [entry for entries in batches for entry in entries], found


def one_by_one(wal: Walrus) -> dict[int, bytes]:
    """Each entry by itself, from the last to the first, so that each is looked up."""
    found = {}
    for index in reversed(range(wal.bounds("t")[1])):
        try:
            found[index] = wal.read_at("t", index, max_entries=1)[0].data
        except CorruptionError as error:
            assert error.index == index < error.resume
    return found


def spans(wal: Walrus) -> dict[int, bytes]:
    """All that `entries` gives, going on at `resume` after each piece of damage."""
    found, start = {}, 0
    while start < wal.bounds("t")[1]:
        try:
            for entry in wal.entries("t", start):
                found[entry.index], start = entry.data, entry.index + 1
        except CorruptionError as error:
            start = error.resume
    return found


def cursor(wal: Walrus) -> dict[int, bytes]:
    """All that the cursor delivers, seeking over damage."""
    found = {}
    wal.seek("t", 0)
    while True:
        try:
            if (entry := wal.read_next("t")) is None:
                return found
            found[entry.index] = entry.data
        except CorruptionError as error:
            wal.seek("t", error.resume)


def verdict(wal: Walrus) -> dict[int, bytes]:
    """What `verify` leaves over, read in one go each."""
    damaged = {index for gap in wal.verify("t") for index in range(gap.first, gap.resume)}
    found: dict[int, bytes] = {}
    for index in range(wal.bounds("t")[1]):
        if index not in damaged and index not in found:
            found |= {entry.index: entry.data for entry in wal.read_at("t", index, max_entries=50)}
    return {index: data for index, data in found.items() if index not in damaged}


PATHS: list[Callable[[Walrus], dict[int, bytes]]] = [one_by_one, spans, cursor, verdict]


def check(platter: Platter, expected: dict[int, bytes]) -> None:
    for look in PATHS:
        wal = opened(platter)
        assert look(wal) == expected, f"OneVerdict: {look.__name__}"
        platter.kill()


@pytest.mark.parametrize("shape", SHAPES)
def test_any_bit_of_a_head_costs_its_record_and_no_other(shape: str) -> None:
    platter, entries, places = written(SHAPES[shape])
    first, start, end = places[len(places) * 2 // 3]
    count = next(index for index, at, _ in places if at == end) - first
    expected = {index: data for index, data in enumerate(entries) if not first <= index < first + count}
    last = start + HEAD_SIZE + (8 if count > 1 else 0)  # the batch's own count and lengths as well
    rng = random.Random(shape)
    for bit in rng.sample(range(8 * start, 8 * last), 15):
        platter.flip_bit("log", FILE, bit)
        check(platter, expected)
        platter.flip_bit("log", FILE, bit)


@pytest.mark.parametrize("seed", range(6))
def test_any_damage_costs_what_was_damaged(seed: int) -> None:
    rng = random.Random(seed)
    platter, entries, places = written(SHAPES[rng.choice(list(SHAPES))])
    hit = set(rng.sample(range(len(places) - 1), 5))
    expected = dict(enumerate(entries))
    for number in hit:
        first, start, end = places[number]
        for _ in range(rng.randrange(1, 6)):
            platter.flip_bit(
                "log", FILE, 8 * (start + rng.randrange(min(end - start, 24))) + rng.randrange(8)
            )
        for index in range(first, places[number + 1][0]):
            expected.pop(index, None)
    check(platter, expected)


def test_records_inside_a_damaged_entry_are_echoes() -> None:
    """OnlyWhatWasDamaged: an entry that is a copy of the log so far is damaged in its head, and skipped."""
    life = Life.of(5, 1, 0)
    first = encode(life, 0, 0, Batch.of([b"first"]))
    copy = bytearray(encode(life, 1, 0, Batch.of([first])))
    copy[4] ^= 1  # its size
    third = encode(life, 2, 0, Batch.of([b"third"]))
    view = memoryview(first + bytes(copy) + third)
    found = find(view, life, len(first), len(view), 1)
    assert found is not None, "OnlyWhatWasDamaged: the record behind the damage"
    assert (found.position, found.offset) == (2, len(view) - len(third)), "OnlyWhatWasDamaged: an echo"


@pytest.mark.parametrize("count", [0, 3, (1 << 30) - 1])
def test_a_count_whose_table_does_not_fit_is_no_record(count: int) -> None:
    """AllOrNothing: what is not verified must not lead a reader past the end of a record."""
    life = Life.of(5, 1, 0)
    body = U32.pack(count) + bytes(11)  # a table of two lengths, and three bytes of entries
    data = RECORD_HEAD.pack(life.tag, len(body) | BATCH, 0, 0) + body + bytes(4)
    assert peek(memoryview(data), life, 0, len(data)) is None
    fits = data[:HEAD_SIZE] + U32.pack(2) + data[HEAD_SIZE + 4 :]
    assert peek(memoryview(fits), life, 0, len(fits)) is not None


def test_what_is_appended_behind_damage_is_readable() -> None:
    platter, entries, places = written(SHAPES["batches"][:4])
    first, start, end = places[-1]
    for bit in range(8 * start, 8 * end):
        again = Platter(random.Random(2))
        image = platter.directory("log").open(FILE).view(0, 64 << 14).tobytes()
        again.directory("log").create(FILE, len(image)).pwrite(image, 0)
        again.flip_bit("log", FILE, bit)
        wal = opened(again)
        index = wal.append_for_topic("t", b"later")
        assert index == len(entries)
        wal.close()
        wal = opened(again)
        assert wal.read_at("t", index)[0].data == b"later", "OneVerdict: the reader is not led astray"
        assert [(gap.first, gap.resume) for gap in wal.verify("t")] == [(first, index)]


def test_an_index_made_before_the_damage_is_only_a_hint(plain: Store) -> None:
    wal = plain.open(fsync=FAST)
    for number in range(2000):
        wal.append_for_topic("t", b"%04d" % number * 20)
    assert len(one_by_one(wal)) == 2000
    block = wal._engine.logs["t"].blocks[-1]
    assert len(block._points) > 10
    hit = 1500 - block.head.base
    place = block.extent.offset + block.head.start + hit * 100 + 4
    with (plain.directory / FILE).open("r+b") as file:
        file.seek(place)
        file.write(b"\x51")
    for look in (one_by_one, spans):
        assert set(range(2000)) - set(look(wal)) == {1500}, "OneVerdict"


def test_what_is_returned_is_what_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block is given back, and written to by another topic, at the worst moment: after the check."""
    life, batch = Life.of(7, 1, 0), Batch.of([b"ours", b"as well"])
    data = bytearray(encode(life, 0, 0, batch))
    view, right = memoryview(data), bytes(data)
    verify, crc = module.holds, module.crc32

    def then_reused(*arguments: object) -> bool:
        good = verify(*arguments)  # type: ignore[arg-type]
        data[:] = bytes(len(data))
        return good

    monkeypatch.setattr(module, "holds", then_reused)
    assert sound(view, life, 0, 0, len(data)).data == right
    data[:] = right

    def and_then_reused(part: bytes, start: int) -> int:
        value = crc(part, start)
        if len(part) == 4 and value == life.seed:
            data[:] = bytes(len(data))
        return value

    monkeypatch.setattr(module, "crc32", and_then_reused)
    assert sound_batch(view, life, 0, 0, len(data)) == (batch, len(data))


def test_a_file_removed_under_a_reader_is_a_trim_and_no_error_of_the_disk(store: Store) -> None:
    wal = store.open(fsync=FAST)
    entries = [b"%02d" % number * 150_000 for number in range(64)]
    for entry in entries:
        wal.append_for_topic("t", entry)
    behind, overtaken = wal.entries("t"), wal.entries("t")
    for index in range(40):
        assert next(behind).index == index
        assert index >= 3 or next(overtaken).index == index
    before = store.data_files()
    wal.trim("t", 40)
    wal._engine.reclaim()
    assert len(store.data_files()) < len(before), "a file went"
    assert [entry.index for entry in behind] == list(range(40, 64)), "a trim behind a reader is nothing to it"
    with pytest.raises(IndexError, match="trimmed away; the first is 40"):
        for _ in overtaken:
            pass
    assert wal.read_next("t").index == 40  # type: ignore[union-attr]
    assert wal.verify() == []


@pytest.mark.parametrize("size", [100, 300_000, 3 << 20])
def test_a_queue_that_gives_back_what_was_read_delivers_everything(store: Store, size: int) -> None:
    """Found with entries of 256 KiB and more: after half of them each read raised FileNotFoundError."""
    count = 40
    wal = store.open(retain="unread", fsync=FAST)
    for number in range(count):
        wal.append_for_topic("t", number.to_bytes(4, "big") * (size // 4))
    found = []
    while (entry := wal.read_next("t")) is not None:
        found.append(int.from_bytes(entry.data[:4], "big"))
        wal._engine.reclaim()  # whatever can go, goes
    assert found == list(range(count))


def test_a_topic_deleted_under_a_reader(store: Store) -> None:
    wal = store.open(fsync=FAST)
    for number in range(12):
        wal.append_for_topic("t", bytes([number]) * (1 << 20))
    reader = wal.entries("t")
    assert next(reader).index == 0
    wal.delete_topic("t")
    wal._engine.reclaim()
    try:
        left = [entry.index for entry in reader]
    except IndexError as error:
        assert "deleted" in str(error)
    else:
        assert left == list(range(1, 1 + len(left)))


def test_a_block_has_one_point_every_4_kib() -> None:
    """Each takes eight bytes. An index of every record would outgrow the entries, if they are small."""
    platter = Platter(random.Random(1))
    wal = opened(platter)
    for _ in range(300):
        wal.append("t", bytes(60))
    block = wal._engine.logs["t"].blocks[0]
    view = wal._engine.space.view(block.extent)
    assert block.locate(view, block.entries - 1, block.end, block.entries).position == block.entries - 1
    assert len(block._points) == 1 + block.end // 4096


def test_equal_records_are_cut_in_one_piece() -> None:
    wal = opened(Platter(random.Random(1)))
    for _ in range(100):
        wal.append("t", bytes(60))
    reader = Reader(wal._engine.logs["t"], 0)
    assert reader._settle()
    assert reader._run(80 * 50) == [bytes(60)] * 50
