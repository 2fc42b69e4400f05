"""Films of transcripts: every one of them becomes a film, and the figures of the docs are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import figures
from walrus.view import transcripts
from walrus.view.film import FilmError, state_at

TRANSCRIPTS = sorted(Path(__file__).parents[1].glob("*/transcripts/*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_every_message_of_a_transcript_is_in_its_film(path: Path) -> None:
    text = path.read_text("utf-8")
    film = transcripts.film(text, path.stem)
    film.check()
    arrows = [line for line in text.splitlines() if line.startswith("  ") and " -> " in line[:10]]
    between = [e for e in film.events if e.kind == "send" and e.lane.isdigit() and e.peer.isdigit()]
    assert len(between) == len(arrows)
    assert sum(e.lost for e in between) == sum("(lost)" in line or "(refused" in line for line in arrows)


def test_a_film_of_a_transcript_ends_in_the_state_that_is_shown() -> None:
    text = figures.Figure("replicas", "fence_and_seal").source.read_text("utf-8")
    film = transcripts.film(text, "fence_and_seal")
    states = state_at(film, len(film.events) - 1)
    assert states["1"]["copy t/1"] == {"length": 2, "durable": 2, "fenced": True}
    assert states["3"]["up"] is False
    assert any(event.lane == "metadata" and "sealed" in event.what for event in film.events)


def test_a_log_is_read_by_term() -> None:
    text = "# a\n> servers 1 2\n> show\n  1  Leader       term 3  commit 4   log [..2] 2 3 3\n"
    film = transcripts.film(text, "x")
    assert state_at(film, 0)["1"]["log"] == [[0, 2], [2, 3], [3, 5]]


def test_another_text_is_no_transcript() -> None:
    with pytest.raises(FilmError, match="no heading"):
        transcripts.film("hello\n", "x")


def test_the_figures_are_what_the_transcripts_say() -> None:
    assert [path.name for path in figures.stale()] == [], "draw them anew: make figures"
