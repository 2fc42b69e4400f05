"""One face for both clients: an `AsyncClient` that looks like a `Client`, so that one text tests both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
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
            return lambda *args, **named: self._driven(method(*args, **named))
        if not callable(method):
            return method
        return lambda *args, **named: self._loop.run_until_complete(method(*args, **named))

    def _driven(self, found: AsyncGenerator[Any, None]) -> Iterator[Any]:
        """What comes, one by one; left, it ends at once, as a generator does."""
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(found))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(found.aclose())

    def settle(self, delivery: Any, method: str, *args: Any) -> None:
        """`delivery.method(*args)`."""
        self._loop.run_until_complete(getattr(delivery, method)(*args))

    @contextmanager
    def entered(self, delivery: Any) -> Iterator[Any]:
        """`async with delivery`."""
        self._loop.run_until_complete(delivery.__aenter__())
        try:
            yield delivery
        except BaseException as error:
            self._loop.run_until_complete(delivery.__aexit__(type(error), error, error.__traceback__))
            raise
        self._loop.run_until_complete(delivery.__aexit__(None, None, None))


@contextmanager
def entered(client: Any, delivery: Any) -> Iterator[Any]:
    """`with delivery`, or `async with delivery`, as the client is."""
    with client.entered(delivery) if isinstance(client, Awaited) else delivery as found:
        yield found


def settle(client: Any, delivery: Any, method: str, *args: Any) -> None:
    """`delivery.method(*args)`, or that awaited."""
    if isinstance(client, Awaited):
        client.settle(delivery, method, *args)
    else:
        getattr(delivery, method)(*args)
