"""A small Kafka, with the classes of `aiokafka` that the mirror uses: one topic of one partition.

What is kept of Kafka's rules:

    a transactional id has one producer: one that starts ends what the earlier one had open, and fences it
    a transaction's messages and offsets count all together from its commit on, or never
    each end of a transaction takes an offset of the log, too, which readers skip
    a reader of what is committed reads up to the first message of an open transaction

Any step may fail, before it takes effect or after, and any step may be a process's last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

from aiokafka import OffsetAndMetadata, TopicPartition
from aiokafka.errors import KafkaConnectionError, ProducerFenced

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"


class Killed(BaseException):
    """The process is gone: it does nothing any more."""


def fail(late: bool) -> None:
    """An answer that is lost, after its effect."""
    if late:
        raise KafkaConnectionError("lost behind")


class Transaction:
    """What a producer has begun."""

    def __init__(self) -> None:
        self.state = OPEN
        self.offsets: dict[str, OffsetAndMetadata] = {}


class Broker:
    """The log, the groups' offsets, and who writes; `dice` decides what fails."""

    def __init__(self, dice: Random | None = None, partitions: int = 1) -> None:
        self.log: list[tuple[bytes | None, Transaction]] = []
        self.offsets: dict[str, OffsetAndMetadata] = {}
        self.epochs: dict[str, int] = {}
        self.running: dict[str, Transaction] = {}
        self.partitions = partitions
        self.dice = dice
        self.processes: dict[str, Process] = {}
        self.silent = 0
        """How many fetches it answers too late."""

    async def step(self, process: Process) -> bool:
        """Whether a step fails after its effect. Raises what it fails of before it."""
        await asyncio.sleep(0)
        if process.dead:
            raise Killed
        if self.dice is None:
            return False
        chance = self.dice.random()
        process.dead = chance < 0.02
        if process.dead:
            raise Killed
        if chance < 0.05:
            raise KafkaConnectionError("lost before")
        return chance < 0.08

    def end(self, name: str, state: str) -> None:
        """A transaction is over."""
        transaction = self.running.pop(name, None)
        if transaction is not None:
            transaction.state = state
            self.log.append((None, transaction))
            if state == COMMITTED:
                self.offsets |= transaction.offsets

    def stable(self) -> int:
        """The offset up to which all transactions are over."""
        pending = [offset for offset, (_, txn) in enumerate(self.log) if txn.state == OPEN]
        return pending[0] if pending else len(self.log)

    def visible(self) -> list[bytes]:
        """What a reader of committed messages gets."""
        return [payload for payload, txn in self.log[: self.stable()]
            if payload is not None and txn.state == COMMITTED]  # fmt: skip


class Process:
    """A process that holds connections to the broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.dead = broker, False
        self.servers = f"k:{len(broker.processes)}"
        """By which the broker knows whose connection it is."""
        broker.processes[self.servers] = self


def classes(broker: Broker) -> dict[str, Any]:
    """What `aiokafka` has, for all processes of one broker."""

    def made(kind: Any) -> Any:
        return lambda bootstrap_servers, **options: kind(broker.processes[bootstrap_servers], **options)

    kinds = {"AIOKafkaProducer": Producer, "AIOKafkaConsumer": Consumer, "AIOKafkaAdminClient": Admin}
    return {name: made(kind) for name, kind in kinds.items()}


class Producer:
    """`AIOKafkaProducer`, with a transactional id."""

    def __init__(self, process: Process, *, transactional_id: str) -> None:
        self._process, self._broker, self._name = process, process.broker, transactional_id
        self._epoch = 0

    async def start(self) -> None:
        await self._broker.step(self._process)

    async def stop(self) -> None:
        """What is open stays open, as that of a process that ends."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if not self._epoch:
            late = await self._broker.step(self._process)
            self._broker.end(self._name, ABORTED)
            self._epoch = self._broker.epochs[self._name] = self._broker.epochs.get(self._name, 0) + 1
            fail(late)
        try:
            yield
        except ProducerFenced:
            raise
        except BaseException:
            await self._end(ABORTED)
            raise
        await self._end(COMMITTED)

    async def _end(self, state: str) -> None:
        late = await self._alive()
        self._broker.end(self._name, state)
        fail(late)

    async def _alive(self) -> bool:
        late = await self._broker.step(self._process)
        if self._broker.epochs[self._name] != self._epoch:
            raise ProducerFenced
        return late

    async def send(self, topic: str, value: bytes, *, partition: int, headers: list[Any]) -> Any:
        late = await self._alive()
        transaction = self._broker.running.setdefault(self._name, Transaction())
        self._broker.log.append((value, transaction))
        return _Answer(late)

    async def send_offsets_to_transaction(
        self, offsets: dict[TopicPartition, OffsetAndMetadata], group: str
    ) -> None:
        late = await self._alive()
        (told,) = offsets.values()
        self._broker.running.setdefault(self._name, Transaction()).offsets[group] = told
        fail(late)


class _Answer:
    """What a `send` is answered."""

    def __init__(self, late: bool) -> None:
        self._late = late

    def __await__(self) -> Iterator[None]:
        fail(self._late)
        yield from ()


class Consumer:
    """`AIOKafkaConsumer` of committed messages."""

    def __init__(self, process: Process, **options: Any) -> None:
        assert options["isolation_level"] == "read_committed" and not options["enable_auto_commit"]
        self._process, self._broker, self._at = process, process.broker, 0

    async def start(self) -> None:
        await self._broker.step(self._process)

    async def stop(self) -> None:
        pass

    def assign(self, places: list[TopicPartition]) -> None:
        assert [place.partition for place in places] == [0]

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._at = offset

    def last_stable_offset(self, place: TopicPartition) -> int:
        return self._broker.stable()

    async def position(self, place: TopicPartition) -> int:
        return self._at

    async def getmany(self, place: TopicPartition, *, timeout_ms: int, max_records: int) -> dict[Any, Any]:
        await self._broker.step(self._process)
        if self._broker.silent:
            self._broker.silent -= 1
            return {}
        found = []
        while self._at < self._broker.stable() and len(found) < max_records:
            payload, transaction = self._broker.log[self._at]
            if payload is not None and transaction.state == COMMITTED:
                found.append(SimpleNamespace(offset=self._at, value=payload))
            self._at += 1
        return {place: found} if found else {}


class Admin:
    """`AIOKafkaAdminClient`."""

    def __init__(self, process: Process) -> None:
        self._process, self._broker = process, process.broker

    async def start(self) -> None:
        await self._broker.step(self._process)

    async def close(self) -> None:
        pass

    async def list_topics(self) -> list[str]:
        return ["t"]

    async def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        return [{"partitions": list(range(self._broker.partitions))} for _ in topics]

    async def describe_cluster(self) -> dict[str, Any]:
        return {"cluster_id": "k"}

    async def list_consumer_group_offsets(
        self, group: str, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        await self._broker.step(self._process)
        (place,) = partitions
        return {place: self._broker.offsets.get(group, OffsetAndMetadata(-1, ""))}
