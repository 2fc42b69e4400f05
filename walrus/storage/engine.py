"""The engine under the facade: the topics, their space, their journal, and the durability of each write.

    Engine ── logs ──► Log ── blocks ──► records         (log.py, block.py, record.py)
      │ └──── journal ─► the same, for the engine's notes  (journal.py)
      ├────── space ──► data files and free ranges         (space.py) ──► Disk (backend.py)
      └────── begin_sync / finish_sync ◄── GroupCommit, Flusher, Syncer (syncing.py)

Locks, in the order in which they may be taken: `Journal` > a topic's `lock` > `_mutex` or `Space`. A sync
takes topics' locks, so no thread syncs while it holds one.

Invariants
* No write counts as durable before a sync that began after it has succeeded.
* After a failed write or sync nothing is written and no sync succeeds until the directory is opened again.
* A block is reused only after two syncs have put its topic's note, and then its erasure, on disk.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from threading import RLock, get_ident

from walrus.storage.backend import Disk, File, no_descriptor, translated, write_all
from walrus.storage.block import Block
from walrus.storage.errors import (
    CorruptionError,
    DiskFull,
    EngineClosed,
    EngineFailed,
    EngineForked,
    StorageError,
    TokenLost,
)
from walrus.storage.interrupts import Change, give_back, refuse_reentry
from walrus.storage.journal import (
    STATE,
    Journal,
    Notes,
    RunNote,
    TopicNote,
    deleted_note,
    run_note,
    topic_note,
)
from walrus.storage.log import Log, MappedLog
from walrus.storage.reading import Reader
from walrus.storage.recovery import Chain, Damage, Recoverer, Recovery, find_blocks
from walrus.storage.scan import Hole, sound_batch
from walrus.storage.space import MAX_OPEN_FILES, Extent, Space
from walrus.storage.syncing import Plan

_JOURNAL = 0
_HURRY = 64 << 20  # bytes of retired blocks that are worth a sync of their own

_logger = logging.getLogger("walrus")


class Engine:
    """Topics on one disk. `syncing` says whether any caller is ever made to wait for durability."""

    def __init__(self, disk: Disk, *, syncing: bool, keep_spare: bool) -> None:
        self.disk = disk
        self.prewrite = self._syncing = syncing
        self.logs: dict[str, Log] = {}
        self.failure: OSError | None = None
        self.closed = False
        self._owner = os.getpid()
        self._copied = False  # in a forked child
        self.released = False  # closed, and the directory is free
        self.stopped = False  # closed or failed: one look for paths that are hot
        self.change = Change(self.cut)
        self._writer = 0  # the thread that appended last
        self._shared = False
        self._mutex = RLock()
        self._planning = RLock()
        self._sync_lock = RLock()
        self.tails: dict[Log, None] = {}
        self._dirty: list[Log] = []
        self._in_flight: dict[int, Plan] = {}
        self._plans = 0
        self._retired: list[Extent] = []
        self._erased: list[Extent] = []
        self._erased_files: dict[int, File] = {}
        self._tombs: dict[Extent, int] = {}  # blocks of deleted topics that are not erased for certain yet
        self._ended: dict[str, int] = {}  # name -> where the sequence of a new topic of that name begins
        self._superfluous: list[int] = []
        self._begun = False
        self._run = RunNote()  # of the run before, until this one begins to write
        self._journal_damage: list[Damage] = []
        self._life = disk.random_id()
        disk.lock()
        try:
            self.space = Space(disk)
            self.space.keep_spare = keep_spare
            self._log_type = MappedLog if disk.backend == "mmap" else Log
            self.recovery = self._recover()
        except BaseException:
            disk.close()
            raise

    # -- opening -----------------------------------------------------------------------------------------

    def _recover(self) -> Recovery:
        found = find_blocks(self.space)
        boot, notes = self.disk.boot_id().ljust(16, b"\0")[:16], Notes()
        journal = self._open_journal(found.pop(_JOURNAL, []), boot, notes)
        self._run = notes.run
        same_boot = notes.run.boot == boot and any(boot)
        recoverer = Recoverer(self.space, same_boot=same_boot)
        if same_boot:  # else it may be nothing but what a power loss took
            recoverer.report.damage += self._journal_damage
        chains: list[Chain] = []
        names: set[bytes] = set()
        for topic_id, blocks in sorted(found.items(), key=lambda item: (item[1][0].head.sequence, item[0])):
            name = blocks[0].head.name
            if topic_id in notes.deleted or name in names:
                self._forget(topic_id, [block.extent for block in blocks])
                if (
                    name in names
                ):  # deleted and begun again, but the deletion was lost, so what follows was too
                    self._superfluous.append(topic_id)
                continue
            names.add(name)
            note = notes.topics.get(topic_id, TopicNote())
            blocks = self._drop_trimmed(blocks, note.first)
            chains.append(recoverer.chain(blocks[0].head.name.decode(), topic_id, blocks, note))
        self._miss(set(found), notes, recoverer.report)
        for chain in [chain for chain in chains if chain.blocks]:
            self._adopt(chain, chain.note)
        self.journal = Journal(journal, self._state, self._retire)
        self._repair(recoverer, [chain for chain in chains if chain.torn])
        if notes.run.syncing and self._syncing:
            self._refresh()
        self._log_findings(recoverer.report)
        return recoverer.report

    def _miss(self, found: set[int], notes: Notes, report: Recovery) -> None:
        """Entries that were on disk for certain, and no block header says any more whose they are.

        Reported by each open, until something is written: from then on the topic counts as deleted.
        """
        for topic_id, note in sorted(notes.topics.items()):
            if topic_id not in found and note.durable > note.first:
                report.nameless.append(note)
                self._superfluous.append(topic_id)

    def _open_journal(self, blocks: list[Block], boot: bytes, notes: Notes) -> Log:
        """Read the notes. The journal itself is never judged by the boot id it contains."""
        log = Journal.topic(self)
        if not blocks:
            return log
        recoverer = Recoverer(self.space, same_boot=True)
        blocks = self._drop_superseded(blocks)
        chain = recoverer.chain("", _JOURNAL, blocks, TopicNote(first=blocks[0].head.base))
        self._fill(log, chain, blocks[0].head.base)
        self._read_notes(Reader(log, log.first), notes)
        if chain.torn:
            recoverer.cut_on_disk(chain)
        return log

    def _drop_superseded(self, blocks: list[Block]) -> list[Block]:
        """Only what comes from the last whole state on counts."""
        for number in range(len(blocks) - 1, 0, -1):
            view, block = self.space.view(blocks[number].extent), blocks[number]
            found = sound_batch(view, block.life, block.head.start, 0, block.extent.size)
            if found is not None and found[0].payloads()[0] == STATE:
                self._retire([each.extent for each in blocks[:number]])
                return blocks[number:]
        return blocks

    def _read_notes(self, reader: Reader, notes: Notes) -> None:
        """Fold the notes. Each is true by itself, so one that was lost or damaged is passed over."""
        while True:
            try:
                some = reader.payloads()
            except CorruptionError as error:
                self._journal_damage.append(Damage("", error.file, error.offset, error.index, error.resume))
                reader.seek(error.resume)
                continue
            if not some:
                return
            for note in some:
                notes.take(note)

    def _drop_trimmed(self, blocks: list[Block], first: int) -> list[Block]:
        keep = 0
        while keep < len(blocks) - 1 and blocks[keep + 1].head.base <= first:
            keep += 1
        self._retired += [block.extent for block in blocks[:keep]]
        return blocks[keep:]

    def _adopt(self, chain: Chain, note: TopicNote) -> None:
        log = self._log_type(self, chain.name, chain.topic_id)
        self._fill(log, chain, min(note.first, chain.next_index))
        log.cursor = min(max(note.cursor, log.first), chain.next_index)
        self.logs[chain.name] = log

    def _fill(self, log: Log, chain: Chain, first: int) -> None:
        log.blocks = chain.blocks
        log.bases = [block.head.base for block in chain.blocks]
        log.first = first
        log.durable_index = min(chain.durable, chain.next_index)
        log.durable_place = chain.note.place if log.durable_index == chain.note.durable else 0
        log.find_tail()
        log.asleep = not chain.sealed

    def _repair(self, recoverer: Recoverer, torn: list[Chain]) -> None:
        """Cut what is torn: first put what is known about the topics on disk, then overwrite."""
        if not torn:
            return
        known = [chain for chain in torn if chain.durable and chain.blocks]
        if known and self.journal.log.blocks:
            self._begun = True  # what this run notes about itself must wait until the repair is done
            self.journal.add([topic_note(c.topic_id, self._note(self.logs[c.name])) for c in known])
            self._begun = False
            self.sync()
        for chain in torn:
            recoverer.cut_on_disk(chain)

    def _refresh(self) -> None:
        """Write again what is not known to be durable, and sync.

        If the last run ended because a sync failed, the kernel may hold pages that it believes to be on disk
        and that are not; only writing them again gets them there.
        """
        for log in [*self.logs.values(), self.journal.log]:
            for block in log.blocks:
                if block.next_index > log.durable_index:
                    self.make_way()
                    self._rewrite(log, block)
        if self._dirty:
            self.sync()

    def _rewrite(self, log: Log, block: Block) -> None:
        position = log.durable_index - block.head.base
        view, start = self.space.view(block.extent), 0
        if position > 0:  # never touch what is durable: this write may be torn as any other
            try:
                start = block.locate(view, position, block.end, block.entries).offset
            except Hole:
                return
        file = self.space.file(block.extent.file)
        data = bytes(view[start : block.end])
        write_all(file, [data], block.extent.offset + start)
        with log.lock:
            if not log.dirty:
                self.mark_dirty(log)
            log.unsynced[block.extent.file] = file

    def _log_findings(self, report: Recovery) -> None:
        for cut in report.cuts:
            _logger.warning(
                "dropped %d bytes of a torn write at the end of topic %r (%s, byte %d)",
                cut.dropped_bytes, cut.topic, cut.file, cut.offset,
            )  # fmt: skip
        for hole in report.damage:
            _logger.error(
                "entries %d to %d of topic %r are damaged (%s, byte %d)",
                hole.first, hole.resume - 1, hole.topic, hole.file, hole.offset,
            )  # fmt: skip
        for note in report.nameless:
            _logger.error("%d entries are lost with their block's header", note.durable - note.first)

    # -- topics ------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Log:
        """The topic of that name, created if need be (on disk only with its first record)."""
        with self._mutex:
            log = self.logs.get(name)
            if log is None:
                if self.closed:
                    raise self._refusal()
                log = self._log_type(self, name)
                log.first_sequence = self._ended.get(name, 0)
                self.logs[name] = log
            return log

    def delete(self, log: Log) -> None:
        """Forget a topic; its space is free two syncs later."""
        self.check_writable()
        with self.change:
            if log.topic_id >= 0:
                self.journal.add([deleted_note(log.topic_id)])
            with self._mutex:
                if self.logs.get(log.name) is log:
                    del self.logs[log.name]
            self._forget(log.topic_id, self._empty(log))
        self._hurry()

    def _empty(self, log: Log) -> list[Extent]:
        """Nothing is appended to the topic, or read from it, any more; what it had."""
        with log.lock:
            log.stop()
            self.tails.pop(log, None)
            log.gone = True
            extents = [block.extent for block in log.blocks]
            if log.blocks:
                self._ended[log.name] = log.blocks[-1].head.sequence + 1
            log.blocks, log.bases = [], []
            log.offset = log.position = log.base = log.first = 0
            return extents

    def _forget(self, topic_id: int, extents: list[Extent]) -> None:
        for extent in extents:
            self._tombs[extent] = topic_id
        self._retire(extents)

    def trim(self, log: Log, before: int) -> None:
        """Forget the entries below `before`, and give back the blocks that hold nothing else."""
        self.check_writable()
        before = min(before, log.next_index)
        if before <= log.first:
            return
        first, cursor = log.first, log.cursor
        try:
            with self.change:
                log.first = before
                log.cursor = max(log.cursor, before)
                self.journal.add([topic_note(log.topic_id, self._note(log))])
                self._retire(log.drop_blocks(before))
        except StorageError:  # or a second attempt would pass for done, and the entries come back
            log.first, log.cursor = first, cursor
            raise
        self._hurry()

    def note_cursor(self, log: Log, cursor: int) -> None:
        """Persist a cursor (durable with the next sync)."""
        before = log.cursor
        try:
            self.check_writable()
            with self.change:
                log.cursor = cursor
                self.journal.add([topic_note(log.topic_id, self._note(log))])
        except StorageError:
            log.cursor = before
            raise

    def _note(self, log: Log) -> TopicNote:
        with log.lock:
            return TopicNote(log.first, log.cursor, log.durable_index, log.durable_place)

    def _state(self) -> Iterator[bytes]:
        """Everything the journal has to know, for the beginning of a block of it."""
        yield STATE
        yield run_note(self._run)
        for topic_id in sorted(set(self._tombs.values())):
            yield deleted_note(topic_id)
        for log in list(self.logs.values()):
            if log.topic_id >= 0:
                yield topic_note(log.topic_id, self._note(log))

    # -- what topics ask of their engine ------------------------------------------------------------------

    def check_open(self, *, writing: bool) -> None:
        """Raise if closed or, for a call that is going to write, failed."""
        if self.closed:
            raise self._refusal()
        if writing and self.failure is not None:
            raise self._failed() from self.failure

    def _refusal(self) -> EngineClosed:
        return EngineForked(self.disk.path, self._owner) if self._copied else EngineClosed()

    def check_writable(self) -> None:
        """Raise if closed or failed; note in the journal that this run writes."""
        self.check_open(writing=True)
        if not self._begun:
            with self.change:
                self._begin_run()

    def _begin_run(self) -> None:
        self._begun = True
        self._run = RunNote(self.disk.boot_id(), self._syncing)
        try:
            if self._journal_damage:
                self.journal.rewrite()
            else:
                lost = [deleted_note(topic_id) for topic_id in self._superfluous]
                self.journal.add([*lost, run_note(self._run)])
        except StorageError:
            self._begun = False
            raise

    def _failed(self) -> EngineFailed:
        assert self.failure is not None
        why = (
            "an exception cut a call in two"
            if self.failure.errno == errno.EINTR
            else "the disk failed earlier"
        )
        return EngineFailed(f"{why} ({self.failure.strerror}): open the log again before writing to it")

    def cut(self, error: BaseException) -> None:
        """An exception from outside has cut a change in two (interrupts.py)."""
        self.fail(OSError(errno.EINTR, repr(error)))

    def interrupted(self, error: BaseException, others: Sequence[RLock]) -> None:
        """An exception that was not raised by the engine leaves a call: give back what this thread holds."""
        for lock in (
            *others,
            self._mutex,
            self._planning,
            self._sync_lock,
            self.space.lock,
            self.journal.lock,
        ):
            give_back(lock)
        self.disk.interrupted()
        for log in [*self.logs.values(), self.journal.log]:
            if log.lock.locked and not log.lock.comes_back():
                self.cut(error)
                log.lock.renew()

    def new_life(self) -> int:
        """The next of a run's numbers, which began at a random one."""
        with self._mutex:
            self._life = (self._life + 1) & 0xFFFF_FFFF_FFFF_FFFF or 1
            return self._life

    def shared(self) -> bool:
        """Whether more than one thread has appended."""
        me = get_ident()
        self._shared, self._writer = self._shared or self._writer not in (0, me), me
        return self._shared

    def mark_dirty(self, log: Log) -> None:
        """Remember that the topic has something to sync; its lock is held."""
        if log.file is not None:  # none in a tail that sleeps while an older block is written again
            log.unsynced[log.blocks[-1].extent.file] = log.file
        with self._mutex:
            self._dirty.append(log)
        log.dirty = log.changed = True  # last: if an exception comes before, the next append does it again

    def fail(self, error: OSError) -> None:
        """No more writes."""
        self.failure, self.stopped = self.failure or error, True
        self._stop_writes()

    def _stop_writes(self) -> None:
        for log in [*self.logs.values(), self.journal.log]:
            log.stop()

    # -- durability --------------------------------------------------------------------------------------

    def begin_sync(self) -> Plan:
        """What a sync that starts now has to cover."""
        self.check_open(writing=False)
        refuse_reentry(self._planning)
        with self.change, self._planning:
            return self._plan()

    def _plan(self) -> Plan:
        with self._mutex:
            dirty, self._dirty = self._dirty, []
            self._plans += 1
            number = self._plans
            retired, self._retired = self._retired, []
            erased, self._erased = self._erased, []
            files, self._erased_files = self._erased_files, {}
            for other in self._in_flight.values():  # written before us, and not durable yet either
                files.update({int(file.name[:8]): file for file in other.files})
        marks = [log.begin_sync() for log in dirty]
        for mark in marks:
            files.update(mark.files)
        plan = Plan(number, [file for _, file in sorted(files.items())], marks, retired, erased)
        with self._mutex:
            self._in_flight[number] = plan
        return plan

    def finish_sync(self, plan: Plan, error: OSError | None) -> None:
        """Note what has become durable; a failed sync fails the engine, and so does one after a failure."""
        if error is not None:
            self.fail(error)
        if self.failure is not None:
            raise self._failed() from self.failure
        with self.change:
            with self._mutex:  # it covered the files of those that began before it as well
                for number in [number for number in self._in_flight if number <= plan.number]:
                    del self._in_flight[number]
            for mark in plan.marks:
                mark.log.synced(mark)
            self._advance_retired(plan)

    def sync(self) -> None:
        """Make everything written before this call durable."""
        refuse_reentry(self._sync_lock)
        with self._sync_lock:
            if self.failure is not None:
                raise self._failed() from self.failure
            plan = self.begin_sync()
            try:
                failure = _sync_all(plan.files)
            except BaseException as error:
                self._sync_cut(plan, error)
                raise
            self.finish_sync(plan, failure)

    def _sync_cut(self, plan: Plan, error: BaseException) -> None:
        """An exception ended the wait for the disk: the next sync does it all, if nothing has failed so far.

        The plan stays in flight, so that the next one covers its files.
        """
        if isinstance(error.__context__, OSError):  # it came while an error of the disk was on its way here
            self.fail(error.__context__)
            return
        with self._mutex:
            self._retired, self._erased = [*plan.retired, *self._retired], [*plan.erased, *self._erased]

    def _retire(self, extents: list[Extent]) -> None:
        with self._mutex:
            self._retired += extents

    def _advance_retired(self, plan: Plan) -> None:
        """Free what was erased before the sync; erase what the journal had given up before it."""
        for extent in plan.erased:
            self._tombs.pop(extent, None)
            self.space.release(extent)
        if not self._tombs:
            self._ended.clear()
        if plan.erased:
            self._remove_empty_files()
        for done, extent in enumerate(plan.retired):
            if len(self._erased_files) >= MAX_OPEN_FILES and extent.file not in self._erased_files:
                self._retire(plan.retired[done:])  # the next sync goes on
                return
            try:
                file = self.space.erase(extent)
            except OSError as error:
                if no_descriptor(error):
                    self._retire(plan.retired[done:])
                    return
                self.fail(error)
                raise translated(error, "erasing a block") from error
            with self._mutex:
                self._erased.append(extent)
                self._erased_files[extent.file] = file

    def _remove_empty_files(self) -> None:
        try:
            self.space.remove_empty_files()
        except OSError as error:
            self.fail(error)
            raise translated(error, "removing a data file") from error

    def make_way(self) -> None:
        """See `Owner.make_way`."""
        if self.space.open_files >= 2 * MAX_OPEN_FILES:
            self.let_go()

    def let_go(self) -> bool:
        """Close the data files that are kept open (space.py); whether there are fewer now.

        A file that was written to is closed only once that is durable.
        """
        before = self.space.open_files
        while self.tails:
            log, _ = self.tails.popitem()
            with log.lock:
                log.sleep()
        self.space.drop_recent()
        if self.failure is None and not self.closed and self.space.open_files:
            self.sync()
        return self.space.open_files < before

    def reclaim(self, error: OSError | None = None) -> bool:
        """Sync until nothing waits to become free; whether that freed anything."""
        if error is not None and no_descriptor(error):
            return self.let_go()
        before = self.space.free_bytes()
        while self._retired or self._erased:
            self.sync()
        return self.space.free_bytes() > before

    def _hurry(self) -> None:
        """Many bytes wait for a sync that may never come: make it now."""
        if sum(extent.size for extent in [*self._retired, *self._erased]) >= _HURRY:
            self.reclaim()

    def forked(self) -> None:
        """See forking.py. A log's `limit` of 0 sends every append to `check_writable`."""
        self._copied = self.closed = self.stopped = self.released = True
        for log in [*self.logs.values(), self.journal.log]:
            log.leave()
        self.disk.abandon()

    # -- closing -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Note where every topic ends, make it durable, and let go of the directory.

        Called again after an exception cut it short, it does the rest.
        """
        try:
            if self.failure is None and self._begun and not self.closed:
                with self.change:
                    self._close_cleanly()
        except BaseException as error:
            if not isinstance(error, StorageError):
                self.interrupted(error, ())  # what follows takes the same locks
            raise
        finally:
            self.closed = self.stopped = True
            for log in [*self.logs.values(), self.journal.log]:
                self._end(log)
            self.space.close()
            self.disk.close()
            self.released = True

    def _end(self, log: Log) -> None:
        """No append is under way any more when the files are closed."""
        try:
            with log.lock:
                log.stop()
        except TokenLost:  # no thread has it, so none appends
            log.stop()
            log.lock.renew()

    def _close_cleanly(self) -> None:
        self.sync()
        notes = []
        for log in [log for log in self.logs.values() if log.changed and log.topic_id >= 0]:
            notes.append(topic_note(log.topic_id, self._note(log)))
            log.changed = False
        try:
            for start in range(0, len(notes), 1000):
                self.journal.add(notes[start : start + 1000])
        except DiskFull:
            _logger.warning("no room to note where topics end: the next open has to look for itself")
        self.sync()
        self.reclaim()


def _sync_all(files: Sequence[File]) -> OSError | None:
    """Sync the files; the error of the first that fails."""
    try:
        for file in files:
            file.sync()
    except OSError as error:
        return error
    return None
