"""Recorded runs of work queues: what an owner hands out and answers is held against Delivery.tla."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.tlc.runs import DEEP, Runs, recorded
from tools.sees import STANDS_FOR
from walrus.tlc.corruptions_delivery import DELIVERY_KINDS
from walrus.tlc.trace_delivery import DELIVERY, deliveries
from walrus.tlc.trace_spec import Event
from walrus.tlc.traces import validate

SEEDS = (*range(1, 13), 61) if DEEP else (2, 61)

PLANTED = {
    "ack_answered_before_the_commit": (3, "PromisedIsCommitted"),
    "mark_past_a_hole": (2, "NothingSkipped"),
    "only_the_mark_counts": (3, "AckedNotRedelivered"),
}
"""Planted bugs: the seed of a run that shows each, and the invariant that the refused step stands for."""
if DEEP:
    PLANTED |= {
        "timeout_acknowledges": (1, "NothingSkipped"),
        "window_without_end": (3, "AckedNotRedelivered"),
        "join_without_the_runs": (4, "NothingSkipped"),
    }


def simulated(seed: int) -> list[Event]:
    """A simulated run with faults, of one work queue that is moved with SEEK, and one that gives up."""
    return recorded(
        seed,
        workers=2,
        giving_up=seed % 2,
        think=0.2,
    )


RUNS = Runs(simulated, SEEDS, DELIVERY_KINDS, PLANTED)


def test_the_runs_have_what_delivery_is_about() -> None:
    parts = [part for run in RUNS.whole.values() for part in deliveries(run).values()]
    kinds = Counter(event["ev"] for part in parts for event in part)
    assert {*kinds} >= {"Receive", "Return", "AckEntry", "Answer", "ProposeSeal", "NoteDead", "Withhold"}
    assert {*kinds} >= {"CommitGroups", "MoveGroup", "Seal", "Snapshot"}
    assert any(event.get("keeps") for part in parts for event in part)
    assert any(event.get("recovered") and event["owner"] for part in parts for event in part)


def test_every_kind_of_corruption_fits_some_run() -> None:
    assert RUNS.unfit_kinds() == set()


@pytest.mark.tla
@pytest.mark.timeout(3_600)
def test_whole_runs_are_accepted_and_those_that_are_corrupted_or_of_a_planted_bug_are_refused() -> None:
    verdicts = validate(RUNS.all, specs=[DELIVERY], explain=False)
    refused = {verdict.name: verdict.refused or {} for verdict in verdicts if not verdict.accepted}
    assert refused.keys() & set(RUNS.whole) == set()
    assert sorted(set(RUNS.corrupt) - refused.keys()) == []
    said = {name: STANDS_FOR[refused[name]["ev"]] if name in refused else "" for name in PLANTED}
    assert said == {name: invariant for name, (_, invariant) in PLANTED.items()}
