"""One face for both clients: an `AsyncClient` that looks like a `Client`, so that one text tests both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from walrus.client import AsyncClient, Position

MakeClient = Callable[..., Any]
"""`connect(*nodes or addresses, timeout=30.0)`: a client of the kind under test, closed at the end of it."""


def places(first: int, end: int) -> list[Position]:
    """The places `first` up to `end` of a topic's first segment."""
    return [Position(1, offset) for offset in range(first, end)]


class Awaited:
    """An `AsyncClient` driven from outside its event loop."""

    def __init__(self, addresses: str | Iterable[str], *, timeout: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(addresses, timeout=timeout)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if inspect.isasyncgenfunction(method):
            return lambda *args, **named: iter(self._loop.run_until_complete(_listed(method(*args, **named))))
        if not callable(method):
            return method
        return lambda *args, **named: self._loop.run_until_complete(method(*args, **named))


async def _listed(found: Any) -> list[Any]:
    return [one async for one in found]
