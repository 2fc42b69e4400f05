"""Name lookup: from a host to addresses that a socket can connect to, within a deadline.

`getaddrinfo` takes no timeout, and blocks for half a minute if the resolver does not answer. So a name is
looked up in a thread, and the caller stops waiting at its deadline. Two rules bound the cost:

* there is at most one thread for each name and port; later callers wait for the same thread;
* the threads are daemons, and not those of asyncio's executor, so that neither the end of the interpreter
  nor that of `asyncio.run` waits for a resolver.

A numeric address needs no thread.
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
    """The address family and address, as `socket.socket` and `connect` take them."""

    family: int
    address: tuple[Any, ...]


Lookup = concurrent.futures.Future[list[Endpoint]]
_pending: dict[tuple[str, int], Lookup] = {}
os.register_at_fork(after_in_child=_pending.clear)  # the child has no thread that would complete them


def resolve(host: str, port: int, within: float) -> list[Endpoint]:
    """Return the endpoints of a host, after at most `within` seconds. Raises OSError, also TimeoutError."""
    if _is_numeric(host):
        return _look_up(host, port)
    try:
        return _lookup(host, port).result(within)
    except concurrent.futures.TimeoutError:
        raise TimeoutError(f"the resolver says nothing about {host}") from None


async def resolve_async(host: str, port: int) -> list[Endpoint]:
    """Return the endpoints of a host. Raises OSError. The caller may cancel it at any time."""
    if _is_numeric(host):
        return _look_up(host, port)
    loop, lookup = asyncio.get_running_loop(), _lookup(host, port)
    known = asyncio.Event()

    def tell(_: Lookup) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed during the lookup
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
    """Return the lookup of that name that is in progress, or start one."""
    mine: Lookup = concurrent.futures.Future()
    try:
        lookup = _pending.setdefault((host, port), mine)
        if lookup is mine:
            threading.Thread(target=_answer, args=(mine, host, port), daemon=True).start()
    except BaseException as error:  # interrupted, or no thread could start: the next caller tries again
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
    except ValueError as error:  # a name that IDNA cannot encode (UnicodeError), or one with a null byte
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a name: {error}") from error
    return list(dict.fromkeys(Endpoint(family, address) for family, _, _, _, address in found))
