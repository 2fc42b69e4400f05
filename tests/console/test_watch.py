"""A look at a cluster: every member is asked, and one that hangs holds up nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from walrus.console.watch import ClusterWatch
from walrus.wire.addresses import join_address


class Member:
    """A listener that answers METRICS, or nothing."""

    def __init__(self, node_id: int) -> None:
        self.node_id, self.silent, self.asked = node_id, False, 0
        self.address = ""
        self.others: dict[int, str] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await reader.readexactly(4), "little")
                request = await reader.readexactly(length)
                if request.startswith(b"HELLO"):  # as an earlier release answers it
                    self.answer(writer, b"ERR unknown command")
                    continue
                assert request == b"METRICS"
                self.asked += 1
                if not self.silent:
                    self.answer(writer, self.body())
        writer.close()

    def answer(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        """One frame."""
        writer.write(len(body).to_bytes(4, "little") + body)

    def body(self) -> bytes:
        """METRICS, as far as a look needs it."""
        where = {str(node): address for node, address in self.others.items()}
        members = {"membership": {"configs": [list(self.others)]}}
        return json.dumps(
            {"id": self.node_id, "state": "Leader" if self.node_id == 1 else "Follower", "current_term": 1,
             "current_leader": 1, "commit_index": 1, "ready": True, "client_addresses": where,
             "membership_config": members}
        ).encode()  # fmt: skip


@contextlib.asynccontextmanager
async def members(count: int) -> AsyncIterator[list[Member]]:
    """Members that know one another."""
    made, servers = [Member(node) for node in range(1, count + 1)], []
    for member in made:
        servers.append(await asyncio.start_server(member.serve, "127.0.0.1", 0))
        member.address = join_address(*servers[-1].sockets[0].getsockname()[:2])
    for member in made:
        member.others = {other.node_id: other.address for other in made}
    try:
        yield made
    finally:
        for server in servers:
            server.close()


def play(count: int, body: Callable[[ClusterWatch, list[Member]], Awaitable[None]]) -> None:
    async def run() -> None:
        async with members(count) as made:
            watch = ClusterWatch([made[0].address])
            try:
                await body(watch, made)
            finally:
                await asyncio.gather(*(client.close() for client in watch._clients.values()))

    asyncio.run(run())


def word(watch: ClusterWatch) -> tuple[str, list[int]]:
    """The health, and the nodes that answered."""
    health = watch.history.health
    return health.word, [node.node_id for node in health.nodes if node.figures is not None]


def test_the_members_are_learnt_from_one_of_them() -> None:
    async def body(watch: ClusterWatch, made: list[Member]) -> None:
        await watch.look()
        assert word(watch) == ("healthy", [1, 2, 3])
        assert all(member.asked == 1 for member in made), "each once"

    play(3, body)


def test_one_that_hangs_holds_up_no_other_and_the_first_address_may_be_the_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("walrus.console.watch.PATIENCE", 2.0)  # in which the others certainly answer

    async def body(watch: ClusterWatch, made: list[Member]) -> None:
        await watch.look()
        made[0].silent = True
        await watch.look()
        assert word(watch) == ("degraded", [2, 3])
        made[0].silent = False
        await watch.look()
        assert word(watch) == ("healthy", [1, 2, 3])

    play(3, body)


def test_where_nothing_answers_the_cluster_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walrus.console.watch.PATIENCE", 0.2)

    async def body(watch: ClusterWatch, made: list[Member]) -> None:
        made[0].silent = True
        await watch.look()
        assert word(watch) == ("unavailable", [])

    play(1, body)


def test_every_browser_that_waits_hears_of_each_look_and_one_that_leaves_ends_no_wait() -> None:
    async def body(watch: ClusterWatch, made: list[Member]) -> None:
        waiting = [asyncio.create_task(watch.changed()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        await watch.look()
        await asyncio.gather(*waiting)

    play(1, body)
