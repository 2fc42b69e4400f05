"""Recorded runs of numbered entries (PUB): what writers append and answer is held against Publish.tla."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.tlc.runs import DEEP, FAULTS, Runs, event, recorded
from walrus.tlc.corruptions_publish import PUBLISH_KINDS
from walrus.tlc.trace_publish import PUBLISH, published
from walrus.tlc.trace_spec import Event
from walrus.tlc.traces import validate

SEEDS = range(1, 13) if DEEP else (1, 6)

PLANTED = {
    "repetition_appended": (1, "PubAppend"),
    "gap_taken": (6, "PubAppend"),
    "recovery_without_producers": (6, "Seal"),
    "repetition_answered_at_once": (6, "Repeat"),
}
"""Planted bugs: the seed of a run that shows each, and the event that is no step."""
if DEEP:
    PLANTED |= {"seal_without_producers": (1, "Seal"), "producer_forgotten_with_the_turn": (1, "Seal")}


def simulated(seed: int) -> list[Event]:
    """A simulated run with faults, of a topic that two producers publish to, and repeat themselves."""
    return recorded(seed, faults=(*FAULTS, "ambush"), repeaters=2, think=0.1)


RUNS = Runs(simulated, SEEDS, PUBLISH_KINDS, PLANTED)


def test_the_runs_have_what_publish_is_about() -> None:
    parts = [part for run in RUNS.whole.values() for part in published(run).values()]
    kinds = Counter(event["ev"] for part in parts for event in part)
    assert {*kinds} >= {"PubAppend", "Ack", "AnswerPub", "Repeat", "RefusePub", "Seal", "Snapshot", "Grant"}
    assert any(event.get("recovered") and event["producers"] for part in parts for event in part)
    assert all(part for part in parts)


def test_every_kind_of_corruption_fits_some_run() -> None:
    assert RUNS.unfit_kinds() == set()


@pytest.mark.tla
@pytest.mark.timeout(3_600)
def test_whole_runs_are_accepted_and_those_that_are_corrupted_or_of_a_planted_bug_are_refused() -> None:
    verdicts = validate(RUNS.all, specs=[PUBLISH], explain=False)
    refused = {verdict.name: verdict.refused or {} for verdict in verdicts if not verdict.accepted}
    assert refused.keys() & set(RUNS.whole) == set()
    assert sorted(set(RUNS.corrupt) - refused.keys()) == []
    said = {name: refused[name]["ev"] for name in refused.keys() & PLANTED.keys()}
    assert said == {name: ev for name, (_, ev) in PLANTED.items()}


def _full_table(*, end: int = 0, **dropped: Any) -> list[Event]:
    """A table of two, and a third producer: one is dropped; `dropped` is another step in that one's place."""
    run: list[Event] = [
        {"ev": "Begin", "max_producers": 2, "fsync_each": True, "nodes": [1, 2, 3]},
        event("Grant", 1, topic="a", segment=1, producers=[]),
    ]
    for start, producer in enumerate("xyz"):
        told = {"producer": producer, "number": 0, "start": start, "count": 1, "length": start + 1}
        run.append(event("PubAppend", 1, topic="a", segment=1, **told))
    run.append(event("DropProducer", 1, topic="a", segment=1, **{"producer": "x", **dropped}))
    told = {"segment": 1, "count": 3, "recovered": False, "producers": [["y", 0], ["z", 0]]}
    run.append(event("Ack", 1, topic="a", segment=1, count=3))
    run.append(event("Apply", 1, index=1, op="Seal", topic="a", **told))
    run.append(event("RefusePub", 2, topic="a", segment=2, producer="x", number=1))
    run.append(event("RefusePub", 2, topic="a", segment=2, producer="new", number=0))
    return run[: end or None]


@pytest.mark.tla
def test_a_full_table_drops_one_for_a_new_producer_and_no_more() -> None:
    bad = {
        "dropped too early": [*_full_table(end=4), _full_table()[5]],
        "dropped, and not known": _full_table(producer="w"),
        "the Seal has another one": _full_table(producer="y"),
        "a number below zero": [*_full_table(end=-1), {**_full_table()[-1], "number": -1}],
        "begins again": [*_full_table(), _full_table()[2] | {"segment": 2, "node": 2}],
    }
    verdicts = validate({"as it is": _full_table(), **bad}, specs=[PUBLISH], explain=False)
    assert {verdict.name for verdict in verdicts if verdict.accepted} == {"as it is"}


def test_what_may_lose_acknowledged_entries_and_what_was_deleted_is_not_followed() -> None:
    run = _full_table()
    assert published(run).keys() == {"a"}
    assert not published([*run, event("Recover", 1, topic="a", segment=2, count=0, answers=[], forced=True)])
    assert not published([run[0] | {"fsync_each": False}, *run[1:], event("PowerLoss", 1)])
    assert not published([*run, event("Apply", 1, index=2, op="DeleteTopic", topic="a", born=1)])
