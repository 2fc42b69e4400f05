"""Work queues, for both clients: what is sent, what comes back, what is repeated, and workers."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client.faces import MakeClient
from tests.client.fake import Close, FakeNode, Say
from walrus import protocol
from walrus.client import (
    AsyncClient,
    Client,
    Delivery,
    GroupInUse,
    OutcomeUnknown,
    StaleReceipt,
    UnknownTopic,
    WalrusError,
    consuming,
    deliveries,
)
from walrus.client.consuming import Work, Worker
from walrus.client.errors import Unreachable
from walrus.protocol import Ack, Nack, Receive, errors


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as made:
        made.log.topics["jobs"] = [[b"one", b"two"], [b"three"]]
        yield made


def test_an_entry_is_out_until_it_is_acknowledged(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    first, second = client.receive("jobs", "g"), client.receive("jobs", "g")
    assert (first.payload, first.deliveries) == (b"one", 1) and second.payload == b"two", "NothingSkipped"
    client.ack("jobs", "g", first)
    client.nack("jobs", "g", second.receipt)
    again = client.receive("jobs", "g")
    assert (again.payload, again.deliveries) == (b"two", 2), (
        "NothingSkipped: what is given back comes again, first"
    )
    client.extend("jobs", "g", again, 60)
    assert [delivery.payload for delivery in client.receive_many("jobs", "g", 10)] == [b"three"], (
        "NothingSkipped"
    )
    assert client.receive("jobs", "g", wait=0.5) is None, "OutIsBounded: it is out twice"


def test_a_receipt_of_a_delivery_that_is_over_is_stale(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    delivery = client.receive("jobs", "g")
    client.nack("jobs", "g", delivery)
    for late in (lambda: client.nack("jobs", "g", delivery), lambda: client.extend("jobs", "g", delivery, 1)):
        with pytest.raises(StaleReceipt):
            late()
    client.ack("jobs", "g", delivery)


def test_seek_begins_anew(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    client.ack("jobs", "g", client.receive("jobs", "g"))
    client.seek("jobs", "g", "begin")
    client.seek("jobs", "g", (1, 0))
    assert client.receive("jobs", "g").payload == b"one", "NothingSkipped: a SEEK begins anew"
    for place in ("middle", (0, 1), (1, -1), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"seek|segment|offset"):
            client.seek("jobs", "g", place)


def test_the_wait_goes_with_the_first_of_many_and_a_second_attempt_does_not_wait(
    connect: MakeClient, node: FakeNode
) -> None:
    client = connect(node)
    client.receive_many("jobs", "g", 2, wait=0.25)
    assert [request.wait_ms for request in node.seen if isinstance(request, Receive)] == [250, 0], (
        "EveryEntryAcked: each waits, while the first is in hand"
    )
    node.seen.clear()
    node.script.append(Say(protocol.error(errors.OWNER_UNREACHED)))
    assert client.receive("jobs", "g", wait=20, timeout=30).payload == b"three", "EveryEntryAcked"
    assert [request.wait_ms for request in node.seen if isinstance(request, Receive)] == [20_000, 0], (
        "EveryEntryAcked"
    )


def test_a_receive_without_an_answer_is_not_sent_again_and_an_ack_is(
    connect: MakeClient, node: FakeNode
) -> None:
    client = connect(node)
    delivery = client.receive("jobs", "g")
    node.script.append(Close(done=True))
    with pytest.raises(OutcomeUnknown, match="comes again after its visibility timeout"):
        client.receive("jobs", "g")
    node.seen.clear()
    node.script.append(Close(done=True))
    client.ack("jobs", "g", delivery)
    assert sum(isinstance(request, Ack) for request in node.seen) == 2, (
        "EveryEntryAcked: an ACK without an answer is sent again"
    )


def test_acknowledgements_of_many_are_pipelined(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    taken = client.receive_many("jobs", "g", 10)
    assert len(taken) == 3, "EveryEntryAcked"
    assert client.ack_many("jobs", "g", taken) == [None, None, None], "EveryEntryAcked"
    assert client.receive("jobs", "g") is None, "AckedNotRedelivered"


def test_an_error_behind_deliveries_does_not_take_them_along() -> None:
    """They are out: thrown away, they would come again only by their visibility timeout."""
    try:
        found = deliveries.received(Delivery, [delivery(0), delivery(1), Unreachable("gone")])
    except Unreachable:
        found = []
    assert found == [delivery(0), delivery(1)], "EveryEntryAcked"
    with pytest.raises(Unreachable):
        deliveries.received(Delivery, [Unreachable("gone")])


def test_a_group_that_is_read_with_get_is_refused_by_name(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    node.script.append(Say(protocol.error(errors.group_in_use("g", with_get=True))))
    with pytest.raises(GroupInUse):
        client.receive("jobs", "g")
    with pytest.raises(UnknownTopic):
        client.receive("nothing", "g")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda: deliveries.receive_many(Delivery, "jobs", "g", 1, -1), ValueError),
        (lambda: deliveries.receive_many(Delivery, "jobs", "g", 1, float("nan")), ValueError),
        (lambda: deliveries.receive_many(Delivery, "jobs", "g", 1, 86_401), ValueError),
        (lambda: deliveries.receive_many(Delivery, "jobs", "g", 1, "soon"), TypeError),  # type: ignore[arg-type]
        (lambda: deliveries.receive_many(Delivery, "jobs", "", 1), WalrusError),
        (lambda: deliveries.receive_many(Delivery, "jobs", "g", -1), ValueError),
        (lambda: deliveries.ack_many("jobs", "g", "1.2.0.1"), TypeError),
        (lambda: deliveries.ack_many("jobs", "g", ["1.2"]), ValueError),
        (lambda: deliveries.ack_many("jobs", "g", ["1.2.0.1\n"]), ValueError),
        (lambda: deliveries.nack("jobs", "g", b"1.2.0.1"), TypeError),  # type: ignore[arg-type]
        (lambda: deliveries.extend("jobs", "g", "1.2.0.1", True), TypeError),
        (lambda: Work("jobs", "g", 0, 1, 1.0, None), ValueError),
        (lambda: Work("jobs", "g", 1, 0, 1.0, None), ValueError),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_sent(wrong: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        wrong()  # type: ignore[operator]


def test_a_reply_of_another_kind_is_told(connect: MakeClient, node: FakeNode) -> None:
    client = connect(node)
    node.script.append(Say(protocol.ok(b"no receipt")))
    with pytest.raises(WalrusError, match="expected OK <receipt>"):
        client.receive("jobs", "g")


# --- the call that waits, in an AsyncClient -----------------------------------------------------------


def test_a_call_that_waits_does_not_hold_up_the_others() -> None:
    """Replies keep their order on a connection, so it has one of its own, and leaves it for the next one."""

    async def run(node: FakeNode) -> None:
        async with AsyncClient(node.address) as client:
            await client.put("jobs", b"x")
            await client.receive("jobs", "g", wait=1)
            await client.receive("jobs", "g", wait=1)
            await client.put("jobs", b"y")

    with FakeNode() as node:
        node.log.topics["jobs"] = [[]]
        asyncio.run(run(node))
        assert node.connections == 2


# --- workers --------------------------------------------------------------------------------------------


def delivery(number: int) -> Delivery:
    return Delivery(f"1.{number}.0.1", 1, b"")


def test_a_worker_acknowledges_together_and_asks_again_for_what_got_no_answer() -> None:
    worker = Worker(Work("jobs", "g", 10, 2, 1.0, None))
    assert worker.work.share == 5 and not worker.due(0.0)
    worker.finished(delivery(1), 10.0)
    worker.finished(delivery(2), 10.05)
    assert not worker.due(10.09) and worker.due(10.1), "EveryEntryAcked"
    worker.settled([None, Unreachable("gone")], 10.2)
    assert worker.done == [delivery(2)] and worker.acknowledged == 1, (
        "EveryEntryAcked: what got no answer is asked for again"
    )
    worker.settled([None], 10.3)
    assert not worker.done and worker.acknowledged == 2, "EveryEntryAcked"
    worker.finished(delivery(3), 10.4)
    worker.settled([StaleReceipt("another delivery")], 10.5)
    assert not worker.done, "EveryEntryAcked: what can never be acknowledged is asked for without end"
    assert worker.acknowledged == 2, "EveryEntryAcked: what was refused counts as acknowledged"


def test_what_a_handler_failed_on_is_given_back_and_never_acknowledged() -> None:
    steps = Worker(Work("jobs", "g", 10, 1, 1.0, None)).steps(lambda: False, lambda: 0.0)
    assert next(steps) == consuming.Take()
    assert steps.send([delivery(1), delivery(2)]) == consuming.Handle(delivery(1))
    back = steps.send(RuntimeError("no"))
    assert back == consuming.GiveBack([delivery(1)], 1.0), "EveryEntryAcked"
    assert steps.send(None) == consuming.Handle(delivery(2))
    done = steps.send(None)
    assert done == consuming.Acknowledge([delivery(2)]), "NothingSkipped: what failed counts as done"


def stops_after(count: int, stop: threading.Event | asyncio.Event, seen: Counter[bytes]) -> bool:
    """Whether all are done; then the workers are told to stop."""
    if sum(seen.values()) >= count:
        stop.set()
    return stop.is_set()


def test_workers_in_threads_do_every_entry_and_give_back_what_failed(node: FakeNode) -> None:
    seen: Counter[bytes] = Counter()
    stop, lock, told = threading.Event(), threading.Lock(), []

    def handler(delivery: Delivery) -> None:
        with lock:
            seen[delivery.payload] += 1
            if delivery.payload == b"two" and delivery.deliveries == 1:
                raise RuntimeError("not yet")
            stops_after(4, stop, seen)

    with Client(node.address) as client:
        done = client.consume(
            "jobs", "g", handler, workers=2, stop=stop, retry_after=0,
            on_error=lambda delivery, error: told.append((delivery.payload, str(error))),
        )  # fmt: skip
    assert done == 3 and seen == {b"one": 1, b"two": 2, b"three": 1}, "EveryEntryAcked"
    assert told == [(b"two", "not yet")], "EveryEntryAcked"
    assert sum(isinstance(request, Nack) for request in node.seen) == 1, (
        "EveryEntryAcked: what failed is not given back"
    )


def test_workers_in_tasks_do_every_entry_and_give_back_what_failed(node: FakeNode) -> None:
    seen: Counter[bytes] = Counter()

    async def run() -> int:
        stop = asyncio.Event()

        async def handler(delivery: Delivery) -> None:
            seen[delivery.payload] += 1
            if delivery.payload == b"two" and delivery.deliveries == 1:
                raise RuntimeError("not yet")
            stops_after(4, stop, seen)

        async with AsyncClient(node.address) as client:
            return await client.consume("jobs", "g", handler, workers=2, stop=stop, retry_after=0)

    assert asyncio.run(run()) == 3, "EveryEntryAcked"
    assert seen == {b"one": 1, b"two": 2, b"three": 1}, "NothingSkipped"


def test_workers_give_back_what_they_have_not_begun_when_they_are_stopped(node: FakeNode) -> None:
    stop = threading.Event()
    with Client(node.address) as client:
        done = client.consume("jobs", "g", lambda delivery: stop.set(), workers=1, stop=stop)
        assert done == 1, "EveryEntryAcked"
        assert [left.payload for left in client.receive_many("jobs", "g", 9)] == [b"two", b"three"], (
            "EveryEntryAcked: what was not begun stays out"
        )


@pytest.mark.timeout(60)
def test_ctrl_c_while_workers_are_started_ends_them(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            super().submit(*args, **kwargs)
            begun.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(consuming, "ThreadPoolExecutor", Interrupted)
    with Client(node.address) as client, pytest.raises(KeyboardInterrupt):
        client.consume("jobs", "g", lambda delivery: begun.set(), workers=1)


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal goes to one thread here")
def test_ctrl_c_that_does_not_end_the_wait_for_workers_is_seen_all_the_same(node: FakeNode) -> None:
    """Like one that comes just before the wait: the system call that the main thread is in goes on."""

    def handler(delivery: Delivery) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with Client(node.address) as client, pytest.raises(KeyboardInterrupt):
        client.consume("jobs", "g", handler, workers=1)


def test_an_error_that_stays_ends_the_workers(node: FakeNode) -> None:
    with Client(node.address) as client, pytest.raises(UnknownTopic):
        client.consume("nothing", "g", lambda delivery: None)


def test_workers_wait_out_a_failover(node: FakeNode) -> None:
    stop = threading.Event()
    node.script += [Say(protocol.error(errors.OWNER_UNREACHED)), Close(done=False)]

    def handler(delivery: Delivery) -> None:
        if delivery.payload == b"three":
            stop.set()

    with Client(node.address) as client:
        assert client.consume("jobs", "g", handler, workers=1, stop=stop) == 3, "EveryEntryAcked"
