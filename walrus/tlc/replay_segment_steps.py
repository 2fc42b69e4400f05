"""Recognises the action of Walrus.tla between two states, as `replay_steps.py` does for Raft.tla.

A behaviour that is performed has one topic and no groups. So its states are flattened first: variables of a
topic's copies become variables of segments, and variables that no action changes are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from walrus.tlc.replay_steps import SpecState, SpecStep, changed_node

PER_NODE = ("view", "checkpoint", "lease", "log", "synced", "matched")
"""Variables that are functions of node and topic."""


def flat(state: SpecState) -> dict[str, Any]:
    """Return the state without its topic. Segments are numbered from 1, so lists by segment become dicts."""
    ((topic, known),) = state["metadata"].items()
    made = {name: {node: of[topic] for node, of in state[name].items()} for name in PER_NODE}
    for name in ("log", "synced", "matched"):
        made[name] = {node: _numbered(of) for node, of in made[name].items()}
    pairs = {name: frozenset(s for _, s in state[name]) for name in ("sealing", "recovering")}
    decided, proposals = (
        frozenset((it["segment"], it["count"]) for it in state[name]) for name in ("decided", "proposals")
    )
    return {
        **made,
        **pairs,
        **{name: state[name] for name in ("announced", "up", "heard", "incarnation", "budget")},
        "segments": _numbered(known["segments"]),
        "sealed_total": known["sealed_total"],
        "fenced": {node: frozenset(s for _, s in of) for node, of in state["fenced"].items()},
        "acked": _numbered(state["acked"][topic]),
        "stream": _numbered(state["stream"][topic]),
        "answers": frozenset((a["segment"], a["node"], a["length"], a["sure"]) for a in state["answers"]),
        "copied": frozenset((a["segment"], a["node"], a["length"]) for a in state["copied"]),
        "decided": decided,
        "proposals": proposals,
    }


def _numbered(values: Any) -> dict[int, Any]:
    return dict(enumerate(values, 1))


def segment_step_of(before: SpecState, after: SpecState) -> SpecStep:
    """Return the action between two flat states. Raises ValueError if no action explains the change."""
    changed = partial(changed_node, before, after)

    def new(name: str) -> tuple[int, ...]:
        return next(iter(after[name] - before[name]), ())

    if len(after["segments"]) > len(before["segments"]):
        return SpecStep("Seal", after["segments"][len(after["segments"])]["leader"])
    if node := changed("up"):
        died = "Crash" if after["budget"]["faults"] < before["budget"]["faults"] else "LosePower"
        return SpecStep("Restart" if after["up"][node] else died, node)
    if node := changed("announced"):
        return SpecStep("Announce", node, (after["announced"][node],))
    if node := changed("heard"):
        return SpecStep("RenewLease" if after["heard"][node] else "ExpireLease", node)
    if node := changed("view"):
        return SpecStep("Apply", node, (after["view"][node],))
    if node := changed("checkpoint"):
        return SpecStep("Checkpoint", node)
    if at := new("decided"):
        return SpecStep("Recover", 0, at)
    if at := new("proposals"):
        leader = after["segments"][at[0]]["leader"]
        own = at[0] in after["sealing"] and _may_propose(after, leader, at[0])
        return SpecStep("ProposeSeal", leader, at) if own else SpecStep("RecoverySeal", 0, at)
    return _of_copies(before, after, changed, new)


def _may_propose(state: SpecState, leader: int, number: int) -> bool:
    whole = state["acked"][number] == len(state["log"][leader][number])
    return whole and state["lease"][leader] == number and number not in state["fenced"][leader]


def _of_copies(
    before: SpecState,
    after: SpecState,
    changed: Callable[..., int],
    new: Callable[[str], tuple[int, ...]],
) -> SpecStep:
    def segment(name: str, node: int = 0) -> int:
        one, other = (state[name][node] if node else state[name] for state in (before, after))
        return next((s for s in other if one.get(s) != other[s]), 0)

    if grown := after["sealing"] - before["sealing"]:
        (number,) = grown
        return SpecStep("BeginSeal", after["segments"][number]["leader"], (number,))
    if number := segment("acked"):
        return SpecStep("Ack", after["segments"][number]["leader"], (number, after["acked"][number]))
    if number := segment("stream"):
        return SpecStep("LeaderAppend", after["segments"][number]["leader"], (number,))
    if grown := after["recovering"] - before["recovering"]:
        (number,) = grown
        ready = [node for node in after["up"] if after["up"][node] and after["view"][node] == number]
        return SpecStep("StartRecovery", ready[0], (number,))
    if node := changed("fenced"):
        (number,) = after["fenced"][node] ^ before["fenced"][node]
        noted = number in after["fenced"][node]
        return SpecStep("Fence" if noted else "ForgetFence", node, (number,))
    if answer := new("answers"):
        return SpecStep("Fence", answer[1], (answer[0],))
    if node := changed("log"):
        number = segment("log", node)
        upto = len(after["log"][node][number])
        if new("copied"):
            return SpecStep("CopyTail", node, (number, upto))
        repaired = after["synced"][node][number] != before["synced"][node][number]
        return SpecStep("Repair" if repaired else "ReplicaAppend", node, (number, upto))
    if node := changed("matched"):
        return SpecStep("Report", node, (segment("matched", node),))
    raise ValueError("a state that no action leads to")
