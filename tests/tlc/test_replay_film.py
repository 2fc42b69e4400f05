"""A difference between spec and code can be looked at: each step, and at the last one both states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tlc.behaviours import founded
from tools.sees import written
from walrus.sim import mutants
from walrus.tlc.replay import Replayed, perform
from walrus.tlc.replay_film import Footage, film
from walrus.view import html
from walrus.view.film import state_at


def test_the_last_step_shows_what_the_code_has_and_beside_it_what_the_spec_has() -> None:
    behaviour = [founded(), founded(role={1: "Follower", 2: "PreCandidate"}, voted_for={1: 0, 2: 1})]
    footage, outcome = Footage(), Replayed()
    perform(behaviour, 0, outcome, footage=footage)
    made = film(footage, "again")
    made.check()
    assert [difference.variable for difference in outcome.differences] == ["voted_for[2]"]
    assert made.header.broken is not None
    assert made.header.broken.name == "voted_for[2]"
    assert made.events[made.header.broken.event].what == "PreVote(2)"
    last = state_at(made, len(made.events) - 1)
    assert last["2"]["role"] == "PreCandidate"
    assert (last["2"].get("vote"), last["2"]["vote in the spec"]) == (None, "1")
    assert not any("in the spec" in name for name in last["1"])


def test_without_a_difference_there_is_no_film() -> None:
    footage = Footage()
    perform([founded()], 0, Replayed(), footage=footage)
    with pytest.raises(ValueError, match="came to the same"):
        film(footage)


def test_the_first_behaviour_that_differs_is_kept() -> None:
    footage, outcome = Footage(), Replayed()
    for vote in (1, 0, 2):
        perform(
            [founded(), founded(role={1: "Follower", 2: "PreCandidate"}, voted_for={1: vote, 2: 0})],
            vote,
            outcome,
            footage=footage,
        )
    assert footage.broken is not None
    assert footage.broken[0] == "voted_for[1]"
    assert "is 1 in the spec" in footage.broken[1]


@pytest.mark.tla
@pytest.mark.timeout(3_000)
def test_a_planted_bug_is_a_page(tmp_path: Path) -> None:
    footage, outcome = Footage(), Replayed()
    with mutants.planted(mutants.find("votes_without_log_check")):
        for number, states in enumerate(written(150)):
            perform(states, number, outcome, footage=footage)
    made = film(footage)
    made.check()
    html.write(made, tmp_path / "replay.html")
    assert footage.broken is not None and made.header.broken is not None
    assert made.header.broken.name == footage.broken[0]
    assert "in the spec and" in made.header.broken.what
    assert made.header.broken.name in (tmp_path / "replay.html").read_text(encoding="utf-8")
