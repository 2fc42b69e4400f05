"""The commands of the command line, each once, for subcommands, the REPL and pipes.

A command takes a `Client` and a `Screen` and returns nothing. Data goes to standard output, notes for a
person go to standard error. A failure is a `WalrusError`, which the caller turns into an exit status:

    0  done (also EMPTY)          3  no node could be reached, or none answered in time
    1  a node answered ERR        4  the outcome is unknown: the entry may have been written
    2  wrong usage

`status` and `check` have their own (`status.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, Final, cast

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from walrus import protocol
from walrus.cli import view
from walrus.client import (
    Client,
    Delivery,
    Entry,
    OutcomeUnknown,
    Position,
    TimedOut,
    TopicSettings,
    Unreachable,
    WalrusError,
)
from walrus.settings import DEFAULT, parse_setting, shown

EXITS: Final = (
    "Exit status: 0 done, also if there was no entry; 1 a node answered ERR; 2 wrong usage, nothing sent; "
    "3 no node could be reached, or none answered in time; 4 the outcome is unknown; 130 Ctrl-C."
)
"""The same table, for `--help`."""
PAGE: Final = 256
"""How many entries are requested at a time."""


class NotAsked(ValueError):
    """The command line itself refuses: no request was sent."""


def exit_status(error: Exception) -> int:
    """The exit status for an error."""
    if not isinstance(error, WalrusError):
        return 2
    if isinstance(error, Unreachable | TimedOut):
        return 3
    return 4 if isinstance(error, OutcomeUnknown) else 1


def describe(error: Exception) -> str:
    """Describe an error in one line: the node's reason, or why no node answered."""
    if isinstance(error, WalrusError) and exit_status(error) == 3:
        return f"no answer: {error} (name another node with --addr, or start some: python -m walrus.cluster)"
    return str(error) if isinstance(error, NotAsked) else f"ERR {error}"


