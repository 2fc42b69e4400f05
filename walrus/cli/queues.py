"""Work queues from the command line: take entries, acknowledge them, or run a command for each.

    walrus-cli receive jobs workers                 1.41.0.1 1 the entry: receipt, deliveries, payload
    walrus-cli ack jobs workers 1.41.0.1
    walrus-cli consume jobs workers                 entries to standard output, acknowledged once written
    walrus-cli consume jobs workers --exec ./work   each to a command's standard input; status 0 is ACK

`consume` runs until Ctrl-C, or with `--until-empty` until nothing waits. An entry counts as done when its
line was flushed, or its command ended well; otherwise it is given back. A reader that closes the pipe
(`consume ... | head`) ends it, and what was not read is given back too.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence

from walrus.cli.commands import Screen
from walrus.client import Client, Delivery, WalrusError


def receive(
    client: Client,
    screen: Screen,
    topic: str,
    group: str,
    count: int = 1,
    wait: float = 0.0,
    ack: bool = False,
) -> None:
    """RECEIVE up to `count` entries; with `ack` they are acknowledged once they are printed."""
    found = client.receive_many(topic, group, count, wait=wait)
    for delivery in found:
        show(screen, delivery, bare=ack)
    screen.flush()
    if ack:
        raise_first(client.ack_many(topic, group, found))
    if not found:
        screen.empty()


def show(screen: Screen, delivery: Delivery, *, bare: bool) -> None:
    """One delivery, with its receipt unless it needs none."""
    screen.delivery(delivery.payload, "" if bare else delivery.receipt, delivery.deliveries)


def raise_first(results: Sequence[WalrusError | None]) -> None:
    """Raise the first error of many results."""
    for result in results:
        if result is not None:
            raise result


def ack(client: Client, screen: Screen, topic: str, group: str, receipts: Sequence[str]) -> None:
    """ACK each of them."""
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


def seek(client: Client, screen: Screen, topic: str, group: str, place: Sequence[str]) -> None:
    """SEEK, to `begin`, `end`, or a segment and an offset."""
    match place:
        case ["begin" | "end" as end]:
            client.seek(topic, group, end)
        case [segment, offset] if segment.isdecimal() and offset.isdecimal():
            client.seek(topic, group, (int(segment), int(offset)))
        case _:
            raise ValueError(f"seek to begin, to end, or to SEGMENT OFFSET, not to {' '.join(place)!r}")
    screen.done()


def consume(
    client: Client,
    screen: Screen,
    topic: str,
    group: str,
    command: str = "",
    until_empty: bool = False,
    workers: int = 1,
) -> None:
    """Work on what the group hands out, until Ctrl-C or until nothing waits."""
    stop, lock = threading.Event(), threading.Lock()

    def written(delivery: Delivery) -> None:
        with lock:
            show(screen, delivery, bare=True)
            screen.flush()

    def executed(delivery: Delivery) -> None:
        ended = subprocess.run(command, shell=True, input=delivery.payload, check=False)
        if ended.returncode:
            raise RuntimeError(f"exit status {ended.returncode}")

    def failed(delivery: Delivery, error: Exception) -> None:
        if isinstance(error, OSError):  # nothing takes what is written: it will not get better
            stop.set()
        with lock:
            screen.say(f"{delivery.receipt}: {error}; given back", "yellow")

    done = client.consume(
        topic, group, executed if command else written,
        workers=workers, on_error=failed, stop=stop, until_empty=until_empty,
    )  # fmt: skip
    screen.say(f"{done:,} done")
