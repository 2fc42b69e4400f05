"""Client connections against a node that is not there: order of replies, limits, and hostile clients."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from walrus import protocol
from walrus.broker.access import Access, Principal
from walrus.credentials import digest_of, drawn
from walrus.protocol import Get, Put, Request
from walrus.shell.client_connections import ClientConnection, ClientServer, Limits, Slot

PATIENCE = 120.0


def frames(*bodies: bytes) -> bytes:
    """These bodies, each with its length in front."""
    return b"".join(struct.pack("<I", len(body)) + body for body in bodies)


class Handler:
    """Keeps what arrives; ends turns like the node does."""

    def __init__(self) -> None:
        self.server: ClientServer
        self.slots: deque[tuple[Slot, Request]] = deque()
        self.answer: Callable[[Slot, Request], None] | None = None
        self.turns = 0

    def on_request(self, slot: Slot, request: Request) -> None:
        if self.answer is None:
            self.slots.append((slot, request))
        else:
            self.answer(slot, request)

    def wake(self) -> None:
        self.turns += 1
        asyncio.get_running_loop().call_soon(self.server.flush)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def receive(self) -> bytes:
        (length,) = struct.unpack("<I", await self.reader.readexactly(4))
        return await self.reader.readexactly(length)

    def send(self, *bodies: bytes) -> None:
        self.writer.write(frames(*bodies))


Scenario = Callable[[Handler, Callable[[], Awaitable[Client]]], Awaitable[None]]


def play(scenario: Scenario, access: Access | None = None, **limits: Any) -> None:
    """Run a scenario against a server with these limits."""

    async def run() -> None:
        handler = Handler()
        server = handler.server = ClientServer(handler, Limits(**limits), access=access)
        await server.listen("127.0.0.1", 0)
        port = server.listener.port
        clients = []

        async def connect() -> Client:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            clients.append(client)
            return client

        try:
            async with asyncio.timeout(PATIENCE):
                await scenario(handler, connect)
        finally:
            server.stop()
            for client in clients:
                client.writer.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is true; the scenario's timeout is the deadline."""
    while not condition():
        await asyncio.sleep(0)


def test_replies_leave_in_the_order_of_the_requests_however_they_are_answered() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"PUT a 1", b"PUT a 2", b"GET b", b"STATE c")
        await until(lambda: len(handler.slots) == 3)
        (put, _), (get, _), (state, _) = handler.slots
        state.reply(protocol.json_reply("{}"), 1)
        get.reply(protocol.ok(b"x"), 1)
        put.reply(protocol.OK, 1)
        put.reply(protocol.error("full"), 1)
        assert [await client.receive() for _ in range(4)] == [b"OK", b"ERR full", b"OK x", b"{}"]

    play(scenario)


def test_a_request_waits_for_those_of_another_kind_for_its_topic_and_for_no_others() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"REGISTER a", b"REGISTER b", b"PUT a 1", b"PUT a 2", b"GET a", b"GET a", b"METRICS")
        steps = [["Register", "Register"], ["Put"], ["Get"], ["Metrics"]]
        for step in steps:
            await until(lambda step=step: len(handler.slots) >= len(step))
            assert [type(request).__name__ for _, request in handler.slots] == step
            slots, handler.slots = handler.slots, deque()
            for slot, request in slots:
                slot.reply(protocol.OK * request.replies, request.replies)
        assert [await client.receive() for _ in range(7)] == [b"OK"] * 7
        assert handler.server.in_flight == 0

    play(scenario)


def test_a_turn_is_one_write_for_all_that_it_answered() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(*[b"PUT a %d" % n for n in range(100)])
        await until(lambda: len(handler.slots) == 1)
        slot, request = handler.slots[0]
        assert isinstance(request, Put) and request.batch.count == 100
        for _ in range(100):
            slot.reply(protocol.OK, 1)
        assert handler.turns == 1
        assert {await client.receive() for _ in range(100)} == {b"OK"}

    play(scenario)


def test_an_unreadable_length_is_answered_after_everything_before_it_and_ends_the_connection() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.writer.write(frames(b"PUT a 1") + b"GET / HTTP/1.1\r\n\r\n" + frames(b"PUT a 2"))
        await until(lambda: len(handler.slots) == 1)
        handler.slots[0][0].reply(protocol.OK, 1)
        assert await client.receive() == b"OK"
        assert (await client.receive()).startswith(b"ERR invalid frame length")
        assert await client.reader.read() == b""
        assert len(handler.slots) == 1

    play(scenario)


def test_a_client_that_hangs_up_its_sending_side_is_still_answered() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"PUT a 1")
        client.writer.write_eof()
        await until(lambda: len(handler.slots) == 1)
        assert handler.slots[0][0].connection.open, "it sends nothing more, and still waits"
        handler.slots[0][0].reply(protocol.OK, 1)
        assert await client.reader.read() == frames(b"OK")

    play(scenario)


