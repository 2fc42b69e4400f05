"""Raft's host: it persists, sends, and applies to the metadata what the core asks for in each `Ready`.

`Raft` decides and does nothing else. Each `Ready` passes through these steps:

    flush           messages are sent that need no durability
      save          hard state, entries, snapshot and checkpoint are written to the journal
        (sync)      the shell's, together with every other write of Raft's engine
      persisted     answers are sent, Raft is told, a snapshot is installed
        apply       the next committed commands, up to `MAX_APPLIED` and `MAX_APPLIED_BYTES`
        on_applied  the node's state machines are shown each change once

**Full disk.** A `Ready` that cannot be written is kept, and retried at the next flush. Raft returns no other
before that, so this node sends no answer that depends on an unwritten one.

**Applying waits for the sync**, though a committed command could be applied as soon as it is known. So every
command that this node has acted on is in its own journal. After a power loss this tells which of its copies
may have been shortened: those of segments opened by a command up to the journal's last index (`_unsure_to`).

**Applying is bounded**, because the node answers nothing meanwhile: after a failover Raft commits the Seals
of all segments that a dead node led at once. The rest is applied in the next turns, which follow
immediately; in between the node handles its inputs.

**A snapshot of the leader** replaces the metadata some topics at a time (`takeover.py`), too. `applied` moves
with the last of them; until then no command is applied, no image is begun, and this node decides nothing as
the Raft leader. At its start, before it serves, a node takes all of them at once.

**Checkpoints.** After `compact_entries` applied entries the metadata becomes a snapshot, some topics per
turn (`imaging.py`), and Raft drops the log up to the index at which the snapshot was begun. Once the
checkpoint is durable, every later start of this node knows the segments that were sealed in it, and the
notes on their copies are dropped (`Copies.forget_notes`).

Proposals have no answers: the proposer repeats its command until the applied metadata shows the change. The
Raft leader completes a placement before it appends it, or drops it (`placement.completed`).

Invariants: commands are applied in log order, each index once; no entry is applied or acknowledged that is
not durable here; nothing happens after `Outbox.halt`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import msgspec

from walrus.broker.imaging import Image
from walrus.broker.placement import Departures, completed
from walrus.broker.spec_trace import record_applied, record_entry, record_snapshot
from walrus.broker.takeover import Takeover
from walrus.config import Identity, NodeConfig
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import COMMAND, Entry, Envelope, Ready, Restored, Rng, Role, Snapshot
from walrus.raft import Raft
from walrus.replicas.copies import Copies, Key
from walrus.replicas.durability import Durable
from walrus.segments import (
    Announce,
    Command,
    CommitCursors,
    CommitGroups,
    Metadata,
    MoveGroup,
    RegisterTopic,
    Seal,
    SetReplicas,
    UnknownCommand,
    decode_command,
    encode_command,
    version_of,
)
from walrus.storage.errors import DiskFull, StorageError
from walrus.wire.effects import Outbox, Trace, no_trace
from walrus.wire.messages import Propose

MAX_APPLIED = 100
"""Commands that are applied in one go."""

MAX_APPLIED_BYTES = 256 << 10
"""Their size, in bytes; one command more may begin below it."""


class RaftObserver:
    """Is shown what a `RaftHost` does; the simulator's judge derives from it. This one does nothing."""

    def on_persist(self, ready: Ready) -> None:
        """This `Ready` has been written to the journal; it is not durable yet."""

    def on_apply(self, entries: tuple[Entry, ...]) -> None:
        """These committed entries are about to be applied."""

    def on_restore(self, snapshot: Snapshot) -> None:
        """The metadata is about to be replaced by this snapshot."""


class Changes(msgspec.Struct, kw_only=True):
    """What one `Ready` changed in the metadata."""

    topics: dict[str, None] = {}
    """Topics that have another open segment, or another replica set somewhere."""
    groups: dict[str, None] = {}
    """Topics of which consumers acknowledged entries, or moved a group, or a cursor."""
    replica_sets: list[Key] = []
    """Sealed segments whose replica set was replaced."""
    restored: bool = False
    """Whether a snapshot replaced all of the metadata."""
    beyond_cursors: bool = False
    """Whether anything changed that is not how far a group is: nodes, segments, Raft's own membership."""
    confirmed_reads: tuple[tuple[int, int], ...] = ()
    """ReadIndex rounds that Raft has confirmed: (context, index)."""


