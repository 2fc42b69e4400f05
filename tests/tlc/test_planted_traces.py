"""Recorded runs of code with a planted bug: refused at the step that is wrong, by both judges."""

from __future__ import annotations

from functools import cache

import pytest

from tools.sees import CANNOT_SHOW, played, played_with, recorded_with
from walrus.sim.mutants import ALL, find
from walrus.tlc.referee import Referee
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import WALRUS, data_plane
from walrus.tlc.traces import validate

NEEDLESS = "needless_recovery_of_a_live_leader"

SAMPLE: dict[str, tuple[str | int, str]] = {
    "acks_at_one_copy": (1, "Ack"),
    "acks_before_fsync": (1, "Report"),
    "reports_what_is_written": (1, "Report"),
    "sealed_before_acknowledged": ("frames_held_back_at_the_threshold", "ProposeSeal"),
    "no_fence_check": (NEEDLESS, "ReplicaAppend"),
    "fence_not_noted": (NEEDLESS, "Fence"),
    "fence_forgotten_at_restart": (NEEDLESS, "Restart"),
    "damaged_counts_as_sure": ("bit_flips_while_the_third_copy_lags", "AnswerFence"),
}
"""Planted bugs: a seed or a scenario in which a recorded run shows them, and the event that is no step."""


@cache
def shown(name: str) -> list[Event]:
    """The run that shows a bug."""
    where, _ = SAMPLE[name]
    bug = find(name)
    return recorded_with(bug, where) if isinstance(where, int) else played_with(bug, where)


@pytest.mark.parametrize("name", SAMPLE)
def test_the_second_judge_stops_at_the_step_that_is_wrong(name: str) -> None:
    run = shown(name)
    steps, why = Referee(run).judge()
    assert why, f"{name} is not seen"
    assert data_plane(run)[steps]["ev"] == SAMPLE[name][1]


@pytest.mark.tla
@pytest.mark.timeout(3_000)
def test_a_recorded_run_of_a_planted_bug_is_refused_and_the_same_run_without_it_is_not() -> None:
    verdicts = {
        verdict.name: verdict
        for verdict in validate(
            {**{name: shown(name) for name in SAMPLE}, "as it is": played(NEEDLESS)},
            specs=[WALRUS],
            explain=False,
        )
    }
    assert verdicts.pop("as it is").accepted
    assert [name for name, verdict in verdicts.items() if verdict.accepted] == []
    assert {name: (verdict.refused or {}).get("ev") for name, verdict in verdicts.items()} == {
        name: event for name, (_, event) in SAMPLE.items()
    }


def test_what_no_recorded_run_can_show_is_a_planted_bug_and_has_a_reason() -> None:
    assert {*CANNOT_SHOW} <= {*ALL}
    assert not {*CANNOT_SHOW} & {*SAMPLE}
    assert all(CANNOT_SHOW.values())
