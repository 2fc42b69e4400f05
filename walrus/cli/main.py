"""The command line: `python -m walrus.cli`, installed as `walrus-cli`.

With a subcommand it executes that command. Without one it is a REPL, or executes each line of a pipe as a
command. Data goes to standard output, notes and errors go to standard error, so that commands can be
combined:

    walrus-cli put logs < access.log && walrus-cli entries logs | grep ' 500 '

With `--json` every line of output is a JSON value. `commands.py` lists the exit statuses.
"""

from __future__ import annotations

import argparse
import io
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from walrus import __version__
from walrus.cli import backup, commands, producing, queues, status
from walrus.cli.command_line import Console, Parser, add_credentials, command, use_credentials
from walrus.cli.commands import EXITS, Screen
from walrus.client import Client, WalrusError
from walrus.client.calls import DEFAULT_TIMEOUT
from walrus.client.deliveries import milliseconds
from walrus.config import FIRST_CLIENT_PORT
from walrus.settings import SETTINGS
from walrus.shell.arguments import FlagError, positive

if TYPE_CHECKING:
    from prompt_toolkit.history import History

    from walrus.cli.repl import Repl

# Importing prompt_toolkit takes longer than everything else together, and only the REPL needs it. So
# prompt_toolkit and `cli/repl.py` are imported when the REPL begins.

DEFAULT_ADDRESS = f"127.0.0.1:{FIRST_CLIENT_PORT}"
_CHUNK_BYTES = 1 << 20


@command("walrus-cli")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = _arguments(words)
        client = _client(arguments)
    except FlagError as error:
        if "--json" not in words:
            raise
        _screen(json=True, human=False).failed(error)
        return 2
    with client:
        if arguments.command is None:
            return _interact(client, arguments)
        return _once(client, arguments)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command in ("put", "pub") and not any(word.startswith("-") for word in rest):
        # argparse assigns all positionals at the first: of `put topic --json text` it leaves the text over
        arguments.payload += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _client(arguments: argparse.Namespace) -> Client:
    use_credentials(arguments)
    try:
        return _connect(_addresses(arguments), arguments.timeout)
    except ValueError as error:
        raise FlagError(f"--addr: {error}") from None


def _addresses(arguments: argparse.Namespace) -> list[str]:
    return arguments.addr or [DEFAULT_ADDRESS]


def _connect(addresses: Sequence[str], timeout: float) -> Client:
    return Client(addresses, timeout=timeout)


def _once(client: Client, arguments: argparse.Namespace) -> int:
    screen = _screen(arguments.json, human=False)
    run: _Run = arguments.run
    try:
        ended = run(client, screen, arguments)
    except (WalrusError, ValueError) as error:
        screen.failed(error)
        return commands.exit_status(error)
    screen.flush()
    return ended or 0


def _screen(json: bool, human: bool) -> Screen:
    console, chatter = Console(highlight=False), Console(stderr=True, highlight=False)
    return Screen(sys.stdout.buffer, console, chatter, json=json, human=human)


# --- the REPL's two ways to run -------------------------------------------------------------------


def _interact(client: Client, arguments: argparse.Namespace) -> int:
    from walrus.cli.repl import Repl

    human = sys.stdin.isatty() and sys.stdout.isatty()
    screen = _screen(arguments.json, human and not arguments.json)
    repl = Repl(client, screen, lambda address: _connect([address], arguments.timeout))
    if not human:
        for line in sys.stdin.buffer:
            if not repl.execute(line.rstrip(b"\r\n")):
                break
        return repl.status
    _prompt(repl, screen)
    return 0


def _prompt(repl: Repl, screen: Screen) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML

    from walrus.cli.repl import topic_in

    history = _history()
    typed = (line for block in history.load_history_strings() for line in block.split("\n"))
    repl.words.topics.update(topic for line in typed if (topic := topic_in(line)))
    took = [0.0]
    session: PromptSession[str] = PromptSession(
        history=history,
        completer=repl.words,
        complete_while_typing=False,
        bottom_toolbar=lambda: f" {repl.client.address}   last command {took[0] * 1000:.1f} ms   HELP, QUIT",
    )
    screen.say(f"walrus {__version__}, {repl.client.address}. Tab completes, HELP lists the commands.")
    while True:
        try:
            line = session.prompt(HTML("<b>walrus</b>> "))
            started = time.monotonic()
            if not _execute_block(repl, screen, line):
                return
            took[0] = time.monotonic() - started
        except KeyboardInterrupt:
            continue  # as in a shell, the line is dropped
        except EOFError:
            return


