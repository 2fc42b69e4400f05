"""Films of simulated runs: a camera changes nothing, and a film shows what the nodes really hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.view.films import simulated
from walrus.sim import faults, mutants, scenarios
from walrus.sim.__main__ import main
from walrus.sim.filming import SHOWN_SEGMENTS, Camera, picture, play_scenario
from walrus.sim.options import Options
from walrus.sim.run import Result, simulate
from walrus.sim.stage import Stage, watched
from walrus.sim.why import sentences, why
from walrus.view.film import read, state_at


def test_a_filmed_run_is_the_run_of_its_seed() -> None:
    plain = simulate(5, Options(), 400, faults.DEFAULT)
    assert simulate(5, Options(), 400, faults.DEFAULT, film=Camera()) == plain


def test_the_last_state_in_a_film_is_what_the_nodes_hold() -> None:
    camera = Camera()
    with watched(film=camera):
        stage = Stage(4)
        stage.warm()
    shown = state_at(camera.film("warm"), len(camera.events) - 1)
    for host in stage.world.live():
        assert host.controller is not None
        now = picture(host.controller, host.clock(stage.world.now))
        same = {name: value for name, value in now.items() if not name.startswith("lease")}
        assert {name: shown[str(host.id)].get(name) for name in same} == same


def test_the_copies_of_a_topic_that_is_trimmed_deleted_and_registered_again_are_shown() -> None:
    camera = Camera()
    outcome = simulate(3, Options(keepers=2), 4000, faults.classes("none"), film=camera)
    assert isinstance(outcome, Result), outcome
    shown = {name for event in camera.events for name in event.state}
    numbers = {int(name.rpartition("/")[2]) for name in shown if name.startswith("copy kept/")}
    assert len(numbers) > SHOWN_SEGMENTS, numbers


def test_every_message_that_arrives_was_sent_and_a_death_is_seen() -> None:
    film = simulated()
    film.check()
    assert any(event.kind == "down" for event in film.events)
    assert {"send", "receive", "step", "up"} <= {event.kind for event in film.events}
    assert sum(event.minor for event in film.events) > 20, "heartbeats are marked"


def test_the_film_of_a_planted_bug_ends_with_the_invariant_that_broke() -> None:
    with mutants.planted(mutants.find("acks_at_one_copy")):
        film = play_scenario(scenarios.ALL["leader_reaches_clients_but_no_replica"], 1, "again")
    broken = film.header.broken
    assert broken is not None and broken.name == "AckedDurable"
    assert broken.event == len(film.events) - 1 or film.events[broken.event + 1].kind == "look"
    assert "majority" in broken.why


def test_every_invariant_says_what_it_is_for() -> None:
    assert len(sentences()) > 15
    for name, sentence in sentences():
        assert sentence and why(name).startswith(sentence)
        assert "docs/spec-map.md" in why(name)
    assert "no invariant" in why("Nonsense")


def test_the_command_writes_a_page_a_film_lanes_and_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = ["--scenario", "leader_reaches_clients_but_no_replica", "--mutant", "acks_at_one_copy"]
    assert main([*scenario, "--show", "--why", "--html", str(tmp_path / "run.film")]) == 1
    said = capsys.readouterr().out
    assert "node 1" in said and "◀" in said and "AckedDurable: An acknowledged entry" in said
    assert "happenings" not in said, "lanes take the place of the table"
    assert read(tmp_path / "run.film").header.broken is not None
    assert main(["--seed", "2", "--steps", "300", "--html", str(tmp_path / "run.html")]) == 0
    assert "seed 2" in (tmp_path / "run.html").read_text()
    both = ["--trace", str(tmp_path / "both.jsonl"), "--html", str(tmp_path / "both.film")]
    assert main(["--seed", "2", "--steps", "300", *both]) == 0
    assert (tmp_path / "both.jsonl").stat().st_size and read(tmp_path / "both.film").events
    assert main(["--seeds", "2", "--steps", "300", "--html", str(tmp_path / "none.html")]) == 0
    assert "every run held" in capsys.readouterr().out and not (tmp_path / "none.html").exists()
    assert main(["--scenarios", "--html", "x.html"]) == 2


def test_the_page_of_a_run_says_how_to_repeat_that_run(tmp_path: Path) -> None:
    flags = "--seed 2 --steps 300 --faults none --nodes 3 --workers 1 --giving-up 2 --finders 1 --codec"
    assert main([*flags.split(), "--html", str(tmp_path / "run.film")]) == 0
    assert read(tmp_path / "run.film").header.again == f"python -m walrus.sim {flags}"


def test_a_process_that_is_stopped_is_paused_until_it_goes_on() -> None:
    camera = Camera()
    for what in ("SIGSTOP", "SIGCONT"):
        camera.noted(1, what)
    assert [event.state for event in camera.film("a pause").events] == [{"paused": True}, {"paused": None}]
