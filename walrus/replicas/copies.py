"""The copies of segments on this node: their lengths, fences, and what a power loss did to them.

A copy is an engine topic named `<topic>/<segment>`. All writes to it go through here, whether the segment's
writer appends, a replica takes a frame or a recovery extends a tail, so the rules that keep copies
comparable are enforced here:

* a copy only grows, and only in order: it is always a prefix of what the segment's one writer wrote
  (PrefixAgree), and no copy is ever cut back or overwritten;
* a fence is noted durably, and from the same step on the writer's frames are refused. The length in the
  answer to a fence is read in that step too, and the answer waits until both the note and everything
  appended before it are durable: a frame still waiting for its fsync is either in that length or refused.

The states of a copy. Unsure (below) is a separate mark, not a state:

    state      it takes                             left by
    open       frames from the segment's writer     a fence, or the segment's seal
    fenced     entries copied by a recovery         the segment's seal
    sealed     entries that it lacks below count    damage
    damaged    nothing; serves what is readable     a shadow that is whole and verified replaces it

Whether a copy is fenced is kept here; whether its segment is sealed is in the metadata (`replica.py`).

A fence, step by step, and what each step prevents (node 3 has 7 entries, the last of them not yet synced):

    note that t/4 is fenced    with the note in memory only, a restart between the answer and the seal would
                               let the deposed writer append again, beyond the answered length
    read the length: 7         if it were read before the note, an eighth entry could come in between, be
                               acknowledged, and be missing from the sealed count
    wait for the note's sync   until then a power loss would undo the fence
    wait for entry 7's sync    the answer counts it; a power loss must not take it away afterwards
    answer 7

Fences are kept in the engine that holds Raft's log because that engine is always synced, whatever the
schedule for entries: a fence that a power loss could undo would be worthless. A note is dropped once a
durable snapshot of the metadata says that its segment is sealed: then every start of this node knows it.

**Damaged copies.** A copy of a sealed segment that turns out to be partly unreadable is rebuilt in a
*shadow* named `<topic>/<segment>~`, which takes its place once it is whole and verified. Until then the old
copy serves the entries that can still be read.

**Unsure copies.** A node that lost power and did not sync every entry may hold less than it once
acknowledged. Its copies of the segments that were open then are durably marked unsure, until they have
caught up with a live writer or the segment is sealed.

Transcripts, in `tests/replicas/transcripts`: `restart_with_a_shorter_copy`,
`restart_after_a_power_loss_of_all`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from walrus.replicas.durability import Durable
from walrus.segments import LastNumber
from walrus.storage.batch import Batch, Checksum
from walrus.storage.errors import CorruptionError, DiskFull, StorageError
from walrus.wire.effects import Then, Trace, no_trace

Key: TypeAlias = tuple[str, int]
"""(topic, segment number)"""

NOTES = "notes"
"""The engine topic, beside Raft's log, in which fences and unsure copies are noted."""

SCAN_BYTES = 1 << 20
MAX_READ_ENTRIES = 65_536
"""Of one read: `max_bytes` counts payloads, and empty entries have none."""
SCANS = 8
"""Reads of `SCAN_BYTES` that one tick spends on checksums."""

