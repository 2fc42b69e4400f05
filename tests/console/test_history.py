"""What the console makes of one look after the other."""

from __future__ import annotations

from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from walrus.console.exposition import exposition
from walrus.console.history import (
    MAX_EVENTS,
    MAX_LOOKS,
    MAX_TOPICS_SHOWN,
    History,
    percentile,
    since,
)
from walrus.health import Durations, NodeFigures, TopicFigures, judge, read

WHERE = {1: "a:1", 2: "b:2", 3: "c:3"}


def said(node: int, **more: Any) -> NodeFigures:
    return NodeFigures(
        id=node,
        state="Leader" if node == more.get("current_leader", 1) else "Follower",
        **{
            "current_term": 3,
            "current_leader": 1,
            "commit_index": 10,
            "ready": True,
            "membership_config": {"membership": {"configs": [[1, 2, 3]]}},
            "client_addresses": WHERE,
            **more,
        },
    )


def look(*figures: NodeFigures) -> dict[str, NodeFigures | None]:
    return {WHERE[each.id]: each for each in figures}


def test_a_death_and_what_follows_are_told_once_each() -> None:
    history = History()
    history.take(look(said(1), said(2), said(3)), 0.0, 100.0)
    assert not history.events
    after = {"current_leader": 2, "current_term": 4}
    history.take(look(said(2, **after), said(3, **after)), 1.0, 101.0)
    history.take(look(said(2, **after), said(3, **after)), 2.0, 102.0)
    assert [event.text for event in history.events] == [
        "node 1 does not answer any more",
        "node 2 leads Raft",
        "the cluster is degraded",
    ]
    history.take(look(said(1, starts=2, **after), said(2, **after), said(3, **after)), 3.0, 103.0)
    assert [event.text for event in history.events][3:] == ["node 1 answers again", "the cluster is healthy"]


def test_rates_are_of_the_last_two_looks_and_none_after_a_restart() -> None:
    history = History()
    history.take(look(said(1, puts_acknowledged=100)), 0.0, 0.0)
    history.take(look(said(1, puts_acknowledged=300)), 2.0, 2.0)
    assert history.picture()["nodes"][0]["puts"] == 100.0 and history.picture()["puts"] == [100.0]
    history.take(look(said(1, puts_acknowledged=5)), 3.0, 3.0)
    assert history.picture()["nodes"][0]["puts"] == 0.0


def test_percentiles_are_of_what_was_observed_within_the_window() -> None:
    bounds = [0.001, 0.01, 0.1]
    assert percentile(Durations(bounds, [98, 1, 1, 0]), 0.5) == 0.001
    assert percentile(Durations(bounds, [0, 0, 0, 4]), 0.5) == 0.1, "above all bounds"
    assert percentile(Durations(bounds, [0, 0, 0, 0]), 0.5) is None
    later, earlier = Durations(bounds, [5, 1, 0, 0], 2.0), Durations(bounds, [5, 0, 0, 0], 1.5)
    assert since(later, earlier) == Durations(bounds, [0, 1, 0, 0], 0.5)
    assert since(earlier, later) == earlier, "the process started anew"


def test_durations_of_all_nodes_are_one_histogram_of_the_last_minute() -> None:
    bounds = [0.001, 0.01]
    before, later = Durations(bounds, [5, 0, 0], 0.1), Durations(bounds, [995, 9, 0], 0.5)
    history = History()
    history.take(look(said(1, put_seconds=before), said(2)), 0.0, 0.0)
    assert history.picture()["latency"]["PUT"]["counts"] == [0, 0, 0]
    history.take(
        look(said(1, put_seconds=later), said(2, put_seconds=Durations(bounds, [0, 0, 1]))), 1.0, 1.0
    )
    puts = history.picture()["latency"]["PUT"]
    assert (puts["bounds"], puts["counts"]) == (bounds, [990, 9, 1])
    assert (puts["p50"], puts["p99"], puts["p999"]) == (0.001, 0.001, 0.01)
    nothing = {"bounds": [], "counts": [], "p50": None, "p99": None, "p999": None}
    assert history.picture()["latency"]["sync"] == nothing
    assert list(history.picture()["latency"]) == [
        "PUT",
        "append to durable",
        "append to acknowledged",
        "sync",
    ]
    both = {"append_durable_seconds": before, "append_acknowledged_seconds": later}
    history.take(look(said(1, starts=2, **both), said(2)), 2.0, 2.0)
    durable, acknowledged = list(history.picture()["latency"].values())[1:3]
    assert (durable["counts"], acknowledged["p999"]) == ([5, 0, 0], 0.01)


def test_the_exposition_is_read_by_the_format_s_own_parser() -> None:
    took = Durations([0.001, 0.01], [2, 1, 1], 0.5)
    topics = {"orders": {"segments": 2, "entries": 9, "lag": {"": 4, 'a"b\\': 5}, "out": {'a"b\\': 2}}}
    told = said(1, put_seconds=took, sync_seconds={"raft": took}, puts_acknowledged=7)
    history = History()
    answer = {**msgspec.to_builtins(told), "topics_led": topics}
    history.take({"a:1": read(answer)}, 0.0, 0.0)
    text = exposition(history.health).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [s.value for s in families["walrus_puts_acknowledged"].samples] == [7.0]
    assert {s.labels["node"]: s.value for s in families["walrus_node_up"].samples} == {"1": 1, "2": 0, "3": 0}
    assert {s.labels["group"]: s.value for s in families["walrus_group_lag_entries"].samples} == {
        "": 4,
        'a"b\\': 5,
    }
    buckets = [s.value for s in families["walrus_put_seconds"].samples if s.name.endswith("_bucket")]
    assert buckets == [2, 3, 4], "cumulated, the last is +Inf"
    assert text.count("# TYPE walrus_put_seconds histogram") == 1
    assert exposition(judge({})), "also of a cluster of which nothing is known"


def test_what_a_console_keeps_is_bounded() -> None:
    history = History()
    topics = {f"t{n}": TopicFigures(segments=1, entries=9, lag={"g": n}) for n in range(MAX_TOPICS_SHOWN + 5)}
    for n in range(3 * MAX_LOOKS):
        history.take(look(said(1, starts=n, topics_led=topics)), n / 100, float(n))
    picture = history.picture()
    assert len(picture["events"]) == MAX_EVENTS
    assert len(picture["puts"]) == MAX_LOOKS - 1
    assert len(picture["topics"]) == MAX_TOPICS_SHOWN
    assert picture["topics"][0]["name"] == f"t{MAX_TOPICS_SHOWN + 4}", "the largest lag"
