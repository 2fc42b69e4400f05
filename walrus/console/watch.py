"""Asks all members every second, all at once, and wakes the waiters for the next picture.

A node that is dead or paused must not delay the figures of the others: each node has a connection of its
own, and a look takes at most `PATIENCE`. A node that refuses the console's token, or its role, counts as not
answering; its message is reported once.

Invariant: one look at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from walrus.client import AsyncClient, Forbidden, Unauthenticated, WalrusError
from walrus.console.history import History
from walrus.health import NodeFigures, members, read

INTERVAL = 1.0
"""Seconds from one look to the next."""
PATIENCE = 0.8
"""Seconds within which a node must answer."""


Lines: TypeAlias = Callable[[], Iterable[tuple[float, str, str]]]


class ClusterWatch:
    """The looks of one console at one cluster."""

    def __init__(
        self,
        addresses: Iterable[str],
        interval: float = INTERVAL,
        lines: Lines | None = None,
        complain: Callable[[str], object] = lambda line: None,
    ) -> None:
        """`addresses` are some nodes' client ports; the others are learnt from them.

        `lines` returns what else happened since the last look: seconds ago, kind, text. `complain` is called
        with the message of a node that refuses, one line.
        """
        self.history = History()
        self._seeds = tuple(dict.fromkeys(addresses))
        self._members: dict[int, str] = {}
        self._interval, self._lines = interval, lines
        self._complain, self._refused = complain, ""
        self._clients: dict[str, AsyncClient] = {}
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                begun = time.monotonic()
                await self.look()
                await asyncio.sleep(max(0.0, self._interval - (time.monotonic() - begun)))
        finally:
            for client in self._clients.values():
                await client.close()

    async def look(self) -> None:
        """Ask the members once, and the seeds too for as long as no member answers."""
        answers = await self._ask(self._members.values() or self._seeds)
        if not any(answers.values()):
            answers |= await self._ask(seed for seed in self._seeds if seed not in answers)
        named = members(answers)
        if unasked := [where for where in named.values() if where not in answers]:
            answers |= await self._ask(unasked)
        self._members = named or self._members
        told = {where: answer for where, answer in answers.items() if answer is not None}
        for ago, kind, text in self._lines() if self._lines else ():
            self.history.tell(time.time() - ago, kind, text)
        self.history.take(told or answers, time.monotonic(), time.time())
        done, self._next = self._next, asyncio.get_running_loop().create_future()
        done.set_result(None)

    async def _ask(self, addresses: Iterable[str]) -> dict[str, NodeFigures | None]:
        asked = list(addresses)
        return dict(zip(asked, await asyncio.gather(*map(self._one, asked)), strict=True))

    async def _one(self, address: str) -> NodeFigures | None:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = AsyncClient(address, timeout=PATIENCE)
        try:
            answer = await client.metrics()
            return msgspec.structs.replace(read(answer), heard_at=time.monotonic())
        except (Unauthenticated, Forbidden) as error:
            if self._refused != str(error):  # every node says the same, each second
                self._refused = str(error)
                self._complain(f"{address}: {error}")
            return None
        except (WalrusError, OSError, ValueError):
            return None

    async def changed(self) -> None:
        """Wait for the next look."""
        await asyncio.shield(self._next)
