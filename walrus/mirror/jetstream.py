"""The requests that the mirror makes of NATS JetStream, with the library `nats-py`.

Every wait has a deadline. A request that is not answered by then, or is refused, raises one of `Trouble`:
the mirror pauses and finds its position again. The library reconnects for as long as it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import NotFoundError

from walrus.mirror.inbound import StreamMessage
from walrus.mirror.outbound import MirrorError, Publish, StreamEnd
from walrus.shell.arguments import without_password

NAME: Final = "nats"
PORT: Final = 4222
PATIENCE: Final = 5.0
"""Seconds within which NATS must answer."""
LOGIN: Final = "write them into the URL, nats://NAME:PASSWORD@HOST or nats://TOKEN@HOST"
IDLE: Final = 0.5
"""Seconds that a fetch waits for messages."""

Trouble: Final = (Error, OSError, asyncio.TimeoutError)
"""Errors after which the mirror pauses and tries again."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[JetStreamContext]:
    """Connect, and reconnect as needed. Raises MirrorError if nothing listens now, or access is denied."""
    where, said, refused = without_password(url), "", False

    async def quiet(error: Exception) -> None:
        """Ignore a broken connection: the library restores it, and the request that failed raises."""
        nonlocal said, refused
        said = str(error)  # only some attempts report the refusal; others see the reset first
        refused = refused or "authorization" in said.lower()

    try:
        place = urlsplit(url)
        knock = asyncio.open_connection(place.hostname, place.port or PORT)  # the library would try for ever
        (await asyncio.wait_for(knock, PATIENCE))[1].close()
        connecting = nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=quiet)
        connection = await _in_time(connecting)
    except (*Trouble, ValueError) as error:
        if refused:
            raise MirrorError(f"{where} refuses this name and password, or this token: {LOGIN}") from None
        reason = said or str(error) or type(error).__name__
        raise MirrorError(f"cannot connect to {where}: {reason}") from None
    try:
        yield connection.jetstream(timeout=PATIENCE, publish_async_max_pending=10_000)
    finally:
        with suppress(*Trouble):  # the connection may be broken
            await connection.close()


async def _in_time(connecting: Coroutine[Any, Any, Client]) -> Client:
    """Return the connection. Raises TimeoutError after `PATIENCE`, and whatever connecting raises.

    A connection that is made after the deadline, while connecting is being cancelled, is returned all the
    same. If this coroutine is cancelled itself, it closes the connection.
    """
    trying = asyncio.ensure_future(connecting)
    try:
        await asyncio.wait([trying], timeout=PATIENCE)
        await _ended(trying)
    except asyncio.CancelledError:
        await _ended(trying)
        if not trying.cancelled() and trying.exception() is None:
            await trying.result().close()
        raise
    if trying.cancelled():
        raise TimeoutError
    return trying.result()


async def _ended(trying: asyncio.Future[Client]) -> None:
    """Cancel an attempt again and again until it ends.

    The library tries for ever, and loses a cancellation that arrives together with an answer
    (`asyncio.wait_for` of Python 3.11 drops it).
    """
    while not trying.done():
        trying.cancel()
        await asyncio.wait([trying], timeout=0.05)


async def ensure_stream(js: JetStreamContext, stream: str, subject: str) -> None:
    """Create the stream if there is none of that name."""
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
    """Send all messages, then wait; return the sequence of each, None if refused or unknown."""
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
    """Return the time at which the stream was created, which identifies it. Raises MirrorError."""
    try:
        info = await js.stream_info(stream)
    except NotFoundError:
        raise MirrorError(f"there is no stream {stream}") from None
    return str(info.created).replace(" ", "T")


async def messages(
    js: JetStreamContext, stream: str, first: int, count: int
) -> AsyncGenerator[list[StreamMessage], None]:
    """Yield what the stream has from sequence `first` on, in batches; an empty one if there is nothing now.

    Raises one of `Trouble`, also if messages are missing: NATS sends each message to this consumer once, and
    loses those that were on a connection that broke. The gap in its numbering shows that.
    """
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first, ack_policy=AckPolicy.NONE,
        inactive_threshold=60.0, mem_storage=True,
    )  # fmt: skip
    subscription = await js.pull_subscribe("", stream=stream, config=config)
    came = 0
    try:
        while True:
            found: list[Msg] = []
            with suppress(TimeoutError):
                found = await subscription.fetch(count, timeout=IDLE)
            if found:
                sent = found[-1].metadata.sequence.consumer
            else:  # no more messages, or no answer: ask which
                there = await subscription.consumer_info()
                if there.num_pending or there.delivered is None:
                    continue
                sent = there.delivered.consumer_seq
            came += len(found)
            if sent != came:
                raise TimeoutError(f"{sent - came} messages of {stream} were lost on their way")
            yield [StreamMessage(m.metadata.sequence.stream, m.data, m.metadata.num_pending) for m in found]
    finally:
        await subscription.unsubscribe()
