"""The mirror's two state machines against a stream and a topic in which anything may fail at any time."""

from __future__ import annotations

import asyncio
import random

import pytest

from walrus.client import Entry
from walrus.mirror import main
from walrus.mirror.inbound import Inbound, NumberNote
from walrus.mirror.outbound import MirrorError, Outbound, Publish, StreamEnd

ENTRIES = [Entry(1 + n // 7, n % 7, b"%d" % n) for n in range(200)]


class Stream:
    """A JetStream stream as far as the mirror relies on it: a compare-and-set on its last sequence."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []

    def publish(self, message: Publish) -> int | None:
        if message.expected_last != len(self.messages):
            return None
        self.messages.append((message.message_id, message.payload))
        return len(self.messages)

    def end(self) -> StreamEnd:
        return StreamEnd(len(self.messages), self.messages[-1][0] if self.messages else None)


def after(place: tuple[int, int]) -> list[Entry]:
    return [entry for entry in ENTRIES if (entry.segment, entry.offset) >= place]


@pytest.mark.parametrize("seed", range(30))
def test_a_stream_is_a_prefix_of_the_topic_whatever_is_lost_and_however_many_mirrors_there_are(
    seed: int,
) -> None:
    rng, stream = random.Random(seed), Stream()
    late: list[Publish] = []  # what an old connection, or a dead mirror, still delivers
    mirrors = [Outbound("c", "t") for _ in range(2)]
    known = [False, False]
    for _ in range(600):
        which = rng.randrange(2)
        mirror = mirrors[which]
        if rng.random() < 0.1:  # kill -9, and another one in its place
            mirrors[which], known[which] = Outbound("c", "t"), False
            continue
        if not known[which]:
            mirror.resume(stream.end(), None)
            known[which] = True
        batch = after(mirror.place)[: rng.randrange(1, 9)]
        answers: list[int | None] = []
        for message in mirror.next_batch(batch):
            if late and rng.random() < 0.3:
                stream.publish(late.pop(rng.randrange(len(late))))
            match rng.choice("ooooooool?"):
                case "o":
                    answers.append(stream.publish(message))
                case "l":  # lost on the way, or late
                    late.append(message)
                    answers.append(None)
                case "?":  # there, but the answer was lost
                    stream.publish(message)
                    answers.append(None)
        known[which] = mirror.settle(answers)
        assert [payload for _, payload in stream.messages] == [
            entry.payload for entry in ENTRIES[: len(stream.messages)]
        ], "MirroredPrefix"
        if len(stream.messages) == len(ENTRIES):
            break
    assert len(stream.messages) == len(ENTRIES), "it gets to the end"


def test_a_stream_of_others_or_of_another_cluster_is_refused() -> None:
    for foreign in ("", "other", "d/t/1/0", "c/t2/1/0", "c/t/1/x", "c/t/1/2/3"):
        with pytest.raises(MirrorError, match="stream of its own"):
            Outbound("c", "t").resume(StreamEnd(5, foreign), (1, 1))


def test_where_the_last_message_expired_the_group_says_where_to_go_on() -> None:
    assert Outbound("c", "t").resume(StreamEnd(9, None), (4, 2)) == (4, 2)
    assert Outbound("c", "t").resume(StreamEnd(0, None), (4, 2)) == (1, 0), "a new stream gets everything"
    with pytest.raises(MirrorError, match="walrus-cli seek"):
        Outbound("c", "t").resume(StreamEnd(9, None), None)


class Topic:
    """A topic and its notes: PUB of the producer that the mirror is."""

    def __init__(self) -> None:
        self.entries: list[int] = []
        self.notes: list[bytes] = []

    def pub(self, number: int, message: int) -> bool:
        if number == len(self.entries):
            self.entries.append(message)
        return number < len(self.entries)


def play(rng: random.Random, mirrors: int, deletes: float) -> None:
    """Mirrors that die at any moment, and a stream from which messages are deleted."""
    topic, deleted = Topic(), set[int]()
    stream = sorted(rng.sample(range(1, 400), 200))  # sequences have gaps
    running: list[Inbound | None] = [None] * mirrors
    for _ in range(1_000):
        which = rng.randrange(mirrors)
        mirror = running[which]
        if mirror is None or rng.random() < 0.1:
            mirror = running[which] = Inbound()
            mirror.resume(len(topic.entries) if topic.entries else None, topic.notes)
        batch = [s for s in stream if s >= mirror.sequence and s not in deleted][: rng.randrange(1, 9)]
        if not batch:
            break
        note = mirror.note(batch)
        if rng.random() < 0.1:
            running[which] = None  # died before the note
            continue
        topic.notes.append(note)
        dies = rng.randrange(len(batch)) if rng.random() < 0.2 else len(batch)
        done = all(topic.pub(mirror.number + n, message) for n, message in enumerate(batch[:dies]))
        if done and dies == len(batch):
            mirror.written(batch)
            continue
        running[which] = None
        left = [s for s in stream if s > max(topic.entries, default=0)]
        deleted |= {s for s in left if rng.random() < deletes}
    assert topic.entries == sorted(set(topic.entries)), "MirroredOnce: none twice, in order"
    assert set(stream) - set(topic.entries) <= deleted, "MirroredOnce: none is missing"


@pytest.mark.parametrize("seed", range(30))
def test_every_message_that_was_there_in_its_turn_is_in_the_topic_once(seed: int) -> None:
    play(random.Random(seed), mirrors=1, deletes=0.02)


@pytest.mark.parametrize("seed", range(30))
def test_two_mirrors_at_a_time_give_each_message_the_same_number(seed: int) -> None:
    play(random.Random(seed), mirrors=2, deletes=0.0)


def test_a_note_tells_runs_and_what_is_behind_them() -> None:
    mirror = Inbound()
    mirror.resume(None, [])
    note = mirror.note([3, 4, 5, 9])
    assert note == b'{"number":0,"runs":[[3,3],[9,1]]}'
    assert [NumberNote(0, [(3, 3), (9, 1)]).sequence(n) for n in range(5)] == [3, 4, 5, 9, 10]


def test_a_topic_that_forgot_or_a_note_that_is_gone_ends_the_mirror() -> None:
    with pytest.raises(MirrorError, match="has forgotten"):
        Inbound().resume(None, [b'{"number":7,"runs":[[9,1]]}'])
    with pytest.raises(MirrorError, match="no note says"):
        Inbound().resume(50, [b'{"number":7,"runs":[[9,1]]}'])


def test_what_is_waited_out_is_named_also_if_it_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "PAUSE", 0.0)
    troubles = [TimeoutError(), OSError("broken pipe")]

    async def step() -> None:
        if troubles:
            raise troubles.pop(0)

    asyncio.run(main._again(step, (OSError,)))
    assert capsys.readouterr().err.splitlines() == [
        "mirror: TimeoutError; going on in a moment",
        "mirror: broken pipe; going on in a moment",
    ]
