"""`AsyncClient`, interfered with at every point at which a call can be suspended.

A call is driven to its k-th suspension, for each k that it has, and there it is cancelled (before what it
awaits comes, or just after), or the client is closed. Then the same must hold as if nothing had happened: a
call beside it gets its own answers, so does every later one, and a closed client has no connection left.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.client.fake import MemoryLog, one_by_one
from tests.client.test_arguments import GOOD
from walrus import protocol
from walrus.client import AsyncClient, WalrusError

Interfere = Callable[[asyncio.Future[Any] | None], None]
MANY = 5


class Node:
    """A node in the event loop of its client, so that a turn of the loop is a turn of both."""

    def __init__(self) -> None:
        entries = {topic: [[b"%b%d" % (topic.encode(), n) for n in range(MANY)]] for topic in ("p", "q")}
        self.log = MemoryLog(topics=entries)
        self.open = 0
        self.closed = asyncio.Event()
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        parser = protocol.RequestParser()
        self.open += 1
        try:
            while data := await reader.read(65536):
                for request in parser.feed(data):
                    for single in one_by_one(request):
                        writer.write(b"".join(self.log.answer(single)))
        except ConnectionError:
            pass  # a client that gave up resets its connection
        finally:
            self.open -= 1
            self.closed.set()
            writer.close()


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    node = Node()
    server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    node.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield node
    finally:
        server.close()


@types.coroutine
def at_suspension(
    number: int, work: Coroutine[Any, Any, Any], interfere: Interfere
) -> Generator[Any, Any, tuple[Any, bool]]:
    """Await `work`; at its suspension of that number call `interfere`. Returns the result, and if it came."""
    suspensions, send, value = 0, work.send, None
    while True:
        try:
            awaited = send(value)
        except StopIteration as end:
            return end.value, suspensions >= number
        suspensions += 1
        if suspensions == number:
            interfere(awaited)
        try:
            value, send = (yield awaited), work.send
        except BaseException as error:  # noqa: BLE001 - what the event loop throws is the work's to handle
            value, send = error, work.throw


def cancel_early(awaited: asyncio.Future[Any] | None) -> None:
    """What is awaited is cancelled with the call."""
    asyncio.current_task().cancel()  # type: ignore[union-attr]


def cancel_late(awaited: asyncio.Future[Any] | None) -> None:
    """What is awaited has come, and the call has not run since."""
    task = asyncio.current_task()
    assert task is not None
    if awaited is None:
        task.cancel()
    else:
        awaited.add_done_callback(lambda _: task.cancel())


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, arguments) for method, arguments in GOOD.items()},
    **{
        f"{method} that waits": (method, {**GOOD[method], "wait": 1})
        for method in ("get", "fetch", "receive")
    },
}


async def first(client: AsyncClient, case: str) -> Any:
    """One call, or of an iterator the first entry."""
    method, arguments = CASES[case]
    found = getattr(client, method)(**arguments)
    if hasattr(found, "__anext__"):
        entry = await anext(found, None)
        await found.aclose()
        return entry
    return await found


async def answers_of(client: AsyncClient) -> None:
    """Each of many calls gets the answer to its own request."""
    places = [(topic, offset) for offset in range(MANY) for topic in ("p", "q")]
    found = await asyncio.gather(*[client.fetch(topic, 1, offset) for topic, offset in places])
    assert found == [b"%b%d" % (topic.encode(), offset) for topic, offset in places], (
        "AnsweredInOrder: a call gets the answer to another one"
    )


async def no_connection_is_open(node: Node) -> None:
    async with asyncio.timeout(120):
        while node.open:
            node.closed.clear()
            await node.closed.wait()


async def cancelled(node: Node, case: str, number: int, warm: bool, cancel: Interfere) -> bool:
    """A call is cancelled at that suspension, while others are under way; returns whether there is one."""
    client, reached = AsyncClient(node.address), True
    if warm:
        await client.metrics()
    beside = asyncio.create_task(answers_of(client))
    try:
        _, reached = await asyncio.create_task(interfered(first(client, case), number, cancel))
    except asyncio.CancelledError:
        pass
    except WalrusError:
        reached = False
    await beside
    await answers_of(client)
    await client.close()
    await no_connection_is_open(node)
    return reached


async def closed(node: Node, case: str, number: int, warm: bool) -> bool:
    """The client is closed while a call is suspended there: the call ends, and no connection is left."""
    client, closing = AsyncClient(node.address), []
    if warm:
        await client.metrics()

    def close(awaited: object) -> None:
        closing.append(asyncio.ensure_future(client.close()))

    with suppress(WalrusError):
        await asyncio.create_task(interfered(first(client, case), number, close))
    if not closing:
        await client.close()
        return False
    await closing[0]
    await no_connection_is_open(node)
    await answers_of(client)
    await client.close()
    return True


async def interfered(work: Coroutine[Any, Any, Any], number: int, interfere: Interfere) -> tuple[Any, bool]:
    return await at_suspension(number, work, interfere)


async def at_each_suspension(attack: Callable[[Node, int], Coroutine[Any, Any, bool]]) -> None:
    async with running() as node, asyncio.timeout(300):
        number, there_is_one = 0, True
        while there_is_one:
            number += 1
            node.log.topics["t"] = [[b"t%d" % n for n in range(MANY)]]  # a DELETE may have come through
            there_is_one = await attack(node, number)
        assert number > 1, "the call was suspended at least once"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cancel", [cancel_early, cancel_late])
def test_a_call_cancelled_at_any_suspension_shifts_no_answer(case: str, cancel: Interfere) -> None:
    for warm in (False, True):
        asyncio.run(at_each_suspension(lambda node, n, warm=warm: cancelled(node, case, n, warm, cancel)))


@pytest.mark.parametrize("case", CASES)
def test_a_client_closed_at_any_suspension_of_a_call_has_no_connection_left(case: str) -> None:
    for warm in (False, True):
        asyncio.run(at_each_suspension(lambda node, n, warm=warm: closed(node, case, n, warm)))
