"""The last failovers of a cluster, put together from what each node has seen of them.

The node that recovers a segment knows when that was noticed, fenced, recovered and sealed; the leader of the
next one when it had opened that, and acknowledged a first entry (`broker/failovers.py`). Each says how many
seconds ago, so the clocks of the nodes need not agree: a phase is dated by the clock of the console, and too
late by the time that the answer was under way. Two rules bring that close to the truth:

    of all that is told of a phase, the earliest counts     no answer is there before it was given
    a phase was reached before the next one was             that is their order, wherever they are seen

A recovery that a node no longer speaks of, and that has sealed nothing, is not shown: the leader was quicker.
It may only be that the node died. Then another one goes on, and the first date still counts.

Logic without I/O. A state machine: `take` is handed answers and the time; `picture` is what the page shows.

Invariant: no more than `MAX_SHOWN` are kept, the latest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from walrus.health import PHASES, FailoverFigures, NodeFigures

MAX_SHOWN = 20
"""That are kept, of all nodes together: as many as one node tells."""


class Joined(msgspec.Struct):
    """One failover, by the word of all that saw something of it."""

    lost: int
    """The node that led the segment."""
    at: dict[str, float] = {}
    """When each phase was reached, by the clock that `take` is handed."""
    by: dict[str, int] = {}
    """The node that said so first."""
    told: bool = True
    """Whether some node spoke of it at the last look."""

    @property
    def begun(self) -> float:
        """When the first node noticed it."""
        return min(self.at.values())

    @property
    def shown(self) -> bool:
        """Whether it is one: a recovery that ends without a Seal of its own is told of no more."""
        return self.told or "sealed" in self.at or "opened" in self.at

    def hear(self, node: int, told: FailoverFigures, now: float) -> None:
        """A node tells what it has seen."""
        self.told = True
        for phase, ago in told.ago.items():
            self.by.setdefault(phase, node)
            self.at[phase] = min(self.at.get(phase, now), now - ago)

    def phases(self) -> list[tuple[str, float]]:
        """Those that were reached, in their order, and how many seconds after the first."""
        dated, latest = list[tuple[str, float]](), float("inf")
        for phase in reversed([phase for phase in PHASES if phase in self.at]):
            latest = min(latest, self.at[phase])
            dated.insert(0, (phase, latest))
        return [(phase, round(at - dated[0][1], 4)) for phase, at in dated]


class Timeline:
    """The failovers of the last while."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], Joined] = {}

    def take(self, figures: Iterable[NodeFigures], now: float) -> None:
        """One more look. `now`: when, where an answer does not say; of a clock that never steps back."""
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
        """The last one first. `at`: seconds since the epoch at `now`."""
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
