"""What the exploration finds can be looked at: each step, what it changed, and where it broke."""

from __future__ import annotations

from pathlib import Path

import pytest

from walrus.sim import __main__ as sim
from walrus.sim import explore_film, mutants
from walrus.sim.explore import Bounds, explore
from walrus.sim.search import Exploration
from walrus.view.film import state_at


def _found() -> Exploration:
    with mutants.planted(mutants.find("commits_old_terms")):
        return explore(Bounds(), "turns")


def test_figure_8_is_a_film_of_seven_steps_that_ends_where_it_breaks() -> None:
    outcome = _found()
    film = explore_film.film(outcome, "again")
    film.check()
    broken = film.header.broken
    assert broken is not None
    assert broken.name == "LeaderCompleteness"
    assert film.events[broken.event].at == len(outcome.path)
    arrows = [event for event in film.events if event.kind == "receive"]
    assert len(arrows) == sum(" -> " in step for step in outcome.path)


def test_the_film_shows_the_states_of_the_search() -> None:
    outcome = _found()
    film = explore_film.film(outcome)
    for step, servers in enumerate(outcome.trail):
        last = max(n for n, event in enumerate(film.events) if event.at <= step)
        shown = state_at(film, last)
        for node, state in servers.items():
            assert {name: shown[str(node)].get(name) for name in state} == state


def test_the_entry_of_figure_8_is_on_a_majority_and_of_an_older_term() -> None:
    """What a student should see: the last state before it breaks."""
    before = _found().trail[-1].values()
    leader = next(state for state in before if state["role"] == "Leader")
    holders = [state for state in before if [2, 2] in state["log"]]
    assert leader["term"] > 2
    assert len(holders) == 2


def test_the_page_says_in_words_who_would_replace_the_entry_of_figure_8() -> None:
    film = explore_film.film(_found())
    broken = film.header.broken
    assert broken is not None
    assert "AssertionError" not in broken.what
    told = broken.why
    assert "Entry 2, of term 2, is on servers 1 and 2: a majority" in told
    assert "server 3 lacks it and can still be elected: its log ends in term 3" in told
    assert state_at(film, len(film.events) - 1)["1"]["commit"] == 2


def test_without_a_counterexample_there_is_no_film_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing"):
        explore_film.film(Exploration())
    assert sim.main(["explore", "--depth", "2", "--html", str(tmp_path / "x.html")]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["explore", "--start", "turns", "--mutant", "commits_old_terms"],
        ["explore", "segments", "--mutant", "sealed_before_acknowledged"],
    ],
    ids=["raft", "segments"],
)
def test_the_command_writes_a_page(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "run.html"
    assert sim.main([*flags, "--html", str(page)]) == 1
    assert str(page) in capsys.readouterr().out.replace("\n", "")
    assert "<html" in page.read_text("utf-8")
