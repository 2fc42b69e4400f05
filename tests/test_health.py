"""The health of a cluster in a word: what each answer, and each missing one, does to it."""

from __future__ import annotations

from typing import Any

import pytest

from walrus import health
from walrus.health import DEGRADED, HEALTHY, UNAVAILABLE, NodeFigures, judge, read, survey

ADDRESSES = {1: "a:1", 2: "b:2", 3: "c:3"}


def said(node: int, **more: Any) -> dict[str, Any]:
    answer = {
        "id": node,
        "state": "Leader" if node == 1 else "Follower",
        "current_term": 3,
        "current_leader": 1,
        "commit_index": 10,
        "ready": True,
        "cluster_id": "c",
        "membership_config": {"membership": {"configs": [[1, 2, 3]]}},
        "client_addresses": {str(n): where for n, where in ADDRESSES.items()},
        "topics": 1,
        "disk_total_bytes": 100,
        "disk_free_bytes": 50,
    }
    return {**answer, **more}


def answers(*told: dict[str, Any], silent: tuple[int, ...] = ()) -> dict[str, NodeFigures | None]:
    found: dict[str, NodeFigures | None] = {ADDRESSES[answer["id"]]: read(answer) for answer in told}
    return found | dict.fromkeys(ADDRESSES[node] for node in silent)


def test_a_cluster_in_which_nothing_is_missing_is_healthy() -> None:
    cluster = judge(answers(said(1), said(2), said(3)))
    assert (cluster.word, cluster.reasons, cluster.exit_status, cluster.leader) == (HEALTHY, (), 0, 1)


@pytest.mark.parametrize(
    ("told", "silent", "reason"),
    [
        ([said(1), said(2)], (3,), "node 3 (c:3) does not answer"),
        ([said(1), said(2), said(3, ready=False, why_not_ready="it learns")], (), "node 3 is not ready: it"),
        ([said(1, under_replicated=2), said(2), said(3)], (), "2 segments with too few replicas"),
        ([said(1), said(2, recoveries=1), said(3)], (), "1 segment being recovered"),
        ([said(1), said(2), said(3, copies_behind=4)], (), "4 segments with a copy that is behind"),
        ([said(1), said(2), said(3, disk_free_bytes=5)], (), "node 3: its disk is 95% full"),
    ],
)
def test_what_is_missing_degrades_it_and_is_named(
    told: list[dict[str, Any]], silent: tuple[int, ...], reason: str
) -> None:
    cluster = judge(answers(*told, silent=silent))
    assert (cluster.word, cluster.exit_status) == (DEGRADED, 1)
    assert len(cluster.reasons) == 1 and cluster.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("told", "silent", "reason"),
    [
        ([], (1, 2, 3), "no node answers (a:1, b:2, c:3)"),
        ([said(1)], (2, 3), "1 of 3 voters answer, which is no majority"),
        ([said(node, current_leader=None) for node in ADDRESSES], (), "no leader is known"),
        ([said(node, ready=False, why_not_ready="x") for node in ADDRESSES], (), "no node is ready"),
    ],
)
def test_what_stops_it_makes_it_unavailable(
    told: list[dict[str, Any]], silent: tuple[int, ...], reason: str
) -> None:
    cluster = judge(answers(*told, silent=silent))
    assert (cluster.word, cluster.exit_status) == (UNAVAILABLE, 2)
    assert cluster.reasons[0].startswith(reason)


def test_the_raft_leader_s_word_counts_for_replicas_and_the_newest_term_for_the_leader() -> None:
    stale = said(2, under_replicated=9, current_leader=2, current_term=2)
    cluster = judge(answers(said(1, under_replicated=1), stale, said(3)))
    assert (cluster.under_replicated, cluster.leader) == (1, 1)


def test_a_topic_is_told_by_the_node_with_more_segments() -> None:
    old, new = {"segments": 1, "entries": 5, "lag": {"g": 5}}, {"segments": 2, "entries": 7, "lag": {"g": 2}}
    cluster = judge(answers(said(1, topics_led={"t": new}), said(2, topics_led={"t": old}), said(3)))
    assert (cluster.topics["t"].leader, cluster.topics["t"].entries, cluster.worst_lag) == (1, 7, 2)


def test_a_survey_asks_every_member_that_is_named_and_none_twice() -> None:
    asked: list[str] = []

    def ask(address: str) -> NodeFigures | None:
        asked.append(address)
        node = {"a:1": 1, "localhost:1": 1, "b:2": 2}.get(address)
        return None if node is None else read(said(node))

    found = survey(["localhost:1"], ask)
    assert asked == ["localhost:1", "b:2", "c:3"], "node 1 answered under another name already"
    assert [node.role for node in judge(found).nodes] == ["Leader", "Follower", "no answer"]


def test_an_older_node_says_less_and_a_stranger_nothing() -> None:
    assert read(said(1)).topics_led == {}
    with pytest.raises(ValueError, match="not METRICS of a Walrus node"):
        read({"jsonrpc": "2.0"})
    assert health.judge({}).word == UNAVAILABLE
