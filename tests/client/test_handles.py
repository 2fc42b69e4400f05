"""What a client goes through besides calls: forks, loops, other threads, signals, interrupts, deadlines.

After each of them the same must hold: a later call gets the answer to its own request, the node got each
request at most once, and no call takes much longer than its timeout.
"""

from __future__ import annotations

import asyncio
import json
import linecache
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from tests.client.faces import MakeClient
from tests.client.fake import SERVE, FakeNode, MemoryLog, Silence, free_port
from walrus import protocol
from walrus.client import AsyncClient, Client, OutcomeUnknown, TimedOut, Unreachable, WalrusError, names

TWO_TOPICS = {"p": [[b"p%d" % n for n in range(100)]], "q": [[b"q%d" % n for n in range(100)]]}


def in_child(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run `work` in a forked child that ends without cleaning up; returns how to wait for its result."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(120)
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.close(write)

    def result() -> Any:
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return json.loads(text)

    return result


def raw_connection(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(120)
    return connection


@contextmanager
def deaf_host(monkeypatch: pytest.MonkeyPatch, addresses: int) -> Iterator[str]:
    """A name with addresses where connecting takes for ever: the queues of their listeners are full."""
    sockets: list[socket.socket] = []
    for _ in range(addresses):
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        sockets.append(listener)
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            sockets.append(filler)
    ends = [names.Endpoint(socket.AF_INET, one.getsockname()) for one in sockets[::4]]
    monkeypatch.setattr(names, "_look_up", lambda host, port: ends)
    yield "dead.example:9091"
    for one in sockets:
        one.close()


def seconds_of(call: Callable[[], Any]) -> tuple[float, BaseException | None]:
    begin = time.monotonic()
    try:
        call()
    except WalrusError as error:
        return time.monotonic() - begin, error
    return time.monotonic() - begin, None


# --- forks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12 about forking beside threads
def test_children_and_their_parent_each_get_their_own_answers() -> None:
    with FakeNode(log=MemoryLog(topics=dict(TWO_TOPICS))) as node, Client(node.address) as client:
        client.metrics()

        def read(topic: str) -> Callable[[], Any]:
            return lambda: [(client.fetch(topic, 1, n) or b"").decode() for n in range(100)]

        children = [in_child(read(topic)) for topic in "pq"]
        assert [read("p")(), *(child() for child in children)] == [
            [entry.decode() for entry in TWO_TOPICS[topic][0]] for topic in "ppq"
        ], "AnsweredInOrder: two processes read one connection"
        assert node.connections == 3, "the parent goes on with its own"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_async_client_works_on_both_sides_of_a_fork() -> None:
    with FakeNode(log=MemoryLog(topics=dict(TWO_TOPICS))) as node:
        client = AsyncClient(node.address)

        async def read(topic: str) -> list[str]:
            found = await asyncio.gather(*[client.fetch(topic, 1, n) for n in range(100)])
            return [(entry or b"").decode() for entry in found]

        loop = asyncio.new_event_loop()
        before = loop.run_until_complete(read("p"))
        child = in_child(lambda: asyncio.run(read("q")))
        assert child() == [entry.decode() for entry in TWO_TOPICS["q"][0]], "AnsweredInOrder"
        assert loop.run_until_complete(read("p")) == before, (
            "AnsweredInOrder: the child left the parent's selector alone"
        )
        assert node.connections == 2
        loop.run_until_complete(client.close())
        loop.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_idle_child_does_not_keep_its_parent_s_connection_open() -> None:
    gate, opened = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=1.0)
        with pytest.raises(TimedOut):
            client.metrics()
        listener.accept()[0].close()
        answered = threading.Thread(target=lambda: client.register("t", timeout=120))
        answered.start()
        with raw_connection(listener) as connection:
            connection.recv(100)
            connection.sendall(protocol.OK * 2)  # to HELLO, and to REGISTER
            answered.join()
            child = in_child(lambda: os.read(gate, 1).decode())
            client.close()
            assert connection.recv(100) == b"", "the end of the parent's connection arrives"
            os.write(opened, b"x")
            assert child() == "x"
    os.close(gate)
    os.close(opened)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_a_process_whose_other_thread_was_in_a_call_is_not_held_up() -> None:
    with FakeNode([Silence()]) as deaf, FakeNode(log=MemoryLog(topics=dict(TWO_TOPICS))) as node:
        client = Client([deaf.address, node.address], timeout=60)
        stuck = threading.Thread(target=lambda: seconds_of(lambda: client.put("p", b"x")))
        stuck.start()
        while not deaf.seen:
            os.sched_yield()
        client._addresses.leave(deaf.address)
        assert in_child(lambda: (client.fetch("q", 1, 0) or b"").decode())() == "q0", "AnsweredInOrder"
        client.close()
        stuck.join()


# --- event loops


def test_a_client_works_in_one_event_loop_after_another() -> None:
    with FakeNode() as node:
        client = AsyncClient(node.address)

        async def work(payload: bytes) -> bytes | None:
            await client.register("t")
            await client.put("t", payload)
            return await client.get("t")

        assert [asyncio.run(work(b"%d" % n)) for n in range(3)] == [b"0", b"1", b"2"]
        assert (len(node.seen), node.connections) == (9, 3)
        asyncio.run(client.close())


def test_a_loop_that_was_set_aside_goes_on_after_another_used_the_client() -> None:
    with FakeNode() as node:
        client = AsyncClient(node.address)
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        for loop in (first, second, first, second):
            assert loop.run_until_complete(client.metrics())["id"] == 1
        second.run_until_complete(client.close())
        first.run_until_complete(asyncio.sleep(0))
        first.close()
        second.close()


def test_a_second_loop_at_the_same_time_is_refused_before_anything_is_sent() -> None:
    async def outer(node: FakeNode) -> None:
        client = AsyncClient(node.address)
        await client.metrics()
        for call in (client.metrics, client.close):
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, call())
        await client.metrics()
        await client.close()

    with FakeNode() as node:
        asyncio.run(outer(node))
        assert (len(node.seen), node.connections) == (2, 1)


