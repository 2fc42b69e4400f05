"""What the console does with topics: against a node in memory, over HTTP, with what keeps a stranger out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.client.fake import FakeNode, MemoryLog
from tests.console.test_history import said
from tests.console.test_server import BEARER, HOST, TOKEN, Noted

pytest.importorskip("aiohttp", reason="pip install -e '.[console]'")

from aiohttp.test_utils import TestClient, TestServer

from walrus.console.history import History
from walrus.console.server import MAX_BODY_BYTES, ConsoleServer
from walrus.console.topics import MAX_LOOKED_AT, MAX_SHOWN_BYTES, TOPIC_ACTIONS


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode(log=MemoryLog(segment_entries=30)) as made:
        yield made


class Observed:
    """A cluster of one node, which serves at this address."""

    def __init__(self, address: str) -> None:
        self.history = History()
        self.history.take({address: said(1, client_addresses={1: address})}, 0.0, 0.0)

    async def changed(self) -> None:
        await asyncio.Event().wait()


def serve(node: FakeNode, play: Callable[[TestClient], Awaitable[None]], *, acts: bool = True) -> None:
    async def run() -> None:
        actions = Noted() if acts else None
        console = ConsoleServer(Observed(node.address), hosts=["console:9090"], actions=actions, token=TOKEN)
        async with TestClient(TestServer(console.application())) as client:
            await play(client)

    asyncio.run(run())


async def ask(client: TestClient, action: str, topic: str = "orders", **body: Any) -> dict[str, Any]:
    """What is answered to something that may be done."""
    answer = await client.post(f"/api/topics/{topic}/{action}", headers=BEARER, data=json.dumps(body))
    text = await answer.text()
    assert answer.status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


async def refused(client: TestClient, action: str, body: bytes, topic: str = "orders") -> tuple[int, str]:
    answer = await client.post(f"/api/topics/{topic}/{action}", headers=BEARER, data=body)
    text = await answer.text()
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return answer.status, text[:-1]


def test_a_topic_is_registered_written_to_and_looked_into(node: FakeNode) -> None:
    async def play(client: TestClient) -> None:
        assert (await ask(client, "register", settings="retain_entries=5"))["done"] == "orders is registered"
        assert (await ask(client, "put", payload="one café"))["done"] == "acknowledged, at 1.0"
        node.log.append("orders", b"\x00\xff" + b"x" * MAX_SHOWN_BYTES)
        first, second = (await ask(client, "look", segment=1, offset=0))["entries"]
        assert (first["segment"], first["offset"], first["bytes"]) == (1, 0, 9)
        assert first["text"] == "one café" and first["hex"].startswith("6f 6e 65 20 63")
        assert first["unix_ms"] > 1_700_000_000_000
        assert second["bytes"] == MAX_SHOWN_BYTES + 2 and second["text"].startswith("\ufffd\ufffdx")
        assert len(second["text"]) == MAX_SHOWN_BYTES, "no more of it is sent to the page"

    serve(node, play)


def test_a_look_shows_the_last_entries_or_some_from_a_place_on(node: FakeNode) -> None:
    async def play(client: TestClient) -> None:
        await ask(client, "register")
        assert (await ask(client, "look"))["entries"] == []
        for number in range(75):
            node.log.append("orders", b"%d" % number)
        shown = (await ask(client, "look"))["entries"]
        assert [entry["text"] for entry in shown] == [str(n) for n in range(60, 75)], "of the open segment"
        across = (await ask(client, "look", segment=1, offset=25))["entries"]
        assert [entry["text"] for entry in across] == [str(n) for n in range(25, 25 + MAX_LOOKED_AT)]
        for number in range(75, 90):
            node.log.append("orders", b"%d" % number)
        node.log.topics["orders"].append([])
        shown = (await ask(client, "look"))["entries"]
        assert [entry["text"] for entry in shown] == [str(n) for n in range(70, 90)], "the open one is empty"

    serve(node, play)


def test_a_group_is_moved_and_settings_are_changed(node: FakeNode) -> None:
    async def play(client: TestClient) -> None:
        await ask(client, "register")
        for to in ("begin", "end", "1.0", "1764140000000"):
            assert (await ask(client, "seek", group="workers", to=to))["done"] == f"workers goes on at {to}"
        assert node.log.queues["orders", "workers"].generation == 4
        done = await ask(
            client, "configure", settings="retain_bytes=none protect_groups=true max_deliveries=3"
        )
        assert done["done"] == "orders is configured"

    serve(node, play)


@pytest.mark.parametrize(
    ("action", "body", "reason"),
    [
        ("put", b"{", "the body of this request is an object of JSON"),
        ("put", b"[]", "the body of this request is an object of JSON"),
        ("put", b'{"payload": 5}', "payload is the text of the message"),
        ("look", b'{"segment": 0}', "segment is a number from 1, offset one from 0"),
        ("look", b'{"segment": true}', "segment is a number from 1, offset one from 0"),
        ("seek", b'{"group": "g"}', "to is begin, end, SEGMENT.OFFSET or unix milliseconds"),
        ("seek", b'{"group": "g", "to": "soon"}', "not 'soon'"),
        ("configure", b'{"settings": "retain_years=1"}', "'retain_years' is none of retain_entries"),
        ("configure", b'{"settings": "visibility_ms=0"}', "visibility_ms is 1 to 86400000"),
        ("configure", b"{}", "configure changes at least one setting"),
        ("register", b'{"settings": 5}', "settings are KEY=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line_before_anything_leaves(
    node: FakeNode, action: str, body: bytes, reason: str
) -> None:
    node.log.topics["orders"] = [[]]

    async def play(client: TestClient) -> None:
        status, said = await refused(client, action, body)
        assert status == 400 and reason in said

    serve(node, play)
    assert node.log.topics == {"orders": [[]]}


def test_what_a_node_refuses_is_told_as_it_says_it(node: FakeNode) -> None:
    async def play(client: TestClient) -> None:
        status, said = await refused(client, "put", b'{"payload": "x"}', "nowhere")
        assert status == 409 and said.startswith("unknown topic")

    serve(node, play)


def test_nothing_is_shown_or_done_without_the_token_or_where_changes_are_not_allowed(node: FakeNode) -> None:
    node.log.topics["orders"] = [[b"secret"]]
    body = json.dumps({"payload": "x", "settings": "retain_entries=5", "group": "g", "to": "end"})

    async def stranger(client: TestClient) -> None:
        for action in TOPIC_ACTIONS:
            answer = await client.post(f"/api/topics/orders/{action}", headers=HOST, data=body)
            assert answer.status == 401 and "secret" not in await answer.text()
        answer = await client.post("/api/topics/orders/delete", headers=BEARER, data=b"{}")
        assert answer.status == 404
        answer = await client.post("/api/topics/orders/put", headers=BEARER, data=b"x" * (MAX_BODY_BYTES + 1))
        assert answer.status == 413

    async def only_shows(client: TestClient) -> None:
        for action in TOPIC_ACTIONS:
            answer = await client.post(f"/api/topics/orders/{action}", headers=BEARER, data=body)
            assert answer.status == 403

    serve(node, stranger)
    serve(node, only_shows, acts=False)
    assert node.log.topics == {"orders": [[b"secret"]]}
