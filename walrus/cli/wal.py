"""`python -m walrus.wal inspect|dump|verify|bench DIR`: examine a log without writing a program.

The first three open the log as a program does, so no other process may have it open. But they write nothing
to it (`storage/looking.py`): a torn tail is cut in memory only, and the file system may be mounted
read-only. `bench` measures a new log below DIR, and removes it.

The exit status is 1 if anything is damaged, 2 if the log cannot be opened; errors go to standard error.
"""

from __future__ import annotations

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from walrus.cli.command_line import Console, Parser, command, describe
from walrus.cli.view import printable
from walrus.shell.arguments import directory, whole
from walrus.storage.block import Block
from walrus.storage.errors import StorageError
from walrus.storage.log import Log
from walrus.storage.looking import LookedAtDisk
from walrus.storage.posix import LOCK_NAME
from walrus.storage.record import Record
from walrus.storage.recovery import Damage
from walrus.storage.scan import DamagedRange, runs
from walrus.storage.schedule import FsyncSchedule
from walrus.wal import Walrus

_MIB = 1 << 20
_NAME = "python -m walrus.wal"


class NothingThere(Exception):
    """There is no log, or no such topic in it; the message is one line."""


@command(_NAME)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        if options.command == "bench":
            return bench(console, options.directory, options.count)
        disk = LookedAtDisk(_log_directory(options.directory))
        with Walrus(disk=disk, fsync=FsyncSchedule.no_fsync()) as wal:
            if options.command == "inspect":
                return inspect(console, wal)
            if options.command == "dump":
                return dump(console, wal, options.topic, options.limit)
            return verify(console, wal)
    except BrokenPipeError:
        raise
    except (StorageError, NothingThere, OSError) as error:
        why = describe(error) if isinstance(error, OSError) else error
        sys.stderr.write(f"{_NAME}: {why}\n")
        return 2


def _log_directory(path: Path) -> Path:
    """Return the directory of a log. Raises NothingThere: opening it would create an empty log."""
    if path.is_dir() and (any(path.glob("*.wal")) or (path / LOCK_NAME).exists()):
        return path
    logs = sorted(str(place.parent) for place in path.glob(f"**/{LOCK_NAME}")) if path.is_dir() else []
    raise NothingThere(f"{path}: no log is there" + (f", but in {', '.join(logs)}" if logs else ""))


def _parser() -> Parser:
    parser = Parser(prog=_NAME, description="Look into a log.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in (
        ("inspect", "topics, cursors, blocks and space"),
        ("dump", "block headers, records and their bytes"),
        ("verify", "check every record"),
        ("bench", "appends and reads in a new log below DIR"),
    ):
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("directory", metavar="DIR", type=directory)
        if name == "dump":
            one.add_argument("topic", nargs="?", help="only this one")
            one.add_argument(
                "--limit", type=whole(1, 1 << 31), default=20, help="records of each block (default 20)"
            )
        if name == "bench":
            one.add_argument(
                "--count", type=whole(1000, 1 << 31), default=200_000, help="entries (default 200,000)"
            )
    return parser


def _counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> _counted(1, "topic"), _counted(2_000, "file")
    ('1 topic', '2,000 files')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def inspect(console: Console, wal: Walrus) -> int:
    """Print one line for each topic, then the files, then what recovery found."""
    table = Table(
        "topic", "first", "next", "unread", "blocks", "bytes", title=_counted(len(wal.topics()), "topic")
    )
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for topic in wal.topics():
        first, following = wal.bounds(topic)
        row = [first, following, wal.count(topic), len(_log(wal, topic).blocks)]
        table.add_row(_shown(topic), *(f"{number:,}" for number in [*row, wal.size(topic)]))
    console.print(table)
    space = wal._engine.space
    total, free = space.total_bytes() / _MIB, space.free_bytes() / _MIB
    console.print(f"{_counted(len(space.sizes), 'file')}, {total:,.1f} MiB, {free:,.1f} MiB of them free")
    for cut in wal.recovery.cuts:
        console.print(_shown(f"{cut.topic}: {cut.dropped_bytes} bytes of a torn write at its end", "yellow"))
    return _report(console, wal, wal.recovery.damage)


def verify(console: Console, wal: Walrus) -> int:
    """Check all records, with a progress bar."""
    damage: list[Damage] = []
    with Progress(console=console, transient=True) as progress:
        topics = wal.topics()
        sizes = {topic: wal.size(topic) for topic in topics}
        task = progress.add_task("verifying", total=sum(sizes.values()))
        for topic in topics:
            damage += wal.verify(topic)
            progress.advance(task, sizes[topic])
    if not damage and not wal.recovery.nameless:
        sound = f"{_counted(len(topics), 'topic')}, {sum(sizes.values()):,} bytes: everything is sound"
        console.print(Text(sound, "green"))
    return _report(console, wal, damage)


