"""A cluster to play with: what the console does to it, what streams through it, and "show me".

`walrus.cluster --play` starts a console with this beside the nodes. The page shows what became of each
message (`stream`), the lines say what the nodes did about a kill (`recording`), and the film shows it.
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
    """The actions of a console, noted; a stream; the recording of both and of the nodes."""

    def __init__(self, actions: Actions, stream: PlayedStream, recording: Recording) -> None:
        self._actions, self._stream, self._recording = actions, stream, recording
        self._drawing = asyncio.Lock()
        """One film at a time: impatient clicks do not add up to as many threads."""

    def act(self, action: str, node_id: int) -> str:
        """Do it, see `Actions.act`; the film has it at the moment at which it is done."""
        self._recording.acted(action, node_id)
        return self._actions.act(action, node_id)

    async def run(self) -> None:
        """Stream until cancelled."""
        await self._stream.run()

    def lines(self) -> Iterable[tuple[float, str, str]]:
        """Return what is worth a line since the last time: seconds ago, kind, text."""
        return self._recording.look()

    def picture(self) -> dict[str, Any]:
        """Return the counts of the stream."""
        return self._stream.picture()

    async def page(self) -> str:
        """Return the last half minute as a page of the run viewer.

        The steps are taken here, where they are written; a thread makes the page of them.
        """
        async with self._drawing:
            return await asyncio.to_thread(_page, self._recording.lately(self._stream.steps))


def _page(steps: list[Step]) -> str:
    return html.page(film(steps))
