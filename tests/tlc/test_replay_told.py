"""Behaviours in which the replay, not the code, went another way than the spec; and how one is repeated."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from tests.tlc.behaviours import Told
from walrus.tlc import main as tlc
from walrus.tlc.replay import ReplayDifference, Replayed, perform, perform_all


def performed(told: Told) -> Replayed:
    outcome = Replayed()
    perform(told.states, 0, outcome, pre_votes=False)
    assert not outcome.beyond
    return outcome


def elected(told: Told, node: int, voter: int, term: int) -> None:
    told.campaigns(node)
    told.updates_term(voter, term)
    told.votes(voter, node)
    told.becomes_leader(node)


def test_a_leader_that_was_sending_a_snapshot_counts_what_the_follower_has_taken_since() -> None:
    told = Told(servers=3, terms=2)
    elected(told, 1, voter=2, term=2)
    told.appends(1)
    told.persists(1)
    told.updates_term(3, 2)
    told.accepts(3, 2)
    told.commits(1, 2)
    told.compacts(1, 2)  # the leader has nothing else for server 2 now: it begins to send the snapshot
    told.installs(2, leader=1)
    told.appends(1)
    told.accepts(2, 3)
    told.persists(1)
    told.commits(1, 3)  # by its own copy and that of server 2
    outcome = performed(told)
    assert [str(difference) for difference in outcome.differences] == []
    assert outcome.actions["AdvanceCommitIndex"] == 2 and outcome.actions["InstallSnapshot"] == 1


def test_the_noop_of_a_new_leader_is_durable_with_the_rest_of_its_log() -> None:
    told = Told(servers=3, terms=3)
    elected(told, 1, voter=2, term=2)
    told.appends(1)
    told.steps_down(1)  # with an entry that it has not written
    elected(told, 1, voter=2, term=3)
    told.persists(1)  # the code has appended the no-op
    told.appends(1)  # and now the spec has
    told.accepts(2, 2)
    told.accepts(2, 3)
    told.persists(1)
    told.commits(1, 3)
    outcome = performed(told)
    assert [str(difference) for difference in outcome.differences] == []
    assert outcome.actions["Persist"] == 2 and outcome.actions["AdvanceCommitIndex"] == 1


def test_how_much_is_durable_is_compared_exactly_once_the_spec_has_the_noop() -> None:
    told = Told(servers=3, terms=2)
    elected(told, 1, voter=2, term=2)
    told.appends(1)
    told.persists(1)
    told.appends(1)
    told.states[-1]["persisted"] = {1: 1, 2: 1, 3: 1}  # less than the code has
    (difference,) = performed(told).differences
    assert str(difference).endswith("persisted[1] is 1 in the spec and 2 in the code")


def test_a_difference_is_repeated_by_the_command_that_is_printed_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def differs(config: str, constants: object, **told: Any) -> Replayed:
        asked.append({"config": config, "constants": constants, **told})
        number = told["count"] - 1 if told["first"] else 327
        return Replayed(1, differences=[ReplayDifference(number, 31, "Persist(1)", "log[1]", "it differs")])

    monkeypatch.setattr(tlc, "replay", differs)
    first = "replay walrus-simulate --behaviours 3000 --seed 7 --checkpoints"
    assert tlc.main(shlex.split(first)) == 1
    printed = capsys.readouterr().out
    (command,) = [line.strip() for line in printed.splitlines() if "python -m walrus.tlc" in line]
    assert command.endswith("--only 327")
    assert tlc.main(shlex.split(command)[3:]) == 1
    assert command in capsys.readouterr().out
    whole, again = asked
    assert (again["first"], again["count"]) == (327, 328)
    same = ("config", "constants", "seed", "depth")
    assert [again[name] for name in same] == [whole[name] for name in same]


def test_behaviours_keep_their_numbers_when_only_one_is_performed() -> None:
    def one(states: object, number: int, outcome: Replayed) -> None:
        outcome.differences.append(ReplayDifference(number, 1, "", "", ""))

    outcome = perform_all([[]], one, most=1, first=327)
    assert [difference.behaviour for difference in outcome.differences] == [327]
