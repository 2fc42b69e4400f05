"""`python -m walrus.mirror`: copy a topic into a stream, or a stream into a topic, and go on as they grow.

    python -m walrus.mirror --topic orders --to nats://127.0.0.1:4222 --stream ORDERS
    python -m walrus.mirror --topic orders --from nats://127.0.0.1:4222 --stream ORDERS
    python -m walrus.mirror --topic orders --to kafka://127.0.0.1:9092 --stream orders

It runs until it is stopped, or with `--until-empty` until everything is copied. It waits for a cluster or a
stream that does not answer; a problem that waiting cannot solve ends it with one line and status 1.

When a topic is mirrored, the cluster knows the mirror's position as that of a group (`--group`), which the
mirror moves along: the console, METRICS and `walrus-cli groups` show its lag, and `protect_groups` keeps
retention from dropping entries that are not mirrored yet. When a stream is mirrored, the mirror itself
prints every few seconds how far it is behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

from walrus.cli.command_line import VARIABLES, Parser, add_credentials, command, use_credentials
from walrus.client import (
    AsyncClient,
    Entry,
    OutOfSequence,
    Trimmed,
    UnknownProducer,
    WalrusError,
)
from walrus.client.errors import PASSING
from walrus.config import FIRST_CLIENT_PORT
from walrus.mirror.inbound import Inbound
from walrus.mirror.outbound import BEGIN, MirrorError, Outbound, Place
from walrus.shell.arguments import FlagError, Value, address, without_password
from walrus.shell.layers import Layered, add_config_flags, layered

WAITED_OUT: Final = (*PASSING, OutOfSequence)
"""Errors of the cluster after which the mirror pauses and tries again."""
BATCH: Final = 500
"""The most messages in flight at once."""
READ_AHEAD: Final = 2_000
PAUSE: Final = 0.5
"""Seconds before a failed step is tried again."""
NOTE_EVERY: Final = 1.0
"""Seconds between two moves of the group."""
TELL_EVERY: Final = 5.0
FAR: Final = 1 << 62
"""A number that no producer reaches: the refusal says which one is expected."""
NOTES_KEPT: Final = 1_000


def _parser() -> Parser:
    parser = Parser(prog="python -m walrus.mirror", description="Mirror a topic and a stream.",
                    allow_abbrev=False)  # fmt: skip
    add_config_flags(parser)
    add = parser.add_argument
    add("--addr", type=address, action="append", metavar="HOST:PORT",
        help=f"a node's client port (default 127.0.0.1:{FIRST_CLIENT_PORT}); may be repeated")  # fmt: skip
    add("--topic", help="the topic")
    url = Value(str, shown=without_password)
    add("--to", type=url, metavar="URL", help="of NATS or Kafka: the topic goes there")
    add("--from", dest="source", type=url, metavar="URL", help="of NATS or Kafka: the topic comes from there")
    add("--stream", help="the stream, or Kafka's topic; with --to it is made if it is not there")
    add("--subject", help="of NATS: what is published with --to (default: walrus.STREAM)")
    add("--group", default="mirror", help="of the topic, for its lag (default: %(default)s)")
    add("--until-empty", action="store_true", help="end when everything is copied")
    add("--skip-trimmed", action="store_true", help="go on behind entries that retention has dropped")
    add_credentials(parser)
    return parser


def _told(arguments: Sequence[str] | None) -> Layered:
    """Return the options of this run. Raises FlagError."""
    parser = _parser()
    told = layered(parser, "mirror", arguments, os.environ, variables=VARIABLES, required=["topic", "stream"])
    if (told.options.to is None) == (told.options.source is None):
        raise FlagError("--to, --from: give one of them: where the topic goes, or comes from", parser.prog)
    return told


class Report:
    """Prints now and then how far the mirror is."""

    def __init__(self, what: str) -> None:
        self._what, self._told = what, time.monotonic()

    def __call__(self, count: int, pending: int | None = None, *, now: bool = False) -> None:
        """Print, if it is time."""
        if now or time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            rest = "" if pending is None else f", {pending:,} to go"
            sys.stderr.write(f"{self._what}: {count:,} mirrored{rest}\n")


def _engine(url: str) -> Any:
    """Return the module for the system at this URL. Raises MirrorError."""
    if not url.startswith("kafka://"):
        from walrus.mirror import jetstream

        return jetstream
    try:
        from walrus.mirror import kafka
    except ImportError:
        raise MirrorError("Kafka needs the package aiokafka: pip install 'walrus-log[mirror]'") from None
    return kafka


async def _again(step: Callable[[], Any], trouble: tuple[type[BaseException], ...]) -> None:
    """Repeat a step that fails with a passing error, until it returns."""
    while True:
        try:
            await step()
            return
        except trouble as error:
            sys.stderr.write(f"mirror: {str(error) or type(error).__name__}; going on in a moment\n")
            await asyncio.sleep(PAUSE)


# --- a topic into a stream -----------------------------------------------------------------------


async def outward(client: AsyncClient, options: argparse.Namespace, report: Report) -> None:
    """Copy until everything is copied, or without end. Raises MirrorError."""
    engine = _engine(options.to)
    subject = options.subject or f"walrus.{options.stream}"
    core = Outbound(str((await client.metrics())["cluster_id"]), options.topic)
    async with engine.connected(options.to) as js:

        async def step() -> None:
            await engine.ensure_stream(js, options.stream, subject)
            noted = await _noted(client, options.topic, options.group)
            place = core.resume(await engine.end_of(js, options.stream), noted)
            moved = 0.0
            async with contextlib.aclosing(_read(client, options, place)) as batches:
                async for batch in batches:
                    messages = core.next_batch(batch)
                    answers = await engine.publish(js, options.stream, subject, messages)
                    if not core.settle(answers):
                        raise TimeoutError(f"{options.stream} did not take all of {len(batch)} messages")
                    report(core.mirrored)
                    if time.monotonic() - moved >= NOTE_EVERY:
                        moved = time.monotonic()
                        await _note(client, options, core.place)
            await _note(client, options, core.place)

        await _again(step, (*WAITED_OUT, *engine.Trouble))
    report(core.mirrored, now=True)


async def _noted(client: AsyncClient, topic: str, group: str) -> Place | None:
    """Return the position of the mirror's group, if there is one."""
    at = (await client.state(topic)).get("queues", {}).get(group)  # type: ignore[attr-defined]
    return None if at is None else (int(at["segment"]), int(at["offset"]))


