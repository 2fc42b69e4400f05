"""The console over HTTP: what it answers, and what keeps a stranger out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.console.test_history import look, said

aiohttp = pytest.importorskip("aiohttp", reason="pip install -e '.[console]'")

from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from walrus.console.actions import ActionError  # noqa: E402
from walrus.console.history import History  # noqa: E402
from walrus.console.server import MAX_BODY_BYTES, ConsoleServer  # noqa: E402

TOKEN = "secret"
HOST = {"Host": "console:9090"}
BEARER = {**HOST, "Authorization": f"Bearer {TOKEN}"}


class Still:
    """A cluster that does not change."""

    def __init__(self, *nodes: int) -> None:
        self.history = History()
        self.history.take(look(*map(said, nodes)) or {"a:1": None}, 0.0, 0.0)

    async def changed(self) -> None:
        await asyncio.Event().wait()


class Noted:
    """Actions that are only noted."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []

    def act(self, action: str, node_id: int) -> str:
        if node_id == 9:
            raise ActionError("there is no node 9")
        self.done.append((action, node_id))
        return "done"


class Played:
    """A stream that stands still."""

    def picture(self) -> dict[str, int]:
        return {"lost": 0}

    async def page(self) -> str:
        return "<title>The last half minute</title>"


def serve(
    still: Still,
    actions: Noted | None,
    play: Callable[[TestClient], Awaitable[None]],
    played: Played | None = None,
) -> None:
    async def run() -> None:
        console = ConsoleServer(still, hosts=["console:9090"], actions=actions, token=TOKEN, play=played)
        async with TestClient(TestServer(console.application())) as client:
            await play(client)

    asyncio.run(run())


def test_health_is_told_by_status_and_in_lines() -> None:
    async def healthy(client: TestClient) -> None:
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/readyz/1", 200), ("/readyz/7", 404)):
            assert (await client.get(path, headers=HOST)).status == status, path
        page = await client.get("/", headers=HOST)
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        metrics = await client.get("/metrics", headers=HOST)
        assert metrics.content_type == "text/plain" and "walrus_cluster_health 0.0" in await metrics.text()

    async def dead(client: TestClient) -> None:
        assert (await client.get("/healthz", headers=HOST)).status == 200, "this process is alive"
        answer = await client.get("/readyz", headers=HOST)
        assert answer.status == 503 and (await answer.text()).startswith("unavailable\nno node answers")

    serve(Still(1, 2, 3), None, healthy)
    serve(Still(), None, dead)


def test_events_begin_with_the_picture_of_now() -> None:
    async def play(client: TestClient) -> None:
        async with client.get("/api/events", headers=HOST) as stream:
            line = await stream.content.readline()
            assert line.startswith(b'data: {"at"') and b'"word": "healthy"' in line

    serve(Still(1, 2, 3), None, play)


def test_a_call_by_another_name_is_refused_since_a_foreign_page_may_have_let_it_point_here() -> None:
    async def play(client: TestClient) -> None:
        assert (await client.get("/api/picture", headers={"Host": "evil.example:9090"})).status == 421
        assert (await client.get("/api/picture")).status == 421

    serve(Still(1, 2, 3), None, play)


def test_nothing_is_done_without_the_token_or_where_changes_are_not_allowed() -> None:
    noted = Noted()

    async def play(client: TestClient) -> None:
        assert (await client.post("/api/nodes/1/kill", headers=HOST)).status == 401
        wrong = {**HOST, "Authorization": "Bearer sécret"}
        assert (await client.post("/api/nodes/1/kill", headers=wrong)).status == 401
        assert (await client.get("/api/nodes/1/kill", headers=BEARER)).status == 405
        assert noted.done == []
        assert (await client.post("/api/nodes/1/kill", headers=BEARER)).status == 200
        assert noted.done == [("kill", 1)]
        assert (await client.post("/api/nodes/1/explode", headers=BEARER)).status == 404
        answer = await client.post("/api/nodes/9/kill", headers=BEARER)
        assert (answer.status, await answer.text()) == (409, "there is no node 9\n")

    async def only_shows(client: TestClient) -> None:
        assert (await client.post("/api/nodes/1/kill", headers=BEARER)).status == 403

    serve(Still(1, 2, 3), noted, play)
    serve(Still(1, 2, 3), None, only_shows)


def test_the_film_of_the_last_half_minute_is_there_if_the_cluster_is_played_with() -> None:
    async def plays(client: TestClient) -> None:
        film = await client.get("/film", headers=HOST)
        assert film.status == 200 and "default-src 'none'" in film.headers["Content-Security-Policy"]
        assert "The last half minute" in await film.text()
        assert (await (await client.get("/api/picture", headers=HOST)).json())["stream"] == {"lost": 0}

    async def watches(client: TestClient) -> None:
        assert (await client.get("/film", headers=HOST)).status == 404
        assert (await (await client.get("/api/picture", headers=HOST)).json())["stream"] is None

    serve(Still(1, 2, 3), None, plays, Played())
    serve(Still(1, 2, 3), None, watches)


def test_browsers_that_watch_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walrus.console.server.MAX_WATCHERS", 1)

    async def play(client: TestClient) -> None:
        async with client.get("/api/events", headers=HOST) as stream:
            await stream.content.readline()
            assert (await client.get("/api/events", headers=HOST)).status == 503

    serve(Still(1, 2, 3), None, play)


def test_a_body_is_not_read_beyond_its_bound() -> None:
    async def play(client: TestClient) -> None:
        console = ConsoleServer(Still(1), hosts=["console:9090"])
        assert console.application()._client_max_size == MAX_BODY_BYTES
        answer = await client.post("/api/nodes/1/kill", headers=HOST, data=b"x" * (MAX_BODY_BYTES + 1))
        assert answer.status == 401, "no handler reads a body"

    serve(Still(1, 2, 3), Noted(), play)
