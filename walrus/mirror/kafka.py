"""The requests that the mirror makes of Kafka, with `aiokafka`, under the names of `jetstream.py`.

A stream is a topic of one partition here, because Kafka keeps an order only within a partition.

    out    a batch is a transaction: its messages, and the mirror's position, as the committed offset of a
           group of its own. Kafka takes all of it or nothing.
    in     what is committed, in the partition's order. The sequence of a message is its offset plus one.

A mirror that starts takes over the transactional id of the stream. That aborts what an earlier mirror had
open, and makes Kafka refuse ("fence") whatever it still sends. Only then the mirror reads how far the stream
is. So the stream is a prefix of the topic here, too (MirroredPrefix), which NATS needs a compare-and-set
for.

The group's offset counts the messages, and its metadata names the last entry, like the id of a NATS message.
Kafka forgets the offset of a group after a week without commits (`offsets.retention.minutes`). Then the
group of the Walrus topic says where to continue, as for a NATS stream whose last message is gone.

Left out: several partitions and keys, TLS and passwords of Kafka. `tests/mirror/test_kafka.py` has a small
Kafka of its own, which follows these rules and breaks off anywhere; docs/mirror.md says what was tried with
a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from walrus.mirror.inbound import StreamMessage
from walrus.mirror.outbound import MirrorError, Publish, StreamEnd

SCHEME: Final = "kafka://"
NAME: Final = "kafka"
PATIENCE: Final = 10.0
"""Seconds within which Kafka must answer."""
IDLE_MS: Final = 500
"""Milliseconds that a fetch waits for messages."""
MINE: Final = "walrus.mirror."
"""Prefix of the transactional ids and groups of mirrors; the stream's name follows."""

Trouble: Final = (KafkaError, OSError, asyncio.TimeoutError)
"""Errors after which the mirror pauses and tries again."""


class Kafka:
    """A connection to a cluster, and the transactional producer once there is one."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.admin: Any = AIOKafkaAdminClient(bootstrap_servers=servers)
        self.producer: Any = None

    async def take_over(self, stream: str) -> None:
        """Become the stream's only producer. When this returns, earlier producers' transactions are over."""
        await self.drop()
        self.producer = AIOKafkaProducer(bootstrap_servers=self.servers, transactional_id=MINE + stream)
        await asyncio.wait_for(self.producer.start(), PATIENCE)
        async with asyncio.timeout(PATIENCE), self.producer.transaction():
            pass

    async def drop(self) -> None:
        """Stop the producer, whatever state it is in."""
        producer, self.producer = self.producer, None
        if producer is not None:
            with contextlib.suppress(*Trouble):
                await asyncio.wait_for(producer.stop(), PATIENCE)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Kafka]:
    """Connect. Raises MirrorError if nothing answers now."""
    kafka, loop = Kafka(url.removeprefix(SCHEME)), asyncio.get_running_loop()

    def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Ignore failures of the library's own tasks: the requests that depend on them raise as well."""
        if not isinstance(context.get("exception"), Trouble):
            loop.default_exception_handler(context)

    loop.set_exception_handler(quiet)
    try:
        try:
            await asyncio.wait_for(kafka.admin.start(), PATIENCE)
        except (*Trouble, ValueError) as error:
            raise MirrorError(f"cannot connect to {url}: {str(error) or type(error).__name__}") from None
        yield kafka
    finally:
        await kafka.drop()
        await kafka.admin.close()


async def ensure_stream(kafka: Kafka, stream: str, subject: str) -> None:
    """Create the topic if there is none of that name. Raises MirrorError if it has several partitions."""
    del subject
    if stream not in await kafka.admin.list_topics():
        await kafka.admin.create_topics([NewTopic(stream, 1, 1)])
    await created(kafka, stream)


async def created(kafka: Kafka, stream: str) -> str:
    """Return the cluster's id, as Kafka cannot tell a topic from a new one of its name.

    Raises MirrorError if the topic does not exist, or has several partitions.
    """
    (described,) = await kafka.admin.describe_topics([stream])
    partitions = len(described["partitions"])
    if not partitions:
        raise MirrorError(f"there is no topic {stream}")
    if partitions > 1:
        raise MirrorError(
            f"{stream} has {partitions} partitions, and order holds in one: mirror another topic"
        )
    return str((await kafka.admin.describe_cluster())["cluster_id"])


async def end_of(kafka: Kafka, stream: str) -> StreamEnd:
    """Take the stream over, and return what it ends with."""
    await kafka.take_over(stream)
    place = TopicPartition(stream, 0)
    found = await kafka.admin.list_consumer_group_offsets(MINE + stream, partitions=[place])
    at = found.get(place)
    if at is not None and at.offset >= 0:
        return StreamEnd(at.offset, at.metadata)
    async with contextlib.aclosing(messages(kafka, stream, 1, 1)) as batches:
        first = await anext(batches)
    return StreamEnd(len(first), None)


async def publish(kafka: Kafka, stream: str, subject: str, messages: Sequence[Publish]) -> list[int | None]:
    """Write the messages as one transaction; return the sequence of each. Raises one of `Trouble`."""
    del subject
    done = messages[-1].expected_last + 1
    place, told = TopicPartition(stream, 0), OffsetAndMetadata(done, messages[-1].message_id)
    async with asyncio.timeout(PATIENCE), kafka.producer.transaction():
        waiting = []
        for message in messages:
            headers = [("walrus-id", message.message_id.encode())]
            try:
                sent = await kafka.producer.send(stream, message.payload, partition=0, headers=headers)
            except MessageSizeTooLargeError as error:
                raise MirrorError(f"{message.message_id} is longer than {stream} takes: {error}") from None
            waiting.append(sent)
        await asyncio.gather(*waiting)
        await kafka.producer.send_offsets_to_transaction({place: told}, MINE + stream)
    return [message.expected_last + 1 for message in messages]


async def messages(
    kafka: Kafka, stream: str, first: int, count: int
) -> AsyncGenerator[list[StreamMessage], None]:
    """Yield what is committed from sequence `first` on, in batches; an empty one if there is nothing now."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.servers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    place = TopicPartition(stream, 0)
    await asyncio.wait_for(consumer.start(), PATIENCE)
    try:
        consumer.assign([place])
        consumer.seek(place, first - 1)
        while True:
            found = await consumer.getmany(place, timeout_ms=IDLE_MS, max_records=count)
            upto = consumer.last_stable_offset(place)
            if not found and (upto is None or await consumer.position(place) < upto):
                continue  # the broker has not answered yet, so this is not the end
            yield [
                StreamMessage(record.offset + 1, record.value or b"", max(0, upto - record.offset - 1))
                for record in found.get(place, ())
            ]
    finally:
        await consumer.stop()
