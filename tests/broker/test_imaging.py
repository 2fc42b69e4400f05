"""A snapshot that is made in several turns says what the metadata was when it was begun."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import pytest

from tests.broker.test_segments import cluster, register, seal
from walrus.acknowledged import Acknowledged
from walrus.broker import imaging
from walrus.broker.imaging import Image, concerned
from walrus.broker.takeover import restore
from walrus.segments import (
    Announce,
    Command,
    CommitCursors,
    CommitGroups,
    ConfigureTopic,
    DeleteTopic,
    MarkLeaving,
    Metadata,
    MoveGroup,
    Position,
    RegisterTopic,
    RemoveNode,
    SetReplicas,
    Trim,
)

NAMES = [f"t{number}" for number in range(8)]


def proposals(metadata: Metadata, rng: random.Random) -> Iterator[Command]:
    """Commands of every kind that may change a topic, most of them such as apply at that moment."""
    while True:
        name = rng.choice(NAMES)
        topic = metadata.topics.get(name)
        if topic is None:
            number = metadata.next_number(name)
            yield RegisterTopic(topic=name, leader=1, replicas=(1, 2, 3), number=number, settings={})
            continue
        end, group = Position(topic.current, rng.randrange(3)), rng.choice("gh")
        yield rng.choice(
            [
                seal(topic.current, rng.randrange(9), topic=name, recovered=rng.random() < 0.5),
                seal(topic.current, 5, topic=name),
                Trim(topic=name, old=topic.first, first=rng.randint(topic.first, topic.current)),
                DeleteTopic(topic=name, born=topic.born),
                ConfigureTopic(
                    topic=name, born=topic.born, configured=topic.configured, settings={"retain_entries": 9}
                ),
                CommitCursors(cursors={name: {"r": end}, rng.choice(NAMES): {"r": end}}),
                CommitGroups(groups={name: {group: Acknowledged(topic.group(group).generation, end)}}),
                MoveGroup(topic=name, group=group, generation=topic.group(group).generation, to=end),
                SetReplicas(
                    topic=name,
                    segment=topic.first,
                    old=topic.segments[0].replicas,
                    new=(3, 1),
                    directories=(),
                ),
            ]
        )


@pytest.mark.parametrize("seed", range(100))
def test_an_image_says_what_the_metadata_was_when_it_was_begun(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(imaging, "MAX_IMAGED", rng.randint(1, 3))
    metadata = cluster(*(register(name) for name in NAMES))
    commands = proposals(metadata, rng)
    for _ in range(rng.randrange(60)):
        metadata.apply(next(commands))
    keys = [(name, number) for name in NAMES for number in range(1, 12)]
    snapshot = metadata.snapshot()
    over = {key for key in keys if metadata.is_over(*key)}
    image = Image(7, metadata, keys)
    for _ in count():
        for _ in range(rng.randrange(3)):
            command = next(commands)
            image.before(command)
            metadata.apply(command)
        if image.go_on():
            break
    data = image.data()
    assert data == snapshot, "StateMachineSafety"
    assert image.over == over, "AckedDurable: a note is dropped that matters to a start from this snapshot"
    restore(Metadata(), data)


def test_an_image_of_no_topics_is_one() -> None:
    metadata = cluster()
    metadata.apply(DeleteTopic(topic="t", born=1))
    image = Image(7, metadata, [])
    assert image.go_on() and image.data() == metadata.snapshot(), "StateMachineSafety: an image of no topics"


def test_of_many_topics_a_turn_encodes_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imaging, "MAX_IMAGED", 10)
    metadata = cluster(*(register(f"t{number}") for number in range(95)))
    image, encoded = Image(7, metadata, [("t", 1)] * 15), list[str]()
    encode = image._encode
    monkeypatch.setattr(image, "_encode", lambda name: encoded.append(name) or encode(name))
    turns = []
    while True:
        before = len(encoded)
        whole = image.go_on()
        turns.append(len(encoded) - before)
        if whole:
            break
    assert turns == [10] * 9 + [6] and len(set(encoded)) == len(metadata.topics) == 96, (
        "StateMachineSafety: a topic is left out of the image, or a turn takes too many"
    )


def test_what_changes_no_topic_concerns_none() -> None:
    announce = Announce(node_id=1, directory_id="d", incarnation=1, raft_address="", client_address="")
    leave = MarkLeaving(node_id=1, directory_id="d")
    remove = RemoveNode(node_id=1, directory_id="d")
    assert [list(concerned(command)) for command in (announce, leave, remove)] == [[], [], []], (
        "StateMachineSafety: a topic is encoded before what does not concern it"
    )
