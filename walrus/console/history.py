"""What happened to a cluster lately, derived from successive looks.

A look is `address -> figures` (`health.py`). The history keeps the looks of the last `WINDOW` seconds, as
far as rates and percentiles need them, and the latest events: each difference between two looks, as a line.

Logic without I/O, as a state machine: `take` is handed a look and the time; `picture` is what the page
shows.

Left out: history beyond some minutes. A monitoring system keeps that, from `/metrics`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from walrus.console.failovers import Timeline
from walrus.health import Answers, ClusterHealth, Durations, NodeFigures, NodeHealth, judge, rate

WINDOW = 60.0
"""Seconds over which percentiles are computed."""
MAX_EVENTS = 50
"""How many events are kept."""
MAX_TOPICS_SHOWN = 200
"""How many topics the page shows: those with the greatest lag first, then by name."""
MAX_LOOKS = 120
"""How many looks are kept for rates and percentiles."""
Of: TypeAlias = Callable[[NodeFigures], Durations]


class Happening(NamedTuple):
    """A difference between two looks."""

    at: float
    """Seconds since the epoch."""
    kind: str
    """`good`, `bad` or `note`."""
    text: str


class Glance(NamedTuple):
    """One look: the time, and the figures of each node that answered."""

    now: float
    nodes: Mapping[int, NodeFigures]


def percentile(durations: Durations, share: float) -> float | None:
    """Return the bound of the bucket in which that share of all observations is reached, in seconds.

    None if nothing was observed. What took longer than every bound counts as the last bound.

    >>> percentile(Durations([0.001, 0.01, 0.1], [50, 48, 2, 0]), 0.99)
    0.1
    """
    total = sum(durations.counts)
    if not total:
        return None
    seen = 0
    for bound, count in zip(durations.bounds, durations.counts, strict=False):
        seen += count
        if seen >= share * total:
            return bound
    return durations.bounds[-1]


def since(later: Durations, earlier: Durations) -> Durations:
    """Return what was observed between two looks; everything if the process was restarted in between."""
    counts = [a - b for a, b in zip(later.counts, earlier.counts, strict=False)]
    if len(later.counts) != len(earlier.counts) or any(count < 0 for count in counts):
        return later
    return Durations(later.bounds, counts, later.sum - earlier.sum)


class History:
    """The looks of the last minute, and the latest events."""

    def __init__(self) -> None:
        self.health: ClusterHealth = judge({})
        self.events: deque[Happening] = deque(maxlen=MAX_EVENTS)
        self._looks: deque[Glance] = deque(maxlen=MAX_LOOKS)
        self._failovers = Timeline()
        self._now = self._at = 0.0

    def take(self, answers: Answers, now: float, at: float) -> None:
        """Take one more look. `now`: of a clock that never steps back; `at`: seconds since the epoch."""
        before, self.health = self.health, judge(answers)
        self._now, self._at = now, at
        if self._looks:
            self.events.extend(Happening(at, kind, text) for kind, text in _differences(before, self.health))
        figures = {node.node_id: node.figures for node in self.health.nodes if node.figures is not None}
        self._failovers.take(figures.values(), now)
        while self._looks and self._looks[0].now < now - WINDOW:
            self._looks.popleft()
        self._looks.append(Glance(now, figures))

    def tell(self, at: float, kind: str, text: str) -> None:
        """Add an event that no look shows."""
        self.events.append(Happening(at, kind, text))

    def picture(self) -> dict[str, Any]:
        """Return what the page shows, in types that JSON has."""
        cluster = self.health
        return {
            "at": self._at,
            "word": cluster.word,
            "reasons": cluster.reasons,
            "cluster_id": cluster.cluster_id,
            "leader": cluster.leader,
            "under_replicated": cluster.under_replicated,
            "topic_count": cluster.topic_count,
            "worst_lag": cluster.worst_lag,
            "puts": self._puts(),
            "latency": self._latency(),
            "nodes": [self._node(node) for node in cluster.nodes],
            "topics": self._topics(),
            "failovers": self._failovers.picture(self._now, self._at),
            "events": [event._asdict() for event in reversed(self.events)],
        }

    def _pair(self, node_id: int) -> tuple[Glance, Glance] | None:
        """Return the last look and the one before it at which this node answered, if it did."""
        looks = [look for look in list(self._looks)[-3:] if node_id in look.nodes]
        return (looks[-2], looks[-1]) if len(looks) >= 2 and looks[-1] is self._looks[-1] else None

    def _rate(self, node_id: int, figure: str) -> float:
        """Return by how much a count of a node grew per second lately."""
        if (pair := self._pair(node_id)) is None:
            return 0.0
        earlier, later = pair
        old, new = (float(getattr(look.nodes[node_id], figure)) for look in pair)
        return rate(new, old, later.now - earlier.now)

    def _puts(self) -> list[float]:
        """Return the acknowledged PUTs per second of the whole cluster, for each look."""
        rates = []
        for earlier, later in zip(self._looks, list(self._looks)[1:], strict=False):
            both = earlier.nodes.keys() & later.nodes.keys()
            seconds = later.now - earlier.now
            rates.append(
                sum(
                    rate(later.nodes[n].puts_acknowledged, earlier.nodes[n].puts_acknowledged, seconds)
                    for n in both
                )
            )
        return [round(each, 1) for each in rates]

    def _lately(self, node_id: int, figures: NodeFigures, of: Of) -> Durations:
        """Return a node's durations within the window: since the first look at which it answered."""
        first = next(look.nodes[node_id] for look in self._looks if node_id in look.nodes)
        return since(of(figures), of(first))

    def _latency(self) -> dict[str, Any]:
        """Return durations within the window, by what was measured, over all nodes that answer."""
        answering = [(node.node_id, node.figures) for node in self.health.nodes if node.figures is not None]
        return {
            what: _histogram([self._lately(node_id, figures, of) for node_id, figures in answering])
            for what, of in LATENCIES.items()
        }

    def _node(self, node: NodeHealth) -> dict[str, Any]:
        shown = {"id": node.node_id, "address": node.address, "role": node.role, "trouble": node.trouble}
        figures = node.figures
        if figures is None:
            return shown
        puts, syncs = (self._lately(node.node_id, figures, LATENCIES[what]) for what in ("PUT", "sync"))
        return shown | {
            "ready": figures.ready,
            "term": figures.current_term,
            "commit": figures.commit_index,
            "leads": figures.segments_led,
            "entries": figures.entries,
            "puts": round(self._rate(node.node_id, "puts_acknowledged"), 1),
            "cpu": round(self._rate(node.node_id, "cpu_seconds"), 3),
            "memory": figures.resident_bytes,
            "connections": figures.client_connections,
            "disk_used": node.disk_used,
            "disk_free": figures.disk_free_bytes,
            "starts": figures.starts,
            "log_file": figures.log_file,
            "put_p50": percentile(puts, 0.5),
            "put_p99": percentile(puts, 0.99),
            "sync_p99": percentile(syncs, 0.99),
        }

    def _topics(self) -> list[dict[str, Any]]:
        topics: list[dict[str, Any]] = [
            {
                "name": name,
                "leader": topic.leader,
                "segments": topic.segments,
                "entries": topic.entries,
                "replicas": topic.replicas,
                "rate": round(self._topic_rate(name, topic.entries), 1),
                "lag": topic.lag,
                "out": topic.out,
                "skipped": topic.skipped,
                "dead_letters": topic.dead_letters,
            }
            for name, topic in self.health.topics.items()
        ]
        topics.sort(key=lambda topic: (-max(topic["lag"].values(), default=0), topic["name"]))
        return topics[:MAX_TOPICS_SHOWN]

    def _topic_rate(self, name: str, entries: int) -> float:
        """Return the entries per second of a topic, whichever node leads it."""
        for earlier in list(self._looks)[-2:-1]:
            for figures in earlier.nodes.values():
                if name in figures.topics_led:
                    seconds = self._looks[-1].now - earlier.now
                    return rate(entries, figures.topics_led[name].entries, seconds)
        return 0.0


