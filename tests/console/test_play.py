"""What a console counts of the messages that it streams, and what it reads in the traces of the nodes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from walrus.console import play, recording
from walrus.console.recording import SECONDS, Recording, film
from walrus.console.stream import MAX_STEPS, PlayedStream, Tally


def tally(*numbers: int, run: str = "r") -> Tally:
    """The counts once a reader has met these numbers."""
    counted = Tally("r")
    for number in numbers:
        counted.met(f"{run} {number}".encode())
    return counted


@pytest.mark.parametrize(
    ("numbers", "lost", "duplicated"),
    [((0, 1, 2), 0, 0), ((0, 2), 1, 0), ((3,), 3, 0), ((0, 1, 1, 2), 0, 1), ((0, 1, 0, 1, 2), 0, 2)],
)
def test_a_number_that_is_skipped_is_lost_and_one_that_comes_again_is_there_twice(
    numbers: tuple[int, ...], lost: int, duplicated: int
) -> None:
    counted = tally(*numbers)
    assert (counted.read, counted.lost, counted.duplicated) == (len(numbers), lost, duplicated)


def test_what_another_run_has_left_in_the_topic_is_not_counted() -> None:
    assert tally(7, 9, run="another") == Tally("r")


def test_messages_are_numbered_from_zero() -> None:
    counted = Tally("r")
    for payload in (counted.payload(), counted.payload()):
        counted.met(payload)
    assert (counted.sent, counted.read, counted.lost, counted.duplicated) == (2, 2, 0, 0)


class Clock:
    """Nanoseconds, as far as they were moved."""

    now = 10**12

    def __call__(self) -> int:
        return self.now


def write(path: Path, *steps: dict[str, object]) -> None:
    with path.open("ab") as file:
        for step in steps:
            file.write(msgspec.json.encode(step) + b"\n")


def test_what_the_nodes_did_about_a_kill_is_told_in_lines_and_shown_from_the_kill_on(tmp_path: Path) -> None:
    clock = Clock()
    recorded = Recording(tmp_path, clock)
    old = clock.now - (SECONDS + 1) * 10**9
    write(tmp_path / "trace-1.jsonl", {"ev": "Ack", "node": 1, "at": old, "topic": "t", "segment": 1})
    assert recorded.look() == []
    recorded.acted("kill", 1)
    recorded.acted("start", 1)
    clock.now += 10**9
    fence = {"ev": "AnswerFence", "node": 3, "at": clock.now - 1, "topic": "t", "segment": 1, "length": 1234}
    write(tmp_path / "trace-3.jsonl", fence)
    write(
        tmp_path / "trace-2.jsonl",
        {"ev": "StartRecovery", "node": 2, "at": clock.now - 2, "topic": "t", "segment": 1},
    )
    (tmp_path / "trace-2.jsonl").open("ab").write(b'{"ev": "half a li')
    assert [text for _, _, text in recorded.look()] == [
        "node 2 recovers t/1: fences its copies",
        "node 3 fences its copy of t/1: 1,234 entries",
    ]
    assert recorded.look() == []
    shown = film(recorded.lately([{"ev": "acknowledged", "node": "stream", "at": clock.now - 3}]))
    assert [event.what for event in shown.events] == ["Crash", "acknowledged", "StartRecovery", "AnswerFence"]
    assert shown.header.opens == 0 and shown.events[0].state == {"up": False}
    assert [lane.name for lane in shown.header.lanes] == ["node 1", "node 2", "node 3", "stream"]
    shown.check()


def test_a_film_takes_no_line_away_from_the_next_look(tmp_path: Path) -> None:
    clock = Clock()
    recorded = Recording(tmp_path, clock)
    step = {"ev": "Timeout", "node": 1, "at": clock.now, "current_term": 7}
    write(tmp_path / "trace-1.jsonl", step)
    assert [event.what for event in film(recorded.lately()).events] == ["Timeout"]
    clock.now += 2 * 10**9
    assert recorded.look() == [(2.0, "note", "node 1 hears no Raft leader, and asks for votes in term 7")]
    assert recorded.look() == []


def test_a_trace_is_bounded_and_goes_on_after_it_began_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_BYTES", 100)
    path, recorded = tmp_path / "trace-1.jsonl", Recording(tmp_path, Clock())
    with path.open("ab", buffering=0) as node:
        for turn in range(1, 6):
            node.write(
                msgspec.json.encode({"ev": "Timeout", "node": 1, "at": turn, "current_term": turn}) + b"\n"
            )
            assert [text[-1] for _, _, text in recorded.look()] == [str(turn)]
            assert path.stat().st_size <= 100


def test_what_is_kept_for_a_film_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = PlayedStream([])
    for _ in range(MAX_STEPS + 1):
        stream._step("send")
    assert len(stream.steps) == MAX_STEPS
    monkeypatch.setattr(recording, "MAX_STEPS", 2)
    recorded = Recording(tmp_path, Clock())
    for _ in range(3):
        recorded.acted("pause", 1)
    assert len(film(recorded.lately()).events) == 2


def test_the_console_goes_on_while_a_film_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone_on = threading.Event()
    monkeypatch.setattr(play.html, "page", lambda _: str(gone_on.wait(120)))
    stream: Any = SimpleNamespace(steps=[])

    async def run() -> str:
        page = asyncio.create_task(play.Play(SimpleNamespace(), stream, Recording(tmp_path, Clock())).page())
        await asyncio.sleep(0)
        gone_on.set()
        return await page

    assert asyncio.run(run()) == "True"
