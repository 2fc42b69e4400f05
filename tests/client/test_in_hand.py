"""What `receive` brings as a context manager, and a loop over `follow(..., group=...)`, for both clients.

Two things must hold wherever a block or a loop is cut: an entry whose work did not end is not acknowledged
(`NothingSkipped`), and the client works on.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from itertools import islice
from typing import Any

import pytest

from tests.client.faces import MakeClient, entered, settle
from tests.client.fake import FakeNode, MemoryLog, MemoryQueue, Say, Silence
from tests.client.test_handles import Interrupt, raising_at
from tests.client.test_suspensions import (
    Interfere,
    Node,
    at_suspension,
    cancel_early,
    cancel_late,
    running,
)
from walrus import protocol
from walrus.client import AsyncClient, Client, OutcomeUnknown, TimedOut, UnknownTopic, WalrusError
from walrus.protocol import Ack, Nack, Receive, errors

ENTRIES = [b"one", b"two", b"three"]
SENT = 0.2
"""Seconds of a call whose answer does not come."""


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode(log=MemoryLog(topics={"jobs": [ENTRIES[:2], ENTRIES[2:]]})) as made:
        yield made


def queue_of(node: FakeNode) -> MemoryQueue:
    return node.log.queues["jobs", "g"]


def kinds(node: FakeNode) -> list[type]:
    return [type(request) for request in node.seen]


# --- with client.receive(...) -------------------------------------------------------------------------


def test_the_end_of_the_block_acknowledges(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    with entered(client, client.receive("jobs", "g", wait=None)) as delivery:
        assert (delivery.payload, delivery.deliveries, delivery.position) == (b"one", 1, (1, 0))
        settle(client, delivery, "extend", 60)
        assert not queue_of(node).done, "NothingSkipped: the work is not done yet"
    assert queue_of(node).done == {(1, 0)} and not queue_of(node).out, "NothingSkipped"
    for delivery in client.receive_many("jobs", "g", 10):
        with entered(client, delivery):
            pass
    assert len(queue_of(node).done) == 3 and client.receive("jobs", "g") is None, "EveryEntryAcked"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_block_that_raises_gives_back(connect: MakeClient, node: FakeNode, error: BaseException) -> None:
    client = connect(node)
    with pytest.raises(type(error)) as raised, entered(client, client.receive("jobs", "g")):
        raise error
    assert raised.value is error
    assert not queue_of(node).done, "NothingSkipped: its work did not end"
    again = client.receive("jobs", "g")
    assert (again.payload, again.deliveries) == (b"one", 2), "NothingSkipped"


@pytest.mark.parametrize("by", ["delivery", "client"])
def test_what_the_block_gives_back_is_not_acknowledged_at_its_end(
    connect: MakeClient, node: FakeNode, by: str
) -> None:
    client = connect(node)
    with entered(client, client.receive("jobs", "g")) as delivery:
        if by == "client":
            client.nack("jobs", "g", delivery, delay=5)
        else:
            settle(client, delivery, "nack", 5)
    assert not queue_of(node).done, "NothingSkipped: an ACK counts after a NACK, too"
    nack = node.seen[-1]
    assert isinstance(nack, Nack) and nack.delay_ms == 5000
    assert client.receive("jobs", "g").payload == b"one", "NothingSkipped"


def test_what_the_block_acknowledges_is_done_even_if_it_raises_then(
    connect: MakeClient, node: FakeNode
) -> None:
    client = connect(node)
    with pytest.raises(RuntimeError), entered(client, client.receive("jobs", "g")) as delivery:
        settle(client, delivery, "ack")
        raise RuntimeError
    assert queue_of(node).done == {(1, 0)}, "EveryEntryAcked"
    assert client.receive("jobs", "g").payload == b"two", "AckedNotRedelivered"


def test_an_error_of_the_nack_does_not_hide_what_went_wrong(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    delivery = client.receive("jobs", "g")
    node.script.append(Say(protocol.error(errors.STALE_RECEIPT)))
    with pytest.raises(ZeroDivisionError), entered(client, delivery):
        raise ZeroDivisionError
    assert kinds(node) == [Receive, Nack] and not queue_of(node).done, "NothingSkipped"


def test_an_ack_that_gets_no_answer_is_told(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node, timeout=SENT)
    delivery = client.receive("jobs", "g", timeout=30)
    node.script.append(Silence())
    with pytest.raises((TimedOut, OutcomeUnknown)), entered(client, delivery):
        pass
    assert client.receive("jobs", "g", timeout=30).payload == b"two", (
        "AckedNotRedelivered: the client works on"
    )


def test_a_receive_without_end_asks_again(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    node.script += [Say(protocol.EMPTY), Say(protocol.EMPTY)]
    assert client.receive("jobs", "g", wait=None).payload == b"one", "EveryEntryAcked"
    assert [request.wait_ms for request in node.seen if isinstance(request, Receive)] == [30_000] * 3
    with pytest.raises(UnknownTopic):
        client.receive("nothing", "g", wait=None)


def test_a_delivery_can_be_a_key_as_before(connect: MakeClient, node: FakeNode) -> None:
    first, second = connect(node).receive_many("jobs", "g", 2)
    assert len({first, second, first}) == 2


def test_an_async_receive_is_entered_awaited_or_made_a_task(node: FakeNode) -> None:
    async def run() -> None:
        async with AsyncClient(node.address) as client:
            async with client.receive("jobs", "g", wait=None) as delivery:
                assert delivery.payload == b"one"
            made = asyncio.create_task(client.receive("jobs", "g"))
            (second,) = await asyncio.gather(client.receive("jobs", "g"))
            first = await made
            assert first and second and {first.payload, second.payload} == {b"two", b"three"}, (
                "NothingSkipped"
            )
            async with first, second:
                pass
            async with client.receive("jobs", "g") as nothing:
                assert nothing is None
            client.receive("jobs", "g").close()  # never begun

    asyncio.run(run())
    assert len(queue_of(node).done) == 3, "EveryEntryAcked"


def test_an_exception_at_any_line_of_a_block_loses_no_delivery() -> None:
    log = MemoryLog(topics={"jobs": [[]], "q": [[b"q0"]]}, segment_entries=10**6)
    with FakeNode(log=log) as node, Client(node.address, timeout=20) as client:
        line, interrupted, worked = 1, True, set()
        while interrupted:
            interrupted = False
            log.append("jobs", b"%d" % line)
            with raising_at(line):
                try:
                    with client.receive("jobs", "g", wait=None) as delivery:
                        worked.add(delivery.position)
                except Interrupt:
                    interrupted = True
            queue = queue_of(node)
            assert queue.done <= worked, "NothingSkipped: acknowledged, and never worked on"
            assert client.fetch("q", 1, 0) == b"q0", f"AnsweredInOrder: interrupted at line {line}"
            queue.out.clear()  # as their visibility timeouts do
            line += 1
        assert line > 80, "the trace saw the calls"
        while (rest := client.receive("jobs", "g")) is not None:
            with rest:
                worked.add(rest.position)
        assert queue.done == worked == {(1, offset) for offset in range(line - 1)}, (
            "EveryEntryAcked, NothingSkipped"
        )


async def cut_everywhere(
    client: AsyncClient,
    node: Node,
    work: Callable[[AsyncClient, set[tuple[int, int]]], Coroutine[Any, Any, None]],
    worked: set[tuple[int, int]],
    cancel: Interfere,
) -> int:
    """Do the work again and again, cancelled one suspension later each time, until it ends before that.

    Each time what is acknowledged was worked on, and the client answers. Return how often that was.
    """
    queue, number, reached = node.log.queues["jobs", "g"], 0, True
    while reached:
        number += 1
        cut = at_suspension(number, work(client, worked), cancel)
        with suppress(asyncio.CancelledError):
            _, reached = await asyncio.create_task(awaited(cut))
        assert queue.done <= worked, "NothingSkipped: acknowledged, and its work did not end"
        assert await client.fetch("q", 1, 3) == b"q3", "AnsweredInOrder"
        queue.out.clear()  # as their visibility timeouts do
    return number


@pytest.mark.parametrize("cancel", [cancel_early, cancel_late])
def test_a_task_cancelled_at_any_suspension_of_a_block_loses_no_delivery(cancel: Interfere) -> None:
    """While it receives, in the block, while it acknowledges: each time the entry is done, or comes again."""

    async def block(client: AsyncClient, worked: set[tuple[int, int]]) -> None:
        async with client.receive("jobs", "g", wait=None) as delivery:
            await asyncio.sleep(0)
            worked.add(delivery.position)

    async def run() -> None:
        async with running() as node, asyncio.timeout(300), AsyncClient(node.address) as client:
            node.log.topics["jobs"] = [[b"%d" % n for n in range(100)]]
            queue, worked = node.log.queues["jobs", "g"], set[tuple[int, int]]()
            assert await cut_everywhere(client, node, block, worked, cancel) > 4
            while (rest := await client.receive("jobs", "g")) is not None:
                async with rest:
                    worked.add(rest.position)
            assert len(queue.done) == 100, "EveryEntryAcked"

    asyncio.run(run())


async def awaited(work: Any) -> Any:
    return await work


def test_a_timeout_in_the_block_gives_back_before_it_is_told(node: FakeNode) -> None:
    async def run() -> None:
        async with AsyncClient(node.address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60) as patience, client.receive("jobs", "g", wait=None):
                    patience.reschedule(0)
                    await asyncio.Event().wait()
            assert not queue_of(node).out and not queue_of(node).done, (
                "NothingSkipped: what did not end is not given back"
            )
            assert kinds(node)[-1] is Nack and (await client.metrics())["id"] == 1

    asyncio.run(run())


# --- follow, with a group -----------------------------------------------------------------------------


def test_an_entry_is_done_when_the_loop_asks_for_the_next(connect: MakeClient, node: FakeNode) -> None:
    client, seen = connect(node), []
    for entry in client.follow("jobs", group="g"):
        seen.append((entry.segment, entry.offset, entry.payload))
        assert (entry.segment, entry.offset) not in queue_of(node).done, "NothingSkipped: it is in hand"
        assert entry.time is not None
        if len(seen) == 2:
            break
    assert seen == [(1, 0, b"one"), (1, 1, b"two")], "DeliveredIsPrefix"
    assert queue_of(node).done == {(1, 0)} and not queue_of(node).out, (
        "EveryEntryAcked: the rest is given back, at once"
    )
    again = [entry.payload for entry in islice(client.follow("jobs", group="g"), 2)]
    assert again == [b"two", b"three"], "NothingSkipped: what was in hand comes first"


def test_a_loop_that_raises_gives_back_and_one_that_waits_has_acknowledged(
    connect: MakeClient, node: FakeNode
) -> None:
    client = connect(node)
    with pytest.raises(ZeroDivisionError):
        for entry in client.follow("jobs", group="g", prefetch=1):
            assert len(queue_of(node).out) == 1, "no more is fetched ahead than prefetch says"
            if entry.payload == b"three":
                raise ZeroDivisionError
    gc.collect()  # a frame of the traceback had the generator
    assert queue_of(node).done == {(1, 0), (1, 1)} and not queue_of(node).out, "EveryEntryAcked"
    entries = client.follow("jobs", group="g", prefetch=1)
    assert next(entries).payload == b"three", "DeliveredIsPrefix"
    node.script += [None, Say(protocol.error(errors.UNKNOWN_COMMAND))]  # the ACK, and the next RECEIVE
    with pytest.raises(WalrusError):
        next(entries)
    assert len(queue_of(node).done) == 3, "EveryEntryAcked: acknowledged before it waited for more"


def test_a_follower_of_a_group_waits_a_failover_out(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    node.script += [Say(protocol.error(errors.OWNER_UNREACHED))] * 2
    entries = client.follow("jobs", group="g", prefetch=1, timeout=SENT)
    assert [next(entries).payload for _ in ENTRIES] == ENTRIES, "DeliveredIsPrefix"
    waits = {request.wait_ms for request in node.seen if isinstance(request, Receive)}
    assert waits == {30_000, 0}
    entries.close()


@pytest.mark.parametrize("place", [(2, 0), (1, 1), (1, "0"), (0, 0)])
def test_a_group_has_its_own_position(connect: MakeClient, node: FakeNode, place: tuple[Any, Any]) -> None:
    client = connect(node)
    with pytest.raises((ValueError, TypeError)):
        next(client.follow("jobs", *place, group="g"))
    assert not node.seen


def test_a_loop_that_ends_after_its_client_was_closed_opens_no_connection(
    connect: MakeClient, node: FakeNode
) -> None:
    client = connect(node)
    entries = client.follow("jobs", group="g")
    next(entries)
    connections, asked = node.connections, len(node.seen)
    getattr(client, "_client", client)._closings += 1  # as `close` does, in whichever loop
    entries.close()
    assert (node.connections, len(node.seen)) == (connections, asked)
    assert queue_of(node).out, "NothingSkipped: it comes again by its visibility timeout"


def test_a_forked_child_does_not_give_back_what_its_parent_has_in_hand(node: FakeNode) -> None:
    with Client(node.address) as client:
        for _ in (entries := client.follow("jobs", group="g")):
            if (child := os.fork()) == 0:
                with suppress(BaseException):
                    entries.close()
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            break
        assert Nack not in kinds(node)
        entries.close()
        assert Nack in kinds(node)


def test_an_async_loop_that_is_left_gives_back_at_once_when_it_is_closed(node: FakeNode) -> None:
    async def run() -> None:
        async with AsyncClient(node.address) as client:
            async with aclosing(client.follow("jobs", group="g")) as entries:
                async for entry in entries:
                    if entry.payload == b"two":
                        break
            assert queue_of(node).done == {(1, 0)} and not queue_of(node).out, "EveryEntryAcked"

    asyncio.run(run())


@pytest.mark.parametrize("cancel", [cancel_early, cancel_late])
def test_a_follower_cancelled_at_any_suspension_skips_no_entry(cancel: Interfere) -> None:
    async def loop(client: AsyncClient, worked: set[tuple[int, int]]) -> None:
        async with aclosing(client.follow("jobs", group="g", prefetch=3)) as entries:
            async for entry in entries:
                await asyncio.sleep(0)
                worked.add((entry.segment, entry.offset))
                if len(worked) % 5 == 0:
                    return

    async def run() -> None:
        async with running() as node, asyncio.timeout(300), AsyncClient(node.address) as client:
            node.log.topics["jobs"] = [[b"%d" % n for n in range(400)]]
            assert await cut_everywhere(client, node, loop, set(), cancel) > 5

    asyncio.run(run())


def test_acknowledgements_go_out_while_the_loop_runs(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long run of entries the first are acknowledged before the last is asked for."""
    monkeypatch.setattr("walrus.client.consuming.ACK_AFTER", 0.0)
    with Client(node.address) as client:
        entries = client.follow("jobs", group="g")
        next(entries)
        next(entries)
        assert kinds(node)[-1] is Ack and queue_of(node).done == {(1, 0)}, "EveryEntryAcked"
        entries.close()
