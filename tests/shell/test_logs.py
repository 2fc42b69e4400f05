"""Logging never blocks a node: what the log does not take is dropped and counted, and no kind floods it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from walrus.shell.logs import (
    BURST,
    HEAD,
    MAX_KINDS,
    MAX_LINE,
    QUEUE_LINES,
    JsonStyle,
    KindLimit,
    LogStyle,
    QueuedHandler,
    close_log,
    obey_signals,
    open_log,
)

PATIENCE = 120.0


class Pipe:
    """A log that is not read until the test does."""

    def __init__(self, style: LogStyle | None = None) -> None:
        self.reading, self.writing = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.now = 0.0
        self.handler = QueuedHandler(self.writing, lambda: self.now, style)
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.handler)

    def read_all(self) -> list[str]:
        """Every line, up to the end of the log."""
        pieces: list[bytes] = []
        reader = threading.Thread(target=self._drain, args=(pieces,))
        reader.start()
        self.handler.close()
        self.handler._writer.join(PATIENCE)
        os.close(self.writing)
        reader.join(PATIENCE)
        return b"".join(pieces).decode().splitlines()

    def _drain(self, pieces: list[bytes]) -> None:
        while piece := os.read(self.reading, 1 << 16):
            pieces.append(piece)
        os.close(self.reading)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    yield Pipe()


def test_a_stuck_log_blocks_no_caller_and_what_it_missed_is_counted(pipe: Pipe) -> None:
    count = QUEUE_LINES + 1_000
    for number in range(count):
        pipe.logger.warning("kind %s: %s", "x" * 60, "y" * 100, extra={"n": number})
        pipe.now += 1.0
    lines = pipe.read_all()
    dropped = sum(int(line[1:].split()[0].replace(",", "")) for line in lines if "were dropped" in line)
    written = sum(line.startswith("kind") for line in lines)
    assert dropped + written == count
    assert written <= QUEUE_LINES + 100


def test_lines_arrive_in_order_and_whole(pipe: Pipe) -> None:
    for number in range(BURST):
        pipe.logger.warning("line %d ü \ud800", number)
    assert pipe.read_all() == [f"line {number} ü \\ud800" for number in range(BURST)]


def test_a_kind_gets_a_burst_then_a_line_a_second_and_the_rest_is_counted(pipe: Pipe) -> None:
    for number in range(1_000):
        pipe.logger.warning("stranger %d said %s", number, "hello")
        pipe.logger.info("another kind")
    pipe.now += 1.0
    pipe.logger.warning("stranger %d said %s", 1_000, "hello")
    lines = pipe.read_all()
    assert sum(line.startswith("stranger") for line in lines) == BURST + 1
    assert f"stranger 1000 said hello (and {1_000 - BURST:,} more like this)" in lines


def test_texts_that_differ_in_their_numbers_only_are_one_kind() -> None:
    limit = KindLimit(lambda: 0.0)
    admitted = [limit.admit(f"recovering segment {n} of orders from node 2") for n in range(100)]
    assert admitted.count(None) == 100 - BURST
    assert limit.admit("recovering nothing") == 0


def test_kinds_are_bounded_in_number() -> None:
    limit = KindLimit(lambda: 0.0)
    for number in range(10 * MAX_KINDS):
        limit.admit("".join(chr(97 + int(digit)) for digit in str(number)))
    assert len(limit._kinds) == MAX_KINDS


def test_a_line_that_cannot_be_formatted_raises_nothing(pipe: Pipe) -> None:
    pipe.logger.warning("%d", "no number")
    pipe.logger.warning("fine")
    assert [line for line in pipe.read_all() if "dropped" not in line] == ["fine"]


def test_of_a_line_that_is_too_long_both_ends_are_kept(pipe: Pipe) -> None:
    pipe.logger.warning("a" * 100_000 + "the error")
    (line,) = pipe.read_all()
    assert len(line) < MAX_LINE + 10
    assert line.startswith("a" * HEAD + " ...") and line.endswith("the error")


def test_a_log_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)  # a directory takes no line
    handler = QueuedHandler(descriptor)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("lost")
    handler.close()
    assert not handler._writer.is_alive()
    os.close(descriptor)


def test_closing_waits_for_a_stuck_log_no_longer_than_it_must(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walrus.shell.logs.FLUSH_PATIENCE", 0.01)
    for number in range(100):
        pipe.logger.warning(f"{chr(97 + number)} " + "x" * 1_000)
    pipe.handler.close()
    assert pipe.handler._writer.is_alive(), "it is stuck, and nobody waits for it"
    pipe.read_all()


def test_json_is_one_object_a_line_whose_event_does_not_change_with_what_is_in_it() -> None:
    pipe = Pipe(JsonStyle(3))
    pipe.logger.warning("node %d\nis at %s", 2, "ü:1")
    pipe.logger.warning("node %d\nis at %s", 4, "ö:1")
    try:
        raise OSError("no")
    except OSError:
        pipe.logger.exception("a disk failed")
    pipe.logger.warning("x" * 10 * MAX_LINE)
    first, second, third, long = map(json.loads, pipe.read_all())
    assert first["event"] == second["event"] == "node %d\nis at %s"
    assert (first["message"], first["node"], first["level"]) == ("node 2\nis at ü:1", 3, "WARNING")
    assert third["traceback"].endswith("OSError: no")
    assert len(long["message"]) < MAX_LINE + 10


def test_json_says_what_was_left_out_and_what_was_dropped() -> None:
    pipe = Pipe(JsonStyle(3))
    for number in range(BURST + 5):
        pipe.logger.warning("again %d", number)
    pipe.now += 1.0
    pipe.logger.warning("again %d", 99)
    pipe.logger.warning("%d", "no number")
    last, dropped = map(json.loads, pipe.read_all()[-2:])
    assert (last["message"], last["left_out"]) == ("again 99", 5)
    assert dropped["left_out"] == 1 and dropped["event"] == "lines were dropped: the log did not take them"


def test_a_signal_changes_the_level_and_another_one_changes_it_back(tmp_path: Path) -> None:
    root, before = logging.getLogger(), logging.getLogger().level
    kept = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    handler = open_log(tmp_path / "log", "warning", 1, "json")
    try:
        obey_signals("warning")
        root.debug("before")
        signal.raise_signal(signal.SIGUSR1)
        root.debug("between")
        signal.raise_signal(signal.SIGUSR2)
        root.debug("after")
    finally:
        close_log(handler)
        root.setLevel(before)
        signal.signal(signal.SIGUSR1, kept[0])
        signal.signal(signal.SIGUSR2, kept[1])
    assert [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()] == ["between"]