# --- calls that are given up


def test_cancelling_many_calls_is_as_cheap_as_making_them() -> None:
    """It takes the processor a second, and took it a minute: each cancelled call looked at all others."""
    began = time.process_time()

    async def scenario(node: FakeNode) -> int:
        async with AsyncClient(node.address, timeout=120) as client:
            await client.register("t")
            tasks = [asyncio.create_task(client.get("t")) for _ in range(5_000)]
            while client._link is None or len(client._link._pipeline._owed) < 5_000:
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await client.metrics()
            return sum(isinstance(result, asyncio.CancelledError) for result in results)

    with FakeNode([SERVE, Silence()]) as node:
        assert asyncio.run(scenario(node)) == 5_000
    assert time.process_time() - began < 20


def test_a_connection_that_breaks_after_a_cancelled_call_tells_the_others_at_once() -> None:
    async def scenario() -> tuple[list[Any], list[Any]]:
        unhandled: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        broken = asyncio.Event()

        async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await broken.wait()
            writer.close()

        server = await asyncio.start_server(node, "127.0.0.1", 0)
        client = AsyncClient(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=600)
        tasks = [asyncio.create_task(client.put("t", b"%d" % n)) for n in range(3)]
        tasks.append(asyncio.create_task(client.get_many("t", 1000)))
        while client._link is None or client._link._pipeline.idle:
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        broken.set()
        async with asyncio.timeout(120):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        server.close()
        return results, unhandled

    (cancelled, *others), unhandled = asyncio.run(scenario())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [type(other) for other in others] == [OutcomeUnknown] * 3, "AnswersAreTrue"
    assert unhandled == []


