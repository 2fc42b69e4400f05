"""One sync at a time, covering all that was written before it began; a failed one is the last one."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from walrus.shell.group_commit import AsyncGroupCommit


class Syncer:
    """A sync that ends when the test says so."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.started = 0
        self.error: OSError | None = None

    def fileno(self) -> int:
        return self._read

    def start(self) -> None:
        self.started += 1

    def end(self, error: OSError | None = None) -> None:
        self.error = error
        os.write(self._write, b"x")

    def finish(self) -> None:
        os.read(self._read, 1)
        if self.error is not None:
            raise self.error


class Engine:
    """What the commit sees of an engine and of the node."""

    def __init__(self) -> None:
        self.written = 0
        self.durable: list[int] = []
        self.failures: list[Any] = []
        self.syncer = Syncer()
        self.commit = AsyncGroupCommit(
            self.syncer, lambda: self.written, self.durable.append, self.failures.append
        )

    async def turn(self) -> None:
        """Let what is readable be read."""
        reported = len(self.durable) + len(self.failures)
        async with asyncio.timeout(120):
            while len(self.durable) + len(self.failures) == reported:
                await asyncio.sleep(0)


def test_a_sync_in_flight_covers_what_came_before_it_and_the_next_one_the_rest() -> None:
    async def run() -> None:
        engine = Engine()
        engine.commit.start_if_due()
        assert engine.syncer.started == 0, "nothing was written"
        engine.written = 3
        engine.commit.start_if_due()
        engine.written = 10
        engine.commit.start_if_due()
        assert engine.syncer.started == 1, "one at a time"
        engine.syncer.end()
        await engine.turn()
        assert engine.durable == [3]
        engine.commit.start_if_due()
        engine.syncer.end()
        await engine.turn()
        assert engine.durable == [3, 10]
        engine.commit.start_if_due()
        assert engine.syncer.started == 2, "everything is durable"
        engine.commit.close()

    asyncio.run(run())


def test_a_failed_sync_is_reported_and_no_other_one_is_started() -> None:
    async def run() -> None:
        engine = Engine()
        engine.written = 1
        engine.commit.start_if_due()
        error = OSError(5, "Input/output error")
        engine.syncer.end(error)
        await engine.turn()
        assert engine.failures == [error]
        assert engine.durable == []
        engine.commit.start_if_due()
        assert engine.syncer.started == 1, "AckedDurable: a failed sync is retried as if nothing had happened"

    asyncio.run(run())
