"""A snapshot that is taken over in several turns: what each leaves is sound, and the last one all of it."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.test_imaging import NAMES, proposals
from tests.broker.test_segments import announce, cluster, register
from tests.broker.world import NodeWorld
from walrus import segments
from walrus.broker import takeover
from walrus.broker.takeover import Takeover, restore
from walrus.segments import (
    VERSION,
    Contents,
    DeleteTopic,
    MarkLeaving,
    Metadata,
    RemoveNode,
    UnknownCommand,
    snapshot_encoder,
)
from walrus.wire.messages import Join

KEYS = [(name, number) for name in NAMES for number in range(1, 30)]


def go_on(metadata: Metadata, rng: random.Random, commands: int) -> None:
    """Apply so many commands; members come, start anew, and go."""
    made = proposals(metadata, rng)
    for _ in range(commands):
        metadata.apply(next(made))
        node = metadata.nodes.get(9)
        start = node.incarnation + 1 if node else 0
        directory = node.directory_id if node else rng.choice("de")
        metadata.apply(
            rng.choice([announce(9, start, directory), MarkLeaving(node_id=9), RemoveNode(node_id=9)])
        )


def copied(metadata: Metadata) -> Metadata:
    copy = Metadata()
    restore(copy, metadata.snapshot())
    return copy


def gone(metadata: Metadata) -> set[tuple[str, int]]:
    return {key for key in KEYS if metadata.is_gone(*key)}


def shuffled(snapshot: bytes, rng: random.Random) -> bytes:
    """The same snapshot with its topics in another order."""
    frame = msgspec.msgpack.decode(snapshot, type=Contents[list[msgspec.Raw]])
    rng.shuffle(frame.topics)
    return snapshot_encoder.encode(frame)


def taken(snapshot: Takeover, ours: Metadata, theirs: Metadata, turns: int) -> bool:
    """Take so many turns, and look at each; return whether the snapshot is whole."""
    while turns and not snapshot.whole:
        turns -= 1
        before = {name: msgspec.msgpack.encode(topic) for name, topic in ours.topics.items()}
        is_gone, failovers = gone(ours), ours.failovers
        changed = snapshot.go_on()
        ours.check_invariants()
        assert is_gone <= gone(ours), "TrimmedStaysTrimmed: what was gone may be again"
        assert ours.failovers >= failovers, "DomainConsistency: failovers are forgotten too early"
        assert len(changed) <= takeover.MAX_TAKEN, "StateMachineSafety: a turn takes too many"
        assert changed == sorted(changed), "StateMachineSafety: two nodes act on them in another order"
        for name in before.keys() | ours.topics.keys():
            topic = ours.topics.get(name)
            differs = before.get(name) != (msgspec.msgpack.encode(topic) if topic else None)
            assert differs == (name in changed), "StateMachineSafety: a change is not told, or none is"
            assert not differs or topic == theirs.topics.get(name), "StateMachineSafety: a topic of no index"
            numbered = topic or not differs or ours.next_number(name) == theirs.next_number(name)
            assert numbered, "TrimmedStaysTrimmed: a dropped topic goes on with another number"
    return snapshot.whole


@given(st.integers(min_value=0, max_value=1 << 32))
def test_in_any_turns_and_from_any_earlier_state_it_is_the_metadata_of_its_index(seed: int) -> None:
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(takeover, "MAX_TAKEN", rng.randint(1, 3))
        patched.setattr(segments, "MAX_TOMBSTONES", rng.randint(1, 3))
        theirs = cluster(*(register(name) for name in NAMES[: rng.randrange(len(NAMES))]))
        go_on(theirs, rng, rng.randrange(40))
        ours = copied(theirs) if rng.random() < 0.8 else Metadata()
        go_on(theirs, rng, rng.randrange(60))
        first, then = copied(theirs), theirs
        turns = rng.choice([0, 1, 2, 5, 99])
        taken(Takeover(7, shuffled(first.snapshot(), rng), ours), ours, first, turns)
        go_on(then, rng, rng.randrange(40))
        assert taken(Takeover(9, shuffled(then.snapshot(), rng), ours), ours, then, 99), "StateMachineSafety"
    assert ours.whole and ours.snapshot() == then.snapshot(), "StateMachineSafety: a node has another state"
    ours.check_invariants()


def test_of_many_topics_a_turn_takes_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "MAX_TAKEN", 10)
    theirs = cluster(*(register(f"t{number}") for number in range(94)))
    ours = cluster(*(register(f"u{number}") for number in range(20)))
    for name in ours.topics.keys() - theirs.topics.keys():
        theirs.apply(register(name))
        theirs.apply(DeleteTopic(topic=name, born=1, at_seal=False))
    snapshot, turns = Takeover(7, theirs.snapshot(), ours), []
    while not snapshot.whole:
        assert ours.whole == (not turns), "StateMachineSafety: half a snapshot counts as a whole"
        turns.append(len(snapshot.go_on()))
    # The topic `t` is the same in both.
    assert turns == [9, *[10] * 10, 5] and ours.whole, "StateMachineSafety: a turn takes too many"


def test_an_unreadable_topic_is_found_in_its_turn_and_a_later_version_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(takeover, "MAX_TAKEN", 1)
    theirs = cluster(register("u"))
    frame = theirs.contents((), [*sorted(theirs.topics.items()), ("v", "no topic")])
    ours = Metadata()
    half = Takeover(7, snapshot_encoder.encode(frame), ours)
    assert [half.go_on(), half.go_on()] == [["t"], ["u"]], "StateMachineSafety"
    with pytest.raises(UnknownCommand, match="cannot read"):
        half.go_on()
    later = snapshot_encoder.encode(msgspec.structs.replace(frame, version=VERSION + 1))
    with pytest.raises(UnknownCommand, match="upgrade this node"):
        Takeover(7, later, ours)


def test_what_a_node_knows_of_members_meanwhile_is_of_no_index() -> None:
    """A member that claimed to be one at `applied` might be refused for good by a node that is that far."""
    world = NodeWorld()
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    world.join(2)
    joined = world.nodes[2].identity
    join = Join(node_id=2, directory_id=joined.directory_id, raft_address="", client_address="")
    one, two = world.nodes[1], world.nodes[2]
    assert one.on_join(join, world.now).done and two.members.member_at == two.applied
    one.metadata.whole = two.metadata.whole = False
    assert not one.on_join(join, world.now).done, "DomainConsistency: taken in at an index before that"
    assert two.members.member_at < two.applied, "DomainConsistency: it claims an index before it was taken in"