@pytest.mark.parametrize("call", [lambda c: c.put("t", b"x"), lambda c: c.put_many("t", [b"x"] * 1000)])
def test_close_in_another_thread_ends_a_call(call: Callable[[Client], Any]) -> None:
    with FakeNode([Silence()]) as node:
        client = Client(node.address, timeout=600)
        told: list[Any] = []

        def work() -> None:
            try:
                told.append(call(client))
            except WalrusError as error:
                told.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while not node.seen:
            os.sched_yield()
        client.close()
        thread.join(120)
        first = told[0][0] if isinstance(told[0], list) else told[0]
        assert isinstance(first, OutcomeUnknown)
        assert client.metrics()["id"] == 1, "a later call opens another connection"
        client.close()


def test_close_while_others_call_without_end_loses_nobody() -> None:
    with FakeNode(log=MemoryLog(topics=dict(TWO_TOPICS))) as node:
        client = Client(node.address, timeout=20)
        wrong: list[Any] = []
        go_on = threading.Event()

        def read(topic: str) -> None:
            done = 0
            while done < 50 or not go_on.is_set():
                try:
                    found = client.fetch(topic, 1, done % 100)
                except Unreachable:
                    continue  # closed under it
                if found != TWO_TOPICS[topic][0][done % 100]:
                    wrong.append(found)
                done += 1

        threads = [threading.Thread(target=read, args=(topic,)) for topic in "pqpq"]
        for thread in threads:
            thread.start()
        for _ in range(50):
            client.close()
            os.sched_yield()
        go_on.set()
        for thread in threads:
            thread.join()
        client.close()
        assert wrong == [], "AnsweredInOrder"


def test_close_in_another_task_ends_a_call() -> None:
    async def scenario(node: FakeNode) -> None:
        client = AsyncClient(node.address, timeout=600)
        task = asyncio.create_task(client.put("t", b"x"))
        while not node.seen:
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(OutcomeUnknown):
            async with asyncio.timeout(120):
                await task
        assert (await client.metrics())["id"] == 1
        await client.close()

    with FakeNode([Silence()]) as node:
        asyncio.run(scenario(node))


# --- signals and interrupts


class Interrupt(BaseException):
    """As KeyboardInterrupt, but nothing else can be the cause of it."""


@contextmanager
def raising_at(
    line: int, but: str = "", where: str = "/walrus/client/", error: type[BaseException] = Interrupt
) -> Iterator[list[int]]:
    """Raise at the `line`-th traced line of the code `where`, once; yields the count of lines so far.

    Lines that begin with `but` and the one behind it do not count.
    """
    seen = [0]

    def counts(frame: FrameType) -> bool:
        lines = [linecache.getline(frame.f_code.co_filename, frame.f_lineno - back) for back in (0, 1)]
        return not but or not any(text.strip().startswith(but) for text in lines)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if where not in frame.f_code.co_filename:
            return None
        if event == "line" and counts(frame):
            seen[0] += 1
            if seen[0] == line:
                raise error
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def test_an_exception_at_any_line_of_a_call_leaves_the_client_usable() -> None:
    log = MemoryLog(topics={**TWO_TOPICS, "t": [[]]}, segment_entries=10**6)
    with FakeNode(log=log) as node, Client(node.address, timeout=20) as client:
        line, interrupted = 1, True
        while interrupted:
            interrupted = False
            client.fetch("p", 1, line % 100)
            with raising_at(line):
                try:
                    client.put_many("t", [b"%d" % line, b"again"])
                except Interrupt:
                    interrupted = True
            for n in range(3):
                assert client.fetch("q", 1, n) == b"q%d" % n, f"AnsweredInOrder: interrupted at line {line}"
            line += 1
        assert line > 50, "the trace saw the call"
        entries = log.topics["t"][0]
        assert len(entries) == 2 * len({entry for entry in entries if entry != b"again"}), (
            "NoDuplicate: twice or half"
        )


def test_a_signal_handler_that_raises_ends_the_call_and_no_other() -> None:
    with FakeNode([SERVE, Silence()], log=MemoryLog(topics=dict(TWO_TOPICS))) as node:
        client = Client(node.address, timeout=600)
        client.metrics()

        def handler(number: int, frame: FrameType | None) -> None:
            raise Interrupt

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            main = threading.main_thread().ident
            assert main is not None

            def knock() -> None:
                while len(node.seen) < 2:
                    os.sched_yield()
                signal.pthread_kill(main, signal.SIGUSR1)

            threading.Thread(target=knock).start()
            with pytest.raises(Interrupt):
                client.fetch("p", 1, 0)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert client.fetch("q", 1, 1) == b"q1", "AnsweredInOrder"
        client.close()


