"""What may be trimmed and deleted, and that numbers are never used twice: the metadata alone.

Assertion messages that begin with a name say which invariant of `spec/Retention.tla` they stand for.
"""

from __future__ import annotations

import gc
from itertools import chain
from typing import Any

import msgspec
import pytest

from tests.broker.test_segments import SUM, cluster, register, seal
from tests.broker.world import config
from walrus import commands, segments
from walrus.acknowledged import Acknowledged, Run
from walrus.broker import retention as retention_module
from walrus.broker.retention import Retention, first_retained
from walrus.broker.takeover import restore
from walrus.segments import (
    DELETION_VERSION,
    FIRST_VERSION,
    RETENTION_VERSION,
    Command,
    CommitCursors,
    CommitGroups,
    ConfigureTopic,
    DeleteTopic,
    Metadata,
    MoveGroup,
    Position,
    RegisterTopic,
    Topic,
    Trim,
    UnknownCommand,
    decode_command,
    encode_command,
)

AGAIN = RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=6)
SEALS = [seal(1, 10), seal(2, 20), seal(3, 0), seal(4, 40)]
"""Segment 5 is open."""


def trim(old: int, first: int) -> Trim:
    return Trim(topic="t", old=old, first=first)


def done(low: tuple[int, int], *runs: tuple[int, int, int], generation: int = 0) -> Acknowledged:
    return Acknowledged(generation, Position(*low), tuple(Run(*run) for run in runs))


def commit(group: str, state: Acknowledged, *dead: tuple[int, int, int]) -> CommitGroups:
    given_up = {"t": {group: tuple(Run(*run) for run in dead)}} if dead else {}
    return CommitGroups(groups={"t": {group: state}}, dead=given_up)


def settings(**values: int) -> ConfigureTopic:
    return ConfigureTopic(topic="t", born=1, configured=0, settings=values)


def test_a_trim_takes_sealed_segments_and_the_sums_stay() -> None:
    metadata = cluster(*SEALS, trim(1, 3))
    topic = metadata.topics["t"]
    assert (topic.first, topic.current, len(topic.segments)) == (3, 5, 3), "TrimmedIsSealed"
    assert topic.segment(2) is None and topic.segment(4) is not None, "TrimmedIsSealed"
    assert (topic.trimmed, topic.sealed_total) == (30, 70), "LastSealedIsSum"
    assert metadata.is_gone("t", 2) and not metadata.is_gone("t", 3), "TrimmedStaysTrimmed"
    assert topic.advance(Position(1, 3)) == Position(4, 0), "MarkInBounds"  # segment 3 is empty
    assert topic.distance(Position(1, 0), Position(5, 2)) == 42, "OutIsBounded"


@pytest.mark.parametrize("wrong", [trim(1, 6), trim(1, 1), trim(2, 3), trim(1, 99), trim(0, 2)])
def test_a_trim_that_is_late_or_takes_the_open_segment_changes_nothing(wrong: Trim) -> None:
    metadata = cluster(*SEALS)
    before = metadata.digest()
    assert metadata.apply(wrong) is None, "TrimmedIsSealed"
    assert metadata.digest() == before, "TrimmedIsSealed: only what is sealed goes, and the first one first"


def test_a_trim_that_comes_twice_or_late_brings_nothing_back() -> None:
    metadata = cluster(*SEALS, trim(1, 2), trim(2, 4))
    before = metadata.digest()
    for late in (trim(1, 2), trim(1, 4), trim(2, 3), trim(2, 4)):
        assert metadata.apply(late) is None, "TrimmedStaysTrimmed"
    assert metadata.digest() == before, "TrimmedStaysTrimmed: a late Trim changed the topic"


def test_what_a_group_misses_is_counted() -> None:
    metadata = cluster(
        *SEALS,
        CommitCursors(cursors={"t": {"reader": Position(1, 4), "ahead": Position(4, 1)}}),
        commit("worker", done((1, 2), (1, 5, 7), (2, 0, 3))),
        commit("late", done((1, 2), (4, 1, 3))),
        trim(1, 3),
    )
    topic = metadata.topics["t"]
    missed = {"reader": 26, "worker": 30 - 2 - 2 - 3, "late": 30 - 2}
    assert topic.skipped == missed, "SkippedIsCounted"
    assert topic.cursors["reader"] == Position(4, 0) and topic.cursors["ahead"] == Position(4, 1), (
        "MarkInBounds"
    )
    assert topic.groups["worker"] == done((4, 0)), "MarkInBounds"
    metadata.check_invariants()