SHADOW = "~"
"""Ends the name of a copy that was made beside a damaged one."""


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What must be remembered of a copy. A later note on the same copy replaces an earlier one."""

    topic: str
    segment: int
    fenced: bool
    sure: bool


_note_decoder = msgspec.msgpack.Decoder(Note)


class Summary(msgspec.Struct):
    """What the first entries of a copy come to: their checksum, and how far their producers have come."""

    checksum: Checksum = Checksum()
    producers: dict[str, LastNumber] = {}

    def extend(self, batch: Batch) -> None:
        """Add what follows."""
        self.checksum = self.checksum.extend(batch)
        for stamp in batch.stamps:
            if stamp.producer:
                self.producers[stamp.producer] = LastNumber(stamp.first + stamp.entries - 1, stamp.at // 1000)

    def copied(self) -> Summary:
        """The same, to be extended by itself."""
        return Summary(self.checksum, dict(self.producers))


class SegmentCopy:
    """One copy: `durable <= length`; `durable` is what may be told to others."""

    __slots__ = ("_summed", "_summed_to", "durable", "fenced", "key", "length", "name", "sure")

    def __init__(self, key: Key, name: str, length: int, note: Note | None) -> None:
        assert note is None or (note.topic, note.segment) == key, "the note of another copy"
        self.key = key
        self.name = name
        self.length = length
        self.durable = length
        self.fenced = note is not None and note.fenced
        self.sure = note is None or note.sure
        self._summed = Summary()
        self._summed_to = 0  # entries covered by `_summed`

    def forget_sum(self) -> None:
        """The next checksum is read from the disk, from the first entry on."""
        self._summed, self._summed_to = Summary(), 0

    def on_durable(self, length: int, then: Then) -> None:
        """The first `length` entries are on the disk: they count from now on, and `then` may say so."""
        assert length <= self.length, "AckedDurable: entries count as durable before they are written"
        self.durable = max(self.durable, length)
        then()

    def check_invariants(self) -> None:
        """Assert what must hold between its fields."""
        assert 0 <= self.durable <= self.length, f"AckedDurable: {self.name}: durable beyond its end"
        assert 0 <= self._summed_to <= self.length, f"PrefixAgree: {self.name}: summed beyond its end"


Summed: TypeAlias = Callable[[Summary | StorageError], None]
"""Called with what entries come to, or with why that cannot be told."""


class _Sum(msgspec.Struct):
    """A checksum that is being computed: `summary` covers the first `at` of `length` entries."""

    copy: SegmentCopy
    length: int
    then: Summed
    summary: Summary
    at: int


class Copies:
    """All copies on this node."""

    def __init__(self, data: Durable, meta: Durable, trace: Trace = no_trace) -> None:
        self._data = data
        self._meta = meta
        self._trace = trace
        self._copies: dict[Key, SegmentCopy] = {}
        self._notes = self._load_notes()
        self.in_doubt = False
        """After a power loss, until it is known which segments were open then: any copy may be short."""
        self.entries = 0
        self.bytes = 0
        self.damaged: dict[Key, None] = {}
        self._sums: deque[_Sum] = deque()
        self._names = self._find(data.storage.topics())
        for key in self._names:
            self.entries += self.get(key).length

    def _find(self, names: list[str]) -> dict[Key, str]:
        """Which engine topic holds which copy.

        Two topics for one segment mean that a restart interrupted a replacement. The name does not tell the
        old copy from the new one, because a copy that was replaced once has the shadow's name and may have to
        be replaced again. The longer one is kept: if that is the damaged one, the damage is found again and
        nothing is lost; a half-filled shadow in its place would forget entries that can still be read.
        """
        found: dict[Key, str] = {}
        for name in names:
            topic, _, number = name.rpartition("/")
            if not topic or not number.removesuffix(SHADOW).isdigit():
                continue
            key = (topic, int(number.removesuffix(SHADOW)))
            shorter, found[key] = sorted([found.get(key, name), name], key=self._length)
            if shorter != found[key]:
                self._delete(shorter)
        return found

    def _length(self, name: str) -> int:
        return self._data.storage.bounds(name)[1]

    def _delete(self, name: str) -> None:
        """Let go of a copy that another one replaces. On a full disk it stays until it is in the way."""
        with suppress(DiskFull):
            self._data.storage.delete_topic(name)

    def _load_notes(self) -> dict[Key, Note]:
        storage, notes = self._meta.storage, {}
        first, end = storage.bounds(NOTES)
        while first < end:
            batch = storage.read_batch(NOTES, first, 1_000, SCAN_BYTES)
            assert batch.count, "a read below the end returned nothing"
            for data in batch.payloads():  # in the order of writing, so that a later note replaces an earlier
                note = _note_decoder.decode(data)
                notes[(note.topic, note.segment)] = note
            first += batch.count
        return notes

    def get(self, key: Key) -> SegmentCopy:
        """The copy of a segment, empty if nothing of it was ever written here."""
        copy = self._copies.get(key)
        if copy is None:
            name = self._names.get(key, f"{key[0]}/{key[1]}")
            copy = SegmentCopy(key, name, self._data.storage.bounds(name)[1], self._notes.get(key))
            self._copies[key] = copy
        assert copy.key == key, "PrefixAgree: the copy of another segment"
        return copy

    # --- writing ---

    def append(self, copy: SegmentCopy, start: int, batch: Batch, then: Then) -> None:
        """Add entries `start ..` to the copy; those it has already are left out.

        `then` runs once they are durable. Raises StorageError with nothing written.
        """
        assert start <= copy.length, "SeqOrder: a gap in a copy"
        count = batch.count
        end = start + count
        if end <= copy.length:
            # A repeated frame, or a question for the length. It may repeat what is written and not yet
            # durable, so its answer waits like that of the frame itself.
            self._data.barrier(then)
            return
        # A frame that was sent again may overlap the end: only what lies behind it is new. Both have the same
        # entries where they overlap, because all frames of a segment come from its one writer (SingleWriter).
        new = batch if start == copy.length else batch.slice(copy.length - start, count)
        length = copy.length + new.count
        assert length == end, "SeqOrder: an entry would be appended twice"
        at = self._data.write(copy.name, new, partial(copy.on_durable, length, then))
        assert at == copy.length, f"SeqOrder: copy {copy.name} is at {at}, not at {copy.length}"
        if copy._summed_to == copy.length:
            copy._summed.extend(new)
            copy._summed_to = length
        assert copy.durable <= copy.length < length, "AckedDurable: durable before it was appended"
        self.entries += length - copy.length
        copy.length = length
        self.bytes += new.size

    def barrier(self, then: Then) -> None:
        """Run `then` once everything appended to any copy so far is durable."""
        self._data.barrier(then)

    def fence(self, copy: SegmentCopy, then: Then) -> None:
        """Refuse the writer from now on. The length at this very step is what may be answered.

        `then` runs once the fence and everything appended before it are durable. Raises StorageError, and
        then nothing is fenced.
        """
        self._note(copy, fenced=True, sure=copy.sure)
        assert copy.fenced, "AckedDurable: the writer's next frame would be taken"
        self.record("Fence", copy)
        # The two engines sync independently. The note first, then the entries: a barrier that is asked for
        # later covers more, so waiting for one after the other waits for both.
        self._meta.barrier(partial(self._data.barrier, then))

    def mark(self, copy: SegmentCopy, *, sure: bool) -> None:
        """Note that a power loss may have shortened this copy, or that it is known to be whole."""
        self._note(copy, fenced=copy.fenced, sure=sure)
        assert copy.sure is sure, "AckedDurable: a copy that may be short passes for whole"

    def _note(self, copy: SegmentCopy, *, fenced: bool, sure: bool) -> None:
        assert fenced or not copy.fenced, "AckedDurable: a fence is never lifted"
        if (copy.fenced, copy.sure) == (fenced, sure):
            return
        note = Note(*copy.key, fenced, sure)
        self._meta.write(NOTES, Batch.of([msgspec.msgpack.encode(note)]))
        # Memory follows the disk. The other way round, a full disk would leave a copy that refuses its writer
        # until the next restart, and takes its frames again afterwards.
        self._notes[copy.key] = note
        copy.fenced, copy.sure = fenced, sure

    @property
    def noted(self) -> Mapping[Key, Note]:
        """What is noted, by segment; there need not be a copy of each."""
        return MappingProxyType(self._notes)

    def forget_notes(self, sealed: Collection[Key]) -> None:
        """Drop the notes on segments that this node will know to be sealed from the beginning of any start.

        A sealed segment's frames are refused without a fence. And what such a copy answers to a recovery that
        has not heard of the seal does not matter: what that proposes is refused.
        """
        kept = {key: note for key, note in self._notes.items() if key not in sealed}
        # A log can only be cut at its beginning. So the notes that still matter are written once more behind
        # all others, and what is before them goes when they are durable: at every moment in between the disk
        # holds each of them at least once.
        end = self._meta.bounds(NOTES)[1]
        with suppress(DiskFull):  # then they are dropped another time
            if len(kept) < len(self._notes):
                if kept:
                    self._meta.write(
                        NOTES, Batch.of([msgspec.msgpack.encode(note) for note in kept.values()])
                    )
                self._notes = kept
                self._meta.barrier(partial(self._trim_notes, end))

    def _trim_notes(self, before: int) -> None:
        """What follows is durable and says all that still matters."""
        first, end = self._meta.bounds(NOTES)
        assert before <= end, "AckedDurable: notes that are not written yet would be dropped"
        assert end - max(first, before) >= len(self._notes), "AckedDurable: a note is nowhere on the disk"
        with suppress(DiskFull):
            self._meta.trim(NOTES, before)

    # --- recording ---

    @property
    def recording(self) -> bool:
        """Whether this run is recorded: values that cost something to find are found only then."""
        return self._trace is not no_trace

    def record(self, event: str, copy: SegmentCopy, **values: object) -> None:
        """Record a step that concerns a copy, with the state that it led to. A shadow is no copy yet."""
        if self._trace is not no_trace and self._copies.get(copy.key) is copy:
            self._trace(event, topic=copy.key[0], segment=copy.key[1], **self._state(copy), **values)

    def _state(self, copy: SegmentCopy) -> dict[str, object]:
        sure = copy.sure and not self.in_doubt
        return {"length": copy.length, "durable": copy.durable, "fenced": copy.fenced, "sure": sure}

    def found(self) -> list[tuple[str, int, int, bool]]:
        """(topic, segment, length, fenced) of each copy on this node: what a start finds."""
        keys = sorted({*self._names, *self._copies, *self._notes})
        return [(*key, self.get(key).length, self.get(key).fenced) for key in keys]

    # --- reading ---

    def read(self, copy: SegmentCopy, start: int, end: int, max_entries: int, max_bytes: int) -> Batch:
        """Entries from `start` on and below `end`, as many as fit and at least one if there is one.

        Raises CorruptionError.
        """
        most = min(max_entries, MAX_READ_ENTRIES, min(end, copy.length) - start)
        if most <= 0 or start < 0:
            return Batch(b"", b"")
        try:
            batch = self._data.storage.read_batch(copy.name, start, most, max_bytes)
        except CorruptionError:
            self._found_damage(copy)
            raise
        assert 0 < batch.count <= most, "DeliveredIsPrefix: a read ran past its end, or over an entry"
        return batch

    # --- giving back ---

    def known(self) -> list[Key]:
        """The segments of which there is a copy here, or something was asked of one."""
        return list({**dict.fromkeys(self._names), **dict.fromkeys(self._copies)})

    def drop(self, key: Key) -> bool:
        """Give back the room of a copy that is retained no more; return whether that is done.

        A full disk may refuse even this, because deleting is written down before it is done.
        """
        copy = self.get(key)
        try:
            for name in {copy.name, copy.name.removesuffix(SHADOW), copy.name.removesuffix(SHADOW) + SHADOW}:
                if name == copy.name or self._length(name):
                    self._data.storage.delete_topic(name)
        except DiskFull:
            return False
        assert self._length(copy.name) == 0, "SpaceIsGivenBack: a copy is dropped, and still there"
        self.entries -= copy.length
        assert self.entries >= 0, "the entries of all copies do not add up"
        if copy.length:
            self._trace("Drop", topic=key[0], segment=key[1])
        self._copies.pop(key, None)
        self._names.pop(key, None)
        self.damaged.pop(key, None)
        self._sums = deque(sum_ for sum_ in self._sums if sum_.copy.key != key)
        return True

    # --- damage ---

    def _found_damage(self, copy: SegmentCopy) -> None:
        """An entry of a copy cannot be read. What the copy knew of its checksum says nothing any more.

        A writer sums up entries as it appends them. With that sum it would answer a fence for entries that it
        cannot hand to any other replica, and a recovery that chose it as the source would never end.
        """
        assert self._copies[copy.key] is copy, "PrefixAgree: a whole copy is replaced for another's damage"
        self.damaged[copy.key] = None
        copy.forget_sum()

    def shadow(self, key: Key) -> SegmentCopy:
        """An empty copy beside the damaged one, to be filled from another replica. Raises DiskFull."""
        name = self.get(key).name
        other = name.removesuffix(SHADOW) if name.endswith(SHADOW) else name + SHADOW
        assert other != name, "the damaged copy would be deleted before there is another"
        self._data.storage.delete_topic(other)  # it is still there if `_delete` met a full disk
        assert self._length(other) == 0, "PrefixAgree: a shadow begins with entries of an earlier attempt"
        return SegmentCopy(key, other, 0, None)

    def adopt(self, shadow: SegmentCopy) -> None:
        """Let a whole and verified shadow take the place of the damaged copy."""
        old = self.get(shadow.key)
        assert shadow.name != old.name, "a copy would replace itself, and then be deleted"
        assert shadow.durable == shadow.length, "AckedDurable: a power loss may leave neither copy"
        self.entries -= old.length
        assert self.entries >= shadow.length, "the entries of all copies do not add up"
        self._copies[shadow.key] = shadow
        self._names[shadow.key] = shadow.name
        self._delete(old.name)
        self.damaged.pop(shadow.key, None)
        self.record("Replace", shadow)

    # --- checksums ---

    @property
    def summing(self) -> bool:
        """Whether some checksum is being computed."""
        return bool(self._sums)

    def when_summed(self, copy: SegmentCopy, length: int, then: Summed) -> None:
        """Call `then` with the checksum of the first `length` entries; with an error if they cannot be read.

        At once if it is known or soon read. Otherwise a piece with every tick: a large segment takes seconds
        to read, and a node that did nothing else meanwhile would be taken for dead.
        """
        assert length <= copy.length, "SealedStable: a checksum of entries that the copy does not hold"
        sum_ = _Sum(copy, length, then, Summary(), 0)
        self._sums.append(sum_)
        if self._sums[0] is sum_:  # behind others it waits for its turn: one file is read at a time
            self.go_on_summing()

    def go_on_summing(self) -> None:
        """Read the next few megabytes of what is being summed."""
        for _ in range(SCANS):
            if not self._sums:
                return
            sum_ = self._sums[0]
            try:
                done = self._scan(sum_)
            except StorageError as damage:
                assert self._sums[0] is sum_, "another checksum would get the error"
                self._sums.popleft()
                if isinstance(damage, CorruptionError) and self._copies.get(sum_.copy.key) is sum_.copy:
                    self._found_damage(sum_.copy)
                sum_.then(damage)
            else:
                if done:
                    assert self._sums[0] is sum_, "SealedStable: another copy would get the checksum"
                    self._sums.popleft()
                    sum_.then(sum_.summary)

    def _scan(self, sum_: _Sum) -> bool:
        """Read one piece; whether it was the last."""
        copy = sum_.copy
        # What the copy knows of its own checksum helps if it does not cover more than is asked for: entries
        # cannot be taken out of a CRC again.
        if sum_.at < copy._summed_to <= sum_.length:
            sum_.summary, sum_.at = copy._summed.copied(), copy._summed_to
        if sum_.at < sum_.length:
            batch = self._data.storage.read_batch(copy.name, sum_.at, sum_.length - sum_.at, SCAN_BYTES)
            if not batch.count:
                raise StorageError(f"{copy.name} ends at entry {sum_.at}: it was replaced by another copy")
            sum_.summary.extend(batch)
            sum_.at += batch.count
            assert sum_.at <= sum_.length, "SealedStable: a checksum covers more than was asked for"
        if sum_.at < sum_.length:
            return False
        if sum_.at > copy._summed_to:
            copy._summed, copy._summed_to = sum_.summary.copied(), sum_.at
        return True

    def checksum(self, copy: SegmentCopy, length: int) -> Checksum:
        """The checksum of the first `length` entries, read from the disk unless it is known."""
        assert length <= copy.length, "SealedStable: a checksum of entries that the copy does not hold"
        if length < copy._summed_to:
            return self._sum(copy, Summary(), 0, length).checksum
        copy._summed = self._sum(copy, copy._summed, copy._summed_to, length)
        copy._summed_to = length
        return copy._summed.checksum

    def _sum(self, copy: SegmentCopy, summary: Summary, start: int, end: int) -> Summary:
        while start < end:
            batch = self._data.storage.read_batch(copy.name, start, end - start, SCAN_BYTES)
            assert 0 < batch.count <= end - start, "SealedStable: a checksum of other entries than asked for"
            summary.extend(batch)
            start += batch.count
        assert start == end, "SealedStable: a checksum of more entries than asked for"
        return summary

    def check_invariants(self) -> None:
        """Assert what must hold of all copies and of the notes on them."""
        for key, copy in self._copies.items():
            copy.check_invariants()
            assert copy.key == key, f"{copy.name} is filed under {key}"
            assert copy.name == self._names.get(key, copy.name), f"{copy.name} is not the one that counts"
        assert self.damaged.keys() <= self._copies.keys(), "damage in a copy that is not there"
        assert len(set(self._names.values())) == len(self._names), "PrefixAgree: two copies in one topic"
