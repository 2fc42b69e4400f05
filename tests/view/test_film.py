"""The format of a recorded run: what is refused, what led to an event, states, windows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.view.films import simulated, small
from walrus.view.film import Broken, Event, Film, FilmError, causal_past, parse, read, state_at, window


def test_a_film_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.film"
    path.write_bytes(small().lines())
    assert read(path) == small()


HEAD = b'{"walrus": "film", "version": 1}\n'


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (b"", "is empty"),
        (b"\x00\xff\n", "x:1: "),
        (b'{"ev": "Begin"}\n', "is not a film"),
        (b'{"walrus": "film", "version": 2}\n', "version 2; this release reads 1"),
        (HEAD + b'{"at": "soon"}\n', "x:2: "),
        (
            HEAD + b'{"at": 0, "lane": "9", "kind": "step", "what": "a"}\n',
            "lane '9'",
        ),
    ],
)
def test_what_is_no_film_is_refused_with_its_line(lines: bytes, why: str) -> None:
    with pytest.raises(FilmError, match=why.replace("(", r"\(")):
        parse(lines.splitlines(), "x")


def changed(number: int, **change: object) -> Film:
    film = small()
    film.events[number] = msgspec.structs.replace(film.events[number], **change)
    return film


def broken_at(event: int) -> Film:
    return Film(msgspec.structs.replace(small().header, broken=Broken("X", "", event)), small().events)


@pytest.mark.parametrize(
    ("film", "why"),
    [
        (changed(2, kind="nonsense"), "kind 'nonsense'"),
        (changed(5, message=77), "message 77 arrives before it is sent"),
        (
            Film(msgspec.structs.replace(small().header, broken=Broken("X", "", 99)), small().events),
            "99 of 11",
        ),
    ],
)
def test_events_that_do_not_fit_together_are_refused(film: Film, why: str) -> None:
    with pytest.raises(FilmError, match=why):
        film.check()


def test_the_causal_past_holds_what_led_to_an_event_and_nothing_else() -> None:
    events = small().events
    assert causal_past(events, 5) == [0, 1, 2, 3, 5]
    assert causal_past(events, 4) == [0, 2, 3, 4], "the other node did nothing that this one knows of"
    assert 6 in causal_past(events, 10) and 9 not in causal_past(events, 10)


def test_a_state_is_the_sum_of_all_changes() -> None:
    assert state_at(small(), 2)["1"] == {"up": True, "term": 2, "role": "Candidate"}
    assert state_at(small(), 10)["1"] == {"up": False, "term": 2}
    assert state_at(small(), 10)["2"]["commit"] == 3


def test_a_window_begins_with_the_states_that_were_and_ends_behind_what_broke() -> None:
    film = window(small(), 6, 11)
    film.check()
    assert state_at(film, len(film.events) - 1) == state_at(small(), 10)
    assert film.header.broken is not None
    assert film.events[film.header.broken.event].what == "Ack"


def test_a_long_film_is_cut_to_what_a_page_takes() -> None:
    film = window(simulated(), most=500)
    film.check()
    assert 500 <= len(film.events) <= 500 + len(film.header.lanes)
    assert state_at(film, len(film.events) - 1) == state_at(simulated(), len(simulated().events) - 1)


def test_a_window_without_the_send_of_a_message_shows_its_receipt_all_the_same() -> None:
    film = window(small(), 4, 7)
    film.check()
    assert [event.message for event in film.events if event.kind == "receive"] == [0]


def test_an_event_is_small() -> None:
    assert len(msgspec.json.encode(Event(0.1, "1", "step", "Ack"))) < 60
