"""Bugs planted in the code, one at a time; the simulator must catch each within its budget of seeds.

They are the bugs of `walrus.tlc mutants`, and some that the simulator once found in earnest. Each is one
patched function. A mutant that survives is a failing test: something that matters is not looked at.

The budget of each: `SEEDS` runs of `STEPS` steps with the faults that it names, or six runs of the scenario
that it names. Those that need an exact moment have a scenario; chance alone would take too many runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from walrus.broker.cursors import GroupCursor
from walrus.broker.lifecycle import Lifecycle, Writers
from walrus.broker.router import Route, Router, Sent
from walrus.config import NodeConfig
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import Ready
from walrus.leases import LeaseTable
from walrus.replicas import failover as recovery
from walrus.replicas.copies import Copies, SegmentCopy
from walrus.replicas.durability import Durable
from walrus.replicas.failover import SegmentRecovery
from walrus.replicas.reads import Reads
from walrus.replicas.repair import CatchUp
from walrus.replicas.replica import Replica
from walrus.replicas.replication import SegmentWriter
from walrus.segments import Metadata, Position, Seal, Segment, Topic
from walrus.sim import faults, scenarios
from walrus.sim.drives import DATA, META
from walrus.sim.options import Options
from walrus.sim.run import FailedRun, simulate
from walrus.sim.violation import Violation
from walrus.storage.batch import EMPTY, Batch
from walrus.storage.errors import CorruptionError
from walrus.wire.messages import Append, ForwardReply

Patch = Callable[[pytest.MonkeyPatch], None]

SEEDS = 25
STEPS = 6_000

MUTANTS: dict[str, tuple[Patch, str, Options, set[str]]] = {}


def mutant(where: str, *expected: str, options: Options | None = None) -> Callable[[Patch], Patch]:
    """Registers a planted bug: what shows it (classes of faults, or a scenario), and the checks that may
    catch it (none: any).
    """

    def register(patch: Patch) -> Patch:
        MUTANTS[patch.__name__] = (patch, where, options or Options(think=0.03), set(expected))
        return patch

    return register


class Careless(Segment, frozen=True, kw_only=True):
    """A segment one of whose replicas passes for a majority."""

    @property
    def majority(self) -> int:
        return 1


def careless(segment: Segment) -> Segment:
    return Careless(**{name: getattr(segment, name) for name in Segment.__struct_fields__})


STORM = Options(ordered=False, shared_turns=0.4, think=0.03)


@mutant("needless_recovery_of_a_live_leader", "AckedDurable", options=STORM)
def no_fence_check(patch: pytest.MonkeyPatch) -> None:
    """Replicas take the writer's frames although they are fenced, and say that all is well."""
    take = Replica.on_append

    def on_append(self: Replica, sender: int, frame: Append) -> None:
        copy = self._copies.get((frame.topic, frame.segment))
        fenced, copy.fenced = copy.fenced, False
        try:
            take(self, sender, frame)
        finally:
            copy.fenced = fenced or copy.fenced

    reply = Replica._reply
    patch.setattr(Replica, "on_append", on_append)
    patch.setattr(
        Replica, "_reply", lambda self, to, copy, *, fenced=False, gap=False: reply(self, to, copy, gap=gap)
    )


@mutant(
    "network,crash,pause", "AckedDurable", "SealedStable", "TypeOK", "RecoverySeal before a majority holds"
)
def minority_fence(patch: pytest.MonkeyPatch) -> None:
    """One fenced replica is enough to recover."""
    init = SegmentRecovery.__init__

    def made(self: SegmentRecovery, key: Any, segment: Segment, **rest: Any) -> None:
        init(self, key, careless(segment), **rest)

    patch.setattr(SegmentRecovery, "__init__", made)


@mutant("needless_recovery_of_a_live_leader", "AckedDurable", options=STORM)
def fence_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    """The length is read and answered, but the writer is not refused afterwards."""

    def fence(self: Copies, copy: SegmentCopy, then: Callable[[], None]) -> None:
        self._data.barrier(then)

    patch.setattr(Copies, "fence", fence)


