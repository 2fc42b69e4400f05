"""Recorded runs of retention and deletion: what is dropped and given back is held against Retention.tla."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.tlc.runs import DEEP, Runs, recorded
from walrus.tlc.corruptions_retention import RETENTION_KINDS
from walrus.tlc.trace_retention import RETENTION, retained
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import WALRUS, data_plane, shortened
from walrus.tlc.traces import validate

SEEDS = range(1, 13) if DEEP else (2, 5)

PLANTED = {
    "copies_outlive_their_segment": (5, "SpaceIsGivenBack"),
    "group_stays_at_what_is_trimmed": (5, "MarkInBounds"),
    "topic_goes_without_a_seal": (1, "NoAckAfterDelete"),
}
"""Planted bugs: the seed of a run that shows each, and the invariant that it breaks."""


def simulated(seed: int) -> list[Event]:
    """A simulated run with faults, of a topic with retention that is deleted now and then."""
    return recorded(
        seed,
        keepers=2,
        think=0.1,
    )


RUNS = Runs(simulated, SEEDS, RETENTION_KINDS, PLANTED)


def test_the_runs_have_what_retention_is_about() -> None:
    parts = [part for run in RUNS.whole.values() for part in retained(run).values()]
    kinds = Counter(event["ev"] for part in parts for event in part)
    assert {*kinds} >= {"RegisterTopic", "Trim", "DeleteTopic", "Seal", "EndTopic", "ConfigureTopic"}
    assert {*kinds} >= {"Apply", "Take", "CopyTail", "Drop", "Read", "Found", "CommitCursors"}
    assert {*kinds} >= {"Put", "Stop"}


def test_every_kind_of_corruption_fits_some_run() -> None:
    assert RUNS.unfit_kinds() == set()


def test_a_group_at_the_end_of_a_segment_moves_on_with_its_seal() -> None:
    """It has read the segment; the Trim behind it tells the segment of its next entry."""
    opened = {"topic": "t", "number": 1, "segment": 1, "replicas": [1], "leader": 1}
    commands: list[Event] = [
        {"op": "RegisterTopic", **opened},
        {"op": "CommitCursors", "cursors": [["t", "g", 1, 3]]},
        {"op": "Seal", "topic": "t", "segment": 1, "count": 3, "cursors": []},
        {"op": "Trim", "topic": "t", "old": 1, "first": 2, "cursors": [["t", "g", 2, 0]]},
    ]
    run: list[Event] = [
        {"ev": "Apply", "node": 1, "index": index, **command} for index, command in enumerate(commands, 1)
    ]
    run.append({"ev": "Drop", "node": 1, "topic": "t", "segment": 1})
    (part,) = retained(run).values()
    told = [event["mark"] for event in part if event["ev"] in ("CommitCursors", "Seal", "Trim")]
    assert told == [1, 2, 2], "MarkInBounds: the mark moves where nothing was told of it"


def test_the_spec_of_the_data_plane_is_not_shown_what_was_dropped() -> None:
    dropped = {name: shortened(run) for name, run in RUNS.whole.items()}
    assert any(dropped.values()), "nothing was dropped in any of these runs"
    for name, run in RUNS.whole.items():
        assert not dropped[name] & {event.get("topic") for event in data_plane(run)}, name


@pytest.mark.tla
@pytest.mark.timeout(3_600)
def test_whole_runs_are_accepted_and_those_that_are_corrupted_or_of_a_planted_bug_are_refused() -> None:
    verdicts = validate(RUNS.all, specs=[RETENTION], explain=False)
    refused = {verdict.name: verdict for verdict in verdicts if not verdict.accepted}
    assert refused.keys() & set(RUNS.whole) == set()
    assert sorted(set(RUNS.corrupt) - refused.keys()) == []
    said = {name: refused[name].violated for name in refused.keys() & PLANTED.keys()}
    assert said == {name: invariant for name, (_, invariant) in PLANTED.items()}


@pytest.mark.tla
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(not DEEP, reason="in make deep")
def test_the_rest_of_such_a_run_is_a_behaviour_of_the_other_specs() -> None:
    verdicts = validate(RUNS.whole, specs=[WALRUS], explain=False)
    assert [verdict.name for verdict in verdicts if not verdict.accepted] == []
