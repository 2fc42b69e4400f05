"""The last failovers, as far as this node took part in them: when each came to which phase, for METRICS.

    noticed        a recovery begins: the leader is silent, gone, another process, or finds itself fenced
    fenced         a majority of the replicas is fenced: the old leader can acknowledge nothing more
    recovered      a majority holds what the longest of their copies held
    sealed         Raft has committed the Seal
    opened         the next segment has its writer
    acknowledged   a majority has a first entry there

The first four are seen by the node that recovers the segment, the last two by the leader of the next one,
which is mostly another node. They tell each other nothing of it. Who wants to see the whole asks every node,
and puts together what they say of the same topic and segment (`console/failovers.py`). So METRICS says how
long ago something was, and not when: the clocks of nodes need not agree.

A pure record: nothing is decided by it. Two recoveries of one segment at once are two records, of which each
node has its own.

Invariants: no more than `MAX_FAILOVERS` are kept; what a node has seen of one came in the order above.

Left out: the silence before. It is up to `--failure-timeout-ms` where a leader falls silent, and nothing
where its process is gone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from walrus.replicas.copies import Key

PHASES = ("noticed", "fenced", "recovered", "sealed", "opened", "acknowledged")
NOTICED, FENCED, RECOVERED, SEALED, OPENED, ACKNOWLEDGED = PHASES

MAX_FAILOVERS = 20
"""That are kept, and told. `failovers` in METRICS counts all."""


class FailoverSeen(msgspec.Struct):
    """What this node has seen of one: the leader that was lost, and when each phase was reached."""

    leader: int
    at: dict[str, float] = {}


class Failovers:
    """Those of the last while, by the segment that lost its leader."""

    def __init__(self) -> None:
        self._kept: dict[Key, FailoverSeen] = {}  # the oldest first
        self.awaited: dict[str, int] = {}
        """Topics whose next segment this node has opened, and not acknowledged anything in: the lost one."""

    def begin(self, key: Key, leader: int, phase: str, now: float) -> None:
        """A failover comes to the notice of this node, in a phase in which that can be: NOTICED or OPENED."""
        if key not in self._kept:
            if len(self._kept) >= MAX_FAILOVERS:
                self.forget(next(iter(self._kept)))
            self._kept[key] = FailoverSeen(leader)
        self.note(key, phase, now)
        if phase == OPENED:
            self.awaited[key[0]] = key[1]

    def note(self, key: Key, phase: str, now: float) -> None:
        """It has come to a phase. The first time counts, and nothing does of one that was forgotten."""
        if (failover := self._kept.get(key)) is not None:
            failover.at.setdefault(phase, now)

    def acknowledged(self, topic: str, now: float) -> None:
        """The segment that this node has opened has its first entry."""
        self.note((topic, self.awaited.pop(topic)), ACKNOWLEDGED, now)

    def forget(self, key: Key) -> None:
        """It is too long ago, or was none: the leader itself has sealed the segment before."""
        self._kept.pop(key, None)
        if self.awaited.get(key[0]) == key[1]:
            del self.awaited[key[0]]

    def told(self, now: float) -> list[dict[str, Any]]:
        """For METRICS, the oldest first. `ago`: seconds since each phase."""
        return [
            {
                "topic": topic,
                "segment": segment,
                "leader": failover.leader,
                "ago": {phase: round(now - at, 4) for phase, at in failover.at.items()},
            }
            for (topic, segment), failover in self._kept.items()
        ]

    def check_invariants(self) -> None:
        """Assert what must hold of the record."""
        assert len(self._kept) <= MAX_FAILOVERS, "more failovers are kept than told of"
        for key, failover in self._kept.items():
            times = [failover.at[phase] for phase in PHASES if phase in failover.at]
            assert times == sorted(times), f"FailoverProgress: {key} came to a phase before the one before it"
        for topic, segment in self.awaited.items():
            seen = self._kept[topic, segment].at
            assert OPENED in seen and ACKNOWLEDGED not in seen, f"{topic} is awaited for nothing"
