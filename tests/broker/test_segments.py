"""Metadata: every command is a compare-and-set that can be applied twice."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus import segments
from walrus.acknowledged import Acknowledged, HandedOn, Run, runs_of
from walrus.broker.takeover import restore
from walrus.segments import (
    FIRST_VERSION,
    MAX_GROUPS,
    QUEUES_VERSION,
    RETENTION_VERSION,
    START,
    START_BITS,
    UNTOLD,
    VERSION,
    Announce,
    Command,
    CommitCursors,
    CommitGroups,
    LastNumber,
    MarkLeaving,
    Metadata,
    MoveGroup,
    Position,
    RegisterTopic,
    RemoveNode,
    Seal,
    SetReplicas,
    UnknownCommand,
    decode_command,
    encode_command,
    next_incarnation,
)
from walrus.storage.batch import Checksum

SUM = Checksum(1, 2)


def announce(node: int, incarnation: int = 1, directory: str = "") -> Announce:
    return Announce(
        node_id=node,
        directory_id=directory or f"d{node}",
        incarnation=incarnation,
        raft_address=f"raft {node}.{incarnation}",
        client_address=f"client {node}",
    )


def register(topic: str = "t", leader: int = 1, replicas: tuple[int, ...] = (1, 2, 3)) -> RegisterTopic:
    return RegisterTopic(topic=topic, leader=leader, replicas=replicas)


def seal(segment: int, count: int, leader: int = 2, **changes: object) -> Seal:
    values: dict[str, object] = {
        "topic": "t",
        "segment": segment,
        "count": count,
        "checksum": SUM,
        "leader": leader,
        "replicas": (1, 2, 3),
        "cursors": {},
    }
    return Seal(**{**values, **changes})  # type: ignore[arg-type]


def cluster(*commands: Command) -> Metadata:
    metadata = Metadata()
    for node in (1, 2, 3):
        metadata.apply(announce(node, 0))
        metadata.apply(announce(node))
    for command in (register(), *commands):
        metadata.apply(command)
    metadata.check_invariants()
    return metadata


ALL = [
    announce(4, 0),
    announce(2, 5),
    register("u"),
    seal(1, 7, cursors={"": Position(1, 3)}),
    CommitCursors(cursors={"t": {"g": Position(1, 2)}}),
    SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=(1, 2)),
    MarkLeaving(node_id=3),
    RemoveNode(node_id=9),
]


@pytest.mark.parametrize("command", ALL, ids=lambda command: type(command).__name__)
def test_applying_a_command_twice_changes_nothing(command: Command):
    metadata = cluster(*([seal(1, 7)] if isinstance(command, SetReplicas) else []))
    metadata.apply(command)
    once = metadata.digest()
    metadata.apply(command)
    metadata.check_invariants()
    assert metadata.digest() == once, "StateMachineSafety"


@pytest.mark.parametrize("command", ALL, ids=lambda command: type(command).__name__)
def test_command_survives_its_encoding(command: Command):
    assert decode_command(encode_command(command)) == command, (
        "StateMachineSafety: a command is another one after its encoding"
    )


def test_command_of_another_version_or_kind_is_not_guessed_at():
    _, command = msgspec.msgpack.decode(encode_command(MarkLeaving(node_id=1)))
    later = msgspec.msgpack.encode((VERSION + 1, command))
    unknown = msgspec.msgpack.encode((VERSION, ("DropTopic", "t")))
    for data in (later, unknown, b"", b"garbage"):
        with pytest.raises(UnknownCommand, match="upgrade"):
            decode_command(data)


# --- nodes ---


def test_announce_rises_with_the_incarnation():
    metadata = cluster()
    metadata.apply(announce(2, 5))
    metadata.apply(announce(2, 4))
    assert metadata.nodes[2].incarnation == 5 and metadata.nodes[2].raft_address == "raft 2.5", (
        "SingleWriter: an earlier start of a node counts"
    )


@given(st.integers(0, 50), st.integers(0, 3), st.integers(0, 50), st.integers(0, 3))
def test_announce_of_a_start_that_cannot_have_come_after_the_known_one_is_ignored(
    number: int, drawn: int, other: int, other_drawn: int
):
    """As of a directory that was copied or put back: the same number with another draw, or a smaller one."""
    known, late = drawn << START_BITS | number + 2, other_drawn << START_BITS | other + 2  # 1: of `cluster`
    metadata = cluster(announce(2, known))
    metadata.apply(announce(2, late))
    assert metadata.nodes[2].incarnation == (late if other > number or late == known else known), (
        "SingleWriter: a start that is over counts"
    )


def test_announce_of_another_directory_is_ignored():
    metadata = cluster()
    metadata.apply(announce(2, 9, directory="new disk"))
    assert metadata.nodes[2].directory_id == "d2" and metadata.nodes[2].incarnation == 1, (
        "SingleWriter: another disk under a known id"
    )


def test_node_that_was_removed_comes_back_only_by_joining():
    metadata = cluster()
    metadata.apply(announce(4, 7))
    assert 4 not in metadata.nodes, "SingleWriter"
    metadata.apply(announce(4, 0))
    metadata.apply(announce(4, 7))
    assert metadata.nodes[4].incarnation == 7, "SingleWriter: a node that joined anew cannot start"


def test_founder_announces_itself():
    metadata = Metadata()
    metadata.apply(announce(1, 3))
    assert metadata.nodes[1].incarnation == 3, "SingleWriter"


def test_last_node_that_stays_cannot_be_marked_leaving():
    metadata = cluster(MarkLeaving(node_id=1), MarkLeaving(node_id=2), MarkLeaving(node_id=3))
    assert [node.leaving for node in metadata.nodes.values()] == [True, True, False], (
        "DomainConsistency: no node stays"
    )


def test_leaving_survives_a_restart_of_the_node():
    metadata = cluster(MarkLeaving(node_id=2), announce(2, 8))
    assert metadata.nodes[2].leaving, "DomainConsistency: a restart takes back a LEAVE"


def test_node_is_removed_only_when_no_segment_needs_it():
    metadata = cluster(seal(1, 7, replicas=(1, 2)), RemoveNode(node_id=3))
    assert 3 in metadata.nodes, "DomainConsistency: a replica that is no member"
    metadata.apply(SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=(1, 2)))
    metadata.apply(RemoveNode(node_id=3))
    assert 3 not in metadata.nodes, "DomainConsistency: a node stays that no segment needs"


def test_what_was_meant_for_a_removed_node_leaves_its_successor_alone():
    """Proposals are repeated until their effect is seen: one may come when the next node is there already."""
    metadata = cluster(announce(4, 0), RemoveNode(node_id=4, directory_id="d4"))
    assert 4 not in metadata.nodes, "DomainConsistency: a node stays that no segment needs"
    metadata.apply(announce(4, incarnation=0, directory="a new disk"))
    metadata.apply(MarkLeaving(node_id=4, directory_id="d4"))
    metadata.apply(RemoveNode(node_id=4, directory_id="d4"))
    assert metadata.nodes[4].directory_id == "a new disk" and not metadata.nodes[4].leaving, (
        "OnlyWhatWasMeant: what was meant for an earlier node hits the next one"
    )


# --- topics and segments ---


def test_second_registration_keeps_the_first():
    metadata = cluster()
    assert metadata.apply(register(leader=3)) is None, "DomainConsistency"
    assert metadata.topics["t"].open.leader == 1, "DomainConsistency"


@pytest.mark.parametrize("replicas", [(2, 3), (1, 9), (1, 1, 2), ()])
def test_segment_needs_members_with_its_leader_among_them_and_each_once(replicas: tuple[int, ...]):
    metadata = cluster()
    assert metadata.apply(register("u", 1, replicas)) is None, "DomainConsistency"
    assert metadata.apply(seal(1, 7, leader=1, replicas=replicas)) is None, "DomainConsistency"
    assert "u" not in metadata.topics and metadata.topics["t"].current == 1, "DomainConsistency"


def test_of_two_seals_one_wins():
    metadata = cluster()
    assert metadata.apply(seal(1, 7)) == "t", "SealedStable: the open segment is not sealed"
    assert metadata.apply(seal(1, 9, leader=3)) is None, "SealedStable: sealed twice"
    topic = metadata.topics["t"]
    assert (topic.segments[0].count, topic.open.leader, topic.sealed_total) == (7, 2, 7), "SealedStable"


@pytest.mark.parametrize("segment", [0, -1, 2, 99])
def test_seal_of_a_segment_that_is_not_open_is_ignored(segment: int):
    assert cluster().apply(seal(segment, 7)) is None, "SealedStable"


def test_seal_with_an_impossible_count_is_ignored():
    assert cluster().apply(seal(1, -1)) is None, "TypeOK"


def test_segment_is_opened_for_the_incarnation_that_is_known():
    metadata = cluster(announce(2, 5), seal(1, 7), announce(2, 6))
    assert metadata.topics["t"].open.incarnation == 5, "SingleWriter: opened for a start that is over"


def test_sealed_total_is_the_sum():
    metadata = cluster(seal(1, 7), seal(2, 0, leader=3), seal(3, 5, leader=1))
    assert metadata.topics["t"].sealed_total == 12, "LastSealedIsSum"
    metadata.check_invariants()


def test_replicas_change_only_where_they_are_what_they_were():
    metadata = cluster(seal(1, 7))
    changed = metadata.apply(SetReplicas(topic="t", segment=1, old=(1, 2), new=(2, 3)))
    assert changed is None, "SealedStable: replicas change that are not those it was made for"
    for new in ((), (1, 9), (1, 1)):
        assert metadata.apply(SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=new)) is None, (
            "SealedStable, DomainConsistency"
        )
    assert metadata.apply(SetReplicas(topic="t", segment=2, old=(1, 2, 3), new=(1, 2))) is None, (
        "SealedStable: an open segment keeps its replicas"
    )
    assert metadata.apply(SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=(1, 2))) == "t", (
        "SealedStable: replicas do not change that may"
    )
    assert metadata.topics["t"].segments[0].replicas == (1, 2), "SealedStable"


def test_replicas_change_only_to_the_directories_that_showed_their_copies():
    """Committed late, the change names a node that has come back under its id with an empty directory."""
    metadata = cluster(announce(4, 0), announce(4), seal(1, 7))
    assert metadata.directories((1, 4)) == ("d1", "d4"), (
        "SealedStable: other directories than those of the nodes"
    )
    assert metadata.directories((1, 9)) is metadata.directories((1, 1)) is None, (
        "DomainConsistency: directories of what is no member, or named twice"
    )
    change = SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=(1, 4), directories=("d1", "d4"))
    again = msgspec.structs.replace(change, directories=("d1", "empty"))
    assert metadata.apply(again) is None, "SealedStable: node 4 of that name holds nothing"
    metadata.apply(RemoveNode(node_id=4))
    metadata.apply(announce(4, 0, "empty"))
    metadata.apply(announce(4, 1, "empty"))
    assert metadata.apply(change) is None, "SealedStable: what showed its copy is gone"
    assert metadata.apply(again) == "t", "SealedStable: replicas do not change that may"


# --- cursors ---


def commit(position: Position, group: str = "") -> CommitCursors:
    return CommitCursors(cursors={"t": {group: position}, "unknown": {"": position}})


def test_cursor_never_moves_back():
    metadata = cluster(seal(1, 7), commit(Position(1, 5)), commit(Position(1, 3)))
    assert metadata.topics["t"].cursors == {"": Position(1, 5)}, "CursorInBounds: a cursor moved back"
    metadata.apply(commit(Position(2, 0)))
    metadata.apply(commit(Position(1, 7)))
    assert metadata.topics["t"].cursors == {"": Position(2, 0)}, "CursorInBounds"


@pytest.mark.parametrize("position", [Position(1, 8), Position(3, 0), Position(0, 0), Position(1, -1)])
def test_cursor_out_of_bounds_is_ignored(position: Position):
    assert cluster(seal(1, 7), commit(position)).topics["t"].cursors == {}, "CursorInBounds"


def test_seal_below_a_committed_cursor_takes_the_cursor_along():
    """Only after a forced recovery or a lost majority: the cursor then stands at the sealed end."""
    metadata = cluster(commit(Position(1, 9)), seal(1, 7, recovered=True))
    metadata.check_invariants()
    topic = metadata.topics["t"]
    assert topic.advance(topic.cursors[""]) == Position(2, 0), "CursorInBounds"


def test_seal_leaves_a_cursor_that_has_not_come_to_its_end():
    topic = cluster(commit(Position(1, 5)), seal(1, 7)).topics["t"]
    assert topic.cursors == {"": Position(1, 5)}, "DeliveredIsPrefix: a rollover skips what was not delivered"


def test_groups_are_bounded():
    many = {f"g{number}": Position(1, 1) for number in range(MAX_GROUPS + 5)}
    metadata = cluster(CommitCursors(cursors={"t": many}))
    assert len(metadata.topics["t"].cursors) == MAX_GROUPS, "TypeOK"


def test_chain_of_empty_segments_is_passed_in_one_step():
    metadata = cluster(seal(1, 7), *(seal(number, 0, leader=number % 3 + 1) for number in range(2, 22)))
    topic = metadata.topics["t"]
    assert topic.advance(Position(1, 7)) == Position(22, 0), "CursorInBounds"
    assert topic.advance(Position(1, 6)) == Position(1, 6), "CursorInBounds"
    assert topic.advance(START) == START, "CursorInBounds"


# --- snapshots ---


@given(st.lists(st.sampled_from(ALL), max_size=12))
def test_snapshot_restores_the_same_state(commands: list[Command]):
    metadata = cluster(*commands)
    other = Metadata()
    other.apply(register("left over"))
    restore(other, metadata.snapshot())
    assert other.digest() == metadata.digest() and other.snapshot() == metadata.snapshot(), (
        "StateMachineSafety"
    )
    for command in ALL:
        metadata.apply(command)
        other.apply(command)
    other.check_invariants()
    assert other.digest() == metadata.digest(), "StateMachineSafety"


def test_snapshot_of_another_version_is_refused():
    for data in (
        b"",
        b"garbage",
        msgspec.msgpack.encode({"version": VERSION + 1, "nodes": [], "topics": []}),
    ):
        try:
            restore(Metadata(), data)
        except UnknownCommand as refused:
            assert "snapshot" in str(refused), "MixedReleases: a node does not say what it cannot read"
        else:
            raise AssertionError("StateMachineSafety: a snapshot is restored that this release cannot read")


@pytest.mark.parametrize("sealed", [[1], [2], [1, 2, 3], []], ids=str)
def test_snapshot_whose_segments_are_no_chain_is_refused(sealed: list[int]):
    """All segments but the last have ended, and that is the one to write to."""
    metadata = cluster(seal(1, 7), seal(2, 0))
    topic = metadata.topics["t"]
    topic.segments[:] = [
        msgspec.structs.replace(segment, count=7 if number in sealed else None)
        for number, segment in topic.numbered(1)
    ]
    with pytest.raises(UnknownCommand, match="one open segment"):
        restore(Metadata(), metadata.snapshot())
        pytest.fail("NoWritesPastOpen: two segments of a topic are open, or none")


def test_topics_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segments, "MAX_TOPICS", 2)
    metadata = cluster()
    assert metadata.apply(register("u")) == "u", "TypeOK: fewer topics than clients may register"
    assert metadata.apply(register("v")) is None, "TypeOK: more topics than clients may register"


# --- work queues ---


def done(*runs: tuple[int, int, int], low: Position = START, generation: int = 0) -> Acknowledged:
    return Acknowledged(generation, low, tuple(Run(*run) for run in runs))


def acknowledge(
    metadata: Metadata, *runs: tuple[int, int, int], group: str = "g", generation: int = 0
) -> Acknowledged:
    metadata.apply(CommitGroups(groups={"t": {group: done(*runs, generation=generation)}}))
    metadata.check_invariants()
    return metadata.topics["t"].groups.get(group, Acknowledged())


def queue() -> Metadata:
    metadata = cluster()
    metadata.apply(register())
    return metadata


def test_acknowledgements_are_joined_and_the_mark_moves_over_what_touches_it():
    metadata = queue()
    assert acknowledge(metadata, (1, 3, 5)) == done((1, 3, 5)), "MarkOnlyRises"
    assert acknowledge(metadata, (1, 1, 2), (1, 5, 7)) == done((1, 1, 2), (1, 3, 7)), "MarkOnlyRises"
    assert acknowledge(metadata, (1, 0, 1)) == done((1, 3, 7), low=Position(1, 2)), "MarkOnlyRises"
    assert acknowledge(metadata, (1, 3, 5)) == done((1, 3, 7), low=Position(1, 2)), "MarkOnlyRises"
    assert acknowledge(metadata, (1, 2, 4)) == done(low=Position(1, 7)), "MarkOnlyRises"


def test_a_seal_takes_along_what_is_done_and_what_is_out_and_the_mark_crosses_it():
    metadata = queue()
    out = (HandedOn(1, 2, 3),)
    command = seal(1, 4, groups={"g": done((1, 0, 2), (1, 3, 4))}, handed={"g": out, "unknown": out})
    metadata.apply(command)
    assert metadata.topics["t"].groups["g"] == done((1, 3, 4), low=Position(1, 2)), "MarkOnlyRises"
    assert metadata.topics["t"].handed == {"g": out}, "SealHandsOn"
    assert acknowledge(metadata, (1, 2, 3)) == done(low=Position(2, 0)), (
        "EveryEntryAcked: the sealed segment is done"
    )
    metadata.apply(seal(2, 0))
    assert metadata.topics["t"].handed == {} and metadata.topics["t"].groups["g"].low == Position(3, 0), (
        "SealHandsOn, CursorInBounds"
    )


def test_what_was_handed_on_is_forgotten_by_a_seek_and_by_a_recovery():
    """Else the next owner would take for out what no consumer of this generation, or of this owner, has."""
    out = {"g": (HandedOn(1, 1, 1),)}
    metadata = cluster(seal(1, 7, groups={"g": Acknowledged()}, handed=out))
    topic = metadata.topics["t"]
    assert topic.handed == out, "SealHandsOn"
    metadata.apply(seal(2, 3, leader=3, recovered=True))
    assert topic.handed == {}, "EveryEntryAcked: withheld after a failover as if it were out"
    metadata.apply(seal(3, 3, groups={"g": Acknowledged()}, handed=out))
    assert topic.handed == out, "SealHandsOn"
    metadata.apply(MoveGroup(topic="t", group="g", generation=0, to=Position(1, 0)))
    assert topic.handed == {}, "EveryEntryAcked: withheld after a SEEK as if it were out"


def test_a_recovery_that_gave_up_entries_takes_their_acknowledgements_back():
    metadata = queue()
    acknowledge(metadata, (1, 0, 3), (1, 4, 9))
    metadata.apply(seal(1, 5, recovered=True))
    metadata.check_invariants()
    assert metadata.topics["t"].groups["g"] == done((1, 4, 5), low=Position(1, 3)), (
        "CursorInBounds, MarkOnlyRises"
    )


def test_seek_begins_a_generation_and_commits_of_another_one_are_void():
    metadata = queue()
    acknowledge(metadata, (1, 0, 3))
    move = MoveGroup(topic="t", group="g", generation=0, to=START)
    for _ in range(2):  # proposed twice, it is applied once
        metadata.apply(move)
        assert metadata.topics["t"].groups["g"] == done(generation=1), (
            "NothingSkipped: acknowledged before a SEEK, and counted after it"
        )
    assert acknowledge(metadata, (1, 0, 9)) == done(generation=1), "NothingSkipped: of generation 0"
    assert acknowledge(metadata, (1, 1, 2), generation=1) == done((1, 1, 2), generation=1), "NothingSkipped"
    metadata.apply(seal(1, 4, groups={"g": done((1, 0, 1))}, handed={"g": (HandedOn(1, 3, 1),)}))
    assert metadata.topics["t"].groups["g"] == done((1, 1, 2), generation=1), "NothingSkipped"
    assert metadata.topics["t"].handed == {}, "NothingSkipped: what was out before the SEEK is out still"


def test_what_a_seal_has_handed_on_is_not_out_any_more_behind_a_seek():
    metadata = queue()
    metadata.apply(seal(1, 4, groups={"g": done(), "h": done()}, handed={"g": (HandedOn(1, 3, 1),)}))
    assert metadata.topics["t"].handed["g"] == (HandedOn(1, 3, 1),), "SealHandsOn"
    metadata.apply(MoveGroup(topic="t", group="g", generation=0, to=START))
    assert "g" not in metadata.topics["t"].handed, "NothingSkipped: what was out before the SEEK is out still"


def test_a_group_is_of_one_kind_and_both_kinds_count_towards_the_limit():
    metadata = queue()
    metadata.apply(CommitCursors(cursors={"t": {"c": Position(1, 1)}}))
    assert acknowledge(metadata, (1, 0, 1), group="c") == Acknowledged(), "NothingSkipped"
    acknowledge(metadata, (1, 0, 1))
    metadata.apply(CommitCursors(cursors={"t": {"g": Position(1, 1)}}))
    assert "g" not in metadata.topics["t"].cursors, "CursorInBounds: a group is read in two ways"
    for number in range(MAX_GROUPS):
        acknowledge(metadata, (1, 0, 1), group=f"g{number}")
    metadata.apply(CommitCursors(cursors={"t": {"late": Position(1, 1)}}))
    topic = metadata.topics["t"]
    assert len(topic.groups) + len(topic.cursors) == MAX_GROUPS and "late" not in topic.cursors, (
        "TypeOK: more groups than there may be"
    )


@pytest.mark.parametrize("bad", [(1, 3, 3), (1, -1, 2), (2, 0, 1), (0, 0, 1)])
def test_acknowledgements_that_make_no_sense_change_nothing(bad: tuple[int, int, int]):
    metadata = queue()
    assert acknowledge(metadata, bad) == Acknowledged(), "CursorInBounds, NothingSkipped"


def test_what_has_no_work_queue_is_written_so_that_the_release_before_reads_it():
    metadata = queue()
    metadata.apply(CommitCursors(cursors={"t": {"c": Position(1, 1)}}))
    assert msgspec.msgpack.decode(metadata.snapshot())["version"] == FIRST_VERSION, (
        "StateMachineSafety: an earlier release could not read what it knows"
    )
    assert msgspec.msgpack.decode(encode_command(seal(1, 2)))[0] == FIRST_VERSION, (
        "StateMachineSafety: an earlier release could not read what it knows"
    )
    acknowledge(metadata, (1, 0, 1))
    assert msgspec.msgpack.decode(metadata.snapshot())["version"] == QUEUES_VERSION, (
        "StateMachineSafety: an earlier release would drop what groups have done"
    )
    later = [
        CommitGroups(groups={"t": {"g": done((1, 0, 1))}}),
        MoveGroup(topic="t", group="g", generation=0, to=START),
        seal(1, 2, groups={"g": done((1, 0, 1))}),
    ]
    for command in later:
        assert msgspec.msgpack.decode(encode_command(command))[0] == QUEUES_VERSION, (
            "StateMachineSafety: refused if unknown"
        )
        assert decode_command(encode_command(command)) == command, "StateMachineSafety"


def test_a_seal_says_how_far_the_producers_of_all_segments_have_come():
    metadata = queue()
    first = seal(1, 2, producers={"x": LastNumber(1, 50), "y": LastNumber(0, 60)})
    assert msgspec.msgpack.decode(encode_command(first))[0] == RETENTION_VERSION, (
        "StateMachineSafety: refused if unknown"
    )
    assert decode_command(encode_command(first)) == first, "StateMachineSafety"
    metadata.apply(first)
    metadata.apply(seal(2, 1, producers={"x": LastNumber(2, 70)}))
    known = {"x": LastNumber(2, 70), "y": LastNumber(0, 60)}
    assert metadata.topics["t"].producers == known, "NoDuplicateAppend: a producer is forgotten"
    metadata.apply(seal(2, 1, producers={"x": LastNumber(9, 99)}))
    assert metadata.topics["t"].producers == known, "NoDuplicateAppend: a Seal that comes too late counts"
    assert msgspec.msgpack.decode(metadata.snapshot())["version"] == RETENTION_VERSION, (
        "StateMachineSafety: an earlier release would drop producers"
    )
    again = Metadata()
    restore(again, metadata.snapshot())
    assert again.topics["t"].producers == known, "NoDuplicateAppend: a snapshot forgets producers"


def test_what_the_release_before_has_written_is_read():
    old_topic = {"segments": [], "sealed_total": 2, "cursors": {"c": (1, 1)}}
    old_segment = {"leader": 1, "incarnation": 1, "replicas": [1], "checksum": (0, 0), "recovered": False}
    old_topic["segments"] = [{**old_segment, "count": 2}, {**old_segment, "count": None}]
    metadata = Metadata()
    restore(
        metadata,
        msgspec.msgpack.encode({"version": FIRST_VERSION, "nodes": [], "topics": [("t", old_topic)]}),
    )
    assert metadata.topics["t"].groups == {} and metadata.topics["t"].cursors == {"c": Position(1, 1)}, (
        "StateMachineSafety: a snapshot of an earlier release is read otherwise"
    )
    old_seal = ["Seal", "t", 1, 4, [1, 2], 2, [1, 2, 3], {}, False]
    assert decode_command(msgspec.msgpack.encode((FIRST_VERSION, old_seal))) == seal(1, 4), (
        "StateMachineSafety: a command of an earlier release is read otherwise"
    )


PLACES = st.sets(st.builds(Position, st.integers(1, 2), st.integers(0, 9)))


@given(PLACES, PLACES, PLACES)
def test_joining_is_a_join(a: set[Position], b: set[Position], c: set[Position]):
    """Commutative, associative, idempotent, and no entry is done that none of them says is done."""

    def state(places: set[Position]) -> Acknowledged:
        return Acknowledged(above=runs_of(places)).join(Acknowledged(), advance)

    def advance(position: Position) -> Position:
        return Position(2, 0) if position.segment == 1 and position.offset >= 10 else position

    x, y, z = state(a), state(b), state(c)
    assert x.join(y, advance) == y.join(x, advance) == state(a | b), "MarkOnlyRises"
    assert x.join(y.join(z, advance), advance) == x.join(y, advance).join(z, advance) == state(a | b | c), (
        "MarkOnlyRises"
    )
    assert x.join(x, advance) == x and x.is_in_order, "MarkOnlyRises"
    for segment in (1, 2):
        for offset in range(10):
            position = Position(segment, offset)
            assert x.covers(position) == (position in a), "NothingSkipped"


@given(
    PLACES, st.integers(0, 9), st.builds(Position, st.integers(1, 2), st.integers(0, 9)), st.integers(1, 4)
)
def test_what_is_done_is_told_of_single_entries_and_of_runs(
    above: set[Position], low: int, first: Position, count: int
):
    """An ACK of several entries is answered by one question: that of a part must not do for all."""

    def advance(position: Position) -> Position:
        return Position(2, 0) if position.segment == 1 and position.offset >= 10 else position

    count = min(count, 10 - first.offset)  # the first segment has ten entries
    done = Acknowledged(low=Position(1, low), above=runs_of(above)).join(Acknowledged(), advance)
    places = [Position(first.segment, first.offset + n) for n in range(count)]
    are_done = [place in above or place < Position(1, low) for place in places]
    assert [done.covers(place) for place in places] == are_done, "PromisedIsCommitted, AckedNotRedelivered"
    assert done.covers(first, count) == all(are_done), "PromisedIsCommitted: part of a run is not done"
    missing = [place for place in places if not done.covers(place)]
    assert done.missing(places) == missing, "EveryEntryAcked: what is not done counts as proposed and done"


@given(PLACES, st.builds(Position, st.integers(1, 2), st.integers(0, 9)))
def test_what_a_recovery_gave_up_is_done_no_more(above: set[Position], end: Position):
    left = Acknowledged(low=Position(1, 1), above=runs_of(above)).join(Acknowledged(), lambda at: at).cut(end)
    assert left.is_in_order, "CursorInBounds: a run of nothing, or beyond the end"
    assert left.low <= end and left.high <= end, "CursorInBounds: acknowledged beyond the end"
    kept = {place for place in (*above, Position(1, 0)) if place < end}
    everything = [Position(segment, offset) for segment in (1, 2) for offset in range(10)]
    assert {place for place in everything if left.covers(place)} == kept, "MarkOnlyRises, AckedNotRedelivered"


def test_what_a_member_has_announced_that_it_knows_bounds_what_all_know() -> None:
    metadata = cluster()
    assert metadata.all_know == UNTOLD and metadata.older_than(UNTOLD) == [], (
        "DomainConsistency: an upgrade is not noticed"
    )
    metadata.apply(msgspec.structs.replace(announce(2, 2), knows=2))
    assert metadata.all_know == 2 and metadata.older_than(3) == [2], (
        "DomainConsistency: an upgrade is not noticed"
    )
    metadata.apply(msgspec.structs.replace(announce(4, 0), knows=1))
    assert metadata.all_know == 2, "DomainConsistency: it has read nothing yet"
    restored = Metadata()
    restore(restored, metadata.snapshot())
    assert restored.all_know == 2 and restored.older_than(3) == [2], (
        "DomainConsistency: a snapshot forgets what nodes know"
    )
    metadata.apply(msgspec.structs.replace(announce(4, 1), knows=1))
    assert metadata.all_know == 1 and metadata.older_than(3) == [2, 4], (
        "DomainConsistency: a downgrade is not noticed"
    )
    metadata.apply(RemoveNode(node_id=4))
    assert metadata.all_know == 2, "DomainConsistency: a node that is removed holds up an upgrade"
    for node in (1, 2, 3):
        metadata.apply(msgspec.structs.replace(announce(node, 3), knows=VERSION))
    assert metadata.all_know == VERSION and metadata.older_than(VERSION) == [], (
        "DomainConsistency: a node that is removed holds up an upgrade"
    )
    metadata.check_invariants()


def test_a_start_is_outdated_by_a_later_one_and_by_another_of_the_same_number() -> None:
    """A copy of a directory begins with the number of the one that it was copied from."""
    first, copied = next_incarnation(1, drawn=5), next_incarnation(1, drawn=6)
    known = cluster(announce(2, first)).nodes[2]
    assert not known.outdates(first), "DomainConsistency: a node is outdated by itself"
    assert known.outdates(copied), "SingleWriter: a copied directory passes for the one that was copied"
    assert not known.outdates(next_incarnation(first, drawn=1)), "FailoverProgress: a restart is outdated"
    later = cluster(announce(2, first), announce(2, next_incarnation(first, drawn=1))).nodes[2]
    assert later.outdates(first), "SingleWriter: an older directory passes for the one that there is"


def test_a_release_that_does_not_tell_what_it_knows_reads_who_does_and_is_read() -> None:
    told = msgspec.structs.replace(announce(2), knows=9)
    version, command = msgspec.msgpack.decode(encode_command(told))
    assert version == FIRST_VERSION and command[-1] == 9, (
        "StateMachineSafety: it comes last, where an earlier release stops"
    )
    assert decode_command(msgspec.msgpack.encode((version, command[:-1]))) == announce(2), (
        "StateMachineSafety"
    )
