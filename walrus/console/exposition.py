"""The figures of a cluster in the text format of Prometheus, for `/metrics`.

Names follow its conventions: a prefix, base units (`seconds`, `bytes`), `_total` for what only grows. The
labels are `node`, `topic`, `group` and `engine`; how many values they take is bounded, since METRICS names a
bounded number (docs/limits.md). The format itself is written by `prometheus_client`.

A node that does not answer has `walrus_node_up` 0 and no other figures, so that graphs show a gap.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from walrus.health import EXIT_STATUS, ClusterHealth, Durations

GAUGES = (
    ("walrus_node_ready", "Whether the node is a voter, knows a leader and serves.", "ready"),
    ("walrus_raft_term", "Raft's current term.", "current_term"),
    ("walrus_raft_commit_index", "Raft's commit index.", "commit_index"),
    ("walrus_segments_led", "Open segments that the node leads.", "segments_led"),
    ("walrus_entries", "Entries of which the node holds a copy.", "entries"),
    ("walrus_payload_bytes", "Payload of those entries.", "bytes"),
    ("walrus_under_replicated_segments", "Segments with too few replicas in reach.", "under_replicated"),
    ("walrus_recoveries", "Segments that the node is recovering.", "recoveries"),
    ("walrus_copies_behind", "Copies on the node that lack entries of a sealed segment.", "copies_behind"),
    ("walrus_client_connections", "Connections of clients.", "client_connections"),
    ("walrus_disk_size_bytes", "Size of the file system that holds the data.", "disk_total_bytes"),
    ("walrus_disk_free_bytes", "What the node may still write there.", "disk_free_bytes"),
    ("walrus_resident_memory_bytes", "Resident memory of the process.", "resident_bytes"),
    ("walrus_open_files", "Open file descriptors of the process.", "open_files"),
    ("walrus_start_time_seconds", "When the process started, since the epoch.", "started_at"),
)
COUNTERS = (
    ("walrus_puts_acknowledged", "Entries answered OK by the node that had the client.", "puts_acknowledged"),
    ("walrus_entries_lost", "Entries that cursors stepped over: no replica has them.", "entries_lost"),
    ("walrus_deliveries", "Entries that the node handed out in answer to RECEIVE.", "deliveries"),
    ("walrus_redeliveries", "Those of them that had been out before.", "redeliveries"),
    ("walrus_dead_letters", "Entries that went to a dead-letter topic.", "dead_letters"),
    ("walrus_repetitions", "Entries that PUB brought again, not appended again.", "repetitions"),
    ("walrus_entries_trimmed", "Entries whose room on the node was given back.", "entries_trimmed"),
    ("walrus_wrong_tokens", "Logins of clients that were refused for their token.", "wrong_tokens"),
    ("walrus_failovers", "Segments of the cluster that were recovered, ever.", "failovers"),
    ("walrus_cpu_seconds", "Processor time of the process.", "cpu_seconds"),
    ("walrus_node_starts", "Starts of the node on its data directory.", "starts"),
)
HISTOGRAMS = (
    ("walrus_put_seconds", "From a PUT's arrival to its reply.", "put_seconds"),
    (
        "walrus_append_durable_seconds",
        "From an append at the leader until its own disk has it.",
        "append_durable_seconds",
    ),
    (
        "walrus_append_acknowledged_seconds",
        "From an append at the leader until a majority has it.",
        "append_acknowledged_seconds",
    ),
)


class _Figures(Collector):
    """One look at a cluster, as metrics."""

    def __init__(self, cluster: ClusterHealth) -> None:
        self._cluster = cluster
        self._nodes = {str(n.node_id): n.figures for n in cluster.nodes if n.figures is not None}

    def collect(self) -> Iterator[Metric]:
        """Yield every family once."""
        yield from self._whole()
        for name, text, figure in GAUGES:
            yield self._each(GaugeMetricFamily(name, text, labels=["node"]), figure)
        for name, text, figure in COUNTERS:
            yield self._each(CounterMetricFamily(name, text, labels=["node"]), figure)
        yield from self._histograms()
        yield from self._topics()

    def _whole(self) -> Iterator[Metric]:
        cluster = self._cluster
        word = "Health of the cluster: 0 healthy, 1 degraded, 2 unavailable."
        yield GaugeMetricFamily("walrus_cluster_health", word, EXIT_STATUS[cluster.word])
        leader = "Whether a Raft leader is known."
        yield GaugeMetricFamily("walrus_cluster_has_leader", leader, float(cluster.leader is not None))
        yield GaugeMetricFamily("walrus_topics", "Topics of the cluster.", cluster.topic_count)
        up = GaugeMetricFamily("walrus_node_up", "Whether the node answers.", labels=["node"])
        for node in cluster.nodes:
            up.add_metric([str(node.node_id)], float(node.figures is not None))
        yield up

    def _each(self, family: GaugeMetricFamily | CounterMetricFamily, figure: str) -> Metric:
        for node, figures in self._nodes.items():
            family.add_metric([node], float(getattr(figures, figure)))
        return family

    def _histograms(self) -> Iterator[Metric]:
        for name, text, figure in HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=["node"])
            for node, figures in self._nodes.items():
                _add(family, [node], getattr(figures, figure))
            yield family
        sync = HistogramMetricFamily("walrus_sync_seconds", "How long syncs took.", labels=["node", "engine"])
        for node, figures in self._nodes.items():
            for engine, durations in figures.sync_seconds.items():
                _add(sync, [node, engine], durations)
        yield sync

    def _topics(self) -> Iterator[Metric]:
        entries = GaugeMetricFamily("walrus_topic_entries", "Acknowledged entries.", labels=["topic"])
        segments = GaugeMetricFamily("walrus_topic_segments", "Segments of the topic.", labels=["topic"])
        lag = GaugeMetricFamily(
            "walrus_group_lag_entries", "Entries that the group is behind.", labels=["topic", "group"]
        )
        out = GaugeMetricFamily(
            "walrus_group_out_entries", "Entries that consumers have in hand.", labels=["topic", "group"]
        )
        skipped = CounterMetricFamily(
            "walrus_group_skipped_entries",
            "Entries that retention dropped before the group had them.",
            labels=["topic", "group"],
        )
        dead = CounterMetricFamily(
            "walrus_group_dead_letters",
            "Entries of the group that went to the dead-letter topic.",
            labels=["topic", "group"],
        )
        for name, topic in self._cluster.topics.items():
            entries.add_metric([name], topic.entries)
            segments.add_metric([name], topic.segments)
            for group, behind in topic.lag.items():
                lag.add_metric([name, group], behind)
            for group, count in topic.out.items():
                out.add_metric([name, group], count)
            for group in topic.lag:  # 0, too: a counter that first appears at 5 shows no increase
                skipped.add_metric([name, group], topic.skipped.get(group, 0))
                dead.add_metric([name, group], topic.dead_letters.get(group, 0))
        yield from (entries, segments, lag, out, skipped, dead)


def _add(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    """Add one histogram; Prometheus needs cumulative buckets."""
    if not durations.counts:
        return
    reached, buckets = 0, []
    for bound, count in zip([*map(str, durations.bounds), "+Inf"], durations.counts, strict=True):
        reached += count
        buckets.append((bound, float(reached)))
    family.add_metric(labels, buckets, durations.sum)


def exposition(cluster: ClusterHealth) -> bytes:
    """Return the content of `/metrics`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(cluster))
    return generate_latest(registry)
