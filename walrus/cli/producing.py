"""Streams on the command line: lines into a topic, each once, and following a topic as it grows.

    ... | walrus-cli produce orders                 one entry per line, through a producer (PUB)
    ... | walrus-cli produce orders --rate 100      at most 100 entries per second
    walrus-cli tail orders                          all entries
    walrus-cli tail -f orders --from end            entries from now on, until Ctrl-C
    walrus-cli tail orders --from 1h                entries that were appended in the last hour
    walrus-cli topics; walrus-cli groups orders

`produce` sends a line again until it is acknowledged, and never writes it twice. If a line is not
acknowledged within `--timeout`, `produce` ends with an exit status other than 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from walrus.cli.commands import Screen
from walrus.cli.queues import point_in_time
from walrus.client import Client, Producer, WalrusError

TELL_AFTER: Final = 5.0
"""Seconds between two notes of `produce` about its progress."""

BATCH: Final = 256
"""The most lines that are sent together if a rate is given."""


def produce(
    client: Client,
    screen: Screen,
    topic: str,
    chunks: Iterable[bytes],
    rate: float,
    size: int | None = None,
) -> None:
    """PUB each line of `chunks` (bytes in any pieces), as soon as it has arrived.

    `rate`: entries per second, 0 for no limit. `size`: bytes of the input, if known, for the progress bar.
    """
    rest = b""
    with screen.progress() as bar:
        task = bar.add_task("", total=size, acknowledged=0)
        stream = _Stream(
            client.producer(topic),
            screen,
            rate,
            lambda sent, lines: bar.update(task, advance=sent, acknowledged=lines),
            told=not bar.disable,
        )
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            stream.put([line.removesuffix(b"\r") for line in lines])
        if rest:
            stream.put([rest])
    screen.say(f"{stream.acknowledged:,} acknowledged")
    screen.done(acknowledged=stream.acknowledged)


class _Stream:
    """Sends lines, at most `rate` per second (0: no limit)."""

    def __init__(
        self, producer: Producer, screen: Screen, rate: float, moved: Callable[[int, int], None], told: bool
    ) -> None:
        """`moved` is called after each acknowledged batch, with its bytes and the number of lines so far.

        `told`: `moved` shows the progress to a person, so no notes about it are printed.
        """
        self._producer, self._screen, self._rate = producer, screen, rate
        self._moved, self._tells = moved, not told
        self._started = self._told = time.monotonic()
        self.acknowledged = 0

    def put(self, lines: list[bytes]) -> None:
        """Send these lines; return once they are acknowledged."""
        size = max(1, min(BATCH, int(self._rate / 4))) if self._rate else len(lines)
        while lines:
            part, lines = lines[:size], lines[size:]
            try:
                self._producer.put_many(part)
            except WalrusError:
                self._screen.say(f"{self.acknowledged:,} acknowledged; of the next it is not known", "yellow")
                raise
            self.acknowledged += len(part)
            self._moved(sum(map(len, part)) + len(part), self.acknowledged)
            self._keep_to_the_rate()

    def _keep_to_the_rate(self) -> None:
        now = time.monotonic()
        if self._tells and now - self._told >= TELL_AFTER:
            self._told = now
            self._screen.say(f"{self.acknowledged:,} acknowledged")
        if self._rate:
            time.sleep(max(0.0, self._started + self.acknowledged / self._rate - now))


Begin: TypeAlias = tuple[int, int] | datetime | str
"""Where to begin reading: a position, a time, "begin" or "end"."""


def tail(client: Client, screen: Screen, topic: str, begin: Begin, follow: bool) -> None:
    """Print the entries from a position on, to the end, or with `follow` without end."""
    segment, offset = _place(client, topic, begin)
    found = client.follow(topic, segment, offset) if follow else client.scan(topic, segment, offset)
    for entry in found:
        screen.placed(entry)
        if follow:
            screen.flush()


def _place(client: Client, topic: str, begin: Begin) -> tuple[int, int]:
    """Return segment and offset. Only the topic's leader knows the end exactly; from another node's answer,
    the entries up to the end are read."""
    if isinstance(begin, tuple):
        return begin
    if isinstance(begin, datetime):
        return client.find(topic, begin)
    if begin == "begin":
        return 1, 0
    known = client.groups(topic)
    place = int(known["end"]["segment"]), int(known["end"]["offset"])
    if not known["exact"]:
        for entry in client.scan(topic, *place):
            place = entry.segment, entry.offset + 1
    return place


def find(client: Client, screen: Screen, topic: str, time: str) -> None:
    """FIND."""
    screen.place(client.find(topic, point_in_time(time)))


def topics(client: Client, screen: Screen, prefix: str = "") -> None:
    """TOPICS, one name per line."""
    for name in client.topics(prefix):
        screen.name(name)


def groups(client: Client, screen: Screen, topic: str) -> None:
    """GROUPS."""
    answer = client.groups(topic)
    screen.document(answer, lambda console: _table(console, topic, answer))


def _table(console: Console, topic: str, answer: dict[str, Any]) -> RenderableType:
    end = answer["end"]
    title = f"groups of {topic}, whose end is {end['segment']}.{end['offset']}"
    if not answer["exact"]:
        title += f" or later: node {answer['leader_node']} knows"
    table = Table()
    for column in ("group", "read with", "at", "lag", "out"):
        table.add_column(column)
    for name, group in answer["groups"].items():
        place = f"{group['segment']}.{group['offset']}"
        out = "-" if group.get("out") is None else f"{group['out']:,}"
        table.add_row(name or "(shared)", group["read_with"], place, f"{group['lag']:,}", out)
    shown = table if answer["groups"] else Text("there are none", style="dim")
    return Group(Text(title), shown)  # a table's own title is as narrow as its columns
