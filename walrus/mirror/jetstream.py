"""The few things that the mirror asks of NATS JetStream, by its own library (`nats-py`).

Every wait has a deadline. What does not come by then, or is refused, is `NatsTrouble`: the mirror waits, and
finds its place again. The connection is restored by the library, without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import nats
from nats.errors import Error, TimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import NotFoundError

from walrus.mirror.outbound import MirrorError, Publish, StreamEnd

PORT: Final = 4222
PATIENCE: Final = 5.0
"""Seconds for an answer."""
IDLE: Final = 0.5
"""Seconds that a fetch waits for messages."""

NatsTrouble: Final = (Error, OSError, asyncio.TimeoutError)
"""What is waited out."""


class StreamMessage(NamedTuple):
    """A message of a stream."""

    sequence: int
    payload: bytes
    pending: int
    """How many come behind it."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[JetStreamContext]:
    """Connect, and stay so. Raises MirrorError if nothing listens there now."""

    async def quiet(_: Exception) -> None:
        """A connection that broke comes back; what it cost is seen where it was used."""

    try:
        place = urlsplit(url)
        knock = asyncio.open_connection(place.hostname, place.port or PORT)  # the library would try for ever
        (await asyncio.wait_for(knock, PATIENCE))[1].close()
        connection = await nats.connect(
            url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=quiet
        )
    except (*NatsTrouble, ValueError) as error:
        raise MirrorError(f"cannot connect to {url}: {error or type(error).__name__}") from error
    try:
        yield connection.jetstream(timeout=PATIENCE, publish_async_max_pending=10_000)
    finally:
        await connection.close()


async def ensure_stream(js: JetStreamContext, stream: str, subject: str) -> None:
    """Make the stream if there is none of that name."""
    try:
        await js.stream_info(stream)
    except NotFoundError:
        await js.add_stream(StreamConfig(name=stream, subjects=[subject]))


async def end_of(js: JetStreamContext, stream: str) -> StreamEnd:
    """Return what the stream ends with."""
    last = (await js.stream_info(stream)).state.last_seq
    if not last:
        return StreamEnd(0, None)
    try:
        headers = (await js.get_msg(stream, last)).headers or {}
    except NotFoundError:
        return StreamEnd(last, None)
    return StreamEnd(last, headers.get("Nats-Msg-Id", ""))


async def publish(
    js: JetStreamContext, stream: str, subject: str, messages: Sequence[Publish]
) -> list[int | None]:
    """Send them all, then wait; return the sequence that each got, None if it was refused or is not known."""
    waiting = [
        await js.publish_async(
            subject,
            message.payload,
            wait_stall=PATIENCE,
            stream=stream,
            headers={
                "Nats-Msg-Id": message.message_id,
                "Nats-Expected-Last-Sequence": str(message.expected_last),
            },
        )
        for message in messages
    ]
    _, late = await asyncio.wait(waiting, timeout=PATIENCE)
    for each in late:
        each.cancel()
    return [
        None if each in late or each.cancelled() or each.exception() else each.result().seq
        for each in waiting
    ]


async def created(js: JetStreamContext, stream: str) -> str:
    """When the stream was made: one that is made anew under its name is another one. Raises MirrorError."""
    try:
        info = await js.stream_info(stream)
    except NotFoundError:
        raise MirrorError(f"there is no stream {stream}") from None
    return str(info.created).replace(" ", "T")


async def messages(
    js: JetStreamContext, stream: str, first: int, count: int
) -> AsyncGenerator[list[StreamMessage], None]:
    """Yield what the stream has from a sequence on, in batches; an empty one if nothing came for a while."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first, ack_policy=AckPolicy.NONE,
        inactive_threshold=60.0, mem_storage=True,
    )  # fmt: skip
    subscription = await js.pull_subscribe("", stream=stream, config=config)
    try:
        while True:
            try:
                found = await subscription.fetch(count, timeout=IDLE)
            except TimeoutError:
                yield []
                continue
            yield [StreamMessage(m.metadata.sequence.stream, m.data, m.metadata.num_pending) for m in found]
    finally:
        await subscription.unsubscribe()
