"""The REPL: the protocol's commands typed by hand, with history and completion.

A line is a request as it is on the wire, with these exceptions: a command may be typed in lower case; LEAVE
accepts `--force`, and DELETE requires `--yes`; the REPL adds commands of its own (`help`, `entries`,
`connect`, `quit`). The payload of PUT is everything after the second space, including quotes.

Completion knows the topics that occur in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, assert_never

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from rich.table import Table

from walrus import protocol
from walrus.cli import commands, producing, queues
from walrus.cli.commands import NotAsked, Screen
from walrus.client import Client, InvalidRequest, WalrusError
from walrus.protocol import Describing

_HELP: Final = (
    ("REGISTER <topic> [<key>=<value> ...]", "create a topic"),
    (
        "CONFIGURE <topic> <key>=<value> ...",
        "settings: retention, segments, deliveries; =default takes one back",
    ),
    ("DELETE <topic> --yes", "delete it with all its entries and groups"),
    ("PUT <topic> <payload>", "append an entry; all that follows the second space is the payload"),
    ("PUB <topic> <producer> <sequence> <payload>", "append an entry once, however often it is sent"),
    ("GET <topic> [<group> [<wait_ms>]]", "the next entry of the shared cursor, or of a group's"),
    ("RECEIVE <topic> <group> [<wait_ms>]", "take an entry of a work queue: receipt, deliveries, payload"),
    ("ACK <topic> <group> <receipt>", "the work is done"),
    ("NACK <topic> <group> <receipt> [<delay_ms>]", "give it back"),
    ("EXTEND <topic> <group> <receipt> <ms>", "the work takes longer"),
    ("SEEK <topic> <group> begin|end|<segment> <offset>|time=<unix_ms>", "move the group"),
    ("FETCH <topic> <segment> <offset> [<wait_ms>]", "one entry; moves no cursor"),
    ("FIND <topic> time=<unix_ms>", "where the first entry is that was appended then or later"),
    ("ENTRIES <topic>", "all entries, across segments"),
    ("STATE <topic>", "segments, leaders, replicas, cursors"),
    ("TOPICS [<prefix>]", "the topics there are"),
    ("GROUPS <topic>", "consumer groups, and how far they are behind"),
    ("METRICS", "this node and the cluster as it sees it"),
    ("LEAVE <node_id> [--force]", "remove a member; with --force also if replicas get fewer"),
    ("RECOVER <topic> <segment>", "recover a segment that waits for an operator's decision"),
    ("CONNECT <host:port>", "talk to another node"),
    ("HELP, QUIT", ""),
)
WORDS: Final = (*protocol.COMMANDS, "ENTRIES", "CONNECT", "HELP", "QUIT")
_OF_QUEUES: Final = {"RECEIVE", "ACK", "NACK", "EXTEND", "SEEK"}
_READING: Final = {"GET", "FETCH", "FIND", "STATE", "GROUPS", "ENTRIES"}
_TAKE_TOPIC: Final = {"REGISTER", "CONFIGURE", "DELETE", "PUT", "PUB", "RECOVER", *_READING, *_OF_QUEUES}
_TAKE_MORE: Final = {"CONFIGURE", "DELETE", "PUT", "PUB", "FETCH", "FIND", "RECOVER", *_OF_QUEUES}


class Words(Completer):
    """Completes a command, then a topic."""

    def __init__(self, topics: Iterable[str] = ()) -> None:
        self.topics = set(topics)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Yield completions of the text before the cursor."""
        words = document.text_before_cursor.split(" ")
        typed = words[-1]
        if len(words) == 1:
            candidates = [word + (" " if word in _TAKE_TOPIC else "") for word in WORDS]
            candidates = [word for word in candidates if word.startswith(typed.upper())]
        elif len(words) == 2 and words[0].upper() in _TAKE_TOPIC:
            more = " " if words[0].upper() in _TAKE_MORE else ""
            candidates = sorted(topic + more for topic in self.topics if topic.startswith(typed))
        else:
            return
        for candidate in candidates:
            yield Completion(candidate, start_position=-len(typed))


def topic_in(line: str) -> str | None:
    """The topic that a line names; None if it names none.

    >>> topic_in("put orders hello"), topic_in("METRICS"), topic_in("get")
    ('orders', None, None)
    """
    word, _, rest = line.strip("\n").partition(" ")
    topic = rest.partition(" ")[0]
    return topic if word.upper() in _TAKE_TOPIC and protocol.valid_name(topic) else None


