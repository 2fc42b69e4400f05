"""From `HOST:PORT` to addresses that a socket can connect to, without waiting longer than a deadline.

`getaddrinfo` cannot be given a timeout, and a resolver that does not answer holds it for half a minute. So a
name is looked up in a thread, and the caller stops waiting for it when its time is up. Two things bound what
that costs: there is at most one thread for a name, which later callers wait for as well; and the threads are
daemons, so that neither the end of the interpreter nor that of an `asyncio.run`, which waits for the threads
of its executor, waits for a resolver. An address in numbers needs no thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import os
import socket
import threading
from typing import Any, NamedTuple


class Endpoint(NamedTuple):
    """What `socket` and `connect` take."""

    family: int
    address: tuple[Any, ...]


Lookup = concurrent.futures.Future[list[Endpoint]]
_pending: dict[tuple[str, int], Lookup] = {}
os.register_at_fork(after_in_child=_pending.clear)  # the child has no thread that would complete them


def resolve(host: str, port: int, within: float) -> list[Endpoint]:
    """The endpoints of a host; raises an `OSError`, `TimeoutError` among them."""
    if _is_numeric(host):
        return _look_up(host, port)
    try:
        return _lookup(host, port).result(within)
    except concurrent.futures.TimeoutError:
        raise TimeoutError(f"the resolver says nothing about {host}") from None


async def resolve_async(host: str, port: int) -> list[Endpoint]:
    """The same, awaited, for as long as the caller likes."""
    if _is_numeric(host):
        return _look_up(host, port)
    loop, lookup = asyncio.get_running_loop(), _lookup(host, port)
    known = asyncio.Event()

    def tell(_: Lookup) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed while the resolver thought
            loop.call_soon_threadsafe(known.set)

    lookup.add_done_callback(tell)
    await known.wait()
    return lookup.result()


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _lookup(host: str, port: int) -> Lookup:
    """The lookup of that name that is under way, or a new one."""
    mine: Lookup = concurrent.futures.Future()
    try:
        lookup = _pending.setdefault((host, port), mine)
        if lookup is mine:
            threading.Thread(target=_answer, args=(mine, host, port), daemon=True).start()
    except BaseException as error:  # interrupted, or no thread to be had: the next caller tries anew
        if _pending.get((host, port)) is mine:
            del _pending[host, port]
        if isinstance(error, RuntimeError):
            raise OSError(f"cannot look up {host}: {error}") from error
        raise
    return lookup


def _answer(lookup: Lookup, host: str, port: int) -> None:
    try:
        endpoints = _look_up(host, port)
    except OSError as error:
        _pending.pop((host, port), None)
        lookup.set_exception(error)
    else:
        _pending.pop((host, port), None)
        lookup.set_result(endpoints)


def _look_up(host: str, port: int) -> list[Endpoint]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:  # a name that IDNA cannot encode (UnicodeError), or with a zero in it
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a name: {error}") from error
    return list(dict.fromkeys(Endpoint(family, address) for family, _, _, _, address in found))
