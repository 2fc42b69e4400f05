"""`docs/wal-format.md` against real bytes, and the command that shows them."""

from __future__ import annotations

import array
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.records import encode
from tests.storage.stores import Store
from walrus import Walrus
from walrus.cli.wal import hexdump, main
from walrus.sim.disk import Platter
from walrus.storage import record
from walrus.storage.batch import Batch
from walrus.storage.record import Life, holds, peek, record_size
from walrus.storage.scan import sound_batch

DOC = Path(__file__).parents[2] / "docs" / "wal-format.md"


def test_the_worked_example_is_a_real_dump() -> None:
    wal = Walrus(disk=Platter(random.Random(2024)).directory("log"))
    wal.append_for_topic("greetings", b"Hello, Walrus!")
    wal.batch_append_for_topic("greetings", [b"a", b"", b"ccc"])
    block = wal._engine.logs["greetings"].blocks[0]
    lines = list(hexdump(bytes(wal._engine.space.view(block.extent)[:0x90])))
    assert "\n".join(lines) in DOC.read_text()


def test_the_table_of_the_block_header_is_the_struct_that_writes_it() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([a-z ]+) \|", DOC.read_text(), re.MULTILINE)
    codes = re.findall(r"\d*[a-zA-Z]", record._BLOCK_HEAD.format)
    offset, expected = 0, []
    for code in codes:
        expected.append((offset, struct.calcsize("<" + code)))
        offset += struct.calcsize("<" + code)
    assert [(int(at), int(size)) for at, size, _ in rows] == expected
    assert f"Block header: {record.BLOCK_HEAD_SIZE} bytes" in DOC.read_text()
    assert f"| {record.BLOCK_HEAD_SIZE} | | name | UTF-8 |" in DOC.read_text()


@given(
    st.integers(0, 2**64 - 1), st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=6)
)
def test_any_run_of_records_has_the_one_checksum(life_number: int, batches: list[list[bytes]]) -> None:
    life = Life.of(life_number, 3, 16384)
    data, position = b"", 0
    for entries in batches:
        batch = Batch.of(entries)
        record = encode(life, position, 0, batch)
        assert len(record) == record_size(batch.count, batch.size)
        if len(entries) == 1:
            head = struct.pack("<IIII", life.tag, len(entries[0]), position, 0) + entries[0]
            assert record == head + struct.pack("<I", crc32(head, life.seed) ^ life.mask)
        found = peek(memoryview(record), life, 0, len(record))
        assert found is not None
        assert (found.position, found.entries, found.end) == (position, len(entries), len(record))
        assert sound_batch(memoryview(record), life, 0, position, len(record)) == (batch, len(record))
        data, position = data + record, position + len(entries)
    assert holds(memoryview(data), life, 0, len(data))
    assert crc32(data, life.seed) == life.seed
    for offset in range(len(data)):
        flipped = bytearray(data)
        flipped[offset] ^= 1
        assert not holds(memoryview(flipped), life, 0, len(data))
    other = Life.of(life_number, 3, 32768)
    assert not data or peek(memoryview(data), other, 0, len(data)) is None or other.tag == life.tag


def test_zeros_are_no_record() -> None:
    life = Life.of(0, 0, 0)
    assert life.tag
    assert peek(memoryview(bytes(100)), life, 0, 100) is None


def test_the_commands(plain: Store, capsys: pytest.CaptureFixture[str]) -> None:
    wal = plain.open()
    wal.batch_append_for_topic("events", [b"one", b"two"])
    wal.append_for_topic("events", b"three")
    block = wal._engine.logs["events"].blocks[0]
    wal.close()
    directory = str(plain.directory)
    assert main(["inspect", directory]) == 0
    assert "events" in capsys.readouterr().out
    assert main(["dump", directory, "events"]) == 0
    shown = capsys.readouterr().out
    assert "entries 0 to 1" in shown
    assert "77 61 6c 72 75 73" in shown
    assert main(["verify", directory]) == 0
    assert "everything is sound" in capsys.readouterr().out
    assert main(["bench", directory, "--count", "2000"]) == 0
    assert "payloads" in capsys.readouterr().out
    with (plain.directory / "00000001.wal").open("r+b") as file:
        file.seek(block.extent.offset + block.head.start + 30)
        file.write(b"!")
    for command in ("verify", "dump"):
        assert main([command, directory]) == 1
        assert "damage" in capsys.readouterr().out
    with plain.open():
        assert main(["inspect", directory]) == 2
        assert "in use by process" in capsys.readouterr().err


def test_a_slip_of_the_hand_is_told_and_leaves_no_log_behind(
    plain: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.open().close()
    for arguments, says in (
        (["inspect", str(tmp_path / "nowhere")], "no log is there"),
        (["verify", str(plain.directory.parent)], f"but in {plain.directory}"),
        (["dump", str(plain.directory), "nothing"], "no topic 'nothing'"),
        (["bench", str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()
    for arguments in (["bench", "x", "--count", "999"], ["dump", "x", "--limit", "-1"], ["inspect", ""]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_any_name_of_a_topic_can_be_shown(plain: Store, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["[red]x[/blue]", "[/bold]", "line\nand \x1b[31m", "x" * 300]
    wal = plain.open()
    for name in names:
        wal.append_for_topic(name, b"x")
    wal.close()
    for command in ("inspect", "dump", "verify"):
        assert main([command, str(plain.directory)]) == 0
        shown = capsys.readouterr().out
        assert command == "verify" or ("[/bold]" in shown and "\x1b" not in shown)


def test_the_module_runs(plain: Store) -> None:
    plain.open().close()
    command = [sys.executable, "-m", "walrus.wal", "verify", str(plain.directory)]
    assert "sound" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_batch_counts_bytes_whatever_its_entries_count(plain: Store) -> None:
    typed = memoryview(array.array("I", [1, 2, 3, 4]))

    class Liar(bytes):
        def __len__(self) -> int:
            return 1

    batch = Batch.of([typed, Liar(b"abcdef"), b"", bytearray(b"xy")])  # type: ignore[list-item]
    whole = [typed.tobytes(), b"abcdef", b"", b"xy"]
    assert batch.payloads() == whole and batch.sizes() == (16, 6, 0, 2)
    with pytest.raises(TypeError):
        Batch.of([b"x", memoryview(b"strided")[::2]])  # type: ignore[list-item]
    with plain.open() as wal:
        wal.write("t", batch)
        assert list(wal.payloads("t")) == whole
