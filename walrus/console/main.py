"""`python -m walrus.console`: watch a cluster and show it.

    python -m walrus.console --addr 127.0.0.1:9091 --http 127.0.0.1:9090

It serves on loopback, read-only. With `--allow-changes` it also acts on the nodes that `walrus.cluster`
started below `--data-dir` on this machine: the address that it prints has a token behind `#`, drawn for this
process, without which it changes nothing. With `--play` it also streams messages through that cluster,
counts what became of them, and shows the last half minute in the run viewer (`walrus.cluster --play` starts
both).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from walrus.cli.command_line import VARIABLES, Parser, add_credentials, command, use_credentials
from walrus.config import FIRST_CLIENT_PORT
from walrus.shell.arguments import FlagError, address, directory
from walrus.shell.layers import add_config_flags, layered
from walrus.wire.addresses import is_loopback, parse_address

HTTP = "127.0.0.1:9090"
VERBS = ("play",)
"""Flags that say what to do now: a file cannot set them."""


def _parser() -> Parser:
    parser = Parser(prog="walrus-console", description="Show a Walrus cluster.", allow_abbrev=False)
    add_config_flags(parser)
    add = parser.add_argument
    add("--addr", type=address, action="append", metavar="HOST:PORT",
        help=f"a node's client port (default 127.0.0.1:{FIRST_CLIENT_PORT}); may be repeated")  # fmt: skip
    add(
        "--http", type=address, default=HTTP, metavar="HOST:PORT", help="where to serve (default %(default)s)"
    )
    add(
        "--allow-changes", action="store_true", help="kill, pause and start nodes of --data-dir, with a token"
    )
    add("--play", action="store_true", help="stream messages, count them, show what happened; and the above")
    add("--data-dir", type=directory, default=Path("./data"), metavar="DIR",
        help="of the cluster on this machine (default ./data)")  # fmt: skip
    add("--insecure", action="store_true", help="serve on an address other than loopback, to anybody")
    add_credentials(parser)
    return parser


def _hosts(host: str, port: int) -> set[str]:
    """Return the values of the `Host` header to which this console answers."""
    names = {host, "127.0.0.1", "localhost", "[::1]"}
    return {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())


class _Served(NamedTuple):
    """The settings of the server."""

    addresses: Sequence[str]
    host: str
    port: int
    data_dir: Path | None
    """The data directory of the nodes that may be acted on."""
    plays: bool


async def _serve(served: _Served, stop: asyncio.Event) -> int:
    """Serve until told to stop; return the exit status."""
    from aiohttp import web

    from walrus.console.actions import Actions
    from walrus.console.play import Play
    from walrus.console.recording import Recording
    from walrus.console.server import ConsoleServer
    from walrus.console.stream import PlayedStream
    from walrus.console.watch import ClusterWatch

    addresses, host, port, data_dir, plays = served
    actions = play = None
    if data_dir is not None:
        actions = Actions(data_dir)
        play = Play(actions, PlayedStream(addresses), Recording(data_dir)) if plays else None
    complain = lambda line: sys.stderr.write(f"console: {line}\n")  # noqa: E731
    watcher = ClusterWatch(addresses, lines=play.lines if play else None, complain=complain)
    token = secrets.token_urlsafe(24)
    console = ConsoleServer(
        watcher, hosts=_hosts(host, port), actions=play or actions, token=token, play=play
    )
    runner = web.AppRunner(console.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise OSError(f"--http: cannot listen on {host}:{port}: {error.strerror}") from error
    working = [asyncio.create_task(watcher.run())]
    if play is not None:
        working.append(asyncio.create_task(play.run()))
    behind = f"/#{token}" if actions else "/"
    sys.stderr.write(f"console: http://{host}:{port}{behind}\n")
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*working, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in working:
        task.cancel()
    await runner.cleanup()
    for task in working:
        with contextlib.suppress(asyncio.CancelledError):
            await task  # raises what ended the task, unless it was cancelled
    return 0


async def _run(served: _Served) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await _serve(served, stop)


@command("walrus-console")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 after a stop, 2 for a bad flag, 1 for anything else."""
    found = layered(_parser(), "console", arguments, os.environ, variables=VARIABLES, verbs=VERBS)
    options = found.options
    host, port = parse_address(options.http)
    if not (is_loopback(host) or options.insecure):
        raise FlagError(
            f"--http: {host} is not loopback, and this console has no password: put a proxy with one in "
            f"front of it, or give --insecure"
        )
    use_credentials(options)
    if options.check_config:
        sys.stdout.write(found.shown())
        return 0
    try:
        import aiohttp  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise FlagError(f"{error.name} is missing: pip install 'walrus-log[console]'") from error
    addresses = options.addr or [f"127.0.0.1:{FIRST_CLIENT_PORT}"]
    acts = options.allow_changes or options.play
    data_dir = options.data_dir if acts else None
    return asyncio.run(_run(_Served(addresses, host, port, data_dir, options.play)))