@mutant("network,crash", "AckedDurable")
def shortest_copy_wins(patch: pytest.MonkeyPatch) -> None:
    """Recovery takes the shortest length that was answered."""
    patch.setattr(recovery, "max", min, raising=False)


@mutant("needless_recovery_of_a_live_leader", "AckedDurable", options=STORM)
def fence_forgotten_at_restart(patch: pytest.MonkeyPatch) -> None:
    """Fences are kept in memory only."""
    patch.setattr(Copies, "_load_notes", lambda self: {})


@mutant("frames_held_back_at_the_threshold", "SealedStable", "AckedDurable")
def sealed_at_an_unacknowledged_count(patch: pytest.MonkeyPatch) -> None:
    """The writer proposes its end before everything it appended is acknowledged."""
    patch.setattr(
        SegmentWriter, "all_acknowledged", property(lambda self: self.sealing and not self.copy.fenced)
    )


@mutant("none", "AckedDurable")
def acknowledged_by_a_minority(patch: pytest.MonkeyPatch) -> None:
    """One copy is enough to acknowledge."""
    init = SegmentWriter.__init__

    def made(self: SegmentWriter, topic: str, number: int, segment: Segment, **rest: Any) -> None:
        init(self, topic, number, careless(segment), **rest)

    patch.setattr(SegmentWriter, "__init__", made)


def _at_once(patch: pytest.MonkeyPatch, which: Callable[[Durable], bool]) -> None:
    write, barrier = Durable.write, Durable.barrier

    def write_(self: Durable, topic: str, batch: Any, then: Any = None) -> int:
        early = then is not None and which(self)
        start = write(self, topic, batch, None if early else then)
        if early:
            then()
        return start

    patch.setattr(Durable, "write", write_)
    patch.setattr(Durable, "barrier", lambda self, then: then() if which(self) else barrier(self, then))


@mutant("blackout_with_slow_disks", "AckedDurable", "SealedStable")
def acknowledged_before_it_is_synced(patch: pytest.MonkeyPatch) -> None:
    """Copies count as durable once they are written."""
    _at_once(patch, lambda durable: durable.storage._engine == DATA)


@mutant("blackout_with_slow_disks")
def raft_answers_before_it_is_synced(patch: pytest.MonkeyPatch) -> None:
    """Votes and entries are answered for before they are durable."""
    _at_once(patch, lambda durable: durable.storage._engine == META)


@mutant("crash", "OpenLeaderMatchesMap", "SingleWriter")
def leader_resumes_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    """A restarted leader takes its old segment for its own."""
    patch.setattr(LeaseTable, "is_ours", lambda self, segment: segment.leader == self._node_id)


@mutant("crash,network", "SealedStable")
def sealed_before_a_majority_holds_it(patch: pytest.MonkeyPatch) -> None:
    """Recovery proposes the longest length without copying it first."""

    def check(self: SegmentRecovery) -> None:
        if self._source is not None and self.found is None:
            self.found = recovery.Sealable(self._source.length, self._source.checksum)

    patch.setattr(SegmentRecovery, "_check_majority", check)
    patch.setattr(SegmentRecovery, "check_invariants", lambda self: None)


@mutant("needless_recovery_of_a_live_leader", "SealedStable")
def sealed_without_compare(patch: pytest.MonkeyPatch) -> None:
    """A second seal is applied to a sealed segment."""
    seal = Metadata._seal

    def twice(self: Metadata, command: Seal) -> str | None:
        topic = self.topics.get(command.topic)
        if topic is None or topic.current <= command.segment:
            return seal(self, command)
        old = topic.segments[command.segment - 1]
        topic.segments[command.segment - 1] = msgspec.structs.replace(old, count=command.count)
        topic.sealed_total += command.count - (old.count or 0)
        return command.topic

    patch.setattr(Metadata, "_seal", twice)