def _histogram(several: Iterable[Durations]) -> dict[str, Any]:
    """Return the sum of histograms with the same bounds, as the page shows it."""
    counted = [each for each in several if each.counts]
    bounds = counted[0].bounds if counted else []
    fitting = [each.counts for each in counted if each.bounds == bounds]
    total = Durations(bounds, [sum(counts) for counts in zip(*fitting, strict=True)])
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    reached = {name: percentile(total, share) for name, share in shares.items()}
    return {"bounds": bounds, "counts": total.counts, **reached}


def _syncs(figures: NodeFigures) -> Durations:
    """Return the syncs of the data; where `--fsync` is not `each`, those of Raft's journal."""
    return figures.sync_seconds.get("data") or figures.sync_seconds.get("raft") or Durations()


LATENCIES: Final[dict[str, Of]] = {
    "PUT": attrgetter("put_seconds"),
    "append to durable": attrgetter("append_durable_seconds"),
    "append to acknowledged": attrgetter("append_acknowledged_seconds"),
    "sync": _syncs,
}
"""The durations that the page shows, in its order."""


def _differences(before: ClusterHealth, after: ClusterHealth) -> Iterable[tuple[str, str]]:
    """Yield the differences between two looks, in their probable order."""
    was, is_now = ({node.node_id: node for node in health.nodes} for health in (before, after))
    for node_id, node in is_now.items():
        yield from _of_node(was.get(node_id), node)
    for node_id in was.keys() - is_now.keys():
        if after.nodes:
            yield "note", f"node {node_id} is no member any more"
    if after.leader is not None and before.leader != after.leader:
        yield "note", f"node {after.leader} leads Raft"
    for name, topic in after.topics.items():
        old = before.topics.get(name)
        if old is not None and old.leader != topic.leader and old.segments < topic.segments:
            yield "note", f"{name}: segment {topic.segments} is open on node {topic.leader}"
    if before.word != after.word:
        kind = {"healthy": "good", "degraded": "note"}.get(after.word, "bad")
        yield kind, f"the cluster is {after.word}"


def _of_node(before: NodeHealth | None, after: NodeHealth) -> Iterable[tuple[str, str]]:
    if before is None:
        yield "note", f"node {after.node_id} is a member"
    elif before.figures is not None and after.figures is None:
        yield "bad", f"node {after.node_id} does not answer any more"
    elif before.figures is None and after.figures is not None:
        yield "good", f"node {after.node_id} answers again"
    elif before.figures and after.figures and before.figures.starts != after.figures.starts:
        yield "note", f"node {after.node_id} was started anew"
