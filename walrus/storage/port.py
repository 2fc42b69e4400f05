"""`Storage`: the port through which the cluster's logic sees the engine.

State machines are handed something that satisfies this protocol and never learn what is behind it: `Walrus`
on a real directory, `Walrus` on a simulated disk, or a dictionary of lists in a unit test. All of it is
synchronous and none of it waits for the disk: a caller that needs durability starts a sync and waits outside.
"""

from __future__ import annotations

from typing import Protocol

from walrus.storage.batch import Batch


class Storage(Protocol):
    """Topics of numbered entries. Indexes count from 0 and never repeat while the topic exists."""

    def write(self, topic: str, batch: Batch) -> int:
        """Append `batch`, all or nothing; it is handed to the OS, not yet durable. The first entry's index.

        An empty batch writes nothing. Raises `DiskFull` (nothing was written) or `EngineFailed`.
        """

    def read_batch(self, topic: str, start: int, max_entries: int, max_bytes: int) -> Batch:
        """Entries from `start` on, at least one if there is one; an empty batch at the end.

        Moves no cursor. Raises `CorruptionError` when the entry at `start` is damaged; damage further on
        ends the batch before it. `IndexError` when `start` was trimmed away.
        """

    def bounds(self, topic: str) -> tuple[int, int]:
        """`(first, next)`: the oldest entry still here, and the index of the next one to be written."""

    def topics(self) -> list[str]:
        """The names of all topics, sorted."""

    def trim(self, topic: str, before: int) -> None:
        """Forget the entries below `before`. The next index stays what it is."""

    def delete_topic(self, topic: str) -> None:
        """Forget the topic; an unknown one is none of our concern. Its indexes start at 0 again."""