def test_protected_groups_keep_what_they_have_not_read() -> None:
    metadata = cluster(
        *SEALS,
        settings(protect_groups=1),
        CommitCursors(cursors={"t": {"reader": Position(3, 0)}}),
        commit("worker", done((2, 19))),
    )
    assert metadata.apply(trim(1, 3)) is None, (
        "ProtectedUntilAcked: the worker has one entry of segment 2 left"
    )
    assert metadata.apply(trim(1, 2)) == "t", "OverLimitIsTrimmed: what the groups have read is not trimmed"
    metadata.apply(commit("worker", done((2, 20))))
    assert metadata.apply(trim(2, 3)) == "t", "OverLimitIsTrimmed: an entry that is done protects nothing"
    assert metadata.topics["t"].skipped == {}, "SkippedIsCounted"


def test_a_seek_back_protects_again_whatever_was_proposed_before_it() -> None:
    metadata = cluster(*SEALS, settings(protect_groups=1), commit("worker", done((5, 0))))
    metadata.apply(MoveGroup(topic="t", group="worker", generation=0, to=Position(1, 0)))
    assert metadata.apply(trim(1, 5)) is None, (
        "ProtectedUntilAcked: planned before the SEEK, applied behind it"
    )


def test_a_seek_to_what_is_trimmed_goes_to_the_first_entry_there_is() -> None:
    metadata = cluster(*SEALS, trim(1, 2))
    metadata.apply(MoveGroup(topic="t", group="g", generation=0, to=Position(1, 5)))
    assert metadata.topics["t"].groups["g"] == done((2, 0), generation=1), "MarkInBounds"


def test_a_topic_that_is_registered_anew_begins_where_the_old_one_ended() -> None:
    metadata = cluster(*SEALS, commit("g", done((1, 4))), DeleteTopic(topic="t", born=1))
    assert "t" not in metadata.topics and metadata.next_number("t") == 6, (
        "TrimmedStaysTrimmed: numbers that were used are used again"
    )
    assert metadata.apply(register()) is None, "OnlyWhatWasMeant: a late REGISTER brought the old topic back"
    again = RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=6, settings={"max_deliveries": 3})
    assert metadata.apply(again) == "t", "OnlyWhatWasMeant: a name that was deleted cannot be registered"
    topic = metadata.topics["t"]
    assert (topic.born, topic.first, topic.current) == (6, 6, 6), "NoFrameOfAnOldTopic"
    assert topic.groups == {} and topic.settings == {"max_deliveries": 3}, "OnlyWhatWasMeant"
    metadata.check_invariants()


def test_a_topic_that_is_to_be_deleted_stays_until_its_open_segment_is_sealed() -> None:
    marked = DeleteTopic(topic="t", born=1, at_seal=True)
    metadata = cluster(*SEALS)
    assert metadata.apply(msgspec.structs.replace(marked, born=2)) is None, "OnlyWhatWasMeant"
    assert metadata.apply(marked) == "t", "DeletedInTheEnd: the writer does not hear of it"
    assert "t" in metadata.topics, "NoAckAfterDelete: gone while its writer goes on"
    assert metadata.topics["t"].deleting, "DeletedInTheEnd: it is not marked"
    assert metadata.apply(marked) is None, "OnlyWhatWasMeant: a DELETE that is proposed again changes nothing"
    assert metadata.apply(AGAIN) is None, "NoAckAfterDelete: registered while its writer goes on"
    assert metadata.apply(seal(4, 40)) is None and metadata.topics["t"].deleting, (
        "NoAckAfterDelete: it ends with the Seal of a segment that has ended"
    )
    late = seal(5, 3, recovered=True)
    assert metadata.apply(late) == "t" and "t" not in metadata.topics, "DeletedInTheEnd"
    assert metadata.next_number("t") == 6 and metadata.failovers == 1, "TrimmedStaysTrimmed"
    assert metadata.apply(late) is None, "TrimmedStaysTrimmed"
    metadata.check_invariants()
    assert metadata.apply(AGAIN) == "t", "DeletedInTheEnd: its name cannot be registered anew"
    assert not metadata.topics["t"].deleting and metadata.apply(marked) is None, "OnlyWhatWasMeant"


