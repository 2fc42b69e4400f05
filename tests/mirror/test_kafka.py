"""The mirror's side of Kafka against a small Kafka in which any step fails, or is a process's last."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest

kafka = pytest.importorskip("walrus.mirror.kafka", reason="pip install -e '.[mirror]'")

from tests.mirror.fake_kafka import Broker, Killed, Process, classes  # noqa: E402
from walrus.client import Entry  # noqa: E402
from walrus.mirror.inbound import StreamMessage  # noqa: E402
from walrus.mirror.outbound import MirrorError, Outbound  # noqa: E402

ENTRIES = [Entry(1 + n // 7, n % 7, b"%d" % n) for n in range(120)]
PAYLOADS = [entry.payload for entry in ENTRIES]


class Mirror:
    """One process that mirrors out."""

    def __init__(self, broker: Broker) -> None:
        self._kafka = kafka.Kafka(Process(broker).servers)
        self._core, self._known = Outbound("c", "t"), False

    async def turn(self, count: int) -> None:
        """Resume if that is due, and publish some entries."""
        core = self._core
        try:
            if not self._known:
                core.resume(await kafka.end_of(self._kafka, "t"), None)
                self._known = True
            batch = [e for e in ENTRIES if (e.segment, e.offset) >= core.place][:count]
            if batch:
                assert core.settle(await kafka.publish(self._kafka, "t", "", core.next_batch(batch)))
        except kafka.Trouble:
            self._known = False


def spoken(patch: pytest.MonkeyPatch, dice: Random | None = None, partitions: int = 1) -> Broker:
    """A broker with which the mirror's module speaks."""
    broker = Broker(dice, partitions)
    for name, made in classes(broker).items():
        patch.setattr(kafka, name, made)
    return broker


@pytest.mark.parametrize("seed", range(30))
def test_the_topic_is_a_prefix_whatever_fails_and_however_many_mirrors_there_are(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = Random(seed)
    broker = spoken(monkeypatch, dice)
    kills = 0

    async def live(turns: int) -> None:
        """A mirror, and the one that is started in its place, and so on."""
        nonlocal kills
        mirror = Mirror(broker)
        for _ in range(turns):
            try:
                await mirror.turn(dice.randrange(1, 12))
            except Killed:
                mirror, kills = Mirror(broker), kills + 1
            got = broker.visible()
            assert got == PAYLOADS[: len(got)], "MirroredPrefix: a gap, a repetition or another order"

    async def run() -> None:
        await asyncio.gather(live(100), live(100))
        broker.dice = None
        await live(len(ENTRIES))  # each publishes one at least

    asyncio.run(run())
    assert broker.visible() == PAYLOADS
    assert kills, "the seed kills no mirror"


def read(broker: Broker, first: int = 1) -> list[StreamMessage]:
    """What `messages` yields until nothing comes."""

    async def run() -> list[StreamMessage]:
        found = []
        reader = kafka.Kafka(Process(broker).servers)
        async with contextlib.aclosing(kafka.messages(reader, "t", first, 5)) as batches:
            async for batch in batches:
                if not batch:
                    return found
                found += batch
        raise AssertionError("it never ends")

    return asyncio.run(run())


def test_what_was_aborted_or_is_open_is_not_read_and_a_sequence_leads_to_its_message(monkeypatch) -> None:
    broker = spoken(monkeypatch)
    servers = Process(broker).servers
    producer = kafka.AIOKafkaProducer(bootstrap_servers=servers, transactional_id="x")

    async def write(payload: bytes, end: bool | None) -> None:
        transaction = producer.transaction()
        await transaction.__aenter__()
        await producer.send("t", payload, partition=0, headers=[])
        if end is not None:
            error = None if end else ValueError()
            with contextlib.suppress(ValueError):
                await transaction.__aexit__(type(error) if error else None, error, None)

    for payload, end in ((b"one", True), (b"no", False), (b"two", True), (b"open", None)):
        asyncio.run(write(payload, end))
    found = read(broker)
    assert [message.payload for message in found] == [b"one", b"two"]
    assert [message.payload for message in read(broker, found[1].sequence)] == [b"two"]
    assert found[0].pending > 0


def test_a_kafka_that_does_not_answer_is_no_topic_that_is_read_to_its_end(monkeypatch) -> None:
    broker = spoken(monkeypatch)
    asyncio.run(Mirror(broker).turn(3))
    broker.silent = 2
    assert [message.payload for message in read(broker)] == PAYLOADS[:3]


def test_a_topic_that_a_mirror_does_not_know_is_not_written_into(monkeypatch) -> None:
    """Messages of another, or its own once Kafka has forgotten its group."""
    broker = spoken(monkeypatch)
    asyncio.run(Mirror(broker).turn(10))
    broker.offsets.clear()
    with pytest.raises(MirrorError, match="walrus-cli seek"):
        asyncio.run(Mirror(broker).turn(10))
    assert broker.visible() == PAYLOADS[:10]


def test_a_topic_of_several_partitions_is_refused_in_a_line(monkeypatch) -> None:
    broker = spoken(monkeypatch, partitions=3)
    with pytest.raises(MirrorError, match="t has 3 partitions"):
        asyncio.run(kafka.ensure_stream(kafka.Kafka(Process(broker).servers), "t", ""))