@mutant("network", "PrefixAgree", options=STORM)
def no_gap_check(patch: pytest.MonkeyPatch) -> None:
    """A replica takes a frame that begins beyond its end."""
    take = Replica.on_append

    def on_append(self: Replica, sender: int, frame: Append) -> None:
        length = self._copies.get((frame.topic, frame.segment)).length
        take(self, sender, msgspec.structs.replace(frame, start=min(frame.start, length)))

    patch.setattr(Replica, "on_append", on_append)


@mutant("network", "PrefixAgree", "SeqOrder", "SingleWriter", options=STORM)
def no_duplicate_check(patch: pytest.MonkeyPatch) -> None:
    """A replica appends a frame that it already has."""
    take = Replica.on_append

    def on_append(self: Replica, sender: int, frame: Append) -> None:
        length = self._copies.get((frame.topic, frame.segment)).length
        take(self, sender, msgspec.structs.replace(frame, start=max(frame.start, length)))

    patch.setattr(Replica, "on_append", on_append)


@mutant("none", "DeliveredIsPrefix", "CursorInBounds")
def reads_what_is_not_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """Readers of the open segment see everything that was appended."""

    def commit_index(self: Writers, topic: str, number: int) -> int | None:
        writer = self.of(topic, number)
        return None if writer is None else writer.copy.length

    patch.setattr(Writers, "commit_index", commit_index)


@mutant("leader_reaches_clients_but_no_replica", "DeliveredIsPrefix", "CursorInBounds")
def reads_past_the_seal(patch: pytest.MonkeyPatch) -> None:
    """Readers see a deposed leader's tail."""
    readable, end = Reads.readable, Reads.end

    def beyond(self: Reads, topic: str, number: int) -> int:
        segment = self._metadata.segment(topic, number)
        if segment is None or segment.count is None:
            return readable(self, topic, number)
        return self._copies.get((topic, number)).length

    patch.setattr(Reads, "readable", beyond)
    patch.setattr(
        Reads, "end", lambda self, topic, number: max(end(self, topic, number), beyond(self, topic, number))
    )


@mutant("crash,network", "DeliveredIsPrefix", options=STORM)
def cursor_committed_before_delivery(patch: pytest.MonkeyPatch) -> None:
    """What was handed out counts as delivered."""
    patch.setattr(GroupCursor, "confirmed", property(lambda self: self.position))


@mutant("network,crash", "CursorInBounds", options=STORM)
def stale_cursor_is_committed(patch: pytest.MonkeyPatch) -> None:
    """A cursor moves to wherever any node says."""

    def commit(self: Metadata, topic: Topic, cursors: dict[str, Position]) -> None:
        topic.cursors.update({group: to for group, to in sorted(cursors.items()) if topic.in_bounds(to)})

    patch.setattr(Metadata, "_commit_cursors", commit)


@mutant("short_copy_and_lagging_copy", "AckedDurable", "SealedStable", options=Options(fsync=0.2, think=0.03))
def unsure_counts_as_sure(patch: pytest.MonkeyPatch) -> None:
    """Recovery trusts the length of a copy that lost power."""
    patch.setattr(Copies, "mark", lambda self, copy, *, sure: None)
    patch.setattr(SegmentCopy, "sure", property(lambda self: True, lambda self, value: None))


@mutant("bit_flips_while_the_third_copy_lags", "Scenario", "AckedDurable", "SealedStable")
def damaged_counts_as_sure(patch: pytest.MonkeyPatch) -> None:
    """A replica whose copy ends before its damage answers a fence as if that were all it ever had."""
    answer = Replica._answer_fence

    def sure(self: Replica, to: int, copy: SegmentCopy, length: int, *, damaged: bool) -> None:
        answer(self, to, copy, length, damaged=False)

    patch.setattr(Replica, "_answer_fence", sure)


