"""Recognises the action of Raft.tla between two states, because TLC writes behaviours without their actions.

Most actions change something that no other action changes (a budget, the elections, the requests). An
accepted request is identified by the slice of the leader's log that explains the follower's new log.

The two ways in which a replay can end early, `Difference` and `Beyond`, are the same for both specs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec

SpecState: TypeAlias = Mapping[str, Any]
"""Variable -> value; servers are numbers, 0 stands for none."""


class Difference(Exception):
    """The code and the spec have different values of a variable."""

    def __init__(self, variable: str, spec: object, code: object) -> None:
        super().__init__(f"{variable} is {spec} in the spec and {code} in the code")
        self.variable = variable


class Beyond(Exception):
    """The spec takes a step that the code cannot take; the message says why."""


def same(name: str, spec: object, code: object) -> None:
    """Raise Difference unless both values are equal."""
    if spec != code:
        raise Difference(name, spec, code)


class SpecStep(msgspec.Struct, frozen=True):
    """One action, and the server that takes it."""

    action: str
    node: int
    values: tuple[int, ...] = ()


def changed_node(before: SpecState, after: SpecState, *names: str) -> int:
    """Return the node for which one of these variables changed; 0 if there is none."""
    for name in names:
        for node in sorted(before[name]):
            if before[name][node] != after[name][node]:
                return int(node)
    return 0


def step_of(before: SpecState, after: SpecState) -> SpecStep:
    """Return the action between two states of a behaviour. Raises ValueError if none explains the change."""
    changed = partial(changed_node, before, after)
    spent = {name for name, left in before["budget"].items() if after["budget"][name] != left}
    if "restarts" in spent:
        return SpecStep("Restart", changed("log", "persisted", "commit_index", "role"))
    if "snapshots" in spent:
        node = changed("base")
        return SpecStep("CompactLog", node, (after["base"][node],))
    if "step_downs" in spent:
        return SpecStep("CheckQuorumFailed", changed("role"))
    if "changes" in spent:
        return SpecStep("ChangeMembership", changed("log"))
    if new := after["elections"] - before["elections"]:
        return SpecStep("BecomeLeader", next(iter(new))[1])
    if new := after["requests"] - before["requests"]:
        return SpecStep("Timeout", next(iter(new))["candidate"])
    if new := after["votes"] - before["votes"]:
        vote = next(iter(new))
        return SpecStep("HandleRequestVoteRequest", vote["voter"], (vote["candidate"],))
    if node := changed("current_term"):
        return SpecStep("UpdateTerm", node, (after["current_term"][node],))
    return _of_logs(before, after, changed)


def _of_logs(before: SpecState, after: SpecState, changed: Callable[..., int]) -> SpecStep:
    if node := changed("base"):
        return SpecStep("InstallSnapshot", node)
    if before["leader_log"] != after["leader_log"]:
        return SpecStep("ClientRequest", changed("log"))
    if before["leader_commit"] != after["leader_commit"]:
        node = changed("commit_index")
        return SpecStep("AdvanceCommitIndex", node, (after["commit_index"][node],))
    if node := changed("commit_index"):
        return SpecStep("LearnCommitIndex", node, (after["commit_index"][node],))
    node = changed("log") or _acknowledger(before, after)
    if node or (changed("role") and after["role"][changed("role")] == "Follower"):
        node = node or changed("role")
        if before["role"][node] == "Leader":
            return SpecStep("StepDown", node)
        return SpecStep("AcceptAppendEntriesRequest", node, _slice(before, after, node))
    if node := changed("persisted"):
        return SpecStep("Persist", node)
    if node := changed("role"):
        return SpecStep("PreVote", node)
    raise ValueError("a state that no action leads to")


def _acknowledger(before: SpecState, after: SpecState) -> int:
    for one, other in zip(before["matched"], after["matched"], strict=True):
        for node in one:
            if one[node] != other[node]:
                return int(node)
    return 0


def _slice(before: SpecState, after: SpecState, node: int) -> tuple[int, int]:
    """Return the request (prev, last) of the leader that explains the follower's new log."""
    term, log, wanted = before["current_term"][node], before["log"][node], after["log"][node]
    sent, acked = before["leader_log"][term - 1], before["matched"][term - 1][node]
    told = after["matched"][term - 1][node]
    for last in range(len(sent), -1, -1):
        for prev in (last, max(last, 1) - 1):
            if prev > len(log) or (prev and log[prev - 1]["term"] != sent[prev - 1]["term"]):
                continue
            conflict = any(
                log[i]["term"] != sent[i]["term"] for i in range(prev, last) if i < min(last, len(log))
            )
            merged = log[:prev] + sent[prev:last] if conflict or last > len(log) else log
            if merged == wanted and max(acked, last) == told:
                return prev, last
    raise ValueError("a log that no request leads to")
