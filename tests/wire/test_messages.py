"""What a peer sends, however wrong or late, is dropped or answered; it never raises or trips an assert."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.world import NodeWorld, batch, three
from walrus import protocol
from walrus.acknowledged import Acknowledged, HandedOn, Run
from walrus.segments import (
    Announce,
    CommitCursors,
    CommitGroups,
    MarkLeaving,
    MoveGroup,
    Position,
    RegisterTopic,
    Seal,
    SetReplicas,
)
from walrus.storage.batch import EMPTY, Batch, Checksum
from walrus.wire import messages as m
from walrus.wire.receipts import Receipt

BAD_BATCHES = [Batch(b"\x05\0\0\0", b"four"), Batch(b"abc", b""), Batch(b"", b"x")]


@pytest.mark.parametrize("bad", BAD_BATCHES)
def test_batches_that_do_not_add_up_are_dropped(bad: Batch):
    assert m.flaw(m.Append(topic="t", segment=1, start=0, batch=bad, end=1))
    assert m.flaw(m.Forward(request=1, topic="t", segment=1, batch=bad))
    assert m.flaw(m.ReadReply(request=1, batch=bad, error=""))
    assert m.flaw(m.GetReply(request=1, batch=bad, moved=False, error=""))


def test_sound_messages_have_no_flaw():
    assert not m.flaw(m.Append(topic="t", segment=1, start=0, batch=EMPTY, end=0))
    assert not m.flaw(m.Forward(request=1, topic="t", segment=1, batch=batch("x")))
    assert not m.flaw(m.ReadReply(request=1, batch=EMPTY, error=""))


# --- a peer that says anything at all ---

topics = st.sampled_from(["t", "u", "unknown", ""])
numbers = st.one_of(st.sampled_from([0, 1, 2, 3, -1]), st.integers(-(2**40), 2**40))
nodes = st.integers(0, 5)
positions = st.builds(Position, numbers, numbers)
runs = st.lists(st.builds(Run, numbers, numbers, numbers), max_size=3).map(tuple)
marks = st.builds(Acknowledged, st.integers(0, 2), positions, runs)
receipts = st.lists(
    st.builds(Receipt, st.integers(1, 3), st.integers(0, 4), st.integers(0, 2), st.integers(1, 2)), max_size=3
).map(tuple)
checksums = st.builds(Checksum, st.integers(0, 9), st.integers(0, 9))
batches = st.one_of(
    st.sampled_from([EMPTY, *BAD_BATCHES]), st.lists(st.binary(max_size=5), max_size=5).map(Batch.of)
)
replicas = st.lists(nodes, max_size=4).map(tuple)
texts = st.sampled_from(["", "d1", "d2", "x"])
commands = st.one_of(
    st.builds(
        Announce,
        node_id=nodes,
        directory_id=texts,
        incarnation=st.integers(0, 3),
        raft_address=texts,
        client_address=texts,
    ),
    st.builds(RegisterTopic, topic=topics, leader=nodes, replicas=replicas),
    st.builds(
        Seal,
        topic=topics,
        segment=st.integers(-1, 4),
        count=numbers,
        checksum=checksums,
        leader=nodes,
        replicas=replicas,
        cursors=st.dictionaries(texts, positions, max_size=2),
        recovered=st.booleans(),
        groups=st.dictionaries(texts, marks, max_size=2),
        handed=st.dictionaries(
            texts, st.lists(st.builds(HandedOn, numbers, numbers, numbers), max_size=3).map(tuple), max_size=2
        ),
    ),
    st.builds(
        CommitCursors,
        cursors=st.dictionaries(topics, st.dictionaries(texts, positions, max_size=2), max_size=2),
    ),
    st.builds(
        CommitGroups,
        groups=st.dictionaries(topics, st.dictionaries(texts, marks, max_size=2), max_size=2),
    ),
    st.builds(MoveGroup, topic=topics, group=texts, generation=numbers, to=positions),
    st.builds(SetReplicas, topic=topics, segment=numbers, old=replicas, new=replicas),
    st.builds(MarkLeaving, node_id=nodes),
)


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """A message of this type with any values in its fields."""
    fields = {
        "topic": topics,
        "group": texts,
        "batch": batches,
        "checksum": checksums,
        "error": st.sampled_from(["", "no"]),
        "commands": st.lists(commands, max_size=2).map(tuple),
        "sure": st.booleans(),
        "fenced": st.booleans(),
        "gap": st.booleans(),
        "raw": st.booleans(),
        "moved": st.booleans(),
        "refused": st.booleans(),
        "delivered": st.booleans(),
        "source": nodes,
        "receipts": receipts,
        "what": st.sampled_from(["ack", "nack", "extend"]),
        "seconds": st.sampled_from([0.0, 0.01, 1e9, -1.0, float("nan")]),
        "wait": st.sampled_from([0.0, 0.01, 1e9, -1.0, float("nan")]),
        "to": st.none() | positions,
        "last": st.booleans(),
        "errors": st.lists(st.sampled_from(["", "no"]), max_size=3).map(tuple),
    }
    return st.builds(kind, **{name: fields.get(name, numbers) for name in kind.__struct_fields__})


KINDS = (
    m.Append, m.AppendReply, m.Fence, m.FenceReply, m.Copy, m.CopyReply, m.Read, m.ReadReply, m.GetEntries,
    m.GetReply, m.Confirm, m.AskDeliveries, m.Deliveries, m.Settle, m.SeekGroup, m.Settled,
    m.Forward, m.ForwardReply, m.ReadIndex, m.ReadIndexReply, m.Recover, m.RollOver,
)  # fmt: skip


def loaded() -> NodeWorld:
    """Three nodes with a sealed segment, an open one, and a second topic, in the middle of things."""
    world = three(max_segment_entries=3)
    world.register("t")
    world.register("u")
    assert world.put(1, "t", "a", "b", "c", "d") == [b"OK"] * 4
    world.ask(2, protocol.Get("t", "", 2))
    for node in (1, 2, 3):
        world.send(node, protocol.Put("u", batch("x", "y")))
        world.send(node, protocol.Get("u"))
        world.send(node, protocol.Fetch("t", 1, 0, 5))
        world.send(node, protocol.Receive("t", "d1", 0, 2))
        world.send(node, protocol.Receive("u", "d2", 5_000))
    world.step()
    return world


@given(st.lists(st.tuples(nodes, st.sampled_from(KINDS).flatmap(anything)), min_size=1, max_size=25))
def test_no_message_of_a_peer_raises(said: list[tuple[int, Any]]):
    world = loaded()
    for position, (sender, message) in enumerate(said):
        for node in world.nodes:
            if sender != node:
                world.nodes[node].on_message(sender, message, world.now)
        if position % 5 == 4:
            world.step()
    for node in world.nodes.values():
        node.flush(world.now)
        node.take_effects()
        node.on_tick(world.now + 10)
        node.flush(world.now + 10)


@given(st.lists(commands, min_size=1, max_size=6))
def test_no_proposal_of_a_peer_breaks_the_metadata(proposed: list[Any]):
    world = loaded()
    world.nodes[world.raft_leader].on_message(2, m.Propose(commands=tuple(proposed)), world.now)
    world.run(0.3)
    world.run(0.3)
