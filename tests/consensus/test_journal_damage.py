"""Raft's journal on the real engine, on a disk that rots or loses files: what cannot be trusted is refused.

The records of a journal with a snapshot in it are damaged one at a time, and `load` must raise. The one
exception is the last record of all: an engine cannot tell a flipped bit in it from a write that a crash tore,
and cuts it off (docs/simulator.md says what that costs).
"""

from __future__ import annotations

from random import Random

import pytest

from walrus.consensus.journal import JournalError, RaftJournal
from walrus.consensus.messages import Entry, HardState, Membership, Ready, Restored, Snapshot
from walrus.sim.disk import Platter
from walrus.storage.errors import CorruptionError, StorageError
from walrus.storage.record import Record
from walrus.storage.scan import records as records_in
from walrus.wal import Walrus

THREE = Membership((1, 2, 3))


def written() -> tuple[Platter, list[tuple[str, int, Record]]]:
    """A disk with a journal on it, synced step by step as a server does, and where its records are."""
    platter = Platter(Random(1))
    wal = Walrus(disk=platter.directory("raft_meta"))
    journal = RaftJournal(wal)
    journal.bootstrap(THREE)
    wal.sync()
    for number, index in enumerate(range(2, 60), 1):
        ready = Ready(number=number, hard_state=HardState(index // 9, 1), entries=(entry(index),))
        if index % 25 == 0:
            snapshot = Snapshot(index, index // 9, THREE, b"state %d" % index)
            ready = Ready(number=number, hard_state=HardState(index // 9, 1), checkpoint=snapshot)
        journal.save(ready)
        wal.sync()
        journal.durable(ready)
    log = wal._engine.logs["raft"]
    records = [
        (log.owner.space.file(block.extent.file).name, block.extent.offset, record)
        for block in log.blocks
        for record in records_in(
            log.owner.space.view(block.extent), block.life, block.head.start, block.extent.size
        )
        if block.head.base + record.position + record.entries > log.first
    ]
    platter.kill()
    return platter, records


def entry(index: int) -> Entry:
    return Entry(max(1, index // 9), index, data=b"command %d" % index)


def load(platter: Platter) -> Restored:
    return RaftJournal(Walrus(disk=platter.directory("raft_meta"))).load()


def test_each_damaged_record_but_the_last_is_refused_after_a_kill_and_after_a_power_loss():
    expected, count = load(written()[0]), len(written()[1])
    assert expected.snapshot is not None and expected.snapshot.index == 50
    assert expected.entries[-1].index == 59 and count >= 10
    for number in range(count - 1):
        for power in (False, True):
            platter, records = written()
            file, block, record = records[number]
            spot = 8 * record.offset + (977 * number) % (8 * (record.end - record.offset))
            platter.flip_bit("raft_meta", file, 8 * block + spot)
            if power:
                platter.lose_power()
            with pytest.raises((JournalError, CorruptionError)):
                load(platter)


def test_damage_to_the_last_record_looks_like_a_torn_write():
    platter, records = written()
    file, block, record = records[-1]
    platter.flip_bit("raft_meta", file, 8 * (block + record.offset) + 100)
    assert load(platter).entries[-1].index == 58, "CommittedNeverLost: a torn write costs more than itself"


def test_lost_files_leave_an_empty_journal_or_none_at_all():
    platter, records = written()
    for file in {file for file, _, _ in records}:
        platter.directory("raft_meta").remove(file)
    platter.kill()
    wal = Walrus(disk=platter.directory("raft_meta"))
    assert RaftJournal(wal).is_empty(), "which a member is not started on"


def test_whoever_catches_what_the_disk_raises_catches_this_too():
    assert issubclass(JournalError, StorageError)
