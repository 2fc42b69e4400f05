"""The majority: the one fact that everything here rests on, so it stands alone.

Any two majorities of one set share a member. An acknowledged entry is on a majority of a segment's
replicas, and a recovery hears from a majority of them, so it hears of that entry. A Raft entry is committed
by a majority, and a leader is elected by one, so a leader has every committed entry.
"""

from __future__ import annotations


def majority(size: int) -> int:
    """How many of `size` members make a majority.

    >>> [majority(size) for size in range(1, 6)]
    [1, 2, 2, 3, 3]
    """
    return size // 2 + 1
