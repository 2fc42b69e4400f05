"""The last failovers of a cluster, combined from the reports of its nodes.

The node that recovers a segment knows when the failure was noticed, and when the segment was fenced,
recovered and sealed. The leader of the next segment knows when it had opened that, and acknowledged a first
entry (`broker/failovers.py`). Each reports how many seconds ago, so the clocks of the nodes need not agree.
A phase is dated by the clock of the console, too late by the transit time of the answer. Two rules reduce
that error:

    of all reports of a phase, the earliest counts          no answer arrives before it was given
    a phase was reached before the next one was             that is their order, on whatever nodes

A recovery that its node no longer reports and that has sealed nothing is not shown: the leader was faster.
If instead the node died, another node continues, and the first date still counts.

Logic without I/O, as a state machine: `take` is handed answers and the time; `picture` is what the page
shows.

Invariant: at most `MAX_SHOWN` failovers are kept, the latest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from walrus.health import PHASES, FailoverFigures, NodeFigures

MAX_SHOWN = 20
"""Failovers that are kept, over all nodes: as many as one node reports."""


class Joined(msgspec.Struct):
    """One failover, combined from the reports of all nodes that took part."""

    lost: int
    """The node that led the segment."""
    at: dict[str, float] = {}
    """Phase -> when it was reached, by the clock that `take` is handed."""
    by: dict[str, int] = {}
    """Phase -> the node that reported it first."""
    told: bool = True
    """Whether a node reported it at the last look."""

    @property
    def begun(self) -> float:
        """Return when the first node noticed it."""
        return min(self.at.values())

    @property
    def shown(self) -> bool:
        """Return whether it is a failover: one that ended without a Seal of its own is not reported."""
        return self.told or "sealed" in self.at or "opened" in self.at

    def hear(self, node: int, told: FailoverFigures, now: float) -> None:
        """Take a node's report."""
        self.told = True
        for phase, ago in told.ago.items():
            self.by.setdefault(phase, node)
            self.at[phase] = min(self.at.get(phase, now), now - ago)

    def phases(self) -> list[tuple[str, float]]:
        """Return the phases that were reached, in order, each with the seconds since the first one."""
        dated, latest = list[tuple[str, float]](), float("inf")
        for phase in reversed([phase for phase in PHASES if phase in self.at]):
            latest = min(latest, self.at[phase])
            dated.insert(0, (phase, latest))
        return [(phase, round(at - dated[0][1], 4)) for phase, at in dated]


class Timeline:
    """The latest failovers."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], Joined] = {}

    def take(self, figures: Iterable[NodeFigures], now: float) -> None:
        """Take one more look. `now` dates answers without a time; it is of a clock that never steps back."""
        for one in self._kept.values():
            one.told = False
        for node in figures:
            heard = now if node.heard_at is None else node.heard_at
            for told in node.last_failovers:
                if told.ago:
                    known = self._kept.setdefault((told.topic, told.segment), Joined(told.leader))
                    known.hear(node.id, told, heard)
        latest = sorted(self._kept, key=lambda key: self._kept[key].begun)[-MAX_SHOWN:]
        self._kept = {key: self._kept[key] for key in latest}

    def picture(self, now: float, at: float) -> list[dict[str, Any]]:
        """Return the failovers for the page, latest first. `at`: seconds since the epoch at `now`."""
        return [
            {
                "topic": topic,
                "segment": segment,
                "lost": one.lost,
                "recovered_by": one.by.get("recovered", one.by.get("noticed")),
                "next": one.by.get("opened"),
                "at": at - (now - one.begun),
                "phases": one.phases(),
            }
            for (topic, segment), one in reversed(self._kept.items())
            if one.shown
        ]