def test_answers_to_a_client_that_is_gone_are_dropped_and_its_share_is_given_back() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"PUT a 1", b"GET b")
        await until(lambda: len(handler.slots) == 2)
        handle = client.writer.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        client.writer.transport.abort()
        await until(lambda: not handler.server.connections)
        for slot, _ in handler.slots:
            assert not slot.connection.open, "a PUT that waits would be written for no client"
            slot.reply(protocol.OK, 1)
        await until(lambda: not handler.server.dirty)
        assert handler.server.in_flight == 0

    play(scenario)


def test_requests_beyond_the_limit_wait_and_the_socket_is_not_read() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        entry = b"PUT a " + b"x" * 1000
        client.send(*[body for _ in range(50) for body in (entry, b"STATE a")])
        await until(lambda: len(handler.slots) >= 1)
        answered = most = 0
        while answered < 100:
            await until(lambda: bool(handler.slots))
            most = max(most, handler.server.in_flight)
            slot, request = handler.slots.popleft()
            slot.reply(protocol.OK * request.replies, request.replies)
            answered += request.replies
        assert most < 10_000 + 2_000
        assert [await client.receive() for _ in range(100)] == [b"OK"] * 100

    play(scenario, connection_in_flight=10_000, max_frame_bytes=2_000)


def test_a_long_run_of_reads_is_handed_on_in_pieces() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        counts = []

        def answer(slot: Slot, request: Request) -> None:
            assert isinstance(request, Get)
            counts.append(request.count)
            slot.reply(protocol.EMPTY * request.count, request.count)

        handler.answer = answer
        client = await connect()
        client.send(*[b"GET a"] * 1000)
        assert [await client.receive() for _ in range(1000)] == [b"EMPTY"] * 1000
        assert max(counts) <= 64

    play(scenario, connection_in_flight=64 * 65_536)


def test_ten_thousand_tiny_requests_are_started_a_few_per_turn() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        started = []

        def answer(slot: Slot, request: Request) -> None:
            started.append(handler.turns)
            slot.reply(protocol.OK, 1)

        handler.answer = answer
        clients = [await connect() for _ in range(4)]
        for _ in range(50):
            for client in clients:
                client.send(*[b"STATE a", b"METRICS"] * 25)
        for client in clients:
            assert {await client.receive() for _ in range(2_500)} == {b"OK"}
        assert max(started.count(turn) for turn in set(started)) <= 128, "the limit of a turn"

    play(scenario)


def test_a_client_that_asks_much_keeps_no_other_one_out_of_the_next_turn() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        asked: list[Request] = []

        def answer(slot: Slot, request: Request) -> None:
            asked.append(request)
            slot.reply(protocol.OK, 1)

        handler.answer = answer
        greedy, modest = await connect(), await connect()
        greedy.send(*[b"STATE a", b"METRICS"] * 5_000)
        await until(lambda: len(asked) >= 128)
        modest.send(b"STATE b")
        assert await modest.receive() == b"OK"
        assert len(asked) < 5_000, "the limit of a turn"

    play(scenario)


def test_a_slow_reader_stops_its_own_requests_and_nobody_elses() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        def answer(slot: Slot, request: Request) -> None:
            slot.reply(protocol.ok(b"x" * 60_000) * request.replies, request.replies)

        handler.answer = answer
        slow, quick = await connect(), await connect()
        for _ in range(40):
            slow.send(*[b"GET a"] * 100)
        await until(lambda: handler.server.unsent > 0)
        for _ in range(20):
            quick.send(b"GET a")
            assert await quick.receive() == b"OK " + b"x" * 60_000
        assert handler.server.unsent < 20 << 20
        assert [len(await slow.receive()) for _ in range(4000)] == [60_003] * 4000

    play(scenario, connection_in_flight=1 << 20)


def test_a_reader_that_never_reads_is_dropped() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(
            protocol.ok(b"x" * 60_000) * request.replies, request.replies
        )
        client = await connect()
        client.writer.transport.pause_reading()
        client.send(*[b"GET a"] * 1000)
        await until(lambda: handler.server.unsent > 0)
        await until(lambda: handler.server.sweep() or not handler.server.connections)
        assert handler.server.unsent == 0

    play(scenario, stall=0.01)


def test_the_largest_hoarder_goes_when_all_together_hold_too_much() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(
            protocol.ok(b"x" * 60_000) * request.replies, request.replies
        )
        for _ in range(12):
            client = await connect()
            client.writer.transport.pause_reading()
            client.send(*[b"GET a"] * 256)
        await until(lambda: len(handler.server.connections) < 12)
        assert handler.server.unsent <= 16 << 20

    play(scenario, max_unsent=16 << 20)