async def _note(client: AsyncClient, options: argparse.Namespace, place: Place) -> None:
    """Move the group, so that the lag is right. A failure does not matter: the next move makes up for it."""
    with contextlib.suppress(*WAITED_OUT):
        await client.seek(options.topic, options.group, place)


async def _read(
    client: AsyncClient, options: argparse.Namespace, place: Place
) -> AsyncGenerator[list[Entry], None]:
    """Yield entries from a position on, as many together as there are."""
    ahead: asyncio.Queue[Entry | BaseException | None] = asyncio.Queue(READ_AHEAD)

    async def read_from(begin: Place) -> None:
        source = client.scan if options.until_empty else client.follow
        async with contextlib.aclosing(source(options.topic, *begin)) as entries:  # type: ignore[type-var]
            async for entry in entries:
                await ahead.put(entry)

    async def read() -> None:
        begin = place
        try:
            while True:
                try:
                    await read_from(begin)
                    break
                except Trimmed:
                    if not options.skip_trimmed:
                        raise
                    begin = BEGIN  # the beginning, wherever that is now
            await ahead.put(None)
        except Exception as error:  # noqa: BLE001 - raised where the entries are taken
            await ahead.put(error)

    reading = asyncio.create_task(read())
    try:
        while True:
            batch: list[Entry] = []
            while len(batch) < BATCH and (not batch or not ahead.empty()):
                item = await ahead.get()
                if isinstance(item, Entry):
                    batch.append(item)
                    continue
                if batch:
                    yield batch
                if item is None:
                    return
                raise _explained(item, options) from item
            yield batch
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _explained(error: BaseException, options: argparse.Namespace) -> BaseException:
    """Return an error that says what to do about entries that were dropped before they were mirrored."""
    if not isinstance(error, Trimmed):
        return error
    return MirrorError(
        f"retention dropped entries of {options.topic} before they were mirrored. `walrus-cli configure "
        f"{options.topic} protect_groups=true` keeps it from that; --skip-trimmed goes on behind them"
    )


# --- a stream into a topic -----------------------------------------------------------------------


async def inward(client: AsyncClient, options: argparse.Namespace, report: Report) -> None:
    """Copy until everything is copied, or without end. Raises MirrorError."""
    engine = _engine(options.source)
    core, notes = Inbound(), f"{options.topic}.mirror"
    async with engine.connected(options.source) as js:

        async def step() -> None:
            await client.register(options.topic)
            await client.register(notes, {"retain_entries": NOTES_KEPT, "segment_entries": NOTES_KEPT})
            name = f"{engine.NAME}.{options.stream}.{await engine.created(js, options.stream)}"
            expected = await _expected(client, options.topic, name)
            first = core.resume(expected, [note async for note in client.entries(notes)])
            producer = client.producer(options.topic, name, core.number)
            source = engine.messages(js, options.stream, first, BATCH)
            async with contextlib.aclosing(source) as batches:
                async for batch in batches:
                    if batch:
                        sequences = [message.sequence for message in batch]
                        await client.put(notes, core.note(sequences), retry=True)
                        await producer.put_many([message.payload for message in batch])
                        core.written(sequences)
                        report(core.mirrored, batch[-1].pending)
                    if options.until_empty and not (batch and batch[-1].pending):
                        return

        await _again(step, (*WAITED_OUT, *engine.Trouble))
    report(core.mirrored, 0, now=True)


async def _expected(client: AsyncClient, topic: str, name: str) -> int | None:
    """Return the number that the topic expects of a producer; None if it does not know the producer."""
    try:
        await client.producer(topic, name, FAR).put(b"")
    except UnknownProducer:
        return None
    except OutOfSequence as error:
        return int(str(error).split("expected ")[1].split(";")[0])
    raise MirrorError(f"{topic} took number {FAR} of {name}: another program uses that name")


# --- the process ---------------------------------------------------------------------------------


async def _run(options: argparse.Namespace) -> None:
    """Mirror until the end, SIGINT or SIGTERM. Raises MirrorError."""
    way = f"{options.topic} → {options.stream}" if options.to else f"{options.stream} → {options.topic}"
    async with AsyncClient(options.addr or [f"127.0.0.1:{FIRST_CLIENT_PORT}"], timeout=10.0) as client:
        mirroring = asyncio.ensure_future((outward if options.to else inward)(client, options, Report(way)))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, mirroring.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await mirroring


@command("walrus.mirror")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 after the end or a stop, 2 for a bad flag, 1 for anything else."""
    told = _told(arguments)
    options = told.options
    use_credentials(options)
    if options.check_config:
        sys.stdout.write(told.shown())
        return 0
    try:
        asyncio.run(_run(options))
    except (MirrorError, WalrusError) as error:
        sys.stderr.write(f"walrus.mirror: {error}\n")
        return 1
    return 0
