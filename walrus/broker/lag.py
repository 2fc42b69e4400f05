"""How far the consumer groups are behind: for METRICS, of the topics that this node leads, and for GROUPS.

The leader of a topic's open segment knows where the topic ends: how many entries of that segment a majority
has. The position of a group is in the metadata, at most one commit interval old, so a group that keeps up
has a lag of the entries of a tenth of a second. Together the nodes name every topic exactly once, except
for a moment during a failover.

`lag` counts entries that the group has not received (GET) or not acknowledged (RECEIVE); `out` counts those
among them that consumers have in hand. Only the leader knows them: any other node says that it is not
`exact`. `skipped` counts entries that retention dropped before the group had them, `dead_letters` those
that were moved to the dead-letter topic; both are in the metadata, and only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from itertools import islice
from typing import Any

import msgspec

from walrus.acknowledged import Acknowledged
from walrus.segments import START, Metadata, OpenAt, Position, SealedAt, Topic

MAX_TOPICS_NAMED = 1_000
"""How many of the topics that a node leads METRICS names; it counts all of them."""

MAX_GROUPS_NAMED = 100
"""How many groups of a topic METRICS names: those with the largest lag."""


def topics_led(
    metadata: Metadata, led: Mapping[str, int], out: Callable[[str], Mapping[str, int]]
) -> dict[str, dict[str, Any]]:
    """Return the figures of each topic and its groups.

    `led`: topic -> how many entries of its open segment are acknowledged. `out(topic)`: group -> how many
    entries are with its consumers.
    """
    known = ((name, metadata.topics[name], end) for name, end in led.items() if name in metadata.topics)
    return {name: _topic(topic, end, out(name)) for name, topic, end in islice(known, MAX_TOPICS_NAMED)}


def _topic(topic: Topic, open_entries: int, out: Mapping[str, int]) -> dict[str, Any]:
    figures = group_figures(topic, open_entries, out)
    lags = [(group, figure["lag"]) for group, figure in figures.items()]
    worst = sorted(lags, key=lambda item: (-item[1], item[0]))[:MAX_GROUPS_NAMED]
    return {
        "segments": topic.current,
        "entries": topic.sealed_total + open_entries,
        "replicas": topic.open.replicas,
        "lag": dict(worst),
        "out": {group: out[group] for group, _ in worst if out.get(group)},
        "skipped": {group: topic.skipped[group] for group, _ in worst if topic.skipped.get(group)},
        "dead_letters": {group: topic.dead[group] for group, _ in worst if topic.dead.get(group)},
    }


MAX_TOPICS_LISTED = 1_000
"""The most topics in one reply to TOPICS; a longer prefix shows the others."""


def topics(metadata: Metadata, prefix: str) -> bytes:
    """The reply to TOPICS: the names that begin with a prefix, in order."""
    names = [name for name in metadata.topics if name.startswith(prefix)]
    # `nsmallest`, since sorting all names takes three times as long with the most topics that are allowed.
    return msgspec.json.encode({"topics": nsmallest(MAX_TOPICS_LISTED, names), "count": len(names)})


def groups(topic: Topic, open_entries: int | None, out: Mapping[str, int]) -> bytes:
    """The reply to GROUPS; the arguments are those of `group_figures`."""
    end = Position(topic.current, open_entries or 0)
    answer = {"end": end._asdict(), "exact": open_entries is not None, "leader_node": topic.open.leader}
    return msgspec.json.encode({**answer, "groups": group_figures(topic, open_entries, out)})


def group_figures(
    topic: Topic, open_entries: int | None, out: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Return the figures of each group, by name.

    `open_entries`: how many entries of the topic's open segment are acknowledged; None if this node does not
    lead it. The lag then counts only sealed segments, and it is not known which entries are out.
    """
    end = Position(topic.current, open_entries or 0)
    found = {
        group: {"read_with": "GET", **position._asdict(), "lag": _behind(topic, position, end)}
        for group, position in topic.cursors.items()
    }
    for group in topic.groups.keys() | out.keys():  # a group may have entries out before its first commit
        done = topic.group(group)
        found[group] = {
            "read_with": "RECEIVE",
            **done.low._asdict(),
            "lag": _unacknowledged(topic, done, end),
            "out": None if open_entries is None else out.get(group, 0),
        }
    return dict(sorted(found.items()))


def _behind(topic: Topic, position: Position, end: Position) -> int:
    """Entries from `position` to `end`; 0 if `end`, from a writer that has just begun, is before it."""
    return topic.distance(position, end) if position < end else 0


def _unacknowledged(topic: Topic, done: Acknowledged, end: Position) -> int:
    above = sum(run.end - run.start for run in done.above)
    return max(0, _behind(topic, max(done.low, START), end) - above)


def under_replicated(opened: OpenAt, sealed: SealedAt, wanted: int, reachable: Iterable[int]) -> int:
    """Return how many segments have fewer than `wanted` replicas on nodes that this one reaches.

    It visits the sets of replicas, which are few even if there are many segments.
    """
    alive = frozenset(reachable)
    count = 0
    for placement, topics in opened.items():
        count += len(topics) if len(alive.intersection(placement.replicas)) < wanted else 0
    for replicas, segments in sealed.items():
        count += len(segments) if len(alive.intersection(replicas)) < wanted else 0
    return count
