"""Corrupted runs of Raft, by the dozen: RaftTrace.tla accepts what they are made of, and none of them."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache

import pytest

from tests.tlc.runs import corrupted_runs
from tests.tlc.test_raft_traces import chaos, eventful
from walrus.tlc.corruptions_raft import RAFT_KINDS
from walrus.tlc.trace_raft import RAFT
from walrus.tlc.trace_spec import Event
from walrus.tlc.traces import validate

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SEEDS = range(12) if DEEP else (0, 4)
EACH = 4 if DEEP else 1
SIZES = ((3, 4), (5, 6), (2, 4), (3, 5))


@cache
def whole() -> dict[str, list[Event]]:
    runs = {f"seed {seed}": chaos(seed, 40, *SIZES[seed % len(SIZES)]) for seed in SEEDS}
    return {"written by hand": list(eventful()), **runs}


@cache
def corrupt() -> dict[str, list[Event]]:
    return corrupted_runs(whole(), RAFT_KINDS, EACH)


def test_every_kind_of_corruption_fits_some_run() -> None:
    made = Counter(name.split(":")[0] for name in corrupt())
    assert set(made) == set(RAFT_KINDS), set(RAFT_KINDS) - set(made)


@pytest.mark.tla
@pytest.mark.timeout(3_600)
def test_whole_runs_are_accepted_and_every_corrupted_one_is_refused() -> None:
    runs = whole() | corrupt()
    accepted = {verdict.name for verdict in validate(runs, specs=[RAFT], explain=False) if verdict.accepted}
    assert set(whole()) <= accepted
    assert sorted(accepted - set(whole())) == []
