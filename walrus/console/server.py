"""HTTP: the page, its events, metrics, health, actions.

    GET  /                 the page, one file that needs no network
    GET  /api/picture      what it shows, JSON
    GET  /api/events       the same as server-sent events, one for each look
    GET  /api/topics/NAME  STATE of a topic
    GET  /film             the last half minute in the run viewer, of a cluster that is played with
    GET  /metrics          for Prometheus
    GET  /healthz          200 as long as this process is alive
    GET  /readyz           200 if the cluster is healthy or degraded, 503 if it is unavailable; why, in lines
    GET  /readyz/NODE      the same for one node
    POST /api/nodes/NODE/ACTION   kill, pause, resume, start, leave
    POST /api/topics/NAME/ACTION  look, put, seek, register, configure; the body says what (`topics.py`)

**What keeps strangers out.** A page of another site, open in the same browser, can send requests here. It
cannot read the answers, and it cannot set the header `Authorization: Bearer TOKEN`, which every POST needs
(including the one that shows entries): the token is in the page's address behind `#`, which no browser
sends. A foreign name that resolves to 127.0.0.1 (DNS rebinding) is refused by its `Host`. The token is
compared in constant time. The page loads nothing from elsewhere, and may not (Content-Security-Policy).

aiohttp implements HTTP, so the parsing of hostile bytes is not written here a second time.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from walrus.client import AsyncClient, WalrusError
from walrus.console import topics
from walrus.console.actions import ACTIONS, ActionError
from walrus.console.exposition import exposition
from walrus.console.history import History
from walrus.health import UNAVAILABLE

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MAX_WATCHERS = 100
"""How many browsers are sent events at once."""
MAX_BODY_BYTES = 4096
"""The longest body of a request: a message or settings. Longer messages need a client."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Observed(Protocol):
    """The part of a `ClusterWatch` that the server needs."""

    history: History

    async def changed(self) -> None:
        """Wait for the next look."""


class Acting(Protocol):
    """The part of `Actions` that the server needs."""

    def act(self, action: str, node_id: int) -> str:
        """Carry out an action; blocks. Raises ActionError."""


class Playing(Protocol):
    """The part of a `Play` that the server needs."""

    def picture(self) -> dict[str, Any]:
        """Return the counts of the stream."""

    async def page(self) -> str:
        """Return the film as a page."""


class ConsoleServer:
    """The request handlers, and their shared state."""

    def __init__(
        self,
        watched: Observed,
        *,
        hosts: Collection[str],
        actions: Acting | None = None,
        token: str = "",
        play: Playing | None = None,
    ) -> None:
        """`hosts`: values of `Host` that are answered. `token`: what each POST must carry."""
        assert actions is None or token, "actions without a token would be anybody's"
        self._play = play
        self._watched, self._hosts, self._actions, self._token = watched, hosts, actions, token
        self._watching = 0

    def application(self) -> web.Application:
        """Return the application with its routes."""
        app = web.Application(middlewares=[self._guard()], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/api/picture", self._picture),
                web.get("/api/events", self._events),
                web.get("/api/topics/{topic}", self._topic),
                web.get("/film", self._film),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._alive),
                web.get("/readyz", self._ready),
                web.get("/readyz/{node:[0-9]{1,10}}", self._node_ready),
                web.post("/api/nodes/{node:[0-9]{1,10}}/{action}", self._act),
                web.post("/api/topics/{topic}/{action}", self._act_on_topic),
            ]
        )
        return app

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if request.host not in self._hosts:
                raise web.HTTPMisdirectedRequest(
                    text=f"this console is at {', '.join(sorted(self._hosts))}\n"
                )
            response = await handler(request)
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return guard

    def _look(self) -> str:
        """Return the picture as JSON, whether this console acts, and a stream's counts if there is one."""
        stream = None if self._play is None else self._play.picture()
        more = {"acts": self._actions is not None, "stream": stream}
        return json.dumps({**self._watched.history.picture(), **more})

    async def _page(self, request: web.Request) -> web.Response:
        text = (files("walrus.console") / "page" / "console.html").read_text("utf-8")
        return web.Response(text=text, content_type="text/html")

    async def _picture(self, request: web.Request) -> web.Response:
        return web.Response(text=self._look(), content_type="application/json")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._watching >= MAX_WATCHERS:
            raise web.HTTPServiceUnavailable(text="too many browsers watch already\n")
        self._watching += 1
        try:
            stream = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
            await stream.prepare(request)
            while True:
                await stream.write(f"data: {self._look()}\n\n".encode())
                await self._watched.changed()
        except ConnectionResetError:
            return stream
        finally:
            self._watching -= 1

    async def _topic(self, request: web.Request) -> web.Response:
        try:
            async with AsyncClient(self._answering(request.match_info["topic"]), timeout=2.0) as client:
                state = await client.state(request.match_info["topic"])
        except (WalrusError, OSError, ValueError) as error:
            raise web.HTTPNotFound(text=f"{error}\n") from error
        return web.json_response(state)

    def _answering(self, topic: str) -> list[str]:
        """Return the addresses to ask about a topic: first its leader, which knows where the topic ends."""
        health = self._watched.history.health
        leader = health.topics[topic].leader if topic in health.topics else 0
        nodes = [node for node in health.nodes if node.figures is not None]
        if not nodes:
            raise web.HTTPServiceUnavailable(text="no node answers\n")
        return [node.address for node in sorted(nodes, key=lambda node: node.node_id != leader)]

    async def _film(self, request: web.Request) -> web.Response:
        if self._play is None:
            raise web.HTTPNotFound(text="nothing is recorded: start the cluster with walrus.cluster --play\n")
        return web.Response(text=await self._play.page(), content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        body = exposition(self._watched.history.health)
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, request: web.Request) -> web.Response:
        cluster = self._watched.history.health
        text = "\n".join((cluster.word, *cluster.reasons)) + "\n"
        return web.Response(text=text, status=503 if cluster.word == UNAVAILABLE else 200)

    async def _node_ready(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["node"])
        for node in self._watched.history.health.nodes:
            if node.node_id == wanted:
                ready = node.figures is not None and node.figures.ready
                return web.Response(text=f"{node.trouble or 'ready'}\n", status=200 if ready else 503)
        raise web.HTTPNotFound(text=f"there is no node {wanted}\n")

    def _allowed(self, request: web.Request) -> Acting:
        """Return the actions, if the request is allowed to carry them out. Raises an HTTP error."""
        if self._actions is None:
            raise web.HTTPForbidden(text="this console only shows: start it with --allow-changes\n")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPUnauthorized(
                text="the token is missing or wrong: open the address that was printed\n"
            )
        return self._actions

    async def _act(self, request: web.Request) -> web.Response:
        actions = self._allowed(request)
        node, action = int(request.match_info["node"]), request.match_info["action"]
        if action not in ACTIONS:
            raise web.HTTPNotFound(text=f"there is no action {action}; there are {', '.join(ACTIONS)}\n")
        try:
            done = await asyncio.to_thread(actions.act, action, node)
        except ActionError as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        return web.Response(text=f"{done}\n")

    async def _act_on_topic(self, request: web.Request) -> web.Response:
        self._allowed(request)
        topic, action = request.match_info["topic"], request.match_info["action"]
        if action not in topics.TOPIC_ACTIONS:
            known = ", ".join(topics.TOPIC_ACTIONS)
            raise web.HTTPNotFound(text=f"there is no action {action}; there are {known}\n")
        try:
            asked = topics.told(await request.read())
            return web.json_response(await topics.act(action, topic, asked, self._answering(topic)))
        except topics.BadRequestError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        except ActionError as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
