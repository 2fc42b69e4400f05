"""The journal: what was durable comes back whatever a crash cut off; what cannot be trusted is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus.consensus import journal as journal_module
from walrus.consensus.journal import JournalError, RaftJournal
from walrus.consensus.messages import Entry, HardState, Membership, Ready, Restored, Snapshot
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Batch
from walrus.storage.errors import DiskFull

THREE = Membership((1, 2, 3))


def journal() -> tuple[MemoryEngine, RaftJournal]:
    storage = MemoryEngine()
    return storage, RaftJournal(storage)


def entries(first: int, last: int, term: int = 1) -> tuple[Entry, ...]:
    return tuple(Entry(term, index, data=b"%d" % index) for index in range(first, last + 1))


def checkpoint(number: int, index: int, after: tuple[Entry, ...] = (), data: bytes = b"state") -> Ready:
    return Ready(
        number=number,
        hard_state=HardState(3, 1),
        checkpoint=Snapshot(index, 1, THREE, data),
        entries=after,
    )


def test_an_empty_journal_is_a_server_of_no_cluster() -> None:
    _, log = journal()
    assert log.is_empty() and log.load() == Restored(), (
        "ElectionSafety: a vote of no term, or an entry of none"
    )


def test_a_founded_journal_holds_the_membership() -> None:
    _, log = journal()
    log.bootstrap(THREE)
    restored = log.load()
    assert restored.hard_state == HardState(1, None), "ElectionSafety: a founded journal forgets its term"
    assert Membership.decode(restored.entries[0].data) == THREE, "ElectionSafety: other voters are founded"


def test_a_lower_index_replaces_all_that_follows() -> None:
    _, log = journal()
    log.save(Ready(number=1, hard_state=HardState(1), entries=entries(1, 5)))
    log.save(Ready(number=2, hard_state=HardState(2), entries=entries(3, 4, term=2)))
    restored = log.load()
    assert [(e.index, e.term) for e in restored.entries] == [(1, 1), (2, 1), (3, 2), (4, 2)], (
        "LogMatching: a tail that was replaced comes back"
    )


def test_a_checkpoint_is_complete_by_itself_and_trims_what_was_before_when_durable() -> None:
    storage, log = journal()
    log.save(Ready(number=1, hard_state=HardState(3, 1), entries=entries(1, 9)))
    before = storage.bounds("raft")[1]
    ready = checkpoint(2, 7, entries(8, 9))
    log.save(ready)
    first = storage.bounds("raft")[0]
    assert first == 0, "CommittedNeverLost: cut off before the checkpoint is durable"
    log.durable(ready)
    assert storage.bounds("raft")[0] == before, (
        "SpaceIsGivenBack: what a checkpoint replaces stays, or more goes"
    )
    try:
        restored = RaftJournal(storage).load()
    except JournalError as error:
        raise AssertionError("ElectionSafety: a checkpoint goes without the term of what follows") from error
    assert restored.snapshot == ready.checkpoint and restored.entries == entries(8, 9), (
        "CommittedNeverLost: a checkpoint is not complete by itself"
    )
    assert restored.hard_state == HardState(3, 1) and restored.membership == THREE, (
        "ElectionSafety: term, vote or voters go with what a checkpoint replaces"
    )


@pytest.mark.parametrize(("term", "stay"), [(2, entries(8, 9, term=2)), (1, ())])
def test_entries_behind_a_snapshot_stay_only_if_the_log_had_its_last_one(
    term: int, stay: tuple[Entry, ...]
) -> None:
    """After a crash between the sync of the snapshot and the trim of what was before."""
    _, log = journal()
    log.save(Ready(number=1, hard_state=HardState(3), entries=entries(1, 9, term=2)))
    log.save(Ready(number=2, hard_state=HardState(3), snapshot=Snapshot(7, term, THREE, b"state")))
    assert log.load().entries == stay, "LogMatching: a restart brings back a tail of another log"


def test_a_checkpoint_that_cannot_be_trimmed_on_a_full_disk_is_trimmed_with_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, log = journal()

    def full(topic: str, before: int) -> None:
        raise DiskFull("no room to note it")

    first, second = checkpoint(1, 4), checkpoint(2, 5)
    log.save(first)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "trim", full)
        log.durable(first)
    before = storage.bounds("raft")[1]
    log.save(second)
    log.durable(second)
    assert storage.bounds("raft")[0] == before, "SpaceIsGivenBack: what could not be trimmed once stays"


def test_a_large_snapshot_goes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "CHUNK_BYTES", 10)
    storage, log = journal()
    log.save(checkpoint(1, 4, data=bytes(range(95))))
    assert storage.bounds("raft")[1] == 1 + 10 + 1
    restored = log.load()
    assert restored.snapshot is not None and restored.snapshot.data == bytes(range(95)), (
        "StateMachineSafety: the pieces of a snapshot do not make it up"
    )


@given(st.integers(0, 40))
def test_every_prefix_of_what_was_written_is_a_state_that_was(cut: int) -> None:
    storage, log = journal()
    states = [log.load()]
    for ready in (
        Ready(number=1, hard_state=HardState(1), entries=entries(1, 3)),
        Ready(number=2, hard_state=HardState(3, 1), entries=entries(4, 6)),
        checkpoint(3, 5, entries(6, 6)),
        Ready(number=4, entries=entries(6, 8, term=3)),
        checkpoint(5, 8),
    ):
        log.save(ready)
        states.append(log.load())
    storage.lose_power(lambda ends: min(ends[0] + cut, ends[-1]))
    try:
        restored = log.load()
    except JournalError as error:
        raise AssertionError("ElectionSafety: a crash leaves entries without their term") from error
    last = restored.entries[-1].index if restored.entries else getattr(restored.snapshot, "index", 0)
    known = restored.hard_state in {state.hard_state for state in states}
    assert known, "ElectionSafety: a crash leaves a term and a vote that never were"
    assert last <= 8, "LeaderAppendOnly: a crash leaves an entry that was never written"
    log.save(Ready(number=6, hard_state=HardState(9), entries=(Entry(9, last + 1),)))
    assert RaftJournal(storage).load().entries[-1] == Entry(9, last + 1), (
        "CommittedNeverLost: what is written after a crash is not read"
    )


def test_leftovers_before_the_first_snapshot_of_a_trimmed_journal_do_not_count() -> None:
    """An engine may give space back in blocks, so a little of what was trimmed may come back."""
    storage, log = journal()
    log.save(Ready(number=1, hard_state=HardState(3, 1), entries=entries(1, 9)))
    ready = checkpoint(2, 7, entries(8, 9))
    log.save(ready)
    storage.trim("raft", 4)
    assert log.load().snapshot == ready.checkpoint, "CommittedNeverLost: what was trimmed counts again"


def test_nor_does_a_snapshot_among_them_that_a_crash_cut_off() -> None:
    """What follows it continues a log that is gone, until a whole snapshot comes."""
    storage, log = journal()
    log.save(Ready(number=1, hard_state=HardState(3, 1), entries=entries(1, 9)))
    storage.sync()
    log.save(checkpoint(2, 7))
    storage.lose_power(lambda ends: ends[0] + 1)  # its header is there, and its one chunk is not
    log.save(Ready(number=3, entries=entries(10, 12)))
    whole = checkpoint(4, 11, entries(12, 12))
    log.save(whole)
    storage.trim("raft", 10)
    assert storage.entries["raft"][10].startswith(b"S")
    try:
        restored = log.load()
    except JournalError as error:
        raise AssertionError("CommittedNeverLost: a member that is whole refuses to start") from error
    assert (restored.snapshot, restored.entries) == (whole.checkpoint, entries(12, 12)), (
        "CommittedNeverLost: a snapshot that a crash cut off counts"
    )


@pytest.mark.parametrize(
    ("position", "record", "complaint"),
    [
        (1, b"E\xc1", "cannot be read"),
        (1, b"?", "unknown kind"),
        (1, b"", "unknown kind"),
        (1, b"C\xc4\x01x", "a chunk of no snapshot"),
        (0, b"H\x92\x00\xc0", "lost the term"),
        (5, b"C\xc4\x05other", "snapshot at index 3 is corrupt"),
        (5, b"C\xc4\x09too long!", "snapshot at index 3 is corrupt"),
    ],
)
def test_a_journal_that_cannot_be_trusted_is_refused(position: int, record: bytes, complaint: str) -> None:
    storage, log = journal()
    log.save(Ready(number=1, hard_state=HardState(1), entries=entries(1, 3)))
    if position == 5:
        log.save(checkpoint(2, 3))
    storage.entries["raft"][position] = record
    with pytest.raises(JournalError, match=complaint) as caught:
        log.load()
    assert "do not start this node" in str(caught.value)


def test_a_gap_is_refused() -> None:
    _, log = journal()
    log.save(Ready(number=1, hard_state=HardState(1), entries=entries(1, 2)))
    log.save(Ready(number=2, entries=entries(4, 4)))
    with pytest.raises(JournalError, match="does not follow"):
        log.load()


def test_a_trimmed_journal_without_a_whole_snapshot_is_refused() -> None:
    storage, log = journal()
    log.save(Ready(number=1, hard_state=HardState(1), entries=entries(1, 5)))
    storage.trim("raft", 3)
    with pytest.raises(JournalError, match="no whole Raft snapshot"):
        log.load()


def test_an_engine_that_ends_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, log = journal()
    log.bootstrap(THREE)
    monkeypatch.setattr(storage, "read_batch", lambda *_: Batch.of([]))
    with pytest.raises(JournalError, match="ends at 0 instead of 2"):
        log.load()


def test_what_two_checkpoints_replace_goes_when_both_become_durable_at_once() -> None:
    storage, log = journal()
    log.save(checkpoint(1, 4))
    before = storage.bounds("raft")[1]
    second = checkpoint(2, 5)
    log.save(second)
    log.durable(second)
    assert storage.bounds("raft")[0] == before, (
        "SpaceIsGivenBack: the journal begins before its last checkpoint"
    )


def test_a_sync_of_what_was_written_before_a_checkpoint_trims_nothing() -> None:
    """The checkpoint is written and not durable: a crash now needs what it is to replace."""
    storage, log = journal()
    before = Ready(number=1, hard_state=HardState(3, 1), entries=entries(1, 9))
    log.save(before)
    log.save(checkpoint(2, 7, entries(8, 9)))
    log.durable(before)
    assert storage.bounds("raft")[0] == 0, "CommittedNeverLost: cut off before the checkpoint is durable"