@mutant("rot", "NoRest")
def damage_stays(patch: pytest.MonkeyPatch) -> None:
    """A damaged copy is never made anew."""
    patch.setattr(CatchUp, "_replace", lambda self, key: None)


@mutant("rot")
def damage_is_skipped(patch: pytest.MonkeyPatch) -> None:
    """Readers get what follows a damaged entry in its place."""

    def skip(self: Copies, copy: SegmentCopy, start: int, end: int, entries: int, size: int) -> Batch:
        most = min(entries, min(end, copy.length) - start)
        if most <= 0 or start < 0:
            return EMPTY
        try:
            return self._data.storage.read_batch(copy.name, start, most, size)
        except CorruptionError as damage:
            return self._data.storage.read_batch(copy.name, damage.resume, most, size)

    patch.setattr(Copies, "read", skip)


@mutant("crash,network")
def vote_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Term and vote are not written to the journal."""
    save = RaftJournal.save

    def forgetful(self: RaftJournal, ready: Ready) -> None:
        keep = ready.snapshot or ready.checkpoint
        save(self, ready if keep else msgspec.structs.replace(ready, hard_state=None))

    patch.setattr(RaftJournal, "save", forgetful)


@mutant("crash,network,pause", "Duplicate", "ProducerOrder", "DeliveredIsPrefix", "FailedWriteRead")
def sent_again_behind_the_clients_back(patch: pytest.MonkeyPatch) -> None:
    """What was on its way to a leader that died is sent to the next one."""

    def lost(self: Router, route: Route, sent: Sent, error: str) -> None:
        if sent.outcome is None:
            sent.outcome = ForwardReply(
                request=sent.request,
                topic=route.topic,
                segment=sent.segment,
                taken=0,
                acked=0,
                refused=True,
                error="",
            )

    patch.setattr(Router, "_lost", lost)


@mutant("forwards_repeated_after_the_seal", "Duplicate", "DeliveredIsPrefix", "ProducerOrder", options=STORM)
def a_repeated_forward_is_handed_back(patch: pytest.MonkeyPatch) -> None:
    """A forward to a segment that is over counts as never taken."""
    patch.setattr(Lifecycle, "_was_never_taken", lambda self, origin, forward: True)


@mutant("crash,pause", "FailoverProgress", "ReadProgress", "RolloverProgress", "NoRest", "Replies")
def nobody_fails_over(patch: pytest.MonkeyPatch) -> None:
    """No node recovers the segments of a dead leader."""
    patch.setattr(Lifecycle, "recover", lambda self, topic, number, now: None)


@mutant("none", "RolloverProgress", "Replies", "NoRest")
def nobody_seals(patch: pytest.MonkeyPatch) -> None:
    """A full segment stays open."""
    patch.setattr(Lifecycle, "_seal", lambda self, writer, now: None)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, where, options, expected = MUTANTS[name]
    patch(monkeypatch)
    caught = _in_scenario(where) if where in scenarios.ALL else _in_seeds(where, options)
    assert caught is not None, f"{name} survives"
    assert not expected or caught[0] in expected, caught


def _in_scenario(name: str) -> tuple[str, str] | None:
    for seed in range(1, 7):
        try:
            scenarios.ALL[name].run(seed)
        except Violation as violation:
            return violation.name, violation.what
    return None


def _in_seeds(kinds: str, options: Options) -> tuple[str, str] | None:
    chosen = faults.classes(kinds if kinds == "none" else f"{kinds},ambush")
    for seed in range(1, SEEDS + 1):
        outcome = simulate(seed, options, STEPS, chosen)
        if isinstance(outcome, FailedRun):
            return outcome.name, outcome.what
    return None


def test_without_a_planted_bug_nothing_is_caught() -> None:
    assert NodeConfig  # what the mutants patch is imported, and nothing is patched here
    outcome = simulate(1, STORM, STEPS, faults.classes("network,crash,pause"))
    assert not isinstance(outcome, FailedRun)