def test_what_a_slow_reader_is_answered_after_it_fell_behind_counts_too() -> None:
    """A long run of reads is answered in many parts, and the client does not take the first one."""

    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        for _ in range(4):
            client = await connect()
            client.writer.transport.pause_reading()
            client.send(*[b"GET a"] * 256)
        await until(lambda: len(handler.slots) == 4)
        for _ in range(256):
            for slot, _request in handler.slots:
                slot.reply(protocol.ok(b"x" * 60_000), 1)
            for _ in range(3):
                await asyncio.sleep(0)
            held = sum(c._transport.get_write_buffer_size() for c in handler.server.connections)
            assert held <= (16 << 20) + (1 << 20)
        assert len(handler.server.connections) < 4

    play(scenario, max_unsent=16 << 20)


def test_half_a_frame_and_silence_is_dropped_but_not_a_slow_whole_one() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(protocol.OK, 1)
        half, idle = await connect(), await connect()
        half.writer.write(frames(b"PUT a 1") + struct.pack("<I", 100) + b"PUT a")
        idle.send(b"PUT a 2")
        assert await half.receive() == b"OK"
        assert await idle.receive() == b"OK"
        await until(lambda: handler.server.sweep() or len(handler.server.connections) == 1)
        assert await half.reader.read() == b""
        idle.send(b"PUT a 3")
        assert await idle.receive() == b"OK"

    play(scenario, half_frame=0.01)


def test_a_connection_without_an_identity_has_a_few_seconds_and_one_with_has_all_the_time() -> None:
    token = drawn()
    access = Access({"me": Principal("me", digest_of(token), ("write",))})

    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(protocol.OK, 1)
        silent, refused, known = await connect(), await connect(), await connect()
        refused.send(b"PUT a 1")
        known.send(b"AUTH " + token.encode(), b"PUT a 2")
        assert (await refused.receive()).startswith(b"ERR unauthenticated: ")
        assert [await known.receive(), await known.receive()] == [b"OK", b"OK"]
        await until(lambda: handler.server.sweep() or len(handler.server.connections) == 1)
        assert [await silent.reader.read(), await refused.reader.read()] == [b"", b""]
        known.send(b"PUT a 3")
        assert await known.receive() == b"OK"

    play(scenario, access, unidentified=0.01)


def test_half_frames_that_are_too_many_together_have_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        server, began = handler.server, ClientServer.now(handler.server)
        clients = [await connect() for _ in range(2)]
        for number, client in enumerate(clients, 1):
            client.writer.write(struct.pack("<I", 100) + b"PUT a half")
            await until(lambda number=number: len(server._half) == number)
            monkeypatch.setattr(server, "now", lambda: began + 10.0)  # past the second, within the sixty
            server.sweep()
            monkeypatch.setattr(server, "now", lambda: began)
            dropped = [connection for connection in server.connections if not connection.open]
            assert len(dropped) == (0 if number == 1 else 2), "28 bytes are too many together"

    play(scenario, half_frame=60.0, max_half_frames=20)


def test_one_connection_too_many_is_closed_on_arrival() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(protocol.OK, 1)
        kept = [await connect() for _ in range(3)]
        for client in kept:
            client.send(b"REGISTER a")
            assert await client.receive() == b"OK"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await (await connect()).receive()
        kept[0].writer.close()
        await until(lambda: len(handler.server.connections) == 2)
        client = await connect()
        client.send(b"REGISTER a")
        assert await client.receive() == b"OK"

    play(scenario, max_connections=3)


def test_silent_connections_make_room_for_a_client_that_has_something_to_say() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(protocol.OK, 1)
        first = await connect()
        first.send(b"REGISTER a")
        assert await first.receive() == b"OK"
        silent = [await connect() for _ in range(2)]
        await until(lambda: len(handler.server.connections) == 3)
        for _ in range(5):
            client = await connect()
            client.send(b"REGISTER a")
            assert await client.receive() == b"OK"
            client.writer.close()
            await client.writer.wait_closed()
        assert await silent[0].reader.read() == b""
        first.send(b"REGISTER a")
        assert await first.receive() == b"OK", "whoever spoke stays"

    play(scenario, max_connections=3)


def test_many_tiny_requests_count_for_what_they_cost() -> None:
    """One byte each, and every second one for another topic, so that no two of them are one request."""

    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(*[b"PUT a x", b"PUT b x"] * 5_000)
        seen = -1
        while seen < len(handler.slots) or not handler.slots:
            seen = len(handler.slots)
            for _ in range(100):
                await asyncio.sleep(0)
        assert len(handler.slots) * 300 < 100_000 + 300

    play(scenario, connection_in_flight=100_000)


