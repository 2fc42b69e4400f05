"""Where a new segment goes: its leader and its replica set.

The proposer decides, and the command records the decision: `Metadata.apply` never computes a placement. So
two versions of this module may disagree about where a segment belongs, and the replicas of the metadata
still hold the same state.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from zlib import crc32


def first_leader(topic: str, live: Collection[int]) -> int:
    """Return the leader of a topic's first segment: a stable hash spreads topics over the live nodes."""
    assert live, "a segment needs a leader"
    candidates = sorted(live)
    return candidates[crc32(topic.encode()) % len(candidates)]


def next_leader(current: int, live: Collection[int]) -> int:
    """Return the live node that follows `current` round-robin.

    >>> next_leader(1, [1, 2, 3]), next_leader(3, [1, 2, 3]), next_leader(2, [1, 2])
    (2, 1, 1)
    """
    assert live, "a segment needs a leader"
    candidates = sorted(live)
    return next((node for node in candidates if node > current), candidates[0])


def replica_set(leader: int, live: Collection[int], voters: Collection[int], factor: int) -> tuple[int, ...]:
    """Return the leader, then `factor - 1` other voters (fewer if there are fewer), live ones preferred.

    A dead voter fills a place only if no live one is left for it. It does not raise the majority above that
    of `factor` replicas, and once it returns the segment has all the copies that it was meant to have.

    >>> replica_set(2, [1, 2, 3], [1, 2, 3], 3), replica_set(2, [1, 2], [1, 2, 3, 4], 3)
    ((2, 1, 3), (2, 1, 3))
    """
    alive = set(live)
    others = sorted(set(voters) - {leader}, key=lambda node: (node not in alive, node <= leader, node))
    chosen: Sequence[int] = others[: max(factor, 1) - 1]
    assert leader not in chosen, "a replica set names each node once"
    return (leader, *sorted(chosen))