def _execute_block(repl: Repl, screen: Screen, block: str) -> bool:
    """Execute each line that was typed or pasted, as in a pipe; return False if one says to stop."""
    lines = block.split("\n")
    for number, line in enumerate(lines, 1):
        try:
            if not repl.execute(line.rstrip("\r")):
                return False
        except KeyboardInterrupt:
            left = len(lines) - number
            behind = f"; of the paste, {left} lines behind it were not executed" if left else ""
            screen.say(f"interrupted; the outcome is unknown{behind}", "yellow")
            return True
    return True


def _history() -> History:
    """Return the history: in a file, or in memory if there is no home directory or it cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(base) / "walrus" / "history"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except (OSError, RuntimeError):
        return InMemoryHistory()
    return FileHistory(str(path))


# --- flags ----------------------------------------------------------------------------------------


def _put(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    if arguments.payload:
        commands.put(client, screen, arguments.topic, _payload(arguments))
        return
    if sys.stdin.isatty():
        screen.say("one entry a line; Ctrl-D ends")
    commands.put_lines(client, screen, arguments.topic, _standard_input())


def _standard_input() -> Iterator[bytes]:
    """Yield input as soon as it arrives: `tail -f` piped into `put` must not wait for a full buffer."""
    source = cast(io.BufferedReader, sys.stdin.buffer)
    while chunk := source.read1(_CHUNK_BYTES):
        yield chunk


def _offset(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _completion(client: Client, screen: Screen, arguments: argparse.Namespace) -> None:
    """Print the script by which a shell completes commands and flags."""
    del client
    try:
        import shtab
    except ImportError:
        raise commands.NotAsked("completion needs shtab: pip install 'walrus-log[cli]'") from None
    screen.line(shtab.complete(_parser(), arguments.shell).encode())


def _completion_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def _common(default: bool) -> Parser:
    """Options allowed before and after a subcommand. Those after it have no defaults, which would replace
    values given before it."""
    common = Parser(add_help=False)
    unset: Any = None if default else argparse.SUPPRESS
    common.add_argument(
        "--addr",
        action="append",
        metavar="HOST:PORT",
        default=unset,
        help=f"a node's client port (default {DEFAULT_ADDRESS}); repeat it to name several",
    )
    common.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        default=DEFAULT_TIMEOUT if default else unset,
        help=f"default {DEFAULT_TIMEOUT:g}",
    )
    add_credentials(common, default=unset)
    common.add_argument(
        "--json",
        action="store_true",
        default=False if default else unset,
        help="print JSON, one value a line",
    )
    return common


def _parser() -> Parser:
    parser = Parser(
        prog="walrus-cli",
        description="Talk to a Walrus node. Without a command: a REPL.",
        parents=[_common(True)],
    )
    parser.add_argument("--version", action="version", version=f"walrus {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    common = _common(False)
    for name, (text, run, flags) in _COMMANDS.items():
        exits = _EXITS.get(name, EXITS)
        one = commands.add_parser(name, help=text, description=text, epilog=exits, parents=[common])
        one.set_defaults(run=run)
        flags(one)
    return parser


_SETTINGS_HELP = "one of " + ", ".join(SETTINGS) + "; a number, none, or default"


def _no_flags(parser: argparse.ArgumentParser) -> None:
    del parser


def _topic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic")


def _register_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=_SETTINGS_HELP)


def _configure_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help=_SETTINGS_HELP)


def _delete_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _agrees(topic: str) -> bool:
    """Ask the person at the terminal; without a terminal, return False."""
    if not sys.stdin.isatty():
        return False
    print(
        f"Delete {topic} with all its entries, for good? Type its name: ", end="", file=sys.stderr, flush=True
    )
    return sys.stdin.readline().rstrip("\n") == topic


def _put_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("payload", nargs="*", help="words are joined by single spaces")


def _count(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=positive, default=1, help="how many entries at most (default 1)")


def _get_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("--group", default="", help="a consumer group's own cursor")
    _count(parser)


def _fetch_flags(parser: argparse.ArgumentParser) -> None:
    _recover_flags(parser)
    parser.add_argument("offset", type=_offset)
    _count(parser)


def _entries_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("--segment", type=positive, default=1, help="where to begin (default 1)")
    parser.add_argument("--offset", type=_offset, default=0, help="where to begin (default 0)")


def _pub_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("producer", help="a name that no other producer of the topic has or had")
    parser.add_argument("sequence", type=_offset, help="0, 1, 2, ... of that producer")
    parser.add_argument("payload", nargs="+", help="words are joined by single spaces")


def _payload(arguments: argparse.Namespace) -> bytes:
    return b" ".join(os.fsencode(word) for word in arguments.payload)


def _input_size() -> int | None:
    """The size of standard input in bytes, if it is a file; None for a pipe or a terminal."""
    found = os.fstat(sys.stdin.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _produce_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("--rate", type=_seconds, default=0.0, metavar="N", help="entries a second, at most")


_TIME_HELP: Final = (
    "the first entry appended then or later: 2026-11-26T07:30:00, unix milliseconds, or 1h (s, m, h, d) ago"
)


def _tail_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="wait for what comes, until Ctrl-C")
    parser.add_argument(
        "--from",
        dest="begin",
        default="begin",
        type=_place,
        metavar="PLACE",
        help=f"begin (default), end, SEGMENT.OFFSET, or {_TIME_HELP}",
    )


def _place(text: str) -> producing.Begin:
    if text in ("begin", "end"):
        return text
    segment, dot, offset = text.partition(".")
    if dot and segment.isdecimal():
        return positive(segment), _offset(offset)
    try:
        return queues.point_in_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"neither begin, end nor SEGMENT.OFFSET, and {error}") from None


def _find_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("time", help=_TIME_HELP)


def _topics_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", help="what their names begin with")


def _leave_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node_id", type=positive)
    parser.add_argument(
        "--force", action="store_true", help="also if fewer members stay than a segment should have replicas"
    )


def _backup_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="a new or empty one")
    parser.add_argument("--prefix", default="", help="only topics whose names begin so")


def _restore_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="that `backup` has written")
    parser.add_argument("--again", action="store_true", help="go on with a restore that was interrupted")


def _backup(client: Client, screen: Screen, arguments: argparse.Namespace) -> int:
    restores = arguments.command == "restore"
    try:
        if restores:
            done = backup.restore(client, arguments.directory, arguments.again, screen.say)
        else:
            done = backup.backup(client, arguments.directory, arguments.prefix, screen.say)
    except (backup.BackupError, OSError) as error:
        screen.say(f"{arguments.command}: {error}", "bold red")
        return 1
    entries = sum(topic.entries for topic in done.topics.values())
    screen.done(topics=len(done.topics), entries=entries)
    return 0


def _recover_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("segment", type=positive)


def _group_flags(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("group")


def _receive_flags(parser: argparse.ArgumentParser) -> None:
    _group_flags(parser)
    _count(parser)
    parser.add_argument("--wait", type=_time, default=0.0, metavar="SECONDS", help="for an entry to come (0)")
    parser.add_argument("--ack", action="store_true", help="acknowledge what was printed")


def _ack_flags(parser: argparse.ArgumentParser) -> None:
    _group_flags(parser)
    parser.add_argument("receipts", nargs="+", metavar="RECEIPT")


def _nack_flags(parser: argparse.ArgumentParser) -> None:
    _group_flags(parser)
    parser.add_argument("receipt")
    parser.add_argument("--delay", type=_time, default=0.0, metavar="SECONDS", help="it rests so long (0)")


def _extend_flags(parser: argparse.ArgumentParser) -> None:
    _group_flags(parser)
    parser.add_argument("receipt")
    parser.add_argument("seconds", type=_time)


def _seek_flags(parser: argparse.ArgumentParser) -> None:
    _group_flags(parser)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("place", nargs="*", default=[], help="begin, end, or SEGMENT OFFSET")
    place.add_argument(
        "--time",
        default="",
        help=_TIME_HELP,
    )


def _consume_flags(parser: argparse.ArgumentParser) -> None:
    _group_flags(parser)
    parser.add_argument(
        "--exec",
        default="",
        metavar="COMMAND",
        help="run for each entry, which is its input; status 0 is ACK",
    )
    parser.add_argument(
        "--ack",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--ack (the default): acknowledge an entry once its line was flushed, or its command ended with "
        "status 0. --no-ack: only look; what was written is given back at the end, and counts as delivered",
    )
    parser.add_argument("--workers", type=positive, default=1, help="entries worked on at a time (1)")
    parser.add_argument("--until-empty", action="store_true", help="end when nothing waits")


def _time(text: str) -> float:
    try:
        return milliseconds(float(text), "time") / 1000
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to a day") from None


_STATUS: Final = "Exit status: 0 healthy, 1 degraded, 2 unavailable or wrong usage."
_EXITS: Final = {"status": _STATUS, "check": _STATUS}
"""The help of commands that have exit statuses of their own."""

_Run: TypeAlias = Callable[[Client, Screen, argparse.Namespace], int | None]
"""Executes a command; returns an exit status, or None for 0."""
_Flags: TypeAlias = Callable[[argparse.ArgumentParser], None]
_COMMANDS: dict[str, tuple[str, _Run, _Flags]] = {
    "register": (
        "create a topic",
        lambda c, s, a: commands.register(c, s, a.topic, a.settings),
        _register_flags,
    ),
    "configure": (
        "change settings of a topic",
        lambda c, s, a: commands.configure(c, s, a.topic, a.settings),
        _configure_flags,
    ),
    "delete": (
        "delete a topic with all its entries and groups",
        lambda c, s, a: commands.delete(c, s, a.topic, a.yes or _agrees(a.topic)),
        _delete_flags,
    ),
    "put": ("append the given text as one entry, or each line of standard input", _put, _put_flags),
    "pub": (
        "append the given text as a producer's entry of that number: once, however often it is sent",
        lambda c, s, a: commands.pub(c, s, a.topic, a.producer, a.sequence, _payload(a)),
        _pub_flags,
    ),
    "produce": (
        "append each line of standard input, once, however often it has to be sent",
        lambda c, s, a: producing.produce(c, s, a.topic, _standard_input(), a.rate, _input_size()),
        _produce_flags,
    ),
    "get": (
        "read the next entry and move the cursor",
        lambda c, s, a: commands.get(c, s, a.topic, a.group, a.count),
        _get_flags,
    ),
    "fetch": (
        "read entries of one segment; moves no cursor",
        lambda c, s, a: commands.fetch(c, s, a.topic, a.segment, a.offset, a.count),
        _fetch_flags,
    ),
    "entries": (
        "read the whole topic, across segments",
        lambda c, s, a: commands.entries(c, s, a.topic, a.segment, a.offset),
        _entries_flags,
    ),
    "tail": (
        "the topic from a place on; -f waits for what comes",
        lambda c, s, a: producing.tail(c, s, a.topic, a.begin, a.follow),
        _tail_flags,
    ),
    "find": (
        "the place of a time; no cursor moves",
        lambda c, s, a: producing.find(c, s, a.topic, a.time),
        _find_flags,
    ),
    "topics": (
        "the topics there are",
        lambda c, s, a: producing.topics(c, s, a.prefix),
        _topics_flags,
    ),
    "groups": (
        "a topic's consumer groups, and how far they are behind",
        lambda c, s, a: producing.groups(c, s, a.topic),
        _topic,
    ),
    "receive": (
        "take entries of a work queue; they come again unless they are acknowledged",
        lambda c, s, a: queues.receive(c, s, a.topic, a.group, a.count, a.wait, a.ack),
        _receive_flags,
    ),
    "ack": (
        "the work is done: the group never gets these entries again",
        lambda c, s, a: queues.ack(c, s, a.topic, a.group, a.receipts),
        _ack_flags,
    ),
    "nack": (
        "give an entry back",
        lambda c, s, a: queues.nack(c, s, a.topic, a.group, a.receipt, a.delay),
        _nack_flags,
    ),
    "extend": (
        "the work takes longer",
        lambda c, s, a: queues.extend(c, s, a.topic, a.group, a.receipt, a.seconds),
        _extend_flags,
    ),
    "seek": (
        "move a group of a work queue, back too",
        lambda c, s, a: queues.seek(c, s, a.topic, a.group, [f"time={a.time}"] if a.time else a.place),
        _seek_flags,
    ),
    "consume": (
        "work on a queue: entries to standard output, or to a command",
        lambda c, s, a: queues.consume(c, s, a.topic, a.group, a.exec, a.until_empty, a.workers, a.ack),
        _consume_flags,
    ),
    "state": ("a topic's segments and cursors", lambda c, s, a: commands.state(c, s, a.topic), _topic),
    "metrics": ("a node's view of the cluster", lambda c, s, a: commands.metrics(c, s), _no_flags),
    "status": (
        "how the cluster is; exit status 0 healthy, 1 degraded, 2 unavailable",
        lambda c, s, a: status.status(_addresses(a), s, a.timeout),
        _no_flags,
    ),
    "check": (
        "the same in one line, for scripts",
        lambda c, s, a: status.check(_addresses(a), s, a.timeout),
        _no_flags,
    ),
    "backup": ("copy topics into a directory while the cluster runs", _backup, _backup_flags),
    "restore": ("write a backup into a cluster that has none of its topics", _backup, _restore_flags),
    "leave": ("remove a member", lambda c, s, a: commands.leave(c, s, a.node_id, a.force), _leave_flags),
    "completion": (
        'print a script that completes commands and flags: eval "$(walrus-cli completion bash)"',
        _completion,
        _completion_flags,
    ),
    "recover": (
        "recover a segment that waits for an operator's decision",
        lambda c, s, a: commands.recover(c, s, a.topic, a.segment),
        _recover_flags,
    ),
}