def test_a_signal_handler_may_use_the_client_that_it_interrupts() -> None:
    with FakeNode(log=MemoryLog(topics=dict(TWO_TOPICS))) as node:
        client = Client(node.address, timeout=20)
        in_handler: list[bytes | None] = []

        def handler(number: int, frame: FrameType | None) -> None:
            in_handler.append(client.fetch("q", 1, 7))

        before = signal.signal(signal.SIGALRM, handler)
        try:
            for n in range(100):
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + n / 1e5)
                assert client.fetch("p", 1, n) == b"p%d" % n, "AnsweredInOrder"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        client.close()
        assert in_handler and set(in_handler) == {b"q7"}, "AnsweredInOrder"


# --- deadlines


def test_threads_that_share_a_client_do_not_wait_for_each_other() -> None:
    with FakeNode([Silence()] * 8) as node:
        client = Client(node.address, timeout=2.0)
        took: list[float] = []
        threads = [
            threading.Thread(target=lambda: took.append(seconds_of(lambda: client.get("t"))[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
        assert len(took) == 8 and max(took) < 8 * 2.0 / 2


def test_the_time_to_connect_counts(connect: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf_host(monkeypatch, 40) as name:
        took, error = seconds_of(lambda: connect(name, timeout=0.4).put("t", b"x"))
        assert isinstance(error, Unreachable) and took < 40 * 0.4 / 2


def test_an_address_that_is_dead_leaves_time_for_its_neighbour(
    connect: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeNode() as node, deaf_host(monkeypatch, 3) as name:
        ends = [*names._look_up("", 0), names.Endpoint(socket.AF_INET, ("127.0.0.1", node.port))]
        monkeypatch.setattr(names, "_look_up", lambda host, port: ends)
        assert connect(name, timeout=4.0).metrics()["id"] == 1


def test_a_resolver_that_does_not_answer_costs_one_thread_and_no_time(
    connect: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def silent(host: str, port: int) -> list[names.Endpoint]:
        answer.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(names, "_look_up", silent)
    threads = threading.active_count()
    client = connect("silent.example:9091", timeout=0.2)
    try:
        for _ in range(4):
            took, error = seconds_of(lambda: client.put("t", b"x"))
            assert isinstance(error, Unreachable) and took < 5
        assert threading.active_count() <= threads + 1
    finally:
        answer.set()


def test_an_event_loop_ends_although_the_resolver_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def silent(host: str, port: int) -> list[names.Endpoint]:
        answer.wait(60)
        return []

    monkeypatch.setattr(names, "_look_up", silent)

    async def scenario() -> None:
        with pytest.raises(Unreachable):
            await AsyncClient("silent.example:9091", timeout=0.1).metrics()

    try:
        took, _ = seconds_of(lambda: asyncio.run(scenario()))
        assert took < 30
    finally:
        answer.set()


@pytest.mark.parametrize("host", ["ü" * 63, "xn--", "a." * 200 + "a", "no-such-name.invalid"])
def test_a_host_that_is_no_name_is_not_reached(connect: MakeClient, host: str) -> None:
    with pytest.raises(Unreachable):
        connect(f"{host}:9091", timeout=0.3).metrics()


def test_a_port_that_connects_to_itself_is_not_a_node(
    connect: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket

    class Unlucky(real):  # type: ignore[misc, valid-type]
        """The kernel gave it the very port that it connects to."""

        def connect(self, address: Any) -> None:
            self.bind(("127.0.0.1", 0))
            super().connect(self.getsockname())

    monkeypatch.setattr(socket, "socket", Unlucky)
    with pytest.raises(Unreachable, match="nothing listens"):
        connect(f"127.0.0.1:{free_port()}", timeout=1).metrics()