def _report(console: Console, wal: Walrus, damage: Sequence[Damage]) -> int:
    for note in wal.recovery.nameless:
        lost = f"a topic's only block header is damaged: {note.durable - note.first} entries are lost"
        console.print(Text(lost, "red"))
    if not damage:
        return int(bool(wal.recovery.nameless))
    table = Table("topic", "entries", "file", "byte", title=Text("damage", "red"), title_justify="left")
    for hole in damage:
        table.add_row(_shown(hole.topic), f"{hole.first} to {hole.resume - 1}", hole.file, f"{hole.offset:,}")
    console.print(table)
    return 1


def dump(console: Console, wal: Walrus, topic: str | None, limit: int) -> int:
    """Print each block's header and its first `limit` records, and the bytes of both."""
    if topic is not None and topic not in wal.topics():
        raise NothingThere(f"there is no topic {topic!r}; inspect lists those there are")
    for name in wal.topics() if topic is None else [topic]:
        for block in _log(wal, name).blocks:
            view = wal._engine.space.view(block.extent)
            console.rule(_shown(f"{name}, block {block.head.sequence}"))
            place = f"file {block.extent.file}, byte {block.extent.offset}"
            console.print(f"{place}: {block.head!r}")
            end = _dump_records(console, view, block, limit)
            console.print("\n".join(hexdump(bytes(view[:end]))), highlight=False)
    return _report(console, wal, wal.verify())


def _dump_records(console: Console, view: memoryview, block: Block, limit: int) -> int:
    """Print a line for each of the first records and damaged ranges; return where the last one ends."""
    lines = _lines(runs(view, block.life, block.head.start, 0, block.extent.size), block.head.base)
    shown = list(islice(lines, limit))
    for _, line in shown:
        console.print(line)
    return shown[-1][0] if shown else block.head.start


def _lines(found: Iterator[list[Record] | DamagedRange], base: int) -> Iterator[tuple[int, str]]:
    """Yield for each record or damaged range its end and the line about it."""
    for run in found:
        if isinstance(run, DamagedRange):
            yield (
                run.offset,
                f"{run.offset:08x}  entries {base + run.position} to {base + run.resume - 1}: DAMAGED",
            )
        else:
            for record in run:
                first, last = base + record.position, base + record.position + record.entries - 1
                size = record.end - record.offset
                yield record.end, f"{record.offset:08x}  entries {first} to {last}, {size} bytes"


def hexdump(data: bytes) -> Iterator[str]:
    """Yield lines of 16 bytes: offset, bytes, characters.

    >>> print(*hexdump(b"walrus"), sep="")
    0000  77 61 6c 72 75 73                                walrus
    """
    for offset in range(0, len(data), 16):
        line = data[offset : offset + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{offset:04x}  {line.hex(' '):47}  {text}"


def bench(console: Console, place: Path, count: int) -> int:
    """Measure roughly how fast this machine is; `python -m benchmarks.engine` compares properly."""
    table = Table("what", "entries/s", title=f"{count:,} entries of 100 bytes")
    table.columns[1].justify = "right"
    entries = [bytes(100)] * 1000
    with (
        tempfile.TemporaryDirectory(dir=place) as log,
        Walrus(log, fsync=FsyncSchedule.no_fsync()) as wal,
    ):
        started = time.perf_counter()
        for _ in range(count):
            wal.append("one", entries[0])
        _row(table, "append", count, started)
        started = time.perf_counter()
        for _ in range(count // 1000):
            wal.append_batch("many", entries)
        _row(table, "append_batch, 1,000 each", count // 1000 * 1000, started)
        for topic in wal.topics():
            started = time.perf_counter()
            _row(table, f"payloads, {topic} by {topic}", sum(1 for _ in wal.payloads(topic)), started)
    console.print(table)
    return 0


def _row(table: Table, what: str, count: int, started: float) -> None:
    table.add_row(what, f"{count / (time.perf_counter() - started):,.0f}")


def _shown(text: str, style: str = "") -> Text:
    """A topic's name as text, without markup or control characters."""
    return Text(printable(text.encode()), style)


def _log(wal: Walrus, topic: str) -> Log:
    return wal._known(topic)


if __name__ == "__main__":
    raise SystemExit(main())
