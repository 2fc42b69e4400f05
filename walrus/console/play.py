"""Play mode: what the console does to a cluster, what streams through it, and the film of both.

`walrus.cluster --play` starts a console in play mode beside the nodes. The page shows what became of each
message (`stream`), its lines say how the nodes reacted to a kill (`recording`), and the film shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from walrus.console.actions import Actions
from walrus.console.recording import Recording, Step, film
from walrus.console.stream import PlayedStream
from walrus.view import html


class Play:
    """Combines a console's actions, a stream of messages, and a recording of these and of the nodes."""

    def __init__(self, actions: Actions, stream: PlayedStream, recording: Recording) -> None:
        self._actions, self._stream, self._recording = actions, stream, recording
        self._drawing = asyncio.Lock()
        """One film at a time, so that repeated clicks do not start as many threads."""

    def act(self, action: str, node_id: int) -> str:
        """Carry out an action (see `Actions.act`); the film has it at the moment at which it is done."""
        self._recording.acted(action, node_id)
        return self._actions.act(action, node_id)

    async def run(self) -> None:
        """Stream until cancelled."""
        await self._stream.run()

    def lines(self) -> Iterable[tuple[float, str, str]]:
        """Return the lines since the last call: seconds ago, kind, text."""
        return self._recording.look()

    def picture(self) -> dict[str, Any]:
        """Return the counts of the stream."""
        return self._stream.picture()

    async def page(self) -> str:
        """Return the last half minute as a page of the run viewer.

        The steps are copied here, in the thread that writes them; another thread makes the page.
        """
        async with self._drawing:
            return await asyncio.to_thread(_page, self._recording.lately(self._stream.steps))


def _page(steps: list[Step]) -> str:
    return html.page(film(steps))
