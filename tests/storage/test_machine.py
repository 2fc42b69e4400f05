"""The engine against a dictionary of lists, with crashes at any operation of a disk that does its worst."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.storage.stores import entries_of
from walrus import FsyncSchedule, ReadConsistency, Walrus
from walrus.sim.disk import Crash, Platter
from walrus.storage.batch import Batch

TOPICS = st.sampled_from(["a", "b", "c"])
SIZES = st.sampled_from([0, 3, 300, 5_000, 20_000, 70_000])
PERSIST_EVERY = 4


class EngineMachine(RuleBasedStateMachine):
    """`written` is what was appended since the topic began, `sure` how much of it nothing may take away.

    After a crash a topic may have lost what was not sure, from its end; a deletion that was not sure may not
    have happened. What is there after recovery is sure from then on, since recovery makes it so.
    """

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.platter = Platter(random.Random(seed))
        self.written: dict[str, list[bytes]] = {}
        self.sure: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.cursor: dict[str, int] = {}
        self.deleted: dict[str, list[list[bytes]]] = {}
        self.serial = 0
        self.open()

    def open(self) -> None:
        self.wal = Walrus(
            disk=self.platter.directory("log"),
            fsync=FsyncSchedule.group_commit(),
            consistency=ReadConsistency.at_least_once(PERSIST_EVERY),
        )

    def attempt(self, operation: Callable[[], object]) -> bool:
        """Do it, or crash in the middle of it and recover."""
        try:
            operation()
        except Crash:
            self.recover()
            return False
        return True

    @rule(topic=TOPICS, sizes=st.lists(SIZES, min_size=1, max_size=4))
    def append(self, topic: str, sizes: list[int]) -> None:
        entries = []
        for size in sizes:
            self.serial += 1
            entries.append(b"%05d" % self.serial * (size // 5))
        log = self.written.setdefault(topic, [])
        first, log[len(log) :] = len(log), entries
        self.attempt(lambda: self.same(self.wal.write(topic, Batch.of(entries)), first))

    def same(self, found: object, expected: object) -> None:
        assert found == expected, "SeqOrder: an entry gets another number than comes next"

    @rule()
    def sync(self) -> None:
        if self.attempt(self.wal.sync):
            self.sure = {topic: len(entries) for topic, entries in self.written.items()}
            self.deleted = {}

    @rule(topic=TOPICS)
    def read(self, topic: str) -> None:
        def read_one() -> None:
            entry = self.wal.read_next(topic)
            at = max(self.cursor.get(topic, 0), self.first.get(topic, 0))
            log = self.written.get(topic, [])
            assert entry is None or at < len(log), "DeliveredIsPrefix: an entry that was never written"
            assert entry is not None or at >= len(log), "NothingSkipped: there is an entry, and none is read"
            if entry is not None:
                assert (entry.index, entry.data) == (at, log[at]), "DeliveredIsPrefix: another entry"
                self.cursor[topic] = at + 1

        self.attempt(read_one)

    @rule(topic=TOPICS, back=st.integers(0, 5))
    def trim(self, topic: str, back: int) -> None:
        before = max(0, len(self.written.get(topic, [])) - back)
        if self.attempt(lambda: self.wal.trim(topic, before)):
            self.first[topic] = max(self.first.get(topic, 0), before)
        else:
            self.first[topic] = self.wal.bounds(topic)[0]

    @rule(topic=TOPICS)
    def delete(self, topic: str) -> None:
        if topic in self.written:
            self.deleted.setdefault(topic, []).append(self.written[topic])
        for state in (self.written, self.sure, self.first, self.cursor):
            state.pop(topic, None)
        self.attempt(lambda: self.wal.delete_topic(topic))

    @rule()
    def close_and_open(self) -> None:
        def reopen() -> None:
            self.wal.close()
            self.open()

        if self.attempt(reopen):
            self.sure = {topic: len(entries) for topic, entries in self.written.items()}
            self.deleted = {}

    @rule(operations=st.integers(1, 30), power=st.booleans())
    def plan_a_crash(self, operations: int, power: bool) -> None:
        self.platter.crash_at(self.platter.operations + operations, power=power)

    @rule(again=st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=2))
    def lose_power(self, again: list[tuple[int, bool]]) -> None:
        self.platter.lose_power()
        for operations, power in again:
            self.platter.crash_at(self.platter.operations + operations, power=power)
            try:
                self.open()
            except Crash:
                continue
            self.platter.kill()
        self.recover()

    def recover(self) -> None:
        self.platter.heal()
        self.open()
        assert self.wal.recovery.damage == [], "AckedDurable: a durable entry cannot be read"
        for topic in {*self.written, *self.deleted, *self.wal.topics()}:
            self.compare(topic)
        self.deleted = {}

    def compare(self, topic: str) -> None:
        """Take over what the topic lost, if it was allowed to lose it."""
        first, following = self.wal.bounds(topic)
        found = entries_of(self.wal, topic)
        # A deletion that was not on disk yet may be undone, and then what came after it is gone.
        candidates = [self.written.get(topic, []), *self.deleted.get(topic, [])]
        fitting = [log for log in candidates if following <= len(log) and log[first:following] == found]
        assert fitting, f"PrefixAgree: {topic} holds what was never written in this order"
        log = fitting[0]
        assert following >= self.sure.get(topic, 0), f"AckedDurable: {topic} lost what a sync covered"
        assert len(found) == following - first, f"DeliveredIsPrefix: {topic} has a hole"
        unread = self.wal.get_topic_entry_count(topic)
        cursor = following - unread
        self.written[topic], self.sure[topic], self.first[topic] = log[:following], following, first
        delivered = max(self.cursor.get(topic, 0), first)
        assert cursor <= delivered or topic in self.deleted, f"NothingSkipped: {topic} from {cursor} on"
        self.cursor[topic] = cursor

    @invariant()
    def everything_is_readable(self) -> None:
        if not hasattr(self, "wal"):
            return
        for topic, log in self.written.items():
            first, following = self.wal.bounds(topic)
            assert following == len(log), f"AckedDurable: {topic} has {following} of {len(log)} entries"
            assert entries_of(self.wal, topic) == log[first:], f"PrefixAgree: {topic} reads otherwise"
        self.wal._engine.space.check_invariants()
        for each in self.wal._engine.logs.values():
            each.check_invariants()


TestEngine = EngineMachine.TestCase