class Screen:
    """The output of commands. `human`: for a person at a terminal, with escapes instead of control bytes."""

    def __init__(self, out: BinaryIO, console: Console, chatter: Console, *, json: bool, human: bool) -> None:
        self.console = console
        self._out = out
        self._chatter = chatter
        self._json = json
        self._human = human
        self._lines = 0

    def document(self, answer: Any, view: Callable[[Console], Any], *, one_line: bool = False) -> None:
        """Print a JSON document, or a view of it for a person; `one_line`: do not wrap it."""
        if self._json:
            self.line(msgspec.json.encode(answer))
        else:
            self.flush()
            self.console.print(view(self.console), soft_wrap=one_line)

    def done(self, **facts: Any) -> None:
        """Report that a command without data succeeded."""
        if self._json:
            self.line(msgspec.json.encode({"ok": True, **facts}))
        elif self._human:
            self.console.print(Text("OK", style="green"))
        else:
            self.line(b"OK")

    def entry(self, payload: bytes, **facts: Any) -> None:
        """Print one entry. Only JSON has the `facts` about it: its position and append time."""
        if self._json:
            self.line(msgspec.json.encode({**facts, **_json_payload(payload)}))
        elif self._human:
            self.console.print(Text(view.printable(payload)), soft_wrap=True)
        else:
            self.line(payload)

    def place(self, place: Position) -> None:
        """Print a position in a topic, as `tail --from` takes it."""
        self.line(msgspec.json.encode(place._asdict()) if self._json else b"%d.%d" % place)

    def name(self, name: str) -> None:
        """Print one name, such as that of a topic."""
        self.line(msgspec.json.encode(name) if self._json else name.encode())

    def delivery(self, delivery: Delivery, *, bare: bool) -> None:
        """Print one entry of a work queue; `bare`: without receipt and number of deliveries."""
        receipt, deliveries, payload = delivery.receipt, delivery.deliveries, delivery.payload
        if self._json:
            named = {} if bare else {"receipt": receipt, "deliveries": deliveries}
            self.line(msgspec.json.encode({**named, "time": delivery.time, **_json_payload(payload)}))
        else:
            text = view.printable(payload).encode() if self._human else payload
            self.line(text if bare else b"%b %d %b" % (receipt.encode(), deliveries, text))

    def placed(self, entry: Entry) -> None:
        """Print one entry, with its position and append time."""
        self.entry(entry.payload, segment=entry.segment, offset=entry.offset, time=entry.time)

    def empty(self) -> None:
        """Report that there was no entry."""
        if self._json:
            self.line(msgspec.json.encode({"empty": True}))
        else:
            self.say("EMPTY")

    def say(self, text: str, style: str = "dim") -> None:
        """Print a note for a person, on standard error."""
        self._tell(text if not self._json else msgspec.json.encode({"note": text}).decode(), style)

    def failed(self, error: Exception) -> None:
        """Print an error on standard error: one line, or with --json an object for programs."""
        if self._json:
            facts = {
                "error": str(error),
                "kind": type(error).__name__ if isinstance(error, WalrusError) else "WrongUsage",
                "status": exit_status(error),
            }
            self._tell(msgspec.json.encode(facts).decode(), "none")
        else:
            self._tell(describe(error), "bold red")

    def progress(self) -> Progress:
        """Return a progress bar on standard error, which is disabled unless that is a terminal."""
        return Progress(
            BarColumn(),
            TextColumn("{task.fields[acknowledged]:,} acknowledged"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._chatter,
            transient=True,
            disable=self._json or not self._chatter.is_terminal,
        )

    def _tell(self, text: str, style: str) -> None:
        self.flush()
        self._chatter.print(Text(text, style=style), soft_wrap=True)

    def line(self, data: bytes) -> None:
        """Write one line of data, exactly these bytes."""
        self._out.write(data + b"\n")
        self._lines += 1
        if self._lines % PAGE == 0:
            self.flush()

    def flush(self) -> None:
        """Flush the data: at the end of a command, and before a note about it."""
        self._out.flush()


def _json_payload(payload: bytes) -> dict[str, str]:
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


# --- one function for each command ----------------------------------------------------------------


def register(client: Client, screen: Screen, topic: str, words: Sequence[str] = ()) -> None:
    """REGISTER, with settings as `<key>=<value>`."""
    client.register(topic, settings(words))
    screen.done()


def configure(client: Client, screen: Screen, topic: str, words: Sequence[str]) -> None:
    """CONFIGURE."""
    client.configure(topic, settings(words))
    screen.done()


def settings(words: Sequence[str]) -> TopicSettings:
    """Parse settings, each as `<key>=<value>`. Raises NotAsked.

    >>> settings(["retain_bytes=none", "max_deliveries=3"])
    {'retain_bytes': None, 'max_deliveries': 3}
    """
    found: dict[str, int | bool | str | None] = {}
    for word in words:
        try:
            name, value = parse_setting(word)
        except ValueError as error:
            raise NotAsked(f"not sent: {error}") from None
        found[name] = "default" if value == DEFAULT else shown(name, value)
    return cast("TopicSettings", found)


def delete(client: Client, screen: Screen, topic: str, agreed: bool) -> None:
    """DELETE, if the person has agreed to it. Raises NotAsked."""
    if not agreed:
        raise NotAsked(f"not sent: {topic} would be deleted with all its entries; --yes agrees to that")
    client.delete(topic)
    screen.done()


def put(client: Client, screen: Screen, topic: str, payload: bytes) -> None:
    """PUT one entry."""
    appended(screen, client.put(topic, payload))


def pub(client: Client, screen: Screen, topic: str, producer: str, sequence: int, payload: bytes) -> None:
    """PUB one entry: it is stored once, however often it is sent."""
    appended(screen, client.producer(topic, producer, sequence).put(payload))


def appended(screen: Screen, place: Position) -> None:
    """Report that an entry is acknowledged, with its position if the node returned it."""
    screen.done(acknowledged=1, **(place._asdict() if place.known else {}))


def put_lines(client: Client, screen: Screen, topic: str, chunks: Iterable[bytes]) -> None:
    """PUT each line of `chunks` (bytes in any pieces), pipelined, as soon as it has arrived."""
    acknowledged, rest = 0, b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > protocol.MAX_SKIP_BYTES:  # too long for any node: do not buffer it until it ends
            lines.append(rest)
        acknowledged += _put_all(client, screen, topic, lines, acknowledged)
    if rest:
        acknowledged += _put_all(client, screen, topic, [rest], acknowledged)
    screen.say(f"{acknowledged:,} acknowledged")
    screen.done(acknowledged=acknowledged)


def _put_all(client: Client, screen: Screen, topic: str, lines: Sequence[bytes], before: int) -> int:
    try:
        results = client.put_many(topic, [line.removesuffix(b"\r") for line in lines])
    except WalrusError:
        screen.say(f"{before:,} acknowledged, none of the next {len(lines):,} lines sent", "yellow")
        raise
    errors = [
        (number, error) for number, error in enumerate(results, before + 1) if isinstance(error, WalrusError)
    ]
    if errors:
        good = len(results) - len(errors)
        number, error = errors[0]
        screen.say(
            f"{before + good:,} acknowledged, {len(errors):,} not; the first is line {number:,}", "yellow"
        )
        raise error
    return len(results)


def get(client: Client, screen: Screen, topic: str, group: str = "", count: int = 1) -> None:
    """GET up to `count` entries."""
    left = count
    while left > 0:
        wanted = min(left, PAGE)
        try:
            found = client.get_many(topic, wanted, group)
        except WalrusError as error:
            for payload in error.received:
                screen.entry(payload)
            raise
        for payload in found:
            screen.entry(payload)
        left -= len(found)
        if not found:
            break
    if left == count:
        screen.empty()


def fetch(client: Client, screen: Screen, topic: str, segment: int, offset: int, count: int = 1) -> None:
    """FETCH up to `count` entries of one segment."""
    start, end = offset, offset + count
    while offset < end:
        wanted = min(end - offset, PAGE)
        found = client.fetch_many(topic, segment, offset, wanted)
        for payload in found:
            screen.entry(payload, segment=segment, offset=offset, next_offset=offset + 1)
            offset += 1
        if not found:
            break
    if offset == start:
        screen.empty()


def entries(client: Client, screen: Screen, topic: str, segment: int = 1, offset: int = 0) -> None:
    """Print all entries from that position on."""
    last: Entry | None = None
    for last in client.scan(topic, segment, offset):
        screen.placed(last)
    if last is None:
        screen.empty()


def state(client: Client, screen: Screen, topic: str) -> None:
    """STATE."""
    answer = client.state(topic)
    screen.document(answer, lambda console: view.state(console, topic, answer))


def metrics(client: Client, screen: Screen) -> None:
    """METRICS."""
    answer = client.metrics()
    screen.document(answer, lambda console: view.metrics(console, answer))


def leave(client: Client, screen: Screen, node_id: int, force: bool = False) -> None:
    """LEAVE. If segments would have fewer replicas, the node requires `force`."""
    client.leave(node_id, force=force)
    screen.done()


def recover(client: Client, screen: Screen, topic: str, segment: int) -> None:
    """RECOVER."""
    client.recover(topic, segment)
    screen.done()
