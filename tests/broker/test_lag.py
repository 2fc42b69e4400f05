"""What METRICS says of topics and their groups, and which segments lack a replica."""

from __future__ import annotations

import msgspec
import pytest

from tests.broker.test_segments import cluster, seal
from tests.broker.world import three
from walrus import protocol
from walrus.acknowledged import Acknowledged, Position, Run
from walrus.broker.lag import (
    MAX_GROUPS_NAMED,
    MAX_TOPICS_NAMED,
    groups,
    topics,
    topics_led,
    under_replicated,
)
from walrus.segments import (
    CommitCursors,
    CommitGroups,
    Metadata,
    Placement,
    RegisterTopic,
    Segment,
    Topic,
)

OK = b"OK"


def topic(*counts: int | None, **more: object) -> Topic:
    segments = [
        Segment(leader=1, incarnation=1, replicas=(1, 2, 3), count=count, checksum=None) for count in counts
    ]
    return Topic(segments=segments, sealed_total=sum(c or 0 for c in counts), **more)  # type: ignore[arg-type]


def led(topic: Topic, end: int, **out: int) -> dict[str, object]:
    metadata = Metadata()
    metadata.topics["t"] = topic
    return topics_led(metadata, {"t": end}, lambda name: out)["t"]


def test_the_lag_of_a_group_counts_what_it_has_not_got() -> None:
    groups = {"": Position(2, 3), "new": Position(1, 0), "done": Position(3, 7), "ahead": Position(3, 9)}
    said = led(topic(10, 20, None, cursors=groups), 7)
    assert said["lag"] == {"new": 37, "": 24, "done": 0, "ahead": 0}
    assert (said["segments"], said["entries"]) == (3, 37)


def test_the_lag_of_a_work_queue_counts_what_it_has_not_acknowledged() -> None:
    done = Acknowledged(low=Position(1, 4), above=(Run(1, 6, 8), Run(2, 0, 1)))
    said = led(topic(10, None, groups={"workers": done}), 5, workers=3)
    assert (said["lag"], said["out"]) == ({"workers": 15 - 4 - 3}, {"workers": 3})


def test_what_a_group_missed_and_what_was_given_up_for_it_is_named_and_of_no_other_group() -> None:
    groups = {"old": Position(2, 3), "new": Position(2, 4)}
    said = led(topic(10, None, cursors=groups, skipped={"old": 7}, dead={"old": 2, "gone": 9}), 5)
    assert (said["skipped"], said["dead_letters"]) == ({"old": 7}, {"old": 2})


def test_metrics_name_a_bounded_number_of_topics_and_groups() -> None:
    metadata = Metadata()
    many = {f"g{n}": Position(1, n) for n in range(MAX_GROUPS_NAMED + 20)}
    for n in range(MAX_TOPICS_NAMED + 5):
        metadata.topics[f"t{n}"] = topic(None, cursors=many)
    said = topics_led(metadata, dict.fromkeys(metadata.topics, 500), lambda name: dict.fromkeys(many, 1))
    assert len(said) == MAX_TOPICS_NAMED
    lag = said["t0"]["lag"]
    assert len(lag) == MAX_GROUPS_NAMED and max(lag.values()) == 500, "the largest lags are named"


def test_segments_are_under_replicated_if_too_few_of_their_nodes_are_reached() -> None:
    opened = {Placement(1, 1, (1, 2, 3)): {"a": None, "b": None}, Placement(4, 1, (4, 5, 1)): {"c": None}}
    sealed = {(1, 2): {("a", 1): None}, (4, 5, 1): {("c", 1): None, ("c", 2): None}}
    assert under_replicated(opened, sealed, 3, {1, 2, 3, 4, 5}) == 1
    assert under_replicated(opened, sealed, 3, {1, 4, 5}) == 3
    assert under_replicated(opened, sealed, 2, {1, 2, 3, 4, 5}) == 0


def test_nodes_say_what_they_lead_and_notice_a_dead_replica() -> None:
    world = three(max_segment_entries=4)
    world.register("t")
    assert world.put(2, "t", "aa", "bb", "cc", "dd", "ee") == [OK] * 5
    assert world.ask(3, protocol.Get(topic="t", group="g", count=2)) == [b"OK aa", b"OK bb"]
    world.run(1)
    said = [world.metrics(node) for node in (1, 2, 3)]
    named = [(name, told) for metrics in said for name, told in metrics["topics_led"].items()]
    assert [name for name, _ in named] == ["t"], "one node leads it, and says so"
    assert named[0][1]["entries"] == 5 and named[0][1]["lag"] == {"g": 3}
    assert [metrics["under_replicated"] for metrics in said] == [0, 0, 0]
    world.kill(3)
    assert [world.metrics(node)["under_replicated"] for node in (1, 2)] == [2, 2]


def test_topics_are_listed_by_prefix_and_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walrus.broker.lag.MAX_TOPICS_LISTED", 2)
    metadata = cluster()  # with a topic `t`
    for name in ("b", "ba", "bb", "a"):
        metadata.apply(RegisterTopic(topic=name, leader=1, replicas=(1, 2, 3)))
    assert msgspec.json.decode(topics(metadata, "b")) == {"topics": ["b", "ba"], "count": 3}
    assert msgspec.json.decode(topics(metadata, "none")) == {"topics": [], "count": 0}


def test_groups_say_where_they_are_and_only_the_leader_how_far_behind() -> None:
    metadata = cluster()
    metadata.apply(seal(1, 5))
    metadata.apply(CommitCursors(cursors={"t": {"": Position(1, 3)}}))
    metadata.apply(CommitGroups(groups={"t": {"jobs": Acknowledged(0, Position(1, 1), (Run(2, 0, 1),))}}))
    known = metadata.topics["t"]
    said = msgspec.json.decode(groups(known, 4, {"jobs": 2, "new": 1}))
    assert said["exact"] and said["end"] == {"segment": 2, "offset": 4}
    assert said["groups"] == {
        "": {"read_with": "GET", "segment": 1, "offset": 3, "lag": 6},
        "jobs": {"read_with": "RECEIVE", "segment": 1, "offset": 1, "lag": 7, "out": 2},
        "new": {"read_with": "RECEIVE", "segment": 1, "offset": 0, "lag": 9, "out": 1},
    }
    elsewhere = msgspec.json.decode(groups(known, None, {}))
    assert not elsewhere["exact"] and elsewhere["groups"][""]["lag"] == 2
    assert elsewhere["groups"]["jobs"]["out"] is None
