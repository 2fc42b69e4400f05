"""The latest failovers that this node took part in, and when each reached which phase: for METRICS.

    noticed        a recovery begins: the leader is silent, gone, another process, or finds itself fenced
    fenced         a majority of the replicas is fenced: the old leader can acknowledge nothing more
    recovered      a majority holds as much as the longest of their copies
    sealed         Raft has committed the Seal
    opened         the next segment has its writer
    acknowledged   a majority has a first entry there

The node that recovers the segment sees the first four; the leader of the next segment, usually another
node, sees the last two. They do not exchange their records: the console asks every node, and combines their
reports on the same topic and segment (`console/failovers.py`). Since the clocks of nodes need not agree,
METRICS says how long ago each phase was reached, and not when.

No decision depends on these records. If two nodes recover one segment at once, each has a record of its own.

Invariants: no more than `MAX_FAILOVERS` are kept; what a node has seen of one came in the order above.

Left out: the silence before the first phase. It is up to `--failure-timeout-ms` if a leader falls silent,
and zero if its process has ended.
"""

from __future__ import annotations

from typing import Any

import msgspec

from walrus.replicas.copies import Key

PHASES = ("noticed", "fenced", "recovered", "sealed", "opened", "acknowledged")
NOTICED, FENCED, RECOVERED, SEALED, OPENED, ACKNOWLEDGED = PHASES

MAX_FAILOVERS = 20
"""The most failovers that are kept and reported. `failovers` in METRICS counts all of them."""


class FailoverSeen(msgspec.Struct):
    """One failover as this node has seen it: the leader that was lost, and when each phase was reached."""

    leader: int
    at: dict[str, float] = {}


class Failovers:
    """The latest failovers, by the segment that lost its leader."""

    def __init__(self) -> None:
        self._kept: dict[Key, FailoverSeen] = {}  # the oldest first
        self.awaited: dict[str, int] = {}
        """Topics whose next segment this node has opened, without an acknowledged entry so far, with the
        number of the lost segment."""

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
        """Note that a failover has reached a phase, unless that is noted, or the failover is forgotten."""
        if (failover := self._kept.get(key)) is not None:
            failover.at.setdefault(phase, now)

    def acknowledged(self, topic: str, now: float) -> None:
        """Note that the segment that this node has opened has its first acknowledged entry."""
        self.note((topic, self.awaited.pop(topic)), ACKNOWLEDGED, now)

    def forget(self, key: Key) -> None:
        """Forget a failover that is too old, or was none, since the leader itself has sealed the segment."""
        self._kept.pop(key, None)
        if self.awaited.get(key[0]) == key[1]:
            del self.awaited[key[0]]

    def told(self, now: float) -> list[dict[str, Any]]:
        """Return the failovers for METRICS, the oldest first. `ago`: seconds since each phase."""
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
        """Assert the invariants of the record."""
        assert len(self._kept) <= MAX_FAILOVERS, "more failovers are kept than told of"
        for key, failover in self._kept.items():
            times = [failover.at[phase] for phase in PHASES if phase in failover.at]
            assert times == sorted(times), f"FailoverProgress: {key} came to a phase before the one before it"
        for topic, segment in self.awaited.items():
            seen = self._kept[topic, segment].at
            assert OPENED in seen and ACKNOWLEDGED not in seen, f"{topic} is awaited for nothing"