def test_the_total_in_flight_is_shared_in_order_of_arrival() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        clients = [await connect() for _ in range(8)]
        for client in clients:
            client.send(b"GET a", b"STATE a", b"GET a")
        await until(lambda: len(handler.slots) >= 2)
        served = 0
        while served < 24:
            await until(lambda: bool(handler.slots))
            assert handler.server.in_flight <= 3 * 65_536
            slot, request = handler.slots.popleft()
            slot.reply(protocol.EMPTY * request.replies, request.replies)
            served += request.replies
        for client in clients:
            assert [await client.receive() for _ in range(3)] == [b"EMPTY"] * 3

    play(scenario, max_in_flight=3 * 65_536)


def test_what_a_client_has_been_answered_leaves_room_for_the_next_answers() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        handler.answer = lambda slot, request: slot.reply(protocol.ok(b"x" * 60) * request.replies, 1)
        client = await connect()
        for _ in range(20):
            client.send(b"STATE a")
            await client.receive()
            (connection,) = handler.server.connections
            assert connection._room(), "EveryRequestAnswered: what was written counts as waiting to be"

    play(scenario, connection_in_flight=500)


def test_a_piece_of_a_run_of_reads_weighs_what_it_may_be_answered_with() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(*[b"GET a"] * 1000)
        await until(lambda: bool(handler.slots))
        limits = handler.server.limits
        assert handler.server.in_flight <= limits.connection_in_flight, (
            "BoundsHold: one client's run takes the room of all clients"
        )

    play(scenario, connection_in_flight=64 * 65_536)


def test_requests_of_a_client_that_was_dropped_are_not_started_when_their_turn_comes() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        first, second = await connect(), await connect()
        first.send(b"STATE a")
        await until(lambda: len(handler.slots) == 1)
        second.send(b"PUT a 1")
        await until(lambda: bool(handler.server.queue))
        handler.server.queue[0].abort()  # its token is not valid any more, for example
        await until(lambda: len(handler.server.connections) == 1)
        handler.slots[0][0].reply(protocol.OK, 1)
        await until(lambda: not handler.server.queue)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(handler.slots) == 1, (
            "OnlyWhatWasMeant: a PUT is written for a client that was dropped before"
        )

    play(scenario, max_in_flight=1000)


def test_each_of_several_newcomers_in_one_pass_makes_another_silent_one_go() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        server = handler.server
        newcomers, most = [ClientConnection(server) for _ in range(6)], 0
        for newcomer in newcomers:
            assert server.admit(newcomer)
            most = max(most, len(server.connections))
        left = list(server.connections)
        server.connections.clear()
        assert most == 2, "BoundsHold: more connections than there may be"
        assert left == newcomers[-2:], "BoundsHold: not the oldest makes room"

    play(scenario, max_connections=2)


def test_what_connections_hold_is_counted_once_and_given_back_with_them() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        server = handler.server
        one, other = ClientConnection(server), ClientConnection(server)
        for connection in (one, other):
            server.note_half(connection, 100, progress=False)
            server.note_half(connection, 150, progress=False)
            server.stalled(connection, 400)
            server.stalled(connection, 450)
        assert (server._half_bytes, server.unsent) == (300, 900), "BoundsHold: bytes are counted twice"
        server.forget(one)
        assert (server._half_bytes, server.unsent) == (150, 450), "BoundsHold: bytes of a client that is gone"
        server.stalled(other, 1_100)
        assert server.unsent == 0, (
            "BoundsHold: a client that is dropped counts until its connection has ended"
        )

    play(scenario, max_unsent=1000)


def test_a_client_whose_requests_arrive_whole_has_the_full_time_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        server, now = handler.server, [0.0]
        monkeypatch.setattr(server, "now", lambda: now[0])
        connection = ClientConnection(server)
        for _ in range(5):
            server.note_half(connection, 10, progress=True)  # a whole request, and the beginning of the next
            now[0] += 0.9
            server.sweep()
        assert connection.half_since == pytest.approx(now[0] - 0.9), (
            "EveryRequestAnswered: a client that sends all the time is dropped"
        )

    play(scenario, half_frame=1.0)


def test_a_stop_answers_what_was_accepted_and_closes() -> None:
    async def scenario(handler: Handler, connect: Callable[[], Awaitable[Client]]) -> None:
        client = await connect()
        client.send(b"PUT a 1")
        await until(lambda: len(handler.slots) == 1)
        handler.server.stop()
        assert not handler.server.settled
        client.send(b"PUT a 2")
        handler.slots[0][0].reply(protocol.OK, 1)
        assert await client.receive() == b"OK"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.receive()
        assert handler.server.settled
        assert len(handler.slots) == 1

    play(scenario)