def test_a_topic_that_is_to_be_deleted_ends_although_nothing_can_follow() -> None:
    """A Seal that names a removed node as the next leader is refused, unless no segment is to be opened."""
    metadata = cluster(DeleteTopic(topic="t", born=1, at_seal=True))
    assert metadata.apply(seal(1, 3, leader=9, replicas=(9,))) == "t" and not metadata.topics, (
        "DeletedInTheEnd: no Seal ends it"
    )


def test_what_an_earlier_release_deletes_goes_at_once_also_if_it_is_to_go_with_its_seal() -> None:
    """Its command says nothing of a Seal. The writer has to hear that its topic is gone."""
    metadata = cluster(*SEALS, DeleteTopic(topic="t", born=1, at_seal=True))
    assert metadata.apply(DeleteTopic(topic="t", born=1)) == "t", "NoAckAfterDelete: the writer goes on"
    assert not metadata.topics and metadata.next_number("t") == 6, "TrimmedStaysTrimmed"
    metadata.check_invariants()


def test_failovers_of_topics_that_are_gone_stay_counted() -> None:
    """Those of sealed segments, and that of the Seal with which a topic ends."""
    marks = [DeleteTopic(topic=name, born=1, at_seal=True) for name in "tab"]
    begun = [register("a"), register("b"), seal(1, 3, recovered=True), seal(2, 1, recovered=True), *marks]
    metadata = cluster(*begun)
    for ended, name in enumerate("tab", 3):
        number = metadata.topics[name].current
        metadata.apply(msgspec.structs.replace(seal(number, 0, recovered=True), topic=name))
        assert metadata.failovers == ended, "DomainConsistency: a failover is forgotten with its topic"
        metadata.check_invariants()
    restored = Metadata()
    restore(restored, metadata.snapshot())
    assert restored.failovers == 5, "DomainConsistency: a snapshot forgets failovers"


def test_a_snapshot_replaces_what_is_known_of_deleted_topics() -> None:
    deleted = DeleteTopic(topic="t", born=1)
    anew = RegisterTopic(topic="t", leader=1, replicas=(1,), number=2)
    behind, ahead = cluster(deleted), cluster(deleted, anew)
    restore(behind, ahead.snapshot())
    assert behind.digest() == ahead.digest(), "StateMachineSafety: a number of before the snapshot stays"


def test_what_was_meant_for_a_deleted_topic_leaves_the_next_one_alone() -> None:
    metadata = cluster(*SEALS, DeleteTopic(topic="t", born=1))
    again = RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=6)
    metadata.apply(again)
    metadata.apply(CommitGroups(groups={"t": {"g": done((6, 0))}}))
    before = metadata.digest()
    late: list[Command] = [
        DeleteTopic(topic="t", born=1),
        register(),
        seal(5, 7),
        trim(1, 3),
        settings(retain_entries=1),
        MoveGroup(topic="t", group="g", generation=0, to=Position(2, 0)),
        CommitCursors(cursors={"t": {"old": Position(3, 1)}}),
        commit("old", done((1, 0), (4, 1, 3))),
    ]
    for command in late:
        metadata.apply(command)
        assert metadata.digest() == before, f"OnlyWhatWasMeant: {command}"


def test_a_name_may_be_deleted_and_registered_again_and_again() -> None:
    metadata = cluster(*SEALS)
    for born in (1, 6, 7):
        assert metadata.apply(DeleteTopic(topic="t", born=born)) == "t", "DeletedInTheEnd"
        again = RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=metadata.next_number("t"))
        assert metadata.apply(again) == "t" and metadata.topics["t"].born == max(6, born + 1), (
            "TrimmedStaysTrimmed: numbers that were used are used again"
        )
        assert not metadata.tombstones, "TrimmedStaysTrimmed: what is there has another number to come"


