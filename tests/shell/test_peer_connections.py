"""Peer connections on their own: the handshake, who is refused, and how a death is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from tests.node.harness import free_port
from walrus.broker.handshake import (
    MAX_ADDRESS,
    MAX_ID,
    MAX_NODE_ID,
    VERSION,
    shape_flaw,
)
from walrus.protocol import PeerCodec
from walrus.shell import seeking
from walrus.shell.joining import ask_to_join
from walrus.shell.peer_connections import (
    MAX_UNSENT,
    STRANGER_FRAME,
    PeerConnections,
    PeerLink,
    PeerSession,
    Trust,
)
from walrus.shell.seeking import Seeker
from walrus.wire.messages import ANY_NODE, Fence, Hello, HelloReply, Join, JoinReply, PeerMessage

PATIENCE = 120.0
CODEC: PeerCodec[PeerMessage] = PeerCodec(PeerMessage)
MESSAGE = Fence(topic="t", segment=1)


class Host:
    """A node reduced to its peer connections; notes what it is told."""

    def __init__(
        self,
        node_id: int,
        cluster_id: str = "c",
        incarnation: int = 1,
        max_strangers: int = 256,
        secret: bytes = b"",
    ) -> None:
        self.node_id, self.cluster_id, self.incarnation = node_id, cluster_id, incarnation
        self.events: list[tuple[Any, ...]] = []
        self.callers: list[Hello] = []
        self.port = free_port("127.0.0.1")
        self.peers = PeerConnections(
            self,
            node_id,
            "127.0.0.1",
            CODEC,
            random.Random(node_id),
            max_strangers=max_strangers,
            trust=Trust(secret=secret),
        )

    async def listen(self) -> None:
        await self.peers.listen("127.0.0.1", self.port)

    def dial(self, other: Host) -> None:
        self.peers.connect_to({other.node_id: f"127.0.0.1:{other.port}"})

    def hello_to(self, peer: int) -> Hello:
        return Hello(
            version=VERSION,
            cluster_id=self.cluster_id,
            node_id=self.node_id,
            directory_id=f"d{self.node_id}",
            incarnation=self.incarnation,
            target=peer,
            raft_address=f"127.0.0.1:{self.port}",
        )

    def judge_hello(self, hello: Hello) -> str:
        known = hello.cluster_id == self.cluster_id and hello.target in (self.node_id, ANY_NODE)
        return "" if known else "another cluster"

    def on_caller(self, hello: Hello) -> None:
        self.callers.append(hello)

    def addresses(self) -> dict[int, str]:
        return {self.node_id: f"127.0.0.1:{self.port}", 9: "elsewhere:1"}

    def is_removed(self, hello: Hello) -> bool:
        return hello.cluster_id == "left"

    def is_final(self, hello: Hello) -> bool:
        return self.is_removed(hello)

    def on_refused(self, peer: int, error: str) -> None:
        self.events.append(("refused", peer, error))

    def on_final_refusal(self, peer: int, error: str, removed: bool) -> None:
        self.events.append(("removed" if removed else "outdated", peer, error))

    def on_join(self, join: Join) -> JoinReply:
        self.events.append(("join", join.node_id))
        return JoinReply(done=True, error="", cluster_id=self.cluster_id, addresses={1: "h:1"})

    def on_peer_message(self, sender: int, message: PeerMessage) -> None:
        self.events.append((sender, message))

    def directory_id(self) -> str:
        return f"d{self.node_id}"

    def on_peer_up(self, peer: int, reply: HelloReply) -> None:
        assert reply.directory_id == f"d{peer}", "it says which process it is"
        self.events.append(("up", peer))

    def on_peer_down(self, peer: int, refused: bool) -> None:
        self.events.append(("down", peer, refused))

    async def until(self, *event: Any) -> None:
        """Until this has happened; the scenario's timeout is the deadline."""
        while event not in self.events:
            await asyncio.sleep(0)

    async def connect(self, other: Host) -> None:
        """Dial one that listens, until it is connected."""
        self.dial(other)
        await self.until("up", other.node_id)

    async def reach(self, other: Host) -> None:
        """Send a message, until it has arrived."""
        self.peers.send(other.node_id, MESSAGE)
        self.peers.flush()
        await other.until(self.node_id, MESSAGE)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario to its end, or give up."""

    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario()

    asyncio.run(run())


def test_a_message_arrives_with_its_senders_id() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        await one.connect(two)
        await one.reach(two)
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_nodes_with_one_secret_speak_and_one_with_another_or_none_is_kept_out() -> None:
    async def scenario() -> None:
        secret = b"s" * 40
        one, two = Host(1, secret=secret), Host(2, secret=secret)
        await two.listen()
        await one.connect(two)
        await one.reach(two)
        seen = len(two.callers)
        for stray, error in (
            (Host(3, secret=b"o" * 40), "it does not know the cluster's secret"),
            (Host(3), "this cluster has a secret: start the node with --cluster-secret-file"),
        ):
            stray.dial(two)
            await stray.until("refused", 2, error)
            join = Join(node_id=4, directory_id="d", raft_address="h:1", client_address="h:2")
            at, trust = f"127.0.0.1:{two.port}", stray.peers.trust
            reply = await ask_to_join(at, "127.0.0.1", CODEC, join, PATIENCE, trust)
            assert not reply.done and reply.error == error
            stray.peers.close()
        assert len(two.callers) == seen and ("join", 4) not in two.events
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_a_node_that_is_not_connected_gets_nothing_and_nobody_minds() -> None:
    async def scenario() -> None:
        one = Host(1)
        one.peers.send(2, MESSAGE)
        one.peers.flush()
        one.peers.close()

    play(scenario)


def test_a_closed_connection_is_dialled_again_at_once_and_a_refusal_is_a_death() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        await one.connect(two)
        two.peers.close()
        await one.until("down", 2, False)
        await one.until("down", 2, True)
        assert one.events.count(("down", 2, True)) == 1
        again = Host(2, incarnation=2)
        again.port = two.port
        await again.listen()
        one.events.clear()
        await one.until("up", 2)
        again.peers.close()
        await one.until("down", 2, False)
        while one.peers._dialers[2]._attempt < 3:
            await asyncio.sleep(0)
        assert ("down", 2, True) in one.events, "FailoverProgress: nobody is told of the second death"
        one.peers.close()

    play(scenario)


def test_a_peer_that_accepts_and_says_nothing_is_told_of_in_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("walrus.shell.peer_connections.CONNECT_TIMEOUT", 0.05)

    async def scenario() -> None:
        one, silent = Host(1), Host(2)
        with socket.create_server(("127.0.0.1", silent.port)):
            one.dial(silent)
            while f"cannot reach node 2 at 127.0.0.1:{silent.port}: no answer in time" not in caplog.messages:
                await asyncio.sleep(0)
        one.peers.close()

    play(scenario)


def test_a_connection_whose_answer_is_not_waited_for_any_more_ends() -> None:
    """Its node has another address by now, or is no member: nothing else would close it."""

    async def scenario() -> None:
        said, ended = asyncio.Event(), asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(4)
            said.set()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            ended.set()
            writer.close()

        one, two = Host(1), Host(2)
        async with await asyncio.start_server(silent, "127.0.0.1", two.port):
            one.dial(two)
            await said.wait()
            one.peers.connect_to({})
            await ended.wait()
        one.peers.close()

    play(scenario)


def test_another_cluster_is_refused() -> None:
    async def scenario() -> None:
        one, two = Host(1, cluster_id="mine"), Host(2, cluster_id="theirs")
        await two.listen()
        reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
        writer.write(CODEC.encode(one.hello_to(2)))
        (length,) = struct.unpack("<I", await reader.readexactly(4))
        reply = CODEC.decode(await reader.readexactly(length))
        assert reply.error == "another cluster"  # type: ignore[union-attr]
        assert await reader.read() == b""
        writer.close()
        two.peers.close()

    play(scenario)


def test_a_second_call_of_one_node_replaces_the_first() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
        writer.write(CODEC.encode(one.hello_to(2)))
        await reader.readexactly(4)
        await one.connect(two)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        await one.reach(two)
        assert list(two.peers._sessions) == [1], (
            "OneCall: the end of the first is taken for that of the second"
        )
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_an_accepted_caller_has_all_the_time_and_may_send_large_messages() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        await one.connect(two)
        await one.reach(two)
        assert two.peers._sessions[1]._patience is None, (
            "MessagesArrive: a member is dropped like a stranger, after seconds"
        )
        large = Fence(topic="t" * 2 * STRANGER_FRAME, segment=1)
        one.peers.send(2, large)
        one.peers.flush()
        while (1, large) not in two.events:
            assert ("down", 2, False) not in one.events, (
                "MessagesArrive: a member's is refused like a stranger's"
            )
            await asyncio.sleep(0)
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_of_two_processes_with_one_identity_the_connected_one_is_kept() -> None:
    async def scenario() -> None:
        first, second, two = Host(1, incarnation=5), Host(1, incarnation=6), Host(2)
        await two.listen()
        await first.connect(two)
        second.dial(two)
        await second.until("refused", 2, "another process of node 1 is connected, start 5: only one may run")
        assert ("down", 2, False) not in first.events
        first.peers.close()
        await second.until("up", 2)
        for host in (second, two):
            host.peers.close()

    play(scenario)


@pytest.mark.parametrize("left", [[3], []], ids=["of three", "of two"])
def test_a_node_that_was_removed_is_not_listened_to_any_more(left: list[int]) -> None:
    async def scenario() -> None:
        one, two, three = Host(1), Host(2), Host(3)
        for host in (two, three):
            await host.listen()
        await one.connect(two)
        two.peers.connect_to(dict.fromkeys(left, f"127.0.0.1:{three.port}"))
        await one.until("down", 2, False)
        for host in (one, two, three):
            host.peers.close()

    play(scenario)


def test_messages_before_a_hello_end_the_connection() -> None:
    async def scenario() -> None:
        two = Host(2)
        await two.listen()
        for data in (CODEC.encode(MESSAGE), b"\xff" * 100, b"GET / HTTP/1.0\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            writer.write(data)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert two.events == []
        two.peers.close()

    play(scenario)


def test_a_node_without_a_cluster_asks_and_is_answered() -> None:
    async def scenario() -> None:
        two = Host(2)
        await two.listen()
        join = Join(node_id=4, directory_id="d", raft_address="h:1", client_address="h:2")
        reply = await ask_to_join(f"127.0.0.1:{two.port}", "127.0.0.1", CODEC, join, PATIENCE)
        assert reply.done and reply.cluster_id == "c"
        assert two.events == [("join", 4)]
        two.peers.close()

    play(scenario)


def test_a_node_that_knows_nobodys_id_says_where_it_lives_and_learns_where_others_do() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        ready = asyncio.Event()
        mine = f"127.0.0.1:{one.port}"
        seeker = Seeker(one.peers, [mine, f"127.0.0.1:{two.port}"], mine, ready.is_set)
        task = asyncio.create_task(seeker.run())
        while not two.callers or "elsewhere:1" not in seeker._addresses:
            await asyncio.sleep(0)
        assert (two.callers[0].node_id, two.callers[0].raft_address) == (1, mine)
        assert two.events == [] and not two.peers._sessions, "it was an introduction, no connection"
        ready.set()
        await task
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_a_node_that_seeks_its_cluster_remembers_a_bounded_number_of_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        one, asked = Host(1), 0
        told = HelloReply(error="", cluster_id="c", addresses={n: f"elsewhere:{n}" for n in range(1, 1000)})

        async def introduced(peers: object, hello: object, address: str) -> HelloReply:
            nonlocal asked
            asked += 1
            return told

        monkeypatch.setattr(seeking, "introduced", introduced)
        monkeypatch.setattr(seeking, "PATIENCE", 0.0)
        monkeypatch.setattr(seeking, "FIRST_PAUSE", 0.0)
        seeker = Seeker(one.peers, ["somewhere:1"], "mine:1", lambda: asked > 2 * seeking.MOST_ADDRESSES)
        await seeker.run()
        assert len(seeker._addresses) == seeking.MOST_ADDRESSES
        one.peers.close()

    play(scenario)


def test_an_introduction_is_judged_like_any_call_and_nothing_follows_it() -> None:
    async def scenario() -> None:
        two, theirs = Host(2), Host(1, cluster_id="theirs")
        await two.listen()
        for caller, welcome in ((theirs, False), (Host(1), True)):
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            writer.write(CODEC.encode(caller.hello_to(ANY_NODE)) + CODEC.encode(MESSAGE))
            (length,) = struct.unpack("<I", await reader.readexactly(4))
            reply = CODEC.decode(await reader.readexactly(length))
            assert isinstance(reply, HelloReply)
            assert (reply.error == "", reply.addresses != {}) == (welcome, welcome)
            assert await reader.read() == b""
            writer.close()
        assert two.events == [], "a message behind an introduction is not read"
        assert [hello.node_id for hello in two.callers] == [1]
        two.peers.close()

    play(scenario)


def test_nothing_that_arrives_behind_a_refused_message_is_a_handshake() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
        writer.write(CODEC.encode(MESSAGE) + CODEC.encode(one.hello_to(2)))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert two.callers == [], "SingleWriter: who is refused is accepted all the same"
        writer.close()
        two.peers.close()

    play(scenario)


def test_each_of_several_strangers_in_one_pass_makes_another_one_go() -> None:
    class Session:
        """Only noted to be dropped; its connection ends later."""

        def abort(self) -> None:
            dropped.append(self)

    async def scenario() -> None:
        two = Host(2, max_strangers=2)
        strangers = [Session() for _ in range(5)]
        for stranger in strangers:
            two.peers.admit(cast(PeerSession, stranger))
            assert len(two.peers._strangers) <= 2, "BoundsHold: more strangers than there may be"
        assert dropped == strangers[:3], "BoundsHold: not the oldest, each once"
        two.peers._strangers.clear()
        two.peers.close()

    dropped: list[Session] = []
    play(scenario)


def test_a_peer_that_called_once_is_dialled_without_a_pause_once() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        one.dial(two)
        dialer = one.peers._dialers[2]
        while dialer._attempt < 2:
            await asyncio.sleep(0)
        dialer.hurry()
        before = dialer._attempt
        while dialer._attempt < before + 2:
            await asyncio.sleep(0)
        assert not dialer._hurry.is_set(), "BoundsHold: it is dialled in a busy loop from now on"
        one.peers.close()

    play(scenario)


def test_strangers_are_bounded_in_number_and_keep_no_member_out() -> None:
    """Any process may connect and stay silent; the oldest of them makes room."""

    async def scenario() -> None:
        one, two = Host(1), Host(2, max_strangers=8)
        await two.listen()
        strangers = [await asyncio.open_connection("127.0.0.1", two.port) for _ in range(40)]
        await one.connect(two)
        assert len(two.peers._strangers) <= 8
        assert await strangers[0][0].read() == b"", "the oldest stranger made room"
        await one.reach(two)
        for _, writer in strangers:
            writer.close()
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_a_peer_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Transport:
        """Takes everything and sends nothing on."""

        waiting, aborted = 0, False

        def write(self, data: bytes) -> None:
            self.waiting += len(data)

        def get_write_buffer_size(self) -> int:
            return self.waiting

        def is_closing(self) -> bool:
            return self.aborted

        def abort(self) -> None:
            self.aborted = True

    async def scenario() -> None:
        one = Host(1)
        link, transport = PeerLink(one.hello_to(2), CODEC), Transport()
        monkeypatch.setattr(link, "_transport", transport)
        for size in (MAX_UNSENT // 2, MAX_UNSENT // 2):
            link.queue(bytes(size))
            link.flush()
            assert not transport.aborted
        link.queue(b"x")
        link.flush()
        assert transport.aborted

    play(scenario)


@pytest.mark.parametrize(
    "more",
    [
        {"node_id": MAX_NODE_ID + 1},
        {"directory_id": "d" * (MAX_ID + 1)},
        {"raft_address": "h" * MAX_ADDRESS + ":6000"},
        {"client_address": "h" * MAX_ADDRESS + ":9091"},
    ],
)
def test_a_join_with_an_endless_id_or_address_is_refused(more: dict[str, Any]) -> None:
    join = Join(node_id=MAX_NODE_ID, directory_id="d" * MAX_ID, raft_address="h:1", client_address="h:2")
    assert shape_flaw(join) == ""
    assert shape_flaw(msgspec.structs.replace(join, **more))


@pytest.mark.parametrize("address", ["nonsense", "h:port", "a" * 64 + ":6000", ":6000", "h:0", "h:70000"])
def test_an_address_that_nobody_can_dial_is_refused_for_good(address: str) -> None:
    async def scenario() -> None:
        two = Host(2)
        await two.listen()
        join = Join(node_id=4, directory_id="d", raft_address=address, client_address="h:2")
        reply = await ask_to_join(f"127.0.0.1:{two.port}", "127.0.0.1", CODEC, join, PATIENCE)
        assert reply.final and not reply.done and "HOST:PORT" in reply.error
        assert two.events == []
        two.peers.close()

    play(scenario)


@pytest.mark.parametrize("address", ["nonsense", "a" * 64 + ":6000"])
def test_an_address_that_nobody_can_dial_stops_no_node(address: str) -> None:
    """It may stand in the metadata: then every node would stop, and again after every restart."""

    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
        one.peers.connect_to({3: address, 2: f"127.0.0.1:{two.port}"})
        await one.until("up", 2)
        assert not failed
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_a_connection_that_is_given_up_for_another_address_is_down() -> None:
    async def scenario() -> None:
        one, two = Host(1), Host(2)
        await two.listen()
        await one.connect(two)
        one.peers.connect_to({2: f"127.0.0.1:{free_port('127.0.0.1')}"})
        await one.until("down", 2, False)
        one.peers.close()
        two.peers.close()

    play(scenario)


def test_a_node_that_was_removed_is_told_so() -> None:
    async def scenario() -> None:
        one, two = Host(1, cluster_id="left"), Host(2)
        await two.listen()
        one.dial(two)
        await one.until("removed", 2, "another cluster")
        one.peers.close()
        two.peers.close()

    play(scenario)