OnApplied: TypeAlias = Callable[[Changes, float], None]


class RaftHost:
    """Owns Raft, its journal, and the place up to which the metadata has been applied."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        identity: Identity,
        meta: Durable,
        metadata: Metadata,
        copies: Copies,
        outbox: Outbox,
        rng: Rng,
        now: float,
        trace: Trace,
        observer: RaftObserver,
    ) -> None:
        self._config, self._meta, self._copies = config, meta, copies
        self._outbox, self._trace, self._observer = outbox, trace, observer
        self._now = now
        self._on_applied: OnApplied = lambda changes, now: None
        self._journal = RaftJournal(meta)
        restored = self._journal.load()
        self._unsure_to = 0 if identity.sure else _last_index(restored)
        self._unsaved: Ready | None = None
        self._no_room = False  # whether the operator was told that the disk is full
        self._image: Image | None = None  # the snapshot that is being made, or is not known to be durable
        self._departures = Departures()
        self._takeover: Takeover | None = None  # the snapshot of which some topics are in `metadata`
        self._committed: deque[Entry] = deque()  # durable and committed, to be applied
        self.metadata = metadata
        self.applied = 0
        """Index of the last log entry that `metadata` reflects."""
        self.announced_at = _announced_at(restored, identity.directory_id)
        """The first log index in the journal that announces this directory's node; 0 if none does."""
        copies.in_doubt = self._unsure_to > 0
        self.raft = Raft(
            node_id=config.node_id,
            config=config.raft(),
            restored=restored,
            rng=rng,
            now=now,
            trace=None if trace is no_trace else trace,
        )

    def start(self, on_applied: OnApplied) -> None:
        """Install the journal's snapshot, if there is one. From now on `on_applied` is told every change."""
        self._on_applied = on_applied
        if (snapshot := self.raft.log.snapshot) is not None:
            changes = Changes()
            self._restore(snapshot, changes, at_once=True)
            self._on_applied(changes, self._now)

    @property
    def doubts_are_noted(self) -> bool:
        """Whether every copy that a power loss may have shortened is durably noted as unsure."""
        return self.applied >= self._unsure_to and self._meta.durable == self._meta.written

    def propose(self, command: Command, now: float) -> None:
        """Hand a command to the Raft leader, wherever it is. A lost proposal is the proposer's to repeat."""
        if not self._known_to_all(command):
            return
        if self.raft.role is Role.LEADER:
            self._append(command, now)
        elif self.raft.leader_id is not None:
            self._outbox.send(self.raft.leader_id, Propose(commands=(command,)))

    def on_propose(self, proposal: Propose, now: float) -> None:
        """Commands of another node; if this one does not lead (any more), they are lost."""
        if self.raft.role is Role.LEADER:
            for command in proposal.commands:
                if self._known_to_all(command):
                    self._append(command, now)

    def _known_to_all(self, command: Command) -> bool:
        """Whether no member would have to stop at this command, being of an older release.

        As far as is known here: a node that has just started has not applied all yet. What clients ask for is
        looked at with fresh metadata before it comes here.
        """
        version = version_of(command)
        if version > self.metadata.all_know:
            older = ", ".join(map(str, self.metadata.older_than(version)))
            kind = type(command).__name__
            self._outbox.log(f"not proposed: {kind} of version {version}, which is news to node {older}")
        return version <= self.metadata.all_know

    def _append(self, command: Command, now: float) -> None:
        """Append a command to this leader's log: one that places a segment only with enough replicas."""
        placed: Command | None = command
        if isinstance(command, RegisterTopic | Seal):
            voters, factor = self.raft.membership.voters, self._config.replication_factor
            leaving = self._departures.ahead(self.raft.log, self.raft.current_term, self.applied)
            placed = completed(command, voters, self.metadata.nodes, factor, leaving)
        if placed is not None:
            self.raft.propose(encode_command(placed), now)

    def on_durable(self, number: int, now: float) -> None:
        """Everything up to write `number` of Raft's engine is durable."""
        self._now = now
        self._meta.on_durable(number)

    # --- Ready -> send, persist ---

    @property
    def has_work(self) -> bool:
        """Whether `flush` has something to do, or to try again."""
        return self._unsaved is not None or self.raft.has_ready()

    def flush(self, now: float) -> None:
        """Do what Raft asks for, as far as the disk has room for it."""
        self._now = now
        while self._save() and self.raft.has_ready():
            self._unsaved = self.raft.ready()
            self._send_all(self._unsaved.messages)

    def _save(self) -> bool:
        """Write the `Ready` that is not written yet. Return whether there is none (any more)."""
        ready = self._unsaved
        if ready is None:
            return True
        try:
            if ready.needs_persist:
                self._journal.save(ready)
                self._observer.on_persist(ready)
        except DiskFull as error:
            if not self._no_room:
                self._outbox.log(f"Raft waits for room on the disk: {error}")
            self._no_room = True
            return False
        self._unsaved, self._no_room = None, False
        self._meta.barrier(partial(self._persisted, ready))
        return True

    def _send_all(self, envelopes: tuple[Envelope, ...]) -> None:
        for to, message in envelopes:
            self._outbox.send(to, message)

    # --- persisted -> answer, apply ---

    def _persisted(self, ready: Ready) -> None:
        """All that a `Ready` says is durable here: answer for it, and apply what is committed."""
        if self._outbox.halted:
            return
        self._journal.durable(ready)
        image = self._image
        if ready.checkpoint is not None and image is not None and ready.checkpoint.index == image.index:
            self._copies.forget_notes(image.over)
            self._image = None
        self._send_all(ready.messages_after)
        self.raft.persisted(ready, self._now)
        changes = Changes(confirmed_reads=ready.reads)
        if ready.snapshot is not None:
            self._committed.clear()  # the snapshot holds what they do
            self._restore(ready.snapshot, changes)
        self._committed += ready.committed
        self._apply_next(changes)

    @property
    def leads(self) -> bool:
        """Whether this node leads Raft and knows what its predecessors decided, so that it may decide.

        All that was committed before its term is applied here once the first entry of that term is.
        """
        if self.raft.role is not Role.LEADER or self._takeover is not None:
            return False
        log = self.raft.log
        assert log.holds(self.applied), "StateMachineSafety: the snapshot is of more than is applied here"
        return log.term_at(self.applied) == self.raft.current_term

    @property
    def behind(self) -> bool:
        """Whether topics of a snapshot, or committed commands, wait to be applied: a turn is due at once."""
        return self._takeover is not None or bool(self._committed)

    def go_on(self, now: float) -> None:
        """Take over the next topics, or apply the next commands, or go on with a snapshot that is made."""
        self._now = now
        if self._outbox.halted:
            return
        if not self.behind:
            self._compact()
            return
        changes = Changes()
        if self._takeover is not None:
            self._take_over(self._takeover, changes)
        self._apply_next(changes)

    def _apply_next(self, changes: Changes) -> None:
        if self._outbox.halted:
            return  # by a snapshot of a later release: nothing that follows it fits what is here
        if self._takeover is None and (entries := self._next_committed()):
            self._apply(entries, changes)
        self._copies.in_doubt = self.applied < self._unsure_to
        if not self._outbox.halted:
            self._on_applied(changes, self._now)
            self._compact()

    def _next_committed(self) -> tuple[Entry, ...]:
        taken: list[Entry] = []
        size = 0
        while self._committed and len(taken) < MAX_APPLIED and size < MAX_APPLIED_BYTES:
            taken.append(self._committed.popleft())
            size += len(taken[-1].data)
        return tuple(taken)

    def _apply(self, entries: tuple[Entry, ...], changes: Changes) -> None:
        """Apply committed entries in order, and note in `changes` what they did."""
        self._observer.on_apply(entries)
        opened_at: dict[str, int] = {}
        for entry in entries:
            assert entry.index == self.applied + 1, (
                f"StateMachineSafety: {entry.index} is applied after {self.applied}"
            )
            self.applied = entry.index
            if entry.kind != COMMAND:
                changes.beyond_cursors = True
                record_entry(self._trace, entry)
                continue
            try:
                command = decode_command(entry.data)
            except UnknownCommand as error:
                self._outbox.halt(str(error))
                return
            self._apply_command(command, entry.index, changes, opened_at)
        for topic, index in opened_at.items():
            if index <= self._unsure_to and topic in self.metadata.topics:
                self._doubt(topic)

    def _apply_command(
        self, command: Command, index: int, changes: Changes, opened_at: dict[str, int]
    ) -> None:
        if self._image is not None:
            self._image.before(command)
        topic = self.metadata.apply(command)
        if self._trace is not no_trace:
            record_applied(self._trace, self.metadata, command, topic, index)
        # Cursors and groups move many times a second, and are no reason to look at all topics again.
        changes.beyond_cursors |= not isinstance(command, CommitCursors | CommitGroups | MoveGroup)
        if isinstance(command, CommitGroups):
            changes.groups.update(dict.fromkeys(command.groups))
        elif isinstance(command, CommitCursors):
            changes.groups.update(dict.fromkeys(command.cursors))
        elif isinstance(command, MoveGroup):
            changes.groups[command.topic] = None
        if topic is None:
            return
        changes.topics[topic] = None
        if isinstance(command, SetReplicas):
            changes.replica_sets.append((topic, command.segment))
        if isinstance(command, Seal | RegisterTopic):
            opened_at[topic] = index

    def _restore(self, snapshot: Snapshot, changes: Changes, *, at_once: bool = False) -> None:
        """Begin to take over a snapshot, in the place of one that this node has not taken over to the end."""
        self._observer.on_restore(snapshot)
        self._image = None
        assert snapshot.index > self.applied, "StateMachineSafety: a snapshot moves the metadata back"
        try:
            self._takeover = Takeover(snapshot.index, snapshot.data, self.metadata)
        except UnknownCommand as error:
            self._outbox.halt(str(error))
            return
        changes.beyond_cursors = True  # it begins with the members
        self._take_over(self._takeover, changes, at_once=at_once)

    def _take_over(self, takeover: Takeover, changes: Changes, *, at_once: bool = False) -> None:
        """Take over the next topics of a snapshot; with the last ones, all of it is applied."""
        unsure = self.applied < self._unsure_to
        try:
            changed = takeover.finish() if at_once else takeover.go_on()
        except UnknownCommand as error:
            self._outbox.halt(str(error))
            return
        changes.topics.update(dict.fromkeys(changed))
        if takeover.whole:
            self._takeover, self.applied = None, takeover.index
            changes.restored = changes.beyond_cursors = True
        if self._trace is not no_trace:
            record_snapshot(self._trace, self.metadata, takeover.index, changed)
        for topic in changed if unsure else ():
            if topic in self.metadata.topics:
                self._doubt(topic)

    def _doubt(self, topic: str) -> None:
        """Note durably that a power loss may have shortened this node's copy of the open segment."""
        known = self.metadata.topics[topic]
        if self._config.node_id not in known.open.replicas:
            return
        key = (topic, known.current)
        try:
            self._copies.mark(self._copies.get(key), sure=False)
        except StorageError as error:
            reason = f"cannot note that a power loss may have shortened {topic}/{known.current}: {error}"
            self._outbox.halt(reason)

    def _compact(self) -> None:
        """Begin a checkpoint if enough entries were applied since the last one, or go on with it.

        As many as there are topics, at least: a snapshot says all of each, so with a fixed number of entries
        between two, to register n topics would cost the square of n.
        """
        image = self._image
        if image is None or image.whole:
            enough = max(self._config.compact_entries, len(self.metadata.topics))
            if self.applied - self.raft.log.snapshot_index >= enough:
                self._image = Image(self.applied, self.metadata, self._copies.noted)
        elif image.go_on():
            self.raft.compact(image.index, image.data())


def _announced_at(restored: Restored, directory_id: str) -> int:
    for entry in restored.entries:
        with suppress(UnknownCommand):  # the node halts when it applies that one
            command = decode_command(entry.data) if entry.kind == COMMAND else None
            if isinstance(command, Announce) and command.directory_id == directory_id:
                return entry.index
    return 0


def _last_index(restored: Restored) -> int:
    if restored.entries:
        return restored.entries[-1].index
    return restored.snapshot.index if restored.snapshot else 0