class Repl:
    """Executes lines. `connect` makes a client for another address."""

    def __init__(self, client: Client, screen: Screen, connect: Callable[[str], Client]) -> None:
        self.client = client
        self.words = Words()
        self.status = 0
        self._screen = screen
        self._connect = connect

    def execute(self, line: str | bytes) -> bool:
        """Execute a line; return False if it says to stop. An error is printed, and sets `status`."""
        raw = line if isinstance(line, bytes) else line.encode(errors="surrogateescape")
        if not raw.strip():
            return True
        word, _, rest = raw.partition(b" ")
        command = word.strip().decode(errors="replace").upper()
        if command in ("QUIT", "EXIT"):
            return False
        try:
            self._dispatch(command, rest)
        except (WalrusError, ValueError) as error:
            self.status = commands.exit_status(error) if isinstance(error, WalrusError | NotAsked) else 1
            self._screen.failed(error)
        finally:  # also after Ctrl-C: output of this command must not appear with that of the next one
            self._screen.flush()
        return True

    def _dispatch(self, command: str, rest: bytes) -> None:
        client, screen = self.client, self._screen
        if command == "HELP":
            screen.console.print(_help())
            return
        if command == "CONNECT":
            self._reconnect(rest.decode().strip())
            return
        if command == "ENTRIES":
            commands.entries(client, screen, rest.decode().strip())
            return
        agreement = {"LEAVE": b"--force", "DELETE": b"--yes"}.get(command, b"")
        forced = bool(agreement) and rest.split()[1:] == [agreement]
        if forced:
            rest = rest.split()[0]
        # A payload keeps its spaces; in other commands, spaces at the end are dropped.
        text = rest if command in ("PUT", "PUB") else rest.strip()
        request = protocol.parse_request(command.encode() + (b" " + text if text else b""))
        match request:
            case protocol.Invalid(reason):
                raise InvalidRequest(reason)
            case protocol.Register(topic):
                commands.register(client, screen, topic, text.decode().split()[1:])
            case protocol.Configure(topic):
                commands.configure(client, screen, topic, text.decode().split()[1:])
            case protocol.Delete(topic):
                commands.delete(client, screen, topic, forced)
            case protocol.Put(topic, batch) if batch.stamps:
                (stamp,) = batch.stamps
                commands.pub(client, screen, topic, stamp.producer, stamp.first, batch.blob)
            case protocol.Put(topic, batch):
                commands.put(client, screen, topic, batch.blob)
            case protocol.Auth():
                raise NotAsked("not sent: the token is that of WALRUS_TOKEN_FILE, from the first request on")
            case protocol.Greeting():
                raise NotAsked("not sent: HELLO is what this client begins each connection with")
            case protocol.Leave(node_id, force):
                commands.leave(client, screen, node_id, force or forced)
            case protocol.Recover(topic, segment):
                commands.recover(client, screen, topic, segment)
            case protocol.Receive() | protocol.Ack() | protocol.Nack() | protocol.Extend() | protocol.Seek():
                _of_queues(client, screen, request, text)
            case _:
                _reading(client, screen, request)
        if topic_known := topic_in(f"{command} {rest.decode(errors='replace')}"):
            self.words.topics.add(topic_known)

    def _reconnect(self, address: str) -> None:
        other = self._connect(address)
        other.metrics()
        self.client.close()
        self.client = other
        self._screen.say(f"connected to {address}")


def _of_queues(client: Client, screen: Screen, request: protocol.Delivering, text: bytes) -> None:
    """Execute a request of work queues."""
    match request:
        case protocol.Receive(topic, group, wait_ms):
            queues.receive(client, screen, topic, group, wait=wait_ms / 1000)
        case protocol.Ack(topic, group, receipts):
            queues.ack(client, screen, topic, group, list(map(str, receipts)))
        case protocol.Nack(topic, group, receipt, delay_ms):
            queues.nack(client, screen, topic, group, str(receipt), delay_ms / 1000)
        case protocol.Extend(topic, group, receipt, ms):
            queues.extend(client, screen, topic, group, str(receipt), ms / 1000)
        case protocol.Seek():
            queues.seek(client, screen, request.topic, request.group, text.decode().split()[2:])
        case _:
            assert_never(request)


def _reading(
    client: Client, screen: Screen, request: protocol.Get | protocol.Fetch | protocol.Find | Describing
) -> None:
    """Execute a request that changes nothing but a cursor."""
    match request:
        case protocol.Get(topic, group, wait_ms=wait_ms) if wait_ms:
            one_or_empty(screen, client.get(topic, group, wait=wait_ms / 1000))
        case protocol.Get(topic, group):
            commands.get(client, screen, topic, group)
        case protocol.Fetch(topic, segment, offset, wait_ms=wait_ms) if wait_ms:
            one_or_empty(screen, client.fetch(topic, segment, offset, wait=wait_ms / 1000))
        case protocol.Fetch(topic, segment, offset):
            commands.fetch(client, screen, topic, segment, offset)
        case protocol.Find(topic, protocol.Time(ms)):
            producing.find(client, screen, topic, str(ms))
        case protocol.Topics(prefix):
            producing.topics(client, screen, prefix)
        case protocol.Groups(topic):
            producing.groups(client, screen, topic)
        case protocol.State(topic):
            commands.state(client, screen, topic)
        case protocol.Metrics():
            commands.metrics(client, screen)
        case _:
            assert_never(request)


def one_or_empty(screen: Screen, payload: bytes | None) -> None:
    """Print the result of a request that waited."""
    if payload is None:
        screen.empty()
    else:
        screen.entry(payload)


def _help() -> Table:
    table = Table.grid(padding=(0, 3))
    for command, meaning in _HELP:
        table.add_row(command, meaning, style=None)
    return table
