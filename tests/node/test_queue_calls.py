"""What a hundred RECEIVEs and their ACKs cost three whole nodes, in calls: a bound that is counted.

Times on a shared machine say nothing; counts are the same everywhere. A change that needs more says so here.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.queue_calls import ROLES, QueueStage

MOST = {"RECEIVE": (620, 0, 0), "ACK": (1_350, 1_250, 750)}
"""Calls of Python functions at the owner, at Raft's leader, and at the third node, those of asyncio included.

An ACK's are some more where a sync ends in a pass of its own, which is up to the disk: so the least of some
rounds is held to the bound."""


def test_a_hundred_receives_and_their_acks_take_no_more_calls_than_they_did(tmp_path: Path) -> None:
    with QueueStage(tmp_path, "200") as stage:
        found = stage.rounds(5, warm_up=2)
    for kind, most in MOST.items():
        for role, bound in zip(ROLES, most, strict=True):
            calls = min(python.total() for python, _ in found[kind][role].rows)
            assert calls <= bound, f"{calls} calls for 100 x {kind} at the {role}"
