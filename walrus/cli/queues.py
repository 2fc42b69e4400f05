"""Work queues from the command line: take entries, acknowledge them, or run a command for each.

    walrus-cli receive jobs workers                 1.41.0.1 1 the entry: receipt, deliveries, payload
    walrus-cli ack jobs workers 1.41.0.1
    walrus-cli consume jobs workers                 entries to standard output, acknowledged once written
    walrus-cli consume jobs workers --exec ./work   each to a command's standard input; status 0 is ACK
    walrus-cli consume jobs workers --no-ack        to standard output, and given back at the end: a look

`consume` runs until Ctrl-C, or with `--until-empty` until no entry waits. An entry is acknowledged once its
line was flushed, or its command ended with status 0; otherwise it is given back. If the reader closes the
pipe (`consume ... | head`), `consume` ends, and gives back the entries that were not read.

`--ack` is the default, since older scripts do not give the flag and must not get entries again. With
`--no-ack`, entries that were written stay out until the end, so that no other consumer gets them, and are
then given back. An entry whose visibility timeout ends before that is written again. Such a look counts as a
delivery towards the topic's `max_deliveries`.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from walrus.cli.commands import Screen
from walrus.client import Client, Delivery, Position, StaleReceipt, WalrusError


def receive(
    client: Client,
    screen: Screen,
    topic: str,
    group: str,
    count: int = 1,
    wait: float = 0.0,
    ack: bool = False,
) -> None:
    """RECEIVE up to `count` entries; with `ack`, acknowledge them once they are printed."""
    found = client.receive_many(topic, group, count, wait=wait)
    for delivery in found:
        screen.delivery(delivery, bare=ack)
    screen.flush()
    if ack:
        raise_first(client.ack_many(topic, group, found))
    if not found:
        screen.empty()


def raise_first(results: Sequence[WalrusError | None]) -> None:
    """Raise the first error of many results."""
    for result in results:
        if result is not None:
            raise result


def ack(client: Client, screen: Screen, topic: str, group: str, receipts: Sequence[str]) -> None:
    """ACK each receipt."""
    raise_first(client.ack_many(topic, group, receipts))
    screen.done(acknowledged=len(receipts))


def nack(client: Client, screen: Screen, topic: str, group: str, receipt: str, delay: float = 0.0) -> None:
    """NACK."""
    client.nack(topic, group, receipt, delay=delay)
    screen.done()


def extend(client: Client, screen: Screen, topic: str, group: str, receipt: str, seconds: float) -> None:
    """EXTEND."""
    client.extend(topic, group, receipt, seconds)
    screen.done()


_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGO: Final = re.compile(r"-?([0-9]{1,9})([smhd])")


def point_in_time(text: str) -> datetime:
    """Parse a time: ISO 8601 (local unless it names its zone), unix milliseconds, or a time ago.

    A time ago is written `90s`, `15m`, `1h` or `2d`, with or without a minus. Raises ValueError.

    >>> point_in_time("1764140000123") == point_in_time("2025-11-26T06:53:20.123+00:00")
    True
    >>> point_in_time("1d") < point_in_time("-1h") < datetime.now(UTC)
    True
    """
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        if text.isascii() and text.isdigit() and len(text) <= 15:
            return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(text))
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"no time: {text!r:.80}; write 2026-11-26T07:30:00, with +00:00 behind it for UTC, "
            "unix milliseconds, or 90s, 15m, 1h, 2d for so long ago"
        ) from None


def seek(client: Client, screen: Screen, topic: str, group: str, place: Sequence[str]) -> None:
    """SEEK to `begin`, `end`, a segment and an offset, or `time=` and a time. Raises ValueError."""
    match place:
        case [time] if time.startswith("time="):
            client.seek(topic, group, point_in_time(time.removeprefix("time=")))
        case ["begin" | "end" as end]:
            client.seek(topic, group, end)
        case [segment, offset] if segment.isdecimal() and offset.isdecimal():
            client.seek(topic, group, (int(segment), int(offset)))
        case _:
            raise ValueError(
                f"seek to begin, to end, to SEGMENT OFFSET or to a time, not to {' '.join(place)!r}"
            )
    screen.done()


def consume(
    client: Client,
    screen: Screen,
    topic: str,
    group: str,
    command: str = "",
    until_empty: bool = False,
    workers: int = 1,
    acks: bool = True,
) -> None:
    """Work on entries of the group, until Ctrl-C or until none waits; without `acks`, only print them."""
    if not acks:
        if command:
            raise ValueError("--no-ack only looks at what waits: it runs no command")
        look(client, screen, topic, group, until_empty)
        return
    stop, lock = threading.Event(), threading.Lock()

    def written(delivery: Delivery) -> None:
        with lock:
            screen.delivery(delivery, bare=True)
            screen.flush()

    def executed(delivery: Delivery) -> None:
        ended = subprocess.run(command, shell=True, input=delivery.payload, check=False)
        if ended.returncode:
            raise RuntimeError(f"exit status {ended.returncode}")

    def failed(delivery: Delivery, error: Exception) -> None:
        if isinstance(error, OSError):  # the output cannot be written, and will not become writable
            stop.set()
        with lock:
            screen.say(f"{delivery.receipt}: {error}; given back", "yellow")

    done = client.consume(
        topic, group, executed if command else written,
        workers=workers, on_error=failed, stop=stop, until_empty=until_empty,
    )  # fmt: skip
    screen.say(f"{done:,} done")


_LOOK: Final = 100
"""How many entries `look` takes at a time."""
_PATIENCE: Final = 1.0
"""For how many seconds `look` waits for an entry at a time."""


def look(client: Client, screen: Screen, topic: str, group: str, until_empty: bool) -> None:
    """Print the entries that wait, and give all of them back at the end. The group's window bounds how many
    are held."""
    held: dict[Position, Delivery] = {}
    try:
        while True:
            found = client.receive_many(topic, group, _LOOK, wait=0.0 if until_empty else _PATIENCE)
            again = any(delivery.position in held for delivery in found)
            held |= {delivery.position: delivery for delivery in found}
            if until_empty and (again or not found):
                break  # every entry has been printed once
            for delivery in found:
                screen.delivery(delivery, bare=True)
            screen.flush()
    finally:
        for out in held.values():
            with suppress(StaleReceipt):  # its visibility timeout has ended before
                client.nack(topic, group, out)
    screen.say(f"{len(held):,} given back")
