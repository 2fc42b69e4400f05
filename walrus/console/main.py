"""`python -m walrus.console`: watch a cluster and serve what is seen.

    python -m walrus.console --addr 127.0.0.1:9091 --http 127.0.0.1:9090

It serves on loopback, and shows. With `--allow-changes` it acts, too, on the nodes that `walrus.cluster`
started below `--data-dir` on this machine: the address that it prints has a token behind `#`, drawn for this
process, without which nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from walrus.cli.command_line import Parser, command
from walrus.config import FIRST_CLIENT_PORT
from walrus.shell.flags import FlagError, address, directory
from walrus.wire.addresses import parse_address

HTTP = "127.0.0.1:9090"


def _parser() -> Parser:
    parser = Parser(prog="walrus-console", description="Show a Walrus cluster.", allow_abbrev=False)
    add = parser.add_argument
    add("--addr", type=address, action="append", metavar="HOST:PORT",
        help=f"a node's client port (default 127.0.0.1:{FIRST_CLIENT_PORT}); may be repeated")  # fmt: skip
    add(
        "--http", type=address, default=HTTP, metavar="HOST:PORT", help="where to serve (default %(default)s)"
    )
    add(
        "--allow-changes", action="store_true", help="kill, pause and start nodes of --data-dir, with a token"
    )
    add("--data-dir", type=directory, default=Path("./data"), metavar="DIR",
        help="of the cluster on this machine (default ./data)")  # fmt: skip
    add("--insecure", action="store_true", help="serve on an address other than loopback, to anybody")
    return parser


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(host: str, port: int) -> set[str]:
    """The names by which this console may be called."""
    names = {host, "127.0.0.1", "localhost", "[::1]"}
    return {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())


async def _serve(
    addresses: Sequence[str], host: str, port: int, data_dir: Path | None, stop: asyncio.Event
) -> int:
    """Serve until told to stop."""
    from aiohttp import web

    from walrus.console.actions import Actions
    from walrus.console.server import ConsoleServer
    from walrus.console.watch import ClusterWatch

    watcher, token = ClusterWatch(addresses), secrets.token_urlsafe(24)
    actions = None if data_dir is None else Actions(data_dir)
    console = ConsoleServer(watcher, hosts=_hosts(host, port), actions=actions, token=token)
    runner = web.AppRunner(console.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise OSError(f"--http: cannot listen on {host}:{port}: {error.strerror}") from error
    watching = asyncio.create_task(watcher.run())
    behind = f"/#{token}" if actions else "/"
    sys.stderr.write(f"console: http://{host}:{port}{behind}\n")
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    await runner.cleanup()
    with contextlib.suppress(asyncio.CancelledError):
        await watching  # raises what ended it, if it did not end by this
    return 0


async def _run(addresses: Sequence[str], host: str, port: int, data_dir: Path | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await _serve(addresses, host, port, data_dir, stop)


@command("walrus-console")
def main(arguments: Sequence[str] | None = None) -> int:
    """0 after a stop, 2 for a bad flag, 1 for anything else."""
    options = _parser().parse_args(arguments)
    host, port = parse_address(options.http)
    if not (_is_loopback(host) or options.insecure):
        raise FlagError(
            f"--http: {host} is not loopback, and this console has no password: put a proxy with one in "
            f"front of it, or give --insecure"
        )
    try:
        import aiohttp  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise FlagError(f"{error.name} is missing: pip install 'walrus-log[console]'") from error
    addresses = options.addr or [f"127.0.0.1:{FIRST_CLIENT_PORT}"]
    return asyncio.run(_run(addresses, host, port, options.data_dir if options.allow_changes else None))