def test_of_many_deleted_topics_one_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_TOMBSTONES", 2)
    metadata = cluster(*SEALS, DeleteTopic(topic="t", born=1))
    for name in ("a", "b"):
        metadata.apply(register(name))
        metadata.apply(DeleteTopic(topic=name, born=metadata.topics[name].born))
    assert list(metadata.tombstones) == ["a", "b"], "TrimmedStaysTrimmed: not the oldest number is given up"
    assert metadata.next_number("t") == metadata.next_number("new") == 6, "TrimmedStaysTrimmed"
    assert metadata.next_number("a") == 2, "NoFrameOfAnOldTopic: a number of a forgotten topic is used again"
    metadata.apply(RegisterTopic(topic="c", leader=1, replicas=(1, 2, 3), number=6))
    metadata.apply(DeleteTopic(topic="c", born=6))
    assert list(metadata.tombstones) == ["b", "c"], "TrimmedStaysTrimmed: not the oldest number is given up"
    assert metadata.next_number("t") == 6, "NoFrameOfAnOldTopic: the floor falls to that of a shorter topic"


def test_the_one_number_of_all_deleted_topics_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics that were registered before it rose begin lower, and are deleted after those that end higher."""
    monkeypatch.setattr(segments, "MAX_TOMBSTONES", 1)
    low = [register("a"), register("b")]
    metadata = cluster(*low, *SEALS, DeleteTopic(topic="t", born=1))
    for name in ("a", "b"):
        metadata.apply(DeleteTopic(topic=name, born=1))
        assert metadata.next_number("t") == 6, "TrimmedStaysTrimmed: its numbers are used again"


def test_deleted_topics_are_forgotten_in_one_order_by_nodes_that_were_there_and_by_those_that_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "MAX_TOMBSTONES", 2)
    there = cluster(*map(register, "abc"), *SEALS)
    for name in "bca":  # not in the order of their names
        there.apply(DeleteTopic(topic=name, born=1))
    restored = Metadata()
    restore(restored, there.snapshot())
    assert restored.next_number("b") == 2, "TrimmedStaysTrimmed: a snapshot forgets numbers of deleted topics"
    for metadata in (there, restored):
        metadata.apply(DeleteTopic(topic="t", born=1))
    forgotten = list(restored.tombstones) == list(there.tombstones) == ["a", "t"]
    assert forgotten, "StateMachineSafety: after a snapshot another deleted topic is forgotten"
    assert restored.digest() == there.digest(), "StateMachineSafety"


def test_settings_change_one_after_the_other_and_whole() -> None:
    metadata = cluster(settings(retain_bytes=5, max_deliveries=2))
    assert metadata.apply(settings(retain_bytes=9)) is None, (
        "OnlyWhatWasMeant: made for other settings than there are"
    )
    values = {"retain_bytes": -1, "segment_bytes": 0}
    change = ConfigureTopic(topic="t", born=1, configured=1, settings=values)
    assert metadata.apply(change) == "t", "OnlyWhatWasMeant: a change of settings does nothing"
    assert metadata.topics["t"].settings == {"max_deliveries": 2, "segment_bytes": 0}, (
        "OnlyWhatWasMeant: settings are mixed"
    )
    for nonsense in ({"retain_bytes": -2}, {"unknown": 1}, {"segment_entries": 0}, {"protect_groups": 2}):
        wrong = ConfigureTopic(topic="t", born=1, configured=2, settings={"max_deliveries": 7, **nonsense})
        assert metadata.apply(wrong) is None, "OnlyWhatWasMeant: a change that another one has overtaken"
    assert metadata.topics["t"].configured == 2, "OnlyWhatWasMeant"


def test_dead_letters_are_counted_once_however_often_they_are_committed() -> None:
    metadata = cluster(*SEALS)
    for _ in range(3):
        metadata.apply(commit("g", done((1, 0), (1, 4, 6)), (1, 4, 6)))
    metadata.apply(commit("g", done((1, 0), (1, 8, 9))))
    assert metadata.topics["t"].dead == {"g": 2}, "SkippedIsCounted: dead letters count twice, or not at all"


def version(metadata: Metadata) -> int:
    return msgspec.msgpack.decode(metadata.snapshot(), type=dict[str, Any])["version"]


def test_snapshots_have_it_all_and_are_of_the_earliest_version_that_can() -> None:
    plain = cluster(seal(1, 3))
    assert version(plain) == FIRST_VERSION, "MixedReleases: an earlier release could read it"
    marked = DeleteTopic(topic="t", born=1, at_seal=True)
    for changes, expected in (
        ([settings(retain_entries=5)], RETENTION_VERSION),
        ([trim(1, 2)], RETENTION_VERSION),
        ([DeleteTopic(topic="t", born=1)], RETENTION_VERSION),
        ([marked], DELETION_VERSION),
        ([marked, seal(2, 3)], RETENTION_VERSION),
    ):
        metadata = cluster(seal(1, 3, recovered=True), *changes)
        assert version(metadata) == expected, "StateMachineSafety: an earlier release would read it wrongly"
        other = Metadata()
        restore(other, metadata.snapshot())
        other.check_invariants()
        assert other.digest() == metadata.digest(), "StateMachineSafety"
        assert other.next_number("t") == metadata.next_number("t") and other.failovers == 1, (
            "TrimmedStaysTrimmed"
        )


@pytest.mark.parametrize(
    ("command", "latest"),
    [
        (settings(retain_entries=5), 2),
        (trim(1, 2), 2),
        (DeleteTopic(topic="t", born=1), 2),
        (DeleteTopic(topic="t", born=1, at_seal=True), 3),
        (seal(1, 3, size=9), 2),
    ],
)
def test_only_what_needs_it_is_refused_by_earlier_releases(
    command: Command, latest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode_command(encode_command(command)) == command, (
        "StateMachineSafety: a command is not what was encoded"
    )
    data = encode_command(command)
    plain = encode_command(seal(1, 3))
    monkeypatch.setattr(commands, "VERSION", latest)
    assert decode_command(plain) == seal(1, 3), "MixedReleases: a command of an earlier release"
    try:
        decode_command(data)
    except UnknownCommand as refused:
        assert "upgrade" in str(refused), "MixedReleases: the way out is not named"
    else:
        raise AssertionError("StateMachineSafety: an earlier release applies less than the command says")


# --- what is to go --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        ({}, 1),
        ({"retain_entries": 1}, 4),  # segment 4 alone has more
        ({"retain_entries": 40}, 4),
        ({"retain_entries": 41}, 2),  # 3 is empty, and goes only with what is before it
        ({"retain_entries": 70}, 1),
        ({"retain_bytes": 400}, 4),
        ({"retain_bytes": 401}, 2),
        ({"retain_seconds": 7}, 5),
        ({"retain_seconds": 8}, 4),
        ({"retain_seconds": 10}, 2),
        ({"retain_seconds": 100}, 1),
        ({"retain_seconds": 100, "retain_entries": 1}, 4),
    ],
)
def test_each_limit_keeps_at_least_what_it_says(limits: dict[str, int], first: int) -> None:
    stamps = {1: 1_000, 2: 3_000, 3: 4_000, 4: 5_000}
    metadata = cluster(
        *(seal(n, count, size=10 * count, sealed_ms=stamps[n]) for n, count in enumerate((10, 20, 0, 40), 1)),
        settings(**limits),
    )
    assert first_retained(metadata.topics["t"], config(), unix_ms=12_500) == first, (
        "OverLimitIsTrimmed, TrimmedIsSealed"
    )


def test_a_segment_without_a_time_is_as_old_as_the_next_that_has_one() -> None:
    metadata = cluster(seal(1, 1), seal(2, 1, sealed_ms=5_000), seal(3, 1), settings(retain_seconds=1))
    assert first_retained(metadata.topics["t"], config(), unix_ms=5_999) == 1, (
        "TrimmedIsSealed: younger than the limit"
    )
    assert first_retained(metadata.topics["t"], config(), unix_ms=6_000) == 3, "OverLimitIsTrimmed"


def test_flags_of_the_node_count_where_nothing_is_set() -> None:
    metadata = cluster(*SEALS)
    assert first_retained(metadata.topics["t"], config(retain_entries=40), 0) == 4, "OverLimitIsTrimmed"
    metadata.apply(settings(retain_entries=0))
    assert first_retained(metadata.topics["t"], config(retain_entries=40), 0) == 1, "TrimmedIsSealed"


def test_only_the_metadata_decides_and_a_proposal_is_made_for_what_no_group_protects() -> None:
    proposed: list[Command] = []
    metadata = cluster(*SEALS, settings(retain_entries=1, protect_groups=1), commit("worker", done((2, 3))))
    retention = Retention(
        config=config(),
        metadata=metadata,
        propose=lambda command, now: proposed.append(command),
        unix_time=lambda: 0.0,
    )
    retention.on_tick(1.0)
    assert proposed == [trim(1, 2)], "OverLimitIsTrimmed"
    retention.on_tick(1.1)
    assert len(proposed) == 1, "OverLimitIsTrimmed: a topic is looked at when it changes, and at intervals"
    retention.on_topic("t")
    retention.on_tick(1.2)
    assert len(proposed) == 2, "OverLimitIsTrimmed"


def test_topics_without_retention_cost_a_raft_leader_one_look_a_term() -> None:
    class Counted(dict[str, Topic]):
        looks = 0

        def get(self, key: str, default: Any = None) -> Any:
            self.looks += 1
            return super().get(key, default)

    proposed: list[Command] = []
    metadata = cluster(*SEALS)
    metadata.topics = known = Counted(metadata.topics)
    retention = Retention(
        config=config(),
        metadata=metadata,
        propose=lambda command, now: proposed.append(command),
        unix_time=lambda: 0.0,
    )
    for tick in range(10):
        retention.on_tick(100.0 * tick)
    assert known.looks == 1
    metadata.apply(settings(retain_entries=1))
    retention.on_topic("t")
    for tick in range(10, 13):
        retention.on_tick(100.0 * tick)
    assert proposed == [trim(1, 4)] * 3, "OverLimitIsTrimmed: looked at again and again from now on"
    retention.stop()
    retention.on_tick(5_000.0)
    assert len(proposed) == 4, "OverLimitIsTrimmed: the next term begins with all topics"


def test_of_many_topics_a_tick_looks_at_some_and_first_at_those_that_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look at all of 100,000 topics would be a pause of most of a second."""
    monkeypatch.setattr(retention_module, "MAX_LOOKED", 10)
    metadata = cluster(*SEALS, *(register(f"t{number:02}") for number in range(54)))
    proposed: list[Command] = []
    retention = Retention(
        config=config(retain_entries=1),
        metadata=metadata,
        propose=lambda command, now: proposed.append(command),
        unix_time=lambda: 0.0,
    )
    looks: list[list[str]] = []
    look = retention._look
    monkeypatch.setattr(retention, "_look", lambda name, now: looks[-1].append(name) or look(name, now))

    def tick(now: float) -> list[str]:
        looks.append([])
        retention.on_tick(now)
        return looks[-1]

    first_round = [tick(number / 10) for number in range(6)]
    assert list(map(len, first_round)) == [10] * 5 + [5]
    assert sorted(chain(*first_round)) == sorted(metadata.topics), (
        "OverLimitIsTrimmed: each topic once, in the first round"
    )
    assert proposed == [trim(1, 4)] and tick(0.7) == [], "the next round waits for its time"
    retention.on_topic("t")
    monitor_check = config().monitor_check
    assert tick(monitor_check)[0] == "t" and len(looks[-1]) <= 11, (
        "OverLimitIsTrimmed: what changed does not wait for its turn"
    )
    changed = [f"t{number:02}" for number in range(30)]
    for name in changed:
        retention.on_topic(name)
    at_once = [tick(monitor_check + 1) for _ in range(3)]
    assert set(changed) <= set(chain(*at_once)) and max(map(len, at_once)) <= 20
    retention.stop()
    assert len(tick(monitor_check + 2)) == 10, (
        "OverLimitIsTrimmed: a new term begins a new round, of all topics"
    )


def test_a_topic_that_rolls_for_years_costs_what_it_retains() -> None:
    metadata = cluster()
    sizes = []
    for number in range(1, 100_001):
        metadata.apply(seal(number, 10, leader=number % 3 + 1, recovered=number % 7 == 0))
        if number > 10:
            metadata.apply(trim(number - 10, number - 9))
        if number in (1_000, 100_000):
            gc.collect()
            sizes.append((len(metadata.snapshot()), len(gc.get_objects())))
    (small, few), (large, many) = sizes
    assert large < small * 1.2, "SpaceIsGivenBack: the snapshot grows with what was trimmed"
    assert many < few + 1_000, "SpaceIsGivenBack: memory grows with what was trimmed"
    topic = metadata.topics["t"]
    assert (topic.sealed_total, topic.current, len(topic.segments)) == (1_000_000, 100_001, 11), (
        "LastSealedIsSum"
    )
    assert metadata.failovers == 100_000 // 7, "DomainConsistency: failovers do not add up"
    metadata.check_invariants()
    assert topic.segments[0].checksum == SUM, "SealedStable"
