"""Corrupted runs, by the dozen: each is refused, or a second judge, too, takes it for another legal run."""

from __future__ import annotations

import os
import random
from collections import Counter
from functools import cache

import pytest

from tests.tlc.test_traces import simulated
from walrus.tlc.corrupting import corrupted
from walrus.tlc.corruptions import KINDS
from walrus.tlc.referee import Referee
from walrus.tlc.trace_spec import Event
from walrus.tlc.trace_walrus import WALRUS, data_plane
from walrus.tlc.traces import TraceVerdict, validate

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SEEDS = range(1, 7) if DEEP else (1, 3)
"""Among them runs that sync nothing: 3."""
EACH = 4 if DEEP else 2

NEVER_LEGAL = {
    *("stranger", "announced_again", "shrunk", "shorter_restart", "restarted_with_less"),
    *("power_takes_synced", "another_cursor", "part_of_another_snapshot"),
}
"""Nothing excuses these. The others may hit a step on which nothing depends."""


def of_kind(name: str) -> str:
    return name.split(": ")[1].split()[0]


@cache
def runs() -> dict[str, list[Event]]:
    made = {}
    for seed in SEEDS:
        run = simulated(seed)
        made[f"seed {seed}"] = run
        for name, kind in KINDS.items():
            rng = random.Random(f"{seed} {name}")
            for number, other in enumerate(corrupted(run, kind, EACH, rng, read=data_plane)):
                made[f"seed {seed}: {name} {number}"] = other
    return made


def test_the_second_judge_takes_whole_runs() -> None:
    for seed in SEEDS:
        assert Referee(runs()[f"seed {seed}"]).judge()[1] == ""


def test_every_kind_of_corruption_is_made_and_refused_by_the_second_judge() -> None:
    made, refused = Counter[str](), Counter[str]()
    for name, run in runs().items():
        if ": " in name:
            made[of_kind(name)] += 1
            refused[of_kind(name)] += Referee(run).judge()[1] != ""
    assert set(made) == set(KINDS), set(KINDS) - set(made)
    assert [kind for kind in KINDS if not refused[kind]] == []
    assert {kind for kind in NEVER_LEGAL if refused[kind] < made[kind]} == set()


def differ(verdict: TraceVerdict, run: list[Event]) -> str:
    """Where the judges part: one takes what the other does not, or they stop at different events."""
    steps, why = Referee(run).judge()
    if verdict.accepted == (why == "") and verdict.followed == steps:
        return ""
    return f"{verdict.describe()} - the second judge: {steps} steps, {why}"


@pytest.mark.tla
@pytest.mark.timeout(3_600)
def test_tlc_and_the_second_judge_agree_on_each_corrupted_run() -> None:
    """Both read the rules; a corrupted run that both take is another legal run."""
    verdicts = validate(runs(), specs=[WALRUS], explain=False)
    assert [told for verdict in verdicts if (told := differ(verdict, runs()[verdict.name]))] == []
    legal = Counter(
        of_kind(verdict.name) for verdict in verdicts if verdict.accepted and ": " in verdict.name
    )
    assert not NEVER_LEGAL & legal.keys()
